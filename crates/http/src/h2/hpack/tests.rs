//! Both ends against each other, and against bytes that nobody should send.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{DecodeError, Decoder, Encoder, Indexing, Sensitivity};

type Pair = (Vec<u8>, Vec<u8>);

fn encode(encoder: &mut Encoder, fields: &[(Pair, Indexing)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for ((name, value), indexing) in fields {
        encoder.field(name, value, *indexing, &mut out);
    }
    out
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(Pair, Sensitivity)>, DecodeError> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        fields.push(((field.name.to_vec(), field.value.to_vec()), field.sensitivity));
    })?;
    Ok(fields)
}

fn entries(table: &super::table::Table) -> Vec<Pair> {
    let all = (0..table.len()).map(|age| table.get(age).unwrap());
    all.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// What one end or the other does next.
#[derive(Clone, Debug)]
enum Action {
    Block(Vec<(Pair, Indexing)>),
    Limit(usize),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let listed =
        [":path", ":status", ":authority", "accept", "Cookie", "date", "X-Request-Id", "x-a", "x-A", "x-b"];
    prop_oneof![
        4 => proptest::sample::select(listed.to_vec()).prop_map(|name| name.as_bytes().to_vec()),
        1 => "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,40}".prop_map(String::into_bytes),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let listed = ["", "/", "200", "1", "2", "gzip, deflate", "text/html; charset=utf-8"];
    prop_oneof![
        4 => proptest::sample::select(listed.to_vec()).prop_map(|value| value.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..60),
        1 => vec(b'0'..b'~', 0..300),
    ]
}

fn indexing() -> impl Strategy<Value = Indexing> {
    proptest::sample::select(vec![
        Indexing::Usual,
        Indexing::Usual,
        Indexing::Incremental,
        Indexing::Repeated,
        Indexing::Without,
        Indexing::Never,
    ])
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => vec(((name(), value()), indexing()), 0..20).prop_map(Action::Block),
        1 => prop_oneof![Just(0), 30..400_usize, Just(4_096), 0..10_000_usize].prop_map(Action::Limit),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(own_max in prop_oneof![Just(4_096), 0..500_usize], actions in vec(action(), 1..40)) {
        let (mut encoder, mut decoder) = (Encoder::new(own_max), Decoder::default());
        for action in actions {
            match action {
                Action::Limit(limit) => {
                    encoder.set_peer_limit(limit);
                    decoder.set_limit(limit);
                }
                Action::Block(fields) => {
                    let block = encode(&mut encoder, &fields);
                    let read = decode(&mut decoder, &block).unwrap();
                    prop_assert_eq!(read.len(), fields.len());
                    for (((name, value), indexing), (read, sensitivity)) in fields.iter().zip(read) {
                        prop_assert_eq!((name.to_ascii_lowercase(), value.clone()), read);
                        match indexing {
                            Indexing::Never => prop_assert_eq!(sensitivity, Sensitivity::NeverIndexed),
                            Indexing::Usual => {}
                            _ => prop_assert_eq!(sensitivity, Sensitivity::Plain),
                        }
                    }
                    prop_assert_eq!(entries(encoder.table()), entries(decoder.table()));
                    prop_assert!(decoder.table().size_max() <= own_max);
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(blocks in vec(vec(any::<u8>(), 0..200), 1..8), limit in 0..5_000_usize) {
        let mut decoder = Decoder::new(limit);
        for block in blocks {
            if decode(&mut decoder, &block).is_err() {
                break;
            }
        }
    }

    #[test]
    fn a_flipped_bit_or_a_cut_never_makes_it_panic(
        fields in vec(((name(), value()), indexing()), 1..10),
        at in any::<proptest::sample::Index>(),
        bit in 0..8,
    ) {
        let whole = encode(&mut Encoder::default(), &fields);
        let at = at.index(whole.len());
        let mut flipped = whole.clone();
        flipped[at] ^= 1_u8 << bit;
        let _ = decode(&mut Decoder::default(), &flipped);
        if let Ok(some) = decode(&mut Decoder::default(), &whole[..at]) {
            prop_assert!(some.len() < fields.len(), "a cut loses a field or is noticed");
        }
    }
}

#[track_caller]
fn refused(block: &[u8], expect: DecodeError) {
    assert_eq!(decode(&mut Decoder::default(), block), Err(expect));
}

#[test]
fn references_to_nothing_are_refused() {
    refused(&[0x80], DecodeError::InvalidIndex { index: 0 });
    refused(&[0xbe], DecodeError::InvalidIndex { index: 62 });
    refused(&[0x7e, 0x01, b'x'], DecodeError::InvalidIndex { index: 62 });
    refused(&[0x0f, 0x2f, 0x01, b'x'], DecodeError::InvalidIndex { index: 62 });
    refused(&[0x1f, 0x2f, 0x01, b'x'], DecodeError::InvalidIndex { index: 62 });
    refused(&[0xff, 0x81, 0xff, 0xff, 0xff, 0x0f], DecodeError::IntegerOverflow);
    refused(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x07], DecodeError::InvalidIndex { index: 0x8000_007e });
}

#[test]
fn blocks_that_end_too_soon_are_refused() {
    for block in [&[0x40][..], &[0x40, 0x01], &[0x40, 0x01, b'x'], &[0x40, 0x01, b'x', 0x05, b'y'], &[0xff]] {
        refused(block, DecodeError::Truncated);
    }
    refused(&[0x00, 0x7f, 0x80, 0x80, 0x80, 0x80, 0x0f], DecodeError::Truncated);
    refused(&[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff], DecodeError::IntegerOverflow);
}

#[test]
fn a_size_change_stands_first_and_within_its_limit() {
    refused(&[0x3f, 0xe2, 0x1f], DecodeError::SizeUpdateTooLarge { size: 4_097, limit: 4_096 });
    refused(&[0x82, 0x20], DecodeError::SizeUpdateLate);
    assert!(decode(&mut Decoder::default(), &[0x20, 0x3f, 0xe1, 0x1f, 0x82]).is_ok(), "smallest, then last");
}

#[test]
fn a_lowered_limit_is_followed_at_once() {
    let mut decoder = Decoder::default();
    decoder.set_limit(100);
    assert_eq!(decode(&mut decoder, &[0x82]), Err(DecodeError::SizeUpdateMissing { limit: 100 }));
    let mut decoder = Decoder::default();
    decoder.set_limit(0);
    assert!(decode(&mut decoder, &[0x20, 0x82]).is_ok());
    decoder.set_limit(4_096);
    assert!(decode(&mut decoder, &[0x82]).is_ok(), "a sender need not use what it may");
}

#[test]
fn a_limit_that_fell_and_rose_is_told_with_both() {
    let mut encoder = Encoder::default();
    [4_096, 50, 0, 10, 70].into_iter().for_each(|limit| encoder.set_peer_limit(limit));
    let begin = |encoder: &mut Encoder| {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        out
    };
    assert_eq!(begin(&mut encoder), [0x20, 0x3f, 70 - 31]);
    assert_eq!(begin(&mut encoder), []);
    encoder.set_peer_limit(1 << 20);
    assert_eq!(begin(&mut encoder), [0x3f, 0xe1, 0x1f], "no more than our own memory allows");
    assert_eq!(begin(&mut Encoder::new(0)), [0x20], "the peer assumes the default");
}

#[test]
fn a_bomb_is_lent_and_never_expanded() {
    let mut encoder = Encoder::default();
    let large = ((b"x".to_vec(), vec![b'v'; 2_000]), Indexing::Incremental);
    let mut decoder = Decoder::default();
    decode(&mut decoder, &encode(&mut encoder, &[large])).unwrap();
    let (mut fields, mut size) = (0, 0);
    let bomb = vec![0xbe; 64 * 1024];
    decoder.decode(&bomb, |field| (fields, size) = (fields + 1, size + field.list_size())).unwrap();
    assert_eq!((fields, size), (64 * 1024, 64 * 1024 * 2_033));
}

#[test]
fn what_comes_again_becomes_a_number() {
    let mut encoder = Encoder::default();
    let mut lengths = |name: &str, value: &str| {
        let field = [((name.as_bytes().to_vec(), value.as_bytes().to_vec()), Indexing::Usual)];
        [(); 4].map(|()| encode(&mut encoder, &field).len())
    };
    assert_eq!(lengths(":status", "200"), [1; 4], "static");
    assert_eq!(lengths("user-agent", "Q")[1..], [1; 3], "steady: at once");
    assert_eq!(lengths(":path", "/shop.Payments/Charge")[2..], [1; 2], "the second time");
    assert_eq!(lengths("X-Tenant", "green")[2..], [1; 2], "a name never heard of, in any case");
    assert_eq!(lengths("x-tenant", "green"), [1; 4]);
    assert_eq!(lengths("traceparent", "00-1-2-03"), [23; 4], "written as it is");
    assert_eq!(lengths("authorization", "Bearer x"), [11; 4], "never");
}

#[test]
fn secrets_are_marked_and_leave_no_trace() {
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::default();
    for name in ["Cookie", "set-cookie", "authorization", "proxy-authorization", "x-api-key"] {
        let field = ((name.as_bytes().to_vec(), b"secret".to_vec()), Indexing::Usual);
        let block = encode(&mut encoder, &[field]);
        assert_eq!(decode(&mut decoder, &block).unwrap()[0].1, Sensitivity::NeverIndexed, "{name}");
    }
    assert_eq!((encoder.table().len(), decoder.table().len()), (0, 0));
}

#[test]
fn values_that_never_repeat_push_nothing_out() {
    let mut encoder = Encoder::default();
    let usual =
        |name: &str, value: &str| ((name.as_bytes().to_vec(), value.as_bytes().to_vec()), Indexing::Usual);
    let steady = [usual(":authority", "cart"), usual("user-agent", "curl/8"), usual("x-tenant", "green")];
    encode(&mut encoder, &steady);
    encode(&mut encoder, &steady);
    for number in 0..10_000 {
        let path = usual(":path", &format!("/items/{number}"));
        encode(&mut encoder, &[path, usual("x-nonce", &number.to_string())]);
    }
    assert_eq!(encode(&mut encoder, &steady).len(), 3, "all are numbers still");
}

#[test]
fn what_hashes_alike_is_told_apart() {
    let name_hash = super::hash::name(b"x-a");
    let mut seen = std::collections::HashMap::new();
    let (one, other) = (0..1_000_000_u32)
        .find_map(|number| {
            let hash = super::hash::field(name_hash, number.to_string().as_bytes()) as u32;
            seen.insert(hash, number).map(|before| (before.to_string(), number.to_string()))
        })
        .unwrap();
    assert_eq!(
        super::hash::name(b"x^"),
        super::hash::name(b"x~"),
        "they differ in the bit of a letter's case"
    );
    let pairs = [("x-a", &*one), ("x-a", &*other), ("x^", "1"), ("x~", "1")];
    let fields = pairs.map(|(name, value)| ((name.into(), value.into()), Indexing::Incremental));
    let block = encode(&mut Encoder::default(), &fields);
    let read = decode(&mut Decoder::default(), &block).unwrap();
    assert!(read.iter().map(|(pair, _)| pair).eq(fields.iter().map(|(pair, _)| pair)));
}
