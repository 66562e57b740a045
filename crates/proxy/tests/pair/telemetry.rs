//! What is counted and logged is what happened, with one worker or four.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::Arc;

use meshwork_core::model::AccessLog;
use meshwork_core::resource::{MeshSettings, Resource};
use meshwork_proxy::telemetry::{Event, Gauge, Registry};

use super::support::{Mesh, Pair, Sidecar, TRUST_DOMAIN, endpoint};
use super::talk::{ALONE, App, Closed, Talk, child, eventually, ok};

/// The lines of one metric, as labels and value; sorted.
fn lines(registry: &Arc<Registry>, metric: &str) -> Vec<(String, String)> {
    let text = registry.render();
    let prefix = format!("{metric}{{");
    let line = |line: &str| {
        let (labels, value) = line.strip_prefix(&prefix)?.rsplit_once("} ")?;
        Some((labels.to_owned(), value.to_owned()))
    };
    let mut lines: Vec<_> = text.lines().filter_map(line).collect();
    lines.sort();
    lines
}

#[track_caller]
pub(crate) fn shows(registry: &Arc<Registry>, metric: &str, expected: &[(&str, u64)]) {
    let mut expected: Vec<_> =
        expected.iter().map(|(labels, value)| ((*labels).to_owned(), value.to_string())).collect();
    expected.sort();
    let mut last = Vec::new();
    eventually(metric, || {
        last = lines(registry, metric);
        let there = last == expected;
        if !there && last.len() > expected.len() {
            panic!("{metric}: {last:#?}");
        }
        there
    });
}

#[test]
fn metrics_count_what_was_sent() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = Talk::to(pair.web.outbound);
    let mut served = None;
    for (method, status) in [
        ("GET", "200 OK"),
        ("GET", "200 OK"),
        ("HEAD", "404 Not Found"),
        ("PUT", "200 OK"),
        ("POST", "500 Internal Server Error"),
    ] {
        client.send(format!("{method} /secret?q HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n"));
        let served = served.get_or_insert_with(|| app.accept());
        served.head();
        served.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        client.head().expect(&format!("HTTP/1.1 {status}"));
    }
    drop(served);
    client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
    drop(app.accept()); // the kept one ended; the new one ends without a word
    client.head().expect_cause("502", "app_reset");

    let way = |direction: &str, route: &str, rest: &str| {
        format!(
            "direction=\"{direction}\",source=\"default/web\",destination=\"default/cart\",route=\"{route}\",{rest}"
        )
    };
    for (registry, direction, route) in
        [(&pair.web.registry, "outbound", "default"), (&pair.cart.registry, "inbound", "")]
    {
        let expected: Vec<(String, u64)> = [
            ("method=\"safe\",status=\"200\",cause=\"\"", 2),
            ("method=\"safe\",status=\"404\",cause=\"\"", 1),
            ("method=\"idempotent\",status=\"200\",cause=\"\"", 1),
            ("method=\"other\",status=\"500\",cause=\"\"", 1),
            ("method=\"other\",status=\"502\",cause=\"app_reset\"", 1),
        ]
        .map(|(rest, count)| (way(direction, route, rest), count))
        .into();
        let expected: Vec<_> = expected.iter().map(|(labels, count)| (labels.as_str(), *count)).collect();
        shows(registry, "meshwork_requests_total", &expected);
        assert!(!registry.render().contains("secret"), "paths are no labels");
    }
    let latency = "source=\"default/web\",destination=\"default/cart\",route=\"default\"";
    shows(&pair.web.registry, "http_client_request_duration_seconds_count", &[(latency, 6)]);
    let latency = "source=\"default/web\",destination=\"default/cart\",route=\"\"";
    shows(&pair.cart.registry, "http_server_request_duration_seconds_count", &[(latency, 6)]);
    // One mesh connection, whatever happened behind it.
    assert_eq!(pair.cart.registry.counted(Event::AcceptedInbound), 1);
    assert_eq!(pair.web.registry.counted(Event::HandshakeFull), 1);
}

#[test]
fn open_connections_are_counted_up_and_down() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let registry = &pair.web.registry;
    let clients: Vec<_> = (0..5).map(|_| Talk::to(pair.web.outbound)).collect();
    eventually("five are open", || registry.value(Gauge::OpenOutbound) == 5);
    drop(clients);
    eventually("none is open", || registry.value(Gauge::OpenOutbound) == 0);
    assert_eq!(registry.counted(Event::AcceptedOutbound), 5);
}

fn log(sidecar: &Sidecar, access_log: AccessLog) {
    let settings = MeshSettings {
        mesh_id: "m".to_owned(),
        trust_domain: TRUST_DOMAIN.to_owned(),
        access_log,
        issuing_root: String::new(),
        ranges: Vec::new(),
        virtual_ranges: Vec::new(),
        unknown: Default::default(),
    };
    sidecar.live.apply(vec![Resource::MeshSettings(settings)], &[]);
}

#[test]
fn the_access_log_says_what_happened_in_a_line_each() {
    const NAME: &str = "the_access_log_says_what_happened_in_a_line_each";
    if std::env::var_os(ALONE).is_some() {
        return write_access_log();
    }
    let mut logging = child(module_path!(), NAME)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(logging.stderr.take().unwrap()).lines();
    let objects = lines.map_while(Result::ok).filter(|line| line.starts_with('{'));
    let lines: Vec<serde_json::Value> =
        objects.take(6).map(|line| serde_json::from_str(&line).unwrap()).collect();
    drop(logging.stdin.take()); // all is read: it may end
    logging.wait().unwrap();
    let of = |direction: &str, status: u64| {
        lines.iter().find(|line| line["direction"] == direction && line["status"] == status).unwrap()
    };
    let (sent, received) = (of("outbound", 200), of("inbound", 200));
    for line in [sent, received] {
        assert_eq!(line["source"], "default/web");
        assert_eq!(line["destination"], "default/cart");
        assert_eq!((&line["method"], &line["path"]), (&"GET".into(), &"/items".into()));
        assert_eq!(line["authority"], "cart");
        assert_eq!(line["request_id"], "id-1");
        assert_eq!(line.get("cause"), None);
        assert!(line["duration_us"].is_u64() && line["time"].is_u64());
    }
    assert_eq!((&sent["route"], &sent["tries"]), (&"default".into(), &1.into()));
    assert!(sent["endpoint"].as_str().unwrap().starts_with("127.0.0.1:"));
    // The other pair logs errors only, and says why.
    for line in [of("outbound", 502), of("inbound", 502)] {
        assert_eq!(line["cause"], "app_refused");
        assert!(line["error"].as_str().unwrap().len() > 10);
    }
    let text = format!("{lines:?}");
    assert!(!text.contains("hunter2"), "a query may hold secrets");
    assert!(!text.contains("not-logged"), "errors only");
}

/// In a process of its own: two pairs write, one all, one errors.
fn write_access_log() {
    let (app, fine) = (App::listen(), App::listen());
    let pair = Pair::start(app.port);
    log(&pair.web, AccessLog::All);
    log(&pair.cart, AccessLog::All);
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET /items?password=hunter2 HTTP/1.1\r\nHost: cart\r\nX-Request-Id: id-1\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send(ok("x"));
    client.head().expect("HTTP/1.1 200 OK");

    let (mesh, closed) = (Mesh::new(), Closed::new());
    let cart = Sidecar::start(&mesh, "cart", &[closed.port(), fine.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    log(&web, AccessLog::Errors);
    log(&cart, AccessLog::Errors);
    web.learn_as("fine", 80, vec![endpoint(cart.inbound[1], fine.port)], "cart", None);
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], closed.port())]);
    let mut client = Talk::to(web.outbound);
    client.send("GET /not-logged HTTP/1.1\r\nHost: fine\r\n\r\n");
    let mut served = fine.accept();
    served.head();
    served.send(ok("x"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("x");
    client.send("GET /broken HTTP/1.1\r\nHost: cart\r\n\r\n");
    client.head().expect_cause("502", "app_refused");
    let _ = std::io::stdin().read(&mut [0]); // until the lines are read
}

/// The established connections to `port` that each of this process's event queues watches, which is how
/// many each worker has.
fn connections_by_worker(port: u16) -> Vec<usize> {
    let tcp = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let inodes: BTreeSet<String> = tcp
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.len() > 9 && columns[1].ends_with(&local) && columns[3] == "01")
        .map(|columns| format!("socket:[{}]", columns[9]))
        .collect();
    let mut queues = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let is_queue =
            std::fs::read_link(&path).is_ok_and(|to| to.to_string_lossy() == "anon_inode:[eventpoll]");
        let info = std::path::Path::new("/proc/self/fdinfo").join(&name);
        let Ok(info) = std::fs::read_to_string(info) else { continue };
        if !is_queue {
            continue;
        }
        let watched = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
        let watched: BTreeSet<&str> = watched.filter_map(|line| line.split_whitespace().next()).collect();
        let ours = watched.iter().filter(|fd| {
            std::fs::read_link(format!("/proc/self/fd/{fd}"))
                .is_ok_and(|to| inodes.contains(to.to_string_lossy().as_ref()))
        });
        let key: Vec<String> = watched.iter().map(|fd| (*fd).to_owned()).collect();
        queues.insert(key, ours.count()); // a queue has several descriptors
    }
    let mut counts: Vec<usize> = queues.into_values().filter(|count| *count > 0).collect();
    counts.sort_unstable();
    counts
}

#[test]
fn four_workers_share_sixteen_connections_and_count_as_one() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start_with(&mesh, "cart", &[app.port], &[], |settings| settings.workers = 4);
    let web = Sidecar::start_with(&mesh, "web", &[], &[], |settings| settings.workers = 4);
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
    app.serve(|_, _| ok("fine"));
    let mut clients: Vec<_> = (0..16).map(|_| Talk::to(web.outbound)).collect();
    for client in &mut clients {
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
            client.head().expect("HTTP/1.1 200 OK");
            client.expect("fine");
        }
    }
    assert_eq!(connections_by_worker(web.outbound.port()), [4, 4, 4, 4]);
    assert_eq!(web.registry.worker_connections(), [4, 4, 4, 4], "and so it is told");
    let labels = "direction=\"outbound\",source=\"default/web\",destination=\"default/cart\",\
                  route=\"default\",method=\"safe\",status=\"200\",cause=\"\"";
    shows(&web.registry, "meshwork_requests_total", &[(labels, 48)]);
    let labels = labels.replace("outbound", "inbound").replace("route=\"default\"", "route=\"\"");
    shows(&cart.registry, "meshwork_requests_total", &[(&labels, 48)]);
}
