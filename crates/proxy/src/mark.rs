//! The mark of the sidecar's own sockets, by which the kernel's rules let them pass, while they lead everybody else's to
//! it.
//!
//! Setting one takes a capability (`CAP_NET_ADMIN`; kernels of 5.17 and later take `CAP_NET_RAW`, too), and whether this
//! process has it is found out once, at the start, by doing it. Without it the sidecar works all the same, if the rules
//! know it by its user (`meshwork capture apply --proxy-user`).

use std::io;
use std::net::SocketAddr;

use meshwork_core::capture::MARK;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::side::dns::Lookup;

/// `None`: of no use, or not possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(Option<u32>);

impl Mark {
    /// For a sidecar that captures, if this process may set one.
    pub fn find() -> Self {
        match Self::try_one() {
            Ok(mark) => mark,
            Err(error) => {
                tracing::info!(
                    "this sidecar cannot mark its sockets ({error}): rules must know it by its user"
                );
                Self(None)
            }
        }
    }

    /// Or why this process may not set one.
    pub fn try_one() -> io::Result<Self> {
        Socket::new(Domain::IPV4, Type::STREAM, None)?.set_mark(MARK)?;
        Ok(Self(Some(MARK)))
    }

    /// For sockets that are made elsewhere.
    pub fn value(self) -> Option<u32> {
        self.0
    }

    /// Connects as the sidecar.
    pub(crate) async fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        let Some(mark) = self.0 else { return TcpStream::connect(address).await };
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        SockRef::from(&socket).set_mark(mark)?;
        socket.connect(address).await
    }
}

/// The way to what is known by name: the control plane.
#[derive(Clone, Default)]
pub(crate) struct Dial {
    pub(crate) mark: Mark,
    pub(crate) lookup: Lookup,
}

impl Dial {
    /// To the first address of a name that takes it.
    pub(crate) async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let mut last = None;
        for address in self.lookup.addresses(address).await? {
            match self.mark.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use tokio::net::TcpListener;

    use super::*;

    /// In a thread of its own, which ends with the test: capabilities are a thread's.
    fn connected(allowed: CapabilitySet) -> (Mark, u32) {
        let thread = std::thread::spawn(move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective &= allowed;
            set_capabilities(None, sets).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let mark = Mark::find();
                let name = format!("localhost:{}", listener.local_addr().unwrap().port());
                let by_name = Dial { mark, lookup: Lookup::Library }.connect(&name).await.unwrap();
                let by_address = mark.connect(listener.local_addr().unwrap()).await.unwrap();
                let marks = [&by_name, &by_address].map(|stream| SockRef::from(stream).mark().unwrap());
                assert_eq!(marks[0], marks[1]);
                (mark, marks[0])
            })
        });
        thread.join().unwrap()
    }

    #[test]
    fn who_may_marks_its_sockets() {
        let all = capabilities(None).unwrap().effective;
        if !all.contains(CapabilitySet::NET_ADMIN) {
            assert!(std::env::var_os("CI").is_none(), "marks need CAP_NET_ADMIN");
            println!("NOT CHECKED: marks need CAP_NET_ADMIN");
            return;
        }
        assert_eq!(connected(all), (Mark(Some(MARK)), MARK));
    }

    /// Every socket would fail with EPERM.
    #[test]
    fn who_may_not_connects_without() {
        let without = CapabilitySet::all().difference(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
        assert_eq!(connected(without), (Mark(None), 0));
    }
}
