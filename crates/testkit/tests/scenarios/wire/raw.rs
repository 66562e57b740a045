//! gRPC without protobuf: messages are the bytes that they are.

use bytes::{Buf as _, BufMut as _};
use http::uri::PathAndQuery;
use meshwork_testkit::soon;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// More than any call here says ahead.
pub(crate) const MESSAGES_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining()).to_vec()))
    }
}

/// A call from the client's end.
pub(crate) struct Call {
    up: mpsc::Sender<Vec<u8>>,
    down: Streaming<Vec<u8>>,
}

impl Call {
    /// With what is said first: some servers answer nothing before it.
    pub(crate) async fn open(channel: Channel, path: &'static str, first: &[u8]) -> Self {
        let (up, stream) = mpsc::channel(MESSAGES_MAX);
        up.send(first.to_vec()).await.unwrap();
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(path);
        let answer = grpc.streaming(Request::new(ReceiverStream::new(stream)), path, Raw).await;
        Self { up, down: answer.unwrap().into_inner() }
    }

    /// One message, and one answer to it.
    pub(crate) async fn once(channel: Channel, path: &'static str, message: &[u8]) -> Vec<u8> {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let said = tokio_stream::once(message.to_vec());
        let answer = grpc.streaming(Request::new(said), PathAndQuery::from_static(path), Raw).await;
        soon("the answer", answer.unwrap().into_inner().message()).await.unwrap().expect("an answer")
    }

    pub(crate) async fn say(&self, message: &[u8]) {
        self.up.send(message.to_vec()).await.unwrap();
    }

    pub(crate) async fn hear(&mut self, what: &str) -> Vec<u8> {
        soon(what, self.down.message()).await.unwrap().expect("the call goes on")
    }
}
