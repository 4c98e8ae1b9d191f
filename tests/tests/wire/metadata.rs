//! Metadata, DescribeCluster and DescribeTopicPartitions: behaviours 15 to 27 as far as they
//! concern reading.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use klamm_protocol::messages::metadata_request::MetadataRequestTopic;
use klamm_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, MetadataRequest, MetadataResponse,
};
use uuid::Uuid;

use crate::batches::batch;
use crate::calls::{
    code, connect_and_create, creatable, create, delete, describe, fetch, name, try_create,
    try_produce,
};
use crate::rig::{bootstrap, connect, connect_to, eventually, unique};

const NEWEST: i16 = 13;

fn of(topics: &[&str]) -> MetadataRequest {
    let asked = topics
        .iter()
        .map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic))));
    MetadataRequest::default()
        .with_topics(Some(asked.collect()))
        .with_allow_auto_topic_creation(false)
}

/// The same in a version; below 4 there is no way not to consent.
fn of_version(version: i16, topics: &[&str]) -> MetadataRequest {
    of(topics).with_allow_auto_topic_creation(version < 4)
}

fn names(response: &MetadataResponse) -> Vec<String> {
    let topics = response.topics.iter();
    topics
        .filter_map(|topic| Some(topic.name.as_ref()?.0.to_string()))
        .collect()
}

#[tokio::test]
async fn behaviour_15_an_empty_list_means_all_in_version_0_and_none_later() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let none = MetadataRequest::default().with_topics(Some(Vec::new()));
    let response = connection.send_version(0, &none).await?;
    ensure!(
        names(&response).contains(&topic.name),
        "version 0, empty list"
    );
    for version in 1..=NEWEST {
        let request = none.clone();
        let response = connection.send_version(version, &request).await?;
        assert_eq!(
            names(&response),
            Vec::<String>::new(),
            "version {version}, empty list"
        );
        ensure!(!response.brokers.is_empty());
        let all = MetadataRequest::default().with_topics(None);
        let response = connection.send_version(version, &all).await?;
        ensure!(
            names(&response).contains(&topic.name),
            "version {version}, null"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_16_creation_on_first_use_needs_the_clients_consent() -> Result<()> {
    let connection = connect().await?;
    for version in [4, 9, NEWEST] {
        let topic = unique("never");
        for _ in 0..3 {
            let response = connection
                .send_version(version, &of_version(version, &[&topic]))
                .await?;
            assert_eq!(
                code(response.topics[0].error_code),
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            );
            ensure!(response.topics[0].partitions.is_empty());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let all = connection
            .send(&MetadataRequest::default().with_topics(None))
            .await?;
        ensure!(
            !names(&all).contains(&topic),
            "created in spite of the flag"
        );
    }
    Ok(())
}

/// Kafka creates in the background and answers UNKNOWN_TOPIC_OR_PARTITION at first.
#[tokio::test]
async fn behaviour_17_creation_on_first_use_in_every_version() -> Result<()> {
    let connection = connect().await?;
    for version in 0..=NEWEST {
        let topic = unique("auto");
        // Versions below 4 have no flag and mean yes.
        let request = of(&[&topic]).with_allow_auto_topic_creation(true);
        let found = eventually("the topic is created", || async {
            let mut response = connection.send_version(version, &request).await?;
            let found = response.topics.remove(0);
            let early = [
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                ErrorCode::LEADER_NOT_AVAILABLE,
            ];
            ensure!(
                found.error_code == 0 || early.contains(&code(found.error_code)),
                "{found:?}"
            );
            Ok((found.error_code == 0 && found.partitions[0].error_code == 0).then_some(found))
        })
        .await
        .with_context(|| format!("version {version}"))?;
        ensure!(!found.partitions.is_empty());
        ensure!(!found.is_internal);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_17_invalid_names_are_not_created() -> Result<()> {
    let connection = connect().await?;
    for topic in ["a b", "..", "a/b", "\u{e4}", &"x".repeat(250)] {
        for consent in [true, false] {
            let request = of(&[topic]).with_allow_auto_topic_creation(consent);
            let response = connection.send(&request).await?;
            let found = code(response.topics[0].error_code);
            assert_eq!(
                found,
                ErrorCode::INVALID_TOPIC_EXCEPTION,
                "{topic:?}, consent {consent}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_19_topic_ids_are_stable_and_new_after_recreation() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    assert_ne!(topic.id, Uuid::nil());
    for version in 10..=NEWEST {
        let response = connection
            .send_version(version, &of_version(version, &[&topic.name]))
            .await?;
        assert_eq!(response.topics[0].topic_id, topic.id, "version {version}");
    }
    delete(&connection, &topic).await?;
    let created = try_create(&connection, creatable(&topic.name, 1, &[])).await?;
    assert_eq!(code(created.error_code), ErrorCode::NONE);
    assert_ne!(created.topic_id, topic.id);
    Ok(())
}

#[tokio::test]
async fn behaviour_19_metadata_may_be_asked_by_id_from_version_12() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let by_id = |id: Uuid| {
        let asked = MetadataRequestTopic::default()
            .with_topic_id(id)
            .with_name(None);
        MetadataRequest::default()
            .with_topics(Some(vec![asked]))
            .with_allow_auto_topic_creation(false)
    };
    for version in [12, 13] {
        let response = connection.send_version(version, &by_id(topic.id)).await?;
        let found = &response.topics[0];
        assert_eq!(
            (code(found.error_code), found.topic_id),
            (ErrorCode::NONE, topic.id)
        );
        assert_eq!(names(&response), [&*topic.name]);
        let unknown = Uuid::new_v4();
        let response = connection.send_version(version, &by_id(unknown)).await?;
        let found = &response.topics[0];
        assert_eq!(
            (code(found.error_code), found.topic_id),
            (ErrorCode::UNKNOWN_TOPIC_ID, unknown)
        );
        ensure!(
            found.name.is_none() && found.partitions.is_empty(),
            "{found:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_20_leader_epochs_are_real() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let mut last = 0;
    for version in 7..=NEWEST {
        let response = connection
            .send_version(version, &of_version(version, &[&topic.name]))
            .await?;
        let epoch = response.topics[0].partitions[0].leader_epoch;
        ensure!(
            epoch >= last,
            "version {version}: epoch {epoch} after {last}"
        );
        last = epoch;
    }
    try_produce(&connection, &topic, 0, batch(&["stamped"])).await?;
    let answer = fetch(&connection, &topic, 0, 0).await?;
    let batches = crate::batches::headers(&answer.records.context("records")?)?;
    assert_eq!(
        batches[0].0.partition_leader_epoch, last,
        "a batch bears the epoch it was appended in"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_21_the_controller_is_a_broker_that_takes_admin_writes() -> Result<()> {
    let connection = connect().await?;
    for version in 1..=NEWEST {
        let response = connection
            .send_version(version, &of_version(version, &[]))
            .await?;
        let id = response.controller_id;
        let broker = response.brokers.iter().find(|broker| broker.node_id == id);
        let broker =
            broker.with_context(|| format!("version {version}: controller {id:?} is no broker"))?;
        if version == NEWEST {
            let there = connect_to(&format!("{}:{}", broker.host, broker.port)).await?;
            create(&there, 1, &[]).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_22_the_cluster_id_is_stable() -> Result<()> {
    let (one, two) = (connect().await?, connect().await?);
    let mut seen = Vec::new();
    for connection in [&one, &two] {
        for version in 2..=NEWEST {
            let id = connection
                .send_version(version, &of_version(version, &[]))
                .await?
                .cluster_id;
            seen.push(id.with_context(|| format!("version {version}: no cluster id"))?);
        }
        let id = connection
            .send(&DescribeClusterRequest::default().with_endpoint_type(1))
            .await?
            .cluster_id;
        seen.push(id);
    }
    ensure!(!seen[0].is_empty());
    ensure!(seen.iter().all(|id| *id == seen[0]), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn behaviour_23_brokers_have_the_address_the_client_came_in_on() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in 0..=NEWEST {
        let response = connection
            .send_version(version, &of_version(version, &[&topic.name]))
            .await?;
        assert_eq!(response.brokers.len(), 1);
        let broker = &response.brokers[0];
        assert_eq!(
            format!("{}:{}", broker.host, broker.port),
            bootstrap(),
            "version {version}"
        );
        assert_eq!(broker.rack, None);
        let partition = &response.topics[0].partitions[0];
        assert_eq!(partition.leader_id, broker.node_id);
        assert_eq!(partition.replica_nodes, [broker.node_id]);
        assert_eq!(partition.isr_nodes, [broker.node_id]);
        ensure!(partition.offline_replicas.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn partitions_and_topics_are_complete_and_each_topic_answered_once() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 7, &[]).await?;
    let missing = unique("missing");
    let response = connection.send(&of(&[&topic.name, &missing])).await?;
    assert_eq!(response.topics.len(), 2);
    for found in &response.topics {
        if found.name == Some(name(&topic.name)) {
            let mut partitions: Vec<i32> = found
                .partitions
                .iter()
                .map(|found| found.partition_index)
                .collect();
            partitions.sort_unstable();
            assert_eq!(partitions, (0..7).collect::<Vec<_>>());
        } else {
            assert_eq!(
                code(found.error_code),
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            );
            assert_eq!(found.topic_id, Uuid::nil());
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_25_authorized_operations_are_told_when_asked_for() -> Result<()> {
    /// Bits of AclOperation: read, write, create, delete, alter, describe, describe and alter configs.
    const ON_TOPIC: i32 = 0b1101_1111_1000;
    /// Create, alter, describe, cluster action, describe and alter configs, idempotent write.
    const ON_CLUSTER: i32 = 0b1_1111_1010_0000;
    let (connection, topic) = connect_and_create().await?;
    for version in 8..=NEWEST {
        let plain = connection
            .send_version(version, &of_version(version, &[&topic.name]))
            .await?;
        assert_eq!(
            plain.topics[0].topic_authorized_operations,
            i32::MIN,
            "version {version}"
        );
        assert_eq!(
            plain.cluster_authorized_operations,
            i32::MIN,
            "version {version}"
        );
        let mut request = of(&[&topic.name]).with_include_topic_authorized_operations(true);
        request.include_cluster_authorized_operations = version <= 10;
        let asked = connection.send_version(version, &request).await?;
        assert_eq!(
            asked.topics[0].topic_authorized_operations, ON_TOPIC,
            "version {version}"
        );
        if version <= 10 {
            assert_eq!(
                asked.cluster_authorized_operations, ON_CLUSTER,
                "version {version}"
            );
        }
    }
    for version in 0..=2 {
        let request = DescribeClusterRequest::default().with_endpoint_type(1);
        let plain = connection.send_version(version, &request).await?;
        assert_eq!(plain.cluster_authorized_operations, i32::MIN);
        let request = request.with_include_cluster_authorized_operations(true);
        let asked = connection.send_version(version, &request).await?;
        assert_eq!(asked.cluster_authorized_operations, ON_CLUSTER);
    }
    Ok(())
}

async fn page(
    connection: &Connection,
    topics: &[&str],
    limit: i32,
    cursor: Option<Cursor>,
) -> Result<DescribeTopicPartitionsResponse> {
    let topics = topics
        .iter()
        .map(|topic| TopicRequest::default().with_name(name(topic)));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(topics.collect())
        .with_response_partition_limit(limit)
        .with_cursor(cursor);
    Ok(connection.send(&request).await?)
}

#[tokio::test]
async fn behaviour_26_topics_are_described_page_by_page() -> Result<()> {
    let connection = connect().await?;
    let mut topics = Vec::new();
    for partitions in [3, 4, 2] {
        topics.push(create(&connection, partitions, &[]).await?.name);
    }
    let asked: Vec<&str> = topics.iter().rev().map(String::as_str).collect();
    let mut expected = Vec::new();
    for (topic, partitions) in topics.iter().zip([3, 4, 2]) {
        expected.extend((0..partitions).map(|partition| (topic.clone(), partition)));
    }
    expected.sort();
    let mut found = Vec::new();
    let mut cursor = None;
    let mut pages = 0;
    loop {
        let next = cursor.map(
            |at: klamm_protocol::messages::describe_topic_partitions_response::Cursor| {
                Cursor::default()
                    .with_topic_name(at.topic_name)
                    .with_partition_index(at.partition_index)
            },
        );
        let response = page(&connection, &asked, 2, next).await?;
        pages += 1;
        let before = found.len();
        for topic in &response.topics {
            assert_eq!(code(topic.error_code), ErrorCode::NONE);
            assert_ne!(topic.topic_id, Uuid::nil());
            let topic_name = topic.name.as_ref().context("a name")?.0.to_string();
            for partition in &topic.partitions {
                assert_eq!(partition.isr_nodes, [partition.leader_id]);
                found.push((topic_name.clone(), partition.partition_index));
            }
        }
        ensure!(
            found.len() - before <= 2,
            "page of {} partitions",
            found.len() - before
        );
        ensure!(pages < 20, "no end");
        match response.next_cursor {
            Some(at) => cursor = Some(at),
            None => break,
        }
    }
    assert_eq!(found, expected);
    assert_eq!(pages, 5);
    Ok(())
}

#[tokio::test]
async fn behaviour_26_without_names_all_topics_are_described() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let response = page(&connection, &[], 2000, None).await?;
    let found: Vec<String> = response
        .topics
        .iter()
        .filter_map(|topic| Some(topic.name.as_ref()?.0.to_string()))
        .collect();
    ensure!(found.contains(&topic.name));
    ensure!(found.is_sorted(), "{found:?}");
    assert_eq!(response.next_cursor, None);
    let missing = unique("missing");
    let response = page(&connection, &[&topic.name, &missing], 10, None).await?;
    let codes: Vec<_> = response
        .topics
        .iter()
        .map(|topic| code(topic.error_code))
        .collect();
    ensure!(
        codes.contains(&ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) && codes.contains(&ErrorCode::NONE),
        "{codes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_27_a_deleted_topic_is_unknown_everywhere() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    try_produce(&connection, &topic, 0, batch(&["gone"])).await?;
    delete(&connection, &topic).await?;
    let found = describe(&connection, &topic.name).await?;
    assert_eq!(
        code(found.error_code),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    let unknown = [
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::UNKNOWN_TOPIC_ID,
    ];
    eventually("Produce and Fetch know it no more", || async {
        let produced = try_produce(&connection, &topic, 0, batch(&["late"])).await?;
        let fetched = fetch(&connection, &topic, 0, 0).await?;
        Ok((unknown.contains(&code(produced.error_code))
            && unknown.contains(&code(fetched.error_code)))
        .then_some(()))
    })
    .await
}

#[tokio::test]
async fn behaviour_115_endpoint_types_of_describe_cluster() -> Result<()> {
    let connection = connect().await?;
    let ask = |endpoint_type| DescribeClusterRequest::default().with_endpoint_type(endpoint_type);
    for version in 0..=2 {
        let response = connection.send_version(version, &ask(1)).await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        assert_eq!(response.brokers.len(), 1);
        let broker = &response.brokers[0];
        assert_eq!(format!("{}:{}", broker.host, broker.port), bootstrap());
        assert_eq!(broker.broker_id, response.controller_id);
        ensure!(!broker.is_fenced);
        ensure!(broker.broker_id >= BrokerId(0));
    }
    for version in 1..=2 {
        let controllers = connection.send_version(version, &ask(2)).await?;
        assert_eq!(
            code(controllers.error_code),
            ErrorCode::MISMATCHED_ENDPOINT_TYPE
        );
        let unknown = connection.send_version(version, &ask(3)).await?;
        assert_eq!(
            code(unknown.error_code),
            ErrorCode::UNSUPPORTED_ENDPOINT_TYPE
        );
    }
    Ok(())
}
