//! The examples of RFC 7541, appendix C: read as they stand, and those with Huffman coding written as they stand.
//! (C.1, integers, is in `integer.rs`.)

use super::{Decoder, Encoder, Field, Indexing, Sensitivity};

type Fields<'a> = &'a [(&'a str, &'a str)];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn decode(decoder: &mut Decoder, block: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    decoder.decode(&bytes(block), |field| fields.push((text(field.name), text(field.value)))).unwrap();
    fields
}

fn owned(fields: Fields<'_>) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A block, its fields, and the table behind it: newest first.
#[track_caller]
fn check(decoder: &mut Decoder, block: &str, fields: Fields<'_>, table: Fields<'_>) {
    assert_eq!(decode(decoder, block), owned(fields));
    let entries = (0..decoder.table().len()).map(|age| decoder.table().get(age).unwrap());
    let entries: Vec<_> = entries.map(|(name, value)| (text(name), text(value))).collect();
    assert_eq!(entries, owned(table));
}

#[track_caller]
fn check_written(encoder: &mut Encoder, fields: Fields<'_>, block: &str) {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), Indexing::Incremental, &mut out);
    }
    assert_eq!(out, bytes(block));
}

#[test]
fn c_2_each_representation() {
    let custom = [("custom-key", "custom-header")];
    let with_indexing = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    check(&mut Decoder::default(), with_indexing, &custom, &custom);
    check(&mut Decoder::default(), "040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], &[]);
    check(&mut Decoder::default(), "82", &[(":method", "GET")], &[]);

    let never = bytes("1008 7061 7373 776f 7264 0673 6563 7265 74");
    let expect = Field { name: b"password", value: b"secret", sensitivity: Sensitivity::NeverIndexed };
    let mut decoder = Decoder::default();
    decoder.decode(&never, |field| assert_eq!(field, expect)).unwrap();
    assert_eq!(decoder.table().len(), 0);
    let mut out = Vec::new();
    Encoder::default().field(b"Password", b"secret", Indexing::Never, &mut out);
    assert_eq!(out, never);
}

const GET: (&str, &str) = (":method", "GET");
const HTTP: (&str, &str) = (":scheme", "http");
const ROOT: (&str, &str) = (":path", "/");
const AUTHORITY: (&str, &str) = (":authority", "www.example.com");
const NO_CACHE: (&str, &str) = ("cache-control", "no-cache");
const CUSTOM: (&str, &str) = ("custom-key", "custom-value");

const REQUESTS: [Fields<'_>; 3] = [
    &[GET, HTTP, ROOT, AUTHORITY],
    &[GET, HTTP, ROOT, AUTHORITY, NO_CACHE],
    &[GET, (":scheme", "https"), (":path", "/index.html"), AUTHORITY, CUSTOM],
];

fn check_requests(blocks: [&str; 3]) {
    let mut decoder = Decoder::default();
    check(&mut decoder, blocks[0], REQUESTS[0], &[AUTHORITY]);
    check(&mut decoder, blocks[1], REQUESTS[1], &[NO_CACHE, AUTHORITY]);
    check(&mut decoder, blocks[2], REQUESTS[2], &[CUSTOM, NO_CACHE, AUTHORITY]);
}

#[test]
fn c_3_requests_plain() {
    check_requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c_4_requests_coded() {
    let blocks = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    check_requests(blocks);
    let mut encoder = Encoder::default();
    for (fields, block) in REQUESTS.iter().zip(blocks) {
        check_written(&mut encoder, fields, block);
    }
}

const FOUND: (&str, &str) = (":status", "302");
const TEMPORARY: (&str, &str) = (":status", "307");
const PRIVATE: (&str, &str) = ("cache-control", "private");
const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const LATER: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const COOKIE: (&str, &str) = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");

const RESPONSES: [Fields<'_>; 3] = [
    &[FOUND, PRIVATE, DATE, LOCATION],
    &[TEMPORARY, PRIVATE, DATE, LOCATION],
    &[(":status", "200"), PRIVATE, LATER, LOCATION, GZIP, COOKIE],
];

/// With a table of 256 bytes, so that entries are evicted.
fn check_responses(blocks: [&str; 3]) {
    let mut decoder = Decoder::new(256);
    check(&mut decoder, blocks[0], RESPONSES[0], &[LOCATION, DATE, PRIVATE, FOUND]);
    check(&mut decoder, blocks[1], RESPONSES[1], &[TEMPORARY, LOCATION, DATE, PRIVATE]);
    check(&mut decoder, blocks[2], RESPONSES[2], &[COOKIE, GZIP, LATER]);
}

#[test]
fn c_5_responses_plain() {
    check_responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32
         3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970
         7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61
         6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ]);
}

#[test]
fn c_6_responses_coded() {
    let first =
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
         29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
    let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d
         d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
    check_responses([first, "4883 640e ffc1 c0bf", third]);

    let mut encoder = Encoder::default();
    encoder.set_peer_limit(256);
    let mut update = Vec::new();
    encoder.begin(&mut update);
    assert_eq!(update, [0x3f, 0xe1, 0x01]);
    check_written(&mut encoder, RESPONSES[0], first);
    // "307" takes three bytes either way: the RFC codes it, we do not.
    check_written(&mut encoder, RESPONSES[1], "4803 3330 37c1 c0bf");
    check_written(&mut encoder, RESPONSES[2], third);
}
