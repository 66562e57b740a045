//! A real systemd, as process 1 of namespaces of its own, that runs the units of `deploy/systemd`. The root that it stands on
//! is `boot.sh`'s; its cgroups are below one of ours, and end with it.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::support::load::application;
use super::support::{Process, wait_for};
use super::units::units;

const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Where the control plane's unit keeps its state, and where operators find it.
const STATE: &str = "/var/lib/meshwork/control";

/// What a unit's main process may do: nothing that takes a capability.
const NO_CAPABILITY: &str = "0000000000000000";

/// A machine, as far as its services can tell.
struct Machine {
    /// Process 1, as seen from outside.
    systemd: u32,
    /// Ends process 1 when it ends itself.
    holder: Option<Process>,
    cgroup: PathBuf,
    _root: tempfile::TempDir,
}

impl Machine {
    /// `None`: it can't be made here, which was said.
    fn boot() -> Option<Self> {
        let version_2 = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let cgroups = version_2.into_iter().find(|dir| dir.join("cgroup.controllers").exists());
        let is_root = rustix::process::geteuid().is_root();
        let (true, true, Some(cgroups)) = (is_root, Path::new(SYSTEMD).exists(), cgroups) else {
            assert!(std::env::var_os("CI").is_none(), "a systemd takes root, {SYSTEMD} and cgroup v2");
            println!(
                "NOT CHECKED: to boot a systemd takes root, {SYSTEMD} (`make tools` installs it) and cgroup v2"
            );
            return None;
        };
        let cgroup = cgroups.join(format!("meshwork-test-{}-systemd", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let root = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/operations/boot.sh");
        // Into the cgroup first: the namespace of cgroups has for its root where its first process is.
        let join = "echo $$ > \"$0/cgroup.procs\" && exec unshare --cgroup --mount --pid --uts --ipc --net --fork --kill-child -- \"$@\"";
        let units = units(Path::new("/usr/local/bin/meshwork"));
        let mut command = Command::new("sh");
        command.args(["-c", join]).arg(&cgroup).arg("sh").arg(script).arg(root.path());
        command.arg(env!("CARGO_BIN_EXE_meshwork")).arg(units.path()).arg(SYSTEMD);
        // Of its own: a Ctrl-C is ours, and we end it.
        command.stdin(Stdio::null()).process_group(0);
        let mut machine = Self { systemd: 0, holder: None, cgroup, _root: root };
        let holder = machine.holder.insert(Process(command.spawn().unwrap()));
        machine.systemd = wait_for("systemd to be process 1", || {
            assert!(holder.0.try_wait().unwrap().is_none(), "the root for systemd could not be made");
            let pid = holder.0.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let child = children.trim().parse().ok()?;
            // Not before: until then commands in its namespaces would see this machine.
            let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name.trim() == "systemd").then_some(child)
        });
        wait_for("systemd to have booted", || {
            let state = machine.run(&["systemctl", "is-system-running"]);
            (String::from_utf8_lossy(&state.stdout).trim() == "running").then_some(())
        });
        Some(machine)
    }

    /// A command in it, as root.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let path = "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin";
        command.args(["-t", &self.systemd.to_string(), "-m", "-p", "-u", "-i", "-n", "-C"]);
        command.args(["env", "-i", path, "HOME=/root"]).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it printed.
    ///
    /// # Panics
    /// If it fails; with what the journal has.
    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        if !output.status.success() {
            let journal = self.run(&["journalctl", "--no-pager", "-o", "cat", "-n", "60"]);
            panic!("{args:?}: {output:?}\n{}", String::from_utf8_lossy(&journal.stdout));
        }
        String::from_utf8(output.stdout).unwrap()
    }

    /// An operator's command on it.
    #[track_caller]
    fn operate(&self, args: &[&str]) -> String {
        self.done(&[&["meshwork"], args, &["--state-dir", STATE]].concat())
    }

    #[track_caller]
    fn write(&self, path: &str, text: &str) {
        let path = format!("/proc/{}/root{path}", self.systemd);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[track_caller]
    fn property(&self, unit: &str, name: &str) -> String {
        self.done(&["systemctl", "show", "--value", "-p", name, unit]).trim().to_owned()
    }

    /// Kills a unit's processes, and waits until it is started again.
    #[track_caller]
    fn strike(&self, unit: &str, signal: &str) {
        let started = self.property(unit, "ExecMainStartTimestampMonotonic");
        self.done(&["systemctl", "kill", "--signal", signal, unit]);
        wait_for(&format!("{unit} to be started again after {signal}"), || {
            let is_anew = self.property(unit, "ExecMainStartTimestampMonotonic") != started;
            (is_anew && self.property(unit, "ActiveState") == "active").then_some(())
        });
    }

    /// The value of a line of a unit's main process's status (proc(5)).
    #[track_caller]
    fn of_process(&self, unit: &str, field: &str) -> String {
        let pid = self.property(unit, "MainPID");
        let status = self.done(&["cat", &format!("/proc/{pid}/status")]);
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.expect("proc(5) has it").trim().to_owned()
    }

    /// An application on a port of its loopback. It runs here.
    fn application(&self) -> u16 {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                // A listener stays in the namespace in which it was opened; this thread does not come back.
                let namespace = File::open(format!("/proc/{}/ns/net", self.systemd)).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                application()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With process 1 all others of its namespace are gone.
        drop(self.holder.take());
        wait_for("systemd's cgroups to be empty", || remove(&self.cgroup).ok());
    }
}

/// A cgroup with those below it.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

#[test]
fn a_real_systemd_runs_the_units() {
    let Some(machine) = Machine::boot() else { return };
    machine.write("/etc/meshwork/control.env", "MESHWORK_NAME=127.0.0.1\n");
    starts_with_no_capability(&machine);
    sidecars_carry(&machine);
    what_is_captured_is_carried(&machine);
    nobody_notices_a_restart(&machine);
    what_dies_is_started_again(&machine);
}

#[track_caller]
fn starts_with_no_capability(machine: &Machine) {
    let control = "meshwork-control.service";
    let sockets = ["meshwork-control.socket", "meshwork-control-operators.socket"];
    machine.done(&["systemctl", "enable", "--now", sockets[0], sockets[1], control]);
    assert!(machine.property(control, "StatusText").starts_with("sidecars join at "));
    for (field, value) in
        [("CapBnd", NO_CAPABILITY), ("CapEff", NO_CAPABILITY), ("NoNewPrivs", "1"), ("Seccomp", "2")]
    {
        assert_eq!(machine.of_process(control, field), value, "{field}");
    }
    assert!(machine.of_process(control, "Uid").starts_with("990\t"));
    assert_eq!(machine.done(&["stat", "-c", "%U %a", STATE]), "meshwork 700\n");
    let socket = format!("{STATE}/operator.sock");
    assert_eq!(machine.done(&["stat", "-c", "%U %a %F", &socket]), "meshwork 600 socket\n");
    assert!(machine.operate(&["status"]).contains("no services"));
}

#[track_caller]
fn sidecars_carry(machine: &Machine) {
    let port = machine.application();
    for (service, settings) in [
        (
            "cart",
            format!(
                "MESHWORK_PORT=80:{port}/http\nMESHWORK_OUTBOUND_HTTP=127.0.0.1:4240\nMESHWORK_ADMIN=127.0.0.1:4291\n"
            ),
        ),
        ("web", "MESHWORK_OUTBOUND_HTTP=127.0.0.1:4140\nMESHWORK_ADMIN=127.0.0.1:4191\n".to_owned()),
    ] {
        machine.write(
            &format!("/etc/meshwork/{service}.token"),
            &machine.operate(&["token", "create", "--service", service]),
        );
        machine.write(&format!("/etc/meshwork/{service}.env"), &settings);
        let unit = format!("meshwork-proxy@{service}.service");
        machine.done(&["systemctl", "start", &unit]);
        assert_eq!(machine.property(&unit, "StatusText"), "the sidecar is ready");
        assert_eq!(machine.of_process(&unit, "CapBnd"), NO_CAPABILITY);
        assert_ne!(machine.of_process(&unit, "Uid").split('\t').next(), Some("0"));
    }
    carries(machine);
}

/// `web` reaches `cart`, once that is known to be well.
#[track_caller]
fn carries(machine: &Machine) {
    wait_for("web to reach cart", || {
        let curl =
            ["curl", "-sS", "--fail", "--max-time", "20", "--proxy", "http://127.0.0.1:4140", "http://cart/"];
        machine.run(&curl).status.success().then_some(())
    });
}

/// `meshwork-run@`: a program that knows of no mesh, as a user of its own.
#[track_caller]
fn what_is_captured_is_carried(machine: &Machine) {
    let program = "#!/bin/sh\nuntil curl -sS --fail --max-time 20 -o /srv/answer http://cart/; do sleep 0.1; done\n\
                   id -un > /srv/user; exec sleep infinity\n";
    machine.write("/srv/shop.sh", program);
    machine.done(&["chown", "shop", "/srv"]);
    machine.write("/etc/meshwork/shop.env", "COMMAND=/bin/sh /srv/shop.sh\nMESHWORK_ADMIN=127.0.0.1:4391\n");
    machine.write("/etc/meshwork/shop.token", &machine.operate(&["token", "create", "--service", "shop"]));
    let unit = "meshwork-run@shop.service";
    machine.done(&["systemctl", "start", unit]);
    wait_for("the captured program to have reached cart", || {
        machine.run(&["test", "-s", "/srv/user"]).status.success().then_some(())
    });
    assert_eq!(machine.done(&["cat", "/srv/user"]), "shop\n");
    assert_eq!(machine.done(&["cat", "/srv/answer"]), "ok");
    machine.done(&["systemctl", "stop", unit]);
    assert_eq!(machine.property(unit, "Result"), "success");
}

/// Restarts of the control plane while operators write, from here and over TLS.
#[track_caller]
fn nobody_notices_a_restart(machine: &Machine) {
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _at_the_end = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                machine.operate(&["get", "services"]);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                machine.done(&[
                    "curl",
                    "-sSk",
                    "--fail",
                    "--max-time",
                    "60",
                    "https://127.0.0.1:4190/healthz",
                ]);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..5 {
            let before = done.load(Ordering::Relaxed);
            machine.done(&["systemctl", "restart", "meshwork-control.service"]);
            wait_for("answers after a restart", || {
                assert!(!over.load(Ordering::Relaxed));
                (done.load(Ordering::Relaxed) >= before + 4).then_some(())
            });
        }
    });
    println!("{} requests during 5 restarts, none lost", done.into_inner());
    carries(machine);
}

/// Set also when an assertion fails, or the others would never end.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[track_caller]
fn what_dies_is_started_again(machine: &Machine) {
    let (control, cart) = ("meshwork-control.service", "meshwork-proxy@cart.service");
    machine.strike(cart, "KILL");
    // Quicker than they are shipped, to be seen sooner: how long systemd waits is systemd's.
    let quick = "[Service]\nRestartSec=50ms\nWatchdogSec=1s\nTimeoutAbortSec=1s\n";
    machine.write(&format!("/etc/systemd/system/{control}.d/quick.conf"), quick);
    machine.done(&["systemctl", "daemon-reload"]);
    machine.done(&["systemctl", "restart", control]);
    // More often than systemd bears of a unit that does not say otherwise.
    for _ in 0..6 {
        machine.strike(control, "KILL");
        // In the socket's queue if need be, until the next one is there.
        assert!(machine.operate(&["status"]).contains("mesh "));
    }
    // It lives but does nothing: the watchdog ends it.
    machine.strike(control, "STOP");
    assert!(machine.operate(&["status"]).contains("mesh "));
    carries(machine);
}
