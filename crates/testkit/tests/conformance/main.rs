//! h2spec judges our HTTP/2: the engine alone, and behind it whole sidecars.
//!
//! All its cases pass but those in `exempt.txt`, each with its reason. `make conformance` builds h2spec (`h2spec/go.mod`
//! pins it) where Go is at hand, and runs this with `MESHWORK_CONFORMANCE=1`; without h2spec this says that it judged
//! nothing, and fails if that variable is set.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use meshwork_core::model::AppProtocol;
use meshwork_testkit::{Mesh, workload};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

#[allow(dead_code)] // how a connection ended is told to tests of its own
#[path = "../../../http/tests/h2/driver.rs"]
mod driver;

/// Set by `make conformance`: without h2spec nothing passes.
const WANTED: &str = "MESHWORK_CONFORMANCE";

/// How long h2spec waits for what must come; a case that expects silence takes as long.
const SECONDS: &str = "4";

/// What a port was declared to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Declared {
    /// Any HTTP.
    Http,
    Http2,
}

#[tokio::test]
async fn the_engine_conforms() {
    check("the engine", http2_application().await, Declared::Http2).await;
}

#[tokio::test]
async fn sidecars_before_an_http1_application_conform() {
    for http2 in [true, false] {
        let (application, what) = (http1_application().await, between(http2));
        check_sidecars(&format!("HTTP/1.1 application, {what}"), application, Declared::Http, http2).await;
    }
}

#[tokio::test]
async fn sidecars_before_an_http2_application_conform() {
    for http2 in [true, false] {
        let (application, what) = (http2_application().await, between(http2));
        check_sidecars(&format!("HTTP/2 application, {what}"), application, Declared::Http2, http2).await;
    }
}

fn between(http2: bool) -> &'static str {
    if http2 { "HTTP/2 between sidecars" } else { "HTTP/1.1 between sidecars" }
}

/// h2spec speaks to the local port of one sidecar; what it says goes on to the other, and to the application.
async fn check_sidecars(what: &str, application: SocketAddr, declared: Declared, http2: bool) {
    let protocol = match declared {
        Declared::Http => AppProtocol::Http,
        Declared::Http2 => AppProtocol::Http2,
    };
    let cart = workload("cart").serving_port_as(80, application.port(), protocol);
    let web = workload("web").upstream("cart:80");
    let mesh = Mesh::builder().http2(http2).with(cart).with(web).start().await;
    let judged = check(what, mesh.sidecar("web").upstream("cart:80"), declared).await;
    let total = |sidecar: &str| mesh.sidecar(sidecar).metrics().total("meshwork_requests_total", &[]);
    if judged {
        assert!(total("cart") > 50.0, "requests went through both");
    }
    mesh.stop().await;
}

/// The engine with a small driver around it.
async fn http2_application() -> SocketAddr {
    listen(|stream| async move { drop(driver::serve(stream).await) }).await
}

/// As many bytes as the cases need.
async fn http1_application() -> SocketAddr {
    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        request.into_body().collect().await?;
        Ok(Response::new(Full::new(Bytes::from_static(&[b'x'; 2_000]))))
    }
    listen(move |stream| async move {
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await);
    })
    .await
}

/// How a connection ended is what h2spec judges.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Whatever listens there passes, but for what is exempt. `false`: there is nobody to judge.
async fn check(what: &str, address: SocketAddr, declared: Declared) -> bool {
    let Some(cases) = h2spec(address).await else { return false };
    assert!(cases.len() > 140, "h2spec has more cases than {}", cases.len());
    let exempt = exempt(declared);
    let (exempted, others): (Vec<_>, Vec<_>) = cases.iter().partition(|case| exempt.contains(&case.name));
    assert_eq!(exempted.len(), exempt.len(), "exempt.txt names a case that h2spec doesn't have");
    let red = told(others.into_iter().filter(|case| case.failure.is_some()));
    assert!(red.is_empty(), "{what}: h2spec finds, of {} cases:{red}", cases.len());
    let green = told(exempted.into_iter().filter(|case| case.failure.is_none()));
    assert!(green.is_empty(), "{what}: no longer exempt, as h2spec finds them right:{green}");
    println!("{what}: {} cases pass, {} are exempt", cases.len() - exempt.len(), exempt.len());
    true
}

fn told<'a>(cases: impl Iterator<Item = &'a Case>) -> String {
    cases
        .map(|Case { name, failure }| format!("\n{name}\n{}", failure.as_deref().unwrap_or_default()))
        .collect()
}

struct Case {
    /// `package | case`, as in `exempt.txt`.
    name: String,
    failure: Option<String>,
}

/// `None`: it isn't at hand.
async fn h2spec(address: SocketAddr) -> Option<Vec<Case>> {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.xml");
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let ran = Command::new("h2spec")
        .args(["--host", &host, "--port", &port, "--timeout", SECONDS, "--path", "/bytes/2000"])
        .arg("--junit-report")
        .arg(&report)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status();
    if let Err(error) = ran.await {
        assert!(std::env::var_os(WANTED).is_none(), "cannot run h2spec: {error}");
        println!("JUDGED NOTHING: cannot run h2spec ({error}); `make conformance` builds it where Go is");
        return None;
    }
    Some(cases(&std::fs::read_to_string(report).unwrap()))
}

/// A JUnit report's cases; failed ones hold a `failure` or `error`.
fn cases(report: &str) -> Vec<Case> {
    let attribute = |text: &str, name: &str| {
        let value = text.split_once(&format!(" {name}=\""))?.1;
        Some(value[..value.find('"')?].replace("&#34;", "\"").replace("&#39;", "'").replace("&amp;", "&"))
    };
    let case = |text: &str| {
        let text = &text[..text.find("</testcase>").unwrap_or(text.len())];
        let (package, name) = (attribute(text, "package").unwrap(), attribute(text, "classname").unwrap());
        let failure = text.split_once("<failure>").or_else(|| text.split_once("<error>"));
        Case { name: format!("{package} | {name}"), failure: failure.map(|(_, rest)| rest.to_owned()) }
    };
    report.split("<testcase").skip(1).map(case).collect()
}

fn exempt(declared: Declared) -> BTreeSet<String> {
    let lines = include_str!("exempt.txt").lines().filter(|line| !line.starts_with('#'));
    let exempt = lines.filter_map(|line| {
        let [ports, package, case, reason] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("exempt.txt: {line:?} is not `ports | package | case | reason`")
        };
        assert!(reason.contains("RFC 9113"), "exempt.txt: {line:?} needs what RFC 9113 says of it");
        let concerned = match ports {
            "all" => true,
            "http" => declared == Declared::Http,
            other => panic!("exempt.txt: no ports are called {other:?}"),
        };
        concerned.then(|| format!("{package} | {case}"))
    });
    exempt.collect()
}

#[test]
fn a_report_is_read() {
    let report = r#"<testsuite name="5.3.1"><testcase package="http2/5.3.1" classname="Sends A" time="0.1">
        <failure>Expected: &#34;x&#34;</failure></testcase>
        <testcase package="hpack/6" classname="Sends B" time="0.1"></testcase></testsuite>"#;
    let read: Vec<_> = cases(report).into_iter().map(|case| (case.name, case.failure.is_some())).collect();
    assert_eq!(read, [("http2/5.3.1 | Sends A".to_owned(), true), ("hpack/6 | Sends B".to_owned(), false)]);
}
