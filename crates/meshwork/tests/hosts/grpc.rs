//! gRPC by its most used implementation: Python's `grpcio`, which looks up names and connects by itself.

use std::path::PathBuf;

use meshwork_testkit::python_with;

/// A server that says what it is told, and its client.
pub(crate) const PEER: &str = include_str!("peer.py");

/// A Python with `grpcio`; `None` is said loudly.
pub(crate) fn python() -> Option<PathBuf> {
    python_with(env!("CARGO_TARGET_TMPDIR"), "grpcio", "grpc")
}
