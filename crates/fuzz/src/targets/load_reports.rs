//! The control plane's end of a stream of load reports, told anything.
//!
//! Who does not say who it is is refused, and answered once who does; the table is bounded by its own limit and by the room
//! that all have; no count of a service goes back, and what is reckoned of them is a number; nothing but names of ours is
//! entered.

use std::time::Duration;

use meshwork_xds::session::NAME_BYTES_MAX;
use meshwork_xds::session::load::{LoadSession, SERVICES_MAX};
use meshwork_xds::wire::core::Node;
use meshwork_xds::wire::endpoint::{ClusterStats, UpstreamLocalityStats};
use meshwork_xds::wire::{self, LoadStatsRequest};
use prost::Message as _;

use crate::Target;
use crate::input::{Input, put_piece};

pub(super) const TARGET: Target = Target {
    name: "load_reports",
    run,
    seeds,
    words: &[b"default/cart:80", b"default/", b":80", b"?instance=", &[0x12], &[0x22], &[0xff, 0xff], &[0]],
};

/// Reports of one story.
const STEPS_MAX: usize = 64;

const NAMES: [&str; 5] = ["default/cart:80", "default/web:8080", "shop/pay:1", "meshwork", "default/cart:0"];

const NUMBERS: [u64; 5] = [0, 1, 7, u64::MAX - 1, u64::MAX];

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut session = LoadSession::default();
    for _ in 0..STEPS_MAX {
        if input.is_used_up() {
            return;
        }
        let request = match input.below(3) {
            0 => match LoadStatsRequest::decode(input.piece()) {
                Ok(request) => request,
                Err(_) => continue,
            },
            1 => crowd(input.below(256) * 8),
            _ => made(&mut input),
        };
        let room = input.pick(&[0, 1, 3, usize::MAX]);
        step(&mut session, request, room);
    }
}

fn step(session: &mut LoadSession, request: LoadStatsRequest, room: usize) {
    let before = session.clone();
    let entries = request.cluster_stats.len();
    let says_who = request.node.is_some();
    let answered = match session.request(request, Duration::from_secs(10), room) {
        Ok(answer) => answer.is_some(),
        Err(violation) => {
            assert!(violation.to_string().len() < 200);
            assert!(before.client().is_none() && session.services().is_empty());
            return;
        }
    };
    assert_eq!(answered, before.client().is_none());
    assert!(before.client().is_some() || says_who, "nobody in particular reports");
    let (old, new) = (before.services(), session.services());
    assert!(new.len() <= SERVICES_MAX);
    // What is reported no more gives its place to what comes.
    assert!(new.len() <= old.len().saturating_add(room), "no room");
    assert!(session.left_out() <= entries);
    for (name, load) in new {
        assert!(name.to_string().len() <= NAME_BYTES_MAX);
        assert!(load.per_second().is_none_or(|requests| requests.is_finite() && requests >= 0.0));
        let Some(earlier) = old.get(name) else { continue };
        let counts =
            |of: &meshwork_xds::session::load::Load| [of.issued, of.succeeded, of.errors, of.dropped];
        assert!(counts(earlier).iter().zip(counts(load)).all(|(earlier, now)| *earlier <= now), "{name}");
    }
}

fn made(input: &mut Input<'_>) -> LoadStatsRequest {
    let node = input.once_in(2).then(|| Node { user_agent_name: "envoy".to_owned(), ..Node::default() });
    let cluster_stats = (0..input.below(4)).map(|_| stats(input)).collect();
    LoadStatsRequest { node, cluster_stats }
}

fn stats(input: &mut Input<'_>) -> ClusterStats {
    let seconds = i64::from_ne_bytes(input.pick(&NUMBERS).to_ne_bytes());
    ClusterStats {
        cluster_name: input.pick(&NAMES).to_owned(),
        upstream_locality_stats: (0..input.below(3)).map(|_| locality(input)).collect(),
        total_dropped_requests: input.pick(&NUMBERS),
        load_report_interval: Some(wire::Duration { seconds, nanos: input.pick(&[0, -1, 7, i32::MAX]) }),
        ..ClusterStats::default()
    }
}

fn locality(input: &mut Input<'_>) -> UpstreamLocalityStats {
    UpstreamLocalityStats {
        total_issued_requests: input.pick(&NUMBERS),
        total_successful_requests: input.pick(&NUMBERS),
        total_error_requests: input.pick(&NUMBERS),
        total_requests_in_progress: input.pick(&NUMBERS),
        ..UpstreamLocalityStats::default()
    }
}

/// More than are kept.
fn crowd(count: usize) -> LoadStatsRequest {
    let stats = |number| ClusterStats {
        cluster_name: format!("default/s{number}:80"),
        total_dropped_requests: 1,
        ..ClusterStats::default()
    };
    LoadStatsRequest { node: None, cluster_stats: (0..count).map(stats).collect() }
}

fn seeds() -> Vec<Vec<u8>> {
    let stats = ClusterStats {
        cluster_name: NAMES[0].to_owned(),
        upstream_locality_stats: vec![UpstreamLocalityStats {
            total_issued_requests: 7,
            total_successful_requests: 6,
            ..UpstreamLocalityStats::default()
        }],
        load_report_interval: Some(wire::Duration { seconds: 10, nanos: 0 }),
        ..ClusterStats::default()
    };
    let node = Node { id: "default/web".to_owned(), user_agent_name: "envoy".to_owned(), ..Node::default() };
    let first = LoadStatsRequest { node: Some(node), cluster_stats: Vec::new() };
    let next = LoadStatsRequest { node: None, cluster_stats: vec![stats] };
    let mut told = Vec::new();
    for request in [&first, &next, &next] {
        told.push(0);
        put_piece(&request.encode_to_vec(), &mut told);
        told.push(3);
    }
    let crowds = [&told[..], &[1, 255, 3, 1, 64, 3, 1, 255, 3, 1, 255, 1]].concat();
    vec![told, crowds, vec![2, 1, 2, 0, 2, 1, 1, 1, 1, 1, 1, 3, 2, 1, 3, 4, 2, 4, 4, 4, 4, 4, 3, 3]]
}
