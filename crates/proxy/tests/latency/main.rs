//! What requests notice of what else a sidecar does: the 99th percentile of small requests with and without it, in
//! windows that take turns, so that whatever else the machine does falls on both.
//!
//! Bounds and printed figures mean something where the code is optimised and the machine idle; otherwise only what
//! stands still for long is found.
//!
//! ```text
//! cargo test --release -p meshwork-proxy --test latency -- --nocapture
//! ```

mod bulk;
mod push;

#[allow(dead_code)] // the pair's tests use all of it
#[path = "../pair/support.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use support::{Mesh, Sidecar, endpoint};

pub(crate) const HTTP2: bool = true;

/// Requests begin at this distance, whatever became of the one before.
const INTERVAL: Duration = Duration::from_millis(1);

/// Windows of each kind, and requests in each: as many as tell a 99th percentile.
const WINDOWS: usize = 12;
const REQUESTS: u32 = 250;

/// What may come on top: a wake-up or two of something foreign. Code that is not optimised is itself what keeps the
/// machine busy beside a bulk body; then only a standstill is found.
const NOISE: Duration = Duration::from_micros(if cfg!(debug_assertions) { 500_000 } else { 100 });

/// Measurements until one must hold: others use the machine.
const ATTEMPTS: usize = 5;

/// What is measured one after the other, though tests run at once.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Two sidecars before an application that answers everything the same, but `/bulk` without end while the switch
/// is on.
struct Pair {
    web: Sidecar,
    _cart: Sidecar,
}

impl Pair {
    fn start(bulk: Switch) -> Self {
        let (mesh, app) = (Mesh::new(), application(bulk));
        let cart = Sidecar::start(&mesh, "cart", &[app], &[]);
        let web = Sidecar::start(&mesh, "web", &[], &[]);
        web.learn("cart", 80, vec![endpoint(cart.inbound[0], app)]);
        Self { web, _cart: cart }
    }
}

/// Requests with the switch on and off in turn: the 99th percentile may be so many times as large with it on.
#[track_caller]
fn compare(pair: &Pair, ratio_max: f64, what: &str, switch: &Switch) {
    let mut client = Client::to(pair.web.outbound);
    client.window(); // connections, pools and series are there afterwards
    let mut told = String::new();
    for _ in 0..ATTEMPTS {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..WINDOWS {
            without.extend(client.window());
            switch.set(true);
            with.extend(client.window());
            switch.set(false);
        }
        let (without, with) = (Percentiles::of(without), Percentiles::of(with));
        told.push_str(&format!("requests beside {what}: {with}; without: {without}\n"));
        if with.p99 <= without.p99.mul_f64(ratio_max) + NOISE {
            return print!("{told}");
        }
    }
    panic!("{told}");
}

struct Percentiles {
    p50: Duration,
    p99: Duration,
}

impl Percentiles {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self { p50: all[all.len() / 2], p99: all[all.len() * 99 / 100] }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {} µs, p99 {} µs", self.p50.as_micros(), self.p99.as_micros())
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

fn application(bulk: Switch) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, switch) = (stream.unwrap(), bulk.clone());
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || serve(stream, &switch));
        }
    });
    port
}

/// Until the other side ends.
fn serve(mut stream: TcpStream, switch: &Switch) -> Option<()> {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    loop {
        let request = read_until(&mut stream, b"\r\n\r\n")?;
        if request.starts_with(b"POST") {
            if !request.ends_with(b"\r\n0\r\n\r\n") {
                swallow(&mut stream)?;
            }
            stream.write_all(OK).ok()?;
        } else if request.starts_with(b"GET /bulk") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
            let mut pace = bulk::Pace::start();
            while switch.is_on() {
                pace.wait();
                stream.write_all(&[b'x'; bulk::PIECE_BYTES]).ok()?;
            }
            return Some(());
        } else {
            stream.write_all(OK).ok()?;
        }
    }
}

/// The rest of a chunked body.
fn swallow(stream: &mut TcpStream) -> Option<()> {
    let (mut piece, mut end) = (vec![0; 64 * 1024], Vec::new());
    while !end.ends_with(b"\r\n0\r\n\r\n") {
        let length = stream.read(&mut piece).ok().filter(|length| *length > 0)?;
        end.extend_from_slice(&piece[length.saturating_sub(8)..length]);
        end.drain(..end.len().saturating_sub(8));
    }
    Some(())
}

/// What comes, up to and with these bytes; `None`: the other side ended before.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Option<Vec<u8>> {
    let (mut all, mut piece) = (Vec::new(), [0; 4_096]);
    while !all.windows(end.len()).any(|window| window == end) {
        let length = stream.read(&mut piece).ok().filter(|length| *length > 0)?;
        all.extend_from_slice(&piece[..length]);
    }
    Some(all)
}
