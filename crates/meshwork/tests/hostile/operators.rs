//! The operators' API and the sidecar's admin port: documents that unfold to more than they are, requests that are too large,
//! and people who are not asked.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use crate::ground::{Between, Ground};
use crate::honest::unharmed;
use crate::memory::Memory;
use crate::recorder::Recorder;
use crate::wire::PATIENCE;

/// 16 MiB of text, and what a reader makes of it before it has seen enough.
const PEAK_KIB_MAX: u64 = 512 * 1024;

/// Answers of a stretch.
const STATUSES: usize = 100;

/// Open watches that the control plane has room for, and more.
const WATCHES: usize = 300;

fn socket(ground: &Ground) -> PathBuf {
    ground.mesh.state_dir("control").join("operator.sock")
}

/// Status and all that came.
fn ask(stream: &mut (impl Read + Write), head: &str, body: &[u8]) -> (u16, String) {
    let request =
        format!("{head}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    // Refused while it is being sent: as well.
    let _ = stream.write_all(&[request.as_bytes(), body].concat());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), answer)
}

fn operate(ground: &Ground, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(socket(ground)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(&mut stream, head, body)
}

fn documents() -> Vec<(&'static str, Vec<u8>)> {
    let laughs: String = (1..30)
        .map(|level| format!("l{level}: &l{level} [{}]\n", vec![format!("*l{}", level - 1); 10].join(", ")))
        .collect();
    let service =
        |field: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\nspec: {{{field}}}\n");
    vec![
        ("a billion laughs", format!("l0: &l0 ha\n{laughs}").into_bytes()),
        ("an anchor within itself", b"a: &a [*a, *a]\n".to_vec()),
        ("a map that merges itself", b"a: &a {<<: *a, b: 1}\n".to_vec()),
        ("lists in lists", "[".repeat(100_000).into_bytes()),
        ("lists in lists that end", ["[".repeat(50_000), "]".repeat(50_000)].concat().into_bytes()),
        ("maps in maps", "{a: ".repeat(50_000).into_bytes()),
        ("JSON in JSON", r#"{"a":"#.repeat(50_000).into_bytes()),
        (
            "lines deeper and deeper",
            (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>().into_bytes(),
        ),
        ("dashes upon dashes", "- ".repeat(50_000).into_bytes()),
        (
            "a port of a million digits",
            service(&format!("ports: [{{port: {}}}]", "9".repeat(1_000_000))).into_bytes(),
        ),
        ("a port beyond every float", service("ports: [{port: 1e999999999}]").into_bytes()),
        ("a port that is no number", service("ports: [{port: .nan}]").into_bytes()),
        (
            "a name of 2 MiB",
            service("").replace("name: x", &format!("name: {}", "x".repeat(2 << 20))).into_bytes(),
        ),
        ("a name with NUL", service("").replace("name: x", "name: \"x\\0y\"").into_bytes()),
        ("NUL", b"apiVersion: v1\0kind: Service\n".to_vec()),
        ("no UTF-8", b"apiVersion: \xff\xfe\n".to_vec()),
        ("UTF-16", b"\xff\xfea\0:\0 \x001\0".to_vec()),
        ("gzip", [&[0x1f, 0x8b, 8, 0][..], &[7; 1_000]].concat()),
        ("a tag for programs", b"!!python/object/apply:os.system ['true']\n".to_vec()),
        ("the same key twice", b"apiVersion: v1\napiVersion: v2\n".to_vec()),
        ("30,000 documents", b"---\na: 1\n".repeat(30_000)),
        ("300,000 values", [&b"["[..], &b"1,".repeat(300_000), b"1]"].concat()),
        ("3,000,000 values", millions()),
        ("300,000 values in lists", lists(300)),
        ("17 MiB", vec![b'#'; 17 << 20]),
    ]
}

/// 6 MB.
fn millions() -> Vec<u8> {
    format!("[{}1]\n", "1,".repeat(3_000_000)).into_bytes()
}

/// Each of a thousand values.
fn lists(count: usize) -> Vec<u8> {
    format!("- [{}1]\n", "1,".repeat(999)).repeat(count).into_bytes()
}

/// Who asks on and on is answered while another one sends what takes long to read.
#[test]
fn one_operators_documents_make_no_other_wait() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    let documents = [millions(), lists(300)];
    let ask = || match operate(&ground, "GET /api/v1/status HTTP/1.1", b"") {
        (200, _) => Ok(()),
        (_, answer) => Err(answer),
    };
    unharmed("documents of millions of values", STATUSES, 2 * documents.len(), ask, |number| {
        let document = &documents[number % documents.len()];
        let (status, answer) = operate(&ground, "POST /api/v1/apply HTTP/1.1", document);
        assert_eq!(status, 422, "{answer}");
    });
    memory.is_within(PEAK_KIB_MAX / 2, PEAK_KIB_MAX);
    ground.still_works();
}

#[test]
fn no_document_unfolds_to_more_than_it_is() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    for (name, document) in documents() {
        let (status, answer) = operate(&ground, "POST /api/v1/apply HTTP/1.1", &document);
        let told = &answer[answer.len().saturating_sub(300)..answer.len()];
        assert!(matches!(status, 400 | 413 | 422), "{name}: {status} {told}");
        assert!(answer.contains("\"message\""), "{name} was refused without a word: {told}");
    }
    for token in
        [&b"{\"service\": "[..], &b"[".repeat(100_000), b"{\"service\": \"x\", \"ttlSeconds\": 1e400}", b"\0"]
    {
        let (status, _) = operate(&ground, "POST /api/v1/tokens HTTP/1.1", token);
        assert!(matches!(status, 400 | 422), "a token: {status}");
    }
    memory.is_within(PEAK_KIB_MAX / 2, PEAK_KIB_MAX);
    ground.still_works();
}

#[test]
fn an_operators_requests_and_watches_are_bounded() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let memory = Memory::of("the control plane", ground.mesh.control().pid());
    let long = "x".repeat(600_000);
    for head in [
        format!("GET /api/v1/services?watch={long} HTTP/1.1"),
        format!("GET /api/v1/{long} HTTP/1.1"),
        format!("GET /api/v1/services HTTP/1.1\r\nX: {long}"),
        format!("GET /api/v1/services HTTP/1.1{}", "\r\nX: 1".repeat(2_000)),
    ] {
        let (status, _) = operate(&ground, &head, b"");
        assert!(matches!(status, 400..=499), "{}: {status}", &head[..40]);
    }
    let mut watches = Vec::new();
    let mut refused = 0;
    for _ in 0..WATCHES {
        let mut watch = UnixStream::connect(socket(&ground)).unwrap();
        watch.set_read_timeout(Some(PATIENCE)).unwrap();
        watch.write_all(b"GET /api/v1/services?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        watch.read_exact(&mut status).unwrap();
        refused += usize::from(status.ends_with(b"503"));
        watches.push(watch);
    }
    assert!(refused > 0 && refused < WATCHES, "{refused} of {WATCHES} watches were refused");
    // Who only asks is answered all the same.
    assert_eq!(operate(&ground, "GET /api/v1/status HTTP/1.1", b"").0, 200);
    drop(watches);
    memory.is_bounded(PEAK_KIB_MAX);
    ground.still_works();
}

#[test]
fn another_user_of_the_machine_is_no_operator() {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "to be another user needs root");
    if !root {
        return println!("NOT CHECKED: to be another user needs root");
    }
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let curl = |user: &str| {
        let mut curl = Command::new("setpriv");
        curl.args([
            "--reuid",
            user,
            "--clear-groups",
            "--",
            "curl",
            "-sS",
            "--max-time",
            "10",
            "--unix-socket",
        ]);
        curl.arg(socket(&ground)).arg("http://control/api/v1/status").output().unwrap()
    };
    let nobody = curl("nobody");
    assert!(!nobody.status.success() && nobody.stdout.is_empty(), "{nobody:?}");
    assert!(curl("root").status.success(), "who may, is answered in the same way");
}

#[test]
fn the_admin_port_answers_this_machine_and_no_web_page() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let admin: std::net::SocketAddr = ground.web.admin.parse().unwrap();
    let at = |request: &str| {
        let mut stream = TcpStream::connect(admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.get(9..12).and_then(|status| status.parse::<u16>().ok()).unwrap_or(0)
    };
    let get = |path: &str, host: &str| {
        at(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    for path in ["/config", "/metrics", "/ready"] {
        assert_eq!(get(path, &ground.web.admin), 200);
        assert_eq!(get(path, "localhost"), 200);
        // A page whose name was made to lead here, to read what it says (DNS rebinding).
        assert_eq!(get(path, "evil.example"), 403);
        assert_eq!(get(path, &format!("evil.example:{}", admin.port())), 403);
    }
    let page = "POST /log-level HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 5\r\n\r\ntrace";
    assert_eq!(at(&page.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")), 403);
    let long = "x".repeat(600_000);
    for request in [
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET /ready HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!(
            "PUT /log-level HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n{}",
            "x".repeat(100_000)
        ),
        "GET /ready HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc"
            .to_owned(),
        "PUT /log-level HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
    ] {
        let status = at(&request);
        assert!(matches!(status, 400..=499), "{:?}: {status}", &request[..request.len().min(60)]);
    }
    // From elsewhere nobody comes: it listens on loopback alone.
    match own_address() {
        Some(address) => {
            let refused = TcpStream::connect((address, admin.port())).map(|_| ());
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "{address}");
        }
        None => println!("NOT CHECKED: this machine has no address but loopback"),
    }
}

/// By which others would reach this machine; nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}
