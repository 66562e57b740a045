//! A sidecar's listeners: bound here, or inherited from a supervisor.
//!
//! `run` binds all of them before the sidecar exists and keeps them, so a sidecar that dies leaves its sockets
//! (and the connections waiting in them) to its successor. They travel as descriptor numbers in
//! `MESHWORK_LISTEN_FDS`: `outbound-http=3,admin=4,inbound:80:8080=5,upstream:stock:5432=6`.

mod led;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use meshwork_proxy::{Captured, Whose};
use socket2::{Domain, Socket, Type};

use crate::descriptors;
pub(crate) use crate::listeners::led::Ports;
use crate::settings::{ADMIN, Address, OUTBOUND_HTTP, PortSpec, UpstreamSpec};

/// The variable that carries inherited listeners.
pub(crate) const LISTEN_FDS: &str = "MESHWORK_LISTEN_FDS";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("cannot listen on {address} ({flag}): {source}; give another address with {flag}")]
    Bind { address: SocketAddr, flag: &'static str, source: io::Error },
    #[error(
        "{address} ({flag}) is not on loopback: other machines could use this workload's identity; give a loopback address"
    )]
    NotLoopback { address: SocketAddr, flag: &'static str },
    #[error(
        "{address} (--dns) is not on loopback: other machines could look up anything in this host's name; give a loopback \
         address"
    )]
    OpenResolver { address: SocketAddr },
    #[error(
        "{LISTEN_FDS}={text:?} is not a list like outbound-http=3,admin=4; it is set by `meshwork run` and by nothing else"
    )]
    List { text: String },
    #[error("{LISTEN_FDS} names descriptor {fd} for {slot}, which is no inherited listener: {source}")]
    Inherited { slot: Slot, fd: RawFd, source: io::Error },
    #[error("{LISTEN_FDS} has no listener for {slot}: it was made for other settings than this sidecar's")]
    Missing { slot: Slot },
    #[error("no local address faces the control plane at {control}: {source}; give one with --address")]
    NoAddress { control: SocketAddr, source: io::Error },
}

/// What one listener is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    OutboundHttp,
    Admin,
    /// For the mesh: the service's port, and the application's behind it.
    Inbound(u16, u16),
    Upstream(Address),
    /// What rules redirect from the application, and from whom else.
    Captured(Whose, Family),
    /// What rules redirect from others, on its way to the application.
    CapturedInbound(Family),
    /// Datagrams and connections with look-ups, of the address with this number.
    DnsUdp(usize),
    DnsTcp(usize),
}

/// One socket for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

impl Slot {
    fn inbound(port: &PortSpec) -> Self {
        Self::Inbound(port.service_port, port.app_port)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutboundHttp => f.write_str("outbound-http"),
            Self::Admin => f.write_str("admin"),
            Self::Inbound(service_port, app_port) => write!(f, "inbound:{service_port}:{app_port}"),
            Self::Upstream(target) => write!(f, "upstream:{target}"),
            Self::Captured(Whose::Tree, family) => write!(f, "captured:{family}"),
            Self::Captured(Whose::Namespace, family) => write!(f, "captured-all:{family}"),
            Self::CapturedInbound(family) => write!(f, "captured-inbound:{family}"),
            Self::DnsUdp(number) => write!(f, "dns-udp:{number}"),
            Self::DnsTcp(number) => write!(f, "dns-tcp:{number}"),
        }
    }
}

/// What a sidecar listens on, all of it open.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// `None`: the application is captured, and needs none.
    pub(crate) outbound_http: Option<TcpListener>,
    pub(crate) admin: TcpListener,
    /// In the order of the `--port`s.
    pub(crate) inbound: Vec<(PortSpec, TcpListener)>,
    /// In the order of the `--upstream`s.
    pub(crate) upstreams: Vec<(UpstreamSpec, TcpListener)>,
    /// What rules redirect here; `None`: nothing.
    pub(crate) captured: Option<Captured>,
    /// Of the `--dns`s, those of families that this host has; and those to which rules redirect.
    pub(crate) dns: Vec<(UdpSocket, TcpListener)>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) outbound_http: HttpProxy,
    /// `None`: the default, or another one if that is taken (see `if_taken`).
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) inbound_address: IpAddr,
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) upstreams: Vec<UpstreamSpec>,
    pub(crate) dns: Vec<SocketAddr>,
    pub(crate) if_taken: IfTaken,
}

/// Where the application's HTTP proxy listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpProxy {
    /// Nobody is told of it, so it would serve those alone who are not the application: whoever reaches it acts with
    /// the workload's identity.
    Nowhere,
    /// The default, or another one if that is taken (see `Wanted::if_taken`).
    Anywhere,
    At(SocketAddr),
}

/// What to do when a default port is taken. A port that was asked for is never exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfTaken {
    Refuse,
    /// `run` tells its command where the sidecar is, so any port will do.
    TakeAnother,
}

impl Listeners {
    /// Opens all of them, or none.
    pub(crate) fn bind(wanted: &Wanted) -> Result<Self, ListenError> {
        let mut inbound = Vec::new();
        for port in &wanted.ports {
            inbound.push((*port, bind(SocketAddr::new(wanted.inbound_address, 0), "--address")?));
        }
        let mut upstreams = Vec::new();
        for upstream in &wanted.upstreams {
            on_loopback(upstream.listen, "--upstream")?;
            upstreams.push((upstream.clone(), bind(upstream.listen, "--upstream")?));
        }
        let or_default = |given, default, flag| bind_or_default(given, default, flag, wanted.if_taken);
        let outbound_http = match wanted.outbound_http {
            HttpProxy::Nowhere => None,
            HttpProxy::Anywhere => Some(or_default(None, OUTBOUND_HTTP, "--outbound-http")?),
            HttpProxy::At(address) => {
                on_loopback(address, "--outbound-http")?;
                Some(bind(address, "--outbound-http")?)
            }
        };
        Ok(Self {
            outbound_http,
            // May face other machines if asked for: whoever collects metrics lives there.
            admin: or_default(wanted.admin, ADMIN, "--admin")?,
            inbound,
            upstreams,
            captured: None,
            dns: bind_dns(&wanted.dns)?,
        })
    }

    /// Where the application's HTTP proxy listens, if there is one.
    pub(crate) fn http_proxy(&self) -> io::Result<Option<SocketAddr>> {
        self.outbound_http.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Opens those to which rules redirect, on any port: the rules are told which.
    pub(crate) fn bind_captured(&mut self, whose: Whose) -> Result<Ports, ListenError> {
        let (outbound, sockets) = led::outbound()?;
        let (inbound, from_others) = led::inbound()?;
        let (dns, look_ups) = led::dns()?;
        self.captured = Some(Captured { whose, outbound: sockets, inbound: from_others });
        self.dns.extend(look_ups);
        Ok(Ports { outbound, inbound, dns })
    }

    /// Takes over what a supervisor passed on in `text`, the value of `MESHWORK_LISTEN_FDS`.
    pub(crate) fn inherit(text: &str, wanted: &Wanted) -> Result<Self, ListenError> {
        let mut slots = parse(text).ok_or_else(|| ListenError::List { text: text.to_owned() })?;
        let mut take = |slot: Slot| {
            let at = slots.iter().position(|(named, _)| *named == slot);
            let at = at.ok_or_else(|| ListenError::Missing { slot: slot.clone() })?;
            let (slot, fd) = slots.swap_remove(at);
            adopt(fd).map_err(|source| ListenError::Inherited { slot, fd, source })
        };
        let mut inbound = Vec::new();
        for port in &wanted.ports {
            inbound.push((*port, take(Slot::inbound(port))?));
        }
        let mut upstreams = Vec::new();
        for upstream in &wanted.upstreams {
            upstreams.push((upstream.clone(), take(Slot::Upstream(upstream.target.clone()))?));
        }
        let admin = take(Slot::Admin)?;
        // Whoever captures has none, unless it was asked for.
        let outbound_http = if_there(take(Slot::OutboundHttp))?;
        // Whoever captured has said so by these; a machine without IPv6 has half of them.
        let mut captured = Captured::default();
        for family in FAMILIES {
            for whose in [Whose::Tree, Whose::Namespace] {
                if let Some(listener) = if_there(take(Slot::Captured(whose, family)))? {
                    captured.whose = whose;
                    captured.outbound.push(listener);
                }
            }
            captured.inbound.extend(if_there(take(Slot::CapturedInbound(family)))?);
        }
        let captured = (!captured.outbound.is_empty()).then_some(captured);
        let mut dns = Vec::new();
        loop {
            match take(Slot::DnsUdp(dns.len())) {
                Ok(udp) => dns.push((UdpSocket::from(OwnedFd::from(udp)), take(Slot::DnsTcp(dns.len()))?)),
                Err(ListenError::Missing { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { outbound_http, admin, inbound, upstreams, captured, dns })
    }

    /// The text that `inherit` reads, and the descriptors that must survive the `exec`.
    pub(crate) fn to_inherit(&self) -> (String, Vec<RawFd>) {
        let mut slots = vec![(Slot::Admin, self.admin.as_raw_fd())];
        slots.extend(self.outbound_http.iter().map(|listener| (Slot::OutboundHttp, listener.as_raw_fd())));
        let inbound = self.inbound.iter();
        slots.extend(inbound.map(|(port, listener)| (Slot::inbound(port), listener.as_raw_fd())));
        let upstreams = self.upstreams.iter();
        slots.extend(
            upstreams.map(|(spec, listener)| (Slot::Upstream(spec.target.clone()), listener.as_raw_fd())),
        );
        if let Some(Captured { whose, outbound, inbound }) = &self.captured {
            let number = |listener: &TcpListener| listener.as_raw_fd();
            slots.extend(
                FAMILIES
                    .map(|family| Slot::Captured(*whose, family))
                    .into_iter()
                    .zip(outbound.iter().map(number)),
            );
            slots.extend(FAMILIES.map(Slot::CapturedInbound).into_iter().zip(inbound.iter().map(number)));
        }
        for (number, (udp, tcp)) in self.dns.iter().enumerate() {
            slots.push((Slot::DnsUdp(number), udp.as_raw_fd()));
            slots.push((Slot::DnsTcp(number), tcp.as_raw_fd()));
        }
        (write(&slots), slots.into_iter().map(|(_, fd)| fd).collect())
    }
}

/// Those to which rules redirect, which were told the same ports: of both families, where the machine has them. Outbound
/// is led to loopback; inbound to the address of the interface by which it came.
pub(crate) fn bind_led(outbound: u16, inbound: Option<u16>) -> Result<Captured, ListenError> {
    let of = |addresses: [IpAddr; 2], port, flag| {
        let mut listeners = Vec::new();
        for address in addresses.map(|address| SocketAddr::new(address, port)) {
            match bind_alone(address) {
                Ok(listener) => listeners.push(listener),
                Err(error) if address.is_ipv6() && has_no_such_address(&error) => {}
                Err(source) => return Err(ListenError::Bind { address, flag, source }),
            }
        }
        Ok(listeners)
    };
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    Ok(Captured {
        whose: Whose::Namespace,
        outbound: of(loopback, outbound, "--outbound-port")?,
        inbound: inbound.map(|port| of(any, port, "--inbound-port")).transpose()?.unwrap_or_default(),
    })
}

/// Of this address's family alone: a connection's original destination is asked of a socket of its own family.
fn bind_alone(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?; // a successor need not wait until old connections are forgotten
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?; // tokio takes it over as it is
    Ok(socket.into())
}

/// As the standard library's own listeners have: the kernel cuts it to what it allows.
const BACKLOG: i32 = 4_096;

/// Nobody's (RFC 5737): the way there is the way to everywhere else.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4190);

/// The local address from which this machine reaches the control plane, or whatever is far if nobody knows where that
/// is: the one to advertise.
pub(crate) fn address_facing(control: Option<SocketAddr>) -> Result<IpAddr, ListenError> {
    let control = control.unwrap_or(ELSEWHERE);
    let any = if control.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    // Connecting a UDP socket sends nothing: the kernel only chooses the route and with it our address.
    let facing = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(control)?;
        socket.local_addr()
    });
    facing.map(|address| address.ip()).map_err(|source| ListenError::NoAddress { control, source })
}

fn bind_or_default(
    given: Option<SocketAddr>,
    default: &str,
    flag: &'static str,
    if_taken: IfTaken,
) -> Result<TcpListener, ListenError> {
    let default = default.parse().unwrap_or_else(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    match (bind(given.unwrap_or(default), flag), given, if_taken) {
        (Err(ListenError::Bind { source, .. }), None, IfTaken::TakeAnother)
            if source.kind() == io::ErrorKind::AddrInUse =>
        {
            bind(SocketAddr::new(default.ip(), 0), flag)
        }
        (bound, _, _) => bound,
    }
}

/// What the application uses must be on loopback: whoever reaches it acts with the workload's identity.
fn on_loopback(address: SocketAddr, flag: &'static str) -> Result<(), ListenError> {
    if address.ip().is_loopback() { Ok(()) } else { Err(ListenError::NotLoopback { address, flag }) }
}

fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ListenError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?; // tokio takes it over as it is
        Ok(listener)
    });
    bound.map_err(|source| ListenError::Bind { address, flag, source })
}

/// Ports that the kernel chose for connections, and that somebody may have for datagrams already.
const BOTH_TRIES_MAX: usize = 16;

/// Where names are answered. Addresses of a family that this host does not have are left out.
fn bind_dns(addresses: &[SocketAddr]) -> Result<Vec<(UdpSocket, TcpListener)>, ListenError> {
    let mut sockets = Vec::new();
    for address in addresses {
        if !address.ip().is_loopback() {
            return Err(ListenError::OpenResolver { address: *address });
        }
        match bind_both(*address) {
            Ok(both) => sockets.push(both),
            Err(error) if address.is_ipv6() && has_no_such_address(&error) => {
                tracing::debug!(%address, "this host has no IPv6: no names are answered there");
            }
            Err(source) => return Err(ListenError::Bind { address: *address, flag: "--dns", source }),
        }
    }
    Ok(sockets)
}

/// Datagrams and connections of one port.
fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tries = if address.port() == 0 { BOTH_TRIES_MAX } else { 1 };
    let mut tried = 0;
    loop {
        tried += 1;
        let tcp = TcpListener::bind(address)?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Err(_) if tried < tries => {}
            udp => return Ok((udp?, tcp)),
        }
    }
}

fn has_no_such_address(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::ADDRNOTAVAIL | rustix::io::Errno::AFNOSUPPORT))
}

fn adopt(fd: RawFd) -> io::Result<TcpListener> {
    let listener = TcpListener::from(descriptors::adopt(fd)?);
    listener.local_addr()?; // a descriptor that is no socket ends here
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn write(slots: &[(Slot, RawFd)]) -> String {
    let slots: Vec<String> = slots.iter().map(|(slot, fd)| format!("{slot}={fd}")).collect();
    slots.join(",")
}

fn parse(text: &str) -> Option<Vec<(Slot, RawFd)>> {
    text.split(',')
        .map(|part| part.split_once('=').and_then(|(slot, fd)| Some((parse_slot(slot)?, fd.parse().ok()?))))
        .collect()
}

fn parse_slot(text: &str) -> Option<Slot> {
    Some(match text.split_once(':') {
        None if text == "outbound-http" => Slot::OutboundHttp,
        None if text == "admin" => Slot::Admin,
        Some(("dns-udp", number)) => Slot::DnsUdp(number.parse().ok()?),
        Some(("dns-tcp", number)) => Slot::DnsTcp(number.parse().ok()?),
        Some(("inbound", ports)) => {
            let (service_port, app_port) = ports.split_once(':')?;
            Slot::Inbound(service_port.parse().ok()?, app_port.parse().ok()?)
        }
        Some(("upstream", target)) => Slot::Upstream(target.parse().ok()?),
        Some(("captured", family)) => Slot::Captured(Whose::Tree, parse_family(family)?),
        Some(("captured-all", family)) => Slot::Captured(Whose::Namespace, parse_family(family)?),
        Some(("captured-inbound", family)) => Slot::CapturedInbound(parse_family(family)?),
        _ => return None,
    })
}

/// Whose traffic comes to the sockets that a supervisor passed on.
pub(crate) fn inherited_whose(text: &str) -> Option<Whose> {
    parse(text)?
        .into_iter()
        .find_map(|(slot, _)| if let Slot::Captured(whose, _) = slot { Some(whose) } else { None })
}

fn parse_family(text: &str) -> Option<Family> {
    FAMILIES.into_iter().find(|family| family.to_string() == text)
}

fn if_there(taken: Result<TcpListener, ListenError>) -> Result<Option<TcpListener>, ListenError> {
    match taken {
        Ok(listener) => Ok(Some(listener)),
        Err(ListenError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(if_taken: IfTaken) -> Wanted {
        Wanted {
            outbound_http: HttpProxy::At("127.0.0.1:0".parse().unwrap()),
            admin: Some("127.0.0.1:0".parse().unwrap()),
            inbound_address: Ipv4Addr::LOCALHOST.into(),
            ports: vec!["80:8080".parse().unwrap(), "81:8080".parse().unwrap(), "9000".parse().unwrap()],
            upstreams: vec!["stock:5432=127.0.0.1:0".parse().unwrap()],
            dns: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
            if_taken,
        }
    }

    #[test]
    fn the_list_is_read_as_it_was_written() {
        let text = "outbound-http=3,admin=4,inbound:80:8080=5,upstream:stock:5432=6,captured:v4=7,captured:v6=8,captured-inbound:v6=11,dns-udp:0=9,dns-tcp:0=10";
        let slots = parse(text).unwrap();
        let stock = "stock:5432".parse().unwrap();
        let expect = [
            (Slot::OutboundHttp, 3),
            (Slot::Admin, 4),
            (Slot::Inbound(80, 8080), 5),
            (Slot::Upstream(stock), 6),
            (Slot::Captured(Whose::Tree, Family::V4), 7),
            (Slot::Captured(Whose::Tree, Family::V6), 8),
            (Slot::CapturedInbound(Family::V6), 11),
            (Slot::DnsUdp(0), 9),
            (Slot::DnsTcp(0), 10),
        ];
        assert_eq!(slots, expect);
        assert_eq!(write(&slots), text);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "",
            "admin",
            "admin=x",
            "other=3",
            "inbound=3",
            "inbound:80=3",
            "inbound:80:x=3",
            "upstream:stock=3",
            "admin=3,",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn one_listener_for_each_port() {
        let listeners = Listeners::bind(&wanted(IfTaken::Refuse)).unwrap();
        let ports: Vec<u16> = listeners.inbound.iter().map(|(port, _)| port.service_port).collect();
        assert_eq!(ports, [80, 81, 9000]);
        let (text, fds) = listeners.to_inherit();
        assert_eq!(parse(&text).unwrap().into_iter().map(|(_, fd)| fd).collect::<Vec<_>>(), fds);
    }

    #[test]
    fn a_list_for_other_settings_is_refused() {
        let error = Listeners::inherit("admin=1000", &wanted(IfTaken::Refuse)).unwrap_err();
        assert!(matches!(error, ListenError::Missing { slot: Slot::Inbound(80, 8080) }), "{error}");
    }

    #[test]
    fn a_taken_default_is_exchanged_only_where_that_was_allowed() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let bind = |given, if_taken| bind_or_default(given, &address.to_string(), "--admin", if_taken);
        assert!(bind(None, IfTaken::Refuse).is_err());
        assert!(bind(Some(address), IfTaken::TakeAnother).is_err());
        let other = bind(None, IfTaken::TakeAnother).unwrap().local_addr().unwrap();
        assert_eq!(other.ip(), address.ip());
        assert_ne!(other.port(), address.port());
    }

    #[test]
    fn what_lends_the_identity_stays_on_loopback() {
        let far = "192.0.2.1:4140".parse().unwrap();
        let outbound = Wanted { outbound_http: HttpProxy::At(far), ..wanted(IfTaken::Refuse) };
        let upstreams = vec!["stock:1=192.0.2.1:1".parse().unwrap()];
        let upstream = Wanted { upstreams, ..wanted(IfTaken::Refuse) };
        for wanted in [outbound, upstream] {
            let error = Listeners::bind(&wanted).unwrap_err();
            assert!(matches!(error, ListenError::NotLoopback { .. }), "{error}");
        }
        let dns = Wanted { dns: vec![far], ..wanted(IfTaken::Refuse) };
        let error = Listeners::bind(&dns).unwrap_err();
        assert!(matches!(error, ListenError::OpenResolver { .. }), "{error}");
    }

    #[test]
    fn names_are_answered_over_both_transports_of_one_port() {
        let sockets = bind_dns(&wanted(IfTaken::Refuse).dns).unwrap();
        for (udp, tcp) in &sockets {
            assert_eq!(udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        }
        let taken = sockets[0].0.local_addr().unwrap();
        let error = bind_dns(&[taken]).unwrap_err();
        assert!(matches!(error, ListenError::Bind { flag: "--dns", .. }), "{error}");
    }

    #[test]
    fn rules_lead_to_both_families_of_one_port() {
        let led = bind_led(0, Some(0)).unwrap();
        let ips = |listeners: &[TcpListener]| -> Vec<String> {
            listeners.iter().map(|listener| listener.local_addr().unwrap().ip().to_string()).collect()
        };
        assert_eq!(ips(&led.outbound), ["127.0.0.1", "::1"]);
        assert_eq!(ips(&led.inbound), ["0.0.0.0", "::"]);
        assert!(bind_led(0, None).unwrap().inbound.is_empty());
        let taken = led.outbound[0].local_addr().unwrap().port();
        let error = bind_led(taken, None).unwrap_err();
        assert!(matches!(error, ListenError::Bind { flag: "--outbound-port", .. }), "{error}");
        // The very same port in both families, though one of them is everybody's.
        let both = bind_led(0, None).unwrap().outbound[0].local_addr().unwrap().port();
        assert_eq!(bind_led(0, Some(both)).unwrap().inbound.len(), 2);
    }

    #[test]
    fn a_local_control_plane_is_faced_from_loopback() {
        assert_eq!(address_facing(Some("127.0.0.1:4190".parse().unwrap())).unwrap(), Ipv4Addr::LOCALHOST);
    }
}
