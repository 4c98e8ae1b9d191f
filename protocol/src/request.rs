//! The head of a request: which API, which version, who asks. Parsed by hand from the frame, since
//! only then can an unknown API or version be told from a malformed one, and no frame is too short.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::api::Api;
use crate::reader::{Malformed, Reader};

/// What precedes the body of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The API asked for.
    pub api: Api,
    /// Its version; one that is served.
    pub version: i16,
    /// Number that the response must carry.
    pub correlation_id: i32,
    /// What the client calls itself; `None` when it sent null. Up to 32767 bytes (more, where
    /// invalid UTF-8 was replaced) and anything in it: cut and escape it before showing it.
    pub client_id: Option<StrBytes>,
}

/// Why a frame is not a request that can be served.
///
/// All but [`HeadError::UnsupportedApiVersions`] mean: close the connection, for the layout of an
/// error response is unknown (behaviour 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The frame breaks the layout of a request header.
    #[error("malformed request header: {0}")]
    Malformed(#[from] Malformed),
    /// No API with this key is served.
    #[error("unknown API key {key} (version {version})")]
    UnknownApi {
        /// The key asked for.
        key: i16,
        /// The version asked for.
        version: i16,
    },
    /// The API is served, this version of it is not.
    #[error("{api} version {version} is not served")]
    UnsupportedVersion {
        /// The API asked for.
        api: Api,
        /// The version asked for.
        version: i16,
    },
    /// ApiVersions in a version that is not served: answer with
    /// [`crate::unsupported_api_versions_response`] and go on (KIP-511, behaviour 4).
    #[error("ApiVersions version {version} is not served")]
    UnsupportedApiVersions {
        /// The version asked for.
        version: i16,
        /// Number that the response must carry.
        correlation_id: i32,
    },
}

impl RequestHead {
    /// Splits a frame (length taken off) into head and body. The body is a slice of the frame.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn parse(frame: Bytes) -> Result<(RequestHead, Bytes), HeadError> {
        let mut reader = Reader::new(&frame);
        let key = reader.i16()?;
        let version = reader.i16()?;
        let correlation_id = reader.i32()?;
        let api = Api::from_key(key).ok_or(HeadError::UnknownApi { key, version })?;
        if !api.serves(version) {
            return Err(match api {
                Api::ApiVersions => HeadError::UnsupportedApiVersions {
                    version,
                    correlation_id,
                },
                _ => HeadError::UnsupportedVersion { api, version },
            });
        }
        let client_id = client_id(&frame, &mut reader)?;
        if api.request_header_version(version) > 1 {
            reader.tagged_fields(|_, _, _| Ok(()))?;
        }
        let body = frame.slice(reader.position()..);
        Ok((
            RequestHead {
                api,
                version,
                correlation_id,
                client_id,
            },
            body,
        ))
    }
}

/// Reads the client id, which keeps its 16-bit length in every header version (behaviour 5).
fn client_id(frame: &Bytes, reader: &mut Reader<'_>) -> Result<Option<StrBytes>, Malformed> {
    match reader.i16()? {
        -1 => Ok(None),
        len => match usize::try_from(len) {
            Ok(len) => {
                let id = frame.slice_ref(reader.take(len)?);
                // Java clients replace what is not UTF-8, so no client is turned away for it.
                Ok(Some(StrBytes::from_utf8(id.clone()).unwrap_or_else(|_| {
                    StrBytes::from_string(String::from_utf8_lossy(&id).into_owned())
                })))
            }
            Err(_) => reader.malformed("negative length of the client id"),
        },
    }
}
