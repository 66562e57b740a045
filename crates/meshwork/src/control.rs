//! `meshwork control`: the control plane's process, with its sockets from a service manager if that holds them.

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ControlArgs;
use crate::service_manager::{self, Manager};
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
    let manager = Manager::found();
    let control = meshwork_control::start_on(settings, service_manager::inherited()?).await?;
    manager.ready(&format!("sidecars join at {}", control.address()));
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        () = told() => {}
        never = manager.keep_alive() => match never {},
    }
    manager.stopping();
    control.stop_unless(told()).await;
    Ok(())
}
