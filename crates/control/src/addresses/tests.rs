//! Against a real store: what is given, given back, and mended.

use meshwork_core::virtual_address::{REST, VirtualRange};
use tempfile::TempDir;

use super::*;

const DAY: u64 = REST.as_secs();

struct Case {
    _dir: TempDir,
    store: Store,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _writer) = Store::open(&dir.path().join("mesh.redb"), 100).unwrap();
        Self { _dir: dir, store }
    }

    fn addresses(&self, range: &str) -> Addresses {
        let range: VirtualRange = range.parse().unwrap();
        Addresses::new(self.store.clone(), VirtualRanges::new(range, "m"))
    }

    fn address(&self, name: &str) -> Option<Ipv4Addr> {
        let key = Key::intent("Service", "default", name);
        let stored = self.store.get(&key).unwrap()?;
        Record::read(&key, &stored.value).unwrap().address
    }

    /// As a version without addresses wrote it.
    async fn put_old(&self, name: &str) {
        let transaction = Transaction::default().put(Key::intent("Service", "default", name), record(None));
        self.store.commit(transaction).await.unwrap();
    }

    async fn make(
        &self,
        addresses: &Addresses,
        name: &str,
        now: u64,
    ) -> Result<Option<Ipv4Addr>, CommitError> {
        let service = Named::new("default", name);
        let (transaction, address) =
            addresses.give(Transaction::default(), &service, &mut Given::default(), now).unwrap();
        let key = Key::intent("Service", "default", name);
        self.store.commit(transaction.put(key, record(address))).await.map(|_| address)
    }

    async fn delete(&self, addresses: &Addresses, name: &str, now: u64) {
        let address = self.address(name).unwrap();
        let transaction = Transaction::default().delete(Key::intent("Service", "default", name));
        let transaction =
            addresses.take_back(transaction, &Named::new("default", name), address, now).unwrap();
        self.store.commit(transaction).await.unwrap();
    }

    fn keys(&self) -> usize {
        self.store.len().unwrap() as usize
    }
}

fn record(address: Option<Ipv4Addr>) -> Vec<u8> {
    let address = address.map(|address| format!(r#", "address": "{address}""#)).unwrap_or_default();
    format!(r#"{{"created": 1, "manifest": {{}}{address}}}"#).into_bytes()
}

#[tokio::test]
async fn services_of_an_older_version_get_addresses_that_stay() {
    let case = Case::new();
    let names: Vec<String> = (0..600).map(|number| format!("s{number}")).collect();
    for name in &names {
        case.put_old(name).await;
    }
    let addresses = case.addresses("240.0.0.0/8");
    assert_eq!(addresses.settle(0).await.unwrap(), 600);
    let given: BTreeSet<_> = names.iter().map(|name| case.address(name).unwrap()).collect();
    assert_eq!(given.len(), 600, "each has its own");
    let revision = case.store.revision();
    assert_eq!(addresses.settle(DAY).await.unwrap(), 0);
    assert_eq!(case.store.revision(), revision, "nothing is left to mend");
}

#[tokio::test]
async fn two_that_make_services_at_once_never_give_one_address() {
    let case = Case::new();
    let addresses = case.addresses("10.9.8.0/24");
    let service = |name: &str| Named::new("default", name);
    let mut transactions = Vec::new();
    // Prepared before either is written; with 300 names for 254 places some want the same one.
    for number in 0..300 {
        let name = service(&format!("s{number}"));
        transactions.push(addresses.give(Transaction::default(), &name, &mut Given::default(), 0).unwrap());
    }
    let mut given = BTreeSet::new();
    let mut refused = 0;
    for (transaction, address) in transactions {
        match case.store.commit(transaction).await {
            Ok(_) => assert!(given.insert(address.unwrap()), "{address:?} is given twice"),
            Err(CommitError::Conflict { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "none collided, so nothing was shown");
}

#[tokio::test]
async fn a_full_range_leaves_a_service_without_until_there_is_room() {
    let case = Case::new();
    let addresses = case.addresses("10.9.8.0/24");
    for number in 0..254 {
        assert!(case.make(&addresses, &format!("s{number}"), 0).await.unwrap().is_some());
    }
    assert_eq!(case.make(&addresses, "late", 0).await.unwrap(), None);
    let freed = case.address("s7").unwrap();
    case.delete(&addresses, "s7", 10).await;
    assert_eq!((addresses.settle(DAY + 9).await.unwrap(), case.address("late")), (0, None));
    assert_eq!((addresses.settle(DAY + 10).await.unwrap(), case.address("late")), (1, Some(freed)));
}

#[tokio::test]
async fn what_has_rested_for_a_day_is_forgotten_and_before_that_it_comes_back() {
    let case = Case::new();
    let addresses = case.addresses("240.0.0.0/8");
    let first = case.make(&addresses, "cart", 0).await.unwrap();
    case.delete(&addresses, "cart", 10).await;
    addresses.settle(DAY + 9).await.unwrap();
    assert_eq!(case.make(&addresses, "cart", DAY + 9).await.unwrap(), first);
    case.delete(&addresses, "cart", DAY + 10).await;
    assert_eq!(case.keys(), 2);
    addresses.settle(2 * DAY + 10).await.unwrap();
    assert_eq!(case.keys(), 0, "address and service are forgotten");
}

#[tokio::test]
async fn with_another_range_every_service_moves_and_what_it_had_rests() {
    let case = Case::new();
    let old = case.make(&case.addresses("240.0.0.0/8"), "cart", 0).await.unwrap().unwrap();
    let addresses = case.addresses("10.9.8.0/24");
    assert_eq!(addresses.settle(10).await.unwrap(), 1);
    assert!(addresses.ranges.v4().contains(case.address("cart").unwrap()));
    let held = case.store.get(&Key::address(old)).unwrap().unwrap();
    assert_eq!(holding(&held).given_up, Some(10));
    // And back within the day: it has its old address again.
    let addresses = case.addresses("240.0.0.0/8");
    addresses.settle(20).await.unwrap();
    assert_eq!(case.address("cart"), Some(old));
}
