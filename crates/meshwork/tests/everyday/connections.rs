//! Connections as programs have them: many short ones, a long one that is silent, one to oneself, and to programs that
//! come when the sidecar is long there.

use std::process::Stdio;

use crate::place::{PROGRAMS, Place, Way};
use crate::support::{Process, free_port, wait_for};

/// As one program may open in a minute: more than the kernel remembers of closed ones to one address, were they not reused.
const SHORT: usize = 10_000;

/// Longer than anything that looks at silent connections takes between sidecars: pings and time-outs after 5 s.
const SILENT_SECONDS: &str = "12";

#[test]
fn of_ten_thousand_short_connections_on_a_host_none_fails() {
    short(Way::Cgroup);
}

#[test]
fn of_ten_thousand_short_connections_in_a_container_none_fails() {
    short(Way::Redirect);
}

fn short(way: Way) {
    let Some(place) = Place::enter(way) else { return };
    let _cart = place.cart();
    let told = place.said(&mut place.program("web", &["short", "cart:80", &SHORT.to_string()]));
    assert_eq!(told, format!("{SHORT} answered, 0 failed\n"));
}

#[test]
fn connections_that_are_silent_for_long_are_kept_on_a_host() {
    silent(Way::Cgroup);
}

#[test]
fn connections_that_are_silent_for_long_are_kept_in_a_container() {
    silent(Way::Redirect);
}

fn silent(way: Way) {
    let Some(place) = Place::enter_with(way, &["redis-server"]) else { return };
    let _cart = place.cart();
    let _redis = place.redis();
    let told = place.said(&mut place.program("web", &["idle", "cart:80", "redis:6379", SILENT_SECONDS]));
    assert_eq!(told, "HTTP goes on\nRedis goes on\na client that said nothing for so long is answered\n");
}

#[test]
fn a_program_on_a_host_calls_itself_by_its_services_name() {
    itself(Way::Cgroup);
}

#[test]
fn a_program_in_a_container_calls_itself_by_its_services_name() {
    itself(Way::Redirect);
}

fn itself(way: Way) {
    let Some(place) = Place::enter(way) else { return };
    let port = free_port().to_string();
    let flags = ["--port", &format!("80:{port}")];
    let command = ["python3", PROGRAMS, "itself", &port, "http://self/"];
    assert_eq!(place.said(&mut place.captured_serving("self", &flags, &command)), "it answered itself\n");
}

#[test]
fn a_program_on_a_host_that_listens_late_is_reached_once_it_does() {
    late(Way::Cgroup);
}

#[test]
fn a_program_in_a_container_that_listens_late_is_reached_once_it_does() {
    late(Way::Redirect);
}

fn late(way: Way) {
    let Some(place) = Place::enter(way) else { return };
    let web = place.cart();
    let port = free_port().to_string();
    let [started, go] = ["started", "go"].map(|name| place.mesh.path().join(name));
    let script = format!(
        "touch {}; until [ -e {} ]; do sleep 0.05; done; exec python3 -m http.server {port} --bind 127.0.0.1 --directory {}",
        started.display(),
        go.display(),
        place.mesh.path().display()
    );
    let flags = ["--port", &format!("80:{port}/http")];
    let mut late = place.captured_serving("late", &flags, &["sh", "-c", &script]);
    late.stdout(Stdio::null()).stderr(Stdio::null());
    let _late = Process(place.inside(|| late.spawn()).unwrap());
    // It starts once its sidecar is ready.
    wait_for("the command", || started.exists().then_some(()));
    let output = web.curl(&["-o", "/dev/null", "-w", "%{http_code}", "http://late/"]);
    assert!(output.stdout.starts_with(b"50"), "nobody listens there: {output:?}");
    std::fs::write(&go, "").unwrap();
    assert!(web.eventually("http://late/").contains("Directory listing"));
}
