//! Messages of the DNS (RFC 1035, 6891): what a client asks, what we answer, what passes between it and a resolver.
//!
//! | file | what |
//! |---|---|
//! | `receive.rs` | bytes of a client -> a query, or the answer that it gets for something else |
//! | `query.rs` | what a client asks |
//! | `reply.rs` | answers of our own: names of the mesh, and failures |
//! | `relay.rs` | a query as a resolver is asked it; its answer judged, and made one for the client |
//! | `cache.rs` | which answers are kept for how long |
//! | `resolv_conf.rs`, `hosts.rs` | the resolvers of a host, and the names that it gave addresses itself |
//! | `own.rs` | a question of our own, and the addresses in its answer |
//! | `walk.rs` | the way through a message |
//!
//! A resolver's answer is not taken apart and written again: its bytes pass as they are, but for ID, times to live and
//! what is between two hops (OPT). So a record that nobody here has heard of is no reason to fail.
//!
//! Pure: bytes in, bytes out. Which names are ours is `names.rs`; sockets and waiting are `proxy/src/side/dns/`.

pub mod cache;
pub mod hosts;
pub mod own;
pub mod query;
mod receive;
pub mod relay;
pub mod reply;
pub mod resolv_conf;
mod walk;

pub use query::Query;
pub use receive::{Received, receive};

/// What an answer over UDP may have at most, and what resolvers are told: it passes every network in one piece (DNS flag
/// day 2020). What is larger is asked for again over TCP.
pub const UDP_BYTES_MAX: usize = 1_232;

/// Over UDP, to who says nothing of size (RFC 1035, 4.2.1).
pub const PLAIN_UDP_BYTES_MAX: usize = 512;

/// Over TCP: the length has two bytes.
pub const TCP_BYTES_MAX: usize = 65_535;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// How a query ended (RCODE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    NoError,
    /// The query can't be read.
    FormErr,
    ServFail,
    NxDomain,
    /// No such kind of query here.
    NotImp,
    Refused,
    /// A version of EDNS that we do not speak.
    BadVers,
}

impl Code {
    /// The upper 8 bits stand in the OPT record.
    fn number(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::BadVers => 16,
        }
    }
}

/// Bits of a header's second word.
mod bits {
    pub(super) const RESPONSE: u16 = 1 << 15;
    pub(super) const OPCODE: u16 = 0b1111 << 11;
    pub(super) const AUTHORITATIVE: u16 = 1 << 10;
    pub(super) const TRUNCATED: u16 = 1 << 9;
    pub(super) const RECURSION_DESIRED: u16 = 1 << 8;
    pub(super) const RECURSION_AVAILABLE: u16 = 1 << 7;
    pub(super) const AUTHENTIC_DATA: u16 = 1 << 5;
    pub(super) const CHECKING_DISABLED: u16 = 1 << 4;
    pub(super) const CODE: u16 = 0b1111;
}

/// Numbers of types and classes.
mod number {
    pub(super) const A: u16 = 1;
    pub(super) const NS: u16 = 2;
    pub(super) const CNAME: u16 = 5;
    pub(super) const SOA: u16 = 6;
    pub(super) const PTR: u16 = 12;
    pub(super) const MX: u16 = 15;
    pub(super) const AAAA: u16 = 28;
    pub(super) const SRV: u16 = 33;
    pub(super) const DNAME: u16 = 39;
    pub(super) const OPT: u16 = 41;
    /// From here to 254 they are no records, but wishes: keys, signatures, whole zones.
    pub(super) const TKEY: u16 = 249;
    pub(super) const MAILA: u16 = 254;
    pub(super) const ANY: u16 = 255;
    pub(super) const INTERNET: u16 = 1;
}
