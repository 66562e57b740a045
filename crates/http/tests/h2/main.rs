//! The HTTP/2 engine from outside: both of its ends against each other, against the h2 crate, against hostile bytes, and
//! between two connections of HTTP/1.
//!
//! | file | what |
//! |---|---|
//! | `interleavings.rs` | both ends in thousands of drawn orders: loss, resets, going away, slow readers |
//! | `cuts.rs` | any cut of any bytes is told alike; no bytes make it panic |
//! | `crate_client.rs`, `crate_server.rs` | thousands of generated exchanges with the h2 crate as the other end |
//! | `drive.rs` | our end over an async stream, and the other end's messages as values |
//! | `translation.rs` | HTTP/1 through HTTP/2 and back, and the other way round |
//! | `exchange.rs`, `end.rs` | generated exchanges, and a driver that carries them out and checks every step |
//! | `judge.rs` | looks at the frames alone: flow control, states, numbers |

mod crate_client;
mod crate_server;
mod cuts;
mod drive;
mod end;
mod exchange;
mod interleavings;
mod judge;
#[path = "../h1/random.rs"]
mod random;
mod translation;
