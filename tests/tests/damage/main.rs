//! A disk that lies and a disk that fails: damage in the middle of a log costs what it hit and
//! nothing else, and a failed write ends the process before it can acknowledge what is not there.

mod start;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::{
    Client, ClientOptions, Message, NewMessage, NewTopic, PartitionReader, Producer,
    ProducerOptions, ReaderOptions,
};
use klamm_protocol::ErrorCode;
use klamm_tests::broker::{Broker, free_port};
use klamm_tests::history::value;
use klamm_tests::load::{self, Load};
use klamm_tests::rot::{first_segment, rot};
use klamm_tests::volume::Volume;

const TOPIC: &str = "rotten";
const RECORD_BYTES: usize = 60_000;
/// More than two segments of 1 MiB in each partition.
const RECORDS: u64 = 45;

/// A client that gives up soon: what is damaged stays so.
fn impatient() -> ClientOptions {
    ClientOptions {
        retry_timeout: Duration::from_millis(300),
        ..ClientOptions::default()
    }
}

/// Writes records to both partitions of [`TOPIC`], a batch each. Answers the topic's id.
async fn fill(address: &str) -> Result<String> {
    let client = Client::connect(address, ClientOptions::default()).await?;
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions: Some(2),
        replication_factor: Some(1),
        configs: vec![("segment.bytes".to_owned(), (1 << 20).to_string())],
    };
    let created = client.create_topics(&[topic], false).await?;
    let id = created.into_iter().next().context("one result")??.id;
    let producer = Producer::new(client, ProducerOptions::default());
    for number in 0..RECORDS {
        for partition in 0..2 {
            write(&producer, partition, number).await?;
        }
    }
    Ok(id.to_string())
}

async fn write(producer: &Producer, partition: i32, number: u64) -> Result<i64> {
    let message = NewMessage {
        value: Some(record(partition, number).into()),
        ..NewMessage::default()
    };
    Ok(producer
        .send(TOPIC, Some(partition), message)
        .await?
        .await?
        .offset)
}

fn record(partition: i32, number: u64) -> Vec<u8> {
    value(partition.unsigned_abs(), number, RECORD_BYTES)
}

fn is_storage_error(error: &klamm_client::Error) -> bool {
    let refused = error.server_error();
    refused.is_some_and(|error| error.code == ErrorCode::KAFKA_STORAGE_ERROR)
}

/// What can be read from an offset on, up to `end` or to the first refusal.
async fn read(
    client: &Client,
    partition: i32,
    from: i64,
    end: i64,
) -> (Vec<Message>, Option<klamm_client::Error>) {
    let options = ReaderOptions::default();
    let mut reader = PartitionReader::new(client.clone(), TOPIC, partition, from, options);
    let mut messages = Vec::new();
    while reader.position() < end {
        match reader.poll().await {
            Ok(fetched) => messages.extend(fetched.messages),
            Err(error) => return (messages, Some(error)),
        }
    }
    (messages, None)
}

/// Offsets `from..to` with their own values, and nothing else.
fn check(partition: i32, messages: &[Message], from: i64, to: i64) -> Result<()> {
    let offsets: Vec<i64> = messages.iter().map(|message| message.offset).collect();
    ensure!(
        offsets == (from..to).collect::<Vec<_>>(),
        "{offsets:?} instead of {from}..{to}"
    );
    for message in messages {
        let expected = record(partition, u64::try_from(message.offset)?);
        ensure!(
            message.value.as_deref() == Some(&expected),
            "offset {} has another value",
            message.offset
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_log_costs_what_it_hit_and_nothing_else() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let broker = Broker::start(&data, 0, &[])?;
    let id = fill(&broker.address).await?;
    broker.stop()?;
    let segment = first_segment(&data.join(format!("{id}-0")))?;
    let hit = rot(&segment)?;
    ensure!(hit > 2, "the middle of a segment, not offset {hit}");
    let damaged = std::fs::read(&segment)?;

    // A second start finds the same: nothing was repaired by cutting it off.
    let first = i64::try_from(RECORDS)?;
    for end in [first, first + 1] {
        let broker = Broker::start_logged(&data, 0, &[], &log)?;
        let client = Client::connect(&broker.address, impatient()).await?;
        let (other, error) = read(&client, 1, 0, end).await;
        ensure!(error.is_none(), "the other partition: {error:?}");
        check(1, &other, 0, end)?;
        let (before, error) = read(&client, 0, 0, end).await;
        check(0, &before, 0, hit)?;
        let error = error.context("the damage is served")?;
        ensure!(is_storage_error(&error), "{error}");
        let (none, error) = read(&client, 0, hit, end).await;
        ensure!(none.is_empty() && error.is_some_and(|error| is_storage_error(&error)));
        let (behind, error) = read(&client, 0, hit + 1, end).await;
        ensure!(error.is_none(), "behind the damage: {error:?}");
        check(0, &behind, hit + 1, end)?;

        let producer = Producer::new(client.clone(), ProducerOptions::default());
        for partition in 0..2 {
            let offset = write(&producer, partition, u64::try_from(end)?).await?;
            ensure!(offset == end, "appends go on at {offset}, not {end}");
        }
        let (_, metrics) = broker.get("/metrics")?;
        ensure!(
            metrics.contains("\nklamm_corruptions_total 1\n"),
            "it is counted once"
        );
        broker.stop()?;
        ensure!(
            std::fs::read(&segment)? == damaged,
            "the damaged segment was changed"
        );
    }
    let log = std::fs::read_to_string(&log)?;
    let named = log
        .lines()
        .filter(|line| line.contains("corrupt data") && line.contains(&*segment.to_string_lossy()));
    ensure!(named.count() == 2, "once in each start's log: {log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_ends_the_process_and_loses_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(volume) = Volume::or_skip(dir.path(), 16 << 10) else {
        return Ok(());
    };
    let settings = ["--set", "klamm.disk.reserve.bytes=33554432"];
    let (data, log) = (volume.path().join("data"), dir.path().join("log"));
    let port = free_port()?;
    let mut broker = Broker::start_logged(&data, port, &settings, &log)?;
    let address = broker.address.clone();
    load::create_topic(&address).await?;
    let mut load = Load::start(&address, 4);
    for round in 1..=2_usize {
        load.more(500, Duration::from_secs(60)).await?;
        volume.cut()?;
        let cut = Instant::now();
        let ended = broker.wait(Duration::from_secs(10))?;
        let took = cut.elapsed();
        ensure!(!ended.success(), "a failed disk is no clean end");
        ensure!(
            took < Duration::from_secs(2),
            "the process went on for {took:?}"
        );
        let said = std::fs::read_to_string(&log)?;
        let complaints = |words: &str| said.lines().filter(|line| line.contains(words)).count();
        ensure!(
            complaints("error: the store failed and the process ends") == round,
            "{said}"
        );
        let cause = said.lines().rfind(|line| line.starts_with("cause: "));
        ensure!(
            cause.is_some_and(|cause| cause.contains("os error 5")),
            "the cause is the disk's own: {cause:?}"
        );
        ensure!(complaints("check the disk") == round, "{said}");
        volume.restore()?;
        broker = Broker::start_logged(&data, port, &settings, &log)?;
    }
    let history = load.finish().await?;
    load::check_all(&address, &history).await?;
    let (_, clean) = broker.stop()?;
    ensure!(clean, "the stop was not clean");
    Ok(())
}
