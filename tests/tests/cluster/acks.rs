//! What `acks` mean among three nodes.

use std::time::Duration;

use anyhow::{Result, ensure};
use klamm_client::{ConfigChange, ConfigResource, Connection};
use klamm_protocol::messages::{ApiVersionsRequest, InitProducerIdRequest};
use klamm_records::BatchBuilder;
use klamm_tests::cluster::Cluster;
use rustix::process::Signal;

use crate::rig::{
    client, create, eventually, leader, produce_request, produce_request_by, topic, topic_is,
};

/// The last version that names topics.
const VERSION: i16 = 12;
/// Well below the silence after which a leader knows that it is alone.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_with_before_a_majority_has_it() -> Result<()> {
    let cluster = Cluster::start(3, &[])?;
    let client = client(&cluster).await?;
    create(&client, topic("t", 1, 3)).await?;
    let found = topic_is(&client, "t", |partition| partition.in_sync.len() == 3).await?;
    let leader = leader(&found, 0)?;
    let connection = client.connect_to(leader).await?;
    let others = || (1..=3).filter(|id| *id != leader);
    let pause = || others().try_for_each(|id| cluster.pause(id));
    let go_on = || others().try_for_each(|id| cluster.signal(id, Signal::CONT));

    pause()?;
    let produced = connection
        .start(VERSION, &produce_request("t", 1)?)
        .await?
        .wait();
    tokio::pin!(produced);
    let early = tokio::time::timeout(A_WHILE, &mut produced).await;
    go_on()?;
    ensure!(early.is_err(), "acks=1: {early:?}");
    let answer = produced.await?;
    let partition = &answer.responses[0].partition_responses[0];
    ensure!(
        (partition.error_code, partition.base_offset) == (0, 0),
        "{answer:?}"
    );

    // Not answered, but in progress: what comes behind it waits.
    pause()?;
    connection
        .send_unanswered(VERSION, &produce_request("t", 0)?)
        .await?;
    let behind = connection
        .start(3, &ApiVersionsRequest::default())
        .await?
        .wait();
    tokio::pin!(behind);
    let early = tokio::time::timeout(A_WHILE, &mut behind).await;
    go_on()?;
    ensure!(early.is_err(), "acks=0: {early:?}");
    behind.await?;
    let answer = connection
        .send_version(VERSION, &produce_request("t", 1)?)
        .await?;
    let partition = &answer.responses[0].partition_responses[0];
    ensure!(
        (partition.error_code, partition.base_offset) == (0, 2),
        "{answer:?}"
    );
    Ok(())
}

/// Error codes of Produce.
const NONE: i16 = 0;
const NOT_ENOUGH_REPLICAS: i16 = 19;
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;

/// Id and epoch of an idempotent producer.
async fn new_producer(connection: &Connection) -> Result<(i64, i16)> {
    let asked = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let given = connection.send_version(4, &asked).await?;
    ensure!(given.error_code == NONE, "{given:?}");
    Ok((given.producer_id.0, given.producer_epoch))
}

/// Error code of a batch, and where it was appended.
async fn produced(connection: &Connection, batch: BatchBuilder) -> Result<(i16, i64)> {
    let request = produce_request_by("t", -1, batch)?;
    let answer = connection.send_version(VERSION, &request).await?;
    let partition = &answer.responses[0].partition_responses[0];
    Ok((partition.error_code, partition.base_offset))
}

/// librdkafka takes OUT_OF_ORDER_SEQUENCE_NUMBER behind a failed batch as the end of its epoch, and then sends again
/// in another one what may have been written; a producer that the log does not know may begin anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_refused_batch_is_refused_until_that_comes_again() -> Result<()> {
    let mut cluster = Cluster::start(3, &["min.insync.replicas=1"])?;
    let client = client(&cluster).await?;
    create(&client, topic("t", 1, 3)).await?;
    let found = topic_is(&client, "t", |partition| partition.in_sync.len() == 3).await?;
    let leader = leader(&found, 0)?;
    let connection = client.connect_to(leader).await?;
    let away = (1..=3).find(|id| *id != leader).unwrap_or_default();
    cluster.kill(away)?;
    topic_is(&client, "t", |partition| partition.in_sync.len() == 2).await?;
    let produce = |batch| produced(&connection, batch);
    // Until a batch without producer meets it.
    let required = async |replicas: &str, expect: i16| {
        let change = ConfigChange::Set("min.insync.replicas".to_owned(), replicas.to_owned());
        let of = ConfigResource::Topic("t".to_owned());
        client.alter_configs(&of, &[change]).await?;
        eventually(async || {
            let (code, offset) = produce(BatchBuilder::new()).await?;
            ensure!(code == expect, "{code}");
            Ok(offset)
        })
        .await
    };
    for known in [false, true] {
        let (id, epoch) = new_producer(&connection).await?;
        let by = |sequence| produce(BatchBuilder::new().producer(id, epoch, sequence));
        let first = i32::from(known);
        if known {
            ensure!(by(0).await?.0 == NONE);
        }
        required("3", NOT_ENOUGH_REPLICAS).await?;
        for n in first..first + 2 {
            ensure!(by(n).await?.0 == NOT_ENOUGH_REPLICAS);
        }
        let offset = required("1", NONE).await?;
        for n in first + 1..first + 4 {
            let (code, _) = by(n).await?;
            ensure!(code == NOT_ENOUGH_REPLICAS, "known {known}, {n}: {code}");
        }
        for n in 0..4 {
            let expect = (NONE, offset + 1 + i64::from(n));
            let met = by(first + n).await?;
            ensure!(met == expect, "known {known}, {n}: {met:?}, {expect:?}");
        }
        // A gap that nobody was asked to make good is Kafka's error.
        ensure!(by(first + 5).await?.0 == OUT_OF_ORDER_SEQUENCE_NUMBER);
    }
    Ok(())
}

const NOT_LEADER_OR_FOLLOWER: i16 = 6;
/// A new leader waits no longer for what it may have missed, with some to spare.
const NO_LONGER_NEW: Duration = Duration::from_secs(11);

/// librdkafka has a thread for each broker: what the former leader refused may come to the new one behind what was sent there later.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_waits_for_batches_that_others_overtook() -> Result<()> {
    let mut cluster = Cluster::start(3, &["min.insync.replicas=1"])?;
    let client = client(&cluster).await?;
    create(&client, topic("t", 1, 3)).await?;
    let found = topic_is(&client, "t", |partition| partition.in_sync.len() == 3).await?;
    let former = leader(&found, 0)?;
    let connection = client.connect_to(former).await?;
    let mut producers = Vec::new();
    for _ in 0..2 {
        let (id, epoch) = new_producer(&connection).await?;
        let first = BatchBuilder::new().producer(id, epoch, 0);
        ensure!(produced(&connection, first).await?.0 == NONE);
        producers.push((id, epoch));
    }
    // Whose state has expired, for all that the first leader knows.
    let (expired, epoch) = new_producer(&connection).await?;
    let late = BatchBuilder::new().producer(expired, epoch, 7);
    ensure!(produced(&connection, late).await?.0 == NONE);
    // These have sent nothing yet that came to the log.
    for _ in 0..2 {
        producers.push(new_producer(&connection).await?);
    }
    cluster.kill(former)?;
    let found = topic_is(&client, "t", |partition| {
        partition.leader.is_some_and(|leader| leader != former)
    })
    .await?;
    let connection = client.connect_to(leader(&found, 0)?).await?;
    let produce = async |producer: usize, sequence| -> Result<i16> {
        let (id, epoch) = producers[producer];
        let batch = BatchBuilder::new().producer(id, epoch, sequence);
        Ok(produced(&connection, batch).await?.0)
    };
    // In this order: none is appended before the ones that it follows.
    for (sequence, expect) in [
        (2, NOT_LEADER_OR_FOLLOWER),
        (3, NOT_LEADER_OR_FOLLOWER),
        (1, NONE),
        (3, NOT_LEADER_OR_FOLLOWER),
        (2, NONE),
        (3, NONE),
        (5, OUT_OF_ORDER_SEQUENCE_NUMBER),
    ] {
        let code = produce(0, sequence).await?;
        ensure!(code == expect, "{sequence}: {code}");
    }
    ensure!(produce(1, 2).await? == NOT_LEADER_OR_FOLLOWER);
    for (sequence, expect) in [(1, NOT_LEADER_OR_FOLLOWER), (0, NONE), (1, NONE)] {
        let code = produce(2, sequence).await?;
        ensure!(code == expect, "unknown, {sequence}: {code}");
    }
    ensure!(produce(3, 7).await? == NOT_LEADER_OR_FOLLOWER);
    tokio::time::sleep(NO_LONGER_NEW).await;
    ensure!(produce(3, 7).await? == NONE);
    let code = produce(1, 2).await?;
    ensure!(
        code == OUT_OF_ORDER_SEQUENCE_NUMBER,
        "it never came: {code}"
    );
    Ok(())
}
