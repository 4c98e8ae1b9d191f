//! Clients that behave: every record is acknowledged once and read once, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::{
    Client, Codec, NewMessage, NewTopic, OffsetToCommit, PartitionReader, Producer,
    ProducerOptions, ReaderOptions, TopicPartition,
};
use klamm_tests::group::{self, Consumers, Ledger};
use klamm_tests::history::{parse, value};
use klamm_tests::load;
use tokio::task::JoinHandle;

use crate::samples::Samples;
use crate::{Counts, KEYED, PARTITIONS, TOPIC};

const PRODUCERS: u32 = 6;
/// Records that a producer writes at once, and its pause after that.
const BURST: u64 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// Readers may be this far behind when producers end.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Groups whose commits are held against what is found again.
const GROUPS: i64 = 50;
/// More than the longest of openraft's queues is.
const WALK: i64 = 9_000;

/// How often what a group has committed is looked at.
const LOOKS: Duration = Duration::from_secs(5);

/// Starts all of them.
pub(crate) fn start(
    client: &Client,
    address: &str,
    counts: &Arc<Counts>,
    samples: &Arc<Samples>,
) -> Vec<JoinHandle<Result<()>>> {
    let mut tasks = Vec::new();
    for producer in 0..PRODUCERS {
        tasks.push(tokio::spawn(produce(
            client.clone(),
            producer,
            counts.clone(),
            samples.clone(),
        )));
    }
    for partition in 0..PARTITIONS {
        tasks.push(tokio::spawn(consume(
            client.clone(),
            partition,
            counts.clone(),
        )));
    }
    tasks.push(tokio::spawn(commit(client.clone(), counts.clone())));
    tasks.push(tokio::spawn(topics(client.clone(), counts.clone())));
    tasks.push(tokio::spawn(members(address.to_owned(), counts.clone())));
    tasks.push(tokio::spawn(keyed(client.clone(), counts.clone())));
    tasks
}

/// The groups' first commits: as many as let each partition that keeps them walk once through openraft's queues,
/// which are rings, made in full size with the group (raft/README.md, "Costs"). At the rate of [`commit`] that
/// takes hours, and would hide behind 0.7 MB a partition what grows for ever.
pub(crate) async fn walk(address: &str) -> Result<()> {
    let mut groups = tokio::task::JoinSet::new();
    for number in 0..GROUPS {
        let client = Client::connect(address, load::patient()).await?;
        groups.spawn(async move {
            for _ in 0..WALK {
                commit_one(&client, &group_name(number), 0).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = groups.join_next().await {
        ended??;
    }
    Ok(())
}

fn group_name(number: i64) -> String {
    format!("soak-{}", number % GROUPS)
}

/// What every group here commits for.
fn committed_at() -> TopicPartition {
    TopicPartition {
        topic: TOPIC.to_owned(),
        partition: 0,
    }
}

async fn commit_one(client: &Client, group: &str, offset: i64) -> Result<()> {
    let at = committed_at();
    for committed in client
        .commit_offsets(group, &[OffsetToCommit { at, offset }])
        .await?
    {
        committed?;
    }
    Ok(())
}

async fn produce(
    client: Client,
    number: u32,
    counts: Arc<Counts>,
    samples: Arc<Samples>,
) -> Result<()> {
    let options = ProducerOptions {
        codec: [Codec::None, Codec::Lz4, Codec::Zstd][number as usize % 3],
        linger: Duration::from_millis(2),
        ..ProducerOptions::default()
    };
    let producer = Producer::new(client, options);
    // One partition each: order is by partition.
    let partition = i32::try_from(number)? % PARTITIONS;
    let mut next = 0;
    while counts.goes_on() {
        let began = Instant::now();
        let mut deliveries = Vec::new();
        for record in next..next + BURST {
            let size = if record % 97 == 96 { 60_000 } else { 300 };
            let message = NewMessage {
                value: Some(value(number, record, size).into()),
                ..NewMessage::default()
            };
            deliveries.push(producer.send(TOPIC, Some(partition), message).await?);
        }
        for delivery in deliveries {
            delivery.await.context("a record was refused")?;
        }
        samples.write(began.elapsed());
        next += BURST;
        counts.produced.fetch_add(BURST, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Follows a partition and holds each producer's records against each other.
async fn consume(client: Client, partition: i32, counts: Arc<Counts>) -> Result<()> {
    let options = ReaderOptions::default();
    let mut reader = PartitionReader::new(client, TOPIC, partition, 0, options);
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    let mut ending: Option<Instant> = None;
    loop {
        let messages = reader.poll().await?.messages;
        if !counts.goes_on() {
            let ending = ending.get_or_insert_with(Instant::now);
            if messages.is_empty() {
                return Ok(());
            }
            ensure!(
                ending.elapsed() < CATCH_UP,
                "partition {partition}: the reader is behind"
            );
        }
        for message in messages {
            let bytes = message.value.context("every record has a value")?;
            let at = format!("partition {partition} offset {}", message.offset);
            let (producer, number) = parse(&bytes).with_context(|| format!("altered: {at}"))?;
            let due = last.insert(producer, number).map_or(0, |last| last + 1);
            ensure!(
                number == due,
                "{at}: {producer}:{number} where {due} is due"
            );
            counts.consumed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Commits for many groups; what was committed is found again.
async fn commit(client: Client, counts: Arc<Counts>) -> Result<()> {
    let mut offset = 0;
    while counts.goes_on() {
        offset += 1;
        let group = group_name(offset);
        commit_one(&client, &group, offset).await?;
        let found = client.committed_offsets(&group, None).await?;
        let found = found.get(&committed_at()).map(|found| found.offset);
        ensure!(found == Some(offset), "{group}: {found:?} for {offset}");
        counts.committed.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE / 2).await;
    }
    Ok(())
}

/// A group whose members read and commit; what the broker says of their commits is held against
/// theirs.
async fn members(address: String, counts: Arc<Counts>) -> Result<()> {
    let consumers = Consumers::start(&address, 3).await?;
    while counts.goes_on() {
        let floor = consumers.ledger(Ledger::floor);
        let found = group::committed(&address).await?;
        consumers.ledger(|ledger| ledger.check(&floor, &found))?;
        counts.groups.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(LOOKS).await;
    }
    consumers.finish().await?;
    Ok(())
}

/// Creates topics, writes to them and deletes them.
async fn topics(client: Client, counts: Arc<Counts>) -> Result<()> {
    let mut number = 0;
    while counts.goes_on() {
        number += 1;
        let name = format!("soak-{number}");
        let topic = NewTopic {
            name: name.clone(),
            partitions: Some(2),
            replication_factor: Some(1),
            configs: Vec::new(),
        };
        for created in client.create_topics(&[topic], false).await? {
            created?;
        }
        let producer = Producer::new(client.clone(), ProducerOptions::default());
        let message = NewMessage {
            value: Some(vec![1; 2000].into()),
            ..NewMessage::default()
        };
        producer.send(&name, Some(0), message).await?.await?;
        drop(producer);
        for deleted in client.delete_topics(&[name.as_str()]).await? {
            deleted?;
        }
        counts.topics.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE * 5).await;
    }
    Ok(())
}

/// Writes newer values of the same keys to the topic that is compacted.
async fn keyed(client: Client, counts: Arc<Counts>) -> Result<()> {
    let producer = Producer::new(client, ProducerOptions::default());
    let mut number: u64 = 0;
    while counts.goes_on() {
        let mut deliveries = Vec::new();
        for _ in 0..BURST {
            number += 1;
            let message = NewMessage {
                key: Some((number % 500).to_be_bytes().to_vec().into()),
                value: Some(value(0, number, 1000).into()),
                ..NewMessage::default()
            };
            let partition = i32::try_from(number % 500)? % PARTITIONS;
            deliveries.push(producer.send(KEYED, Some(partition), message).await?);
        }
        for delivery in deliveries {
            delivery.await.context("a keyed record was refused")?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
