//! Hostile and broken input against a mesh of real processes: what attackers send, from inside the mesh and from outside,
//! and what it costs those who are honest. `docs/security.md` lists each attack with its answer and its test.
//!
//! | file | what |
//! |---|---|
//! | `ground.rs` | the mesh under attack: a control plane, a caller, a service, its application |
//! | `wire.rs` | a connection's client end that says what it likes, in clear or over TLS |
//! | `strict.rs` | the judge: requests as RFC 9112 splits them, and no other way |
//! | `second.rs` | a judge that we did not write: Node's parser |
//! | `recorder.rs` | an application that keeps every byte |
//! | `ledger.rs` | what was meant, against what arrived |
//! | `corpus.rs`, `smuggling.rs` | HTTP/1 that two parsers could split differently |
//! | `frames.rs`, `downgrade.rs` | HTTP/2 that would be another message as HTTP/1 |
//! | `honest.rs`, `memory.rs` | what an attack costs those beside it, and the process that it meets |
//! | `floods.rs`, `slow.rs` | too much, and too little, at every door |
//! | `hello.rs` | a ClientHello of 64 KiB that is whole, at once and a byte at a time |
//! | `tls.rs`, `identity.rs` | certificates, requests for them, and join tokens of every wrong kind |
//! | `grpc.rs`, `api.rs` | bombs of protobuf and compression at the control plane's doors for sidecars |
//! | `operators.rs` | the operators' API and the admin port |

#[path = "../support/mod.rs"]
mod support;

mod api;
mod corpus;
mod downgrade;
mod floods;
mod frames;
mod ground;
mod grpc;
mod hello;
mod honest;
mod identity;
mod ledger;
mod memory;
mod operators;
mod recorder;
mod second;
mod slow;
mod smuggling;
mod strict;
mod tls;
mod wire;
