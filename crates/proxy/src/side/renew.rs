//! The keeper of the sidecar's certificate and trust bundle: renews it, takes new roots, writes both to disk and installs
//! them, and warns of an end that comes though it should not.
//!
//! When all that is due is `core::rotate`'s decision; getting a certificate is `enroll.rs`. Renewal failing costs nothing
//! until the certificate ends, and a while after that the control plane still renews it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_core::rotate::{Life, Warning};
use meshwork_core::timestamp;
use meshwork_identity::{Enrolled, TrustBundle};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::enroll::{Failed, renew};
use super::random;
use super::status::StatusBoard;
use crate::clock::unix_seconds;
use crate::telemetry::{Event, Registry};

/// The wall clock is looked at so often at least: a laptop sleeps, clocks are set, and timers know nothing of it.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Between two renewals at least, whatever a control plane signs.
const RENEW_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What the control plane's config says about certificates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) bundle: Option<TrustBundle>,
    /// The hash of the root below which leaves are signed now; empty: not told.
    pub(crate) issuing_root: String,
}

/// The one writer of the sidecar's certificate and trust bundle.
pub(crate) struct Keeper<'a> {
    pub(crate) state_dir: &'a Path,
    pub(crate) enrolled: watch::Sender<Arc<Enrolled>>,
    pub(crate) channel: Channel,
    pub(crate) told: watch::Receiver<Told>,
    /// Tells the data path.
    pub(crate) install: &'a (dyn Fn(&Enrolled) + Send + Sync),
    pub(crate) registry: Arc<Registry>,
    pub(crate) status: StatusBoard,
}

impl Keeper<'_> {
    /// Never ends by itself.
    pub(crate) async fn keep(mut self) {
        let mut plan = Plan::of(&self.enrolled.borrow());
        let mut taken = None;
        loop {
            plan.warn(SystemTime::now());
            self.status.set_unrenewed(plan.unrenewed(SystemTime::now()));
            tokio::select! {
                () = tokio::time::sleep(plan.wait(SystemTime::now())) => {}
                Ok(()) = self.told.changed() => {
                    let told = self.told.borrow_and_update().clone();
                    // A renewal may have brought a newer bundle since this one was told.
                    if told.bundle != taken {
                        taken.clone_from(&told.bundle);
                        told.bundle.into_iter().for_each(|bundle| self.take_bundle(bundle));
                    }
                    self.take_issuing_root(&told.issuing_root, &mut plan);
                    continue;
                }
            }
            if !plan.is_due(SystemTime::now()) {
                continue;
            }
            let current = self.enrolled.borrow().clone();
            match renew(self.channel.clone(), &current).await {
                Ok(renewed) => {
                    self.registry.count(Event::CertificateRenewed);
                    plan = Plan::of(&renewed);
                    plan.not_before = Instant::now() + RENEW_INTERVAL_MIN;
                    self.replace(renewed);
                    tracing::info!(ends = plan.end(), "renewed the certificate");
                }
                Err(failed) => {
                    self.registry.count(Event::CertificateRenewalFailed);
                    plan.failed(&failed, SystemTime::now());
                }
            }
        }
    }

    fn take_issuing_root(&self, told: &str, plan: &mut Plan) {
        let own = self.enrolled.borrow().issuing_root();
        if !told.is_empty() && own.is_none_or(|own| own.to_string() != told) {
            tracing::info!(root = told, "the mesh signs by another root: renewing soon");
            plan.hurry(SystemTime::now());
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
        // First, as others may use new roots already; and a full disk stops the writing, not the traffic.
        (self.install)(&enrolled);
        if let Err(error) = enrolled.save(self.state_dir) {
            tracing::warn!(%error, "cannot keep the certificate on disk; a restart may need a join token");
        }
        self.enrolled.send_replace(Arc::new(enrolled));
    }
}

/// When what is due for one certificate.
struct Plan {
    life: Life,
    renewal: SystemTime,
    /// After a try: by a clock that nobody sets.
    not_before: Instant,
    failures: u32,
    /// Why the last try failed.
    reason: String,
    /// The control plane refused; nothing is known to be better the next time.
    refused: bool,
    warned: Option<SystemTime>,
}

impl Plan {
    fn of(enrolled: &Enrolled) -> Self {
        let life = enrolled.identity.life();
        Self {
            life,
            renewal: life.renewal(random()),
            not_before: Instant::now(),
            failures: 0,
            reason: "it was not tried, as the sidecar has only just started".to_owned(),
            refused: false,
            warned: None,
        }
    }

    fn is_due(&self, now: SystemTime) -> bool {
        now >= self.renewal && Instant::now() >= self.not_before
    }

    /// Until something may be due.
    fn wait(&self, now: SystemTime) -> Duration {
        let renewal = self.renewal.duration_since(now).unwrap_or_default();
        let pause = self.not_before.saturating_duration_since(Instant::now());
        // A millisecond: whoever sleeps for nothing may wake before its time.
        renewal.max(pause).min(LOOK_INTERVAL).max(Duration::from_millis(1))
    }

    fn hurry(&mut self, now: SystemTime) {
        self.renewal = self.renewal.min(self.life.hurried_renewal(now, random()));
    }

    fn failed(&mut self, failed: &Failed, now: SystemTime) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Instant::now() + self.life.retry_pause(now, self.failures, random());
        self.reason = failed.to_string();
        self.refused = failed.is_refusal();
        tracing::info!(reason = self.reason, ends = self.end(), "the certificate could not be renewed yet");
    }

    /// What operators are to know: nothing while failures may pass and there is time.
    fn unrenewed(&self, now: SystemTime) -> Option<String> {
        (self.refused || self.failures > 0 && self.life.is_late(now)).then(|| self.reason.clone())
    }

    fn warn(&mut self, now: SystemTime) {
        let Some(warning) = self.life.warning(now, self.warned) else { return };
        self.warned = Some(now);
        let (reason, ends) = (&self.reason, self.end());
        match warning {
            Warning::Ending => tracing::warn!(
                reason,
                traffic_stops_in_minutes = self.life.left(now).as_secs() / 60,
                "the certificate is not renewed: traffic stops at {ends}"
            ),
            Warning::Ended => tracing::error!(
                reason,
                renewable_until = time(self.life.ends + self.life.grace()),
                "the certificate expired at {ends}: no traffic is carried; it is renewed once the control plane \
                 answers, else start the sidecar again with a new join token"
            ),
        }
    }

    fn end(&self) -> String {
        time(self.life.ends)
    }
}

fn time(time: SystemTime) -> String {
    timestamp::format(u64::try_from(unix_seconds(time)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
