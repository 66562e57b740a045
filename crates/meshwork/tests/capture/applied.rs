//! The command: applied, applied again, removed, shown; and what it says when it can't.

use std::process::Command;

use crate::place::{Place, RANGES};

#[test]
fn applied_twice_is_applied_once() {
    let Some(place) = Place::captured(&[]) else { return };
    let once = place.state();
    assert!(once[0].contains("redirect to :15001"), "{}", once[0]);
    assert!(once[1].contains("240.0.0.0/8 dev lo proto 77"), "{}", once[1]);
    place.apply(&[]);
    assert_eq!(place.state(), once);
}

#[test]
fn what_is_told_now_replaces_what_was_told_before() {
    let Some(place) = Place::captured(&["--virtual-range=241.0.0.0/8", "--exclude-outbound-ports=25"]) else {
        return;
    };
    place.apply(&["--inbound-port=none"]);
    let state = place.state();
    let other = Place::captured(&["--inbound-port=none"]).expect("root");
    assert_eq!(state[0], other.state()[0]);
    assert!(!state[1].contains("241.0.0.0"), "{}", state[1]);
}

/// A table and a route of somebody else, for the very same range, are there before and after.
#[test]
fn removed_it_leaves_everything_as_it_was() {
    let Some(place) = Place::empty() else { return };
    place.prints("nft", "add table inet other");
    place.prints("nft", "add chain inet other input { type filter hook input priority 0 ; }");
    place.prints("ip", "route add 240.0.0.0/8 dev lo metric 7");
    let before = place.state();
    place.apply(&["--exclude-inbound-ports=22"]);
    assert_ne!(place.state(), before);
    let removed = place.meshwork(&["capture", "remove"]);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(place.state(), before);
    // Nothing is there any more, and that is as it was asked for.
    let again = place.meshwork(&["capture", "remove"]);
    assert!(again.status.success(), "{again:?}");
    assert_eq!(place.state(), before);
}

#[test]
fn what_is_captured_is_said_in_sentences() {
    let Some(place) = Place::empty() else { return };
    let show = |args: &[&str]| {
        let shown = place.meshwork(&[&["capture", "show"], args].concat());
        assert!(shown.status.success(), "{shown:?}");
        String::from_utf8(shown.stdout).unwrap()
    };
    assert_eq!(show(&[]), "nothing is captured in this network namespace\n");
    place.apply(&["--proxy-user=1337"]);
    let shown = show(&[]);
    for sentence in [
        "table inet meshwork\n",
        "  passes: the sidecar, by its user 1337\n",
        "  captured: outbound TCP, to port 15001 (0 so far)\n",
        "  captured: inbound TCP, to port 15006 (0 so far)\n",
        "  route: 240.0.0.0/8 -> lo\n",
    ] {
        assert!(shown.contains(sentence), "{sentence:?} is not in\n{shown}");
    }
    let value: serde_json::Value = serde_json::from_str(&show(&["-o", "json"])).unwrap();
    assert_eq!(value["captured"][0]["table"], "meshwork");
    assert_eq!(show(&["--print"]), place.prints("nft", "list table inet meshwork"));
}

#[test]
fn a_script_is_printed_and_nothing_is_applied() {
    let Some(place) = Place::empty() else { return };
    let before = place.state();
    let printed = place.meshwork(&["capture", "apply", RANGES, "--print"]);
    let script = String::from_utf8(printed.stdout).unwrap();
    assert!(script.starts_with("table inet meshwork\ndelete table inet meshwork\n"), "{script}");
    assert_eq!(place.state(), before);
    let printed = place.meshwork(&["capture", "remove", "--print"]);
    assert_eq!(printed.stdout, b"table inet meshwork\ndelete table inet meshwork\n");
}

#[test]
fn who_may_not_is_told_what_to_do() {
    let Some(place) = Place::empty() else { return };
    for action in ["apply", "remove", "show"] {
        // root without that capability, as it is in a container
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-net_admin", env!("CARGO_BIN_EXE_meshwork"), "capture", action]);
        let output = place.run(&mut command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{action}: {said}");
        assert!(said.contains("run it as root, or give the container the capability NET_ADMIN"), "{said}");
    }
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let Some(place) = Place::empty() else { return };
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwork"));
    let output = place.run(command.args(["capture", "apply"]).env("PATH", ""));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot run nft") && said.contains("install nftables"), "{said}");
}

/// Without IPv6 there is nothing to route, and the rest is captured all the same.
#[test]
fn a_machine_without_ipv6_is_captured() {
    let Some(place) = Place::empty() else { return };
    place.machine.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")).unwrap();
    place.apply(&[]);
    let [rules, v4, v6] = place.state();
    assert!(rules.contains("redirect to :15001") && v4.contains("240.0.0.0/8"), "{rules}{v4}");
    assert!(!v6.contains("fd4d:5700"), "{v6}");
}

/// Says what is so, and leaves it so.
#[test]
fn check_tells_whether_this_machine_can_capture() {
    let Some(place) = Place::empty() else { return };
    let check = |command: &mut Command| {
        let output =
            place.run(command.args(["check", "--state-dir", "/nonexistent", "--admin", "127.0.0.1:9"]));
        String::from_utf8(output.stdout).unwrap()
    };
    let binary = || Command::new(env!("CARGO_BIN_EXE_meshwork"));
    let before = place.state();
    let said = check(&mut binary());
    assert!(said.contains("what capture=redirect needs: it is here"), "{said}");
    assert!(said.contains("what capture=cgroup needs: it is here"), "{said}");
    assert!(said.contains("`meshwork run` means --capture=cgroup here: this is root"), "{said}");
    assert!(said.contains("  captured: outbound TCP") && said.contains("  passes: other programs"), "{said}");
    assert!(!said.contains("the host's own"), "{said}");
    assert_eq!(place.state(), before);
    let said = check(binary().env("PATH", ""));
    assert!(
        said.contains("notice  capture=redirect: cannot run nft") && said.contains("install nftables"),
        "{said}"
    );
    assert!(said.contains("`meshwork run` means --capture=explicit here: cannot run nft"), "{said}");
    place.apply(&[]);
    let said = check(&mut binary());
    assert!(
        said.contains("what is captured here: the tables meshwork (see `meshwork capture show`)"),
        "{said}"
    );
}
