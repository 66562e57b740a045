//! Ejects endpoints that answer badly, and takes them back: what `core::outlier` decides by, as atomics that all
//! workers share, so that one worker's finding counts for all.
//!
//! A finding costs two additions at most. An endpoint comes back by itself, as the moment is kept until which it is
//! ejected; whoever sees first that it has passed, a request or the first worker's tick, says so. Success rates are
//! compared by that tick. No request looks at all endpoints.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::balance::{Fitness, LEVELS};
use meshwork_core::model::Health;
use meshwork_core::outlier::{self, Finding, Reason, Streaks, Tally};
use meshwork_core::policy::OutlierPolicy;

use crate::destination::{Backend, Member};
use crate::endpoints::BackendState;
use crate::failure::Failure;
use crate::limits::{Held, Limit};
use crate::live::Snapshot;
use crate::telemetry::{Event, Gauge, Registry};
use crate::worker::Worker;

/// An endpoint that comes back from an ejection gets its full share after this at the earliest, also without a
/// policy's slow start: if it still fails, a few requests find that out, not all of its share at once.
const RETURN_SLOW_START_MIN: Duration = Duration::from_secs(2);

/// What was seen of one endpoint's answers.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    /// [`Streaks`].
    streaks: AtomicU64,
    /// [`Tally`] of this interval.
    tally: AtomicU64,
    /// On the sidecar's clock; 0: not ejected.
    ejected_until: AtomicU64,
    /// Why, as the place in [`Reason::ALL`].
    reason: AtomicU8,
    /// Ejections that good time has not forgiven.
    number: AtomicU32,
    /// Slow start: from when, and for how long; both in nanoseconds.
    slow_since: AtomicU64,
    slow_for: AtomicU64,
}

impl Conduct {
    fn observe(&self, finding: Finding, policy: &OutlierPolicy) -> Option<Reason> {
        self.tally.fetch_add(Tally::step(finding), Relaxed);
        if finding == Finding::Success && self.streaks.load(Relaxed) == 0 {
            return None; // nearly always
        }
        let mut reason = None;
        let grow = |bits| {
            let mut streaks = Streaks::from_bits(bits);
            reason = streaks.observe(finding, policy);
            Some(streaks.to_bits())
        };
        let _ = self.streaks.fetch_update(Relaxed, Relaxed, grow); // it always has an answer
        reason
    }

    /// Until when it is ejected, as far as was said: that may have passed.
    pub(crate) fn ejected_until(&self) -> Option<Instant> {
        Some(self.ejected_until.load(Relaxed)).filter(|until| *until > 0).map(Instant::from_nanos)
    }

    /// Why it is ejected, while it is.
    pub(crate) fn ejected_for(&self, now: Instant) -> Option<Reason> {
        self.ejected_until().filter(|until| *until > now)?;
        self.reason()
    }

    /// Of the last ejection.
    fn reason(&self) -> Option<Reason> {
        Reason::ALL.get(usize::from(self.reason.load(Relaxed))).copied()
    }

    /// Ejections that good time has not forgiven.
    pub(crate) fn ejections(&self) -> u32 {
        self.number.load(Relaxed)
    }

    fn start_slowly(&self, now: Instant, window: Duration) {
        self.slow_for.store(window.as_nanos() as u64, Relaxed);
        self.slow_since.store(now.as_nanos(), Relaxed);
    }

    fn share(&self, now: Instant) -> Fitness {
        let window = Duration::from_nanos(self.slow_for.load(Relaxed));
        Fitness::after(now.since(Instant::from_nanos(self.slow_since.load(Relaxed))), window)
    }
}

/// What was decided about a service's endpoints.
#[derive(Debug, Default)]
pub(crate) struct Ejections {
    /// Endpoints that are ejected now for their answers.
    misbehaving: AtomicU32,
    /// Endpoints that are, as nobody could connect to them.
    unreachable: AtomicU32,
    /// Of both, how many at each distance.
    levels: [AtomicU32; LEVELS],
    /// When the last of those that start slowly has its full share.
    slow_until: AtomicU64,
    /// When success rates are compared next; 0: nobody looked yet.
    compare_at: AtomicU64,
    /// There were findings since they were compared.
    has_news: AtomicBool,
}

impl Ejections {
    /// Everybody is as fit as everybody else: the rule.
    fn is_calm(&self, now: Instant) -> bool {
        self.all() == 0 && self.slow_until.load(Relaxed) <= now.as_nanos()
    }

    fn all(&self) -> u32 {
        self.misbehaving.load(Relaxed) + self.unreachable.load(Relaxed)
    }

    /// Makes an ejection count, if there may be one more. The ceiling keeps load off those that are left. Whoever takes
    /// no connections bore none, so it is about the others.
    fn claim(&self, reason: Reason, level: usize, endpoints: usize, policy: &OutlierPolicy) -> bool {
        let reachable = endpoints.saturating_sub(self.unreachable.load(Relaxed) as usize);
        let more = |count| {
            let may =
                reason == Reason::ConsecutiveConnectFailures || outlier::may_eject(count, reachable, policy);
            may.then_some(count + 1)
        };
        let may = self.counter(reason).fetch_update(Relaxed, Relaxed, more).is_ok();
        if may {
            self.levels[level].fetch_add(1, Relaxed);
        }
        may
    }

    fn release(&self, reason: Reason, level: usize) {
        for count in [self.counter(reason), &self.levels[level]] {
            let _ = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }

    fn counter(&self, reason: Reason) -> &AtomicU32 {
        match reason {
            Reason::ConsecutiveConnectFailures => &self.unreachable,
            Reason::Consecutive5xx | Reason::ConsecutiveGatewayErrors | Reason::SuccessRate => {
                &self.misbehaving
            }
        }
    }

    /// An interval with requests is over, and this is its one judge.
    fn is_due(&self, interval: Duration, now: Instant) -> bool {
        if !self.has_news.load(Relaxed) {
            return false; // most of many services, most of the time
        }
        let due = self.compare_at.load(Relaxed);
        let next = (now + interval).as_nanos();
        due <= now.as_nanos()
            && self.compare_at.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
            && due > 0
    }
}

impl BackendState {
    /// Counts again who is ejected: endpoints came and went.
    pub(crate) fn recount(&self, members: &[Member]) {
        let (mut unreachable, mut misbehaving) = (0, 0);
        let mut levels = [0; LEVELS];
        let ejected = |member: &&Member| counts(member) && member.state.conduct.ejected_until().is_some();
        for member in members.iter().filter(ejected) {
            levels[member.level] += 1;
            match member.state.conduct.reason() {
                Some(Reason::ConsecutiveConnectFailures) => unreachable += 1,
                Some(_) | None => misbehaving += 1,
            }
        }
        let ejections = &self.ejections;
        let counts = [(&ejections.unreachable, unreachable), (&ejections.misbehaving, misbehaving)];
        for (count, now) in counts.into_iter().chain(ejections.levels.iter().zip(levels)) {
            let before = count.load(Relaxed);
            // An ejection just now is counted the next time.
            let _ = count.compare_exchange(before, now, Relaxed, Relaxed);
        }
    }

    /// This endpoint is new, or said to be healthy again.
    pub(crate) fn start_slowly(&self, member: &Member, now: Instant, window: Duration) {
        member.state.conduct.start_slowly(now, window);
        self.ejections.slow_until.fetch_max((now + window).as_nanos(), Relaxed);
    }
}

/// Who of a service's endpoints may be chosen at this moment.
pub(crate) struct View<'a> {
    backend: &'a Backend,
    now: Instant,
    worker: &'a Worker,
    look: Look,
    /// Endpoints have limits of their own.
    limited: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Everybody is fit.
    Calm,
    AtEach,
    /// Too few are fit: ejections are not looked at.
    Panic,
}

impl View<'_> {
    /// How many healthy endpoints of each level are left out.
    pub(crate) fn ejected(&self) -> [u32; LEVELS] {
        match self.look {
            Look::Calm | Look::Panic => [0; LEVELS],
            Look::AtEach => self.backend.state.ejections.levels.each_ref().map(|count| count.load(Relaxed)),
        }
    }

    pub(crate) fn fitness(&self, member: &Member) -> Fitness {
        if self.limited && self.backend.is_full(member, self.worker).is_some() {
            return Fitness::Full;
        }
        if self.look == Look::Calm {
            return Fitness::FIT;
        }
        let conduct = &member.state.conduct;
        if let Some(until) = conduct.ejected_until() {
            if until <= self.now {
                self.backend.take_back(member, self.now, &self.worker.registry);
            } else {
                return if self.look == Look::Panic { Fitness::FIT } else { Fitness::Ejected };
            }
        }
        conduct.share(self.now)
    }
}

impl Backend {
    pub(crate) fn view<'a>(&'a self, now: Instant, worker: &'a Worker) -> View<'a> {
        let look = if self.state.ejections.is_calm(now) {
            Look::Calm
        } else if self.is_panic() {
            worker.registry.count(Event::EjectionsIgnored);
            Look::Panic
        } else {
            Look::AtEach
        };
        View { backend: self, now, worker, look, limited: self.limits_endpoints() }
    }

    /// How many of its endpoints are ejected.
    pub(crate) fn ejected(&self) -> u32 {
        self.state.ejections.all()
    }

    /// Of the endpoints that may be fit, as far as the control plane knows.
    fn is_panic(&self) -> bool {
        let unreachable = self.state.ejections.unreachable.load(Relaxed) as usize;
        let reachable = self.candidates.healthy().saturating_sub(unreachable);
        let fit = reachable.saturating_sub(self.state.ejections.misbehaving.load(Relaxed) as usize);
        fit == 0 || outlier::is_panic(fit, reachable, &self.traffic().outlier)
    }

    /// A try of a request at one of its endpoints. `Err`: others were faster, and it has no room now.
    pub(crate) fn begin<'a>(&'a self, member: &'a Member, worker: &Worker) -> Result<Trial<'a>, Failure> {
        let outstanding = member.state.begin(self.traffic().limits.endpoint_requests);
        let outstanding = outstanding.ok_or_else(|| self.reached(Limit::EndpointRequests, worker))?;
        Ok(Trial { backend: self, member, _outstanding: outstanding, verdict: Cell::new(Verdict::Open) })
    }

    fn judge(&self, member: &Member, finding: Finding, now: Instant, registry: &Registry) {
        let has_news = &self.state.ejections.has_news;
        if !has_news.load(Relaxed) {
            has_news.store(true, Relaxed);
        }
        if let Some(reason) = member.state.conduct.observe(finding, &self.traffic().outlier) {
            self.eject(member, reason, now, registry);
        }
    }

    fn eject(&self, member: &Member, reason: Reason, now: Instant, registry: &Registry) {
        let (policy, conduct) = (&self.traffic().outlier, &member.state.conduct);
        if conduct.ejected_until().is_some() {
            return; // requests that were on their way
        }
        let (service, endpoint, why) = (&self.cluster.name, member.endpoint.address, reason.word());
        if counts(member)
            && !self.state.ejections.claim(reason, member.level, self.candidates.healthy(), policy)
        {
            registry.count(Event::EjectionWithheld);
            tracing::debug!(%service, %endpoint, reason = why, "not ejected: as many are as may be");
            return;
        }
        let number = outlier::next_number(conduct.ejections(), policy);
        let duration = outlier::duration(number, policy);
        let until = (now + duration).as_nanos();
        if conduct.ejected_until.compare_exchange(0, until, Relaxed, Relaxed).is_err() {
            self.release(member, reason); // another worker came first
            return;
        }
        conduct.number.store(number, Relaxed);
        conduct.reason.store(reason as u8, Relaxed);
        registry.count(event(reason));
        registry.add(Gauge::EjectedEndpoints, 1);
        tracing::warn!(%service, %endpoint, workload = %member.endpoint.workload, reason = why, seconds = duration.as_secs_f64(), number, "endpoint ejected");
    }

    /// Its time is over. Whoever sees that first says so.
    fn take_back(&self, member: &Member, now: Instant, registry: &Registry) {
        let conduct = &member.state.conduct;
        let until = conduct.ejected_until.load(Relaxed);
        let is_over = until > 0 && until <= now.as_nanos();
        if !is_over || conduct.ejected_until.compare_exchange(until, 0, Relaxed, Relaxed).is_err() {
            return;
        }
        conduct.streaks.store(0, Relaxed);
        member.state.forget();
        let window = self.traffic().slow_start.unwrap_or_default().max(RETURN_SLOW_START_MIN);
        self.state.start_slowly(member, now, window);
        if let Some(reason) = conduct.reason() {
            self.release(member, reason);
        }
        registry.count(Event::EjectionEnded);
        registry.add(Gauge::EjectedEndpoints, -1);
        let (service, endpoint) = (&self.cluster.name, member.endpoint.address);
        tracing::info!(%service, %endpoint, workload = %member.endpoint.workload, slow_start_seconds = window.as_secs_f64(), "endpoint taken back");
    }

    fn release(&self, member: &Member, reason: Reason) {
        if counts(member) {
            self.state.ejections.release(reason, member.level);
        }
    }

    /// At the end of an interval: forgives good time, and compares success rates.
    fn compare(&self, now: Instant, registry: &Registry) {
        let policy = &self.traffic().outlier;
        let in_good_time = |conduct: &Conduct| {
            let back = Instant::from_nanos(conduct.slow_since.load(Relaxed));
            conduct.ejected_until().is_none() && now.since(back) >= policy.interval
        };
        let conducts = self.members.iter().map(|member| &member.state.conduct);
        for conduct in conducts.filter(|conduct| conduct.ejections() > 0 && in_good_time(conduct)) {
            conduct.number.fetch_sub(1, Relaxed);
        }
        let swept = |member: &Member| Tally::from_bits(member.state.conduct.tally.swap(0, Relaxed));
        let tallies: Vec<_> = self.members.iter().map(swept).collect();
        for index in outlier::far_below(&tallies, policy) {
            self.eject(&self.members[index], Reason::SuccessRate, now, registry);
        }
    }
}

/// Who comes last anyway, by its own check or lease, is none of those that are compared with who is left.
fn counts(member: &Member) -> bool {
    member.endpoint.health == Health::Healthy
}

fn event(reason: Reason) -> Event {
    match reason {
        Reason::Consecutive5xx => Event::Ejected5xx,
        Reason::ConsecutiveGatewayErrors => Event::EjectedGatewayErrors,
        Reason::ConsecutiveConnectFailures => Event::EjectedConnectFailures,
        Reason::SuccessRate => Event::EjectedSuccessRate,
    }
}

/// The first worker's tick: what is due without any request.
pub(crate) fn tend(snapshot: &Snapshot, now: Instant, registry: &Registry) {
    // A service with several names comes up for each of them.
    let mut ailing: Vec<&Arc<Backend>> = Vec::new();
    for backend in snapshot.backends() {
        let ejections = &backend.state.ejections;
        if ejections.all() > 0 && !ailing.iter().any(|known| Arc::ptr_eq(known, backend)) {
            backend.members.iter().for_each(|member| backend.take_back(member, now, registry));
            ailing.push(backend);
        }
        if ejections.is_due(backend.traffic().outlier.interval, now) {
            backend.compare(now, registry);
        }
    }
    // Counted anew, as ejected endpoints may have gone.
    let ejected: u32 = ailing.iter().map(|backend| backend.ejected()).sum();
    registry.set(Gauge::EjectedEndpoints, ejected.into());
}

/// One try at an endpoint: counted as open until it is dropped, judged once.
pub(crate) struct Trial<'a> {
    backend: &'a Backend,
    member: &'a Member,
    _outstanding: Held<'a>,
    verdict: Cell<Verdict>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Open,
    Said,
}

impl Trial<'_> {
    /// How it ended. What is said after that is not about the endpoint any more. `None`: nothing about it.
    pub(crate) fn judge(&self, finding: Option<Finding>, now: Instant, registry: &Registry) {
        if self.verdict.replace(Verdict::Said) == Verdict::Open
            && let Some(finding) = finding
        {
            self.backend.judge(self.member, finding, now, registry);
        }
    }
}
