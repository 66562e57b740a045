//! A response whose resources were encoded before: the control plane encodes a resource once and every
//! subscriber gets the same bytes.
//!
//! [`EncodedResource`] holds the whole `envoy.service.discovery.v3.Resource` message (name, version, body) as
//! shared bytes; [`DeltaResponse`] writes only the tags around them, by hand, since prost would own and encode
//! each body again. [`DeltaCodec`] gives it to tonic; the stub in `crate::discovery` uses it.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, string};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};

use crate::convert::Reference;
use crate::wire::{self, Any, DeltaDiscoveryRequest};

/// One version of one resource, ready for the wire; a clone shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedResource {
    version: Arc<str>,
    message: Bytes,
    points_to: Arc<[Reference]>,
}

impl EncodedResource {
    /// `body`: the encoded message that `reference`'s type names; `points_to`: what a reader needs beside it.
    /// `convert::encode` knows both.
    pub fn new(reference: &Reference, version: &str, body: Vec<u8>, points_to: Vec<Reference>) -> Self {
        let message = wire::Resource {
            name: reference.name.clone(),
            version: version.to_owned(),
            resource: Some(Any { type_url: wire::type_url(reference.resource_type), value: body }),
            ..wire::Resource::default()
        };
        Self { version: version.into(), message: message.encode_to_vec().into(), points_to: points_to.into() }
    }

    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    pub fn points_to(&self) -> &Arc<[Reference]> {
        &self.points_to
    }

    /// What one such resource adds to a response.
    pub fn encoded_len(&self) -> usize {
        key_len(tag::RESOURCES) + encoded_len_varint(self.message.len() as u64) + self.message.len()
    }
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

/// Field numbers of `DeltaDiscoveryResponse` (envoy/service/discovery/v3/discovery.proto).
mod tag {
    pub(super) const SYSTEM_VERSION_INFO: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const TYPE_URL: u32 = 4;
    pub(super) const NONCE: u32 = 5;
    pub(super) const REMOVED_RESOURCES: u32 = 6;
}

impl DeltaResponse {
    pub fn encoded_len(&self) -> usize {
        string::encoded_len(tag::SYSTEM_VERSION_INFO, &self.system_version_info)
            + self.resources.iter().map(EncodedResource::encoded_len).sum::<usize>()
            + string::encoded_len(tag::TYPE_URL, &self.type_url)
            + string::encoded_len(tag::NONCE, &self.nonce)
            + string::encoded_len_repeated(tag::REMOVED_RESOURCES, &self.removed_resources)
    }

    /// Writes the message. An empty string is written too, which means the same as leaving it out.
    pub fn encode(&self, buf: &mut impl BufMut) {
        string::encode(tag::SYSTEM_VERSION_INFO, &self.system_version_info, buf);
        for resource in &self.resources {
            encode_key(tag::RESOURCES, WireType::LengthDelimited, buf);
            encode_varint(resource.message.len() as u64, buf);
            buf.put_slice(&resource.message);
        }
        string::encode(tag::TYPE_URL, &self.type_url, buf);
        string::encode(tag::NONCE, &self.nonce, buf);
        string::encode_repeated(tag::REMOVED_RESOURCES, &self.removed_resources, buf);
    }
}

/// The serving side of delta ADS: `DeltaDiscoveryRequest`s in, [`DeltaResponse`]s out.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeltaCodec;

impl Codec for DeltaCodec {
    type Encode = DeltaResponse;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = DeltaEncoder;
    type Decoder = tonic_prost::ProstDecoder<DeltaDiscoveryRequest>;

    fn encoder(&mut self) -> DeltaEncoder {
        DeltaEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstDecoder::new(BufferSettings::default())
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct DeltaEncoder;

impl Encoder for DeltaEncoder {
    type Item = DeltaResponse;
    type Error = Status;

    fn encode(&mut self, response: DeltaResponse, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
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
    fn subscribers_share_a_resources_bytes() {
        let one = encoded("default/cart:80", vec![1, 2, 3]);
        let other = one.clone();
        assert_eq!(one.message.as_ptr(), other.message.as_ptr());
    }
}
