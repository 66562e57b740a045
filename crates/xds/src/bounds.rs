//! What a request may make of its bytes: looked at before it is decoded.
//!
//! Two bytes on the wire are an empty name, which takes a dozen times as much once it is read, or an empty message, which
//! takes a hundred times as much. So elements are counted and nested messages weighed first: whatever a client sends, what
//! is made of it stays within some times its bytes.

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::session::LISTENERS_MAX;
use crate::wire::{DeltaDiscoveryRequest, DiscoveryRequest};

/// Elements of one request: a stream has 24,576 subscriptions, and a request may subscribe, unsubscribe and tell versions.
const ELEMENTS_MAX: usize = 24 * LISTENERS_MAX;

/// Bytes of all messages within a request. An Envoy's description of itself has 100 KiB, the reasons of a refusal some.
const NESTED_BYTES_MAX: usize = 512 * 1024;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum TooMuch {
    #[error("the request has more than {ELEMENTS_MAX} elements")]
    Elements,
    #[error("the messages within the request have more than {} KiB", NESTED_BYTES_MAX >> 10)]
    Nested,
    #[error("the request ends within an element")]
    Truncated,
    #[error("the request is no protobuf message: {0}")]
    Malformed(#[from] DecodeError),
}

/// A request that is decoded for whoever sends it.
pub trait Bounded: prost::Message + Default + Send + 'static {
    /// Fields that are texts, or entries of two texts: all others are weighed.
    const TEXTS: &'static [u32];
}

impl Bounded for DeltaDiscoveryRequest {
    // type_url, resource_names_subscribe, resource_names_unsubscribe, initial_resource_versions, response_nonce
    const TEXTS: &'static [u32] = &[2, 3, 4, 5, 6];
}

impl Bounded for DiscoveryRequest {
    // version_info, resource_names, type_url, response_nonce
    const TEXTS: &'static [u32] = &[1, 3, 4, 5];
}

/// Reads the message's outermost layer and nothing within.
pub(crate) fn check<Request: Bounded>(mut message: &[u8]) -> Result<(), TooMuch> {
    let (mut elements, mut nested) = (0, 0);
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message)?;
        elements += 1;
        if elements > ELEMENTS_MAX {
            return Err(TooMuch::Elements);
        }
        let before = message.len();
        match wire_type {
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut message)?).unwrap_or(usize::MAX);
                message = message.get(length..).ok_or(TooMuch::Truncated)?;
            }
            other => skip_field(other, tag, &mut message, DecodeContext::default())?,
        }
        if !Request::TEXTS.contains(&tag) {
            nested += before - message.len();
        }
        if nested > NESTED_BYTES_MAX {
            return Err(TooMuch::Nested);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn checked(request: &DeltaDiscoveryRequest) -> Result<(), TooMuch> {
        check::<DeltaDiscoveryRequest>(&request.encode_to_vec())
    }

    #[test]
    fn what_sidecars_send_is_taken() {
        let name = |number: usize| format!("namespace-{number}/service-{number}:80");
        let mut request = DeltaDiscoveryRequest {
            resource_names_subscribe: (0..24_576).map(name).collect(),
            resource_names_unsubscribe: (0..24_576).map(name).collect(),
            initial_resource_versions: (0..24_576).map(|number| (name(number), "v".to_owned())).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        request.node.get_or_insert_default().id = "x".repeat(100_000);
        assert_eq!(checked(&request), Ok(()));
        assert_eq!(checked(&DeltaDiscoveryRequest::default()), Ok(()));
    }

    #[test]
    fn a_crowd_of_empty_names_is_refused_before_it_is_read() {
        let request = |count| DeltaDiscoveryRequest {
            resource_names_subscribe: vec![String::new(); count],
            ..DeltaDiscoveryRequest::default()
        };
        assert_eq!(checked(&request(ELEMENTS_MAX)), Ok(()));
        assert_eq!(checked(&request(ELEMENTS_MAX + 1)), Err(TooMuch::Elements));
    }

    #[test]
    fn a_crowd_of_empty_messages_is_too_heavy_in_whatever_it_is_wrapped() {
        // A node in a thousand parts, which a reader puts together: of each only some client features.
        let part = [&[10, 0x80, 0x80, 1][..], &[0x52, 0].repeat(8_192)].concat();
        assert_eq!(check::<DeltaDiscoveryRequest>(&part), Ok(()));
        assert_eq!(check::<DeltaDiscoveryRequest>(&part.repeat(40)), Err(TooMuch::Nested));
        // The same under a number that nobody knows.
        let unknown = [&[0xfa, 1, 0x80, 0x80, 1][..], &[0; 16_384]].concat();
        assert_eq!(check::<DeltaDiscoveryRequest>(&unknown.repeat(40)), Err(TooMuch::Nested));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in
            [&[0xff][..], &[10, 0xff, 0xff, 0xff, 0xff, 0x0f], &[10, 5, 1], &[0x0b; 200], &[0xff; 12]]
        {
            assert!(check::<DeltaDiscoveryRequest>(bytes).is_err(), "{bytes:?}");
            assert!(check::<DiscoveryRequest>(bytes).is_err(), "{bytes:?}");
        }
    }
}
