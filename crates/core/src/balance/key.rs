//! What of a request its endpoint is chosen by, as a number: xxHash64 of the bytes, as Envoy has it.

use meshwork_http::Head;

use crate::hash::xxh64;
use crate::model::HashKey;

/// `None`: the request has nothing of the kind. `source` is the caller's name; connections that are no HTTP have that alone.
pub fn key_of(key: &HashKey, head: Option<&Head>, source: Option<&str>) -> Option<u64> {
    let bytes = match key {
        HashKey::Header(name) => head?.header(name),
        HashKey::Cookie { name, .. } => cookie(head?, name),
        HashKey::Source => source.map(str::as_bytes),
    };
    // Nobody means the same by leaving something empty.
    bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| xxh64(bytes, 0))
}

/// The first cookie of that name (RFC 6265, 4.2): HTTP/2 may send each in a field of its own.
fn cookie<'a>(head: &'a Head, name: &str) -> Option<&'a [u8]> {
    let fields = head.fields().filter(|(field, _)| field.eq_ignore_ascii_case(b"cookie"));
    let pairs = fields.flat_map(|(_, value)| value.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let value = pairs.into_iter().find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_http::Version;

    #[test]
    fn a_key_is_what_the_request_carries() {
        let mut head = Head::default();
        head.start_request(Version::Http11, "GET", "/");
        for (name, value) in [
            ("X-User", "anna"),
            ("x-user", "bob"),
            ("x-empty", ""),
            ("Cookie", "a=1; session=\"s 1\";empty="),
            ("cookie", "xsession=no; b=2"),
        ] {
            head.append(name, value.as_bytes());
        }
        let check = |key: HashKey, expect: Option<&str>| {
            let hashed = key_of(&key, Some(&head), Some("default/web-1"));
            assert_eq!(hashed, expect.map(|text| xxh64(text.as_bytes(), 0)), "{key:?}");
        };
        let named = |name: &str| HashKey::Cookie { name: name.to_owned(), given: None };
        check(HashKey::Header("x-user".to_owned()), Some("anna"));
        check(HashKey::Header("x-none".to_owned()), None);
        check(HashKey::Header("x-empty".to_owned()), None);
        check(named("a"), Some("1"));
        check(named("session"), Some("s 1"));
        check(named("b"), Some("2"));
        check(named("empty"), None);
        check(named("ses"), None);
        check(HashKey::Source, Some("default/web-1"));
        assert_eq!(key_of(&HashKey::Header("x-user".to_owned()), None, Some("default/web-1")), None);
        assert_eq!(key_of(&HashKey::Source, Some(&head), None), None);
    }
}
