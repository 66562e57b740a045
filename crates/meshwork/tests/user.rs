//! `meshwork run --user`: the command is somebody else than the sidecar, and still a child like any other. Needs root.

mod support;

use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};

use support::{Mesh, is_gone, wait_for};

/// On every machine, with no right to anything.
const USER: &str = "nobody";

/// Says so where this can't be checked.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "to become another user needs root");
    if !root {
        println!("NOT CHECKED: to become another user needs root");
    }
    root
}

/// A command as that user, to its end.
fn run_as(mesh: &Mesh, user: &str, name: &str, command: &[&str]) -> Output {
    mesh.run("job", name, &["--user", user], command.iter().copied()).output().unwrap()
}

/// The same for a supervisor that is in another group, too.
fn run_of_grouped(mesh: &Mesh, command: &[&str]) -> Output {
    let run = mesh.run("job", "grouped", &["--user", USER], command.iter().copied());
    let mut grouped = Command::new("setpriv");
    grouped.args(["--groups", "4", "--"]).arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => grouped.env(name, value),
            None => grouped.env_remove(name),
        };
    }
    grouped.output().unwrap()
}

/// What would outlive its supervisor, were it not for what is tested.
struct Stray(Pid);

impl Drop for Stray {
    fn drop(&mut self) {
        // Fails if it is gone, which is what is wanted.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// What a shell prints here for its own user.
fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_command_runs_as_the_user_with_that_users_groups_and_home() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::start();
    let told = "id -u; id -u -r; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL";
    let output = run_as(&mesh, USER, "job", &["sh", "-c", told]);
    let account = shell(&format!("getent passwd {USER}"));
    let account: Vec<&str> = account.trim().split(':').collect();
    let [name, _, uid, gid, _, home, login_shell] = account[..] else { panic!("{account:?}") };
    let groups = shell(&format!("id -G {USER}"));
    let expect = format!("{uid}\n{uid}\n{gid}\n{groups}{home} {name} {name} {login_shell}\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expect);
    let grouped = run_of_grouped(&mesh, &["id", "-G"]);
    assert_eq!(String::from_utf8(grouped.stdout).unwrap(), groups, "the supervisor's groups are not its");
    let by_number = run_as(&mesh, uid, "number", &["id", "-u"]);
    assert_eq!(String::from_utf8(by_number.stdout).unwrap(), format!("{uid}\n"));
}

#[test]
fn exit_codes_are_a_shells() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::start();
    let code = |name: &str, command: &[&str]| {
        let output = run_as(&mesh, USER, name, command);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(code("seven", &["sh", "-c", "exit 7"]).0, 7);
    assert_eq!(code("killed", &["sh", "-c", "kill -9 $$"]).0, 137);
    let (missing, error) = code("missing", &["no-such-program"]);
    assert_eq!(missing, 127);
    assert!(error.contains("cannot start no-such-program"), "{error}");
    // What that user may not even see.
    let hidden = mesh.path().join("hidden.sh").display().to_string();
    std::fs::write(&hidden, "#!/bin/sh\n").unwrap();
    assert_eq!(code("hidden", &[&hidden]).0, 126);
}

#[test]
fn an_unknown_user_ends_the_run_before_it_joins() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::start();
    let output = run_as(&mesh, "no-such-user", "job", &["true"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no user \"no-such-user\" on this machine"), "{error}");
    assert!(!mesh.state_dir("job").exists(), "it went on to join");
}

#[test]
fn the_command_starts_with_every_signal_as_it_is_for_any_program() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::start();
    let state = |output: Output| {
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ")).collect::<String>()
    };
    let command = ["cat", "/proc/self/status"];
    let as_user = state(run_as(&mesh, USER, "user", &command));
    assert!(as_user.contains("SigIgn"), "{as_user}");
    assert_eq!(as_user, state(mesh.run("job", "same", &[], command).output().unwrap()));
}

#[test]
fn a_killed_supervisor_takes_the_users_command_along() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::start();
    let mut web = mesh.start_run("web", "web", &["--user", USER], ["sleep", "infinity"]);
    let command = wait_for("the command", || {
        let pid = web.command()?;
        let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
        (name == "sleep\n").then_some(pid)
    });
    let _stray = Stray(command);
    web.process.signal(Signal::KILL);
    web.process.ended();
    wait_for("the command to be gone", || is_gone(command).then_some(()));
}
