//! Programs that we did not write take their config from our control plane: gRPC's C core (Python's `grpcio`) and
//! Envoy, without a sidecar.
//!
//! | file | what |
//! |---|---|
//! | `clear.rs` | to workloads without a sidecar: balance, changes, routes, time-outs, retries, a restart |
//! | `mtls.rs` | to a sidecar, with the certificate that `meshwork identity` wrote |
//! | `client.rs`, `client.py` | the program itself |
//! | `envoy_clear.rs`, `envoy_mtls.rs` | the same with Envoy |
//! | `envoy.rs` | Envoy itself |
//! | `loads.rs` | what both report of their load, and what is left of them once they are killed |
//! | `yaml.rs` | services and instances without a sidecar |

mod clear;
mod client;
mod envoy;
mod envoy_clear;
mod envoy_mtls;
mod loads;
mod mtls;
mod yaml;
