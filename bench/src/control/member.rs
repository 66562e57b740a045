//! One sidecar: its certificate, its config session, its registration.
//!
//! What it is told goes through the session that sidecars have, which reads and judges each resource and answers; the
//! values are then dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meshwork_core::compile::Features;
use meshwork_identity::{
    Enrolled, JoinToken, KeyAndCsr, Membership, control_client_config, enrol_client_config,
};
use meshwork_xds::proto::control_message::Message as Downward;
use meshwork_xds::proto::enrollment_client::EnrollmentClient;
use meshwork_xds::proto::sidecar_client::SidecarClient;
use meshwork_xds::proto::sidecar_message::Message as Upward;
use meshwork_xds::proto::{Certificate, EnrollRequest, Register, RegisteredPort, Renewal, SidecarMessage};
use meshwork_xds::session::client::{ClientSession, Sidecar};
use meshwork_xds::session::{ERA_SEEN, MESSAGE_BYTES_MAX, REVISION_SEEN};
use meshwork_xds::wire::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Channel;

use super::connection::{Counts, connect};
use super::ledger::Ack;
use super::population::{APP_PORT, Population};
use crate::failure::{Doing as _, Result, fail};

const ALPN: &[&[u8]] = &[b"h2"];

/// Nobody is called so. Asked for last, so its answer says that all else was answered.
const NOBODY: &str = "nobody-is-called-so:80";

/// As a sidecar's: its lease of 15 s is renewed every 5.
const RENEWAL: Duration = Duration::from_secs(5);

/// As a sidecar's.
const REQUESTS_MAX: usize = 16;

/// Requests of a first moment: one for each type.
const FIRST_MAX: usize = 64;

pub(super) struct Member {
    pub(super) number: usize,
    service: usize,
    workload: String,
    control: String,
    mesh_id: String,
    config: Arc<ClientConfig>,
    session: Mutex<ClientSession>,
    pub(super) counts: Arc<Counts>,
}

/// What members tell.
pub(super) struct Told {
    pub(super) begun: Instant,
    /// Sidecars that have all that they want, and are registered.
    pub(super) steady: watch::Sender<usize>,
    pub(super) heard: Mutex<Heard>,
}

#[derive(Default)]
pub(super) struct Heard {
    pub(super) acks: Vec<Ack>,
    /// Responses that were about nothing that their sidecar calls.
    pub(super) uncalled_for: u64,
    /// Why a sidecar has ended.
    pub(super) failures: Vec<String>,
}

impl Told {
    pub(super) fn hear(&self, what: impl FnOnce(&mut Heard)) {
        what(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Member {
    /// Enrols it by its join token, as a sidecar that was never here.
    pub(super) async fn enrol(number: usize, population: Population, token: &str) -> Result<Self> {
        let doing = || format!("enrolling sidecar {number}");
        let token: JoinToken = token.parse().doing(doing)?;
        let anonymous = enrol_client_config(token.root_hash, ALPN).doing(doing)?;
        let counts = Arc::<Counts>::default();
        let channel = connect(&token.address, anonymous, Arc::clone(&counts)).await?;
        let own = KeyAndCsr::generate().doing(doing)?;
        let request =
            EnrollRequest { token_secret: token.secret.reveal().to_owned(), csr_der: own.csr_der.clone() };
        let answer = EnrollmentClient::new(channel).enroll(request).await.doing(doing)?.into_inner();
        let Certificate { chain_der, roots_der, spiffe_id: _, mesh_id, service, namespace } = answer;
        let membership = Membership { mesh_id, service, namespace, control: token.address.clone() };
        let enrolled = Enrolled::new(own.key, chain_der, roots_der, membership).doing(doing)?;
        let config = control_client_config(&enrolled.identity, &enrolled.bundle, ALPN).doing(doing)?;
        let service = population.service_of(number);
        let workload = format!("{}-{number}", Population::service(service));
        let mut session = ClientSession::new(Sidecar {
            workload: format!("{}/{workload}", Population::namespace(service)),
            trust_domain: enrolled.bundle.trust_domain().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: Features::ALL.names().map(str::to_owned).collect(),
            mesh_id: None,
        });
        let called = population.calls(number).into_iter().map(Population::listener);
        for name in called.chain([NOBODY.to_owned()]) {
            session.want(&name).doing(doing)?;
        }
        let Membership { mesh_id, control, .. } = enrolled.membership;
        let session = Mutex::new(session);
        Ok(Self { number, service, workload, control, mesh_id, config, session, counts })
    }

    /// One connection with both streams, until it breaks.
    pub(super) async fn live(&self, told: &Told) -> Result<()> {
        let channel = connect(&self.control, Arc::clone(&self.config), Arc::clone(&self.counts)).await?;
        let (registered, answered) = (watch::Sender::new(false), watch::Sender::new(false));
        let steady = async {
            for mut half in [registered.subscribe(), answered.subscribe()] {
                // Both senders live as long as this.
                let _ = half.wait_for(|reached| *reached).await;
            }
            told.steady.send_modify(|steady| *steady += 1);
            std::future::pending().await
        };
        tokio::select! {
            ended = self.register(channel.clone(), &registered) => ended,
            ended = self.follow(channel, told, &answered) => ended,
            ended = steady => ended,
        }
    }

    async fn register(&self, channel: Channel, registered: &watch::Sender<bool>) -> Result<()> {
        let doing = || format!("the registration of {}", self.workload);
        let (up, outgoing) = mpsc::channel(REQUESTS_MAX);
        let message = |sequence, message| SidecarMessage { sequence, message: Some(message) };
        up.try_send(message(1, Upward::Register(self.registration()))).doing(doing)?;
        let mut client = SidecarClient::new(channel);
        let mut down = client.session(ReceiverStream::new(outgoing)).await.doing(doing)?.into_inner();
        let mut sequence = 1;
        let mut renewals = tokio::time::interval_at(tokio::time::Instant::now() + RENEWAL, RENEWAL);
        loop {
            tokio::select! {
                answer = down.message() => match answer.doing(doing)?.and_then(|answer| answer.message) {
                    Some(Downward::Welcome(_)) => drop(registered.send_replace(true)),
                    other => return fail(format!("{}: answered {other:?}", doing())),
                },
                _ = renewals.tick() => {
                    sequence += 1;
                    up.send(message(sequence, Upward::Renewal(Renewal {}))).await.doing(doing)?;
                }
            }
        }
    }

    fn registration(&self) -> Register {
        Register {
            workload: self.workload.clone(),
            service: Population::service(self.service),
            ports: vec![RegisteredPort {
                service_port: 80,
                app_port: APP_PORT.into(),
                app_protocol: String::new(),
                address: Population::address(self.number).to_string(),
                alpn: ["h2", "http/1.1", "meshwork-tcp/1"].map(str::to_owned).to_vec(),
            }],
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mesh_id: self.mesh_id.clone(),
            healthy: true,
            ..Register::default()
        }
    }

    async fn follow(&self, channel: Channel, told: &Told, answered: &watch::Sender<bool>) -> Result<()> {
        let doing = || format!("the config of {}", self.workload);
        let (up, outgoing) = mpsc::channel(FIRST_MAX);
        let (first, seen) = {
            let mut session = self.session();
            session.disconnected();
            (session.connected(), session.seen().clone())
        };
        for request in first {
            up.try_send(request).doing(doing)?;
        }
        let mut call = Request::new(ReceiverStream::new(outgoing));
        for (name, value) in [(ERA_SEEN, seen.era), (REVISION_SEEN, seen.revision)] {
            if !value.is_empty() {
                call.metadata_mut().insert(name, value.parse().doing(doing)?);
            }
        }
        let client = AggregatedDiscoveryServiceClient::new(channel);
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let response = client.delta_aggregated_resources(call).await.doing(doing)?;
        let era = response.metadata().get(ERA_SEEN).and_then(|era| era.to_str().ok()).unwrap_or_default();
        self.session().accepted(era);
        let mut down = response.into_inner();
        while let Some(response) = down.message().await.doing(doing)? {
            self.take(response, &up, told, answered).await?;
        }
        fail(format!("{} ended", doing()))
    }

    async fn take(
        &self,
        response: DeltaDiscoveryResponse,
        up: &mpsc::Sender<DeltaDiscoveryRequest>,
        told: &Told,
        answered: &watch::Sender<bool>,
    ) -> Result<()> {
        let revision = response.system_version_info.parse().unwrap_or(0);
        let names: Vec<String> = response.resources.iter().map(|resource| resource.name.clone()).collect();
        let reaction =
            self.session().response(response).doing(|| format!("the config of {}", self.workload))?;
        if let Some(refused) = reaction.refused.first() {
            return fail(format!("{} refused {}: {}", self.workload, refused.reference, refused.refused));
        }
        for request in reaction.requests {
            up.send(request).await.doing(|| format!("answering for {}", self.workload))?;
        }
        if *answered.borrow() {
            self.tell(&names, revision, told);
        } else if reaction.absent.iter().any(|reference| reference.name == NOBODY) {
            answered.send_replace(true);
        }
        Ok(())
    }

    /// After the ACK went to the connection.
    fn tell(&self, names: &[String], revision: u64, told: &Told) {
        let at = told.begun.elapsed();
        told.hear(|heard| {
            for name in names {
                let service = self.called(name);
                heard.acks.extend(service.map(|service| Ack { service, sidecar: self.number, revision, at }));
                heard.uncalled_for += u64::from(service.is_none());
            }
        });
    }

    /// The service whose endpoints these are, if it calls it.
    fn called(&self, name: &str) -> Option<usize> {
        let digits = name.strip_suffix(":80")?.rsplit_once("/service-")?.1;
        let service = digits.parse().ok()?;
        let listener = Population::listener(service);
        (name == Population::endpoints(service) && self.session().wanted().any(|wanted| wanted == listener))
            .then_some(service)
    }

    fn session(&self) -> std::sync::MutexGuard<'_, ClientSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
