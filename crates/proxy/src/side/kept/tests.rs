//! What is found on the disk after a restart, and what becomes of what can't be used.

use std::os::unix::fs::PermissionsExt;

use meshwork_core::model::AccessLog;
use meshwork_core::resource::{Listener, MeshSettings, NameTable, ResourceType, Route};
use meshwork_core::version::version;
use meshwork_xds::session::client::Sidecar;
use meshwork_xds::wire;
use tempfile::TempDir;

use super::*;
use crate::alpn::ALPN_HTTP1;
use crate::clock::Clock;
use crate::live::Found;

const WORKLOAD: &str = "default/web-000001";

fn place(dir: &TempDir, mesh_id: &str, workload: &str) -> Arc<Place> {
    Place::new(dir.path(), mesh_id, workload, Features::HTTP2)
}

fn live() -> (Arc<Live>, Arc<Registry>) {
    let registry = Registry::new("default/web".to_owned());
    (Live::new(registry.clone(), Clock::start(), &[ALPN_HTTP1]).0, registry)
}

fn session() -> ClientSession {
    ClientSession::new(Sidecar {
        workload: WORKLOAD.to_owned(),
        trust_domain: "mesh.test".to_owned(),
        version: "0.1.0".to_owned(),
        features: Features::ALL.names().map(str::to_owned).collect(),
        mesh_id: Some("m1".to_owned()),
    })
}

fn settings() -> Resource {
    Resource::MeshSettings(MeshSettings {
        mesh_id: "m1".to_owned(),
        trust_domain: "mesh.test".to_owned(),
        access_log: AccessLog::default(),
        issuing_root: String::new(),
        ranges: Vec::new(),
        virtual_ranges: Vec::new(),
        unknown: Default::default(),
    })
}

/// `cart:80`, as far as a route without rules leads, and an absent name.
fn known() -> (Arc<Live>, Arc<Registry>) {
    let (live, registry) = live();
    let target: meshwork_core::name::PortName = "default/cart:80".parse().unwrap();
    let listener = Listener { name: "cart:80".to_owned(), target: target.clone(), hint: None, address: None };
    let route = Route { name: target, rules: Vec::new() };
    let names = ["default", "shop"].map(|namespace| {
        let namespace = namespace.to_owned();
        Resource::NameTable(NameTable { namespace, ..NameTable::default() })
    });
    let mut resources = vec![settings(), Resource::Listener(listener), Resource::Route(route)];
    resources.extend(names);
    live.apply(resources, &[(ResourceType::Listener, "gone:80".to_owned())]);
    (live, registry)
}

fn seen() -> Seen {
    Seen { era: "e1".to_owned(), revision: "7".to_owned() }
}

fn kept() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir, "m1", WORKLOAD);
    place.saw(&seen());
    place.write(&known().0, Haste::Ending).unwrap();
    dir
}

fn is_restored(dir: &TempDir, mesh_id: &str, workload: &str) -> bool {
    let (live, _) = live();
    place(dir, mesh_id, workload).restore(&mut session(), &live);
    live.snapshot().settings.is_some()
}

fn is_aside(dir: &TempDir) -> bool {
    !dir.path().join(FILE).exists() && dir.path().join(ASIDE).exists()
}

#[test]
fn a_restarted_sidecar_serves_what_it_held_and_asks_only_for_what_changed() {
    let dir = kept();
    let (live, _) = live();
    let mut session = session();
    place(&dir, "m1", WORKLOAD).restore(&mut session, &live);
    assert_eq!(session.seen(), &seen(), "an older store must not replace what is held");
    assert!(matches!(live.snapshot().find("cart:80"), Some(Found::Service(_))));
    assert!(live.snapshot().find("gone:80").is_none(), "whether it is absent must be asked");
    let requests = session.connected();
    let of = |resource_type| {
        let url = wire::type_url(resource_type);
        requests.iter().find(|request| request.type_url == url).unwrap_or_else(|| panic!("{requests:#?}"))
    };
    let listeners = of(ResourceType::Listener);
    assert_eq!(listeners.resource_names_subscribe, ["cart:80", "gone:80"]);
    let held = Listener {
        name: "cart:80".to_owned(),
        target: "default/cart:80".parse().unwrap(),
        hint: None,
        address: None,
    };
    let held = version(&Resource::Listener(held)).to_string();
    assert_eq!(listeners.initial_resource_versions, [("cart:80".to_owned(), held)].into());
    assert!(live.names().knows("default") && live.names().knows("shop"));
    let names = of(ResourceType::NameTable);
    assert_eq!((names.resource_names_subscribe.len(), names.initial_resource_versions.len()), (2, 2));
    assert!(of(ResourceType::Route).initial_resource_versions.contains_key("default/cart:80"));
}

#[test]
fn the_file_is_for_its_owner_alone() {
    let dir = kept();
    assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_cannot_be_used_is_set_aside() {
    let damaged = kept();
    let path = damaged.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(!is_restored(&damaged, "m1", WORKLOAD) && is_aside(&damaged));

    let newer = kept();
    fs::write(newer.path().join(FILE), "meshwork config 2\n{}").unwrap();
    assert!(!is_restored(&newer, "m1", WORKLOAD) && is_aside(&newer));

    let foreign = kept();
    assert!(!is_restored(&foreign, "m2", WORKLOAD) && is_aside(&foreign));
    let another = kept();
    assert!(!is_restored(&another, "m1", "default/cart-000001") && is_aside(&another));

    let nothing = tempfile::tempdir().unwrap();
    assert!(!is_restored(&nothing, "m1", WORKLOAD) && !is_aside(&nothing));
    assert!(is_restored(&kept(), "m1", WORKLOAD));
}

#[test]
fn without_a_config_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    place(&dir, "m1", WORKLOAD).write(&live().0, Haste::Ending).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_changed_is_written_a_second_later_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (live, registry) = live();
    let keeper = Keeper::new(place(&dir, "m1", WORKLOAD), live.clone(), registry.clone());
    let keeping = tokio::spawn(keeper.keep());
    tokio::task::yield_now().await;
    live.apply(vec![settings()], &[]);
    let begun = Instant::now();
    while registry.counted(Event::ConfigKept) == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The paused clock runs ahead of the writing thread, which is a real one.
        std::thread::yield_now();
    }
    assert!(begun.elapsed() >= WRITE_AFTER);
    assert!(is_restored(&dir, "m1", WORKLOAD));

    fs::remove_file(dir.path().join(FILE)).unwrap();
    live.apply(vec![settings()], &[]);
    keeping.abort();
    assert!(keeping.await.unwrap_err().is_cancelled());
    assert!(is_restored(&dir, "m1", WORKLOAD), "the last change was written at the end");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_nothing_is_tried_again_until_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (live, registry) = known();
    let place = Place::new(&state, "m1", WORKLOAD, Features::HTTP2);
    let keeper = Keeper::new(place, live.clone(), registry.clone());
    let keeping = tokio::spawn(keeper.keep());
    tokio::task::yield_now().await;
    live.apply(vec![settings()], &[]); // into a directory that is not there
    until(|| registry.counted(Event::ConfigNotKept) >= 3).await;
    fs::create_dir(&state).unwrap();
    until(|| registry.counted(Event::ConfigKept) == 1).await;
    assert!(state.join(FILE).exists());
    keeping.abort();
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::thread::yield_now();
    }
}
