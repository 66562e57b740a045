//! An answer that goes on: one JSON value a line, for as long as somebody reads.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::Method;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::{ANSWER_BYTES_MAX, ANSWER_MAX, Client, ClientError, Envelope};
use crate::BoxError;

/// A watch without news says where it stands every 30 s: after two of these that did not come nobody is there.
const NEWS_MAX: Duration = Duration::from_secs(75);

impl Client {
    /// An answer of one JSON value a line, as they come, until `each` has seen enough. That it ends is an error: it has no
    /// end of its own.
    pub(crate) async fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(Value) -> io::Result<ControlFlow<()>>,
    ) -> Result<(), BoxError> {
        let request = self.request(Method::GET, path, "application/json", Bytes::new())?;
        let stream = self.in_time(ANSWER_MAX, self.connect()).await??;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        let lines = async {
            let answer = self.in_time(ANSWER_MAX, sender.send_request(request)).await?;
            let (head, mut body) = answer.map_err(|error| self.broken(error))?.into_parts();
            if !head.status.is_success() {
                let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
                let body = body.map_err(|error| self.broken(error))?;
                return Err(self.refusal(head.status, &body.to_bytes()).into());
            }
            let mut lines = Lines::default();
            let silent = |_| self.broken("it said nothing for 75 s");
            while let Some(frame) = timeout(NEWS_MAX, body.frame()).await.map_err(silent)? {
                let more = frame.map_err(|error| self.broken(error))?.into_data().unwrap_or_default();
                for line in lines.take(&more) {
                    if each(self.event(&line)?)?.is_break() {
                        return Ok(());
                    }
                }
                if lines.begun.len() > ANSWER_BYTES_MAX {
                    return Err(self.broken("a line without an end").into());
                }
            }
            Err(self.broken("it ended the watch").into())
        };
        tokio::pin!(lines);
        tokio::select! {
            biased;
            lines = &mut lines => lines,
            _ = connection => lines.await,
        }
    }

    /// A line of a watch, or why there will be no more.
    fn event(&self, line: &[u8]) -> Result<Value, ClientError> {
        let event: Value = serde_json::from_slice(line).map_err(|error| self.broken(error))?;
        match serde_json::from_value::<Envelope>(event.clone()) {
            Ok(envelope) if event["type"] == "ERROR" => Err(ClientError::Refused(Box::new(envelope.error))),
            Ok(_) | Err(_) => Ok(event),
        }
    }
}

/// Lines of what comes in pieces.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Those that end in the piece, without what is empty.
    fn take(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        self.begun.extend(piece);
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.begun.drain(..whole).collect();
        lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let text = b"one\ntwo\n\nthree\nfou";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let told: Vec<_> = text.chunks(size).flat_map(|piece| lines.take(piece)).collect();
            assert_eq!(told, [&b"one"[..], b"two", b"three"], "in pieces of {size}");
            assert_eq!(lines.begun, b"fou");
        }
    }

    #[test]
    fn a_watch_that_is_ended_says_why() {
        let client = Client::local(Path::new("/state"));
        let line =
            br#"{"type":"ERROR","error":{"word":"gone","message":"revision 7 is too far back; list again"}}"#;
        assert_eq!(client.event(line).unwrap_err().to_string(), "revision 7 is too far back; list again");
        assert_eq!(client.event(br#"{"type":"ADDED"}"#).unwrap()["type"], "ADDED");
        assert!(client.event(b"{").is_err());
    }
}
