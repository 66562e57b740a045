//! `meshwork identity` and `meshwork bootstrap`: what a program without a sidecar needs to be in the mesh.
//!
//! The certificate's keeping is `meshwork_proxy`'s; here are the commands, and the file that gRPC is started with. Envoy's
//! is `envoy.rs`'s.

mod envoy;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use meshwork_identity::{Enrolled, PEM_BUNDLE, PEM_CERTIFICATE, PEM_KEY};
use meshwork_proxy::side::program;
use meshwork_xds::convert::CERTIFICATE_PROVIDER;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{BootstrapArgs, EnvoyArgs, IdentityArgs};
use crate::{BoxError, token};

/// How often gRPC looks at the files. A renewed certificate has half of its life left.
const REFRESH: &str = "10s";

pub(crate) async fn write(args: &IdentityArgs) -> Result<(), BoxError> {
    std::fs::create_dir_all(&args.out)
        .map_err(|error| format!("cannot make the directory {}: {error}; check --out", args.out.display()))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = token::read(args.token.as_deref(), args.token_file.as_deref())?;
    let enrolled = program::obtain(&args.out, token.as_deref(), args.wait.duration()).await?;
    envoy::write_sds(&std::path::absolute(&args.out)?)?;
    let id = enrolled.identity.spiffe_id();
    writeln!(std::io::stdout(), "{id} in {}", args.out.display())?;
    if !args.watch {
        return Ok(());
    }
    tokio::select! {
        () = program::keep(&args.out, enrolled) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

pub(crate) fn bootstrap_grpc(args: &BootstrapArgs) -> Result<(), BoxError> {
    let (enrolled, directory) = identity_in(args)?;
    print(&grpc(&enrolled, &directory))
}

pub(crate) fn bootstrap_envoy(args: &EnvoyArgs) -> Result<(), BoxError> {
    let (enrolled, directory) = identity_in(&args.bootstrap)?;
    print(&envoy::bootstrap(args, &enrolled, &directory)?)
}

fn print(document: &Value) -> Result<(), BoxError> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(document)?)?;
    Ok(())
}

fn identity_in(args: &BootstrapArgs) -> Result<(Enrolled, PathBuf), BoxError> {
    let directory = std::path::absolute(&args.identity)?;
    let Some(enrolled) = Enrolled::load(&directory)? else {
        let missing = directory.display();
        return Err(format!(
            "{missing} holds no identity: write one with `meshwork identity --token T --out {missing}`"
        )
        .into());
    };
    if !enrolled.identity.is_valid(SystemTime::now()) {
        tracing::warn!("the certificate has expired: keep it with `meshwork identity --watch`");
    }
    Ok((enrolled, directory))
}

/// gRPC's own format (gRFCs A27, A29, A65).
fn grpc(enrolled: &Enrolled, directory: &Path) -> Value {
    let files = files(directory);
    let membership = &enrolled.membership;
    json!({
        "xds_servers": [{
            // C core wants no scheme here.
            "server_uri": membership.control,
            "channel_creds": [{"type": "tls", "config": files}],
            "server_features": ["xds_v3"],
        }],
        "node": {
            "id": format!("{}/{}", membership.namespace, membership.service),
            // Node's library can't do without.
            "locality": {},
        },
        "certificate_providers": {
            CERTIFICATE_PROVIDER: {"plugin_name": "file_watcher", "config": files},
        },
    })
}

fn files(directory: &Path) -> Value {
    let path = |name: &str| -> PathBuf { directory.join(name) };
    json!({
        "certificate_file": path(PEM_CERTIFICATE),
        "private_key_file": path(PEM_KEY),
        "ca_certificate_file": path(PEM_BUNDLE),
        "refresh_interval": REFRESH,
    })
}
