//! The rules of one process tree: what is in its cgroup is captured, everything else of the machine is untouched, and
//! nobody but the sidecar and the tree itself reaches what listens there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use meshwork_core::capture::{self, Exempt, INBOUND_PORT, MARK, OUTBOUND_PORT, Plan, Scope, Selection};

use crate::place::{Listener, Place, assert_refused, connect};

const DEADLINE: Duration = Duration::from_secs(30);

/// A cgroup v2 of the test's own; dropped, it is gone with who is in it.
struct Tree {
    folder: PathBuf,
    /// As nft wants it.
    path: String,
    children: Vec<Child>,
}

impl Tree {
    fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let name = format!("mwtest{}c{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let cgroup2 = words.find(|words| words.windows(2).any(|pair| pair == ["-", "cgroup2"]));
        let mount = cgroup2.expect("cgroup v2 is mounted")[4].to_owned();
        let folder = Path::new(&mount).join(&name);
        std::fs::create_dir(&folder).unwrap();
        let below = Path::new(&mount).strip_prefix("/sys/fs/cgroup").unwrap();
        Self { path: below.join(name).to_str().unwrap().to_owned(), folder, children: Vec::new() }
    }

    /// The program starts in it: sockets belong to the cgroup in which they were made.
    fn command(&self, script: &str, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let join = "echo $$ > \"$0\" && exec python3 -c \"$@\"";
        command.args(["-c", join]).arg(self.folder.join("cgroup.procs")).arg(script).args(args);
        command
    }

    /// An application in it that accepts and says so; its port.
    fn listen(&mut self, place: &Place) -> u16 {
        let script = "
import socket
listener = socket.create_server(('', 0))
print(listener.getsockname()[1], flush=True)
while True:
    listener.accept()[0].sendall(b'application')
";
        let mut command = self.command(script, &[]);
        let spawned = place.machine.enter(|| command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn());
        let mut child = spawned.unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.children.push(child);
        line.trim().parse().unwrap()
    }

    /// Asks a name server from this port and says what it is answered.
    fn asks(&self, place: &Place, server: IpAddr, from: u16) -> Output {
        let script = "
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(30)
client.bind(('', int(sys.argv[2])))
client.connect((sys.argv[1], 53))
client.send(b'question')
print(client.recv(16).decode())
";
        place.run(&mut self.command(script, &[&server.to_string(), &from.to_string()]))
    }

    /// A client in it.
    fn connects(&self, place: &Place, address: SocketAddr) -> Output {
        let script = "import socket, sys; socket.create_connection((sys.argv[1], sys.argv[2]), 30)";
        place.run(&mut self.command(script, &[&address.ip().to_string(), &address.port().to_string()]))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Err(error) = std::fs::remove_dir(&self.folder) {
            eprintln!("{} stays: {error}", self.folder.display());
        }
    }
}

fn captured(exempt: Exempt) -> Option<(Place, Tree)> {
    let place = Place::empty()?;
    let tree = Tree::new();
    capture(&place, &Plan { exempt, ..plan("meshwork_tree", &tree) });
    Some((place, tree))
}

fn plan(table: &str, tree: &Tree) -> Plan {
    Plan {
        table: table.parse().unwrap(),
        scope: Scope::Cgroup { path: tree.path.parse().unwrap(), level: 1 },
        exempt: Exempt::Mark(MARK),
        exclude_users: vec![],
        outbound: OUTBOUND_PORT,
        inbound: Some(INBOUND_PORT),
        dns: None,
        virtual_ranges: capture::virtual_ranges_default(),
        outgoing: Selection::default(),
        incoming: Selection { exclude_ports: vec![22], ..Selection::default() },
    }
}

fn capture(place: &Place, plan: &Plan) {
    let output = place.machine.enter(|| {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(capture::rules(plan).as_bytes()).unwrap();
        nft.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_tree_is_captured_and_nobody_else() {
    let Some((place, tree)) = captured(Exempt::Mark(MARK)) else { return };
    let [sidecar, _v6] = place.outbound();
    let server = Listener::bind(place.machine.near(), 0);
    let inside = tree.connects(&place, server.address());
    assert!(inside.status.success(), "{inside:?}");
    assert_eq!(sidecar.meant(), Some(server.address()));
    server.assert_nobody_came();
    place.connect(server.address()).unwrap();
    server.accept();
    drop(sidecar);
    // Nobody listens: refused, not in clear.
    assert!(!tree.connects(&place, server.address()).status.success());
    server.assert_nobody_came();
}

/// A port that one program asked from is another one's soon after, and the kernel still knows where the first one's
/// questions went.
#[test]
fn each_program_asks_its_own_sidecar_from_whatever_port() {
    let Some(place) = Place::empty() else { return };
    let [one, two] = [Tree::new(), Tree::new()];
    for (tree, table, dns) in [(&one, "meshwork_one", 15053), (&two, "meshwork_two", 15054)] {
        capture(&place, &Plan { inbound: None, dns: Some(dns), ..plan(table, tree) });
    }
    let sidecars = [(15053, 2), (15054, 1)].map(|(port, questions)| {
        let socket = place.machine.enter(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        std::thread::spawn(move || {
            for _ in 0..questions {
                let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
                socket.send_to(port.to_string().as_bytes(), from).unwrap();
            }
        })
    });
    let server = place.machine.near();
    let port = place.machine.enter(free_udp_port);
    for (tree, expect) in [(&one, "15053\n"), (&two, "15054\n"), (&one, "15053\n")] {
        let output = tree.asks(&place, server, port);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expect, "{output:?}");
    }
    for sidecar in sidecars {
        sidecar.join().unwrap();
    }
}

/// In the namespace in which it is called.
fn free_udp_port() -> u16 {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

/// Redirection in `prerouting` does not see what comes over loopback; the filter in `input` does.
#[test]
fn only_the_sidecar_and_the_tree_itself_reach_what_listens_there() {
    let Some((place, mut tree)) = captured(Exempt::Mark(MARK)) else { return };
    let port = tree.listen(&place);
    let own = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (place.machine.far(), port).into()];
    for address in own {
        // Another process of this machine, by loopback and by the machine's own address.
        assert_refused(&place.connect(address));
        assert_refused(&place.connect_marked(address, MARK + 1));
        place.connect_marked(address, MARK).unwrap();
    }
    let sibling = tree.connects(&place, own[0]);
    assert!(sibling.status.success(), "{sibling:?}");
    // Another machine is led to the sidecar, by whose cgroup the port is.
    assert_refused(&connect(own[1]));
    let [sidecar, _v6] = place.inbound();
    connect(own[1]).unwrap();
    assert_eq!(sidecar.meant(), Some(own[1]));
    // What others listen on is not its business.
    let other = place.listen(Ipv4Addr::UNSPECIFIED, 0);
    connect((place.machine.far(), other.address().port()).into()).unwrap();
    other.accept();
    place.connect((Ipv4Addr::LOCALHOST, other.address().port())).unwrap();
    other.accept();
}

#[test]
fn a_sidecar_that_is_known_by_its_user_reaches_what_listens_there() {
    let Some((place, mut tree)) = captured(Exempt::User(1337)) else { return };
    let port = tree.listen(&place).to_string();
    let connects = |uid: u32| {
        use std::os::unix::process::CommandExt as _;
        let script = "import socket, sys; socket.create_connection(('127.0.0.1', sys.argv[1]), 30)";
        let mut python = Command::new("python3");
        place.run(python.args(["-c", script, &port]).uid(uid).current_dir("/")).status.success()
    };
    assert!(connects(1337));
    assert!(!connects(1338));
    assert!(!connects(0));
}
