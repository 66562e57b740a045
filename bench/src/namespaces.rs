//! Two network namespaces with a cable between them: the client and its proxy in one, the server and its in the other.
//!
//! Nothing binds in the host's own. A thread of ours moves into a namespace for as long as it has something to do
//! there; what it starts or opens meanwhile belongs there.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread;

use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::belongings;
use crate::failure::{Doing as _, Failure, Result, fail};

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);

const PREFIX: &str = "meshwork-bench";

pub(crate) struct Namespaces {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
}

impl Namespaces {
    pub(crate) fn make() -> Result<Self> {
        remove_stale();
        let own = std::process::id();
        let client = Namespace::make(&format!("{PREFIX}-{own}-client"))?;
        let server = Namespace::make(&format!("{PREFIX}-{own}-server"))?;
        ip(&format!("-n {} link add mesh0 type veth peer name mesh0 netns {}", client.name, server.name))?;
        for (namespace, address) in [(&client, CLIENT), (&server, SERVER)] {
            let name = &namespace.name;
            ip(&format!("-n {name} address add {address}/24 dev mesh0"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set mesh0 up"))?;
        }
        Ok(Self { client, server })
    }
}

pub(crate) struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    fn make(name: &str) -> Result<Self> {
        let mut belongings = belongings::lock();
        ip(&format!("netns add {name}"))?;
        belongings.namespaces.insert(name.to_owned());
        drop(belongings);
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).doing(|| format!("opening {path}"))?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// Does something on a thread inside of it.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.file.as_fd(), network)
                    .doing(|| format!("moving into the namespace {}; it needs root", self.name))?;
                act()
            });
            thread.join().unwrap_or_else(|_| fail(format!("a thread in {} panicked", self.name)))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let mut belongings = belongings::lock();
        if belongings.namespaces.remove(&self.name) {
            belongings::remove_namespace(&self.name);
        }
    }
}

/// Those of runs that were killed and could not clean up, with what still runs in them.
fn remove_stale() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some(id) = run_of(&name) else { continue };
        if fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.starts_with(PREFIX)) {
            continue;
        }
        println!("removing {name}, which a run that was killed has left");
        let inside = Command::new("ip").args(["netns", "pids", &name]).output();
        let inside = inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let ids = inside.unwrap_or_default();
        ids.lines().filter_map(|id| id.parse().ok()).for_each(|id| belongings::tell(id, Signal::KILL));
        belongings::remove_namespace(&name);
    }
}

/// The process that made a namespace with this name; `None`: not ours.
fn run_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.doing(|| "running ip (package iproute2)".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure(format!("`ip {arguments}` failed: {said}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_names_its_run() {
        assert_eq!(run_of("meshwork-bench-42-client"), Some(42));
        assert_eq!(run_of("meshwork-benchmark"), None);
        assert_eq!(run_of("other-42-client"), None);
    }
}
