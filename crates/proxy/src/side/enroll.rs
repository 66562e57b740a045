//! How the sidecar gets its certificate: the state directory's, if it still holds for the same service and mesh; its
//! successor, if it ended while the sidecar was away and the control plane still gives one; else one for the join
//! token. Afterwards its keeper (`renew.rs`) owns it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_identity::{Enrolled, EnrolledError, InvalidToken, JoinToken, KeyAndCsr, Membership};
use meshwork_xds::proto::enrollment_client::EnrollmentClient;
use meshwork_xds::proto::{Certificate, EnrollRequest, RenewRequest};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use super::backoff::Backoff;
use super::channel::{ConnectFailed, is_other_root, is_transient, sentence, to_control, to_enrol};
use super::random;
use crate::mark::Dial;

/// An answer of the control plane: it signs in under a millisecond, but the connection may take 20 s.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Between tries to join: somebody waits for the start, and a control plane that starts too is there in a moment.
const ENROL_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

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
    #[error("cannot join the mesh: {0}")]
    OtherRoot(String),
    #[error(
        "the certificate in the sidecar's state directory has expired and is not renewed ({reason}); give the sidecar a join token (`meshwork token create --service {service}`)"
    )]
    Late { reason: String, service: String },
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
#[derive(Clone)]
pub(crate) struct Wanted<'a> {
    pub(crate) service: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) state_dir: &'a Path,
    pub(crate) dial: Dial,
}

/// A certificate from disk or for the token, within `wait`.
pub(crate) async fn obtain(wanted: &Wanted<'_>, wait: Duration) -> Result<Enrolled, EnrollError> {
    let token = wanted.token.map(str::parse::<JoinToken>).transpose()?;
    let now = SystemTime::now();
    let mut why_not = String::new();
    let mut other_mesh = None;
    if let Some(saved) = load(wanted.state_dir)? {
        let saved = at_address(saved, token.as_ref());
        match unfit(&saved, wanted, token.as_ref(), now) {
            None => return Ok(saved),
            Some(Unfit::Ended) if token.as_ref().is_none_or(|token| token.is_expired(now)) => {
                return renew_late(saved, wanted, wait).await;
            }
            Some(why) => {
                why_not = format!(" that it could use ({why})");
                other_mesh = (why == Unfit::OtherMesh && saved.identity.is_valid(now)).then_some(saved);
            }
        }
    }
    let Some(token) = token else {
        return Err(EnrollError::NoToken(why_not, wanted.service.to_owned()));
    };
    token.check_not_expired(now)?;
    let channel = to_enrol(token.address.clone(), token.root_hash, wanted.dial.clone())
        .map_err(|error: ConnectFailed| EnrollError::Refused(error.to_string()))?;
    let enrolled = match (within(wait, &token.address, || enrol(channel.clone(), &token)).await, other_mesh) {
        (Err(EnrollError::OtherRoot(reason)), Some(saved)) => {
            // Most likely its mesh's root was replaced since the token was made: nothing is wrong but the token.
            tracing::warn!(
                reason,
                "the join token is of no use; the certificate in the state directory is used"
            );
            return Ok(saved);
        }
        (enrolled, _) => enrolled?,
    };
    check_service(&enrolled, wanted)?;
    enrolled.save(wanted.state_dir)?;
    tracing::info!(
        spiffe_id = %enrolled.identity.spiffe_id(),
        mesh_id = enrolled.membership.mesh_id,
        "joined the mesh"
    );
    Ok(enrolled)
}

/// The same for whoever the token, or the directory, says.
pub(crate) async fn obtain_as_told(
    token: Option<&str>,
    directory: &Path,
    wait: Duration,
) -> Result<Enrolled, EnrollError> {
    let dial = Dial::default();
    if let Some(saved) = load(directory)? {
        let Membership { service, namespace, .. } = &saved.membership;
        return obtain(&Wanted { service, namespace, token, state_dir: directory, dial }, wait).await;
    }
    let Some(token) = token.map(str::parse::<JoinToken>).transpose()? else {
        return Err(EnrollError::NoToken(String::new(), "NAME".to_owned()));
    };
    token.check_not_expired(SystemTime::now())?;
    let channel = to_enrol(token.address.clone(), token.root_hash, dial)
        .map_err(|error: ConnectFailed| EnrollError::Refused(error.to_string()))?;
    let enrolled = within(wait, &token.address, || enrol(channel.clone(), &token)).await?;
    enrolled.save(directory)?;
    Ok(enrolled)
}

/// A certificate that ended while the sidecar was away: the control plane gives its successor for a while.
async fn renew_late(saved: Enrolled, wanted: &Wanted<'_>, wait: Duration) -> Result<Enrolled, EnrollError> {
    let (_holder, current) = watch::channel(Arc::new(saved.clone()));
    let channel = to_control(current, wanted.dial.clone());
    let renewed = within(wait, &saved.membership.control, || renew(channel.clone(), &saved)).await.map_err(
        |error| EnrollError::Late { reason: error.to_string(), service: wanted.service.to_owned() },
    )?;
    renewed.save(wanted.state_dir)?;
    tracing::info!("the certificate had expired while the sidecar was away, and was renewed");
    Ok(renewed)
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

/// Why a saved certificate can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error("the one in its state directory is another service's")]
    OtherService,
    #[error("the one in its state directory is of another mesh")]
    OtherMesh,
    #[error("the one in its state directory has expired")]
    Ended,
}

/// `None`: it can be used.
fn unfit(saved: &Enrolled, wanted: &Wanted<'_>, token: Option<&JoinToken>, now: SystemTime) -> Option<Unfit> {
    let membership = &saved.membership;
    if membership.service != wanted.service || membership.namespace != wanted.namespace {
        return Some(Unfit::OtherService);
    }
    // A token of a root that was replaced is no other mesh's, but it can't be told from one; it ends soon enough.
    if token.is_some_and(|token| !token.is_expired(now) && !saved.bundle.hashes().contains(&token.root_hash))
    {
        return Some(Unfit::OtherMesh);
    }
    (!saved.identity.is_valid(now)).then_some(Unfit::Ended)
}

/// The token knows better where the control plane is today.
fn at_address(saved: Enrolled, token: Option<&JoinToken>) -> Enrolled {
    let control = token.map_or(saved.membership.control, |token| token.address.clone());
    Enrolled { membership: Membership { control, ..saved.membership }, ..saved }
}

/// Tries again as long as that can help.
async fn within<F>(wait: Duration, address: &str, attempt: impl Fn() -> F) -> Result<Enrolled, EnrollError>
where
    F: Future<Output = Result<Enrolled, Failed>>,
{
    let deadline = tokio::time::Instant::now() + wait;
    let mut backoff = Backoff::new(ENROL_PAUSE.0, ENROL_PAUSE.1);
    loop {
        let failed = match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Ok(enrolled)) => return Ok(enrolled),
            Ok(Err(Failed::Final(error))) => return Err(error),
            Ok(Err(Failed::Call(status))) if is_other_root(&status) => {
                return Err(EnrollError::OtherRoot(sentence(&status)));
            }
            Ok(Err(Failed::Call(status))) if !is_transient(&status) => {
                return Err(EnrollError::Refused(sentence(&status)));
            }
            Ok(Err(Failed::Call(status))) => sentence(&status),
            Err(_) => {
                return Err(EnrollError::TimedOut(format!("the control plane at {address} gives no answer")));
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

/// Why there is no certificate yet.
#[derive(Debug)]
pub(super) enum Failed {
    Call(Box<Status>),
    Final(EnrollError),
}

impl Failed {
    /// Somebody has answered, and said no.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Call(status) => !is_transient(status),
            Self::Final(_) => true,
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(status) => f.write_str(&sentence(status)),
            Self::Final(error) => error.fmt(f),
        }
    }
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

/// The successor of a certificate, for the same name in the same mesh.
pub(super) async fn renew(channel: Channel, current: &Enrolled) -> Result<Enrolled, Failed> {
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

#[cfg(test)]
pub(super) mod tests;
