//! Where a connection was going before the kernel's rules redirected it: `SO_ORIGINAL_DST`, of IPv4 and of IPv6.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

#[derive(Debug, thiserror::Error)]
pub(super) enum NotCaptured {
    #[error("it came to the port itself, and no rule redirected it")]
    Direct,
    #[error("the kernel does not say where it was going: {0}")]
    Unknown(io::Error),
}

pub(super) fn destination(socket: &TcpStream) -> Result<SocketAddr, NotCaptured> {
    let local = canonical(socket.local_addr().map_err(NotCaptured::Unknown)?);
    let asked = SockRef::from(socket);
    let original = match local {
        SocketAddr::V4(_) => asked.original_dst_v4(),
        SocketAddr::V6(_) => asked.original_dst_v6(),
    };
    let original = match original {
        Ok(address) => address.as_socket().map(canonical),
        // No connection of that name is tracked, or nothing is: nobody redirects here.
        Err(error) if is_untracked(&error) => None,
        Err(error) => return Err(NotCaptured::Unknown(error)),
    };
    original.filter(|original| *original != local).ok_or(NotCaptured::Direct)
}

fn is_untracked(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT | libc::EOPNOTSUPP))
}

/// Without the mapping and the zone of IPv6, which the two sides write differently.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[tokio::test]
    async fn who_came_directly_was_not_captured() {
        let localhost: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for ip in localhost {
            let Ok(listener) = tokio::net::TcpListener::bind((ip, 0)).await else {
                eprintln!("not checked for {ip}: this machine has no such address");
                continue;
            };
            let address = listener.local_addr().unwrap();
            let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (_client, (server, _)) = (connected.unwrap(), accepted.unwrap());
            assert!(matches!(destination(&server), Err(NotCaptured::Direct)), "{ip}");
        }
    }
}
