//! As much HTTP/1 as a client needs that knows what it asked for.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::failure::{Doing as _, Failure, Result, fail};

/// An answer takes shape as its bytes come. Only 200 with `content-length` and the expected body is one.
pub(crate) struct Answer {
    body_bytes: usize,
    head: Vec<u8>,
    /// Of the body; `None`: the head is not whole.
    missing: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Part,
    /// And ready for the next one.
    Whole,
}

impl Answer {
    pub(crate) fn new(body_bytes: usize) -> Self {
        Self { body_bytes, head: Vec::new(), missing: None }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> std::result::Result<Parsed, String> {
        let body = match self.missing {
            Some(missing) => Some((missing, bytes.len())),
            None => {
                self.head.extend_from_slice(bytes);
                match self.head.windows(4).position(|end| end == b"\r\n\r\n") {
                    None => None,
                    Some(end) => {
                        check_head(&String::from_utf8_lossy(&self.head[..end]), self.body_bytes)?;
                        Some((self.body_bytes, self.head.len() - end - 4))
                    }
                }
            }
        };
        let Some((missing, arrived)) = body else { return Ok(Parsed::Part) };
        if arrived > missing {
            return Err("more bytes came than the answer has".to_owned());
        }
        self.head.clear();
        if arrived == missing {
            self.missing = None;
            return Ok(Parsed::Whole);
        }
        self.missing = Some(missing - arrived);
        Ok(Parsed::Part)
    }
}

fn check_head(head: &str, body_bytes: usize) -> std::result::Result<(), String> {
    let status = head.split(' ').nth(1).unwrap_or_default();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if status != "200" || length != Some(body_bytes) {
        return Err(format!("expected 200 with {body_bytes} B, got:\n{head}"));
    }
    Ok(())
}

/// One request on a connection of its own; status and body. HTTP/1.0, so that the body ends with the connection.
pub(crate) fn get(address: SocketAddr, target: &str, host: &str) -> Result<(u16, String)> {
    let doing = || format!("asking {address} for {target}");
    let mut stream = TcpStream::connect(address).doing(doing)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).doing(doing)?;
    write!(stream, "GET {target} HTTP/1.0\r\nHost: {host}\r\n\r\n").doing(doing)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).doing(doing)?;
    let text = String::from_utf8_lossy(&text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return fail(format!("{}: no answer", doing()));
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| Failure(format!("{}: no status in {head}", doing())))?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn an_answer_is_whole_however_it_arrives() {
        let mut answer = Answer::new(5);
        assert_eq!(answer.take(ANSWER), Ok(Parsed::Whole));
        for split in 1..ANSWER.len() {
            assert_eq!(answer.take(&ANSWER[..split]), Ok(Parsed::Part), "{split}");
            assert_eq!(answer.take(&ANSWER[split..]), Ok(Parsed::Whole), "{split}");
        }
    }

    #[test]
    fn anything_but_the_expected_is_an_error() {
        assert!(Answer::new(6).take(ANSWER).is_err());
        assert!(Answer::new(5).take(b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\n").is_err());
        assert!(Answer::new(5).take(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        let mut answer = Answer::new(5);
        answer.take(&ANSWER[..ANSWER.len() - 1]).unwrap();
        assert!(answer.take(b"o and more").is_err());
    }
}
