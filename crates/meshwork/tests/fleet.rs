//! Many sidecars that come back to one control plane: real side threads of this process, each with its certificate, its
//! connection and its streams, and a real control plane with its store in a process of its own.

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use meshwork_proxy::side::dns::Lookup;
use meshwork_proxy::side::{Config, Duties, Registration, Side, Status};
use meshwork_proxy::telemetry::Registry;
use meshwork_proxy::{Clock, HTTP2_DEFAULT, Live, Mark, Settings};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use support::{Mesh, Process, free_port};

/// `MESHWORK_TEST_FLEET=1000` is the number that the mesh promises.
const SIDECARS: usize = 200;

/// Everybody is back so soon after the control plane's start, whatever else this machine does. Each comes within 3 s.
const BACK_MAX: Duration = Duration::from_secs(30);

/// Between two connections of one sidecar (`proxy/src/side/backoff.rs`); the clocks of two processes are one, but
/// a connection is seen some time after it was opened.
const APART: Duration = Duration::from_millis(1_900);

/// A sidecar without applications' traffic.
struct Member(Side);

impl Member {
    fn start(state_dir: &Path, token: Option<&str>) -> Self {
        let registry = Registry::new("default/fleet".to_owned());
        let settings = Settings {
            service: "fleet".to_owned(),
            namespace: "default".to_owned(),
            token: token.map(str::to_owned),
            state_dir: state_dir.to_owned(),
            ports: Vec::new(),
            labels: Default::default(),
            locality: Default::default(),
            health: None,
            workers: 1,
            http2: HTTP2_DEFAULT,
            memory_max: None,
            wait: support::DEADLINE,
            drain: Duration::from_secs(1),
            resolv_conf: meshwork_proxy::side::dns::RESOLV_CONF.into(),
            parent_proxy: None,
        };
        let clock = Clock::start();
        let (live, asks) = Live::new(registry.clone(), clock, settings.alpn());
        let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let set_log_level = Arc::new(|_: &str| Ok(()));
        let duties = Duties {
            settings,
            inbound: Vec::new(),
            admin,
            dns: Vec::new(),
            mark: Mark::default(),
            lookup: Lookup::Library,
            probes: None,
            live,
            asks,
            registry,
            clock,
            set_log_level,
        };
        Self(Side::start(duties).unwrap())
    }

    /// When that was so.
    async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Instant {
        let mut status = self.0.status();
        let held = tokio::time::timeout(support::DEADLINE, status.wait_for(holds)).await;
        match held {
            Ok(held) => drop(held.expect("the side thread runs")),
            Err(_) => panic!("it never was {what}: {:#?}", self.0.status().borrow()),
        }
        Instant::now()
    }
}

fn in_the_mesh(status: &Status) -> bool {
    status.config == Config::Current && status.registration == Registration::Registered
}

fn is_alone(status: &Status) -> bool {
    matches!(status.config, Config::Stale(_)) && matches!(status.registration, Registration::Connecting(_))
}

async fn all_are(what: &str, fleet: &[Member], holds: fn(&Status) -> bool) -> Vec<Instant> {
    let mut times = join_all(fleet.iter().map(|member| member.until(what, holds))).await;
    times.sort_unstable();
    times
}

#[tokio::test]
async fn a_thousand_sidecars_come_back_at_once_and_wait_for_their_turn() {
    let count = std::env::var("MESHWORK_TEST_FLEET").map_or(SIDECARS, |text| text.parse().unwrap());
    let mut mesh = Mesh::start();
    let token = mesh.token("fleet");
    let joining = Instant::now();
    let member = |number| {
        let state_dir = mesh.path().join(format!("fleet-{number}"));
        std::fs::create_dir(&state_dir).unwrap();
        Member::start(&state_dir, Some(&token))
    };
    let fleet: Vec<Member> = (0..count).map(member).collect();
    let joined = all_are("in the mesh", &fleet, in_the_mesh).await;
    println!("{count} sidecars joined in {:?}", *joined.last().unwrap() - joining);
    report(mesh.control(), &mesh.status()["handshakes"]);

    mesh.kill_control();
    all_are("without control plane", &fleet, is_alone).await;
    let begun = Instant::now();
    mesh.start_control(mesh.port);
    let back = all_are("back in the mesh", &fleet, in_the_mesh).await;
    let after = |share: usize| back[(count * share / 100).min(count - 1)] - begun;
    println!(
        "back after {:?} (first), {:?} (half), {:?} (99 %), {:?} (all)",
        after(0),
        after(50),
        after(99),
        after(100)
    );
    let status = mesh.status();
    report(mesh.control(), &status["handshakes"]);
    assert!(after(100) < BACK_MAX, "{:?}", after(100));
    let handshakes = |field: &str| status["handshakes"][field].as_u64().unwrap();
    assert!(handshakes("most") <= handshakes("max"), "{status:#}");
    assert_eq!(handshakes("waiting"), 0);
    let proxies = status["proxies"].as_array().unwrap();
    let connected = proxies.iter().filter(|proxy| proxy["connected"] == true).count();
    assert_eq!(connected, count, "nobody was lost");
}

/// What it cost the control plane so far.
fn report(control: &Process, handshakes: &serde_json::Value) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", control.pid())).unwrap();
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = [11, 12].iter().map(|field| fields[*field].parse::<f64>().unwrap()).sum(); // proc(5): 14 and 15
    let status = read("status");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("control plane: {:.2} s of CPU, {}; handshakes {handshakes}", ticks / 100.0, peak.trim());
}

#[tokio::test]
async fn whoever_drops_a_sidecar_at_once_meets_it_every_two_seconds_at_most() {
    let mut mesh = Mesh::start();
    let token = mesh.token("fleet");
    let state_dir = mesh.path().join("fleet");
    std::fs::create_dir(&state_dir).unwrap();
    let member = Member::start(&state_dir, Some(&token));
    member.until("in the mesh", in_the_mesh).await;

    mesh.kill_control();
    let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let visits = visits(SocketAddr::from((Ipv4Addr::LOCALHOST, mesh.port)), elsewhere);
    // Nobody is there: the connection is dropped before it is one.
    let times: Vec<Instant> = visits.iter().take(4).collect();
    check_apart("dropped at once", &times);
    // The streams are opened, answered, and then lost.
    mesh.start_control(elsewhere.port());
    member.until("in the mesh", in_the_mesh).await;
    let times: Vec<Instant> = visits.iter().take(4).collect();
    check_apart("dropped after their first answers", &times);
}

fn check_apart(what: &str, times: &[Instant]) {
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= APART), "connections that are {what} come after {gaps:?}");
    println!("connections that are {what} come after {gaps:?}");
}

/// How long a connection lives if somebody answers it: registration, config and all.
const SHORT: Duration = Duration::from_millis(700);

/// Tells when connections came. Each is led elsewhere, and cut off soon.
fn visits(listen: SocketAddr, onward: SocketAddr) -> mpsc::Receiver<Instant> {
    let (told, visits) = mpsc::channel();
    let listener = TcpListener::bind(listen).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                if told.send(Instant::now()).is_err() {
                    return;
                }
                if let Ok(mut onward) = TcpStream::connect(onward).await {
                    // Cut off, which is the point.
                    let _ = tokio::time::timeout(SHORT, copy_bidirectional(&mut stream, &mut onward)).await;
                }
            }
        });
    });
    visits
}
