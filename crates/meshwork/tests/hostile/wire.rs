//! A connection's client end that says what it likes: in clear, or over TLS with whatever certificate.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Nothing here takes this long; who waits longer waits in vain.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long an attacker waits for room to write into, or for a connection.
const HURRY: Duration = Duration::from_secs(1);

/// And for something to read.
const GLANCE: Duration = Duration::from_millis(1);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    socket: TcpStream,
}

/// Where an attack goes in.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// `None`: in clear.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Door {
    pub(crate) fn open(&self) -> Wire {
        match &self.tls {
            Some(config) => Wire::tls(self.address, config.clone()),
            None => Wire::clear(self.address),
        }
    }
}

impl Wire {
    pub(crate) fn clear(address: SocketAddr) -> Self {
        let socket = connect(address);
        Self { stream: Box::new(socket.try_clone().unwrap()), socket }
    }

    /// As from another address of this machine.
    pub(crate) fn from_address(own: IpAddr, address: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        // A port is chosen when it connects: each of them may be had once for each other end.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::new(own, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let socket = prepared(socket.into());
        Self { stream: Box::new(socket.try_clone().unwrap()), socket }
    }

    /// The handshake comes with the first bytes.
    pub(crate) fn tls(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let socket = connect(address);
        let client = ClientConnection::new(config, meshwork_identity::session_name(address)).unwrap();
        Self { stream: Box::new(StreamOwned::new(client, socket.try_clone().unwrap())), socket }
    }

    /// `Err`: whoever listens has closed already, which is an answer, too.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Everything until the other end closes or breaks off.
    ///
    /// # Panics
    /// If it does neither.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let (mut all, mut piece) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return all,
                Ok(count) => all.extend_from_slice(&piece[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("neither an answer nor an end after {:?}", String::from_utf8_lossy(&all))
                }
                Err(_) => return all,
            }
        }
    }

    /// What comes next; empty: the end.
    ///
    /// # Panics
    /// If nothing does.
    pub(crate) fn piece(&mut self) -> Vec<u8> {
        self.poll().expect("an answer or an end comes in time")
    }

    /// `None`: nobody can be reached, as the kernel's queue is full.
    pub(crate) fn try_clear(address: SocketAddr) -> Option<Self> {
        let socket = TcpStream::connect_timeout(&address, HURRY).ok()?;
        socket.set_nodelay(true).ok()?;
        Some(Self { stream: Box::new(socket.try_clone().ok()?), socket })
    }

    /// From now on nothing is waited for.
    pub(crate) fn hurry(&mut self) {
        self.socket.set_read_timeout(Some(GLANCE)).unwrap();
        self.socket.set_write_timeout(Some(HURRY)).unwrap();
    }

    /// What is there; empty: the end. `None`: nothing yet.
    pub(crate) fn poll(&mut self) -> Option<Vec<u8>> {
        let mut piece = vec![0; 16 * 1024];
        let count = match self.stream.read(&mut piece) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(_) => 0,
        };
        piece.truncate(count);
        Some(piece)
    }

    /// Nothing more is sent.
    pub(crate) fn half_close(&mut self) {
        // Closed by the other end already: as well.
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    prepared(TcpStream::connect(address).unwrap())
}

fn prepared(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}
