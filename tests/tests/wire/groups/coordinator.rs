//! Who coordinates a group: behaviours 13, 88 and 100.

use anyhow::{Context, Result, ensure};
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::{ApiVersionsRequest, FindCoordinatorRequest, MetadataRequest};

use crate::calls::{code, describe, text};
use crate::rig::{connect, unique};

use super::calls::{coordinated, find};

#[tokio::test]
async fn behaviour_100_every_version_names_a_broker_of_the_metadata() -> Result<()> {
    let connection = connect().await?;
    let group = unique("group");
    coordinated(&connection, &group).await?;
    let request = MetadataRequest::default().with_topics(Some(Vec::new()));
    let brokers = connection.send(&request).await?.brokers;
    for version in 0..=6 {
        let found = find(&connection, version, &group).await?;
        assert_eq!(code(found.error_code), ErrorCode::NONE, "version {version}");
        assert_eq!(*found.key, *group);
        let broker = brokers
            .iter()
            .find(|broker| broker.node_id == found.node_id);
        let broker = broker.with_context(|| format!("{found:?} is none of {brokers:?}"))?;
        assert_eq!(
            (&found.host, found.port),
            (&broker.host, broker.port),
            "version {version}"
        );
        ensure!(
            found
                .error_message
                .as_deref()
                .is_none_or(|message| message.is_empty() || message == "NONE")
        );
    }
    Ok(())
}

#[tokio::test]
async fn several_groups_are_found_at_once() -> Result<()> {
    let connection = connect().await?;
    let groups: Vec<String> = (0..20).map(|_| unique("group")).collect();
    coordinated(&connection, &groups[0]).await?;
    for version in [4, 5, 6] {
        let keys = groups.iter().map(|group| text(group)).collect();
        let request = FindCoordinatorRequest::default().with_coordinator_keys(keys);
        let found = connection
            .send_version(version, &request)
            .await?
            .coordinators;
        let keys: Vec<String> = found.iter().map(|found| found.key.to_string()).collect();
        assert_eq!(keys, groups);
        ensure!(
            found
                .iter()
                .all(|found| found.error_code == 0 && found.port > 0),
            "{found:?}"
        );
        let none = connection
            .send_version(version, &FindCoordinatorRequest::default())
            .await?;
        assert_eq!(none.coordinators, []);
    }
    Ok(())
}

/// A kind of coordinator that does not exist is refused, key by key.
#[tokio::test]
async fn unknown_kinds_of_coordinators_are_refused() -> Result<()> {
    let connection = connect().await?;
    let group = unique("group");
    coordinated(&connection, &group).await?;
    for version in 1..=6 {
        let request = super::calls::find_request(version, &group).with_key_type(9);
        let response = connection.send_version(version, &request).await?;
        let found = match response.coordinators.first() {
            Some(found) => found.error_code,
            None => response.error_code,
        };
        assert_eq!(code(found), ErrorCode::INVALID_REQUEST, "version {version}");
    }
    Ok(())
}

#[tokio::test]
async fn offsets_lie_in_an_internal_compacted_topic() -> Result<()> {
    let connection = connect().await?;
    let group = unique("group");
    coordinated(&connection, &group).await?;
    let topic = describe(&connection, "__consumer_offsets").await?;
    assert_eq!(code(topic.error_code), ErrorCode::NONE);
    ensure!(
        topic.is_internal && !topic.partitions.is_empty(),
        "{topic:?}"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_101_the_feature_of_the_new_protocol_is_final() -> Result<()> {
    let connection = connect().await?;
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("a"))
        .with_client_software_version(text("1"));
    let response = connection.send_version(4, &request).await?;
    let feature =
        |finalized: &&klamm_protocol::messages::api_versions_response::FinalizedFeatureKey| {
            &*finalized.name == "group.version"
        };
    let found = response.finalized_features.iter().find(feature);
    assert_eq!(found.map(|found| found.max_version_level), Some(1));
    Ok(())
}
