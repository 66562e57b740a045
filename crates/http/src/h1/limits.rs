//! What one message may cost the receiver before its sender is refused.

/// Bounds of one received message. The defaults are for who stands before the first proxy, or behind the last: they fit what browsers,
/// gRPC gateways and large cookies need, and stay under what an origin would accept: nothing passes that it would refuse
/// for its size alone. Between proxies there is room for what the first one adds ([`Limits::between_proxies`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A head from its first byte through the empty line. 64 KiB is the driver's read buffer: a head
    /// that fits is parsed where it was read. (nginx allows 32 KiB, Envoy 60, Node 16.)
    pub head_bytes_max: usize,
    /// Fields of a head or of a trailer section. Hand-over costs grow with their number; Apache and
    /// hyper stop at 100, and a chain of proxies adds a few.
    pub fields_max: usize,
    /// The request target. Browsers and CDNs stop at 8 to 16 KiB; more gets 414.
    pub target_bytes_max: usize,
    /// Options in all `Connection` fields. Each one is compared with every field when a head is passed
    /// on, so a long list would be cheap to send and dear to read; real ones have three.
    pub connection_options_max: usize,
    /// Extension bytes of all chunks of one body. They are read and thrown away: nobody uses them but
    /// those who want a server to read much and see little.
    pub chunk_extension_bytes_max: usize,
    /// A trailer section through its empty line. gRPC statuses with details fit.
    pub trailer_bytes_max: usize,
    /// Empty lines before a request line (RFC 9112, 2.2: at least one is to be ignored, for old
    /// clients that send one after a body).
    pub empty_lines_max: usize,
    /// Interim responses before the final one. A server sends 100, perhaps 103 once or twice and 102
    /// while it works; without a bound a response could go on for ever without beginning.
    pub interim_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            fields_max: 128,
            target_bytes_max: 16 * 1024,
            connection_options_max: 32,
            chunk_extension_bytes_max: 16 * 1024,
            trailer_bytes_max: 16 * 1024,
            empty_lines_max: 4,
            interim_max: 32,
        }
    }
}

impl Limits {
    /// For a proxy that hears another one: what that took by the defaults is not refused in the middle, whatever it added.
    pub fn between_proxies() -> Self {
        Self { head_bytes_max: 72 * 1024, fields_max: 144, ..Self::default() }
    }
}
