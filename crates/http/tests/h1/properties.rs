//! Properties over arbitrary messages: what is written is read back, however it is cut.

use meshwork_http::h1::{BodyLength, EndOfInput, Limits, RequestMethod, ResponseTo, Sender};
use meshwork_http::{Head, StatusCode, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fuzz;
use crate::transcript::{Event, Side, transcript};

const NAME: &str = "x-[!#$%&'*+.^_`|~0-9a-zA-Z-]{0,12}";

fn field() -> impl Strategy<Value = (String, Vec<u8>)> {
    let byte = prop_oneof![8 => 0x21..=0x7eu8, 1 => 0x80..=0xffu8, 1 => Just(b' '), 1 => Just(b'\t')];
    let value = vec(byte, 0..40).prop_map(|value| value.trim_ascii().to_vec());
    (NAME, value)
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Known(Vec<Vec<u8>>),
    Chunked(Vec<Vec<u8>>, Vec<(String, Vec<u8>)>),
}

impl Body {
    fn length(&self) -> BodyLength {
        match self {
            Self::None => BodyLength::None,
            Self::Known(pieces) => BodyLength::Known(pieces.concat().len() as u64),
            Self::Chunked(..) => BodyLength::Chunked,
        }
    }

    fn pieces(&self) -> &[Vec<u8>] {
        match self {
            Self::None => &[],
            Self::Known(pieces) | Self::Chunked(pieces, _) => pieces,
        }
    }

    fn trailers(&self) -> Head {
        let mut head = Head::default();
        head.start_trailers();
        if let Self::Chunked(_, trailers) = self {
            trailers.iter().for_each(|(name, value)| head.append(name, value));
        }
        head
    }

    /// The events behind the head.
    fn events(&self) -> Vec<Event> {
        let data = Some(self.pieces().concat()).filter(|data| !data.is_empty()).map(Event::Data);
        let trailers = self.trailers();
        let trailers = trailers
            .fields()
            .next()
            .is_some()
            .then(|| Event::Trailers(crate::transcript::describe(&trailers)));
        data.into_iter().chain(trailers).chain([Event::End]).collect()
    }
}

fn body() -> impl Strategy<Value = Body> {
    let pieces = || vec(vec(any::<u8>(), 0..200), 0..5);
    prop_oneof![
        Just(Body::None),
        pieces().prop_map(Body::Known),
        (pieces(), vec(field(), 0..4)).prop_map(|(pieces, trailers)| Body::Chunked(pieces, trailers)),
    ]
}

/// A message to write: start line, fields, body.
type Request = (String, String, Vec<(String, Vec<u8>)>, Body);

fn request() -> impl Strategy<Value = Request> {
    ("[A-Z]{3,9}", "/[!-\"$-~]{0,40}", vec(field(), 0..10), body())
        .prop_filter("CONNECT has another form", |(method, ..)| method != "CONNECT")
}

fn finish(sender: &mut Sender, body: &Body, out: &mut Vec<u8>) {
    body.pieces().iter().for_each(|piece| sender.data(piece, out).unwrap());
    sender.end(Some(&body.trailers()), out).unwrap();
}

fn shown(start: String, fields: &[(String, Vec<u8>)], length: BodyLength) -> String {
    let mut text = start;
    for (name, value) in fields {
        text += &format!(" | {name}: {}", String::from_utf8_lossy(value));
    }
    match length {
        BodyLength::Known(length) => text + &format!(" | Content-Length: {length}"),
        BodyLength::Chunked => text + " | Transfer-Encoding: chunked",
        BodyLength::None | BodyLength::UntilClose => text,
    }
}

fn cuts(fractions: &[f64], length: usize) -> Vec<usize> {
    let mut cuts: Vec<_> = fractions.iter().map(|fraction| (fraction * length as f64) as usize).collect();
    cuts.sort_unstable();
    cuts
}

proptest! {
    #[test]
    fn written_requests_are_read_back(requests in vec(request(), 1..4), at in vec(0.0..1.0, 0..8)) {
        let (mut sender, mut out, mut expect) = (Sender::new(), Vec::new(), Vec::new());
        for (method, path, fields, body) in &requests {
            let mut head = Head::default();
            head.start_request(Version::Http11, method, path);
            head.append("Host", b"cart");
            fields.iter().for_each(|(name, value)| head.append(name, value));
            sender.request(&head, body.length(), &mut out).unwrap();
            finish(&mut sender, body, &mut out);
            let start = format!("{method} cart {path} Http11 | Host: cart");
            expect.push(Event::Head(shown(start, fields, body.length()), body.length(), true));
            expect.extend(body.events());
        }
        expect.push(Event::Closed(EndOfInput::Clean));
        let got = transcript(&Side::Requests, Limits::default(), &out, &cuts(&at, out.len()));
        prop_assert_eq!(got, expect);
    }

    #[test]
    fn written_responses_are_read_back(
        responses in vec((200..600u16, vec(field(), 0..10), body()), 1..4),
        at in vec(0.0..1.0, 0..8),
    ) {
        let (mut sender, mut out, mut expect) = (Sender::new(), Vec::new(), Vec::new());
        for (status, fields, body) in &responses {
            // These have no body; the rows look after them.
            let status = if matches!(status, 204 | 304) { 200 } else { *status };
            let mut head = Head::default();
            head.start_response(Version::Http11, StatusCode::new(status).unwrap(), b"As it is");
            fields.iter().for_each(|(name, value)| head.append(name, value));
            let to = ResponseTo { method: RequestMethod::Other, version: Version::Http11 };
            sender.response(&head, body.length(), to, true, &mut out).unwrap();
            finish(&mut sender, body, &mut out);
            let length = match body.length() {
                BodyLength::None => BodyLength::Known(0),
                other => other,
            };
            let start = format!("{status} As it is Http11");
            expect.push(Event::Head(shown(start, fields, length), length, true));
            expect.extend(body.events());
        }
        expect.push(Event::Closed(EndOfInput::Clean));
        let side = Side::Responses(vec![RequestMethod::Other; responses.len()]);
        prop_assert_eq!(transcript(&side, Limits::default(), &out, &cuts(&at, out.len())), expect);
    }

    #[test]
    fn any_bytes_are_told_alike_however_cut(bytes in vec(any::<u8>(), 0..300)) {
        fuzz::requests(&bytes);
        fuzz::responses(&bytes);
    }
}
