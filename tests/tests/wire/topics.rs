//! CreateTopics: behaviours 18 and 106.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use klamm_protocol::messages::{BrokerId, CreateTopicsRequest, MetadataRequest};
use uuid::Uuid;

use crate::calls::{
    TIMEOUT_MS, code, connect_and_create, creatable, create_all, describe, text, try_create,
    wait_for,
};
use crate::rig::{connect, unique};

pub(crate) async fn broker_id(connection: &Connection) -> Result<BrokerId> {
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
