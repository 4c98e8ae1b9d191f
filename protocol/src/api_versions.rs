//! The ApiVersions response (KIP-511, KIP-584): the table of APIs and the cluster's features.

use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::api::Api;
use crate::encode::encode_response;
use crate::errors::ErrorCode;

/// First version whose clients can read a supported feature with minimum 0 (KAFKA-17492).
const FIRST_VERSION_WITH_LEVEL_ZERO: i16 = 4;
/// First version in which the client names its software (KIP-511).
const FIRST_VERSION_WITH_SOFTWARE: i16 = 3;

/// A feature and the levels of it: what the node can do, and what the cluster agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Kafka's name, such as `transaction.version`.
    pub name: &'static str,
    /// Lowest level supported.
    pub min_level: i16,
    /// Highest level supported.
    pub max_level: i16,
    /// Level in force; 0 is the same as never finalized and not reported.
    pub finalized_level: i16,
}

/// The features of the cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Grows with every change of a finalized level. Java clients take finalized levels only from
    /// an epoch above the last they saw, which starts at -1: so from 0 up.
    pub epoch: i64,
    /// All features known to this node.
    pub features: Vec<Feature>,
}

/// Builds the successful answer to a request of this version.
pub fn api_versions_response(version: i16, features: &Features) -> ApiVersionsResponse {
    let response = ApiVersionsResponse::default()
        .with_api_keys(Api::ALL.iter().map(|&api| advertised(api)).collect());
    if version < FIRST_VERSION_WITH_SOFTWARE {
        return response;
    }
    let supported = features
        .features
        .iter()
        .filter(|feature| version >= FIRST_VERSION_WITH_LEVEL_ZERO || feature.min_level != 0)
        .map(|feature| {
            SupportedFeatureKey::default()
                .with_name(StrBytes::from_static_str(feature.name))
                .with_min_version(feature.min_level)
                .with_max_version(feature.max_level)
        });
    let finalized = features
        .features
        .iter()
        .filter(|feature| feature.finalized_level != 0)
        .map(|feature| {
            FinalizedFeatureKey::default()
                .with_name(StrBytes::from_static_str(feature.name))
                .with_min_version_level(feature.finalized_level)
                .with_max_version_level(feature.finalized_level)
        });
    response
        .with_supported_features(supported.collect())
        .with_finalized_features_epoch(features.epoch)
        .with_finalized_features(finalized.collect())
}

/// The whole frame that answers an ApiVersions version that is not served: error 35 in a version 0
/// body that names the ApiVersions versions that are, so that the client tries again (behaviour 4).
pub fn unsupported_api_versions_response(correlation_id: i32) -> Bytes {
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UNSUPPORTED_VERSION.code())
        .with_api_keys(vec![advertised(Api::ApiVersions)]);
    encode_response(0, correlation_id, &response).expect("numbers alone fit version 0")
}

/// Whether the software name and version of a request are what KIP-511 asks for, from version 3
/// on: letters and digits, between them also dots and dashes. If not, the answer is
/// INVALID_REQUEST (behaviour 6).
pub fn is_valid_software(request: &ApiVersionsRequest, version: i16) -> bool {
    let is_valid = |text: &str| {
        let bytes = text.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| {
            first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric()
        }) && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    };
    version < FIRST_VERSION_WITH_SOFTWARE
        || (is_valid(&request.client_software_name) && is_valid(&request.client_software_version))
}

fn advertised(api: Api) -> ApiVersion {
    let versions = api.advertised_versions();
    ApiVersion::default()
        .with_api_key(api.key())
        .with_min_version(*versions.start())
        .with_max_version(*versions.end())
}
