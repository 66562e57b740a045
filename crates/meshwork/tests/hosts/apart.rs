//! Hosts that cannot reach each other, or the control plane, for a while; under load, all recorded.

use std::time::{Duration, SystemTime};

use meshwork_testkit::hosts::{Host, Hosts, Recorder};

use crate::mesh::{Load, MARKER, Mesh, now};
use crate::support::wait_for;

/// What was sent and is not acknowledged is given up after 5 s (`proxy/src/connect.rs::USER_TIMEOUT`), a connection without
/// an answer to a PING after 10 (`proxy/src/mux/mod.rs::PING_AFTER`), and the request goes elsewhere; the rest is for a
/// machine that builds beside this.
const ANSWER_MAX: Duration = Duration::from_secs(25);

/// How long a host is without its control plane. Its end is noticed after 10 s (`proxy/src/side/channel.rs::KEEP_ALIVE`), the
/// lease lapses after 15; from then on tries are the same distance apart (`proxy/src/side/backoff.rs::Spacing`), and the next
/// thing that time brings is the removal after 10 minutes: the rest of a minute would show the same again.
/// `MESHWORK_TEST_SECONDS=60` for all of it.
const CUT_SECONDS: u64 = 30;

/// Once it is back, the sidecar has what changed meanwhile, by its own log: a try to connect is under way or follows within a
/// second, and the kernel repeats what it sent for it after two at most.
const CONVERGED_MAX: Duration = Duration::from_secs(5);

/// Calls that are made before something is done, and after.
const SOME: usize = 100;

#[test]
fn a_host_without_its_control_plane_goes_on_and_catches_up() {
    let Some(hosts) = Hosts::start() else { return };
    let [control, here, there, later] = ["control", "here", "there", "later"].map(|name| hosts.add(name));
    let mesh = Mesh::start(&hosts, &control);
    let recorder = hosts.record();
    let _first = mesh.page(&there, "page", "first");
    let load = mesh.load(&here, "page");
    load.goes_on(SOME);
    let given = std::env::var("MESHWORK_TEST_SECONDS").ok();
    let cut_for = given.map_or(CUT_SECONDS, |seconds| seconds.parse().expect("a number of seconds"));

    // Caller and called: the lease of the one that serves lapses, too.
    hosts.cut(&here, &control);
    hosts.cut(&there, &control);
    let cut = now();
    let _second = mesh.page(&later, "page", "second");
    wait_for("the end of the cut", || {
        load.assert_all_good(SOME);
        let calls = load.calls();
        let told = calls.iter().find(|call| call.end.as_deref() == Ok("second"));
        assert!(told.is_none(), "nobody can have told it: {told:?}");
        (now() >= cut + Duration::from_secs(cut_for)).then_some(())
    });
    mesh.knows(2, "page");
    let begun = SystemTime::now();
    hosts.heal(&here, &control);
    hosts.heal(&there, &control);
    let (healed, healing) = (now(), begun.elapsed().unwrap());
    let answered = load.is_answered_by("second", cut).saturating_sub(healed);
    let told = ["took the endpoints of a service", "default/page:80", "endpoints=2"];
    let converged =
        wait_for("the sidecar to be told", || load.run.wrote(&told, begun)).saturating_sub(healing);
    println!(
        "cut for {cut_for} s; told of the other {converged:?} after it was healed, and answered by it after {answered:?}"
    );
    assert!(converged < CONVERGED_MAX, "{converged:?}");
    load.is_answered_by("first", now());
    assert_good_and_secret(&load, recorder, &here, &control);
}

#[test]
fn callers_that_are_cut_off_from_an_endpoint_use_another_and_come_back() {
    lost(Hosts::cut, Hosts::heal);
}

#[test]
fn callers_of_a_host_that_vanishes_use_another_and_come_back() {
    lost(|hosts, _, gone| hosts.vanish(gone), |hosts, _, gone| hosts.reappear(gone));
}

/// An endpoint is lost for one caller, or for all; and is found again.
fn lost(lose: impl Fn(&Hosts, &Host, &Host), find: impl Fn(&Hosts, &Host, &Host)) {
    let Some(hosts) = Hosts::start() else { return };
    let [control, here, one, other] = ["control", "here", "one", "other"].map(|name| hosts.add(name));
    let mesh = Mesh::start(&hosts, &control);
    let recorder = hosts.record();
    let _pages = [mesh.page(&one, "page", "one"), mesh.page(&other, "page", "other")];
    let load = mesh.load(&here, "page");
    let begun = now();
    load.is_answered_by("one", begun);
    load.is_answered_by("other", begun);

    lose(&hosts, &here, &other);
    let gone = now();
    load.all_began_after(gone);
    load.goes_on(SOME);
    let calls = load.calls();
    let crossed = calls.iter().find(|call| call.began() > gone && call.end.as_deref() == Ok("other"));
    assert!(crossed.is_none(), "it was not lost: {crossed:?}");

    let healed = now();
    find(&hosts, &here, &other);
    let back = load.is_answered_by("other", healed) - healed;
    println!("back after {back:?}");
    load.goes_on(SOME);
    let longest = load.calls().iter().map(|call| call.took).max().unwrap();
    println!("the longest call took {longest:?}");
    assert!(longest < ANSWER_MAX, "{longest:?}");
    assert_good_and_secret(&load, recorder, &here, &control);
}

/// One part in fifty lost, and a fifth of a second there and back.
#[test]
fn a_slow_wire_that_loses_frames_ejects_nobody() {
    let Some(hosts) = Hosts::start() else { return };
    let [control, here] = ["control", "here"].map(|name| hosts.add(name));
    let far = ["one", "other"].map(|name| hosts.add_behind(name, Duration::from_millis(100), 15));
    let mesh = Mesh::start(&hosts, &control);
    let recorder = hosts.record();
    let _pages = [mesh.page(&far[0], "page", "one"), mesh.page(&far[1], "page", "other")];
    let load = mesh.load(&here, "page");
    // A frame lost while a connection is made may cost that one, as a second is all it has; they stand once both answer.
    let both_answer = |since| ["one", "other"].map(|name| load.is_answered_by(name, since));
    both_answer(Duration::ZERO);
    let ejections = || {
        ["meshwork_ejections_total", "meshwork_ejections_withheld_total"].map(|name| load.run.metric(name))
    };
    let before = ejections();
    load.goes_on(4 * SOME);
    both_answer(now());
    let calls = load.calls();
    let shortest = calls.iter().map(|call| call.took).min().unwrap();
    assert!(shortest >= Duration::from_millis(200), "the wire is not slow: {shortest:?}");
    assert_eq!(ejections(), before, "somebody was ejected");
    assert_good_and_secret(&load, recorder, &here, &control);
}

/// No request failed, and whoever looks at the wires saw TLS.
#[track_caller]
fn assert_good_and_secret(load: &Load<'_>, recorder: Recorder, one: &Host, other: &Host) {
    load.assert_all_good(2 * SOME);
    let recorded = recorder.stop(one, other);
    assert!(!recorded.contains(MARKER.as_bytes()), "the marker was seen");
    assert_eq!(recorded.not_tls(), [] as [String; 0]);
    assert!(
        recorded.tls_streams() >= 4,
        "{} streams in {} packets",
        recorded.tls_streams(),
        recorded.count()
    );
}
