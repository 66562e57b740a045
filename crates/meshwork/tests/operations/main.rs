//! Meshwork as it is operated on machines: operators from afar, units of systemd.
//!
//! | file | what |
//! |---|---|
//! | `login.rs` | `meshwork login` and the operators' commands over TLS, by role |
//! | `service.rs` | what a service manager is told, and the socket that it holds |
//! | `units.rs` | `deploy/systemd`, as systemd's own tool judges it |
//! | `booted.rs`, `boot.sh` | the same, run by a real systemd |

#[path = "../support/mod.rs"]
mod support;

mod booted;
mod login;
mod service;
mod units;
