//! The store against a real file: revisions, conditions, the bounded log, damage and a killed process.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const CHANGES_KEPT: u64 = 3_000;

struct Case {
    dir: tempfile::TempDir,
    store: Store,
}

fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let (store, _writer) = Store::open(&dir.path().join("mesh.redb"), CHANGES_KEPT).unwrap();
    Case { dir, store }
}

fn service(name: &str) -> Key {
    Key::intent("Service", "default", name)
}

fn put(name: &str, value: &str) -> Transaction {
    Transaction::default().put(service(name), value.into())
}

fn told(changes: Changes) -> Vec<(u64, String, Option<String>)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    changes.changes.into_iter().map(|c| (c.revision, c.key.to_string(), c.value.map(text))).collect()
}

#[tokio::test]
async fn a_revision_is_taken_by_a_change_only() {
    let Case { store, dir: _dir } = case();
    assert_eq!(store.commit(put("cart", "a")).await, Ok(1));
    assert_eq!(store.commit(put("cart", "a")).await, Ok(1), "the same value again");
    assert_eq!(store.commit(Transaction::default().delete(service("web"))).await, Ok(1), "absent already");
    assert_eq!(store.commit(put("cart", "b")).await, Ok(2));
    assert_eq!(store.get(&service("cart")).unwrap().unwrap().revision, 2);
    assert_eq!(store.revision(), 2);
}

#[tokio::test]
async fn a_transaction_is_done_whole_or_not_at_all() {
    let Case { store, dir: _dir } = case();
    store.commit(put("cart", "a")).await.unwrap();
    let both = |expect| {
        Transaction::default()
            .put(service("web"), b"new".to_vec())
            .expect(service("cart"), expect)
            .put(service("cart"), b"b".to_vec())
    };
    for expect in [Expect::Absent, Expect::Revision(9)] {
        let error = store.commit(both(expect)).await.unwrap_err();
        assert!(matches!(error, CommitError::Conflict { .. }), "{error}");
        assert_eq!(store.get(&service("web")).unwrap(), None);
        assert_eq!(store.get(&service("cart")).unwrap().unwrap().value, b"a");
    }
    assert_eq!(store.commit(both(Expect::Revision(1))).await, Ok(2));
    let (all, revision) = store.list(&Prefix::intent("Service", None)).unwrap();
    assert_eq!((all.len(), revision), (2, 2));
}

#[tokio::test]
async fn one_of_two_rivals_wins() {
    let Case { store, dir: _dir } = case();
    let claim = |value: &str| store.commit(put("cart", value).expect(service("cart"), Expect::Absent));
    let (first, second) = tokio::join!(claim("a"), claim("b"));
    assert_eq!(first.is_ok() as u8 + second.is_ok() as u8, 1, "{first:?} {second:?}");
}

#[tokio::test]
async fn a_list_holds_its_own_prefix_only() {
    let Case { store, dir: _dir } = case();
    let keys = [
        Key::intent("Service", "default", "cart"),
        Key::intent("Service", "default-2", "cart"),
        Key::intent("ServiceX", "default", "cart"),
        Key::registration("default", "cart-1"),
    ];
    for key in keys {
        store.commit(Transaction::default().put(key, b"x".to_vec())).await.unwrap();
    }
    let names = |prefix: Prefix| -> Vec<String> {
        store.list(&prefix).unwrap().0.into_iter().map(|stored| stored.key.to_string()).collect()
    };
    assert_eq!(names(Prefix::intent("Service", Some("default"))), ["intent/Service/default/cart"]);
    assert_eq!(names(Prefix::intent("Service", None)).len(), 2);
    assert_eq!(names(Prefix::all_intent()).len(), 3);
    assert_eq!(names(Prefix::registrations(None)), ["registration/default/cart-1"]);
}

#[tokio::test]
async fn the_log_tells_changes_from_a_revision_on() {
    let Case { store, dir: _dir } = case();
    store.commit(put("cart", "a")).await.unwrap();
    store.commit(Transaction::default().put(Key::token("hash"), b"secret".to_vec())).await.unwrap();
    store.commit(put("cart", "b")).await.unwrap();
    store.commit(Transaction::default().delete(service("cart"))).await.unwrap();
    let prefixes = [Prefix::intent("Service", None)];
    let cart = "intent/Service/default/cart".to_owned();
    assert_eq!(
        told(store.changes(1, &prefixes).unwrap()),
        [(3, cart.clone(), Some("b".to_owned())), (4, cart, None)]
    );
    let last = store.changes(3, &prefixes).unwrap();
    assert_eq!((last.through, last.changes[0].previous.as_deref()), (4, Some(b"b".as_slice())));
    assert!(store.changes(4, &prefixes).unwrap().changes.is_empty());
    assert!(matches!(store.changes(5, &prefixes), Err(ChangesError::Ahead { .. })));
}

#[tokio::test]
async fn the_log_is_bounded_and_says_where_it_begins() {
    let Case { store, dir: _dir } = case();
    let commits = (0..CHANGES_KEPT + 10).map(|n| store.commit(put("cart", &n.to_string())));
    for result in futures_util::future::join_all(commits).await {
        result.unwrap();
    }
    let prefixes = [Prefix::all_intent()];
    let error = store.changes(9, &prefixes).unwrap_err();
    assert!(matches!(error, ChangesError::Gone { asked: 9, oldest: 10 }), "{error}");
    let mut after = 10;
    let mut count = 0;
    while after < store.revision() {
        let changes = store.changes(after, &prefixes).unwrap();
        assert!(changes.changes.len() <= CHANGES_READ_MAX);
        count += changes.changes.len() as u64;
        after = changes.through;
    }
    assert_eq!(count, CHANGES_KEPT);
}

#[tokio::test]
async fn a_value_too_large_is_refused_by_name() {
    let Case { store, dir: _dir } = case();
    let error = store.commit(put("cart", &"x".repeat(writer::VALUE_BYTES_MAX + 1))).await.unwrap_err();
    assert!(error.to_string().contains("intent/Service/default/cart"), "{error}");
    assert_eq!(store.revision(), 0);
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_killed_process() {
    let Case { store, dir } = case();
    store.commit(put("cart", "a")).await.unwrap();
    store.commit(put("web", "b")).await.unwrap();
    // The file as a `kill -9` leaves it: copied while the writer holds it open, never closed.
    let copy = dir.path().join("copy.redb");
    fs::copy(dir.path().join("mesh.redb"), &copy).unwrap();
    let (again, _writer) = Store::open(&copy, CHANGES_KEPT).unwrap();
    assert_eq!(again.revision(), 2);
    assert_eq!(again.get(&service("web")).unwrap().unwrap().value, b"b");
    assert_eq!(again.commit(put("web", "c")).await, Ok(3));
}

#[tokio::test]
async fn a_closed_store_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.redb");
    for round in 1..=3 {
        let (store, writer) = Store::open(&path, CHANGES_KEPT).unwrap();
        assert_eq!(store.commit(put("cart", &round.to_string())).await, Ok(round));
        drop(store);
        writer.ended().await;
    }
}

#[tokio::test]
async fn only_one_process_has_it_and_only_its_user_reads_it() {
    let Case { store: _store, dir } = case();
    let path = dir.path().join("mesh.redb");
    assert!(matches!(Store::open(&path, CHANGES_KEPT), Err(StoreError::InUse { .. })));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_is_no_store_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, content: &[u8]| -> String {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        Store::open(&path, CHANGES_KEPT).map(drop).unwrap_err().to_string()
    };
    assert!(refused("text", b"hello, this is a text file").contains("damaged"));
    assert!(refused("zeros", &[0; 9_000]).contains("damaged"));
}

#[tokio::test]
async fn a_damaged_store_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.redb");
    let (store, writer) = Store::open(&path, CHANGES_KEPT).unwrap();
    for n in 0..50 {
        store.commit(put(&format!("cart-{n}"), &"x".repeat(2_000))).await.unwrap();
    }
    drop(store);
    writer.ended().await;
    let mut bytes = fs::read(&path).unwrap();
    // Past the header, through the pages of every tree.
    bytes[4_096..].iter_mut().step_by(97).for_each(|byte| *byte ^= 0x55);
    fs::write(&path, bytes).unwrap();
    let error = Store::open(&path, CHANGES_KEPT).map(drop).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("backup"), "{error}");
}

#[test]
fn a_foreign_format_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.redb");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(file::META).unwrap().insert("format", 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open(&path, CHANGES_KEPT).map(drop).unwrap_err().to_string();
    assert!(error.contains("format 99"), "{error}");
}
