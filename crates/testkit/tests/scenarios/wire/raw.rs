//! gRPC without protobuf: messages are the bytes that they are.

use bytes::Bytes;
use http::uri::PathAndQuery;
use meshwork_testkit::{BytesCodec, soon};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

/// More than any call here says ahead.
pub(crate) const MESSAGES_MAX: usize = 256;

/// A call from the client's end.
pub(crate) struct Call {
    up: mpsc::Sender<Bytes>,
    down: Streaming<Bytes>,
}

impl Call {
    /// With what is said first: some servers answer nothing before it.
    pub(crate) async fn open(channel: Channel, path: &'static str, first: &[u8]) -> Self {
        let (up, stream) = mpsc::channel(MESSAGES_MAX);
        up.send(Bytes::copy_from_slice(first)).await.unwrap();
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(path);
        let answer = grpc.streaming(Request::new(ReceiverStream::new(stream)), path, BytesCodec).await;
        Self { up, down: answer.unwrap().into_inner() }
    }

    /// One message, and one answer to it.
    pub(crate) async fn once(channel: Channel, path: &'static str, message: &[u8]) -> Bytes {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let said = tokio_stream::once(Bytes::copy_from_slice(message));
        let answer = grpc.streaming(Request::new(said), PathAndQuery::from_static(path), BytesCodec).await;
        soon("the answer", answer.unwrap().into_inner().message()).await.unwrap().expect("an answer")
    }

    pub(crate) async fn say(&self, message: &[u8]) {
        self.up.send(Bytes::copy_from_slice(message)).await.unwrap();
    }

    pub(crate) async fn hear(&mut self, what: &str) -> Bytes {
        soon(what, self.down.message()).await.unwrap().expect("the call goes on")
    }
}
