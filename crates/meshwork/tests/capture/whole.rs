//! A mesh around a captured namespace: programs that know nothing of it, there and elsewhere, reach each other by their
//! sidecars.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Command, Stdio};

use crate::place::Place;
use crate::support::load::application;
use crate::support::{Mesh, Process, wait_for};

/// Of the application in the namespace.
const PORT: &str = "8080";

/// Nothing else runs as this user.
const USER: u32 = 1337;

/// What curl says of a connection that is refused.
const CONNECT_FAILED: i32 = 7;

/// How the rules know the sidecar.
#[derive(Clone, Copy, Debug)]
enum Known {
    ByMark,
    ByUser,
}

/// `meshwork capture apply && exec meshwork proxy …`, as a container starts; the sidecar is ready.
fn sidecar(place: &Place, mesh: &Mesh, known: Known) -> Process {
    let state_dir = mesh.state_dir("web");
    std::fs::create_dir(&state_dir).unwrap();
    let user = USER.to_string();
    let mut command = Command::new("setpriv");
    match known {
        Known::ByMark => place.apply(&[]),
        Known::ByUser => {
            place.apply(&["--proxy-user", &user]);
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
        "--port",
        &format!("80:{PORT}"),
        "--state-dir",
    ]);
    shell.arg(&state_dir).env("MESHWORK_TOKEN", mesh.token("web")).stdin(Stdio::null());
    let process = Process(place.machine.enter(|| shell.current_dir("/").spawn()).unwrap());
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
