//! Hosts without what others have, and what was there before: each call arrives, none in clear.

use std::process::Command;

use super::stage::{MARKER, PORT, Stage, calls_end, stop};
use crate::support::wait_for;

#[test]
fn hosts_without_a_default_route_or_ipv6_are_captured_as_any_other() {
    let Some(stage) = Stage::start() else { return };
    stage.web.runs("ip", &["route", "del", "default"]);
    if stage.web.ip_v6().is_some() {
        stage.web.runs("ip", &["-6", "route", "del", "default"]);
        stage.cart.runs("sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
    }
    let before = stage.left();
    let (cart, web) = (stage.run_cart(), stage.run_web());
    calls_end(&web, "yes", 3);
    stop(web);
    stop(cart);
    stage.is_left_as(&before);
    stage.nothing_was_in_clear();
}

/// Rules keep a cgroup's number, not its name; what is below it is of it, however often it is made.
#[test]
fn cgroups_that_a_command_makes_again_are_captured_each_time() {
    let Some(stage) = Stage::start() else { return };
    let before = stage.left();
    let cart = stage.run_cart();
    let script = format!(
        "own=$(find {0} -name 'meshwork_*' -type d)
         for round in 1 2 3; do
             mkdir $own/inner || exit 1
             for try in $(seq 100); do
                 sh -c \"echo 0 > $own/inner/cgroup.procs && exec curl -sS --fail -m 20 http://cart/{MARKER}\" && break
                 sleep 0.05
             done
             for try in $(seq 500); do rmdir $own/inner 2> /dev/null && break; sleep 0.02; done
         done",
        stage.web.cgroup().display()
    );
    // And another run after it, whose cgroup is a new one, too.
    for _ in 0..2 {
        assert_eq!(stage.web_runs(&script), MARKER.repeat(3));
    }
    stop(cart);
    stage.is_left_as(&before);
    stage.nothing_was_in_clear();
}

/// HTTP/3 clients fall back at once where nobody answers datagrams.
#[test]
fn datagrams_to_a_services_virtual_address_are_refused_at_once() {
    let Some(stage) = Stage::start() else { return };
    let cart = stage.run_cart();
    let script = format!(
        "import socket, time, urllib.request
for _ in range(200):
    try:
        urllib.request.urlopen('http://cart/{MARKER}', timeout=20).read()
        break
    except Exception:
        time.sleep(0.05)
for family, _, _, _, address in socket.getaddrinfo('cart', 443, type=socket.SOCK_DGRAM):
    quic = socket.socket(family, socket.SOCK_DGRAM)
    quic.settimeout(20)
    quic.connect(address)
    try:
        quic.send(b'{MARKER}')
        quic.recv(1)
        print('answered')
    except ConnectionRefusedError:
        print('refused')"
    );
    let said = stage.web_runs(&format!("exec python3 -c \"{script}\""));
    let families = 1 + usize::from(stage.web.ip_v6().is_some());
    assert_eq!(said, "refused\n".repeat(families));
    stop(cart);
    stage.nothing_was_in_clear();
}

/// Holds a connection to a server, and a socket on which it listens itself; told so, it says a word on the first, then calls by
/// new ones.
fn holder(server: &str, word: &str) -> String {
    format!(
        "import os, socket, time, urllib.request
old = socket.create_connection(({server}))
listener = socket.create_server(('', 9090))
print('holds', flush=True)
while not os.path.exists('/run/captured'): time.sleep(0.02)
try:
    old.sendall(b'GET /{word} HTTP/1.0\\r\\n\\r\\n')
    print('old', 'answered' if old.recv(100) else 'ended', flush=True)
except ConnectionError:
    print('old reset', flush=True)
while True:
    try:
        body = urllib.request.urlopen('http://cart/{MARKER}', timeout=20).read()
        print('call', 'yes' if body == b'{MARKER}' else 'odd', flush=True)
    except Exception:
        print('call no', flush=True)
    time.sleep(0.02)"
    )
}

/// In a namespace that is captured as a whole, nothing that is older is left in clear either.
#[test]
fn a_connection_from_before_the_rules_is_reset_and_the_next_one_is_captured() {
    let Some(stage) = Stage::start() else { return };
    let server = super::stage::server();
    let application = stage.cart.start("python3", &["-c", &server]);
    wait_for("the application", || {
        let port = format!("{PORT}");
        let listens = stage.cart.runs("ss", &["-Hltn", "sport", "=", &port]);
        (!listens.is_empty()).then_some(())
    });
    let holder =
        stage.web.start("python3", &["-c", &holder(&format!("'{}', {PORT}", stage.cart.ip()), MARKER)]);
    wait_for("its connection", || holder.log().contains("holds").then_some(()));

    let capture = |host: &meshwork_testkit::hosts::Host, flags: &[&str]| {
        host.runs(env!("CARGO_BIN_EXE_meshwork"), &["capture", "apply"]);
        let proxy: Command = stage.meshwork(host, "proxy", &[&["--capture=redirect"], flags].concat());
        host.start_command("sidecar", &proxy)
    };
    let cart = capture(&stage.cart, &["--port", "80:8080"]);
    stage.cart_has_a_name();
    let web = capture(&stage.web, &[]);
    stage.web.runs("touch", &["/run/captured"]);
    calls_end(&holder, "yes", 3);
    assert!(holder.log().contains("old reset"), "{}", holder.log());
    // The socket that listens from before takes nobody from outside.
    let url = format!("http://{}:9090/", stage.web.ip());
    let output = stage.cart.output("curl", &["-sS", "--fail", "-m", "20", &url]);
    assert!(!output.status.success(), "{output:?}");
    drop((holder, application));
    stop(web);
    stop(cart);
    let recorded = stage.recorded();
    assert!(!recorded.contains(MARKER.as_bytes()), "the marker crossed in clear");
}

/// What a program held before root moved it into a cgroup is of no cgroup that is captured; all that it opens from then on is.
#[test]
fn a_program_that_joins_late_is_captured_by_whatever_it_opens_from_then_on() {
    let Some(stage) = Stage::start() else { return };
    let (cart, web) = (stage.run_cart(), stage.run_web());
    calls_end(&web, "yes", 1);
    let other = stage.control.start("python3", &["-m", "http.server", "9000"]);
    wait_for("a server outside the mesh", || {
        let listens = stage.control.runs("ss", &["-Hltn", "sport", "=", "9000"]);
        (!listens.is_empty()).then_some(())
    });
    let server = format!("'{}', 9000", stage.control.ip());
    let holder = stage.web.start("python3", &["-c", &holder(&server, "old")]);
    wait_for("its connection", || holder.log().contains("holds").then_some(()));
    let script = format!(
        "own=$(find {} -name 'meshwork_*' -type d) && echo {} > $own/cgroup.procs && touch /run/captured",
        stage.web.cgroup().display(),
        holder.pid().as_raw_nonzero()
    );
    stage.web.runs("sh", &["-c", &script]);
    // Nobody but a sidecar knows that name.
    calls_end(&holder, "yes", 3);
    assert!(holder.log().contains("old answered"), "{}", holder.log());
    drop((holder, other));
    stop(web);
    stop(cart);
    let recorded = stage.recorded();
    assert!(!recorded.contains(MARKER.as_bytes()), "the marker crossed in clear");
}
