//! Frames to and from a broker: the one place that turns request types into bytes and back.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// Bytes of the length that precedes every frame.
pub(crate) const SIZE_LEN: usize = 4;

/// The error codes that change what the client does next.
pub(crate) mod code {
    pub(crate) const NONE: i16 = 0;
    pub(crate) const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub(crate) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub(crate) const LEADER_NOT_AVAILABLE: i16 = 5;
    pub(crate) const MESSAGE_TOO_LARGE: i16 = 10;
    pub(crate) const UNSUPPORTED_VERSION: i16 = 35;
    pub(crate) const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub(crate) const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
}

/// Kafka's name of an error code, such as `UNKNOWN_TOPIC_OR_PARTITION`.
pub(crate) fn error_name(code: i16) -> String {
    let Some(error) = ResponseError::try_from_code(code) else {
        return "NONE".to_owned();
    };
    if let ResponseError::Unknown(code) = error {
        return format!("ERROR_{code}");
    }
    let mut name = String::new();
    for letter in error.to_string().chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Whether Kafka's clients repeat a request answered with this code.
pub(crate) fn is_retriable(code: i16) -> bool {
    ResponseError::try_from_code(code).is_some_and(|error| error.is_retriable())
}

/// Kafka's name of a request's API, such as `Metadata`.
pub(crate) fn api_name<R: Request>() -> &'static str {
    let path = std::any::type_name::<R>();
    let name = path.rsplit("::").next().unwrap_or(path);
    name.strip_suffix("Request").unwrap_or(name)
}

/// The newest version of a request that this client speaks.
pub(crate) fn newest<R: Request>() -> i16 {
    R::VERSIONS.max
}

/// The largest version of a request both this client and a broker's range hold.
pub(crate) fn newest_common<R: Request>(broker_min: i16, broker_max: i16) -> Option<i16> {
    let version = R::VERSIONS.max.min(broker_max);
    (version >= R::VERSIONS.min && version >= broker_min).then_some(version)
}

/// One request as a frame, size included.
pub(crate) fn encode_request<R: Request>(
    correlation_id: i32,
    client_id: &StrBytes,
    version: i16,
    request: &R,
) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(client_id.clone()));
    let header_version = R::header_version(version);
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let len = header.compute_size(header_version).map_err(|e| text(&e))?
        + request.compute_size(version).map_err(|e| text(&e))?;
    let size = i32::try_from(len).map_err(|_| format!("{len} bytes do not fit one frame"))?;
    let mut out = BytesMut::with_capacity(SIZE_LEN + len);
    out.put_i32(size);
    header.encode(&mut out, header_version).map_err(|e| text(&e))?;
    request.encode(&mut out, version).map_err(|e| text(&e))?;
    Ok(out.freeze())
}

/// The response in a frame without its size.
pub(crate) fn decode_response<R: Request>(mut frame: Bytes, version: i16) -> Result<R::Response, String> {
    let header_version = <R::Response as HeaderVersion>::header_version(version);
    ResponseHeader::decode(&mut frame, header_version).map_err(|error| error.to_string())?;
    R::Response::decode(&mut frame, version).map_err(|error| error.to_string())
}

/// The error code of an ApiVersions response, which is at the same place in every version so
/// that a broker can refuse a version in a form that every client reads (KIP-511).
pub(crate) fn api_versions_error(frame: &Bytes) -> Option<i16> {
    let code = frame.get(4..6)?;
    Some(i16::from_be_bytes(code.try_into().ok()?))
}

/// The request that opens every connection.
pub(crate) fn api_versions_request() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("klamm-client"))
        .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")))
}
