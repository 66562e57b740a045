//! The one task that owns the model: what the store and the leases say becomes the next `View`.
//!
//! Changes are collected for a moment, applied to a copy (cheap: it shares what stays the same) and published.
//! What this version can't read is left as it was, and said loudly: one bad record spoils only itself.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_core::manifest::Kind;
use meshwork_core::mesh::{Changed, Mesh};
use meshwork_core::model::{Key as Named, MeshConfig, VirtualAddress};
use meshwork_core::validate::Declared;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ca::Told;
use crate::manifest::{Record, Unreadable};
use crate::publisher::Publisher;
use crate::registry::Standings;
use crate::store::{Change, ChangesError, Key, Prefix, Store, StoreError};
use crate::view::View;

/// How long changes are collected before the next version is made: a burst of registrations or an `apply` in
/// parts is one push, and nobody notices the wait.
const COALESCE: Duration = Duration::from_millis(20);

pub(crate) struct Model {
    store: Store,
    standings: Arc<Standings>,
    mesh: Mesh,
    revision: u64,
    /// What the certificate authority says; `None`: nothing new will come.
    told: Option<watch::Receiver<Told>>,
}

impl Model {
    /// Reads all there is. `empty` has the mesh's own part: ID, trust domain, roots.
    pub(crate) fn open(store: Store, standings: Arc<Standings>, empty: Mesh) -> Result<Self, StoreError> {
        let mut model = Self { store, standings, mesh: empty, revision: 0, told: None };
        model.read_all()?;
        Ok(model)
    }

    /// Roots and who signs, from now on.
    pub(crate) fn follow(&mut self, mut told: watch::Receiver<Told>) {
        let now = told.borrow_and_update().clone();
        self.take(now);
        self.told = Some(told);
    }

    fn take(&mut self, told: Told) {
        self.mesh.set_roots(told.roots);
        self.mesh.set_issuing_root(&told.issuing_root);
    }

    pub(crate) fn first_view(&self) -> View {
        View { number: 0, revision: self.revision, mesh: self.mesh.clone(), changed: Arc::default() }
    }

    /// Publishes a view for every change until drained.
    pub(crate) async fn run(mut self, publisher: Publisher, drain: CancellationToken) {
        let mut revisions = self.store.revisions();
        loop {
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = self.standings.changed() => {}
                told = news(&mut self.told) => self.take(told),
                () = drain.cancelled() => return,
            }
            let begun = Instant::now();
            tokio::time::sleep(COALESCE).await;
            revisions.borrow_and_update();
            // Taken before the store is read: whoever waits for a registration finds it in this view.
            let (dirty, waiting) = self.standings.take();
            if let Err(error) = self.catch_up() {
                tracing::error!(%error, "the model could not follow the store; it stays as it was");
            }
            for workload in dirty {
                self.apply_health(&workload);
            }
            let number = self.publish(&publisher, begun);
            for waiter in waiting {
                // Whoever waited may have gone.
                let _ = waiter.send(number);
            }
        }
    }

    fn publish(&self, publisher: &Publisher, begun: Instant) -> u64 {
        let before = publisher.current();
        let changed = Changed::between(&before.mesh, &self.mesh);
        if changed.is_empty() && self.revision == before.revision {
            return before.number;
        }
        let number = before.number + 1;
        tracing::debug!(
            number,
            revision = self.revision,
            services = changed.services().len(),
            "the mesh changed"
        );
        let (revision, mesh, changed) = (self.revision, self.mesh.clone(), Arc::new(changed));
        publisher.publish(View { number, revision, mesh, changed }, begun);
        number
    }

    /// Applies what the store's log holds since the last look.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        let prefixes = [Prefix::all_intent(), Prefix::registrations(None)];
        while self.revision < self.store.revision() {
            match self.store.changes(self.revision, &prefixes) {
                Ok(found) => {
                    for change in found.changes {
                        self.apply(&change);
                    }
                    self.revision = found.through;
                }
                // Further behind than the log: begin again.
                Err(ChangesError::Gone { .. } | ChangesError::Ahead { .. }) => return self.read_all(),
                Err(ChangesError::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_all(&mut self) -> Result<(), StoreError> {
        let mut mesh = Mesh::new(self.mesh.mesh_id(), self.mesh.trust_domain());
        if let Some(ranges) = self.mesh.virtual_ranges() {
            mesh.set_virtual_ranges(ranges);
        }
        mesh.set_roots(self.mesh.roots().to_vec());
        mesh.set_issuing_root(self.mesh.issuing_root());
        self.mesh = mesh;
        let mut revision = u64::MAX;
        for prefix in [Prefix::all_intent(), Prefix::registrations(None)] {
            let (stored, read_at) = self.store.list(&prefix)?;
            revision = revision.min(read_at);
            for stored in stored {
                self.put(&stored.key, &stored.value);
            }
        }
        self.revision = revision;
        Ok(())
    }

    fn apply(&mut self, change: &Change) {
        match &change.value {
            Some(value) => self.put(&change.key, value),
            None => self.remove(&change.key),
        }
    }

    fn put(&mut self, key: &Key, value: &[u8]) {
        let read = Record::read(key, value).and_then(|record| Ok((record.declared(key)?, record.address)));
        match read {
            Ok((Declared::Workload(mut workload), _)) => {
                self.standings.stand(&mut workload);
                self.mesh.put_workload(workload);
            }
            Ok((Declared::Service(mut service), address)) => {
                service.virtual_address = self.virtual_address(address);
                self.mesh.put_service(service);
            }
            Ok((declared, _)) => declare(&mut self.mesh, declared),
            Err(error @ Unreadable { .. }) => tracing::error!("{error}"),
        }
    }

    /// One of an earlier range, which a full disk kept from being replaced, leads nowhere.
    fn virtual_address(&self, v4: Option<Ipv4Addr>) -> Option<VirtualAddress> {
        let ranges = self.mesh.virtual_ranges()?;
        v4.filter(|v4| ranges.v4().contains(*v4)).map(|v4| ranges.address(v4))
    }

    fn remove(&mut self, key: &Key) {
        let (namespace, name) = key.namespace_and_name();
        let named = Named::new(namespace, name);
        match key.kind() {
            Some(Kind::Service) => drop(self.mesh.remove_service(&named)),
            Some(Kind::Workload) => drop(self.mesh.remove_workload(&named)),
            Some(Kind::HttpRoute) => drop(self.mesh.remove_route(&named)),
            Some(Kind::TrafficPolicy) => drop(self.mesh.remove_policy(&named)),
            Some(Kind::MeshConfig) => self.mesh.set_config(MeshConfig::default()),
            None => tracing::error!(%key, "the store lost a key of a kind that is not known"),
        }
    }

    fn apply_health(&mut self, named: &Named) {
        let Some(workload) = self.mesh.workload(named) else { return };
        let mut standing = (**workload).clone();
        self.standings.stand(&mut standing);
        if standing != **workload {
            self.mesh.put_workload(standing);
        }
    }
}

/// The next that the certificate authority says.
async fn news(told: &mut Option<watch::Receiver<Told>>) -> Told {
    if let Some(told) = told
        && told.changed().await.is_ok()
    {
        return told.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Puts what a manifest declares into a mesh.
pub(crate) fn declare(mesh: &mut Mesh, declared: Declared) {
    match declared {
        Declared::Service(service) => mesh.put_service(service),
        Declared::Workload(workload) => mesh.put_workload(workload),
        Declared::HttpRoute(route) => mesh.put_route(route),
        Declared::TrafficPolicy(policy) => mesh.put_policy(policy),
        Declared::MeshConfig(config) => mesh.set_config(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Transaction;
    use crate::time::Clock;

    fn put(transaction: Transaction, kind: &str, name: &str, spec: &str) -> Transaction {
        let group = if kind == "HTTPRoute" { "gateway.networking.k8s.io/v1" } else { "v1" };
        let record = format!(
            r#"{{"created": 1, "manifest": {{"apiVersion": "{group}", "kind": "{kind}",
                "metadata": {{"name": "{name}", "namespace": "default"}}, "spec": {spec}}}}}"#
        );
        transaction.put(Key::intent(kind, "default", name), record.into_bytes())
    }

    fn delete(transaction: Transaction, kind: &str, name: &str) -> Transaction {
        transaction.delete(Key::intent(kind, "default", name))
    }

    fn open(store: &Store) -> Model {
        let term = Duration::from_secs(15);
        let standings = Arc::new(Standings::new(Clock::start(), term, term));
        Model::open(store.clone(), standings, Mesh::new("m", "mesh.local")).unwrap()
    }

    const SERVICE: &str = r#"{"ports": [{"port": 80}], "selector": {"app": "cart"}}"#;
    const ROUTE: &str = r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "cart"}], "rules": [{"backendRefs": [{"name": "cart", "port": 80}]}]}"#;

    #[tokio::test]
    async fn step_by_step_is_the_same_as_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        // Two revisions only, so that some steps must begin again.
        let (store, _writer) = Store::open(&dir.path().join("mesh.redb"), 2).unwrap();
        let mut model = open(&store);
        let new = Transaction::default;
        let steps = [
            put(new(), "Service", "cart", SERVICE),
            put(put(new(), "HTTPRoute", "split", ROUTE), "Service", "web", SERVICE),
            put(new(), "Service", "cart", &SERVICE.replace("80", "81")),
            delete(new(), "HTTPRoute", "split"),
            put(delete(new(), "Service", "cart"), "HTTPRoute", "split", ROUTE),
            delete(new(), "Service", "web"),
        ];
        for (step, transaction) in steps.into_iter().enumerate() {
            let revision = store.commit(transaction).await.unwrap();
            // Followed at every third step, so that it is behind by one, two or three.
            if step % 3 == 0 || step == 5 {
                model.catch_up().unwrap();
                assert_eq!(model.revision, revision);
                let changed = Changed::between(&open(&store).mesh, &model.mesh);
                assert!(changed.is_empty(), "after step {step}: {changed:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_spoils_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _writer) = Store::open(&dir.path().join("mesh.redb"), 100).unwrap();
        let mut model = open(&store);
        store.commit(put(Transaction::default(), "Service", "cart", SERVICE)).await.unwrap();
        model.catch_up().unwrap();
        let newer = put(Transaction::default(), "Service", "cart", r#"{"ports": [{"port": 80}], "new": 1}"#);
        store.commit(put(newer, "Service", "web", SERVICE)).await.unwrap();
        model.catch_up().unwrap();
        assert_eq!(model.mesh.services().count(), 2, "cart as it was, and web");
    }
}
