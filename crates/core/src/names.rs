//! Which of the names that an application looks up are the mesh's, and what they resolve to.
//!
//! `cart`, `cart.default` and `cart.default.mesh` are one service's virtual address. Only what ends in `.mesh` is ours
//! whatever it says; a shorter name is ours if such a service exists, and else belongs to the host's resolvers, as
//! `intranet` or `example.com` would. A table holds the names of one namespace; a sidecar has its own from the start and
//! asks for another one when a name leads there.
//!
//! Pure: a question and the tables that are held come in, an answer goes out. Messages are written in `dns/`; sockets,
//! forwarding and the wait for a table are `proxy/src/side/dns/`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::name::is_label;

/// The domain that is the mesh's alone.
pub const ZONE: &str = "mesh";

/// How long the address of a service may be kept. It is stored and stays as long as the service; but when a service is
/// removed, `cart` may be the host resolvers' again, and who kept its address would be refused until then.
pub const SERVICE_TTL_SECONDS: u32 = 30;

/// How long the addresses of a headless service's instances may be kept: they come and go.
pub const INSTANCE_TTL_SECONDS: u32 = 5;

/// How long it may be kept that there is no such name: a service that was just created is to be found.
pub const NEGATIVE_TTL_SECONDS: u32 = 5;

/// Addresses in one answer. A message of 64 KiB has room for twice as many of IPv6, and no client tries more.
pub const ADDRESSES_MAX: usize = 1_000;

/// Instances in one answer that names them: with names of any length they fit into a message of 64 KiB.
pub const TARGETS_MAX: usize = 250;

/// The names of one namespace. As a resource it is named by the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NameTable {
    pub namespace: String,
    /// By the service's name.
    pub services: BTreeMap<String, Named>,
}

/// What a service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// Virtual.
    pub v4: Ipv4Addr,
    /// Virtual.
    pub v6: Ipv6Addr,
    /// By the port's name; ports without one have no SRV record.
    pub ports: BTreeMap<String, u16>,
    /// Headless only: own addresses by the workload's name.
    pub instances: BTreeMap<String, IpAddr>,
    /// Its name stands for its instances' own addresses.
    pub headless: bool,
}

/// The tables that a sidecar holds. Cheap to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `None`: there is no such namespace.
    held: BTreeMap<String, Option<Arc<NameTable>>>,
}

impl Tables {
    pub fn set(&mut self, table: Arc<NameTable>) {
        self.held.insert(table.namespace.clone(), Some(table));
    }

    /// The control plane knows no service in that namespace.
    pub fn set_absent(&mut self, namespace: &str) {
        self.held.insert(namespace.to_owned(), None);
    }

    /// As if it had never been asked for.
    pub fn forget(&mut self, namespace: &str) {
        self.held.remove(namespace);
    }

    /// Whether it is known what is in the namespace, be it nothing.
    pub fn knows(&self, namespace: &str) -> bool {
        self.held.contains_key(namespace)
    }

    /// Namespaces that something is known of, each with its table if there is one.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&Arc<NameTable>>)> {
        self.held.iter().map(|(namespace, table)| (namespace.as_str(), table.as_ref()))
    }

    fn find(&self, namespace: &str) -> Held<'_> {
        match self.held.get(namespace) {
            Some(Some(table)) => Held::Table(table),
            Some(None) => Held::Absent,
            None => Held::Unknown,
        }
    }
}

enum Held<'a> {
    Table(&'a NameTable),
    Absent,
    Unknown,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// One label is a service of it.
    pub namespace: &'a str,
    pub ipv6: Ipv6,
    /// Where virtual addresses come from.
    pub virtual_ranges: &'a [IpNet],
}

/// Whether this host can use addresses of IPv6. Programs prefer them, and on a host without them would wait or fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    Usable,
    Unusable,
}

impl Ipv6 {
    /// From the text of `/proc/net/if_inet6`: usable with any address beyond loopback and link-local.
    pub fn of_host(if_inet6: &str) -> Self {
        let reaches_further = |line: &str| {
            let digits = line.split_ascii_whitespace().next()?;
            let address = Ipv6Addr::from_bits(u128::from_str_radix(digits, 16).ok()?);
            Some(!address.is_loopback() && !address.is_unicast_link_local())
        };
        let usable = if_inet6.lines().any(|line| reaches_further(line) == Some(true));
        if usable { Self::Usable } else { Self::Unusable }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// Labels with dots between, in any case, with or without a dot at the end.
    pub name: &'a str,
    pub kind: Kind,
}

/// The types of records that we tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    A,
    Aaaa,
    Srv,
    Ptr,
    Soa,
    Any,
    /// The mesh has none of it.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Ours(Ours),
    /// No name of the mesh: the host's resolvers know.
    Forward,
    /// It depends on what is in this namespace, and its table is not held.
    AskNamespace(String),
}

/// What we say with authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ours {
    /// Never empty. All are of the name that was asked for.
    Records(Vec<Record>),
    /// The name exists, with nothing of that type.
    NoData,
    /// There is no such name (NXDOMAIN).
    NoName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub ttl_seconds: u32,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv {
        port: u16,
        /// With labels, without a dot at the end, as all names here.
        target: String,
    },
    Ptr(String),
    Soa,
}

/// Answers a question of the Internet class.
pub fn resolve(question: Question<'_>, asker: &Asker<'_>, tables: &Tables) -> Answer {
    let name = question.name.strip_suffix('.').unwrap_or(question.name).to_ascii_lowercase();
    if let Some(address) = reverse(&name) {
        return of_address(address, question.kind, asker, tables);
    }
    let from_the_top: Vec<&str> = name.rsplit('.').collect();
    match from_the_top[..] {
        [ZONE, ref rest @ ..] => in_zone(rest, question.kind, asker, tables),
        // Never asked elsewhere by who knows the rules (RFC 6761, 6.3), and never a service.
        ["localhost"] => Answer::Forward,
        [service] => by_short_name(service, asker.namespace, question.kind, asker, tables),
        [namespace, service] => by_short_name(service, namespace, question.kind, asker, tables),
        _ => Answer::Forward,
    }
}

/// Ours if it exists.
fn by_short_name(service: &str, namespace: &str, kind: Kind, asker: &Asker<'_>, tables: &Tables) -> Answer {
    if !is_label(service) || !is_label(namespace) {
        return Answer::Forward;
    }
    match tables.find(namespace) {
        Held::Table(table) => match table.services.get(service) {
            Some(named) => Answer::Ours(of_service(named, kind, asker)),
            None => Answer::Forward,
        },
        Held::Absent => Answer::Forward,
        Held::Unknown => Answer::AskNamespace(namespace.to_owned()),
    }
}

/// `labels` are those before the zone's, from the top: namespace, service, and what is below a service.
fn in_zone(labels: &[&str], kind: Kind, asker: &Asker<'_>, tables: &Tables) -> Answer {
    let [namespace, below @ ..] = labels else {
        return Answer::Ours(of_apex(kind));
    };
    if !is_label(namespace) {
        return Answer::Ours(Ours::NoName);
    }
    match tables.find(namespace) {
        Held::Table(table) => Answer::Ours(in_table(table, below, kind, asker)),
        Held::Absent => Answer::Ours(Ours::NoName),
        Held::Unknown => Answer::AskNamespace((*namespace).to_owned()),
    }
}

fn of_apex(kind: Kind) -> Ours {
    match kind {
        Kind::Soa => one(NEGATIVE_TTL_SECONDS, Data::Soa),
        Kind::A | Kind::Aaaa | Kind::Srv | Kind::Ptr | Kind::Any | Kind::Other => Ours::NoData,
    }
}

fn in_table(table: &NameTable, below: &[&str], kind: Kind, asker: &Asker<'_>) -> Ours {
    let [service, below @ ..] = below else {
        return Ours::NoData; // a namespace: names are below it
    };
    let Some(named) = table.services.get(*service) else {
        return Ours::NoName;
    };
    match below {
        [] => of_service(named, kind, asker),
        ["_tcp"] if !named.ports.is_empty() => Ours::NoData,
        ["_tcp", port] => match port.strip_prefix('_').and_then(|port| named.ports.get(port)) {
            Some(port) => of_port(named, *port, &format!("{service}.{}.{ZONE}", table.namespace), kind),
            None => Ours::NoName,
        },
        [instance] => match named.instances.get(*instance) {
            Some(address) => addresses([*address].into_iter(), INSTANCE_TTL_SECONDS, kind, asker),
            None => Ours::NoName,
        },
        _ => Ours::NoName,
    }
}

fn of_service(named: &Named, kind: Kind, asker: &Asker<'_>) -> Ours {
    if named.headless {
        addresses(named.instances.values().copied(), INSTANCE_TTL_SECONDS, kind, asker)
    } else {
        let both = [IpAddr::V4(named.v4), IpAddr::V6(named.v6)];
        addresses(both.into_iter(), SERVICE_TTL_SECONDS, kind, asker)
    }
}

/// Those of the type that was asked for. Of ANY one type is enough (RFC 8482, 4.1).
fn addresses(all: impl Iterator<Item = IpAddr> + Clone, ttl: u32, kind: Kind, asker: &Asker<'_>) -> Ours {
    let of_v4 = all.clone().filter(IpAddr::is_ipv4);
    let of_v6 = all.filter(|address| address.is_ipv6() && asker.ipv6 == Ipv6::Usable);
    let wanted: Vec<IpAddr> = match kind {
        Kind::A => of_v4.take(ADDRESSES_MAX).collect(),
        Kind::Aaaa => of_v6.take(ADDRESSES_MAX).collect(),
        Kind::Any if of_v4.clone().next().is_some() => of_v4.take(ADDRESSES_MAX).collect(),
        Kind::Any => of_v6.take(ADDRESSES_MAX).collect(),
        Kind::Srv | Kind::Ptr | Kind::Soa | Kind::Other => Vec::new(),
    };
    records(wanted.into_iter().map(|address| match address {
        IpAddr::V4(address) => Record { ttl_seconds: ttl, data: Data::A(address) },
        IpAddr::V6(address) => Record { ttl_seconds: ttl, data: Data::Aaaa(address) },
    }))
}

fn of_port(named: &Named, port: u16, service: &str, kind: Kind) -> Ours {
    match kind {
        Kind::Srv | Kind::Any if named.headless => {
            let targets = named.instances.keys().take(TARGETS_MAX);
            records(targets.map(|instance| {
                let target = format!("{instance}.{service}");
                Record { ttl_seconds: INSTANCE_TTL_SECONDS, data: Data::Srv { port, target } }
            }))
        }
        Kind::Srv | Kind::Any => one(SERVICE_TTL_SECONDS, Data::Srv { port, target: service.to_owned() }),
        Kind::A | Kind::Aaaa | Kind::Ptr | Kind::Soa | Kind::Other => Ours::NoData,
    }
}

/// Who has a virtual address: looked for in the tables that are held. Reverse look-ups are seldom, so none has an index
/// for them; and an address of a namespace that nobody here ever named is hardly looked up.
fn of_address(address: IpAddr, kind: Kind, asker: &Asker<'_>, tables: &Tables) -> Answer {
    let owner = tables.iter().filter_map(|(_, table)| table).find_map(|table| {
        let is_owner = |named: &Named| IpAddr::V4(named.v4) == address || IpAddr::V6(named.v6) == address;
        let (service, _) = table.services.iter().find(|(_, named)| !named.headless && is_owner(named))?;
        Some(format!("{service}.{}.{ZONE}", table.namespace))
    });
    match (owner, kind) {
        (Some(owner), Kind::Ptr | Kind::Any) => Answer::Ours(one(SERVICE_TTL_SECONDS, Data::Ptr(owner))),
        (Some(_), Kind::A | Kind::Aaaa | Kind::Srv | Kind::Soa | Kind::Other) => Answer::Ours(Ours::NoData),
        (None, _) if asker.virtual_ranges.iter().any(|range| range.contains(&address)) => {
            Answer::Ours(Ours::NoName)
        }
        (None, _) => Answer::Forward,
    }
}

/// The address in `7.0.0.240.in-addr.arpa`, or in the 32 digits before `ip6.arpa`.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let turned: Vec<&str> = digits.rsplit('.').collect();
        return turned.join(".").parse().ok().map(IpAddr::V4);
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut count = 0;
    for digit in digits.rsplit('.') {
        let [digit] = digit.as_bytes() else { return None };
        count += 1;
        bits = (bits << 4) | u128::from(char::from(*digit).to_digit(16)?);
    }
    (count == 32).then(|| IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

fn one(ttl_seconds: u32, data: Data) -> Ours {
    Ours::Records(vec![Record { ttl_seconds, data }])
}

fn records(records: impl Iterator<Item = Record>) -> Ours {
    let records: Vec<Record> = records.collect();
    if records.is_empty() { Ours::NoData } else { Ours::Records(records) }
}

#[cfg(test)]
mod tests;
