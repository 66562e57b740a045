//! The HTTP/2 engine from outside: both of its ends against each other, against the h2 crate, against hostile bytes, and
//! between two connections of HTTP/1.
//!
//! | file | what |
//! |---|---|
//! | `interleavings.rs` | both ends in thousands of drawn orders: loss, resets, going away, slow readers |
//! | `cuts.rs`, `transcript.rs` | any cut of any bytes is told alike; no bytes make it panic |
//! | `crate_client.rs`, `crate_server.rs` | thousands of generated exchanges with the h2 crate as the other end |
//! | `drive.rs` | our end over an async stream, and the other end's messages as values |
//! | `translation.rs` | HTTP/1 through HTTP/2 and back, and the other way round |
//! | `smuggling.rs` | no fields become another message where they are passed on as HTTP/1 |
//! | `exchange.rs`, `end.rs` | generated exchanges, and a driver that carries them out and checks every step |
//! | `peers.rs`, `peers_grpc.rs`, `peers_node.rs` | curl, nghttp, h2load, grpcio and Node at the other end of a socket |
//! | `driver.rs`, `client.rs` | the server and the client that they speak with; `examples/h2_server.rs` is the same for h2spec |
//! | `skew/` | what an earlier version's sidecars said to each other, at both ends of this one |
//! | `judge.rs` | looks at the frames alone: flow control, states, numbers |

#![allow(clippy::disallowed_methods)] // here the tests are the driver: sockets, files and the environment are their own

mod client;
mod crate_client;
mod crate_server;
mod cuts;
mod drive;
mod driver;
mod end;
mod exchange;
mod interleavings;
mod judge;
mod peers;
mod peers_grpc;
mod peers_node;
#[path = "../h1/random.rs"]
mod random;
mod skew;
mod smuggling;
mod transcript;
mod translation;
