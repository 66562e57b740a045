//! The commands with a sidecar: the arguments and help of `proxy`, `run` and what `run` starts.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Namespace;
use crate::capture::LedArgs;
use crate::capture::choice::Capture;
use crate::launch::Launch;
use crate::settings::{DNS, Health, Label, Locality, Name, PortSpec, Size, Span, UpstreamSpec};

pub(super) const PROXY_HELP: &str = "\
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

pub(super) const RUN_HELP: &str = "\
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
