//! Slowness on purpose: a byte now and then, at each door and at each stage. Whoever it is, he is sent away in time, and who is
//! honest notices nothing meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use crate::frames::hello as http2;
use crate::ground::{Between, Ground};
use crate::hello;
use crate::honest::{caller, unharmed_now};
use crate::memory::Memory;
use crate::support::load::application;
use crate::wire::{Door, Wire};

/// How long the slowest of them is borne (`HEAD_TIMEOUT`, `STRANGER_MAX`), and how late a busy machine may be.
const BORNE_MAX: Duration = Duration::from_secs(30);
const LATE_MAX: Duration = Duration::from_secs(30);

/// Between two bytes: none of the attackers is ever silent for long.
const TRICKLE: Duration = Duration::from_millis(200);

const CALLS: usize = 200;

const SIDECAR_KIB_MAX: u64 = 64 * 1024;

/// A connection that is kept open by as little as possible.
struct Slow {
    what: &'static str,
    wire: Wire,
    /// What comes byte by byte, again and again.
    trickle: Vec<u8>,
}

#[test]
fn whoever_is_slow_on_purpose_is_sent_away() {
    let ground = Ground::start(Between::Http2, application());
    let memory = Memory::of("cart's sidecar", ground.cart.sidecar().expect("it runs"));
    let clear = |address| Door { address, tls: None };
    let head = b"GET http://cart/slow HTTP/1.1\r\nHost: cart\r\nX-Slow: ".to_vec();
    // It would be whole in hours.
    let hello_of_tls = hello::padded();
    let slow = |what, door: Door, first: &[u8], trickle: &[u8]| {
        let mut wire = door.open();
        wire.send(first).unwrap();
        Slow { what, wire, trickle: trickle.to_vec() }
    };
    let admin = clear(ground.web.admin.parse().unwrap());
    let attackers = vec![
        slow("a head at outbound", ground.outbound(), &head, b"x"),
        slow("a member's head at inbound", ground.inbound(b"http/1.1"), &head, b"x"),
        slow("a head at admin", admin, &head, b"x"),
        slow(
            "a ClientHello at inbound",
            clear(ground.inbound_address()),
            &hello_of_tls[..1],
            &hello_of_tls[1..],
        ),
        slow(
            "a ClientHello at the control plane",
            clear(ground.control_address()),
            &hello_of_tls[..1],
            &hello_of_tls[1..],
        ),
        slow(
            "silence after a stranger's handshake at the control plane",
            ground.control_as_stranger(),
            &http2(),
            b"",
        ),
        slow(
            "half a preface of a stranger at the control plane",
            ground.control_as_stranger(),
            b"PRI * HT",
            b"",
        ),
    ];
    thread::scope(|scope| {
        for attacker in attackers {
            scope.spawn(move || sent_away(attacker));
        }
        let outbound = ground.outbound().address;
        unharmed_now("slow clients at every door", CALLS, 1, caller(outbound), |_| thread::sleep(TRICKLE));
    });
    memory.is_bounded(SIDECAR_KIB_MAX);
    ground.still_works();
}

fn sent_away(mut slow: Slow) {
    let begun = Instant::now();
    let mut bytes = slow.trickle.iter().cycle();
    slow.wire.hurry();
    loop {
        match slow.wire.poll() {
            Some(piece) if piece.is_empty() => break,
            _ => {}
        }
        assert!(begun.elapsed() < BORNE_MAX + LATE_MAX, "{} is borne for ever", slow.what);
        if let Some(byte) = bytes.next()
            && slow.wire.send([*byte]).is_err()
        {
            break;
        }
        thread::sleep(TRICKLE);
    }
    println!("{}: sent away after {:?}", slow.what, begun.elapsed());
}
