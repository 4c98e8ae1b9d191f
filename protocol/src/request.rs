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

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    fn frame(key: i16, version: i16, rest: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(77);
        frame.put_slice(rest);
        frame.into()
    }

    fn parse(key: i16, version: i16, rest: &[u8]) -> Result<(RequestHead, Bytes), HeadError> {
        RequestHead::parse(frame(key, version, rest))
    }

    #[test]
    fn both_header_versions_split_from_the_body() {
        let (head, body) = parse(3, 8, &[0, 2, b'm', b'e', 1, 2]).expect("header 1");
        assert_eq!(
            (head.api, head.version, head.correlation_id),
            (Api::Metadata, 8, 77)
        );
        assert_eq!(head.client_id.as_deref(), Some("me"));
        assert_eq!(body, [1, 2][..]);
        // Header 2: the client id keeps its 16-bit length, then tagged fields (behaviour 5).
        let (head, body) = parse(3, 9, &[0, 2, b'm', b'e', 1, 7, 1, 0xaa, 3]).expect("header 2");
        assert_eq!(head.client_id.as_deref(), Some("me"));
        assert_eq!(body, [3][..]);
        let (head, body) = parse(18, 0, &[0xff, 0xff]).expect("null client id, empty body");
        assert_eq!(head.client_id, None);
        assert!(body.is_empty());
    }

    /// Behaviour 7, and 4 for ApiVersions.
    #[test]
    fn unknown_apis_and_versions_are_told_apart() {
        let unknown = |key| Err(HeadError::UnknownApi { key, version: 0 });
        assert_eq!(parse(9999, 0, &[]), unknown(9999));
        assert_eq!(parse(-1, 0, &[]), unknown(-1));
        for (api, version) in [(Api::Metadata, 14), (Api::Metadata, -1), (Api::Produce, 2)] {
            let expect = Err(HeadError::UnsupportedVersion { api, version });
            assert_eq!(parse(api.key(), version, &[0xff, 0xff]), expect);
        }
        for version in [5, i16::MAX, -1] {
            let expect = Err(HeadError::UnsupportedApiVersions {
                version,
                correlation_id: 77,
            });
            assert_eq!(
                parse(18, version, &[]),
                expect,
                "whatever follows the correlation id"
            );
        }
    }

    #[test]
    fn headers_that_are_cut_or_lie_are_malformed() {
        let whole = frame(3, 9, &[0, 2, b'm', b'e', 1, 7, 1, 0xaa]);
        for len in 0..whole.len() {
            let parsed = RequestHead::parse(whole.slice(..len));
            assert!(
                matches!(parsed, Err(HeadError::Malformed(_))),
                "{len}: {parsed:?}"
            );
        }
        // Bad input 20.
        let negative = parse(3, 8, &[0xff, 0xfe]);
        assert!(
            matches!(negative, Err(HeadError::Malformed(_))),
            "{negative:?}"
        );
        let past_the_end = parse(3, 8, &[0x7f, 0xff, b'x']);
        assert!(
            matches!(past_the_end, Err(HeadError::Malformed(_))),
            "{past_the_end:?}"
        );
    }

    /// Bad input 21.
    #[test]
    fn client_ids_may_be_long_or_not_utf_8() {
        let mut long = vec![0x7f, 0xff];
        long.resize(2 + 0x7fff, b'x');
        let (head, _) = parse(3, 8, &long).expect("handled");
        assert_eq!(head.client_id.map(|id| id.len()), Some(0x7fff));
        let (head, _) = parse(3, 8, &[0, 3, b'a', 0xff, b'b']).expect("handled");
        assert_eq!(head.client_id.as_deref(), Some("a\u{fffd}b"));
    }

    proptest! {
        #[test]
        fn no_frame_panics(
            key in -1..100_i16,
            version in -1..15_i16,
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = parse(key, version, &rest);
        }
    }
}
