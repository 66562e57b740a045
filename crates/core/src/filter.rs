//! Edits of a head on its way: the route's header modifiers, and what the mesh itself adds and removes.
//!
//! Request IDs and trace context are kept where they are valid and made where they are not; an application
//! must pass them on to what it calls, or every call starts a trace of its own.
//!
//! Pure: randomness is an argument. A head is edited by its overlay, so nothing is allocated here.

use meshwork_http::{Head, Known};

use crate::model::HeaderModifier;

/// Headers of the mesh's own. Removed from whatever applications send, in both directions, so that none of
/// them can speak for the mesh.
pub const OWN_PREFIX: &str = "x-meshwork-";

/// Between sidecars, `2`: the request comes from an application that speaks HTTP/2, and an application that
/// nobody said anything about is spoken to as its client speaks.
pub const APPLICATION_HTTP: &str = "x-meshwork-http";

/// The longest request ID that is kept: UUIDs have 36 bytes, some tracing systems twice that.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Applies a modifier in Gateway API's order: set, add, remove.
pub fn apply(modifier: &HeaderModifier, head: &mut Head) {
    for (name, value) in &modifier.set {
        head.set(name, value.as_bytes());
    }
    for (name, value) in &modifier.add {
        head.append(name, value.as_bytes());
    }
    for name in &modifier.remove {
        head.remove(name);
    }
}

/// Removes `x-meshwork-*` from what an application sent.
pub fn strip_own(head: &mut Head) {
    head.remove_where(|name, _| has_prefix(name, OWN_PREFIX.as_bytes()));
}

/// Removes `Proxy-*` from a request that came to the outbound HTTP proxy: it was meant for that proxy, and
/// `Proxy` itself becomes the variable `HTTP_PROXY` in CGI programs.
pub fn strip_proxy(head: &mut Head) {
    head.remove_where(|name, _| name.eq_ignore_ascii_case(b"proxy") || has_prefix(name, b"proxy-"));
}

fn has_prefix(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Tells the application who calls: `URI=<SPIFFE ID>`, or nobody. What came in is always removed.
///
/// `value` is made once a connection: `client_cert`.
pub fn set_client_cert(head: &mut Head, value: Option<&str>) {
    head.remove_known(Known::XForwardedClientCert);
    if let Some(value) = value {
        head.append(Known::XForwardedClientCert.name(), value.as_bytes());
    }
}

/// The value of `x-forwarded-client-cert` for a verified peer.
pub fn client_cert(peer: &crate::model::SpiffeId) -> String {
    format!("URI={peer}")
}

/// Keeps a request's `x-request-id` or makes one (a UUID, version 4) from `random`.
pub fn ensure_request_id(head: &mut Head, random: u128) {
    let mut values = head.values(Known::XRequestId);
    let kept = matches!((values.next(), values.next()), (Some(id), None) if is_request_id(id));
    drop(values);
    if !kept {
        head.remove_known(Known::XRequestId);
        head.append(Known::XRequestId.name(), &uuid(random));
    }
}

fn is_request_id(id: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(b);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(allowed)
}

/// RFC 9562, 5.4.
fn uuid(random: u128) -> [u8; 36] {
    const VERSION_4: u128 = 4 << 76;
    const VARIANT: u128 = 0b10 << 62;
    let bits = random & !(0xf << 76) & !(0b11 << 62) | VERSION_4 | VARIANT;
    let bytes = bits.to_be_bytes();
    let mut text = [b'-'; 36];
    write_hex(&bytes[..4], &mut text[..8]);
    write_hex(&bytes[4..6], &mut text[9..13]);
    write_hex(&bytes[6..8], &mut text[14..18]);
    write_hex(&bytes[8..10], &mut text[19..23]);
    write_hex(&bytes[10..], &mut text[24..]);
    text
}

/// Flags of a trace that the mesh starts: sampled. The mesh records nothing itself; unset, the flag would
/// tell every tracer behind us to record nothing either, where it would have recorded on its own.
const FLAGS_OF_NEW_TRACE: &[u8; 2] = b"01";

/// Keeps a request's `traceparent` (W3C Trace Context, level 1) or starts a trace from `random`. Where the
/// trace is new, an old `tracestate` means nothing and is removed (3.3.1.4 there).
pub fn ensure_traceparent(head: &mut Head, random: u128, random_parent: u64) {
    let mut values = head.values(Known::Traceparent);
    let kept = matches!((values.next(), values.next()), (Some(value), None) if is_traceparent(value));
    drop(values);
    if !kept {
        head.remove_known(Known::Traceparent);
        head.remove("tracestate");
        head.append(Known::Traceparent.name(), &traceparent(random, random_parent));
    }
}

/// `00-<trace ID, 32>-<parent ID, 16>-<flags, 2>`, in lower-case hex. A later version may be longer, after a
/// dash; version `ff` is forbidden, and so are IDs of zeros (W3C Trace Context, 3.2.2).
fn is_traceparent(value: &[u8]) -> bool {
    let Some((known, rest)) = value.split_at_checked(55) else {
        return false;
    };
    let hex = |from: usize, to: usize| known[from..to].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zeros = |from: usize, to: usize| known[from..to].iter().all(|b| *b == b'0');
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let fields = hex(0, 2) && hex(3, 35) && hex(36, 52) && hex(53, 55);
    let version_fits = match &known[..2] {
        b"00" => rest.is_empty(),
        b"ff" => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    dashes && fields && version_fits && !zeros(3, 35) && !zeros(36, 52)
}

fn traceparent(trace: u128, parent: u64) -> [u8; 55] {
    // Zero is forbidden; a generator gives it once in 2^64, and then any other number will do.
    let (trace, parent) = (trace.max(1), parent.max(1));
    let mut text = [b'-'; 55];
    text[..2].copy_from_slice(b"00");
    write_hex(&trace.to_be_bytes(), &mut text[3..35]);
    write_hex(&parent.to_be_bytes(), &mut text[36..52]);
    text[53..].copy_from_slice(FLAGS_OF_NEW_TRACE);
    text
}

/// Two digits for each byte.
fn write_hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, digits) in bytes.iter().zip(text.as_chunks_mut::<2>().0) {
        *digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_http::Version;
    use proptest::prelude::*;

    fn request(headers: &[(&str, &str)]) -> Head {
        let mut head = Head::default();
        head.start_request(Version::Http11, "GET", "/");
        for (name, value) in headers {
            head.append(name, value.as_bytes());
        }
        head
    }

    fn fields(head: &Head) -> Vec<String> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        head.fields().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
    }

    fn pairs(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_modifier_sets_adds_and_removes_in_any_case() {
        let modifier = HeaderModifier {
            set: pairs(&[("x-a", "set")]),
            add: pairs(&[("x-b", "added")]),
            remove: vec!["x-c".to_owned()],
        };
        let mut head = request(&[("X-A", "1"), ("X-A", "2"), ("X-B", "1"), ("X-C", "1"), ("X-D", "1")]);
        apply(&modifier, &mut head);
        assert_eq!(fields(&head), ["X-B: 1", "X-D: 1", "x-a: set", "x-b: added"]);
    }

    #[test]
    fn applications_cannot_speak_for_the_mesh() {
        let mut head =
            request(&[("X-Meshwork-Cause", "no_route"), ("x-meshwork-", "1"), ("x-mesh", "1"), ("x", "1")]);
        strip_own(&mut head);
        assert_eq!(fields(&head), ["x-mesh: 1", "x: 1"]);
    }

    #[test]
    fn what_was_for_the_proxy_stays_with_it() {
        let mut head = request(&[("Proxy-Authorization", "x"), ("Proxy", "x"), ("Proxyless", "1")]);
        strip_proxy(&mut head);
        assert_eq!(fields(&head), ["Proxyless: 1"]);
    }

    #[test]
    fn nobody_can_claim_another_identity() {
        let forged = ("X-Forwarded-Client-Cert", "URI=spiffe://mesh.local/ns/default/sa/admin");
        let mut head = request(&[forged, forged]);
        set_client_cert(&mut head, None);
        assert!(fields(&head).is_empty());

        let mut head = request(&[forged]);
        let peer = "spiffe://mesh.local/ns/default/sa/web".parse().unwrap();
        set_client_cert(&mut head, Some(&client_cert(&peer)));
        assert_eq!(fields(&head), ["x-forwarded-client-cert: URI=spiffe://mesh.local/ns/default/sa/web"]);
    }

    #[track_caller]
    fn check_request_id(headers: &[(&str, &str)], expect: &str) {
        let mut head = request(headers);
        ensure_request_id(&mut head, u128::MAX);
        assert_eq!(fields(&head), [expect]);
    }

    #[test]
    fn a_request_id_is_kept_if_it_is_one() {
        const MADE: &str = "x-request-id: ffffffff-ffff-4fff-bfff-ffffffffffff";
        check_request_id(&[("X-Request-Id", "abc-1")], "X-Request-Id: abc-1");
        check_request_id(&[], MADE);
        check_request_id(&[("X-Request-Id", "")], MADE);
        check_request_id(&[("X-Request-Id", "a b")], MADE);
        check_request_id(&[("X-Request-Id", &"a".repeat(129))], MADE);
        check_request_id(&[("X-Request-Id", "a"), ("X-Request-Id", "b")], MADE);
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[track_caller]
    fn check_traceparent(value: &str, valid: bool) {
        assert_eq!(is_traceparent(value.as_bytes()), valid, "{value}");
    }

    #[test]
    fn a_traceparent_is_judged_by_its_version() {
        check_traceparent(&format!("00-{TRACE}-{PARENT}-00"), true);
        check_traceparent(&format!("00-{TRACE}-{PARENT}-ff"), true);
        check_traceparent(&format!("00-{TRACE}-{PARENT}-01-x"), false);
        check_traceparent(&format!("cc-{TRACE}-{PARENT}-01"), true);
        check_traceparent(&format!("cc-{TRACE}-{PARENT}-01-what-comes"), true);
        check_traceparent(&format!("cc-{TRACE}-{PARENT}-01.x"), false);
        check_traceparent(&format!("ff-{TRACE}-{PARENT}-01"), false);
        check_traceparent(&format!("00-{}-{PARENT}-01", TRACE.to_uppercase()), false);
        check_traceparent(&format!("00-{}-{PARENT}-01", "0".repeat(32)), false);
        check_traceparent(&format!("00-{TRACE}-{}-01", "0".repeat(16)), false);
        check_traceparent(&format!("00_{TRACE}-{PARENT}-01"), false);
        check_traceparent("", false);
    }

    #[test]
    fn a_new_trace_drops_the_old_ones_state() {
        let mut head = request(&[("traceparent", "nonsense"), ("tracestate", "a=b")]);
        ensure_traceparent(&mut head, 1, 2);
        let made = format!("traceparent: 00-{:032x}-{:016x}-01", 1, 2);
        assert_eq!(fields(&head), [made]);

        let kept = format!("00-{TRACE}-{PARENT}-00");
        let mut head = request(&[("traceparent", &kept), ("tracestate", "a=b")]);
        ensure_traceparent(&mut head, 1, 2);
        assert_eq!(fields(&head), [format!("traceparent: {kept}"), "tracestate: a=b".to_owned()]);
    }

    proptest! {
        #[test]
        fn whatever_is_made_would_be_kept(random: u128, parent: u64) {
            prop_assert!(is_traceparent(&traceparent(random, parent)));
            let id = uuid(random);
            prop_assert!(is_request_id(&id));
            prop_assert_eq!(id[14], b'4');
            prop_assert!(b"89ab".contains(&id[19]));
        }
    }
}
