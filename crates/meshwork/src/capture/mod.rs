//! `meshwork capture`: leads this network namespace's connections to a sidecar, or no longer, or says what is so.
//!
//! | file | what |
//! |---|---|
//! | `args.rs` | the flags |
//! | `kernel.rs` | rules and routes into the kernel and out of it, by `nft` and `ip` |
//! | `choice.rs` | which way a run captures: pure |
//! | `ability.rs` | whether this machine can capture, tried |
//! | `hold.rs` | what a run captures, from its start to its end |
//! | `network.rs` | whose this network namespace is |
//! | `probe.rs` | whether what it captures is captured |
//! | `own_way.rs` | whether a sidecar is not captured itself |
//!
//! What the rules say is decided in `core` (`capture.rs`); here flags become a plan, and a plan becomes what is.

pub(crate) mod ability;
mod args;
pub(crate) mod choice;
pub(crate) mod hold;
pub(crate) mod kernel;
pub(crate) mod network;
pub(crate) mod own_way;
pub(crate) mod probe;

use meshwork_core::capture::{self, Exempt, Plan, Scope, Selection, TableName};
use network::{Claim, NetworkError};
use nix::unistd::User;
use serde_json::{Value, json};

use args::{ApplyArgs, SelectedArgs, ShowArgs};
pub(crate) use args::{CaptureCommand, LedArgs};

use crate::cgroup::leftovers;
use crate::{BoxError, output};

pub(crate) fn run(command: &CaptureCommand) -> Result<(), BoxError> {
    match command {
        CaptureCommand::Apply(args) => apply(args),
        CaptureCommand::Remove(args) if args.print => {
            Ok(output::print_text(&capture::removal(&TableName::of_namespace()))?)
        }
        CaptureCommand::Remove(_) => {
            kernel::remove(&TableName::of_namespace())?;
            Ok(leftovers::clear()?)
        }
        CaptureCommand::Show(args) => show(*args),
    }
}

fn apply(args: &ApplyArgs) -> Result<(), BoxError> {
    let plan = plan(args)?;
    if args.print.print {
        return Ok(output::print_text(&capture::rules(&plan))?);
    }
    // Until the rules stand: a run that starts meanwhile finds either this or them.
    let _claim = Claim::try_take()?.ok_or(NetworkError::Run)?;
    kernel::apply(&plan)?;
    // Of a run that was killed, as nobody had the namespace; ours stand first, so that nothing leaves in clear.
    Ok(kernel::remove(&TableName::of_run())?)
}

fn plan(args: &ApplyArgs) -> Result<Plan, UserError> {
    let SelectedArgs {
        include_outbound_ports,
        exclude_outbound_ports,
        include_outbound_cidrs,
        exclude_outbound_cidrs,
        include_inbound_ports,
        exclude_inbound_ports,
        include_inbound_cidrs,
        exclude_inbound_cidrs,
    } = args.selected.clone();
    let virtual_ranges = match &args.virtual_range[..] {
        [] => capture::virtual_ranges_default(),
        given => given.to_vec(),
    };
    Ok(Plan {
        table: TableName::of_namespace(),
        scope: Scope::Namespace,
        exempt: match &args.proxy_user {
            Some(user) => Exempt::User(uid(user)?),
            None => Exempt::Mark(args.exempt_mark.0),
        },
        exclude_users: args.exclude_user.iter().map(|user| uid(user)).collect::<Result<_, _>>()?,
        outbound: args.led.outbound_port,
        inbound: args.led.inbound_port.0,
        dns: args.led.dns_port.0,
        virtual_ranges,
        outgoing: Selection {
            include_ports: include_outbound_ports,
            exclude_ports: exclude_outbound_ports,
            include_cidrs: include_outbound_cidrs,
            exclude_cidrs: exclude_outbound_cidrs,
        },
        incoming: Selection {
            include_ports: include_inbound_ports,
            exclude_ports: exclude_inbound_ports,
            include_cidrs: include_inbound_cidrs,
            exclude_cidrs: exclude_inbound_cidrs,
        },
    })
}

#[derive(Debug, thiserror::Error)]
enum UserError {
    #[error("there is no user {0:?} here; give one that `getent passwd` lists, or a number")]
    Unknown(String),
    #[error("cannot look up the user {name:?}: {source}; give the number")]
    LookUp { name: String, source: nix::errno::Errno },
}

/// A number is taken as it is: an init container need not know the sidecar's user.
fn uid(text: &str) -> Result<u32, UserError> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let found = User::from_name(text);
    let user = found.map_err(|source| UserError::LookUp { name: text.to_owned(), source })?;
    user.map(|user| user.uid.as_raw()).ok_or_else(|| UserError::Unknown(text.to_owned()))
}

fn show(args: ShowArgs) -> Result<(), BoxError> {
    let tables = kernel::tables()?;
    if args.print {
        let listings: Result<Vec<String>, _> = tables.iter().map(kernel::listing).collect();
        output::print_text(&listings?.concat())?;
        return Ok(());
    }
    let mut shown = Vec::new();
    for table in &tables {
        let routes = kernel::routes(table)?;
        shown.push(json!({
            "table": table.as_str(),
            "rules": capture::sentences(&kernel::listing(table)?),
            "routes": routes.iter().map(|route| format!("{} -> lo", route.range)).collect::<Vec<_>>(),
        }));
    }
    output::print(args.output.output, &json!({ "captured": shown }), text)?;
    Ok(())
}

fn text(shown: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut text = String::new();
    for table in list(&shown["captured"]) {
        text.push_str(&format!("table inet {}\n", output::cell(&table["table"])));
        for rule in list(&table["rules"]) {
            text.push_str(&format!("  {}\n", output::cell(&rule)));
        }
        for route in list(&table["routes"]) {
            text.push_str(&format!("  route: {}\n", output::cell(&route)));
        }
    }
    if text.is_empty() { "nothing is captured in this network namespace\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn planned(flags: &[&str]) -> Result<Plan, UserError> {
        let cli = Cli::parse_from([&["meshwork", "capture", "apply"], flags].concat());
        let Command::Capture(CaptureCommand::Apply(args)) = &cli.command else { panic!("{cli:?}") };
        plan(args)
    }

    #[test]
    fn the_defaults_of_the_flags_are_those_of_the_plan() {
        let plan = planned(&[]).unwrap();
        assert_eq!(plan.outbound, capture::OUTBOUND_PORT);
        assert_eq!(plan.inbound, Some(capture::INBOUND_PORT));
        assert_eq!(plan.dns, Some(capture::DNS_PORT));
        assert_eq!(plan.exempt, Exempt::Mark(capture::MARK));
        assert_eq!(plan.virtual_ranges, capture::virtual_ranges_default());
    }

    #[test]
    fn every_flag_has_its_place() {
        let plan = planned(&[
            "--outbound-port=1",
            "--inbound-port=none",
            "--dns-port=3",
            "--proxy-user=1337",
            "--exclude-user=0,root",
            "--virtual-range=241.0.0.0/8,fd00::/64",
            "--include-outbound-ports=10",
            "--exclude-outbound-ports=11,12",
            "--include-outbound-cidrs=10.1.0.0/16",
            "--exclude-outbound-cidrs=10.2.0.0/16",
            "--include-inbound-ports=20",
            "--exclude-inbound-ports=21",
            "--include-inbound-cidrs=10.3.0.0/16",
            "--exclude-inbound-cidrs=10.4.0.0/16",
        ]);
        let nets = |text: &str| vec![text.parse().unwrap()];
        let selection = |include, exclude: &[u16], include_cidrs, exclude_cidrs| Selection {
            include_ports: vec![include],
            exclude_ports: exclude.to_vec(),
            include_cidrs: nets(include_cidrs),
            exclude_cidrs: nets(exclude_cidrs),
        };
        let expect = Plan {
            table: TableName::of_namespace(),
            scope: Scope::Namespace,
            exempt: Exempt::User(1337),
            exclude_users: vec![0, 0],
            outbound: 1,
            inbound: None,
            dns: Some(3),
            virtual_ranges: [nets("241.0.0.0/8"), nets("fd00::/64")].concat(),
            outgoing: selection(10, &[11, 12], "10.1.0.0/16", "10.2.0.0/16"),
            incoming: selection(20, &[21], "10.3.0.0/16", "10.4.0.0/16"),
        };
        assert_eq!(plan.unwrap(), expect);
    }

    #[test]
    fn who_is_not_here_is_named() {
        let error = planned(&["--proxy-user=no-such-user"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no user \"no-such-user\" here; give one that `getent passwd` lists, or a number"
        );
    }

    #[test]
    fn what_is_shown_is_for_people() {
        assert_eq!(text(&json!({"captured": []})), "nothing is captured in this network namespace\n");
        let table = json!({"table": "meshwork", "rules": ["passes: a"], "routes": ["240.0.0.0/8 -> lo"]});
        let expect = "table inet meshwork\n  passes: a\n  route: 240.0.0.0/8 -> lo\n";
        assert_eq!(text(&json!({"captured": [table]})), expect);
    }
}
