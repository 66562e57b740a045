//! The request target's four forms (RFC 9112, 3.2), and what an authority may be.

use std::ops::Range;

use super::{ReceiveError, scan};

/// A target, cut up; ranges count from its first byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `/path?query`
    Origin,
    /// `http://authority/path?query`; the path may be empty, the query may follow at once.
    Absolute { scheme: Range<usize>, authority: Range<usize>, path: Range<usize> },
    /// `host:port`, of CONNECT.
    Authority,
    /// `*`, of OPTIONS.
    Asterisk,
}

impl Target {
    pub(super) fn parse(method: &[u8], target: &[u8]) -> Result<Self, ReceiveError> {
        if !scan::is_target(target) {
            return Err(ReceiveError::InvalidTarget);
        }
        if method == b"CONNECT" {
            let has_port = !target.ends_with(b"]") && target.contains(&b':');
            return if has_port && is_authority(target) {
                Ok(Self::Authority)
            } else {
                Err(ReceiveError::InvalidTarget)
            };
        }
        match target {
            [b'/', ..] => Ok(Self::Origin),
            b"*" if method == b"OPTIONS" => Ok(Self::Asterisk),
            _ => Self::absolute(target).ok_or(ReceiveError::InvalidTarget),
        }
    }

    fn absolute(target: &[u8]) -> Option<Self> {
        let colon = target.iter().position(|&b| b == b':')?;
        let scheme = &target[..colon];
        let scheme_is_valid = scheme.first().is_some_and(u8::is_ascii_alphabetic)
            && scheme.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !scheme_is_valid || !target[colon..].starts_with(b"://") {
            return None;
        }
        let start = colon + 3;
        let rest = &target[start..];
        let length = rest.iter().position(|&b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
        let authority = start..start + length;
        // Without a host nobody is asked; a user's name and password before an `@` are refused with it
        // (RFC 9110, 4.2.4: they are used to hide who is asked).
        if length == 0 || !is_authority(&target[authority.clone()]) {
            return None;
        }
        Some(Self::Absolute { scheme: 0..colon, path: authority.end..target.len(), authority })
    }
}

/// Whether the bytes are `host` or `host:port`, the host a name, an IPv4 address or `[an IPv6 address]`.
///
/// An empty port (`host:`) is refused though RFC 3986 has a grammar for it: readers differ about it.
pub fn is_authority(authority: &[u8]) -> bool {
    let (host_is_valid, after) = match authority {
        [b'[', rest @ ..] => match rest.iter().position(|&b| b == b']') {
            Some(end) => (is_ipv6(&rest[..end]), &rest[end + 1..]),
            None => return false,
        },
        _ => {
            let end = authority.iter().position(|&b| b == b':').unwrap_or(authority.len());
            (is_name(&authority[..end]), &authority[end..])
        }
    };
    host_is_valid
        && match after {
            [] => true,
            [b':', port @ ..] => is_port(port),
            _ => false,
        }
}

fn is_port(port: &[u8]) -> bool {
    let digit = |b: &u8| b.is_ascii_digit().then(|| u32::from(b - b'0'));
    // At most five digits, so the number cannot overflow.
    let value = || port.iter().try_fold(0, |value, b| digit(b).map(|digit| value * 10 + digit));
    (1..=5).contains(&port.len()) && value().is_some_and(|value| value <= 65_535)
}

fn is_ipv6(address: &[u8]) -> bool {
    std::str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// `reg-name` of RFC 3986, 3.2.2, not empty.
fn is_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        let is_valid = match byte {
            b'%' => [bytes.next(), bytes.next()].iter().all(|b| b.is_some_and(|b| b.is_ascii_hexdigit())),
            b'-' | b'.' | b'_' | b'~' => true,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => true,
            other => other.is_ascii_alphanumeric(),
        };
        if !is_valid {
            return false;
        }
    }
    !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, target: &str, expect: Result<Target, ReceiveError>) {
        assert_eq!(Target::parse(method.as_bytes(), target.as_bytes()), expect);
    }

    fn absolute(scheme: usize, authority: Range<usize>, path: Range<usize>) -> Result<Target, ReceiveError> {
        Ok(Target::Absolute { scheme: 0..scheme, authority, path })
    }

    const INVALID: Result<Target, ReceiveError> = Err(ReceiveError::InvalidTarget);

    #[test]
    fn the_four_forms_of_rfc_9112() {
        check("GET", "/where?q=now", Ok(Target::Origin));
        check("GET", "http://www.example.org/pub/a.html", absolute(4, 7..22, 22..33));
        check("CONNECT", "www.example.com:80", Ok(Target::Authority));
        check("OPTIONS", "*", Ok(Target::Asterisk));
        check("OPTIONS", "http://www.example.org:8001", absolute(4, 7..27, 27..27));
        check("GET", "http://a?x", absolute(4, 7..8, 8..10));
        check("GET", "https://[::1]:8443/x", absolute(5, 8..18, 18..20));
    }

    #[test]
    fn other_forms_are_refused() {
        for target in
            ["*", "items", "a:80", "http:///x", "http://u@h/", "http://h:x/", "://h/", "1a://h/", ""]
        {
            check("GET", target, INVALID);
        }
        for target in ["a", "/", "*", "http://a/", "a:80/", "[::1]", "a:", ":80", "u@a:80", "[::1]80"] {
            check("CONNECT", target, INVALID);
        }
        for target in ["/\u{e9}", "/a b", "/a#b", "/\t", "/\0", "/\x7f"] {
            check("GET", target, INVALID);
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in ["cart", "cart.default:80", "127.0.0.1:1", "[::1]", "[fe80::1]:65535", "a_b", "%41b"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:65536",
            "a:99999999999999999999",
            "a:+1",
            "a:1:2",
            "a b",
            "a/b",
            "a@b",
            "[::1",
            "::1",
            "%4",
            "a\\",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
