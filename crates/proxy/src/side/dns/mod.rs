//! The DNS of the application: names of the mesh are answered here, all others by the host's own resolvers.
//!
//! | file | what |
//! |---|---|
//! | `udp.rs`, `tcp.rs` | where queries come from and answers go to |
//! | `answer.rs` | the path of a query: ours, kept, or to be waited for |
//! | `tables.rs` | the names of the mesh, and the wait for a namespace's |
//! | `host.rs` | which resolvers the host has, and whether it has IPv6 |
//! | `upstream.rs` | a query to one of these resolvers |
//! | `flights.rs` | equal queries at a time, of which one goes there |
//! | `own.rs` | the sidecar's own look-ups |
//!
//! It lives on the side thread: a look-up comes before a connection, not with each request, and what is kept is one
//! table. What a name resolves to is `core/src/names.rs`, how messages look `core/src/dns/`.

mod answer;
mod flights;
mod host;
mod own;
mod tables;
mod tcp;
mod udp;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::live::Live;
use crate::telemetry::Registry;
use answer::Answerer;
use host::Host;

pub use own::Lookup;

/// Where the host says which resolvers it has.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where the kernel lists the host's addresses of IPv6.
const IF_INET6: &str = "/proc/net/if_inet6";

/// What names are answered with.
pub struct Dns {
    /// The asker's.
    pub namespace: String,
    pub resolv_conf: PathBuf,
    /// The mark of our own sockets, by which rules let them pass; `None`: rules know us by our user.
    pub mark: Option<u32>,
    pub live: Arc<Live>,
    pub registry: Arc<Registry>,
    pub clock: Clock,
}

impl Dns {
    /// Answers until dropped. Ends with an error if a socket can't be used.
    pub async fn serve(self, sockets: Vec<(UdpSocket, TcpListener)>) -> io::Result<()> {
        let own: Vec<SocketAddr> =
            sockets.iter().map(|(udp, _)| udp.local_addr()).collect::<Result<_, _>>()?;
        let host = Host::new(self.resolv_conf.clone(), IF_INET6.into(), own);
        let answerer = Arc::new(Answerer::new(self, host));
        let mut doors = JoinSet::new();
        for (udp, tcp) in sockets {
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            doors.spawn(udp::serve(tokio::net::UdpSocket::from_std(udp)?, answerer.clone()));
            doors.spawn(tcp::serve(tokio::net::TcpListener::from_std(tcp)?, answerer.clone()));
        }
        // They end only with the set.
        while doors.join_next().await.is_some() {}
        Ok(())
    }
}
