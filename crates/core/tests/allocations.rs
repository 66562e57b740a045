//! A request's decisions allocate nothing: destination, protocol, rule, backend, endpoint, edits, cause.
//!
//! Counted by an allocator that counts for this thread only, as the test runner's own threads allocate too.
#![allow(unsafe_code)] // an allocator can't be written otherwise; this one passes every call on unchanged

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use meshwork_core::balance::{Candidates, Choice, Fitness, Near, PeakEwma, Turn, key_of, pick};
use meshwork_core::cause::{Cause, Format};
use meshwork_core::detect::{Detected, detect};
use meshwork_core::discover::{self, Course};
use meshwork_core::model::{
    Balance, HashKey, HashTable, HeaderModifier, Health, Key, Locality, PathMatch, RouteMatch, Transport,
};
use meshwork_core::name::PortName;
use meshwork_core::resource::{Endpoint, Route, Rule, WeightedBackend};
use meshwork_core::{Head, Instant, filter, route};
use meshwork_http::Version;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to `System` with the caller's own arguments, so what holds for `System` holds here.
// The counter is a `Cell` of a plain number without destructor: touching it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: see above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: see above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

fn route_with_a_header_rule() -> Route {
    let rule = |name: &str, path: &str, headers: &[(&str, &str)]| Rule {
        name: name.to_owned(),
        matches: vec![RouteMatch {
            path: PathMatch::Prefix(path.to_owned()),
            method: None,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }],
        request_headers: HeaderModifier {
            set: vec![("x-version".to_owned(), "2".to_owned())],
            add: Vec::new(),
            remove: vec!["x-debug".to_owned()],
        },
        response_headers: HeaderModifier::default(),
        backends: ["cart", "cart-v2"]
            .map(|name| WeightedBackend { cluster: PortName::new(Key::new("default", name), 80), weight: 1 })
            .into(),
        timeouts: Default::default(),
        retry: None,
    };
    let name = PortName::new(Key::new("default", "cart"), 80);
    Route { name, rules: vec![rule("canary", "/a", &[("x-canary", "yes")]), rule("all", "/", &[])] }
}

fn fill(head: &mut Head) {
    head.start_request(Version::Http11, "GET", "/a/b?c");
    head.append("Host", b"cart.default:80");
    head.append("X-Debug", b"1");
    head.append("X-Meshwork-Cause", b"forged");
    head.append("X-Canary", b"no");
}

/// What happens to one request on its way out.
fn decide(head: &mut Head, route: &Route, candidates: &Candidates, records: &mut [PeakEwma], random: u64) {
    assert_eq!(detect(b"GET /a/b?c HTTP/1.1\r\n"), Detected::Http1);
    let destination = discover::destination(head.authority().unwrap(), 80).unwrap();
    assert!(matches!(discover::course(&destination, discover::Ranges::default(), &[]), Ok(Course::Ask(_))));
    filter::strip_own(head);
    filter::ensure_request_id(head, random.into());
    filter::ensure_traceparent(head, random.into(), random);
    filter::set_client_cert(head, Some("URI=spiffe://mesh.local/ns/default/sa/web"));
    let rule = route::select(route, head).unwrap();
    assert_eq!(rule.name, "all");
    filter::apply(&rule.request_headers, head);
    assert!(route::backend(rule, random).is_some());
    let now = Instant::from_millis(5);
    for balance in [Balance::PeakEwma, Balance::RoundRobin, Balance::LeastRequest, Balance::Random] {
        let load = |index: usize| records[index].load(now, 1);
        // The first is ejected, so others are drawn, and one after the other is looked at.
        let fitness = |index| {
            if index == 0 {
                Fitness::Ejected
            } else {
                Fitness::after(now - Instant::default(), Duration::from_secs(1))
            }
        };
        let Choice::Endpoint(chosen) = pick(&balance, candidates, load, fitness, random, None) else {
            panic!("one of three is fit");
        };
        records[chosen].observe(Duration::from_millis(1), now);
    }
    assert_eq!(Cause::find(b"app_refused"), Some(Cause::AppRefused));
    assert_eq!(Format::of(head), Format::Text);
}

#[test]
fn a_requests_decisions_allocate_nothing() {
    let route = route_with_a_header_rule();
    let candidates = Candidates::new([(Health::Healthy, 1), (Health::Healthy, 2), (Health::Unhealthy, 1)]);
    let mut records = [PeakEwma::default(); 3];
    let mut head = Head::default();
    // The first request through a head makes its buffers; they stay for the connection's life.
    fill(&mut head);
    decide(&mut head, &route, &candidates, &mut records, 7);
    for random in 0..100 {
        fill(&mut head);
        let counted = allocations(|| decide(&mut head, &route, &candidates, &mut records, random));
        assert_eq!(counted, 0);
    }
}

#[test]
fn a_choice_by_hash_allocates_nothing() {
    let locality = |zone: &str| Locality { region: "eu".to_owned(), zone: zone.to_owned() };
    let endpoint = |port: u16, zone| Endpoint {
        address: ([127, 0, 0, 1], port).into(),
        app_port: 80,
        transports: vec![Transport::Plaintext],
        health: Health::Healthy,
        weight: 1,
        locality: locality(zone),
        workload: "cart".to_owned(),
    };
    let endpoints = [endpoint(1, "a"), endpoint(2, "a"), endpoint(3, "b"), endpoint(4, "b")];
    let mut head = Head::default();
    fill(&mut head);
    head.append("Cookie", b"theme=dark; session=7f3a");
    let keys = [
        HashKey::Header("x-debug".to_owned()),
        HashKey::Cookie { name: "session".to_owned(), given: None },
        HashKey::Source,
    ];
    let tables = [HashTable::Ring { size_min: 64, size_max: 1_024 }, HashTable::Maglev { size: 1_009 }];
    for (table, key) in tables.iter().flat_map(|table| keys.iter().map(move |key| (*table, key.clone()))) {
        let balance = Balance::Hash { table, key: key.clone() };
        let candidates = Candidates::of(&endpoints, &balance, Near::to(&locality("a")));
        let counted = allocations(|| {
            let number = key_of(&key, Some(&head), Some("default/web")).unwrap();
            let turn = Turn { number, ejected: [1, 0, 0] };
            // Whoever the key belongs to is ejected, and the whole zone with it.
            let fitness = |index| if index < 2 { Fitness::Ejected } else { Fitness::FIT };
            let choice = pick(&balance, &candidates, |_| 0, fitness, turn, None);
            assert!(matches!(choice, Choice::Endpoint(2 | 3)));
        });
        assert_eq!(counted, 0, "{balance:?}");
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1_u8]))), 1);
}
