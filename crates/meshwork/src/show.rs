//! What the control plane answers, as text for people. Pure: JSON in, lines out. For scripts, `output.rs` prints the JSON
//! itself; there the fields are documented by the API.

use serde_json::Value;

use crate::output::{Table, cell};

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
    let mut head = vec!["NAMESPACE", "NAME"];
    head.extend(columns.iter().map(|(heading, _)| *heading));
    let mut table = Table::new(&head);
    for item in items {
        let mut row = vec![cell(&item["metadata"]["namespace"]), cell(&item["metadata"]["name"])];
        row.extend(columns.iter().map(|(_, path)| cell(&at(item, path))));
        table.row(row);
    }
    if table.is_empty() { format!("no {plural} found") } else { table.to_string() }
}

/// The mesh at a glance: itself, its services, its sidecars.
pub(crate) fn logins(answer: &Value) -> String {
    let fields = ["name", "role", "namespace", "expires", "madeBy"];
    let mut table = Table::new(&["NAME", "ROLE", "NAMESPACE", "EXPIRES", "MADE BY"]);
    for login in rows(&answer["items"]) {
        table.row(fields.map(|field| cell(&login[field])).to_vec());
    }
    if table.is_empty() { "no logins\n".to_owned() } else { table.to_string() }
}

/// Nothing, where nobody was refused.
fn logins_refused(logins: &Value) -> String {
    let [refused, limited] = ["refused", "limited"].map(|field| logins[field].as_u64().unwrap_or_default());
    if refused == 0 {
        return String::new();
    }
    format!(
        "{refused} login tokens were refused since its start, and {limited} requests not looked at after too many of them; its log says where they came from\n"
    )
}

pub(crate) fn status(answer: &Value) -> String {
    let [mesh, version, address, revision] =
        ["meshId", "version", "address", "revision"].map(|field| cell(&answer[field]));
    let mut text = format!("mesh {mesh}, control plane {version} at {address}, store revision {revision}\n");
    text.push_str(&logins_refused(&answer["logins"]));
    let services = ["namespace", "name", "ports", "healthy", "unhealthy", "draining", "endpoints"];
    let mut table = Table::new(&services.map(heading));
    for service in rows(&answer["services"]) {
        table.row(services.map(|field| cell(&service[field])).to_vec());
    }
    text.push_str(&section("services", &table));
    let mut table = Table::new(&[
        "NAMESPACE",
        "SIDECAR",
        "SERVICE",
        "HEALTH",
        "SESSION",
        "VERSION",
        "HTTP",
        "CONFIG",
        "CERTIFICATE ENDS",
    ]);
    let [mut stops, mut nacks, mut lacks, mut seen, mut limits] = [const { String::new() }; 5];
    for proxy in rows(&answer["proxies"]) {
        let [namespace, workload, service, health, end] =
            ["namespace", "workload", "service", "health", "certificateExpires"]
                .map(|field| cell(&proxy[field]));
        let session = if proxy["connected"] == true { "connected" } else { "gone" }.to_owned();
        for nack in rows(&proxy["config"]["nacks"]) {
            let [kind, name, reason] = ["type", "name", "reason"].map(|field| cell(&nack[field]));
            nacks.push_str(&format!("  {namespace}/{workload} refused {kind} {name}: {reason}\n"));
        }
        let http = between(&proxy["features"]);
        let version = cell(&proxy["version"]);
        let config = config(&proxy["config"], &proxy["summary"]);
        seen.push_str(&backends(&format!("{namespace}/{workload}"), &proxy["summary"]["backends"]));
        stops.push_str(&traffic_stops(&format!("{namespace}/{workload}"), &proxy["trafficStops"]));
        limits.push_str(&limits_reached(&format!("{namespace}/{workload}"), &proxy["summary"]));
        if !rows(&proxy["lacks"]).is_empty() {
            lacks.push_str(&format!("  {namespace}/{workload}: {}\n", cell(&proxy["lacks"])));
        }
        table.row(vec![namespace, workload, service, health, session, version, http, config, end]);
    }
    text.push_str(&section("sidecars", &table));
    let clients = clients(rows(&answer["clients"]), &mut nacks);
    if !clients.is_empty() {
        text.push_str(&section("clients", &clients));
    }
    let lost: String = rows(&answer["lost"]).iter().map(lost_era).collect();
    let sections = [
        ("TRAFFIC STOPS", stops),
        ("OLDER STORE", lost),
        ("REFUSED CONFIG", nacks),
        ("LACKING FEATURES", lacks),
        ("EJECTED AND RETRIED", seen),
        ("LIMITS REACHED", limits),
    ];
    for (heading, lines) in sections.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        text.push_str(&format!("\n{heading}\n{lines}"));
    }
    text
}

/// Programs without a sidecar.
fn clients(clients: &[Value], nacks: &mut String) -> Table {
    let mut table = Table::new(&["NAMESPACE", "CLIENT", "PROGRAM", "VERSION", "ADDRESS", "CONFIG"]);
    for client in clients {
        let [namespace, service, program, version, address] =
            ["namespace", "service", "program", "version", "address"].map(|field| cell(&client[field]));
        for nack in rows(&client["config"]["nacks"]) {
            let [kind, name, reason] = ["type", "name", "reason"].map(|field| cell(&nack[field]));
            nacks.push_str(&format!("  {program} {namespace}/{service} refused {kind} {name}: {reason}\n"));
        }
        table.row(vec![
            namespace,
            service,
            program,
            version,
            address,
            config(&client["config"], &Value::Null),
        ]);
    }
    table
}

fn traffic_stops(sidecar: &str, stops: &Value) -> String {
    let (Some(at), Some(reason)) = (stops["at"].as_str(), stops["reason"].as_str()) else {
        return String::new();
    };
    format!("  traffic of {sidecar} stops at {}: its certificate is not renewed ({reason})\n", minute(at))
}

/// `2026-11-23T14:05:09Z` as somebody says it who must act: `14:05 (UTC), 2026-11-23`.
pub(crate) fn minute(at: &str) -> String {
    match (at.get(..10), at.get(11..16)) {
        (Some(date), Some(time)) => format!("{time} (UTC), {date}"),
        _ => at.to_owned(),
    }
}

fn limits_reached(sidecar: &str, summary: &Value) -> String {
    let mut told: Vec<String> = rows(&summary["limits"])
        .iter()
        .map(|limit| format!("{} {} times", cell(&limit["kind"]), cell(&limit["times"])))
        .collect();
    if let Some(withheld) = summary["retriesWithheld"].as_u64().filter(|withheld| *withheld > 0) {
        told.push(format!("{withheld} retries not made, as a budget was spent"));
    }
    if told.is_empty() {
        String::new()
    } else {
        format!("  {sidecar} since its start: {}\n", told.join(", "))
    }
}

fn lost_era(lost: &Value) -> String {
    format!(
        "  {} sidecars have seen up to revision {} what the store does not have, and keep their config: bring the newer \
         store back, or run `meshwork accept-store`\n",
        rows(&lost["sidecars"]).len(),
        cell(&lost["revisionSeen"])
    )
}

/// What a sidecar sees of those that it calls, where there is something to tell.
fn backends(sidecar: &str, backends: &Value) -> String {
    let mut text = String::new();
    for backend in rows(backends) {
        let [name, requests, retries] = ["backend", "requests", "retries"].map(|field| cell(&backend[field]));
        for ejected in rows(&backend["ejected"]) {
            let [address, workload] = ["address", "workload"].map(|field| cell(&ejected[field]));
            text.push_str(&format!("  {sidecar} ejected {workload} at {address} from {name}\n"));
        }
        if backend["retries"].as_u64().unwrap_or(0) > 0 {
            let budget = if backend["budgetUsedUp"] == true { "; the budget is used up" } else { "" };
            text.push_str(&format!(
                "  {sidecar} retries {name}: {retries} beside {requests} requests{budget}\n"
            ));
        }
    }
    text
}

/// What `accept-store` did.
pub(crate) fn accepted_store(answer: &Value) -> String {
    let lost = rows(&answer["lost"]);
    if lost.is_empty() {
        return "no sidecar has seen what the store does not have: there is nothing to accept".to_owned();
    }
    let sidecars: usize = lost.iter().map(|lost| rows(&lost["sidecars"]).len()).sum();
    format!(
        "accepted the store at revision {}: {sidecars} sidecars that have seen more take what it has within seconds",
        cell(&answer["revision"])
    )
}

/// The HTTP that a sidecar speaks to others at best.
fn between(features: &Value) -> String {
    let http2 = rows(features).iter().any(|feature| feature == "meshwork.http2");
    if http2 { "2" } else { "1.1" }.to_owned()
}

/// What a sidecar has confirmed of what it asked for.
fn config(config: &Value, summary: &Value) -> String {
    if summary["config"] == "kept" {
        return "kept".to_owned();
    }
    let [acknowledged, subscribed] = ["acknowledged", "subscribed"].map(|field| cell(&config[field]));
    match (rows(&config["nacks"]).len(), config["connected"] == true) {
        (_, false) => "no stream".to_owned(),
        (0, true) => format!("{acknowledged} of {subscribed}"),
        (nacks, true) => format!("{acknowledged} of {subscribed}, {nacks} refused"),
    }
}

fn section(what: &str, table: &Table) -> String {
    if table.is_empty() { format!("\nno {what}\n") } else { format!("\n{table}") }
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

    #[test]
    fn status_tells_services_sidecars_and_what_they_refused() {
        let nack =
            json!({"type": "route", "name": "default/cart:80", "version": "v", "reason": "no such cluster"});
        let pay = json!({"backend": "default/pay:80", "requests": 40, "retries": 3, "budgetUsedUp": true,
                         "ejected": [{"address": "10.0.0.1:80", "workload": "pay-1", "times": 1}]});
        let proxy = |workload: &str, connected: bool, nacks: Value| {
            json!({"namespace": "default", "workload": workload, "service": "cart", "health": "healthy", "connected": connected,
                   "version": "0.1.0", "lacks": if connected { json!([]) } else { json!(["meshwork.http2"]) },
                   "summary": {"config": "current", "backends": if connected { json!([pay]) } else { json!([]) },
                               "limits": if connected { json!([{"kind": "memory", "times": 3}]) } else { json!([]) },
                               "retriesWithheld": if connected { 7 } else { 0 }},
                   "features": if connected { json!(["meshwork.http2"]) } else { json!([]) },
                   "certificateExpires": "2026-11-23T00:00:00Z",
                   "trafficStops": if connected { json!({"at": "2026-11-23T00:00:00Z", "reason": "no such account"}) } else { json!(null) },
                   "config": {"connected": connected, "subscribed": 9, "acknowledged": 8, "nacks": nacks}})
        };
        let answer = json!({
            "meshId": "m1", "version": "0.1.0", "address": "127.0.0.1:4190", "revision": 7,
            "logins": {"refused": 12, "limited": 3},
            "lost": [{"era": "e", "revisionSeen": 9, "sidecars": ["a", "b"]}],
            "services": [{"namespace": "default", "name": "cart", "ports": [80], "healthy": 2, "unhealthy": 0, "draining": 1,
                          "endpoints": ["127.0.0.1:1", "127.0.0.1:2"]}],
            "proxies": [proxy("cart-1", true, json!([nack])), proxy("cart-2", false, json!([]))],
            "clients": [{"namespace": "default", "service": "web", "program": "envoy", "version": "1.40.0", "address": "127.0.0.1:3",
                         "config": {"connected": true, "subscribed": 4, "acknowledged": 3, "nacks": [nack]}}],
        });
        let expect = "\
mesh m1, control plane 0.1.0 at 127.0.0.1:4190, store revision 7
12 login tokens were refused since its start, and 3 requests not looked at after too many of them; its log says where they came from

NAMESPACE   NAME   PORTS   HEALTHY   UNHEALTHY   DRAINING   ENDPOINTS
default     cart   80      2         0           1          127.0.0.1:1,127.0.0.1:2

NAMESPACE   SIDECAR   SERVICE   HEALTH    SESSION     VERSION   HTTP   CONFIG              CERTIFICATE ENDS
default     cart-1    cart      healthy   connected   0.1.0     2      8 of 9, 1 refused   2026-11-23T00:00:00Z
default     cart-2    cart      healthy   gone        0.1.0     1.1    no stream           2026-11-23T00:00:00Z

NAMESPACE   CLIENT   PROGRAM   VERSION   ADDRESS       CONFIG
default     web      envoy     1.40.0    127.0.0.1:3   3 of 4, 1 refused

TRAFFIC STOPS
  traffic of default/cart-1 stops at 00:00 (UTC), 2026-11-23: its certificate is not renewed (no such account)

OLDER STORE
  2 sidecars have seen up to revision 9 what the store does not have, and keep their config: bring the newer store back, or run `meshwork accept-store`

REFUSED CONFIG
  default/cart-1 refused route default/cart:80: no such cluster
  envoy default/web refused route default/cart:80: no such cluster

LACKING FEATURES
  default/cart-2: meshwork.http2

EJECTED AND RETRIED
  default/cart-1 ejected pay-1 at 10.0.0.1:80 from default/pay:80
  default/cart-1 retries default/pay:80: 3 beside 40 requests; the budget is used up

LIMITS REACHED
  default/cart-1 since its start: memory 3 times, 7 retries not made, as a budget was spent
";
        assert_eq!(status(&answer), expect);
        let empty = status(
            &json!({"meshId": "m1", "version": "0", "address": "a", "revision": 1, "services": [], "proxies": []}),
        );
        assert!(empty.ends_with("\nno services\n\nno sidecars\n"), "{empty}");
    }
}
