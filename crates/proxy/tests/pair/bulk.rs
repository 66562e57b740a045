//! A gigabyte each way at once, in constant memory: nothing is buffered whole anywhere.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use meshwork_core::model::AppProtocol;

use super::support::{Mesh, Pair, Sidecar, endpoint};
use super::talk::{App, Talk, alone};

const BLOCK_BYTES: usize = 64 * 1024;

/// What the process may grow by while the bytes pass: two sidecars' buffers, four sockets' ends and the
/// allocator's slack. Far less than what passes.
const GROWTH_MAX: u64 = 40 * 1024 * 1024;

/// A full gigabyte where the code is optimised; `MESHWORK_TEST_BYTES` says another number.
fn bytes_each_way() -> usize {
    let told = std::env::var("MESHWORK_TEST_BYTES").ok().map(|bytes| bytes.parse().unwrap());
    let bytes = told.unwrap_or(if cfg!(debug_assertions) { 64 << 20 } else { 1 << 30 });
    bytes / BLOCK_BYTES * BLOCK_BYTES
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A block that says which one it is.
fn block(index: usize) -> Vec<u8> {
    let mut block = vec![index as u8; BLOCK_BYTES];
    block[..8].copy_from_slice(&(index as u64).to_be_bytes());
    block
}

fn generate(mut to: TcpStream, bytes: usize) {
    for index in 0..bytes / BLOCK_BYTES {
        to.write_all(&block(index)).unwrap();
    }
}

fn swallow(mut from: TcpStream, bytes: usize, peak: &AtomicU64) {
    let mut taken = vec![0; BLOCK_BYTES];
    for index in 0..bytes / BLOCK_BYTES {
        from.read_exact(&mut taken).unwrap();
        assert!(taken == block(index), "block {index} is another");
        peak.fetch_max(resident_bytes(), Ordering::Relaxed);
    }
}

/// Both directions of both ends at once.
fn pass_both_ways(client: &TcpStream, served: &TcpStream, bytes: usize) {
    let before = resident_bytes();
    let peak = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for end in [client, served] {
        let (to, from, peak) = (end.try_clone().unwrap(), end.try_clone().unwrap(), peak.clone());
        threads.push(thread::spawn(move || generate(to, bytes)));
        threads.push(thread::spawn(move || swallow(from, bytes, &peak)));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let growth = peak.load(Ordering::Relaxed).saturating_sub(before);
    assert!(growth < GROWTH_MAX, "{} MiB more while {} MiB passed", growth >> 20, bytes >> 20);
}

#[test]
fn bodies_of_a_gigabyte_pass_both_ways_at_once_in_constant_memory() {
    alone(module_path!(), "bodies_of_a_gigabyte_pass_both_ways_at_once_in_constant_memory", || {
        let (app, bytes) = (App::listen(), bytes_each_way());
        let pair = Pair::start(app.port);
        let mut client = Talk::to(pair.web.outbound);
        client.send(format!("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: {bytes}\r\n\r\n"));
        let mut served = app.accept();
        served.head();
        served.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"));
        client.head().expect("HTTP/1.1 200 OK");
        pass_both_ways(&client.into_socket(), &served.into_socket(), bytes);
    });
}

#[test]
fn opaque_gigabytes_pass_both_ways_at_once_in_constant_memory() {
    alone(module_path!(), "opaque_gigabytes_pass_both_ways_at_once_in_constant_memory", || {
        let (app, bytes) = (App::listen(), bytes_each_way());
        let pair = Pair::start(app.port);
        let mut client = Talk::to(pair.web.upstreams[0]);
        client.send([0, 1, 2, 3]);
        let mut served = app.accept();
        served.expect([0, 1, 2, 3]);
        pass_both_ways(&client.into_socket(), &served.into_socket(), bytes);
    });
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_not_the_memory() {
    alone(module_path!(), "a_reader_that_stops_stops_the_writer_and_not_the_memory", || {
        let app = App::listen();
        let pair = Pair::start(app.port);
        let mut client = Talk::to(pair.web.outbound);
        client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 1000000000\r\n\r\n");
        let mut served = app.accept();
        served.head();
        let before = resident_bytes();
        let mut socket = client.into_socket();
        socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut passed = 0;
        while let Ok(count) = socket.write(&[b'x'; BLOCK_BYTES]) {
            passed += count;
            assert!(passed < 100 << 20, "nobody reads, and it still takes more");
        }
        assert!(resident_bytes().saturating_sub(before) < GROWTH_MAX);
    });
}

/// CPU time that this process has used.
fn used() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10) // USER_HZ is 100 on every Linux
}

#[test]
fn a_client_of_http2_that_gives_credit_and_does_not_read_keeps_nobody_busy() {
    alone(module_path!(), "a_client_of_http2_that_gives_credit_and_does_not_read_keeps_nobody_busy", || {
        let app = App::listen();
        let mesh = Mesh::new();
        let cart = Sidecar::start_with(&mesh, "cart", &[app.port], &[], |settings| {
            settings.ports[0].protocol = Some(AppProtocol::Http);
        });
        let web = Sidecar::start(&mesh, "web", &[], &[]);
        web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
        let mut client = Talk::to(web.outbound);
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.send(b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff"); // SETTINGS: as large a window as there is
        client.send(b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0"); // and for the connection
        client.send(b"\0\0\x09\x01\x05\0\0\0\x01\x82\x86\x84\x41\x04cart"); // GET http://cart/
        let mut served = app.accept();
        served.head();
        served.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let mut socket = served.into_socket();
        socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        while socket.write(&[b'x'; BLOCK_BYTES]).is_ok() {}
        let before = used();
        assert!(socket.write(&[b'x'; BLOCK_BYTES]).is_err(), "it still takes more");
        let busy = used() - before;
        assert!(busy < Duration::from_millis(150), "{busy:?} of CPU time in 300 ms of waiting");
    });
}
