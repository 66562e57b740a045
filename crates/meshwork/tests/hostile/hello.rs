//! A ClientHello of 64 KiB that is whole and good: one of rustls's, made long by the extension that is there for it (RFC
//! 7685), in records of 16 KiB. At once or a byte at a time, it is answered like any other, or its sender is sent away.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use rustls::ClientConnection;

use crate::floods::{CONTROL_KIB_MAX, SIDECAR_KIB_MAX, member};
use crate::ground::{Between, Ground};
use crate::honest::{caller, unharmed};
use crate::memory::Memory;
use crate::support::load::application;
use crate::support::{DEADLINE, free_port};
use crate::tls;
use crate::wire::Wire;

/// With the heads of its records 64 KiB, nearly: the most that is taken of any hello.
const BYTES: usize = 65_500;

/// RFC 8446: 5.1, 4, and 4.2 for `padding`.
const RECORD_BYTES_MAX: usize = 16_384;
const RECORD_HEAD_BYTES: usize = 5;
const MESSAGE_HEAD_BYTES: usize = 4;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
const PADDING: u16 = 21;

/// Blows of a stretch, and answers of it.
const BLOWS: usize = 3;
const CALLS: usize = 100;
const RENEWALS: usize = 30;

/// As a client sends it that knows nothing of its server.
pub(crate) fn plain() -> Vec<u8> {
    let name = meshwork_identity::session_name((Ipv4Addr::LOCALHOST, 1).into());
    let mut client = ClientConnection::new(tls::anonymous(b"h2"), name).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    record
}

/// Of 64 KiB.
pub(crate) fn padded() -> Vec<u8> {
    let plain = plain();
    let message = &plain[RECORD_HEAD_BYTES..];
    let extensions_at = extensions_at(message);
    let mut longer = message.to_vec();
    let padding = BYTES - message.len() - 4;
    longer.extend(PADDING.to_be_bytes());
    longer.extend(u16::try_from(padding).unwrap().to_be_bytes());
    longer.resize(BYTES, 0);
    let length = u32::try_from(BYTES - MESSAGE_HEAD_BYTES).unwrap().to_be_bytes();
    longer[1..MESSAGE_HEAD_BYTES].copy_from_slice(&length[1..]);
    let extensions = u16::try_from(BYTES - extensions_at - 2).unwrap().to_be_bytes();
    longer[extensions_at..][..2].copy_from_slice(&extensions);
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&plain[..3], &length, part].concat()
    };
    longer.chunks(RECORD_BYTES_MAX).flat_map(record).collect()
}

/// Where the length of a ClientHello's extensions stands: after version, random, session, suites, compressions.
fn extensions_at(message: &[u8]) -> usize {
    let session_at = MESSAGE_HEAD_BYTES + 2 + 32;
    let suites_at = session_at + 1 + usize::from(message[session_at]);
    let suites = usize::from(u16::from_be_bytes([message[suites_at], message[suites_at + 1]]));
    let compressions_at = suites_at + 2 + suites;
    compressions_at + 1 + usize::from(message[compressions_at])
}

fn is_server_hello(answer: &[u8]) -> bool {
    answer.first() == Some(&HANDSHAKE) && answer.get(RECORD_HEAD_BYTES) == Some(&SERVER_HELLO)
}

/// Whether it was answered; else its sender was sent away.
fn byte_by_byte(address: SocketAddr, hello: &[u8]) -> bool {
    let mut wire = Wire::clear(address);
    let is_sent = hello.iter().all(|byte| wire.send([*byte]).is_ok());
    // The end, too, is an answer, and comes in time.
    is_sent && is_server_hello(&wire.piece())
}

#[test]
fn a_hello_of_64_kib_is_one_like_any_other() {
    let ground = Ground::start(Between::Http2, application());
    let sidecar = Memory::of("cart's sidecar", ground.cart.sidecar().expect("it runs"));
    let control = Memory::of("the control plane", ground.mesh.control().pid());
    let hello = padded();
    for address in [ground.inbound_address(), ground.control_address()] {
        let mut wire = Wire::clear(address);
        wire.send(&hello).unwrap();
        let answer = wire.piece();
        assert!(is_server_hello(&answer), "{address} does not know it as one: {answer:?}");
    }
    let answered = AtomicUsize::new(0);
    let strike = |address: SocketAddr| {
        answered.fetch_add(usize::from(byte_by_byte(address, &hello)), Ordering::Relaxed);
    };
    let (inbound, outbound) = (ground.inbound_address(), ground.outbound().address);
    unharmed("a hello of 64 KiB byte by byte at inbound", CALLS, BLOWS, caller(outbound), |_| {
        strike(inbound)
    });
    let address = ground.control_address();
    unharmed("the same at the control plane", RENEWALS, BLOWS, member(&ground), |_| strike(address));
    println!("{} of them were answered", answered.into_inner());
    sidecar.is_bounded(SIDECAR_KIB_MAX);
    control.is_bounded(CONTROL_KIB_MAX);
    ground.still_works();
}

#[test]
fn an_applications_own_hello_of_64_kib_passes_byte_by_byte() {
    // It speaks TLS with whoever calls; the mesh only looks at the first bytes.
    let app = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let ground = Ground::start(Between::Http2, application());
    let spec = format!("7000:{}", app.local_addr().unwrap().port());
    let idle = ["sleep", "infinity"];
    let _vault = ground.mesh.start_run("vault", "vault", &["--port", &spec], idle);
    let door = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let caller_of_it =
        ground.mesh.start_run("teller", "teller", &["--upstream", &format!("vault:7000={door}")], idle);
    let memory = Memory::of("teller's sidecar", caller_of_it.sidecar().expect("it runs"));
    let (heard, hellos) = channel();
    thread::spawn(move || {
        for mut stream in app.incoming().flatten() {
            // Health checks connect, too, and say nothing.
            let heard = heard.clone();
            thread::spawn(move || {
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all);
                if !all.is_empty() {
                    let _ = heard.send(all);
                }
            });
        }
    });
    let hello = padded();
    let pass = |_| {
        let mut wire = Wire::clear(door);
        for byte in &hello {
            wire.send([*byte]).unwrap();
        }
        wire.half_close();
        wire.rest();
    };
    unharmed(
        "a hello of 64 KiB byte by byte at outbound",
        CALLS,
        BLOWS,
        caller(caller_of_it.outbound.parse().unwrap()),
        pass,
    );
    for _ in 0..BLOWS {
        assert!(hellos.recv_timeout(DEADLINE).unwrap() == hello, "the application got other bytes");
    }
    memory.is_bounded(SIDECAR_KIB_MAX);
}
