//! What a service manager (systemd) and we tell each other: that we are ready, end, live; and the sockets that it holds
//! for us. The protocols are sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
//!
//! Only the process that the manager started talks to it: what `run` starts does not inherit these variables
//! ([`VARIABLES`]). Without a manager all of it does nothing.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::future::pending;
use std::io;
use std::net::TcpListener;
use std::os::fd::{OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use meshwork_control::Held;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::descriptors;

/// Ours alone: whoever inherited them would speak for us, or take our sockets.
pub(crate) const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// The first socket that a manager passes on; the standard library's own come before.
const LISTEN_FDS_START: RawFd = 3;

/// Sockets that a manager may pass on: we have use for two, and more than a few are somebody's mistake.
const INHERITED_SOCKETS_MAX: usize = 16;

/// As often as this we are told to live, however long the watchdog waits: half of its time, and not so seldom that nobody
/// sees it at work.
const ALIVE_EVERY_MAX: Duration = Duration::from_secs(30);

/// How long a word that must arrive may wait for a manager that is busy; this thread waits with it.
const WORD_MAX: Duration = Duration::from_secs(1);

/// Whether a word waits until the manager has room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// [`WORD_MAX`]: it is said once, and somebody waits for it.
    Some,
    /// It is said again soon, and what we do must not wait for it.
    None,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ActivationError {
    #[error(
        "LISTEN_FDS={text:?} is no number from 0 to {INHERITED_SOCKETS_MAX}; the service manager sets it"
    )]
    Count { text: String },
    #[error("descriptor {fd}, which the service manager passed on, cannot be taken: {source}")]
    Descriptor { fd: RawFd, source: io::Error },
    #[error(
        "descriptor {fd}, which the service manager passed on, is neither a TCP nor a UNIX socket that listens; a unit's socket \
         takes one ListenStream=, with an address or a path, and Accept=no"
    )]
    NoListener { fd: RawFd },
    #[error(
        "the service manager passed on more than one {kind} socket: the control plane takes one TCP socket, for sidecars and \
         operators from afar, and one UNIX socket, for operators of this machine"
    )]
    Several { kind: &'static str },
}

/// Whoever started us and wants to hear of us, if anybody does.
pub(crate) struct Manager {
    /// `None`: nobody listens.
    way: Option<(UnixDatagram, SocketAddr)>,
    /// How often we say that we live; `None`: nobody asks.
    alive_every: Option<Duration>,
}

impl Manager {
    /// As the environment says.
    pub(crate) fn found() -> Self {
        let way = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            let opened = address(&name).and_then(|address| {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(WORD_MAX))?;
                Ok((socket, address))
            });
            opened.inspect_err(|error| tracing::warn!(?name, %error, "NOTIFY_SOCKET can't be used")).ok()
        });
        let variable = |name| std::env::var(name).ok();
        let alive_every = alive_every(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        Self { way, alive_every }
    }

    /// What others wait for may begin.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"), Patience::Some);
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=ending: what runs finishes", Patience::Some);
    }

    /// Says that we live for as long as it is polled: from the thread that does the work, so that one that hangs is
    /// noticed.
    pub(crate) async fn keep_alive(&self) -> Infallible {
        let Some(every) = self.alive_every else { return pending().await };
        let mut tick = tokio::time::interval(every);
        loop {
            tick.tick().await;
            self.tell("WATCHDOG=1", Patience::None);
        }
    }

    fn tell(&self, what: &str, patience: Patience) {
        let Some((socket, address)) = &self.way else { return };
        let told = socket
            .set_nonblocking(patience == Patience::None)
            .and_then(|()| socket.send_to_addr(what.as_bytes(), address));
        if let Err(error) = told {
            tracing::warn!(%error, "the service manager can't be told: {}", what.replace('\n', ", "));
        }
    }
}

/// The sockets that the service manager listens on for us and keeps while we restart, so that who connects meanwhile waits
/// instead of being refused.
pub(crate) fn inherited() -> Result<Held, ActivationError> {
    let variable = |name| std::env::var(name).ok();
    let count = inherited_count(
        variable("LISTEN_FDS").as_deref(),
        variable("LISTEN_PID").as_deref(),
        std::process::id(),
    )?;
    let mut held = Held::default();
    for fd in (LISTEN_FDS_START..).take(count) {
        let (kind, another) = match listener(fd)? {
            Listener::Tcp(listener) => ("TCP", held.port.replace(listener).is_some()),
            Listener::Unix(listener) => ("UNIX", held.operators.replace(listener).is_some()),
        };
        if another {
            return Err(ActivationError::Several { kind });
        }
    }
    Ok(held)
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What it is says what it is for: names (`FileDescriptorName=`) would have to be agreed on.
fn listener(fd: RawFd) -> Result<Listener, ActivationError> {
    let failed = |source| ActivationError::Descriptor { fd, source };
    let socket: OwnedFd = descriptors::adopt(fd).map_err(failed)?;
    let family = || {
        let listens =
            sockopt::socket_type(&socket)? == SocketType::STREAM && sockopt::socket_acceptconn(&socket)?;
        Ok::<_, rustix::io::Errno>(sockopt::socket_domain(&socket)?).map(|family| listens.then_some(family))
    };
    // tokio takes them over as they are, and needs them not to block.
    match family().unwrap_or(None) {
        Some(AddressFamily::INET | AddressFamily::INET6) => {
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true).map_err(failed)?;
            Ok(Listener::Tcp(listener))
        }
        Some(AddressFamily::UNIX) => {
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(true).map_err(failed)?;
            Ok(Listener::Unix(listener))
        }
        _ => Err(ActivationError::NoListener { fd }),
    }
}

/// How many sockets are meant for the process `own`: these variables are inherited by children, too.
fn inherited_count(count: Option<&str>, pid: Option<&str>, own: u32) -> Result<usize, ActivationError> {
    let Some(count) = count.filter(|_| pid.and_then(|pid| pid.parse().ok()) == Some(own)) else {
        return Ok(0);
    };
    let parsed = count.parse().ok().filter(|count| *count <= INHERITED_SOCKETS_MAX);
    parsed.ok_or_else(|| ActivationError::Count { text: count.to_owned() })
}

/// Half of what the watchdog of the process `own` waits, as sd_watchdog_enabled(3) advises.
fn alive_every(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec: u64 = usec?.parse().ok().filter(|usec| is_ours && *usec > 0)?;
    Some(Duration::from_micros((usec / 2).max(1)).min(ALIVE_EVERY_MAX))
}

/// A path, or `@` and a name that is in no file system.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_taken_by_whom_they_are_meant_for() {
        assert_eq!(inherited_count(Some("1"), Some("7"), 7).unwrap(), 1);
        assert_eq!(inherited_count(Some("1"), Some("8"), 7).unwrap(), 0, "a parent's");
        assert_eq!(inherited_count(Some("1"), None, 7).unwrap(), 0);
        assert_eq!(inherited_count(None, Some("7"), 7).unwrap(), 0);
        for wrong in ["", "-1", "17", "many"] {
            assert!(inherited_count(Some(wrong), Some("7"), 7).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_watchdog_hears_of_us_twice_in_its_time() {
        let check = |usec, pid, expect: Option<u64>| {
            assert_eq!(alive_every(usec, pid, 7), expect.map(Duration::from_millis), "{usec:?} {pid:?}");
        };
        check(Some("3000000"), Some("7"), Some(1_500));
        check(Some("3000000"), None, Some(1_500));
        check(Some("3000000"), Some("8"), None);
        check(Some("600000000"), None, Some(30_000));
        check(Some("0"), None, None);
        check(Some("soon"), None, None);
        check(None, None, None);
        assert_eq!(alive_every(Some("1"), None, 7), Some(Duration::from_micros(1)));
    }

    #[test]
    fn a_manager_listens_at_a_path_or_an_abstract_name() {
        let read = |name: &str| address(OsStr::new(name));
        assert_eq!(read("/run/notify").unwrap().as_pathname().unwrap().to_str(), Some("/run/notify"));
        assert_eq!(read("@x/notify").unwrap().as_abstract_name(), Some(&b"x/notify"[..]));
        assert!(read("vsock:2:1234").is_err());
    }
}
