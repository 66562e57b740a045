//! The sidecar's own look-ups, of the control plane's name.
//!
//! Where rules lead everybody's questions here but those of marked sockets, the C library is of no use: its sockets have no
//! mark, so what it asks would come to this sidecar, which serves nobody yet. There the resolvers of the host are asked by
//! sockets of our own. Anywhere else the library is asked: it knows more ways than the DNS.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshwork_core::dns::own::{Family, addresses, question};
use meshwork_core::dns::{hosts, resolv_conf};
use tokio::net::lookup_host;

use super::host::Servers;
use super::upstream::Upstream;
use crate::mark::Mark;
use crate::telemetry::Registry;

/// Names to which this machine gave addresses itself.
const HOSTS: &str = "/etc/hosts";

/// How the address of a name is found.
#[derive(Clone, Default)]
pub enum Lookup {
    /// By the C library, as any program does.
    #[default]
    Library,
    /// By sockets that rules let pass.
    Marked(Arc<Marked>),
}

pub struct Marked {
    resolv_conf: PathBuf,
    upstream: Upstream,
}

impl Lookup {
    /// For a sidecar whose rules capture everybody but itself. Without a mark they know it by its user, and then its C
    /// library, too.
    pub fn behind_rules(mark: Mark, resolv_conf: &Path, registry: Arc<Registry>) -> Self {
        match mark.value() {
            Some(_) => Self::Marked(Arc::new(Marked {
                resolv_conf: resolv_conf.to_owned(),
                upstream: Upstream::new(mark.value(), registry),
            })),
            None => Self::Library,
        }
    }

    /// Of `name:port`, or of an address itself. Those to which there is a way come first. There is one at least.
    pub async fn addresses(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let found = match self {
            Self::Library => lookup_host(address).await?.collect(),
            Self::Marked(marked) => marked.addresses(address).await?,
        };
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }
}

impl Marked {
    async fn addresses(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = address.parse() {
            return Ok(vec![address]);
        }
        let odd = || io::Error::new(io::ErrorKind::InvalidInput, "it is no name with a port");
        let (name, port) = address.rsplit_once(':').ok_or_else(odd)?;
        let port: u16 = port.parse().map_err(|_| odd())?;
        let mut found: Vec<SocketAddr> =
            self.of_name(name).await?.into_iter().map(|ip| (ip, port).into()).collect();
        found.sort_by_key(|address| !is_reachable(*address)); // stable: as they came, otherwise
        Ok(found)
    }

    async fn of_name(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let listed = hosts::addresses(&fs::read_to_string(HOSTS).unwrap_or_default(), name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        if is_localhost(name) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let text = fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        let servers = Servers::of(&text, &[]);
        let mut last = None;
        for candidate in resolv_conf::candidates(&text, name) {
            let (v4, v6) = tokio::join!(
                self.ask(&candidate, Family::V4, &servers),
                self.ask(&candidate, Family::V6, &servers)
            );
            match (v4, v6) {
                (Err(error), Err(_)) => last = Some(error),
                (v4, v6) => {
                    let found: Vec<IpAddr> = [v4, v6].into_iter().flatten().flatten().collect();
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
            }
        }
        last.map_or(Ok(Vec::new()), Err)
    }

    async fn ask(&self, name: &str, family: Family, servers: &Servers) -> io::Result<Vec<IpAddr>> {
        let Some(query) = question(name, family) else { return Ok(Vec::new()) };
        match self.upstream.ask(&query, servers).await {
            Ok((answer, _)) => Ok(addresses(&answer)),
            Err(code) => Err(io::Error::other(format!("no resolver answers for {name} ({code:?})"))),
        }
    }
}

/// RFC 6761, 6.3.
fn is_localhost(name: &str) -> bool {
    name.trim_end_matches('.').rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

/// Whether there is a way there at all. Connecting a socket for datagrams sends nothing.
fn is_reachable(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect(address).is_ok())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn marked(resolv_conf: &Path) -> Lookup {
        // Whether rules know the mark is not what is tested here, and setting one needs rights.
        let upstream = Upstream::new(None, Registry::new("default/web".to_owned()));
        Lookup::Marked(Arc::new(Marked { resolv_conf: resolv_conf.to_owned(), upstream }))
    }

    /// A resolver that knows one name, and says of all others that there are none.
    fn resolver() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                let mut answer = query[..length].to_vec();
                answer[2] |= 0x80;
                if answer[12..].starts_with(b"\x07control\x07example\0\0\x01") {
                    answer[7] = 1;
                    answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x7f\x00\x00\x07");
                } else if !answer[12..].starts_with(b"\x07control\x07example\0") {
                    answer[3] |= 3;
                }
                let _ = socket.send_to(&answer, client);
            }
        });
        address
    }

    #[tokio::test]
    async fn a_name_is_asked_of_the_hosts_resolvers_in_its_domains() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("search old.example example\nnameserver {}\n", resolver())).unwrap();
        let lookup = marked(file.path());
        for name in ["control:15010", "control.example:15010", "control.example.:15010"] {
            // Where this machine was slow the resolver was given up: again.
            let found = loop {
                match lookup.addresses(name).await {
                    Ok(found) => break found,
                    Err(error) => assert!(error.to_string().contains("ServFail"), "{name}: {error}"),
                }
            };
            assert_eq!(found, ["127.0.0.7:15010".parse().unwrap()], "{name}");
        }
    }

    #[tokio::test]
    async fn addresses_and_this_machine_itself_need_no_resolver() {
        let lookup = marked(Path::new("/nonexistent"));
        assert_eq!(lookup.addresses("[fd00::1]:7").await.unwrap(), ["[fd00::1]:7".parse().unwrap()]);
        let found = lookup.addresses("localhost:7").await.unwrap();
        assert!(found[0].ip().is_loopback() && found[0].port() == 7, "{found:?}");
        for odd in ["control", "control:", "control:x", "control:70000"] {
            assert_eq!(lookup.addresses(odd).await.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{odd}");
        }
    }
}
