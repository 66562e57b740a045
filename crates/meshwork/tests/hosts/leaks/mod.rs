//! Nothing is said in clear, and nobody comes in past a sidecar: whoever is killed, and on odd hosts. Requests and answers carry
//! a word; all that crosses between hosts is searched for it.
//!
//! | file | what |
//! |---|---|
//! | `stage.rs` | a control plane, who calls without an end, and who answers |
//! | `killed.rs` | sidecars and supervisors that are killed with -9 |
//! | `odd.rs` | hosts without a default route or IPv6, cgroups that are made again, sockets from before, UDP |
//! | `outsiders.rs` | other programs and users of the same host |

mod killed;
mod odd;
mod outsiders;
mod stage;
