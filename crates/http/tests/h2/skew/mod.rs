//! Version skew: what two sidecars of an earlier version said to each other (`peers.txt`, written down by
//! `examples/record_wire.rs` of that version), held against both ends of this one.

mod story;

use meshwork_http::h2::{Connection, Limits, Step};
use meshwork_http::{Head, Instant};

use story::{EXCHANGES, FIELDS};

const RECORDED: &str = include_str!("peers.txt");

fn recorded(direction: &str) -> Vec<u8> {
    let line = RECORDED.lines().find_map(|line| line.strip_prefix(direction)).expect("both are recorded");
    let digits: Vec<u32> = line.trim().chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// A message as it came.
#[derive(Default)]
struct Came {
    head: Head,
    body: Vec<u8>,
    trailers: Option<Head>,
    ended: bool,
}

/// What one end is told, by stream.
fn told(engine: &mut Connection, bytes: &[u8]) -> Vec<Came> {
    let (mut out, mut head, mut at) = (Vec::new(), Head::default(), 0);
    let mut came: Vec<(u32, Came)> = Vec::new();
    loop {
        let shown = &bytes[at..];
        let step = engine.advance(shown, &mut head, Instant::default(), &mut out);
        let step = step.expect("an older peer says nothing wrong");
        at += step.consumed();
        let mut find = |number: u32| -> usize {
            came.iter().position(|(known, _)| *known == number).unwrap_or_else(|| {
                came.push((number, Came::default()));
                came.len() - 1
            })
        };
        match step {
            Step::NeedMore { .. } => break,
            Step::Head { stream, end, .. } => {
                let place = find(stream.number());
                (came[place].1.head, came[place].1.ended) = (head.clone(), end);
            }
            Step::Data { stream, data, end, .. } => {
                let place = find(stream.number());
                came[place].1.body.extend_from_slice(&shown[data]);
                came[place].1.ended = end;
            }
            Step::Trailers { stream, .. } => {
                let place = find(stream.number());
                (came[place].1.trailers, came[place].1.ended) = (Some(head.clone()), true);
            }
            Step::Writable { .. } => {}
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(at, bytes.len(), "all of it is understood");
    came.into_iter().map(|(_, came)| came).collect()
}

#[test]
fn what_an_older_sidecar_asks_is_understood() {
    let mut server = Connection::server(Limits::between_proxies(), &mut Vec::new());
    let came = told(&mut server, &recorded(">"));
    assert_eq!(came.len(), EXCHANGES.len());
    for (came, exchange) in came.iter().zip(&EXCHANGES) {
        assert_eq!((came.head.method(), came.head.path_and_query()), (exchange.method, exchange.path));
        assert_eq!(came.head.authority(), Some("cart.default:80"));
        for (name, value) in FIELDS {
            assert_eq!(came.head.header(name), Some(value.as_bytes()), "{name}");
        }
        assert_eq!(came.body, exchange.body.as_bytes());
        assert!(came.ended && came.trailers.is_none());
    }
}

#[test]
fn what_an_older_sidecar_answers_is_understood() {
    let (mut client, ids) = story::ask(&mut Vec::new());
    let came = told(&mut client, &recorded("<"));
    assert_eq!((came.len(), ids.len()), (EXCHANGES.len(), EXCHANGES.len()));
    for (came, exchange) in came.iter().zip(&EXCHANGES) {
        assert_eq!(came.head.status().as_u16(), exchange.status);
        assert_eq!(came.head.header("content-type"), Some(&b"text/plain"[..]));
        assert_eq!(came.body, exchange.answer.as_bytes());
        let trailer = exchange.trailer.map(|(name, value)| (name, value.as_bytes()));
        let trailers = came.trailers.as_ref();
        assert_eq!(trailers.and_then(|head| head.header("grpc-status")), trailer.map(|(_, value)| value));
        assert!(came.ended);
    }
    assert_eq!(client.open_streams(), 0, "every exchange is over");
}
