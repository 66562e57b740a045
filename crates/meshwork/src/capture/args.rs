//! The flags of `meshwork capture`. As in `cli.rs`, what arrives in these structs is right already.

use std::fmt;
use std::str::FromStr;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use crate::output::OutputArgs;
use crate::settings::{Invalid, invalid, port};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CaptureCommand {
    /// Lead this network namespace's connections to a sidecar: rules of nftables, and routes for virtual addresses
    #[command(after_help = APPLY_HELP)]
    Apply(Box<ApplyArgs>),
    /// Take away what `apply` made, and what runs left that were killed: rules, routes, cgroups and what still runs in
    /// these. A run that lives keeps what it has
    Remove(PrintArgs),
    /// Say what is captured here, what passes by, and how often
    Show(ShowArgs),
}

const APPLY_HELP: &str = "\
What is captured: outbound TCP, questions to name servers, and TCP from other machines. What passes: loopback, link-local \
and multicast, everything but TCP, and the sidecar itself, which is known by a mark on its sockets (it needs the \
capability NET_ADMIN for that) or by its user. Where nobody listens on the sidecar's ports, connections are refused: \
nothing leaves in clear. Applied twice it is applied once; what is told now replaces what was.

Examples:
  meshwork capture apply && exec meshwork proxy --service cart --capture=redirect   (the start of a container)
  meshwork capture apply --proxy-user 1337                                          (an init container)
  meshwork capture apply --exclude-inbound-ports 22 --print                         (only look at the script)

Exit code 1 if nothing could be applied; then nothing was changed.";

#[derive(Clone, Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) led: LedArgs,
    /// The mark by which the sidecar is known
    #[arg(
        long,
        env = "MESHWORK_EXEMPT_MARK",
        value_name = "MARK",
        default_value = "0x4d57",
        conflicts_with = "proxy_user"
    )]
    pub(crate) exempt_mark: Mark,
    /// The user by whom the sidecar is known instead, by name or number: for one that holds no capability. Nothing else
    /// may run as this user
    #[arg(long, env = "MESHWORK_PROXY_USER", value_name = "USER")]
    pub(crate) proxy_user: Option<String>,
    /// Users whose processes pass by: a resolver of this machine's own, an agent; may be given several times
    #[arg(long, env = "MESHWORK_EXCLUDE_USER", value_name = "USER", value_delimiter = ',')]
    pub(crate) exclude_user: Vec<String>,
    /// A range of virtual addresses; may be given several times [default: 240.0.0.0/8]
    #[arg(long, env = "MESHWORK_VIRTUAL_RANGE", value_name = "CIDR", value_delimiter = ',')]
    pub(crate) virtual_range: Vec<IpNet>,
    #[command(flatten)]
    pub(crate) selected: SelectedArgs,
    #[command(flatten)]
    pub(crate) print: PrintArgs,
}

/// Where connections are led: rules and sidecar are told the same.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Capture")]
pub(crate) struct LedArgs {
    /// Where outbound connections are led, on loopback
    #[arg(long, env = "MESHWORK_OUTBOUND_PORT", value_name = "PORT", default_value = "15001", value_parser = port_value)]
    pub(crate) outbound_port: u16,
    /// Where connections from other machines are led; `none` leaves them alone
    #[arg(long, env = "MESHWORK_INBOUND_PORT", value_name = "PORT|none", default_value = "15006")]
    pub(crate) inbound_port: MaybePort,
    /// Where questions to name servers are led, on loopback; `none` leaves them alone
    #[arg(long, env = "MESHWORK_DNS_PORT", value_name = "PORT|none", default_value = "15053")]
    pub(crate) dns_port: MaybePort,
}

/// Lists are given by comma, or by giving the flag again.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct SelectedArgs {
    /// Capture connections to these ports, and to no others but of virtual addresses
    #[arg(long, env = "MESHWORK_INCLUDE_OUTBOUND_PORTS", value_name = "PORTS", value_delimiter = ',', value_parser = port_value)]
    pub(crate) include_outbound_ports: Vec<u16>,
    /// Don't capture connections to these ports
    #[arg(long, env = "MESHWORK_EXCLUDE_OUTBOUND_PORTS", value_name = "PORTS", value_delimiter = ',', value_parser = port_value)]
    pub(crate) exclude_outbound_ports: Vec<u16>,
    /// Capture connections to these networks, and to no others but virtual addresses
    #[arg(long, env = "MESHWORK_INCLUDE_OUTBOUND_CIDRS", value_name = "CIDRS", value_delimiter = ',')]
    pub(crate) include_outbound_cidrs: Vec<IpNet>,
    /// Don't capture connections to these networks
    #[arg(long, env = "MESHWORK_EXCLUDE_OUTBOUND_CIDRS", value_name = "CIDRS", value_delimiter = ',')]
    pub(crate) exclude_outbound_cidrs: Vec<IpNet>,
    /// Capture what comes to these ports, and to no others
    #[arg(long, env = "MESHWORK_INCLUDE_INBOUND_PORTS", value_name = "PORTS", value_delimiter = ',', value_parser = port_value)]
    pub(crate) include_inbound_ports: Vec<u16>,
    /// Don't capture what comes to these ports: probes, metrics, ssh
    #[arg(long, env = "MESHWORK_EXCLUDE_INBOUND_PORTS", value_name = "PORTS", value_delimiter = ',', value_parser = port_value)]
    pub(crate) exclude_inbound_ports: Vec<u16>,
    /// Capture what comes from these networks, and from no others
    #[arg(long, env = "MESHWORK_INCLUDE_INBOUND_CIDRS", value_name = "CIDRS", value_delimiter = ',')]
    pub(crate) include_inbound_cidrs: Vec<IpNet>,
    /// Don't capture what comes from these networks
    #[arg(long, env = "MESHWORK_EXCLUDE_INBOUND_CIDRS", value_name = "CIDRS", value_delimiter = ',')]
    pub(crate) exclude_inbound_cidrs: Vec<IpNet>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct PrintArgs {
    /// Print the script, and do nothing
    #[arg(long, env = "MESHWORK_PRINT")]
    pub(crate) print: bool,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ShowArgs {
    /// Print the rules themselves, as nft lists them
    #[arg(long, env = "MESHWORK_PRINT")]
    pub(crate) print: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A port, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaybePort(pub(crate) Option<u16>);

impl FromStr for MaybePort {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "none" => Ok(Self(None)),
            text => port(text).map(|port| Self(Some(port))).ok_or_else(|| invalid(text, "a port, or none")),
        }
    }
}

impl fmt::Display for MaybePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(port) => port.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// A mark of sockets: not 0, which is what all the others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(pub(crate) u32);

impl FromStr for Mark {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let plain = |number: &u32| *number != 0 && !text.contains('+');
        number
            .filter(plain)
            .map(Self)
            .ok_or_else(|| invalid(text, "a mark, such as 0x4d57 or 19799, and not 0"))
    }
}

fn port_value(text: &str) -> Result<u16, Invalid> {
    port(text).ok_or_else(|| invalid(text, "a port (1 to 65535)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_none() {
        assert_eq!("15006".parse(), Ok(MaybePort(Some(15006))));
        assert_eq!("none".parse(), Ok(MaybePort(None)));
        for text in ["", "0", "-1", "65536", "None", "off"] {
            assert!(text.parse::<MaybePort>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mark_is_a_number_of_either_kind_and_not_everybodys() {
        assert_eq!("0x4d57".parse(), Ok(Mark(0x4d57)));
        assert_eq!("19799".parse(), Ok(Mark(0x4d57)));
        for text in ["", "0", "0x0", "0x", "4d57", "-1", "+7", "0x+7", "0x100000000"] {
            assert!(text.parse::<Mark>().is_err(), "{text}");
        }
    }
}
