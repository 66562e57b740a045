//! The root is replaced while the control plane is killed (`kill -9`) in each of the steps: real processes, under load.

mod support;

use std::process::Command;

use meshwork_identity::Enrolled;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use support::load::{Load, all_good, application};
use support::{Mesh, is_stopped, wait_for};

/// A rotation takes as long as the last of the old ones lives; and the control plane may be away for half of that, on
/// the busiest machine.
const SHORT_LEAVES: &str = "
apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {leafTtl: 15s}
";

const CALLERS: usize = 2;

/// Answers under load between two steps.
const SOME: usize = 20;

/// What `meshwork ca status` says, once there is an answer.
fn authority(mesh: &Mesh) -> Value {
    wait_for("the authority's status", || {
        let output = mesh.operate(["ca", "status", "-o", "json"]).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    })
}

fn stage(authority: &Value) -> Option<&str> {
    authority["rotation"]["stage"].as_str()
}

fn roots(authority: &Value) -> Vec<&str> {
    authority["roots"].as_array().unwrap().iter().map(|root| root["hash"].as_str().unwrap()).collect()
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// `kill -9`, a while under load without it, and again.
fn kill_and_restart(mesh: &mut Mesh, loads: &[Load]) {
    mesh.kill_control();
    loads.iter().for_each(|load| load.goes_on(SOME));
    mesh.start_control(mesh.port);
}

#[test]
fn a_control_plane_that_is_killed_in_each_step_of_a_rotation_goes_on_and_nobody_notices() {
    let mut mesh = Mesh::start();
    let file = mesh.path().join("mesh.yaml");
    std::fs::write(&file, SHORT_LEAVES).unwrap();
    succeeds(&mut mesh.operate(["apply", "-f", file.to_str().unwrap()]));
    let spec = format!("80:{}/http", application());
    let idle = ["sleep", "infinity"];
    let _cart = mesh.start_run("cart", "cart", &["--port", &spec], idle);
    let callers = [("web-1", &[][..]), ("web-2", &["--no-http2"])].map(|(name, flags)| {
        let web = mesh.start_run("web", name, flags, idle);
        assert_eq!(web.eventually("http://cart/"), "ok");
        web
    });
    let loads = callers.each_ref().map(|web| Load::start(&web.outbound, CALLERS));
    loads.iter().for_each(|load| load.goes_on(SOME));
    let before = authority(&mesh);
    let [old] = roots(&before)[..] else { panic!("{before:#}") };

    // One that is stuck, and so confirms nothing, holds the first step.
    let stuck = mesh.start_run("stuck", "stuck", &[], idle);
    let sidecar = stuck.sidecar().unwrap();
    kill_process(sidecar, Signal::STOP).unwrap();
    wait_for("it to be stuck", || is_stopped(sidecar).then_some(()));
    succeeds(&mut mesh.operate(["ca", "rotate"]));
    let spreading = authority(&mesh);
    assert_eq!((stage(&spreading), roots(&spreading).len()), (Some("spreading"), 2), "{spreading:#}");
    let new = roots(&spreading)[1];
    kill_and_restart(&mut mesh, &loads);
    kill_process(sidecar, Signal::CONT).unwrap();

    let renewing = wait_for("the new root to sign", || {
        Some(authority(&mesh)).filter(|told| stage(told) == Some("renewing"))
    });
    assert_eq!(roots(&renewing), [old, new], "the rotation that was begun goes on");
    kill_and_restart(&mut mesh, &loads);

    let over = wait_for("the old root to be retired", || {
        Some(authority(&mesh)).filter(|told| stage(told).is_none())
    });
    assert_eq!(roots(&over), [new]);
    kill_and_restart(&mut mesh, &loads);
    assert_eq!(roots(&authority(&mesh)), [new]);

    for name in ["cart", "web-1", "web-2", "stuck"] {
        wait_for(name, || {
            let enrolled = Enrolled::load(&mesh.state_dir(name)).unwrap().unwrap();
            let hashes: Vec<_> = enrolled.bundle.hashes().iter().map(ToString::to_string).collect();
            (hashes == [new] && enrolled.issuing_root().is_some()).then_some(())
        });
    }
    loads.iter().for_each(|load| load.goes_on(SOME));
    loads.into_iter().for_each(|load| all_good(&load.stop()));
}
