//! Join tokens: who may enrol as what, and for how long.
//!
//! The store knows a token by the SHA-256 of its secret, so that a copy of the store enrols nobody.

use meshwork_core::name::is_label;
use meshwork_core::timestamp;
use meshwork_identity::{CryptoFailed, SYSTEM_NAMESPACE, SecretHash, TokenSecret};
use serde::{Deserialize, Serialize};

use crate::store::{CommitError, Expect, Key, Prefix, Store, StoreError, Transaction};

/// The longest that a token may be good for: it is for joining, not for staying.
const TTL_SECONDS_MAX: u64 = 30 * 24 * 3_600;

#[derive(Clone)]
pub(crate) struct Tokens {
    store: Store,
}

/// What a token is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    pub(crate) service: String,
    pub(crate) namespace: String,
    /// Seconds since the epoch.
    pub(crate) expires: u64,
    /// Good for one workload only.
    pub(crate) once: bool,
}

/// A token that holds, not used up yet.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) record: TokenRecord,
    key: Key,
    revision: u64,
}

/// Why somebody can't enrol. Never names the secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenRefused {
    #[error(
        "the join token is not known here: it was used up, or made by another mesh; make a new one with `meshwork token create`"
    )]
    Unknown,
    #[error(
        "the join token for service {service} expired at {at}; make a new one with `meshwork token create`"
    )]
    Expired { service: String, at: String },
    #[error(
        "the join token was good for one workload, which was faster; make a new one with `meshwork token create`"
    )]
    UsedUp,
    #[error("the join token cannot be looked up: {0}")]
    Store(String),
}

impl TokenRefused {
    /// For the metric.
    pub(crate) const WORDS: [&str; 4] = ["token_unknown", "token_expired", "token_used_up", "store"];

    pub(crate) fn word(&self) -> &'static str {
        let [unknown, expired, used_up, store] = Self::WORDS;
        match self {
            Self::Unknown => unknown,
            Self::Expired { .. } => expired,
            Self::UsedUp => used_up,
            Self::Store(_) => store,
        }
    }
}

/// Why a token can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("{what} {name:?} is no DNS label (lower-case letters, digits and dashes, at most 63)")]
    Name { what: &'static str, name: String },
    #[error("namespace {SYSTEM_NAMESPACE} belongs to the mesh itself; choose another")]
    SystemNamespace,
    #[error("a token lives from 1 second to {} days, not {seconds} seconds", TTL_SECONDS_MAX / 86_400)]
    Ttl { seconds: u64 },
    #[error(transparent)]
    Crypto(#[from] CryptoFailed),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tokens {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Makes a token; the secret is returned here and nowhere else. Expired ones are swept out.
    pub(crate) async fn create(
        &self,
        namespace: &str,
        service: &str,
        ttl_seconds: u64,
        once: bool,
        now: u64,
    ) -> Result<(TokenSecret, TokenRecord, u64), TokenError> {
        for (what, name) in [("service", service), ("namespace", namespace)] {
            if !is_label(name) {
                return Err(TokenError::Name { what, name: name.chars().take(256).collect() });
            }
        }
        if namespace == SYSTEM_NAMESPACE {
            return Err(TokenError::SystemNamespace);
        }
        if !(1..=TTL_SECONDS_MAX).contains(&ttl_seconds) {
            return Err(TokenError::Ttl { seconds: ttl_seconds });
        }
        let secret = TokenSecret::generate()?;
        let (service, namespace) = (service.to_owned(), namespace.to_owned());
        let record = TokenRecord { service, namespace, expires: now + ttl_seconds, once };
        let key = Key::token(&secret.hash().to_string());
        // Texts, a number and a flag always encode.
        let value = serde_json::to_vec(&record).unwrap_or_default();
        let mut transaction = Transaction::default().expect(key.clone(), Expect::Absent).put(key, value);
        for expired in self.expired(now)? {
            transaction = transaction.delete(expired);
        }
        let revision = self.store.commit(transaction).await?;
        Ok((secret, record, revision))
    }

    /// The token that `secret` belongs to, if it still holds.
    pub(crate) fn find(&self, secret: &str, now: u64) -> Result<Token, TokenRefused> {
        let key = Key::token(&SecretHash::of(secret).to_string());
        let store_error = |error: String| TokenRefused::Store(error);
        let found = self.store.get(&key).map_err(|error| store_error(error.to_string()))?;
        let found = found.ok_or(TokenRefused::Unknown)?;
        let record: TokenRecord =
            serde_json::from_slice(&found.value).map_err(|error| store_error(error.to_string()))?;
        if now >= record.expires {
            return Err(TokenRefused::Expired {
                service: record.service,
                at: timestamp::format(record.expires),
            });
        }
        Ok(Token { record, key, revision: found.revision })
    }

    /// Takes a token that is good once out; of two who present it at the same moment one gets through.
    pub(crate) async fn use_up(&self, token: Token) -> Result<(), TokenRefused> {
        if !token.record.once {
            return Ok(());
        }
        let transaction = Transaction::default()
            .expect(token.key.clone(), Expect::Revision(token.revision))
            .delete(token.key);
        match self.store.commit(transaction).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { .. }) => Err(TokenRefused::UsedUp),
            Err(error) => Err(TokenRefused::Store(error.to_string())),
        }
    }

    fn expired(&self, now: u64) -> Result<Vec<Key>, StoreError> {
        let (tokens, _) = self.store.list(&Prefix::tokens())?;
        let is_over = |value: &[u8]| {
            // One that can't be read is worth nothing to anybody.
            serde_json::from_slice::<TokenRecord>(value).map_or(true, |record| now >= record.expires)
        };
        Ok(tokens.into_iter().filter(|token| is_over(&token.value)).map(|token| token.key).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> (tempfile::TempDir, Tokens) {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("mesh.redb"), 100).unwrap();
        (dir, Tokens::new(store))
    }

    #[tokio::test]
    async fn a_token_is_worth_its_service_until_it_expires() {
        let (_dir, tokens) = tokens();
        let (secret, record, _) = tokens.create("shop", "cart", 60, false, 1_000).await.unwrap();
        assert_eq!(tokens.find(secret.reveal(), 1_059).unwrap().record, record);
        assert_eq!((record.namespace.as_str(), record.service.as_str()), ("shop", "cart"));
        let refused = tokens.find(secret.reveal(), 1_060).unwrap_err();
        assert!(refused.to_string().contains("expired at 1970-01-01T00:17:40Z"), "{refused}");
        assert!(matches!(tokens.find("another", 1_000), Err(TokenRefused::Unknown)));
    }

    #[tokio::test]
    async fn a_token_that_is_good_once_is_used_up_by_one() {
        let (_dir, tokens) = tokens();
        let (secret, ..) = tokens.create("shop", "cart", 60, true, 1_000).await.unwrap();
        let first = tokens.find(secret.reveal(), 1_000).unwrap();
        let second = tokens.find(secret.reveal(), 1_000).unwrap();
        assert!(tokens.use_up(first).await.is_ok());
        assert!(matches!(tokens.use_up(second).await, Err(TokenRefused::UsedUp)));
        assert!(matches!(tokens.find(secret.reveal(), 1_000), Err(TokenRefused::Unknown)));
    }

    #[tokio::test]
    async fn expired_tokens_are_swept_out() {
        let (_dir, tokens) = tokens();
        tokens.create("shop", "cart", 60, false, 1_000).await.unwrap();
        tokens.create("shop", "web", 60, false, 1_061).await.unwrap();
        assert_eq!(tokens.store.list(&Prefix::tokens()).unwrap().0.len(), 1);
    }

    #[tokio::test]
    async fn nobody_gets_a_token_for_the_mesh_itself() {
        let (_dir, tokens) = tokens();
        let refused = [
            tokens.create(SYSTEM_NAMESPACE, "control", 60, false, 0).await,
            tokens.create("shop", "Cart", 60, false, 0).await,
            tokens.create("shop/x", "cart", 60, false, 0).await,
            tokens.create("shop", "cart", 0, false, 0).await,
            tokens.create("shop", "cart", u64::MAX, false, 0).await,
        ];
        assert!(refused.iter().all(Result::is_err));
    }
}
