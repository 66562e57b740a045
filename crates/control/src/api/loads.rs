//! What programs without a sidecar report of the services that they call, as `status` shows it.

use meshwork_core::name::PortName;
use meshwork_xds::session::load::Load;
use serde::Serialize;

use crate::loads::{Loads, Reporter};

/// One program.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reported {
    namespace: String,
    /// Of its certificate.
    service: String,
    /// `grpc`, `envoy`.
    program: &'static str,
    /// As it says itself.
    node: String,
    spiffe_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    backends: Vec<BackendLoad>,
    /// Services of its newest report for which there was no place.
    left_out: usize,
}

/// Since it began to report.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendLoad {
    backend: String,
    issued: u64,
    succeeded: u64,
    errors: u64,
    dropped: u64,
    /// When it last reported.
    in_progress: u64,
    /// Of its newest report.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<f64>,
}

/// Those of a namespace, or all.
pub(super) fn reported(loads: &Loads, own: Option<&str>) -> Vec<Reported> {
    loads.each(|reporter| program(reporter).filter(|program| own.is_none_or(|own| own == program.namespace)))
}

/// `None`: it has yet to say who it is.
fn program(reporter: &Reporter) -> Option<Reported> {
    let Reporter { id, remote, program, session } = reporter;
    let backends = session.services().iter().map(|(name, load)| backend(name, load));
    Some(Reported {
        namespace: id.namespace().to_owned(),
        service: id.account().to_owned(),
        program: (*program)?.word(),
        node: session.client()?.id.clone(),
        spiffe_id: id.to_string(),
        address: remote.map(|address| address.to_string()),
        backends: backends.collect(),
        left_out: session.left_out(),
    })
}

fn backend(name: &PortName, load: &Load) -> BackendLoad {
    BackendLoad {
        backend: name.to_string(),
        issued: load.issued,
        succeeded: load.succeeded,
        errors: load.errors,
        dropped: load.dropped,
        in_progress: load.in_progress,
        // Nobody reads more of it than this.
        per_second: load.per_second().map(|requests| (requests * 10.0).round() / 10.0),
    }
}
