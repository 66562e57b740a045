//! Every example of `docs/examples/` is accepted as it stands, alone and beside the others.

mod common;

use std::fs;
use std::path::Path;

use common::Plane;

/// (file, text), in order of name.
fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut examples: Vec<_> = files.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect();
    examples.sort();
    assert!(examples.len() >= 4, "one for each kind at least: {examples:?}");
    examples
}

#[tokio::test]
async fn every_example_is_accepted_alone() {
    for (name, text) in examples() {
        let plane = Plane::start().await;
        let path = format!("/api/v1/apply?file={name}");
        let (status, answer) = plane.operator().send("POST", &path, &text).await;
        assert_eq!(status, 200, "{name}: {answer}");
        assert_ne!(answer["applied"].as_array().map(Vec::len), Some(0), "{name} declares nothing");
        plane.control.stop().await;
    }
}

/// Together they show one mesh: a route's backends are there, and every kind is.
#[tokio::test]
async fn all_examples_go_together() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let texts: Vec<_> = examples().into_iter().map(|(_, text)| text).collect();
    operator.apply_ok(&texts.join("\n---\n")).await;
    for kind in ["services", "workloads", "httproutes", "trafficpolicies", "meshconfigs"] {
        let (_, all) = operator.get(&format!("/api/v1/{kind}")).await;
        assert_ne!(all["items"].as_array().map(Vec::len), Some(0), "no example of {kind}");
    }
    let (_, described) = operator.get("/api/v1/describe/httproute/default/cart-rules").await;
    assert_eq!(described["problems"].as_array().map(Vec::len), Some(0), "{described}");
    plane.control.stop().await;
}
