//! HTTP/1: each request of the corpus with a marker behind it, raw to the caller's proxy (with either way between the
//! sidecars) and, as a member of the mesh, straight to the called side.

use crate::corpus::{Case, Expect, corpus};
use crate::ground::{Between, Ground};
use crate::ledger::Ledger;
use crate::recorder::Recorder;
use crate::strict::split;
use crate::wire::Door;

#[test]
fn nothing_is_smuggled_through_the_callers_proxy_over_http2() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    judge("outbound, HTTP/2 between", &ground.outbound(), &app);
}

#[test]
fn nothing_is_smuggled_through_the_callers_proxy_over_http1() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http1, app.port);
    judge("outbound, HTTP/1 between", &ground.outbound(), &app);
}

#[test]
fn a_member_smuggles_nothing_past_the_called_side() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    judge("inbound, as a member", &ground.inbound(b"http/1.1"), &app);
}

#[track_caller]
fn judge(what: &str, door: &Door, app: &Recorder) {
    let mut ledger = Ledger::default();
    let mut wrong = Vec::new();
    for (number, case) in corpus().into_iter().enumerate() {
        let sent = sent(number, &case);
        ledger.case(split(&sent).0);
        let answers = ask(door, &sent, case.expect);
        if !fits(&answers, case.expect) {
            let start = String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(160)]).into_owned();
            wrong.push(format!("{start:?}: want {:?}, got {answers:?}", case.expect));
        }
    }
    ledger.settle(what, app);
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// The case, and behind it the marker.
fn sent(number: usize, case: &Case) -> Vec<u8> {
    let path = format!("/c{number}");
    let mut sent = Vec::new();
    let mut rest = &case.bytes[..];
    while let Some(at) = rest.windows(3).position(|window| window == b"{p}") {
        sent.extend_from_slice(&rest[..at]);
        sent.extend_from_slice(path.as_bytes());
        rest = &rest[at + 3..];
    }
    sent.extend_from_slice(rest);
    if case.expect != Expect::Cut {
        let marker = format!("GET {path}/marker HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n");
        sent.extend_from_slice(marker.as_bytes());
    }
    sent
}

fn ask(door: &Door, sent: &[u8], expect: Expect) -> Vec<Answer> {
    let mut wire = door.open();
    // Refused while it is still being sent: as well.
    let _ = wire.send(sent);
    if expect == Expect::Cut {
        wire.half_close();
    }
    answers(&wire.rest())
}

/// Status, and why the mesh itself answered.
type Answer = (u16, Option<String>);

fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut all = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let field = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        let length: usize = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        bytes = bytes.get(end + 4 + length..).unwrap_or_default();
        if status >= 200 {
            all.push((status, field("x-meshwork-cause")));
        }
    }
    all
}

fn fits(answers: &[Answer], expect: Expect) -> bool {
    let is_good = |answer: &Answer| *answer == (200, None);
    match (expect, answers) {
        (Expect::Refused(status, cause), [(got, Some(told))]) => (status, cause) == (*got, told.as_str()),
        (Expect::Carried, [first, marker]) => is_good(first) && is_good(marker),
        (Expect::Last, [first]) => is_good(first),
        (Expect::Cut, answers) => !answers.iter().any(is_good),
        _ => false,
    }
}
