//! Messages to frames, length and header included.
//!
//! kafka-protocol writes a message into one buffer and refuses a field that is set and that the
//! version cannot carry, unless Kafka calls it ignorable: handlers build responses per version.
//! It does not refuse null where the version has none; [`crate::decode`] does, in tests too.
//! Fetch responses are too large for one buffer and have their own encoder,
//! [`crate::FetchResponse`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::api::{Api, ApiMessage, ApiRequest, ApiResponse};
use crate::decode::codec_version;
use crate::frame::FRAME_PREFIX_LEN;

/// Why a message has no form on the wire. Always a fault of the program that built it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The version is not served.
    #[error("{api} version {version} is not served")]
    UnsupportedVersion {
        /// The API of the message.
        api: Api,
        /// The version asked for.
        version: i16,
    },
    /// A value that the version cannot carry, or text that is too long.
    #[error("cannot encode {api} version {version}: {reason}")]
    Codec {
        /// The API of the message.
        api: Api,
        /// Its version.
        version: i16,
        /// The codec's words.
        reason: String,
    },
    /// The frame would be longer than its 32-bit length can say.
    #[error("{api} version {version} takes {len} bytes, more than a frame can hold")]
    TooLarge {
        /// The API of the message.
        api: Api,
        /// Its version.
        version: i16,
        /// Bytes of the whole message.
        len: usize,
    },
    /// A client id of more than 32767 bytes.
    #[error("client id of {0} bytes is too long")]
    ClientIdTooLong(usize),
}

/// Encodes a whole response frame: length, header of the right version, body.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_response<T: ApiResponse>(
    version: i16,
    correlation_id: i32,
    response: &T,
) -> Result<Bytes, EncodeError> {
    let api = T::API;
    let tagged = api.response_header_version(version) > 0;
    encode_frame(
        version,
        size_of::<i32>() + usize::from(tagged),
        response,
        |frame| {
            frame.put_i32(correlation_id);
            if tagged {
                frame.put_u8(0);
            }
        },
    )
}

/// Encodes a whole request frame: length, header of the right version, body.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_request<T: ApiRequest>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &T,
) -> Result<Bytes, EncodeError> {
    let api = T::API;
    let tagged = api.request_header_version(version) > 1;
    let client_id_len = match client_id {
        None => -1,
        Some(id) => i16::try_from(id.len()).map_err(|_| EncodeError::ClientIdTooLong(id.len()))?,
    };
    let header_len = 10 + client_id.map_or(0, str::len) + usize::from(tagged);
    encode_frame(version, header_len, request, |frame| {
        frame.put_i16(api.key());
        frame.put_i16(version);
        frame.put_i32(correlation_id);
        frame.put_i16(client_id_len);
        frame.put_slice(client_id.unwrap_or_default().as_bytes());
        if tagged {
            frame.put_u8(0);
        }
    })
}

fn encode_frame<T: ApiMessage>(
    version: i16,
    header_len: usize,
    message: &T,
    header: impl FnOnce(&mut BytesMut),
) -> Result<Bytes, EncodeError> {
    let api = T::API;
    if !api.serves(version) {
        return Err(EncodeError::UnsupportedVersion { api, version });
    }
    let codec_version = codec_version::<T>(version);
    let refused = |reason: String| EncodeError::Codec {
        api,
        version,
        reason,
    };
    let body_len = message.body_len(codec_version).map_err(refused)?;
    let len = header_len + body_len;
    let prefix = frame_prefix(api, version, len)?;
    let mut frame = BytesMut::with_capacity(FRAME_PREFIX_LEN + len);
    frame.put_slice(&prefix);
    header(&mut frame);
    message.write(&mut frame, codec_version).map_err(refused)?;
    assert_eq!(
        frame.len(),
        FRAME_PREFIX_LEN + len,
        "{api} {version}: size differs from bytes"
    );
    Ok(frame.freeze())
}

/// The length that precedes a frame of `len` bytes.
pub(crate) fn frame_prefix(
    api: Api,
    version: i16,
    len: usize,
) -> Result<[u8; FRAME_PREFIX_LEN], EncodeError> {
    let prefix = i32::try_from(len).map_err(|_| EncodeError::TooLarge { api, version, len })?;
    Ok(prefix.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use kafka_protocol::messages::{
        ApiVersionsRequest, ApiVersionsResponse, ListOffsetsRequest, MetadataRequest,
        MetadataResponse, ProduceRequest,
    };
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::api::for_each_api;
    use crate::{
        DecodeError, ErrorCode, RequestHead, decode, decode_response, next_frame,
        response_correlation_id,
    };

    fn unframed(bytes: Bytes) -> Bytes {
        let mut buf = BytesMut::from(&bytes[..]);
        let frame = next_frame(&mut buf, bytes.len()).expect("a positive length");
        assert!(buf.is_empty(), "the length covers the whole frame");
        frame.expect("the whole frame")
    }

    #[test]
    fn default_messages_come_back_in_every_version() {
        fn check<R>()
        where
            R: ApiRequest + Default + PartialEq + Debug,
            R::Response: Default + PartialEq + Debug,
        {
            for version in R::API.versions() {
                let sent = R::default();
                let frame = encode_request(version, 7, Some("me"), &sent).expect("encodes");
                let (head, body) = RequestHead::parse(unframed(frame)).expect("a request");
                assert_eq!(
                    (head.api, head.version, head.correlation_id),
                    (R::API, version, 7)
                );
                assert_eq!(head.client_id.as_deref(), Some("me"));
                assert_eq!(decode::<R>(body, version).as_ref(), Ok(&sent));

                let sent = R::Response::default();
                let frame = unframed(encode_response(version, -9, &sent).expect("encodes"));
                assert_eq!(response_correlation_id(&frame), Ok(-9));
                assert_eq!(decode_response::<R>(frame, version), Ok(sent));
            }
        }
        for_each_api!(check());
    }

    /// Behaviour 5.
    #[test]
    fn the_header_of_api_versions_responses_is_always_version_0() {
        for version in [0, 3, 4] {
            let response = ApiVersionsResponse::default();
            let frame = unframed(encode_response(version, 1, &response).expect("encodes"));
            assert_eq!(
                frame.get(4..6),
                Some(&[0, 0][..]),
                "the error code follows the id"
            );
        }
        let frame = unframed(encode_response(9, 1, &MetadataResponse::default()).expect("encodes"));
        assert_eq!(
            frame.get(4..9),
            Some(&[0; 5][..]),
            "tagged fields, then the throttle time"
        );
    }

    #[test]
    fn an_api_versions_refusal_decodes_whatever_was_asked() {
        let frame = unframed(crate::unsupported_api_versions_response(3));
        for version in 0..=4 {
            let response = decode_response::<ApiVersionsRequest>(frame.clone(), version);
            let response = response.expect("in version 0");
            assert_eq!(response.error_code, ErrorCode::UNSUPPORTED_VERSION.code());
            assert_eq!(response.api_keys.len(), 1);
        }
    }

    #[test]
    fn versions_that_are_not_served_are_refused_on_both_ways() {
        let (api, version) = (Api::Produce, 2);
        let encoded = encode_request(version, 1, None, &ProduceRequest::default());
        assert_eq!(
            encoded,
            Err(EncodeError::UnsupportedVersion { api, version })
        );
        let decoded = decode::<ProduceRequest>(Bytes::new(), version);
        assert_eq!(
            decoded,
            Err(DecodeError::UnsupportedVersion { api, version })
        );
        assert!(encode_request(11, 1, None, &ListOffsetsRequest::default()).is_ok());
    }

    #[test]
    fn what_a_version_cannot_carry_is_an_error() {
        let request = MetadataRequest::default().with_allow_auto_topic_creation(false);
        let refused = encode_request(3, 1, None, &request);
        assert!(
            matches!(refused, Err(EncodeError::Codec { .. })),
            "{refused:?}"
        );
        let long = "x".repeat(0x8000);
        let refused = encode_request(1, 1, Some(&long), &request);
        assert_eq!(refused, Err(EncodeError::ClientIdTooLong(0x8000)));
        let cluster = Some(StrBytes::from_string(long));
        let response = MetadataResponse::default().with_cluster_id(cluster);
        let refused = encode_response(8, 1, &response);
        assert!(
            matches!(refused, Err(EncodeError::Codec { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn responses_cut_in_the_header_are_malformed() {
        let frame = unframed(encode_response(9, 1, &MetadataResponse::default()).expect("encodes"));
        for len in 0..frame.len() {
            let cut = decode_response::<MetadataRequest>(frame.slice(..len), 9);
            assert!(
                matches!(cut, Err(DecodeError::Malformed { .. })),
                "{len}: {cut:?}"
            );
        }
    }
}
