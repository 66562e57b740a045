//! What the control plane answers, as text for people. Pure: JSON in, lines out. For scripts, `output.rs` prints the JSON
//! itself; there the fields are documented by the API.

mod status;

pub(crate) use status::{minute, status};

use serde_json::Value;

use crate::output::{Table, cell, counted};

/// `service default/cart created`, a line each; then what is amiss, which refused nothing.
pub(crate) fn applied(answer: &Value) -> String {
    let dry_run = if answer["dryRun"] == true { " (dry run)" } else { "" };
    let outcome = |resource: &Value| format!("{} {}{dry_run}", named(resource), cell(&resource["outcome"]));
    let warning = |warning: &Value| {
        let [path, message, cure] = ["path", "message", "cure"].map(|field| cell(&warning[field]));
        format!("warning: {}: {path}: {message}; {cure}", named(warning))
    };
    let outcomes = rows(&answer["applied"]).iter().map(outcome);
    outcomes.chain(rows(&answer["warnings"]).iter().map(warning)).collect::<Vec<_>>().join("\n")
}

/// `service default/cart`; `meshconfig default`, as a kind of the whole mesh has no namespace.
fn named(resource: &Value) -> String {
    let kind = cell(&resource["kind"]).to_ascii_lowercase();
    let name = cell(&resource["name"]);
    match resource["namespace"].as_str() {
        Some(namespace) if !namespace.is_empty() => format!("{kind} {namespace}/{name}"),
        Some(_) | None => format!("{kind} {name}"),
    }
}

/// What signs and what is trusted, and how far the replacement of a root is.
pub(crate) fn authority(answer: &Value) -> String {
    let [domain, ttl, control, leaf] =
        ["trustDomain", "leafTtl", "controlCertificateExpires", "lastLeafEnds"]
            .map(|field| cell(&answer[field]));
    let mut table = Table::new(&["ROOT", "STATE", "ENDS", "ISSUING CERTIFICATE ENDS"]);
    for root in rows(&answer["roots"]) {
        let [hash, state, ends, issuing] =
            ["hash", "state", "expires", "issuingExpires"].map(|field| cell(&root[field]));
        table.row(vec![hash.chars().take(16).collect(), state, ends, issuing]);
    }
    let going = &answer["rotation"];
    let rotation = match going["stage"].as_str() {
        Some("spreading") => format!(
            "the root is being replaced: the new one is told to everybody; {} connected sidecars have not confirmed it yet",
            cell(&going["unconfirmed"])
        ),
        Some("renewing") => format!(
            "the root is being replaced: the new one signs, and the old one is trusted until {}",
            cell(&going["retires"])
        ),
        Some(_) | None => "no root is being replaced".to_owned(),
    };
    format!(
        "trust domain {domain}: certificates live {ttl}, the last one that is out ends {leaf}; the control plane's own ends \
         {control}\n\n{table}\n{rotation}\n"
    )
}

/// A column: its heading, and where in a resource the cell is (JSON pointer; `*` for each of a list).
pub(crate) type Column = (&'static str, &'static str);

/// A list of resources, or one.
pub(crate) fn resources(plural: &str, columns: &[Column], answer: &Value) -> String {
    let one = std::slice::from_ref(answer);
    let items = answer["items"].as_array().map_or(one, Vec::as_slice);
    let mut table = Table::new(&head(columns));
    items.iter().for_each(|item| table.row(row(columns, item)));
    if table.is_empty() { format!("no {plural} found") } else { table.to_string() }
}

pub(crate) fn head(columns: &[Column]) -> Vec<String> {
    let headings = columns.iter().map(|(heading, _)| *heading);
    ["NAMESPACE", "NAME"].into_iter().chain(headings).map(str::to_owned).collect()
}

/// One resource.
pub(crate) fn row(columns: &[Column], item: &Value) -> Vec<String> {
    let name = ["namespace", "name"].map(|field| cell(&item["metadata"][field]));
    name.into_iter().chain(columns.iter().map(|(_, path)| cell(&at(item, path)))).collect()
}

/// Operators from other machines.
pub(crate) fn logins(answer: &Value) -> String {
    let fields = ["name", "role", "namespace", "expires", "madeBy"];
    let mut table = Table::new(&["NAME", "ROLE", "NAMESPACE", "EXPIRES", "MADE BY"]);
    for login in rows(&answer["items"]) {
        table.row(fields.map(|field| cell(&login[field])).to_vec());
    }
    if table.is_empty() { "no logins\n".to_owned() } else { table.to_string() }
}

/// What `accept-store` did.
pub(crate) fn accepted_store(answer: &Value) -> String {
    let lost = rows(&answer["lost"]);
    if lost.is_empty() {
        return "no sidecar has seen what the store does not have: there is nothing to accept".to_owned();
    }
    let sidecars: usize = lost.iter().map(|lost| rows(&lost["sidecars"]).len()).sum();
    format!(
        "accepted the store at revision {}: {} what it has within seconds",
        cell(&answer["revision"]),
        counted(sidecars, "sidecar that has seen more takes", "sidecars that have seen more take")
    )
}

fn rows(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
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
pub(crate) fn outline(answer: &Value) -> String {
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
    let head: Vec<String> = columns.iter().map(|column| heading(column)).collect();
    let mut table = Table::new(&head);
    for row in rows {
        table.row(columns.iter().map(|column| cell(&row[*column])).collect());
    }
    table
}

/// `appPort` -> `APP PORT`.
fn heading(field: &str) -> String {
    let mut heading = String::new();
    for character in field.chars() {
        if character.is_ascii_uppercase() {
            heading.push(' ');
        }
        heading.push(character.to_ascii_uppercase());
    }
    heading
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [Column; 2] =
        [("PARENTS", "/spec/parentRefs/*/name"), ("BACKENDS", "/spec/rules/*/backendRefs/*/name")];

    #[test]
    fn a_list_of_resources_is_a_table() {
        let answer = json!({"items": [
            {"metadata": {"namespace": "default", "name": "split"},
             "spec": {"parentRefs": [{"name": "cart"}],
                      "rules": [{"backendRefs": [{"name": "cart-v1"}, {"name": "cart-v2"}]}]}},
        ]});
        let expect =
            "NAMESPACE   NAME    PARENTS   BACKENDS\ndefault     split   cart      cart-v1,cart-v2\n";
        assert_eq!(resources("httproutes", &COLUMNS, &answer), expect);
        assert_eq!(resources("httproutes", &COLUMNS, &json!({"items": []})), "no httproutes found");
    }

    #[test]
    fn one_resource_is_a_table_of_one() {
        let answer =
            json!({"metadata": {"namespace": "default", "name": "cart"}, "spec": {"ports": [{"port": 80}]}});
        let columns = [("PORTS", "/spec/ports/*/port"), ("SELECTOR", "/spec/selector")];
        let expect = "NAMESPACE   NAME   PORTS   SELECTOR\ndefault     cart   80      -\n";
        assert_eq!(resources("services", &columns, &answer), expect);
    }

    #[test]
    fn what_was_applied_is_told_line_by_line() {
        let applied_cart =
            json!({"kind": "Service", "namespace": "shop", "name": "cart", "outcome": "created"});
        let answer = json!({"revision": 3, "dryRun": true, "applied": [applied_cart]});
        assert_eq!(applied(&answer), "service shop/cart created (dry run)");
    }

    #[test]
    fn what_is_amiss_follows_what_was_applied() {
        let settings =
            json!({"kind": "MeshConfig", "namespace": "", "name": "default", "outcome": "unchanged"});
        let warning = json!({"kind": "Service", "namespace": "shop", "name": "cart", "path": "spec.selector",
                             "message": "nobody is selected", "cure": "start one"});
        let answer = json!({"applied": [settings], "warnings": [warning]});
        let expect = "meshconfig default unchanged\n\
                      warning: service shop/cart: spec.selector: nobody is selected; start one";
        assert_eq!(applied(&answer), expect);
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

    #[test]
    fn an_authority_is_told_with_the_step_that_it_is_in() {
        let root = |hash: &str, state: &str| {
            json!({"hash": hash.repeat(64), "state": state, "expires": "2036-11-20T00:00:00Z",
                   "issuingExpires": "2027-11-23T00:00:00Z"})
        };
        let answer = |rotation: Value| {
            json!({"trustDomain": "mesh.local", "leafTtl": "24h", "lastLeafEnds": "2026-11-24T00:00:00Z",
                   "controlCertificateExpires": "2026-11-23T18:00:00Z", "rotation": rotation,
                   "roots": [root("a", "trusted"), root("b", "signs")]})
        };
        let renewing = authority(&answer(json!({"stage": "renewing", "retires": "2026-11-24T00:05:00Z"})));
        let expect = "\
trust domain mesh.local: certificates live 24h, the last one that is out ends 2026-11-24T00:00:00Z; the control plane's own ends 2026-11-23T18:00:00Z

ROOT               STATE     ENDS                   ISSUING CERTIFICATE ENDS
aaaaaaaaaaaaaaaa   trusted   2036-11-20T00:00:00Z   2027-11-23T00:00:00Z
bbbbbbbbbbbbbbbb   signs     2036-11-20T00:00:00Z   2027-11-23T00:00:00Z

the root is being replaced: the new one signs, and the old one is trusted until 2026-11-24T00:05:00Z
";
        assert_eq!(renewing, expect);
        let spreading = authority(&answer(json!({"stage": "spreading", "unconfirmed": 3})));
        assert!(spreading.contains("3 connected sidecars have not confirmed"), "{spreading}");
        assert!(authority(&answer(Value::Null)).ends_with("no root is being replaced\n"));
    }
}
