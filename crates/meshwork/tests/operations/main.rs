//! Meshwork as it is operated on machines: operators from afar.
//!
//! | file | what |
//! |---|---|
//! | `login.rs` | `meshwork login` and the operators' commands over TLS, by role |

#[path = "../support/mod.rs"]
mod support;

mod login;
