//! Programs that we did not write take their config from our control plane: gRPC's C core (Python's `grpcio`) without a
//! sidecar.
//!
//! | file | what |
//! |---|---|
//! | `clear.rs` | to workloads without a sidecar: balance, changes, routes, time-outs, retries, a restart |
//! | `mtls.rs` | to a sidecar, with the certificate that `meshwork identity` wrote |
//! | `client.rs`, `client.py` | the program itself |

mod clear;
mod client;
mod mtls;
