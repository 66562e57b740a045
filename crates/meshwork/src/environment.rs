//! The variables that lead an unchanged application into the mesh: pure, from what was there to what is set.
//!
//! Which programs read which: curl only lower-case `http_proxy`; gRPC C-core `grpc_proxy`, then `https_proxy`; Go and
//! Python either case; Node's fetch only with NODE_USE_ENV_PROXY=1. Java reads none of them.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

use crate::service_manager;

/// Told to the sidecar: the proxy that was set before us, to which it passes on what is not the mesh's.
pub(crate) const PARENT_PROXY: &str = "MESHWORK_PARENT_PROXY";

const PROXY_VARIABLES: [&str; 6] =
    ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "GRPC_PROXY"];

/// Never through the sidecar: what the machine says to itself.
const LOOPBACK: [&str; 4] = ["localhost", "127.0.0.1", "127.0.0.0/8", "::1"];

/// What the command's variables depend on.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Where the sidecar's HTTP proxy listens.
    pub(crate) outbound_http: SocketAddr,
    /// This machine's names: uname's, and its short form.
    pub(crate) machine: Vec<String>,
    /// `None`: not known now.
    pub(crate) control: Option<IpAddr>,
}

/// The variables to set for the command, given how to read those it would inherit.
pub(crate) fn for_command(
    surroundings: &Surroundings,
    inherited: impl Fn(&str) -> Option<String>,
) -> Vec<(&'static str, String)> {
    let proxy = format!("http://{}", surroundings.outbound_http);
    let mut variables: Vec<_> = PROXY_VARIABLES.iter().map(|name| (*name, proxy.clone())).collect();
    let no_proxy = no_proxy(surroundings, inherited);
    variables.push(("no_proxy", no_proxy.clone()));
    variables.push(("NO_PROXY", no_proxy));
    variables.push(("NODE_USE_ENV_PROXY", "1".to_owned()));
    variables
}

/// The proxy that was set before us, if any: programs prefer the lower-case name, so we do.
pub(crate) fn parent_proxy(inherited: impl Fn(&str) -> Option<String>) -> Option<String> {
    ["http_proxy", "HTTP_PROXY"].into_iter().filter_map(inherited).find(|proxy| !proxy.is_empty())
}

/// What the command must not inherit: the token's secret, the supervisor's descriptors, and what a service manager told
/// the supervisor alone.
pub(crate) fn is_not_for_the_command(name: &OsString) -> bool {
    let own = ["MESHWORK_TOKEN", "MESHWORK_TOKEN_FILE", crate::listeners::LISTEN_FDS];
    own.iter().chain(&service_manager::VARIABLES).any(|own| name == own)
        || name == crate::supervisor::SUPERVISOR_FD
        || name == PARENT_PROXY
}

/// What was there, then ours, each once.
fn no_proxy(surroundings: &Surroundings, inherited: impl Fn(&str) -> Option<String>) -> String {
    let before = inherited("no_proxy").or_else(|| inherited("NO_PROXY")).unwrap_or_default();
    let before = before.split(',').map(|part| part.trim().to_owned());
    let ours = LOOPBACK.into_iter().map(str::to_owned);
    let ours = ours
        .chain(surroundings.machine.iter().cloned())
        .chain(surroundings.control.map(|control| control.to_string()));
    let mut parts: Vec<String> = Vec::new();
    for part in before.chain(ours).filter(|part| !part.is_empty()) {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings {
            outbound_http: "127.0.0.1:4140".parse().unwrap(),
            machine: vec!["laptop.example".to_owned(), "laptop".to_owned()],
            control: Some("10.0.0.5".parse().unwrap()),
        }
    }

    /// The variable `name`, for a command that would inherit `inherited`.
    #[track_caller]
    fn check(inherited: &[(&str, &str)], name: &str, expect: &str) {
        let read =
            |name: &str| inherited.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let variables = for_command(&surroundings(), read);
        let value = variables.iter().find(|(n, _)| *n == name).map(|(_, value)| &**value);
        assert_eq!(value, Some(expect), "{name}");
    }

    #[test]
    fn every_proxy_variable_leads_to_the_sidecar() {
        for name in PROXY_VARIABLES {
            check(&[], name, "http://127.0.0.1:4140");
            check(&[(name, "http://old:3128")], name, "http://127.0.0.1:4140");
        }
        check(&[], "NODE_USE_ENV_PROXY", "1");
    }

    #[test]
    fn loopback_the_machine_and_the_control_plane_are_reached_directly() {
        let ours = "localhost,127.0.0.1,127.0.0.0/8,::1,laptop.example,laptop,10.0.0.5";
        check(&[], "NO_PROXY", ours);
        check(&[], "no_proxy", ours);
    }

    #[test]
    fn exceptions_that_were_there_stay() {
        let expect = "internal,localhost,127.0.0.1,127.0.0.0/8,::1,laptop.example,laptop,10.0.0.5";
        check(&[("NO_PROXY", "internal, localhost")], "no_proxy", expect);
        check(&[("no_proxy", "internal"), ("NO_PROXY", "other")], "NO_PROXY", expect);
    }

    #[test]
    fn the_earlier_proxy_becomes_the_sidecars_parent() {
        let read = |name: &str| (name == "HTTP_PROXY").then(|| "http://corp:3128".to_owned());
        assert_eq!(parent_proxy(read), Some("http://corp:3128".to_owned()));
        assert_eq!(parent_proxy(|name| (name == "http_proxy").then(String::new)), None);
        assert_eq!(parent_proxy(|_| None), None);
    }

    #[test]
    fn the_command_never_sees_the_token() {
        assert!(is_not_for_the_command(&OsString::from("MESHWORK_TOKEN")));
        assert!(is_not_for_the_command(&OsString::from("NOTIFY_SOCKET")));
        assert!(!is_not_for_the_command(&OsString::from("MESHWORK_SERVICE")));
    }
}
