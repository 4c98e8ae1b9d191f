//! The rest of administration on one node: behaviours 116 to 121.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use klamm_protocol::messages::create_acls_request::AclCreation;
use klamm_protocol::messages::delete_acls_request::DeleteAclsFilter;
use klamm_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use klamm_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use klamm_protocol::messages::elect_leaders_request::TopicPartitions;
use klamm_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use klamm_protocol::messages::update_features_request::FeatureUpdateKey;
use klamm_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ApiVersionsRequest,
    BrokerId, CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest,
    DescribeClientQuotasRequest, DescribeClusterRequest, DescribeLogDirsRequest,
    DescribeLogDirsResponse, DescribeQuorumRequest, ElectLeadersRequest,
    ListConfigResourcesRequest, ListPartitionReassignmentsRequest, UpdateFeaturesRequest,
};

use crate::batches::sized;
use crate::calls::{
    TIMEOUT_MS, Topic, code, connect_and_create, create, describe, name, produce, text,
};
use crate::rig::{connect, unique};

async fn broker_id(connection: &Connection) -> Result<BrokerId> {
    Ok(connection
        .send(&DescribeClusterRequest::default().with_endpoint_type(1))
        .await?
        .controller_id)
}

/// Sizes in an answer, by topic and partition.
fn sizes(response: &DescribeLogDirsResponse) -> BTreeMap<(String, i32), i64> {
    let mut sizes = BTreeMap::new();
    for topic in response.results.iter().flat_map(|dir| &dir.topics) {
        for partition in &topic.partitions {
            sizes.insert(
                (topic.name.0.to_string(), partition.partition_index),
                partition.partition_size,
            );
        }
    }
    sizes
}

#[tokio::test]
async fn behaviour_116_log_dirs_tell_sizes() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let batch = sized(10_000);
    let len = i64::try_from(batch.len())?;
    for _ in 0..3 {
        produce(&connection, &topic, 1, batch.clone()).await?;
    }
    let (empty, filled) = ((topic.name.clone(), 0), (topic.name.clone(), 1));
    for version in 1..=4 {
        let all = connection
            .send_version(
                version,
                &DescribeLogDirsRequest::default().with_topics(None),
            )
            .await?;
        assert_eq!(code(all.error_code), ErrorCode::NONE);
        let sizes_of_all = sizes(&all);
        assert_eq!(
            (sizes_of_all.get(&empty), sizes_of_all.get(&filled)),
            (Some(&0), Some(&(3 * len)))
        );
        for dir in &all.results {
            assert_eq!(code(dir.error_code), ErrorCode::NONE);
            ensure!(
                dir.log_dir.starts_with('/'),
                "{} is not absolute",
                &*dir.log_dir
            );
            if version >= 4 {
                ensure!(
                    dir.total_bytes > 0 && (0..=dir.total_bytes).contains(&dir.usable_bytes),
                    "{dir:?}"
                );
            }
            let mut partitions = dir.topics.iter().flat_map(|topic| &topic.partitions);
            ensure!(
                partitions.all(|partition| !partition.is_future_key && partition.offset_lag == 0)
            );
        }
        let asked = DescribableLogDirTopic::default()
            .with_topic(name(&topic.name))
            .with_partitions(vec![1, 7]);
        let unknown = DescribableLogDirTopic::default()
            .with_topic(name(&unique("missing")))
            .with_partitions(vec![0]);
        let request = DescribeLogDirsRequest::default().with_topics(Some(vec![asked, unknown]));
        let some = connection.send_version(version, &request).await?;
        assert_eq!(
            sizes(&some),
            BTreeMap::from([(filled.clone(), 3 * len)]),
            "version {version}"
        );
        let request = DescribeLogDirsRequest::default().with_topics(Some(Vec::new()));
        ensure!(sizes(&connection.send_version(version, &request).await?).is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_117_elections_are_not_needed() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let missing = unique("missing");
    let of = |topic: &str, partitions: &[i32]| {
        TopicPartitions::default()
            .with_topic(name(topic))
            .with_partitions(partitions.to_vec())
    };
    for (version, election_type) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)] {
        let asked = vec![of(&topic.name, &[0, 1, 9]), of(&missing, &[0])];
        let request = ElectLeadersRequest::default()
            .with_election_type(election_type)
            .with_topic_partitions(Some(asked))
            .with_timeout_ms(TIMEOUT_MS);
        let response = connection.send_version(version, &request).await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        let mut found = BTreeMap::new();
        for result in &response.replica_election_results {
            for partition in &result.partition_result {
                found.insert(
                    (result.topic.0.to_string(), partition.partition_id),
                    code(partition.error_code),
                );
            }
        }
        let expected = BTreeMap::from([
            ((topic.name.clone(), 0), ErrorCode::ELECTION_NOT_NEEDED),
            ((topic.name.clone(), 1), ErrorCode::ELECTION_NOT_NEEDED),
            (
                (topic.name.clone(), 9),
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            ),
            ((missing.clone(), 0), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        ]);
        assert_eq!(found, expected, "version {version}, type {election_type}");
        let all = request.with_topic_partitions(None);
        let response = connection.send_version(version, &all).await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        let mut results = response.replica_election_results.iter();
        ensure!(
            results.all(|topic| topic.partition_result.is_empty()),
            "only partitions that were named are listed"
        );
    }
    Ok(())
}

async fn reassign(
    connection: &Connection,
    topic: &str,
    partition: i32,
    replicas: Option<Vec<BrokerId>>,
) -> Result<AlterPartitionReassignmentsResponse> {
    let partition = ReassignablePartition::default()
        .with_partition_index(partition)
        .with_replicas(replicas);
    let topic = ReassignableTopic::default()
        .with_name(name(topic))
        .with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(TIMEOUT_MS);
    Ok(connection.send(&request).await?)
}

#[tokio::test]
async fn behaviour_118_reassignments_on_one_node() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let here = broker_id(&connection).await?;
    let elsewhere = BrokerId(here.0 + 1000);
    let invalid = ErrorCode::INVALID_REPLICA_ASSIGNMENT;
    let missing = unique("missing");
    for (what, topic, partition, replicas, expected) in [
        (
            "cancel",
            &topic.name,
            0,
            None,
            ErrorCode::NO_REASSIGNMENT_IN_PROGRESS,
        ),
        (
            "unknown broker",
            &topic.name,
            0,
            Some(vec![elsewhere]),
            invalid,
        ),
        ("no broker", &topic.name, 0, Some(Vec::new()), invalid),
        (
            "a broker twice",
            &topic.name,
            0,
            Some(vec![here, here]),
            invalid,
        ),
        (
            "unknown partition",
            &topic.name,
            9,
            Some(vec![here]),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ),
        (
            "unknown topic",
            &missing,
            0,
            Some(vec![here]),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ),
        (
            "to where it is",
            &topic.name,
            0,
            Some(vec![here]),
            ErrorCode::NONE,
        ),
    ] {
        let response = reassign(&connection, topic, partition, replicas).await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        let found = code(response.responses[0].partitions[0].error_code);
        assert_eq!(found, expected, "{what}: {response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_118_no_partition_is_on_the_move() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let asked = ListPartitionReassignmentsTopics::default()
        .with_name(name(&topic.name))
        .with_partition_indexes(vec![0, 9]);
    for topics in [None, Some(vec![asked]), Some(Vec::new())] {
        let request = ListPartitionReassignmentsRequest::default()
            .with_topics(topics)
            .with_timeout_ms(TIMEOUT_MS);
        let response = connection.send(&request).await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        ensure!(response.topics.is_empty(), "{response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_120_without_security_acls_are_refused() -> Result<()> {
    let connection = connect().await?;
    let disabled = ErrorCode::SECURITY_DISABLED;
    for version in 1..=3 {
        let request = DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_pattern_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        let response = connection.send_version(version, &request).await?;
        assert_eq!(code(response.error_code), disabled);
        ensure!(response.error_message.is_some() && response.resources.is_empty());
        let creation = AclCreation::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_resource_pattern_type(3)
            .with_principal(text("User:a"))
            .with_host(text("*"))
            .with_operation(3)
            .with_permission_type(3);
        let request = CreateAclsRequest::default().with_creations(vec![creation.clone(), creation]);
        let response = connection.send_version(version, &request).await?;
        let codes: Vec<_> = response
            .results
            .iter()
            .map(|result| code(result.error_code))
            .collect();
        assert_eq!(codes, [disabled; 2], "one answer for each");
        let filter = DeleteAclsFilter::default()
            .with_resource_type_filter(1)
            .with_pattern_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        let request = DeleteAclsRequest::default().with_filters(vec![filter.clone(), filter]);
        let response = connection.send_version(version, &request).await?;
        let codes: Vec<_> = response
            .filter_results
            .iter()
            .map(|result| code(result.error_code))
            .collect();
        assert_eq!(codes, [disabled; 2], "one answer for each");
    }
    Ok(())
}

#[tokio::test]
async fn client_quotas_are_none() -> Result<()> {
    let connection = connect().await?;
    for version in 0..=1 {
        let response = connection
            .send_version(version, &DescribeClientQuotasRequest::default())
            .await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        assert_eq!(response.entries.map(|entries| entries.len()), Some(0));
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_121_the_quorum_is_described() -> Result<()> {
    let connection = connect().await?;
    let here = broker_id(&connection).await?;
    let asked = |topic: &str, partition: i32| {
        let topic = TopicData::default()
            .with_topic_name(name(topic))
            .with_partitions(vec![
                PartitionData::default().with_partition_index(partition),
            ]);
        DescribeQuorumRequest::default().with_topics(vec![topic])
    };
    for version in 0..=2 {
        let response = connection
            .send_version(version, &asked("__cluster_metadata", 0))
            .await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        let quorum = &response.topics[0].partitions[0];
        assert_eq!(
            (code(quorum.error_code), quorum.leader_id),
            (ErrorCode::NONE, here)
        );
        ensure!(
            quorum.leader_epoch > 0 && quorum.high_watermark >= 0,
            "{quorum:?}"
        );
        let voters: Vec<BrokerId> = quorum
            .current_voters
            .iter()
            .map(|voter| voter.replica_id)
            .collect();
        assert_eq!(voters, [here]);
        ensure!(quorum.current_voters[0].log_end_offset >= quorum.high_watermark);
        if version >= 2 {
            assert_eq!(
                response
                    .nodes
                    .iter()
                    .map(|node| node.node_id)
                    .collect::<Vec<_>>(),
                [here]
            );
        }
    }
    let response = connection.send(&asked("__cluster_metadata", 1)).await?;
    assert_eq!(
        code(response.topics[0].partitions[0].error_code),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_121_features_are_checked_before_they_change() -> Result<()> {
    let connection = connect().await?;
    let software = ApiVersionsRequest::default()
        .with_client_software_name(text("a"))
        .with_client_software_version(text("1"));
    let before = connection.send(&software).await?;
    let metadata = before
        .finalized_features
        .iter()
        .find(|feature| &*feature.name == "metadata.version")
        .context("metadata.version is finalized")?
        .max_version_level;
    let ask = async |feature: &str, level: i16| -> Result<(ErrorCode, Vec<ErrorCode>)> {
        let update = FeatureUpdateKey::default()
            .with_feature(text(feature))
            .with_max_version_level(level)
            .with_upgrade_type(1);
        let request = UpdateFeaturesRequest::default()
            .with_feature_updates(vec![update])
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(true);
        let response = connection.send_version(1, &request).await?;
        Ok((
            code(response.error_code),
            response
                .results
                .iter()
                .map(|result| code(result.error_code))
                .collect(),
        ))
    };
    for (what, feature, level) in [
        ("unknown feature", "no.such.feature", 1),
        ("level too high", "metadata.version", i16::MAX),
        ("level negative", "metadata.version", -1),
    ] {
        let (top, results) = ask(feature, level).await?;
        let refused =
            top != ErrorCode::NONE || results.iter().any(|result| *result != ErrorCode::NONE);
        ensure!(refused, "{what}: {top} {results:?}");
    }
    let (top, results) = ask("metadata.version", metadata).await?;
    let fine = top == ErrorCode::NONE && results.iter().all(|result| *result == ErrorCode::NONE);
    ensure!(fine, "the level it has: {top} {results:?}");
    let after = connection.send(&software).await?;
    assert_eq!(before.finalized_features, after.finalized_features);
    Ok(())
}

#[tokio::test]
async fn resources_with_configuration_are_listed() -> Result<()> {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    let (connection, topic) = connect_and_create().await?;
    let here = broker_id(&connection).await?.0.to_string();
    let list = async |version: i16, kinds: &[i8]| -> Result<Vec<(i8, String)>> {
        let request = ListConfigResourcesRequest::default().with_resource_types(kinds.to_vec());
        let response = connection.send_version(version, &request).await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        let resources = response.config_resources.iter();
        Ok(resources
            .map(|found| (found.resource_type, found.resource_name.to_string()))
            .collect())
    };
    let of_metrics = list(0, &[]).await?;
    ensure!(
        of_metrics.is_empty(),
        "version 0 lists client metrics only: {of_metrics:?}"
    );
    let topics = list(1, &[TOPIC]).await?;
    ensure!(topics.contains(&(TOPIC, topic.name.clone())));
    ensure!(topics.iter().all(|(kind, _)| *kind == TOPIC));
    let brokers = list(1, &[BROKER]).await?;
    assert_eq!(brokers, [(BROKER, here.clone())]);
    let all = list(1, &[]).await?;
    ensure!(all.contains(&(TOPIC, topic.name.clone())) && all.contains(&(BROKER, here)));
    let request = ListConfigResourcesRequest::default().with_resource_types(vec![77]);
    let response = connection.send(&request).await?;
    assert_eq!(code(response.error_code), ErrorCode::UNSUPPORTED_VERSION);
    Ok(())
}

/// Administration does not disturb what is asked about.
#[tokio::test]
async fn nothing_of_this_changes_a_topic() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let before: Topic = topic.clone();
    let epoch = describe(&connection, &topic.name).await?.partitions[0].leader_epoch;
    reassign(
        &connection,
        &topic.name,
        0,
        Some(vec![broker_id(&connection).await?]),
    )
    .await?;
    let election = TopicPartitions::default()
        .with_topic(name(&topic.name))
        .with_partitions(vec![0]);
    let request = ElectLeadersRequest::default()
        .with_topic_partitions(Some(vec![election]))
        .with_timeout_ms(TIMEOUT_MS);
    connection.send(&request).await?;
    let after = describe(&connection, &topic.name).await?;
    assert_eq!(
        (after.topic_id, after.partitions[0].leader_epoch),
        (before.id, epoch)
    );
    Ok(())
}
