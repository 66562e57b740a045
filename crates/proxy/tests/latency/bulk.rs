//! A body without end passes beside small requests, through the same two sidecars: what those notice of it.
//!
//! It comes as fast as a network of 1 Gbit/s brings it. Unhindered it would fill every core of a small machine, and
//! what small requests then wait for is the kernel's scheduler.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{INTERVAL, Pair, Switch, alone, compare};

/// What a bulk body may add to the 99th percentile of small requests.
const RATIO_MAX: f64 = 2.0;

pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// Begins each piece when its time has come, or at once if it is late.
pub(crate) struct Pace(Instant);

impl Pace {
    /// 1 Gbit/s.
    const PIECE: Duration = Duration::from_nanos(PIECE_BYTES as u64 * 8);

    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn wait(&mut self) {
        thread::sleep(self.0.saturating_duration_since(Instant::now()));
        self.0 = (self.0 + Self::PIECE).max(Instant::now() - Self::PIECE);
    }
}

#[test]
fn an_upload_does_not_hold_up_small_requests() {
    check("uploads", upload);
}

#[test]
fn a_download_does_not_hold_up_small_requests() {
    check("downloads", download);
}

#[track_caller]
fn check(what: &str, transfer: fn(SocketAddr, &Switch, &AtomicU64)) {
    let alone = alone();
    let bulk = Switch::default();
    let pair = Pair::start(bulk.clone());
    let moved = Arc::<AtomicU64>::default();
    let transfers = Transfers::start(pair.web.outbound, &bulk, &moved, transfer);
    compare(&pair, RATIO_MAX, what, &bulk);
    transfers.stop();
    let moved = moved.load(Ordering::Relaxed) >> 20;
    println!("{what}: {moved} MiB");
    assert!(moved > 100, "only {moved} MiB were moved");
    drop(alone);
}

/// Transfers one after the other while the switch is on.
struct Transfers {
    stop: Switch,
    thread: JoinHandle<()>,
}

impl Transfers {
    fn start(
        proxy: SocketAddr,
        bulk: &Switch,
        moved: &Arc<AtomicU64>,
        transfer: fn(SocketAddr, &Switch, &AtomicU64),
    ) -> Self {
        let (bulk, moved, stop) = (bulk.clone(), moved.clone(), Switch::default());
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                while !stop.is_on() {
                    if bulk.is_on() {
                        transfer(proxy, &bulk, &moved);
                    } else {
                        thread::sleep(INTERVAL);
                    }
                }
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.set(true);
        self.thread.join().unwrap();
    }
}

fn upload(proxy: SocketAddr, bulk: &Switch, moved: &AtomicU64) {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream
        .write_all(b"POST http://cart/bulk HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let mut piece = format!("{PIECE_BYTES:x}\r\n").into_bytes();
    piece.resize(piece.len() + PIECE_BYTES, b'x');
    piece.extend(b"\r\n");
    let mut pace = Pace::start();
    while bulk.is_on() {
        pace.wait();
        stream.write_all(&piece).unwrap();
        moved.fetch_add(PIECE_BYTES as u64, Ordering::Relaxed);
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = [0; 1_024];
    let length = stream.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..length]));
}

fn download(proxy: SocketAddr, _bulk: &Switch, moved: &AtomicU64) {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.write_all(b"GET http://cart/bulk HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").unwrap();
    let mut piece = vec![0; PIECE_BYTES];
    while let length @ 1.. = stream.read(&mut piece).unwrap() {
        moved.fetch_add(length as u64, Ordering::Relaxed);
    }
}
