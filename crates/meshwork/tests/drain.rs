//! How each kind of process ends on SIGTERM, told once and twice: real processes, judged by their own logs.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use support::load::{Load, all_good, application, counted_application};
use support::{Mesh, Process, Run, free_port, meshwork, wait_for};

/// At once, each with one request after the other.
const CALLERS: usize = 4;

/// Answers under load between two steps.
const MANY: usize = 200;

/// An application that answers each request when it is told to.
struct Slow {
    port: u16,
    asked: Receiver<()>,
    answer: Sender<()>,
}

impl Slow {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ((was_asked, asked), (answer, may_answer)) = (channel(), channel());
        thread::spawn(move || {
            for stream in listener.incoming() {
                // One after the other; who only looks whether the port accepts says nothing.
                if serve(&mut stream.unwrap(), &was_asked, &may_answer).is_none() {
                    continue;
                }
            }
        });
        Self { port, asked, answer }
    }

    fn is_asked(&self) {
        self.asked.recv_timeout(support::DEADLINE).expect("the request comes");
    }
}

fn serve(stream: &mut TcpStream, was_asked: &Sender<()>, may_answer: &Receiver<()>) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    was_asked.send(()).ok()?;
    may_answer.recv().ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nfinished").ok()
}

/// What a process and its children log, as JSON lines.
struct Log(PathBuf);

struct Line {
    timestamp: String,
    step: Option<u64>,
    message: String,
}

impl Log {
    /// Has a command log there.
    fn of(command: &mut Command, path: &Path) -> Self {
        command.env("MESHWORK_LOG_FORMAT", "json").stderr(File::create(path).unwrap());
        Self(path.to_owned())
    }

    fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.0).unwrap();
        let parsed = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines = parsed.map(|line| Line {
            timestamp: line["timestamp"].as_str().unwrap().to_owned(),
            step: line["fields"]["drain_step"].as_u64(),
            message: line["fields"]["message"].as_str().unwrap_or_default().to_owned(),
        });
        let mut lines: Vec<_> = lines.collect();
        // Several processes write there.
        lines.sort_by(|one, other| one.timestamp.cmp(&other.timestamp));
        lines
    }

    fn steps(&self) -> Vec<u64> {
        self.lines().iter().filter_map(|line| line.step).collect()
    }

    fn says(&self, message: &str) {
        let said = || self.lines().iter().any(|line| line.message.contains(message)).then_some(());
        wait_for(message, said);
    }

    fn reached(&self, step: u64) {
        wait_for(&format!("step {step}"), || self.steps().contains(&step).then_some(()));
    }
}

/// A mesh with `web`, which calls and serves `http://web/`, and a slow `cart` under `run`, whose command calls web
/// once it is told to end, and then ends with 5.
struct Shop {
    mesh: Mesh,
    web: Run,
    slow: Slow,
    cart: Process,
    log: Log,
    said: PathBuf,
}

impl Shop {
    fn start() -> Self {
        let (mesh, slow) = (Mesh::start(), Slow::start());
        let spec = format!("80:{}/http", application());
        let web = mesh.start_run("web", "web", &["--port", &spec], ["sleep", "infinity"]);
        let said = mesh.path().join("said");
        let file = said.display();
        let script = format!(
            "trap 'curl -sS --max-time 20 http://web/ >> {file}; exit 5' TERM; echo up > {file}; \
             while :; do sleep 0.05; done"
        );
        let spec = format!("80:{}/http", slow.port);
        let mut cart = mesh.run("cart", "cart", &["--port", &spec], ["sh", "-c", &script]);
        let log = Log::of(&mut cart, &mesh.path().join("cart.log"));
        let cart = Process(cart.spawn().unwrap());
        let shop = Self { mesh, web, slow, cart, log, said };
        wait_for("the command", || (shop.said() == "up\n").then_some(()));
        shop.log.says("registered with the control plane");
        shop
    }

    /// A request that the application has, and has not answered.
    fn ask(&self) -> Child {
        let asking = ask(&self.web);
        self.slow.is_asked();
        asking
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }

    fn is_cart_ready(&self) -> bool {
        let told: Value =
            serde_json::from_slice(&std::fs::read(self.mesh.state_dir("cart").join("run.json")).unwrap())
                .unwrap();
        let url = format!("http://{}/ready", told["admin"].as_str().unwrap());
        let asked = Command::new("curl").args(["-sS", "--fail", "--noproxy", "*", &url]).output().unwrap();
        asked.status.success()
    }
}

/// curl, not waited for.
fn ask(web: &Run) -> Child {
    ask_by(&web.outbound)
}

fn ask_by(outbound: &str) -> Child {
    let proxy = format!("http://{outbound}");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "--max-time", "50", "--proxy", &proxy, "http://cart/"]);
    curl.env_remove("no_proxy").env_remove("NO_PROXY").stdout(Stdio::piped()).spawn().unwrap()
}

fn answer(asking: Child) -> String {
    String::from_utf8(asking.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn run_tells_its_command_to_end_only_when_nobody_sends_and_what_ran_is_finished() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut shop = Shop::start();
        assert!(shop.is_cart_ready());
        let asking = shop.ask();
        shop.cart.signal(signal);
        shop.log.reached(3);
        assert!(!shop.is_cart_ready(), "it takes nothing new, and says so");
        assert_eq!(shop.said(), "up\n", "the command knows nothing of it");
        shop.slow.answer.send(()).unwrap();
        assert_eq!(answer(asking), "finished");
        assert_eq!(shop.cart.ended().code(), Some(5), "the exit code is the command's");
        assert_eq!(shop.said(), "up\nok", "its own request was still served");
        assert_eq!(shop.log.steps(), [1, 2, 3, 3, 4, 5]);
    }
}

#[test]
fn a_second_signal_to_run_does_not_wait_for_what_runs() {
    let mut shop = Shop::start();
    let asking = shop.ask();
    shop.cart.signal(Signal::TERM);
    shop.log.reached(3);
    shop.cart.signal(Signal::TERM);
    assert_eq!(shop.cart.ended().code(), Some(5));
    assert_eq!(shop.said(), "up\nok", "its own request was still served");
    assert_eq!(shop.log.steps(), [1, 2, 3, 4, 5]);
    assert_eq!(answer(asking), "", "what was not waited for got no answer of the application");
}

#[test]
fn a_proxy_alone_drains_and_ends_and_a_second_signal_ends_it_at_once() {
    for signals in 1..=2 {
        let (mesh, slow) = (Mesh::start(), Slow::start());
        let web = mesh.start_run("web", "web", &[], ["sleep", "infinity"]);
        let admin = format!("127.0.0.1:{}", free_port());
        let outbound = format!("127.0.0.1:{}", free_port());
        let spec = format!("80:{}/http", slow.port);
        let flags =
            ["proxy", "--service", "cart", "--port", &spec, "--admin", &admin, "--outbound-http", &outbound];
        let mut cart = meshwork(flags);
        cart.env("MESHWORK_TOKEN", mesh.token("cart")).arg("--state-dir").arg(mesh.state_dir("cart"));
        let log = Log::of(&mut cart, &mesh.path().join("cart.log"));
        let mut cart = Process(cart.spawn().unwrap());
        log.says("registered with the control plane");
        let asking = ask(&web);
        slow.is_asked();
        cart.signal(Signal::TERM);
        log.reached(3);
        match signals {
            1 => {
                slow.answer.send(()).unwrap();
                assert_eq!(answer(asking), "finished");
                assert_eq!(cart.ended().code(), Some(0));
                assert_eq!(log.steps(), [1, 2, 3, 3]);
            }
            _ => {
                cart.signal(Signal::TERM);
                assert_eq!(cart.ended().code(), Some(0));
                assert_eq!(answer(asking), "", "the application never answered");
                assert_eq!(log.steps(), [1, 2, 3]);
            }
        }
    }
}

/// Without a supervisor nobody says when the application is gone.
#[test]
fn a_proxy_alone_finishes_what_its_application_has_asked_for() {
    let (mesh, slow) = (Mesh::start(), Slow::start());
    let spec = format!("80:{}/http", slow.port);
    let _cart = mesh.start_run("cart", "cart", &["--port", &spec], ["sleep", "infinity"]);
    // On a machine that is busy for seconds its time may be up first, which says nothing.
    let in_time = (0..5).any(|attempt| {
        let name = format!("web-{attempt}");
        let (admin, outbound) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let mut web =
            meshwork(["proxy", "--service", "web", "--admin", &admin, "--outbound-http", &outbound]);
        web.env("MESHWORK_TOKEN", mesh.token("web")).arg("--state-dir").arg(mesh.state_dir(&name));
        let log = Log::of(&mut web, &mesh.path().join(format!("{name}.log")));
        let mut web = Process(web.spawn().unwrap());
        log.says("registered with the control plane");
        let asking = ask_by(&outbound);
        slow.is_asked();
        web.signal(Signal::TERM);
        log.says("draining: inbound is finished");
        slow.answer.send(()).unwrap();
        let answer = answer(asking);
        assert_eq!(web.ended().code(), Some(0));
        let in_time = !log.lines().iter().any(|line| line.message.contains("still in use at the end"));
        assert!(!in_time || answer == "finished", "it was cut off");
        in_time
    });
    assert!(in_time, "it never had the time");
}

#[test]
fn an_operator_drains_a_workload_and_a_new_sidecar_takes_it_back() {
    let mesh = Mesh::start();
    let ((one, served), (two, _)) = (counted_application(), counted_application());
    let spec = format!("80:{one}/http");
    let mut cart = mesh.run("cart", "cart", &["--port", &spec], ["sleep", "infinity"]);
    let log = Log::of(&mut cart, &mesh.path().join("cart.log"));
    let mut cart = mesh.started("cart", &mut cart);
    log.says("registered with the control plane");
    let name = mesh.status()["proxies"][0]["workload"].as_str().unwrap().to_owned();
    let spec = format!("80:{two}/http");
    let _other = mesh.start_run("cart", "other", &["--port", &spec], ["sleep", "infinity"]);
    let web = mesh.start_run("web", "web", &[], ["sleep", "infinity"]);
    let is_reached = |more: usize| {
        let before = served.load(Ordering::Relaxed);
        wait_for("it to be called", || {
            web.eventually("http://cart/");
            (served.load(Ordering::Relaxed) >= before + more).then_some(())
        });
    };
    is_reached(1);
    let load = Load::start(&web.outbound, CALLERS);
    load.goes_on(MANY);
    let drain = || String::from_utf8(mesh.operate(["drain", &name]).output().unwrap().stdout).unwrap();

    let (command, sidecar) = (cart.command(), cart.sidecar().unwrap());
    assert!(drain().contains("was told to drain"));
    log.says("draining: inbound is finished");
    assert!(!cart.curl_admin("/ready").status.success(), "it takes nothing new, and says so");
    assert!(drain().contains("drains already"), "asked for twice, it is done once");
    let at_end = served.load(Ordering::Relaxed);
    load.goes_on(MANY);
    assert_eq!(served.load(Ordering::Relaxed), at_end, "nothing comes any more");
    assert_eq!((cart.command(), cart.sidecar()), (command, Some(sidecar)), "and nobody was ended");

    kill_process(sidecar, Signal::KILL).unwrap();
    is_reached(2);
    all_good(&load.stop());
    // Who drains already ends as everybody does.
    assert!(drain().contains("was told to drain"));
    wait_for("the second drain", || (log.steps() == [1, 2, 3, 3, 1, 2, 3, 3]).then_some(()));
    cart.process.signal(Signal::TERM);
    assert_eq!(cart.process.ended().code(), Some(143));
    assert_eq!(log.steps()[8..], [4, 5]);
    let nobody = mesh.operate(["drain", "nobody"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&nobody.stderr).contains("there is no workload default/nobody"),
        "{nobody:?}"
    );
}

/// An operator who is in the middle of a request, and stays there.
fn half_a_request(state_dir: &Path) -> UnixStream {
    let mut operator = UnixStream::connect(state_dir.join("operator.sock")).unwrap();
    let head = b"POST /api/v1/apply HTTP/1.1\r\nHost: operator\r\nContent-Length: 100\r\n\r\nhalf";
    operator.write_all(head).unwrap();
    operator
}

#[test]
fn a_control_plane_lets_nobody_new_in_finishes_and_ends_and_a_second_signal_does_not_wait() {
    for signals in 1..=2 {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("control");
        let mut control = meshwork(["control", "--listen", "127.0.0.1:0", "--state-dir"]);
        let log = Log::of(control.arg(&state_dir), &dir.path().join("log"));
        let mut control = Process(control.spawn().unwrap());
        log.says("the control plane serves");
        let _operator = half_a_request(&state_dir);
        control.signal(Signal::TERM);
        log.says("ending");
        if signals == 2 {
            control.signal(Signal::TERM);
        }
        assert_eq!(control.ended().code(), Some(0));
        let lines = log.lines();
        let at = |message: &str| {
            let line = lines.iter().find(|line| line.message.starts_with(message)).expect(message);
            seconds(&line.timestamp)
        };
        let took = (at("ended") - at("ending")).rem_euclid(86_400.0);
        // Connections get 5 s for what runs on them.
        let expected = if signals == 1 { 4.5..8.5 } else { 0.0..4.0 };
        assert!(expected.contains(&took), "told {signals} times, it took {took} s");
        assert!(UnixStream::connect(state_dir.join("operator.sock")).is_err(), "nobody is behind the door");
    }
}

/// Of the day, from `2026-11-23T05:26:18.079575Z`.
fn seconds(timestamp: &str) -> f64 {
    let time = timestamp.split_once('T').unwrap().1.trim_end_matches('Z');
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

#[test]
fn sidecars_go_on_without_the_control_plane_that_told_them_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("control");
    let mut control = meshwork(["control", "--listen", "127.0.0.1:0", "--state-dir"]);
    let log = Log::of(control.arg(&state_dir), &dir.path().join("log"));
    let mut control = Process(control.spawn().unwrap());
    log.says("the control plane serves");
    let token = |service: &str| {
        let mut create = meshwork(["token", "create", "--service", service]);
        let output = create.env("MESHWORK_STATE_DIR", &state_dir).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let run = |service: &str, flags: &[&str]| {
        let mut run = meshwork(["run", "--service", service]);
        run.env("MESHWORK_TOKEN", token(service)).arg("--state-dir").arg(dir.path().join(service));
        run.arg("--capture=explicit").args(flags).args(["--", "sleep", "infinity"]);
        let log = Log::of(&mut run, &dir.path().join(format!("{service}.log")));
        let process = Process(run.spawn().unwrap());
        log.says("registered with the control plane");
        (process, log)
    };
    let spec = format!("80:{}/http", application());
    let (_cart, _) = run("cart", &["--port", &spec]);
    let (_web, web) = run("web", &[]);
    let told: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("web/run.json")).unwrap()).unwrap();
    let proxy = format!("http://{}", told["outboundHttp"].as_str().unwrap());
    let call = || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--max-time", "20", "--proxy", &proxy, "http://cart/"]);
        let output = curl.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(call(), "ok");
    control.signal(Signal::TERM);
    assert_eq!(control.ended().code(), Some(0));
    log.says("ended: all connections and the store are closed");
    web.says("the session with the control plane is down");
    assert_eq!(call(), "ok");
}
