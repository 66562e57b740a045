//! What `/config` shows: the sidecar's knowledge of the mesh as JSON, for people. No key, no token, no body of a
//! certificate: names, addresses, versions and dates only.

use std::sync::Arc;

use meshwork_core::Instant;
use meshwork_core::model::Transport;
use meshwork_core::names::NameTable;
use meshwork_core::outlier::Reason;
use meshwork_core::retry::budget::has_room;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::protocol_word;
use super::status::{Config, Registration, Start, Status};
use crate::clock::unix_seconds;
use crate::destination::{Backend, Destination};
use crate::live::{Credentials, Found, Snapshot};
use crate::telemetry::plaintext::Table;
use crate::telemetry::{Event, Registry};

pub(crate) fn config(status: &Status, snapshot: &Snapshot, registry: &Registry, now: Instant) -> Value {
    let destinations: serde_json::Map<String, Value> =
        snapshot.destinations().map(|(name, found)| (name.to_owned(), found_view(found, now))).collect();
    json!({
        "snapshot": snapshot.version,
        "status": status_view(status),
        "mesh": snapshot.settings.as_ref().map(|settings| json!({
            "id": settings.mesh_id,
            "trustDomain": settings.trust_domain,
            "accessLog": format!("{:?}", settings.access_log).to_lowercase(),
        })),
        "identity": snapshot.credentials.as_deref().map(identity_view),
        "alpn": snapshot.credentials.as_deref().map(alpn_view),
        "inbound": snapshot.inbound.as_ref().map(|inbound| json!({
            "name": inbound.name,
            "mtls": format!("{:?}", inbound.mtls).to_lowercase(),
            "ports": inbound.ports.iter().map(|port| json!({
                "appPort": port.app_port,
                "appProtocol": port.hint.map(protocol_word),
                "service": port.service.as_ref().map(ToString::to_string),
                "mtls": format!("{:?}", port.mtls).to_lowercase(),
            })).collect::<Vec<_>>(),
        })),
        "names": names_view(snapshot),
        "descriptors": descriptors(registry),
        "plaintext": plaintext_view(&registry.plaintext.seen()),
        "destinations": destinations,
    })
}

/// How many names resolve in each namespace that was looked into; `null`: there is no such namespace.
fn names_view(snapshot: &Snapshot) -> Value {
    let count = |table: Option<&Arc<NameTable>>| json!(table.map(|table| table.services.len()));
    snapshot.names.iter().map(|(namespace, table)| (namespace.to_owned(), count(table))).collect()
}

/// Who comes in clear.
fn plaintext_view(seen: &Table) -> Value {
    let sources = seen.sources.iter().map(|((source, port), counts)| {
        json!({
            "source": source.to_string(),
            "port": port,
            "carried": counts.carried,
            "refused": counts.refused,
        })
    });
    json!({
        "sources": sources.collect::<Vec<_>>(),
        "others": { "carried": seen.others.carried, "refused": seen.others.refused },
    })
}

fn status_view(status: &Status) -> Value {
    let start = match &status.start {
        Start::Enrolling => "enrolling",
        Start::Enrolled => "enrolled",
        Start::Failed(reason) => reason,
    };
    let (config, config_reason) = config_words(&status.config);
    let (registration, registration_reason) = match &status.registration {
        Registration::NotYet => ("notYet", ""),
        Registration::WaitingForApplication(reason) => ("waitingForApplication", reason.as_str()),
        Registration::Connecting(reason) => ("connecting", reason.as_str()),
        Registration::Registered => ("registered", ""),
        Registration::Refused(reason) => ("refused", reason.as_str()),
        Registration::Draining => ("draining", ""),
        Registration::Withdrawn => ("withdrawn", ""),
    };
    json!({
        "start": start,
        "config": config,
        "configReason": config_reason,
        "registration": registration,
        "registrationReason": registration_reason,
        "certificateWarning": status.unrenewed,
        "drainOrder": status.drain_order,
    })
}

/// File descriptors that this process may have (`null`: any number), and how often one was wanted and there was none.
fn descriptors(registry: &Registry) -> Value {
    let lacked = [Event::LimitDescriptors, Event::AcceptError].map(|event| registry.counted(event));
    json!({ "max": getrlimit(Resource::Nofile).current, "lacked": lacked.iter().sum::<u64>() })
}

/// A word, and a sentence or nothing.
pub(super) fn config_words(config: &Config) -> (&'static str, &str) {
    match config {
        Config::None => ("none", ""),
        Config::Missing(reason) => ("missing", reason),
        Config::Current => ("current", ""),
        Config::Stale(reason) => ("stale", reason),
        Config::Kept(reason) => ("kept", reason),
        Config::Refused(reason) => ("refused", reason),
    }
}

fn identity_view(credentials: &Credentials) -> Value {
    json!({
        "spiffeId": credentials.identity.spiffe_id().to_string(),
        "notAfter": unix_seconds(credentials.identity.not_after()),
        "bundle": {
            "version": credentials.bundle.version(),
            "roots": credentials.bundle.hashes().iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
    })
}

/// What inbound ports speak, best first.
fn alpn_view(credentials: &Credentials) -> Vec<String> {
    let ids = credentials.server.alpn_protocols.iter();
    ids.map(|id| String::from_utf8_lossy(id).into_owned()).collect()
}

fn found_view(found: &Found, now: Instant) -> Value {
    match found {
        Found::Absent => json!({ "absent": true }),
        Found::Service(destination) => destination_view(destination, now),
    }
}

fn destination_view(destination: &Destination, now: Instant) -> Value {
    let rules = destination.route.rules.iter().zip(&destination.backends).map(|(rule, backends)| {
        let backends = rule.backends.iter().zip(backends).map(|(weighted, backend)| {
            json!({
                "name": weighted.cluster.to_string(),
                "weight": weighted.weight,
                "endpoints": backend.as_deref().map(|backend| endpoints_view(backend, now)),
            })
        });
        json!({ "name": rule.name, "backends": backends.collect::<Vec<_>>() })
    });
    json!({ "service": destination.name.to_string(), "rules": rules.collect::<Vec<_>>() })
}

fn endpoints_view(backend: &Backend, now: Instant) -> Value {
    let endpoints = backend.members.iter().map(|member| {
        let endpoint = &member.endpoint;
        json!({
            "address": endpoint.address.to_string(),
            "workload": endpoint.workload,
            "health": format!("{:?}", endpoint.health).to_lowercase(),
            "weight": endpoint.weight,
            "ejectedForMillis": member.state.conduct.ejected_until()
                .map(|until| until.since(now).as_millis() as u64),
            "ejectedFor": member.state.conduct.ejected_for(now).map(Reason::word),
            "ejections": member.state.conduct.ejections(),
            "transports": endpoint.transports.iter().copied().map(transport_word).collect::<Vec<_>>(),
        })
    });
    let identities: Vec<String> = backend.cluster.identities.iter().map(ToString::to_string).collect();
    json!({
        "identities": identities,
        "members": endpoints.collect::<Vec<_>>(),
        "retryBudget": budget_view(backend, now),
    })
}

/// Of the requests of the last interval.
fn budget_view(backend: &Backend, now: Instant) -> Value {
    let budget = backend.traffic().retry.budget;
    let spent = backend.state.spent(&budget, now);
    json!({
        "requests": spent.requests,
        "retries": spent.retries,
        "exhausted": !has_room(&budget, &spent),
    })
}

fn transport_word(transport: Transport) -> &'static str {
    match transport {
        Transport::MtlsHttp2 => "mtls-http2",
        Transport::MtlsHttp1 => "mtls-http1",
        Transport::MtlsTcp => "mtls-tcp",
        Transport::Plaintext => "plaintext",
    }
}
