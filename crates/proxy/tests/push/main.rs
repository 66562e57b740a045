//! A config of 5 MB comes while requests are carried: what the requests notice of it.
//!
//! The side thread's work is done here as it does it: decode, judge, apply, free. It goes on for whole windows, far
//! more than a control plane would send, between windows in which nothing comes. The figures are printed:
//!
//! ```text
//! cargo test --release -p meshwork-proxy --test push -- --nocapture
//! ```

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use meshwork_core::compile::{Audience, Features};
use meshwork_core::model::Locality;
use meshwork_core::resource::{Endpoint, Resource};
use meshwork_proxy::Live;
use meshwork_xds::{convert, wire};

use support::{Mesh, Sidecar, endpoint, told_of};

#[allow(dead_code)] // the pair's tests use all of it
#[path = "../pair/support.rs"]
mod support;

pub(crate) const HTTP2: bool = false;

/// Together 5 MB on the wire.
const SERVICES: usize = 1_500;
const ENDPOINTS: usize = 18;

/// A control plane closes a response at 1 MiB: so many carry the config.
const RESPONSES: usize = 5;

/// Requests begin at this distance, whatever became of the one before.
const INTERVAL: Duration = Duration::from_millis(1);

/// Windows of each kind, in turn, and requests in each: as many as tell a 99th percentile.
const WINDOWS: usize = 12;
const REQUESTS: u32 = 250;

/// What a push may add to the 99th percentile.
const RATIO_MAX: f64 = 1.3;

/// What may come on top where the machine is busy with other things: a slice of a foreign thread. A worker that
/// decoded the config itself, or freed it, would show ten times as much.
const NOISE: Duration = Duration::from_millis(3);

/// Times that the measurement is made before it counts: others use the machine.
const ATTEMPTS: usize = 5;

#[test]
fn a_large_push_does_not_hold_up_requests() {
    let mesh = Mesh::new();
    let app = application();
    let cart = Sidecar::start(&mesh, "cart", &[app], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app)]);
    let side = Side::start(web.live.clone());
    let mut client = Client::to(web.outbound);
    client.window(); // connections, pools and series are there afterwards
    let mut told = String::new();
    for _ in 0..ATTEMPTS {
        let (quiet, pushed) = measure(&mut client, &side);
        told.push_str(&format!(
            "99th percentile: {quiet:?} without pushes, {pushed:?} within {} of them\n",
            side.pushes.swap(0, Ordering::Relaxed)
        ));
        if pushed <= quiet.mul_f64(RATIO_MAX) + NOISE {
            print!("{told}");
            assert!(side.stop() > 0, "nothing was pushed");
            return;
        }
    }
    panic!("{told}");
}

/// The 99th percentiles without and within pushes, of windows in turn.
fn measure(client: &mut Client, side: &Side) -> (Duration, Duration) {
    let (mut quiet, mut pushed) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        quiet.extend(client.window());
        side.push.store(true, Ordering::Relaxed);
        pushed.extend(client.window());
        side.push.store(false, Ordering::Relaxed);
    }
    (percentile_99(quiet), percentile_99(pushed))
}

fn percentile_99(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() * 99 / 100]
}

/// A thread that does a side thread's work for one config after the other, each of which changes everything.
struct Side {
    push: Arc<AtomicBool>,
    pushes: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Side {
    /// Returns once the first config is applied.
    fn start(live: Arc<Live>) -> Self {
        let [push, stop] = [false, false].map(|at_first| Arc::new(AtomicBool::new(at_first)));
        let [pushes, all] = [0, 0].map(|at_first| Arc::new(AtomicUsize::new(at_first)));
        let configs = [1, 2].map(encoded);
        let bytes: usize = configs[0].iter().map(|resource| resource.bytes.len()).sum();
        assert!(bytes > 5_000_000, "{bytes} bytes");
        apply(&live, &configs[0]);
        assert!(live.snapshot().find(&format!("service-{}:80", SERVICES - 1)).is_some());
        let thread = thread::spawn({
            let (push, pushes, all, stop) = (push.clone(), pushes.clone(), all.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if push.load(Ordering::Relaxed) {
                        apply(&live, &configs[(all.fetch_add(1, Ordering::Relaxed) + 1) % 2]);
                        pushes.fetch_add(1, Ordering::Relaxed);
                    } else {
                        thread::sleep(INTERVAL);
                    }
                }
            }
        });
        Self { push, pushes, all, stop, thread }
    }

    /// Configs that it applied.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.all.load(Ordering::Relaxed)
    }
}

struct Encoded {
    type_url: String,
    name: String,
    bytes: Vec<u8>,
}

fn encoded(weight: u32) -> Vec<Encoded> {
    let encoded = |resource: Resource| Encoded {
        type_url: wire::type_url(convert::resource_type(&resource)),
        name: convert::resource_name(&resource),
        bytes: convert::to_wire(&resource, Audience::Sidecar(Features::default())),
    };
    (0..SERVICES).flat_map(|service| described(service, weight)).map(encoded).collect()
}

fn described(service: usize, weight: u32) -> Vec<Resource> {
    let name = format!("service-{service}");
    let endpoints = (0..ENDPOINTS).map(|number| {
        let address = SocketAddr::from(([10, (service >> 8) as u8, service as u8, number as u8], 15_008));
        Endpoint {
            weight,
            locality: Locality { region: "eu-central-1".to_owned(), zone: "eu-central-1a".to_owned() },
            workload: format!("{name}-{number:04}"),
            ..endpoint(address, 8080)
        }
    });
    told_of(&name, 80, endpoints.collect(), "cart", None)
}

fn apply(live: &Live, config: &[Encoded]) {
    for response in config.chunks(config.len().div_ceil(RESPONSES)) {
        let judged = response
            .iter()
            .map(|resource| convert::from_wire(&resource.type_url, &resource.name, &resource.bytes).unwrap());
        live.apply(judged.collect(), &[]);
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    fn to(proxy: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// How long each request of a window took.
    fn window(&mut self) -> Vec<Duration> {
        let start = Instant::now();
        let request = |number| {
            thread::sleep((start + INTERVAL * number).saturating_duration_since(Instant::now()));
            let asked = Instant::now();
            self.ask();
            asked.elapsed()
        };
        (0..REQUESTS).map(request).collect()
    }

    fn ask(&mut self) {
        self.stream.write_all(b"GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n").unwrap();
        read_until(&mut self.stream, b"ok").unwrap();
    }
}

/// Answers every request the same.
fn application() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                while read_until(&mut stream, b"\r\n\r\n").is_some() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                }
            });
        }
    });
    port
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> Option<()> {
    let (mut buffer, mut length) = ([0; 4_096], 0);
    while !buffer[..length].ends_with(end) {
        length += stream.read(&mut buffer[length..]).ok().filter(|read| *read > 0)?;
    }
    Some(())
}
