//! Where a load goes, and what whoever sent it saw: what every client of the benchmark is told and tells.

use std::net::SocketAddr;
use std::path::Path;

use crate::namespaces::Namespace;
use crate::statistics::Latencies;

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The authority that is asked for.
    pub(crate) host: &'static str,
    pub(crate) form: Form,
}

/// How an HTTP/1 client writes a request's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `/path`
    Origin,
    /// `http://host/path`, as to an HTTP proxy.
    Absolute,
}

impl Target {
    pub(crate) fn of_path(&self, path: &str) -> String {
        match self.form {
            Form::Origin => path.to_owned(),
            Form::Absolute => format!("http://{}{path}", self.host),
        }
    }
}

/// What a client saw.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Answered as expected.
    pub(crate) answered: u64,
    pub(crate) seconds: f64,
    pub(crate) latencies: Latencies,
    /// How many more the proxies may have answered: wrk leaves when its time is over, with requests on their way.
    pub(crate) cut_off_max: u64,
}

/// Where a load runs: from the client's namespace, with files of its own.
pub(crate) struct Place<'a> {
    pub(crate) client: &'a Namespace,
    pub(crate) folder: &'a Path,
}

/// A gRPC message of 100 B with its prefix, both ways.
pub(crate) const GRPC_BYTES: usize = 105;
