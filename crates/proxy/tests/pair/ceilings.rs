//! What a sidecar as a whole may have, of memory, descriptors and clients: past it others are served, and it recovers by
//! itself. Each in a process of its own, as these belong to the process.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use meshwork_core::model::Transport;
use meshwork_proxy::telemetry::{Event, Gauge};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::{Mesh, Sidecar, endpoint};
use super::talk::{App, PATIENCE, Talk, alone, counts, eventually, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: cart\r\n\r\n";

fn limit_descriptors(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
}

/// A client that has got an answer, and stays.
fn served(web: &Sidecar) -> Talk {
    let mut client = Talk::to(web.outbound);
    ask(&mut client);
    client
}

#[track_caller]
fn ask(client: &mut Talk) {
    client.send(GET);
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("fine");
}

#[test]
fn at_the_connection_ceiling_the_newest_idle_client_goes() {
    alone(module_path!(), "at_the_connection_ceiling_the_newest_idle_client_goes", || {
        const CEILING: usize = 24;
        let before = getrlimit(Resource::Nofile).current.unwrap();
        limit_descriptors(CEILING as u64 / 3 * 4);
        // It reads the limit at its start; its clients are in this process, too, and need more.
        let mesh = Mesh::new();
        let app = App::listen();
        let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
        limit_descriptors(before);
        let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
        web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
        app.serve(|_, _| ok("fine"));

        let mut clients: Vec<_> = (0..CEILING).map(|_| served(&web)).collect();
        assert_eq!(web.registry.counted(Event::IdleClientClosed), 0);
        let mut late = served(&web);
        assert_eq!(web.registry.counted(Event::IdleClientClosed), 1);
        clients.pop().unwrap().expect_end();
        // Everybody else is still served, and so is whoever came late.
        clients.iter_mut().chain([&mut late]).for_each(ask);

        // Clients that are in the middle of something do not go, and who is new then is refused.
        for client in clients.iter_mut().chain([&mut late]) {
            client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 2\r\n\r\n1");
        }
        eventually("nobody is idle, so a new one is refused", || {
            let mut client = Talk::to(web.outbound);
            if client.try_send(GET).is_err() {
                return web.registry.counted(Event::LimitClients) > 0;
            }
            client.answer().is_empty() && web.registry.counted(Event::LimitClients) > 0
        });
        drop(clients);
        drop(late);
        eventually("there is room again", || {
            let mut client = Talk::to(web.outbound);
            client.try_send(GET).is_ok() && client.answer().starts_with(b"HTTP/1.1 200")
        });
    });
}

#[test]
fn at_the_connection_ceiling_a_client_that_says_nothing_goes() {
    alone(module_path!(), "at_the_connection_ceiling_a_client_that_says_nothing_goes", || {
        const CEILING: u64 = 24;
        let before = getrlimit(Resource::Nofile).current.unwrap();
        limit_descriptors(CEILING / 3 * 4);
        let (mesh, app) = (Mesh::new(), App::listen());
        let web = Sidecar::start(&mesh, "web", &[], &[]);
        limit_descriptors(before);
        let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
        web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
        app.serve(|_, _| ok("fine"));
        let mut silent: Vec<_> = (0..CEILING).map(|_| Talk::to(web.outbound)).collect();
        eventually("all are there", || web.registry.value(Gauge::OpenOutbound) == CEILING as i64);
        served(&web);
        assert_eq!(web.registry.counted(Event::IdleClientClosed), 1);
        silent.pop().unwrap().expect_end();
        ask(&mut silent[0]);
    });
}

#[test]
fn connections_that_nobody_speaks_on_are_bounded() {
    alone(module_path!(), "connections_that_nobody_speaks_on_are_bounded", || {
        const SILENT_MAX: usize = 24;
        const FLOOD: usize = 60;
        let before = getrlimit(Resource::Nofile).current.unwrap();
        limit_descriptors(SILENT_MAX as u64 * 4);
        let (mesh, app) = (Mesh::new(), App::listen());
        let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
        limit_descriptors(before);
        // Without a handshake, for which a busy machine may not have the time that is given.
        let mut direct = endpoint(app.address(), app.port);
        direct.transports = vec![Transport::Plaintext];
        web.learn("cart", 80, vec![direct]);
        let silent = |count: usize| -> Vec<_> {
            let clients: Vec<_> = (0..count).map(|_| Talk::to(web.upstreams[0])).collect();
            // Their silence is over, and ways are open.
            clients.into_iter().map(|client| (client, app.accept())).collect()
        };
        let mut oldest = silent(1);
        let flood = silent(FLOOD);
        let closed = 1 + FLOOD - SILENT_MAX;
        counts(&web.registry, Event::LimitSilent, closed as u64);
        eventually("they are gone", || web.registry.value(Gauge::OpenOutbound) == SILENT_MAX as i64);
        // The oldest was not among them, and whoever speaks is served.
        let (client, at_app) = &mut oldest[0];
        client.send("*1\r\n");
        at_app.expect("*1\r\n");
        let mut client = Talk::to(web.upstreams[0]);
        client.send(GET);
        let mut at_app = app.accept();
        at_app.head().expect("GET / HTTP/1.1");
        at_app.send(ok("fine"));
        client.head().expect("HTTP/1.1 200 OK");
        drop(flood);
    });
}

#[test]
fn without_descriptors_others_are_served_and_it_recovers() {
    alone(module_path!(), "without_descriptors_others_are_served_and_it_recovers", || {
        let (mesh, app) = (Mesh::new(), App::listen());
        let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
        let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
        web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
        app.serve(|_, _| ok("fine"));
        let mut old = served(&web);
        old.send("PUT / HTTP/1.1\r\nHost: cart\r\nContent-Length: 2\r\n\r\n1");
        eventually("it is at work", || web.registry.value(Gauge::OpenOutbound) == 1);

        // The lowest free one is the next: it becomes this test's own end of a connection, whose other end finds none.
        let before = getrlimit(Resource::Nofile).current.unwrap();
        let next = File::open("/dev/null").unwrap().as_raw_fd();
        limit_descriptors(next as u64 + 1);
        let mut late = TcpStream::connect(web.outbound).unwrap();
        eventually("accepting fails", || web.registry.counted(Event::AcceptError) > 0);
        let (start, failed) = (Instant::now(), web.registry.counted(Event::AcceptError));
        eventually("it fails again", || web.registry.counted(Event::AcceptError) >= failed + 5);
        assert!(
            start.elapsed() >= Duration::from_millis(75),
            "it spins: 5 failures in {:?}",
            start.elapsed()
        );

        // Who is there is served. Then it has nothing to do, and goes to make room.
        old.send("1");
        old.head().expect("HTTP/1.1 200 OK");
        old.expect("fine");
        late.set_read_timeout(Some(PATIENCE)).unwrap();
        late.write_all(GET.as_bytes()).unwrap();
        let mut answer = [0; 15];
        late.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 200 OK");
        old.expect_end();
        limit_descriptors(before);
    });
}

#[test]
fn past_the_memory_ceiling_new_requests_are_refused_until_there_is_room() {
    alone(module_path!(), "past_the_memory_ceiling_new_requests_are_refused_until_there_is_room", || {
        const STEP: u64 = 128 << 20;
        let (mesh, app) = (Mesh::new(), App::listen());
        let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
        let web = Sidecar::start_with(&mesh, "web", &[], &["cart:80"], |settings| {
            settings.memory_max = Some(resident() + STEP);
        });
        web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
        let mut running = Talk::to(web.outbound);
        running.send(GET);
        let mut at_app = app.accept();
        at_app.head().expect("GET / HTTP/1.1");

        // The sidecar is part of this process, and so is this.
        let ballast = vec![1_u8; 2 * STEP as usize];
        let mut client = Talk::to(web.outbound);
        eventually("a new request is refused", || {
            // Until then it waits for the application, which says nothing: ask for what the mesh answers itself.
            client.send("GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
            let head = client.head();
            client.take(head.get("content-length").unwrap().parse().unwrap());
            head.get("x-meshwork-cause") == Some("overloaded")
        });
        assert!(web.registry.value(Gauge::MemoryUsed) > web.registry.value(Gauge::MemoryMax));
        assert!(web.registry.counted(Event::LimitMemory) > 0);
        // What ran goes on.
        at_app.send(ok("fine"));
        running.head().expect("HTTP/1.1 200 OK");
        running.expect("fine");

        drop(ballast);
        eventually("requests are taken again", || {
            client.send("GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
            let head = client.head();
            client.take(head.get("content-length").unwrap().parse().unwrap());
            head.get("x-meshwork-cause") == Some("link_local_refused")
        });
    });
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}
