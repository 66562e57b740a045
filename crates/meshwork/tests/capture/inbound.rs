//! What comes to a captured namespace from another machine.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use meshwork_core::capture::{DNS_PORT, INBOUND_PORT, MARK, OUTBOUND_PORT};

use crate::place::{Listener, Place, assert_cut, assert_joined, assert_refused, connect};

const APPLICATION: u16 = 8080;

/// An application, as most are: on all addresses, of both families.
fn application(place: &Place, port: u16) -> [Listener; 2] {
    [place.listen(Ipv4Addr::UNSPECIFIED, port), place.listen(Ipv6Addr::UNSPECIFIED, port)]
}

/// Where it is reached from outside.
fn reached(place: &Place, port: u16) -> Vec<SocketAddr> {
    let far = [Some(place.machine.far()), place.machine.far_v6()];
    far.into_iter().flatten().map(|address| (address, port).into()).collect()
}

#[test]
fn another_machine_reaches_the_sidecar_and_not_the_application() {
    let Some(place) = Place::captured(&[]) else { return };
    let (application, sidecar) = (application(&place, APPLICATION), place.inbound());
    for (meant, sidecar) in reached(&place, APPLICATION).into_iter().zip(&sidecar) {
        let client = connect(meant).unwrap();
        let (stream, original) = sidecar.accept();
        assert_eq!(original, Some(meant));
        assert_joined(&client, &stream);
        assert_joined(&stream, &client);
    }
    application.iter().for_each(Listener::assert_nobody_came);
}

#[test]
fn nobody_reaches_the_application_while_the_sidecar_is_away() {
    let Some(place) = Place::captured(&[]) else { return };
    let application = application(&place, APPLICATION);
    reached(&place, APPLICATION).into_iter().for_each(|address| assert_refused(&connect(address)));
    application.iter().for_each(Listener::assert_nobody_came);
}

#[test]
fn the_application_and_the_sidecar_reach_each_other_inside() {
    let Some(place) = Place::captured(&[]) else { return };
    let [v4, v6] = application(&place, APPLICATION);
    // By loopback, whoever it is.
    place.connect((Ipv4Addr::LOCALHOST, APPLICATION)).unwrap();
    v4.accept();
    place.connect((Ipv6Addr::LOCALHOST, APPLICATION)).unwrap();
    v6.accept();
    // By the machine's own addresses the sidecar alone: the application's own calls are captured.
    for (address, application) in reached(&place, APPLICATION).into_iter().zip([&v4, &v6]) {
        place.connect_marked(address, MARK).unwrap();
        application.accept();
        assert_refused(&place.connect(address));
    }
}

#[test]
fn excluded_ports_and_clients_reach_the_application() {
    let Some(place) = Place::empty() else { return };
    let application = application(&place, APPLICATION);
    let near = format!("--exclude-inbound-cidrs={}/32,fd4d:213::/32", place.machine.near());
    for excluded in ["--exclude-inbound-ports=22,8080", &near, "--include-inbound-ports=9"] {
        place.apply(&[excluded]);
        for (address, application) in reached(&place, APPLICATION).into_iter().zip(&application) {
            connect(address).unwrap();
            application.accept();
        }
    }
    place.apply(&["--exclude-inbound-ports=22", "--include-inbound-ports=8080"]);
    reached(&place, APPLICATION).into_iter().for_each(|address| assert_refused(&connect(address)));
}

#[test]
fn without_an_inbound_port_nothing_is_changed_for_who_comes() {
    let Some(place) = Place::captured(&["--inbound-port=none"]) else { return };
    let application = application(&place, APPLICATION);
    for (address, application) in reached(&place, APPLICATION).into_iter().zip(&application) {
        connect(address).unwrap();
        application.accept();
    }
}

/// A connection whose original destination is the sidecar itself would be led back to it for ever.
#[test]
fn nobody_calls_the_ports_of_the_sidecar_by_themselves() {
    let Some(place) = Place::captured(&[]) else { return };
    let (outbound, inbound) = (place.outbound(), place.inbound());
    let dns = application(&place, DNS_PORT);
    for port in [OUTBOUND_PORT, INBOUND_PORT, DNS_PORT] {
        reached(&place, port).into_iter().for_each(|address| assert_refused(&connect(address)));
    }
    for port in [OUTBOUND_PORT, INBOUND_PORT] {
        assert_refused(&place.connect((Ipv4Addr::LOCALHOST, port)));
        assert_refused(&place.connect((Ipv6Addr::LOCALHOST, port)));
    }
    outbound.iter().chain(&inbound).chain(&dns).for_each(Listener::assert_nobody_came);
}

/// A client that was there before the mesh would go on in clear; what is excluded (an administrator's session) goes on.
#[test]
fn a_session_from_before_ends_unless_it_is_excluded() {
    let Some(place) = Place::empty() else { return };
    let [v4, _v6] = application(&place, APPLICATION);
    let [ssh, _ssh_v6] = application(&place, 22);
    let session = |port: u16, listener: &Listener| {
        let client = connect((place.machine.far(), port).into()).unwrap();
        (client, listener.accept().0)
    };
    let (client, server) = session(APPLICATION, &v4);
    let sessions = [session(22, &ssh), session(22, &ssh)];
    place.apply(&["--exclude-inbound-ports=22"]);
    assert_cut(&client, &server);
    // Whoever speaks first: nobody has followed this connection, so its first packet now looks like the start of one.
    for (one, other) in [(&sessions[0].0, &sessions[0].1), (&sessions[1].1, &sessions[1].0)] {
        assert_joined(one, other);
        assert_joined(other, one);
    }
}
