//! How the sidecar gets its certificate, and keeps it fresh.
//!
//! At the start: the state directory's certificate if it still holds for the same service and mesh, else one for
//! the join token. Afterwards one task (`keep`) owns it: renews it at half of its life, takes new roots, writes
//! both to disk and installs them. Renewal failing costs nothing until the certificate ends; the warning says
//! when that is.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_identity::{
    Enrolled, EnrolledError, InvalidToken, JoinToken, KeyAndCsr, Membership, TrustBundle,
};
use meshwork_xds::proto::enrollment_client::EnrollmentClient;
use meshwork_xds::proto::{Certificate, EnrollRequest, RenewRequest};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use super::backoff::Backoff;
use super::channel::{ConnectFailed, is_transient, sentence, to_enrol};
use super::random;

/// An answer of the control plane: it signs in under a millisecond, but the connection may take 20 s.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Between tries to join: somebody waits for the start, and a control plane that starts too is there in a moment.
const ENROL_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Between failed renewals: there are hours left, so no hurry, and thousands of others fail too.
const RENEW_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The wall clock is looked at so often at least: a laptop sleeps, and timers with it.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrollError {
    #[error(
        "the sidecar has no certificate{0}; give it a join token (`meshwork token create --service {1}`)"
    )]
    NoToken(String, String),
    #[error(transparent)]
    Token(#[from] InvalidToken),
    #[error("cannot join the mesh: {0}")]
    Refused(String),
    #[error("no certificate within the time that the start may take: {0}")]
    TimedOut(String),
    #[error(
        "the join token is for service {got} in namespace {got_namespace}, this sidecar is for {want} in {want_namespace}; make a token for it"
    )]
    WrongService { got: String, got_namespace: String, want: String, want_namespace: String },
    #[error("the control plane's answer does not fit the join token: {0}")]
    Answer(String),
    #[error(transparent)]
    State(#[from] EnrolledError),
}

/// Who the sidecar is to be.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) service: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) state_dir: &'a Path,
}

/// A certificate from disk or for the token, within `wait`.
pub(crate) async fn obtain(wanted: &Wanted<'_>, wait: Duration) -> Result<Enrolled, EnrollError> {
    let token = wanted.token.map(str::parse::<JoinToken>).transpose()?;
    let why_not = match load(wanted.state_dir)? {
        Some(saved) => match unfit(&saved, wanted, token.as_ref(), SystemTime::now()) {
            None => return Ok(at_address(saved, token.as_ref())),
            Some(why) => format!(" that it could use ({why})"),
        },
        None => String::new(),
    };
    let Some(token) = token else {
        return Err(EnrollError::NoToken(why_not, wanted.service.to_owned()));
    };
    token.check_not_expired(SystemTime::now())?;
    let enrolled = enrol_within(&token, wait).await?;
    check_service(&enrolled, wanted)?;
    enrolled.save(wanted.state_dir)?;
    tracing::info!(
        spiffe_id = %enrolled.identity.spiffe_id(),
        mesh_id = enrolled.membership.mesh_id,
        "joined the mesh"
    );
    Ok(enrolled)
}

/// A damaged file is set aside: with a token the sidecar can start without it.
fn load(state_dir: &Path) -> Result<Option<Enrolled>, EnrollError> {
    match Enrolled::load(state_dir) {
        Err(error @ EnrolledError::Damaged { .. }) => {
            let aside = Enrolled::set_aside(state_dir)?;
            tracing::warn!(%error, "set the damaged file aside as {}", aside.display());
            Ok(None)
        }
        loaded => Ok(loaded?),
    }
}

/// Why a saved certificate can't be used; `None`: it can.
fn unfit(
    saved: &Enrolled,
    wanted: &Wanted<'_>,
    token: Option<&JoinToken>,
    now: SystemTime,
) -> Option<&'static str> {
    let membership = &saved.membership;
    if membership.service != wanted.service || membership.namespace != wanted.namespace {
        return Some("the one in its state directory is another service's");
    }
    if token.is_some_and(|token| !saved.bundle.hashes().contains(&token.root_hash)) {
        return Some("the one in its state directory is of another mesh");
    }
    (!saved.identity.is_valid(now)).then_some("the one in its state directory has expired")
}

/// The token knows better where the control plane is today.
fn at_address(saved: Enrolled, token: Option<&JoinToken>) -> Enrolled {
    let control = token.map_or(saved.membership.control, |token| token.address.clone());
    Enrolled { membership: Membership { control, ..saved.membership }, ..saved }
}

/// Tries again as long as that can help.
async fn enrol_within(token: &JoinToken, wait: Duration) -> Result<Enrolled, EnrollError> {
    let channel = to_enrol(token.address.clone(), token.root_hash)
        .map_err(|error: ConnectFailed| EnrollError::Refused(error.to_string()))?;
    let deadline = tokio::time::Instant::now() + wait;
    let mut backoff = Backoff::new(ENROL_PAUSE.0, ENROL_PAUSE.1);
    loop {
        let failed = match tokio::time::timeout_at(deadline, enrol(channel.clone(), token)).await {
            Ok(Ok(enrolled)) => return Ok(enrolled),
            Ok(Err(Failed::Final(error))) => return Err(error),
            Ok(Err(Failed::Call(status))) if !is_transient(&status) => {
                return Err(EnrollError::Refused(sentence(&status)));
            }
            Ok(Err(Failed::Call(status))) => sentence(&status),
            Err(_) => {
                let silent = format!("the control plane at {} gives no answer", token.address);
                return Err(EnrollError::TimedOut(silent));
            }
        };
        tracing::debug!(reason = failed, "cannot join the mesh yet");
        let next = tokio::time::Instant::now() + backoff.pause(random());
        if next >= deadline {
            return Err(EnrollError::TimedOut(failed));
        }
        tokio::time::sleep_until(next).await;
    }
}

enum Failed {
    Call(Box<Status>),
    Final(EnrollError),
}

impl From<EnrollError> for Failed {
    fn from(error: EnrollError) -> Self {
        Self::Final(error)
    }
}

async fn enrol(channel: Channel, token: &JoinToken) -> Result<Enrolled, Failed> {
    let own = new_key()?;
    let request =
        EnrollRequest { token_secret: token.secret.reveal().to_owned(), csr_der: own.csr_der.clone() };
    let answer = call(EnrollmentClient::new(channel).enroll(request)).await?;
    let enrolled = read_answer(own, answer, token.address.clone())?;
    if !enrolled.bundle.hashes().contains(&token.root_hash) {
        return Err(
            EnrollError::Answer("the root that the token names is not in the bundle".to_owned()).into()
        );
    }
    Ok(enrolled)
}

async fn renew(channel: Channel, current: &Enrolled) -> Result<Enrolled, Failed> {
    let own = new_key()?;
    let request = RenewRequest { csr_der: own.csr_der.clone() };
    let answer = call(EnrollmentClient::new(channel).renew(request)).await?;
    let renewed = read_answer(own, answer, current.membership.control.clone())?;
    if renewed.identity.spiffe_id() != current.identity.spiffe_id() {
        let other = renewed.identity.spiffe_id();
        return Err(EnrollError::Answer(format!("it renewed the certificate for {other}")).into());
    }
    if renewed.membership.mesh_id != current.membership.mesh_id {
        let other = &renewed.membership.mesh_id;
        return Err(EnrollError::Answer(format!("it is the control plane of another mesh, {other}")).into());
    }
    Ok(renewed)
}

async fn call(
    answer: impl Future<Output = Result<tonic::Response<Certificate>, Status>>,
) -> Result<Certificate, Failed> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(answer) => {
            answer.map(tonic::Response::into_inner).map_err(|status| Failed::Call(Box::new(status)))
        }
        Err(_) => {
            let silent = format!("no answer within {ANSWER_MAX:?}");
            Err(Failed::Call(Box::new(Status::deadline_exceeded(silent))))
        }
    }
}

fn new_key() -> Result<KeyAndCsr, EnrollError> {
    KeyAndCsr::generate().map_err(|error| EnrollError::Refused(error.to_string()))
}

fn read_answer(own: KeyAndCsr, answer: Certificate, control: String) -> Result<Enrolled, EnrollError> {
    let Certificate { chain_der, roots_der, spiffe_id, mesh_id, service, namespace } = answer;
    let membership = Membership { mesh_id, service, namespace, control };
    let enrolled = Enrolled::new(own.key, chain_der, roots_der, membership)?;
    let named = enrolled.identity.spiffe_id();
    if named.to_string() != spiffe_id {
        return Err(EnrollError::Answer(format!("it says {spiffe_id}, the certificate {named}")));
    }
    Ok(enrolled)
}

fn check_service(enrolled: &Enrolled, wanted: &Wanted<'_>) -> Result<(), EnrollError> {
    let Membership { service, namespace, .. } = &enrolled.membership;
    if service == wanted.service && namespace == wanted.namespace {
        return Ok(());
    }
    Err(EnrollError::WrongService {
        got: service.clone(),
        got_namespace: namespace.clone(),
        want: wanted.service.to_owned(),
        want_namespace: wanted.namespace.to_owned(),
    })
}

/// The one writer of the sidecar's certificate and trust bundle.
pub(crate) struct Keeper<'a> {
    pub(crate) state_dir: &'a Path,
    pub(crate) enrolled: watch::Sender<Arc<Enrolled>>,
    pub(crate) channel: Channel,
    /// New roots, as the control plane's bundle resource tells them.
    pub(crate) bundles: watch::Receiver<Option<TrustBundle>>,
    /// Tells the data path.
    pub(crate) install: &'a (dyn Fn(&Enrolled) + Send + Sync),
}

impl Keeper<'_> {
    /// Never ends by itself.
    pub(crate) async fn keep(mut self) {
        let mut backoff = Backoff::new(RENEW_PAUSE.0, RENEW_PAUSE.1);
        let mut not_before = self.enrolled.borrow().identity.half_life();
        loop {
            let left = not_before.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK_INTERVAL)) => {}
                Ok(()) = self.bundles.changed() => {
                    let told = self.bundles.borrow_and_update().clone();
                    if let Some(bundle) = told {
                        self.take_bundle(bundle);
                    }
                    continue;
                }
            }
            if SystemTime::now() < not_before {
                continue;
            }
            let current = self.enrolled.borrow().clone();
            not_before = match renew(self.channel.clone(), &current).await {
                Ok(renewed) => {
                    backoff.reset();
                    let half_life = renewed.identity.half_life();
                    self.replace(renewed);
                    tracing::info!("renewed the certificate");
                    // Whatever a control plane signs, it is asked seldom.
                    half_life.max(SystemTime::now() + RENEW_PAUSE.0)
                }
                Err(failed) => {
                    warn_of_end(&failed, &current);
                    SystemTime::now() + backoff.pause(random())
                }
            };
        }
    }

    fn take_bundle(&self, bundle: TrustBundle) {
        let current = self.enrolled.borrow().clone();
        if bundle == *current.bundle {
            return;
        }
        if bundle.trust_domain() != current.bundle.trust_domain() {
            tracing::error!(
                told = bundle.trust_domain(),
                "refused a trust bundle of another trust domain; the old roots stay"
            );
            return;
        }
        tracing::info!(roots = bundle.roots().len(), "the trust bundle changed");
        self.replace(Enrolled { bundle: Arc::new(bundle), ..Enrolled::clone(&current) });
    }

    fn replace(&self, enrolled: Enrolled) {
        // A full disk stops the writing, not the traffic.
        if let Err(error) = enrolled.save(self.state_dir) {
            tracing::warn!(%error, "cannot keep the certificate on disk; a restart will need a join token");
        }
        (self.install)(&enrolled);
        self.enrolled.send_replace(Arc::new(enrolled));
    }
}

fn warn_of_end(failed: &Failed, current: &Enrolled) {
    let reason = match failed {
        Failed::Call(status) => sentence(status),
        Failed::Final(error) => error.to_string(),
    };
    let left = current.identity.not_after().duration_since(SystemTime::now());
    match left {
        Ok(left) => tracing::warn!(
            reason,
            traffic_stops_in_minutes = left.as_secs() / 60,
            "cannot renew the certificate: traffic stops when it ends"
        ),
        Err(_) => tracing::error!(
            reason,
            "the certificate has expired and can't be renewed: start the sidecar again with a new join token"
        ),
    }
}

#[cfg(test)]
mod tests;
