//! `meshwork proxy`: the sidecar's process. Settings and sockets are put together here; all else is `meshwork_proxy`'s.
//!
//! Under `meshwork run` the sockets are inherited, and the supervisor hears when the sidecar is ready and when it has
//! drained, and tells when the command is gone; alone the process binds its sockets itself and follows its signals.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use meshwork_core::model;
use meshwork_proxy::side::dns::Lookup;
use meshwork_proxy::telemetry::Registry;
use meshwork_proxy::{Captured, Mark, Sidecar, Whose};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::capture::own_way;
use crate::cli::{AloneArgs, AloneCapture, ProxyArgs};
use crate::environment::PARENT_PROXY;
use crate::listeners::{IfTaken, LISTEN_FDS, Listeners, address_facing, bind_led, inherited_whose};
use crate::log::LogLevel;
use crate::service_manager::Manager;
use crate::settings::{Health, Size};
use crate::state_dir::Claim;
use crate::supervisor::{COMMAND_GONE, COMMAND_RUNS, DRAINED, READY, SUPERVISOR_FD};
use crate::token::{self, Joining};
use crate::{BoxError, descriptors, run, start_pages, state_dir};

#[derive(Debug, thiserror::Error)]
#[error(
    "{SUPERVISOR_FD}={text:?} is no inherited socket: {source}; it is set by `meshwork run` and by nothing else"
)]
struct NoSupervisor {
    text: String,
    source: io::Error,
}

/// Serves until told to end; drains before it does.
pub(crate) async fn run(alone: AloneArgs, level: LogLevel) -> Result<(), BoxError> {
    let args = &alone.proxy;
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    if let Err(error) = meshwork_proxy::scheduling::let_others_finish() {
        tracing::debug!("the sidecar interrupts who wakes it: {error}");
    }
    let mut supervisor = Supervisor::inherited()?;
    let (state_dir, _claim) = state_dir_of(args, &supervisor)?;
    let captured = captured(&alone)?;
    let Joining { token, control } =
        token::joining(args, &state_dir, &lookup(args, captured.as_ref())).await?;
    let address = match args.address {
        Some(address) => address,
        None => address_facing(control)?,
    };
    let listeners = listeners(&alone, address, captured)?;
    let settings = settings(args, token, state_dir);
    let set_log_level = Arc::new(move |filter: &str| level.set(filter).map_err(|error| error.to_string()));

    // A signal while it joins ends it: nothing is registered yet.
    let sidecar = tokio::select! {
        started = start(settings, listeners, set_log_level) => started?,
        () = signals.next() => return Ok(()),
    };
    supervisor.tell(&ready(&sidecar)).await;
    let manager = Manager::found();
    manager.ready("the sidecar is ready");
    tokio::select! {
        () = serve(&sidecar, &mut supervisor, &mut signals, &manager) => {}
        never = give_back_start_pages() => match never {},
        never = manager.keep_alive() => match never {},
    }
    sidecar.stop().await;
    Ok(())
}

/// The word, and the addresses behind which the mesh's services stand.
fn ready(sidecar: &Sidecar) -> String {
    let snapshot = sidecar.live().snapshot();
    let ranges = snapshot.settings.iter().flat_map(|settings| settings.virtual_ranges.iter());
    let ranges: Vec<String> = ranges.map(ToString::to_string).collect();
    format!("{READY} {}", ranges.join(","))
}

/// The first config, the first connections and checks belong to the start, too: by then they are over.
const START_TAIL: Duration = Duration::from_millis(200);

async fn give_back_start_pages() -> Infallible {
    tokio::time::sleep(START_TAIL).await;
    if let Err(error) = start_pages::give_back() {
        tracing::debug!("the start's pages stay in memory: {error}");
    }
    pending().await
}

/// Waits for the control plane as long as the settings say; for ever, if the command runs already: a sidecar that
/// was restarted while the control plane is away serves with what it has, and ending it would help nobody.
async fn start(
    settings: meshwork_proxy::Settings,
    listeners: meshwork_proxy::Listeners,
    set_log_level: meshwork_proxy::side::SetLogLevel,
) -> Result<Sidecar, BoxError> {
    if std::env::var_os(COMMAND_RUNS).is_none() {
        return Ok(meshwork_proxy::start(settings, listeners, set_log_level).await?);
    }
    let sidecar = meshwork_proxy::launch(settings, listeners, set_log_level)?;
    sidecar.side().ready().await?;
    Ok(sidecar)
}

/// What ends the time in which everything is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    ToEnd,
    /// By an operator, through the control plane.
    ToDrain,
}

/// Waits for an operator's order.
async fn ordered(sidecar: &Sidecar) {
    let mut status = sidecar.side().status();
    if status.wait_for(|status| status.drain_order.is_some()).await.is_err() {
        pending().await // the side thread has ended, and orders nothing
    }
}

/// From ready to the end of the drain.
async fn serve(sidecar: &Sidecar, supervisor: &mut Supervisor, signals: &mut Signals, manager: &Manager) {
    let told = tokio::select! {
        () = signals.next() => Told::ToEnd,
        () = ordered(sidecar) => Told::ToDrain,
        // The command ended by itself: nothing is left to serve, but callers should hear of it.
        () = supervisor.command_gone() => {
            tracing::info!("the command is gone by itself");
            return sidecar.leave().await;
        }
    };
    if told == Told::ToEnd {
        manager.stopping();
    }
    let (mut drain, mut drained) = (pin!(sidecar.drain()), false);
    if told == Told::ToDrain {
        let stays_drained = async {
            drain.as_mut().await;
            drained = true;
            pending().await
        };
        // Until it is told to end. A new one in its place serves again.
        tokio::select! {
            () = stays_drained => {}
            () = signals.next() => manager.stopping(),
            () = supervisor.command_gone() => return,
        }
    }
    tokio::select! {
        () = drain, if !drained => {}
        () = signals.next(), if !drained => tracing::info!("told again: not waiting for what still runs"),
        () = supervisor.command_gone(), if !drained => return,
        else => {}
    }
    supervisor.tell(DRAINED).await;
    // Outbound still carries the command's own farewells.
    tokio::select! {
        () = supervisor.command_gone() => {}
        // Without a supervisor nobody says when the application is gone: what it has asked for is finished.
        () = sidecar.finish_outbound(), if supervisor.is_none() => {}
    }
}

/// The given directory under a supervisor, which has claimed it; otherwise our own claim.
fn state_dir_of(args: &ProxyArgs, supervisor: &Supervisor) -> Result<(PathBuf, Option<Claim>), BoxError> {
    match (&args.state_dir, supervisor) {
        (Some(path), Supervisor::Inherited { .. }) => Ok((path.clone(), None)),
        (given, _) => {
            let (namespace, service) = (args.namespace.namespace.as_str(), args.service.as_str());
            let claim = state_dir::claim(given.as_deref().map(Path::new), namespace, service)?;
            Ok((claim.path.clone(), Some(claim)))
        }
    }
}

/// The sockets to which somebody's rules lead this whole network namespace, if so told; not, if they would lead us there, too.
fn captured(alone: &AloneArgs) -> Result<Option<Captured>, BoxError> {
    match alone.capture {
        AloneCapture::Redirect => {
            let captured = bind_led(alone.led.outbound_port, alone.led.inbound_port.0)?;
            own_way::check(&captured.outbound)?;
            Ok(Some(captured))
        }
        AloneCapture::Explicit => Ok(None),
    }
}

/// The control plane's name is looked up before anybody answers the questions that the rules lead here.
fn lookup(args: &ProxyArgs, captured: Option<&Captured>) -> Lookup {
    let inherited = || inherited_whose(&std::env::var(LISTEN_FDS).ok()?);
    match captured.map(|captured| captured.whose).or_else(inherited) {
        Some(Whose::Namespace) => Lookup::behind_rules(
            Mark::try_one().unwrap_or_default(),
            &args.resolv_conf,
            Registry::new(args.service.to_string()),
        ),
        Some(Whose::Tree) | None => Lookup::Library,
    }
}

fn listeners(
    alone: &AloneArgs,
    address: IpAddr,
    captured: Option<Captured>,
) -> Result<meshwork_proxy::Listeners, BoxError> {
    let http_proxy = run::http_proxy(&alone.proxy, alone.capture == AloneCapture::Explicit);
    let mut wanted = run::wanted(&alone.proxy, address, http_proxy, IfTaken::Refuse);
    if let (AloneCapture::Redirect, Some(port), []) = (alone.capture, alone.led.dns_port.0, &wanted.dns[..]) {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        wanted.dns = loopback.map(|address| (address, port).into()).to_vec();
    }
    let Listeners { outbound_http, admin, inbound, upstreams, captured: inherited, dns } =
        match std::env::var(LISTEN_FDS) {
            Ok(text) => Listeners::inherit(&text, &wanted)?,
            Err(_) => Listeners::bind(&wanted)?,
        };
    let upstreams = upstreams.into_iter().map(|(spec, listener)| {
        (meshwork_proxy::Upstream { destination: spec.target.to_string(), listen: spec.listen }, listener)
    });
    let inbound = inbound.into_iter().map(|(_, listener)| listener).collect();
    let upstreams = upstreams.collect();
    // Nobody waits there while a sidecar comes back: a probe that finds nothing is asked again.
    let probes = alone.proxy.probes.map(|address| {
        TcpListener::bind(address).map_err(|error| format!("cannot listen on --probes {address}: {error}"))
    });
    let probes = probes.transpose()?;
    let captured = inherited.or(captured);
    Ok(meshwork_proxy::Listeners { outbound_http, admin, inbound, upstreams, probes, captured, dns })
}

fn settings(args: &ProxyArgs, token: Option<String>, state_dir: PathBuf) -> meshwork_proxy::Settings {
    let ports = args.port.iter().map(|port| meshwork_proxy::PortSpec {
        service_port: port.service_port,
        app_port: port.app_port,
        protocol: port.protocol,
    });
    let health = args.health.clone().map(|health| match health {
        Health::Http { path } => meshwork_proxy::HealthCheck::Http(path),
        Health::Tcp => meshwork_proxy::HealthCheck::Tcp,
        Health::Grpc => meshwork_proxy::HealthCheck::Grpc,
    });
    // Alone, the variable that was set for us is the one to pass on by.
    let parent_proxy = std::env::var(PARENT_PROXY).ok();
    let parent_proxy =
        parent_proxy.or_else(|| crate::environment::parent_proxy(|name| std::env::var(name).ok()));
    meshwork_proxy::Settings {
        service: args.service.to_string(),
        namespace: args.namespace.namespace.to_string(),
        token,
        state_dir,
        ports: ports.collect(),
        labels: args.label.iter().map(|label| (label.key.clone(), label.value.clone())).collect(),
        locality: model::Locality { region: args.locality.region.clone(), zone: args.locality.zone.clone() },
        health,
        workers: usize::from(args.workers),
        http2: meshwork_proxy::HTTP2_DEFAULT && !args.no_http2,
        memory_max: args.memory_max.map(Size::bytes),
        wait: args.wait.duration(),
        drain: args.drain.duration(),
        resolv_conf: args.resolv_conf.clone(),
        parent_proxy,
    }
}

/// SIGTERM or SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Our end of the control pipe, if `meshwork run` started us.
enum Supervisor {
    Inherited { lines: Lines<BufReader<OwnedReadHalf>>, pipe: OwnedWriteHalf },
    None,
}

impl Supervisor {
    fn inherited() -> Result<Self, NoSupervisor> {
        let Ok(text) = std::env::var(SUPERVISOR_FD) else { return Ok(Self::None) };
        let adopt = || {
            let fd = text.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            let stream = std::os::unix::net::UnixStream::from(descriptors::adopt(fd)?);
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        };
        let stream = adopt().map_err(|source| NoSupervisor { text: text.clone(), source })?;
        let (read, pipe) = stream.into_split();
        Ok(Self::Inherited { lines: BufReader::new(read).lines(), pipe })
    }

    async fn tell(&mut self, word: &str) {
        if let Self::Inherited { pipe, .. } = self {
            // Fails only if the supervisor is gone, and then so are we.
            let _ = pipe.write_all(format!("{word}\n").as_bytes()).await;
        }
    }

    /// Never, without a supervisor: then there is no command that we know of.
    async fn command_gone(&mut self) {
        let Self::Inherited { lines, .. } = self else { return pending().await };
        while let Ok(Some(line)) = lines.next_line().await {
            if line == COMMAND_GONE {
                return;
            }
        }
        // The supervisor closed its end: it is gone, and the command with it.
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}
