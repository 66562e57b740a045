//! A ledger keeps a line for each request that reached any instance, while instances are killed, drained and made
//! faulty under mixed load. No POST and no call is in it twice; whatever a caller saw fail was truly ambiguous; and
//! all the tries together are few.
//!
//! `MESHWORK_TEST_REQUESTS=100000` runs it for longer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use meshwork_core::model::AppProtocol;
use meshwork_testkit::{Client, EchoClient, Mesh, Sidecar, eventually, get, grpc_client, post, workload};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

const REQUESTS_DEFAULT: usize = 9_000;
const CLIENTS: usize = 12;
const INSTANCES: usize = 4;

/// Answers between two blows: enough for each to be felt and got over.
const BETWEEN_BLOWS: usize = 600;

/// Long enough that requests are on their way whenever something happens.
const WORK: Duration = Duration::from_millis(2);

/// By which requests are told apart.
const ID: &str = "x-id";

#[tokio::test]
async fn nothing_is_written_twice_and_only_the_ambiguous_fails() {
    let ledger = Arc::<Ledger>::default();
    let mesh =
        Mesh::builder().http2(super::HTTP2).with(workload("web").upstream("ledger:9000")).start().await;
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        instances.push(Instance::join(&mesh, &ledger).await);
    }
    let load = Load::start(mesh.sidecar("web"));
    let wanted =
        std::env::var("MESHWORK_TEST_REQUESTS").map_or(REQUESTS_DEFAULT, |text| text.parse().unwrap());
    let mut blows = Blows::default();
    while load.answered() < wanted {
        load.goes_on(BETWEEN_BLOWS).await;
        blows.next(&mut instances, &mesh, &ledger, &load).await;
    }
    let seen = load.stop().await;
    println!("{blows:?}");
    check(&seen, &ledger, &blows);
    let retries = mesh.sidecar("web").metrics().total("meshwork_retries_total", &[]) as usize;
    assert!(retries * 5 <= seen.len(), "{retries} further tries for {} requests", seen.len());
    mesh.stop().await;
}

/// What befell the instances.
#[derive(Debug, Default)]
struct Blows {
    killed: usize,
    drained: usize,
    faulty: usize,
    turn: usize,
}

impl Blows {
    async fn next(&mut self, instances: &mut Vec<Instance>, mesh: &Mesh, ledger: &Arc<Ledger>, load: &Load) {
        self.turn += 1;
        match self.turn % 3 {
            0 => {
                drop(instances.pop()); // not the first, which may be ejected and carry nothing
                self.killed += 1;
                instances.push(Instance::join(mesh, ledger).await);
            }
            1 => {
                instances.push(Instance::join(mesh, ledger).await);
                instances.remove(0).drain().await;
                self.drained += 1;
            }
            _ => {
                instances[0].faulty.store(true, Ordering::Relaxed);
                load.goes_on(BETWEEN_BLOWS).await;
                instances[0].faulty.store(false, Ordering::Relaxed);
                self.faulty += 1;
            }
        }
    }
}

/// How each request ended, by its ID, against what reached the ledger.
fn check(seen: &HashMap<String, (Kind, Ending)>, ledger: &Ledger, blows: &Blows) {
    let lines = ledger.lines.lock().unwrap();
    let arrived = |id: &str| lines.get(id).copied().unwrap_or(0);
    let mut faults = Vec::new();
    let mut ambiguous = 0;
    for (id, (kind, ending)) in seen {
        let arrived = arrived(id);
        let is_right = match (kind, ending) {
            (Kind::Get, Ending::Served) => arrived > 0,
            (Kind::Post | Kind::Call, Ending::Served) => arrived == 1,
            // An application's own word on what must not be repeated.
            (Kind::Post | Kind::Call, Ending::Refused) => arrived == 1,
            (Kind::Post | Kind::Call, Ending::Mesh(cause)) => {
                ambiguous += 1;
                arrived <= 1 && ["upstream_reset", "app_reset"].contains(&cause.as_str())
            }
            (Kind::Get, Ending::Refused | Ending::Mesh(_)) | (_, Ending::Broken(_)) => false,
        };
        if !is_right {
            faults.push(format!("{id} ({kind:?}) arrived {arrived} times: {ending:?}"));
        }
    }
    let attempts: usize = lines.values().sum();
    println!("{} requests, {attempts} arrived, {ambiguous} ambiguous", seen.len());
    faults.sort();
    assert!(faults.is_empty(), "{} of {}: {:#?}", faults.len(), seen.len(), &faults[..faults.len().min(20)]);
    assert!(
        ambiguous <= blows.killed * CLIENTS,
        "{ambiguous} of at most {CLIENTS} on their way at each kill"
    );
    assert!(attempts * 5 <= seen.len() * 6, "{attempts} attempts for {} requests", seen.len());
}

#[derive(Default)]
struct Ledger {
    lines: Mutex<HashMap<String, usize>>,
}

impl Ledger {
    fn write(&self, headers: &HeaderMap) {
        let id = headers.get(ID).expect("each request has one").to_str().unwrap();
        *self.lines.lock().unwrap().entry(id.to_owned()).or_default() += 1;
    }
}

/// An application with its sidecar. Dropped, both are killed.
struct Instance {
    sidecar: Sidecar,
    faulty: Arc<AtomicBool>,
    _application: AbortOnDropHandle<()>,
}

impl Instance {
    async fn join(mesh: &Mesh, ledger: &Arc<Ledger>) -> Self {
        let faulty = Arc::<AtomicBool>::default();
        let listeners = [bind().await, bind().await];
        let [http, grpc] = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        let application = tokio::spawn(serve(listeners, ledger.clone(), faulty.clone()));
        let ports = workload("ledger").serving_port(80, http).serving_port_as(9_000, grpc, AppProtocol::Grpc);
        let sidecar = mesh.join(ports).await;
        Self { sidecar, faulty, _application: AbortOnDropHandle::new(application) }
    }

    async fn drain(self) {
        self.sidecar.drain().await;
        self.sidecar.stop().await;
    }
}

async fn bind() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

async fn serve([http, grpc]: [TcpListener; 2], ledger: Arc<Ledger>, faulty: Arc<AtomicBool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = http.accept() => accepted,
            accepted = grpc.accept() => accepted,
        };
        let (stream, _) = accepted.unwrap();
        stream.set_nodelay(true).unwrap();
        let (ledger, faulty) = (ledger.clone(), faulty.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, ledger.clone(), faulty.clone()));
            let builder = auto::Builder::new(TokioExecutor::new());
            // Whoever broke it off has seen it.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(
    request: Request<Incoming>,
    ledger: Arc<Ledger>,
    faulty: Arc<AtomicBool>,
) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    ledger.write(&head.headers);
    let body = body.collect().await?.to_bytes();
    tokio::time::sleep(WORK).await;
    let is_grpc = head.headers.get("content-type").is_some_and(|value| value == "application/grpc");
    Ok(match (is_grpc, faulty.load(Ordering::Relaxed)) {
        (false, false) => Response::new(Full::new(body).boxed()),
        (false, true) => Response::builder().status(503).body(Full::default().boxed()).unwrap(),
        (true, false) => grpc(body),
        (true, true) => {
            let ended =
                Response::builder().header("content-type", "application/grpc").header("grpc-status", "14");
            ended.body(Full::default().boxed()).unwrap()
        }
    })
}

/// The message as it came.
fn grpc(message: Bytes) -> Answer {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok);
    let body = StreamBody::new(tokio_stream::iter(frames)).boxed();
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Get,
    Post,
    Call,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    Served,
    /// The application's own 5xx, or `grpc-status`.
    Refused,
    /// The mesh answered, with this cause.
    Mesh(String),
    Broken(String),
}

struct Load {
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<HashMap<String, (Kind, Ending)>>,
}

impl Load {
    fn start(web: &Sidecar) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let caller =
                Caller { number, http: web.client(), grpc: grpc_client(web.upstream("ledger:9000")) };
            clients.spawn(caller.call(stop.clone(), answered.clone()));
        }
        Self { stop, answered, clients }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    async fn goes_on(&self, more: usize) {
        let until = self.answered() + more;
        eventually(&format!("{more} more answers"), async || self.answered() >= until).await;
    }

    async fn stop(self) -> HashMap<String, (Kind, Ending)> {
        self.stop.cancel();
        self.clients.join_all().await.into_iter().flatten().collect()
    }
}

struct Caller {
    number: usize,
    http: Client,
    grpc: EchoClient<Channel>,
}

impl Caller {
    async fn call(
        mut self,
        stop: CancellationToken,
        answered: Arc<AtomicUsize>,
    ) -> HashMap<String, (Kind, Ending)> {
        let mut seen = HashMap::new();
        while !stop.is_cancelled() {
            let kind = [Kind::Get, Kind::Post, Kind::Call][seen.len() % 3];
            let id = format!("{}-{}", self.number, seen.len());
            let ending = match kind {
                Kind::Get => self.request(get("http://ledger/line"), &id).await,
                Kind::Post => self.request(post("http://ledger/line", &id), &id).await,
                Kind::Call => self.grpc(&id).await,
            };
            seen.insert(id, (kind, ending));
            answered.fetch_add(1, Ordering::Relaxed);
        }
        seen
    }

    async fn request(&mut self, mut request: Request<Full<Bytes>>, id: &str) -> Ending {
        request.headers_mut().insert(ID, id.parse().unwrap());
        match self.http.send(request).await {
            Err(broken) => Ending::Broken(broken),
            Ok(answer) => match (answer.cause(), answer.status) {
                (Some(cause), _) => Ending::Mesh(cause.to_owned()),
                (None, 200) => Ending::Served,
                (None, _) => Ending::Refused,
            },
        }
    }

    async fn grpc(&mut self, id: &str) -> Ending {
        let mut request = tonic::Request::new(Bytes::copy_from_slice(id.as_bytes()));
        request.metadata_mut().insert(ID, id.parse().unwrap());
        match self.grpc.unary(request).await {
            Ok(answer) if answer.get_ref() == id => Ending::Served,
            Ok(answer) => Ending::Broken(format!("another's answer: {:?}", answer.get_ref())),
            Err(status) => match status.metadata().get("x-meshwork-cause") {
                Some(cause) => Ending::Mesh(cause.to_str().unwrap().to_owned()),
                None if status.code() == tonic::Code::Unavailable && status.message().is_empty() => {
                    Ending::Refused
                }
                None => Ending::Broken(status.to_string()),
            },
        }
    }
}
