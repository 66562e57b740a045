//! Three hosts, four services, programs as they come with a distribution: none of them has a setting for a proxy, all work by
//! the services' names, and between the hosts there is TLS only.

use std::path::Path;
use std::process::Stdio;

use meshwork_testkit::hosts::{Host, Hosts, Left};

use crate::grpc::{self, PEER};
use crate::mesh::{MARKER, Mesh, shell};

/// Each program is asked so often.
const ROUNDS: usize = 8;

#[test]
fn four_services_on_three_hosts_are_used_by_programs_that_know_nothing_of_it() {
    let Some(hosts) = Hosts::start() else { return };
    let Some(python) = grpc::python() else { return };
    let [here, there, beyond] = ["here", "there", "beyond"].map(|name| hosts.add(name));
    let before = [&here, &there, &beyond].map(Host::left);
    let mesh = Mesh::start(&hosts, &here);
    let recorder = hosts.record();
    let data = hosts.path().join("data");
    make_database(&beyond, &data);
    let data = format!("--datadir={}", data.display());
    let peer = hosts.path().join("peer.py");
    std::fs::write(&peer, PEER).unwrap();
    let (python, peer) = (python.to_str().unwrap(), peer.to_str().unwrap());

    let redis = ["redis-server", "--save", "", "--bind", "127.0.0.1"];
    let database = [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        "--skip-grant-tables",
        "--socket=/run/db.sock",
        "--tmpdir=/run",
        "--bind-address=127.0.0.1",
        &data,
    ];
    let mut runs = vec![
        mesh.page(&there, "page", "page"),
        mesh.run(&there, "cache", "cache", &["--port", "6379"], &redis),
        mesh.run(&beyond, "db", "db", &["--port", "3306"], &database),
        mesh.run(&beyond, "echo", "echo", &["--port", "50051"], &[python, peer, "serve"]),
    ];
    let load = mesh.load(&here, "page");

    // Each until it answers for the first time, as the service may not be there yet; from then on always.
    let asked = [
        format!("curl -sS --fail -m 20 -H 'x-marker: {MARKER}' http://page/"),
        format!("redis-cli -h cache set k {MARKER} && redis-cli -h cache get k"),
        format!("mariadb --no-defaults --skip-ssl -h db -e \"select '{MARKER}'\""),
        format!("{python} {peer} ask echo:50051 {MARKER}"),
    ];
    let each = asked.iter().map(|ask| {
        format!("until {{ {ask}; }} > /run/answer; do sleep 0.1; done\nfor i in $(seq {ROUNDS}); do {{ {ask}; }} > /run/answer && grep -q {MARKER} /run/answer && echo good; done\n")
    });
    let script = format!("{}exit 0", each.collect::<String>());
    let shop = mesh.shop(&here, &script);
    assert_eq!(shop.matches("good\n").count(), 4 * ROUNDS, "{shop}");
    load.assert_all_good(10);
    let recorded = recorder.stop(&here, &there);
    assert!(!recorded.contains(MARKER.as_bytes()), "the marker was seen");
    // Names that are not the mesh's are asked of the host's resolver, as they would be without a mesh.
    let clear: Vec<_> =
        recorded.not_tls().into_iter().filter(|what| !what.ends_with("to 10.77.0.254 port 53")).collect();
    assert_eq!(clear, [] as [String; 0]);
    assert!(recorded.tls_streams() > 4 * 2, "{} streams", recorded.tls_streams());

    runs.push(load.run);
    for run in &mut runs {
        run.end();
    }
    drop(mesh);
    for (host, before) in [&here, &there, &beyond].into_iter().zip(before) {
        let Left { nftables, routes, mounts, cgroups, processes } = host.left();
        assert_eq!(before.nftables, nftables);
        assert_eq!(before.routes, routes);
        assert_eq!(before.mounts, mounts);
        assert_eq!((before.cgroups, before.processes), (cgroups, processes));
    }
}

/// A server that starts removes what others have in its temporary directory: the host has one of its own.
fn make_database(host: &Host, data: &Path) {
    let script = format!(
        "TMPDIR=/run mariadb-install-db --no-defaults --user=root --skip-test-db --auth-root-authentication-method=normal --datadir={}",
        data.display()
    );
    let mut made = host.command(&shell(&script));
    let made = made.stdin(Stdio::null()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}
