//! `meshwork.v1.Sidecar/Session`: one stream a sidecar, over which it registers, renews its lease, reports
//! its application's health and takes its leave.
//!
//! Namespace and service are those of the client's certificate. A stream that breaks off changes nothing at
//! once: the lease runs on, and the sidecar is back before it lapses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use meshwork_core::model::{Key as Named, SpiffeId};
use meshwork_xds::proto::control_message::Message as Down;
use meshwork_xds::proto::sidecar_message::Message as Up;
use meshwork_xds::proto::sidecar_server::Sidecar;
use meshwork_xds::proto::{self, ControlMessage, SidecarMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::{Connected, Refused, Registration, Registry};
use crate::caller::{CertificateEnd, RemoteAddress, workload};
use crate::metrics::Metrics;
use crate::sessions::Sessions;
use crate::time::unix_seconds;
use crate::view::Views;

/// Answers and orders that may wait for a sidecar to read them. An answer follows a message of its own, so a sidecar
/// that sends and never reads is made to wait; an order that finds no room is refused to the operator.
const ANSWERS_WAITING_MAX: usize = 8;

/// How long a welcome waits for the model to follow the registration: it takes 20 ms. A model that is stuck must
/// not keep sidecars out.
const VISIBLE_MAX: Duration = Duration::from_secs(2);

/// Backends, and ejected endpoints of one, that are kept of a sidecar's summary: more than anybody reads of one
/// sidecar, and some hundred kilobytes at worst.
const BACKENDS_MAX: usize = 64;
const EJECTED_MAX: usize = 16;

/// Kinds of limits that are kept: there are eight.
const LIMITS_MAX: usize = 16;

/// The gRPC service `meshwork.v1.Sidecar`.
pub(crate) struct SidecarService(pub(crate) Arc<Sidecars>);

/// What every stream's task stands on.
pub(crate) struct Sidecars {
    pub(crate) registry: Registry,
    pub(crate) views: Views,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) mesh_id: String,
    /// How long a drain waits for the callers' sidecars.
    pub(crate) withdrawal: Duration,
    pub(crate) drain: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) session_last: AtomicU64,
    pub(crate) metrics: Arc<Metrics>,
}

/// One stream, as long as it lasts.
struct Session {
    number: u64,
    id: SpiffeId,
    remote: Option<std::net::SocketAddr>,
    certificate_end: CertificateEnd,
    /// Once it has registered.
    workload: Option<Named>,
}

#[tonic::async_trait]
impl Sidecar for SidecarService {
    type SessionStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SidecarMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let extensions = request.extensions();
        let session = Session {
            number: self.0.session_last.fetch_add(1, Ordering::Relaxed),
            id: workload(&request)?,
            remote: extensions.get().map(|RemoteAddress(address)| *address),
            certificate_end: extensions.get::<CertificateEnd>().cloned().unwrap_or_default(),
            workload: None,
        };
        let (answers, stream) = mpsc::channel(ANSWERS_WAITING_MAX);
        self.0.tasks.spawn(Arc::clone(&self.0).serve(session, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

pub(super) type Answers = mpsc::Sender<Result<ControlMessage, Status>>;

impl Sidecars {
    async fn serve(
        self: Arc<Self>,
        mut session: Session,
        mut inbound: Streaming<SidecarMessage>,
        answers: Answers,
    ) {
        loop {
            let message = tokio::select! {
                message = inbound.message() => message,
                () = self.drain.cancelled() => break,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => break,
                // A sidecar that was killed looks like this. Whoever sent what can't be read is told so.
                Err(status) => {
                    tracing::debug!(id = %session.id, %status, "a sidecar's session broke off");
                    let _ = answers.try_send(Err(status));
                    break;
                }
            };
            let sequence = message.sequence;
            let answer = match self.answer(&mut session, message, &answers).await {
                Ok(None) => continue,
                Ok(Some(answer)) => answer,
                Err(refused) => {
                    self.metrics.registrations_refused.count(refused.word());
                    tracing::warn!(id = %session.id, remote = ?session.remote, "refused a sidecar: {refused}");
                    // The stream ends after it either way.
                    let _ = answers.send(refusal(sequence, &refused)).await;
                    break;
                }
            };
            if answers.send(Ok(ControlMessage { message: Some(answer) })).await.is_err() {
                break;
            }
        }
        if let Some(workload) = &session.workload {
            self.registry.disconnected(workload, session.number);
        }
    }

    async fn answer(
        &self,
        session: &mut Session,
        message: SidecarMessage,
        answers: &Answers,
    ) -> Result<Option<Down>, Refused> {
        let SidecarMessage { sequence, message } = message;
        let Some(message) = message else {
            tracing::debug!(id = %session.id, "ignored a message that this version does not know");
            return Ok(None);
        };
        if let Up::Register(register) = message {
            let workload = self.register(session, &register, answers).await?;
            session.workload = Some(workload);
            return Ok(Some(Down::Welcome(self.welcome(sequence))));
        }
        let registered = session.workload.as_ref();
        let workload =
            registered.ok_or_else(|| Refused::Invalid("the first message must be Register".to_owned()))?;
        match message {
            Up::Register(_) => Ok(None), // answered above
            Up::Renewal(proto::Renewal {}) => self.registry.renew(workload).map(|()| None),
            Up::Health(proto::HealthReport { healthy, detail }) => {
                tracing::info!(%workload, healthy, detail = shortened(&detail), "a workload's health changed");
                self.registry.report(workload, healthy).map(|()| None)
            }
            Up::Summary(summary) => {
                self.registry.summarize(workload, session.number, bounded(summary));
                Ok(None)
            }
            Up::Drain(proto::Drain {}) => {
                tracing::info!(%workload, "a workload drains");
                self.withdraw(workload).await?;
                Ok(Some(Down::Withdrawn(proto::Withdrawn { sequence })))
            }
        }
    }

    async fn register(
        &self,
        session: &Session,
        register: &proto::Register,
        answers: &Answers,
    ) -> Result<Named, Refused> {
        if !register.mesh_id.is_empty() && register.mesh_id != self.mesh_id {
            let (own, other) = (self.mesh_id.clone(), shortened(&register.mesh_id));
            return Err(Refused::OtherMesh { own, other });
        }
        let registration = Registration::read(&session.id, register)?;
        let workload = registration.workload.key();
        if let Some(before) = session.workload.as_ref().filter(|before| **before != workload) {
            return Err(Refused::Invalid(format!("this session is {before}'s; a workload keeps its name")));
        }
        let connected = Connected {
            session: session.number,
            id: session.id.clone(),
            remote: session.remote,
            version: shortened(&register.version),
            certificate_end: session.certificate_end.clone(),
            clock_ahead_seconds: clock_ahead(register.time_seconds),
            summary: proto::Summary::default(),
            orders: answers.clone(),
        };
        self.registry.register(&registration, connected, register.healthy).await?;
        self.visible().await;
        tracing::info!(%workload, id = %session.id, version = shortened(&register.version), "registered a workload");
        Ok(workload)
    }

    /// Waits until whoever asks is told of what was registered: who starts a service and then its caller, each once
    /// the other is ready, must not meet a mesh that does not know the service yet.
    async fn visible(&self) {
        let mut views = self.views.clone();
        let revision = self.registry.store.revision();
        if tokio::time::timeout(VISIBLE_MAX, views.at_least(revision)).await.is_err() {
            tracing::warn!(revision, "the model does not follow the store; a workload is welcomed unseen");
        }
    }

    /// Waits until every sidecar that may send to the workload knows that it must not, but not for ever.
    async fn withdraw(&self, workload: &Named) -> Result<(), Refused> {
        let wait = async {
            if let Some(view) = self.registry.drain(workload).await? {
                let (kept, ()) =
                    tokio::join!(self.registry.keep_drained(workload), self.sessions.settled(view));
                kept?;
            }
            Ok(())
        };
        match tokio::time::timeout(self.withdrawal, wait).await {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!(%workload, "some sidecars did not confirm in time that a workload drains");
                Ok(())
            }
        }
    }

    fn welcome(&self, sequence: u64) -> proto::Welcome {
        let seconds = self.registry.standings.term().as_secs().max(1);
        proto::Welcome {
            sequence,
            mesh_id: self.mesh_id.clone(),
            lease_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        }
    }
}

/// What another try mends ends the stream, so that the sidecar comes back soon; the rest is said outright.
fn refusal(sequence: u64, refused: &Refused) -> Result<ControlMessage, Status> {
    let reason = refused.to_string();
    match refused {
        Refused::LeaseOver(_) => Err(Status::aborted(reason)),
        Refused::Store(_) | Refused::Commit(_) => Err(Status::unavailable(reason)),
        Refused::OtherService { .. }
        | Refused::OtherAccount { .. }
        | Refused::OtherMesh { .. }
        | Refused::WrittenByHand(_)
        | Refused::Invalid(_)
        | Refused::Unreadable(_) => {
            Ok(ControlMessage { message: Some(Down::Refused(proto::Refused { sequence, reason })) })
        }
    }
}

/// How far a sidecar's clock is ahead of ours, as it says; `None`: it says nothing.
fn clock_ahead(told: u64) -> Option<i64> {
    let own = i64::try_from(unix_seconds(SystemTime::now())).ok()?;
    i64::try_from(told).ok().filter(|told| *told > 0).map(|told| told - own)
}

/// As much of a sidecar's summary as is kept.
fn bounded(summary: proto::Summary) -> proto::Summary {
    let proto::Summary {
        config,
        config_reason,
        mut backends,
        certificate_warning,
        mut limits,
        retries_withheld,
    } = summary;
    limits.truncate(LIMITS_MAX);
    for limit in &mut limits {
        limit.kind = shortened(&limit.kind);
    }
    backends.truncate(BACKENDS_MAX);
    for backend in &mut backends {
        backend.backend = shortened(&backend.backend);
        backend.ejected.truncate(EJECTED_MAX);
        for ejected in &mut backend.ejected {
            for text in [&mut ejected.address, &mut ejected.workload] {
                *text = shortened(text);
            }
        }
    }
    let [config, config_reason, certificate_warning] =
        [config, config_reason, certificate_warning].map(|text| shortened(&text));
    proto::Summary { config, config_reason, backends, certificate_warning, limits, retries_withheld }
}

/// A sidecar's own words, for logs and lists.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    text.chars().take(CHARS_MAX).collect()
}
