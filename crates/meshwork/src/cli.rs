//! The command line: commands, flags, their environment twins and their help.
//!
//! Only declares. What a flag's text means is parsed by the types in `settings.rs`, so a value that
//! arrives here is already right; what a command does is in the file named like it.
//!
//! Every flag has a twin in the environment, `MESHWORK_` and the flag's name in capitals (`--state-dir` is
//! `MESHWORK_STATE_DIR`); a test holds us to it. The flag wins over the variable.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use meshwork_core::virtual_address::VirtualRange;

use crate::capture::choice::Capture;
use crate::capture::{CaptureCommand, LedArgs};
use crate::launch::Launch;
use crate::settings::{
    Address, CONTROL_LISTEN, DNS, Health, Label, Locality, Name, PortSpec, ServerName, Size, Span,
    UpstreamSpec,
};

const EXAMPLES: &str = "\
Five minutes to a first mesh, on one machine:
  meshwork control &
  meshwork token create --service cart > cart.token
  meshwork token create --service web > web.token
  meshwork run --service cart --token-file cart.token --port 80:8080 -- ./cart
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
    /// Write a certificate with its key for a program without a sidecar, such as proxyless gRPC
    #[command(after_help = IDENTITY_HELP)]
    Identity(IdentityArgs),
    /// Print what a program without a sidecar is started with, so that it takes its config from the control plane
    #[command(subcommand)]
    Bootstrap(BootstrapCommand),
    /// Copy the control plane's store to a file while it runs: resources, tokens, registrations, the mesh's keys
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// Put a backup in the place of the control plane's store; the control plane must be stopped
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Look after the certificate authority: what signs, what is trusted, until when
    #[command(subcommand)]
    Ca(CaCommand),
    /// Run a sidecar alone, for a workload that something else starts
    #[command(after_help = PROXY_HELP)]
    Proxy(AloneArgs),
    /// Run a command with a sidecar beside it
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Lead a network namespace's connections to a sidecar, without the applications' doing
    #[command(subcommand)]
    Capture(CaptureCommand),
    /// Create or change resources from YAML; all documents are accepted, or none
    #[command(after_help = APPLY_HELP)]
    Apply(ApplyArgs),
    /// List resources of a kind, or show one
    #[command(after_help = GET_HELP)]
    Get(GetArgs),
    /// Delete a resource
    Delete(NamedArgs),
    /// Have a workload's sidecar take nothing new and finish what runs, while its application goes on
    #[command(after_help = DRAIN_HELP)]
    Drain(DrainArgs),
    /// Show a resource with what the mesh makes of it: endpoints, routes, conditions
    Describe(DescribeArgs),
    /// Show the control plane, the workloads and what each sidecar has acknowledged
    Status(StatusArgs),
    /// Look for what is wrong with this machine and the mesh; each finding comes with its cure
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Take the control plane's store as it is, though sidecars have seen a newer one
    #[command(after_help = ACCEPT_STORE_HELP)]
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
directory, as the user who runs it or as root. The directory holds the certificate authority's keys: keep it.";

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

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a join token: the control plane's address, an expiry, the root's hash and a secret
    #[command(after_help = TOKEN_HELP)]
    Create(TokenCreateArgs),
}

const TOKEN_HELP: &str = "\
Examples:
  meshwork token create --service cart > cart.token
  meshwork token create --service cart --namespace shop --ttl 10m --once

Whoever holds the token can join as this service, and as no other: hand it on like a password.";

#[derive(Clone, Debug, Args)]
pub(crate) struct TokenCreateArgs {
    /// The one service that the holder may register for; also its identity's account
    #[arg(long, env = "MESHWORK_SERVICE", value_name = "NAME")]
    pub(crate) service: Name,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// How long the token can be used to join (a workload that has joined stays): 90s, 10m, 1h, 7d
    #[arg(long, env = "MESHWORK_TTL", value_name = "SPAN", default_value = "1h")]
    pub(crate) ttl: Span,
    /// Good for one join only
    #[arg(long, env = "MESHWORK_ONCE")]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) state: ControlState,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const IDENTITY_HELP: &str = "\
Writes key.pem, certificate.pem and bundle.pem (the roots), for this user alone. What is there already is kept, and \
renewed once half of its life is over: the token is for the first time only. With --watch it goes on renewing until \
it is told to end; programs find each new file whole.

Examples:
  meshwork identity --token-file web.token --out /run/web --watch &
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

const BACKUP_HELP: &str = "\
The file holds the mesh's keys and is written for its owner alone: keep it like them. It has a checksum, and is of one \
moment whatever is written meanwhile.

Example:
  meshwork backup /var/backups/mesh.backup";

#[derive(Clone, Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to write; one that is there is replaced whole
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) state: ControlState,
}

const RESTORE_HELP: &str = "\
The backup is checked first, and the store that is there is kept under another name: nothing is lost, whatever fails. \
Sidecars that have seen more than the backup knows wait until you say so with `meshwork accept-store`.

Example:
  meshwork restore /var/backups/mesh.backup && meshwork control";

#[derive(Clone, Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The file that `meshwork backup` wrote
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) state: ControlState,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Replace the mesh's root: everybody is told of the new one, then leaves are signed below it, then the old one goes
    #[command(after_help = CA_ROTATE_HELP)]
    Rotate(CaArgs),
    /// Show the roots, what signs, when each ends, and how far a replacement is
    Status(CaArgs),
}

const CA_ROTATE_HELP: &str = "\
Returns at once; `meshwork ca status` shows how far it is. Nothing is cut, and nothing need be restarted. It is over when \
the last certificate of the old root has ended: a day, unless MeshConfig's leafTtl says otherwise. Join tokens of \
the old root are good until then.

Example:
  meshwork ca rotate && meshwork ca status";

#[derive(Clone, Debug, Args)]
pub(crate) struct CaArgs {
    #[command(flatten)]
    pub(crate) state: ControlState,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Namespace {
    /// The namespace
    #[arg(short, long, env = "MESHWORK_NAMESPACE", value_name = "NS", default_value = "default")]
    pub(crate) namespace: Name,
}

const PROXY_HELP: &str = "\
SPEC is [SERVICE_PORT:]APP_PORT[/http|http2|grpc|tcp]. `--port 80:8080/http` offers the application's port \
8080 as port 80 of the service; without a protocol the sidecar finds out for itself.

Examples:
  meshwork proxy --service cart --token-file cart.token --port 80:8080
  meshwork proxy --service web --token-file web.token --upstream stock:5432=127.0.0.1:5432
  meshwork capture apply && exec meshwork proxy --service cart --token-file cart.token --port 80:8080 --capture=redirect

With --capture=redirect the application need not know of the sidecar; the ports are those of `meshwork capture apply`. \
Otherwise the application reaches the mesh by http_proxy=http://127.0.0.1:4140 or by an --upstream's port. SIGTERM \
drains: no new requests, running ones finish. `meshwork run` does all of this around a command.";

/// A sidecar that something else than `run` starts.
#[derive(Clone, Debug, Args)]
pub(crate) struct AloneArgs {
    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,
    /// How the application's connections come to the sidecar
    #[arg(long, env = "MESHWORK_CAPTURE", value_name = "WAY", default_value = "explicit")]
    pub(crate) capture: AloneCapture,
    #[command(flatten)]
    pub(crate) led: LedArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AloneCapture {
    /// Rules that `meshwork capture apply` made lead them here
    Redirect,
    /// No rules: the application is told of the sidecar's proxy port, or of local ports
    Explicit,
}

/// What a sidecar is told; `proxy` and `run` share it.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProxyArgs {
    /// The service that this workload belongs to; the token must be made for it
    #[arg(long, env = "MESHWORK_SERVICE", value_name = "NAME")]
    pub(crate) service: Name,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Join token, from `meshwork token create`
    #[arg(long, env = "MESHWORK_TOKEN", value_name = "T", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the join token; --token is preferred where both are given
    #[arg(long, env = "MESHWORK_TOKEN_FILE", value_name = "F")]
    pub(crate) token_file: Option<PathBuf>,
    /// Where the sidecar keeps its key, certificate and last good config [default: a directory per
    /// workload below /var/lib/meshwork/sidecars, or ~/.local/state/meshwork/sidecars]
    #[arg(long, env = "MESHWORK_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// A port of the application that the service offers; may be given several times
    #[arg(long, env = "MESHWORK_PORT", value_name = "SPEC", value_delimiter = ',')]
    pub(crate) port: Vec<PortSpec>,
    /// Where the application finds its HTTP proxy, on loopback [default: 127.0.0.1:4140; `run` takes
    /// another port if that is taken; where connections are captured: nowhere]
    #[arg(long, env = "MESHWORK_OUTBOUND_HTTP", value_name = "IP:PORT")]
    pub(crate) outbound_http: Option<SocketAddr>,
    /// A local address that leads to one service's port, for what is not HTTP; may be given several times
    #[arg(long, env = "MESHWORK_UPSTREAM", value_name = "SERVICE:PORT=IP:PORT", value_delimiter = ',')]
    pub(crate) upstream: Vec<UpstreamSpec>,
    /// A label of the workload, beside `app: <service>`; may be given several times
    #[arg(long, env = "MESHWORK_LABEL", value_name = "K=V", value_delimiter = ',')]
    pub(crate) label: Vec<Label>,
    /// Where the workload runs
    #[arg(long, env = "MESHWORK_LOCALITY", value_name = "REGION/ZONE", default_value = "/")]
    pub(crate) locality: Locality,
    /// Address at which other sidecars reach this one [default: the one that faces the control plane]
    #[arg(long, env = "MESHWORK_ADDRESS", value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// How the application's health is checked, on its first port [default: every port accepts]
    #[arg(long, env = "MESHWORK_HEALTH", value_name = "http:PATH|tcp|grpc")]
    pub(crate) health: Option<Health>,
    /// Admin address: /ready, /metrics, /config [default: 127.0.0.1:4191; `run` takes another port if that
    /// is taken]
    #[arg(long, env = "MESHWORK_ADMIN", value_name = "IP:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// Answer look-ups here, on loopback: names of the mesh, and from the host's resolvers all others; may be
    /// given several times [without an address: port 15053 of 127.0.0.1 and of ::1]
    #[arg(long, env = "MESHWORK_DNS", value_name = "IP:PORT", value_delimiter = ',', num_args = 0..=1,
          require_equals = true, default_missing_value = DNS)]
    pub(crate) dns: Vec<SocketAddr>,
    /// Where this host says which resolvers it has
    #[arg(long, env = "MESHWORK_RESOLV_CONF", value_name = "FILE",
          default_value = meshwork_proxy::side::dns::RESOLV_CONF)]
    pub(crate) resolv_conf: PathBuf,
    /// Address where the platform's probes are answered (GET /ready, and nothing else), in clear and to anybody, for
    /// example 0.0.0.0:15021 [default: nowhere]
    #[arg(long, env = "MESHWORK_PROBES", value_name = "IP:PORT")]
    pub(crate) probes: Option<SocketAddr>,
    /// Worker threads for traffic
    #[arg(long, env = "MESHWORK_WORKERS", value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u16).range(1..=meshwork_proxy::WORKERS_MAX as i64))]
    pub(crate) workers: u16,
    /// Memory past which the sidecar refuses new requests [default: half of what the machine, or the
    /// sidecar's cgroup, has]
    #[arg(long, env = "MESHWORK_MEMORY_MAX", value_name = "SIZE")]
    pub(crate) memory_max: Option<Size>,
    /// Speak HTTP/1.1 to other sidecars, as a sidecar that knows no HTTP/2 does; for diagnosis and comparison
    #[arg(long, env = "MESHWORK_NO_HTTP2")]
    pub(crate) no_http2: bool,
    /// How long to wait for a control plane that can't be reached at the start
    #[arg(long, env = "MESHWORK_WAIT", value_name = "SPAN", default_value = "30s")]
    pub(crate) wait: Span,
    /// How long inbound requests that run may take to finish once SIGTERM came
    #[arg(long, env = "MESHWORK_DRAIN", value_name = "SPAN", default_value = "30s")]
    pub(crate) drain: Span,
}

const RUN_HELP: &str = "\
SPEC is [SERVICE_PORT:]APP_PORT[/http|http2|grpc|tcp], as in `meshwork proxy --help`.

Examples:
  meshwork run --service cart --token-file cart.token --port 80:8080 -- ./cart
  meshwork run --service web --token-file web.token -- curl http://cart/
  sudo meshwork run --service cart --token-file cart.token --port 80:8080 --user cart -- ./cart

As root, where there are nftables and cgroup v2, every TCP connection of the command and of what it starts comes to the \
sidecar (--capture=cgroup), and nothing has to be set; other programs are untouched. In a container without a cgroup to \
make, those of everybody in its network namespace do (--capture=redirect). Otherwise nothing is captured (--capture=explicit). \
Unless --capture names the way, the log says which one was chosen and why. What a captured command leaves running when it \
ends is ended, too. `meshwork capture remove` clears up after a run that was killed with -9, as the next start does.

With --capture=explicit the command starts once the sidecar is ready, with http_proxy, https_proxy, grpc_proxy (and in capitals) set \
to the sidecar, NODE_USE_ENV_PROXY=1, and NO_PROXY for loopback, this machine and the control plane.

A sidecar that dies is restarted on the same sockets. SIGTERM (or SIGINT) drains: no sidecar sends here any more, \
what runs finishes (--drain), and only then the command is told to end, its own requests still served; a second one \
does not wait. The exit code is the command's.";

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,
    /// How the command's connections come to the sidecar
    #[arg(long, env = "MESHWORK_CAPTURE", value_name = "WAY", default_value = "auto")]
    pub(crate) capture: Capture,
    /// The user as whom the command runs, by name or number, with that user's groups; the sidecar stays who started it
    #[arg(long, env = "MESHWORK_USER", value_name = "USER")]
    pub(crate) user: Option<String>,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LaunchArgs {
    /// What to become before the command, as the supervisor wrote it
    #[arg(value_name = "LAUNCH")]
    pub(crate) launch: Launch,
    /// The command and its arguments, after `--`; without one, whether the capture works is tried
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

const APPLY_HELP: &str = "\
Examples:
  meshwork apply -f shop.yaml
  meshwork apply -f resources/          every .yaml, .yml and .json below it, in order of name
  kubectl get httproute -o yaml | meshwork apply -f -";

#[derive(Clone, Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A file, a directory, or - for standard input; may be given several times
    #[arg(short, long, env = "MESHWORK_FILENAME", value_name = "FILE|DIR|-", required = true)]
    pub(crate) filename: Vec<PathBuf>,
    /// Judge only, write nothing
    #[arg(long, env = "MESHWORK_DRY_RUN")]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    #[command(flatten)]
    pub(crate) state: ControlState,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const GET_HELP: &str = "\
KIND is service, workload, httproute, trafficpolicy or meshconfig; the plural works too.

Examples:
  meshwork get services
  meshwork get workload cart-7f3a1b -o yaml
  meshwork get httproutes --all-namespaces -o json";

#[derive(Clone, Debug, Args)]
pub(crate) struct GetArgs {
    /// service, workload, httproute, trafficpolicy or meshconfig
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Its name; without one, all are listed
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<Name>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// List every namespace
    #[arg(short = 'A', long, env = "MESHWORK_ALL_NAMESPACES", conflicts_with = "name")]
    pub(crate) all_namespaces: bool,
    #[command(flatten)]
    pub(crate) state: ControlState,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct NamedArgs {
    /// service, workload, httproute, trafficpolicy or meshconfig
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    #[command(flatten)]
    pub(crate) state: ControlState,
}

const DRAIN_HELP: &str = "\
Callers send nothing more to the workload once they have heard of it, which this does not wait for: `meshwork status` \
shows it. The application runs on, and may call others. Restart the sidecar to undo it; under `meshwork run`, ending \
its process is enough.

Example: meshwork drain cart-7f3a1b";

#[derive(Clone, Debug, Args)]
pub(crate) struct DrainArgs {
    /// The workload, as `meshwork get workloads` names it
    #[arg(value_name = "WORKLOAD")]
    pub(crate) workload: Name,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    #[command(flatten)]
    pub(crate) state: ControlState,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) state: ControlState,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// How the answer is written
    #[arg(short, long, env = "MESHWORK_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
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

const CHECK_HELP: &str = "\
Looks at the control plane of this machine, and with it at the whole mesh: sidecars that are gone, versions and \
features, refused config, clocks, certificates, ejections, retry budgets, documents that do not fit together; at the \
sidecars that `meshwork run` started here as this user; and whether \
connections can be captured here, by which way, and what passes by (as root; nothing stays of what is tried). Ends with 1 if there is a problem, else with 0.

Examples:
  meshwork check
  meshwork check --admin 127.0.0.1:4191 -o json";

#[derive(Clone, Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) state: ControlState,
    /// Admin address of a sidecar [default: those of every sidecar that `meshwork run` started here as this user]
    #[arg(long, env = "MESHWORK_ADMIN", value_name = "IP:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const ACCEPT_STORE_HELP: &str = "\
A control plane that came back on an older copy of its store does not have what sidecars have seen since: they keep \
their config and say so, and `meshwork status` lists them. Either stop it and bring back the newer store, or accept \
the loss with this command; sidecars then take what the store has, within seconds.

Example: meshwork accept-store";

#[derive(Clone, Debug, Args)]
pub(crate) struct AcceptStoreArgs {
    #[command(flatten)]
    pub(crate) state: ControlState,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
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
    pub(crate) role: crate::demo::Role,
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
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn walk(command: &clap::Command, visit: &mut impl FnMut(&clap::Command, &clap::Arg)) {
        for arg in command.get_arguments() {
            visit(command, arg);
        }
        for subcommand in command.get_subcommands() {
            walk(subcommand, visit);
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_twin() {
        let mut flags = 0;
        walk(&Cli::command(), &mut |command, arg| {
            let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else {
                return;
            };
            let twin = format!("MESHWORK_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(
                arg.get_env().and_then(|env| env.to_str()),
                Some(&*twin),
                "{} --{long}",
                command.get_name()
            );
            flags += 1;
        });
        assert!(flags > 30, "the walk found only {flags} flags");
    }

    /// The page `docs/cli.md`, made of the help texts.
    fn page() -> String {
        let mut page = String::from(
            "# The command line\n\nWhat `--help` says, for reading. Made by the tests of `crates/meshwork/src/cli.rs`: after a \
             change, run them with `MESHWORK_UPDATE_DOCS=1`.\n",
        );
        let mut cli = Cli::command().term_width(100);
        cli.build();
        let mut names = vec![vec![]];
        while let Some(path) = names.pop() {
            let mut command = &mut cli;
            for name in &path {
                command = command.find_subcommand_mut(name).expect("a name that was listed");
            }
            let shown =
                command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
            let below: Vec<Vec<String>> =
                shown.map(|sub| [path.clone(), vec![sub.get_name().to_owned()]].concat()).collect();
            names.extend(below.into_iter().rev());
            let title = [vec!["meshwork".to_owned()], path].concat().join(" ");
            page.push_str(&format!(
                "\n## {title}\n\n```text\n{}\n```\n",
                command.render_help().to_string().trim_end()
            ));
        }
        page
    }

    #[test]
    fn the_documentation_says_what_help_says() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
        if std::env::var_os("MESHWORK_UPDATE_DOCS").is_some() {
            std::fs::write(&file, page()).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            written == page(),
            "docs/cli.md is out of date: run the tests once with MESHWORK_UPDATE_DOCS=1"
        );
    }

    #[test]
    fn every_argument_says_what_it_is() {
        walk(&Cli::command(), &mut |command, arg| {
            assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
        });
    }
}
