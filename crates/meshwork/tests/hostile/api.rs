//! The control plane's gRPC doors: bombs of protobuf and of compression, from strangers and from members of the mesh.

use std::io::Write as _;

use crate::ground::{Between, Ground};
use crate::grpc::{Ended, call, framed};
use crate::memory::Memory;
use crate::recorder::Recorder;

const ENROL: &str = "/meshwork.v1.Enrollment/Enroll";
const RENEW: &str = "/meshwork.v1.Enrollment/Renew";
const SESSION: &str = "/meshwork.v1.Sidecar/Session";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

const LOADS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

const UNKNOWN: u16 = 2;
const INVALID_ARGUMENT: u16 = 3;
const RESOURCE_EXHAUSTED: u16 = 8;
const OUT_OF_RANGE: u16 = 11;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAUTHENTICATED: u16 = 16;

/// All that one bomb may cost for a moment: the largest message that is taken, and what may be made of it.
const PEAK_KIB_MAX: u64 = 128 * 1024;

struct Bomb {
    name: &'static str,
    /// As it goes into the stream.
    bytes: Vec<u8>,
    gzip: bool,
    /// What a reader says of it.
    refused: &'static [u16],
}

fn bombs() -> Vec<Bomb> {
    let bomb = |name, bytes, refused| Bomb { name, bytes, gzip: false, refused };
    vec![
        bomb("a length of 4 GiB", vec![0, 255, 255, 255, 255], &[OUT_OF_RANGE]),
        bomb("a length of 17 MiB", [&[0, 1, 16, 0, 0][..], &[0; 1_000]].concat(), &[OUT_OF_RANGE]),
        bomb(
            "a crowd of empty elements",
            framed(0, &[0x1a, 0].repeat(4 << 20)),
            &[OUT_OF_RANGE, RESOURCE_EXHAUSTED],
        ),
        bomb(
            "a crowd of empty messages",
            framed(0, &[0x0a, 0].repeat(4 << 20)),
            &[OUT_OF_RANGE, RESOURCE_EXHAUSTED],
        ),
        bomb(
            "a length within the message that lies",
            framed(0, &[0x0a, 0xff, 0xff, 0xff, 0x7f, 1]),
            &[INTERNAL, RESOURCE_EXHAUSTED, INVALID_ARGUMENT],
        ),
        bomb("no message at all", framed(0, &[0xff; 64]), &[INTERNAL, RESOURCE_EXHAUSTED, INVALID_ARGUMENT]),
        bomb("half a message", vec![0, 0, 0, 1, 0, 7], &[INTERNAL, UNKNOWN]),
        Bomb {
            name: "a compressed message",
            bytes: framed(1, &gzip(&[0; 1 << 20])),
            gzip: true,
            refused: &[UNIMPLEMENTED],
        },
        bomb(
            "a compressed message that does not say how",
            framed(1, &gzip(&[0; 1 << 20])),
            &[INTERNAL, UNIMPLEMENTED],
        ),
        bomb("a flag that nobody knows", framed(7, b""), &[INTERNAL]),
    ]
}

/// Messages in one another, deeper than anybody reads: `Struct`s in a node's metadata.
fn deep() -> Vec<u8> {
    let mut message = Vec::new();
    for _ in 0..4_000 {
        message = field(5, &message); // Value.struct_value
        message = field(2, &message); // FieldsEntry.value
        message = field(1, &message); // Struct.fields
    }
    field(1, &field(3, &message)) // node.metadata
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut length) = (vec![number << 3 | 2], bytes.len());
    while length >= 128 {
        out.push((length % 128 + 128) as u8);
        length /= 128;
    }
    out.push(length as u8);
    [&out[..], bytes].concat()
}

/// Stored blocks (RFC 1951, 3.2.4): enough to be gzip.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for block in bytes.chunks(65_535) {
        let length = u16::try_from(block.len()).unwrap().to_le_bytes();
        let negated = (!u16::try_from(block.len()).unwrap()).to_le_bytes();
        out.write_all(&[&[0][..], &length, &negated, block].concat()).unwrap();
    }
    out
}

#[track_caller]
fn check(what: &str, ended: &Ended, expect: &[u16]) {
    let told = ended.grpc.is_some_and(|status| expect.contains(&status));
    assert!(
        told && ended.http == 200 && !ended.told.is_empty(),
        "{what}: want one of {expect:?}, got {ended:?}"
    );
}

#[test]
fn bombs_of_members_are_refused_before_they_are_unfolded() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    for path in [DELTA, SOTW, LOADS, SESSION, RENEW, ENROL] {
        for bomb in bombs() {
            let encoding: &[_] = if bomb.gzip { &[("grpc-encoding", "gzip")] } else { &[] };
            let ended = call(&ground.control_as("web"), path, encoding, &bomb.bytes);
            check(&format!("{path}, {}", bomb.name), &ended, bomb.refused);
        }
    }
    for path in [DELTA, SOTW, LOADS] {
        let ended = call(&ground.control_as("web"), path, &[], &framed(0, &deep()));
        check(&format!("{path}, deep"), &ended, &[INTERNAL, INVALID_ARGUMENT, RESOURCE_EXHAUSTED]);
    }
    memory.is_bounded(PEAK_KIB_MAX);
    ground.still_works();
}

#[test]
fn strangers_are_refused_before_they_are_read() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    for bomb in bombs() {
        let encoding: &[_] = if bomb.gzip { &[("grpc-encoding", "gzip")] } else { &[] };
        for path in [DELTA, SOTW, LOADS, SESSION] {
            let ended = call(&ground.control_as_stranger(), path, encoding, &bomb.bytes);
            let expect = [&[UNAUTHENTICATED][..], bomb.refused].concat();
            check(&format!("a stranger to {path}, {}", bomb.name), &ended, &expect);
        }
        // Who enrols is a stranger still: what he may say is some kilobytes.
        let ended = call(&ground.control_as_stranger(), ENROL, encoding, &bomb.bytes);
        check(&format!("a stranger to {ENROL}, {}", bomb.name), &ended, bomb.refused);
    }
    let large = framed(0, &field(1, &[b'x'; 20_000]));
    check("a secret of 20 KB", &call(&ground.control_as_stranger(), ENROL, &[], &large), &[OUT_OF_RANGE]);
    let renewal = framed(0, &field(1, b"csr"));
    check("a renewal", &call(&ground.control_as_stranger(), RENEW, &[], &renewal), &[UNAUTHENTICATED]);
    memory.is_bounded(PEAK_KIB_MAX);
    ground.still_works();
}

/// Entries that are as small as their messages allow, and names without end: nothing of it is kept beyond a bound, and a
/// report of who says nothing of itself is refused.
#[test]
fn load_reports_are_bounded() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    let door = ground.control_as("web");
    let node = field(1, &field(6, b"envoy"));
    let empty = field(2, &[0x12, 0].repeat(60_000)); // localities of one cluster
    let named: Vec<u8> = (0..8_000)
        .flat_map(|number| field(2, &field(1, format!("default/s{number}:80").as_bytes())))
        .collect();
    for (what, entries) in
        [("empty localities", &empty), ("empty clusters", &[0x12, 0].repeat(60_000)), ("names", &named)]
    {
        let ended = call(&door, LOADS, &[], &framed(0, &[&node[..], entries].concat()));
        assert_eq!((ended.http, ended.grpc), (200, Some(0)), "{what}: {ended:?}");
        let ended = call(&door, LOADS, &[], &framed(0, entries));
        check(&format!("{what} of nobody"), &ended, &[INVALID_ARGUMENT]);
    }
    memory.is_bounded(PEAK_KIB_MAX);
    ground.still_works();
}

/// Half of a large message on each stream of many connections: what is not allowed is not kept.
#[test]
fn halves_of_enrolments_are_not_kept() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    let half = [&[0, 0, 60, 0, 0][..], &[0; 60_000]].concat(); // of 3.75 MiB
    for _ in 0..64 {
        let ended = call(&ground.control_as_stranger(), ENROL, &[], &half);
        check("half an enrolment", &ended, &[OUT_OF_RANGE]);
    }
    memory.is_bounded(PEAK_KIB_MAX);
    ground.still_works();
}

#[test]
fn neither_strangers_nor_members_get_to_the_operators_api() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    for (who, door, refused) in
        [("web", ground.control_as("web"), 403), ("a stranger", ground.control_as_stranger(), 401)]
    {
        for path in ["/api/v1/apply", "/api/v1/tokens", "/api/v1/ca/rotate", "/api/v1/store/accept"] {
            let ended = call(&door, path, &[], &[b'x'; 100_000]);
            assert_eq!(ended.http, refused, "{who} at {path}: {ended:?}");
        }
        for path in ["/", "/meshwork.v1.Enrollment/", "/meshwork.v1.Unknown/Enroll", "/api/v1/../v1/apply"] {
            let ended = call(&door, path, &[], b"");
            let refused = matches!(ended.http, 400..=499) || ended.grpc == Some(UNIMPLEMENTED);
            assert!(refused, "{who} at {path}: {ended:?}");
        }
    }
    ground.still_works();
}
