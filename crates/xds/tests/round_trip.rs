//! What is written is read again, and nothing is lost in silence: every field of every message that a
//! resource consists of is either understood or refused.

mod strategies;

use std::time::Duration;

use meshwork_core::compile::{Audience, Features};
use meshwork_core::model::{Balance, HashKey, HashTable};
use meshwork_core::policy::{Timeouts, Traffic};
use meshwork_core::resource::{Cluster, Resource};
use meshwork_xds::convert::{Refused, from_wire, resource_name, resource_type, to_wire};
use meshwork_xds::wire::core::config_source::ConfigSourceSpecifier;
use meshwork_xds::wire::endpoint::ClusterLoadAssignment;
use meshwork_xds::wire::route::{RouteAction, route::Action};
use meshwork_xds::wire::{self, type_url};
use proptest::prelude::*;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost::{Message, Name as _};

const SIDECAR: Audience = Audience::Sidecar(Features::ALL);

fn read(resource: &Resource, bytes: &[u8]) -> Result<Resource, Refused> {
    from_wire(&type_url(resource_type(resource)), &resource_name(resource), bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sidecar_reads_what_was_written(resource in strategies::resource()) {
        prop_assert_eq!(read(&resource, &to_wire(&resource, SIDECAR)), Ok(resource));
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_but_never_panic(
        resource in strategies::resource(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()
    ) {
        let mut bytes = to_wire(&resource, SIDECAR);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let _ = read(&resource, &bytes);
    }
}

/// One message that a resource consists of: the way to it (field numbers; in a list its first entry), and the
/// field numbers that are understood there, so that setting them is no extra field. A message in an `Any` is
/// under the `Any`'s field 2, a map's entry holds its value under 2.
type Part = (&'static [u32], &'static [u32]);

const LISTENER: &[Part] = &[
    (&[], &[1, 6, 19]),
    (&[19], &[1]),                // ApiListener
    (&[19, 1], &[1, 2]),          // Any
    (&[19, 1, 2], &[2, 3, 5]),    // HttpConnectionManager
    (&[19, 1, 2, 5], &[1, 4]),    // HttpFilter
    (&[19, 1, 2, 5, 4, 2], &[]),  // Router
    (&[19, 1, 2, 3], &[1, 2]),    // Rds
    (&[19, 1, 2, 3, 1], &[3, 6]), // ConfigSource
    (&[19, 1, 2, 3, 1, 3], &[]),  // AggregatedConfigSource
    (&[6], &[2]),                 // Metadata
    (&[6, 2, 2, 2], &[1]),        // ListenerHint
];

const ROUTE: &[Part] = &[
    (&[], &[1, 2]),
    (&[2], &[1, 2, 3]),                       // VirtualHost
    (&[2, 3], &[1, 2, 7, 9, 10, 11, 12, 14]), // Route
    (&[2, 3, 1], &[2, 6, 14]),                // RouteMatch
    (&[2, 3, 1, 6], &[1, 13]),                // HeaderMatcher
    (&[2, 3, 1, 6, 13], &[1]),                // StringMatcher
    (&[2, 3, 9], &[1, 3, 4]),                 // HeaderValueOption
    (&[2, 3, 9, 1], &[1, 2]),                 // HeaderValue
    (&[2, 3, 10], &[1, 3, 4]),
    (&[2, 3, 2], &[3, 8, 9]),          // RouteAction
    (&[2, 3, 2, 8], &[1, 2]),          // Duration
    (&[2, 3, 2, 9], &[1, 2, 3, 7, 8]), // RetryPolicy
    (&[2, 3, 2, 9, 2], &[1]),          // UInt32Value
    (&[2, 3, 2, 9, 3], &[1, 2]),       // Duration
    (&[2, 3, 2, 9, 8], &[1]),          // RetryBackOff
    (&[2, 3, 2, 9, 8, 1], &[1, 2]),    // Duration
    (&[2, 3, 2, 3], &[1]),             // WeightedCluster
    (&[2, 3, 2, 3, 1], &[1, 2]),       // ClusterWeight
    (&[2, 3, 2, 3, 1, 2], &[1]),       // UInt32Value
];

const CLUSTER: &[Part] = &[
    (&[], &[1, 2, 3, 4, 6, 10, 19, 24, 25, 27, 29, 37, 41]),
    (&[4], &[1, 2]),           // Duration: connect_timeout
    (&[10], &[1, 2]),          // CircuitBreakers
    (&[10, 1], &[2, 3, 4, 8]), // Thresholds
    (&[10, 1, 2], &[1]),       // UInt32Value
    (&[10, 1, 8], &[1, 3]),    // RetryBudget
    (&[10, 1, 8, 1], &[1]),    // Percent
    (&[10, 2], &[2]),          // Thresholds of an endpoint
    (&[19], &[1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 21, 25]), // OutlierDetection
    (&[27], &[1]),             // CommonLbConfig
    (&[29], &[1]),             // HttpProtocolOptions
    (&[37], &[3]),             // LeastRequestLbConfig
    (&[37, 3], &[1]),          // SlowStartConfig
    (&[25], &[2]),             // Metadata
    (&[25, 2, 2, 2], &[1, 2, 3, 4, 5, 6, 8]), // TrafficDetail; 7 is of other policies
    (&[3], &[1]),              // EdsClusterConfig
    (&[3, 1], &[3, 6]),        // ConfigSource
    (&[41], &[1]),             // LoadBalancingPolicy
    (&[41, 1], &[4]),          // Policy
    (&[41, 1, 4], &[1, 2]),    // TypedExtensionConfig
    (&[41, 1, 4, 2, 2], &[]),  // PeakEwma
    (&[24], &[1, 3]),          // TransportSocket
    (&[24, 3, 2], &[1]),       // UpstreamTlsContext
    (&[24, 3, 2, 1], &[8]),    // CommonTlsContext
    (&[24, 3, 2, 1, 8], &[1, 2]), // CombinedCertificateValidationContext
    (&[24, 3, 2, 1, 8, 1], &[15]), // CertificateValidationContext
    (&[24, 3, 2, 1, 8, 1, 15], &[1, 2]), // SubjectAltNameMatcher
    (&[24, 3, 2, 1, 8, 1, 15, 2], &[1]), // StringMatcher
    (&[24, 3, 2, 1, 8, 2], &[1, 2]), // SdsSecretConfig
    (&[24, 3, 2, 1, 8, 2, 2], &[3, 6]), // ConfigSource
];

const RING: &[Part] = &[
    (&[25, 2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]), // TrafficDetail
    (&[41, 1, 4, 2, 2], &[1, 2, 3, 6]),          // RingHash
    (&[41, 1, 4, 2, 2, 2], &[1]),                // UInt64Value
    (&[41, 1, 4, 2, 2, 6], &[3]),                // ConsistentHashingLbConfig
    (&[41, 1, 4, 2, 2, 6, 3], &[1, 2, 3]),       // HashPolicy: one of those
    (&[41, 1, 4, 2, 2, 6, 3, 1], &[1]),          // Header
];

const MAGLEV: &[Part] = &[
    (&[41, 1, 4, 2, 2], &[1, 2]),             // Maglev
    (&[41, 1, 4, 2, 2, 2], &[3]),             // ConsistentHashingLbConfig
    (&[41, 1, 4, 2, 2, 2, 3, 2], &[1, 2, 3]), // Cookie
    (&[41, 1, 4, 2, 2, 2, 3, 2, 2], &[1, 2]), // Duration
];

const ENDPOINTS: &[Part] = &[
    (&[], &[1, 2]),
    (&[2], &[1, 2, 3]),                // LocalityLbEndpoints
    (&[2, 1], &[1, 2]),                // Locality
    (&[2, 2], &[1, 2, 3, 4]),          // LbEndpoint
    (&[2, 2, 1], &[1]),                // Endpoint
    (&[2, 2, 1, 1], &[1]),             // Address
    (&[2, 2, 1, 1, 1], &[2, 3]),       // SocketAddress
    (&[2, 2, 3], &[2]),                // Metadata
    (&[2, 2, 3, 2, 2, 2], &[1, 2, 3]), // EndpointDetail
];

const INBOUND: &[Part] = &[(&[], &[1, 2, 3]), (&[2], &[1, 2, 3, 4])];

const SETTINGS: &[Part] = &[(&[], &[1, 2, 3, 4, 5, 6, 7, 8, 9])];

const NAMES: &[Part] = &[
    (&[], &[1, 2]),
    (&[2], &[1, 2, 3, 4, 5, 6]), // NamedService
    (&[2, 4], &[1, 2]),          // NamedPort
    (&[2, 5], &[1, 2]),          // NamedInstance
];

const BUNDLE: &[Part] = &[
    (&[], &[1, 4]),
    (&[4], &[1]),       // CertificateValidationContext
    (&[4, 1], &[2, 3]), // DataSource: inline_bytes, or inline_string
];

/// Every message of every resource type.
fn messages() -> Vec<(Resource, &'static [Part])> {
    let [listener, route, cluster, endpoints, inbound, settings, bundle, names] = strategies::full();
    // The rule without backends in front, as the way leads through first entries.
    let mut refusing = route.clone();
    if let Resource::Route(route) = &mut refusing {
        route.rules.reverse();
    }
    let cookie = HashKey::Cookie { name: "a".to_owned(), given: Some(Duration::from_secs(1)) };
    vec![
        (listener, LISTENER),
        (route, ROUTE),
        (refusing, &[(&[2, 3, 7], &[1])]), // DirectResponseAction
        (
            hashing(
                &cluster,
                HashTable::Ring { size_min: 1, size_max: 2 },
                HashKey::Header("x-a".to_owned()),
            ),
            RING,
        ),
        (hashing(&cluster, HashTable::Maglev { size: 5 }, cookie), MAGLEV),
        (cluster, CLUSTER),
        (endpoints, ENDPOINTS),
        (inbound, INBOUND),
        (settings, SETTINGS),
        (bundle, BUNDLE),
        (names, NAMES),
    ]
}

fn hashing(cluster: &Resource, table: HashTable, key: HashKey) -> Resource {
    let Resource::Cluster(cluster) = cluster else { panic!("another order of resources") };
    Resource::Cluster(Cluster { balance: Balance::Hash { table, key }, ..cluster.clone() })
}

/// Higher than any field number that Envoy's messages use, so that unknown fields are met too.
const FIELD_MAX: u32 = 80;

#[test]
fn every_extra_field_in_every_message_is_refused() {
    let mut tried = 0;
    for (resource, parts) in messages() {
        let bytes = to_wire(&resource, SIDECAR);
        assert_eq!(read(&resource, &bytes).as_ref(), Ok(&resource));
        for (path, understood) in parts {
            for field in (1..=FIELD_MAX).filter(|field| !understood.contains(field)) {
                for extra in extras(field) {
                    let changed = append(&bytes, path, &extra);
                    let result = read(&resource, &changed);
                    assert!(result.is_err(), "{resource:?}: field {field} in {path:?} was lost: {extra:?}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 10_000, "only {tried} extra fields were tried");
}

/// One field as every wire type that Envoy's messages use.
fn extras(field: u32) -> Vec<Vec<u8>> {
    let mut varint = Vec::new();
    encode_key(field, WireType::Varint, &mut varint);
    encode_varint(1, &mut varint);
    let delimited = |content: &[u8]| {
        let mut bytes = Vec::new();
        encode_key(field, WireType::LengthDelimited, &mut bytes);
        encode_varint(content.len() as u64, &mut bytes);
        bytes.extend_from_slice(content);
        bytes
    };
    // An empty message, one whose first field is set as a number or as a text; a text.
    vec![varint, delimited(&[]), delimited(&[0x08, 1]), delimited(&[0x0a, 1, b'x']), delimited(b"x")]
}

/// Adds bytes at the end of the message under `path`, in the first entry of every list on the way.
fn append(message: &[u8], path: &[u32], extra: &[u8]) -> Vec<u8> {
    let Some((&field, rest)) = path.split_first() else {
        return [message, extra].concat();
    };
    let mut changed = Vec::new();
    let mut left = message;
    let mut found = false;
    while !left.is_empty() {
        let start = left;
        let (tag, wire_type) = decode_key(&mut left).expect("our own bytes");
        match wire_type {
            WireType::Varint => {
                decode_varint(&mut left).expect("our own bytes");
                changed.extend_from_slice(&start[..start.len() - left.len()]);
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut left).expect("our own bytes") as usize;
                let (content, after) = left.split_at(length);
                left = after;
                if tag == field && !found {
                    found = true;
                    let content = append(content, rest, extra);
                    encode_key(tag, wire_type, &mut changed);
                    encode_varint(content.len() as u64, &mut changed);
                    changed.extend_from_slice(&content);
                } else {
                    changed.extend_from_slice(&start[..start.len() - left.len()]);
                }
            }
            WireType::SixtyFourBit => {
                left = &left[8..];
                changed.extend_from_slice(&start[..start.len() - left.len()]);
            }
            other => panic!("{other:?} is in none of our messages"),
        }
    }
    if !found {
        // The one thing that may be absent on the way: an empty message's bytes in an `Any` (Router, PeakEwma).
        assert!(field == 2 && rest.is_empty(), "no field {field} on the way to {path:?}");
        encode_key(field, WireType::LengthDelimited, &mut changed);
        encode_varint(extra.len() as u64, &mut changed);
        changed.extend_from_slice(extra);
    }
    changed
}

#[track_caller]
fn check_refused(resource: &Resource, path: &'static [u32], extra: &[u8], expect: &str) {
    let changed = append(&to_wire(resource, SIDECAR), path, extra);
    assert_eq!(read(resource, &changed).unwrap_err().to_string(), expect);
}

#[test]
fn a_refusal_names_the_fields_path() {
    let [listener, route, cluster, endpoints, ..] = strategies::full();
    let on = |field: u32| extras(field).swap_remove(0);
    check_refused(
        &route,
        &[2, 3, 1],
        &extras(8)[1],
        "virtual_hosts[0].routes[0].match.grpc: is set, and this version of meshwork can't honour it",
    );
    check_refused(
        &listener,
        &[19, 1, 2],
        &on(33),
        "api_listener.api_listener.merge_slashes: is set, and this version of meshwork can't honour it",
    );
    check_refused(
        &endpoints,
        &[2],
        &on(5),
        "endpoints[0].priority: is set, and this version of meshwork can't honour it",
    );
    check_refused(&cluster, &[], &on(79), "holds a field that this version of meshwork does not know");
}

#[test]
fn a_resource_under_a_strangers_name_is_refused() {
    let [listener, ..] = strategies::full();
    let bytes = to_wire(&listener, SIDECAR);
    let refused = from_wire(&type_url(resource_type(&listener)), "web:80", &bytes).unwrap_err();
    assert_eq!(refused.to_string(), "name: is \"cart:80\", but it was sent under the name \"web:80\"");
}

#[test]
fn other_readers_get_plain_envoy() {
    for resource in strategies::full() {
        for audience in [Audience::Envoy, Audience::Grpc] {
            let text = to_wire(&resource, audience);
            let ours = matches!(resource, Resource::Inbound(_) | Resource::MeshSettings(_));
            let marked = text.windows(11).any(|window| window == b"meshwork.v1");
            assert!(ours || !marked, "{resource:?} tells {audience:?} of a message that it can't know");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// gRPC ACKs a locality without a name or without a weight, and drops it in silence.
    #[test]
    fn every_locality_has_a_name_and_a_weight_for_everybody(resource in strategies::resource()) {
        let Resource::Endpoints(endpoints) = &resource else { return Ok(()) };
        for audience in [SIDECAR, Audience::Envoy, Audience::Grpc] {
            let message = ClusterLoadAssignment::decode(&to_wire(&resource, audience)[..]).unwrap();
            let told: usize = message.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum();
            prop_assert_eq!(told, endpoints.endpoints.len());
            for locality in &message.endpoints {
                prop_assert!(locality.locality.is_some());
                prop_assert!(locality.load_balancing_weight.is_some_and(|weight| weight.value > 0));
            }
        }
    }
}

/// It takes a connection manager without router, too, and a cluster whose endpoints come from elsewhere; and it reports the
/// load of a cluster only if that says where.
#[test]
fn grpc_is_told_what_it_does_not_ask_for() {
    for resource in strategies::full() {
        let bytes = to_wire(&resource, Audience::Grpc);
        match resource {
            Resource::Listener(_) => {
                let message = wire::listener::Listener::decode(&bytes[..]).unwrap();
                let any = message.api_listener.and_then(|api| api.api_listener).expect("an API listener");
                let manager = wire::http::HttpConnectionManager::decode(&any.value[..]).unwrap();
                let last = manager.http_filters.last().and_then(|filter| filter.config_type.clone());
                let Some(wire::http::http_filter::ConfigType::TypedConfig(last)) = last else {
                    panic!("{manager:?}")
                };
                assert_eq!(last.type_url, wire::Router::type_url());
            }
            Resource::Cluster(_) => {
                let message = wire::cluster::Cluster::decode(&bytes[..]).unwrap();
                let source = |config: Option<wire::core::ConfigSource>| config?.config_source_specifier;
                let eds = message.eds_cluster_config.and_then(|eds| source(eds.eds_config));
                assert!(matches!(eds, Some(ConfigSourceSpecifier::Ads(_))), "{eds:?}");
                let reports = source(message.lrs_server);
                assert!(matches!(reports, Some(ConfigSourceSpecifier::Self_(_))), "{reports:?}");
            }
            _ => {}
        }
    }
}

/// Bytes that a sidecar from before the feature understands: it refuses every field that it does not know.
#[test]
fn a_sidecar_without_the_feature_is_sent_what_it_always_was() {
    let old = Audience::Sidecar(Features::HTTP2);
    let [_, route, cluster, ..] = strategies::full();
    let (Resource::Cluster(mut cluster), Resource::Route(mut route)) = (cluster, route) else {
        panic!("another order of resources");
    };
    cluster.traffic = Traffic::default(); // as `compile` has it for such a sidecar
    let bytes = to_wire(&Resource::Cluster(cluster.clone()), old);
    let message = wire::cluster::Cluster::decode(bytes.as_slice()).unwrap();
    let before = wire::cluster::Cluster {
        name: message.name.clone(),
        eds_cluster_config: message.eds_cluster_config.clone(),
        lb_policy: message.lb_policy,
        load_balancing_policy: message.load_balancing_policy.clone(),
        transport_socket: message.transport_socket.clone(),
        cluster_discovery_type: message.cluster_discovery_type.clone(),
        ..wire::cluster::Cluster::default()
    };
    assert_eq!(message, before);
    assert_eq!(read(&Resource::Cluster(cluster.clone()), &bytes), Ok(Resource::Cluster(cluster)));

    for rule in &mut route.rules {
        let asks = !rule.backends.is_empty();
        rule.timeouts = Timeouts { request: asks.then_some(Duration::ZERO), backend_request: None };
        rule.retry = None;
    }
    let bytes = to_wire(&Resource::Route(route.clone()), old);
    let message = wire::route::RouteConfiguration::decode(bytes.as_slice()).unwrap();
    let Some(Action::Route(action)) = &message.virtual_hosts[0].routes[0].action else {
        panic!("{message:?}");
    };
    let before = RouteAction {
        timeout: Some(wire::Duration::default()),
        cluster_specifier: action.cluster_specifier.clone(),
        ..RouteAction::default()
    };
    assert_eq!(*action, before);
    assert_eq!(read(&Resource::Route(route.clone()), &bytes), Ok(Resource::Route(route)));
}
