//! How long a message's body is, as its head says it.

/// How the end of a body is found (RFC 9112, 6.3). In HTTP/2 frames say where a body ends, beside what the head may declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// No body, and the head says nothing about one.
    None,
    /// `Content-Length`, perhaps of zero bytes.
    Known(u64),
    /// `Transfer-Encoding: chunked`; in HTTP/2 a body of which the head says nothing.
    Chunked,
    /// A response of HTTP/1 that ends where its connection ends.
    UntilClose,
}
