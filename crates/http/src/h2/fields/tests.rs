//! Rows for RFC 9113, 8.2 and 8.3: which fields are a message.

use super::*;

type Row<'a> = &'a [(&'a str, &'a str)];

fn read(kind: Kind, fields: Row<'_>, head: &mut Head) -> Result<Facts, Reason> {
    let limits = Limits::default();
    let mut reader = Fields::new(ReadAs::Message(kind), head, &limits);
    for (name, value) in fields {
        let sensitivity = Sensitivity::Plain;
        reader.take(Field { name: name.as_bytes(), value: value.as_bytes(), sensitivity });
    }
    reader.finish()
}

#[track_caller]
fn check(kind: Kind, fields: Row<'_>, expect: Result<(), Reason>) {
    assert_eq!(read(kind, fields, &mut Head::default()).map(|_| ()), expect, "{fields:?}");
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "cart"), (":path", "/")];

/// A good request with one more field.
#[track_caller]
fn with(name: &str, value: &str, expect: Result<(), Reason>) {
    let fields: Vec<_> = GET.into_iter().chain([(name, value)]).collect();
    check(Kind::Request, &fields, expect);
}

/// A good request with another value for one of its pseudo-header fields; empty: without it.
#[track_caller]
fn but(name: &str, value: &str, expect: Result<(), Reason>) {
    let fields = GET.map(|field| if field.0 == name { (name, value) } else { field });
    let fields: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    check(Kind::Request, &fields, expect);
}

#[test]
fn rfc_9113_8_3_1_a_request_becomes_a_head() {
    let mut head = Head::default();
    let fields = [GET.as_slice(), &[("accept", "*/*"), ("content-length", "5")]].concat();
    assert_eq!(read(Kind::Request, &fields, &mut head), Ok(Facts { content_length: Some(5) }));
    assert_eq!(
        (head.method(), head.scheme(), head.authority(), head.path()),
        ("GET", "http", Some("cart"), "/")
    );
    assert_eq!(head.get(Known::Accept), Some(&b"*/*"[..]));
    assert_eq!(head.version(), crate::Version::Http2);
}

#[test]
fn rfc_9113_8_3_1_what_a_request_must_have() {
    but(":method", "", Err(Reason::MissingPseudoField));
    but(":scheme", "", Err(Reason::MissingPseudoField));
    but(":path", "", Err(Reason::MissingPseudoField));
    but(":authority", "", Err(Reason::MissingAuthority));
    but(":method", "G T", Err(Reason::InvalidMethod));
    but(":scheme", "h ttp", Err(Reason::InvalidScheme));
    but(":scheme", "https", Ok(()));
    but(":path", "items", Err(Reason::InvalidPath));
    but(":path", "/a b", Err(Reason::InvalidPath));
    but(":path", "/a#b", Err(Reason::InvalidPath));
    but(":path", "*", Err(Reason::InvalidPath));
    but(":authority", "user@cart", Err(Reason::InvalidAuthority));
    but(":authority", "cart:80", Ok(()));
    let asterisk = [(":method", "OPTIONS"), (":scheme", "http"), (":authority", "cart"), (":path", "*")];
    check(Kind::Request, &asterisk, Ok(()));
    let empty = [(":method", "GET"), (":scheme", "http"), (":authority", "cart"), (":path", "")];
    check(Kind::Request, &empty, Err(Reason::InvalidPath));
}

#[test]
fn rfc_9113_8_3_pseudo_fields_come_once_and_first() {
    with(":path", "/", Err(Reason::RepeatedPseudoField));
    with(":status", "200", Err(Reason::UnknownPseudoField));
    with(":x", "1", Err(Reason::UnknownPseudoField));
    let late = [GET[0], GET[1], ("a", "b"), GET[2], GET[3]];
    check(Kind::Request, &late, Err(Reason::LatePseudoField));
    check(Kind::Trailers, &[(":path", "/")], Err(Reason::LatePseudoField));
    check(Kind::Response, &[(":status", "200"), (":path", "/")], Err(Reason::UnknownPseudoField));
}

#[test]
fn rfc_9113_8_2_1_names_are_lower_case_tokens_and_values_plain() {
    for name in ["", "A", "x-A", "a b", "a:", "\u{e9}", "a\0"] {
        with(name, "1", Err(Reason::InvalidFieldName));
    }
    for value in ["a\0", "a\rb", "a\nb", " a", "a ", "\ta", "a\t", "a\x7f", " "] {
        with("a", value, Err(Reason::InvalidFieldValue));
    }
    with("a", "", Ok(()));
    with("a", "b\tc \u{e9}", Ok(()));
}

#[test]
fn rfc_9113_8_2_2_connection_fields_are_malformed() {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        with(name, "close", Err(Reason::ConnectionField));
        check(Kind::Response, &[(":status", "200"), (name, "x")], Err(Reason::ConnectionField));
    }
    with("te", "trailers", Ok(()));
    with("te", "trailers, gzip", Err(Reason::InvalidTe));
}

#[test]
fn rfc_9113_8_2_3_cookies_are_rejoined() {
    let mut head = Head::default();
    let crumbs = [("cookie", "a=b"), ("x", "1"), ("cookie", "c=d"), ("cookie", "e=f")];
    read(Kind::Request, &[GET.as_slice(), &crumbs].concat(), &mut head).unwrap();
    let fields: Vec<_> = head.fields().collect();
    assert_eq!(fields, [(&b"cookie"[..], &b"a=b; c=d; e=f"[..]), (b"x", b"1")]);
}

#[test]
fn rfc_9113_8_3_1_host_says_what_the_authority_says() {
    with("host", "cart", Ok(()));
    with("host", "CART:80", Ok(()));
    with("host", "other", Err(Reason::HostDiffers));
    with("host", "cart:8080", Err(Reason::HostDiffers));
    with("host", "", Err(Reason::HostDiffers));
    with("host", "a b", Err(Reason::InvalidAuthority));
    let secure = [GET[0], (":scheme", "https"), (":authority", "cart:443"), GET[3], ("host", "cart")];
    check(Kind::Request, &secure, Ok(()));
    let only_host = [GET[0], GET[1], GET[3], ("host", "cart")];
    check(Kind::Request, &only_host, Ok(()));
    let nobody = [GET[0], GET[1], GET[3], ("host", "")];
    check(Kind::Request, &nobody, Ok(()));
    let twice = [GET[0], GET[1], GET[3], ("host", "cart"), ("host", "cart")];
    check(Kind::Request, &twice, Err(Reason::RepeatedHost));
}

#[test]
fn rfc_9113_8_5_connect_has_an_authority_alone() {
    let connect = (":method", "CONNECT");
    check(Kind::Request, &[connect, (":authority", "cart:80")], Ok(()));
    check(Kind::Request, &[connect], Err(Reason::MissingPseudoField));
    let path = [connect, (":authority", "cart:80"), (":path", "/")];
    check(Kind::Request, &path, Err(Reason::ForbiddenPseudoField));
    let body = [connect, (":authority", "cart:80"), ("content-length", "5")];
    check(Kind::Request, &body, Err(Reason::ConnectWithBody));
}

#[test]
fn rfc_8441_4_connect_with_a_protocol_has_all() {
    let connect = [(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], (":path", "/chat")];
    let mut head = Head::default();
    read(Kind::Request, &connect, &mut head).unwrap();
    assert_eq!((head.protocol(), head.path()), ("websocket", "/chat"));
    check(Kind::Request, &connect[..4], Err(Reason::MissingPseudoField));
    let get = [GET.as_slice(), &[(":protocol", "websocket")]].concat();
    check(Kind::Request, &get, Err(Reason::ProtocolWithoutConnect));
}

#[test]
fn rfc_9113_8_3_2_a_response_has_a_status() {
    check(Kind::Response, &[(":status", "200")], Ok(()));
    check(Kind::Response, &[], Err(Reason::MissingPseudoField));
    for bad in ["", "20", "2000", "+20", "2x0", "099", "101"] {
        check(Kind::Response, &[(":status", bad)], Err(Reason::InvalidStatus));
    }
}

#[test]
fn a_length_is_one_plain_number() {
    with("content-length", "+5", Err(Reason::InvalidContentLength));
    with("content-length", "5,5", Err(Reason::InvalidContentLength));
    let twice = [GET.as_slice(), &[("content-length", "5"), ("content-length", "5")]].concat();
    check(Kind::Request, &twice, Err(Reason::RepeatedContentLength));
}

#[test]
fn trailers_that_belong_into_a_head_are_left_out() {
    let mut head = Head::default();
    let fields = [("content-length", "5"), ("grpc-status", "0"), ("authorization", "x"), ("te", "trailers")];
    read(Kind::Trailers, &fields, &mut head).unwrap();
    assert_eq!(head.fields().collect::<Vec<_>>(), [(&b"grpc-status"[..], &b"0"[..])]);
}

#[test]
fn what_one_end_takes_is_not_refused_on_the_way() {
    let (ends, between) = (Limits::default(), Limits::between_proxies());
    let (ends1, between1) = (crate::h1::Limits::default(), crate::h1::Limits::between_proxies());
    // Sidecars add a few fields, in less than a kilobyte.
    let fields = ends.fields_max.max(ends1.fields_max) + 16;
    assert!(between.fields_max >= fields && between1.fields_max >= fields);
    // Each line's ": " and CR LF are text in HTTP/1, and 32 bytes here.
    let list = ends.header_list_bytes_max.max(ends1.head_bytes_max + 28 * ends1.fields_max) + 1_024;
    assert!(between.header_list_bytes_max >= list);
    assert!(between1.head_bytes_max >= ends1.head_bytes_max.max(ends.header_list_bytes_max) + 1_024);
    assert!(between.header_block_bytes_max >= between.header_list_bytes_max);
    assert!(between.header_block_bytes_max <= between.frame_bytes_max * between.continuations_max);
    assert!(between.trailer_bytes_max >= ends1.trailer_bytes_max + 28 * ends1.fields_max);
}

#[test]
fn a_head_is_bounded_in_bytes_and_fields() {
    let long = "x".repeat(40_000);
    let fields = [GET.as_slice(), &[("a", &*long), ("b", &*long)]].concat();
    check(Kind::Request, &fields, Err(Reason::HeaderListTooLarge));
    check(Kind::Trailers, &[("a", &long)], Err(Reason::HeaderListTooLarge));
    let fields_max = Limits::default().fields_max;
    let many = [GET.as_slice(), &vec![("a", "b"); fields_max + 1]].concat();
    check(Kind::Request, &many, Err(Reason::TooManyFields));
    check(Kind::Request, &many[..GET.len() + fields_max], Ok(()));
}
