//! Which service has which virtual address, in the store: given in the transaction that makes a service, given back in
//! the one that deletes it. What is chosen says `core::virtual_address`.
//!
//! Three places hold it. A Service's record has its address, so that who reads the service needs nothing else.
//! `identity/address/<address>` names its service, and is what two that make services at once collide in, so that one
//! of them tries again. `identity/resting/<namespace>/<service>` is where a service that comes back finds its own.
//!
//! `settle` mends what does not fit: at the start of a newer version, or with another range, services without address
//! get one; what has rested for long enough is forgotten. Then once an hour, as others may have made room.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use meshwork_core::manifest::Kind;
use meshwork_core::model::Key as Named;
use meshwork_core::virtual_address::{Holding, VirtualRanges, choose};
use tokio_util::sync::CancellationToken;

use crate::manifest::Record;
use crate::store::{CommitError, Expect, Key, Prefix, Store, StoreError, Stored, Transaction};
use crate::time::unix_seconds;

/// Between two looks at what has rested, and at who is still without. A service that found no room waits that long once
/// there is some.
const SETTLE_INTERVAL: Duration = Duration::from_secs(3_600);

/// Services that one transaction of `settle` changes: one write to the disk for many, small enough to fit beside others.
const BATCH_MAX: usize = 256;

#[derive(Clone)]
pub(crate) struct Addresses {
    store: Store,
    pub(crate) ranges: VirtualRanges,
}

/// The addresses that one transaction gives.
#[derive(Default)]
pub(crate) struct Given(BTreeSet<Ipv4Addr>);

#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Addresses {
    pub(crate) fn new(store: Store, ranges: VirtualRanges) -> Self {
        Self { store, ranges }
    }

    /// Adds to a transaction that makes a service what gives it an address; `None`: there is none left.
    pub(crate) fn give(
        &self,
        transaction: Transaction,
        service: &Named,
        given: &mut Given,
        now: u64,
    ) -> Result<(Transaction, Option<Ipv4Addr>), StoreError> {
        let resting = Key::resting(&service.namespace, &service.name);
        let last = self.store.get(&resting)?;
        let last_address = last.as_ref().and_then(|last| std::str::from_utf8(&last.value).ok()?.parse().ok());
        let mut revision = None;
        let held = |address: Ipv4Addr| -> Result<Option<Holding>, StoreError> {
            if given.0.contains(&address) {
                return Ok(Some(somebodys()));
            }
            let found = self.store.get(&Key::address(address))?;
            revision = found.as_ref().map(|found| found.revision);
            Ok(found.map(|found| holding(&found)))
        };
        let Some(address) = choose(self.ranges.v4(), service, last_address, now, held)? else {
            tracing::error!(%service, range = %self.ranges.v4(), "no virtual address is left for a service");
            return Ok((transaction, None));
        };
        given.0.insert(address);
        let key = Key::address(address);
        let mut transaction = transaction
            .expect(key.clone(), revision.map_or(Expect::Absent, Expect::Revision))
            .put(key, to_bytes(&Holding::of(service)));
        if last.is_some() {
            transaction = transaction.delete(resting);
        }
        Ok((transaction, Some(address)))
    }

    /// Adds to a transaction that deletes a service what gives its address back.
    pub(crate) fn take_back(
        &self,
        transaction: Transaction,
        service: &Named,
        address: Ipv4Addr,
        now: u64,
    ) -> Result<Transaction, StoreError> {
        let key = Key::address(address);
        let Some(found) = self.store.get(&key)?.filter(|found| holding(found) == Holding::of(service)) else {
            return Ok(transaction); // it is another's, so it is not this one's to give back
        };
        let over = Holding { given_up: Some(now), ..Holding::of(service) };
        let resting = Key::resting(&service.namespace, &service.name);
        Ok(transaction
            .expect(key.clone(), Expect::Revision(found.revision))
            .put(key, to_bytes(&over))
            .put(resting, address.to_string().into_bytes()))
    }

    /// Once before the model reads the store, so that it sees every address at once.
    pub(crate) async fn settle_first(&self) {
        self.settle_and_tell(unix_seconds(SystemTime::now())).await;
    }

    /// Then now and then, until drained.
    pub(crate) async fn keep(self, drain: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SETTLE_INTERVAL) => {}
                () = drain.cancelled() => return,
            }
            self.settle_and_tell(unix_seconds(SystemTime::now())).await;
        }
    }

    async fn settle_and_tell(&self, now: u64) {
        match self.settle(now).await {
            Ok(0) => {}
            Ok(given) => {
                tracing::info!(given, range = %self.ranges.v4(), "gave virtual addresses to services without one")
            }
            Err(error) => {
                tracing::error!(%error, "virtual addresses could not be settled; services without one go on without");
            }
        }
    }

    /// How many services got an address.
    async fn settle(&self, now: u64) -> Result<usize, SettleError> {
        let given = self.give_missing(now).await?;
        self.forget(now).await?;
        Ok(given)
    }

    async fn give_missing(&self, now: u64) -> Result<usize, SettleError> {
        let (services, _) = self.store.list(&Prefix::intent(Kind::Service.name(), None))?;
        let lacking: Vec<(Stored, Record)> = services
            .into_iter()
            .filter_map(|stored| Some((Record::read(&stored.key, &stored.value).ok()?, stored)))
            .filter(|(record, _)| record.address.is_none_or(|address| !self.ranges.v4().contains(address)))
            .map(|(record, stored)| (stored, record))
            .collect();
        let mut count = 0;
        for batch in lacking.chunks(BATCH_MAX) {
            let (mut transaction, mut given) = (Transaction::default(), Given::default());
            for (stored, record) in batch {
                let (namespace, name) = stored.key.namespace_and_name();
                let address;
                let service = Named::new(namespace, name);
                (transaction, address) = self.give(transaction, &service, &mut given, now)?;
                if address.is_none() {
                    break; // nobody after it finds one either
                }
                let record = Record { address, ..record.clone() };
                transaction = transaction
                    .expect(stored.key.clone(), Expect::Revision(stored.revision))
                    .put(stored.key.clone(), record.to_bytes());
            }
            count += given.0.len();
            self.store.commit(transaction).await?;
        }
        Ok(count)
    }

    /// Forgets what has rested, and lets rest what nobody has.
    async fn forget(&self, now: u64) -> Result<(), SettleError> {
        let (held, _) = self.store.list(&Prefix::addresses())?;
        let (services, _) = self.store.list(&Prefix::intent(Kind::Service.name(), None))?;
        let has: BTreeMap<String, Ipv4Addr> = services
            .iter()
            .filter_map(|stored| {
                let (namespace, name) = stored.key.namespace_and_name();
                let address = Record::read(&stored.key, &stored.value).ok()?.address?;
                Some((Named::new(namespace, name).to_string(), address))
            })
            .collect();
        let mut changes = Vec::new();
        for stored in held {
            let (holding, address) = (holding(&stored), address_of(&stored.key));
            let service =
                holding.service.split_once('/').map(|(namespace, name)| Named::new(namespace, name));
            let (Some(address), Some(service)) = (address, service) else { continue };
            if holding.is_over(now) {
                changes.push(Forgotten::Over(stored, service));
            } else if holding.given_up.is_none() && has.get(&holding.service) != Some(&address) {
                changes.push(Forgotten::Lost(address, service));
            }
        }
        for batch in changes.chunks(BATCH_MAX) {
            let mut transaction = Transaction::default();
            for forgotten in batch {
                transaction = match forgotten {
                    Forgotten::Over(stored, service) => self.remove(transaction, stored, service)?,
                    Forgotten::Lost(address, service) => {
                        self.take_back(transaction, service, *address, now)?
                    }
                };
            }
            self.store.commit(transaction).await?;
        }
        Ok(())
    }

    fn remove(
        &self,
        transaction: Transaction,
        stored: &Stored,
        service: &Named,
    ) -> Result<Transaction, StoreError> {
        let transaction = transaction
            .expect(stored.key.clone(), Expect::Revision(stored.revision))
            .delete(stored.key.clone());
        let resting = Key::resting(&service.namespace, &service.name);
        let last = self.store.get(&resting)?.map(|last| last.value);
        let is_this = last
            .is_some_and(|last| address_of(&stored.key).is_some_and(|a| a.to_string().into_bytes() == last));
        Ok(if is_this { transaction.delete(resting) } else { transaction })
    }
}

enum Forgotten {
    /// It rested for long enough.
    Over(Stored, Named),
    /// Its service is gone or has another one.
    Lost(Ipv4Addr, Named),
}

/// What can't be read was written by a newer version, and is not ours to give.
fn holding(stored: &Stored) -> Holding {
    serde_json::from_slice(&stored.value).unwrap_or_else(|_| somebodys())
}

fn somebodys() -> Holding {
    Holding { service: String::new(), given_up: None }
}

fn to_bytes(holding: &Holding) -> Vec<u8> {
    // A text and a number always encode.
    serde_json::to_vec(holding).unwrap_or_default()
}

fn address_of(key: &Key) -> Option<Ipv4Addr> {
    key.namespace_and_name().1.parse().ok()
}

#[cfg(test)]
mod tests;
