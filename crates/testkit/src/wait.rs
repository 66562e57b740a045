//! Waiting with an end: a test that waits for what never comes fails, and says for what it waited.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// What a test waits for comes within milliseconds; on a machine that builds beside it, within seconds.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Where no event can be awaited (another thread's counters, an answer of the API) it is looked at so often.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Waits for something that must come.
///
/// # Panics
/// If it does not.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("it should have come within {} s: {what}", SOON.as_secs()),
    }
}

/// Looks until something holds.
///
/// # Panics
/// If it never does.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    soon(what, async {
        while !holds().await {
            sleep(LOOK_INTERVAL).await;
        }
    })
    .await;
}
