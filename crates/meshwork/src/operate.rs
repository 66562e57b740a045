//! What operators do: apply, get, delete, describe, status, token.
//!
//! Each command is one question to the control plane (`client.rs`) and one way to print its answer (`output.rs`). What
//! may be applied, and what a resource means, only the control plane judges.

use std::time::Duration;

use meshwork_core::manifest::Kind;
use serde_json::json;

use crate::BoxError;
use crate::cli::{
    AcceptStoreArgs, ApplyArgs, CaArgs, DescribeArgs, DrainArgs, GetArgs, LoginTokenCreateArgs,
    LoginTokenDeleteArgs, LoginTokenListArgs, NamedArgs, StatusArgs, TokenCreateArgs,
};
use crate::client::{ClientError, encode};
use crate::documents::{self, Documents};
use crate::login::client;
use crate::output::{self, cell};
use crate::settings::Name;
use crate::show;
use crate::watch::watch;

#[derive(Debug, thiserror::Error)]
#[error(
    "no resources of kind {0:?}: the kinds are service, workload, httproute, trafficpolicy and meshconfig"
)]
struct UnknownKind(String);

/// A kind that operators name, in any of the spellings that the API knows.
fn kind(word: &str) -> Result<Kind, UnknownKind> {
    Kind::from_word(word).ok_or_else(|| UnknownKind(word.to_owned()))
}

/// Columns after NAMESPACE and NAME.
fn columns(kind: Kind) -> &'static [show::Column] {
    match kind {
        Kind::Service => &[
            ("PORTS", "/spec/ports/*/port"),
            ("SELECTOR", "/spec/selector"),
            ("VIRTUAL ADDRESSES", "/status/virtualAddresses"),
        ],
        Kind::Workload => &[
            ("SERVICE", "/metadata/labels/app"),
            ("HEALTH", "/status/health"),
            ("ADDRESSES", "/spec/ports/*/address"),
            ("LABELS", "/metadata/labels"),
        ],
        Kind::HttpRoute => {
            &[("PARENTS", "/spec/parentRefs/*/name"), ("BACKENDS", "/spec/rules/*/backendRefs/*/name")]
        }
        Kind::TrafficPolicy => {
            &[("TARGETS", "/spec/targetRefs/*/name"), ("STANDING", "/status/ancestors/*/conditions/0/reason")]
        }
        Kind::MeshConfig => &[
            ("ACCESS LOG", "/spec/accessLog"),
            ("LEAF TTL", "/spec/leafTtl"),
            ("UNKNOWN", "/spec/outbound/unknown"),
            ("INBOUND", "/spec/inbound/mode"),
        ],
    }
}

pub(crate) async fn create_token(args: &TokenCreateArgs) -> Result<(), BoxError> {
    let ttl: Duration = args.ttl.duration();
    let asked = json!({
        "service": args.service.as_str(),
        "namespace": args.namespace.namespace.as_str(),
        "ttlSeconds": ttl.as_secs(),
        "once": args.once,
    });
    let answer = client(&args.reach)?.post_json("/api/v1/tokens", &asked).await?;
    Ok(output::print(args.output.output, &answer, |answer| cell(&answer["token"]))?)
}

pub(crate) async fn create_login(args: &LoginTokenCreateArgs) -> Result<(), BoxError> {
    let asked = json!({
        "role": args.role.word(),
        "name": args.name.as_ref().map(Name::as_str),
        "namespace": args.namespace.as_ref().map(Name::as_str),
        "ttlSeconds": args.ttl.duration().as_secs(),
    });
    let answer = client(&args.reach)?.post_json("/api/v1/login-tokens", &asked).await?;
    Ok(output::print(args.output.output, &answer, |answer| cell(&answer["token"]))?)
}

pub(crate) async fn logins(args: &LoginTokenListArgs) -> Result<(), BoxError> {
    let answer = client(&args.reach)?.get("/api/v1/login-tokens").await?;
    Ok(output::print(args.output.output, &answer, show::logins)?)
}

pub(crate) async fn delete_login(args: &LoginTokenDeleteArgs) -> Result<(), BoxError> {
    client(&args.reach)?.delete(&format!("/api/v1/login-tokens/{}", args.name)).await?;
    Ok(output::print_text(&format!("login {} deleted: its token is worth nothing from now on", args.name))?)
}

pub(crate) async fn rotate_root(args: &CaArgs) -> Result<(), BoxError> {
    let answer = client(&args.reach)?.post_json("/api/v1/ca/rotate", &json!({})).await?;
    Ok(output::print(args.output.output, &answer, show::authority)?)
}

pub(crate) async fn authority(args: &CaArgs) -> Result<(), BoxError> {
    let answer = client(&args.reach)?.get("/api/v1/ca").await?;
    Ok(output::print(args.output.output, &answer, show::authority)?)
}

pub(crate) async fn apply(args: &ApplyArgs) -> Result<(), BoxError> {
    let documents = documents::read(&args.filename)?;
    let path = format!(
        "/api/v1/apply?namespace={}&file={}&dryRun={}",
        encode(args.namespace.namespace.as_str()),
        encode(documents.name()),
        args.dry_run
    );
    let answer = client(&args.reach)?.post_yaml(&path, documents.text().to_owned()).await;
    let answer = answer.map_err(|error| in_its_file(error, &documents))?;
    Ok(output::print(args.output.output, &answer, show::applied)?)
}

pub(crate) async fn get(args: &GetArgs) -> Result<(), BoxError> {
    let kind = kind(&args.kind)?;
    let client = client(&args.reach)?;
    let namespace = args.namespace.namespace.as_str();
    if args.watch {
        let of = if args.all_namespaces { String::new() } else { format!("&namespace={namespace}") };
        let path = format!("/api/v1/{}?watch=1{of}", kind.plural());
        let name = args.name.as_ref().map(Name::as_str);
        return watch(&client, &path, name, columns(kind), args.output.output).await;
    }
    let answer = match &args.name {
        Some(name) => client.get(&format!("/api/v1/namespaces/{namespace}/{}/{name}", kind.plural())).await?,
        None if args.all_namespaces => client.get(&format!("/api/v1/{}", kind.plural())).await?,
        None => client.get(&format!("/api/v1/{}?namespace={namespace}", kind.plural())).await?,
    };
    Ok(output::print(args.output.output, &answer, |answer| {
        show::resources(kind.plural(), columns(kind), answer)
    })?)
}

pub(crate) async fn delete(args: &NamedArgs) -> Result<(), BoxError> {
    let kind = kind(&args.kind)?;
    let (namespace, name) = (args.namespace.namespace.as_str(), &args.name);
    client(&args.reach)?.delete(&format!("/api/v1/namespaces/{namespace}/{}/{name}", kind.plural())).await?;
    Ok(output::print_text(&format!("{} {namespace}/{name} deleted", args.kind))?)
}

pub(crate) async fn drain(args: &DrainArgs) -> Result<(), BoxError> {
    let (namespace, name) = (args.namespace.namespace.as_str(), &args.workload);
    let path = format!("/api/v1/namespaces/{namespace}/workloads/{name}/drain");
    let answer = client(&args.reach)?.post_json(&path, &json!({})).await?;
    Ok(output::print(args.output.output, &answer, |answer| {
        let how = if answer["already"] == true { "drains already" } else { "was told to drain" };
        format!("{} {how}", cell(&answer["workload"]))
    })?)
}

pub(crate) async fn describe(args: &DescribeArgs) -> Result<(), BoxError> {
    let kind = kind(&args.named.kind)?;
    let (namespace, name) = (args.named.namespace.namespace.as_str(), &args.named.name);
    let path = format!("/api/v1/describe/{}/{namespace}/{name}", kind.plural());
    let answer = client(&args.named.reach)?.get(&path).await?;
    Ok(output::print(args.output.output, &answer, show::outline)?)
}

pub(crate) async fn status(args: &StatusArgs) -> Result<(), BoxError> {
    let answer = client(&args.reach)?.get("/api/v1/status").await?;
    Ok(output::print(args.output.output, &answer, show::status)?)
}

pub(crate) async fn accept_store(args: &AcceptStoreArgs) -> Result<(), BoxError> {
    let answer = client(&args.reach)?.post_json("/api/v1/store/accept", &json!({})).await?;
    Ok(output::print(args.output.output, &answer, show::accepted_store)?)
}

/// The control plane saw one text; the operator has files.
fn in_its_file(error: ClientError, documents: &Documents) -> ClientError {
    match error {
        ClientError::Refused(refusal) => ClientError::Refused(Box::new(documents.locate(*refusal))),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_operators_write_them() {
        for text in ["service", "Services", "svc"] {
            assert_eq!(kind(text).unwrap(), Kind::Service);
        }
        assert_eq!(kind("HTTPRoute").unwrap(), Kind::HttpRoute);
        assert_eq!(kind("routes").unwrap(), Kind::HttpRoute);
        assert_eq!(kind("TrafficPolicy").unwrap(), Kind::TrafficPolicy);
        assert_eq!(kind("wl").unwrap(), Kind::Workload);
        assert_eq!(kind("mc").unwrap(), Kind::MeshConfig);
        let error = kind("pod").unwrap_err().to_string();
        assert_eq!(
            error,
            "no resources of kind \"pod\": the kinds are service, workload, httproute, trafficpolicy and meshconfig"
        );
    }
}
