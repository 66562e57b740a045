//! A mesh on several hosts, each a network, mounts and a cgroup of its own: control plane and sidecars are the real binary,
//! applications and callers are programs that know nothing of a mesh. All that crosses between hosts is recorded.
//!
//! Needs root, cgroup v2, nftables, tcpdump and the programs that are captured.
//!
//! | file | what |
//! |---|---|
//! | `ground.rs` | the hosts themselves: cuts cut, the recorder sees what is sent in clear, nothing is left |
//! | `leaks/` | whoever is killed, and on odd hosts: nothing in clear, nobody past a sidecar |
//! | `everyday.rs` | plain programs use four services on three hosts, and nothing stays behind |
//! | `apart.rs` | hosts that are cut off, vanish, or are far |
//! | `mesh.rs`, `caller.py` | the mesh on the hosts; callers that write down how each request ended |
//! | `grpc.rs`, `peer.py` | gRPC's server and client |

mod apart;
mod everyday;
mod ground;
mod grpc;
mod leaks;
mod mesh;
#[path = "../support/mod.rs"]
mod support;
