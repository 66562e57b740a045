//! What a service manager is told of us, and the socket that it holds for us while we restart. The tests stand in for
//! systemd: they listen where it would, and pass on a socket as it would.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::Signal;

use super::support::{DEADLINE, Mesh, Process, free_port, meshwork, wait_for};

/// Hears what a service says. A thread listens all the time, as systemd does: a full queue would lose a word.
struct Manager {
    words: Receiver<String>,
    /// To itself: what was said before has been heard once this is.
    own: UnixDatagram,
    address: UnixAddress,
}

/// Ends the listening thread.
const END: &str = "END";

impl Manager {
    /// At a path in `dir`, as the variable has it.
    fn at(dir: &Path) -> (Self, String) {
        let path = dir.join("notify.sock");
        (Self::hearing(UnixAddress::from_pathname(&path).unwrap()), path.to_str().unwrap().to_owned())
    }

    /// At an abstract name.
    fn abstract_named(name: &str) -> (Self, String) {
        let name = format!("meshwork-test-{}-{name}", std::process::id());
        (Self::hearing(UnixAddress::from_abstract_name(&name).unwrap()), format!("@{name}"))
    }

    fn hearing(address: UnixAddress) -> Self {
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let (heard, words) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let word = text.lines().next().unwrap_or_default().to_owned();
                if heard.send(word.clone()).is_err() || word == END {
                    return;
                }
            }
        });
        Self { words, own: UnixDatagram::unbound().unwrap(), address }
    }

    fn next(&self) -> String {
        self.words.recv_timeout(DEADLINE).expect("the service should have said something")
    }

    /// The next that is no sign of life.
    fn next_word(&self) -> String {
        loop {
            let word = self.next();
            if word != "WATCHDOG=1" {
                return word;
            }
        }
    }

    /// That nothing more was said, now that nobody is there to say it.
    #[track_caller]
    fn heard_all(&self) {
        self.own.send_to_addr(END.as_bytes(), &self.address).unwrap();
        assert_eq!(self.next_word(), END);
    }
}

/// One try: whoever is told that a service is ready tries no second time.
fn answers(url: &str) -> bool {
    let curl =
        Command::new("curl").args(["-sSk", "--fail", "--noproxy", "*", "--max-time", "30", url]).output();
    curl.unwrap().status.success()
}

/// A command that finds the sockets as descriptors 3 and 4, as systemd would pass them on. The shell becomes the command, so
/// that the process keeps its number.
fn with_sockets(first: impl Into<OwnedFd>, second: impl Into<OwnedFd>, command: &Command) -> Command {
    with(
        "exec 3<&0 4<&1 </dev/null >&2; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"",
        first,
        command,
        second.into(),
    )
}

/// The same of one alone.
fn with_socket(socket: impl Into<OwnedFd>, command: &Command) -> Command {
    with(
        "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"",
        socket,
        command,
        Stdio::inherit(),
    )
}

fn with(script: &str, stdin: impl Into<OwnedFd>, command: &Command, stdout: impl Into<Stdio>) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::from(stdin.into())).stdout(stdout);
    shell
}

fn control(state: &Path, listen: &str) -> Command {
    meshwork(["control", "--listen", listen, "--state-dir", state.to_str().unwrap()])
}

#[test]
fn a_control_plane_says_when_it_is_ready_that_it_lives_and_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (manager, name) = Manager::at(dir.path());
    let listen = format!("127.0.0.1:{}", free_port());
    let mut command = control(&dir.path().join("control"), &listen);
    command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "100000");
    let mut process = Process(command.spawn().unwrap());
    assert_eq!(manager.next(), "READY=1");
    assert!(answers(&format!("https://{listen}/healthz")));
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    process.signal(Signal::TERM);
    assert_eq!(manager.next_word(), "STOPPING=1");
    assert!(process.ended().success());
    manager.heard_all();
}

#[test]
fn a_sidecar_alone_says_when_it_is_ready_and_when_it_drains() {
    let mesh = Mesh::start();
    let (manager, name) = Manager::abstract_named("proxy");
    let admin = format!("127.0.0.1:{}", free_port());
    let outbound = format!("127.0.0.1:{}", free_port());
    let mut command =
        meshwork(["proxy", "--service", "cart", "--admin", &admin, "--outbound-http", &outbound]);
    command.env("MESHWORK_TOKEN", mesh.token("cart")).arg("--state-dir").arg(mesh.state_dir("cart"));
    let mut process = Process(command.env("NOTIFY_SOCKET", name).spawn().unwrap());
    assert_eq!(manager.next(), "READY=1");
    assert!(answers(&format!("http://{admin}/ready")));
    process.signal(Signal::TERM);
    assert_eq!(manager.next(), "STOPPING=1");
    assert!(process.ended().success());
    manager.heard_all();
}

#[test]
fn a_run_speaks_for_its_sidecar_and_its_command_and_they_do_not() {
    let mesh = Mesh::start();
    let (manager, name) = Manager::abstract_named("run");
    let told = mesh.path().join("told");
    let script = format!("env > {0}.new; mv {0}.new {0}; exec sleep 1000", told.display());
    let mut run = mesh.run("cart", "cart", &[], ["sh", "-c", &script]);
    run.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "100000").env("LISTEN_FDNAMES", "x");
    let mut run = mesh.started("cart", &mut run);
    assert_eq!(manager.next_word(), "READY=1");
    assert_eq!(manager.next(), "WATCHDOG=1");
    let environment = wait_for("the command's variables", || std::fs::read_to_string(&told).ok());
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDNAMES"] {
        assert!(!environment.contains(variable), "{environment}");
    }
    run.process.signal(Signal::TERM);
    assert_eq!(manager.next_word(), "STOPPING=1");
    run.process.ended();
    manager.heard_all();
}

#[test]
fn who_connects_while_the_control_plane_restarts_is_served_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (manager, name) = Manager::at(dir.path());
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let state = dir.path().join("control");
    std::fs::create_dir(&state).unwrap();
    let operators = state.join("operator.sock");
    let operators = (UnixListener::bind(&operators).unwrap(), operators);
    let start = || {
        // The flag is not looked at: nobody could listen there.
        let mut command = control(&dir.path().join("control"), "192.0.2.1:1");
        command.env("NOTIFY_SOCKET", &name);
        let mut command =
            with_sockets(socket.try_clone().unwrap(), operators.0.try_clone().unwrap(), &command);
        let process = Process(command.spawn().unwrap());
        assert_eq!(manager.next(), "READY=1");
        process
    };
    let mut first = start();
    let url = format!("https://{address}/healthz");
    assert!(answers(&url));
    first.signal(Signal::TERM);
    assert_eq!(manager.next(), "STOPPING=1");
    assert!(first.ended().success());

    let curl = ["-sSk", "--fail", "--noproxy", "*", "--max-time", "60", &url];
    let waiting = Command::new("curl").args(curl).stdout(Stdio::piped()).spawn().unwrap();
    let mut operate = meshwork(["get", "services", "--state-dir", state.to_str().unwrap()]);
    let operator = operate.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a connection in the port's queue", || (queued(address) == 1).then_some(()));
    wait_for("one in the operators' queue", || (queued_at(&operators.1) == Some(1)).then_some(()));
    let mut second = start();
    let answer = waiting.wait_with_output().unwrap();
    assert!(answer.status.success(), "{answer:?}");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), r#"{"ok":true}"#);
    let answer = operator.wait_with_output().unwrap();
    assert!(answer.status.success(), "{answer:?}");
    second.signal(Signal::TERM);
    assert!(second.ended().success());
    // They were never ours to close.
    TcpStream::connect(address).unwrap();
    UnixStream::connect(&operators.1).unwrap();
}

/// Connections that wait to be accepted: the receive queue of a listening socket (proc(5), net/tcp).
fn queued(address: SocketAddr) -> u32 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{:04X}", address.port());
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut lines = line.filter(|fields| fields.get(1) == Some(&&*local) && fields.get(3) == Some(&"0A"));
    let queues = lines.next().expect("the socket listens")[4];
    u32::from_str_radix(queues.split(':').nth(1).unwrap(), 16).unwrap()
}

/// The same of a UNIX socket, as `ss` has it of the kernel.
fn queued_at(path: &Path) -> Option<u32> {
    let table = Command::new("ss").args(["-xlH", "src"]).arg(path).output().unwrap();
    String::from_utf8_lossy(&table.stdout).split_whitespace().nth(2)?.parse().ok()
}

#[test]
fn sockets_that_are_no_doors_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let control = control(&dir.path().join("control"), "127.0.0.1:0");
    let check = |mut command: Command, expect: &str| {
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(expect), "{told}");
    };
    let port = || TcpListener::bind("127.0.0.1:0").unwrap();
    let path = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
    let connected = TcpStream::connect(port().local_addr().unwrap()).unwrap();
    let datagrams = UnixDatagram::bind(dir.path().join("datagrams")).unwrap();
    let neither =
        "descriptor 3, which the service manager passed on, is neither a TCP nor a UNIX socket that listens";
    check(with_socket(connected, &control), neither);
    check(with_socket(datagrams, &control), neither);
    check(with_sockets(port(), port(), &control), "more than one TCP socket");
    check(with_sockets(path("a"), path("b"), &control), "more than one UNIX socket");
}
