//! One row for each thing that may be wrong with a document.

mod http_route;
mod service;
mod traffic_policy;
mod workload;

use super::*;
use crate::manifest::Kind;
use crate::model::{
    Balance, Check, HashKey, HashTable, Health, HealthCheck, Key, MtlsMode, Probe, RouteRule, Unknown,
};
use crate::policy::{
    ConnectPolicy, Distribution, OutlierPolicy, RetryBudget, RetryPolicy, RuleRetry, Traffic,
};
use serde::de::DeserializeSeed;
use serde_json::{Value, json};
use std::num::NonZeroU32;

fn judge(kind: Kind, metadata: Value, spec: Value) -> Result<Declared, Vec<Problem>> {
    let document =
        json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata, "spec": spec});
    manifest(&kind.deserialize(document).unwrap())
}

/// Each expected problem as (path, part of its message), in order.
#[track_caller]
fn check(judged: Result<Declared, Vec<Problem>>, expect: &[(&str, &str)]) {
    let problems = judged.err().unwrap_or_default();
    let found: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    let paths: Vec<_> = expect.iter().map(|(path, _)| *path).collect();
    assert_eq!(found, paths, "{problems:#?}");
    for (problem, (_, message)) in problems.iter().zip(expect) {
        assert!(problem.message.contains(message), "{problem}");
        assert!(!problem.cure.is_empty());
    }
}

fn named(name: &str) -> Value {
    json!({"name": name})
}

#[track_caller]
fn check_service(metadata: Value, spec: Value, expect: &[(&str, &str)]) {
    check(judge(Kind::Service, metadata, spec), expect);
}

#[test]
fn a_mesh_has_one_config() {
    let spec = json!({"accessLog": "all", "leafTtl": "48h"});
    let expect = MeshConfig {
        access_log: crate::model::AccessLog::All,
        leaf_ttl: Duration::from_secs(48 * 3_600),
        ..MeshConfig::default()
    };
    assert_eq!(judge(Kind::MeshConfig, named("default"), spec), Ok(Declared::MeshConfig(expect)));
    assert_eq!(
        judge(Kind::MeshConfig, named("default"), json!({})),
        Ok(Declared::MeshConfig(MeshConfig::default()))
    );
    check(
        judge(Kind::MeshConfig, json!({"name": "other", "namespace": "default"}), json!({"leafTtl": "9s"})),
        &[
            ("metadata.namespace", "the whole mesh"),
            ("metadata.name", "not named \"other\""),
            ("spec.leafTtl", "9s is not between 10s and 720h"),
        ],
    );
    for (text, holds) in [("10s", true), ("720h", true), ("721h", false), ("0s", false)] {
        let judged = judge(Kind::MeshConfig, named("default"), json!({"leafTtl": text}));
        assert_eq!(judged.is_ok(), holds, "{text}");
    }
}

#[test]
fn a_mesh_says_what_becomes_of_unknown_destinations_and_of_plaintext() {
    let spec = json!({
        "outbound": {"namespaces": [{"name": "shop", "unknown": "deny"}]}, "inbound": {"mode": "permissive"},
    });
    let Ok(Declared::MeshConfig(config)) = judge(Kind::MeshConfig, named("default"), spec) else {
        panic!("refused");
    };
    assert_eq!(config.inbound, MtlsMode::Permissive);
    assert_eq!(config.unknown.of("shop"), Unknown::Deny);
    assert_eq!(config.unknown.of("default"), Unknown::Passthrough);
    let twice = json!({"outbound": {"unknown": "deny", "namespaces": [
        {"name": "shop", "unknown": "deny"}, {"name": "Shop", "unknown": "deny"}, {"name": "shop", "unknown": "passthrough"},
    ]}});
    check(
        judge(Kind::MeshConfig, named("default"), twice),
        &[
            ("spec.outbound.namespaces[1].name", "not a DNS label"),
            ("spec.outbound.namespaces[2].name", "\"shop\" stands in the list twice"),
        ],
    );
}
