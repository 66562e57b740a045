//! `meshwork backup` and `meshwork restore` as an operator meets them, killed in the middle, too: real processes.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Output;

use rustix::process::Signal;
use serde_json::Value;

use support::{Mesh, limited, wait_for};

/// Blocks of 512 or 1,024 bytes, as the shell counts: at each of these the restoring process is killed as it writes
/// one byte more. A store has a few hundred of them.
const BLOCKS: std::ops::Range<u32> = 0..24;

fn names(services: &Value) -> Vec<&str> {
    services["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

fn services(mesh: &Mesh) -> Vec<String> {
    let told = wait_for("the services", || {
        let output = mesh.operate(["get", "services", "-o", "json"]).output().unwrap();
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    });
    names(&told).into_iter().map(str::to_owned).collect()
}

fn add(mesh: &Mesh, service: &str) {
    let file = mesh.path().join(format!("{service}.yaml"));
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\nspec: {{selector: {{app: x}}, ports: [{{port: 80}}]}}\n"
    );
    fs::write(&file, text).unwrap();
    check(&mesh.operate(["apply", "-f", file.to_str().unwrap()]).output().unwrap());
}

#[track_caller]
fn check(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// The stores that were replaced and kept, oldest first.
fn kept(store: &Path) -> Vec<Vec<u8>> {
    let kept = (1..).map(|number| store.with_extension(format!("redb.replaced-{number}")));
    kept.map_while(|path| fs::read(path).ok()).collect()
}

#[test]
fn a_restore_that_is_killed_while_it_writes_leaves_the_store_that_was_there() {
    let mut mesh = Mesh::start();
    add(&mesh, "early");
    let file = mesh.path().join("mesh.backup").display().to_string();
    check(&mesh.operate(["backup", &file]).output().unwrap());
    add(&mesh, "late");
    mesh.kill_control();
    let store = mesh.path().join("control/mesh.redb");
    let before = fs::read(&store).unwrap();

    let restore = mesh.operate(["restore", &file]);
    let mut kills = 0;
    for step in BLOCKS {
        let output = limited(&format!("-f {}", 1_u64 << step), &restore).output().unwrap();
        if output.status.signal() != Some(Signal::XFSZ.as_raw()) {
            check(&output);
            break;
        }
        kills += 1;
        assert!(
            fs::read(&store).unwrap() == before,
            "killed at {} blocks, the store is another one",
            1_u64 << step
        );
        assert_eq!(kept(&store).len(), 0, "nothing was replaced");
    }
    assert!(kills > 3, "killed {kills} times only");
    assert!(kept(&store) == [before], "what was replaced is kept");
    mesh.start_control(mesh.port);
    assert_eq!(services(&mesh), ["early"], "the store is the backup's");
}
