//! The mesh at a glance: itself, its services, its sidecars, programs without one, and what deserves a look.

use serde_json::Value;

use super::{heading, rows};
use crate::output::{Table, cell, counted};

/// Of `GET /api/v1/status`.
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
    let loads = loads(rows(&answer["loads"]), &mut limits);
    if !loads.is_empty() {
        text.push_str(&section("loads", &loads));
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

/// Nothing, where nobody was refused.
fn logins_refused(logins: &Value) -> String {
    let [refused, limited] = ["refused", "limited"].map(|field| logins[field].as_u64().unwrap_or_default());
    if refused == 0 {
        return String::new();
    }
    format!(
        "{} refused since its start, and {} not looked at after too many of them; its log says where they came from\n",
        counted(refused, "login token was", "login tokens were"),
        counted(limited, "request", "requests")
    )
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

/// What programs without a sidecar count of the services that they call.
fn loads(programs: &[Value], limits: &mut String) -> Table {
    let fields = ["backend", "issued", "succeeded", "errors", "inProgress", "dropped", "perSecond"];
    let mut table = Table::new(
        &["NAMESPACE", "CLIENT", "ADDRESS"]
            .map(str::to_owned)
            .into_iter()
            .chain(fields.map(heading))
            .collect::<Vec<_>>(),
    );
    for program in programs {
        let [namespace, service, address] =
            ["namespace", "service", "address"].map(|field| cell(&program[field]));
        for backend in rows(&program["backends"]) {
            let counts = fields.map(|field| cell(&backend[field]));
            table.row(
                [namespace.clone(), service.clone(), address.clone()].into_iter().chain(counts).collect(),
            );
        }
        if let Some(left_out) = program["leftOut"].as_u64().filter(|left_out| *left_out > 0) {
            limits.push_str(&format!(
                "  {namespace}/{service} at {address} reports {} more than are kept\n",
                counted(left_out, "service", "services")
            ));
        }
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
        .map(|limit| {
            let times = counted(limit["times"].as_u64().unwrap_or_default(), "time", "times");
            format!("{} {times}", cell(&limit["kind"]))
        })
        .collect();
    if let Some(withheld) = summary["retriesWithheld"].as_u64().filter(|withheld| *withheld > 0) {
        told.push(format!("{} not made, as a budget was spent", counted(withheld, "retry", "retries")));
    }
    if told.is_empty() {
        String::new()
    } else {
        format!("  {sidecar} since its start: {}\n", told.join(", "))
    }
}

fn lost_era(lost: &Value) -> String {
    format!(
        "  {} seen up to revision {} what the store does not have, and whoever saw more keeps that config: bring the \
         newer store back, or run `meshwork accept-store`\n",
        counted(rows(&lost["sidecars"]).len(), "sidecar has", "sidecars have"),
        cell(&lost["revisionSeen"])
    )
}

/// What a sidecar sees of those that it calls, where there is something to tell.
fn backends(sidecar: &str, backends: &Value) -> String {
    let mut text = String::new();
    for backend in rows(backends) {
        let [name, retries] = ["backend", "retries"].map(|field| cell(&backend[field]));
        let requests = counted(backend["requests"].as_u64().unwrap_or_default(), "request", "requests");
        for ejected in rows(&backend["ejected"]) {
            let [address, workload] = ["address", "workload"].map(|field| cell(&ejected[field]));
            text.push_str(&format!("  {sidecar} ejected {workload} at {address} from {name}\n"));
        }
        if backend["retries"].as_u64().unwrap_or(0) > 0 {
            let budget = if backend["budgetUsedUp"] == true { "; the budget is used up" } else { "" };
            text.push_str(&format!("  {sidecar} retries {name}: {retries} beside {requests}{budget}\n"));
        }
    }
    text
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
            "loads": [{"namespace": "default", "service": "web", "program": "envoy", "address": "127.0.0.1:3", "leftOut": 2,
                       "backends": [{"backend": "default/cart:80", "issued": 40, "succeeded": 37, "errors": 2, "dropped": 0,
                                     "inProgress": 1, "perSecond": 4.0}]}],
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

NAMESPACE   CLIENT   ADDRESS       BACKEND           ISSUED   SUCCEEDED   ERRORS   IN PROGRESS   DROPPED   PER SECOND
default     web      127.0.0.1:3   default/cart:80   40       37          2        1             0         4.0

TRAFFIC STOPS
  traffic of default/cart-1 stops at 00:00 (UTC), 2026-11-23: its certificate is not renewed (no such account)

OLDER STORE
  2 sidecars have seen up to revision 9 what the store does not have, and whoever saw more keeps that config: bring the newer store back, or run `meshwork accept-store`

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
  default/web at 127.0.0.1:3 reports 2 services more than are kept
";
        assert_eq!(status(&answer), expect);
        let one = status(
            &json!({"logins": {"refused": 1, "limited": 1}, "lost": [{"revisionSeen": 9, "sidecars": ["a"]}]}),
        );
        assert!(
            one.contains("\n1 login token was refused since its start, and 1 request not looked at"),
            "{one}"
        );
        assert!(one.contains("\n  1 sidecar has seen up to revision 9"), "{one}");
        let empty = status(
            &json!({"meshId": "m1", "version": "0", "address": "a", "revision": 1, "services": [], "proxies": []}),
        );
        assert!(empty.ends_with("\nno services\n\nno sidecars\n"), "{empty}");
    }
}
