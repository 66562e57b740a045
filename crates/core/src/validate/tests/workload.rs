//! `Workload`, written by hand or registered.

use super::*;

#[track_caller]
fn check_workload(spec: Value, expect: &[(&str, &str)]) {
    check(judge(Kind::Workload, named("cart-1"), spec), expect);
}

#[test]
fn a_workload_written_by_hand_is_reached_in_plaintext() {
    let spec = json!({"address": "10.0.0.7", "ports": [{"port": 8080}]});
    let Ok(Declared::Workload(workload)) = judge(Kind::Workload, named("cart-1"), spec) else {
        panic!("refused");
    };
    let port = WorkloadPort {
        service_port: None,
        app_port: 8080,
        address: "10.0.0.7:8080".parse().unwrap(),
        transports: vec![Transport::Plaintext],
        check: Check::Unasked,
        health: Health::Healthy,
    };
    assert_eq!(workload.ports, [port]);
    assert_eq!(
        (workload.account.as_str(), workload.weight, workload.health),
        ("default", 1, Health::Healthy)
    );
}

#[track_caller]
fn check_of(written: Value, expect: Check) {
    let spec = json!({"address": "10.0.0.7", "ports": [{"port": 8080, "healthCheck": written}]});
    let Ok(Declared::Workload(workload)) = judge(Kind::Workload, named("cart-1"), spec) else {
        panic!("refused");
    };
    assert_eq!(workload.ports[0].check, expect);
}

#[test]
fn a_check_is_as_it_was_asked_for() {
    check_of(json!({"type": "none"}), Check::Off);
    check_of(json!({"type": "tcp"}), Check::Asked(HealthCheck::default()));
    let probe = Probe::Http { path: "/ok".to_owned(), status: Some(204) };
    check_of(
        json!({"type": "http", "path": "/ok", "status": 204, "interval": "30s", "timeout": "5s"}),
        Check::Asked(HealthCheck {
            probe,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        }),
    );
    let probe = Probe::Grpc { service: "shop.Cart".to_owned() };
    check_of(
        json!({"type": "grpc", "service": "shop.Cart"}),
        Check::Asked(HealthCheck { probe, ..HealthCheck::default() }),
    );
}

#[test]
fn a_check_that_can_not_be_done_is_refused() {
    let check = |transports: &[&str], written: Value, expect: &[(&str, &str)]| {
        let port = json!({"port": 8080, "transports": transports, "healthCheck": written});
        check_workload(json!({"address": "10.0.0.7", "ports": [port]}), expect);
    };
    let plain = &["plaintext"];
    let at = |field: &'static str| -> &'static str {
        match field {
            "path" => "spec.ports[0].healthCheck.path",
            "status" => "spec.ports[0].healthCheck.status",
            "interval" => "spec.ports[0].healthCheck.interval",
            "timeout" => "spec.ports[0].healthCheck.timeout",
            _ => "spec.ports[0].healthCheck.type",
        }
    };
    check(plain, json!({"type": "tcp", "path": "/"}), &[(at("path"), "type tcp has no path")]);
    check(plain, json!({"type": "http", "path": "ok"}), &[(at("path"), "can't be asked for")]);
    check(plain, json!({"type": "http", "status": 99}), &[(at("status"), "no answer has this status")]);
    check(plain, json!({"type": "tcp", "interval": "500ms"}), &[(at("interval"), "not between 1s and 5m")]);
    check(plain, json!({"type": "tcp", "timeout": "11s"}), &[(at("timeout"), "longer than the interval")]);
    check(&["mtls-http1"], json!({"type": "http"}), &[(at("type"), "only a sidecar can look")]);
}

#[test]
fn a_registered_workload_is_reached_at_its_sidecars_sockets() {
    let spec = json!({
        "serviceAccount": "cart", "weight": 0, "locality": {"region": "eu", "zone": "a"},
        "ports": [{"port": 8080, "servicePort": 80, "address": "127.0.0.1:40123", "transports": ["mtls-http1", "mtls-tcp"]}],
    });
    let Ok(Declared::Workload(workload)) = judge(Kind::Workload, named("cart-1"), spec) else {
        panic!("refused");
    };
    assert_eq!(workload.ports[0].address, "127.0.0.1:40123".parse().unwrap());
    assert_eq!(workload.ports[0].service_port, Some(80));
    assert_eq!(workload.ports[0].transports, [Transport::MtlsHttp1, Transport::MtlsTcp]);
    assert_eq!(workload.locality, Locality { region: "eu".to_owned(), zone: "a".to_owned() });
}

#[test]
fn all_problems_of_a_workload_are_told_at_once() {
    check_workload(
        json!({
            "serviceAccount": "a/b", "weight": 1_000_001, "locality": {"region": "e u"},
            "ports": [
                {"port": 80},
                {"port": 81, "address": "0.0.0.0:1", "transports": []},
                {"port": 81, "address": "169.254.1.1:0", "transports": ["plaintext", "mtls-http1"]},
                {"port": 82, "address": "10.0.0.7:1", "transports": ["mtls-tcp", "mtls-tcp"]},
            ],
        }),
        &[
            ("spec.serviceAccount", "can't be a service account"),
            ("spec.weight", "more than 1000000"),
            ("spec.locality.region", "not the name of a place"),
            ("spec.ports[0].address", "neither the port nor the workload"),
            ("spec.ports[1].address", "can't be an endpoint"),
            ("spec.ports[1].transports", "empty"),
            ("spec.ports[2].port", "twice"),
            ("spec.ports[2].address", "link-local"),
            ("spec.ports[2].address", "0 is no port"),
            ("spec.ports[2].transports", "plaintext stands beside mTLS"),
            ("spec.ports[3].transports", "a transport stands twice"),
        ],
    );
    check_workload(json!({"ports": []}), &[]); // it only calls others
}
