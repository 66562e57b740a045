//! A new connection for each request: connect, ask, read the answer, until the proxy closes. So many at a time.
//!
//! A closed loop, as what is asked is how many connections a second go through; the latency is from before `connect`. One
//! thread with `epoll`, so that the client takes little of what it measures.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::failure::{Doing as _, Failure, Result, fail};
use crate::http_text::{Answer, Parsed};
use crate::statistics::Latencies;
use crate::target::{Outcome, Target};

pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) path: &'static str,
    pub(crate) body_bytes: usize,
    pub(crate) at_a_time: usize,
    pub(crate) span: Duration,
}

/// Any connection is served within this, or something is broken.
const STALLED: Duration = Duration::from_secs(10);

/// Opens connections for as long as the plan says, and waits for those that are open then.
pub(crate) fn run(plan: &Plan, at_end: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<Outcome> {
    let begun = Instant::now();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        plan.target.of_path(plan.path),
        plan.target.host
    );
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).doing(|| "epoll".to_owned())?;
    let mut client = Client { plan, request: request.into_bytes(), epoll, under_way: Vec::new() };
    for number in 0..plan.at_a_time {
        let connection = client.open(number)?;
        client.under_way.push(Some(connection));
    }
    let mut microseconds = Vec::new();
    let mut events = Vec::with_capacity(plan.at_a_time);
    while client.under_way.iter().any(Option::is_some) {
        events.clear();
        let patience = Timespec::try_from(STALLED).doing(|| "a time-out".to_owned())?;
        epoll::wait(&client.epoll, spare_capacity(&mut events), Some(&patience))
            .doing(|| "epoll".to_owned())?;
        if events.is_empty() {
            return fail(format!("a new connection got no answer within {STALLED:?}"));
        }
        for event in &events {
            let number = event.data.u64() as usize;
            if let Some(taken) = client.go_on(number)? {
                microseconds.push(taken.as_micros() as u64);
                let again = begun.elapsed() < plan.span;
                client.under_way[number] = if again { Some(client.open(number)?) } else { None };
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    at_end()?;
    let answered = microseconds.len() as u64;
    let latencies =
        Latencies::of(microseconds).ok_or_else(|| Failure("no connection was made".to_owned()))?;
    Ok(Outcome { answered, seconds, latencies, cut_off_max: 0 })
}

struct Client<'p> {
    plan: &'p Plan,
    request: Vec<u8>,
    epoll: OwnedFd,
    /// By number; `None`: it is not opened again.
    under_way: Vec<Option<Connection>>,
}

struct Connection {
    stream: TcpStream,
    begun: Instant,
    stage: Stage,
}

enum Stage {
    Connecting,
    /// The answer so far; `None`: it is whole, and the other end has to close.
    Answering(Option<Answer>),
}

impl Client<'_> {
    fn open(&self, number: usize) -> Result<Connection> {
        let begun = Instant::now();
        let doing = || format!("connecting to {}", self.plan.target.address);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).doing(doing)?;
        match connect(&socket, &self.plan.target.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return fail(format!("{}: {error}", doing())),
        }
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.epoll, socket.as_fd(), data, epoll::EventFlags::OUT).doing(doing)?;
        Ok(Connection { stream: socket.into(), begun, stage: Stage::Connecting })
    }

    /// How long it took, once it is over.
    fn go_on(&mut self, number: usize) -> Result<Option<Duration>> {
        let Some(Some(connection)) = self.under_way.get_mut(number) else { return Ok(None) };
        let Connection { stream, begun, stage } = connection;
        match stage {
            Stage::Connecting => {
                if let Some(error) = stream.take_error().doing(|| "asking a socket".to_owned())? {
                    return fail(format!("connecting to {}: {error}", self.plan.target.address));
                }
                // A hundred bytes on a new connection always find room.
                (&*stream).write_all(&self.request).doing(|| "sending a request".to_owned())?;
                let data = epoll::EventData::new_u64(number as u64);
                epoll::modify(&self.epoll, &*stream, data, epoll::EventFlags::IN)
                    .doing(|| "epoll".to_owned())?;
                *stage = Stage::Answering(Some(Answer::new(self.plan.body_bytes)));
                Ok(None)
            }
            Stage::Answering(answer) => {
                let mut buffer = [0; 4_096];
                let read = match (&*stream).read(&mut buffer) {
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return fail(format!("reading an answer: {error}")),
                };
                match (&mut *answer, read) {
                    // Whoever answers closes first, so no port of the client's waits for late packets.
                    (None, 0) => Ok(Some(begun.elapsed())),
                    (Some(_), 0) => fail("the proxy closed a connection before its answer was whole"),
                    (None, _) => fail("more bytes came than the answer has"),
                    (Some(part), read) => {
                        if part.take(&buffer[..read]).map_err(Failure)? == Parsed::Whole {
                            *answer = None;
                        }
                        Ok(None)
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::target::Form;

    fn served(answer: &'static [u8]) -> (Target, thread::JoinHandle<u64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target { address: listener.local_addr().unwrap(), host: "test", form: Form::Origin };
        let server = thread::spawn(move || {
            let mut served = 0;
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 1_024];
                match stream.read(&mut buffer) {
                    Ok(1..) => {
                        let _ = stream.write_all(answer);
                        served += 1;
                    }
                    // Who says nothing ends the server.
                    _ => return served,
                }
            }
        });
        (target, server)
    }

    fn run(target: &Target) -> Result<Outcome> {
        let span = Duration::from_millis(50);
        let plan = Plan { target: target.clone(), path: "/", body_bytes: 2, at_a_time: 3, span };
        super::run(&plan, &mut || Ok(()))
    }

    #[test]
    fn each_request_has_a_connection() {
        let (target, server) = served(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let outcome = run(&target).unwrap();
        drop(TcpStream::connect(target.address).unwrap());
        assert_eq!(server.join().unwrap(), outcome.answered);
        assert!(outcome.answered >= 3, "{outcome:?}");
    }

    #[test]
    fn an_answer_that_is_none_ends_it() {
        let (target, server) = served(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno");
        assert!(run(&target).unwrap_err().to_string().contains("503"));
        // Those of the three that had come before it are served, or not.
        drop(TcpStream::connect(target.address).unwrap());
        server.join().unwrap();
    }
}
