//! What applications in a captured namespace open: led to the sidecar with its destination known, or passing by, or
//! refused; never out in clear by mistake.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use meshwork_core::capture::{MARK, OUTBOUND_PORT};

use crate::place::{Listener, Place, VIRTUAL, VIRTUAL_V6, assert_cut, assert_joined, assert_refused};

/// Only a test that fails waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn every_destination_arrives_as_it_was_meant() {
    let Some(place) = Place::captured(&[]) else { return };
    let [v4, v6] = place.outbound();
    let far_away = [
        SocketAddr::from((VIRTUAL, 80)),
        (place.machine.near(), 5432).into(),
        (place.machine.far(), 8080).into(), // itself, by its own address
    ];
    for meant in far_away {
        place.connect(meant).unwrap();
        assert_eq!(v4.meant(), Some(meant));
    }
    let far_away_v6 = [Some(VIRTUAL_V6), place.machine.near_v6(), place.machine.far_v6()];
    for address in far_away_v6.into_iter().flatten() {
        let meant = SocketAddr::from((address, 443));
        place.connect(meant).unwrap();
        assert_eq!(v6.meant(), Some(meant));
    }
}

#[test]
fn a_program_that_knows_nothing_of_it_is_captured() {
    let Some(place) = Place::captured(&[]) else { return };
    let [v4, _v6] = place.outbound();
    let curl = std::thread::scope(|scope| {
        let curl =
            scope.spawn(|| place.prints("curl", "-sS --noproxy * --max-time 30 http://240.1.2.3/items"));
        let (stream, meant) = v4.wait();
        assert_eq!(meant, Some((VIRTUAL, 80).into()));
        answer(&stream);
        curl.join().unwrap()
    });
    assert_eq!(curl, "from the sidecar");
}

fn answer(mut stream: &std::net::TcpStream) {
    use std::io::{Read as _, Write as _};
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"GET /items HTTP/1.1\r\nHost: 240.1.2.3\r\n"), "{head:?}");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\nconnection: close\r\n\r\nfrom the sidecar";
    stream.write_all(answer).unwrap();
}

/// Without a route there is no packet that a rule could see.
#[test]
fn virtual_addresses_have_a_route_where_there_is_none() {
    let Some(place) = Place::empty() else { return };
    let [v4, v6] = place.outbound();
    for address in [VIRTUAL, VIRTUAL_V6] {
        let error = place.connect((address, 80)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable, "{error}");
    }
    place.apply(&[]);
    place.connect((VIRTUAL, 80)).unwrap();
    place.connect((VIRTUAL_V6, 80)).unwrap();
    assert_eq!(v4.meant(), Some((VIRTUAL, 80).into()));
    assert_eq!(v6.meant(), Some((VIRTUAL_V6, 80).into()));
}

/// No address but loopback's: there is still one to send from, and to answer to.
#[test]
fn a_machine_alone_is_captured() {
    let Some(place) = Place::empty() else { return };
    place.prints("ip", &format!("addr flush dev {}", place.machine.far_link()));
    place.apply(&[]);
    let sidecar = place.outbound();
    for (address, sidecar) in [VIRTUAL, VIRTUAL_V6].into_iter().zip(&sidecar) {
        let stream = place.connect((address, 80)).unwrap();
        let (led, meant) = sidecar.accept();
        assert_eq!(meant, Some((address, 80).into()));
        assert_joined(&stream, &led);
        assert_joined(&led, &stream);
    }
}

#[test]
fn nothing_leaves_while_the_sidecar_is_away() {
    let Some(place) = Place::captured(&[]) else { return };
    let servers = outside(&place);
    for server in &servers {
        assert_refused(&place.connect(server.address()));
        server.assert_nobody_came();
    }
    assert_refused(&place.connect((VIRTUAL, 80)));
    assert_refused(&place.connect((VIRTUAL_V6, 80)));
}

/// Servers on the machine at the other end of the wire.
fn outside(place: &Place) -> Vec<Listener> {
    let near = [Some(place.machine.near()), place.machine.near_v6()];
    near.into_iter().flatten().map(|address| Listener::bind(address, 0)).collect()
}

#[test]
fn the_sidecar_passes_by_its_mark_and_no_other_mark_does() {
    let Some(place) = Place::captured(&[]) else { return };
    let _sidecar = place.outbound();
    for server in outside(&place) {
        let stream = place.connect_marked(server.address(), MARK).unwrap();
        assert_joined(&stream, &server.accept().0);
        let _stream = place.connect_marked(server.address(), MARK + 1).unwrap();
        server.assert_nobody_came();
    }
}

#[test]
fn the_sidecar_passes_by_its_user_and_no_other_user_does() {
    let Some(place) = Place::captured(&["--proxy-user=1337"]) else { return };
    for server in outside(&place) {
        let connects = |uid: u32| {
            let script = "import socket, sys; socket.create_connection((sys.argv[1], sys.argv[2]), 30)";
            let address = server.address();
            let mut python = Command::new("python3");
            python.args(["-c", script, &address.ip().to_string(), &address.port().to_string()]);
            place.run(python.uid(uid).current_dir("/")).status.success()
        };
        assert!(connects(1337));
        server.accept();
        for other in [0, 1338] {
            assert!(!connects(other), "{other}");
            server.assert_nobody_came();
        }
        // Its mark does not help whoever sets one.
        assert_refused(&place.connect_marked(server.address(), MARK));
    }
}

#[test]
fn processes_of_an_excluded_user_pass() {
    let Some(place) = Place::captured(&["--exclude-user=root"]) else { return };
    for server in outside(&place) {
        place.connect(server.address()).unwrap();
        server.accept();
    }
}

/// A route of type `local` would hand it to whoever listens on all addresses.
#[test]
fn what_is_not_led_to_the_sidecar_never_reaches_somebody_by_a_virtual_address() {
    let Some(place) = Place::captured(&[]) else { return };
    let all = [
        place.listen(Ipv4Addr::UNSPECIFIED, 80), // as an application would
        place.listen(Ipv6Addr::UNSPECIFIED, 80),
    ];
    for address in [VIRTUAL, VIRTUAL_V6] {
        assert_refused(&place.connect_marked((address, 80), MARK));
    }
    all.iter().for_each(Listener::assert_nobody_came);
}

#[test]
fn loopback_and_link_local_pass() {
    let Some(place) = Place::empty() else { return };
    // The metadata service of a cloud, or its like. As the machine's own address, it is nobody else's here.
    let IpAddr::V4(near) = place.machine.near() else { unreachable!("the near address is of IPv4") };
    let [_, _, high, low] = near.octets();
    let link_local = |last: u8| IpAddr::from([169, 254, high, low - 1 + last]);
    run("ip", &format!("addr add {}/30 dev {}", link_local(1), place.machine.near_link()));
    place.prints("ip", &format!("addr add {}/30 dev {}", link_local(2), place.machine.far_link()));
    place.apply(&[]);
    let metadata = Listener::bind(link_local(1), 0);
    place.connect(metadata.address()).unwrap();
    metadata.accept();
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let application = place.listen(address, 0);
        place.connect(application.address()).unwrap();
        application.accept();
    }
}

fn run(program: &str, args: &str) {
    let output = Command::new(program).args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {output:?}");
}

#[test]
fn what_is_excluded_passes() {
    let Some(place) = Place::empty() else { return };
    let servers = outside(&place);
    let Some((excluded, others)) = servers.split_first() else { panic!("no server") };
    let port = format!("--exclude-outbound-ports={}", excluded.address().port());
    place.apply(&[&port]);
    place.connect(excluded.address()).unwrap();
    excluded.accept();
    others.iter().for_each(|other| assert_refused(&place.connect(other.address())));

    let network = format!("--exclude-outbound-cidrs={}/32,10.0.0.0/7", place.machine.near());
    place.apply(&[&network]);
    place.connect(excluded.address()).unwrap();
    excluded.accept();
    others.iter().for_each(|other| assert_refused(&place.connect(other.address())));
}

#[test]
fn where_something_is_included_nothing_else_is_captured_but_virtual_addresses() {
    let Some(place) = Place::empty() else { return };
    let servers = outside(&place);
    let port = format!("--include-outbound-ports={}", servers[0].address().port());
    place.apply(&[&port]);
    assert_refused(&place.connect(servers[0].address()));
    for other in &servers[1..] {
        place.connect(other.address()).unwrap();
        other.accept();
    }
    let [v4, _v6] = place.outbound();
    place.connect((VIRTUAL, 9)).unwrap();
    assert_eq!(v4.meant(), Some((VIRTUAL, 9).into()));

    place.apply(&["--include-outbound-cidrs=192.0.2.0/24"]);
    for server in &servers {
        place.connect(server.address()).unwrap();
        server.accept();
    }
    place.connect((VIRTUAL, 9)).unwrap();
    assert_eq!(v4.meant(), Some((VIRTUAL, 9).into()));
}

/// Whoever tries HTTP/3 first hears at once that there is nobody, with the error that a closed port has.
#[test]
fn udp_to_a_virtual_address_fails_at_once() {
    let Some(place) = Place::captured(&[]) else { return };
    let v4 = (VIRTUAL, IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::LOCALHOST));
    let v6 = (VIRTUAL_V6, IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::LOCALHOST));
    for (address, any, loopback) in [v4, v6] {
        // Whoever has the port that is used for this, for UDP, is none of it.
        let neighbour = place.machine.enter(|| UdpSocket::bind((loopback, OUTBOUND_PORT)).unwrap());
        neighbour.set_nonblocking(true).unwrap();
        let heard = place.machine.enter(|| {
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(DEADLINE))?;
            socket.connect((address, 443))?;
            socket.send(b"initial")?;
            socket.recv(&mut [0])
        });
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{address}");
        assert_eq!(neighbour.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn all_other_udp_passes() {
    let Some(place) = Place::captured(&[]) else { return };
    let server = UdpSocket::bind((place.machine.near(), 0)).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = server.local_addr().unwrap();
    place.machine.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", to)).unwrap();
    assert_eq!(server.recv(&mut [0; 2]).unwrap(), 1);
    // Multicast, as mDNS is; its own copy comes back to the sender's machine.
    let (group, port) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
    let far: IpAddr = place.machine.far();
    let heard = place.machine.enter(|| {
        let IpAddr::V4(interface) = far else { panic!("{far}") };
        let member = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        member.set_read_timeout(Some(DEADLINE))?;
        member.join_multicast_v4(&group, &interface)?;
        let sender = UdpSocket::bind((interface, 0))?;
        sender.send_to(b"xy", (group, port))?;
        member.recv(&mut [0; 4])
    });
    assert_eq!(heard.unwrap(), 2);
}

#[test]
fn questions_to_any_name_server_are_led_to_ours() {
    let Some(place) = Place::captured(&[]) else { return };
    let servers = [
        place.machine.near(),
        IpAddr::from([127, 0, 0, 53]), // systemd-resolved's
        VIRTUAL,
    ];
    let udp = place.machine.enter(|| UdpSocket::bind("127.0.0.1:15053").unwrap());
    udp.set_read_timeout(Some(DEADLINE)).unwrap();
    let tcp = place.listen(Ipv4Addr::LOCALHOST, 15053);
    // Any port may be a program's for datagrams, also the number that the sidecar has for TCP. One socket asks all servers: a
    // port is not free again at once while tests beside this one start processes, which hold what is open for a moment.
    let clients = [0, OUTBOUND_PORT]
        .map(|port| place.machine.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()));
    for (server, client) in
        servers.iter().flat_map(|server| clients.each_ref().map(|client| (*server, client)))
    {
        let answered = place.machine.enter(|| {
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            // Connected: an answer from any other address than the one asked is dropped.
            client.connect((server, 53)).unwrap();
            client.send(b"question").unwrap();
            let mut question = [0; 16];
            let (length, from) = udp.recv_from(&mut question).unwrap();
            assert_eq!(&question[..length], b"question");
            udp.send_to(b"answer", from).unwrap();
            client.recv(&mut [0; 16]).unwrap()
        });
        assert_eq!(answered, 6);
        place.connect((server, 53)).unwrap();
        assert_eq!(tcp.meant(), Some((server, 53).into()));
    }
}

#[test]
fn the_sidecar_itself_asks_whom_it_wants() {
    let Some(place) = Place::captured(&[]) else { return };
    let resolver = Listener::bind(place.machine.near(), 53);
    place.connect_marked(resolver.address(), MARK).unwrap();
    resolver.accept();
    assert_refused(&place.connect(resolver.address()));
    resolver.assert_nobody_came();
}

/// The kernel remembers for a while where a socket's questions went.
#[test]
fn questions_of_a_socket_from_before_are_refused() {
    let Some(place) = Place::captured(&["--dns-port=none"]) else { return };
    let server = UdpSocket::bind((place.machine.near(), 53)).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = server.local_addr().unwrap();
    let client = place.machine.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    client.send_to(b"before", to).unwrap();
    assert_eq!(server.recv(&mut [0; 16]).unwrap(), 6);
    place.apply(&[]);
    client.send_to(b"marker", to).unwrap_err();
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.recv(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // A new one is led on: there is nobody now.
    let refused = place.machine.enter(|| {
        let client = UdpSocket::bind("0.0.0.0:0")?;
        client.set_read_timeout(Some(DEADLINE))?;
        client.connect(to)?;
        client.send(b"after")?;
        client.recv(&mut [0])
    });
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

/// They are not led anywhere, as the middle of a conversation makes no sense to anybody else; nor do they go on.
#[test]
fn a_connection_from_before_ends() {
    let Some(place) = Place::empty() else { return };
    let servers = outside(&place);
    let before: Vec<_> =
        servers.iter().map(|server| (place.connect(server.address()).unwrap(), server.accept().0)).collect();
    let _sidecar = place.outbound();
    place.apply(&[]);
    for (stream, server) in &before {
        assert_cut(stream, server);
    }
}

/// Applied again, as an init container that is started once more does: nothing that runs by the sidecar ends.
#[test]
fn a_captured_connection_survives_a_second_apply() {
    let Some(place) = Place::captured(&[]) else { return };
    let [v4, _v6] = place.outbound();
    let stream = place.connect((VIRTUAL, 80)).unwrap();
    let (sidecar, _) = v4.accept();
    place.apply(&["--exclude-outbound-ports=25"]);
    assert_joined(&stream, &sidecar);
    assert_joined(&sidecar, &stream);
}
