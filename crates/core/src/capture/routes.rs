//! Routes for virtual addresses. Where none leads to one, `connect` fails before any rule sees a packet.
//!
//! They are unicast routes to `lo`: what no rule leads to the sidecar ends there and never leaves the machine. (A route of
//! type `local` would hand it to whoever of this machine listens on all addresses.)

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Plan, TableName};

/// Marks our routes, so that they are known: as `ip route` shows it, `proto 77` ("M").
pub const ROUTE_PROTOCOL: u8 = 77;

/// One of them. It differs from every other route in its metric, which is its table's: each who captures has routes of
/// its own and removes them without asking whether others need theirs; and one that an administrator has made wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub range: IpNet,
    metric: u32,
}

/// Those that a plan needs.
pub fn routes(plan: &Plan) -> Vec<Route> {
    let metric = metric(&plan.table);
    plan.virtual_ranges.iter().map(|range| Route { range: range.trunc(), metric }).collect()
}

impl Route {
    /// Those of a table among what `ip -o -4 route show` and `ip -o -6 route show` list together.
    pub fn listed(table: &TableName, listing: &str) -> Vec<Self> {
        let metric = metric(table);
        let (protocol, metric_text) = (ROUTE_PROTOCOL.to_string(), metric.to_string());
        let is_ours = |words: &[&str]| {
            let has = |key: &str, value: &str| words.windows(2).any(|pair| pair == [key, value]);
            has("dev", "lo") && has("proto", &protocol) && has("metric", &metric_text)
        };
        let lines = listing.lines().map(|line| line.split_whitespace().collect::<Vec<&str>>());
        let ours = lines.filter(|words| is_ours(words));
        ours.filter_map(|words| Some(Self { range: range(words.first()?)?, metric })).collect()
    }

    /// What `ip` is told to add it.
    pub fn add(&self) -> Vec<String> {
        self.command("add")
    }

    /// What `ip` is told to take it away, and nobody else's.
    pub fn delete(&self) -> Vec<String> {
        self.command("del")
    }

    fn command(&self, verb: &str) -> Vec<String> {
        let Self { range, metric } = self;
        // Where there is no address but loopback's, IPv4 would find none to send from.
        let (family, source) = match range {
            IpNet::V4(_) => ("-4", " src 127.0.0.1"),
            IpNet::V6(_) => ("-6", ""),
        };
        let text =
            format!("{family} route {verb} {range} dev lo{source} proto {ROUTE_PROTOCOL} metric {metric}");
        text.split(' ').map(str::to_owned).collect()
    }
}

/// `ip` leaves out the length of a network of one address.
fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// FNV-1a of the name: two tables of one machine have the same with a chance of one in two thousand millions. Neither 0,
/// which IPv6 takes for its default, nor where others' metrics are.
pub(super) fn metric(table: &TableName) -> u32 {
    let hash = table
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash | 1 << 31
}
