//! A control plane in a process of its own, for tests that kill it: what `meshwork control` runs, with a lease of the
//! test's choice. Arguments: state directory, address, lease in milliseconds. Says where it listens once it serves, and
//! ends in order when its standard input does, so that it never outlives its test.

use std::io::{Read as _, Write as _};
use std::time::Duration;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [state_dir, listen, lease] = &args[..] else {
        return Err("wanted: state directory, address, lease in milliseconds".into());
    };
    let mut settings = meshwork_control::Settings::new(state_dir);
    settings.listen = listen.parse()?;
    settings.lease = Duration::from_millis(lease.parse()?);
    let control = meshwork_control::start(settings).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", control.address())?;
    out.flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    control.stop().await;
    Ok(())
}
