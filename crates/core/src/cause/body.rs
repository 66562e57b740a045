//! An answer that the mesh makes itself, as its reader wants it: text for people, JSON for JSON clients, and for gRPC a
//! head that is the whole answer.

use std::io::Write as _;

use meshwork_http::{Head, Known, StatusCode, Version};

use super::Cause;
use crate::grpc;

/// A request's facts are cut here in `grpc-message`: percent-encoded they may be three times as long, and clients take
/// heads of 8 KiB, all fields together.
const GRPC_DETAIL_BYTES_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
    Grpc,
}

impl Format {
    /// What the request's sender wants to read: gRPC if it is a call; JSON if it accepts JSON by name, or names nothing
    /// and sent JSON itself; else text. (RFC 9110, 12.5.1; preferences beyond "not at all" change nothing here.)
    pub fn of(request: &Head) -> Self {
        if grpc::is_call(request) {
            return Self::Grpc;
        }
        let mut accepts = request.values(Known::Accept).flat_map(|value| value.split(|b| *b == b','));
        let mut named = false;
        let json_accepted = accepts.any(|item| {
            named |= !item.trim_ascii().starts_with(b"*/*");
            is_json(item) && !is_unacceptable(item)
        });
        let sent_json = || request.get(Known::ContentType).is_some_and(is_json);
        if json_accepted || (!named && sent_json()) { Self::Json } else { Self::Text }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
            Self::Grpc => grpc::CONTENT_TYPE,
        }
    }
}

/// `application/json` or `application/<something>+json`, whatever its parameters.
fn is_json(item: &[u8]) -> bool {
    let media_type = item.split(|b| *b == b';').next().unwrap_or(item).trim_ascii();
    let ends = |suffix: &[u8]| {
        media_type.len() >= suffix.len()
            && media_type[media_type.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
    };
    media_type.eq_ignore_ascii_case(b"application/json") || ends(b"+json")
}

/// `;q=0`: not at all.
fn is_unacceptable(item: &[u8]) -> bool {
    item.split(|b| *b == b';').skip(1).any(|parameter| match parameter.trim_ascii() {
        [b'q' | b'Q', b'=', quality @ ..] => quality.iter().all(|b| matches!(b, b'0' | b'.')),
        _ => false,
    })
}

impl Cause {
    /// The status of an answer in that format: gRPC's errors are HTTP's successes, or its clients would not read them.
    pub const fn status_in(self, format: Format) -> StatusCode {
        match format {
            Format::Text | Format::Json => self.status(),
            Format::Grpc => StatusCode::OK,
        }
    }

    /// Fills the answer's head. `detail` as in [`Cause::write_body`].
    pub fn write_head(self, format: Format, detail: &str, head: &mut Head) {
        let status = self.status_in(format);
        head.start_response(Version::Http11, status, status.reason().as_bytes());
        head.append(Known::XMeshworkCause.name(), self.word().as_bytes());
        head.append(Known::ContentType.name(), format.content_type().as_bytes());
        match format {
            Format::Text | Format::Json => {}
            Format::Grpc => {
                head.append(grpc::STATUS, self.grpc_status().word().as_bytes());
                head.append(grpc::MESSAGE, &self.grpc_message(detail));
            }
        }
    }

    fn grpc_message(self, detail: &str) -> Vec<u8> {
        let detail = &detail[..detail.floor_char_boundary(GRPC_DETAIL_BYTES_MAX)];
        let (sentence, cure, word) = (self.sentence(), self.cure(), self.word());
        let mut text = format!("meshwork: {sentence}");
        if !detail.is_empty() {
            text.push_str(&format!(" ({detail})"));
        }
        text.push_str(&format!("; cure: {cure}; cause: {word}"));
        let mut message = Vec::with_capacity(text.len());
        grpc::write_message(&text, &mut message);
        message
    }

    /// Appends the body; an answer to a gRPC call has none. `detail` holds this request's facts (`GET cart:80/x`), and may be empty; bytes of
    /// the request may be in it, as they are escaped here.
    pub fn write_body(self, format: Format, detail: &str, out: &mut Vec<u8>) {
        let (word, status, sentence, cure) = (self.word(), self.status(), self.sentence(), self.cure());
        // Writing to a Vec can't fail.
        let _ = match format {
            Format::Grpc => Ok(()),
            Format::Text => {
                let printable = detail.replace(|c: char| c.is_control(), "\u{fffd}");
                let detail = if detail.is_empty() { String::new() } else { format!(" ({printable})") };
                writeln!(out, "meshwork: {sentence}{detail}\ncure: {cure}\ncause: {word}")
            }
            Format::Json => {
                let (sentence, detail, cure) = (JsonText(sentence), JsonText(detail), JsonText(cure));
                writeln!(
                    out,
                    r#"{{"cause":"{word}","status":{status},"message":{sentence},"detail":{detail},"cure":{cure}}}"#
                )
            }
        };
    }
}

/// Text as JSON writes it (RFC 8259, 7).
struct JsonText<'a>(&'a str);

impl std::fmt::Display for JsonText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write as _;
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\0'..='\x1f' | '\x7f' => write!(f, "\\u{:04x}", u32::from(c))?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_format(headers: &[(&str, &str)], expect: Format) {
        let mut head = Head::default();
        head.start_request(Version::Http11, "GET", "/");
        for (name, value) in headers {
            head.append(name, value.as_bytes());
        }
        assert_eq!(Format::of(&head), expect, "{headers:?}");
    }

    #[test]
    fn json_clients_get_json() {
        check_format(&[], Format::Text);
        check_format(&[("Accept", "*/*")], Format::Text);
        check_format(&[("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")], Format::Text);
        check_format(&[("Accept", "application/json")], Format::Json);
        check_format(&[("Accept", "text/html"), ("Accept", "Application/Problem+JSON; q=0.5")], Format::Json);
        check_format(&[("Accept", "application/json;q=0, text/plain")], Format::Text);
        check_format(&[("Content-Type", "application/json; charset=utf-8")], Format::Json);
        check_format(&[("Content-Type", "application/json"), ("Accept", "*/*")], Format::Json);
        check_format(&[("Content-Type", "application/json"), ("Accept", "text/plain")], Format::Text);
    }

    #[test]
    fn grpc_clients_get_grpc_whatever_they_accept() {
        check_format(&[("Content-Type", "application/grpc")], Format::Grpc);
        check_format(
            &[("Accept", "application/json"), ("Content-Type", "application/grpc+proto")],
            Format::Grpc,
        );
    }

    #[test]
    fn an_answer_to_a_grpc_call_is_all_in_its_head() {
        let (mut head, mut body) = (Head::default(), Vec::new());
        Cause::NoEndpoint.write_head(Format::Grpc, "cart: 100 %", &mut head);
        Cause::NoEndpoint.write_body(Format::Grpc, "cart: 100 %", &mut body);
        assert_eq!((head.status(), body.len()), (StatusCode::OK, 0));
        let field = |name: &str| String::from_utf8(head.header(name).unwrap().to_vec()).unwrap();
        assert_eq!(field("content-type"), "application/grpc");
        assert_eq!(field("x-meshwork-cause"), "no_endpoint");
        assert_eq!(field("grpc-status"), "14");
        let message = field("grpc-message");
        assert!(message.starts_with(
            "meshwork: no endpoint of the service can take the request (cart: 100 %25); cure: "
        ));
        assert!(message.ends_with("; cause: no_endpoint"));
    }

    #[test]
    fn an_answer_to_anyone_else_has_the_causes_status() {
        for format in [Format::Text, Format::Json] {
            let mut head = Head::default();
            Cause::NoRoute.write_head(format, "", &mut head);
            assert_eq!(head.status(), StatusCode::NOT_FOUND);
            assert_eq!(head.header("content-type"), Some(format.content_type().as_bytes()));
            assert_eq!(head.header("grpc-status"), None);
        }
    }

    #[test]
    fn a_body_says_what_happened_and_what_to_do() {
        let mut body = Vec::new();
        Cause::AppRefused.write_body(Format::Text, "127.0.0.1:8080", &mut body);
        let text = String::from_utf8(body).unwrap();
        assert!(
            text.starts_with("meshwork: the application refuses connections on its port (127.0.0.1:8080)\n")
        );
        assert!(text.ends_with("cause: app_refused\n"));
    }

    proptest! {
        #[test]
        fn a_json_body_is_json_whatever_the_detail(detail: String) {
            for cause in Cause::ALL {
                let mut body = Vec::new();
                cause.write_body(Format::Json, &detail, &mut body);
                let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
                prop_assert_eq!(&value["cause"], cause.word());
                prop_assert_eq!(&value["status"], cause.status().as_u16());
                prop_assert_eq!(&value["detail"], &detail);
            }
        }

        #[test]
        fn a_grpc_message_is_printable_and_short_whatever_the_detail(detail in "\\PC{0,2000}") {
            for cause in Cause::ALL {
                let message = cause.grpc_message(&detail);
                prop_assert!(message.iter().all(|b| (b' '..=b'~').contains(b)));
                prop_assert!(message.len() < 4 * GRPC_DETAIL_BYTES_MAX, "{}", message.len());
            }
        }

        #[test]
        fn a_text_body_has_three_lines_whatever_the_detail(detail: String) {
            let mut body = Vec::new();
            Cause::NoRoute.write_body(Format::Text, &detail, &mut body);
            prop_assert_eq!(body.iter().filter(|b| **b == b'\n').count(), 3);
        }
    }
}
