//! The join token: one string that turns a machine into a workload of the mesh.
//!
//! `mw1.<base64url of {"a":"host:port","e":unix seconds,"r":"sha256 of the root's key","s":"secret"}>`. It says
//! where the control plane is, until when it is good, which root to believe, and a secret. What it is good *for*
//! (one service, one namespace) only the control plane knows, and that keeps the hash of the secret alone.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bundle::{RootHash, parse_hex, write_hex};
use crate::{CryptoFailed, utc};

const PREFIX: &str = "mw1.";

/// Bytes of a token's text. Ours have about 250; a name may add 253.
const TOKEN_BYTES_MAX: usize = 2_048;

/// Bytes of randomness in a secret: beyond any guessing, online or off.
const SECRET_BYTES: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The control plane's, `IP:PORT` or `NAME:PORT`.
    pub address: String,
    /// Seconds since the epoch.
    pub expires: u64,
    /// The root that signs for the control plane.
    pub root_hash: RootHash,
    pub secret: TokenSecret,
}

impl JoinToken {
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now >= self.expires_at()
    }

    pub fn expires_at(&self) -> SystemTime {
        moment(self.expires)
    }

    /// Says when it ended, and how to get another one.
    pub fn check_not_expired(&self, now: SystemTime) -> Result<(), InvalidToken> {
        if self.is_expired(now) { Err(InvalidToken::Expired(self.expires_at())) } else { Ok(()) }
    }
}

/// Never names the token's text: half of it may be somebody's secret.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidToken {
    #[error("that is no join token: it does not begin with `mw1.`; make one with `meshwork token create`")]
    Prefix,
    #[error("the join token is damaged ({0}); copy the whole line that `meshwork token create` printed")]
    Damaged(&'static str),
    #[error("the join token expired at {}; make a new one with `meshwork token create`", utc(*.0))]
    Expired(SystemTime),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    a: String,
    e: u64,
    r: String,
    s: String,
}

impl fmt::Display for JoinToken {
    /// The token itself, secret included: for the one who asked for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = Wire {
            a: self.address.clone(),
            e: self.expires,
            r: self.root_hash.to_string(),
            s: self.secret.0.clone(),
        };
        write(f, PREFIX, &wire)
    }
}

impl FromStr for JoinToken {
    type Err = InvalidToken;

    /// White space around it is ignored, as files end with a newline.
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let wire: Wire = read(text, PREFIX)?;
        if !is_address(&wire.a) {
            return Err(InvalidToken::Damaged("no address of a control plane"));
        }
        let root_hash = wire.r.parse().map_err(|_| InvalidToken::Damaged("no hash of a root's key"))?;
        let secret = wire.s.parse().map_err(|_| InvalidToken::Damaged("no secret"))?;
        Ok(Self { address: wire.a, expires: wire.e, root_hash, secret })
    }
}

impl From<Unread> for InvalidToken {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Prefix => Self::Prefix,
            Unread::Damaged(how) => Self::Damaged(how),
        }
    }
}

/// So many seconds after the epoch; the epoch for what no clock reaches.
pub(crate) fn moment(seconds: u64) -> SystemTime {
    let moment = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    moment.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Why a token's text is none, whatever the token is for.
pub(crate) enum Unread {
    Prefix,
    Damaged(&'static str),
}

/// A token's text: what it is for, and its fields.
pub(crate) fn write(f: &mut fmt::Formatter<'_>, prefix: &str, wire: &impl Serialize) -> fmt::Result {
    let json = serde_json::to_vec(wire).map_err(|_| fmt::Error)?;
    write!(f, "{prefix}{}", URL_SAFE_NO_PAD.encode(json))
}

pub(crate) fn read<W: DeserializeOwned>(text: &str, prefix: &str) -> Result<W, Unread> {
    let text = text.trim();
    if text.len() > TOKEN_BYTES_MAX {
        return Err(Unread::Damaged("too long"));
    }
    let body = text.strip_prefix(prefix).ok_or(Unread::Prefix)?;
    let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| Unread::Damaged("not base64url"))?;
    serde_json::from_slice(&json).map_err(|_| Unread::Damaged("not what was printed"))
}

/// `host:port`; the host is only looked at once somebody connects.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b'@';
    !host.is_empty()
        && host.bytes().all(printable)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Who knows it may enrol. Shown by nothing but the token's own text.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(String);

impl TokenSecret {
    pub fn generate() -> Result<Self, CryptoFailed> {
        let mut bytes = [0; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|error| CryptoFailed { doing: "drawing a secret", detail: error.to_string() })?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// For the one message that carries it to the control plane.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl FromStr for TokenSecret {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidToken::Damaged("no secret"))?;
        if bytes.len() == SECRET_BYTES {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidToken::Damaged("no secret"))
        }
    }
}

/// SHA-256 of a secret: what the control plane keeps. No salt and no slow hash, as the secret is random.
#[derive(Clone, Copy, Debug)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Of whatever somebody presents.
    pub fn of(presented: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, presented.as_bytes()).as_ref());
        Self(hash)
    }

    /// In constant time, whatever the two are.
    pub fn matches(&self, presented: &str) -> bool {
        *self == Self::of(presented)
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for SecretHash {}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl FromStr for SecretHash {
    type Err = InvalidToken;

    fn from_str(hex: &str) -> Result<Self, InvalidToken> {
        parse_hex(hex).map(Self).ok_or(InvalidToken::Damaged("no hash of a secret"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            address: "127.0.0.1:4190".to_owned(),
            expires: 1_800_000_000,
            root_hash: "ab".repeat(32).parse().unwrap(),
            secret: TokenSecret::generate().unwrap(),
        }
    }

    fn encode(json: &str) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    #[track_caller]
    fn check_refused(text: &str, reason: &str) {
        let error = text.parse::<JoinToken>().unwrap_err().to_string();
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = token();
        assert!(token.to_string().starts_with("mw1."));
        assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
        assert_eq!(format!(" {token}\n").parse::<JoinToken>().unwrap(), token);
    }

    #[test]
    fn a_token_ends_at_its_expiry() {
        let token = token();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(token.check_not_expired(end - Duration::from_secs(1)), Ok(()));
        let error = token.check_not_expired(end).unwrap_err().to_string();
        assert!(error.contains("2027-01-15 08:00:00 UTC") && error.contains("token create"), "{error}");
    }

    #[test]
    fn debug_never_shows_the_secret() {
        let token = token();
        let shown = format!("{token:?} {:?}", token.secret);
        assert!(!shown.contains(token.secret.reveal()), "{shown}");
        assert!(shown.contains("redacted") && shown.contains("127.0.0.1:4190"), "{shown}");
    }

    #[test]
    fn a_secret_matches_its_own_hash_only() {
        let (one, other) = (token().secret, token().secret);
        let kept: SecretHash = one.hash().to_string().parse().unwrap();
        assert!(kept.matches(one.reveal()));
        assert!(!kept.matches(other.reveal()));
        assert!(!kept.matches(""));
    }

    #[test]
    fn what_is_no_token_is_told_so() {
        let (r, s) = ("0".repeat(64), TokenSecret::generate().unwrap());
        let s = s.reveal();
        check_refused("", "does not begin with `mw1.`");
        check_refused("hello", "token create");
        check_refused("mw1.!!!", "not base64url");
        check_refused("mw1.", "not what was printed");
        check_refused(&encode("{}"), "not what was printed");
        check_refused(&encode(&format!(r#"{{"a":"x","e":1,"r":"{r}","s":"{s}"}}"#)), "no address");
        check_refused(&encode(&format!(r#"{{"a":"x:0","e":1,"r":"{r}","s":"{s}"}}"#)), "no address");
        check_refused(&encode(&format!(r#"{{"a":"x:1","e":1,"r":"beef","s":"{s}"}}"#)), "no hash");
        check_refused(&encode(&format!(r#"{{"a":"x:1","e":1,"r":"{r}","s":"short"}}"#)), "no secret");
        check_refused(&format!("mw1.{}", "A".repeat(TOKEN_BYTES_MAX)), "too long");
        let whole = token().to_string();
        check_refused(&whole[..whole.len() - 9], "copy the whole line");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in ".*") {
            let _ = text.parse::<JoinToken>();
            let _ = encode(&text).parse::<JoinToken>();
        }

        #[test]
        fn every_token_survives_the_round_trip(
            port in 1u16.., expires: u64, hash: [u8; 32], secret: [u8; 32], host in "[a-z0-9.-]{1,60}",
        ) {
            let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let token = JoinToken {
                address: format!("{host}:{port}"),
                expires,
                root_hash: hex.parse().unwrap(),
                secret: URL_SAFE_NO_PAD.encode(secret).parse().unwrap(),
            };
            prop_assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
        }

        #[test]
        fn a_changed_token_never_panics_nor_shows_its_secret(at: prop::sample::Index, byte in 0u8..128) {
            let token = token();
            let mut bytes = token.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Err(error) = String::from_utf8(bytes).unwrap().parse::<JoinToken>() {
                prop_assert!(!error.to_string().contains(token.secret.reveal()));
            }
        }
    }
}
