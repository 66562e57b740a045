//! Rules and routes into the kernel of this network namespace, and out of it, by the programs `nft` and `ip`.
//!
//! Rules come first and go last: in between a connection to a virtual address fails at once, and none leaves in clear.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use ipnet::IpNet;
use meshwork_core::capture::{self, Plan, Route, TableName};

#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error("cannot run {program}: {source}; install {package}, which has it")]
    Program { program: &'static str, package: &'static str, source: io::Error },
    #[error(
        "this process may not change {what} of its network namespace: run it as root, or give the container the capability NET_ADMIN"
    )]
    Rights { what: &'static str },
    #[error(
        "the kernel does not know what the rules need ({message}): load its modules nf_tables, nft_chain_nat, nft_redir, \
         nft_ct, nft_fib_inet, nft_reject_inet and nft_socket, or use a kernel of 5.13 or later that has them"
    )]
    Lacks { message: String },
    #[error("{program} refused what it was told: {message}")]
    Refused { program: &'static str, message: String },
}

/// Replaces whatever stood in the plan's table. What can't be finished is taken back.
pub(crate) fn apply(plan: &Plan) -> Result<(), KernelError> {
    nft(&["-f", "-"], &capture::rules(plan))?;
    set_routes(plan).inspect_err(|_| {
        if let Err(error) = remove(&plan.table) {
            tracing::warn!("half of the capture stays, and what it captures is refused: {error}");
        }
    })
}

/// Leaves nothing of the table and its routes, and everything else as it was. Where there is nothing, nothing happens.
pub(crate) fn remove(table: &TableName) -> Result<(), KernelError> {
    for route in routes(table)? {
        ip(&route.delete())?;
    }
    nft(&["-f", "-"], &capture::removal(table))?;
    Ok(())
}

/// Whether this kernel would take the plan's rules, and `ip` is there for its routes. Nothing is changed.
pub(crate) fn try_rules(plan: &Plan) -> Result<(), KernelError> {
    nft(&["--check", "-f", "-"], &capture::rules(plan))?;
    ip(&["-V"])?;
    Ok(())
}

/// Ours, whoever made them.
pub(crate) fn tables() -> Result<Vec<TableName>, KernelError> {
    Ok(capture::tables(&nft(&["list", "tables"], "")?))
}

/// What the kernel has of a table, as text.
pub(crate) fn listing(table: &TableName) -> Result<String, KernelError> {
    nft(&["list", "table", "inet", table.as_str()], "")
}

/// Those that were added for a table.
pub(crate) fn routes(table: &TableName) -> Result<Vec<Route>, KernelError> {
    let mut listing = String::new();
    for family in ["-4", "-6"] {
        listing.push_str(&ip(&["-o", family, "route", "show"])?);
    }
    Ok(Route::listed(table, &listing))
}

fn set_routes(plan: &Plan) -> Result<(), KernelError> {
    let mut wanted = capture::routes(plan);
    if !has_ipv6() {
        wanted.retain(|route| matches!(route.range, IpNet::V4(_)));
    }
    let there = routes(&plan.table)?;
    for route in there.iter().filter(|route| !wanted.contains(route)) {
        ip(&route.delete())?;
    }
    for route in wanted.iter().filter(|route| !there.contains(route)) {
        ip(&route.add())?;
    }
    Ok(())
}

/// Where `lo` has none, the kernel takes no route of it either, and nobody could use one.
fn has_ipv6() -> bool {
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    disabled.is_ok_and(|text| text.trim() == "0")
}

fn nft(args: &[&str], script: &str) -> Result<String, KernelError> {
    let output = program("nft", "nftables", args, script)?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    if message.contains("Operation not permitted") {
        return Err(KernelError::Rights { what: "the rules" });
    }
    let message = first_line(&message);
    let lacks = ["No such file or directory", "not supported"].iter().any(|text| message.contains(text));
    // The path of a cgroup that is gone says the same, and is no matter of the kernel's.
    if lacks && !message.contains("cgroupv2") {
        return Err(KernelError::Lacks { message });
    }
    Err(KernelError::Refused { program: "nft", message })
}

fn ip<S: AsRef<str>>(args: &[S]) -> Result<String, KernelError> {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let output = program("ip", "iproute2", &args, "")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = first_line(&String::from_utf8_lossy(&output.stderr));
    if message.contains("Operation not permitted") {
        return Err(KernelError::Rights { what: "the routes" });
    }
    Err(KernelError::Refused { program: "ip", message: format!("{message} (ip {})", args.join(" ")) })
}

fn program(
    program: &'static str,
    package: &'static str,
    args: &[&str],
    input: &str,
) -> Result<Output, KernelError> {
    let run = || {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its messages are compared.
        let mut child = command.env("LC_ALL", "C").spawn()?;
        if let Some(mut stdin) = child.stdin.take()
            && let Err(error) = stdin.write_all(input.as_bytes())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            // It ended before it read everything: its own words say why.
            return Err(error);
        }
        child.wait_with_output()
    };
    run().map_err(|source| KernelError::Program { program, package, source })
}

/// What is wrong stands first; nft then shows where in the script, which nobody has before them.
fn first_line(message: &str) -> String {
    message.lines().find(|line| !line.trim().is_empty()).unwrap_or("it did not say why").trim().to_owned()
}
