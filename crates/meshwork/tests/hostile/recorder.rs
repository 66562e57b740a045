//! An application that keeps every byte of every connection, and answers the requests that the strict judge finds in it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::strict::{Request, Rest, split};

#[derive(Default)]
struct Kept {
    /// What came, a connection each.
    connections: Vec<Vec<u8>>,
}

#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) port: u16,
    kept: Arc<Mutex<Kept>>,
}

impl Recorder {
    pub(crate) fn listen() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let recorder = Self { port: listener.local_addr().unwrap().port(), kept: Arc::default() };
        let own = recorder.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || own.serve(stream));
            }
        });
        recorder
    }

    /// All that has come: the requests, and what is left of connections that do not end with one.
    pub(crate) fn received(&self) -> (Vec<Request>, Vec<Rest>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut requests, mut rests) = (Vec::new(), Vec::new());
        for connection in &kept.connections {
            let (mut of_one, rest) = split(connection);
            requests.append(&mut of_one);
            rests.push(rest);
        }
        (requests, rests)
    }

    /// What came, a connection each.
    pub(crate) fn connections(&self) -> Vec<Vec<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).connections.clone()
    }

    /// What came as text, for a failure's message.
    pub(crate) fn transcript(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.connections.iter().map(|bytes| format!("{:?}\n", String::from_utf8_lossy(bytes))).collect()
    }

    fn serve(&self, mut stream: TcpStream) {
        let number = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.connections.push(Vec::new());
            kept.connections.len() - 1
        };
        let (mut answered, mut piece) = (0, [0; 16 * 1024]);
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            let (requests, rest) = {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.connections[number].extend_from_slice(&piece[..length]);
                split(&kept.connections[number])
            };
            for request in &requests[answered..] {
                let body = if request.method == "HEAD" { "" } else { &request.path };
                let length = request.path.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            answered = requests.len();
            if matches!(rest, Rest::Refused(_)) {
                return; // kept, and told of at the end
            }
        }
    }
}
