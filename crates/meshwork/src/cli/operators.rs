//! The operators' commands: their arguments and help.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ControlState, Namespace};
use crate::login::ControlAddress;
use crate::output::OutputArgs;
use crate::settings::{Name, Span};

/// Which control plane an operator means.
#[derive(Clone, Debug, Args)]
pub(crate) struct Reach {
    #[command(flatten)]
    pub(crate) state: ControlState,
    /// A control plane on another machine, for which there is a login [default: the one that was logged in to]
    #[arg(long, env = "MESHWORK_CONTROL", value_name = "HOST:PORT")]
    pub(crate) control: Option<ControlAddress>,
    /// The file that `meshwork login` wrote [default: ~/.config/meshwork/login.json; without one, the control plane of this
    /// machine is meant]
    #[arg(long, env = "MESHWORK_LOGIN", value_name = "FILE")]
    pub(crate) login: Option<PathBuf>,
}

pub(super) const LOGIN_HELP: &str = "\
Afterwards the operators' commands go to that control plane, until `meshwork logout`: apply, get, describe, delete, status, \
check and, as the token's role allows, the others. It is believed only if it proves the root that the token names. Several \
meshes: keep each login in a file of its own, and name it with --login or MESHWORK_LOGIN.

Examples:
  meshwork login --token-file alice.token
  meshwork login --token-file alice.token --control 203.0.113.7:4190 --login ~/prod.json
  meshwork get services --login ~/prod.json";

#[derive(Clone, Debug, Args)]
pub(crate) struct LoginArgs {
    /// Login token, from `meshwork login-token create`
    #[arg(long, env = "MESHWORK_TOKEN", value_name = "T", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the login token; --token is preferred where both are given
    #[arg(long, env = "MESHWORK_TOKEN_FILE", value_name = "F")]
    pub(crate) token_file: Option<PathBuf>,
    /// Where the control plane is reached from here [default: where the token says]
    #[arg(long, env = "MESHWORK_CONTROL", value_name = "HOST:PORT")]
    pub(crate) control: Option<ControlAddress>,
    /// Where the login is kept, for its owner alone [default: ~/.config/meshwork/login.json]
    #[arg(long, env = "MESHWORK_LOGIN", value_name = "FILE")]
    pub(crate) login: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Where the login is kept [default: ~/.config/meshwork/login.json]
    #[arg(long, env = "MESHWORK_LOGIN", value_name = "FILE")]
    pub(crate) login: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LoginTokenCommand {
    /// Print a login token: the control plane's address, an expiry, a name, the root's hash and a secret
    #[command(after_help = LOGIN_TOKEN_HELP)]
    Create(LoginTokenCreateArgs),
    /// List the logins that hold: names, roles, ends, who made them
    List(LoginTokenListArgs),
    /// Revoke a login; its token is worth nothing from the next request on
    Delete(LoginTokenDeleteArgs),
}

const LOGIN_TOKEN_HELP: &str = "\
view reads what holds no secret. edit writes resources, too. admin may do everything: tokens, the authority, backups, drains. \
With --namespace a login sees and writes what is in that namespace alone.

Examples:
  meshwork login-token create --role admin --name alice > alice.token
  meshwork login-token create --role edit --namespace shop --name shop-ci --ttl 90d > ci.token

Whoever holds the token may do what its role may: hand it on like a password. It is shown once, and not kept.";

#[derive(Clone, Debug, Args)]
pub(crate) struct LoginTokenCreateArgs {
    /// What its holder may do
    #[arg(long, env = "MESHWORK_ROLE", value_name = "ROLE")]
    pub(crate) role: Role,
    /// Whose it is: lists and the audit log name it [default: its role and some digits]
    #[arg(long, env = "MESHWORK_NAME", value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// The only namespace that it is for [default: the whole mesh]
    #[arg(short, long, env = "MESHWORK_NAMESPACE", value_name = "NS")]
    pub(crate) namespace: Option<Name>,
    /// How long it is good for: 90s, 10m, 1h, 7d; at most 90 days
    #[arg(long, env = "MESHWORK_TTL", value_name = "SPAN", default_value = "7d")]
    pub(crate) ttl: Span,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    View,
    Edit,
    Admin,
}

impl Role {
    /// As the API has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Edit => "edit",
            Self::Admin => "admin",
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LoginTokenListArgs {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LoginTokenDeleteArgs {
    /// The login's name, as `meshwork login-token list` has it
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) reach: Reach,
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
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(super) const BACKUP_HELP: &str = "\
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
    pub(crate) reach: Reach,
}

pub(super) const RESTORE_HELP: &str = "\
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
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
pub(super) const APPLY_HELP: &str = "\
Examples:
  meshwork apply -f shop.yaml
  meshwork apply -f resources/          every .yaml, .yml and .json below it, in order of name
  meshwork get services -o yaml | meshwork apply -f - --dry-run
  kubectl get httproute -o yaml | meshwork apply -f -

Of what Kubernetes printed, what Kubernetes itself wrote into metadata and status is left out; a field that the mesh does \
not carry out is refused by its name.";

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
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(super) const GET_HELP: &str = "\
KIND is service, workload, httproute, trafficpolicy or meshconfig; the plural works too, and so do svc, wl, route, tp and mc.

Examples:
  meshwork get services
  meshwork get workload cart-7f3a1b -o yaml
  meshwork get httproutes --all-namespaces -o json
  meshwork get workloads --watch";

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
    /// Go on, and show what changes as it happens: a row each, in JSON a line, in YAML a document
    #[arg(short = 'w', long, env = "MESHWORK_WATCH")]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
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
    pub(crate) reach: Reach,
}

pub(super) const DRAIN_HELP: &str = "\
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
    pub(crate) reach: Reach,
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
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(super) const CHECK_HELP: &str = "\
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
    pub(crate) reach: Reach,
    /// Admin address of a sidecar [default: those of every sidecar that `meshwork run` started here as this user]
    #[arg(long, env = "MESHWORK_ADMIN", value_name = "IP:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(super) const ACCEPT_STORE_HELP: &str = "\
A control plane that came back on an older copy of its store does not have what sidecars have seen since: they keep \
their config and say so, and `meshwork status` lists them. Either stop it and bring back the newer store, or accept \
the loss with this command; sidecars then take what the store has, within seconds.

Example: meshwork accept-store";

#[derive(Clone, Debug, Args)]
pub(crate) struct AcceptStoreArgs {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
