//! A worker's clients, so that at the connection ceiling one that has nothing to do makes room for one that has.
//!
//! The newest idle one goes: whoever has been here for long is more likely to be needed again, and a flood of new
//! connections that ask for nothing displaces itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use crate::mux::Mux;

/// Clients that are looked at, newest first, for one that is idle: with as many newer ones at work, who is new now is
/// refused.
const LOOKED_AT_MAX: usize = 1_024;

/// A worker's.
#[derive(Default)]
pub(crate) struct Clients {
    /// By their age: the newest has the highest number.
    all: RefCell<BTreeMap<u64, Handle>>,
    numbered: Cell<u64>,
}

enum Handle {
    Http1(Rc<Client>),
    Http2(Weak<Mux>),
}

/// A client of HTTP/1, or one that has said nothing yet, as its connection's task shows it.
#[derive(Default)]
pub(crate) struct Client {
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Busy,
    /// Between two requests.
    Idle,
    /// Asked to go.
    Leaving,
}

impl Clients {
    /// A client of HTTP/1, until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>, client: &Rc<Client>) -> Entered {
        self.add(Handle::Http1(client.clone()))
    }

    pub(crate) fn enter_http2(self: &Rc<Self>, mux: &Rc<Mux>) -> Entered {
        self.add(Handle::Http2(Rc::downgrade(mux)))
    }

    fn add(self: &Rc<Self>, handle: Handle) -> Entered {
        let number = self.numbered.get();
        self.numbered.set(number + 1);
        self.all.borrow_mut().insert(number, handle);
        Entered { clients: self.clone(), number }
    }

    pub(crate) fn count(&self) -> usize {
        self.all.borrow().len()
    }

    /// Asks the newest idle client to go. `false`: none of those that were looked at is idle.
    pub(crate) fn dismiss_newest_idle(&self) -> bool {
        self.all.borrow().values().rev().take(LOOKED_AT_MAX).any(|handle| match handle {
            Handle::Http1(client) => client.dismiss(),
            Handle::Http2(mux) => mux.upgrade().is_some_and(|mux| mux.dismiss()),
        })
    }
}

/// A client in its worker's list.
pub(crate) struct Entered {
    clients: Rc<Clients>,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.clients.all.borrow_mut().remove(&self.number);
    }
}

impl Client {
    /// Waits for what ends the client's idleness. `None`: it was asked to go before.
    pub(crate) async fn idle<T>(&self, until: impl Future<Output = T>) -> Option<T> {
        let mut until = pin!(until);
        self.state.set(State::Idle);
        let waited = poll_fn(|cx| {
            if let Poll::Ready(value) = until.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            if self.state.get() == State::Leaving {
                return Poll::Ready(None);
            }
            match &mut *self.waker.borrow_mut() {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            Poll::Pending
        });
        let waited = waited.await;
        self.state.set(State::Busy);
        waited
    }

    fn dismiss(&self) -> bool {
        if self.state.get() != State::Idle {
            return false;
        }
        self.state.set(State::Leaving);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::Context;

    use super::*;

    fn entered(clients: &Rc<Clients>) -> (Rc<Client>, Entered) {
        let client = Rc::<Client>::default();
        let entered = clients.enter(&client);
        (client, entered)
    }

    #[test]
    fn the_newest_idle_client_goes_and_nobody_else() {
        let clients = Rc::<Clients>::default();
        let (old, _old) = entered(&clients);
        let (new, _new) = entered(&clients);
        let (_busy, _newest) = entered(&clients);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(!clients.dismiss_newest_idle(), "all are busy");
        let (mut waiting_old, mut waiting_new) =
            (pin!(old.idle(pending::<()>())), pin!(new.idle(pending::<()>())));
        assert!(
            waiting_old.as_mut().poll(&mut cx).is_pending()
                && waiting_new.as_mut().poll(&mut cx).is_pending()
        );
        assert!(clients.dismiss_newest_idle());
        assert_eq!(waiting_new.as_mut().poll(&mut cx), Poll::Ready(None));
        assert!(waiting_old.as_mut().poll(&mut cx).is_pending());
        assert!(clients.dismiss_newest_idle());
        assert_eq!(waiting_old.as_mut().poll(&mut cx), Poll::Ready(None));
        assert!(!clients.dismiss_newest_idle());
    }

    #[test]
    fn a_request_that_is_there_already_is_taken() {
        let clients = Rc::<Clients>::default();
        let (client, entered) = entered(&clients);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(client.idle(ready(7))).poll(&mut cx), Poll::Ready(Some(7)));
        assert!(!clients.dismiss_newest_idle(), "it is at work");
        drop(entered);
        assert!(clients.all.borrow().is_empty());
    }
}
