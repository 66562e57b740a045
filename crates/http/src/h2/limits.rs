//! What one connection may cost before its peer is refused, and what is announced to it.

/// Bounds of one connection. The defaults fit browsers, gRPC and sidecars that share one connection for everything; each named
/// flood ([`ConnectionError`](super::ConnectionError)) ends the connection, everything else costs one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams open at once: announced to clients, kept to as a client (beside what the server announces). 256 keeps a core busy at
    /// any latency that a mesh has; whoever needs more opens a further connection, which is also another task's work.
    pub streams_max: usize,
    /// Streams that ended but that the driver has not released yet, with the open ones. Twice the open ones: the driver gets to
    /// each within a turn. Above it new streams are refused (`REFUSED_STREAM`), so that opening and resetting in a row fills no memory.
    pub unreleased_streams_max: usize,
    /// Payload of one frame (`SETTINGS_MAX_FRAME_SIZE`). The least that is allowed: all but DATA waits in the read buffer until
    /// complete, and small frames let streams take turns.
    pub frame_bytes_max: usize,
    /// A head as RFC 9113, 6.5.2 counts it: names, values, and 32 bytes a field. The longest head that HTTP/1 may have (64 KiB), and
    /// what its fields count beside their text. A request above it is answered with 431, and the connection goes on.
    pub header_list_bytes_max: usize,
    /// Fields of a head or of a trailer section: as many as HTTP/1 allows.
    pub fields_max: usize,
    /// The header list at which the peer is an attacker: several times the allowed. Few bytes on the wire can name long entries of the
    /// table again and again (a header bomb); reading on, which keeps the table in step, ends here.
    pub header_bomb_bytes_max: usize,
    /// A header block as it is on the wire, in all its frames: a whole list without any compression.
    pub header_block_bytes_max: usize,
    /// CONTINUATION frames of one header block (CVE-2024-27316): a block that fills its frames has four.
    pub continuations_max: usize,
    /// A trailer section, counted like a head: what HTTP/1 takes. gRPC statuses with details fit.
    pub trailer_bytes_max: usize,
    /// Interim responses before the final one, as for HTTP/1.
    pub interim_max: u32,
    /// Bytes of our table of header fields that the peer may fill (`SETTINGS_HEADER_TABLE_SIZE`): RFC 9113's default. A mesh's
    /// requests have few distinct fields, and each connection has two tables.
    pub header_table_bytes_max: usize,
    /// What the peer may send on all streams before credit comes. It is credited on receipt: one stream whose reader stalls never
    /// holds up the others; memory is bounded by the streams' own windows. 16 MiB is 1.3 Gbit/s at 100 ms.
    pub connection_window_bytes: u32,
    /// What a stream's window grows to at most when round trips hold it up: 320 Mbit/s at 100 ms.
    pub stream_window_bytes_max: u32,
    /// By how much all windows of a connection together may have grown.
    pub grown_windows_bytes_max: u32,
    /// Streams that the peer made and then reset, or made us reset (CVE-2023-44487, CVE-2025-8671). Each stream that ends well earns
    /// one. All 256 streams given up ten times a second are callers with timeouts of 100 ms, and no more work than as many requests.
    pub resets: Rate,
    /// SETTINGS. Real peers change theirs a few times in a connection's life.
    pub settings: Rate,
    /// PING. Keep-alive needs one in seconds; gRPC measures bandwidth with one per round trip while data flows, so each frame
    /// with a head or data earns one.
    pub pings: Rate,
    /// DATA without a byte and without an end. Some senders flush that way; none does it all the time.
    pub empty_data: Rate,
    /// WINDOW_UPDATE. Our own DATA earns them: two a frame, and one for each 512 bytes more.
    pub window_updates: Rate,
    /// PRIORITY, which is ignored (RFC 9113, 5.3.2). Older browsers send a few at the start and one a request; each head earns one.
    pub priorities: Rate,
    /// Frames of kinds that we do not know and skip (RFC 9113, 4.1 and 5.5).
    pub unknown_frames: Rate,
    /// Frames on streams that are over. After a reset what was on its way still comes: a round trip's worth of every stream.
    pub late_frames: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_max: 256,
            unreleased_streams_max: 512,
            frame_bytes_max: 16_384,
            header_list_bytes_max: 68 * 1024,
            fields_max: 128,
            header_bomb_bytes_max: 256 * 1024,
            header_block_bytes_max: 80 * 1024,
            continuations_max: 16,
            trailer_bytes_max: 20 * 1024,
            interim_max: 32,
            header_table_bytes_max: 4_096,
            connection_window_bytes: 16 * 1024 * 1024,
            stream_window_bytes_max: 4 * 1024 * 1024,
            grown_windows_bytes_max: 16 * 1024 * 1024,
            resets: Rate { burst: 4_096, per_second: 2_560 },
            settings: Rate { burst: 64, per_second: 4 },
            pings: Rate { burst: 512, per_second: 64 },
            empty_data: Rate { burst: 512, per_second: 64 },
            window_updates: Rate { burst: 4_096, per_second: 1_024 },
            priorities: Rate { burst: 1_024, per_second: 64 },
            unknown_frames: Rate { burst: 512, per_second: 64 },
            late_frames: Rate { burst: 8_192, per_second: 1_024 },
        }
    }
}

impl Limits {
    /// For a proxy that hears another one: what that took by the defaults, in either version of HTTP, is not refused in the
    /// middle, whatever it added.
    pub fn between_proxies() -> Self {
        Self { header_list_bytes_max: 72 * 1024, fields_max: 144, ..Self::default() }
    }
}

/// So many at once, and so many each second after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub burst: u32,
    pub per_second: u32,
}
