//! The command line: commands, flags, their environment twins and their help.
//!
//! The operators' commands are in `operators.rs`, those with a sidecar in `sidecar.rs`; here is what all share, and the rest.
//! Only declares. What a flag's text means is parsed by the types in `settings.rs`, so a value that
//! arrives here is already right; what a command does is in the file named like it.
//!
//! Every flag has a twin in the environment, `MESHWORK_` and the flag's name in capitals (`--state-dir` is
//! `MESHWORK_STATE_DIR`); a test holds us to it. The flag wins over the variable.

mod operators;
mod sidecar;

pub(crate) use operators::{
    AcceptStoreArgs, ApplyArgs, BackupArgs, CaArgs, CaCommand, CheckArgs, DescribeArgs, DrainArgs, GetArgs,
    LoginArgs, LoginTokenCommand, LoginTokenCreateArgs, LoginTokenDeleteArgs, LoginTokenListArgs, LogoutArgs,
    NamedArgs, Reach, RestoreArgs, StatusArgs, TokenCommand, TokenCreateArgs,
};
pub(crate) use sidecar::{AloneArgs, AloneCapture, LaunchArgs, ProxyArgs, RunArgs};

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use meshwork_core::virtual_address::VirtualRange;

use crate::capture::CaptureCommand;
use crate::capture::choice::Capture;
use crate::output::OutputArgs;
use crate::settings::{Address, CONTROL_LISTEN, Name, ServeSpec, ServerName, Span, UpstreamSpec};

const EXAMPLES: &str = "\
Five minutes to a first mesh, on one machine. First the control plane, in a terminal of its own; then, once it says \
`the control plane serves`, a service in another one; then, once that is `registered with the control plane`, a caller:
  meshwork control

  meshwork token create --service cart > cart.token
  meshwork run --service cart --token-file cart.token --port 80:8080 -- ./cart

  meshwork token create --service web > web.token
  meshwork run --service web --token-file web.token -- curl http://cart/

Or look at one that is already set up:
  meshwork demo

Every flag can also be given as a variable: --state-dir is MESHWORK_STATE_DIR, and so on.
Exit codes: 0 success; 1 failure, with one sentence on standard error; 2 wrong usage. `run` ends with \
its command's.";

/// A service mesh in one binary: a sidecar for every workload, and the control plane that tells the
/// sidecars who is where, who they are and what the operator wants.
#[derive(Debug, Parser)]
#[command(name = "meshwork", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// What is logged to standard error: error, warn, info, debug, trace, or per module as `info,meshwork_proxy=debug`
    #[arg(long, global = true, env = "MESHWORK_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
    /// How a log line is written
    #[arg(long, global = true, env = "MESHWORK_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control plane: API, xDS, certificate authority and registry on one TLS port
    #[command(after_help = CONTROL_HELP)]
    Control(ControlArgs),
    /// Make join tokens, with which sidecars join the mesh
    #[command(subcommand)]
    Token(TokenCommand),
    /// Have the operators' commands go to a control plane on another machine
    #[command(after_help = operators::LOGIN_HELP)]
    Login(LoginArgs),
    /// Forget the login; its token stays good until it expires, or an admin deletes it
    Logout(LogoutArgs),
    /// Make, list and revoke login tokens, with which operators come from other machines
    #[command(subcommand)]
    LoginToken(LoginTokenCommand),
    /// Write a certificate with its key for a program without a sidecar, such as proxyless gRPC
    #[command(after_help = IDENTITY_HELP)]
    Identity(IdentityArgs),
    /// Print what a program without a sidecar is started with, so that it takes its config from the control plane
    #[command(subcommand)]
    Bootstrap(BootstrapCommand),
    /// Copy the control plane's store to a file while it runs: resources, tokens, registrations, the mesh's keys
    #[command(after_help = operators::BACKUP_HELP)]
    Backup(BackupArgs),
    /// Put a backup in the place of the control plane's store; the control plane must be stopped
    #[command(after_help = operators::RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Look after the certificate authority: what signs, what is trusted, until when
    #[command(subcommand)]
    Ca(CaCommand),
    /// Run a sidecar alone, for a workload that something else starts
    #[command(after_help = sidecar::PROXY_HELP)]
    Proxy(AloneArgs),
    /// Run a command with a sidecar beside it
    #[command(after_help = sidecar::RUN_HELP)]
    Run(RunArgs),
    /// Lead a network namespace's connections to a sidecar, without the applications' doing
    #[command(subcommand)]
    Capture(CaptureCommand),
    /// Create or change resources from YAML; all documents are accepted, or none
    #[command(after_help = operators::APPLY_HELP)]
    Apply(ApplyArgs),
    /// List resources of a kind, or show one
    #[command(after_help = operators::GET_HELP)]
    Get(GetArgs),
    /// Delete a resource
    Delete(NamedArgs),
    /// Have a workload's sidecar take nothing new and finish what runs, while its application goes on
    #[command(after_help = operators::DRAIN_HELP)]
    Drain(DrainArgs),
    /// Show a resource with what the mesh makes of it: endpoints, routes, conditions
    Describe(DescribeArgs),
    /// Show the control plane, the workloads and what each sidecar has acknowledged
    Status(StatusArgs),
    /// Look for what is wrong with this machine and the mesh; each finding comes with its cure
    #[command(after_help = operators::CHECK_HELP)]
    Check(CheckArgs),
    /// Take the control plane's store as it is, though sidecars have seen a newer one
    #[command(after_help = operators::ACCEPT_STORE_HELP)]
    AcceptStore(AcceptStoreArgs),
    /// Run a small shop under load in a mesh of its own, and watch it
    #[command(after_help = DEMO_HELP)]
    Demo(DemoArgs),
    /// Print the version, the commit and the target
    Version(VersionArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example: meshwork completions bash > /etc/bash_completion.d/meshwork")]
    Completions {
        /// Which shell to write for
        shell: clap_complete::Shell,
    },
    /// One process of the demo's shop
    #[command(hide = true)]
    DemoApp(DemoAppArgs),
    /// What `run` starts in its command's place, to become the command
    #[command(hide = true)]
    Launch(LaunchArgs),
}

const CONTROL_HELP: &str = "\
Examples:
  meshwork control
  meshwork control --listen 10.0.0.5:4190 --name mesh.example.com --state-dir /var/lib/mesh

Operators (`meshwork apply`, `get`, `token`, `status`) reach it by the socket operator.sock in the state \
directory, as the user who runs it or as root; from other machines with a login token (`meshwork login-token --help`). The directory holds the certificate authority's keys: keep it.";

#[derive(Clone, Debug, Args)]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    pub(crate) state: ControlState,
    /// Where sidecars connect; tokens carry this address, so other machines must reach it
    #[arg(long, env = "MESHWORK_LISTEN", value_name = "IP:PORT", default_value = CONTROL_LISTEN)]
    pub(crate) listen: SocketAddr,
    /// A DNS name or IP by which sidecars reach the control plane; the first one goes into join tokens, in place of
    /// the address that it listens on
    #[arg(long, env = "MESHWORK_NAME", value_name = "DNS|IP", value_delimiter = ',')]
    pub(crate) name: Vec<ServerName>,
    /// Where services' virtual IPv4 addresses are; every host of the mesh must be free of it. With another range than
    /// before every service gets another address
    #[arg(long, env = "MESHWORK_VIRTUAL_RANGE", value_name = "CIDR", default_value_t)]
    pub(crate) virtual_range: VirtualRange,
}

/// Where the control plane keeps its state: its own flag, and how operator commands find it.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControlState {
    /// The control plane's state directory [default: /var/lib/meshwork/control for root, otherwise
    /// ~/.local/state/meshwork/control]
    #[arg(long, env = "MESHWORK_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

const IDENTITY_HELP: &str = "\
Writes key.pem, certificate.pem and bundle.pem (the roots), for this user alone. What is there already is kept, and \
renewed once half of its life is over: the token is for the first time only. With --watch it goes on renewing until \
it is told to end; programs find each new file whole.

Examples:
  meshwork identity --token-file web.token --out /run/web
  meshwork identity --out /run/web --watch &
  meshwork bootstrap grpc --identity /run/web > /run/web/xds.json
  GRPC_XDS_BOOTSTRAP=/run/web/xds.json ./web";

#[derive(Clone, Debug, Args)]
pub(crate) struct IdentityArgs {
    /// Join token, from `meshwork token create`
    #[arg(long, env = "MESHWORK_TOKEN", value_name = "T", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the join token; --token is preferred where both are given
    #[arg(long, env = "MESHWORK_TOKEN_FILE", value_name = "F")]
    pub(crate) token_file: Option<PathBuf>,
    /// The directory to write to
    #[arg(long, env = "MESHWORK_OUT", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Stay, and renew the certificate
    #[arg(long, env = "MESHWORK_WATCH")]
    pub(crate) watch: bool,
    /// How long to wait for a control plane that can't be reached
    #[arg(long, env = "MESHWORK_WAIT", value_name = "SPAN", default_value = "30s")]
    pub(crate) wait: Span,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BootstrapCommand {
    /// Print the file for GRPC_XDS_BOOTSTRAP: targets xds:///cart:8080 and xds:///cart are then the mesh's
    #[command(after_help = BOOTSTRAP_GRPC_HELP)]
    Grpc(BootstrapArgs),
    /// Print a bootstrap for Envoy, with a listener for each service that it is to carry
    #[command(after_help = BOOTSTRAP_ENVOY_HELP)]
    Envoy(EnvoyArgs),
}

const BOOTSTRAP_GRPC_HELP: &str = "\
The program's channels need xDS credentials (grpc.xds_channel_credentials in Python), with insecure ones to fall back on \
for services without a sidecar.

Example:
  meshwork bootstrap grpc --identity /run/web > /run/web/xds.json";

#[derive(Clone, Debug, Args)]
pub(crate) struct BootstrapArgs {
    /// The directory to which `meshwork identity` writes
    #[arg(long, env = "MESHWORK_IDENTITY", value_name = "DIR")]
    pub(crate) identity: PathBuf,
}

const BOOTSTRAP_ENVOY_HELP: &str = "\
Keep the certificate with `meshwork identity --out DIR --watch`; Envoy must see the directory under the same path.

Example:
  meshwork bootstrap envoy --identity /run/web --upstream cart:8080=127.0.0.1:9000 > /run/web/envoy.json
  envoy -c /run/web/envoy.json";

#[derive(Clone, Debug, Args)]
pub(crate) struct EnvoyArgs {
    #[command(flatten)]
    pub(crate) bootstrap: BootstrapArgs,
    /// A service to carry, and where to listen for its callers; may be given several times. Port 0 is any that is free,
    /// which Envoy's admin port tells
    #[arg(
        long = "upstream",
        env = "MESHWORK_UPSTREAM",
        value_name = "SERVICE:PORT=IP:PORT",
        value_delimiter = ','
    )]
    pub(crate) upstreams: Vec<UpstreamSpec>,
    /// Where the mesh reaches the application on a port of loopback, by mutual TLS alone; may be given several times
    #[arg(long, env = "MESHWORK_SERVE", value_name = "IP:PORT=APP_PORT", value_delimiter = ',')]
    pub(crate) serve: Vec<ServeSpec>,
    /// Envoy's own admin port; without it there is none
    #[arg(long, env = "MESHWORK_ADMIN", value_name = "IP:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// Take the config as state-of-the-world xDS instead of what changes
    #[arg(long, env = "MESHWORK_SOTW")]
    pub(crate) sotw: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Namespace {
    /// The namespace
    #[arg(short, long, env = "MESHWORK_NAMESPACE", value_name = "NS", default_value = "default")]
    pub(crate) namespace: Name,
}

const DEMO_HELP: &str = "\
Starts a control plane and a small shop (web -> cart -> catalog, payments, stock) as real processes on \
loopback, each with its own sidecar, and puts them under load. While you watch, it moves a service to \
another address, shifts a version 90/10 by a route, and breaks things: it kills an instance, has another one answer \
wrongly until the sidecars leave it out, replaces a service's instances one by one and the mesh's root meanwhile, \
and kills the control plane. \
Nothing stays behind.

Examples:
  meshwork demo
  meshwork demo --duration 30s --no-tty --json result.json

Exit code 1 if any caller saw a failed request.";

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// How long the load lasts; at least 10s, and what is shown takes half a minute
    #[arg(long, env = "MESHWORK_DURATION", value_name = "SPAN", default_value = "45s")]
    pub(crate) duration: Span,
    /// How the shop's programs come to their sidecars: captured they know of no mesh at all, which takes root
    #[arg(long, env = "MESHWORK_CAPTURE", value_name = "WAY", default_value = "auto")]
    pub(crate) capture: Capture,
    /// Print lines instead of a live view
    #[arg(long, env = "MESHWORK_NO_TTY")]
    pub(crate) no_tty: bool,
    /// Write what was measured to this file
    #[arg(long, env = "MESHWORK_JSON", value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoAppArgs {
    /// Which process of the shop
    #[arg(value_name = "ROLE")]
    pub(crate) role: crate::demo::role::Role,
    /// Where it listens, on loopback
    #[arg(long, env = "MESHWORK_APP_LISTEN", value_name = "IP:PORT")]
    pub(crate) app_listen: Option<SocketAddr>,
    /// Where it writes what it measured
    #[arg(long, env = "MESHWORK_REPORT", value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Its own version, told in each answer
    #[arg(long, env = "MESHWORK_APP_VERSION", value_name = "V", default_value = "v1")]
    pub(crate) app_version: String,
    /// Where the payments service is reached
    #[arg(long, env = "MESHWORK_PAYMENTS", value_name = "IP:PORT")]
    pub(crate) payments: Option<Address>,
    /// Where the stock service is reached
    #[arg(long, env = "MESHWORK_STOCK", value_name = "IP:PORT")]
    pub(crate) stock: Option<Address>,
}

#[cfg(test)]
mod tests;
