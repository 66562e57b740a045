//! An HTTP/1.1 server around a page: accepts until told to stop, then finishes what runs.

use std::future::Future;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::BoxError;

/// What a program answers to any GET: a small JSON document, or the reason why it can't.
pub(super) trait Page: Send + Sync + 'static {
    fn page(&self) -> impl Future<Output = Result<Value, String>> + Send;
}

pub(super) async fn serve<P: Page>(
    listener: TcpListener,
    page: Arc<P>,
    stopped: impl Future<Output = ()>,
) -> Result<(), BoxError> {
    let graceful = GracefulShutdown::new();
    tokio::pin!(stopped);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue, // the client is gone already
            },
            () = &mut stopped => break,
        };
        let page = page.clone();
        let answer = service_fn(move |_: Request<Incoming>| {
            let page = page.clone();
            async move { Ok::<_, std::convert::Infallible>(response(page.page().await)) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        let watched = graceful.watch(connection);
        // Ends with its connection, or by the graceful shutdown below.
        tokio::spawn(async { drop(watched.await) });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

fn response(page: Result<Value, String>) -> Response<Full<Bytes>> {
    let (status, body) = match page {
        Ok(page) => (StatusCode::OK, page.to_string()),
        Err(reason) => (StatusCode::BAD_GATEWAY, serde_json::json!({ "error": reason }).to_string()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
