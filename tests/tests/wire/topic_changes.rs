//! CreatePartitions and DeleteTopics: behaviours 108 and 109.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use klamm_protocol::messages::delete_topics_request::DeleteTopicState;
use klamm_protocol::messages::{
    BrokerId, CreatePartitionsRequest, DeleteTopicsRequest, MetadataRequest,
};
use uuid::Uuid;

use crate::batches::batch;
use crate::calls::{
    TIMEOUT_MS, Topic, code, connect_and_create, create, describe, name, produce, values, wait_for,
};
use crate::rig::{connect, connect_to, eventually, ours_only, start, unique};
use crate::topics::broker_id;

async fn grow(
    connection: &Connection,
    topic: CreatePartitionsTopic,
    validate_only: bool,
) -> Result<ErrorCode> {
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(TIMEOUT_MS)
        .with_validate_only(validate_only);
    let response = connection.send(&request).await?;
    ensure!(response.results.len() == 1, "{response:?}");
    Ok(code(response.results[0].error_code))
}

fn to(topic: &str, count: i32) -> CreatePartitionsTopic {
    CreatePartitionsTopic::default()
        .with_name(name(topic))
        .with_count(count)
        .with_assignments(None)
}

#[tokio::test]
async fn behaviour_108_partitions_are_added() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["kept"])).await?;
    let here = broker_id(&connection).await?;
    assert_eq!(
        grow(&connection, to(&topic.name, 3), true).await?,
        ErrorCode::NONE
    );
    assert_eq!(
        describe(&connection, &topic.name).await?.partitions.len(),
        1,
        "only validated"
    );
    assert_eq!(
        grow(&connection, to(&topic.name, 2), false).await?,
        ErrorCode::NONE
    );
    let grown = wait_for(&connection, &topic.name, 2).await?;
    assert_eq!(grown.id, topic.id);
    let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![here]);
    let assigned = to(&topic.name, 4).with_assignments(Some(vec![assignment.clone(), assignment]));
    assert_eq!(grow(&connection, assigned, false).await?, ErrorCode::NONE);
    wait_for(&connection, &topic.name, 4).await?;
    produce(&connection, &topic, 3, batch(&["new"])).await?;
    assert_eq!(values(&connection, &topic, 0).await?, ["kept"]);
    assert_eq!(values(&connection, &topic, 3).await?, ["new"]);
    Ok(())
}

#[tokio::test]
async fn behaviour_108_partitions_only_grow_in_number() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 3, &[]).await?;
    let here = broker_id(&connection).await?;
    let assignment = |brokers: &[i32]| {
        let brokers = brokers.iter().map(|broker| BrokerId(*broker)).collect();
        CreatePartitionsAssignment::default().with_broker_ids(brokers)
    };
    let invalid = ErrorCode::INVALID_REPLICA_ASSIGNMENT;
    for (what, asked, expected) in [
        (
            "the same",
            to(&topic.name, 3),
            ErrorCode::INVALID_PARTITIONS,
        ),
        ("fewer", to(&topic.name, 2), ErrorCode::INVALID_PARTITIONS),
        ("none", to(&topic.name, 0), ErrorCode::INVALID_PARTITIONS),
        (
            "less than none",
            to(&topic.name, -1),
            ErrorCode::INVALID_PARTITIONS,
        ),
        (
            "unknown topic",
            to(&unique("missing"), 5),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ),
        (
            "too few assignments",
            to(&topic.name, 5).with_assignments(Some(vec![assignment(&[here.0])])),
            invalid,
        ),
        (
            "unknown broker",
            to(&topic.name, 4).with_assignments(Some(vec![assignment(&[here.0 + 1000])])),
            invalid,
        ),
        (
            "no broker",
            to(&topic.name, 4).with_assignments(Some(vec![assignment(&[])])),
            invalid,
        ),
        (
            "a broker twice",
            to(&topic.name, 4).with_assignments(Some(vec![assignment(&[here.0, here.0])])),
            invalid,
        ),
    ] {
        assert_eq!(grow(&connection, asked, false).await?, expected, "{what}");
    }
    assert_eq!(
        describe(&connection, &topic.name).await?.partitions.len(),
        3
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_108_a_topic_twice_is_invalid() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![to(&topic.name, 2), to(&topic.name, 3)])
        .with_timeout_ms(TIMEOUT_MS);
    let response = connection.send(&request).await?;
    ensure!(
        response
            .results
            .iter()
            .all(|result| code(result.error_code) == ErrorCode::INVALID_REQUEST),
        "{response:?}"
    );
    assert_eq!(
        describe(&connection, &topic.name).await?.partitions.len(),
        1
    );
    Ok(())
}

async fn gone(connection: &Connection, topic: &Topic) -> Result<()> {
    eventually("the topic is gone", || async {
        let found = describe(connection, &topic.name).await?;
        Ok((code(found.error_code) == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION).then_some(()))
    })
    .await
}

#[tokio::test]
async fn behaviour_109_topics_are_deleted_by_name() -> Result<()> {
    let connection = connect().await?;
    for version in 1..=6 {
        let topic = create(&connection, 2, &[]).await?;
        let missing = unique("missing");
        let mut request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
        if version >= 6 {
            let named = |topic: &str| DeleteTopicState::default().with_name(Some(name(topic)));
            request.topics = vec![named(&topic.name), named(&missing)];
        } else {
            request.topic_names = vec![name(&topic.name), name(&missing)];
        }
        let response = connection.send_version(version, &request).await?;
        let codes: HashMap<String, ErrorCode> = response
            .responses
            .iter()
            .filter_map(|result| {
                Some((result.name.as_ref()?.0.to_string(), code(result.error_code)))
            })
            .collect();
        assert_eq!(
            codes.get(&topic.name),
            Some(&ErrorCode::NONE),
            "version {version}: {response:?}"
        );
        assert_eq!(
            codes.get(&missing),
            Some(&ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        );
        gone(&connection, &topic).await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_109_topics_are_deleted_by_id() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let by_id = |id: Uuid| {
        DeleteTopicState::default()
            .with_name(None)
            .with_topic_id(id)
    };
    let unknown = Uuid::new_v4();
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![by_id(topic.id), by_id(unknown)])
        .with_timeout_ms(TIMEOUT_MS);
    let response = connection.send(&request).await?;
    let result = |id: Uuid| {
        response
            .responses
            .iter()
            .find(|result| result.topic_id == id)
            .context("answered")
    };
    assert_eq!(code(result(topic.id)?.error_code), ErrorCode::NONE);
    assert_eq!(
        code(result(unknown)?.error_code),
        ErrorCode::UNKNOWN_TOPIC_ID
    );
    gone(&connection, &topic).await
}

#[tokio::test]
async fn behaviour_109_a_topic_named_and_identified_is_invalid() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let both = DeleteTopicState::default()
        .with_name(Some(name(&topic.name)))
        .with_topic_id(topic.id);
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![both])
        .with_timeout_ms(TIMEOUT_MS);
    let response = connection.send(&request).await?;
    assert_eq!(
        code(response.responses[0].error_code),
        ErrorCode::INVALID_REQUEST
    );
    let neither = DeleteTopicState::default().with_name(None);
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![neither])
        .with_timeout_ms(TIMEOUT_MS);
    let response = connection.send(&request).await?;
    assert_eq!(
        code(response.responses[0].error_code),
        ErrorCode::INVALID_REQUEST
    );
    assert_eq!(
        code(describe(&connection, &topic.name).await?.error_code),
        ErrorCode::NONE
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_109_deletion_can_be_disabled() -> Result<()> {
    ours_only!();
    let own = start(&["delete.topic.enable=false"])?;
    let connection = connect_to(&own.broker.address).await?;
    let topic = create(&connection, 1, &[]).await?;
    for version in 1..=6 {
        let mut request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
        if version >= 6 {
            request.topics = vec![DeleteTopicState::default().with_name(Some(name(&topic.name)))];
        } else {
            request.topic_names = vec![name(&topic.name)];
        }
        let response = connection.send_version(version, &request).await?;
        let expected = if version < 3 {
            ErrorCode::INVALID_REQUEST
        } else {
            ErrorCode::TOPIC_DELETION_DISABLED
        };
        assert_eq!(
            code(response.responses[0].error_code),
            expected,
            "version {version}"
        );
    }
    assert_eq!(
        code(describe(&connection, &topic.name).await?.error_code),
        ErrorCode::NONE
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_16_creation_on_first_use_can_be_disabled() -> Result<()> {
    ours_only!();
    let own = start(&["auto.create.topics.enable=false"])?;
    let connection = connect_to(&own.broker.address).await?;
    let topic = unique("auto");
    let asked = klamm_protocol::messages::metadata_request::MetadataRequestTopic::default()
        .with_name(Some(name(&topic)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![asked]))
        .with_allow_auto_topic_creation(true);
    for _ in 0..3 {
        let response = connection.send(&request).await?;
        assert_eq!(
            code(response.topics[0].error_code),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        );
    }
    Ok(())
}
