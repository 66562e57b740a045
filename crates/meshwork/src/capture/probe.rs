//! Proves a capture before the command starts: a connection from inside the cgroup or namespace to an address that nobody has must
//! come to the sidecar's socket, with that address as the one that it was going to.
//!
//! Rules that are loaded may still not match: a kernel without the part that knows cgroups, levels counted otherwise in a
//! container, another table that is quicker. A command that is not captured would reach the world in clear, so it
//! does not start. The supervisor itself listens: the sidecar gets the same sockets afterwards. One family proves both, as
//! they share every rule.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use super::hold::Hold;
use crate::descriptors;
use crate::launch::Launch;

/// A connection within this machine takes no time; a machine that builds beside it may need this much to start a process.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// How long the process inside tries: without a rule the packet ends nowhere, and nobody says so.
const CONNECT_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("cannot try the capture: {0}")]
    Start(io::Error),
    #[error(
        "a connection from {from} to {to} was not led to the sidecar ({reason}), so the command is not started: it would \
         reach others in clear. See `meshwork capture show`: nftables must know `socket cgroupv2` (kernel 5.13, nft 1.0) if it \
         is a cgroup's, and no other table may take the connection first; --capture=explicit runs without capture"
    )]
    NotCaptured { from: String, to: SocketAddr, reason: String },
}

/// What the process inside does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Probe {
    to: SocketAddr,
    nonce: String,
}

impl Probe {
    /// Connects and says the nonce.
    pub(crate) fn connect(&self) -> io::Result<()> {
        let mut stream = std::net::TcpStream::connect_timeout(&self.to, CONNECT_MAX)?;
        io::Write::write_all(&mut stream, self.nonce.as_bytes())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.to
    }

    pub(super) fn to_one_of(ranges: &[IpNet]) -> Option<Self> {
        let range = ranges.iter().find_map(|range| match range {
            IpNet::V4(range) => Some(range),
            IpNet::V6(_) => None,
        })?;
        // The broadcast address of the range is the last; services get theirs from the front.
        let last = range.hosts().next_back()?;
        let (port, nonce) = (random(), random());
        let port = 1_024 + u16::try_from(port % 60_000).unwrap_or_default();
        Some(Self { to: SocketAddr::new(IpAddr::V4(last), port), nonce: format!("{nonce:016x}") })
    }
}

/// Starts `meshwork launch` (`exe`) inside, and waits for its connection on the sidecar's socket of IPv4.
pub(crate) async fn prove(hold: &Hold, exe: &Path, socket: &std::net::TcpListener) -> Result<(), ProbeError> {
    let Some(probe) = Probe::to_one_of(hold.virtual_ranges()) else { return Ok(()) };
    let cgroup = hold.cgroup().map(Path::to_owned);
    let listener = socket.try_clone().and_then(TcpListener::from_std).map_err(ProbeError::Start)?;
    let mut command = Command::new(exe);
    command.args(Launch::probe(cgroup.clone(), probe.clone()).args(None)).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    descriptors::prepare(&mut command, Vec::new());
    let child = command.spawn().map_err(ProbeError::Start)?;
    let tried = timeout(PROBE_MAX, async {
        tokio::select! {
            came = arrival(&listener, &probe) => came,
            // Its end says nothing of its success: what it sent may still be on its way here.
            failed = failure(child) => Err(failed),
        }
    });
    let reason = match tried.await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(reason)) => reason,
        Err(_) => format!("nothing came within {} s", PROBE_MAX.as_secs()),
    };
    let from = match &cgroup {
        Some(cgroup) => format!("the cgroup {}", cgroup.display()),
        None => "this network namespace".to_owned(),
    };
    Err(ProbeError::NotCaptured { from, to: probe.to, reason })
}

/// Others may try the port meanwhile; only the nonce counts.
async fn arrival(listener: &TcpListener, probe: &Probe) -> Result<(), String> {
    loop {
        let (mut stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
        let mut said = vec![0; probe.nonce.len()];
        let said = timeout(CONNECT_MAX, stream.read_exact(&mut said))
            .await
            .is_ok_and(|read| read.is_ok())
            .then_some(said);
        if said.as_deref() != Some(probe.nonce.as_bytes()) {
            continue;
        }
        return match original(&stream) {
            Some(original) if original == probe.to => Ok(()),
            other => Err(format!("it came, but as one to {other:?}")),
        };
    }
}

fn original(stream: &TcpStream) -> Option<SocketAddr> {
    SockRef::from(stream).original_dst_v4().ok()?.as_socket()
}

/// Why the process inside failed. Never, if it did not.
async fn failure(child: tokio::process::Child) -> String {
    match child.wait_with_output().await {
        Ok(output) if output.status.success() => std::future::pending().await,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            said.trim().trim_start_matches("meshwork: ").to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Enough to be told from others: nobody gains by guessing it.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_goes_where_no_service_is_yet() {
        let ranges: Vec<IpNet> = vec!["fd00::/64".parse().unwrap(), "240.0.0.0/8".parse().unwrap()];
        let probe = Probe::to_one_of(&ranges).unwrap();
        assert_eq!(probe.to.ip().to_string(), "240.255.255.254");
        assert_ne!(probe.nonce, Probe::to_one_of(&ranges).unwrap().nonce);
        assert_eq!(Probe::to_one_of(&ranges[..1]), None);
    }
}
