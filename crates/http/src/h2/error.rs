//! Everything that the engine refuses: a sentence, a word for metrics and logs, and what the peer is told.
//!
//! [`ConnectionError`] ends the connection: its state can no longer be trusted, or the peer is at war. [`Reason`] ends one stream.
//! [`SendError`] and [`NotOpened`] are told to our own driver; the peer never hears of them.

use std::fmt;

/// What `RST_STREAM` and `GOAWAY` carry (RFC 9113, 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const INTERNAL_ERROR: Self = Self(0x2);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const CONNECT_ERROR: Self = Self(0xa);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);

    /// As RFC 9113 spells it; `None` for a code that it does not know.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::NO_ERROR => "NO_ERROR",
            Self::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Self::INTERNAL_ERROR => "INTERNAL_ERROR",
            Self::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            Self::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
            Self::STREAM_CLOSED => "STREAM_CLOSED",
            Self::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            Self::REFUSED_STREAM => "REFUSED_STREAM",
            Self::CANCEL => "CANCEL",
            Self::COMPRESSION_ERROR => "COMPRESSION_ERROR",
            Self::CONNECT_ERROR => "CONNECT_ERROR",
            Self::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            Self::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
            Self::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
            Self(_) => return None,
        })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One enum of errors with its sentences, words and codes: a row each, so that none of the three can be forgotten.
macro_rules! errors {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident, $code:ident, $word:literal, $sentence:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum $name {
            $($(#[$doc])* #[error($sentence)] $variant,)*
        }

        impl $name {
            /// All of them, for tests and tables.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The one table from an error to what the peer is told.
            pub const fn code(self) -> ErrorCode {
                match self {
                    $(Self::$variant => ErrorCode::$code,)*
                }
            }

            /// One stable word, for metric labels and logs.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

errors! {
    /// Why a connection is over. `GOAWAY` with [`ConnectionError::code`] was written: flush it, then close.
    ConnectionError {
        InvalidPreface, PROTOCOL_ERROR, "invalid_preface", "the connection does not begin with HTTP/2's preface";
        Http1, HTTP_1_1_REQUIRED, "http1", "the peer answers in HTTP/1: it does not speak HTTP/2, or not on this port";
        FirstNotSettings, PROTOCOL_ERROR, "first_not_settings", "the peer's first frame is not SETTINGS";
        FrameTooLarge, FRAME_SIZE_ERROR, "frame_too_large", "a frame is longer than SETTINGS_MAX_FRAME_SIZE allows";
        FrameSize, FRAME_SIZE_ERROR, "frame_size", "a frame has not the length that its kind has";
        NotOnStreamZero, PROTOCOL_ERROR, "not_on_stream_zero", "a frame that belongs to a stream came on stream 0";
        OnlyOnStreamZero, PROTOCOL_ERROR, "only_on_stream_zero", "a frame that belongs to the connection came on a stream";
        PaddingTooLong, PROTOCOL_ERROR, "padding_too_long", "a frame's padding is longer than the frame";
        InvalidStreamNumber, PROTOCOL_ERROR, "invalid_stream_number", "a stream was opened with a number that its peer may not use or used before";
        IdleStream, PROTOCOL_ERROR, "idle_stream", "a frame came on a stream that nobody opened";
        HeadersOnClosedStream, STREAM_CLOSED, "headers_on_closed_stream", "HEADERS came on a stream that its sender had ended";
        DataOnClosedStream, STREAM_CLOSED, "data_on_closed_stream", "DATA came on a stream that its sender had ended";
        Interleaved, PROTOCOL_ERROR, "interleaved", "another frame came within a header block";
        UnaskedContinuation, PROTOCOL_ERROR, "unasked_continuation", "CONTINUATION came without a header block before it";
        Push, PROTOCOL_ERROR, "push", "PUSH_PROMISE came, which we never allow";
        InvalidSetting, PROTOCOL_ERROR, "invalid_setting", "a setting has a value that it may not have";
        InvalidWindowSetting, FLOW_CONTROL_ERROR, "invalid_window_setting", "SETTINGS_INITIAL_WINDOW_SIZE is, or makes a stream's window, larger than 2^31-1";
        ZeroIncrement, PROTOCOL_ERROR, "zero_increment", "WINDOW_UPDATE for the connection has an increment of zero";
        WindowOverflow, FLOW_CONTROL_ERROR, "window_overflow", "WINDOW_UPDATE makes the connection's window larger than 2^31-1";
        WindowExceeded, FLOW_CONTROL_ERROR, "window_exceeded", "more DATA came than the connection's window allows";
        Compression, COMPRESSION_ERROR, "compression", "a header block is no valid HPACK";
        HeaderBlockTooLarge, ENHANCE_YOUR_CALM, "header_block_too_large", "a header block is longer than allowed (limit header_block_bytes_max)";
        HeaderBomb, ENHANCE_YOUR_CALM, "header_bomb", "a header block names far more bytes than a head may have (limit header_bomb_bytes_max)";
        ContinuationFlood, ENHANCE_YOUR_CALM, "continuation_flood", "a header block has more CONTINUATION frames than allowed (limit continuations_max)";
        RapidReset, ENHANCE_YOUR_CALM, "rapid_reset", "the peer opens streams to reset them, or to have them reset (limit resets)";
        SettingsFlood, ENHANCE_YOUR_CALM, "settings_flood", "the peer sends SETTINGS all the time (limit settings)";
        PingFlood, ENHANCE_YOUR_CALM, "ping_flood", "the peer sends PING all the time (limit pings)";
        EmptyDataFlood, ENHANCE_YOUR_CALM, "empty_data_flood", "the peer sends empty DATA all the time (limit empty_data)";
        WindowUpdateFlood, ENHANCE_YOUR_CALM, "window_update_flood", "the peer sends WINDOW_UPDATE all the time (limit window_updates)";
        PriorityFlood, ENHANCE_YOUR_CALM, "priority_flood", "the peer sends PRIORITY all the time (limit priorities)";
        UnknownFrameFlood, ENHANCE_YOUR_CALM, "unknown_frame_flood", "the peer sends frames of unknown kinds all the time (limit unknown_frames)";
        LateFrameFlood, ENHANCE_YOUR_CALM, "late_frame_flood", "the peer sends frames on streams that are over all the time (limit late_frames)";
    }
}

errors! {
    /// Why we reset a stream, or refused one: what its peer sent on it.
    Reason {
        InvalidFieldName, PROTOCOL_ERROR, "invalid_field_name", "a field's name is empty, in upper case, or no token";
        InvalidFieldValue, PROTOCOL_ERROR, "invalid_field_value", "a field's value holds a control byte, or begins or ends with a blank";
        ConnectionField, PROTOCOL_ERROR, "connection_field", "a field is there that concerns an HTTP/1 connection alone";
        InvalidTe, PROTOCOL_ERROR, "invalid_te", "TE is not `trailers`";
        UnknownPseudoField, PROTOCOL_ERROR, "unknown_pseudo_field", "a pseudo-header field is not one of this kind of message";
        RepeatedPseudoField, PROTOCOL_ERROR, "repeated_pseudo_field", "a pseudo-header field is given more than once";
        LatePseudoField, PROTOCOL_ERROR, "late_pseudo_field", "a pseudo-header field comes after a field, or in trailers";
        MissingPseudoField, PROTOCOL_ERROR, "missing_pseudo_field", "a pseudo-header field that must be there is missing";
        ForbiddenPseudoField, PROTOCOL_ERROR, "forbidden_pseudo_field", "CONNECT has a scheme or a path";
        InvalidMethod, PROTOCOL_ERROR, "invalid_method", "the method is not a token";
        InvalidScheme, PROTOCOL_ERROR, "invalid_scheme", "the scheme has bytes that no scheme has";
        InvalidPath, PROTOCOL_ERROR, "invalid_path", "the path does not begin with `/`, or has bytes that no path has";
        InvalidAuthority, PROTOCOL_ERROR, "invalid_authority", "the authority, or Host, is not `host` or `host:port`";
        MissingAuthority, PROTOCOL_ERROR, "missing_authority", "the request names nobody: neither an authority nor Host";
        RepeatedHost, PROTOCOL_ERROR, "repeated_host", "the request has several Host fields";
        HostDiffers, PROTOCOL_ERROR, "host_differs", "Host names somebody else than the authority does";
        ProtocolWithoutConnect, PROTOCOL_ERROR, "protocol_without_connect", "`:protocol` is there, but not with CONNECT";
        ConnectWithBody, PROTOCOL_ERROR, "connect_with_body", "a CONNECT request declares a body";
        InvalidStatus, PROTOCOL_ERROR, "invalid_status", "the status is not three digits, or is 101, which HTTP/2 has not";
        InterimWithEnd, PROTOCOL_ERROR, "interim_with_end", "an interim response ends its stream";
        TooManyInterim, ENHANCE_YOUR_CALM, "too_many_interim", "more interim responses came than allowed (limit interim_max)";
        InvalidContentLength, PROTOCOL_ERROR, "invalid_content_length", "Content-Length is not one plain number";
        RepeatedContentLength, PROTOCOL_ERROR, "repeated_content_length", "Content-Length is given more than once";
        LengthMismatch, PROTOCOL_ERROR, "length_mismatch", "the body has not as many bytes as Content-Length says";
        UnexpectedBody, PROTOCOL_ERROR, "unexpected_body", "a response that has no body has one";
        DataBeforeHead, PROTOCOL_ERROR, "data_before_head", "DATA came before a head";
        TrailersWithoutEnd, PROTOCOL_ERROR, "trailers_without_end", "a second head came that does not end the message";
        HeaderListTooLarge, ENHANCE_YOUR_CALM, "header_list_too_large", "the head or the trailers are longer than allowed (limits header_list_bytes_max, trailer_bytes_max)";
        TooManyFields, ENHANCE_YOUR_CALM, "too_many_fields", "the head or the trailers have more fields than allowed (limit fields_max)";
        AfterEnd, STREAM_CLOSED, "after_end", "HEADERS or DATA came after the message's end";
        WindowExceeded, FLOW_CONTROL_ERROR, "stream_window_exceeded", "more DATA came than the stream's window allows";
        WindowOverflow, FLOW_CONTROL_ERROR, "stream_window_overflow", "WINDOW_UPDATE makes the stream's window larger than 2^31-1";
        ZeroIncrement, PROTOCOL_ERROR, "stream_zero_increment", "WINDOW_UPDATE for the stream has an increment of zero";
        InvalidPriority, FRAME_SIZE_ERROR, "invalid_priority", "PRIORITY has not its five bytes";
        TooManyStreams, REFUSED_STREAM, "too_many_streams", "more streams were opened than allowed (limits streams_max, unreleased_streams_max)";
    }
}

/// Why nothing was written on a stream. The stream's state is as before; the driver resets it if it cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the stream is over")]
    Closed,
    #[error("the message had ended before")]
    Ended,
    #[error("body bytes or an end came before a head")]
    NoHead,
    #[error("a second head was to be written")]
    SecondHead,
    #[error("the head is of the wrong kind for this call, or is 101, which HTTP/2 has not")]
    WrongKind,
    #[error("the body has more bytes than its Content-Length, by {excess}")]
    TooLong { excess: u64 },
    #[error("the body ended {missing} bytes before its Content-Length")]
    TooShort { missing: u64 },
}

/// Why a request got no stream. Nothing was written: the request can go another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    #[error("as many streams are open as the peer, or our own limit streams_max, allows")]
    Full,
    #[error("the connection is going away")]
    GoingAway,
    #[error("the connection has used up its stream numbers")]
    NumbersUsedUp,
    #[error("the head is not a request that HTTP/2 can carry: no method, or nobody is named")]
    WrongKind,
    #[error("the peer does not take CONNECT with a protocol (RFC 8441)")]
    NoConnectProtocol,
    #[error("the request has no body, but its Content-Length says {missing} bytes")]
    TooShort { missing: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_one_error_each() {
        let mut words: Vec<_> = ConnectionError::ALL
            .iter()
            .map(|e| e.word())
            .chain(Reason::ALL.iter().map(|r| r.word()))
            .collect();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn codes_are_shown_by_name() {
        assert_eq!(ErrorCode(0xb).to_string(), "ENHANCE_YOUR_CALM");
        assert_eq!(ErrorCode(0xbeef).to_string(), "error code 0xbeef");
    }
}
