//! Messages to frames, length and header included.
//!
//! kafka-protocol writes a message into one buffer and refuses a field that is set and that the
//! version cannot carry, unless Kafka calls it ignorable: handlers build responses per version.
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
    let body_len = message
        .compute_size(codec_version)
        .map_err(|error| refused(error.to_string()))?;
    let len = header_len + body_len;
    let prefix = frame_prefix(api, version, len)?;
    let mut frame = BytesMut::with_capacity(FRAME_PREFIX_LEN + len);
    frame.put_slice(&prefix);
    header(&mut frame);
    message
        .encode(&mut frame, codec_version)
        .map_err(|error| refused(error.to_string()))?;
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
