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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode_response;
    use crate::encode::encode_response;

    fn features() -> Features {
        let feature = |name, min_level, max_level, finalized_level| Feature {
            name,
            min_level,
            max_level,
            finalized_level,
        };
        Features {
            epoch: 4,
            features: vec![
                feature("metadata.version", 7, 30, 30),
                feature("transaction.version", 0, 2, 2),
                feature("group.version", 0, 1, 0),
            ],
        }
    }

    /// As a client reads it back.
    fn answer(version: i16) -> ApiVersionsResponse {
        let response = api_versions_response(version, &features());
        let frame = encode_response(version, 1, &response).expect("every version can carry it");
        decode_response::<ApiVersionsRequest>(frame.slice(4..), version).expect("decodes")
    }

    fn supported(version: i16) -> Vec<(String, i16)> {
        let keys = answer(version).supported_features;
        keys.iter()
            .map(|key| (key.name.to_string(), key.min_version))
            .collect()
    }

    #[test]
    fn every_version_lists_exactly_the_table() {
        for version in Api::ApiVersions.versions() {
            let answer = answer(version);
            assert_eq!(answer.error_code, 0);
            let listed: Vec<i16> = answer.api_keys.iter().map(|api| api.api_key).collect();
            let table: Vec<i16> = Api::ALL.iter().map(|api| api.key()).collect();
            assert_eq!(listed, table);
            let produce = answer
                .api_keys
                .iter()
                .find(|api| api.api_key == 0)
                .expect("listed");
            assert_eq!((produce.min_version, produce.max_version), (0, 13));
        }
    }

    /// KAFKA-17492.
    #[test]
    fn features_from_level_zero_are_kept_from_old_clients() {
        assert_eq!(supported(2), []);
        assert_eq!(supported(3), [("metadata.version".to_owned(), 7)]);
        assert_eq!(supported(4).len(), 3);
    }

    #[test]
    fn finalized_levels_come_with_their_epoch_and_without_zeros() {
        for version in [3, 4] {
            let answer = answer(version);
            assert_eq!(answer.finalized_features_epoch, 4);
            let finalized: Vec<_> = answer
                .finalized_features
                .iter()
                .map(|key| {
                    (
                        key.name.as_str(),
                        key.min_version_level,
                        key.max_version_level,
                    )
                })
                .collect();
            assert_eq!(
                finalized,
                [("metadata.version", 30, 30), ("transaction.version", 2, 2)]
            );
        }
        assert_eq!(answer(2).finalized_features_epoch, -1);
    }

    /// Behaviour 4, byte for byte: id, error 35, one key: 18 from 0 to 4.
    #[test]
    fn the_refusal_is_a_version_0_body_naming_api_versions() {
        let frame = unsupported_api_versions_response(0x0102_0304);
        let expect = [
            0, 0, 0, 16, 1, 2, 3, 4, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4,
        ];
        assert_eq!(frame, expect[..]);
    }

    /// Behaviour 6.
    #[test]
    fn software_is_letters_digits_dots_and_dashes() {
        let is_valid = |name: &str, version| {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_string(name.to_owned()))
                .with_client_software_version(StrBytes::from_static_str("2.15.1-rc1"));
            is_valid_software(&request, version)
        };
        for good in ["a", "librdkafka", "apache-kafka-java", "x.9"] {
            assert!(is_valid(good, 3), "{good:?}");
        }
        for bad in ["", "-a", "a-", ".", "a b", "a$b", "naïve", "a\n"] {
            assert!(!is_valid(bad, 3), "{bad:?}");
            assert!(is_valid(bad, 2), "{bad:?}: no such field before version 3");
        }
    }
}
