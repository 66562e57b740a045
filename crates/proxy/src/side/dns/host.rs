//! What this host has: resolvers, which `resolv.conf` names and which change with its network, and perhaps IPv6.

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::dns::resolv_conf;
use meshwork_core::names::Ipv6;

/// How often it is looked at most whether `resolv.conf` is another one.
const RESOLV_CONF_LOOK: Duration = Duration::from_secs(1);

/// How often the host's addresses are looked at.
const IPV6_LOOK: Duration = Duration::from_secs(5);

const PORT: u16 = 53;

pub(super) struct Host {
    resolv_conf: PathBuf,
    if_inet6: PathBuf,
    /// Ours.
    own: Vec<SocketAddr>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    servers: Vec<SocketAddr>,
    /// Who answered last.
    preferred: usize,
    ipv6: Option<(Instant, Ipv6)>,
}

/// What a file shows when it is another one: device, inode, length, and when it was changed.
#[derive(PartialEq, Eq)]
struct Stamp(u64, u64, u64, i64, i64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Same,
    /// There are other resolvers.
    Changed,
}

/// Resolvers, from the one that is asked first.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    all: Vec<SocketAddr>,
    first: usize,
}

impl Servers {
    /// Those that `resolv.conf` names, but for ourselves: asked there, a query would come back.
    pub(super) fn of(text: &str, own: &[SocketAddr]) -> Self {
        let addresses = resolv_conf::servers(text).into_iter().filter_map(|text| address(&text));
        Self { all: addresses.filter(|address| !own.contains(address)).collect(), first: 0 }
    }

    pub(super) fn all(&self) -> &[SocketAddr] {
        &self.all
    }

    /// Round and round; with the place that [`Host::prefer`] wants.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = (usize, SocketAddr)> {
        let places = (0..self.all.len()).cycle().skip(self.first);
        places.map(|place| (place, self.all[place]))
    }
}

impl Host {
    pub(super) fn new(resolv_conf: PathBuf, if_inet6: PathBuf, own: Vec<SocketAddr>) -> Self {
        Self { resolv_conf, if_inet6, own, state: Mutex::default() }
    }

    /// Reads `resolv.conf` again if it is another one.
    pub(super) fn look(&self, now: Instant) -> Look {
        let mut state = self.state();
        if state.looked.is_some_and(|looked| now.since(looked) < RESOLV_CONF_LOOK) {
            return Look::Same;
        }
        state.looked = Some(now);
        let stamp = fs::metadata(&self.resolv_conf)
            .ok()
            .map(|file| Stamp(file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        if stamp.is_some() && stamp == state.stamp {
            return Look::Same;
        }
        state.stamp = stamp;
        let servers = self.read();
        if servers == state.servers {
            return Look::Same;
        }
        tracing::debug!(?servers, file = %self.resolv_conf.display(), "these resolvers are asked");
        (state.servers, state.preferred) = (servers, 0);
        Look::Changed
    }

    pub(super) fn servers(&self) -> Servers {
        let state = self.state();
        Servers { all: state.servers.clone(), first: state.preferred }
    }

    /// This one answered: it is asked first from now on, so that a dead one before it costs one wait and not each.
    pub(super) fn prefer(&self, server: usize) {
        self.state().preferred = server;
    }

    pub(super) fn ipv6(&self, now: Instant) -> Ipv6 {
        let mut state = self.state();
        if let Some((looked, ipv6)) = state.ipv6
            && now.since(looked) < IPV6_LOOK
        {
            return ipv6;
        }
        // Without that file the kernel has no IPv6.
        let ipv6 = Ipv6::of_host(&fs::read_to_string(&self.if_inet6).unwrap_or_default());
        state.ipv6 = Some((now, ipv6));
        ipv6
    }

    fn read(&self) -> Vec<SocketAddr> {
        let text = fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        Servers::of(&text, &self.own).all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic left each field whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Some(with_port); // no C library reads that, but who gives us a file of our own may need it
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Some(SocketAddr::new(address, PORT)),
        // `fe80::1%eth0`: the C library turns the interface into its number, and looks up nothing.
        Err(_) if text.contains('%') => (text, PORT).to_socket_addrs().ok()?.next(),
        Err(_) => None,
    }
}
