//! gRPC to a sidecar, both with certificates of the mesh, and each checks who the other is.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use meshwork_testkit::{GrpcApp, Mesh, eventually, soon, workload};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;

use crate::client::{Client, run};

const PORT: u16 = 50_051;

async fn start(app: &GrpcApp) -> Option<(Mesh, Client)> {
    let payments = workload("payments").serving_grpc(PORT, app);
    let mesh = Mesh::builder().http2(true).with(payments).start().await;
    let client = Client::join(&mesh, "web").await?;
    Some((mesh, client))
}

#[tokio::test]
async fn a_sidecar_is_called_by_mutual_tls_and_knows_who_calls() {
    let app = GrpcApp::start("payments");
    let Some((mesh, client)) = start(&app).await else { return };
    eventually("it is called", async || client.call("xds:///payments:50051", 1).await.ended(0) == 1).await;
    let told = client.call("xds:///payments:50051", 20).await;
    assert_eq!(told.answered_by("payments"), 20, "{told:?}");
    let caller = app.last().get("x-forwarded-client-cert").map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(caller.as_deref(), Some("URI=spiffe://mesh.local/ns/default/sa/web"));
    mesh.stop().await;
}

/// C core ACKs a cluster whose names it does not understand, and would then take anybody of the mesh for the service.
#[tokio::test]
async fn whoever_is_not_the_service_is_not_taken_for_it() {
    let app = GrpcApp::start("payments");
    let Some((mesh, client)) = start(&app).await else { return };
    eventually("payments is called", async || client.call("xds:///payments:50051", 1).await.ended(0) == 1)
        .await;
    let status = mesh.status().await;
    let services = status["services"].as_array().unwrap();
    let payments = services.iter().find(|service| service["name"] == "payments").unwrap();
    let inbound = payments["endpoints"][0].as_str().unwrap();
    // Somebody wrote that `vault` is where the sidecar of payments listens.
    mesh.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: vault}}
spec:
  selector: {{app: vault}}
  ports: [{{port: {PORT}, appProtocol: grpc}}]
---
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: vault-1, labels: {{app: vault}}}}
spec:
  address: 127.0.0.1
  serviceAccount: vault
  ports: [{{port: 1, servicePort: {PORT}, address: \"{inbound}\", transports: [mtls-http2]}}]
"
    ))
    .await;
    let before = app.calls();
    let told = client.call("xds:///vault:50051", 3).await;
    assert_eq!((told.ended(14), app.calls() - before), (3, 0), "{told:?}");
    assert!(format!("{told:?}").contains("verif"), "refused for another reason: {told:?}");
    assert_eq!(client.call("xds:///payments:50051", 1).await.ended(0), 1);
    mesh.stop().await;
}

#[tokio::test]
async fn an_identity_is_written_for_its_owner_alone_and_kept_while_it_is_good() {
    let app = GrpcApp::start("payments");
    let Some((mesh, client)) = start(&app).await else { return };
    let directory = client.identity().to_str().unwrap();
    for name in ["key.pem", "certificate.pem", "bundle.pem", "identity.json"] {
        let mode = std::fs::metadata(client.identity().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let certificate = || std::fs::read(client.identity().join("certificate.pem")).unwrap();
    let before = certificate();
    // No token needed, and what is good for long is kept.
    let said = run(&["identity", "--out", directory]).await;
    assert!(said.starts_with("spiffe://mesh.local/ns/default/sa/web in "), "{said}");
    assert_eq!(certificate(), before);
    let bootstrap: Value =
        serde_json::from_str(&run(&["bootstrap", "grpc", "--identity", directory]).await).unwrap();
    // C core takes no scheme there, and Node's library needs a locality.
    assert_eq!(bootstrap["xds_servers"][0]["server_uri"], mesh.control_address().to_string());
    assert!(bootstrap["node"]["locality"].is_object(), "{bootstrap:#}");
    mesh.stop().await;
}

#[tokio::test]
async fn an_identity_that_is_watched_is_renewed_whole() {
    let mesh = Mesh::builder().start().await;
    mesh.apply(
        "
apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {leafTtl: 10s}
",
    )
    .await;
    let token = mesh.operator().token("default", "web").await;
    let directory = tempfile::tempdir().unwrap();
    let mut watching = Command::new(env!("CARGO_BIN_EXE_meshwork"))
        .args(["identity", "--watch", "--token", &token, "--out", directory.path().to_str().unwrap()])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    let whole = || {
        let kept: Value = serde_json::from_str(&read("identity.json")).unwrap_or_default();
        kept["certificate"] == read("certificate.pem") && kept["key"] == read("key.pem")
    };
    eventually("the first one is there", async || whole()).await;
    let first = (read("certificate.pem"), read("key.pem"));
    eventually("it is renewed, with another key", async || {
        let now = (read("certificate.pem"), read("key.pem"));
        now.0 != first.0 && now.1 != first.1 && whole()
    })
    .await;
    let id = Pid::from_raw(watching.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    let ended = soon("it ends when it is told to", watching.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
    mesh.stop().await;
}
