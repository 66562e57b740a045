//! Texts that name something and are believed: SPIFFE IDs, join tokens.
//!
//! What is read is written as it was read (IDs), or as one that is read alike (tokens); an ID can't say one thing to us and
//! another to a reader of URIs; no error shows a token's secret.

use std::time::Duration;

use meshwork_core::model::SpiffeId;
use meshwork_identity::{JoinToken, RootHash, SecretHash, TokenSecret};

use crate::Target;

pub(super) const SPIFFE_ID: Target = Target {
    name: "spiffe_id",
    run: spiffe_id,
    seeds: || vec![b"spiffe://mesh.local/ns/default/sa/cart".to_vec(), b"spiffe://a/ns/b/sa/c_.-9".to_vec()],
    words: &[
        b"spiffe://",
        b"/ns/",
        b"/sa/",
        b"//",
        b"..",
        b"%2f",
        b"@",
        b":80",
        b"?",
        b"#",
        b"\0",
        "é".as_bytes(),
    ],
};

pub(super) const TOKEN: Target = Target {
    name: "token",
    run: token,
    seeds: || vec![printed().to_string().into_bytes(), format!("\n {} \n", printed()).into_bytes()],
    words: &[b"mw1.", b"mw2.", b"\"a\":", b"=", b"-", b"_", b"+", b"/", b"\n", b"AAAA"],
};

/// The longest that is an ID (SPIFFE ID, 2.3), and the longest that is a token.
const TEXT_BYTES_MAX: usize = 2_048;

fn spiffe_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.to_string(), text, "it is written as it was read");
    assert!(text.len() <= TEXT_BYTES_MAX && text.is_ascii());
    let parts = [id.trust_domain(), id.namespace(), id.account()];
    assert_eq!(SpiffeId::new(parts[0], parts[1], parts[2]), Ok(id.clone()));
    let path = text.strip_prefix("spiffe://").expect("every ID begins so");
    assert_eq!(path.split('/').count(), 5, "a part holds the way to another");
    for part in parts {
        assert!(
            !part.is_empty() && !["/", "%", "?", "#", "@", ":", "\\"].iter().any(|byte| part.contains(byte))
        );
    }
    assert!(![id.namespace(), id.account()].iter().any(|part| [".", ".."].contains(part)));
}

fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(hash) = text.parse::<RootHash>() {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(hash) = text.parse::<SecretHash>() {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    let token = match text.parse::<JoinToken>() {
        Ok(token) => token,
        Err(error) => {
            let told = error.to_string();
            let ours = "".parse::<JoinToken>().expect_err("empty").to_string();
            assert!(
                told == ours || (told.len() < 300 && (text.len() < 12 || !told.contains(text))),
                "{told}"
            );
            return;
        }
    };
    assert!(text.trim().len() <= TEXT_BYTES_MAX);
    let secret = token.secret.reveal();
    assert_eq!(secret.parse::<TokenSecret>().as_ref(), Ok(&token.secret));
    assert!(token.secret.hash().matches(secret));
    assert!(!format!("{token:?}").contains(secret), "a log could show it");
    let again: JoinToken = token.to_string().parse().expect("what we print is a token");
    assert_eq!(again, token);
    assert_eq!(again.to_string(), token.to_string());
    let end = token.expires_at();
    assert!(token.is_expired(end) && token.check_not_expired(end).is_err());
    if let Some(before) = end.checked_sub(Duration::from_secs(1)) {
        assert_eq!(token.check_not_expired(before), Ok(()));
    }
}

/// As `meshwork token create` prints it.
fn printed() -> JoinToken {
    JoinToken {
        address: "control.example:7443".to_owned(),
        expires: 1_900_000_000,
        root_hash: "0123456789abcdef".repeat(4).parse().expect("64 digits"),
        secret: "A".repeat(43).parse().expect("32 bytes"),
    }
}
