//! Field blocks of HTTP/2.
//!
//! A block has at most as many fields as bytes (each takes one at least), and what is decoded and encoded again is decoded
//! to the same fields, over as many blocks as there are, whatever the tables' sizes; a decoder that has failed is not asked
//! again.

use meshwork_http::h2::hpack::{Decoder, Encoder, Indexing, Sensitivity};

use crate::Target;
use crate::input::{Input, put_piece};

pub(super) const TARGET: Target = Target {
    name: "hpack",
    run,
    seeds,
    words: &[
        &[0x20],
        &[0x3f, 0xe1, 0x1f],
        &[0x40],
        &[0x82],
        &[0xbe],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x10],
        b"cookie",
    ],
};

/// Tables' sizes; the default among them.
const TABLES: [usize; 4] = [4_096, 0, 64, 65_536];

type Fields = Vec<(Vec<u8>, Vec<u8>, Sensitivity)>;

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limit = input.pick(&TABLES);
    let own_max = input.pick(&TABLES);
    let (mut theirs, mut ours) = (Decoder::new(limit), Decoder::default());
    let mut encoder = Encoder::new(own_max);
    while !input.is_used_up() {
        if input.once_in(8) {
            // As when SETTINGS are acknowledged: both ends know, and the next block begins with the change.
            let limit = (input.pick(&TABLES)).min(4_096);
            encoder.set_peer_limit(limit);
            ours.set_limit(limit);
        }
        let block = input.piece();
        let Some(fields) = decoded(&mut theirs, block) else { return };
        assert!(fields.len() <= block.len(), "{} fields in {} bytes", fields.len(), block.len());
        let mut again = Vec::new();
        encoder.begin(&mut again);
        for (name, value, sensitivity) in &fields {
            let indexing = match sensitivity {
                Sensitivity::Plain => Indexing::Usual,
                Sensitivity::NeverIndexed => Indexing::Never,
            };
            encoder.field(name, value, indexing, &mut again);
        }
        let back = decoded(&mut ours, &again).expect("what we encode is decoded");
        let lower = |fields: Fields| -> Vec<_> {
            fields.into_iter().map(|(name, value, _)| (name.to_ascii_lowercase(), value)).collect()
        };
        let secret = |fields: &Fields| -> Vec<bool> {
            fields.iter().map(|(.., sensitivity)| *sensitivity == Sensitivity::NeverIndexed).collect()
        };
        // What was a secret stays one (RFC 7541, 6.2.3); what becomes one by its name is our policy.
        assert!(secret(&fields).iter().zip(secret(&back)).all(|(before, after)| !before || after));
        assert_eq!(lower(back), lower(fields));
    }
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Option<Fields> {
    let mut fields = Vec::new();
    // A block that repeats a large entry a thousand times is lent, never expanded; here it would be.
    let mut room = 1_usize << 20;
    let read = decoder.decode(block, |field| {
        room = room.saturating_sub(field.list_size());
        if room > 0 {
            fields.push((field.name.to_vec(), field.value.to_vec(), field.sensitivity));
        }
    });
    (read.is_ok() && room > 0).then_some(fields)
}

fn seeds() -> Vec<Vec<u8>> {
    let mut encoder = Encoder::default();
    let mut seed = vec![0, 0];
    for path in ["/", "/items", "/items"] {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "cart"),
            ("x-request-id", "0123456789"),
            ("cookie", "a=b"),
        ] {
            encoder.field(name.as_bytes(), value.as_bytes(), Indexing::Usual, &mut block);
        }
        seed.push(0);
        put_piece(&block, &mut seed);
    }
    // Never indexed; a change of the table's size; Huffman (RFC 7541, C.4.1).
    let examples: [&[u8]; 3] = [
        b"\x10\x08password\x06secret",
        b"\x3f\xe1\x1f\x82\x20",
        &[
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4,
            0xff,
        ],
    ];
    let examples = examples.into_iter().map(|block| {
        let mut seed = vec![0, 0, 0];
        put_piece(block, &mut seed);
        seed
    });
    examples.chain([seed.clone()]).collect()
}
