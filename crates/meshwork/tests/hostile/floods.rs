//! Floods: frames and connections for nothing, at each door, from inside the mesh and from outside. Each is refused or borne,
//! memory stays bounded, and who is honest notices nothing.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use meshwork_identity::KeyAndCsr;
use meshwork_xds::proto::{EnrollRequest, RenewRequest};
use prost::Message as _;

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, Reader, SETTINGS,
    WINDOW_UPDATE, block, frame, hello as http2,
};
use crate::ground::{Between, Ground};
use crate::grpc::{call, framed};
use crate::hello;
use crate::honest::{caller, unharmed};
use crate::memory::Memory;
use crate::support::load::application;
use crate::tls;
use crate::wire::{Door, Wire};

/// RFC 9113, 7.
const ENHANCE_YOUR_CALM: u32 = 11;

/// More than any kind may have at once (`Limits` of the engine); frames go out so many at a time.
const FRAMES_MAX: u32 = 20_000;
const BATCH: u32 = 500;

/// Answers of a stretch: of calls, and of enrolments with a connection each.
const CALLS: usize = 200;
const ENROLMENTS: usize = 40;

pub(crate) const SIDECAR_KIB_MAX: u64 = 96 * 1024;
pub(crate) const CONTROL_KIB_MAX: u64 = 256 * 1024;

/// Blows of a stretch, the connections of each, and how long they stay.
const CROWDS: usize = 4;
const CROWD: usize = 100;
const STAY: Duration = Duration::from_millis(100);

/// Strangers who begin a handshake and stall, of each attacker: a thousand at a time. They come from another address than
/// everybody else here, and so from another machine, as far as the control plane can tell.
const STALLED: usize = 500;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pings,
    Settings,
    EmptyData,
    RapidResets,
    Continuations,
    WindowUpdates,
    Priorities,
    Unknown,
    HeaderBombs,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Pings,
        Self::Settings,
        Self::EmptyData,
        Self::RapidResets,
        Self::Continuations,
        Self::WindowUpdates,
        Self::Priorities,
        Self::Unknown,
        Self::HeaderBombs,
    ];

    fn begin(self) -> Vec<u8> {
        let head = block(&request("POST"));
        match self {
            Self::EmptyData => frame(HEADERS, END_HEADERS, 1, &head),
            Self::Continuations => frame(HEADERS, END_STREAM, 1, &head),
            _ => Vec::new(),
        }
    }

    fn frame(self, number: u32) -> Vec<u8> {
        let stream = 2 * number + 1;
        match self {
            Self::Pings => frame(PING, 0, 0, &[7; 8]),
            Self::Settings => frame(SETTINGS, 0, 0, b""),
            Self::EmptyData => frame(DATA, 0, 1, b""),
            Self::RapidResets => {
                let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&request("GET")));
                [head, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            }
            Self::Continuations => frame(CONTINUATION, 0, 1, b""),
            Self::WindowUpdates => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            Self::Priorities => frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 7]),
            Self::Unknown => frame(0x42, 0, 0, b"x"),
            Self::HeaderBombs => {
                // An entry of 4,000 bytes, and 12,000 times that one: 48 MB of fields in 16 KB.
                let entry = [&[0x40, 1, b'x', 127, 0xa1, 0x1e][..], &[b'y'; 4_000]].concat();
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &[entry, vec![0xbe; 12_000]].concat())
            }
        }
    }
}

fn request(method: &str) -> [(&'static str, &str); 4] {
    [(":method", method), (":scheme", "http"), (":authority", "cart"), (":path", "/flood")]
}

/// What became of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    /// The other end had enough, and said so with this code.
    Told(u32),
    /// It had enough. What it said is lost: we were still writing when it closed.
    Closed,
    /// It takes all of it.
    Borne,
}

/// Frames of one kind until the other end has had enough.
fn flood(door: &Door, kind: Kind) -> Became {
    let mut wire = door.open();
    // The handshake is waited for.
    if wire.send([http2(), kind.begin()].concat()).is_err() {
        return Became::Closed;
    }
    wire.hurry();
    let mut reader = Reader::new();
    let mut bytes = Vec::new();
    for first in (0..FRAMES_MAX).step_by(BATCH as usize) {
        bytes.extend((first..first + BATCH).flat_map(|number| kind.frame(number)));
        let sent = wire.send(&bytes);
        bytes.clear();
        if let Some(code) = reader.farewell(&mut wire) {
            return Became::Told(code);
        }
        if sent.is_err() {
            return Became::Closed;
        }
    }
    Became::Borne
}

#[test]
fn each_kind_of_flood_is_told_to_calm_down() {
    let ground = Ground::start(Between::Http2, application());
    for (what, door) in [("outbound", ground.outbound()), ("inbound", ground.inbound(b"h2"))] {
        for kind in Kind::ALL {
            let became = flood(&door, kind);
            assert!(
                matches!(became, Became::Told(ENHANCE_YOUR_CALM) | Became::Closed),
                "{kind:?} at {what}: {became:?}"
            );
        }
    }
    ground.still_works();
}

/// All kinds in turn, with somebody honest beside them.
#[track_caller]
fn floods(what: &str, samples: usize, ask: impl FnMut() -> Result<(), String>, door: &Door) {
    unharmed(&format!("floods {what}"), samples, Kind::ALL.len(), ask, |number| {
        flood(door, Kind::ALL[number % Kind::ALL.len()]);
    });
}

/// Whatever needs no more than a connection.
fn crowd(address: SocketAddr, number: usize) {
    let first: [&[u8]; 4] = [
        b"",                                        // nothing: half open
        &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3],      // the beginning of a ClientHello
        b"GET http://cart/slow HTTP/1.1\r\nX-Slow", // of a request
        &[0xff; 4_096],                             // garbage
    ];
    let crowd: Vec<_> = (0..CROWD)
        .filter_map(|one| {
            let mut wire = Wire::try_clear(address)?;
            wire.hurry();
            let _ = wire.send(first[(one + number) % first.len()]);
            Some(wire)
        })
        .collect();
    thread::sleep(STAY);
    drop(crowd);
}

#[test]
fn a_program_beside_the_caller_harms_no_other() {
    let ground = Ground::start(Between::Http2, application());
    let memory = Memory::of("web's sidecar", ground.web.sidecar().expect("it runs"));
    let outbound = ground.outbound();
    floods("at outbound", CALLS, caller(outbound.address), &outbound);
    unharmed("a crowd at outbound", CALLS, CROWDS, caller(outbound.address), |number| {
        crowd(outbound.address, number)
    });
    let admin = ground.web.admin.parse().unwrap();
    unharmed("a crowd at admin", CALLS, CROWDS, caller(outbound.address), |number| crowd(admin, number));
    memory.is_bounded(SIDECAR_KIB_MAX);
    ground.still_works();
}

#[test]
fn a_member_harms_no_other_caller_of_a_service() {
    let ground = Ground::start(Between::Http2, application());
    let memory = Memory::of("cart's sidecar", ground.cart.sidecar().expect("it runs"));
    let (inbound, outbound) = (ground.inbound(b"h2"), ground.outbound());
    floods("of a member at inbound", CALLS, caller(outbound.address), &inbound);
    memory.is_bounded(SIDECAR_KIB_MAX);
    ground.still_works();
}

#[test]
fn a_stranger_harms_no_caller_of_a_service() {
    let ground = Ground::start(Between::Http2, application());
    let memory = Memory::of("cart's sidecar", ground.cart.sidecar().expect("it runs"));
    let (inbound, outbound) = (ground.inbound_address(), ground.outbound());
    unharmed("a crowd at inbound", CALLS, CROWDS, caller(outbound.address), |number| crowd(inbound, number));
    let anonymous = Door { address: inbound, tls: Some(tls::anonymous(b"h2")) };
    unharmed("handshakes without a certificate", CALLS, CROWDS, caller(outbound.address), |_| {
        let mut wire = anonymous.open();
        let _ = wire.send(http2());
        assert_eq!(wire.rest(), b"", "a stranger was answered");
    });
    memory.is_bounded(SIDECAR_KIB_MAX);
    ground.still_works();
}

/// A member that renews its certificate, with a connection of its own each time.
pub(crate) fn member(ground: &Ground) -> impl FnMut() -> Result<(), String> {
    let door = ground.control_as("web");
    let csr_der = KeyAndCsr::generate().unwrap().csr_der;
    let renewal = framed(0, &RenewRequest { csr_der }.encode_to_vec());
    move || {
        let ended = call(&door, "/meshwork.v1.Enrollment/Renew", &[], &renewal);
        if ended.grpc == Some(0) { Ok(()) } else { Err(format!("{ended:?}")) }
    }
}

#[test]
fn a_stranger_keeps_nobody_from_the_control_plane() {
    let ground = Ground::start(Between::Http2, application());
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    let door = ground.control_as_stranger();
    floods("of a stranger at the control plane", ENROLMENTS, member(&ground), &door);
    unharmed("a crowd at the control plane", ENROLMENTS, CROWDS, member(&ground), |number| {
        crowd(door.address, number)
    });
    let guess =
        EnrollRequest { token_secret: "guess".to_owned(), csr_der: KeyAndCsr::generate().unwrap().csr_der };
    let guess = framed(0, &guess.encode_to_vec());
    unharmed("a flood of enrolments", ENROLMENTS, CROWDS, member(&ground), |_| {
        let ended = call(&door, "/meshwork.v1.Enrollment/Enroll", &[], &guess);
        assert_eq!(ended.grpc, Some(16), "a guess was good: {ended:?}");
    });
    memory.is_bounded(CONTROL_KIB_MAX);
    ground.still_works();
}

/// Says a whole hello on each connection, hears the answer, and says no other word.
fn stall(address: SocketAddr, hello: &[u8]) {
    let begin = |_| {
        let mut wire = Wire::from_address(ELSEWHERE.into(), address);
        wire.send(hello).ok().map(|()| wire)
    };
    let mut stalled: Vec<_> = (0..STALLED).filter_map(begin).collect();
    let answered = stalled.iter_mut().filter_map(Wire::poll).count();
    assert_eq!(answered, STALLED, "the others were kept out");
}

#[test]
fn strangers_who_stall_after_a_whole_hello_keep_nobody_out() {
    let ground = Ground::start(Between::Http2, application());
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    let (address, hello) = (ground.control_address(), hello::plain());
    unharmed("stalled handshakes", ENROLMENTS, CROWDS, member(&ground), |_| stall(address, &hello));
    memory.is_bounded(CONTROL_KIB_MAX);
    ground.still_works();
}

#[test]
fn a_member_keeps_nobody_from_the_control_plane() {
    let ground = Ground::start(Between::Http2, application());
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    let door = ground.control_as("cart");
    floods("of a member at the control plane", ENROLMENTS, member(&ground), &door);
    memory.is_bounded(CONTROL_KIB_MAX);
    ground.still_works();
}

/// Kept by nobody who is slow on purpose: see `slow.rs`.
#[test]
fn a_connection_that_was_reset_leaves_nothing() {
    let ground = Ground::start(Between::Http2, application());
    let memory = Memory::of("web's sidecar", ground.web.sidecar().expect("it runs"));
    for _ in 0..2_000 {
        let stream = TcpStream::connect(ground.outbound().address).unwrap();
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
    memory.is_bounded(SIDECAR_KIB_MAX);
    ground.still_works();
}
