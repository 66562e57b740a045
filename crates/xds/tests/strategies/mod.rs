//! Generated resources of every type: any value that `compile` may give, with names, texts and numbers at
//! their edges. Orders that `core` promises (endpoints by address, neighbouring rules that differ) are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use meshwork_core::model::{
    AccessLog, AppProtocol, Balance, HashKey, HashTable, HeaderModifier, Health, Key, Locality, MtlsMode,
    PathMatch, RouteMatch, SpiffeId, Transport, Unknown, UnknownDestinations,
};
use meshwork_core::name::PortName;
use meshwork_core::names::{NameTable, Named};
use meshwork_core::policy::{
    ConnectPolicy, Distribution, Limits, OutlierPolicy, RetryBudget, RetryPolicy, RuleRetry, Timeouts,
    Traffic,
};
use meshwork_core::resource::{
    Cluster, Endpoint, Endpoints, Inbound, InboundPort, Listener, MeshSettings, Resource, Route, Rule,
    TrustBundle, WeightedBackend,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

pub(crate) fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        listener().prop_map(Resource::Listener),
        route().prop_map(Resource::Route),
        cluster().prop_map(Resource::Cluster),
        endpoints().prop_map(Resource::Endpoints),
        inbound().prop_map(Resource::Inbound),
        settings().prop_map(Resource::MeshSettings),
        bundle().prop_map(Resource::TrustBundle),
        names().prop_map(Resource::NameTable),
    ]
}

fn listener() -> impl Strategy<Value = Listener> {
    let asked = "[a-z0-9.-]{1,40}:[1-9][0-9]{0,3}";
    (asked, view(), option::of(app_protocol())).prop_map(|(name, target, hint)| Listener {
        name,
        target,
        hint,
        address: None,
    })
}

fn route() -> impl Strategy<Value = Route> {
    (view(), vec(rule(), 0..6)).prop_map(|(name, mut rules)| {
        // Two such neighbours are one rule; `compile` gives them as one.
        rules.dedup_by(|one, other| one.name == other.name);
        Route { name, rules }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let name = "[a-z]{1,3}/[a-z]{1,3}#[0-9]";
    let backends = vec(backend(), 0..4);
    (name, vec(matches(), 1..4), modifier(), modifier(), backends, timeouts(0), option::of(rule_retry()))
        .prop_map(|(name, matches, request_headers, response_headers, backends, timeouts, retry)| {
            // Whoever answers by itself has nothing to wait for.
            let asks = !backends.is_empty();
            Rule {
                name,
                matches,
                request_headers,
                response_headers,
                backends,
                timeouts: if asks { timeouts } else { Timeouts::default() },
                retry: retry.filter(|_| asks),
            }
        })
}

/// A rule may say 0: none, whatever the service says.
fn timeouts(millis_min: u64) -> impl Strategy<Value = Timeouts> {
    (option::of(duration(millis_min)), option::of(duration(millis_min)))
        .prop_map(|(request, backend_request)| Timeouts { request, backend_request })
}

/// Whole milliseconds, as documents have them.
fn duration(millis_min: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![Just(millis_min), millis_min..=100_000_000].prop_map(Duration::from_millis)
}

fn rule_retry() -> impl Strategy<Value = RuleRetry> {
    (btree_set(400..=599_u16, 0..4), option::of(0..=10_u32), option::of(duration(1)))
        .prop_map(|(codes, attempts, backoff)| RuleRetry { codes, attempts, backoff })
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let connect = (duration(1), option::of(duration(1)));
    let connect = connect.prop_map(|(timeout, idle)| ConnectPolicy { timeout, idle });
    let distribution = select(vec![Distribution::Anywhere, Distribution::PreferSameZone]);
    (timeouts(1), connect, retry_policy(), limits(), outlier(), option::of(duration(1)), distribution)
        .prop_map(|(timeouts, connect, retry, limits, outlier, slow_start, distribution)| Traffic {
            timeouts,
            connect,
            retry,
            limits,
            outlier,
            slow_start,
            distribution,
        })
}

fn retry_policy() -> impl Strategy<Value = RetryPolicy> {
    let budget = (0..=100_u32, duration(1), any::<u32>());
    let budget = budget.prop_map(|(percent, interval, min_per_second)| RetryBudget {
        percent,
        interval,
        min_per_second,
    });
    (any::<u32>(), duration(0), budget).prop_map(|(attempts, backoff, budget)| RetryPolicy {
        attempts,
        backoff,
        budget,
    })
}

/// All but the number that stands for "no limit" on the wire; documents end far below it.
fn limit() -> impl Strategy<Value = Option<NonZeroU32>> {
    (0..u32::MAX).prop_map(NonZeroU32::new)
}

fn limits() -> impl Strategy<Value = Limits> {
    (limit(), limit(), limit(), limit(), limit()).prop_map(
        |(connections, pending_requests, requests, endpoint_connections, endpoint_requests)| Limits {
            connections,
            pending_requests,
            requests,
            endpoint_connections,
            endpoint_requests,
        },
    )
}

fn outlier() -> impl Strategy<Value = OutlierPolicy> {
    let count = || prop_oneof![Just(0), 1..=1_000_000_u32];
    let percents = (0..=1_000_u32, 0..=100_u32, 0..=100_u32);
    (count(), count(), count(), count(), percents, duration(1), duration(1), duration(1)).prop_map(
        |(http, gateway, connect, requests, (stdev, ejected, panic), interval, ejection, ejection_max)| {
            OutlierPolicy {
                consecutive_5xx: http,
                consecutive_gateway_errors: gateway,
                consecutive_connect_failures: connect,
                interval,
                success_rate_stdev_percent: stdev,
                success_rate_requests_min: requests,
                ejection,
                ejection_max,
                ejected_percent_max: ejected,
                panic_percent: panic,
            }
        },
    )
}

fn matches() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        "/[ -~]{0,20}".prop_map(PathMatch::Exact),
        Just(PathMatch::Prefix("/".to_owned())),
        "/[a-zA-Z0-9/_-]{0,20}[a-z]".prop_map(PathMatch::Prefix),
    ];
    (path, option::of("[A-Z]{3,7}"), headers()).prop_map(|(path, method, headers)| RouteMatch {
        path,
        method,
        headers,
    })
}

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    vec(("[a-z-]{1,12}", "[ -~äß]{0,12}"), 0..3)
}

fn modifier() -> impl Strategy<Value = HeaderModifier> {
    (headers(), headers(), vec("[a-z-]{1,12}", 0..3)).prop_map(|(set, add, remove)| HeaderModifier {
        set,
        add,
        remove,
    })
}

fn backend() -> impl Strategy<Value = WeightedBackend> {
    (cluster_name(), prop_oneof![Just(0), Just(1), 0..=u32::MAX])
        .prop_map(|(cluster, weight)| WeightedBackend { cluster, weight })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    (cluster_name(), balance(), btree_set(identity(), 0..4), traffic()).prop_map(
        |(name, balance, identities, traffic)| Cluster { name, balance, identities, traffic, hint: None },
    )
}

fn balance() -> impl Strategy<Value = Balance> {
    let plain = vec![Balance::PeakEwma, Balance::RoundRobin, Balance::LeastRequest, Balance::Random];
    let sizes = 2..=HashTable::SIZE_MAX;
    let table = prop_oneof![
        (sizes.clone(), sizes.clone())
            .prop_map(|(size_min, size_max)| HashTable::Ring { size_min, size_max }),
        sizes.prop_map(|size| HashTable::Maglev { size }),
    ];
    let key = prop_oneof![
        "[a-z-]{1,12}".prop_map(HashKey::Header),
        ("[A-Za-z-]{1,12}", option::of(duration(0)))
            .prop_map(|(name, given)| HashKey::Cookie { name, given }),
        Just(HashKey::Source),
    ];
    prop_oneof![select(plain), (table, key).prop_map(|(table, key)| Balance::Hash { table, key })]
}

fn identity() -> impl Strategy<Value = SpiffeId> {
    ("[a-z]{1,4}\\.local", "[a-z-]{1,8}", "[a-zA-Z0-9._-]{0,8}[a-z]").prop_map(
        |(domain, namespace, account)| {
            SpiffeId::new(&domain, &namespace, &account).expect("made of valid parts")
        },
    )
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let by_address = btree_map(address(), endpoint(), 0..8);
    (cluster_name(), by_address).prop_map(|(name, by_address): (_, BTreeMap<SocketAddr, Endpoint>)| {
        let endpoints = by_address.into_iter();
        let endpoints = endpoints.map(|(address, endpoint)| Endpoint { address, ..endpoint });
        Endpoints { name, endpoints: endpoints.collect() }
    })
}

/// Its address is set by the list that it goes into.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let transports =
        vec![Transport::MtlsHttp2, Transport::MtlsHttp1, Transport::MtlsTcp, Transport::Plaintext];
    let health = select(vec![Health::Healthy, Health::Unhealthy, Health::Draining]);
    let weight = prop_oneof![Just(1_u32), 1..=u32::MAX];
    (port(), subsequence(transports, 1..=4).prop_shuffle(), health, weight, locality(), "[a-z0-9-]{0,12}")
        .prop_map(|(app_port, transports, health, weight, locality, workload)| Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            app_port,
            transports,
            health,
            weight,
            locality,
            workload,
        })
}

fn locality() -> impl Strategy<Value = Locality> {
    ("|eu|us", "|a|b").prop_map(|(region, zone)| Locality { region, zone })
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), port()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn inbound() -> impl Strategy<Value = Inbound> {
    let ports = vec(
        (port(), option::of(app_protocol()), option::of(port_name()), mtls())
            .prop_map(|(app_port, hint, service, mtls)| InboundPort { app_port, hint, service, mtls }),
        0..4,
    );
    ("[a-z]{1,8}/[a-z0-9-]{1,12}", ports, mtls()).prop_map(|(name, ports, mtls)| Inbound {
        name,
        ports,
        mtls,
    })
}

fn mtls() -> impl Strategy<Value = MtlsMode> {
    select(vec![MtlsMode::Strict, MtlsMode::Permissive])
}

fn unknown() -> impl Strategy<Value = UnknownDestinations> {
    let unknown = || select(vec![Unknown::Passthrough, Unknown::Deny]);
    (unknown(), btree_map("[a-z]{1,8}", unknown(), 0..3))
        .prop_map(|(default, namespaces)| UnknownDestinations { default, namespaces })
}

fn ranges() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let range = (any::<IpAddr>(), 0_u8..=32).prop_map(|(ip, length)| {
        ipnet::IpNet::new(ip, length).expect("at most 32 is a length for both families")
    });
    vec(range, 0..4)
}

fn settings() -> impl Strategy<Value = MeshSettings> {
    let addresses = (ranges(), ranges(), unknown());
    let access_log = select(vec![AccessLog::Off, AccessLog::Errors, AccessLog::All]);
    ("[a-z0-9-]{1,36}", "[a-z.]{1,20}", access_log, addresses, "([0-9a-f]{64})?").prop_map(
        |(mesh_id, trust_domain, access_log, (ranges, virtual_ranges, unknown), issuing_root)| MeshSettings {
            mesh_id,
            trust_domain,
            access_log,
            issuing_root,
            ranges,
            virtual_ranges,
            unknown,
        },
    )
}

fn bundle() -> impl Strategy<Value = TrustBundle> {
    ("[a-z.]{1,20}", vec(vec(any::<u8>(), 1..300), 1..3))
        .prop_map(|(trust_domain, roots)| TrustBundle { trust_domain, roots })
}

fn names() -> impl Strategy<Value = NameTable> {
    let addresses = (any::<Ipv4Addr>(), any::<Ipv6Addr>());
    let ports = btree_map(label(), port(), 0..3);
    let named = (addresses, ports, btree_map(label(), any::<IpAddr>(), 0..4), any::<bool>());
    let named = named.prop_map(|((v4, v6), ports, instances, headless)| {
        // Only a headless service's are told.
        let instances = if headless { instances } else { BTreeMap::new() };
        Named { v4, v6, ports, instances, headless }
    });
    (label(), btree_map(label(), named, 0..5))
        .prop_map(|(namespace, services)| NameTable { namespace, services })
}

fn app_protocol() -> impl Strategy<Value = AppProtocol> {
    select(vec![AppProtocol::Http, AppProtocol::Http2, AppProtocol::Grpc, AppProtocol::Tcp])
}

fn port() -> impl Strategy<Value = u16> {
    1..=u16::MAX
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?"
}

fn port_name() -> impl Strategy<Value = PortName> {
    (label(), label(), port())
        .prop_map(|(namespace, service, port)| PortName::new(Key::new(namespace, service), port))
}

/// A port, perhaps as one namespace sees it, or one instance of it.
fn view() -> impl Strategy<Value = PortName> {
    let part = |name: PortName, part: Option<(bool, String)>| match part {
        Some((true, from)) => PortName { from: Some(from), ..name },
        Some((false, instance)) => PortName { instance: Some(instance), ..name },
        None => name,
    };
    (port_name(), option::of((any::<bool>(), label()))).prop_map(move |(name, chosen)| part(name, chosen))
}

/// A port, or one instance of it.
fn cluster_name() -> impl Strategy<Value = PortName> {
    (port_name(), option::of(label())).prop_map(|(name, instance)| PortName { instance, ..name })
}

/// Of each type one that uses every field the converter writes.
pub(crate) fn full() -> [Resource; 8] {
    let identities = ["cart", "cart-canary"].map(|account| SpiffeId::new("mesh.local", "default", account));
    let cart = PortName::new(Key::new("default", "cart"), 80);
    let header = |name: &str| (name.to_owned(), "x".to_owned());
    let modifier =
        HeaderModifier { set: vec![header("a")], add: vec![header("b")], remove: vec!["c".to_owned()] };
    let rule = |name: &str, backends| Rule {
        name: name.to_owned(),
        matches: vec![RouteMatch {
            path: PathMatch::Prefix("/a".to_owned()),
            method: Some("GET".to_owned()),
            headers: vec![header("d")],
        }],
        request_headers: modifier.clone(),
        response_headers: modifier.clone(),
        backends,
        timeouts: Timeouts::default(),
        retry: None,
    };
    let second = Some(Duration::from_secs(1));
    let patient = Rule {
        timeouts: Timeouts { request: second, backend_request: second },
        retry: Some(RuleRetry { codes: [503].into(), attempts: Some(1), backoff: second }),
        ..rule("default/split#0", vec![WeightedBackend { cluster: cart.clone(), weight: 1 }])
    };
    let endpoint = Endpoint {
        address: SocketAddr::from(([127, 0, 0, 1], 4143)),
        app_port: 8080,
        transports: vec![Transport::MtlsHttp1, Transport::MtlsTcp],
        health: Health::Healthy,
        weight: 1,
        locality: Locality { region: "eu".to_owned(), zone: "a".to_owned() },
        workload: "cart-7f3a1b".to_owned(),
    };
    let hint = Some(AppProtocol::Http);
    [
        Resource::Listener(Listener {
            name: "cart:80".to_owned(),
            target: cart.clone(),
            hint,
            address: None,
        }),
        Resource::Route(Route { name: cart.clone(), rules: vec![patient, rule("default/none#0", vec![])] }),
        Resource::Cluster(Cluster {
            name: cart.clone(),
            balance: Balance::PeakEwma,
            identities: identities.into_iter().collect::<Result<BTreeSet<_>, _>>().expect("valid"),
            traffic: Traffic {
                timeouts: Timeouts { request: second, backend_request: second },
                connect: ConnectPolicy { idle: second, ..ConnectPolicy::default() },
                slow_start: second,
                ..Traffic::default()
            },
            hint: None,
        }),
        Resource::Endpoints(Endpoints { name: cart.clone(), endpoints: vec![endpoint] }),
        Resource::Inbound(Inbound {
            name: "default/cart-7f3a1b".to_owned(),
            ports: vec![InboundPort { app_port: 8080, hint, service: Some(cart), mtls: MtlsMode::Strict }],
            mtls: MtlsMode::Strict,
        }),
        Resource::MeshSettings(full_settings()),
        Resource::TrustBundle(TrustBundle { trust_domain: "mesh.local".to_owned(), roots: vec![vec![1]] }),
        Resource::NameTable(full_names()),
    ]
}

fn full_settings() -> MeshSettings {
    MeshSettings {
        mesh_id: "m".to_owned(),
        trust_domain: "mesh.local".to_owned(),
        access_log: AccessLog::All,
        issuing_root: "0a".repeat(32),
        ranges: vec!["240.0.0.0/8".parse().expect("valid")],
        virtual_ranges: Vec::new(),
        unknown: Default::default(),
    }
}

fn full_names() -> NameTable {
    let named = Named {
        v4: Ipv4Addr::new(240, 0, 0, 7),
        v6: Ipv6Addr::LOCALHOST,
        ports: [("http".to_owned(), 80)].into(),
        instances: [("cart-0".to_owned(), [10, 0, 0, 1].into())].into(),
        headless: true,
    };
    NameTable { namespace: "default".to_owned(), services: [("cart".to_owned(), named)].into() }
}
