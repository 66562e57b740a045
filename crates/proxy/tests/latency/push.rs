//! A config of 5 MB comes while requests are carried: what the requests notice of it.
//!
//! It is taken as a sidecar takes it, on a thread that runs when no other wants to: decode, judge, apply, free. That
//! goes on for whole windows, far more than a control plane would send, between windows in which nothing comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use meshwork_core::compile::{Audience, Features};
use meshwork_core::model::Locality;
use meshwork_core::resource::{Endpoint, Resource};
use meshwork_proxy::Live;
use meshwork_proxy::scheduling::run_when_idle;
use meshwork_xds::{convert, wire};

use crate::support::{endpoint, told_of};
use crate::{INTERVAL, Pair, Switch, alone, compare};

/// Together 5 MB on the wire.
const SERVICES: usize = 1_500;
const ENDPOINTS: usize = 18;

/// A control plane closes a response at 1 MiB: so many carry the config.
const RESPONSES: usize = 5;

/// `proxy/src/pace.rs` says why.
const PIECE: Duration = Duration::from_micros(100);

/// What a push may add to the 99th percentile.
const RATIO_MAX: f64 = 1.3;

#[test]
fn a_large_push_does_not_hold_up_requests() {
    let alone = alone();
    let pair = Pair::start(Switch::default());
    let side = Side::start(pair.web.live.clone());
    compare(&pair, RATIO_MAX, "pushes", &side.push);
    assert!(side.stop() > 0, "nothing was pushed");
    drop(alone);
}

/// A thread that does a side thread's work for one config after the other, each of which changes everything.
struct Side {
    push: Switch,
    pushes: Arc<AtomicUsize>,
    stop: Switch,
    thread: JoinHandle<()>,
}

impl Side {
    /// Returns once the first config is applied.
    fn start(live: Arc<Live>) -> Self {
        let (push, stop, pushes) = (Switch::default(), Switch::default(), Arc::<AtomicUsize>::default());
        let configs = [1, 2].map(encoded);
        let bytes: usize = configs[0].iter().map(|resource| resource.bytes.len()).sum();
        assert!(bytes > 5_000_000, "{bytes} bytes");
        apply(&live, &configs[0]);
        assert!(live.snapshot().find(&format!("service-{}:80", SERVICES - 1)).is_some());
        let thread = thread::spawn({
            let (push, stop, pushes) = (push.clone(), stop.clone(), pushes.clone());
            move || {
                run_when_idle().unwrap();
                while !stop.is_on() {
                    if push.is_on() {
                        let number = pushes.fetch_add(1, Ordering::Relaxed) + 1;
                        apply(&live, &configs[number % 2]);
                    } else {
                        thread::sleep(INTERVAL);
                    }
                }
            }
        });
        Self { push, pushes, stop, thread }
    }

    /// Configs that it applied.
    fn stop(self) -> usize {
        self.stop.set(true);
        self.thread.join().unwrap();
        self.pushes.load(Ordering::Relaxed)
    }
}

struct Encoded {
    type_url: String,
    name: String,
    bytes: Vec<u8>,
}

fn encoded(weight: u32) -> Vec<Encoded> {
    let encoded = |resource: Resource| Encoded {
        type_url: wire::type_url(convert::resource_type(&resource)),
        name: convert::resource_name(&resource),
        bytes: convert::to_wire(&resource, Audience::Sidecar(Features::default())),
    };
    (0..SERVICES).flat_map(|service| described(service, weight)).map(encoded).collect()
}

fn described(service: usize, weight: u32) -> Vec<Resource> {
    let name = format!("service-{service}");
    let endpoints = (0..ENDPOINTS).map(|number| {
        let address = SocketAddr::from(([10, (service >> 8) as u8, service as u8, number as u8], 15_008));
        Endpoint {
            weight,
            locality: Locality { region: "eu-central-1".to_owned(), zone: "eu-central-1a".to_owned() },
            workload: format!("{name}-{number:04}"),
            ..endpoint(address, 8080)
        }
    });
    told_of(&name, 80, endpoints.collect(), "cart", None)
}

fn apply(live: &Live, config: &[Encoded]) {
    for response in config.chunks(config.len().div_ceil(RESPONSES)) {
        let mut since = Instant::now();
        let judge = |resource: &Encoded| {
            // As the side thread does between the resources of a response.
            if since.elapsed() >= PIECE {
                thread::yield_now();
                since = Instant::now();
            }
            convert::from_wire(&resource.type_url, &resource.name, &resource.bytes).unwrap()
        };
        live.apply(response.iter().map(judge).collect(), &[]);
    }
}
