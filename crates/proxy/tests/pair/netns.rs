//! A network namespace for one test, in which rules of the kernel redirect connections by where they come from.
//!
//! Held by a child process: nothing of it outlives the test, even one that is killed.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};

use super::talk::Talk;

/// Whose connections are captured, by address family.
pub(crate) const CAPTURED: [&str; 2] = ["10.9.0.1", "fd09::1"];
/// Another host, by address family.
pub(crate) const HOST: [&str; 2] = ["10.9.9.9", "fd09::9"];

const SETUP: &str = "set -e
ip link set lo up
ip addr add 10.9.0.1/32 dev lo
ip addr add 10.9.9.9/32 dev lo
ip -6 addr add fd09::1/128 dev lo nodad
ip -6 addr add fd09::9/128 dev lo nodad
ip route add 240.0.0.0/8 dev lo
ip -6 route add fd12::/64 dev lo
for own in fd09::1 fd09::9; do
    until ip -6 route get $own | grep -q ^local; do sleep 0.01; done
done
echo ready
exec cat";

/// Of the sockets whose connection the other end sees only with its first bytes: see [`hold_back`].
const SPEAKS_AT_ONCE: u32 = 7;

/// A network namespace, held by a process that ends with this one.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", SETUP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the namespace could not be set up");
        Self(holder)
    }

    /// This thread, and what it starts, is in the namespace from now on.
    fn enter(&self) {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Runs a test in a namespace. Without root it says that it was not checked; in CI that is a failure.
pub(crate) fn within(test: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "capture is tested in network namespaces, which takes root"
        );
        eprintln!("not checked: a network namespace takes root");
        return;
    }
    let namespace = Namespace::new();
    let ended = thread::scope(|scope| {
        let run = scope.spawn(|| {
            namespace.enter();
            test();
        });
        run.join()
    });
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Redirects what comes from [`CAPTURED`] to these ports, one of each address family.
pub(crate) fn redirect_to(ports: &[SocketAddr]) {
    let rules = CAPTURED.iter().zip(["ip", "ip6"]).zip(ports).map(|((from, family), to)| {
        format!("{family} saddr {from} meta l4proto tcp redirect to :{}\n", to.port())
    });
    load(&format!(
        "table inet test {{\nchain out {{\ntype nat hook output priority -100;\n{}}}\n}}\n",
        rules.collect::<String>()
    ));
    hold_back();
}

/// Sidecars take a client that says nothing for 50 ms for one that waits for the server, and this machine may well be
/// too busy to say something within 50 ms after it connected. So the end of a handshake is dropped until there are bytes
/// to send: the sidecar's kernel has no connection to accept before, and then the bytes are there already.
fn hold_back() {
    load(&format!(
        "table inet held {{\nchain out {{\ntype filter hook output priority 0;\n\
         meta mark {SPEAKS_AT_ONCE} tcp flags & (syn | fin | rst | psh) == psh ct mark set 1\n\
         meta mark {SPEAKS_AT_ONCE} tcp flags & (syn | fin | rst | psh) == 0x0 ct mark 0 drop\n}}\n}}\n"
    ));
}

fn load(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{rules}");
}

/// A connection from [`CAPTURED`], which begins with the client's first bytes.
pub(crate) fn connect(to: SocketAddr) -> Talk {
    let socket = captured_socket(to);
    socket.set_mark(SPEAKS_AT_ONCE).unwrap();
    socket.connect(&to.into()).unwrap();
    Talk::on(socket.into())
}

/// Another, whose client may wait for the server's first word.
pub(crate) fn connect_silent(to: SocketAddr) -> Talk {
    let socket = captured_socket(to);
    socket.connect(&to.into()).unwrap();
    Talk::on(socket.into())
}

/// A client that is captured and says nothing is broken off.
#[track_caller]
pub(crate) fn expect_refused(to: SocketAddr) {
    let socket = captured_socket(to);
    expect_reset(socket.connect(&to.into()).map(|()| socket.into()));
}

/// It is broken off, maybe before the kernel could even tell that it stood.
#[track_caller]
pub(crate) fn expect_reset(connected: io::Result<TcpStream>) {
    match connected {
        Ok(socket) => Talk::on(socket).expect_broken(),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

fn captured_socket(to: SocketAddr) -> Socket {
    let from: IpAddr = CAPTURED[usize::from(to.is_ipv6())].parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket
}

pub(crate) fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}
