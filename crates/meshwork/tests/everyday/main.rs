//! Programs that everybody uses, captured and told nothing: what they do among themselves stays theirs, and what they ask of
//! services is answered. Needs root, nftables and cgroup v2; each test has a network namespace of its own.
//!
//! | file | what |
//! |---|---|
//! | `place.rs` | the namespace, and the mesh in it |
//! | `clients.rs` | curl, wget, nginx, redis-cli and others, by a service's name |
//! | `database.rs` | MariaDB, whose server speaks first |
//! | `untouched.rs` | what passes by: loopback, UNIX sockets, UDP, multicast |
//! | `connections.rs` | many, long ones, to oneself, to programs that come late |
//! | `programs.py` | what no everyday program does of itself, step by step |

mod clients;
mod connections;
mod database;
mod place;
#[path = "../support/mod.rs"]
mod support;
mod untouched;
