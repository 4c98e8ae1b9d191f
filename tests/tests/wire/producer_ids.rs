//! InitProducerId and DescribeProducers: behaviours 44 and 119.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::DescribeProducersRequest;
use klamm_protocol::messages::describe_producers_request::TopicRequest;
use klamm_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState};

use crate::batches::now_ms;
use crate::calls::{code, connect_and_create, init_producer, init_producer_request, name, produce};
use crate::idempotence::several;
use crate::rig::{connect, unique};

pub(crate) async fn producers(
    connection: &Connection,
    topic: &str,
    partition: i32,
) -> Result<PartitionResponse> {
    let asked = TopicRequest::default()
        .with_name(name(topic))
        .with_partition_indexes(vec![partition]);
    let response = connection
        .send(&DescribeProducersRequest::default().with_topics(vec![asked]))
        .await?;
    ensure!(
        response.topics.len() == 1 && response.topics[0].partitions.len() == 1,
        "{response:?}"
    );
    Ok(response.topics[0].partitions[0].clone())
}

#[tokio::test]
async fn behaviour_44_every_producer_gets_an_id_of_its_own() -> Result<()> {
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let connection = connect().await?;
        ensure!(seen.insert(init_producer(&connection).await?.0));
        for version in 0..=5 {
            let mut request = init_producer_request();
            if version < 3 {
                request = klamm_protocol::messages::InitProducerIdRequest::default()
                    .with_transactional_id(None)
                    .with_transaction_timeout_ms(60_000);
            }
            let response = connection.send_version(version, &request).await?;
            assert_eq!(code(response.error_code), ErrorCode::NONE);
            assert_eq!(response.producer_epoch, 0, "version {version}");
            ensure!(response.producer_id.0 >= 0);
            ensure!(
                seen.insert(response.producer_id.0),
                "{} twice",
                response.producer_id.0
            );
        }
    }
    Ok(())
}

/// Without a transactional id what the client claims to be is of no interest, unless it is
/// half a claim.
#[tokio::test]
async fn behaviour_44_an_id_that_is_claimed_is_not_continued() -> Result<()> {
    let connection = connect().await?;
    let (id, epoch) = init_producer(&connection).await?;
    let request = init_producer_request()
        .with_producer_id(klamm_protocol::messages::ProducerId(id))
        .with_producer_epoch(epoch);
    let response = connection.send(&request).await?;
    assert_eq!(code(response.error_code), ErrorCode::NONE);
    ensure!(
        response.producer_id.0 != id && response.producer_epoch == 0,
        "{response:?}"
    );
    for (id, epoch) in [(id, -1), (-1, 0)] {
        let request = init_producer_request()
            .with_producer_id(klamm_protocol::messages::ProducerId(id))
            .with_producer_epoch(epoch);
        let response = connection.send(&request).await?;
        assert_eq!(
            code(response.error_code),
            ErrorCode::INVALID_REQUEST,
            "{id} {epoch}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_119_describe_producers_tells_the_state() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    assert_eq!(
        producers(&connection, &topic.name, 0)
            .await?
            .active_producers,
        Vec::<ProducerState>::new()
    );
    let producer = init_producer(&connection).await?;
    let before = now_ms();
    produce(&connection, &topic, 0, several(producer, 0, 5)).await?;
    let mut state = producers(&connection, &topic.name, 0).await?;
    assert_eq!(code(state.error_code), ErrorCode::NONE);
    let state = state.active_producers.pop().context("one producer")?;
    assert_eq!((state.producer_id.0, state.producer_epoch), (producer.0, 0));
    assert_eq!(state.last_sequence, 4);
    ensure!(
        (before..=now_ms()).contains(&state.last_timestamp),
        "{state:?}"
    );
    assert_eq!(state.current_txn_start_offset, -1);
    assert_eq!(state.coordinator_epoch, -1);
    let unknown = producers(&connection, &topic.name, 9).await?;
    assert_eq!(
        code(unknown.error_code),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    let unknown = producers(&connection, &unique("missing"), 0).await?;
    assert_eq!(
        code(unknown.error_code),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    Ok(())
}
