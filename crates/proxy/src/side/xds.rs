//! The sidecar's end of the delta ADS stream: carries messages between the control plane and `Taker`, in which
//! `meshwork_xds::session::ClientSession` decides.
//!
//! A lost stream is opened again, at most every 2 s; until then traffic goes on with what is held. What workers ask for
//! is wanted at once; a destination that nobody called for ten minutes is dropped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshwork_xds::session::client::StreamFault;
use meshwork_xds::session::{ERA_SEEN, MESSAGE_BYTES_MAX, REVISION_SEEN, Seen};
use meshwork_xds::wire::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::background::Background;
use super::backoff::{Backoff, Spacing};
use super::channel::{is_foreign, sentence};
use super::random;
use super::status::{Config, StatusBoard};
use super::take::{Taker, taker};
use crate::clock::Clock;
use crate::live::{Ask, Live};
use crate::telemetry::{Event, Gauge, Registry};

/// Between tries with a control plane whose config must not be taken: somebody has to mend that, and is waited for no
/// longer than that. Half of it at least, as chance has it.
const KEPT_PAUSE: Duration = Duration::from_secs(5);

/// Until the stream is open; the connection under it may take 20 s of that.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// Requests that wait in the connection; more wait in the outbox.
const REQUESTS_MAX: usize = 16;

/// Requests that wait for the connection. Above it no more names are taken from the workers, whose own queue
/// then fills and says so.
const OUTBOX_MAX: usize = 1_024;

/// A destination that nobody called for so long is dropped (architecture, section 3).
const IDLE_MAX: Duration = Duration::from_secs(600);

/// How often that is looked for. Absent names are dropped then, too: who still wants one asks again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Responses as large take more than a millisecond.
const LARGE_BYTES: usize = 64 * 1024;

pub(crate) struct Ads {
    pub(crate) taker: Arc<Mutex<Taker>>,
    pub(crate) background: Background,
    pub(crate) channel: Channel,
    pub(crate) live: Arc<Live>,
    pub(crate) clock: Clock,
    pub(crate) registry: Arc<Registry>,
    pub(crate) status: StatusBoard,
    /// What workers and the resolver want to know.
    pub(crate) asks: mpsc::Receiver<Ask>,
}

enum Ended {
    Lost(String),
    /// What the control plane has must not be taken.
    Kept(Kept, String),
}

/// Why the last good config is kept though a control plane answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    OtherMesh,
    /// Its store does not have what we have seen.
    OlderStore,
}

impl Ads {
    /// Never ends by itself.
    pub(crate) async fn keep(mut self) {
        let mut spacing = Spacing::default();
        let mut sweep = Instant::now() + SWEEP_INTERVAL;
        loop {
            spacing.open(Instant::now());
            let ended = self.run_stream(&mut sweep).await;
            taker(&self.taker).session.disconnected();
            self.registry.count(Event::ControlLost);
            let pause = match ended {
                Ended::Lost(reason) => {
                    let config = self.config_without_stream(reason.clone());
                    let meanwhile = match config {
                        Config::Missing(_) => "there is no config yet",
                        _ => "the last config stays in use",
                    };
                    if self.status.set_config(config) {
                        tracing::warn!(reason, "the config stream is down; {meanwhile}");
                    }
                    spacing.pause(Instant::now(), random())
                }
                Ended::Kept(kept, reason) => {
                    self.keep_last(kept, reason);
                    Backoff::new(KEPT_PAUSE, KEPT_PAUSE).pause(random())
                }
            };
            self.wait(pause).await;
        }
    }

    fn keep_last(&self, kept: Kept, reason: String) {
        self.registry.set(Gauge::KeptOtherMesh, i64::from(kept == Kept::OtherMesh));
        self.registry.set(Gauge::KeptOlderStore, i64::from(kept == Kept::OlderStore));
        let (config, meanwhile) = match self.live.snapshot().settings {
            Some(_) => (Config::Kept(reason.clone()), "the last good config stays in use"),
            None => (Config::Refused(reason.clone()), "there is no config yet"),
        };
        if self.status.set_config(config) {
            tracing::error!(reason, "refused the control plane's config; {meanwhile}");
        }
    }

    fn config_without_stream(&self, reason: String) -> Config {
        if self.live.snapshot().settings.is_some() { Config::Stale(reason) } else { Config::Missing(reason) }
    }

    /// Workers' wishes are noted meanwhile, and asked for first on the next stream.
    async fn wait(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                Some(ask) = self.asks.recv() => {
                    taker(&self.taker).want(&ask);
                }
            }
        }
    }

    async fn run_stream(&mut self, sweep: &mut Instant) -> Ended {
        let (up, outgoing) = mpsc::channel(REQUESTS_MAX);
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut outbox = VecDeque::from(taker(&self.taker).session.connected());
        // The first request goes with the headers: a server may want it before it answers.
        while let Some(request) = outbox.pop_front() {
            if let Err(error) = up.try_send(request) {
                outbox.push_front(error.into_inner());
                break;
            }
        }
        let mut call = Request::new(ReceiverStream::new(outgoing));
        tell_seen(taker(&self.taker).session.seen(), call.metadata_mut());
        let opened = client.delta_aggregated_resources(call);
        let down = match tokio::time::timeout(OPEN_MAX, opened).await {
            Ok(Ok(response)) => {
                let era = response.metadata().get(ERA_SEEN).and_then(|era| era.to_str().ok());
                taker(&self.taker).session.accepted(era.unwrap_or_default());
                response.into_inner()
            }
            Ok(Err(status)) => return refused(&status),
            Err(_) => return Ended::Lost(format!("the control plane gave no answer within {OPEN_MAX:?}")),
        };
        self.registry.count(Event::ControlConnected);
        self.serve(Streams { up, down, outbox }, sweep).await
    }

    async fn serve(&mut self, mut streams: Streams, sweep: &mut Instant) -> Ended {
        loop {
            let room = streams.outbox.len() < OUTBOX_MAX;
            let requests = tokio::select! {
                sent = streams.up.reserve(), if !streams.outbox.is_empty() => {
                    let Ok(permit) = sent else {
                        return Ended::Lost("the control plane takes no requests".to_owned());
                    };
                    if let Some(request) = streams.outbox.pop_front() {
                        permit.send(request);
                    }
                    continue;
                }
                message = streams.down.message() => match self.receive(message).await {
                    Ok(requests) => requests,
                    Err(ended) => return ended,
                },
                Some(ask) = self.asks.recv(), if room => taker(&self.taker).want(&ask),
                () = tokio::time::sleep_until(*sweep) => {
                    *sweep = Instant::now() + SWEEP_INTERVAL;
                    let before = self.clock.now_millis().saturating_sub(IDLE_MAX.as_millis() as u64);
                    taker(&self.taker).sweep(before)
                }
            };
            streams.outbox.extend(requests);
        }
    }

    async fn receive(
        &mut self,
        message: Result<Option<DeltaDiscoveryResponse>, Status>,
    ) -> Result<Vec<DeltaDiscoveryRequest>, Ended> {
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return Err(Ended::Lost("the control plane ended the stream".to_owned())),
            Err(status) => return Err(Ended::Lost(sentence(&status))),
        };
        let requests = self.take(response).await?.map_err(|fault| match fault {
            StreamFault::ForeignMesh { .. } => Ended::Kept(Kept::OtherMesh, fault.to_string()),
            StreamFault::Unverified(_) | StreamFault::NotConnected => Ended::Lost(fault.to_string()),
        })?;
        if self.live.snapshot().settings.is_some() {
            // Whoever waits for the status finds the rest as it is then.
            self.registry.set(Gauge::KeptOtherMesh, 0);
            self.registry.set(Gauge::KeptOlderStore, 0);
            if self.status.set_config(Config::Current) {
                tracing::info!("the config is the control plane's own, and current");
            }
        }
        Ok(requests)
    }

    /// A large one where it holds up nobody.
    async fn take(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> Result<Result<Vec<DeltaDiscoveryRequest>, StreamFault>, Ended> {
        if bytes(&response) < LARGE_BYTES || !self.background.is_quick() {
            return Ok(taker(&self.taker).response(response));
        }
        let shared = self.taker.clone();
        let taken = self.background.run(move || taker(&shared).response(response)).await;
        taken.map_err(|error| Ended::Lost(format!("a config could not be taken: {error}")))
    }
}

fn bytes(response: &DeltaDiscoveryResponse) -> usize {
    let bodies = response.resources.iter().filter_map(|resource| resource.resource.as_ref());
    bodies.map(|body| body.value.len()).sum()
}

/// What the control plane's store must have for its config to be taken.
fn tell_seen(seen: &Seen, metadata: &mut MetadataMap) {
    for (name, text) in [(REVISION_SEEN, &seen.revision), (ERA_SEEN, &seen.era)] {
        if let (false, Ok(value)) = (text.is_empty(), text.parse()) {
            metadata.insert(name, value);
        }
    }
}

fn refused(status: &Status) -> Ended {
    if is_foreign(status) {
        Ended::Kept(Kept::OtherMesh, sentence(status))
    } else if status.code() == Code::FailedPrecondition {
        Ended::Kept(Kept::OlderStore, status.message().to_owned())
    } else {
        Ended::Lost(sentence(status))
    }
}

struct Streams {
    up: mpsc::Sender<DeltaDiscoveryRequest>,
    down: Streaming<DeltaDiscoveryResponse>,
    outbox: VecDeque<DeltaDiscoveryRequest>,
}
