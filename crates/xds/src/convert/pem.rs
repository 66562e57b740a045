//! Certificates as PEM text (RFC 7468), which SDS wants its roots in. Other block types are refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// RFC 7468, 2: generators must wrap at 64 characters.
const LINE_CHARS: usize = 64;

pub(super) fn write(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in certificates {
        text.push_str(BEGIN);
        text.push('\n');
        let mut encoded = STANDARD.encode(der);
        while !encoded.is_empty() {
            let rest = encoded.split_off(encoded.len().min(LINE_CHARS));
            text.push_str(&encoded);
            text.push('\n');
            encoded = rest;
        }
        text.push_str(END);
        text.push('\n');
    }
    text
}

/// The error is the end of a sentence: what the text "is" or "holds".
pub(super) fn read(text: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut certificates = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines().map(str::trim) {
        match (&mut block, line) {
            (None, "") => {}
            (None, BEGIN) => block = Some(String::new()),
            (None, _) => return Err("holds something else than PEM certificates"),
            (Some(encoded), END) => {
                let der = STANDARD.decode(encoded.as_bytes()).map_err(|_| "holds damaged base64")?;
                if der.is_empty() {
                    return Err("holds an empty certificate");
                }
                certificates.push(der);
                block = None;
            }
            (Some(encoded), line) => encoded.push_str(line),
        }
    }
    if block.is_some() {
        return Err("ends within a certificate");
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_as_the_rfc_wants() {
        let text = write(&[vec![0; 49]]);
        let lengths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lengths, [BEGIN.len(), 64, 4, END.len()]);
        assert_eq!(read(&text), Ok(vec![vec![0; 49]]));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert_eq!(read(""), Ok(vec![]));
        assert!(read("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
        assert!(read(&format!("{BEGIN}\nAAAA\n")).is_err());
        assert!(read(&format!("{BEGIN}\nA*AA\n{END}\n")).is_err());
        assert!(read(&format!("{BEGIN}\n{END}\n")).is_err());
    }
}
