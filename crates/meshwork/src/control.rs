//! `meshwork control`: the control plane's process.

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ControlArgs;
use crate::{BoxError, state_dir};

/// Serves until SIGTERM or SIGINT; a second one does not wait for what still runs.
pub(crate) async fn run(args: ControlArgs) -> Result<(), BoxError> {
    // Watched before anything is opened: a signal during the start ends it in order too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut settings = meshwork_control::Settings::new(state_dir::control(args.state.state_dir.as_deref())?);
    settings.listen = args.listen;
    settings.names = args.name.iter().map(|name| name.as_str().to_owned()).collect();
    settings.virtual_range = args.virtual_range;
    let control = meshwork_control::start(settings).await?;
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    told().await;
    control.stop_unless(told()).await;
    Ok(())
}
