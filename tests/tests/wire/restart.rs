//! What a stop leaves in place, clean or not: behaviours 14, 19, 20, 22, 44, 49 and 78.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use klamm_protocol::messages::{BrokerId, MetadataRequest, OffsetForLeaderEpochRequest};
use klamm_tests::broker::{Broker, free_port};

use crate::batches::{batch, headers, numbered};
use crate::calls::{
    Topic, code, create, delete, describe, end_offset, fetch, fetch_answer, fetch_partition,
    fetch_request, init_producer, list_offset, name, produce, try_produce, values, wait_for,
};
use crate::offsets::delete_records;
use crate::producer_ids::producers;
use crate::rig::{connect_to, eventually, ours_only, start_over};

async fn restart(broker: Broker, dir: &Path, clean: bool) -> Result<(Broker, Connection)> {
    if clean {
        let (took, well) = broker.stop()?;
        ensure!(well && took < Duration::from_secs(2), "stopped in {took:?}");
    } else {
        broker.kill()?;
    }
    let broker = start_over(dir, &[])?;
    let connection = connect_to(&broker.address).await?;
    Ok((broker, connection))
}

async fn epoch(connection: &Connection, topic: &Topic) -> Result<i32> {
    Ok(describe(connection, &topic.name).await?.partitions[0].leader_epoch)
}

/// End of an epoch as OffsetForLeaderEpoch tells it: (epoch, offset).
async fn end_of(connection: &Connection, topic: &Topic, epoch: i32) -> Result<(i32, i64)> {
    let partition = OffsetForLeaderPartition::default()
        .with_current_leader_epoch(-1)
        .with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(name(&topic.name))
        .with_partitions(vec![partition]);
    let request = OffsetForLeaderEpochRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic]);
    let response = connection.send(&request).await?;
    let answer = &response.topics[0].partitions[0];
    ensure!(answer.error_code == 0, "{answer:?}");
    Ok((answer.leader_epoch, answer.end_offset))
}

async fn cluster_id(connection: &Connection) -> Result<String> {
    let response = connection
        .send(&MetadataRequest::default().with_topics(Some(Vec::new())))
        .await?;
    Ok(response.cluster_id.context("a cluster id")?.to_string())
}

#[tokio::test]
async fn behaviours_19_and_22_topics_settings_and_records_outlive_a_stop() -> Result<()> {
    ours_only!();
    let dir = tempfile::tempdir()?;
    let mut broker = start_over(dir.path(), &[])?;
    let mut connection = connect_to(&broker.address).await?;
    let cluster = cluster_id(&connection).await?;
    let topic = create(&connection, 3, &[("max.message.bytes", "5000")]).await?;
    let deleted = create(&connection, 1, &[]).await?;
    let written = produce(&connection, &deleted, 0, batch(&["gone"])).await?;
    assert_eq!(written, 0);
    delete(&connection, &deleted).await?;
    for value in ["a", "b", "c"] {
        produce(&connection, &topic, 2, batch(&[value])).await?;
    }
    assert_eq!(
        delete_records(&connection, &topic, 2, 1).await?,
        (ErrorCode::NONE, 1)
    );
    for (round, clean) in [(0, true), (1, false), (2, true), (3, false)] {
        (broker, connection) = restart(broker, dir.path(), clean).await?;
        assert_eq!(cluster_id(&connection).await?, cluster);
        let found = wait_for(&connection, &topic.name, 3).await?;
        assert_eq!(found.id, topic.id);
        let gone = describe(&connection, &deleted.name).await?;
        assert_eq!(code(gone.error_code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        assert_eq!(
            list_offset(&connection, &topic, 2, -2).await?.offset,
            1,
            "round {round}"
        );
        assert_eq!(values(&connection, &topic, 2).await?[..2], ["b", "c"]);
        assert_eq!(end_offset(&connection, &topic, 2).await?, 3 + round);
        let large = try_produce(&connection, &topic, 0, crate::batches::sized(6000)).await?;
        assert_eq!(code(large.error_code), ErrorCode::MESSAGE_TOO_LARGE);
        assert_eq!(
            produce(&connection, &topic, 2, batch(&["d"])).await?,
            3 + round
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviours_44_and_49_producers_outlive_a_stop() -> Result<()> {
    ours_only!();
    let dir = tempfile::tempdir()?;
    let mut broker = start_over(dir.path(), &[])?;
    let mut connection = connect_to(&broker.address).await?;
    let topic = create(&connection, 1, &[]).await?;
    let producer = init_producer(&connection).await?;
    let mut ids = vec![producer.0];
    let mut next = 0;
    let mut earlier = None;
    for clean in [true, false, true, false] {
        let mut batches = Vec::new();
        for _ in 0..6 {
            let batch = numbered(producer, next);
            assert_eq!(
                produce(&connection, &topic, 0, batch.clone()).await?,
                i64::from(next)
            );
            batches.push((next, batch));
            next += 1;
        }
        // Written by an earlier leader, and more than five followed: known, but not where it is.
        if let Some(earlier) = earlier {
            let answer = try_produce(&connection, &topic, 0, earlier).await?;
            assert_eq!(
                (code(answer.error_code), answer.base_offset),
                (ErrorCode::DUPLICATE_SEQUENCE_NUMBER, -1)
            );
        }
        earlier = Some(batches[0].1.clone());
        (broker, connection) = restart(broker, dir.path(), clean).await?;
        wait_for(&connection, &topic.name, 1).await?;
        let state = producers(&connection, &topic.name, 0).await?;
        assert_eq!(state.active_producers.len(), 1);
        assert_eq!(state.active_producers[0].last_sequence, next - 1);
        let (_, oldest) = &batches[0];
        let answer = try_produce(&connection, &topic, 0, oldest.clone()).await?;
        assert_eq!(
            code(answer.error_code),
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        );
        for (sequence, batch) in &batches[1..] {
            let answer = try_produce(&connection, &topic, 0, batch.clone()).await?;
            let found = (code(answer.error_code), answer.base_offset);
            assert_eq!(
                found,
                (ErrorCode::NONE, i64::from(*sequence)),
                "a retry across the stop, clean {clean}"
            );
        }
        let answer = try_produce(&connection, &topic, 0, numbered(producer, next + 1)).await?;
        assert_eq!(
            code(answer.error_code),
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        );
        assert_eq!(
            end_offset(&connection, &topic, 0).await?,
            i64::from(next),
            "nothing twice"
        );
        let fresh = init_producer(&connection).await?.0;
        ensure!(!ids.contains(&fresh), "{fresh} was given before: {ids:?}");
        ids.push(fresh);
    }
    Ok(())
}

#[tokio::test]
async fn behaviours_20_and_78_epochs_grow_and_their_history_stays() -> Result<()> {
    ours_only!();
    let dir = tempfile::tempdir()?;
    let mut broker = start_over(dir.path(), &[])?;
    let mut connection = connect_to(&broker.address).await?;
    let topic = create(&connection, 1, &[]).await?;
    let mut history = Vec::new();
    for round in 0..3 {
        let epoch = epoch(&connection, &topic).await?;
        ensure!(
            history.last().is_none_or(|(last, _)| *last < epoch),
            "epoch {epoch} after {history:?}"
        );
        produce(&connection, &topic, 0, batch(&["one", "two"])).await?;
        history.push((epoch, 2 * (round + 1)));
        (broker, connection) = restart(broker, dir.path(), round % 2 == 0).await?;
        wait_for(&connection, &topic.name, 1).await?;
    }
    let now = epoch(&connection, &topic).await?;
    for (epoch, end) in &history {
        assert_eq!(
            end_of(&connection, &topic, *epoch).await?,
            (*epoch, *end),
            "{history:?}"
        );
    }
    let batches = headers(
        &fetch(&connection, &topic, 0, 0)
            .await?
            .records
            .context("records")?,
    )?;
    let stamped: Vec<i32> = batches
        .iter()
        .map(|(header, _)| header.partition_leader_epoch)
        .collect();
    assert_eq!(
        stamped,
        history.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>()
    );
    // A client that believes in an old leader is fenced.
    let (old, old_end) = history[0];
    let fenced = fetch_partition(0, 0).with_current_leader_epoch(old);
    let answer = fetch_answer(
        connection
            .send(&fetch_request(&topic, vec![fenced]))
            .await?,
    )?;
    assert_eq!(code(answer.error_code), ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!(answer.current_leader.leader_epoch, now);
    // One whose log went on in an old epoch is told where that epoch ended.
    let diverged = fetch_partition(0, old_end + 1).with_last_fetched_epoch(old);
    let answer = fetch_answer(
        connection
            .send(&fetch_request(&topic, vec![diverged]))
            .await?,
    )?;
    assert_eq!(code(answer.error_code), ErrorCode::NONE);
    assert_eq!(
        (
            answer.diverging_epoch.epoch,
            answer.diverging_epoch.end_offset
        ),
        (old, old_end)
    );
    Ok(())
}

/// Whoever comes while the broker starts is told nothing worse than "not yet".
#[tokio::test]
async fn behaviour_14_a_broker_that_starts_answers_what_clients_retry() -> Result<()> {
    ours_only!();
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let address = format!("127.0.0.1:{port}");
    let broker = Broker::start(dir.path(), port, &[])?;
    let connection = connect_to(&address).await?;
    let mut topics = Vec::new();
    for _ in 0..20 {
        let topic = create(&connection, 2, &[]).await?;
        produce(&connection, &topic, 0, batch(&["before"])).await?;
        topics.push(topic);
    }
    broker.kill()?;
    let path = dir.path().to_owned();
    let starting = tokio::task::spawn_blocking(move || Broker::start(&path, port, &[]));
    let began = Instant::now();
    let connection = eventually("the port opens", || async {
        Ok(connect_to(&address).await.ok())
    })
    .await?;
    let mut served = 0;
    while served < topics.len() {
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "only {served} topics are served"
        );
        served = 0;
        for topic in &topics {
            let described = describe(&connection, &topic.name).await?;
            // An unknown topic makes a consumer forget it: once the port is open it is known.
            assert_ne!(
                code(described.error_code),
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            );
            let fetched = code(fetch(&connection, topic, 0, 0).await?.error_code);
            let produced = code(
                try_produce(&connection, topic, 1, batch(&["after"]))
                    .await?
                    .error_code,
            );
            let listed = code(list_offset(&connection, topic, 0, -1).await?.error_code);
            for found in [fetched, produced, listed] {
                ensure!(found.is_none() || found.is_retriable(), "{found}");
            }
            served += usize::from([fetched, produced, listed] == [ErrorCode::NONE; 3]);
        }
    }
    starting.await??;
    Ok(())
}
