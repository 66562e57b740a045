//! Callers at work while something happens: each request with its end and how it ended.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two requests of one caller.
const PAUSE: Duration = Duration::from_millis(2);

/// No request takes longer, whatever happens meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Callers of `http://cart/` through one sidecar.
pub struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<Ended>>>,
}

/// A request's end.
pub struct Ended {
    pub at: Instant,
    /// `None`: no answer at all.
    pub status: Option<u16>,
}

impl Load {
    pub fn start(proxy: &str, callers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let caller = |_| {
            let (stop, proxy) = (stop.clone(), proxy.to_owned());
            thread::spawn(move || call(&proxy, &stop))
        };
        Self { callers: (0..callers).map(caller).collect(), stop }
    }

    /// All requests, by their ends.
    pub fn stop(self) -> Vec<Ended> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all: Vec<Ended> =
            self.callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        all.sort_by_key(|ended| ended.at);
        all
    }
}

fn call(proxy: &str, stop: &AtomicBool) -> Vec<Ended> {
    let mut all = Vec::new();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let status = ask(&mut kept, proxy).ok();
        if status.is_none() {
            kept = None;
        }
        all.push(Ended { at: Instant::now(), status });
        thread::sleep(PAUSE);
    }
    all
}

fn ask(kept: &mut Option<TcpStream>, proxy: &str) -> std::io::Result<u16> {
    if kept.is_none() {
        let stream = TcpStream::connect(proxy)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_nodelay(true)?;
        *kept = Some(stream);
    }
    let Some(stream) = kept else { return Err(std::io::ErrorKind::NotConnected.into()) };
    // A POST, which nobody may send twice: what was on its way is lost, and that shows.
    stream.write_all(b"POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n")?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    head.get(9..12)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// An application that answers every request without a body; its port.
pub fn application() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut asked = Vec::new();
                let mut piece = [0; 4_096];
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    asked.extend_from_slice(&piece[..length]);
                    if asked.ends_with(b"\r\n\r\n") {
                        asked.clear();
                        let answered = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                        if answered.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    port
}
