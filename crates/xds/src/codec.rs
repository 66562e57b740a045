//! A response whose resources were encoded before: the control plane encodes a resource once and every
//! subscriber gets the same bytes.
//!
//! [`EncodedResource`] holds the whole `envoy.service.discovery.v3.Resource` message (name, version, body) as
//! shared bytes, of which the body as an `Any` is a part; [`DeltaResponse`] and [`SotwResponse`] write only the tags
//! around either, by hand, since prost would own and encode each body again. [`DeltaCodec`] and [`SotwCodec`] give them
//! to tonic; the stub in `crate::discovery` uses them.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, message, string};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::bounds::{self, Bounded};
use crate::convert::{Reference, patch_type_url};
use crate::wire::{self, Any, DeltaDiscoveryRequest, DiscoveryRequest};

/// One version of one resource, ready for the wire; a clone shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedResource {
    version: Arc<str>,
    message: Bytes,
    /// The part of `message` that is the encoded `Any`.
    any: Bytes,
    points_to: Arc<[Reference]>,
    patch: Option<Patch>,
}

/// The same version for whoever holds the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Patch {
    base: Arc<str>,
    message: Bytes,
}

impl EncodedResource {
    /// `body`: the encoded message that `reference`'s type names; `points_to`: what a reader needs beside it.
    /// `convert::encode` knows both.
    pub fn new(reference: &Reference, version: &str, body: Vec<u8>, points_to: Vec<Reference>) -> Self {
        let any = Any { type_url: wire::type_url(reference.resource_type), value: body };
        let message = resource_message(&reference.name, version, &any);
        // Written last, so it is the end.
        let any = message.slice(message.len() - any.encoded_len()..);
        Self { version: version.into(), message, any, points_to: points_to.into(), patch: None }
    }

    /// And what leads to it from another version (`convert::patch`).
    pub fn with_patch(mut self, name: &str, base: &Arc<str>, body: Vec<u8>) -> Self {
        let any = Any { type_url: patch_type_url(), value: body };
        let message = resource_message(name, &self.version, &any);
        self.patch = Some(Patch { base: Arc::clone(base), message });
        self
    }

    /// The resource as it is told to whoever holds a version of it; `None`: it must be told in full.
    pub fn for_holder(&self, held: &str) -> Option<Self> {
        let patch = self.patch.as_ref().filter(|patch| *patch.base == *held)?;
        Some(Self { message: patch.message.clone(), ..self.clone() })
    }

    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    pub fn points_to(&self) -> &Arc<[Reference]> {
        &self.points_to
    }

    /// What one such resource adds to a response.
    pub fn encoded_len(&self) -> usize {
        framed_len(&self.message)
    }
}

/// `envoy.service.discovery.v3.Resource`.
fn resource_message(name: &str, version: &str, any: &Any) -> Bytes {
    let mut message = Vec::new();
    string::encode(tag::RESOURCE_NAME, &name.to_owned(), &mut message);
    string::encode(tag::RESOURCE_VERSION, &version.to_owned(), &mut message);
    message::encode(tag::RESOURCE_BODY, any, &mut message);
    Bytes::from(message)
}

fn framed_len(part: &Bytes) -> usize {
    key_len(tag::RESOURCES) + encoded_len_varint(part.len() as u64) + part.len()
}

fn frame(part: &Bytes, buf: &mut impl BufMut) {
    encode_key(tag::RESOURCES, WireType::LengthDelimited, buf);
    encode_varint(part.len() as u64, buf);
    buf.put_slice(part);
}

/// `envoy.service.discovery.v3.DiscoveryResponse` around encoded resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SotwResponse {
    pub version_info: String,
    pub resources: Vec<EncodedResource>,
    pub type_url: String,
    pub nonce: String,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse` around encoded resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaResponse {
    /// The store's revision.
    pub system_version_info: String,
    pub type_url: String,
    pub nonce: String,
    pub resources: Vec<EncodedResource>,
    pub removed_resources: Vec<String>,
}

/// Field numbers of `DeltaDiscoveryResponse` and, where they have it, of `DiscoveryResponse`; of `Resource`
/// (envoy/service/discovery/v3/discovery.proto).
mod tag {
    pub(super) const RESOURCE_VERSION: u32 = 1;
    pub(super) const RESOURCE_BODY: u32 = 2;
    pub(super) const RESOURCE_NAME: u32 = 3;
    pub(super) const SYSTEM_VERSION_INFO: u32 = 1;
    pub(super) const VERSION_INFO: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const TYPE_URL: u32 = 4;
    pub(super) const NONCE: u32 = 5;
    pub(super) const REMOVED_RESOURCES: u32 = 6;
}

/// A message that writes itself. An empty string is written too, which means the same as leaving it out.
pub trait Encoded: Send + 'static {
    fn encoded_len(&self) -> usize;
    fn encode(&self, buf: &mut impl BufMut);
}

impl Encoded for DeltaResponse {
    fn encoded_len(&self) -> usize {
        string::encoded_len(tag::SYSTEM_VERSION_INFO, &self.system_version_info)
            + self.resources.iter().map(EncodedResource::encoded_len).sum::<usize>()
            + string::encoded_len(tag::TYPE_URL, &self.type_url)
            + string::encoded_len(tag::NONCE, &self.nonce)
            + string::encoded_len_repeated(tag::REMOVED_RESOURCES, &self.removed_resources)
    }

    fn encode(&self, buf: &mut impl BufMut) {
        string::encode(tag::SYSTEM_VERSION_INFO, &self.system_version_info, buf);
        self.resources.iter().for_each(|resource| frame(&resource.message, buf));
        string::encode(tag::TYPE_URL, &self.type_url, buf);
        string::encode(tag::NONCE, &self.nonce, buf);
        string::encode_repeated(tag::REMOVED_RESOURCES, &self.removed_resources, buf);
    }
}

impl Encoded for SotwResponse {
    fn encoded_len(&self) -> usize {
        string::encoded_len(tag::VERSION_INFO, &self.version_info)
            + self.resources.iter().map(|resource| framed_len(&resource.any)).sum::<usize>()
            + string::encoded_len(tag::TYPE_URL, &self.type_url)
            + string::encoded_len(tag::NONCE, &self.nonce)
    }

    fn encode(&self, buf: &mut impl BufMut) {
        string::encode(tag::VERSION_INFO, &self.version_info, buf);
        self.resources.iter().for_each(|resource| frame(&resource.any, buf));
        string::encode(tag::TYPE_URL, &self.type_url, buf);
        string::encode(tag::NONCE, &self.nonce, buf);
    }
}

/// The serving side of delta ADS: `DeltaDiscoveryRequest`s in, [`DeltaResponse`]s out.
pub type DeltaCodec = AsEncoded<DeltaDiscoveryRequest, DeltaResponse>;

/// The serving side of state-of-the-world ADS.
pub type SotwCodec = AsEncoded<DiscoveryRequest, SotwResponse>;

/// What each direction of a stream holds for as long as it lasts: an ACK, or a change, has its place in it, and larger
/// messages make it grow. tonic's own 8 KiB are a sixth of what a session takes.
const BUFFER_BYTES: usize = 1 << 10;

/// Messages that are ready are written together up to this; tonic's own.
const TOGETHER_BYTES: usize = 32 << 10;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES)
}

/// Requests as prost reads them, responses as they write themselves.
#[derive(Clone, Copy, Debug)]
pub struct AsEncoded<Request, Response>(PhantomData<fn() -> (Request, Response)>);

impl<Request, Response> Default for AsEncoded<Request, Response> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Request, Response> Codec for AsEncoded<Request, Response>
where
    Request: Bounded,
    Response: Encoded,
{
    type Encode = Response;
    type Decode = Request;
    type Encoder = ResponseEncoder<Response>;
    type Decoder = RequestDecoder<Request>;

    fn encoder(&mut self) -> Self::Encoder {
        ResponseEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder(PhantomData)
    }
}

/// Decodes what is worth its memory (`bounds.rs`).
#[derive(Clone, Copy, Debug)]
pub struct RequestDecoder<Request>(PhantomData<fn() -> Request>);

impl<Request: Bounded> Decoder for RequestDecoder<Request> {
    type Item = Request;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        let message = buf.copy_to_bytes(buf.remaining());
        bounds::check::<Request>(&message).map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Request::decode(message).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

/// Our own services' messages, as prost reads and writes them.
#[derive(Clone, Copy, Debug)]
pub struct AsProst<Encode, Decode>(PhantomData<fn() -> (Encode, Decode)>);

impl<Encode, Decode> Default for AsProst<Encode, Decode> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Encode, Decode> Codec for AsProst<Encode, Decode>
where
    Encode: prost::Message + Send + 'static,
    Decode: prost::Message + Default + Send + 'static,
{
    type Encode = Encode;
    type Decode = Decode;
    type Encoder = tonic_prost::ProstEncoder<Encode>;
    type Decoder = tonic_prost::ProstDecoder<Decode>;

    fn encoder(&mut self) -> Self::Encoder {
        tonic_prost::ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstDecoder::new(buffers())
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ResponseEncoder<Response>(PhantomData<fn() -> Response>);

impl<Response: Encoded> Encoder for ResponseEncoder<Response> {
    type Item = Response;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }

    fn encode(&mut self, response: Response, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(response.encoded_len());
        response.encode(buf);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::resource::ResourceType;

    use super::*;
    use crate::wire::DeltaDiscoveryResponse;

    fn encoded(name: &str, body: Vec<u8>) -> EncodedResource {
        EncodedResource::new(&Reference::new(ResourceType::Cluster, name), "v1", body, Vec::new())
    }

    #[track_caller]
    fn check(response: &DeltaResponse, expect: &DeltaDiscoveryResponse) {
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        assert_eq!(bytes.len(), response.encoded_len());
        assert_eq!(&DeltaDiscoveryResponse::decode(&bytes[..]).unwrap(), expect);
    }

    #[test]
    fn a_response_decodes_to_the_message_it_stands_for() {
        let body = |size: usize| vec![7_u8; size];
        let cluster = |name: &str, size| encoded(name, body(size));
        let type_url = wire::type_url(ResourceType::Cluster);
        let expected = |name: &str, size| wire::Resource {
            name: name.to_owned(),
            version: "v1".to_owned(),
            resource: Some(Any { type_url: wire::type_url(ResourceType::Cluster), value: body(size) }),
            ..wire::Resource::default()
        };
        check(
            &DeltaResponse {
                system_version_info: "42".to_owned(),
                type_url: type_url.clone(),
                nonce: "n7".to_owned(),
                // A body of 128 bytes and more has a length of two bytes.
                resources: vec![cluster("default/cart:80", 3), cluster("default/web:80", 70_000)],
                removed_resources: vec!["default/old:80".to_owned(), String::new()],
            },
            &DeltaDiscoveryResponse {
                system_version_info: "42".to_owned(),
                type_url,
                nonce: "n7".to_owned(),
                resources: vec![expected("default/cart:80", 3), expected("default/web:80", 70_000)],
                removed_resources: vec!["default/old:80".to_owned(), String::new()],
                ..DeltaDiscoveryResponse::default()
            },
        );
        check(&DeltaResponse::default(), &DeltaDiscoveryResponse::default());
    }

    #[test]
    fn a_state_of_the_world_decodes_to_the_message_it_stands_for() {
        let type_url = wire::type_url(ResourceType::Cluster);
        let any = |size: usize| Any { type_url: type_url.clone(), value: vec![7; size] };
        let response = SotwResponse {
            version_info: "42.1".to_owned(),
            resources: vec![
                encoded("default/cart:80", vec![7; 3]),
                encoded("a", Vec::new()),
                encoded("b", vec![7; 70_000]),
            ],
            type_url: type_url.clone(),
            nonce: "n7".to_owned(),
        };
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        assert_eq!(bytes.len(), response.encoded_len());
        let expect = wire::DiscoveryResponse {
            version_info: "42.1".to_owned(),
            resources: vec![any(3), any(0), any(70_000)],
            type_url,
            nonce: "n7".to_owned(),
            ..wire::DiscoveryResponse::default()
        };
        assert_eq!(wire::DiscoveryResponse::decode(&bytes[..]).unwrap(), expect);
    }

    #[test]
    fn subscribers_share_a_resources_bytes() {
        let one = encoded("default/cart:80", vec![1, 2, 3]);
        let other = one.clone();
        assert_eq!(one.message.as_ptr(), other.message.as_ptr());
    }
}
