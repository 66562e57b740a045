//! A gRPC application and its clients (tonic): one service, `meshwork.test.v1.Echo`, with a method for each form of a
//! call. Messages are bytes, so that a test compares what it sent with what came, whatever it was.
//!
//! `Scatter`'s message begins with the size of its pieces (`u32`, network order); `Fail`'s is a status code, a byte, and
//! its details. `Chat` ends with an error at a message `fail`. Programs in other languages serve the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

pub use self::stubs::echo_client::EchoClient;
use self::stubs::echo_server::{Echo, EchoServer};

#[allow(unreachable_pub, clippy::default_constructed_unit_structs, clippy::too_many_lines)] // generated
mod stubs {
    include!(concat!(env!("OUT_DIR"), "/meshwork.test.v1.Echo.rs"));
}

/// Larger than any message that a test sends.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Messages of an answer that wait for the transport: what backpressure leaves.
const WAITING_MAX: usize = 4;

/// The metadata by which an application says its name.
const NAME: &str = "x-app";

/// What `Fail` and `Chat` say when they end with an error.
pub const FAIL_MESSAGE: &str = "100 % refused: é";

/// Metadata that go with the error.
pub const FAIL_METADATA: (&str, &[u8]) = ("x-reason-bin", &[0, 255, 13, 10]);

/// An application that serves gRPC with prior knowledge. Dropped, it is gone as if killed: its port is closed, and so is
/// every connection.
pub struct GrpcApp {
    address: SocketAddr,
    seen: Arc<Seen>,
    _runs: DropGuard,
}

struct Seen {
    name: String,
    calls: watch::Sender<usize>,
    /// Calls that ended without the application's doing.
    cancelled: watch::Sender<usize>,
    last: Mutex<MetadataMap>,
}

impl GrpcApp {
    /// # Panics
    /// If there is no port or no thread for it.
    pub fn start(name: &str) -> Self {
        // tonic's connections are tasks that only their runtime ends: it has one of its own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime for the application");
        let seen = Arc::new(Seen {
            name: name.to_owned(),
            calls: watch::Sender::new(0),
            cancelled: watch::Sender::new(0),
            last: Mutex::default(),
        });
        let service = EchoServer::new(Application(seen.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let within = runtime.enter();
        let incoming =
            TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port for the application");
        let address = incoming.local_addr().expect("it is bound");
        let incoming = incoming.with_nodelay(Some(true));
        drop(within);
        let killed = CancellationToken::new();
        let runs = killed.clone().drop_guard();
        std::thread::spawn(move || {
            let serving = Server::builder().add_service(service).serve_with_incoming(incoming);
            runtime.block_on(async {
                tokio::select! {
                    served = serving => served.expect("it goes on accepting"),
                    () = killed.cancelled() => {}
                }
            });
        });
        Self { address, seen, _runs: runs }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls that it was asked.
    pub fn calls(&self) -> usize {
        *self.seen.calls.borrow()
    }

    pub fn cancelled(&self) -> usize {
        *self.seen.cancelled.borrow()
    }

    /// Waits until so many calls have reached it.
    ///
    /// # Panics
    /// If they never do.
    pub async fn reached(&self, count: usize) {
        let mut calls = self.seen.calls.subscribe();
        // The sender is `self`'s.
        let _ = crate::soon(&format!("{count} calls"), calls.wait_for(|have| *have >= count)).await;
    }

    /// Waits until it has seen that so many calls are not wanted any more.
    ///
    /// # Panics
    /// If it never does.
    pub async fn saw_cancelled(&self, count: usize) {
        let mut cancelled = self.seen.cancelled.subscribe();
        let _ =
            crate::soon(&format!("{count} cancelled calls"), cancelled.wait_for(|have| *have >= count)).await;
    }

    /// Metadata of the last call.
    pub fn last(&self) -> MetadataMap {
        self.seen.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client on one connection to a local port that leads to the service (`--upstream`).
///
/// # Panics
/// Never, unless the address is none.
pub fn grpc_client(address: SocketAddr) -> EchoClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URI");
    sized(endpoint.connect_lazy())
}

/// A client on one connection through the sidecar's proxy port, by CONNECT as gRPC's C core and Go do it. Counts the
/// connections that it makes.
///
/// # Panics
/// If the destination is none.
pub fn grpc_client_by_connect(
    proxy: SocketAddr,
    destination: &str,
) -> (EchoClient<Channel>, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let (counter, asked) = (made.clone(), destination.to_owned());
    let connector = tower::service_fn(move |_| {
        let (counter, asked) = (counter.clone(), asked.clone());
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
            tunnel(proxy, &asked).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{destination}")).expect("a destination makes a URI");
    (sized(endpoint.connect_with_connector_lazy(connector)), made)
}

fn sized(channel: Channel) -> EchoClient<Channel> {
    EchoClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A connection through the proxy to the destination.
///
/// # Errors
/// If the proxy cannot be reached or refuses.
pub async fn tunnel(proxy: SocketAddr, destination: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let asked = format!("CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n");
    stream.write_all(asked.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(stream);
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}

/// The message that `Scatter` sends back in pieces of that size.
pub fn in_pieces(size: u32, message: &[u8]) -> Bytes {
    [&size.to_be_bytes()[..], message].concat().into()
}

/// The message that makes `Fail` end so.
pub fn failing(code: Code, details: &[u8]) -> Bytes {
    [&[code as u8][..], details].concat().into()
}

struct Application(Arc<Seen>);

impl Application {
    fn begin(&self, metadata: &MetadataMap) -> UnderWay {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = metadata.clone();
        self.0.calls.send_modify(|calls| *calls += 1);
        UnderWay { seen: self.0.clone(), done: false }
    }

    fn response<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        response.metadata_mut().insert(NAME, self.0.name.parse().expect("a name is a header's value"));
        response
    }
}

/// A call; dropped before it is done, it was cancelled.
struct UnderWay {
    seen: Arc<Seen>,
    done: bool,
}

impl UnderWay {
    fn ended(mut self) {
        self.done = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.done {
            self.seen.cancelled.send_modify(|cancelled| *cancelled += 1);
        }
    }
}

type Answer = ReceiverStream<Result<Bytes, Status>>;

#[tonic::async_trait]
impl Echo for Application {
    type ScatterStream = Answer;
    type ChatStream = Answer;
    type PourStream = Answer;

    async fn unary(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.begin(request.metadata()).ended();
        Ok(self.response(request.into_inner()))
    }

    async fn collect(&self, request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
        let call = self.begin(request.metadata());
        let mut messages = request.into_inner();
        let mut all = Vec::new();
        while let Some(message) = messages.message().await? {
            all.extend_from_slice(&message);
        }
        call.ended();
        Ok(self.response(all.into()))
    }

    async fn scatter(&self, request: Request<Bytes>) -> Result<Response<Answer>, Status> {
        let call = self.begin(request.metadata());
        let mut message = request.into_inner();
        let size = message.get_u32() as usize;
        let (pieces, answer) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            while message.has_remaining() {
                let piece = message.split_to(size.min(message.len()));
                if pieces.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
            call.ended();
        });
        Ok(self.response(ReceiverStream::new(answer)))
    }

    async fn chat(&self, request: Request<Streaming<Bytes>>) -> Result<Response<Answer>, Status> {
        let call = self.begin(request.metadata());
        let mut messages = request.into_inner();
        let (answers, answer) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                // An error is the client's end, which is nobody to be told.
                let Ok(message) = message else { return };
                if message == "fail" {
                    call.ended();
                    let _ = answers.send(Err(failure(Code::Aborted, message))).await;
                    return;
                }
                if answers.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            call.ended();
        });
        Ok(self.response(ReceiverStream::new(answer)))
    }

    async fn fail(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.begin(request.metadata()).ended();
        let mut details = request.into_inner();
        let code = Code::from_i32(details.get_u8().into());
        Err(failure(code, details))
    }

    async fn hang(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let _call = self.begin(request.metadata());
        std::future::pending().await
    }

    async fn pour(&self, request: Request<Bytes>) -> Result<Response<Answer>, Status> {
        let call = self.begin(request.metadata());
        let message = request.into_inner();
        let (pieces, answer) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            while pieces.send(Ok(message.clone())).await.is_ok() {}
            drop(call);
        });
        Ok(self.response(ReceiverStream::new(answer)))
    }
}

fn failure(code: Code, details: Bytes) -> Status {
    let mut metadata = MetadataMap::new();
    let (name, value) = FAIL_METADATA;
    metadata.insert_bin(name, MetadataValue::from_bytes(value));
    Status::with_details_and_metadata(code, FAIL_MESSAGE, details, metadata)
}

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}
