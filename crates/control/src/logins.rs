//! Login tokens: which operators may come from other machines, as what, and for how long.
//!
//! The store knows a login by its name, and keeps the SHA-256 of its secret alone: a copy of the store logs nobody in.
//! A record is written once and deleted, never changed, so that its revision says which login it is. What a role may do
//! stands in `api/access.rs`; how often somebody may be wrong in `attempts.rs`.

mod attempts;

pub(crate) use attempts::Counts;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use meshwork_core::name::is_label;
use meshwork_identity::{CryptoFailed, InvalidLogin, LoginToken, SecretHash, TokenSecret};
use serde::{Deserialize, Serialize};

use crate::lock::lock;
use crate::store::{CommitError, Expect, Key, Prefix, Store, StoreError, Transaction};
use attempts::Attempts;

/// The longest that a login may be good for: a person who left should be out within a quarter, whoever forgot them.
const TTL_SECONDS_MAX: u64 = 90 * 24 * 3_600;

/// Logins at a time: people and their scripts, not sidecars. Listing them all is one answer.
const LOGINS_MAX: usize = 500;

/// Of a new login's name where none was given: enough that a handful does not meet, short enough to be said.
const NAME_DIGITS: usize = 6;

/// What somebody may do; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Read what holds no secret.
    View,
    /// Write resources, too.
    Edit,
    /// Everything: tokens, the authority, backups.
    Admin,
}

/// What a login is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoginRecord {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// `None`: the whole mesh.
    pub(crate) namespace: Option<String>,
    /// Seconds since the epoch.
    pub(crate) created: u64,
    pub(crate) expires: u64,
    /// Who made it, as the audit log names them.
    pub(crate) made_by: String,
    secret_hash: String,
}

/// What an admin wants.
pub(crate) struct Wanted {
    pub(crate) name: Option<String>,
    pub(crate) role: Role,
    pub(crate) namespace: Option<String>,
    pub(crate) ttl_seconds: u64,
    pub(crate) made_by: String,
}

/// A login that somebody proved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proven {
    pub(crate) record: LoginRecord,
    /// Of its making.
    revision: u64,
}

/// Why somebody is not let in. Never names the secret, and does not tell a wrong name from a wrong secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginRefused {
    #[error(
        "the API takes operators: log in with a login token (`meshwork login --token-file F`), or use the socket operator.sock in the control plane's state directory"
    )]
    NoToken,
    #[error(transparent)]
    Damaged(#[from] InvalidLogin),
    #[error(
        "the login token is not known here: it was revoked or has expired, or another mesh made it; ask an admin for a new one (`meshwork login-token create`)"
    )]
    Unknown,
    #[error(
        "too many wrong login tokens came from {0}: whatever comes from there is refused for up to a minute"
    )]
    TooMany(IpAddr),
    #[error("the login token cannot be looked up: {0}")]
    Store(String),
}

impl LoginRefused {
    /// For the metric.
    pub(crate) const WORDS: [&str; 5] = ["no_token", "damaged", "unknown", "too_many", "store"];

    pub(crate) fn word(&self) -> &'static str {
        let [no_token, damaged, unknown, too_many, store] = Self::WORDS;
        match self {
            Self::NoToken => no_token,
            Self::Damaged(_) => damaged,
            Self::Unknown => unknown,
            Self::TooMany(_) => too_many,
            Self::Store(_) => store,
        }
    }
}

/// Why a login can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("{what} {name:?} is no DNS label (lower-case letters, digits and dashes, at most 63)")]
    Name { what: &'static str, name: String },
    #[error("there is a login named {0} already: choose another name, or delete that one first")]
    Taken(String),
    #[error("an admin is one of the whole mesh: leave out the namespace, or choose role edit or view")]
    AdminOfNamespace,
    #[error("a login lives from 1 second to {} days, not {seconds} seconds", TTL_SECONDS_MAX / 86_400)]
    Ttl { seconds: u64 },
    #[error("there are {LOGINS_MAX} logins already: delete some that nobody uses")]
    Full,
    #[error("there is no login named {0}")]
    Absent(String),
    #[error(transparent)]
    Crypto(#[from] CryptoFailed),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone)]
pub(crate) struct Logins {
    store: Store,
    attempts: Arc<Mutex<Attempts>>,
}

impl Logins {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, attempts: Arc::default() }
    }

    /// Makes a login; the secret is returned here and nowhere else. Expired ones are swept out.
    pub(crate) async fn create(
        &self,
        wanted: Wanted,
        now: u64,
    ) -> Result<(TokenSecret, LoginRecord, u64), LoginError> {
        check(&wanted)?;
        let secret = TokenSecret::generate()?;
        let secret_hash = secret.hash().to_string();
        let Wanted { name, role, namespace, ttl_seconds, made_by } = wanted;
        // Some digits of a hash of 32 random bytes tell nothing of these.
        let name = name.unwrap_or_else(|| format!("{}-{}", role.word(), &secret_hash[..NAME_DIGITS]));
        let expires = now + ttl_seconds;
        let record = LoginRecord { name, role, namespace, created: now, expires, made_by, secret_hash };
        let key = Key::login(&record.name);
        let (mut expect, mut live) = (Expect::Absent, 0);
        let mut transaction = Transaction::default();
        for (known, at, revision) in self.stored()? {
            let is_live = known.is_some_and(|known| now < known.expires);
            live += usize::from(is_live);
            match (at == key, is_live) {
                (true, true) => return Err(LoginError::Taken(record.name)),
                (true, false) => expect = Expect::Revision(revision),
                (false, false) => transaction = transaction.delete(at),
                (false, true) => {}
            }
        }
        if live >= LOGINS_MAX {
            return Err(LoginError::Full);
        }
        // Texts, numbers and a word always encode.
        let value = serde_json::to_vec(&record).unwrap_or_default();
        let transaction = transaction.expect(key.clone(), expect).put(key, value);
        match self.store.commit(transaction).await {
            Ok(revision) => Ok((secret, record, revision)),
            Err(CommitError::Conflict { .. }) => Err(LoginError::Taken(record.name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Those that hold, in order of name.
    pub(crate) fn list(&self, now: u64) -> Result<Vec<LoginRecord>, StoreError> {
        let stored = self.stored()?.into_iter();
        Ok(stored.filter_map(|(record, ..)| record).filter(|record| now < record.expires).collect())
    }

    /// From the next request on it is worth nothing.
    pub(crate) async fn delete(&self, name: &str) -> Result<u64, LoginError> {
        let key = Key::login(name);
        let transaction = Transaction::default().expect(key.clone(), Expect::Present).delete(key);
        match self.store.commit(transaction).await {
            Err(CommitError::Conflict { .. }) => Err(LoginError::Absent(name.chars().take(64).collect())),
            other => Ok(other?),
        }
    }

    /// Whom `presented`, a login token's text, proves; `None` is as wrong as a wrong one. Whoever was wrong too often is not looked at for a while.
    pub(crate) fn prove(
        &self,
        presented: Option<&str>,
        from: IpAddr,
        now: u64,
        moment: Instant,
    ) -> Result<Proven, LoginRefused> {
        if !self.attempts().may_try(from, moment) {
            return Err(LoginRefused::TooMany(from));
        }
        let token = presented.ok_or(LoginRefused::NoToken).and_then(|text| Ok(text.parse::<LoginToken>()?));
        let found = token.and_then(|token| self.find(&token, now));
        match &found {
            Err(LoginRefused::Unknown | LoginRefused::NoToken | LoginRefused::Damaged(_)) => {
                self.attempts().failed(from, moment);
            }
            Err(LoginRefused::TooMany(_) | LoginRefused::Store(_)) | Ok(_) => {}
        }
        found
    }

    /// Whether what was proven is still worth something: for answers that go on for hours.
    pub(crate) fn holds(&self, proven: &Proven, now: u64) -> bool {
        let stored = self.store.get(&Key::login(&proven.record.name)).ok().flatten();
        now < proven.record.expires && stored.is_some_and(|stored| stored.revision == proven.revision)
    }

    /// Refused so far, for the status.
    pub(crate) fn counts(&self) -> Counts {
        self.attempts().counts()
    }

    fn find(&self, token: &LoginToken, now: u64) -> Result<Proven, LoginRefused> {
        let store_error = |error: String| LoginRefused::Store(error);
        let found =
            self.store.get(&Key::login(&token.name)).map_err(|error| store_error(error.to_string()))?;
        let stored = found.ok_or(LoginRefused::Unknown)?;
        let record: LoginRecord =
            serde_json::from_slice(&stored.value).map_err(|error| store_error(error.to_string()))?;
        let kept: SecretHash = record.secret_hash.parse().map_err(|_| LoginRefused::Unknown)?;
        // In constant time: how long this takes says nothing of how much was right.
        if !kept.matches(token.secret.reveal()) || now >= record.expires {
            return Err(LoginRefused::Unknown);
        }
        Ok(Proven { record, revision: stored.revision })
    }

    /// Each with its key and revision; `None` for one that can't be read, which is worth nothing to anybody.
    fn stored(&self) -> Result<Vec<(Option<LoginRecord>, Key, u64)>, StoreError> {
        let (stored, _) = self.store.list(&Prefix::logins())?;
        let read = |value: &[u8]| serde_json::from_slice(value).ok();
        Ok(stored.into_iter().map(|stored| (read(&stored.value), stored.key, stored.revision)).collect())
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        lock(&self.attempts)
    }
}

impl Role {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Edit => "edit",
            Self::Admin => "admin",
        }
    }
}

fn check(wanted: &Wanted) -> Result<(), LoginError> {
    let names = [("name", &wanted.name), ("namespace", &wanted.namespace)];
    for (what, name) in names.into_iter().filter_map(|(what, name)| Some((what, name.as_ref()?))) {
        if !is_label(name) {
            return Err(LoginError::Name { what, name: name.chars().take(256).collect() });
        }
    }
    if wanted.role == Role::Admin && wanted.namespace.is_some() {
        return Err(LoginError::AdminOfNamespace);
    }
    if !(1..=TTL_SECONDS_MAX).contains(&wanted.ttl_seconds) {
        return Err(LoginError::Ttl { seconds: wanted.ttl_seconds });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn logins() -> (tempfile::TempDir, Logins) {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("mesh.redb"), 100).unwrap();
        (dir, Logins::new(store))
    }

    fn wanted(name: Option<&str>, role: Role) -> Wanted {
        let name = name.map(str::to_owned);
        Wanted { name, role, namespace: None, ttl_seconds: 60, made_by: "uid 0".to_owned() }
    }

    /// The text that an operator would present.
    fn text(name: &str, secret: TokenSecret) -> String {
        let root_hash = "ab".repeat(32).parse().unwrap();
        let (address, name) = ("127.0.0.1:1".to_owned(), name.to_owned());
        LoginToken { address, expires: 1, name, root_hash, secret }.to_string()
    }

    #[tokio::test]
    async fn a_login_is_worth_its_role_until_it_expires_or_is_deleted() {
        let (_dir, logins) = logins();
        let moment = Instant::now();
        let (secret, record, _) = logins.create(wanted(Some("alice"), Role::Edit), 1_000).await.unwrap();
        let alice = text("alice", secret);
        let proven = logins.prove(Some(&alice), HERE, 1_059, moment).unwrap();
        assert_eq!(proven.record, record);
        assert!(logins.holds(&proven, 1_059) && !logins.holds(&proven, 1_060));
        assert!(matches!(logins.prove(Some(&alice), HERE, 1_060, moment), Err(LoginRefused::Unknown)));
        logins.delete("alice").await.unwrap();
        assert!(matches!(logins.prove(Some(&alice), HERE, 1_000, moment), Err(LoginRefused::Unknown)));
        assert!(matches!(logins.delete("alice").await, Err(LoginError::Absent(_))));
        // A new one of the name is another one.
        logins.create(wanted(Some("alice"), Role::Edit), 1_000).await.unwrap();
        assert!(!logins.holds(&proven, 1_000));
    }

    #[tokio::test]
    async fn a_wrong_secret_is_refused_and_the_store_holds_no_secret() {
        let (_dir, logins) = logins();
        let (secret, ..) = logins.create(wanted(Some("alice"), Role::Admin), 1_000).await.unwrap();
        let wrong = text("alice", TokenSecret::generate().unwrap());
        assert!(matches!(
            logins.prove(Some(&wrong), HERE, 1_000, Instant::now()),
            Err(LoginRefused::Unknown)
        ));
        let other_name = text("bob", secret.clone());
        assert!(matches!(
            logins.prove(Some(&other_name), HERE, 1_000, Instant::now()),
            Err(LoginRefused::Unknown)
        ));
        let (stored, _) = logins.store.list(&Prefix::logins()).unwrap();
        let stored = String::from_utf8(stored[0].value.clone()).unwrap();
        assert!(!stored.contains(secret.reveal()) && stored.contains("alice"), "{stored}");
    }

    #[tokio::test]
    async fn whoever_is_wrong_too_often_is_not_looked_at() {
        let (_dir, logins) = logins();
        let moment = Instant::now();
        let (secret, ..) = logins.create(wanted(Some("alice"), Role::View), 1_000).await.unwrap();
        let alice = text("alice", secret);
        while !matches!(logins.prove(Some("ml1.wrong"), HERE, 1_000, moment), Err(LoginRefused::TooMany(_))) {
        }
        assert!(matches!(logins.prove(Some(&alice), HERE, 1_000, moment), Err(LoginRefused::TooMany(_))));
        let elsewhere = "10.0.0.8".parse().unwrap();
        assert!(logins.prove(Some(&alice), elsewhere, 1_000, moment).is_ok());
    }

    #[tokio::test]
    async fn a_name_is_taken_until_its_login_is_over() {
        let (_dir, logins) = logins();
        logins.create(wanted(Some("alice"), Role::View), 1_000).await.unwrap();
        let taken = logins.create(wanted(Some("alice"), Role::View), 1_059).await;
        assert!(matches!(taken, Err(LoginError::Taken(_))));
        logins.create(wanted(Some("bob"), Role::View), 1_060).await.unwrap();
        assert_eq!(logins.store.list(&Prefix::logins()).unwrap().0.len(), 1, "alice's was swept out");
        logins.create(wanted(Some("alice"), Role::View), 1_060).await.unwrap();
        let (_, unnamed, _) = logins.create(wanted(None, Role::View), 1_060).await.unwrap();
        assert!(unnamed.name.starts_with("view-") && is_label(&unnamed.name), "{}", unnamed.name);
        let names: Vec<_> = logins.list(1_061).unwrap().into_iter().map(|login| login.name).collect();
        assert_eq!(names, ["alice", "bob", &unnamed.name]);
        assert_eq!(logins.list(1_120).unwrap(), []);
    }

    #[tokio::test]
    async fn what_no_login_may_be_is_refused() {
        let (_dir, logins) = logins();
        let in_shop = |role| Wanted { namespace: Some("shop".to_owned()), ..wanted(None, role) };
        assert!(matches!(logins.create(in_shop(Role::Admin), 0).await, Err(LoginError::AdminOfNamespace)));
        assert!(logins.create(in_shop(Role::Edit), 0).await.is_ok());
        let slash = Wanted { namespace: Some("a/b".to_owned()), ..wanted(None, Role::View) };
        assert!(matches!(logins.create(slash, 0).await, Err(LoginError::Name { .. })));
        assert!(matches!(
            logins.create(wanted(Some("A"), Role::View), 0).await,
            Err(LoginError::Name { .. })
        ));
        for ttl_seconds in [0, TTL_SECONDS_MAX + 1, u64::MAX] {
            let wanted = Wanted { ttl_seconds, ..wanted(None, Role::View) };
            assert!(matches!(logins.create(wanted, 0).await, Err(LoginError::Ttl { .. })));
        }
    }
}
