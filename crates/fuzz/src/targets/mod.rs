//! The targets. Each file says what must hold, whatever the bytes.

mod certificate;
mod detect;
mod dns;
mod h1;
mod h2;
mod hpack;
mod kept;
mod load_reports;
mod manifest;
mod names;
mod preamble;
mod resource;
mod transcript_h1;
#[path = "../../../http/tests/h2/transcript.rs"]
mod transcript_h2;
mod xds_client;
mod xds_server;

use crate::Target;

/// Every target, by name.
pub const ALL: &[Target] = &[
    certificate::TARGET,
    certificate::CSR,
    detect::TARGET,
    dns::ANSWER,
    dns::QUERY,
    h1::REQUESTS,
    h1::RESPONSES,
    h2::CLIENT,
    h2::SERVER,
    hpack::TARGET,
    kept::CONFIG,
    kept::IDENTITY,
    load_reports::TARGET,
    manifest::TARGET,
    preamble::TARGET,
    resource::TARGET,
    names::SPIFFE_ID,
    names::TOKEN,
    xds_client::TARGET,
    xds_server::DELTA,
    xds_server::SOTW,
];
