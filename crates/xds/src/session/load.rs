//! The control plane's end of a stream of load reports (LRS, `envoy.service.load_stats.v3`): what a client without a sidecar
//! counted of each service that it calls.
//!
//! The client says who it is and is told how often to report, and on what: on all that it has, of which only names of ours
//! count. Its own clusters are its own affair. Each report holds what came since the one before, so that counts are added up
//! here, and what is in progress is as the newest report has it.
//!
//! Pure. What a report may make of its bytes is bounded by whoever reads it, the table by [`SERVICES_MAX`]; how many
//! services all clients together may have, the caller says (`room`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshwork_core::name::PortName;

use super::server::{Client, Violation};
use crate::wire::endpoint::{ClusterStats, UpstreamLocalityStats};
use crate::wire::{self, LoadStatsRequest, LoadStatsResponse};

/// Services of one stream: an Envoy carries 256 at most, whose routes lead to some others.
pub const SERVICES_MAX: usize = 1_024;

/// One stream, as long as it lasts.
#[derive(Clone, Debug, Default)]
pub struct LoadSession {
    client: Option<Client>,
    services: BTreeMap<PortName, Load>,
    /// How many came.
    reports: u64,
    left_out: usize,
}

/// What a client counted of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that it began.
    pub issued: u64,
    pub succeeded: u64,
    pub errors: u64,
    /// Requests that it gave up before it had chosen an endpoint.
    pub dropped: u64,
    /// When it last reported.
    pub in_progress: u64,
    newest: Newest,
}

/// The newest report of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Newest {
    /// Its number.
    report: u64,
    issued: u64,
    interval: Duration,
}

impl Load {
    /// Requests that were begun in the newest report's time; `None`: that was no time.
    pub fn per_second(&self) -> Option<f64> {
        let seconds = self.newest.interval.as_secs_f64();
        (seconds > 0.0).then(|| self.newest.issued as f64 / seconds)
    }

    /// A service may stand in a report more than once.
    fn add(&mut self, report: u64, stats: &ClusterStats) {
        if self.newest.report != report {
            self.newest = Newest { report, ..Newest::default() };
            self.in_progress = 0;
        }
        let sum = |count: fn(&UpstreamLocalityStats) -> u64| {
            let counts = stats.upstream_locality_stats.iter().map(count);
            counts.fold(0, u64::saturating_add)
        };
        let issued = sum(|locality| locality.total_issued_requests);
        self.issued = self.issued.saturating_add(issued);
        self.succeeded = self.succeeded.saturating_add(sum(|locality| locality.total_successful_requests));
        self.errors = self.errors.saturating_add(sum(|locality| locality.total_error_requests));
        self.dropped = self.dropped.saturating_add(stats.total_dropped_requests);
        self.in_progress =
            self.in_progress.saturating_add(sum(|locality| locality.total_requests_in_progress));
        self.newest.issued = self.newest.issued.saturating_add(issued);
        self.newest.interval = self.newest.interval.max(interval(stats));
    }
}

/// As the report says; a time that runs backwards is none.
fn interval(stats: &ClusterStats) -> Duration {
    let Some(wire::Duration { seconds, nanos }) = stats.load_report_interval else { return Duration::ZERO };
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => {
            Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()))
        }
        _ => Duration::ZERO,
    }
}

impl LoadSession {
    /// Takes a request, of which the first says who reports and is answered; the others are reports. Of services that were
    /// not reported before at most `room` are entered.
    pub fn request(
        &mut self,
        request: LoadStatsRequest,
        every: Duration,
        room: usize,
    ) -> Result<Option<LoadStatsResponse>, Violation> {
        let LoadStatsRequest { node, cluster_stats } = request;
        let answer = match (&self.client, node) {
            (Some(_), _) => None,
            (None, Some(node)) => {
                self.client = Some(Client::of(node)?);
                Some(LoadStatsResponse {
                    // All that there is knows this (`envoy.lrs.supports_send_all_clusters`).
                    send_all_clusters: true,
                    load_reporting_interval: Some(wire::Duration {
                        seconds: i64::try_from(every.as_secs()).unwrap_or(i64::MAX),
                        nanos: every.subsec_nanos().cast_signed(),
                    }),
                    ..LoadStatsResponse::default()
                })
            }
            (None, None) => return Err(Violation::Nobody),
        };
        self.report(&cluster_stats, room);
        Ok(answer)
    }

    fn report(&mut self, clusters: &[ClusterStats], room: usize) {
        self.reports += 1;
        self.left_out = 0;
        let before = self.services.len();
        let named = clusters.iter().filter_map(|stats| Some((stats.cluster_name.parse().ok()?, stats)));
        let named: Vec<(PortName, &ClusterStats)> = named.collect();
        if before >= SERVICES_MAX {
            // What neither this report has nor the last one gives its place to what comes.
            let last = self.reports - 1;
            let now: BTreeSet<&PortName> = named.iter().map(|(name, _)| name).collect();
            self.services.retain(|name, load| load.newest.report >= last || now.contains(name));
        }
        let most = SERVICES_MAX.min(before.saturating_add(room));
        for (name, stats) in named {
            if let Some(load) = self.services.get_mut(&name) {
                load.add(self.reports, stats);
            } else if self.services.len() < most {
                self.services.entry(name).or_default().add(self.reports, stats);
            } else {
                self.left_out += 1;
            }
        }
    }

    /// `None` until it said so.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    pub fn services(&self) -> &BTreeMap<PortName, Load> {
        &self.services
    }

    /// How many entries of the newest report had no place.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn locality(issued: u64, succeeded: u64, errors: u64, in_progress: u64) -> UpstreamLocalityStats {
        UpstreamLocalityStats {
            total_issued_requests: issued,
            total_successful_requests: succeeded,
            total_error_requests: errors,
            total_requests_in_progress: in_progress,
            ..UpstreamLocalityStats::default()
        }
    }

    fn stats(name: &str, localities: Vec<UpstreamLocalityStats>) -> ClusterStats {
        ClusterStats {
            cluster_name: name.to_owned(),
            upstream_locality_stats: localities,
            load_report_interval: Some(wire::Duration { seconds: 2, nanos: 0 }),
            ..ClusterStats::default()
        }
    }

    fn report(cluster_stats: Vec<ClusterStats>) -> LoadStatsRequest {
        LoadStatsRequest { node: None, cluster_stats }
    }

    fn begun() -> LoadSession {
        let mut session = LoadSession::default();
        let node = wire::core::Node { id: "default/web".to_owned(), ..wire::core::Node::default() };
        let first = LoadStatsRequest { node: Some(node), cluster_stats: Vec::new() };
        let answer = session.request(first, EVERY, 0).unwrap().expect("an answer");
        assert!(answer.send_all_clusters);
        assert_eq!(answer.load_reporting_interval, Some(wire::Duration { seconds: 10, nanos: 0 }));
        session
    }

    fn load<'a>(session: &'a LoadSession, name: &str) -> &'a Load {
        &session.services()[&name.parse::<PortName>().unwrap()]
    }

    #[test]
    fn who_does_not_say_who_it_is_is_told_so() {
        let refused = LoadSession::default().request(report(Vec::new()), EVERY, 9);
        assert_eq!(refused, Err(Violation::Nobody));
    }

    #[test]
    fn counts_add_up_and_what_is_in_progress_is_as_it_was_last() {
        let mut session = begun();
        let cart = "default/cart:80";
        let first =
            vec![stats(cart, vec![locality(7, 4, 1, 2), locality(3, 3, 0, 0)]), stats("own", Vec::new())];
        assert_eq!(session.request(report(first), EVERY, 9), Ok(None));
        let mut second = stats(cart, vec![locality(1, 0, 2, 1)]);
        second.total_dropped_requests = 5;
        session.request(report(vec![second]), EVERY, 9).unwrap();
        let found = load(&session, cart);
        assert_eq!((found.issued, found.succeeded, found.errors), (11, 7, 3));
        assert_eq!((found.in_progress, found.dropped), (1, 5));
        assert_eq!(found.per_second(), Some(0.5), "of the newest report alone");
        assert_eq!(session.services().len(), 1, "its own clusters are its own affair");
    }

    #[test]
    fn what_no_honest_client_reports_harms_nothing() {
        let mut session = begun();
        let cart = "default/cart:80";
        for interval in [Some((i64::MIN, 0)), Some((0, -1)), Some((i64::MAX, i32::MAX)), None] {
            let mut huge = stats(cart, vec![locality(u64::MAX, u64::MAX, 1, u64::MAX); 2]);
            huge.load_report_interval = interval.map(|(seconds, nanos)| wire::Duration { seconds, nanos });
            huge.total_dropped_requests = u64::MAX;
            session.request(report(vec![huge.clone(), huge]), EVERY, 9).unwrap();
            let per_second = load(&session, cart).per_second();
            assert!(per_second.is_none_or(f64::is_finite), "{interval:?}: {per_second:?}");
        }
        assert_eq!(load(&session, cart).issued, u64::MAX);
    }

    fn crowd(names: std::ops::Range<usize>) -> Vec<ClusterStats> {
        names.map(|name| stats(&format!("default/s{name}:80"), vec![locality(1, 1, 0, 0)])).collect()
    }

    #[test]
    fn a_crowd_of_services_has_a_bound_and_what_was_left_out_is_told() {
        let mut session = begun();
        session.request(report(crowd(0..2_000)), EVERY, usize::MAX).unwrap();
        assert_eq!((session.services().len(), session.left_out()), (SERVICES_MAX, 2_000 - SERVICES_MAX));
        // Others take the place of those that are reported no more, one report later; who comes back goes on.
        session.request(report(crowd(1_000..1_024)), EVERY, usize::MAX).unwrap();
        let next = [crowd(0..1), crowd(1_500..1_600)].concat();
        session.request(report(next), EVERY, usize::MAX).unwrap();
        assert_eq!((session.services().len(), session.left_out()), (125, 0));
        for name in ["default/s0:80", "default/s1023:80"] {
            assert_eq!(load(&session, name).issued, 2, "{name}");
        }
    }

    #[test]
    fn all_clients_share_the_room() {
        let mut session = begun();
        session.request(report(crowd(0..10)), EVERY, 4).unwrap();
        session.request(report(crowd(0..10)), EVERY, 0).unwrap();
        assert_eq!((session.services().len(), session.left_out()), (4, 6));
        assert_eq!(load(&session, "default/s3:80").issued, 2, "who is in stays in");
    }
}
