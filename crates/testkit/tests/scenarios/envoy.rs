//! A real Envoy and our balancer over the same endpoints: by hash each key goes to the same endpoint, whoever asks; where
//! chance decides, both keep the shares that they should.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use meshwork_core::balance::{Candidates, Choice, Fitness, Near, key_of, mix, pick};
use meshwork_core::model::{Balance, HashKey, HashTable, Health, Locality, Transport};
use meshwork_core::resource::Endpoint;
use meshwork_http::{Head, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

const KEYS: u32 = 400;
const DRAWS: u32 = 2_000;
const WEIGHTS: [u32; 5] = [1, 1, 2, 3, 1];

/// An installation over a slow wire, or a start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_envoy_and_a_sidecar_choose_the_same_endpoints() {
    let Some(program) = meshwork_testkit::envoy(env!("CARGO_TARGET_TMPDIR")) else { return };
    let weighted = endpoints(&WEIGHTS);
    let even = endpoints(&[1; 4]);
    let key = HashKey::Header("x-user".to_owned());
    let by = |table| Balance::Hash { table, key: key.clone() };
    // The last ring is too small for whole numbers of points.
    let ring = |size_min, size_max| by(HashTable::Ring { size_min, size_max });
    let hashing = [
        (ring(1_024, 65_536), &even),
        (ring(1_024, 65_536), &weighted),
        (ring(16, 37), &weighted),
        (by(HashTable::Maglev { size: 65_537 }), &even),
        (by(HashTable::Maglev { size: 251 }), &weighted),
        (by(HashTable::Ring { size_min: 64, size_max: 64 }), &even),
    ];
    // Envoy's random choice knows no weights.
    let drawing = [
        (Balance::Random, &even),
        (Balance::RoundRobin, &weighted),
        (Balance::LeastRequest, &weighted),
        (Balance::LeastRequest, &even),
    ];
    let rows: Vec<_> = hashing.iter().chain(&drawing).collect();
    let envoy = Envoy::start(&program, rows.iter().map(|(balance, endpoints)| cluster(balance, endpoints)));
    for (row, (balance, endpoints)) in rows.into_iter().enumerate() {
        let mut client = TcpStream::connect(envoy.listeners[&format!("row-{row}")]).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let ours = Candidates::of(endpoints, balance, Near::ANYWHERE);
        match balance {
            Balance::Hash { .. } => {
                let keys = (0..KEYS).map(|key| format!("user-{key}"));
                let differing: Vec<_> = keys
                    .filter(|key| ask(&mut client, key) != owner(balance, &ours, endpoints, key))
                    .collect();
                assert_eq!(differing, Vec::<String>::new(), "{balance:?} over {} endpoints", endpoints.len());
            }
            _ => {
                let theirs = count((0..DRAWS).map(|_| ask(&mut client, "anybody")));
                let own = count((0..DRAWS).map(|turn| drawn(balance, &ours, endpoints, turn)));
                // Its chance has no seed: with four, one run of a thousand would fail; with six, one of ten millions.
                check_shares(balance, endpoints, ("Envoy", 6.0), &theirs);
                check_shares(balance, endpoints, ("ours", 4.0), &own);
            }
        }
    }
}

/// So many standard deviations wide.
#[track_caller]
fn check_shares(
    balance: &Balance,
    endpoints: &[Endpoint],
    (whose, sigmas): (&str, f64),
    counts: &BTreeMap<u16, u32>,
) {
    let total: u32 = endpoints.iter().map(|endpoint| endpoint.weight).sum();
    for endpoint in endpoints {
        let p = f64::from(endpoint.weight) / f64::from(total);
        let mean = f64::from(DRAWS) * p;
        let sigma = (mean * (1.0 - p)).sqrt();
        let found = f64::from(counts.get(&endpoint.address.port()).copied().unwrap_or(0));
        assert!(
            (found - mean).abs() <= sigmas * sigma,
            "{whose}, {balance:?}: {counts:?}, not {mean} of weight {}",
            endpoint.weight
        );
    }
}

fn count(ports: impl Iterator<Item = u16>) -> BTreeMap<u16, u32> {
    let mut counts = BTreeMap::new();
    ports.for_each(|port| *counts.entry(port).or_default() += 1);
    counts
}

/// The port of the endpoint that we send such a request to.
fn owner(balance: &Balance, candidates: &Candidates, endpoints: &[Endpoint], user: &str) -> u16 {
    let Balance::Hash { key, .. } = balance else { panic!("{balance:?} has no keys") };
    let mut head = Head::default();
    head.start_request(Version::Http11, "GET", "/");
    head.append("X-User", user.as_bytes());
    let number = key_of(key, Some(&head), None).unwrap();
    chosen(pick(balance, candidates, |_| 0, |_| Fitness::FIT, number, None), endpoints)
}

fn drawn(balance: &Balance, candidates: &Candidates, endpoints: &[Endpoint], turn: u32) -> u16 {
    let number = if *balance == Balance::RoundRobin { turn.into() } else { mix(turn.into()) };
    chosen(pick(balance, candidates, |_| 0, |_| Fitness::FIT, number, None), endpoints)
}

fn chosen(choice: Choice, endpoints: &[Endpoint]) -> u16 {
    match choice {
        Choice::Endpoint(index) => endpoints[index].address.port(),
        Choice::Full | Choice::Nobody => panic!("all are fit"),
    }
}

/// Servers that answer with their own port, ordered as the control plane orders them.
fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
    let mut addresses: Vec<_> = weights.iter().map(|_| server()).collect();
    addresses.sort_unstable();
    let endpoint = |(address, weight): (SocketAddr, &u32)| Endpoint {
        address,
        app_port: address.port(),
        transports: vec![Transport::Plaintext],
        health: Health::Healthy,
        weight: *weight,
        locality: Locality::default(),
        workload: address.to_string(),
    };
    addresses.into_iter().zip(weights).map(endpoint).collect()
}

fn server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, address.port()));
        }
    });
    address
}

fn serve(mut stream: TcpStream, port: u16) {
    stream.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    let mut piece = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        read.extend_from_slice(&piece[..count]);
        if read.ends_with(b"\r\n\r\n") {
            read.clear();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{port:05}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// The port of the server that answers.
fn ask(client: &mut TcpStream, user: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: cart\r\nX-User: {user}\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let answer = read_to(client, |text| {
        let (head, body) = text.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        (body.len() == 5).then(|| body.to_owned())
    });
    answer.parse().unwrap()
}

fn read_to<T>(stream: &mut TcpStream, done: impl Fn(&str) -> Option<T>) -> T {
    let mut text = Vec::new();
    let mut piece = [0; 16_384];
    loop {
        if let Some(done) = done(&String::from_utf8_lossy(&text)) {
            return done;
        }
        let count = stream.read(&mut piece).expect("an answer in time");
        assert!(count > 0, "ended after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..count]);
    }
}

/// As our control plane tells an Envoy of it, in the words of Envoy's JSON.
fn cluster(balance: &Balance, endpoints: &[Endpoint]) -> Value {
    let policy = match balance {
        Balance::RoundRobin => json!({"name": "round_robin", "config": {}}),
        Balance::LeastRequest => json!({"name": "least_request", "config": {}}),
        Balance::Random => json!({"name": "random", "config": {}}),
        Balance::Hash { table: HashTable::Ring { size_min, size_max }, .. } => json!({
            "name": "ring_hash",
            "config": {
                "hash_function": "XX_HASH", "minimum_ring_size": size_min, "maximum_ring_size": size_max,
                "consistent_hashing_lb_config": {"hash_policy": [{"header": {"header_name": "x-user"}}]},
            },
        }),
        Balance::Hash { table: HashTable::Maglev { size }, .. } => json!({
            "name": "maglev",
            "config": {
                "table_size": size,
                "consistent_hashing_lb_config": {"hash_policy": [{"header": {"header_name": "x-user"}}]},
            },
        }),
        Balance::PeakEwma => panic!("Envoy's own is another one"),
    };
    let name = policy["name"].as_str().unwrap();
    let message = match name {
        "round_robin" => "RoundRobin",
        "least_request" => "LeastRequest",
        "random" => "Random",
        "ring_hash" => "RingHash",
        _ => "Maglev",
    };
    let mut config = policy["config"].clone();
    config["@type"] =
        format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}.v3.{message}").into();
    let members = endpoints.iter().map(|endpoint| {
        json!({"load_balancing_weight": endpoint.weight, "endpoint": {"address": socket(endpoint.address.port())}})
    });
    json!({
        "type": "STATIC", "connect_timeout": "5s",
        "load_balancing_policy": {"policies": [{"typed_extension_config": {
            "name": format!("envoy.load_balancing_policies.{name}"), "typed_config": config,
        }}]},
        "load_assignment": {"endpoints": [{"lb_endpoints": members.collect::<Vec<_>>()}]},
    })
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// A listener for each cluster.
struct Envoy {
    process: Child,
    listeners: BTreeMap<String, SocketAddr>,
    _directory: TempDir,
}

impl Envoy {
    fn start(program: &Path, clusters: impl Iterator<Item = Value>) -> Self {
        let directory = TempDir::new().unwrap();
        let (file, admin) = (directory.path().join("envoy.json"), directory.path().join("admin"));
        fs::write(&file, config(clusters).to_string()).unwrap();
        let mut command = Command::new(program);
        command
            .args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error", "-c"])
            .arg(&file);
        command.arg("--admin-address-path").arg(&admin).stdin(Stdio::null());
        let mut envoy =
            Self { process: command.spawn().unwrap(), listeners: BTreeMap::new(), _directory: directory };
        let admin: SocketAddr = envoy
            .soon("it tells where its admin is", || fs::read_to_string(&admin).ok()?.trim().parse().ok());
        envoy.listeners = envoy.soon("its listeners are open", || {
            let listeners = listeners(admin);
            listeners
                .values()
                .all(|address| address.port() > 0)
                .then_some(listeners)
                .filter(|all| !all.is_empty())
        });
        envoy
    }

    /// Polled, as Envoy calls nobody.
    fn soon<T>(&mut self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            assert_eq!(self.process.try_wait().unwrap(), None, "Envoy ended before {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn config(clusters: impl Iterator<Item = Value>) -> Value {
    let (mut listeners, mut all) = (Vec::new(), Vec::new());
    for (row, mut cluster) in clusters.enumerate() {
        let name = format!("row-{row}");
        cluster["name"] = name.as_str().into();
        cluster["load_assignment"]["cluster_name"] = name.as_str().into();
        all.push(cluster);
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": name}}]);
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            }}],
        });
        let filter =
            json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
        listeners.push(json!({"name": name, "address": socket(0), "filter_chains": [{"filters": [filter]}]}));
    }
    json!({"admin": {"address": socket(0)}, "static_resources": {"listeners": listeners, "clusters": all}})
}

/// By name, where Envoy listens; none while it starts.
fn listeners(admin: SocketAddr) -> BTreeMap<String, SocketAddr> {
    let Ok(mut stream) = TcpStream::connect(admin) else { return BTreeMap::new() };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /listeners?format=json HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).is_err() || stream.read_to_string(&mut answer).is_err() {
        return BTreeMap::new();
    }
    // Chunked: from the first brace to the last is the document, in one chunk as it is short.
    let document = answer.find('{').zip(answer.rfind('}')).map(|(from, to)| &answer[from..=to]);
    let statuses: Value = document.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let open = statuses["listener_statuses"].as_array().into_iter().flatten().filter_map(|status| {
        let port = status["local_address"]["socket_address"]["port_value"].as_u64()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).ok()?));
        Some((status["name"].as_str()?.to_owned(), address))
    });
    open.collect()
}
