//! Callers at work while something happens: each request with its end and how it ended.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two requests of one caller.
const PAUSE: Duration = Duration::from_millis(2);

/// No request takes longer, whatever happens meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What is called.
const POST: &[u8] = b"POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n";
const GET: &[u8] = b"GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n";

/// Callers of `http://cart/` through one sidecar.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Vec<Ended>>>,
}

/// A request's end.
pub struct Ended {
    pub at: Instant,
    /// `None`: no answer at all.
    pub status: Option<u16>,
}

impl Load {
    /// POSTs, which nobody may send twice: what was on its way is lost, and that shows.
    pub fn start(proxy: &str, callers: usize) -> Self {
        Self::of(POST, proxy, callers)
    }

    /// GETs, which may be sent again.
    pub fn getting(proxy: &str, callers: usize) -> Self {
        Self::of(GET, proxy, callers)
    }

    fn of(request: &'static [u8], proxy: &str, callers: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let caller = |_| {
            let (stop, answered, proxy) = (stop.clone(), answered.clone(), proxy.to_owned());
            thread::spawn(move || call(request, &proxy, &stop, &answered))
        };
        Self { callers: (0..callers).map(caller).collect(), stop, answered }
    }

    /// Waits for so many more ends.
    pub fn goes_on(&self, more: usize) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        super::wait_for("more answers", || (self.answered.load(Ordering::Relaxed) >= until).then_some(()));
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

/// Nothing but 200.
#[track_caller]
pub fn all_good(ended: &[Ended]) {
    let failed: Vec<_> =
        ended.iter().filter(|ended| ended.status != Some(200)).map(|ended| ended.status).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), ended.len());
}

fn call(request: &[u8], proxy: &str, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<Ended> {
    let mut all = Vec::new();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let status = ask(&mut kept, request, proxy).ok();
        if status.is_none() {
            kept = None;
        }
        all.push(Ended { at: Instant::now(), status });
        answered.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    all
}

fn ask(kept: &mut Option<TcpStream>, request: &[u8], proxy: &str) -> std::io::Result<u16> {
    if kept.is_none() {
        let stream = TcpStream::connect(proxy)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_nodelay(true)?;
        *kept = Some(stream);
    }
    let Some(stream) = kept else { return Err(std::io::ErrorKind::NotConnected.into()) };
    stream.write_all(request)?;
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
    counted_application().0
}

/// The same, and how many requests it has got.
pub fn counted_application() -> (u16, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let counting = counting.clone();
            thread::spawn(move || {
                let mut asked = Vec::new();
                let mut piece = [0; 4_096];
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    asked.extend_from_slice(&piece[..length]);
                    if asked.ends_with(b"\r\n\r\n") {
                        asked.clear();
                        counting.fetch_add(1, Ordering::Relaxed);
                        let answered = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                        if answered.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (port, count)
}
