//! Bytes to messages: kafka-protocol's decoders behind the layout check.

use bytes::Bytes;

use crate::api::{Api, ApiMessage, ApiRequest};
use crate::errors::ErrorCode;
use crate::reader::{Malformed, Reader};
use crate::shape::Refusal;

/// Why bytes are not the message they should be. For a request there is no answer but to close
/// the connection (behaviour 7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The version is not served.
    #[error("{api} version {version} is not served")]
    UnsupportedVersion {
        /// The API of the message.
        api: Api,
        /// The version asked for.
        version: i16,
    },
    /// The layout is broken.
    #[error("malformed {api} version {version}, field {field:?}: {cause}")]
    Malformed {
        /// The API of the message.
        api: Api,
        /// Its version.
        version: i16,
        /// The field where the layout broke, by Kafka's name; empty in the header.
        field: &'static str,
        /// What is wrong with it, and where.
        cause: Malformed,
    },
    /// The decoded form would be out of proportion to the bytes received.
    #[error("{api} version {version} would take {decoded} bytes decoded, {granted} are granted")]
    TooCostly {
        /// The API of the message.
        api: Api,
        /// Its version.
        version: i16,
        /// Bytes it would take.
        decoded: u64,
        /// Bytes granted to a message of its length.
        granted: u64,
    },
    /// The codec refused it: text that is not UTF-8, or a tag that its version does not know.
    #[error("malformed {api} version {version}: {reason}")]
    Codec {
        /// The API of the message.
        api: Api,
        /// Its version.
        version: i16,
        /// The codec's words.
        reason: String,
    },
}

/// Decodes a request or response body, header already taken off.
///
/// Text and bytes of the message are slices of `body`: nothing is copied, and whoever keeps one
/// of them keeps the frame's allocation. Bytes after the message are ignored.
///
/// # Errors
/// Every lie in `body` is an error; no input panics, or allocates out of proportion to its length.
pub fn decode<T: ApiMessage>(mut body: Bytes, version: i16) -> Result<T, DecodeError> {
    let api = T::API;
    if !api.serves(version) {
        return Err(DecodeError::UnsupportedVersion { api, version });
    }
    T::SHAPE
        .check(&body, version)
        .map_err(|refusal| match refusal {
            Refusal::Malformed { field, cause } => DecodeError::Malformed {
                api,
                version,
                field,
                cause,
            },
            Refusal::TooCostly { decoded, granted } => DecodeError::TooCostly {
                api,
                version,
                decoded,
                granted,
            },
        })?;
    T::read(&mut body, codec_version::<T>(version)).map_err(|reason| DecodeError::Codec {
        api,
        version,
        reason,
    })
}

/// The version whose layout kafka-protocol knows. ListOffsets 11 is ahead of it and has the
/// layout of 10 (KIP-1023 adds a special timestamp only).
pub(crate) fn codec_version<T: ApiMessage>(version: i16) -> i16 {
    version.min(T::CODEC_MAX)
}

/// The correlation id at the start of a response frame (length taken off).
///
/// # Errors
/// The frame is shorter than that.
pub fn response_correlation_id(frame: &[u8]) -> Result<i32, Malformed> {
    Reader::new(frame).i32()
}

/// Decodes the response to a request of type `R` and `version` from its frame (length taken off).
///
/// A broker answers an ApiVersions version it does not know in version 0 with
/// `UNSUPPORTED_VERSION` (KIP-511); such an answer decodes too, whatever `version` says.
///
/// # Errors
/// As [`decode`].
pub fn decode_response<R: ApiRequest>(
    frame: Bytes,
    version: i16,
) -> Result<R::Response, DecodeError> {
    let api = R::API;
    let body_at =
        response_header_len(&frame, api, version).map_err(|cause| DecodeError::Malformed {
            api,
            version,
            field: "",
            cause,
        })?;
    let body = frame.slice(body_at..);
    let refused = ErrorCode::UNSUPPORTED_VERSION.code().to_be_bytes();
    let is_fallback = api == Api::ApiVersions && body.starts_with(&refused);
    decode(body, if is_fallback { 0 } else { version })
}

fn response_header_len(frame: &[u8], api: Api, version: i16) -> Result<usize, Malformed> {
    let mut reader = Reader::new(frame);
    reader.i32()?;
    if api.response_header_version(version) > 0 {
        reader.tagged_fields(|_, _, _| Ok(()))?;
    }
    Ok(reader.position())
}
