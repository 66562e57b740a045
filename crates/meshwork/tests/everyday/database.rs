//! MariaDB and its client: a server that speaks first, whose greeting nobody shall wait for.

use std::process::{Command, Stdio};

use crate::place::{Place, Way, answers, said};
use crate::support::{Process, Run, free_port};

const PROGRAMS: &[&str] = &["mariadbd", "mariadb"];

/// Connections each way; they alternate, so that a machine that is busy is so for both.
const ROUNDS: usize = 200;

/// What the mesh may add to a greeting: half of what it takes directly, and this.
const ADDED_MAX_MS: f64 = 3.0;

/// A server with a new database, and its port.
fn server(place: &Place) -> (Process, u16) {
    let (port, dir) = (free_port(), place.mesh.path().join("database"));
    let data = format!("--datadir={}", dir.join("data").display());
    std::fs::create_dir(&dir).unwrap();
    let mut install = Command::new("mariadb-install-db");
    install.args([
        "--no-defaults",
        &data,
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--user=root",
    ]);
    // A server that starts removes what others have in its temporary directory.
    said(&install.env("TMPDIR", &dir).output().unwrap());
    let mut server = Command::new("mariadbd");
    server.args(["--no-defaults", &data, "--user=root", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
    server.arg(format!("--port={port}")).arg(format!("--socket={}", dir.join("socket").display()));
    // Greetings alone, of which it would soon have enough; and small, so that it starts quickly.
    server.args(["--max-connect-errors=1000000", "--innodb-buffer-pool-size=8M", "--skip-log-bin"]);
    let process =
        Process(server.env("TMPDIR", &dir).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    answers(port);
    (process, port)
}

#[test]
fn mariadb_and_its_client_work_on_a_host_and_its_greeting_is_not_waited_for() {
    let Some(place) = Place::enter_with(Way::Cgroup, PROGRAMS) else { return };
    let (_server, port) = server(&place);
    let _db = used_by_its_client(&place, port);

    let greetings = place
        .program("web", &["greetings", "db:3306", &format!("127.0.0.1:{port}"), &ROUNDS.to_string()])
        .output();
    let told = said(&greetings.unwrap());
    println!(
        "greetings in ms (first by the mesh, then the least and the median by the mesh and directly): {told}"
    );
    let times: Vec<f64> = told.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [first, meshed, _, direct, _] = times[..] else { panic!("{told}") };
    assert!(first >= 50.0, "nobody can know yet that the server speaks first");
    // All go the same way, so that the least of them says what the way takes, whatever else the machine does.
    assert!(meshed <= 1.5 * direct + ADDED_MAX_MS, "{told}");
}

#[test]
fn mariadb_and_its_client_work_in_a_container() {
    let Some(place) = Place::enter_with(Way::Redirect, PROGRAMS) else { return };
    let (_server, port) = server(&place);
    used_by_its_client(&place, port);
}

/// The sidecar of the server.
#[track_caller]
fn used_by_its_client(place: &Place, port: u16) -> Run {
    let db = place.serve("db", &format!("3306:{port}"), &["sleep", "1000"]);
    place.known("db");
    let said_by_client = place.prints(
        "web",
        "sql() { mariadb --no-defaults --connect-timeout=20 -h db -u root -N -e \"$1\"; }
         until sql 'select 1' > /dev/null 2>&1; do sleep 0.05; done
         sql 'create database shop; create table shop.items (name text)'
         sql \"insert into shop.items values ('apple'), ('pear')\"
         sql 'select count(*) from shop.items'",
    );
    assert_eq!(said_by_client, "2\n");
    db
}
