//! Outbound, first decision: which destination does an authority name, and is the mesh to be asked?
//!
//! `destination` reads an authority (`Host`, absolute-form, CONNECT, `:authority`) into a host and a port.
//! `course` says what happens with it: ask the control plane, pass it through, or refuse. `service` reads a
//! host's name as a service, seen from the asker's namespace; the control plane resolves Listeners with it.
//!
//! Pure and allocation-free for hosts in lower case. Names are resolved by the caller, who must put each
//! resolved address to `judge_address` before it connects, as a name may point anywhere.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::model::Key;
use crate::name::is_label;
use crate::resource::MeshSettings;

/// The longest host name that DNS can carry (RFC 1035, 2.3.4, in its text form).
const HOST_BYTES_MAX: usize = 253;

/// Where a request or connection wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination<'a> {
    pub host: Host<'a>,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host<'a> {
    /// In lower case, without a trailing dot.
    Name(Cow<'a, str>),
    /// An IPv4-mapped IPv6 address is the IPv4 address that it maps.
    Ip(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    #[error("the authority names no host")]
    Empty,
    #[error("the authority carries user information (before an @), which HTTP forbids")]
    UserInformation,
    #[error("not a host: {0:?} (want a DNS name, an IPv4 address or an IPv6 address in brackets)")]
    Host(String),
    #[error("not a port: {0:?} (want 1 to 65535)")]
    Port(String),
}

/// Reads `host`, `host:port`, `a.b.c.d:port` or `[v6]:port`.
pub fn destination(authority: &str, default_port: u16) -> Result<Destination<'_>, InvalidAuthority> {
    if authority.contains('@') {
        return Err(InvalidAuthority::UserInformation);
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        // RFC 3986, 3.2.3: an empty port is the default one.
        None | Some("") => default_port,
        Some(digits) => parse_port(digits)?,
    };
    Ok(Destination { host: parse_host(host)?, port })
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), InvalidAuthority> {
    if !authority.starts_with('[') {
        return Ok(authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))));
    }
    let end = authority.find(']').ok_or_else(|| InvalidAuthority::Host(excerpt(authority)))?;
    let (host, rest) = authority.split_at(end + 1);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(InvalidAuthority::Host(excerpt(authority))),
    }
}

fn parse_port(digits: &str) -> Result<u16, InvalidAuthority> {
    let valid = digits.bytes().all(|b| b.is_ascii_digit());
    let port = digits.parse().ok().filter(|port| valid && *port > 0);
    port.ok_or_else(|| InvalidAuthority::Port(excerpt(digits)))
}

fn parse_host(text: &str) -> Result<Host<'_>, InvalidAuthority> {
    let invalid = || InvalidAuthority::Host(excerpt(text));
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // No zone IDs: they mean something on one machine only, and only for link-local addresses.
        let address: Ipv6Addr = inner.parse().map_err(|_| invalid())?;
        return Ok(Host::Ip(IpAddr::V6(address).to_canonical()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(InvalidAuthority::Empty);
    }
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(IpAddr::V4(address)));
    }
    let labels_valid = name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    if !labels_valid || name.len() > HOST_BYTES_MAX || is_odd_ipv4(name) {
        return Err(invalid());
    }
    Ok(Host::Name(lower(name)))
}

/// `127.1`, `0x7f000001`, `2130706433`: resolvers read these as IPv4 addresses, so that they would pass by
/// every check of addresses. The rule is the URL standard's: a last label that is a number means an address.
fn is_odd_ipv4(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Enough of a hostile text to recognise it, not enough to flood a log.
fn excerpt(text: &str) -> String {
    text.chars().take(128).collect()
}

impl Destination<'_> {
    /// It is written as loopback.
    pub fn is_this_machine(&self) -> bool {
        match &self.host {
            Host::Name(name) => is_localhost(name),
            Host::Ip(address) => address.is_loopback(),
        }
    }

    pub fn into_owned(self) -> Destination<'static> {
        let host = match self.host {
            Host::Name(name) => Host::Name(Cow::Owned(name.into_owned())),
            Host::Ip(address) => Host::Ip(address),
        };
        Destination { host, port: self.port }
    }
}

/// The Listener's name that a sidecar asks for.
impl fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}

/// What is to be done with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The control plane is asked for the Listener; if there is none, see `Absent`.
    Ask(Absent),
    /// No service of the mesh can claim it.
    Passthrough,
}

/// What it means that the mesh has no such Listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// `cart`, `example.com`: might be a name of DNS or of `/etc/hosts`.
    Passthrough,
    /// `cart.default.mesh`: only the mesh has such names, so the caller is told `unknown_service`.
    Unknown,
}

/// Why no connection is made to an address, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Cloud metadata services give credentials to whoever asks from the machine; applications that need
    /// them call without a proxy.
    #[error("link-local addresses are not reached through the mesh")]
    LinkLocal,
    #[error("the address is one of this sidecar's own")]
    OwnPort,
    #[error("not the address of one host (unspecified, multicast or broadcast)")]
    NotAHost,
}

/// Where the mesh has addresses (`MeshSettings`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Ranges<'a> {
    pub all: &'a [IpNet],
    /// Nobody is there but services.
    pub only_services: &'a [IpNet],
}

impl<'a> Ranges<'a> {
    pub fn of(settings: Option<&'a MeshSettings>) -> Self {
        settings.map_or_else(Self::default, |settings| Self {
            all: &settings.ranges,
            only_services: &settings.virtual_ranges,
        })
    }

    pub fn contain(self, address: IpAddr) -> bool {
        self.absent(address).is_some()
    }

    /// What it means that no service has this address; `None`: the mesh has none there.
    fn absent(self, address: IpAddr) -> Option<Absent> {
        let address = address.to_canonical();
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        if within(self.only_services) {
            return Some(Absent::Unknown);
        }
        within(self.all).then_some(Absent::Passthrough)
    }
}

/// Decides about a destination. `own` are the sidecar's listening sockets.
pub fn course(
    destination: &Destination<'_>,
    ranges: Ranges<'_>,
    own: &[SocketAddr],
) -> Result<Course, Refusal> {
    match &destination.host {
        Host::Name(_) => Ok(may_be_service(&destination.host).map_or(Course::Passthrough, Course::Ask)),
        Host::Ip(address) => {
            judge_address(SocketAddr::new(*address, destination.port), own)?;
            Ok(ranges.absent(*address).map_or(Course::Passthrough, Course::Ask))
        }
    }
}

/// What it would mean that the mesh has no service of that name; `None`: no service can have it.
pub(crate) fn may_be_service(host: &Host<'_>) -> Option<Absent> {
    let Host::Name(name) = host else { return None };
    if is_localhost(name) {
        return None; // and never a service
    }
    named(name).map(|named| if named.suffixed { Absent::Unknown } else { Absent::Passthrough })
}

/// RFC 6761, 6.3.
fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Judges an address before a passthrough connects to it, resolved from a name or written as such.
pub fn judge_address(address: SocketAddr, own: &[SocketAddr]) -> Result<(), Refusal> {
    let ip = embedded(address.ip());
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == METADATA_V6,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if link_local {
        Err(Refusal::LinkLocal)
    } else if ip.is_unspecified() || ip.is_multicast() || broadcast {
        Err(Refusal::NotAHost)
    } else if is_own(address, own) {
        Err(Refusal::OwnPort)
    } else {
        Ok(())
    }
}

/// The metadata service's IPv6 address in one large cloud: not link-local, but the same thing.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The IPv4 address inside an IPv6 one that is translated on its way: mapped (`::ffff:a.b.c.d`) or NAT64
/// (`64:ff9b::a.b.c.d`, RFC 6052).
fn embedded(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                IpAddr::V4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)))
            }
            _ => IpAddr::V6(v6),
        },
        v4 => v4,
    }
}

/// Whether a connection to `address` ends at one of these listening sockets.
pub(crate) fn is_own(address: SocketAddr, own: &[SocketAddr]) -> bool {
    let target = SocketAddr::new(embedded(address.ip()), address.port());
    own.iter().any(|own| reaches(target, *own))
}

/// Whether a connection to `target` ends at the listening socket `own`: a socket on the unspecified address
/// listens on every local one, of which loopback is the one that we know.
fn reaches(target: SocketAddr, own: SocketAddr) -> bool {
    let own_ip = own.ip().to_canonical();
    target.port() == own.port()
        && (target.ip() == own_ip || (own_ip.is_unspecified() && target.ip().is_loopback()))
}

/// The service that a host's name means to an asker of that namespace; `None` if it can't be one.
///
/// `cart` (the asker's namespace), `cart.default`, `cart.default.mesh`, `cart.default.svc`,
/// `cart.default.svc.cluster.local`; in lower case.
pub fn service(host: &str, asker_namespace: &str) -> Option<Key> {
    let named = named(host)?;
    Some(Key::new(named.namespace.unwrap_or(asker_namespace), named.service))
}

struct Named<'a> {
    service: &'a str,
    namespace: Option<&'a str>,
    /// Under a suffix that only a mesh has.
    suffixed: bool,
}

fn named(host: &str) -> Option<Named<'_>> {
    let stem = [".svc.cluster.local", ".svc", ".mesh"].iter().find_map(|suffix| host.strip_suffix(suffix));
    // `cart.mesh` and `cart.svc` have no namespace before the suffix: two plain labels.
    let (stem, suffixed) = match stem {
        Some(stem) if stem.contains('.') => (stem, true),
        Some(_) | None => (host, false),
    };
    let (service, namespace) = match stem.split_once('.') {
        Some((service, namespace)) => (service, Some(namespace)),
        None => (stem, None),
    };
    let valid = is_label(service) && namespace.is_none_or(is_label);
    valid.then_some(Named { service, namespace, suffixed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(authority: &str, expect: &str) {
        let text = match destination(authority, 80) {
            Ok(destination) => destination.to_string(),
            Err(InvalidAuthority::Empty) => "empty".to_owned(),
            Err(InvalidAuthority::UserInformation) => "user".to_owned(),
            Err(InvalidAuthority::Host(_)) => "host".to_owned(),
            Err(InvalidAuthority::Port(_)) => "port".to_owned(),
        };
        assert_eq!(text, expect, "{authority}");
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        check("cart", "cart:80");
        check("cart:8080", "cart:8080");
        check("cart:", "cart:80");
        check("Cart.Default.", "cart.default:80");
        check("10.0.0.7:90", "10.0.0.7:90");
        check("[::1]", "[::1]:80");
        check("[2001:DB8::1]:443", "[2001:db8::1]:443");
        check("[::ffff:10.0.0.7]:90", "10.0.0.7:90");
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        check("", "empty");
        check(":80", "empty");
        check(".", "empty");
        check("user@cart", "user");
        for host in ["::1", "::1:80", "[::1", "[::1]x", "[fe80::1%eth0]", "a b", "a/b", "cart..default"] {
            let refused = destination(host, 80).is_err();
            assert!(refused, "{host}");
        }
        for port in ["cart:0", "cart:65536", "cart:+80", "cart:-1", "cart:8 0", "cart:80:80"] {
            check(port, "port");
        }
    }

    #[test]
    fn odd_spellings_of_ipv4_are_refused_as_resolvers_would_connect_to_them() {
        for host in ["127.1", "2130706433", "0x7f000001", "0x7f.1", "1.2.3.4.5", "256.1.1.1", "cart.1"] {
            check(host, "host");
        }
    }

    #[track_caller]
    fn check_course(authority: &str, expect: Result<Course, Refusal>) {
        let (all, only_services) = (["10.1.0.0/16", "240.0.0.0/8"], ["240.0.0.0/8"]);
        let (all, only_services) =
            (all.map(|range| range.parse().unwrap()), only_services.map(|range| range.parse().unwrap()));
        let ranges = Ranges { all: &all, only_services: &only_services };
        let own = ["127.0.0.1:4140".parse().unwrap(), "0.0.0.0:4191".parse().unwrap()];
        let destination = destination(authority, 80).unwrap();
        assert_eq!(course(&destination, ranges, &own), expect, "{authority}");
    }

    #[test]
    fn only_names_that_could_be_services_are_asked_about() {
        let maybe = Ok(Course::Ask(Absent::Passthrough));
        check_course("cart", maybe);
        check_course("cart.default", maybe);
        check_course("cart.mesh", maybe);
        check_course("cart.default.mesh", Ok(Course::Ask(Absent::Unknown)));
        check_course("cart.default.svc", Ok(Course::Ask(Absent::Unknown)));
        check_course("cart.default.svc.cluster.local", Ok(Course::Ask(Absent::Unknown)));
        for host in ["www.example.com", "a.b.c.mesh", "_dmarc.example", "localhost", "app.localhost"] {
            check_course(host, Ok(Course::Passthrough));
        }
    }

    #[test]
    fn addresses_are_asked_about_only_in_the_meshs_ranges() {
        check_course("10.1.0.7", Ok(Course::Ask(Absent::Passthrough)));
        check_course("240.0.0.7", Ok(Course::Ask(Absent::Unknown)));
        check_course("10.0.0.7", Ok(Course::Passthrough));
        check_course("127.0.0.1", Ok(Course::Passthrough));
    }

    #[test]
    fn link_local_and_own_ports_are_refused_in_every_spelling() {
        for address in ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]"] {
            check_course(address, Err(Refusal::LinkLocal));
        }
        check_course("[fd00:ec2::254]", Err(Refusal::LinkLocal));
        check_course("127.0.0.1:4140", Err(Refusal::OwnPort));
        check_course("[::ffff:127.0.0.1]:4140", Err(Refusal::OwnPort));
        check_course("127.0.0.2:4191", Err(Refusal::OwnPort));
        for address in ["0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255", "[ff02::1]"] {
            check_course(address, Err(Refusal::NotAHost));
        }
    }

    #[test]
    fn a_short_name_belongs_to_the_askers_namespace() {
        assert_eq!(service("cart", "shop"), Some(Key::new("shop", "cart")));
        for host in ["cart.default", "cart.default.mesh", "cart.default.svc.cluster.local"] {
            assert_eq!(service(host, "shop"), Some(Key::new("default", "cart")), "{host}");
        }
        assert_eq!(service("www.example.com", "shop"), None);
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(authority in "[a-zA-Z0-9.:\\[\\]@_-]{0,40}") {
            if let Ok(read) = destination(&authority, 80) {
                let again = read.to_string();
                prop_assert_eq!(destination(&again, 1).unwrap(), read);
            }
        }
    }
}
