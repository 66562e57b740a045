//! The ADS streams that are open: what each sidecar was told and has answered.
//!
//! For `status`, and for a drain, which waits until every sidecar that was told of it has said so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use meshwork_core::compile::Audience;
use meshwork_core::model::SpiffeId;
use meshwork_xds::session::server::Told;
use tokio::sync::watch;

use crate::server::CertificateEnd;

/// A program that takes its config from here without a sidecar of ours, by `node.user_agent_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    Grpc,
    Envoy,
}

impl Foreign {
    pub(crate) fn of(agent: &str) -> Option<Self> {
        // gRPC's libraries call themselves `gRPC C-core linux`, `gRPC Go`, `gRPC Java`.
        match agent {
            "envoy" => Some(Self::Envoy),
            _ if agent.starts_with("gRPC ") => Some(Self::Grpc),
            _ => None,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Envoy => "envoy",
        }
    }

    pub(crate) fn audience(self) -> Audience {
        match self {
            Self::Grpc => Audience::Grpc,
            Self::Envoy => Audience::Envoy,
        }
    }
}

#[derive(Default)]
pub(crate) struct Sessions {
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    last: u64,
    open: BTreeMap<u64, Arc<Stream>>,
}

/// One stream. Its task writes, `status` reads.
pub(crate) struct Stream {
    pub(crate) id: SpiffeId,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) certificate_end: CertificateEnd,
    session: Arc<Mutex<dyn Told>>,
    /// The newest view of which the client has confirmed all that concerns endpoints.
    settled: watch::Sender<u64>,
}

/// A stream's place among the open ones; leaving it takes the stream out.
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    number: u64,
    pub(crate) stream: Arc<Stream>,
}

impl Sessions {
    pub(crate) fn open(
        self: &Arc<Self>,
        id: SpiffeId,
        remote: Option<SocketAddr>,
        certificate_end: CertificateEnd,
        session: Arc<Mutex<dyn Told>>,
        view: u64,
    ) -> Place {
        let stream = Arc::new(Stream {
            id,
            remote,
            certificate_end,
            session,
            // What it will be told first is at least this view.
            settled: watch::Sender::new(view),
        });
        let mut streams = lock(&self.streams);
        streams.last += 1;
        let number = streams.last;
        streams.open.insert(number, Arc::clone(&stream));
        Place { sessions: Arc::clone(self), number, stream }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).open.values().cloned().collect()
    }

    /// Waits until every stream that is open now has confirmed `view`, or is gone.
    pub(crate) async fn settled(&self, view: u64) {
        let waits: Vec<_> = self.all().iter().map(|stream| stream.settled.subscribe()).collect();
        join_all(waits.into_iter().map(|mut settled| async move {
            // An error is a stream that ended: it will not send anybody anywhere by old endpoints for long.
            let _ = settled.wait_for(|reached| *reached >= view).await;
        }))
        .await;
    }
}

impl Stream {
    /// The session, for the moment of one message or one look.
    pub(crate) fn session(&self) -> MutexGuard<'_, dyn Told + 'static> {
        lock(&self.session)
    }

    /// Set for programs that take part in nothing but their own config.
    pub(crate) fn foreign(&self) -> Option<Foreign> {
        self.session().client().and_then(|client| Foreign::of(&client.agent))
    }

    pub(crate) fn settle(&self, view: u64) {
        self.settled.send_if_modified(|settled| {
            let newer = view > *settled;
            *settled = view.max(*settled);
            newer
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.sessions.streams).open.remove(&self.number);
        // Whoever waits for this stream waits no longer.
        self.stream.settle(u64::MAX);
    }
}

/// A panic elsewhere costs its own stream; these values are whole between any two statements.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(sessions: &Arc<Sessions>) -> Place {
        let id = SpiffeId::new("mesh.local", "default", "web").unwrap();
        let session = Arc::new(Mutex::new(meshwork_xds::session::ServerSession::new()));
        sessions.open(id, None, CertificateEnd::default(), session, 0)
    }

    #[tokio::test]
    async fn a_view_is_settled_when_every_open_stream_has_confirmed_it_or_ended() {
        let sessions = Arc::new(Sessions::default());
        sessions.settled(7).await; // nobody to wait for
        let (one, other) = (open(&sessions), open(&sessions));
        let wait = sessions.settled(7);
        tokio::pin!(wait);
        one.stream.settle(8);
        other.stream.settle(6);
        assert!(futures_util::poll!(wait.as_mut()).is_pending());
        drop(other);
        wait.await;
        assert_eq!(sessions.all().len(), 1);
    }
}
