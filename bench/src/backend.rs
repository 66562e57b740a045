//! The application behind all proxies: nginx for HTTP, and a gRPC server of hyper, one worker each.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::failure::{Doing as _, Result, fail};
use crate::load::Load;
use crate::namespaces::Namespace;
use crate::processes::Process;
use crate::template::fill;

pub(crate) const HTTP1_PORT: u16 = 8080;
pub(crate) const HTTP2_PORT: u16 = 8081;
pub(crate) const GRPC_PORT: u16 = 50051;

/// How long a server may take until it listens, on a busy machine.
const READY_WAIT: Duration = Duration::from_secs(10);

/// The word by which our own binary is told to be the gRPC server.
pub(crate) const GRPC_WORD: &str = "grpc-backend";

pub(crate) struct Backend {
    _nginx: Process,
    _grpc: Process,
}

pub(crate) fn start(server: &Namespace, folder: &Path) -> Result<Backend> {
    let doing = || "preparing the backend".to_owned();
    let files = folder.join("www");
    fs::create_dir_all(&files).doing(doing)?;
    for load in [Load::H1Small, Load::H1Large] {
        let name = if load == Load::H1Large { "10k" } else { "128" };
        fs::write(files.join(name), vec![b'm'; load.body_bytes()]).doing(doing)?;
    }
    let config = fill(include_str!("../peers/nginx-backend.conf"), &[("folder", &folder.display())]);
    let path = folder.join("nginx-backend.conf");
    fs::write(&path, config).doing(doing)?;
    let mut nginx = Process::start("backend", server, Command::new("nginx").arg("-c").arg(&path), folder)?;
    let own = std::env::current_exe().doing(doing)?;
    let mut command = Command::new(own);
    command.args([GRPC_WORD, &format!("0.0.0.0:{GRPC_PORT}")]);
    let mut grpc = Process::start("grpc-backend", server, &mut command, folder)?;
    for (port, process) in [(HTTP1_PORT, &mut nginx), (GRPC_PORT, &mut grpc)] {
        wait_until_it_listens(port, process, server)?;
    }
    Ok(Backend { _nginx: nginx, _grpc: grpc })
}

fn wait_until_it_listens(port: u16, process: &mut Process, server: &Namespace) -> Result<()> {
    let deadline = Instant::now() + READY_WAIT;
    while server.inside(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()))? {
        process.check_alive()?;
        if Instant::now() >= deadline {
            return fail(format!("nobody listens on the backend's port {port}: {}", process.last_words()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Serves until it is ended: each message comes back as it was.
pub(crate) fn serve_grpc(listen: &str) -> Result<()> {
    let listen: SocketAddr = listen.parse().doing(|| format!("reading the address {listen}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.doing(|| "a runtime".to_owned())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.doing(|| format!("listening on {listen}"))?;
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let serving = server.serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(serving);
        }
    })
}

async fn answer(
    request: Request<Incoming>,
) -> std::result::Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let message = request.into_body().collect().await?.to_bytes();
    // A prefix of five bytes tells the length of what follows; 3 is INVALID_ARGUMENT.
    let length =
        message.get(1..5).map(|length| length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
    let status = if length == Some(message.len().saturating_sub(5)) { "0" } else { "3" };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let mut response = Response::new(Full::new(message).with_trailers(async move { Some(Ok(trailers)) }));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
