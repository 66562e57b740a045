//! Two sidecars between a client and an application, over real sockets: what goes in comes out, and
//! what must not pass does not.
//!
//! Client and application are spoken by the test itself (`talk.rs`), line by line, so that every test is
//! a conversation in its order. Nothing waits for time: each step waits for the bytes of the one before.

mod support;
mod talk;

mod bodies;
mod bulk;
mod clients;
mod grpc;
mod http;
mod life;
mod opaque;
mod outbound;
mod peers;
mod refused;
mod retry;
mod telemetry;
