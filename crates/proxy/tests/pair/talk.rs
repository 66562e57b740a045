//! A connection's end in the hands of a test: a client's, an application's, or a peer's behind TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use meshwork_proxy::telemetry::{Event, Registry};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use socket2::{Domain, SockRef, Socket, Type};

use super::support::bind;

/// Nothing here takes this long; a test that waits longer waits in vain.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) struct Talk {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    unread: Vec<u8>,
}

/// How the other side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Broken,
}

impl Talk {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn on(socket: TcpStream) -> Self {
        patient(&socket);
        Self { stream: Box::new(socket.try_clone().unwrap()), socket, unread: Vec::new() }
    }

    pub(crate) fn tls_to(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::tls_on(TcpStream::connect(address).unwrap(), address, config)
    }

    fn tls_on(socket: TcpStream, address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        patient(&socket);
        let client = ClientConnection::new(config, meshwork_identity::session_name(address)).unwrap();
        let stream = StreamOwned::new(client, socket.try_clone().unwrap());
        Self { stream: Box::new(stream), socket, unread: Vec::new() }
    }

    /// Speaks TLS inside what this connection carries.
    pub(crate) fn with_tls_inside(self, config: Arc<ClientConfig>) -> Self {
        assert!(self.unread.is_empty());
        let address = self.socket.peer_addr().unwrap();
        Self::tls_on(self.socket, address, config)
    }

    pub(crate) fn tls_server_on(socket: TcpStream, config: Arc<ServerConfig>) -> Self {
        patient(&socket);
        let server = ServerConnection::new(config).unwrap();
        let stream = StreamOwned::new(server, socket.try_clone().unwrap());
        Self { stream: Box::new(stream), socket, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Reads a message's head.
    pub(crate) fn head(&mut self) -> Head {
        let end = self.find(b"\r\n\r\n");
        let text = String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {text:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Head { first, fields: lines.map(field).collect() }
    }

    /// Reads so many bytes.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            assert!(self.more(), "ended after {:?}", String::from_utf8_lossy(&self.unread));
        }
        self.unread.drain(..count).collect()
    }

    /// Reads bytes that must be these.
    pub(crate) fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let taken = self.take(bytes.len());
        assert!(
            taken == bytes,
            "{:?} is not {:?}",
            String::from_utf8_lossy(&taken),
            String::from_utf8_lossy(bytes)
        );
    }

    /// Reads a chunked body: its bytes and its trailers.
    pub(crate) fn chunked(&mut self) -> (Vec<u8>, Vec<(String, String)>) {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line(), 16).unwrap();
            if size == 0 {
                break;
            }
            body.extend(self.take(size));
            self.expect("\r\n");
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { return (body, trailers) };
            trailers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    /// What is there, or comes next; empty: the other side has ended.
    pub(crate) fn piece(&mut self) -> Vec<u8> {
        if self.unread.is_empty() {
            self.more();
        }
        std::mem::take(&mut self.unread)
    }

    /// Everything until the other side ends, and how it ended.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return (std::mem::take(&mut self.unread), End::Clean),
                Ok(count) => self.unread.extend_from_slice(&piece[..count]),
                Err(error) => {
                    let waited = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(!waited, "neither bytes nor an end came");
                    return (std::mem::take(&mut self.unread), End::Broken);
                }
            }
        }
    }

    /// What comes first: bytes of an answer, or the end.
    pub(crate) fn answer(&mut self) -> Vec<u8> {
        let mut piece = [0; 1024];
        match self.stream.read(&mut piece) {
            Ok(count) => piece[..count].to_vec(),
            Err(_) => Vec::new(),
        }
    }

    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let (rest, end) = self.rest();
        assert_eq!((String::from_utf8_lossy(&rest).into_owned(), end), (String::new(), End::Clean));
    }

    #[track_caller]
    pub(crate) fn expect_broken(&mut self) {
        let (rest, end) = self.rest();
        assert_eq!((String::from_utf8_lossy(&rest).into_owned(), end), (String::new(), End::Broken));
    }

    /// Says that nothing more is sent.
    pub(crate) fn half_close(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Breaks the connection off.
    pub(crate) fn reset(self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub(crate) fn into_socket(self) -> TcpStream {
        assert!(self.unread.is_empty());
        self.socket
    }

    fn line(&mut self) -> String {
        let end = self.find(b"\r\n");
        let line = self.unread.drain(..end + 2).take(end).collect();
        String::from_utf8(line).unwrap()
    }

    fn find(&mut self, what: &[u8]) -> usize {
        loop {
            if let Some(at) = self.unread.windows(what.len()).position(|window| window == what) {
                return at;
            }
            assert!(self.more(), "ended after {:?}", String::from_utf8_lossy(&self.unread));
        }
    }

    fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let count = self.stream.read(&mut piece).unwrap();
        self.unread.extend_from_slice(&piece[..count]);
        count > 0
    }
}

fn patient(socket: &TcpStream) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
}

/// A message's head as it came: its first line, and its fields with names in lower case.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn expect(&self, first: &str) {
        assert_eq!(self.first, first, "{self:?}");
    }

    #[track_caller]
    pub(crate) fn expect_cause(&self, status: &str, cause: &str) {
        assert_eq!((&self.first[9..12], self.get("x-meshwork-cause")), (status, Some(cause)), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn expect_without(&self, names: &[&str]) {
        for name in names {
            assert_eq!(self.get(name), None, "{self:?}");
        }
    }
}

/// An application that listens; what it says is the test's.
pub(crate) struct App {
    listener: TcpListener,
    pub(crate) port: u16,
}

impl App {
    pub(crate) fn listen() -> Self {
        Self::on(bind())
    }

    pub(crate) fn listen_on(address: IpAddr) -> Self {
        Self::on(TcpListener::bind((address, 0)).unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap(); // of accept, too
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn accept(&self) -> Talk {
        Talk::on(self.accept_socket())
    }

    pub(crate) fn accept_socket(&self) -> TcpStream {
        self.listener.accept().expect("nobody came").0
    }

    /// Whoever has connected already.
    pub(crate) fn accepted(&self) -> Option<Talk> {
        self.listener.set_nonblocking(true).unwrap();
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).unwrap();
        let (socket, _) = accepted.ok()?;
        socket.set_nonblocking(false).unwrap();
        Some(Talk::on(socket))
    }

    /// Nobody connected, or whoever did was accepted.
    #[track_caller]
    pub(crate) fn expect_nobody(&self) {
        assert!(self.accepted().is_none(), "somebody came");
    }

    /// Answers every request by itself, from now on.
    pub(crate) fn serve(self, answer: impl Fn(&Head, &mut Talk) -> String + Send + Sync + 'static) {
        let answer = Arc::new(answer);
        self.listener.set_nonblocking(false).unwrap();
        SockRef::from(&self.listener).set_read_timeout(None).unwrap();
        thread::spawn(move || {
            while let Ok((socket, _)) = self.listener.accept() {
                let answer = answer.clone();
                thread::spawn(move || {
                    let mut talk = Talk::on(socket);
                    while talk.has_more() {
                        let head = talk.head();
                        let answered = answer(&head, &mut talk);
                        if talk.try_send(answered).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
}

impl Talk {
    /// Whether there is something to read.
    pub(crate) fn is_spoken_to(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let peeked = self.socket.peek(&mut [0]);
        self.socket.set_nonblocking(false).unwrap();
        peeked.is_ok()
    }

    /// Whether a next message begins.
    fn has_more(&mut self) -> bool {
        let mut piece = [0; 1024];
        while self.unread.is_empty() {
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => return false,
                Ok(count) => self.unread.extend_from_slice(&piece[..count]),
            }
        }
        true
    }
}

/// A port that is taken, so that nobody else gets it, and refuses connections.
pub(crate) struct Closed(Socket);

impl Closed {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address().port()
    }
}

pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Waits for what happens in another thread and tells nobody: a counter, a certificate's end.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
pub(crate) fn counts(registry: &Registry, event: Event, expected: u64) {
    eventually(&format!("{event:?} is {}, not {expected}", registry.counted(event)), || {
        registry.counted(event) == expected
    });
}

/// Runs a test in a process of its own, because it looks at what all tests of a process share (memory,
/// standard error). `module` and `name` are the test's own.
pub(crate) fn alone(module: &str, name: &str, test: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let output = child(module, name).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    // A name that is no test's would pass, too.
    let passed = output.status.success() && told.contains(" 1 passed");
    assert!(passed, "{told}{}", String::from_utf8_lossy(&output.stderr));
}

/// Set in a test's own process.
pub(crate) const ALONE: &str = "MESHWORK_TEST_ALONE";

pub(crate) fn child(module: &str, name: &str) -> Command {
    let (_crate, module) = module.split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{name}"), "--nocapture"]).env(ALONE, "1");
    command
}
