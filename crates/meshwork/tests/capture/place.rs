//! A namespace in which things are captured, and those who connect and listen.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use meshwork_core::capture::{INBOUND_PORT, OUTBOUND_PORT};
use meshwork_testkit::Machine;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, Socket, Type};

/// Far above what anything here takes, on the busiest machine: only a test that fails waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Addresses that nobody has.
pub(crate) const VIRTUAL: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 1, 2, 3));
pub(crate) const VIRTUAL_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd4d, 0x5700, 1, 0, 0, 0, 0, 7));
pub(crate) const RANGES: &str = "--virtual-range=240.0.0.0/8,fd4d:5700:1::/64";

/// A namespace; dropped, it is gone.
pub(crate) struct Place {
    pub(crate) machine: Machine,
}

impl Place {
    /// With nothing captured. `None`: this user may not make one, and that was said.
    pub(crate) fn empty() -> Option<Self> {
        Some(Self { machine: Machine::start()? })
    }

    /// With `meshwork capture apply` and these flags.
    pub(crate) fn captured(flags: &[&str]) -> Option<Self> {
        let place = Self::empty()?;
        place.apply(flags);
        Some(place)
    }

    #[track_caller]
    pub(crate) fn apply(&self, flags: &[&str]) {
        let output = self.meshwork(&[&["capture", "apply", RANGES], flags].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Our binary, there.
    pub(crate) fn meshwork(&self, args: &[&str]) -> Output {
        self.run(Command::new(env!("CARGO_BIN_EXE_meshwork")).args(args))
    }

    pub(crate) fn run(&self, command: &mut Command) -> Output {
        self.machine.enter(|| command.stdin(Stdio::null()).output()).unwrap()
    }

    /// What a program there prints.
    #[track_caller]
    pub(crate) fn prints(&self, program: &str, args: &str) -> String {
        let output = self.run(Command::new(program).args(args.split(' ')));
        assert!(output.status.success(), "{program} {args}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Everything there that capture changes.
    pub(crate) fn state(&self) -> [String; 3] {
        [
            self.prints("nft", "list ruleset"),
            self.prints("ip", "-4 route show table all"),
            self.prints("ip", "-6 route show table all"),
        ]
    }

    pub(crate) fn listen(&self, address: impl Into<IpAddr>, port: u16) -> Listener {
        let address = address.into();
        self.machine.enter(|| Listener::bind(address, port))
    }

    /// Who would be the sidecar, for what goes out: of both families.
    pub(crate) fn outbound(&self) -> [Listener; 2] {
        let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        [self.listen(v4, OUTBOUND_PORT), self.listen(v6, OUTBOUND_PORT)]
    }

    /// Who would be the sidecar, for what comes in: of both families.
    pub(crate) fn inbound(&self) -> [Listener; 2] {
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        [self.listen(v4, INBOUND_PORT), self.listen(v6, INBOUND_PORT)]
    }

    /// What an application there gets.
    pub(crate) fn connect(&self, address: impl Into<SocketAddr>) -> io::Result<TcpStream> {
        let address = address.into();
        self.machine.enter(|| connect(address))
    }

    /// What a sidecar there gets that may set marks.
    pub(crate) fn connect_marked(&self, address: impl Into<SocketAddr>, mark: u32) -> io::Result<TcpStream> {
        let address = address.into();
        self.machine.enter(|| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_mark(mark)?;
            socket.connect_timeout(&address.into(), DEADLINE)?;
            Ok(socket.into())
        })
    }
}

/// With an end: a connection that is neither made nor refused fails the test.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, DEADLINE)
}

/// Accepts without waiting: who connects has connected before it is asked.
pub(crate) struct Listener(TcpListener);

impl Listener {
    pub(crate) fn bind(address: IpAddr, port: u16) -> Self {
        let socket = Socket::new(Domain::for_address((address, port).into()), Type::STREAM, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(true).unwrap();
        }
        socket.bind(&SocketAddr::from((address, port)).into()).unwrap();
        socket.listen(16).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket.into())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next one, and which address it meant.
    #[track_caller]
    pub(crate) fn accept(&self) -> (TcpStream, Option<SocketAddr>) {
        let (stream, _) = self.0.accept().expect("a connection that was made waits here");
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let socket = SockRef::from(&stream);
        let original =
            if self.address().is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
        (stream, original.ok().and_then(|address| address.as_socket()))
    }

    /// The next one, of a program that takes its time.
    pub(crate) fn wait(&self) -> (TcpStream, Option<SocketAddr>) {
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        let patience = Timespec::try_from(DEADLINE).unwrap();
        assert_eq!(poll(&mut ready, Some(&patience)), Ok(1), "nobody came to {}", self.address());
        self.accept()
    }

    /// Which address the next one meant.
    #[track_caller]
    pub(crate) fn meant(&self) -> Option<SocketAddr> {
        self.accept().1
    }

    #[track_caller]
    pub(crate) fn assert_nobody_came(&self) {
        let accepted = self.0.accept();
        let waits = accepted.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(waits, "{} was reached: {accepted:?}", self.address());
    }
}

#[track_caller]
pub(crate) fn assert_refused(connected: &io::Result<TcpStream>) {
    let refused = connected.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    assert!(refused, "{connected:?}");
}

/// A byte goes from one end to the other.
#[track_caller]
pub(crate) fn assert_joined(mut one: &TcpStream, mut other: &TcpStream) {
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    one.write_all(b"x").unwrap();
    let mut byte = [0];
    other.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

/// What one end sends does not reach the other, and it hears so. (Whether at the write or after it is the kernel's.)
#[track_caller]
pub(crate) fn assert_cut(mut one: &TcpStream, mut other: &TcpStream) {
    one.set_read_timeout(Some(DEADLINE)).unwrap();
    let heard = one.write_all(b"marker").and_then(|()| one.read(&mut [0]));
    let cut = heard.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
    assert!(cut, "{heard:?}");
    other.set_nonblocking(true).unwrap();
    let read = other.read(&mut [0; 16]);
    assert!(!matches!(read, Ok(1..)), "it arrived: {read:?}");
}
