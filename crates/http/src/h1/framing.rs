//! What a head says about where its body ends and whether the connection goes on (RFC 9112, 6 and 9).
//!
//! Gathered while the fields are parsed; judged once the head is complete. Whatever two readers could
//! take differently (several lengths, a length and a coding, a coding that is not ours) is refused.

use super::{BodyLength, Limits, ReceiveError, RequestMethod, scan};
use crate::{Known, StatusCode, Version};

/// Facts from the fields, as far as they were read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    content_length: Option<u64>,
    chunked: bool,
    hosts: usize,
    close: bool,
    keep_alive: bool,
    connection_options: usize,
}

impl Facts {
    /// Takes one field into account.
    pub(super) fn add(&mut self, known: Known, value: &[u8], limits: &Limits) -> Result<(), ReceiveError> {
        match known {
            Known::ContentLength => self.add_content_length(value),
            Known::TransferEncoding => self.add_transfer_encoding(value),
            Known::Host => self.add_host(value),
            Known::Connection => self.add_connection(value, limits),
            _ => Ok(()),
        }
    }

    fn add_content_length(&mut self, value: &[u8]) -> Result<(), ReceiveError> {
        if self.content_length.is_some() {
            return Err(ReceiveError::RepeatedContentLength);
        }
        self.content_length = Some(decimal(value).ok_or(ReceiveError::InvalidContentLength)?);
        Ok(())
    }

    fn add_transfer_encoding(&mut self, value: &[u8]) -> Result<(), ReceiveError> {
        for coding in value.split(|&b| b == b',').map(scan::trim) {
            if !scan::is_token(coding) {
                return Err(ReceiveError::InvalidTransferEncoding);
            }
            if !coding.eq_ignore_ascii_case(b"chunked") {
                return Err(ReceiveError::UnsupportedTransferEncoding);
            }
            if self.chunked {
                return Err(ReceiveError::InvalidTransferEncoding); // chunked twice
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn add_host(&mut self, value: &[u8]) -> Result<(), ReceiveError> {
        self.hosts += 1;
        if self.hosts > 1 {
            return Err(ReceiveError::RepeatedHost);
        }
        // Empty is what a client sends whose target names nobody (RFC 9112, 3.2).
        if value.is_empty() || super::is_authority(value) { Ok(()) } else { Err(ReceiveError::InvalidHost) }
    }

    fn add_connection(&mut self, value: &[u8], limits: &Limits) -> Result<(), ReceiveError> {
        for option in list(value) {
            self.connection_options += 1;
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        if self.connection_options > limits.connection_options_max {
            return Err(ReceiveError::TooManyConnectionOptions);
        }
        Ok(())
    }

    /// A request's body; refuses what no request may say.
    pub(super) fn request(&self, version: Version, method: &[u8]) -> Result<BodyLength, ReceiveError> {
        if self.hosts == 0 && version >= Version::Http11 {
            return Err(ReceiveError::MissingHost);
        }
        let declared = self.declared(version)?;
        match declared {
            BodyLength::None | BodyLength::Known(0) => Ok(declared),
            // RFC 9110, 9.3.6: such a body has no meaning, and what follows is the tunnel's.
            _ if method == b"CONNECT" => Err(ReceiveError::ConnectWithBody),
            _ => Ok(declared),
        }
    }

    /// A response's body, and whether it follows.
    pub(super) fn response(
        &self,
        version: Version,
        status: StatusCode,
        to: RequestMethod,
    ) -> Result<ResponseBody, ReceiveError> {
        let declared = self.declared(version)?;
        Ok(match (status.as_u16(), to) {
            (101, _) | (200..=299, RequestMethod::Connect) => ResponseBody::Tunnel,
            (100..=199, _) => ResponseBody::Absent(BodyLength::None),
            // Such a response has no body; one that declares one all the same may send it, too, so its
            // connection is not used again.
            (204, _) => match declared {
                BodyLength::None | BodyLength::Known(0) => ResponseBody::Absent(BodyLength::None),
                _ => ResponseBody::Doubtful,
            },
            (304, _) | (_, RequestMethod::Head) => ResponseBody::Absent(declared),
            _ => match declared {
                BodyLength::None => ResponseBody::Follows(BodyLength::UntilClose),
                declared => ResponseBody::Follows(declared),
            },
        })
    }

    fn declared(&self, version: Version) -> Result<BodyLength, ReceiveError> {
        match (self.chunked, self.content_length) {
            (true, _) if version < Version::Http11 => Err(ReceiveError::EncodingInHttp10),
            (true, Some(_)) => Err(ReceiveError::LengthAndEncoding),
            (true, None) => Ok(BodyLength::Chunked),
            (false, Some(length)) => Ok(BodyLength::Known(length)),
            (false, None) => Ok(BodyLength::None),
        }
    }

    /// Whether the sender means to go on after this message (RFC 9112, 9.3).
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version >= Version::Http11)
    }
}

/// What follows a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseBody {
    Follows(BodyLength),
    /// Nothing follows, whatever length is declared.
    Absent(BodyLength),
    /// Nothing should follow, but the head contradicts itself.
    Doubtful,
    /// What follows is no HTTP.
    Tunnel,
}

/// The elements of a comma-separated list (RFC 9110, 5.6.1), without empty ones.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(scan::trim).filter(|element| !element.is_empty())
}

/// Digits only: no sign, no blanks, no list, at most 64 bits.
pub(crate) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(fields: &[(Known, &str)]) -> Result<Facts, ReceiveError> {
        let mut facts = Facts::default();
        for (known, value) in fields {
            facts.add(*known, value.as_bytes(), &Limits::default())?;
        }
        Ok(facts)
    }

    #[track_caller]
    fn length(value: &str, expect: Result<u64, ReceiveError>) {
        let length = facts(&[(Known::ContentLength, value)]).map(|facts| facts.content_length.unwrap());
        assert_eq!(length, expect);
    }

    #[test]
    fn a_length_is_one_plain_number() {
        length("0", Ok(0));
        length("18446744073709551615", Ok(u64::MAX));
        for bad in
            ["", "-1", "+1", "0x1", "1_0", "1 ", "5, 5", "5,6", "1e3", "18446744073709551616", "\u{664}"]
        {
            length(bad, Err(ReceiveError::InvalidContentLength));
        }
        let twice = facts(&[(Known::ContentLength, "5"), (Known::ContentLength, "5")]);
        assert_eq!(twice.unwrap_err(), ReceiveError::RepeatedContentLength);
    }

    #[track_caller]
    fn coding(value: &str, expect: Result<(), ReceiveError>) {
        assert_eq!(facts(&[(Known::TransferEncoding, value)]).map(|_| ()), expect);
    }

    #[test]
    fn the_only_coding_is_chunked_once() {
        coding("chunked", Ok(()));
        coding("CHUNKED", Ok(()));
        for bad in ["", ",chunked", "chunked,", "chunked, chunked", "chunked;a=b", "\"chunked\"", "chunked x"]
        {
            coding(bad, Err(ReceiveError::InvalidTransferEncoding));
        }
        for unknown in ["gzip", "gzip, chunked", "chunked, gzip", "identity", "xchunked", "chunke"] {
            coding(unknown, Err(ReceiveError::UnsupportedTransferEncoding));
        }
    }

    #[track_caller]
    fn keeps(version: Version, connection: &str, expect: bool) {
        assert_eq!(facts(&[(Known::Connection, connection)]).unwrap().keep_alive(version), expect);
    }

    #[test]
    fn close_beats_keep_alive_and_the_version_is_the_default() {
        keeps(Version::Http11, "", true);
        keeps(Version::Http11, "Close", false);
        keeps(Version::Http11, "keep-alive, close", false);
        keeps(Version::Http10, "", false);
        keeps(Version::Http10, "x, Keep-Alive", true);
        keeps(Version::Http10, "keep-alive, close", false);
    }

    #[track_caller]
    fn response(status: u16, to: RequestMethod, fields: &[(Known, &str)], expect: ResponseBody) {
        let status = StatusCode::new(status).unwrap();
        assert_eq!(facts(fields).unwrap().response(Version::Http11, status, to), Ok(expect));
    }

    #[test]
    fn where_a_response_ends() {
        use ResponseBody::{Absent, Doubtful, Follows, Tunnel};
        let five = [(Known::ContentLength, "5")];
        let chunked = [(Known::TransferEncoding, "chunked")];
        response(200, RequestMethod::Other, &five, Follows(BodyLength::Known(5)));
        response(200, RequestMethod::Other, &chunked, Follows(BodyLength::Chunked));
        response(200, RequestMethod::Other, &[], Follows(BodyLength::UntilClose));
        response(200, RequestMethod::Head, &five, Absent(BodyLength::Known(5)));
        response(200, RequestMethod::Head, &[], Absent(BodyLength::None));
        response(304, RequestMethod::Other, &five, Absent(BodyLength::Known(5)));
        response(204, RequestMethod::Other, &[], Absent(BodyLength::None));
        response(204, RequestMethod::Other, &five, Doubtful);
        response(103, RequestMethod::Other, &[], Absent(BodyLength::None));
        response(101, RequestMethod::Other, &[], Tunnel);
        response(200, RequestMethod::Connect, &five, Tunnel);
        response(403, RequestMethod::Connect, &five, Follows(BodyLength::Known(5)));
    }
}
