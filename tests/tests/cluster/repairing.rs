//! Replicas whose log is damaged: they are replaced by new ones that the others fill, while clients go on; never where
//! the others could not go on without them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_client::{Client, NewMessage, PartitionReader, Producer, ProducerOptions, ReaderOptions};
use klamm_protocol::StrBytes;
use klamm_protocol::messages::elect_leaders_request::TopicPartitions;
use klamm_protocol::messages::{ElectLeadersRequest, TopicName};
use klamm_tests::cluster::Cluster;
use klamm_tests::history::value;
use klamm_tests::rot::{first_segment, flip, large_frames, rot};

use crate::nearest::{NONE, SETTINGS, VERSION, fetch};
use crate::rig::{client, create, eventually, leader, topic, topic_is};

const TOPIC: &str = "t";
/// A batch of one is in the journal whole, and once.
const LARGE: usize = 60_000;
/// Three segments of a mebibyte.
const RECORDS: u64 = 45;
const KAFKA_STORAGE_ERROR: i16 = 56;

fn record(number: u64) -> Vec<u8> {
    value(1, number, LARGE)
}

async fn write(producer: &Producer, number: u64) -> Result<()> {
    let message = NewMessage {
        value: Some(record(number).into()),
        ..NewMessage::default()
    };
    let sent = producer.send(TOPIC, Some(0), message).await?.await?;
    ensure!(sent.offset == i64::try_from(number)?, "{}", sent.offset);
    Ok(())
}

/// A producer that goes on until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<u64>>,
}

impl Writer {
    fn start(client: &Client) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let producer = Producer::new(client.clone(), ProducerOptions::default());
        let task = tokio::spawn(async move {
            let mut next = RECORDS;
            while !stopped.load(Ordering::Relaxed) {
                write(&producer, next).await?;
                next += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(next)
        });
        Writer { stop, task }
    }

    /// How many records there are.
    async fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Three nodes, and a topic with one partition that is in sync everywhere.
struct Rig {
    cluster: Cluster,
    client: Client,
    id: String,
    leader: i32,
    follower: i32,
    third: i32,
}

impl Rig {
    async fn start() -> Result<Rig> {
        let cluster = Cluster::start(3, &SETTINGS)?;
        let client = client(&cluster).await?;
        let mut wanted = topic(TOPIC, 1, 3);
        wanted.configs = vec![("segment.bytes".to_owned(), (1 << 20).to_string())];
        create(&client, wanted).await?;
        let found = topic_is(&client, TOPIC, |partition| partition.in_sync.len() == 3).await?;
        let leader = leader(&found, 0)?;
        let mut others = (1..=3).filter(|id| *id != leader);
        let follower = others.next().context("a follower")?;
        let third = others.next().context("another one")?;
        let producer = Producer::new(client.clone(), ProducerOptions::default());
        for number in 0..RECORDS {
            write(&producer, number).await?;
        }
        let rig = Rig {
            id: found.id.to_string(),
            leader,
            follower,
            third,
            client,
            cluster,
        };
        // Who is damaged below has all of it.
        rig.logs_are_the_same([0, 0, 0]).await?;
        Ok(rig)
    }

    /// The folder of the partition on a node, as the replica with this number there.
    fn folder(&self, node: i32, number: u32) -> PathBuf {
        let name = match number {
            0 => format!("{}-0", self.id),
            _ => format!("{}-0.{number}", self.id),
        };
        self.cluster.node(node).dir.join("data").join(name)
    }

    /// Stops a node, and flips a bit in the middle of its first segment. Answers the offset it hit.
    fn damage(&mut self, node: i32) -> Result<i64> {
        self.cluster.stop(node)?;
        let hit = rot(&first_segment(&self.folder(node, 0))?)?;
        ensure!(hit > 2, "the middle of a segment, not offset {hit}");
        Ok(hit)
    }

    async fn all_are_in_sync(&self) -> Result<()> {
        let all = |partition: &klamm_client::Partition| partition.in_sync.len() == 3;
        topic_is(&self.client, TOPIC, all).await.map(drop)
    }

    /// The error that a consumer in a node's rack gets there, at an offset.
    async fn error_at(&self, node: i32, offset: i64) -> Result<i16> {
        let there = self.client.connect_to(node).await?;
        let rack = format!("rack-{node}");
        let answer = fetch(&there, VERSION, &rack, offset, Duration::ZERO).await?;
        Ok(answer.error_code)
    }

    fn metric(&self, node: i32, series: &str) -> Result<String> {
        let (_, metrics) = self.cluster.node(node).get("/metrics")?;
        let line = metrics.lines().find(|line| line.starts_with(series));
        let line = line.with_context(|| format!("no {series}"))?;
        Ok(line[series.len()..].trim().to_owned())
    }

    fn repairs(&self, node: i32) -> Result<[String; 3]> {
        let count = |outcome: &str| {
            let series = format!("klamm_replica_repairs_total{{outcome=\"{outcome}\"}}");
            self.metric(node, &series)
        };
        Ok([count("begun")?, count("finished")?, count("abandoned")?])
    }

    /// Waits until a node's replica was replaced by the next, and nothing is left of it.
    async fn replaced(&self, node: i32) -> Result<()> {
        eventually(async || {
            let repairs = self.repairs(node)?;
            ensure!(repairs == ["1", "1", "0"], "{repairs:?}");
            let damaged = self.metric(node, "klamm_replicas_damaged")?;
            ensure!(damaged == "0", "{damaged} are damaged");
            ensure!(self.folder(node, 1).exists());
            ensure!(!self.folder(node, 0).exists(), "the old one is there");
            Ok(())
        })
        .await
        .with_context(|| self.cluster.node(node).log())?;
        self.all_are_in_sync().await
    }

    /// Waits until the nodes have the same bytes, with these numbers of their replicas.
    async fn logs_are_the_same(&self, numbers: [u32; 3]) -> Result<()> {
        eventually(async || {
            let folders = (1..=3).zip(numbers);
            let logs = folders.map(|(node, number)| log_bytes(&self.folder(node, number)));
            let logs: Vec<Vec<u8>> = logs.collect::<Result<_>>()?;
            let lengths: Vec<usize> = logs.iter().map(Vec::len).collect();
            ensure!(logs.iter().all(|log| *log == logs[0]), "{lengths:?}");
            ensure!(
                lengths[0] > LARGE * usize::try_from(RECORDS)?,
                "{lengths:?}"
            );
            Ok(())
        })
        .await
    }

    /// All records are there, through clients.
    async fn read_all(&self, records: u64) -> Result<()> {
        let options = ReaderOptions::default();
        let mut reader = PartitionReader::new(self.client.clone(), TOPIC, 0, 0, options);
        let mut next = 0;
        while next < records {
            for message in reader.poll().await?.messages {
                ensure!(message.offset == i64::try_from(next)?);
                ensure!(message.value.as_deref() == Some(&record(next)), "{next}");
                next += 1;
            }
        }
        ensure!(next == records, "{next} records instead of {records}");
        Ok(())
    }

    fn numbers(&self, replaced: i32) -> [u32; 3] {
        [1, 2, 3].map(|node| u32::from(node == replaced))
    }
}

/// What a partition's folder holds, in order.
fn log_bytes(folder: &Path) -> Result<Vec<u8>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            segments.push(path);
        }
    }
    segments.sort();
    let mut bytes = Vec::new();
    for segment in segments {
        bytes.extend(fs::read(segment)?);
    }
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_with_a_rotten_segment_is_replaced() -> Result<()> {
    let mut rig = Rig::start().await?;
    let follower = rig.follower;
    let hit = rig.damage(follower)?;
    rig.cluster.boot(follower)?;
    rig.all_are_in_sync().await?;
    ensure!(
        rig.repairs(follower)? == ["0", "0", "0"],
        "nobody has read it"
    );
    let writer = Writer::start(&rig.client);
    eventually(async || {
        let error = rig.error_at(follower, hit).await?;
        ensure!(error == KAFKA_STORAGE_ERROR, "{error}");
        Ok(())
    })
    .await?;
    ensure!(rig.metric(follower, "klamm_corruptions_total")? == "1");
    rig.replaced(follower).await?;
    eventually(async || {
        let error = rig.error_at(follower, hit).await?;
        ensure!(error == NONE, "{error}");
        Ok(())
    })
    .await?;
    let records = writer.finish().await?;
    ensure!(records > RECORDS, "nothing was written meanwhile");
    rig.logs_are_the_same(rig.numbers(follower)).await?;
    rig.read_all(records).await?;
    let log = rig.cluster.node(follower).log();
    ensure!(log.contains("a damaged replica is to be replaced"), "{log}");
    ensure!(log.contains("the damaged replica is replaced"), "{log}");
    // It counts: with one of the others it is a majority.
    rig.cluster.kill(rig.third)?;
    let producer = Producer::new(rig.client.clone(), ProducerOptions::default());
    write(&producer, records).await?;
    // And it stays what it is through a crash.
    rig.cluster.boot(rig.third)?;
    rig.cluster.kill(follower)?;
    rig.cluster.boot(follower)?;
    rig.all_are_in_sync().await?;
    ensure!(rig.repairs(follower)? == ["0", "0", "0"]);
    rig.read_all(records + 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_journal_lost_operations_is_replaced() -> Result<()> {
    let mut rig = Rig::start().await?;
    let follower = rig.follower;
    rig.cluster.kill(follower)?;
    let frames = large_frames(&rig.cluster.node(follower).dir.join("data"), LARGE)?;
    let (file, frame) = frames.get(frames.len() / 2).context("large batches")?;
    flip(file, frame + 500)?;
    let writer = Writer::start(&rig.client);
    rig.cluster.boot(follower)?;
    rig.replaced(follower).await?;
    let records = writer.finish().await?;
    rig.logs_are_the_same(rig.numbers(follower)).await?;
    rig.read_all(records).await?;
    let log = rig.cluster.node(follower).log();
    ensure!(log.contains("the log is quarantined"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_rotten_segment_hands_on_and_is_replaced() -> Result<()> {
    let mut rig = Rig::start().await?;
    let damaged = rig.leader;
    let hit = rig.damage(damaged)?;
    rig.cluster.boot(damaged)?;
    rig.all_are_in_sync().await?;
    let asked = TopicPartitions::default()
        .with_topic(TopicName(StrBytes::from_static_str(TOPIC)))
        .with_partitions(vec![0]);
    let request = ElectLeadersRequest::default()
        .with_topic_partitions(Some(vec![asked]))
        .with_timeout_ms(20_000);
    eventually(async || {
        let connection = rig.client.connect_to(rig.third).await?;
        connection.send(&request).await?;
        let found = rig.client.refresh_topic(TOPIC).await?;
        let leads = leader(&found, 0)?;
        ensure!(leads == damaged, "{leads} leads");
        Ok(())
    })
    .await?;
    // What is damaged is read there, and then elsewhere.
    let options = ReaderOptions::default();
    let mut reader = PartitionReader::new(rig.client.clone(), TOPIC, 0, hit, options);
    eventually(async || {
        let fetched = reader.poll().await?;
        let first = fetched.messages.first().context("a message")?;
        ensure!(first.offset == hit, "{}", first.offset);
        Ok(())
    })
    .await?;
    rig.replaced(damaged).await?;
    rig.logs_are_the_same(rig.numbers(damaged)).await?;
    rig.read_all(RECORDS).await?;
    let log = rig.cluster.node(damaged).log();
    ensure!(log.contains("hands on leadership"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_of_others_nothing_is_given_up() -> Result<()> {
    let mut rig = Rig::start().await?;
    let follower = rig.follower;
    let hit = rig.damage(follower)?;
    rig.cluster.kill(rig.third)?;
    rig.cluster.boot(follower)?;
    let two = |partition: &klamm_client::Partition| {
        partition.in_sync.len() == 2 && partition.leader == Some(rig.leader)
    };
    topic_is(&rig.client, TOPIC, two).await?;
    for _ in 0..2 {
        eventually(async || {
            let error = rig.error_at(follower, hit).await?;
            ensure!(error == KAFKA_STORAGE_ERROR, "{error}");
            Ok(())
        })
        .await?;
        // Long enough for several looks.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    let log = rig.cluster.node(follower).log();
    ensure!(
        log.contains("a damaged replica is not replaced yet"),
        "{log}"
    );
    ensure!(rig.repairs(follower)? == ["0", "0", "0"]);
    ensure!(rig.metric(follower, "klamm_replicas_damaged")? == "1");
    ensure!(rig.folder(follower, 0).exists() && !rig.folder(follower, 1).exists());
    // It is of use: with the leader it is the majority.
    let producer = Producer::new(rig.client.clone(), ProducerOptions::default());
    write(&producer, RECORDS).await?;
    rig.cluster.boot(rig.third)?;
    rig.replaced(follower).await?;
    rig.logs_are_the_same(rig.numbers(follower)).await?;
    rig.read_all(RECORDS + 1).await
}
