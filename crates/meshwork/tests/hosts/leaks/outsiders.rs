//! Other programs of a host on which something is captured: they don't reach what is captured, by whatever way, nor does the
//! sidecar carry anything for them.

use meshwork_testkit::hosts::Host;

use super::stage::{MARKER, PORT, Stage, calls_end, stop};
use crate::support::wait_for;

/// What curl says of a connection that is refused.
const CONNECT_FAILED: i32 = 7;

/// All addresses of the host, in URLs.
fn addresses(host: &Host) -> Vec<String> {
    let mut addresses = vec!["127.0.0.1".to_owned(), host.ip().to_string()];
    if let Some(ip) = host.ip_v6() {
        addresses.extend(["[::1]".to_owned(), format!("[{ip}]")]);
    }
    addresses
}

/// The ports to which the rules there lead what is captured, as they stand in them.
fn led(host: &Host) -> Vec<String> {
    let rules = host.runs("nft", &["list", "ruleset"]);
    let tcp = rules
        .lines()
        .filter(|line| line.contains("outbound TCP, to port") || line.contains("inbound TCP, to port"));
    let mut ports: Vec<String> = tcp
        .filter_map(|line| Some(line.split("to port ").nth(1)?.trim_end_matches('"').to_owned()))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[test]
fn nobody_of_the_same_host_reaches_what_is_captured_or_uses_its_sidecar() {
    let Some(stage) = Stage::start() else { return };
    let before = stage.left();
    let (cart, web) = (stage.run_cart(), stage.run_web());
    calls_end(&web, "yes", 3);

    // As the user as whom the program itself runs, and as another one: the cgroup counts.
    let somebody = ["setpriv", "--reuid=nobody", "--clear-groups", "--"];
    for who in [&[][..], &somebody] {
        for address in addresses(&stage.cart) {
            let url = format!("http://{address}:{PORT}/");
            let words = [who, &["curl", "-sS", "-m", "20", &url]].concat();
            let output = stage.cart.output(words[0], &words[1..]);
            assert_eq!(output.status.code(), Some(CONNECT_FAILED), "{words:?}: {output:?}");
        }
    }
    // Straight to where connections are led.
    let ports = led(&stage.cart);
    assert_eq!(ports.len(), 2, "{ports:?}");
    for port in &ports {
        for address in addresses(&stage.cart) {
            let url = format!("http://{address}:{port}/");
            let output = stage.cart.output("curl", &["-sS", "-m", "20", "-H", "Host: cart", &url]);
            assert!(!output.status.success(), "{url}: {output:?}");
        }
    }
    // What is not captured of that host goes on as ever.
    let other = stage.cart.start("python3", &["-m", "http.server", "9090", "--bind", "127.0.0.1"]);
    wait_for("another program", || {
        let output = stage.cart.output("curl", &["-sS", "-m", "20", "http://127.0.0.1:9090/"]);
        output.status.success().then_some(())
    });
    drop(other);
    calls_end(&web, "yes", 3);

    stop(web);
    stop(cart);
    stage.is_left_as(&before);
    stage.nothing_was_in_clear();
}

/// Who asks in clear from another host hears nothing. (What it says itself crosses, of course.)
#[test]
fn nobody_of_another_host_reaches_what_is_captured_without_a_sidecar() {
    let Some(stage) = Stage::start() else { return };
    let (cart, web) = (stage.run_cart(), stage.run_web());
    calls_end(&web, "yes", 3);
    let addresses = [Some(stage.cart.ip().to_string()), stage.cart.ip_v6().map(|ip| format!("[{ip}]"))];
    for address in addresses.into_iter().flatten() {
        for port in led(&stage.cart).into_iter().chain([PORT.to_string()]) {
            let url = format!("http://{address}:{port}/");
            let output = stage.web.output("curl", &["-sS", "-m", "20", &url]);
            assert!(!output.status.success(), "{url}: {output:?}");
            assert!(!String::from_utf8_lossy(&output.stdout).contains(MARKER), "{url}: {output:?}");
        }
    }
    stop(web);
    stop(cart);
    let recorded = stage.recorded();
    assert!(!recorded.contains(MARKER.as_bytes()), "the marker crossed in clear");
}
