//! What operators do: apply, get, delete, describe, status, token.
//!
//! Each command is one question to the control plane (`client.rs`) and one way to print its answer (`output.rs`). What
//! may be applied, and what a resource means, only the control plane judges.

use std::time::Duration;

use serde_json::{Value, json};

use crate::BoxError;
use crate::cli::{ApplyArgs, ControlState, DescribeArgs, GetArgs, NamedArgs, StatusArgs, TokenCreateArgs};
use crate::client::{Client, ClientError, encode};
use crate::documents::{self, Documents};
use crate::output::{self, Table, cell};
use crate::state_dir;

#[derive(Debug, thiserror::Error)]
#[error("no resources of kind {0:?}: the kinds are service, workload, httproute and meshconfig")]
struct UnknownKind(String);

/// A kind that operators may name, in any of its spellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    Workload,
    HttpRoute,
    MeshConfig,
}

impl Kind {
    fn parse(text: &str) -> Result<Self, UnknownKind> {
        Ok(match &*text.to_ascii_lowercase() {
            "service" | "services" | "svc" => Self::Service,
            "workload" | "workloads" => Self::Workload,
            "httproute" | "httproutes" | "route" | "routes" => Self::HttpRoute,
            "meshconfig" | "meshconfigs" => Self::MeshConfig,
            _ => return Err(UnknownKind(text.to_owned())),
        })
    }

    /// Its name in the API's paths.
    fn path(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Workload => "workloads",
            Self::HttpRoute => "httproutes",
            Self::MeshConfig => "meshconfigs",
        }
    }

    /// Columns after NAME: heading, and where in the resource the cell is (JSON pointer; `*` for each of a list).
    fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Service => &[("PORTS", "/spec/ports/*/port"), ("SELECTOR", "/spec/selector")],
            Self::Workload => &[
                ("SERVICE", "/metadata/labels/app"),
                ("HEALTH", "/status/health"),
                ("ADDRESSES", "/spec/ports/*/address"),
                ("LABELS", "/metadata/labels"),
            ],
            Self::HttpRoute => {
                &[("PARENTS", "/spec/parentRefs/*/name"), ("BACKENDS", "/spec/rules/*/backendRefs/*/name")]
            }
            Self::MeshConfig => &[("ACCESS LOG", "/spec/accessLog"), ("LEAF TTL", "/spec/leafTtl")],
        }
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
    let answer = client(&args.state)?.post_json("/api/v1/tokens", &asked).await?;
    Ok(output::print(args.output.output, &answer, |answer| cell(&answer["token"]))?)
}

pub(crate) async fn apply(args: &ApplyArgs) -> Result<(), BoxError> {
    let documents = documents::read(&args.filename)?;
    let path = format!(
        "/api/v1/apply?namespace={}&file={}&dryRun={}",
        encode(args.namespace.namespace.as_str()),
        encode(documents.name()),
        args.dry_run
    );
    let answer = client(&args.state)?.post_yaml(&path, documents.text().to_owned()).await;
    let answer = answer.map_err(|error| in_its_file(error, &documents))?;
    Ok(output::print(args.output.output, &answer, applied)?)
}

pub(crate) async fn get(args: &GetArgs) -> Result<(), BoxError> {
    let kind = Kind::parse(&args.kind)?;
    let client = client(&args.state)?;
    let namespace = args.namespace.namespace.as_str();
    let answer = match &args.name {
        Some(name) => client.get(&format!("/api/v1/namespaces/{namespace}/{}/{name}", kind.path())).await?,
        None if args.all_namespaces => client.get(&format!("/api/v1/{}", kind.path())).await?,
        None => client.get(&format!("/api/v1/{}?namespace={namespace}", kind.path())).await?,
    };
    Ok(output::print(args.output.output, &answer, |answer| resources(kind, answer))?)
}

pub(crate) async fn delete(args: &NamedArgs) -> Result<(), BoxError> {
    let kind = Kind::parse(&args.kind)?;
    let (namespace, name) = (args.namespace.namespace.as_str(), &args.name);
    client(&args.state)?.delete(&format!("/api/v1/namespaces/{namespace}/{}/{name}", kind.path())).await?;
    Ok(output::print_text(&format!("{} {namespace}/{name} deleted", args.kind))?)
}

pub(crate) async fn describe(args: &DescribeArgs) -> Result<(), BoxError> {
    let kind = Kind::parse(&args.named.kind)?;
    let (namespace, name) = (args.named.namespace.namespace.as_str(), &args.named.name);
    let path = format!("/api/v1/describe/{}/{namespace}/{name}", kind.path());
    let answer = client(&args.named.state)?.get(&path).await?;
    Ok(output::print(args.output.output, &answer, outline)?)
}

pub(crate) async fn status(args: &StatusArgs) -> Result<(), BoxError> {
    let answer = client(&args.state)?.get("/api/v1/status").await?;
    Ok(output::print(args.output.output, &answer, outline)?)
}

fn client(state: &ControlState) -> Result<Client, BoxError> {
    Ok(Client::new(&state_dir::control(state.state_dir.as_deref())?))
}

/// The control plane saw one text; the operator has files.
fn in_its_file(error: ClientError, documents: &Documents) -> ClientError {
    match error {
        ClientError::Refused(refusal) => ClientError::Refused(Box::new(documents.locate(*refusal))),
        other => other,
    }
}

/// `service default/cart created`, a line each.
fn applied(answer: &Value) -> String {
    let dry_run = if answer["dryRun"] == true { " (dry run)" } else { "" };
    let line = |resource: &Value| {
        let kind = cell(&resource["kind"]).to_ascii_lowercase();
        let [namespace, name, outcome] = ["namespace", "name", "outcome"].map(|field| cell(&resource[field]));
        format!("{kind} {namespace}/{name} {outcome}{dry_run}")
    };
    let resources = answer["applied"].as_array().map(Vec::as_slice).unwrap_or_default();
    resources.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn resources(kind: Kind, answer: &Value) -> String {
    let one = std::slice::from_ref(answer);
    let items = answer["items"].as_array().map_or(one, Vec::as_slice);
    let columns = kind.columns();
    let mut head = vec!["NAMESPACE", "NAME"];
    head.extend(columns.iter().map(|(heading, _)| *heading));
    let mut table = Table::new(&head);
    for item in items {
        let mut row = vec![cell(&item["metadata"]["namespace"]), cell(&item["metadata"]["name"])];
        row.extend(columns.iter().map(|(_, path)| cell(&at(item, path))));
        table.row(row);
    }
    if table.is_empty() { format!("no {} found", kind.path()) } else { table.to_string() }
}

/// The value at a path of `/name` and `/*` steps; a list of values behind a star.
fn at(value: &Value, path: &str) -> Value {
    let Some(path) = path.strip_prefix('/') else { return value.clone() };
    let (step, rest) = match path.find('/') {
        Some(end) => path.split_at(end),
        None => (path, ""),
    };
    match (step, value) {
        ("*", Value::Array(values)) => {
            let found = values.iter().map(|value| at(value, rest));
            let flat = found.flat_map(|found| match found {
                Value::Array(inner) => inner,
                other => vec![other],
            });
            flat.collect()
        }
        _ => at(&value[step], rest),
    }
}

/// Any answer as indented `key: value` lines; lists of like objects as tables.
fn outline(answer: &Value) -> String {
    let mut text = String::new();
    write_outline(&mut text, answer, 0);
    text
}

fn write_outline(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let Value::Object(fields) = value else {
        text.push_str(&format!("{indent}{}\n", cell(value)));
        return;
    };
    for (key, value) in fields {
        match value {
            Value::Array(rows) if rows.iter().any(Value::is_object) => {
                text.push_str(&format!("{indent}{key}:\n"));
                for line in as_table(rows).to_string().lines() {
                    text.push_str(&format!("{indent}  {line}\n"));
                }
            }
            Value::Object(inner) if inner.values().any(|v| v.is_object() || v.is_array()) => {
                text.push_str(&format!("{indent}{key}:\n"));
                write_outline(text, value, depth + 1);
            }
            _ => text.push_str(&format!("{indent}{key}: {}\n", cell(value))),
        }
    }
}

fn as_table(rows: &[Value]) -> Table {
    let mut columns: Vec<&str> = Vec::new();
    for key in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
        if !columns.contains(&&**key) {
            columns.push(key);
        }
    }
    let head: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    let mut table = Table::new(&head.iter().map(|heading| &**heading).collect::<Vec<_>>());
    for row in rows {
        table.row(columns.iter().map(|column| cell(&row[*column])).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_operators_write_them() {
        for text in ["service", "Services", "svc"] {
            assert_eq!(Kind::parse(text).unwrap(), Kind::Service);
        }
        assert_eq!(Kind::parse("HTTPRoute").unwrap(), Kind::HttpRoute);
        let error = Kind::parse("pod").unwrap_err().to_string();
        assert_eq!(
            error,
            "no resources of kind \"pod\": the kinds are service, workload, httproute and meshconfig"
        );
    }

    #[test]
    fn a_list_of_resources_is_a_table() {
        let answer = json!({"items": [
            {"metadata": {"namespace": "default", "name": "split"},
             "spec": {"parentRefs": [{"name": "cart"}],
                      "rules": [{"backendRefs": [{"name": "cart-v1"}, {"name": "cart-v2"}]}]}},
        ]});
        let expect =
            "NAMESPACE   NAME    PARENTS   BACKENDS\ndefault     split   cart      cart-v1,cart-v2\n";
        assert_eq!(resources(Kind::HttpRoute, &answer), expect);
        assert_eq!(resources(Kind::HttpRoute, &json!({"items": []})), "no httproutes found");
    }

    #[test]
    fn one_resource_is_a_table_of_one() {
        let answer =
            json!({"metadata": {"namespace": "default", "name": "cart"}, "spec": {"ports": [{"port": 80}]}});
        let expect = "NAMESPACE   NAME   PORTS   SELECTOR\ndefault     cart   80      -\n";
        assert_eq!(resources(Kind::Service, &answer), expect);
    }

    #[test]
    fn what_was_applied_is_told_line_by_line() {
        let applied_cart =
            json!({"kind": "Service", "namespace": "shop", "name": "cart", "outcome": "created"});
        let answer = json!({"revision": 3, "dryRun": true, "applied": [applied_cart]});
        assert_eq!(applied(&answer), "service shop/cart created (dry run)");
    }

    #[test]
    fn an_answer_is_outlined() {
        let answer = json!({
            "meshId": "m1",
            "store": {"revision": 3, "kinds": {"service": 2}},
            "sidecars": [{"workload": "cart-1", "ready": true}, {"workload": "web-1", "nacks": 1}],
        });
        let expect = "meshId: m1\nsidecars:\n  READY   WORKLOAD   NACKS\n  true    cart-1     -\n  -       web-1      1\n\
                      store:\n  kinds: service=2\n  revision: 3\n";
        assert_eq!(outline(&answer), expect);
    }
}
