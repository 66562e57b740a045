//! Sockets to which a run's rules lead what they capture, on ports that nobody chose, as the rules are told which: outbound is
//! led to loopback, inbound to the address of the interface by which it came.
//!
//! One rule leads both families to one port, so a port is taken only if it is free in both; a machine without IPv6 has one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::{ListenError, bind, bind_alone, bind_both, has_no_such_address};

/// Ports that are tried: what is free in IPv4 may be another program's in IPv6.
const TRIES_MAX: usize = 16;

const FLAG: &str = "--capture";

/// Where rules lead what is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) outbound: u16,
    pub(crate) inbound: u16,
    pub(crate) dns: u16,
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// For connections that the application opens.
pub(super) fn outbound() -> Result<(u16, Vec<TcpListener>), ListenError> {
    on_one_port(LOOPBACK, |address| bind(address, FLAG), TcpListener::local_addr)
}

/// For connections that others open to it.
pub(super) fn inbound() -> Result<(u16, Vec<TcpListener>), ListenError> {
    let open =
        |address| bind_alone(address).map_err(|source| ListenError::Bind { address, flag: FLAG, source });
    on_one_port(ANY, open, TcpListener::local_addr)
}

/// For look-ups: datagrams and connections.
pub(super) fn dns() -> Result<(u16, Vec<(UdpSocket, TcpListener)>), ListenError> {
    let open =
        |address| bind_both(address).map_err(|source| ListenError::Bind { address, flag: FLAG, source });
    on_one_port(LOOPBACK, open, |(_, tcp)| tcp.local_addr())
}

/// `open` on a port of the kernel's choice, in IPv4 first.
fn on_one_port<T>(
    addresses: [IpAddr; 2],
    open: impl Fn(SocketAddr) -> Result<T, ListenError>,
    address: impl Fn(&T) -> io::Result<SocketAddr>,
) -> Result<(u16, Vec<T>), ListenError> {
    let mut tries = 1;
    loop {
        match both(addresses, &open, &address) {
            Err(ListenError::Bind { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && tries < TRIES_MAX =>
            {
                tries += 1;
            }
            result => return result,
        }
    }
}

fn both<T>(
    [v4, v6]: [IpAddr; 2],
    open: impl Fn(SocketAddr) -> Result<T, ListenError>,
    address: impl Fn(&T) -> io::Result<SocketAddr>,
) -> Result<(u16, Vec<T>), ListenError> {
    let any = SocketAddr::new(v4, 0);
    let first = open(any)?;
    let port =
        address(&first).map_err(|source| ListenError::Bind { address: any, flag: FLAG, source })?.port();
    match open(SocketAddr::new(v6, port)) {
        Ok(second) => Ok((port, vec![first, second])),
        Err(ListenError::Bind { source, .. }) if has_no_such_address(&source) => Ok((port, vec![first])),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_one_purpose_have_one_port() {
        let (port, sockets) = dns().unwrap();
        for (udp, tcp) in &sockets {
            assert_eq!((udp.local_addr().unwrap().port(), tcp.local_addr().unwrap().port()), (port, port));
        }
        let (other, listeners) = outbound().unwrap();
        assert_ne!(other, port);
        assert_eq!(listeners.len(), sockets.len());
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap().ip().is_loopback()));
        let (_, listeners) = inbound().unwrap();
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap().ip().is_unspecified()));
    }

    #[test]
    fn a_port_that_is_taken_in_one_family_is_exchanged() {
        let first = std::cell::Cell::new(true);
        let open = |address: SocketAddr| {
            let source = io::Error::from(io::ErrorKind::AddrInUse);
            if address.is_ipv6() && first.replace(false) {
                return Err(ListenError::Bind { address, flag: FLAG, source });
            }
            Ok(address)
        };
        let (_, both) = on_one_port(LOOPBACK, open, |address| Ok(*address)).unwrap();
        assert_eq!((both.len(), first.get()), (2, false));
    }
}
