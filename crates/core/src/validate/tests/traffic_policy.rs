//! `TrafficPolicy`.

use super::*;

fn judge_policy(spec: Value) -> Result<Declared, Vec<Problem>> {
    let mut whole = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "cart"}]});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    judge(Kind::TrafficPolicy, named("cart"), whole)
}

#[track_caller]
fn traffic(spec: Value) -> Traffic {
    match judge_policy(spec) {
        Ok(Declared::TrafficPolicy(policy)) => policy.traffic,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_that_says_nothing_is_the_default() {
    assert_eq!(traffic(json!({})), Traffic::default());
    let empty = json!({
        "timeouts": {}, "retry": {}, "retryConstraint": {}, "limits": {"endpoint": {}}, "outlierDetection": {},
    });
    assert_eq!(traffic(empty), Traffic::default());
}

#[test]
fn a_policys_words_reach_their_values() {
    let told = traffic(json!({
        "timeouts": {"request": "10s", "backendRequest": "0s", "connect": "500ms", "idle": "1m"},
        "retry": {"attempts": 0, "backoff": "5ms"},
        "retryConstraint": {
            "budget": {"percent": 30, "interval": "20s"}, "minRetryRate": {"count": 120, "interval": "1m"},
        },
        "limits": {
            "connections": 1, "pendingRequests": 2, "requests": 3, "endpoint": {"connections": 4, "requests": 5},
        },
        "outlierDetection": {"consecutive5xx": 0, "ejection": "1s", "panicPercent": 0},
        "slowStart": {"window": "30s"},
    }));
    let seconds = Duration::from_secs;
    assert_eq!(told.timeouts, Timeouts { request: Some(seconds(10)), backend_request: None });
    assert_eq!(told.connect, ConnectPolicy { timeout: Duration::from_millis(500), idle: Some(seconds(60)) });
    let budget = RetryBudget { percent: 30, interval: seconds(20), min_per_second: 2 };
    assert_eq!(told.retry, RetryPolicy { attempts: 0, backoff: Duration::from_millis(5), budget });
    let limits = [
        told.limits.connections,
        told.limits.pending_requests,
        told.limits.requests,
        told.limits.endpoint_connections,
        told.limits.endpoint_requests,
    ];
    assert_eq!(limits.map(|limit| limit.map_or(0, NonZeroU32::get)), [1, 2, 3, 4, 5]);
    let outlier = OutlierPolicy {
        consecutive_5xx: 0,
        ejection: seconds(1),
        panic_percent: 0,
        ..OutlierPolicy::default()
    };
    assert_eq!((told.outlier, told.slow_start), (outlier, Some(seconds(30))));
}

#[test]
fn all_problems_of_a_policy_are_told_at_once() {
    let targets = json!([
        {"group": "apps", "kind": "Deployment", "name": "cart"},
        {"kind": "Service", "name": "Cart", "sectionName": "H"},
        {"kind": "Service", "name": "Cart", "sectionName": "H"},
    ]);
    check(
        judge_policy(json!({
            "targetRefs": targets,
            "timeouts": {"request": "1s", "backendRequest": "2s", "connect": "0s", "idle": "0s"},
            "retry": {"attempts": 11, "backoff": "2m"},
            "retryConstraint": {
                "budget": {"percent": 101, "interval": "0s"}, "minRetryRate": {"count": 3, "interval": "2s"},
            },
            "limits": {"connections": 0, "endpoint": {"requests": 1_000_001}},
            "outlierDetection": {"ejectedPercentMax": 101, "interval": "1ms", "ejection": "10m"},
            "slowStart": {"window": "0s"},
        })),
        &[
            ("spec.targetRefs[0]", "a Deployment of the group \"apps\""),
            ("spec.targetRefs[1].name", "not a DNS label"),
            ("spec.targetRefs[1].sectionName", "not a DNS label"),
            ("spec.targetRefs[2].name", "not a DNS label"),
            ("spec.targetRefs[2].sectionName", "not a DNS label"),
            ("spec.targetRefs[2]", "twice"),
            ("spec.timeouts.backendRequest", "longer than the whole request"),
            ("spec.timeouts.connect", "0s is not between 10ms and 2m"),
            ("spec.timeouts.idle", "0s is not between"),
            ("spec.retry.attempts", "11 is not between 0 and 10"),
            ("spec.retry.backoff", "2m is not between"),
            ("spec.retryConstraint.budget.percent", "101 is not between 0 and 100"),
            ("spec.retryConstraint.budget.interval", "0s is not between 1s and 1h"),
            ("spec.retryConstraint.minRetryRate", "3 in 2s is no whole number a second"),
            ("spec.limits.connections", "0 is not between 1 and 1000000"),
            ("spec.limits.endpoint.requests", "1000001 is not between"),
            ("spec.outlierDetection.ejectedPercentMax", "101 is not between"),
            ("spec.outlierDetection.interval", "1ms is not between 100ms and 1h"),
            ("spec.outlierDetection.ejection", "10m, is longer than the longest, 5m"),
            ("spec.slowStart.window", "0s is not between"),
        ],
    );
    check(
        judge(Kind::TrafficPolicy, named("cart"), json!({"targetRefs": []})),
        &[("spec.targetRefs", "0 entries, not 1 to 16")],
    );
}

#[track_caller]
fn balanced(load_balancer: Value) -> (Option<Balance>, Distribution) {
    match judge_policy(json!({"loadBalancer": load_balancer})) {
        Ok(Declared::TrafficPolicy(policy)) => (policy.balance, policy.traffic.distribution),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policys_ways_to_balance_reach_their_values() {
    let check = |written: Value, expect: Option<Balance>| {
        assert_eq!(balanced(written), (expect, Distribution::Anywhere));
    };
    check(json!({}), None);
    check(json!({"type": "peakEwma"}), Some(Balance::PeakEwma));
    check(json!({"type": "roundRobin"}), Some(Balance::RoundRobin));
    check(json!({"type": "leastRequest"}), Some(Balance::LeastRequest));
    check(json!({"type": "random"}), Some(Balance::Random));
    let ring = HashTable::Ring { size_min: 1_024, size_max: 65_536 };
    let key = HashKey::Header("x-user".to_owned());
    let header = json!({"type": "header", "name": "X-User"});
    check(json!({"type": "ringHash", "hash": header}), Some(Balance::Hash { table: ring, key }));
    let sized = HashTable::Ring { size_min: 16, size_max: 64 };
    check(
        json!({"type": "ringHash", "hash": {"type": "source"}, "minimumRingSize": 16, "maximumRingSize": 64}),
        Some(Balance::Hash { table: sized, key: HashKey::Source }),
    );
    let session = |given| HashKey::Cookie { name: "Session".to_owned(), given };
    let key = session(None);
    let cookie = json!({"type": "cookie", "name": "Session"});
    let maglev = |size| Some(Balance::Hash { table: HashTable::Maglev { size }, key: key.clone() });
    check(json!({"type": "maglev", "hash": cookie}), maglev(65_537));
    check(json!({"type": "maglev", "hash": cookie, "tableSize": 251}), maglev(251));
    for (ttl, given) in [("0s", Duration::ZERO), ("9600h", Duration::from_secs(400 * 86_400))] {
        let cookie = json!({"type": "cookie", "name": "Session", "ttl": ttl});
        let key = session(Some(given));
        check(json!({"type": "ringHash", "hash": cookie}), Some(Balance::Hash { table: ring, key }));
    }
    let near = json!({"trafficDistribution": "PreferSameZone"});
    assert_eq!(balanced(near), (None, Distribution::PreferSameZone));
}

#[test]
fn a_way_to_balance_that_means_nothing_is_refused() {
    let check_one = |load_balancer: Value, problems: &[(&str, &str)]| {
        check(judge_policy(json!({"loadBalancer": load_balancer})), problems);
    };
    let hash = "spec.loadBalancer.hash";
    check_one(json!({"type": "ringHash"}), &[(hash, "nothing is said of what is hashed")]);
    check_one(
        json!({"type": "random", "hash": {"type": "source"}, "tableSize": 7}),
        &[(hash, "of ringHash or maglev only"), ("spec.loadBalancer.tableSize", "of maglev only")],
    );
    check_one(
        json!({"type": "maglev", "hash": {"type": "source"}, "tableSize": 65_536, "minimumRingSize": 7}),
        &[
            ("spec.loadBalancer.tableSize", "65536 is not a prime number"),
            ("spec.loadBalancer.minimumRingSize", "of ringHash only"),
        ],
    );
    let source = json!({"type": "source"});
    check_one(
        json!({"type": "ringHash", "hash": source, "minimumRingSize": 100_000, "maximumRingSize": 2_000_000}),
        &[("spec.loadBalancer.maximumRingSize", "2000000 is not between 1 and 1048576")],
    );
    check_one(
        json!({"type": "ringHash", "hash": source, "minimumRingSize": 100_000}),
        &[("spec.loadBalancer.minimumRingSize", "larger than the largest, 65536")],
    );
    let name = "spec.loadBalancer.hash.name";
    for (written, problem) in [
        (json!({"type": "header"}), "there is no name"),
        (json!({"type": "cookie", "name": "a b"}), "\"a b\" is not the name"),
        (json!({"type": "source", "name": "x"}), "the source has no name"),
    ] {
        check_one(json!({"type": "ringHash", "hash": written}), &[(name, problem)]);
    }
    for (written, problem) in [
        (json!({"type": "header", "name": "x", "ttl": "1h"}), "ttl is of a cookie only"),
        (json!({"type": "cookie", "name": "x", "ttl": "9601h"}), "9601h is not between 0s and 9600h"),
    ] {
        check_one(json!({"type": "ringHash", "hash": written}), &[("spec.loadBalancer.hash.ttl", problem)]);
    }
}
