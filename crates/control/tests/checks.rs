//! Workloads without a sidecar, as the control plane's own checks find them.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use common::{Plane, service};
use serde_json::Value;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until an answer of the API is so.
async fn until(plane: &Plane, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let looking = async {
        loop {
            let (_, answer) = plane.operator().get(path).await;
            if holds(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(answer) => answer,
        Err(_) => panic!("it never was so: {:#}", plane.operator().get(path).await.1),
    }
}

fn workload(port: u16, check: &str) -> String {
    format!(
        "
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: ledger-1, labels: {{app: ledger}}}}
spec:
  address: 127.0.0.1
  serviceAccount: ledger
  ports: [{{port: {port}, servicePort: 80{check}}}]
"
    )
}

const LEDGER: &str = "/api/v1/describe/workload/default/ledger-1";
const SERVICE: &str = "/api/v1/describe/service/default/ledger";

fn health(answer: &Value) -> &Value {
    &answer["resource"]["status"]["health"]
}

#[tokio::test]
async fn a_workload_is_as_its_answers_are_and_a_restart_believes_it_at_first() {
    let status = Arc::new(AtomicU16::new(200));
    let told = Arc::clone(&status);
    let answer = move || async move { StatusCode::from_u16(told.load(Ordering::Relaxed)).unwrap() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(axum::serve(listener, Router::new().route("/ok", get(answer))).into_future());

    let plane = Plane::start().await;
    let check = ", healthCheck: {type: http, path: /ok, interval: 1s}";
    plane.operator().apply_ok(&(service("default", "ledger", 80) + &workload(port, check))).await;
    assert_eq!(
        health(&plane.operator().get(LEDGER).await.1),
        "healthy",
        "it is believed until it was looked at"
    );

    status.store(500, Ordering::Relaxed);
    let found = until(&plane, LEDGER, |answer| health(answer) == "unhealthy").await;
    assert_eq!(found["checks"][0]["detail"], format!("GET http://127.0.0.1:{port}/ok answered 500"));
    let (_, told) = plane.operator().get(SERVICE).await;
    assert_eq!(told["endpoints"][0]["health"], "unhealthy", "{told:#}");

    // Nothing of it is in the store.
    let plane = plane.restart_with(|_| {}).await;
    assert_eq!(health(&plane.operator().get(LEDGER).await.1), "healthy");
    until(&plane, LEDGER, |answer| health(answer) == "unhealthy").await;

    status.store(200, Ordering::Relaxed);
    until(&plane, LEDGER, |answer| health(answer) == "healthy").await;
    // Another check is another judgement.
    let gone = ", healthCheck: {type: http, path: /gone, interval: 1s}";
    plane.operator().apply_ok(&workload(port, gone)).await;
    until(&plane, LEDGER, |answer| health(answer) == "unhealthy").await;
    plane.operator().apply_ok(&workload(port, ", healthCheck: {type: none}")).await;
    until(&plane, LEDGER, |answer| health(answer) == "healthy").await;
    plane.control.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_check_is_told_where_it_stands() {
    let plane = Plane::start().await;
    let (status, answer) =
        plane.operator().apply(&workload(80, ", healthCheck: {type: http, path: ok}")).await;
    assert_eq!(status, 422, "{answer:#}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("spec.ports[0].healthCheck.path: "), "{message}");
    assert_eq!(answer["error"]["line"], 8);
    plane.control.stop().await;
}
