//! Everything that the engine refuses: a sentence, a word for metrics and logs, and a status.
//!
//! Whoever sent the bytes is at fault: the client for a request (answer [`ReceiveError::status`], then
//! close), the origin for a response (a gateway answers 502). After an error the connection's further
//! bytes mean nothing: the receiver gives the same error for ever.

use crate::StatusCode;

/// Why received bytes are no message that can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    #[error("a line of the head ends with a line feed alone; HTTP wants CR LF")]
    BareLineFeed,
    #[error("there are too many empty lines before the request")]
    TooManyEmptyLines,
    #[error("the request line is not `method SP target SP HTTP/1.1`")]
    InvalidRequestLine,
    #[error("the method is not a token")]
    InvalidMethod,
    #[error("the request target has bytes or a form that no target has")]
    InvalidTarget,
    #[error("the request target is longer than allowed")]
    TargetTooLong,
    #[error("the status line is not `HTTP/1.1 SP code SP reason`")]
    InvalidStatusLine,
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    UnsupportedVersion,
    #[error("a field's name is empty, is no token, or is parted from its colon")]
    InvalidFieldName,
    #[error("a field's value holds a control byte")]
    InvalidFieldValue,
    #[error("a field is folded over several lines")]
    FoldedField,
    #[error("the head is longer than allowed")]
    HeadTooLarge,
    #[error("the head has more fields than allowed")]
    TooManyFields,
    #[error("an HTTP/1.1 request has no Host")]
    MissingHost,
    #[error("the request has several Host fields")]
    RepeatedHost,
    #[error("Host is not `host` or `host:port`")]
    InvalidHost,
    #[error("Content-Length is not one plain number")]
    InvalidContentLength,
    #[error("Content-Length is given more than once")]
    RepeatedContentLength,
    #[error("both Content-Length and Transfer-Encoding are given")]
    LengthAndEncoding,
    #[error("Transfer-Encoding is malformed, or is not `chunked` once")]
    InvalidTransferEncoding,
    #[error("Transfer-Encoding names a coding other than chunked")]
    UnsupportedTransferEncoding,
    #[error("Transfer-Encoding is given in HTTP/1.0, which has none")]
    EncodingInHttp10,
    #[error("Connection lists more options than allowed")]
    TooManyConnectionOptions,
    #[error("a CONNECT request declares a body")]
    ConnectWithBody,
    #[error("a chunk's size is not a plain hexadecimal number of at most 64 bits")]
    InvalidChunkSize,
    #[error("a chunk's extension holds a control byte")]
    InvalidChunkExtension,
    #[error("the chunks' extensions are longer than allowed")]
    ChunkExtensionsTooLong,
    #[error("a chunk does not end where its size says")]
    MissingChunkEnd,
    #[error("the trailer section is longer than allowed")]
    TrailersTooLarge,
    #[error("bytes came where no response was expected")]
    UnaskedResponse,
    #[error("the protocol was switched though nobody had asked for it")]
    UnaskedUpgrade,
    #[error("more interim responses came than allowed")]
    TooManyInterim,
    #[error("the connection ended before a byte of the response came")]
    ClosedBeforeResponse,
    #[error("the connection ended within a head")]
    TruncatedHead,
    #[error("the connection ended within a body")]
    TruncatedBody,
}

impl ReceiveError {
    /// The answer to a request that is refused. (To a refused response a gateway's answer is 502.)
    pub const fn status(self) -> StatusCode {
        match self {
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge => {
                StatusCode::HEADERS_TOO_LARGE
            }
            Self::UnsupportedTransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::UnsupportedVersion => StatusCode::VERSION_NOT_SUPPORTED,
            Self::UnaskedResponse
            | Self::UnaskedUpgrade
            | Self::TooManyInterim
            | Self::ClosedBeforeResponse
            | Self::InvalidStatusLine => StatusCode::BAD_GATEWAY,
            Self::BareLineFeed
            | Self::TooManyEmptyLines
            | Self::InvalidRequestLine
            | Self::InvalidMethod
            | Self::InvalidTarget
            | Self::InvalidFieldName
            | Self::InvalidFieldValue
            | Self::FoldedField
            | Self::MissingHost
            | Self::RepeatedHost
            | Self::InvalidHost
            | Self::InvalidContentLength
            | Self::RepeatedContentLength
            | Self::LengthAndEncoding
            | Self::InvalidTransferEncoding
            | Self::EncodingInHttp10
            | Self::TooManyConnectionOptions
            | Self::ConnectWithBody
            | Self::InvalidChunkSize
            | Self::InvalidChunkExtension
            | Self::ChunkExtensionsTooLong
            | Self::MissingChunkEnd
            | Self::TruncatedHead
            | Self::TruncatedBody => StatusCode::BAD_REQUEST,
        }
    }

    /// One stable word, for metric labels and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::BareLineFeed => "bare_line_feed",
            Self::TooManyEmptyLines => "too_many_empty_lines",
            Self::InvalidRequestLine => "invalid_request_line",
            Self::InvalidMethod => "invalid_method",
            Self::InvalidTarget => "invalid_target",
            Self::TargetTooLong => "target_too_long",
            Self::InvalidStatusLine => "invalid_status_line",
            Self::UnsupportedVersion => "unsupported_version",
            Self::InvalidFieldName => "invalid_field_name",
            Self::InvalidFieldValue => "invalid_field_value",
            Self::FoldedField => "folded_field",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::MissingHost => "missing_host",
            Self::RepeatedHost => "repeated_host",
            Self::InvalidHost => "invalid_host",
            Self::InvalidContentLength => "invalid_content_length",
            Self::RepeatedContentLength => "repeated_content_length",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::InvalidTransferEncoding => "invalid_transfer_encoding",
            Self::UnsupportedTransferEncoding => "unsupported_transfer_encoding",
            Self::EncodingInHttp10 => "encoding_in_http10",
            Self::TooManyConnectionOptions => "too_many_connection_options",
            Self::ConnectWithBody => "connect_with_body",
            Self::InvalidChunkSize => "invalid_chunk_size",
            Self::InvalidChunkExtension => "invalid_chunk_extension",
            Self::ChunkExtensionsTooLong => "chunk_extensions_too_long",
            Self::MissingChunkEnd => "missing_chunk_end",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::UnaskedResponse => "unasked_response",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::TooManyInterim => "too_many_interim",
            Self::ClosedBeforeResponse => "closed_before_response",
            Self::TruncatedHead => "truncated_head",
            Self::TruncatedBody => "truncated_body",
        }
    }
}

/// Why a message cannot be written as asked. Always the driver's mistake or a body that broke its
/// promise; the connection must not be used further, or its reader would take one message for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("a head was to be written while the message before it had not ended")]
    Unfinished,
    #[error("body bytes or an end came before a head")]
    NoHead,
    #[error("the body has more bytes than its Content-Length, by {excess}")]
    TooLong { excess: u64 },
    #[error("the body ended {missing} bytes before its Content-Length")]
    TooShort { missing: u64 },
    #[error("a request's body cannot end with its connection: there would be no way for the answer")]
    RequestUntilClose,
    #[error("the head is of the wrong kind for this call")]
    WrongKind,
}
