//! How long an endpoint takes to answer, as a plain value that fits in two atomics of the caller.

use std::time::Duration;

use meshwork_http::Instant;

/// How quickly an estimate forgets: after this long an old latency counts 1/e. Who is not asked is forgiven by time
/// alone, and of two endpoints the slower is not asked: after one answer of 100 ms among answers of 2 ms it waits for
/// four of these. With ten seconds, as Finagle and Linkerd have it, one slow first answer kept a newcomer idle for 40 s.
/// An endpoint that stays slow pays with one slow answer each few seconds, whatever the rate.
pub const PEAK_EWMA_DECAY: Duration = Duration::from_secs(1);

/// What a failed try counts as. Otherwise an endpoint that refuses at once would look like the fastest.
pub const PEAK_EWMA_FAILURE: Duration = Duration::from_secs(1);

/// The load of an endpoint that never answered while a first request to it is open: more than any latency,
/// so that an unknown endpoint gets one request to show itself, not all of them.
const LOAD_UNKNOWN: u64 = 1 << 48;

/// One endpoint's latency: it jumps to a peak at once and comes down slowly, so that a sudden stall is seen
/// by the next request and a lucky answer does not hide it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeakEwma {
    /// Nanoseconds; 0: nothing observed yet.
    estimate: f64,
    updated: Instant,
}

impl PeakEwma {
    /// Takes in how long an answer took (`PEAK_EWMA_FAILURE` if none came).
    pub fn observe(&mut self, rtt: Duration, now: Instant) {
        // At least 1, since 0 means that nothing was observed.
        let rtt = (rtt.as_nanos() as f64).max(1.0);
        let kept = self.decay(now);
        let faded = self.estimate * kept;
        // Against what `load` says now: an old peak that has faded away must not count again beside the news.
        self.estimate = if rtt >= faded { rtt } else { faded + rtt * (1.0 - kept) };
        // Observations may come out of order when several workers share the endpoint.
        self.updated = self.updated.max(now);
    }

    /// What the next request would meet there: the latency, which fades without news, for each request that
    /// is open and the next one. In nanoseconds.
    pub fn load(&self, now: Instant, outstanding: u32) -> u64 {
        if self.estimate > 0.0 {
            let latency = self.estimate * self.decay(now);
            (latency * (f64::from(outstanding) + 1.0)) as u64
        } else if outstanding == 0 {
            0
        } else {
            LOAD_UNKNOWN.saturating_add(outstanding.into())
        }
    }

    /// The share of the estimate that is left.
    fn decay(&self, now: Instant) -> f64 {
        (-(now - self.updated).as_secs_f64() / PEAK_EWMA_DECAY.as_secs_f64()).exp()
    }

    /// For two atomics of the caller. They may be read torn: then an estimate has its neighbour's time,
    /// which does no harm.
    pub fn to_bits(self) -> (u64, u64) {
        (self.estimate.to_bits(), self.updated.as_nanos())
    }

    pub fn from_bits((estimate, updated): (u64, u64)) -> Self {
        let estimate = Some(f64::from_bits(estimate)).filter(|estimate| estimate.is_finite()).unwrap_or(0.0);
        Self { estimate, updated: Instant::from_nanos(updated) }
    }
}
