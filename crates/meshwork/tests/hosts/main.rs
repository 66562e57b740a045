//! A mesh on several hosts, each a network, mounts and a cgroup of its own: control plane and sidecars are the real binary,
//! applications and callers are programs that know nothing of a mesh. All that crosses between hosts is recorded.
//!
//! Needs root, cgroup v2, nftables, tcpdump and the programs that are captured.
//!
//! | file | what |
//! |---|---|
//! | `ground.rs` | the hosts themselves: cuts cut, the recorder sees what is sent in clear, nothing is left |
//! | `leaks/` | whoever is killed, and on odd hosts: nothing in clear, nobody past a sidecar |

mod ground;
mod leaks;
#[path = "../support/mod.rs"]
mod support;
