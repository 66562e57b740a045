//! A mesh with captured commands: on a plain host, which is a network namespace of the test's, or in a container beside it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use meshwork_testkit::Machine;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::load::application;
use crate::support::{Mesh, Run, free_port, meshwork, wait_for};

/// An address of the plain host that is not loopback.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// What a script may take, with all that it waits for.
const PATIENCE_SECONDS: &str = "120";

/// How commands are captured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// One process tree of a host.
    Cgroup,
    /// A container as a whole.
    Redirect,
}

/// Dropped, nothing of it is left.
pub(crate) struct Place {
    pub(crate) mesh: Mesh,
    site: Site,
}

enum Site {
    /// This thread is there, and so is what it starts.
    Host { _namespace: Namespace },
    /// Only captured commands are there.
    Container(Machine),
}

impl Place {
    /// `None`: there is no root here, and that was said.
    pub(crate) fn enter(way: Way) -> Option<Self> {
        let root = rustix::process::geteuid().is_root();
        assert!(root || std::env::var_os("CI").is_none(), "capturing needs root");
        if !root {
            println!("NOT CHECKED: capturing needs root");
            return None;
        }
        Self::made(way)
    }

    /// The same for a test that calls programs which not everybody has. In CI they must be there.
    pub(crate) fn enter_with(way: Way, programs: &[&str]) -> Option<Self> {
        let has = |program: &&&str| Command::new("which").arg(program).output().unwrap().status.success();
        if let Some(missing) = programs.iter().find(|program| !has(program)) {
            assert!(std::env::var_os("CI").is_none(), "{missing} is missing: `make tools` installs it");
            println!("NOT CHECKED: {missing} is missing: `make tools` installs it");
            return None;
        }
        Self::enter(way)
    }

    fn made(way: Way) -> Option<Self> {
        match way {
            Way::Cgroup => {
                let namespace = Namespace::enter();
                Some(Self { mesh: Mesh::start(), site: Site::Host { _namespace: namespace } })
            }
            Way::Redirect => {
                let machine = Machine::start()?;
                machine.enter(|| {
                    ip(&format!("route add default via {}", machine.near()));
                    ip("route add 224.0.0.0/4 dev lo");
                });
                Some(Self { mesh: Mesh::start_at(machine.near()), site: Site::Container(machine) })
            }
        }
    }

    /// An address of where captured commands are that is not loopback.
    pub(crate) fn host(&self) -> IpAddr {
        match &self.site {
            Site::Host { .. } => HOST.into(),
            Site::Container(machine) => machine.far(),
        }
    }

    /// Does this where captured commands are.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.site {
            Site::Host { .. } => work(),
            Site::Container(machine) => machine.enter(work),
        }
    }

    /// An application of this test's process behind the service `cart`, which says `ok`.
    pub(crate) fn cart(&self) -> Run {
        let cart = self.serve("cart", &format!("80:{}/http", application()), &["sleep", "1000"]);
        self.known("cart");
        cart
    }

    /// A program behind a service of its own.
    pub(crate) fn serve(&self, service: &str, port: &str, command: &[&str]) -> Run {
        let address = match &self.site {
            Site::Host { .. } => Ipv4Addr::LOCALHOST.into(),
            Site::Container(machine) => machine.near(),
        };
        let flags = ["--port", port, "--address", &address.to_string()];
        self.mesh.start_run(service, service, &flags, command.iter().copied())
    }

    /// Waits until the mesh knows that somebody answers as this service.
    pub(crate) fn known(&self, service: &str) {
        let instance = format!("{service}-");
        wait_for(&format!("{service} to be registered"), || {
            let workloads = self.mesh.operate(["get", "workloads"]).output().unwrap();
            String::from_utf8_lossy(&workloads.stdout).contains(&instance).then_some(())
        });
    }

    /// A Redis behind the service `redis`, that takes connections.
    pub(crate) fn redis(&self) -> Run {
        let port = free_port();
        let port_text = port.to_string();
        let server = [
            "redis-server",
            "--port",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--logfile",
            "/dev/null",
        ];
        let redis = self.serve("redis", &format!("6379:{port}"), &server);
        answers(port);
        self.known("redis");
        redis
    }

    /// A captured command of the service `web`, not started yet.
    pub(crate) fn captured(&self, name: &str, command: &[&str]) -> Command {
        self.captured_serving(name, &[], command)
    }

    /// The same of a service of its own, with more flags.
    pub(crate) fn captured_serving(&self, service: &str, flags: &[&str], command: &[&str]) -> Command {
        let capture = match &self.site {
            Site::Host { .. } => "--capture=cgroup",
            Site::Container(_) => "--capture=redirect",
        };
        let flags = [&[capture], flags].concat();
        let mut run = self.mesh.run(service, service, &flags, command.iter().copied());
        run.stdin(Stdio::null());
        run
    }

    /// A captured command that goes on; its sidecar is ready.
    pub(crate) fn started(&self, name: &str, run: &mut Command) -> Run {
        let mesh = &self.mesh;
        self.inside(|| mesh.started(name, run))
    }

    /// What a captured shell prints. Its script ends with an error if one of its commands does.
    #[track_caller]
    pub(crate) fn prints(&self, name: &str, script: &str) -> String {
        let script = format!("set -e; {script}");
        self.said(&mut self.captured(name, &["timeout", PATIENCE_SECONDS, "sh", "-c", &script]))
    }

    /// What a command says that was prepared before.
    #[track_caller]
    pub(crate) fn said(&self, run: &mut Command) -> String {
        said(&self.inside(|| run.output()).unwrap())
    }

    /// A part of `programs.py` with its arguments, captured.
    pub(crate) fn program(&self, name: &str, arguments: &[&str]) -> Command {
        self.captured(name, &[&["python3", PROGRAMS], arguments].concat())
    }
}

/// What no everyday program does of itself.
pub(crate) const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/everyday/programs.py");

#[track_caller]
pub(crate) fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The value of a counter, summed over the lines that have all of these parts.
pub(crate) fn counted(run: &Run, parts: &[&str]) -> u64 {
    let metrics = String::from_utf8(run.curl_admin("/metrics").stdout).unwrap();
    let lines = metrics.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// A port of `127.0.0.1` that answers.
pub(crate) fn answers(port: u16) {
    wait_for("the program to listen", || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
}

struct Namespace {
    name: String,
    home: File,
}

impl Namespace {
    fn enter() -> Self {
        static LAST: AtomicU8 = AtomicU8::new(0);
        let name = format!("mwe{}n{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        let namespace = Self { name, home: File::open("/proc/thread-self/ns/net").unwrap() };
        let there = File::open(format!("/run/netns/{}", namespace.name)).unwrap();
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        ip("link set lo up");
        ip(&format!("addr add {HOST}/32 dev lo"));
        ip("route add 224.0.0.0/4 dev lo");
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What a test left that failed. Where it fails itself, there is nothing more to be done.
        let _ = meshwork(["capture", "remove"]).output();
        let _ = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network));
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}
