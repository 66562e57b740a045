//! HTTP/2 (RFC 9113): one connection with all of its streams, as a state machine over bytes.
//!
//! | file | what |
//! |---|---|
//! | `hpack/` | heads on the wire, both directions |

pub mod hpack;
