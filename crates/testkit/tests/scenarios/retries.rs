//! What is tried again, and what never is: instances that fail, connections that close, outages that must not become
//! storms.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshwork_core::model::AppProtocol;
use meshwork_testkit::{
    Answer, Client, FAIL_MESSAGE, GrpcApp, Mesh, Sidecar, eventually, failing, get, grpc_client, post, soon,
    workload,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

/// How long a load lasts that shows something only with time; `MESHWORK_TEST_SECONDS` makes it longer.
const SECONDS: u64 = 6;

/// From an application's decision to close a connection to the end of it.
const CLOSING: Duration = Duration::from_millis(30);

/// Requests a second of an outage.
const RATE: usize = 250;

/// Callers that share the rate: each has time for its further tries.
const CALLERS: usize = 25;

fn seconds(default: u64) -> Duration {
    let set = std::env::var("MESHWORK_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(set.unwrap_or(default))
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    body: String,
}

/// What an application does with a request.
#[derive(Clone, Copy, Debug)]
enum Does {
    Answers(u16),
    /// Closes the connection without a word.
    Breaks,
}

/// An application that keeps a list of what came, whatever it made of it.
struct Application {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Application {
    async fn start<F>(idle: Duration, does: impl Fn(usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Does> + Send,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (list, does) = (asked.clone(), Arc::new(does));
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (list, does) = (list.clone(), does.clone());
                connections.spawn(async move {
                    let mut conn = Conn { stream, read: Vec::new() };
                    while let Ok(Some(asked)) = timeout(idle, conn.request()).await {
                        let count = {
                            let mut list = list.lock().unwrap();
                            list.push(asked);
                            list.len()
                        };
                        match does(count).await {
                            Does::Answers(status) => conn.answer(status).await,
                            Does::Breaks => return,
                        }
                    }
                    // It has decided to close; what comes before it does is lost, as with any busy server.
                    sleep(CLOSING).await;
                });
            }
        });
        Self { port, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    /// The n-th request (from 1) is treated so.
    async fn doing(does: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        Self::start(Duration::from_secs(3_600), move |count| std::future::ready(does(count))).await
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

struct Conn {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Conn {
    /// `None`: the client closed.
    async fn request(&mut self) -> Option<Asked> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        let length = length.unwrap_or(0);
        while self.read.len() < length {
            self.more().await?;
        }
        let body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        let method = head.split(' ').next().unwrap().to_owned();
        Some(Asked { method, body })
    }

    async fn more(&mut self) -> Option<()> {
        let length = self.stream.read_buf(&mut self.read).await.ok()?;
        (length > 0).then_some(())
    }

    async fn answer(&mut self, status: u16) {
        let text = format!("HTTP/1.1 {status} As Told\r\nContent-Length: 4\r\n\r\nsaid");
        // A client that left needs none.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }
}

async fn mesh_of(app: &Application) -> Mesh {
    let cart = workload("cart").serving_port(80, app.port);
    Mesh::builder().http2(super::HTTP2).with(cart).with(workload("web")).start().await
}

fn retries(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().total("meshwork_retries_total", &[])
}

#[tokio::test]
async fn what_may_be_repeated_fails_once_and_its_caller_sees_only_success() {
    for first in [Does::Breaks, Does::Answers(502), Does::Answers(503), Does::Answers(504)] {
        let app = Application::doing(move |count| if count == 1 { first } else { Does::Answers(200) }).await;
        let mesh = mesh_of(&app).await;
        let answer = mesh.sidecar("web").get("http://cart/items").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "said"), "{first:?}: {answer:?}");
        assert_eq!(app.count(), 2, "{first:?}");
        assert_eq!((retries(mesh.sidecar("web")), retries(mesh.sidecar("cart"))), (1.0, 0.0), "{first:?}");
        mesh.stop().await;
    }
}

#[tokio::test]
async fn a_payment_that_may_have_been_made_arrives_once_and_its_caller_hears_why_it_failed() {
    let app = Application::doing(|count| if count == 1 { Does::Breaks } else { Does::Answers(503) }).await;
    let mesh = mesh_of(&app).await;
    let web = mesh.sidecar("web");
    let broken = web.post("http://cart/pay", "first").await;
    assert_eq!((broken.status, broken.cause()), (502, Some("app_reset")), "{broken:?}");
    let refused = web.post("http://cart/pay", "second").await;
    assert_eq!((refused.status, refused.cause()), (503, None), "{refused:?}");
    let bodies: Vec<_> = app.asked().into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies, ["first", "second"]);
    assert_eq!(retries(web), 0.0);
    mesh.stop().await;
}

#[tokio::test]
async fn one_of_two_instances_fails_and_only_what_may_not_be_repeated_shows_it() {
    let bad = Application::doing(|_| Does::Breaks).await;
    let good = Application::doing(|_| Does::Answers(200)).await;
    let mesh = mesh_of(&bad).await;
    let _good = mesh.join(workload("cart").serving_port(80, good.port)).await;
    let mut client = mesh.sidecar("web").client();
    let both = async {
        while bad.count() == 0 || good.count() == 0 {
            let answer = client.send(get("http://cart/items")).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    soon("both instances are asked", both).await;
    let mut paid = HashSet::new();
    for number in 0..20 {
        let answer = client.send(post("http://cart/pay", &number.to_string())).await.unwrap();
        if answer.status == 200 {
            paid.insert(number.to_string());
        } else {
            assert_eq!((answer.status, answer.cause()), (502, Some("app_reset")), "{answer:?}");
        }
    }
    let asked: Vec<_> = bad.asked().into_iter().chain(good.asked()).collect();
    let payments: Vec<_> =
        asked.iter().filter(|asked| asked.method == "POST").map(|asked| &asked.body).collect();
    assert_eq!(payments.len(), 20, "each arrives once");
    assert_eq!(payments.iter().collect::<HashSet<_>>().len(), 20, "each arrives once");
    assert!(paid.iter().all(|body| good.asked().iter().any(|asked| asked.body == *body)));
    mesh.stop().await;
}

/// Waits until the sidecar goes by a rule of that route.
async fn goes_by(web: &Sidecar, destination: &str, route: &str) {
    let rule = format!("default/{route}#0");
    let knows = async || web.config().await["destinations"][destination]["rules"][0]["name"] == *rule;
    eventually(&format!("{destination} goes by {rule}"), knows).await;
}

/// A route whose only rule takes everything, and says what is tried again.
fn route(service: &str, port: u16, retry: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: again }}\nspec:\n  \
         parentRefs: [{{ group: '', kind: Service, name: {service} }}]\n  rules:\n  - retry: {retry}\n    \
         backendRefs: [{{ name: {service}, port: {port} }}]\n"
    )
}

#[tokio::test]
async fn a_rule_that_says_so_has_payments_tried_again_as_often_as_it_says() {
    let app = Application::doing(|count| match count {
        2 => Does::Answers(500),
        4 => Does::Breaks,
        6.. => Does::Answers(500),
        _ => Does::Answers(200),
    })
    .await;
    let mesh = mesh_of(&app).await;
    let web = mesh.sidecar("web");
    mesh.apply(&route("cart", 80, "{ codes: [500, 502], attempts: 1, backoff: 1ms }")).await;
    assert_eq!(web.get("http://cart/items").await.status, 200);
    goes_by(web, "cart:80", "again").await;
    for (body, status) in [("failed", 200), ("broken", 200), ("in vain", 500)] {
        let answer = web.post("http://cart/pay", body).await;
        assert_eq!((answer.status, answer.cause()), (status, None), "{body}: {answer:?}");
    }
    let bodies: Vec<_> = app.asked().into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies, ["", "failed", "failed", "broken", "broken", "in vain", "in vain"]);
    assert_eq!(web.metrics().total("meshwork_retries_total", &[("kind", "rule")]), 3.0);
    mesh.stop().await;
}

/// An application that says `UNAVAILABLE` may have done half of it; what no application saw is another matter.
#[tokio::test]
async fn a_call_is_tried_again_when_nobody_saw_it_or_a_rule_names_its_status() {
    let app = GrpcApp::start("payments-1");
    let payments = workload("payments").serving_grpc(50_051, &app);
    let web = workload("web").upstream("payments:50051");
    let mesh = Mesh::builder().http2(super::HTTP2).with(payments).with(web).start().await;
    let web = mesh.sidecar("web");
    let mut client = grpc_client(web.upstream("payments:50051"));
    let mut fails = async || client.fail(failing(Code::Unavailable, b"half of it")).await.unwrap_err();
    assert_eq!(fails().await.code(), Code::Unavailable);
    assert_eq!(app.calls(), 1);
    mesh.apply(&route("payments", 50_051, "{ codes: [503], attempts: 2, backoff: 1ms }")).await;
    goes_by(web, "payments:50051", "again").await;
    let status = fails().await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, FAIL_MESSAGE));
    assert_eq!(app.calls(), 4, "the one before, and three tries");
    mesh.stop().await;
}

#[tokio::test]
async fn a_policy_says_how_often_and_whether_at_all() {
    let app = Application::doing(|_| Does::Answers(503)).await;
    let mesh = mesh_of(&app).await;
    mesh.apply(
        "apiVersion: meshwork.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: { name: once }\nspec:\n  \
         targetRefs: [{ group: '', kind: Service, name: cart }]\n  retry: { attempts: 0 }\n",
    )
    .await;
    let answer = mesh.sidecar("web").get("http://cart/items").await;
    assert_eq!((answer.status, app.count()), (503, 1), "{answer:?}");
    mesh.stop().await;
}

/// GOAWAY(last = 1) with the streams 1 and 3 open, and the end of the connection.
#[tokio::test]
async fn an_application_that_goes_away_gets_again_what_it_did_not_take_and_nothing_else() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (opened, mut opens) = mpsc::channel(8);
    let (body, mut bodies) = mpsc::channel(8);
    let serving = tokio::spawn(async move {
        // Its own sidecar looks now and then whether the port accepts, and says nothing.
        while go_away(listener.accept().await.unwrap().0, &opened).await.is_none() {}
        loop {
            serve(listener.accept().await.unwrap().0, body.clone()).await;
        }
    });
    let cart = workload("cart").serving_port_as(80, port, AppProtocol::Http2);
    let mesh = Mesh::builder().http2(super::HTTP2).with(cart).with(workload("web")).start().await;
    let (mut one, mut three) = (mesh.sidecar("web").client(), mesh.sidecar("web").client());
    let taken = tokio::spawn(async move { one.send(post("http://cart/", "taken")).await.unwrap() });
    assert_eq!(soon("the first stream opens", opens.recv()).await, Some(1));
    let refused = three.send(post("http://cart/", "refused")).await.unwrap();
    assert_eq!((refused.status, refused.text().as_str()), (200, "refused"), "{refused:?}");
    assert_eq!(opens.recv().await, Some(3));
    let taken = taken.await.unwrap();
    assert_eq!((taken.status, taken.cause()), (502, Some("app_reset")), "{taken:?}");
    assert_eq!(bodies.recv().await.as_deref(), Some("refused"));
    assert!(bodies.try_recv().is_err(), "what may have been processed is not sent again");
    mesh.stop().await;
    serving.abort();
}

/// Says GOAWAY as soon as a second stream is there, and leaves. `None`: the other side left before.
async fn go_away(mut stream: TcpStream, opened: &mpsc::Sender<u32>) -> Option<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const HEADERS: u8 = 1;
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await.ok()?;
    assert_eq!(preface, PREFACE);
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap(); // SETTINGS, empty
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if head[3] == HEADERS {
            opened.send(id).await.unwrap();
            if id == 3 {
                // Eight bytes: the last stream that it took, and NO_ERROR.
                stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
                stream.shutdown().await.unwrap();
                return Some(());
            }
        }
    }
}

/// Answers each request with its own body.
async fn serve(stream: TcpStream, bodies: mpsc::Sender<String>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let bodies = bodies.clone();
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            bodies.send(String::from_utf8(body.to_vec()).unwrap()).await.unwrap();
            Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::new(body)))
        }
    });
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = http.serve_connection(TokioIo::new(stream), service).await; // the sidecar ends it
}

/// The classic failure of sidecars: an application closes a connection just as a request is on its way.
#[tokio::test]
async fn an_application_that_closes_idle_connections_gets_each_payment_once() {
    const IDLE: Duration = Duration::from_secs(1);
    const SERVICES: usize = 4;
    let mesh = Mesh::builder().http2(super::HTTP2).with(workload("web")).start().await;
    let (mut apps, mut sidecars, mut callers) = (Vec::new(), Vec::new(), JoinSet::new());
    let end = Instant::now() + seconds(SECONDS);
    for number in 0..SERVICES {
        let app = Application::start(IDLE, |_| std::future::ready(Does::Answers(200))).await;
        let name = format!("cart-{number}");
        sidecars.push(mesh.join(workload(&name).serving_port(80, app.port)).await);
        apps.push(app);
        let mut client = mesh.sidecar("web").client();
        callers.spawn(async move {
            let mut random = number as u64 + 1;
            let mut sent = 0;
            while Instant::now() < end {
                let answer = client.send(post(&format!("http://{name}/"), &sent.to_string())).await.unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                sent += 1;
                // Mostly about as long as the application waits, or as the sidecar lets a connection lie.
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let around = [0, 450, 950][(random >> 40) as usize % 3];
                sleep(Duration::from_millis(around + (random >> 33) % 100)).await;
            }
            (number, sent)
        });
    }
    while let Some(caller) = callers.join_next().await {
        let (number, sent) = caller.unwrap();
        let bodies: Vec<_> = apps[number].asked().into_iter().map(|asked| asked.body).collect();
        let expected: Vec<_> = (0..sent).map(|number| number.to_string()).collect();
        assert_eq!(bodies, expected);
        assert!(sent > 4, "{sent} payments");
    }
    mesh.stop().await;
}

/// What callers were told, and how long the longest waited.
#[derive(Default)]
struct Outage {
    answers: Vec<Answer>,
    longest: Duration,
}

/// So many requests a second, whatever comes of them.
async fn outage(web: &Sidecar, url: &'static str) -> Outage {
    let mut callers = JoinSet::new();
    let end = Instant::now() + seconds(SECONDS / 2);
    for _ in 0..CALLERS {
        let mut client = web.client();
        callers.spawn(async move {
            let mut outage = Outage::default();
            let mut turns = interval(Duration::from_secs(1) * CALLERS as u32 / RATE as u32);
            while turns.tick().await < end {
                let asked = Instant::now();
                outage.answers.push(client.send(get(url)).await.unwrap());
                outage.longest = outage.longest.max(asked.elapsed());
            }
            outage
        });
    }
    let mut sum = Outage::default();
    for outage in callers.join_all().await {
        sum.answers.extend(outage.answers);
        sum.longest = sum.longest.max(outage.longest);
    }
    assert!(sum.answers.len() as f64 >= 200.0 * seconds(SECONDS / 2).as_secs_f64(), "{}", sum.answers.len());
    sum
}

#[tokio::test]
async fn when_all_instances_fail_callers_hear_it_at_once_and_the_load_grows_by_a_quarter_at_most() {
    for (does, told) in [(Does::Answers(503), (503, None)), (Does::Breaks, (502, Some("app_reset")))] {
        let instances = [Application::doing(move |_| does).await, Application::doing(move |_| does).await];
        let mesh = mesh_of(&instances[0]).await;
        let _other = mesh.join(workload("cart").serving_port(80, instances[1].port)).await;
        let web = mesh.sidecar("web");
        let outage = outage(web, "http://cart/items").await;
        for answer in &outage.answers {
            assert_eq!((answer.status, answer.cause()), told, "{answer:?}");
        }
        let load: usize = instances.iter().map(Application::count).sum();
        let factor = load as f64 / outage.answers.len() as f64;
        println!(
            "{does:?}: {} requests, load {factor:.3}, the longest wait {:?}",
            outage.answers.len(),
            outage.longest
        );
        assert!(outage.longest < Duration::from_secs(5), "nobody waits for anything: {:?}", outage.longest);
        assert!(factor <= 1.25, "{load} requests came of {}", outage.answers.len());
        assert!(factor > 1.1, "further tries were made, as far as the budget goes: {factor}");
        assert!(web.metrics().total("meshwork_retry_budget_exhausted_total", &[]) > 0.0);
        mesh.stop().await;
    }
}

#[tokio::test]
async fn an_outage_three_hops_away_does_not_multiply() {
    let d = Application::doing(|_| Does::Answers(503)).await;
    let (c, b) = (Forwarder::start("http://d/").await, Forwarder::start("http://c/").await);
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("d").serving_port(80, d.port))
        .with(workload("c").serving_port(80, c.app.port))
        .with(workload("b").serving_port(80, b.app.port))
        .with(workload("a"))
        .start()
        .await;
    c.beside(mesh.sidecar("c"));
    b.beside(mesh.sidecar("b"));
    let outage = outage(mesh.sidecar("a"), "http://b/").await;
    for answer in &outage.answers {
        assert_eq!((answer.status, answer.cause()), (503, None), "{answer:?}");
        assert_eq!(answer.header("x-meshwork-retried"), None, "said to sidecars only");
    }
    let requests = outage.answers.len();
    let factor = |app: &Application| app.count() as f64 / requests as f64;
    let factors = [factor(&b.app), factor(&c.app), factor(&d)];
    println!("{requests} requests, load {factors:.3?}, the longest wait {:?}", outage.longest);
    assert!(factors[2] <= 1.6, "{factors:?}");
    mesh.stop().await;
}

/// An application that asks another service for each request, and passes on how that went.
struct Forwarder {
    app: Application,
    proxy: Arc<OnceLock<SocketAddr>>,
}

impl Forwarder {
    async fn start(url: &'static str) -> Self {
        let (proxy, clients) = (Arc::<OnceLock<SocketAddr>>::default(), Arc::<Mutex<Vec<Client>>>::default());
        let known = proxy.clone();
        let app = Application::start(Duration::from_secs(3_600), move |_| {
            let (clients, known) = (clients.clone(), known.clone());
            async move {
                let idle = clients.lock().unwrap().pop();
                let mut client = idle.unwrap_or_else(|| Client::new(*known.get().unwrap()));
                let answer = client.send(get(url)).await.unwrap();
                clients.lock().unwrap().push(client);
                Does::Answers(answer.status)
            }
        })
        .await;
        Self { app, proxy }
    }

    /// Asks through that sidecar.
    fn beside(&self, sidecar: &Sidecar) {
        self.proxy.set(sidecar.outbound_http()).unwrap();
    }
}
