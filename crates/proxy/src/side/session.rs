//! The sidecar's session with the control plane (`meshwork.v1.Sidecar/Session`): registers the workload once its
//! application is well, keeps the lease, reports health, and takes the workload out on demand.
//!
//! One stream at a time; a lost one is opened again and registers again. What the control plane refuses is said
//! loudly and tried again much later: the data path goes on with what it has.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use meshwork_xds::proto::control_message::Message as Downward;
use meshwork_xds::proto::sidecar_client::SidecarClient;
use meshwork_xds::proto::sidecar_message::Message as Upward;
use meshwork_xds::proto::{
    ControlMessage, Drain, HealthReport, Register, RegisteredPort, Renewal, SidecarMessage, Summary, Welcome,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::backoff::{Backoff, Spacing, spread};
use super::channel::{is_foreign, is_transient, sentence};
use super::health::AppHealth;
use super::random;
use super::status::{Registration, StatusBoard};

/// Between tries after a refusal, and up to so much longer: somebody must mend something first.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Between tries where another mesh's control plane answers. A short one: once the right one is back, every sidecar
/// must be there before its lease has lapsed. Half of it at least, as chance has it.
const FOREIGN_PAUSE: Duration = Duration::from_secs(5);

/// Until Welcome; the connection under it may take 20 s of that.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Messages upwards that may wait. There is one per lease and change; a control plane that takes none is
/// found out by the keep-alive before this is full.
const UPWARD_MAX: usize = 16;

/// Renewals per lease: two may be lost.
const RENEWALS_PER_LEASE: u32 = 3;

/// A control plane that tells a shorter lease, or none, gets no more than a renewal a second.
const RENEWAL_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What the sidecar tells of its workload, the same at each registration.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) ports: Vec<RegisteredPort>,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) mesh_id: String,
}

pub(crate) struct Session {
    pub(crate) workload: Workload,
    pub(crate) channel: Channel,
    pub(crate) health: watch::Receiver<AppHealth>,
    /// Cancelled when the workload is to be taken out.
    pub(crate) drain: CancellationToken,
    pub(crate) status: StatusBoard,
    pub(crate) summaries: watch::Receiver<Summary>,
    /// Since this process began.
    pub(crate) was_registered: bool,
}

/// How a stream ended.
enum Ended {
    /// The control plane says that nobody sends here any more.
    Withdrawn,
    Lost(String),
    Refused(String),
    /// Another mesh's control plane, or none, answers at that address.
    Foreign(String),
}

impl Session {
    /// Ends once the workload is withdrawn.
    pub(crate) async fn keep(mut self) {
        if self.drain.is_cancelled() || self.wait_for_application().await.is_none() {
            self.status.set_registration(Registration::Withdrawn);
            return;
        }
        let mut spacing = Spacing::default();
        loop {
            spacing.open(Instant::now());
            let ended = self.run_stream().await;
            if self.drain.is_cancelled() {
                // With the stream gone there is nobody to ask. The lease lapses, endpoints of a lost session are
                // the last choice, and whoever still comes is told to close.
                self.status.set_registration(Registration::Withdrawn);
                return;
            }
            let pause = match ended {
                Ended::Withdrawn => return, // only after a drain
                Ended::Lost(reason) => {
                    if self.status.set_registration(Registration::Connecting(reason.clone())) {
                        tracing::warn!(reason, "the session with the control plane is down");
                    }
                    spacing.pause(Instant::now(), random())
                }
                Ended::Refused(reason) => {
                    tracing::error!(reason, "the control plane refused the workload");
                    self.status.set_registration(Registration::Refused(reason));
                    REFUSED_PAUSE + spread(REFUSED_PAUSE, random())
                }
                Ended::Foreign(reason) => {
                    self.tell_foreign(reason);
                    Backoff::new(FOREIGN_PAUSE, FOREIGN_PAUSE).pause(random())
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.cancelled() => {}
            }
        }
    }

    /// Whoever was in the mesh before is still known to it, and serves on.
    fn tell_foreign(&self, reason: String) {
        let registration = match self.was_registered {
            true => Registration::Connecting(reason.clone()),
            false => Registration::Refused(reason.clone()),
        };
        if self.status.set_registration(registration) {
            tracing::error!(reason, "another mesh's control plane answers; nothing is registered there");
        }
    }

    /// `None`: drained before it was ever up.
    async fn wait_for_application(&mut self) -> Option<()> {
        loop {
            match &*self.health.borrow_and_update() {
                AppHealth::Healthy => return Some(()),
                AppHealth::Starting(detail) | AppHealth::Unhealthy(detail) => {
                    self.status.set_registration(Registration::WaitingForApplication(detail.clone()));
                }
            }
            tokio::select! {
                changed = self.health.changed() => changed.ok()?,
                () = self.drain.cancelled() => return None,
            }
        }
    }

    async fn run_stream(&mut self) -> Ended {
        let (up, outgoing) = mpsc::channel(UPWARD_MAX);
        let mut upwards = Upwards { up, sequence: 0 };
        let health = self.health.borrow_and_update().clone();
        if upwards.send(Upward::Register(self.register(&health))).is_err() {
            return Ended::Lost("the session's queue is full".to_owned());
        }
        let mut client = SidecarClient::new(self.channel.clone());
        let opened = async {
            let mut down = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = down.message().await?;
            Ok::<_, Status>((down, first))
        };
        let (down, first) = match tokio::time::timeout(ANSWER_MAX, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) if is_foreign(&status) => return Ended::Foreign(sentence(&status)),
            Ok(Err(status)) if is_transient(&status) => return Ended::Lost(sentence(&status)),
            Ok(Err(status)) => return Ended::Refused(sentence(&status)),
            Err(_) => return Ended::Lost(format!("the control plane gave no answer within {ANSWER_MAX:?}")),
        };
        match self.welcomed(first) {
            Ok(welcome) => {
                tracing::info!(workload = self.workload.name, "registered with the control plane");
                self.status.set_registration(Registration::Registered);
                self.was_registered = true;
                let lease = Duration::from_secs(welcome.lease_seconds.into());
                self.serve(upwards, down, (lease / RENEWALS_PER_LEASE).max(RENEWAL_INTERVAL_MIN)).await
            }
            Err(ended) => ended,
        }
    }

    fn register(&self, health: &AppHealth) -> Register {
        let workload = self.workload.clone();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Register {
            workload: workload.name,
            service: workload.service,
            ports: workload.ports,
            labels: workload.labels,
            region: workload.region,
            zone: workload.zone,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mesh_id: workload.mesh_id,
            time_seconds: now.map_or(0, |since| since.as_secs()),
            // One that comes back only to take its leave gets no requests in between.
            healthy: *health == AppHealth::Healthy && !self.drain.is_cancelled(),
        }
    }

    fn welcomed(&self, first: Option<ControlMessage>) -> Result<Welcome, Ended> {
        match first.and_then(|first| first.message) {
            Some(Downward::Welcome(welcome)) if welcome.mesh_id == self.workload.mesh_id => Ok(welcome),
            Some(Downward::Welcome(welcome)) => Err(Ended::Foreign(format!(
                "that control plane is another mesh's ({}, ours is {}): its config is not taken; bring back the \
                 right state directory, or enrol this sidecar anew",
                welcome.mesh_id, self.workload.mesh_id
            ))),
            Some(Downward::Refused(refused)) => Err(Ended::Refused(refused.reason)),
            Some(Downward::Withdrawn(_) | Downward::DrainOrder(_)) | None => {
                Err(Ended::Lost("the control plane ended the session without an answer".to_owned()))
            }
        }
    }

    async fn serve(
        &mut self,
        mut upwards: Upwards,
        mut down: Streaming<ControlMessage>,
        interval: Duration,
    ) -> Ended {
        // Each stream is told once, and then what changes.
        self.summaries.mark_changed();
        let mut renewals = tokio::time::interval_at(Instant::now() + interval, interval);
        let mut draining = false;
        loop {
            let sent = tokio::select! {
                message = down.message() => match message {
                    Ok(Some(ControlMessage { message: Some(message) })) => match self.receive(message) {
                        Some(ended) => return ended,
                        None => continue,
                    },
                    Ok(Some(ControlMessage { message: None })) => continue, // newer than we are
                    Ok(None) => return Ended::Lost("the control plane ended the session".to_owned()),
                    Err(status) => return Ended::Lost(sentence(&status)),
                },
                _ = renewals.tick() => upwards.send(Upward::Renewal(Renewal {})),
                Ok(()) = self.health.changed() => {
                    let report = report(&self.health.borrow_and_update());
                    upwards.send(Upward::Health(report))
                }
                Ok(()) = self.summaries.changed() => {
                    let summary = self.summaries.borrow_and_update().clone();
                    upwards.send(Upward::Summary(summary))
                }
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    self.status.set_registration(Registration::Draining);
                    upwards.send(Upward::Drain(Drain {}))
                }
            };
            if sent.is_err() {
                return Ended::Lost("the control plane takes no messages".to_owned());
            }
        }
    }

    fn receive(&self, message: Downward) -> Option<Ended> {
        match message {
            Downward::Welcome(_) => None,
            Downward::Refused(refused) => Some(Ended::Refused(refused.reason)),
            Downward::Withdrawn(_) => Some(Ended::Withdrawn),
            Downward::DrainOrder(order) => {
                tracing::info!(reason = order.reason, "an operator wants this workload drained");
                self.status.set_drain_order(order.reason);
                None
            }
        }
    }
}

/// Numbers what goes up.
struct Upwards {
    up: mpsc::Sender<SidecarMessage>,
    sequence: u64,
}

impl Upwards {
    /// `Err`: the stream takes nothing any more, or far too slowly.
    fn send(&mut self, message: Upward) -> Result<(), ()> {
        self.sequence += 1;
        let message = SidecarMessage { sequence: self.sequence, message: Some(message) };
        self.up.try_send(message).map_err(drop)
    }
}

fn report(health: &AppHealth) -> HealthReport {
    match health {
        AppHealth::Healthy => HealthReport { healthy: true, detail: String::new() },
        AppHealth::Starting(detail) | AppHealth::Unhealthy(detail) => {
            HealthReport { healthy: false, detail: detail.clone() }
        }
    }
}
