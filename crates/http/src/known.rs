//! Header names that the engine or the mesh looks up on a request's path, by ID instead of by text.
//! A name gets its ID once, when the head is parsed.

macro_rules! known {
    ($($variant:ident = $name:literal,)*) => {
        /// A header name that is looked up by ID.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Known {
            $(#[doc = $name] $variant,)*
        }

        impl Known {
            /// All of them, for tests and tables.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// In lower case, as HTTP/2 writes it (RFC 9113, 8.2).
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The ID of a name in any case; `None` for names without one.
            pub fn find(name: &[u8]) -> Option<Self> {
                // The length alone rules nearly everything out, so the comparison is rare.
                match name.len() {
                    $(n if n == $name.len() && name.eq_ignore_ascii_case($name.as_bytes()) => {
                        Some(Self::$variant)
                    })*
                    _ => None,
                }
            }
        }
    };
}

known! {
    Accept = "accept",
    Authorization = "authorization",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentRange = "content-range",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Expect = "expect",
    Host = "host",
    Http2Settings = "http2-settings",
    KeepAlive = "keep-alive",
    MaxForwards = "max-forwards",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ProxyConnection = "proxy-connection",
    SetCookie = "set-cookie",
    Te = "te",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    Traceparent = "traceparent",
    XForwardedClientCert = "x-forwarded-client-cert",
    XMeshworkCause = "x-meshwork-cause",
    XMeshworkRetried = "x-meshwork-retried",
    XRequestId = "x-request-id",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for known in Known::ALL {
            assert_eq!(Known::find(known.name().as_bytes()), Some(*known));
            assert_eq!(Known::find(known.name().to_ascii_uppercase().as_bytes()), Some(*known));
        }
        assert_eq!(Known::find(b"x-other"), None);
    }
}
