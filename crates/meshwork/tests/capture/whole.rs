//! A mesh around a captured namespace: programs that know nothing of it, there and elsewhere, reach each other by their
//! sidecars.

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use meshwork_core::dns::{Received, receive};
use meshwork_core::names::Kind;
use meshwork_identity::JoinToken;
use rustix::process::Signal;

use crate::place::Place;
use crate::support::load::application;
use crate::support::{Mesh, Process, wait_for};

/// Of the application in the namespace.
const PORT: &str = "8080";

/// Nothing else runs as this user.
const USER: u32 = 1337;

/// What curl says of a connection that is refused.
const CONNECT_FAILED: i32 = 7;

/// How the rules know the sidecar, and what it is.
#[derive(Clone, Copy, Debug)]
enum Known {
    ByMark,
    ByUser,
    /// By a mark that it may not set.
    Unmarkable,
    /// As another user than it is.
    OtherUser,
}

/// `meshwork capture apply && exec meshwork proxy …`, as a container starts; the sidecar is ready.
fn sidecar(place: &Place, mesh: &Mesh, known: Known) -> Process {
    started(place, proxy(place, mesh, known, &mesh.token("web")))
}

/// The same, not started yet, and with that token.
fn proxy(place: &Place, mesh: &Mesh, known: Known, token: &str) -> Command {
    let state_dir = mesh.state_dir("web");
    std::fs::create_dir(&state_dir).unwrap();
    let user = USER.to_string();
    let mut command = Command::new("setpriv");
    match known {
        Known::ByMark | Known::Unmarkable => place.apply(&[]),
        Known::ByUser | Known::OtherUser => place.apply(&["--proxy-user", &user]),
    }
    match known {
        Known::ByMark | Known::OtherUser => {}
        Known::ByUser | Known::Unmarkable => {
            // Without any capability, and on a way on which everybody may go.
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
            std::fs::set_permissions(mesh.path(), Permissions::from_mode(0o711)).unwrap();
            chown(&state_dir, Some(USER), Some(USER)).unwrap();
        }
    }
    // By a descriptor: that user need not have a way to the binary either.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 9< \"$0\" && exec \"$@\"", env!("CARGO_BIN_EXE_meshwork")]);
    shell.arg(command.get_program()).args(command.get_args()).arg("/proc/self/fd/9");
    shell.args([
        "proxy",
        "--service=web",
        "--capture=redirect",
        "--wait=40s",
        "--port",
        &format!("80:{PORT}"),
        "--state-dir",
    ]);
    shell.arg(&state_dir).env("MESHWORK_TOKEN", token).stdin(Stdio::null()).current_dir("/");
    shell
}

fn started(place: &Place, mut shell: Command) -> Process {
    let process = Process(place.machine.enter(|| shell.spawn()).unwrap());
    wait_for("the sidecar to be ready", || {
        let ready = place.run(Command::new("curl").args(["-sf", "http://127.0.0.1:4191/ready"]));
        ready.status.success().then_some(())
    });
    process
}

fn both_ways(known: Known) {
    let Some(place) = Place::empty() else { return };
    let near = place.machine.near();
    place.prints("ip", &format!("route add default via {near}"));
    let mesh = Mesh::start_at(near);
    let serves = format!("80:{}", application());
    let cart = mesh.start_run(
        "cart",
        "cart",
        &["--port", &serves, "--address", &near.to_string()],
        ["sleep", "1000"],
    );
    let mut python = Command::new("python3");
    let pages = mesh.path().join("pages");
    std::fs::create_dir(&pages).unwrap();
    python.args(["-m", "http.server", PORT, "--bind", "127.0.0.1"]).current_dir(pages);
    python.stdout(Stdio::null()).stderr(Stdio::null());
    let _application = Process(place.machine.enter(|| python.spawn()).unwrap());
    let sidecar = sidecar(&place, &mesh, known);

    // From a program there that was told nothing: by its name, and by the name in its request, whatever the address.
    let curl = |flags: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--noproxy", "*", "--max-time", "20"]).args(flags).arg("http://cart/");
        place.run(&mut curl)
    };
    for (flags, how) in [(&[][..], "address"), (&["--resolve", "cart:80:192.0.2.7"], "http")] {
        let answer = wait_for("cart's answer", || Some(curl(flags)).filter(|output| output.status.success()));
        assert_eq!(answer.stdout, b"ok", "{known:?}");
        let metrics = place.prints("curl", "-sS http://127.0.0.1:4191/metrics");
        let mut captured = metrics.lines().filter(|line| line.contains("meshwork_captured_connections"));
        let counted = captured.any(|line| line.contains(&format!("\"{how}\"")) && !line.ends_with(" 0"));
        assert!(counted, "{how}: {metrics}");
    }

    // To the application there: by the mesh, whose sidecar the rules lead to its own socket; and in no other way.
    assert!(cart.eventually("http://web/").contains("Directory listing"), "{known:?}");
    let mut plain = Command::new("curl");
    let url = format!("http://{}:{PORT}/", place.machine.far());
    let refused = plain.args(["-sS", "--noproxy", "*", "--max-time", "20", &url]).output().unwrap();
    assert!(!String::from_utf8_lossy(&refused.stdout).contains("Directory listing"), "{refused:?}");

    // Without its sidecar it reaches nobody: not in clear either.
    drop(sidecar);
    let alone = curl(&["--resolve", "cart:80:192.0.2.7"]);
    assert_eq!(alone.status.code(), Some(CONNECT_FAILED), "{alone:?}");
}

#[test]
fn a_captured_program_and_the_mesh_reach_each_other_by_a_marked_sidecar() {
    both_ways(Known::ByMark);
}

/// The case of an init container: rules that somebody else has applied, a sidecar that holds no capability.
#[test]
fn a_captured_program_and_the_mesh_reach_each_other_by_a_sidecar_without_capabilities() {
    both_ways(Known::ByUser);
}

/// It would call itself by each connection that it opens, and by each of those again.
#[test]
fn a_sidecar_that_the_rules_do_not_let_pass_says_so_and_does_not_start() {
    let Some(place) = Place::empty() else { return };
    let mesh = Mesh::start_at(place.machine.near());
    for (known, cure) in [
        (Known::Unmarkable, "Give it the capability NET_ADMIN"),
        (Known::OtherUser, "apply the rules without --proxy-user"),
    ] {
        let output = place.run(&mut proxy(&place, &mesh, known, &mesh.token("web")));
        assert_eq!(output.status.code(), Some(1), "{known:?}: {output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("lead the sidecar's own connections back to itself"), "{known:?}: {error}");
        assert!(error.contains(cure), "{known:?}: {error}");
        std::fs::remove_dir_all(mesh.state_dir("web")).unwrap();
    }
}

/// Its name is looked up before anybody serves what is led to the port of names.
#[test]
fn a_control_plane_with_a_name_is_found_by_a_sidecar_behind_rules() {
    let Some(place) = Place::empty() else { return };
    let near = place.machine.near();
    let mesh = Mesh::start_at(near);
    let files = mesh.path().join("resolver");
    std::fs::write(&files, "search example\nnameserver 127.0.0.53\n").unwrap();
    let IpAddr::V4(address) = near else { panic!("{near}") };
    let asked = resolver(&place, address);
    let mut token: JoinToken = mesh.token("web").parse().unwrap();
    token.address = format!("control:{}", mesh.port);
    let mut shell = proxy(&place, &mesh, Known::ByMark, &token.to_string());
    let _sidecar = started(&place, {
        shell.env("MESHWORK_RESOLV_CONF", &files);
        shell
    });
    assert!(asked.lock().unwrap().iter().any(|name| name == "control.example"), "{asked:?}");
    let led = || -> u64 {
        let metrics = place.prints("curl", "-sS http://127.0.0.1:4191/metrics");
        let counts = metrics.lines().filter(|line| line.starts_with("meshwork_dns_queries_total"));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    assert_eq!(led(), 0, "the sidecar's own questions came to itself");
    // What an application there asks is led to it, and it asks the same resolver.
    let found = place.prints("dig", "+short +tries=5 @127.0.0.1 control.example A");
    assert_eq!(found.trim(), address.to_string());
    assert!(led() > 0);
}

/// The rules of a run that was killed lead every question to where nobody answers: not those of the next one.
#[test]
fn a_control_plane_with_a_name_is_found_by_a_run_and_by_the_next_after_it_was_killed() {
    let Some(place) = Place::empty() else { return };
    let near = place.machine.near();
    let mesh = Mesh::start_at(near);
    let files = mesh.path().join("resolver");
    std::fs::write(&files, "nameserver 127.0.0.53\n").unwrap();
    let IpAddr::V4(address) = near else { panic!("{near}") };
    let _asked = resolver(&place, address);
    let mut token: JoinToken = mesh.token("web").parse().unwrap();
    token.address = format!("control.example:{}", mesh.port);
    let run = |name: &str, command: &[&str]| {
        let mut run = mesh.run("web", name, &["--capture=redirect", "--wait=40s"], command.iter().copied());
        run.env("MESHWORK_TOKEN", token.to_string()).env("MESHWORK_RESOLV_CONF", &files).stdin(Stdio::null());
        run
    };
    let marker = mesh.path().join("started");
    let script = format!("touch {}; exec sleep infinity", marker.display());
    let mut first = run("first", &["sh", "-c", &script]);
    let mut first = Process(place.machine.enter(|| first.spawn()).unwrap());
    wait_for("the command", || marker.exists().then_some(()));
    first.signal(Signal::KILL);
    first.ended();
    let output = place.run(&mut run("second", &["true"]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// The resolver of the namespace, on its own loopback: `control.example` has that address, and nothing else is there. What it
/// was asked for.
fn resolver(place: &Place, address: Ipv4Addr) -> Arc<Mutex<Vec<String>>> {
    let socket = place.machine.enter(|| UdpSocket::bind("127.0.0.53:53").unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let names = asked.clone();
    // It ends with the test's process.
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let Received::Query(read) = receive(&query[..length]) else { continue };
            names.lock().unwrap().push(read.name());
            // Without what follows the question.
            let mut answer = query[..12 + read.name().len() + 2 + 4].to_vec();
            answer[2] |= 0x80;
            answer[6..12].fill(0);
            match (&*read.name(), read.kind()) {
                ("control.example", Kind::A) => {
                    answer[7] = 1;
                    answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04");
                    answer.extend(address.octets());
                }
                ("control.example", _) => {}
                _ => answer[3] |= 3,
            }
            let _ = socket.send_to(&answer, client);
        }
    });
    asked
}
