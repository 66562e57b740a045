//! What two sidecars say to each other in every recording: requests as sidecars pass them on, and their answers.

use meshwork_http::h2::{Connection, Limits, Step, StreamId};
use meshwork_http::{BodyLength, Head, Instant, StatusCode, Version};

pub(crate) struct Exchange {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) body: &'static str,
    pub(crate) length: BodyLength,
    pub(crate) status: u16,
    pub(crate) answer: &'static str,
    /// Name and value, behind the answer's body.
    pub(crate) trailer: Option<(&'static str, &'static str)>,
}

/// A plain one; one with a body of known length; a gRPC call.
pub(crate) const EXCHANGES: [Exchange; 3] = [
    Exchange {
        method: "GET",
        path: "/items?a=b",
        body: "",
        length: BodyLength::None,
        status: 200,
        answer: "three items",
        trailer: None,
    },
    Exchange {
        method: "PUT",
        path: "/items/1",
        body: "a teapot",
        length: BodyLength::Known(8),
        status: 503,
        answer: "",
        trailer: None,
    },
    Exchange {
        method: "POST",
        path: "/shop.Cart/Add",
        body: "\0\0\0\0\x03abc",
        length: BodyLength::Chunked,
        status: 200,
        answer: "\0\0\0\0\x02ok",
        trailer: Some(("grpc-status", "0")),
    },
];

pub(crate) const FIELDS: [(&str, &str); 4] = [
    ("x-request-id", "3f0c6b1e-5d0a-4c39-9f5d-6a1b2c3d4e5f"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("authorization", "Bearer secret"),
    ("te", "trailers"),
];

/// Opens a connection and asks.
pub(crate) fn ask(out: &mut Vec<u8>) -> (Connection, Vec<StreamId>) {
    let mut client = Connection::client(Limits::between_proxies(), out);
    let mut head = Head::default();
    let ids = EXCHANGES.iter().map(|exchange| {
        head.start_request(Version::Http11, exchange.method, exchange.path);
        head.set_authority("cart.default:80");
        FIELDS.iter().for_each(|(name, value)| head.append(name, value.as_bytes()));
        let ends = exchange.body.is_empty();
        let id = client.request(&head, exchange.length, ends, out).expect("nothing stands in the way");
        if !ends {
            client.data(id, exchange.body.as_bytes(), true, out).expect("it fits the windows");
        }
        id
    });
    let ids = ids.collect();
    (client, ids)
}

/// Answers what was asked.
#[allow(dead_code)] // the recorder's
pub(crate) fn answer(asked: &[u8], out: &mut Vec<u8>) {
    let mut server = Connection::server(Limits::between_proxies(), out);
    let (mut head, mut at, mut ids) = (Head::default(), 0, Vec::new());
    loop {
        let step = server.advance(&asked[at..], &mut head, Instant::default(), out).expect("well said");
        at += step.consumed();
        match step {
            Step::NeedMore { .. } => break,
            Step::Head { stream, .. } => ids.push(stream),
            Step::Data { stream, data, .. } => server.consumed(stream, data.len(), Instant::default(), out),
            _ => {}
        }
    }
    for (exchange, id) in EXCHANGES.iter().zip(ids) {
        head.start_response(Version::Http11, StatusCode::new(exchange.status).expect("a status"), b"");
        head.append("content-type", b"text/plain");
        server.response(id, &head, BodyLength::Chunked, false, out).expect("it was asked");
        server.data(id, exchange.answer.as_bytes(), exchange.trailer.is_none(), out).expect("it fits");
        if let Some((name, value)) = exchange.trailer {
            head.start_trailers();
            head.append(name, value.as_bytes());
            server.trailers(id, Some(&head), out).expect("the answer is under way");
        }
    }
}
