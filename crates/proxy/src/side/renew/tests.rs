//! The keeper against the control plane of `enroll/tests.rs`.

use std::sync::Mutex;

use tonic::Status;

use super::super::channel::to_control;
use super::super::enroll::tests::{Ca, HOUR};
use super::*;
use crate::mark::Dial;

/// Beyond it something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a keeper is told and what it does.
struct Bench {
    dir: tempfile::TempDir,
    enrolled: watch::Sender<Arc<Enrolled>>,
    current: watch::Receiver<Arc<Enrolled>>,
    told: watch::Sender<Told>,
    installed: Mutex<Vec<SystemTime>>,
    registry: Arc<Registry>,
    status: StatusBoard,
}

impl Bench {
    fn new(enrolled: Enrolled) -> Self {
        let (enrolled, mut current) = watch::channel(Arc::new(enrolled));
        current.mark_unchanged();
        Self {
            dir: tempfile::tempdir().unwrap(),
            enrolled,
            current,
            told: watch::Sender::default(),
            installed: Mutex::default(),
            registry: Registry::new("default/cart".to_owned()),
            status: StatusBoard::default(),
        }
    }

    /// Keeps until the certificate or the bundle is another one.
    async fn keep_until_replaced(&self) -> Arc<Enrolled> {
        let install =
            |enrolled: &Enrolled| self.installed.lock().unwrap().push(enrolled.identity.not_after());
        let keeper = Keeper {
            state_dir: self.dir.path(),
            enrolled: self.enrolled.clone(),
            channel: to_control(self.current.clone(), Dial::default()),
            told: self.told.subscribe(),
            install: &install,
            registry: self.registry.clone(),
            status: self.status.clone(),
        };
        let mut current = self.current.clone();
        tokio::select! {
            () = keeper.keep() => {}
            changed = tokio::time::timeout(PATIENCE, current.changed()) => changed.expect("never replaced").unwrap(),
        }
        let replaced = current.borrow().clone();
        assert_eq!(*self.installed.lock().unwrap(), [replaced.identity.not_after()]);
        let kept = Enrolled::load(self.dir.path()).unwrap().unwrap();
        assert_eq!(kept.identity.not_after(), replaced.identity.not_after());
        assert_eq!(kept.bundle, replaced.bundle);
        replaced
    }
}

#[tokio::test]
async fn a_certificate_past_its_half_life_is_renewed_kept_and_installed() {
    let (ca, address) = Ca::new("cart").serve().await;
    let old = ca.enrolled(15 * HOUR, address);
    let bench = Bench::new(old.clone());
    let renewed = bench.keep_until_replaced().await;
    assert_eq!(renewed.identity.spiffe_id(), old.identity.spiffe_id());
    assert!(renewed.identity.not_after() > old.identity.not_after() + 12 * HOUR);
    assert_ne!(renewed.identity.key().secret_der(), old.identity.key().secret_der(), "the key is new, too");
    assert_eq!(bench.registry.counted(Event::CertificateRenewed), 1);
}

#[tokio::test]
async fn a_certificate_that_ended_is_renewed_without_a_restart() {
    let (ca, address) = Ca::new("cart").serve().await;
    let renewed = Bench::new(ca.enrolled(30 * HOUR, address)).keep_until_replaced().await;
    assert!(renewed.identity.is_valid(SystemTime::now()));
}

#[tokio::test]
async fn new_roots_are_taken_and_another_trust_domains_are_not() {
    let (ca, other) = (Ca::new("cart"), Ca::new("cart"));
    let bench = Bench::new(ca.enrolled(HOUR, "127.0.0.1:9".to_owned()));
    let both = [ca.authority.roots(), other.authority.roots()].concat();
    let both = TrustBundle::new("mesh.local", both).unwrap();
    let foreign = TrustBundle::new("other.local", other.authority.roots().to_vec()).unwrap();
    let told = async {
        bench.told.send_modify(|told| told.bundle = Some(foreign));
        tokio::task::yield_now().await;
        bench.told.send_modify(|told| told.bundle = Some(both.clone()));
    };
    // The keeper first, so that it sees both.
    let (replaced, ()) = tokio::join!(bench.keep_until_replaced(), told);
    assert_eq!(*replaced.bundle, both);
}

#[tokio::test]
async fn who_stands_below_another_root_than_the_mesh_signs_by_renews_soon() {
    let (ca, address) = Ca::new("cart").serve().await;
    let mut fresh = ca.enrolled(Duration::ZERO, address);
    // As if the leaf were of a root that is gone.
    fresh.bundle =
        Arc::new(TrustBundle::new("mesh.local", Ca::new("cart").authority.roots().to_vec()).unwrap());
    let now = SystemTime::now();
    let mut plan = Plan::of(&fresh);
    let (bench, was_due) = (Bench::new(fresh), plan.renewal);
    let keeper = Keeper {
        state_dir: bench.dir.path(),
        enrolled: bench.enrolled.clone(),
        channel: to_control(bench.current.clone(), Dial::default()),
        told: bench.told.subscribe(),
        install: &|_| {},
        registry: bench.registry.clone(),
        status: bench.status.clone(),
    };
    keeper.take_issuing_root("", &mut plan);
    assert_eq!(plan.renewal, was_due, "an older control plane does not say");
    keeper.take_issuing_root(&ca.authority.root_key_hash().to_string(), &mut plan);
    assert!(plan.renewal < now + HOUR, "{:?}", plan.renewal);
}

#[tokio::test]
async fn a_failed_renewal_is_counted_and_tried_again() {
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ca = Ca::new("cart");
    let enrolled = ca.enrolled(24 * HOUR - Duration::from_secs(3), closed.to_string());
    let bench = Bench::new(enrolled);
    let failed_twice = async {
        while bench.registry.counted(Event::CertificateRenewalFailed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = bench.keep_until_replaced() => panic!("renewed by nobody"),
        waited = tokio::time::timeout(PATIENCE, failed_twice) => waited.expect("tried once only"),
    }
    let told = bench.status.watch().borrow().unrenewed.clone().unwrap();
    assert!(told.contains("cannot reach the control plane"), "operators are told why: {told}");
}

#[tokio::test]
async fn operators_hear_of_a_refusal_at_once_and_of_what_may_pass_only_when_it_is_late() {
    let enrolled = Ca::new("cart").enrolled(13 * HOUR, "127.0.0.1:9".to_owned());
    let now = SystemTime::now();
    let mut plan = Plan::of(&enrolled);
    assert_eq!(plan.unrenewed(now), None);
    plan.failed(&Failed::Call(Box::new(Status::unavailable("away"))), now);
    assert_eq!(plan.unrenewed(now), None, "hours are left");
    assert!(plan.unrenewed(now + 6 * HOUR).unwrap().contains("away"));
    plan.failed(&Failed::Call(Box::new(Status::permission_denied("no key"))), now);
    assert!(plan.unrenewed(now).unwrap().contains("no key"));
}
