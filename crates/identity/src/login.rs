//! The login token: one string with which an operator's command line reaches a control plane on another machine.
//!
//! `ml1.<base64url of {"a":"host:port","e":unix seconds,"n":"name","r":"sha256 of the root's key","s":"secret"}>`. As a
//! join token it says where the control plane is and which root to believe. What its holder may do stands with its name
//! in the control plane, which keeps the hash of the secret alone. The prefix is another one than a join token's, so
//! that neither is taken for the other.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::bundle::RootHash;
use crate::token::{self, TokenSecret, Unread};
use crate::utc;

const PREFIX: &str = "ml1.";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginToken {
    /// The control plane's, `IP:PORT` or `NAME:PORT`.
    pub address: String,
    /// Seconds since the epoch.
    pub expires: u64,
    /// What the control plane knows it by; no secret.
    pub name: String,
    /// The root that signs for the control plane.
    pub root_hash: RootHash,
    pub secret: TokenSecret,
}

/// Never names the token's text: half of it may be somebody's secret.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidLogin {
    #[error(
        "that is no login token: it does not begin with `ml1.`; an admin makes one with `meshwork login-token create`"
    )]
    Prefix,
    #[error(
        "the login token is damaged ({0}); copy the whole line that `meshwork login-token create` printed"
    )]
    Damaged(&'static str),
    #[error(
        "the login token expired at {}; an admin makes a new one with `meshwork login-token create`",
        utc(*.0)
    )]
    Expired(SystemTime),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    a: String,
    e: u64,
    n: String,
    r: String,
    s: String,
}

impl LoginToken {
    /// Says when it ended, and how to get another one.
    pub fn check_not_expired(&self, now: SystemTime) -> Result<(), InvalidLogin> {
        let end = token::moment(self.expires);
        if now >= end { Err(InvalidLogin::Expired(end)) } else { Ok(()) }
    }
}

impl fmt::Display for LoginToken {
    /// The token itself, secret included: for the one who asked for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = Wire {
            a: self.address.clone(),
            e: self.expires,
            n: self.name.clone(),
            r: self.root_hash.to_string(),
            s: self.secret.reveal().to_owned(),
        };
        token::write(f, PREFIX, &wire)
    }
}

impl FromStr for LoginToken {
    type Err = InvalidLogin;

    /// White space around it is ignored, as files end with a newline.
    fn from_str(text: &str) -> Result<Self, InvalidLogin> {
        let wire: Wire = token::read(text, PREFIX)?;
        if !token::is_address(&wire.a) {
            return Err(InvalidLogin::Damaged("no address of a control plane"));
        }
        if !meshwork_core::name::is_label(&wire.n) {
            return Err(InvalidLogin::Damaged("no name"));
        }
        let root_hash = wire.r.parse().map_err(|_| InvalidLogin::Damaged("no hash of a root's key"))?;
        let secret = wire.s.parse().map_err(|_| InvalidLogin::Damaged("no secret"))?;
        Ok(Self { address: wire.a, expires: wire.e, name: wire.n, root_hash, secret })
    }
}

impl From<Unread> for InvalidLogin {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Prefix => Self::Prefix,
            Unread::Damaged(how) => Self::Damaged(how),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{InvalidToken, JoinToken};

    fn login() -> LoginToken {
        LoginToken {
            address: "mesh.example:4190".to_owned(),
            expires: 1_800_000_000,
            name: "alice".to_owned(),
            root_hash: "ab".repeat(32).parse().unwrap(),
            secret: TokenSecret::generate().unwrap(),
        }
    }

    #[test]
    fn a_login_token_is_read_as_it_was_written() {
        let login = login();
        assert_eq!(format!(" {login}\n").parse::<LoginToken>().unwrap(), login);
    }

    #[test]
    fn a_login_token_joins_nobody_and_a_join_token_logs_nobody_in() {
        let login = login();
        assert_eq!(login.to_string().parse::<JoinToken>(), Err(InvalidToken::Prefix));
        let LoginToken { address, expires, root_hash, secret, .. } = login;
        let join = JoinToken { address, expires, root_hash, secret };
        assert_eq!(join.to_string().parse::<LoginToken>(), Err(InvalidLogin::Prefix));
    }

    #[test]
    fn it_ends_at_its_expiry_and_says_so() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(login().check_not_expired(end - Duration::from_secs(1)), Ok(()));
        let error = login().check_not_expired(end).unwrap_err().to_string();
        assert!(error.contains("2027-01-15 08:00:00 UTC") && error.contains("login-token create"), "{error}");
    }

    #[test]
    fn debug_never_shows_the_secret() {
        let login = login();
        assert!(!format!("{login:?}").contains(login.secret.reveal()));
    }

    proptest! {
        #[test]
        fn a_changed_token_never_panics_nor_shows_its_secret(at: prop::sample::Index, byte in 0u8..128) {
            let login = login();
            let mut bytes = login.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Err(error) = String::from_utf8(bytes).unwrap().parse::<LoginToken>() {
                prop_assert!(!error.to_string().contains(login.secret.reveal()));
            }
        }
    }
}
