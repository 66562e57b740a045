//! `meshwork run`: from settings to a plan for the supervisor.
//!
//! Everything that can be wrong is found here, before a child exists: the state directory is claimed, the token
//! read, the listeners bound. The sidecar gets the same settings as `meshwork proxy` would, all of them explicit;
//! secrets travel in its environment, where other users can't read them, never in its arguments.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use meshwork_core::dns::resolv_conf;
use meshwork_proxy::side::dns::Lookup;
use meshwork_proxy::telemetry::Registry;
use meshwork_proxy::{Mark, Whose};
use serde_json::json;

use crate::capture::choice::{self, Way};
use crate::capture::hold::Hold;
use crate::capture::{ability, probe};
use crate::cgroup::leftovers;
use crate::cli::{LogArgs, LogFormat, ProxyArgs, RunArgs};
use crate::environment::{self, PARENT_PROXY, Surroundings};
use crate::launch::Launch;
use crate::listeners::{HttpProxy, IfTaken, Listeners, Wanted, address_facing};
use crate::resolver::Resolver;
use crate::supervisor::{self, Plan, Signals};
use crate::token::{self, Joining};
use crate::user::Account;
use crate::{BoxError, state_dir};

/// Written into the state directory: where this run's sidecar listens, for scripts and for the demo.
pub(crate) const RUN_FILE: &str = "run.json";

pub(crate) async fn run(args: RunArgs, log: &LogArgs) -> Result<ExitCode, BoxError> {
    let proxy = &args.proxy;
    let (namespace, service) = (proxy.namespace.namespace.as_str(), proxy.service.as_str());
    let account = args.user.as_deref().map(Account::find).transpose()?;
    let claim = state_dir::claim(proxy.state_dir.as_deref(), namespace, service)?;
    let (way, why) = choice::choose(args.capture, ability::cgroup, ability::redirect);
    let Joining { token, control } = token::joining(proxy, &claim.path, &lookup(way, proxy)).await?;
    tracing::info!(capture = ?way, "{why}");
    let address = match proxy.address {
        Some(address) => address,
        None => address_facing(control)?,
    };
    let inherited = |name: &str| std::env::var(name).ok();
    let parent_proxy = environment::parent_proxy(inherited);
    // What is captured needs no proxy, but for a way out that somebody has set: the sidecar goes it for whom it must.
    let is_told_of_a_proxy = way == Way::Explicit || parent_proxy.is_some();
    let http_proxy = http_proxy(proxy, is_told_of_a_proxy);
    let mut listeners = Listeners::bind(&wanted(proxy, address, http_proxy, IfTaken::TakeAnother))?;
    let exe = std::env::current_exe()?;
    // Ended while programs of ours change the kernel's rules, it would leave what nobody knows of.
    let signals = Signals::watch()?;
    let hold = match way {
        Way::Cgroup => Some(capture(Whose::Tree, &mut listeners, &exe).await?),
        Way::Redirect => Some(capture(Whose::Namespace, &mut listeners, &exe).await?),
        Way::Explicit => None,
    };
    write_run_file(&claim.path, &listeners)?;
    let outbound_http = listeners.http_proxy()?;
    tracing::info!(
        outbound_http = outbound_http.map(tracing::field::display),
        admin = %listeners.admin.local_addr()?,
        state_dir = %claim.path.display(),
        "starting the sidecar of {namespace}/{service}"
    );

    let mut sidecar_env: Vec<_> = token.map(|token| ("MESHWORK_TOKEN", token)).into_iter().collect();
    sidecar_env.extend(parent_proxy.map(|proxy| (PARENT_PROXY, proxy)));
    let surroundings = outbound_http.filter(|_| is_told_of_a_proxy).map(|outbound_http| Surroundings {
        outbound_http,
        machine: machine_names(),
        control: control.map(|control| control.ip()),
    });
    let mut command_env = match &surroundings {
        Some(surroundings) => environment::for_command(surroundings, inherited),
        None => Vec::new(),
    };
    command_env.extend(account.iter().flat_map(Account::environment));
    let mut command = args.command.iter().cloned();
    let plan = Plan {
        exe,
        sidecar_args: sidecar_args(proxy, &claim.path, address, log),
        sidecar_env,
        listeners,
        program: command.next().unwrap_or_default(), // clap has seen to it that there is one
        args: command.collect(),
        drain: proxy.drain.duration(),
        launch: launch(proxy, hold.as_ref(), account),
        hold,
        command_env,
        command_unset: std::env::vars_os()
            .map(|(name, _)| name)
            .filter(environment::is_not_for_the_command)
            .collect(),
    };
    let code = supervisor::supervise(&plan, signals).await?;
    Ok(ExitCode::from(code))
}

/// The rules of a run that was killed still lead everybody's questions to where nobody answers.
fn lookup(way: Way, proxy: &ProxyArgs) -> Lookup {
    match way {
        Way::Redirect => {
            let mark = Mark::try_one().unwrap_or_default();
            Lookup::behind_rules(mark, &proxy.resolv_conf, Registry::new(proxy.service.to_string()))
        }
        Way::Cgroup | Way::Explicit => Lookup::Library,
    }
}

/// Clears what killed runs left, captures an empty cgroup or this namespace, and sees to it that what will be there is captured.
async fn capture(whose: Whose, listeners: &mut Listeners, exe: &Path) -> Result<Hold, BoxError> {
    if let Err(error) = leftovers::clear() {
        tracing::warn!("what a run left that was killed could not be removed: {error}");
    }
    let ports = listeners.bind_captured(whose)?;
    let hold = match whose {
        Whose::Tree => Hold::take_cgroup(&ports)?,
        Whose::Namespace => Hold::take_network(&ports)?,
    };
    if let Some(socket) = listeners.captured.iter().find_map(|captured| captured.outbound.first()) {
        probe::prove(&hold, exe, socket).await?;
    }
    Ok(hold)
}

/// What the command's process must become before it is the command.
fn launch(proxy: &ProxyArgs, hold: Option<&Hold>, account: Option<Account>) -> Option<Launch> {
    let cgroup = hold.and_then(Hold::cgroup).map(Path::to_owned);
    let user = account.map(|account| account.identity);
    let resolver = hold.filter(|hold| hold.cgroup().is_some() || Resolver::is_possible()).map(|_| {
        // Without one the host has no domains and no options either.
        let host = std::fs::read_to_string(&proxy.resolv_conf).unwrap_or_default();
        Resolver { resolv_conf: resolv_conf::captured(&host, proxy.namespace.namespace.as_str()) }
    });
    if hold.is_some() && resolver.is_none() {
        tracing::info!(
            "the command sees this container's resolv.conf: without the capability SYS_ADMIN it gets no mounts of its own"
        );
    }
    let changed = cgroup.is_some() || resolver.is_some() || user.is_some();
    changed.then(|| Launch::new(cgroup, resolver, user))
}

/// What `proxy` and `run` listen on.
pub(crate) fn wanted(
    proxy: &ProxyArgs,
    inbound_address: IpAddr,
    outbound_http: HttpProxy,
    if_taken: IfTaken,
) -> Wanted {
    Wanted {
        outbound_http,
        admin: proxy.admin,
        inbound_address,
        ports: proxy.port.clone(),
        upstreams: proxy.upstream.clone(),
        dns: proxy.dns.clone(),
        if_taken,
    }
}

/// Where somebody asked for it; else where whoever is told of it finds it, and nowhere if that is nobody.
pub(crate) fn http_proxy(proxy: &ProxyArgs, is_told_of_it: bool) -> HttpProxy {
    match proxy.outbound_http {
        Some(address) => HttpProxy::At(address),
        None if is_told_of_it => HttpProxy::Anywhere,
        None => HttpProxy::Nowhere,
    }
}

/// The settings once more as flags of `meshwork proxy`. Variables are inherited too, but a flag is certain.
fn sidecar_args(proxy: &ProxyArgs, state_dir: &Path, address: IpAddr, log: &LogArgs) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["proxy".into()];
    let mut flag = |name: &str, value: OsString| {
        // `--flag=value`: a value that begins with a dash stays a value.
        let mut arg = OsString::from(format!("--{name}="));
        arg.push(value);
        args.push(arg);
    };
    flag("service", proxy.service.to_string().into());
    // What captures is `run`, and it hands over sockets: never the variable of the same name.
    flag("capture", "explicit".into());
    flag("namespace", proxy.namespace.namespace.to_string().into());
    flag("state-dir", state_dir.into());
    flag("address", address.to_string().into());
    flag("locality", proxy.locality.to_string().into());
    flag("workers", proxy.workers.to_string().into());
    flag("wait", proxy.wait.to_string().into());
    flag("drain", proxy.drain.to_string().into());
    flag("log", log.log.clone().into());
    flag(
        "log-format",
        match log.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
        .into(),
    );
    for address in &proxy.dns {
        flag("dns", address.to_string().into());
    }
    flag("resolv-conf", proxy.resolv_conf.clone().into());
    if let Some(probes) = proxy.probes {
        flag("probes", probes.to_string().into());
    }
    if let Some(memory_max) = proxy.memory_max {
        flag("memory-max", memory_max.to_string().into());
    }
    for port in &proxy.port {
        flag("port", port.to_string().into());
    }
    for upstream in &proxy.upstream {
        flag("upstream", upstream.to_string().into());
    }
    for label in &proxy.label {
        flag("label", label.to_string().into());
    }
    if let Some(health) = &proxy.health {
        flag("health", health.to_string().into());
    }
    if let Some(address) = proxy.outbound_http {
        flag("outbound-http", address.to_string().into());
    }
    if let Some(address) = proxy.admin {
        flag("admin", address.to_string().into());
    }
    if proxy.no_http2 {
        args.push("--no-http2".into());
    }
    args
}

fn write_run_file(state_dir: &Path, listeners: &Listeners) -> Result<(), BoxError> {
    let file = state_dir.join(RUN_FILE);
    let inbound = listeners.inbound.iter().map(|(port, listener)| {
        Ok((port.service_port.to_string(), listener.local_addr()?.to_string().into()))
    });
    let content = json!({
        "pid": std::process::id(),
        "inbound": inbound.collect::<std::io::Result<serde_json::Map<_, _>>>()?,
        "outboundHttp": listeners.http_proxy()?.map(|address| address.to_string()),
        "admin": listeners.admin.local_addr()?.to_string(),
    });
    // Renamed into place: whoever waits for the file never reads half of it.
    let fresh = state_dir.join(format!("{RUN_FILE}.new"));
    let written =
        std::fs::write(&fresh, format!("{content}\n")).and_then(|()| std::fs::rename(&fresh, &file));
    written
        .map_err(|error| format!("cannot write {}: {error}; give another --state-dir", file.display()).into())
}

/// `laptop.example` and `laptop`.
fn machine_names() -> Vec<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().into_owned();
    let short = name.split('.').next().unwrap_or_default().to_owned();
    if short == name { vec![name] } else { vec![name, short] }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{AloneArgs, Cli, Command};

    #[test]
    fn the_sidecar_is_told_everything_that_run_was_told() {
        let flags = "--service=cart --namespace=shop --port=80:8080/http --port=9000 --outbound-http=127.0.0.1:1 \
                     --upstream=stock:5432=127.0.0.1:2 --label=version=v1 --locality=eu/a --address=127.0.0.2 \
                     --health=http:/ok --admin=127.0.0.1:3 --workers=2 --memory-max=256MiB --dns=127.0.0.1:4 --resolv-conf=/r --no-http2 --wait=5s --drain=9s";
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let run = Cli::parse_from([&["meshwork", "run"], &flags[..], &["--", "true"]].concat());
        let Command::Run(RunArgs { proxy: told, .. }) = &run.command else { panic!("{run:?}") };
        let args = sidecar_args(told, Path::new("/state"), told.address.unwrap(), &run.log);
        let sidecar = Cli::parse_from([vec!["meshwork".into()], args].concat());
        let Command::Proxy(AloneArgs { proxy: mut hears, .. }) = sidecar.command else {
            panic!("{sidecar:?}")
        };
        assert_eq!(hears.state_dir.take().as_deref(), Some(Path::new("/state")));
        assert_eq!(format!("{hears:?}"), format!("{told:?}"));
    }
}
