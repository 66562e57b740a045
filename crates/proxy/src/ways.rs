//! A stream to an endpoint or to the application: on an HTTP/2 connection that stands, or on a new one.
//!
//! A connection is made by a task of its own, which then drives it to its end: whoever asked for it may leave,
//! others that wait for it need not care.

use std::net::SocketAddr;
use std::rc::Rc;

use meshwork_core::policy::ConnectPolicy;

use crate::alpn::ALPN_HTTP2;
use crate::connect;
use crate::destination::BackendTls;
use crate::failure::Failure;
use crate::limits::{Account, Counted};
use crate::mux::{Mux, Stream};
use crate::pool::{Choice, Key};
use crate::worker::Worker;

/// Where a connection leads.
#[derive(Clone)]
pub(crate) enum Way {
    Mesh(SocketAddr, BackendTls),
    Clear(SocketAddr),
    Application(u16),
}

/// What a stream's connection went through before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// It was made for this request, or for one that came at the same time.
    New,
    /// It was open already, so its other end may be closing it just now.
    Pooled,
}

/// A stream on the connection that a request should take. Send the request at once: nothing is reserved.
pub(crate) async fn stream(
    key: Key,
    way: impl Fn() -> Way,
    policy: ConnectPolicy,
    account: Option<Account<'_>>,
    worker: &Rc<Worker>,
) -> Result<(Stream, Age), Failure> {
    let mut age = Age::Pooled;
    let mut waiting = None;
    loop {
        let choice = worker.pool.borrow_mut().choose(key);
        let connecting = match choice {
            Choice::Use(mux) => return Ok((Stream::to_open(mux), age)),
            Choice::Full => {
                let full = Failure::ConnectionsFull { endpoint: key.address };
                tracing::warn!("{full}");
                return Err(full);
            }
            Choice::Wait(connecting) => connecting,
            Choice::Connect(connecting) => match account.map(|account| account.connect(worker)).transpose() {
                Ok(counted) => {
                    worker.spawn(run(key, way(), policy, counted, worker.clone()));
                    connecting
                }
                Err(full) => {
                    let open = worker.pool.borrow_mut().make_do(key);
                    return open.map(|mux| (Stream::to_open(mux), age)).ok_or(full);
                }
            },
        };
        if waiting.is_none() {
            waiting = account.map(|account| account.wait(worker)).transpose()?;
        }
        connecting.wait().await.map_err(|failure| failure.again())?;
        age = Age::New;
    }
}

/// A connection's life.
async fn run(key: Key, way: Way, policy: ConnectPolicy, _counted: Option<Counted>, worker: Rc<Worker>) {
    let mut pooled = Pooled { key, mux: None, worker: &worker };
    let conn = match &way {
        Way::Mesh(address, tls) => connect::mtls(*address, tls, ALPN_HTTP2, policy.timeout, &worker).await,
        Way::Clear(address) => connect::plain(*address, policy.timeout, &worker).await,
        Way::Application(port) => connect::application(*port, &worker).await,
    };
    let conn = match conn {
        Ok(conn) => conn,
        Err(failure) => return worker.pool.borrow_mut().failed(key, Rc::new(failure)),
    };
    let mux = Mux::client(conn, policy.idle, &worker);
    worker.watch(&mux);
    pooled.mux = Some(mux.clone());
    worker.pool.borrow_mut().opened(key, mux.clone());
    let over = mux.drive(|_| ()).await;
    over.report(key.address, &worker);
}

/// The pool forgets the connection however its task ends.
struct Pooled<'a> {
    key: Key,
    mux: Option<Rc<Mux>>,
    worker: &'a Worker,
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        let mut pool = self.worker.pool.borrow_mut();
        match &self.mux {
            Some(mux) => pool.closed(self.key, mux),
            None => pool.failed(self.key, Rc::new(Failure::ConnectTimeout { endpoint: self.key.address })),
        }
    }
}
