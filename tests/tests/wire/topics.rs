//! CreateTopics, DeleteTopics and CreatePartitions: behaviours 18 and 106 to 109.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use klamm_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use klamm_protocol::messages::delete_topics_request::DeleteTopicState;
use klamm_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest,
};
use uuid::Uuid;

use crate::batches::batch;
use crate::calls::{
    TIMEOUT_MS, Topic, code, connect_and_create, creatable, create, create_all, describe, name,
    produce, text, try_create, values, wait_for,
};
use crate::rig::{connect, connect_to, eventually, ours_only, start, unique};

async fn broker_id(connection: &Connection) -> Result<BrokerId> {
    Ok(connection
        .send(&MetadataRequest::default().with_topics(Some(Vec::new())))
        .await?
        .brokers[0]
        .node_id)
}

async fn expect(
    connection: &Connection,
    topic: CreatableTopic,
    expected: ErrorCode,
    what: &str,
) -> Result<()> {
    for validate_only in [true, false] {
        let results = create_all(connection, vec![topic.clone()], validate_only).await?;
        assert_eq!(
            code(results[0].error_code),
            expected,
            "{what}: {:?}",
            results[0].error_message
        );
        if expected != ErrorCode::NONE {
            ensure!(
                results[0]
                    .error_message
                    .as_ref()
                    .is_some_and(|words| !words.is_empty()),
                "{what}: no words"
            );
            assert_eq!(results[0].topic_id, Uuid::nil());
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_18_names_that_are_allowed() -> Result<()> {
    let connection = connect().await?;
    let long = format!("{}{}", "l".repeat(230), unique(""));
    let long = &long[..long.len().min(249)];
    for topic in ["a", long, &unique("A.z_0-9"), &unique("..."), &unique("-")] {
        let results = create_all(&connection, vec![creatable(topic, 1, &[])], true).await?;
        let found = code(results[0].error_code);
        ensure!(
            [ErrorCode::NONE, ErrorCode::TOPIC_ALREADY_EXISTS].contains(&found),
            "{topic:?}: {found}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_18_names_that_are_not() -> Result<()> {
    let connection = connect().await?;
    for topic in [
        "",
        ".",
        "..",
        "a b",
        "a/b",
        "a:b",
        "a,b",
        "a\u{e4}",
        "a\n",
        &"x".repeat(250),
    ] {
        expect(
            &connection,
            creatable(topic, 1, &[]),
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            topic,
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_18_dots_and_underscores_collide() -> Result<()> {
    let connection = connect().await?;
    let stem = unique("collide");
    let created = try_create(&connection, creatable(&format!("{stem}.a_b"), 1, &[])).await?;
    assert_eq!(code(created.error_code), ErrorCode::NONE);
    for other in [
        format!("{stem}_a_b"),
        format!("{stem}.a.b"),
        format!("{stem}_a.b"),
    ] {
        expect(
            &connection,
            creatable(&other, 1, &[]),
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            &other,
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_106_counts_that_make_no_sense() -> Result<()> {
    let connection = connect().await?;
    for (partitions, replicas, expected) in [
        (0, 1, ErrorCode::INVALID_PARTITIONS),
        (-2, 1, ErrorCode::INVALID_PARTITIONS),
        (i32::MIN, 1, ErrorCode::INVALID_PARTITIONS),
        (1, 0, ErrorCode::INVALID_REPLICATION_FACTOR),
        (1, -2, ErrorCode::INVALID_REPLICATION_FACTOR),
        (1, 2, ErrorCode::INVALID_REPLICATION_FACTOR),
        (1, i16::MAX, ErrorCode::INVALID_REPLICATION_FACTOR),
    ] {
        let topic = creatable(&unique("count"), partitions, &[]).with_replication_factor(replicas);
        expect(
            &connection,
            topic,
            expected,
            &format!("{partitions} partitions, {replicas} replicas"),
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_106_assignments_are_checked() -> Result<()> {
    let connection = connect().await?;
    let here = broker_id(&connection).await?;
    let elsewhere = BrokerId(here.0 + 1000);
    let assigned = |partitions: i32, replicas: i16, assignments: &[(i32, &[BrokerId])]| {
        let assignments = assignments.iter().map(|(partition, brokers)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(*partition)
                .with_broker_ids(brokers.to_vec())
        });
        creatable(&unique("assigned"), partitions, &[])
            .with_replication_factor(replicas)
            .with_assignments(assignments.collect())
    };
    let (invalid, both) = (
        ErrorCode::INVALID_REPLICA_ASSIGNMENT,
        ErrorCode::INVALID_REQUEST,
    );
    for (what, topic, expected) in [
        ("counts as well", assigned(2, -1, &[(0, &[here])]), both),
        ("replicas as well", assigned(-1, 1, &[(0, &[here])]), both),
        (
            "a hole",
            assigned(-1, -1, &[(0, &[here]), (2, &[here])]),
            invalid,
        ),
        ("not from 0", assigned(-1, -1, &[(1, &[here])]), invalid),
        (
            "a partition twice",
            assigned(-1, -1, &[(0, &[here]), (0, &[here])]),
            invalid,
        ),
        (
            "a broker twice",
            assigned(-1, -1, &[(0, &[here, here])]),
            invalid,
        ),
        ("no broker", assigned(-1, -1, &[(0, &[])]), invalid),
        (
            "an unknown broker",
            assigned(-1, -1, &[(0, &[elsewhere])]),
            invalid,
        ),
    ] {
        expect(&connection, topic, expected, what).await?;
    }
    let good = assigned(-1, -1, &[(1, &[here]), (0, &[here])]);
    let topic = good.name.0.to_string();
    let created = try_create(&connection, good).await?;
    assert_eq!(
        (
            code(created.error_code),
            created.num_partitions,
            created.replication_factor
        ),
        (ErrorCode::NONE, 2, 1)
    );
    wait_for(&connection, &topic, 2).await?;
    Ok(())
}

#[tokio::test]
async fn behaviour_106_a_topic_exists_once() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    expect(
        &connection,
        creatable(&topic.name, 1, &[]),
        ErrorCode::TOPIC_ALREADY_EXISTS,
        "again",
    )
    .await?;
    let twice = unique("twice");
    let fine = unique("fine");
    let all = [&twice, &fine, &twice]
        .map(|topic| creatable(topic, 1, &[]))
        .to_vec();
    let results = create_all(&connection, all, false).await?;
    let codes: HashMap<String, ErrorCode> = results
        .iter()
        .map(|result| (result.name.0.to_string(), code(result.error_code)))
        .collect();
    assert_eq!(
        codes.get(&twice),
        Some(&ErrorCode::INVALID_REQUEST),
        "{results:?}"
    );
    assert_eq!(codes.get(&fine), Some(&ErrorCode::NONE));
    let found = describe(&connection, &twice).await?;
    assert_eq!(
        code(found.error_code),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_106_configs_are_checked() -> Result<()> {
    let connection = connect().await?;
    for (key, value) in [
        ("no.such.key", "1"),
        ("retention.ms", "soon"),
        ("retention.ms", "-2"),
        ("segment.bytes", "1000"),
        ("cleanup.policy", "shred"),
        ("compression.type", "rar"),
        ("message.timestamp.type", "createtime"),
        ("min.insync.replicas", "0"),
        ("max.message.bytes", "-1"),
        ("min.cleanable.dirty.ratio", "1.5"),
        ("message.format.version", "3.0"),
    ] {
        let topic = creatable(&unique("config"), 1, &[(key, value)]);
        expect(
            &connection,
            topic,
            ErrorCode::INVALID_CONFIG,
            &format!("{key}={value}"),
        )
        .await?;
    }
    let null = CreatableTopicConfig::default()
        .with_name(text("retention.ms"))
        .with_value(None);
    let topic = creatable(&unique("config"), 1, &[]).with_configs(vec![null]);
    expect(&connection, topic, ErrorCode::INVALID_CONFIG, "null").await
}

#[tokio::test]
async fn behaviour_106_validate_only_changes_nothing() -> Result<()> {
    let connection = connect().await?;
    let topic = unique("validated");
    for version in 2..=7 {
        let request = CreateTopicsRequest::default()
            .with_topics(vec![creatable(&topic, 3, &[("retention.ms", "1000")])])
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(true);
        let response = connection.send_version(version, &request).await?;
        assert_eq!(
            code(response.topics[0].error_code),
            ErrorCode::NONE,
            "version {version}"
        );
    }
    let found = describe(&connection, &topic).await?;
    assert_eq!(
        code(found.error_code),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_106_what_was_created_is_told() -> Result<()> {
    let connection = connect().await?;
    for version in 2..=7 {
        let topic = unique("told");
        let request = CreateTopicsRequest::default()
            .with_topics(vec![creatable(&topic, 3, &[("retention.ms", "1000")])])
            .with_timeout_ms(TIMEOUT_MS);
        let response = connection.send_version(version, &request).await?;
        let result = &response.topics[0];
        assert_eq!(code(result.error_code), ErrorCode::NONE);
        let found = wait_for(&connection, &topic, 3).await?;
        if version >= 7 {
            assert_eq!(result.topic_id, found.id);
        }
        if version >= 5 {
            assert_eq!((result.num_partitions, result.replication_factor), (3, 1));
            let configs = result.configs.as_ref().context("configs")?;
            let find = |key: &str| configs.iter().find(|config| &*config.name == key);
            let retention = find("retention.ms").context("retention.ms")?;
            assert_eq!(
                (retention.value.as_deref(), retention.config_source),
                (Some("1000"), 1)
            );
            let policy = find("cleanup.policy").context("cleanup.policy")?;
            assert_eq!(
                (policy.value.as_deref(), policy.config_source),
                (Some("delete"), 5)
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_106_minus_1_means_the_brokers_default() -> Result<()> {
    let connection = connect().await?;
    for version in 4..=7 {
        let topic = unique("default");
        let request = CreateTopicsRequest::default()
            .with_topics(vec![creatable(&topic, -1, &[]).with_replication_factor(-1)])
            .with_timeout_ms(TIMEOUT_MS);
        let response = connection.send_version(version, &request).await?;
        assert_eq!(code(response.topics[0].error_code), ErrorCode::NONE);
        wait_for(&connection, &topic, 1).await?;
    }
    Ok(())
}

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
