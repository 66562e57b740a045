//! Whoever is killed with -9 comes back by whoever supervises it; meanwhile connections wait or are refused, and none goes out
//! in clear.

use std::process::Command;

use meshwork_testkit::hosts::{Host, Program};
use rustix::process::Signal;

use super::stage::{Stage, caller, calls_end, command, kill, server, sidecar, stop};
use crate::support::{is_gone, wait_for};

#[test]
fn a_run_recovers_from_its_sidecars_end_and_ends_with_its_supervisor() {
    let Some(stage) = Stage::start() else { return };
    let before = stage.left();
    let (mut cart, mut web) = (stage.run_cart(), stage.run_web());
    calls_end(&web, "yes", 3);

    // Its supervisor starts another one, on the same sockets.
    for run in [&web, &cart] {
        let first = sidecar(run).unwrap();
        kill(first);
        wait_for("another sidecar", || sidecar(run).filter(|pid| *pid != first));
        calls_end(&web, "yes", 3);
    }
    // Nobody is left who could start one: who was captured ends, too.
    for (host, run) in [("web", &mut web), ("cart", &mut cart)] {
        let theirs = [sidecar(run).unwrap(), command(run).unwrap()];
        run.signal(Signal::KILL);
        run.ended();
        wait_for("sidecar and command to end", || theirs.iter().all(|pid| is_gone(*pid)).then_some(()));
        *run = if host == "web" { stage.run_web() } else { stage.run_cart() };
    }
    calls_end(&web, "yes", 3);

    stop(web);
    stop(cart);
    stage.is_left_as(&before);
    stage.nothing_was_in_clear();
}

/// `meshwork capture apply && exec meshwork proxy …`, as a container does it.
fn container(stage: &Stage, host: &Host, flags: &[&str]) -> Program {
    let proxy = stage.meshwork(host, "proxy", &[&["--capture=redirect"], flags].concat());
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$0\" capture apply && exec \"$0\" \"$@\""]).arg(proxy.get_program());
    shell.args(proxy.get_args());
    shell.envs(proxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    host.start_command("sidecar", &shell)
}

#[test]
fn a_container_whose_sidecar_was_killed_is_refused_every_connection_until_the_next() {
    let Some(stage) = Stage::start() else { return };
    let before = stage.left();
    let port = ["--port", "80:8080"];
    let application = stage.cart.start("python3", &["-c", &server()]);
    let mut cart = container(&stage, &stage.cart, &port);
    stage.cart_has_a_name();
    let mut web = container(&stage, &stage.web, &[]);
    let calling = stage.web.start("python3", &["-c", &caller()]);
    calls_end(&calling, "yes", 3);

    web.signal(Signal::KILL);
    web.ended();
    // Names are looked up in vain then: by one that is known, as a program that looked it up before has it.
    let virtual_address = "240.0.0.1";
    for address in [virtual_address.to_owned(), stage.cart.ip().to_string()] {
        let url = format!("http://{address}:8080/{}", super::stage::MARKER);
        let output = stage.web.output("curl", &["-sS", "-m", "20", &url]);
        assert_eq!(output.status.code(), Some(7), "refused at once: {output:?}");
    }
    web = container(&stage, &stage.web, &[]);
    calls_end(&calling, "yes", 3);

    cart.signal(Signal::KILL);
    cart.ended();
    calls_end(&calling, "no", 3);
    cart = container(&stage, &stage.cart, &port);
    calls_end(&calling, "yes", 3);

    drop(calling);
    drop(application);
    for (host, sidecar) in [(&stage.web, web), (&stage.cart, cart)] {
        stop(sidecar);
        host.runs(env!("CARGO_BIN_EXE_meshwork"), &["capture", "remove"]);
    }
    stage.is_left_as(&before);
    stage.nothing_was_in_clear();
}
