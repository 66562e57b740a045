//! Real clients: dig, and the C library by way of getent and Python, which read `resolv.conf` and know only port 53.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Output;

use hickory_proto::rr::RecordType;
use tokio::process::Command;

use crate::resolver::{Resolver, answer};
use crate::support::{Names, PATIENCE, address};

fn resolver() -> Resolver {
    Resolver::start(|query, _| {
        let mut answer = answer(query);
        let asked = &query.queries[0];
        if asked.query_type == RecordType::A {
            answer.add_answer(address(&asked.name.clone(), 60, 7));
        }
        vec![answer]
    })
}

/// `None` if it is not on this machine.
async fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(arguments).kill_on_drop(true).output();
    match tokio::time::timeout(PATIENCE, output).await.expect("it does not end") {
        Ok(output) => Some(output),
        Err(error) => {
            skip(&format!("{program} cannot be run ({error})"));
            None
        }
    }
}

fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}, and CI must not skip");
    eprintln!("SKIPPED: {why}");
}

#[tokio::test]
async fn dig_is_content() {
    let resolver = resolver();
    let names = Names::start(&[resolver.address]);
    let port = names.address.port().to_string();
    for (question, expect) in [
        (&["+short", "cart", "A"][..], "240.0.0.1\n"),
        (&["+short", "+tcp", "cart.default", "A"], "240.0.0.1\n"),
        (&["+short", "+noedns", "cart.default.mesh.", "A"], "240.0.0.1\n"),
        (&["+short", "_http._tcp.cart.default.mesh", "SRV"], "0 0 80 cart.default.mesh.\n"),
        (&["+short", "-x", "240.0.0.1"], "cart.default.mesh.\n"),
        (&["+short", "cart", "ANY"], "240.0.0.1\n"),
        (&["pay.default.mesh", "A"], "status: NXDOMAIN"),
        (&["pay.default.mesh", "A"], "mesh.\t\t\t5\tIN\tSOA\tns.mesh. hostmaster.mesh. 1 3600 600 86400 5"),
        (&["cart", "HTTPS"], "status: NOERROR"),
        (&["+edns=1", "+noednsneg", "cart", "A"], "status: BADVERS"),
        (&["+noedns", "+opcode=update", "cart", "A"], "status: NOTIMP"),
        (&["-c", "CH", "version.bind", "TXT"], "status: REFUSED"),
        (&["cart", "AXFR"], "Transfer failed."),
        (&["+short", "www.example.com", "A"], "192.0.2.7\n"),
        (&["+short", "+tcp", "+dnssec", "www.example.com", "A"], "192.0.2.7\n"),
        (&["+short", "+subnet=192.0.2.0/24", "+cookie", "www.example.com", "A"], "192.0.2.7\n"),
    ] {
        let mut arguments = vec!["@127.0.0.1", "-p", &port, "+tries=5", "+time=10"];
        arguments.extend_from_slice(question);
        let Some(output) = run("dig", &arguments).await else { return };
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains(expect), "dig {question:?} says {told}");
        assert!(!told.contains("WARNING") && !told.contains("Warning"), "dig {question:?} says {told}");
    }
}

/// An address of loopback on which port 53 is free.
fn address_with_port_53() -> Option<Ipv4Addr> {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 77, high, low.clamp(1, 254));
    match UdpSocket::bind((address, 53)) {
        Ok(_) => Some(address),
        Err(error) => {
            skip(&format!("port 53 of {address} cannot be used ({error})"));
            None
        }
    }
}

#[tokio::test]
async fn the_c_library_finds_services_by_every_name() {
    let Some(address) = address_with_port_53() else { return };
    let resolver = resolver();
    let names = Names::on(address, 53, &[resolver.address]);
    let directory = tempfile::TempDir::new().unwrap();
    let resolv_conf = directory.path().join("resolv.conf");
    let text =
        format!("search default.mesh mesh\nnameserver {address}\noptions ndots:2 timeout:30 attempts:3\n");
    std::fs::write(&resolv_conf, text).unwrap();
    let file = resolv_conf.to_str().unwrap();
    let python = "import socket, sys\n\
        try: print(*sorted({found[4][0] for found in socket.getaddrinfo(sys.argv[1], 80)}))\n\
        except socket.gaierror: print(\"none\")";
    for (name, expect) in [
        ("cart", "240.0.0.1"),
        ("cart.default", "240.0.0.1"),
        ("cart.default.mesh", "240.0.0.1"),
        ("pay.default.mesh", "none"),
        ("www.example.com", "192.0.2.7"),
    ] {
        // A mount of its own, which ends with the process: this host's file stays as it is.
        let script = "mount --bind \"$1\" /etc/resolv.conf && exec python3 -c \"$2\" \"$3\"";
        let arguments = ["--mount", "sh", "-c", script, "sh", file, python, name];
        let Some(output) = run("unshare", &arguments).await else { return };
        let complaint = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && complaint.contains("unshare") {
            return skip(&format!("no mount namespace can be made ({complaint})"));
        }
        let told = String::from_utf8_lossy(&output.stdout);
        let found: Vec<&str> = told.split_whitespace().filter(|address| !address.contains(':')).collect();
        assert_eq!(found, [expect], "{name}: {told} {complaint}");
    }
    let script = "mount --bind \"$1\" /etc/resolv.conf && exec getent hosts 240.0.0.1";
    let Some(output) = run("unshare", &["--mount", "sh", "-c", script, "sh", file]).await else { return };
    assert!(String::from_utf8_lossy(&output.stdout).contains("cart.default.mesh"), "{output:?}");
    drop(names);
}
