//! What is not captured passes as if there were no mesh.

use std::process::{Command, Stdio};

use crate::place::{PROGRAMS, Place, Way};
use crate::support::{Process, wait_for};

/// Each row has one end in the captured command and the other one outside of it, if it has two.
#[test]
fn loopback_unix_sockets_udp_and_multicast_pass_on_a_host() {
    untouched(Way::Cgroup);
}

#[test]
fn loopback_unix_sockets_udp_and_multicast_pass_in_a_container() {
    untouched(Way::Redirect);
}

fn untouched(way: Way) {
    let Some(place) = Place::enter(way) else { return };
    let host = place.host().to_string();
    let dir = place.mesh.path().display().to_string();
    // The one that is not captured: it listens before the other starts.
    let mut outside = Command::new("python3");
    outside.args([PROGRAMS, "outside", &dir, &host]).stdin(Stdio::null());
    let _outside = Process(place.inside(|| outside.spawn()).unwrap());
    wait_for("the other end", || {
        std::path::Path::new(&format!("{dir}/outside.ready")).exists().then_some(())
    });
    let told = place.said(&mut place.program("web", &["inside", &dir, &host]));
    let rows = [
        "loopback: each end sees the other",
        "loopback IPv6: each end sees the other",
        "loopback, to a program outside",
        "UNIX socket, to a program outside",
        "UDP out and back",
        "UDP in and back",
        "multicast out",
        "multicast in",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), rows);
}
