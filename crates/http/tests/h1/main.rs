//! The HTTP/1 engine from outside: rows from the RFCs, what is refused, properties over generated
//! messages, and hyper and curl as the other end.
//!
//! | file | what |
//! |---|---|
//! | `rows.rs` | examples and rules of RFC 9110 and 9112, one each |
//! | `smuggling.rs` | what two parsers could split differently, and the error that names it |
//! | `properties.rs` | any cut gives the same events; what is written is read; any bytes, no panic |
//! | `hyper_client.rs`, `hyper_server.rs` | thousands of generated exchanges with hyper as the other end |
//! | `curl.rs` | curl over a loopback socket |
//! | `transcript.rs`, `exchange.rs`, `peer.rs`, `random.rs`, `fuzz.rs` | what these share |

mod curl;
mod exchange;
mod fuzz;
mod hyper_client;
mod hyper_server;
mod peer;
mod properties;
mod random;
mod rows;
mod smuggling;
mod transcript;
