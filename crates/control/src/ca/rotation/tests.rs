//! The steps, with the control plane killed between any two: it is opened anew from what its store holds.

use meshwork_core::mesh::Mesh;
use meshwork_core::model::MeshConfig;
use meshwork_core::model::SpiffeId;
use meshwork_identity::{Enrolled, KeyAndCsr, Membership, RootHash};

use super::*;
use crate::store::Writer;
use crate::view::{View, Views};

const TTL: Duration = Duration::from_secs(3_600);

/// One life of a control plane's authority.
struct Life {
    ca: Ca,
    writer: Writer,
    views: tokio::sync::watch::Sender<Arc<View>>,
}

impl Life {
    async fn begin(dir: &tempfile::TempDir) -> Self {
        let (store, writer) = Store::open(&dir.path().join("mesh.redb"), 100).unwrap();
        let ca = Ca::open(&store, "mesh.local", Vec::new()).await.unwrap();
        let (views, reader) = Views::new(View::default());
        ca.follow(reader);
        let life = Self { ca, writer, views };
        life.publish();
        life
    }

    /// As the model would, once it was told.
    fn publish(&self) {
        let mut mesh = Mesh::new("m", "mesh.local");
        mesh.set_config(MeshConfig { leaf_ttl: TTL, ..MeshConfig::default() });
        mesh.set_roots(self.ca.told().borrow().roots.clone());
        self.views.send_replace(Arc::new(View { mesh, ..View::default() }));
    }

    /// Nothing is told to it, nothing is finished; only the file's lock is waited for.
    async fn kill(self) {
        let Self { ca, writer, .. } = self;
        drop(ca);
        writer.ended().await;
    }

    /// Below which root somebody new stands, and how many it is told.
    async fn leaf(&self) -> (RootHash, Enrolled) {
        let own = KeyAndCsr::generate().unwrap();
        let id = SpiffeId::new("mesh.local", "default", "cart").unwrap();
        let grant = self.ca.issue(&own.csr_der, id).await.unwrap();
        let answer = self.ca.certificate(grant);
        let membership = Membership {
            mesh_id: answer.mesh_id,
            service: "cart".to_owned(),
            namespace: "default".to_owned(),
            control: "127.0.0.1:1".to_owned(),
        };
        let enrolled = Enrolled::new(own.key, answer.chain_der, answer.roots_der, membership).unwrap();
        (enrolled.issuing_root().expect("a root of the bundle"), enrolled)
    }

    async fn advance(&self, now: u64) -> Option<Duration> {
        let wait = self.ca.advance(&Sessions::default(), now).await.unwrap();
        self.publish();
        wait
    }

    fn stage(&self) -> Option<&'static str> {
        self.ca.going(&Sessions::default()).map(|going| stage(going.rotation))
    }
}

fn now() -> u64 {
    unix_seconds(SystemTime::now())
}

#[tokio::test]
async fn a_control_plane_that_is_killed_in_any_step_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&dir).await;
    let (old, first) = life.leaf().await;
    assert_eq!(first.bundle.roots().len(), 1);
    life.ca.rotate().await.unwrap();
    life.kill().await;

    let life = Life::begin(&dir).await;
    assert_eq!(life.stage(), Some("spreading"));
    let new = life.ca.root_key_hash();
    assert_ne!(new, old, "tokens are made for the root that stays");
    let (signer, leaf) = life.leaf().await;
    assert_eq!((signer, leaf.bundle.roots().len()), (old, 2), "both are known before the new one signs");
    assert_eq!(life.advance(now()).await, Some(Duration::ZERO));
    life.kill().await;

    let life = Life::begin(&dir).await;
    assert_eq!((life.stage(), life.ca.root_key_hash()), (Some("renewing"), new));
    let (signer, leaf) = life.leaf().await;
    assert_eq!((signer, leaf.bundle.roots().len()), (new, 2));
    assert_eq!(leaf.identity.chain().len(), 3, "with the old root's word for the new one");
    let last = unix_seconds(first.identity.not_after());
    assert!(life.advance(last).await.unwrap() > Duration::ZERO, "the old root's leaves are still out");
    assert_eq!(life.leaf().await.1.bundle.roots().len(), 2);
    life.kill().await;

    let life = Life::begin(&dir).await;
    assert_eq!(life.stage(), Some("renewing"), "waiting is no step");
    let far = last + TTL.as_secs();
    assert_eq!(life.advance(far).await, Some(Duration::ZERO));
    life.kill().await;

    let life = Life::begin(&dir).await;
    assert_eq!((life.stage(), life.ca.root_key_hash()), (None, new));
    let (signer, leaf) = life.leaf().await;
    assert_eq!((signer, leaf.bundle.roots().len(), leaf.identity.chain().len()), (new, 1, 2));
    assert_eq!(life.advance(far).await, None, "and nothing is left to do");
}

#[tokio::test]
async fn one_root_is_replaced_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&dir).await;
    life.ca.rotate().await.unwrap();
    let refused = life.ca.rotate().await.unwrap_err().to_string();
    assert!(refused.contains("already (spreading)") && refused.contains("ca status"), "{refused}");
}

#[tokio::test]
async fn nobody_signs_by_a_root_of_which_nobody_can_know() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&dir).await;
    life.ca.rotate().await.unwrap();
    // The model has not published the new root yet.
    let wait = life.ca.advance(&Sessions::default(), now()).await.unwrap();
    assert_eq!((life.stage(), wait), (Some("spreading"), Some(SPREAD_LOOK)));
}

#[tokio::test]
async fn the_end_of_the_last_leaf_is_known_after_a_restart_though_leaves_are_shorter_now() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(&dir).await;
    let end = unix_seconds(life.leaf().await.1.identity.not_after());
    life.kill().await;
    let life = Life::begin(&dir).await;
    life.ca.rotate().await.unwrap();
    life.publish();
    life.advance(now()).await;
    let Some(Going { rotation: Rotation::Renewing { retire, .. }, .. }) = life.ca.going(&Sessions::default())
    else {
        panic!("{:?}", life.stage())
    };
    assert!(retire >= end + 300, "clocks may differ by five minutes");
}
