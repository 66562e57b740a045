//! Captured traffic, first decision: which destination was meant?
//!
//! Rules redirect a connection to the sidecar; its original destination is all that is known then (`by_address`).
//! An address that no service claims may still be a service's by name: HTTP says one (`by_host`), and so does TLS
//! (`by_server_name`, of what `sni.rs` read). What names no service goes to the original address and nowhere else: a
//! name that a client wrote is never looked up, or it could have the sidecar call anything.
//!
//! Pure: who asks the control plane and waits for first bytes is the caller (`proxy/src/captured/outbound.rs`).

use std::net::SocketAddr;

use crate::discover::{self, Destination, Ranges, Refusal};

/// What the original destination says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    /// The control plane is asked for the Listener of that address.
    Ask,
    /// No service claims that address: the first bytes may name one.
    Unclaimed,
}

/// Decides by the original destination. `own` are the sidecar's listening sockets: what was on its way to one of
/// them would come back here.
pub fn by_address(original: SocketAddr, ranges: Ranges<'_>, own: &[SocketAddr]) -> Result<Meant, Refusal> {
    if discover::is_own(original, own) {
        return Err(Refusal::OwnPort);
    }
    Ok(if ranges.contain(original.ip()) { Meant::Ask } else { Meant::Unclaimed })
}

/// One of the application's ports, and the sidecar's socket before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    pub listener: SocketAddr,
    pub app_port: u16,
}

/// Where a captured connection to the application was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// To the port of this index, or to the sidecar's socket before it.
    Declared(usize),
    /// To a port that nobody said anything of.
    Undeclared,
    /// To the socket that answers the platform's probes.
    Probes,
    /// To another socket of the sidecar's.
    Sidecar,
}

pub fn toward(
    original: SocketAddr,
    served: &[Served],
    probe_port: Option<u16>,
    own: &[SocketAddr],
) -> Toward {
    let find = |wanted: &dyn Fn(&Served) -> bool| served.iter().position(wanted).map(Toward::Declared);
    find(&|port| port.listener.port() == original.port())
        .or_else(|| (probe_port == Some(original.port())).then_some(Toward::Probes))
        .or_else(|| discover::is_own(original, own).then_some(Toward::Sidecar))
        .or_else(|| find(&|port| port.app_port == original.port()))
        .unwrap_or(Toward::Undeclared)
}

/// The service that a request's authority may name; `None`: none. Of an authority without a port the connection's own
/// counts.
pub fn by_host(authority: &str, original: SocketAddr) -> Option<Destination<'_>> {
    let named = discover::destination(authority, original.port()).ok()?;
    discover::may_be_service(&named.host).is_some().then_some(named)
}

/// The service that a TLS client may mean.
pub fn by_server_name(name: &str, original: SocketAddr) -> Option<Destination<'_>> {
    // A name of TLS has no port (RFC 6066, 3), and would else be taken for an authority.
    let named = if name.contains(':') { None } else { by_host(name, original) };
    named.map(|named| Destination { port: original.port(), ..named })
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;

    fn ranges() -> (Vec<IpNet>, Vec<IpNet>) {
        let of = |ranges: &[&str]| ranges.iter().map(|range| range.parse().unwrap()).collect();
        (of(&["240.0.0.0/8", "fd12::/64", "10.1.0.0/16"]), of(&["240.0.0.0/8", "fd12::/64"]))
    }

    #[track_caller]
    fn check(original: &str, expect: Result<Meant, Refusal>) {
        let (all, only_services) = ranges();
        let own = ["127.0.0.1:15001", "[::1]:15001", "0.0.0.0:15006", "10.1.0.9:4143"]
            .map(|own| own.parse().unwrap());
        let ranges = Ranges { all: &all, only_services: &only_services };
        assert_eq!(by_address(original.parse().unwrap(), ranges, &own), expect, "{original}");
    }

    #[test]
    fn an_address_of_the_mesh_is_asked_about() {
        for address in ["240.0.0.7:80", "[fd12::7]:80", "10.1.2.3:8080", "[::ffff:10.1.2.3]:8080"] {
            check(address, Ok(Meant::Ask));
        }
        for address in ["93.184.216.34:80", "[2606:2800::1]:443", "10.2.0.1:80", "127.0.0.1:9"] {
            check(address, Ok(Meant::Unclaimed));
        }
    }

    #[test]
    fn a_link_local_address_is_the_applications_own_matter() {
        // Through a proxy it is refused, as anybody could ask for it; this caller went there itself.
        check("169.254.169.254:80", Ok(Meant::Unclaimed));
    }

    #[test]
    fn nothing_is_carried_to_a_listener_of_the_sidecar() {
        for address in
            ["127.0.0.1:15001", "[::1]:15001", "[::ffff:127.0.0.1]:15001", "127.0.0.1:15006", "10.1.0.9:4143"]
        {
            check(address, Err(Refusal::OwnPort));
        }
    }

    #[test]
    fn inbound_goes_to_the_port_behind_the_address() {
        let served = [(4143, 8080), (4144, 9090)]
            .map(|(listener, app_port)| Served { listener: ([10, 1, 0, 9], listener).into(), app_port });
        let own = ["127.0.0.1:4191", "0.0.0.0:15006", "10.1.0.9:4143"].map(|own| own.parse().unwrap());
        let toward = |original: &str| super::toward(original.parse().unwrap(), &served, Some(15021), &own);
        assert_eq!(toward("10.1.0.9:9090"), Toward::Declared(1));
        assert_eq!(toward("[fd00::9]:8080"), Toward::Declared(0));
        assert_eq!(toward("10.1.0.9:4144"), Toward::Declared(1)); // another sidecar called the one before it
        assert_eq!(toward("10.1.0.9:22"), Toward::Undeclared);
        assert_eq!(toward("10.1.0.9:15021"), Toward::Probes);
        assert_eq!(toward("127.0.0.1:4191"), Toward::Sidecar);
        assert_eq!(toward("127.0.0.1:15006"), Toward::Sidecar);
    }

    #[track_caller]
    fn check_host(authority: &str, expect: Option<&str>) {
        let original = "192.0.2.1:8080".parse().unwrap();
        let named = by_host(authority, original).map(|named| named.to_string());
        assert_eq!(named.as_deref(), expect, "{authority}");
    }

    #[test]
    fn a_host_that_may_be_a_service_is_one_to_ask_about() {
        check_host("cart", Some("cart:8080"));
        check_host("Cart.Default:80", Some("cart.default:80"));
        check_host("cart.default.mesh", Some("cart.default.mesh:8080"));
        check_host("example.com", Some("example.com:8080"));
        for other in
            ["www.example.com", "localhost", "192.0.2.9", "240.0.0.7:80", "[fd12::7]", "", "a b", "x@cart"]
        {
            check_host(other, None);
        }
    }

    #[test]
    fn a_server_name_is_asked_about_at_the_connections_port() {
        let original = "192.0.2.1:6379".parse().unwrap();
        let named = |name| by_server_name(name, original).map(|named| named.to_string());
        assert_eq!(named("cart.default.mesh"), Some("cart.default.mesh:6379".to_owned()));
        assert_eq!(named("CART"), Some("cart:6379".to_owned()));
        for other in ["www.example.com", "cart:80", "192.0.2.9", "", "x0a000001.p15006.endpoint"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
