//! Whom a change is told, what that costs, and that nobody waits for another.

use meshwork_core::compile::Features;
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_xds::convert;
use meshwork_xds::type_url;

use crate::common::sidecar::Follower;
use crate::common::{Plane, service};
use crate::{enrolled, watch_endpoints};

/// Of each service.
const ENDPOINTS: u8 = 100;

/// A change may cost 1,024 bytes; TLS, HTTP/2 and gRPC add some fifty to a message.
const BYTES_MAX: usize = 960;

fn workload(service: &str, number: u8, weight: u32) -> String {
    format!(
        r#"{{apiVersion: meshwork.dev/v1alpha1, kind: Workload, metadata: {{name: {service}-{number}, labels: {{app: {service}}}}},
  spec: {{address: 10.{}.0.{number}, weight: {weight}, ports: [{{port: 8080}}]}}}}
---
"#,
        service.len()
    )
}

/// The weights of the endpoints that the next response brings, and of which service.
async fn next_weights(follower: &mut Follower) -> (String, Vec<u32>) {
    loop {
        for versioned in follower.next().await.applied {
            if let Resource::Endpoints(endpoints) = versioned.resource {
                let weights = endpoints.endpoints.iter().map(|endpoint| endpoint.weight).collect();
                return (endpoints.name.service.name, weights);
            }
        }
    }
}

/// Reads until nothing that it asked for is missing.
async fn settled(plane: &Plane, account: &str, listener: &str) -> Follower {
    let enrolled = enrolled(plane, "default", account).await;
    let session = Follower::session_with(&format!("default/{account}-1"), Features::ALL);
    let mut follower = Follower::connect(&enrolled, session).await;
    follower.want(listener).await;
    let (_, weights) = next_weights(&mut follower).await;
    assert_eq!(weights, [1; ENDPOINTS as usize]);
    // Asked last, answered last, so nothing of the above is still to come.
    follower.want("nobody:80").await;
    let is_last =
        |absent: &[convert::Reference]| absent.iter().any(|reference| reference.name == "nobody:80");
    while !is_last(&follower.next().await.absent) {}
    follower
}

#[tokio::test]
async fn an_endpoints_change_is_told_its_callers_alone_and_costs_a_kibibyte_at_most() {
    let plane = Plane::start().await;
    let of = |name: &str| (1..=ENDPOINTS).map(|number| workload(name, number, 1)).collect::<String>();
    let all = [service("default", "cart", 80), service("default", "stock", 80), of("cart"), of("stock")];
    plane.operator().apply_ok(&all.concat()).await;
    let mut callers = [settled(&plane, "web", "cart:80").await, settled(&plane, "app", "cart:80").await];
    let mut other = settled(&plane, "pos", "stock:80").await;

    plane.operator().apply_ok(&workload("cart", 7, 30)).await;
    for caller in &mut callers {
        let (name, weights) = next_weights(caller).await;
        assert_eq!((name.as_str(), weights[6], weights.iter().sum::<u32>()), ("cart", 30, 129));
        assert!(caller.response_bytes <= BYTES_MAX, "{} bytes", caller.response_bytes);
    }
    plane.operator().apply_ok(&workload("stock", 7, 40)).await;
    // Had anything of cart's been sent to it, that would come first.
    let reaction = other.next().await;
    let [versioned] = &reaction.applied[..] else { panic!("want one resource, not {:?}", reaction.applied) };
    assert_eq!(convert::reference(&versioned.resource).to_string(), "Endpoints default/stock:80");
    assert!(other.response_bytes <= BYTES_MAX, "{} bytes", other.response_bytes);
    // The same the other way: theirs is the next of cart's.
    plane.operator().apply_ok(&workload("cart", 8, 50)).await;
    for caller in &mut callers {
        let (name, weights) = next_weights(caller).await;
        assert_eq!((name.as_str(), weights[6], weights[7]), ("cart", 30, 50));
    }
    plane.control.stop().await;
}

#[tokio::test]
async fn a_caller_that_reads_nothing_delays_no_other_caller_of_the_same_service() {
    // More than the 64 that are sent to somebody who answers none (`xds/src/session/server/delta.rs`).
    const CHANGES: u32 = 100;
    let plane = Plane::start().await;
    let of_cart: String = (1..=ENDPOINTS).map(|number| workload("cart", number, 1)).collect();
    plane.operator().apply_ok(&(service("default", "cart", 80) + &of_cart)).await;
    let idle = enrolled(&plane, "default", "idle").await;
    // As a client without features it is told in full each time: a megabyte before long.
    let mut unread = watch_endpoints(&idle, "default/cart:80").await;
    let mut caller = settled(&plane, "web", "cart:80").await;
    for change in 2..CHANGES {
        plane.operator().apply_ok(&workload("cart", 7, change)).await;
        let (_, weights) = next_weights(&mut caller).await;
        assert_eq!(weights[6], change, "each change comes, while the other one reads none");
    }
    // Whoever reads on is told the newest in the end, not each state between.
    let mut read = 0;
    loop {
        let response = unread.take().await;
        assert_eq!(response.type_url, type_url(ResourceType::Endpoints));
        read += 1;
        let endpoints = crate::endpoints(&response);
        if endpoints.iter().any(|endpoint| endpoint.weight == CHANGES - 1) {
            break;
        }
    }
    assert!(read <= CHANGES * 3 / 4, "{read} responses");
    plane.control.stop().await;
}
