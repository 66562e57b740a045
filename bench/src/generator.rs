//! Requests at a constant rate, whatever the answers do: an open loop.
//!
//! Each request has a time at which it should go out, and its latency counts from there. A client that waits for a
//! slow answer before it sends the next one would leave out exactly the requests that would have been slow
//! (coordinated omission).
//!
//! One thread, `epoll` and a timer with nanoseconds: a timer of milliseconds would be most of what is measured.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::failure::{Doing as _, Failure, Result, fail};
use crate::http_text::{Answer, Parsed};
use crate::statistics::Latencies;
use crate::target::{Outcome, Target};

pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) path: &'static str,
    pub(crate) body_bytes: usize,
    pub(crate) connections: u32,
    pub(crate) per_second: u32,
    pub(crate) span: Duration,
}

/// After the last request was due, answers may take so long.
const LAST_ANSWERS_WAIT: Duration = Duration::from_secs(10);

/// The timer's mark among the sockets' numbers.
const TIMER: u64 = u64::MAX;

/// Sends all requests of the plan and waits for all answers; `at_end` runs while the connections are still open.
pub(crate) fn run(plan: &Plan, at_end: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<Outcome> {
    // The kernel would let a timer of ours be 50 µs late.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
        .doing(|| "setting the timer's slack".to_owned())?;
    let mut generator = Generator::connect(plan)?;
    generator.send_all(plan)?;
    at_end()?;
    let latencies = Latencies::of(generator.microseconds);
    let latencies = latencies.ok_or_else(|| Failure("no request was due".to_owned()))?;
    let seconds = plan.span.as_secs_f64();
    Ok(Outcome { answered: generator.answered, seconds, latencies, cut_off_max: 0 })
}

/// When which request should go out.
struct Schedule {
    start: Instant,
    interval: Duration,
    count: u64,
    next: u64,
}

impl Schedule {
    fn new(start: Instant, per_second: u32, span: Duration) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        let count = (span.as_secs_f64() * f64::from(per_second)).round() as u64;
        Self { start, interval, count, next: 0 }
    }

    /// `None`: all are out.
    fn next_due(&self) -> Option<Instant> {
        let after = Duration::from_nanos(self.interval.as_nanos() as u64 * self.next);
        (self.next < self.count).then(|| self.start + after)
    }

    /// The intended times that have come.
    fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next_due().filter(|due| *due <= now)?;
        self.next += 1;
        Some(due)
    }
}

struct Connection {
    stream: TcpStream,
    answer: Answer,
    /// When the request that is on its way should have gone out.
    intended: Option<Instant>,
}

struct Generator {
    request: Vec<u8>,
    connections: Vec<Connection>,
    /// Numbers of those without a request, the longest idle first: all of them get their turn.
    idle: VecDeque<usize>,
    epoll: OwnedFd,
    timer: OwnedFd,
    microseconds: Vec<u64>,
    answered: u64,
}

impl Generator {
    fn connect(plan: &Plan) -> Result<Self> {
        let target = &plan.target;
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.of_path(plan.path), target.host);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).doing(|| "epoll".to_owned())?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).doing(|| "a timer".to_owned())?;
        let watch_timer = epoll::EventData::new_u64(TIMER);
        epoll::add(&epoll, &timer, watch_timer, epoll::EventFlags::IN)
            .doing(|| "watching a timer".to_owned())?;
        let mut connections = Vec::new();
        for number in 0..plan.connections {
            let doing = || format!("connecting to {} for the {number}. time", target.address);
            let stream = TcpStream::connect(target.address).doing(doing)?;
            stream.set_nonblocking(true).doing(doing)?;
            stream.set_nodelay(true).doing(doing)?;
            let data = epoll::EventData::new_u64(u64::from(number));
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN).doing(doing)?;
            connections.push(Connection { stream, answer: Answer::new(plan.body_bytes), intended: None });
        }
        let idle = (0..connections.len()).collect();
        let microseconds = Vec::new();
        Ok(Self { request: request.into_bytes(), connections, idle, epoll, timer, microseconds, answered: 0 })
    }

    fn send_all(&mut self, plan: &Plan) -> Result<()> {
        let mut schedule = Schedule::new(Instant::now(), plan.per_second, plan.span);
        let give_up = schedule.start + plan.span + LAST_ANSWERS_WAIT;
        let mut waiting = VecDeque::new();
        let mut events = Vec::with_capacity(256);
        while self.answered < schedule.count {
            let now = Instant::now();
            waiting.extend(std::iter::from_fn(|| schedule.take_due(now)));
            while let Some(number) = self.idle.front().copied() {
                let Some(intended) = waiting.pop_front() else { break };
                self.idle.pop_front();
                self.send(number, intended)?;
            }
            self.set_timer(schedule.next_due().unwrap_or(give_up), now)?;
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), None).doing(|| "epoll".to_owned())?;
            if Instant::now() >= give_up {
                return fail(format!("{} of {} requests were answered", self.answered, schedule.count));
            }
            for event in &events {
                match event.data.u64() {
                    TIMER => {}
                    number => self.receive(number as usize)?,
                }
            }
        }
        Ok(())
    }

    /// One-shot, from now. Setting it anew also clears that it has fired.
    fn set_timer(&self, until: Instant, now: Instant) -> Result<()> {
        // Zero would switch it off.
        let left = until.saturating_duration_since(now).max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .doing(|| "setting a timer".to_owned())?;
        Ok(())
    }

    fn send(&mut self, number: usize, intended: Instant) -> Result<()> {
        let connection = &mut self.connections[number];
        connection.intended = Some(intended);
        // A request of a hundred bytes on a connection without one always finds room.
        (&connection.stream).write_all(&self.request).doing(|| "sending a request".to_owned())
    }

    fn receive(&mut self, number: usize) -> Result<()> {
        let connection = &mut self.connections[number];
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = match (&connection.stream).read(&mut buffer) {
                Ok(0) => return fail("the proxy closed a connection"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return fail(format!("reading an answer: {error}")),
            };
            match connection.answer.take(&buffer[..read]).map_err(Failure)? {
                Parsed::Part => {}
                Parsed::Whole => {
                    let Some(intended) = connection.intended.take() else {
                        return fail("an answer came for which there was no request");
                    };
                    self.microseconds.push(microseconds_since(intended, Instant::now()));
                    self.answered += 1;
                    self.idle.push_back(number);
                    return Ok(());
                }
            }
        }
    }
}

/// Corrected: from when it should have gone out, not from when it did.
fn microseconds_since(intended: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(intended).as_micros() as u64
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::target::Form;

    #[test]
    fn requests_are_due_at_even_distances() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1_000, Duration::from_millis(3));
        assert_eq!(schedule.take_due(start), Some(start));
        assert_eq!(schedule.take_due(start), None);
        let late = start + Duration::from_millis(50);
        assert_eq!(schedule.take_due(late), Some(start + Duration::from_millis(1)));
        assert_eq!(schedule.take_due(late), Some(start + Duration::from_millis(2)));
        assert_eq!((schedule.take_due(late), schedule.next_due()), (None, None));
    }

    /// One connection to a server that stalls for 100 ms at its first answer: of 50 requests at 1,000/s most were
    /// held up by it. Measured from the actual sending, only the first would be slow.
    #[test]
    fn a_stall_is_charged_to_all_whom_it_held_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stall = Duration::from_millis(100);
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut first = true;
            let mut buffer = [0; 1024];
            while let Ok(1..) = stream.read(&mut buffer) {
                if std::mem::take(&mut first) {
                    thread::sleep(stall); // this is the slowness that is measured
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
        });
        let target = Target { address, host: "test", form: Form::Origin };
        let span = Duration::from_millis(50);
        let plan = Plan { target, path: "/", body_bytes: 2, connections: 1, per_second: 1_000, span };
        let outcome = run(&plan, &mut || Ok(())).unwrap();
        server.join().unwrap();
        assert_eq!(outcome.answered, 50);
        assert!(outcome.latencies.p50 >= 50_000.0, "{outcome:?}");
    }

    #[test]
    fn an_answer_that_is_none_ends_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer);
            stream.write_all(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        let target = Target { address, host: "test", form: Form::Origin };
        let span = Duration::from_millis(1);
        let plan = Plan { target, path: "/", body_bytes: 2, connections: 1, per_second: 1_000, span };
        assert!(run(&plan, &mut || Ok(())).unwrap_err().to_string().contains("503"));
        server.join().unwrap();
    }
}
