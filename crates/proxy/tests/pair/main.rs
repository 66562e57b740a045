//! Two sidecars between a client and an application, over real sockets: what goes in comes out, and
//! what must not pass does not.
//!
//! Client and application are spoken by the test itself (`talk.rs`), line by line, so that every test is
//! a conversation in its order. Nothing waits for time: each step waits for the bytes of the one before.
//!
//! The same conversations for each way in which sidecars speak with each other: the modules are the same
//! files, and `HTTP2` says which way it is. Applications must not notice.
#![allow(clippy::duplicate_mod)] // on purpose: see above

#[path = "."]
mod over_http1 {
    pub(crate) const HTTP2: bool = false;

    mod netns;
    mod streams;
    mod support;
    mod talk;

    mod any_server;
    mod balance;
    mod bodies;
    mod bulk;
    mod captured;
    mod captured_inbound;
    mod ceilings;
    mod clients;
    mod grpc;
    mod http;
    mod http2;
    mod life;
    mod limits;
    mod opaque;
    mod outbound;
    mod outlier;
    mod peers;
    mod refused;
    mod retry;
    mod rotation;
    mod telemetry;
    mod timeouts;
}

#[path = "."]
mod over_http2 {
    pub(crate) const HTTP2: bool = true;

    mod netns;
    mod streams;
    mod support;
    mod talk;

    mod any_server;
    mod balance;
    mod bodies;
    mod bulk;
    mod captured;
    mod captured_inbound;
    mod ceilings;
    mod clients;
    mod grpc;
    mod http;
    mod http2;
    mod life;
    mod limits;
    mod opaque;
    mod outbound;
    mod outlier;
    mod peers;
    mod refused;
    mod retry;
    mod rotation;
    mod telemetry;
    mod timeouts;
}
