//! ADS, delta for sidecars and Envoy, state-of-the-world for gRPC and Envoy (`dialect.rs`): one task a stream, which drives the session
//! of `meshwork_xds` with what the mesh is now.
//!
//! The namespace from which a stream asks is its certificate's. A task sleeps until its client says something or the mesh
//! changes in what the stream is about (`sessions.rs`). A stream that reads slowly keeps its own task waiting, and
//! meanwhile misses nothing: it is told the newest state when it reads on.

mod dialect;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshwork_core::compile::Audience;
use meshwork_core::mesh::Topic;
use meshwork_core::model::{Key as Named, SpiffeId};
use meshwork_core::name::PortName;
use meshwork_core::resource::ResourceType;
use meshwork_identity::{PEM_CERTIFICATE, PEM_KEY};
use meshwork_xds::codec::{DeltaResponse, EncodedResource, SotwResponse};
use meshwork_xds::convert::{self, IDENTITY};
use meshwork_xds::discovery::AggregatedDiscoveryService;
use meshwork_xds::session::server::{Answer, Client, Outcome, Told, Violation};
use meshwork_xds::session::{ERA_SEEN, REVISION_SEEN, Seen, ServerSession, SotwSession};
use meshwork_xds::wire::{DeltaDiscoveryRequest, DiscoveryRequest, core};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use crate::caller::{CertificateEnd, RemoteAddress, workload};
use crate::eras::Eras;
use crate::lock::lock;
use crate::metrics::{Metrics, Push};
use crate::push::Memo;
use crate::sessions::{News, Place, Sessions, What};
use crate::view::{View, Views};
use dialect::Dialect;

/// Responses that may wait for a sidecar to read them; what comes after waits in the session, and is then
/// told as it is, not as it became.
const RESPONSES_WAITING_MAX: usize = 16;

/// How long a stream waits here for a revision that its sidecar has seen. The model follows the store within 20 ms, a
/// replica of it within milliseconds more.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// Changes whose way to one client is timed at once: who is further behind than that makes no change look slower than the
/// oldest of them.
const OWED_MAX: usize = 64;

/// On its way to a stream. A channel has room for 32 from the beginning, most of which nothing ever is in.
type Boxed<R> = Box<Result<R, Status>>;

/// What a stream is sent.
type Responses<R> = Map<ReceiverStream<Boxed<R>>, Unboxed<R>>;
type Unboxed<R> = fn(Boxed<R>) -> Result<R, Status>;

/// The gRPC service `envoy.service.discovery.v3.AggregatedDiscoveryService`.
pub(crate) struct DiscoveryService {
    pub(crate) views: Views,
    pub(crate) memo: Arc<Memo>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) eras: Arc<Eras>,
    pub(crate) drain: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for DiscoveryService {
    type DeltaAggregatedResourcesStream = Responses<DeltaResponse>;
    type StreamAggregatedResourcesStream = Responses<SotwResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.serve(request, ServerSession::new()).await
    }

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.serve(request, SotwSession::new()).await
    }
}

impl DiscoveryService {
    async fn serve<S: Dialect>(
        &self,
        request: Request<Streaming<S::Request>>,
        session: S,
    ) -> Result<Response<Responses<S::Response>>, Status> {
        let id = workload(&request)?;
        let mut views = self.views.clone();
        let seen = seen(request.metadata());
        self.eras.admit(&id, &seen).map_err(Status::failed_precondition)?;
        let view = at_least(&mut views, &seen).await?;
        let extensions = request.extensions();
        let remote = extensions.get().map(|RemoteAddress(address)| *address);
        let certificate_end = extensions.get::<CertificateEnd>().cloned().unwrap_or_default();
        let session = Arc::new(Mutex::new(session));
        let told: Arc<Mutex<dyn Told>> = session.clone();
        let place = self.sessions.open(id, remote, certificate_end, told, view.number);
        let (responses, stream) = mpsc::channel(RESPONSES_WAITING_MAX);
        let memo = Arc::clone(&self.memo);
        let metrics = Arc::clone(&self.metrics);
        let (through, generation, identity, owed) = (view.number, None, None, Vec::new());
        let task =
            Stream { place, session, views, through, generation, memo, responses, identity, owed, metrics };
        let drain = self.drain.clone();
        let inbound = request.into_inner();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task.run(inbound) => {}
                () = drain.cancelled() => {}
            }
        });
        let unboxed: Unboxed<S::Response> = |response| *response;
        let mut response = Response::new(ReceiverStream::new(stream).map(unboxed));
        if let Ok(era) = MetadataValue::try_from(self.eras.name()) {
            response.metadata_mut().insert(ERA_SEEN, era);
        }
        Ok(response)
    }
}

fn seen(metadata: &MetadataMap) -> Seen {
    let text = |name| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Seen { era: text(ERA_SEEN), revision: text(REVISION_SEEN) }
}

/// The first view that is no older than what the sidecar saw, which the store has.
async fn at_least(views: &mut Views, seen: &Seen) -> Result<Arc<View>, Status> {
    let revision = seen.revision.parse().unwrap_or(0);
    match tokio::time::timeout(BEHIND_MAX, views.at_least(revision)).await {
        Ok(Some(view)) => Ok(view),
        Ok(None) => Err(Status::unavailable("the control plane is stopping")),
        Err(_) if views.current().revision >= revision => Ok(views.current()),
        Err(_) => Err(Status::unavailable("the control plane's model does not follow its store")),
    }
}

/// One stream, as long as it lasts.
struct Stream<S: Dialect> {
    place: Place,
    session: Arc<Mutex<S>>,
    views: Views,
    /// The session was told of each view up to this one that concerns it.
    through: u64,
    /// Of the subscriptions that the stream's topics are of; `None`: it has none yet.
    generation: Option<u64>,
    memo: Arc<Memo>,
    responses: mpsc::Sender<Boxed<S::Response>>,
    /// The client's own key and certificate, for which it asks us though they are on its machine.
    identity: Option<EncodedResource>,
    /// Changes that its client has yet to answer.
    owed: Vec<Arc<Push>>,
    metrics: Arc<Metrics>,
}

impl<S: Dialect> Stream<S> {
    async fn run(mut self, mut inbound: Streaming<S::Request>) {
        loop {
            let responses = tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(request)) => self.request(request),
                    Ok(None) => return,
                    // A sidecar that was killed looks like this. Whoever sent what can't be read is told so.
                    Err(status) => {
                        tracing::debug!(id = %self.place.stream.id, %status, "an ADS stream broke off");
                        let _ = self.responses.try_send(Box::new(Err(status)));
                        return;
                    }
                },
                news = self.place.stream.news() => self.changed(news),
            };
            let responses = match responses {
                Ok(responses) => responses,
                Err(status) => {
                    tracing::warn!(id = %self.place.stream.id, %status, "ended an ADS stream");
                    // The stream ends either way.
                    let _ = self.responses.send(Box::new(Err(status))).await;
                    return;
                }
            };
            for response in responses {
                self.metrics.pushes.inc();
                if self.responses.send(Box::new(Ok(response))).await.is_err() {
                    return;
                }
            }
        }
    }

    fn request(&mut self, request: S::Request) -> Result<Vec<S::Response>, Status> {
        let view = self.views.current();
        let stream = &self.place.stream;
        let mut session = lock(&self.session);
        let audience = match S::node(&request) {
            Some(node) => S::audience(&node.user_agent_name, &node.client_features),
            None => audience(&*session),
        };
        let audience = audience.map_err(Status::unimplemented)?;
        if let (None, Some(node)) = (&self.identity, S::node(&request)) {
            self.identity = own_identity(node).map_err(|violation| refused(&violation, &self.metrics))?;
        }
        let identity = self.identity.as_ref();
        let asker = Asker { id: &stream.id, audience, view: &view, memo: &self.memo, identity };
        let revision = view.revision.to_string();
        let taken = session
            .request(request, &revision, &mut |resource_type, name| asker.resolve(resource_type, name));
        let Outcome { responses, answer } = taken.map_err(|violation| refused(&violation, &self.metrics))?;
        if let Some(answer) = &answer {
            let is_ack = matches!(answer, Answer::Took { .. });
            self.metrics.answers.count(if is_ack { "ack" } else { "nack" });
        }
        if let Some(Answer::Refused { resource_type, refused }) = answer {
            for name in refused {
                let (name, reason) = (name.name, name.reason);
                tracing::warn!(id = %stream.id, ?resource_type, name, reason, "a client refused a resource");
            }
        }
        drop(session);
        self.follow(audience, &view);
        Ok(responses)
    }

    fn changed(&mut self, News { what, view: newest, pushes }: News) -> Result<Vec<S::Response>, Status> {
        let view = self.views.current();
        let stream = &self.place.stream;
        let mut session = lock(&self.session);
        let audience = audience(&*session).map_err(Status::unimplemented)?;
        let identity = self.identity.as_ref();
        let asker = Asker { id: &stream.id, audience, view: &view, memo: &self.memo, identity };
        let namespace = stream.id.namespace();
        let mut concerns = |resource_type, name: &str| match &what {
            What::Nothing => false,
            What::These(changes) => {
                changes.iter().any(|changed| changed.concerns_for(audience, resource_type, name, namespace))
            }
            What::Anything => true,
        };
        let responses =
            session.changed(&mut concerns, &view.revision.to_string(), &mut |resource_type, name| {
                asker.resolve(resource_type, name)
            });
        drop(session);
        self.through = self.through.max(newest);
        let room = OWED_MAX.saturating_sub(self.owed.len());
        self.owed.extend(pushes.into_iter().take(room));
        self.follow(audience, &view);
        Ok(responses)
    }

    /// After each step: what the stream is about may be something else now, and its client may have confirmed all.
    fn follow(&mut self, audience: Audience, view: &View) {
        let session = lock(&self.session);
        if has_answered(&*session, |resource_type| resource_type == ResourceType::Endpoints) {
            self.place.stream.settle(self.through);
        }
        if !self.owed.is_empty() && has_answered(&*session, |_| true) {
            self.owed = Vec::new();
        }
        let generation = Some(session.generation());
        if generation == self.generation {
            return;
        }
        let namespace = self.place.stream.id.namespace();
        let names = session.subscriptions().keys();
        let mut topics: BTreeSet<Topic> =
            names.flat_map(|name| Topic::of(audience, name.resource_type, &name.name, namespace)).collect();
        if audience == Audience::Envoy {
            // Which names are part of everything may change with anything.
            topics.insert(Topic::Anything);
        }
        drop(session);
        self.generation = generation;
        self.place.is_about(topics);
        // From here on it is told; what came between `view` and now nobody could tell it.
        if self.views.current().number != view.number {
            self.place.stream.compare_all();
        }
    }
}

fn refused(violation: &Violation, metrics: &Metrics) -> Status {
    if !violation.is_limit() {
        return Status::invalid_argument(violation.to_string());
    }
    metrics.limits_reached.count("session");
    Status::resource_exhausted(violation.to_string())
}

/// Names the files of a client that says where it keeps them.
fn own_identity(node: &core::Node) -> Result<Option<EncodedResource>, Violation> {
    let client = Client::of(node.clone())?;
    Ok(client.identity.map(|directory| convert::identity(&directory, PEM_CERTIFICATE, PEM_KEY)))
}

/// Whether the client has answered all that it was told of such resources.
fn has_answered(session: &dyn Told, such: impl Fn(ResourceType) -> bool) -> bool {
    let mut names = session.subscriptions().keys().filter(|reference| such(reference.resource_type));
    !names.any(|reference| session.awaits_answer(reference.resource_type, &reference.name))
}

fn audience<S: Dialect>(session: &S) -> Result<Audience, String> {
    let Some(client) = session.client() else { return S::audience("", &[]) };
    S::audience(&client.agent, &client.features)
}

/// Who asks, and what it may see.
struct Asker<'a> {
    id: &'a SpiffeId,
    audience: Audience,
    view: &'a View,
    memo: &'a Memo,
    identity: Option<&'a EncodedResource>,
}

impl Asker<'_> {
    fn resolve(&self, resource_type: ResourceType, name: &str) -> Option<EncodedResource> {
        if resource_type == ResourceType::TrustBundle && name == IDENTITY {
            return self.identity.cloned();
        }
        let namespace = self.id.namespace();
        let allowed = match resource_type {
            // Another namespace's view of a service is its own affair.
            ResourceType::Route => {
                let from = name.parse::<PortName>().ok().and_then(|name| name.from);
                from.is_none_or(|from| from == namespace)
            }
            ResourceType::Inbound => self.owns(name),
            ResourceType::Listener
            | ResourceType::Cluster
            | ResourceType::Endpoints
            | ResourceType::MeshSettings
            | ResourceType::TrustBundle
            // Names are no secret inside a mesh: whoever may call a service must be able to find it.
            | ResourceType::NameTable => true,
        };
        if !allowed {
            tracing::warn!(id = %self.id, ?resource_type, name, "a sidecar asked for what is not its own");
            return None;
        }
        self.memo.resource(self.view, resource_type, name, namespace, self.audience)
    }

    /// A workload's inbound side is for its own sidecar: same namespace, same account.
    fn owns(&self, name: &str) -> bool {
        let Some((namespace, workload)) = name.split_once('/') else { return false };
        let workload = self.view.mesh.workload(&Named::new(namespace, workload));
        namespace == self.id.namespace()
            && workload.is_none_or(|workload| workload.account == self.id.account())
    }
}
