//! The server's end of a connection: each stream that comes is served by a task, and a task that is done
//! serves the next one. So a request costs a wake-up, not a task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::JoinSet;

use super::slot::Slot;
use super::{Life, Mux, Stream};
use crate::conn::Conn;
use crate::drain::Stage;
use crate::http::{self, Role};
use crate::worker::Worker;

/// Tasks of one connection that wait for a stream. What a burst leaves behind beyond that ends.
const IDLE_MAX: usize = 64;

/// Where a task waits for its next stream.
#[derive(Default)]
pub(crate) struct Seat {
    /// A stream came, of which there may be none left once the task looks: clients give up.
    called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Seat {
    pub(super) fn call(&self) {
        self.called.set(true);
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Serves a client that speaks HTTP/2, until the connection ends. A drain ends it once its streams are done, and
/// them when its time is up.
pub(crate) async fn serve(conn: Conn, role: Role, worker: &Rc<Worker>) {
    let mux = Mux::server(conn, worker);
    worker.watch(&mux);
    let _entered = worker.clients.enter_http2(&mux);
    let role = Rc::new(role);
    let mut tasks = JoinSet::new();
    let drain = role.drain(worker);
    let mut finishing = pin!(drain.finishing());
    let mut time_up = pin!(drain.time_up());
    let mut is_first = true;
    let mut told = Stage::Serving;
    let between = |cx: &mut Context<'_>| {
        while let Some(stream) = mux.unserved() {
            let served = http::serve_streams(stream, role.clone(), worker.clone());
            tasks.spawn_local(worker.clock.clone().still_for(served));
        }
        while let Poll::Ready(Some(ended)) = tasks.poll_join_next(cx) {
            worker.report_panic(&ended, "a stream's task panicked; its stream is reset, others go on");
        }
        // Polled once to be woken by them; from then on looked at, which is cheaper.
        if std::mem::replace(&mut is_first, false) {
            let _ = (finishing.as_mut().poll(cx), time_up.as_mut().poll(cx));
        }
        let stage = drain.stage();
        if stage != std::mem::replace(&mut told, stage) {
            mux.drain();
            if stage == Stage::TimeUp {
                mux.wake_users();
            }
        }
    };
    let over = mux.drive(between).await;
    over.report("a client", worker);
    // Their streams are broken, so they end; what they were doing is counted.
    while tasks.join_next().await.is_some() {}
}

impl Mux {
    /// Has whoever serves a stream look at how far the drain is.
    fn wake_users(&self) {
        self.0.borrow_mut().slots.used().for_each(Slot::wake);
    }

    /// A stream for which no task was called.
    fn unserved(self: &Rc<Self>) -> Option<Stream> {
        let slots = &mut self.0.borrow_mut().slots;
        if slots.arrived.len() <= slots.called {
            return None;
        }
        Some(Stream::served(self.clone(), slots.arrived.pop_front()?))
    }
}

impl Stream {
    /// Gives this stream up and waits for the next one of its connection. `false`: there will be none, or
    /// enough others wait.
    pub(crate) async fn next(&mut self) -> bool {
        self.close();
        let arrived = self.mux.0.borrow_mut().slots.arrived.pop_front();
        if let Some(stream) = arrived {
            self.take(stream);
            return true;
        }
        if self.mux.0.borrow().slots.idle.len() >= IDLE_MAX {
            return false;
        }
        let seat = self.seat.get_or_insert_default();
        self.mux.0.borrow_mut().slots.idle.push(seat.clone());
        let stream = poll_fn(|cx| {
            let mut inner = self.mux.0.borrow_mut();
            if seat.called.take() {
                inner.slots.called -= 1;
                if let Some(stream) = inner.slots.arrived.pop_front() {
                    return Poll::Ready(Some(stream));
                }
                inner.slots.idle.push(seat.clone());
            }
            if matches!(inner.life, Life::Over(_)) {
                return Poll::Ready(None);
            }
            *seat.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        match stream.await {
            Some(stream) => {
                self.take(stream);
                true
            }
            None => false,
        }
    }
}
