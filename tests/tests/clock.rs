//! The wall clock of the running program jumps by years, forward and back (libfaketime): nothing is
//! deleted, no offset expires, clients are served; and retention goes on when the clock is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::{
    Client, ConfigChange, ConfigResource, NewMessage, NewTopic, OffsetSpec, OffsetToCommit,
    Producer, ProducerOptions, TopicPartition,
};
use klamm_tests::broker::Broker;
use klamm_tests::load;
use klamm_tests::wall_clock::WallClock;

/// What looks after age looks often.
const SETTINGS: [&str; 10] = [
    "--set",
    "klamm.disk.reserve.bytes=33554432",
    "--set",
    "log.retention.check.interval.ms=200",
    "--set",
    "log.cleaner.backoff.ms=200",
    "--set",
    "offsets.retention.check.interval.ms=200",
    "--set",
    "producer.id.expiration.check.interval.ms=200",
];
const GROUP: &str = "late";
/// Longer than all intervals above together.
const LOOKS: Duration = Duration::from_secs(3);

fn topic(name: &str, configs: &[(&str, &str)]) -> NewTopic {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    NewTopic {
        name: name.to_owned(),
        partitions: Some(1),
        replication_factor: Some(1),
        configs: configs.iter().map(own).collect(),
    }
}

fn first(name: &str) -> TopicPartition {
    TopicPartition {
        topic: name.to_owned(),
        partition: 0,
    }
}

async fn offset(client: &Client, topic: &str, spec: OffsetSpec) -> Result<i64> {
    let listed = client.list_offsets(&[(first(topic), spec)]).await?;
    let listed = listed.into_iter().next().context("one answer")?;
    listed.offset.context("an offset")
}

/// Writes `count` records of 60 kB to both topics, with two keys.
async fn write(producer: &Producer, count: u32) -> Result<()> {
    for number in 0..count {
        for topic in ["timed", "compacted"] {
            let message = NewMessage {
                key: Some(vec![b'k', (number % 2) as u8].into()),
                value: Some(vec![7; 60_000].into()),
                ..NewMessage::default()
            };
            producer.send(topic, Some(0), message).await?.await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_by_years_deletes_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(clock) = WallClock::new(dir.path())? else {
        println!("skipped: libfaketime is not installed");
        return Ok(());
    };
    let data = dir.path().join("data");
    let broker = Broker::start_in(&data, 0, &SETTINGS, &clock.environment())?;
    let client = Client::connect(&broker.address, load::patient()).await?;
    // What clients say of the time is not in question here.
    let any_time = ("message.timestamp.after.max.ms", "9223372036854775807");
    let small = ("segment.bytes", "1048576");
    let timed = [("retention.ms", "3600000"), small, any_time];
    // Held back by the age of records only.
    let compacted = [
        ("cleanup.policy", "compact"),
        ("min.compaction.lag.ms", "3600000"),
        ("min.cleanable.dirty.ratio", "0.01"),
        small,
        any_time,
    ];
    let topics = [topic("timed", &timed), topic("compacted", &compacted)];
    for created in client.create_topics(&topics, false).await? {
        created?;
    }
    let producer = Producer::new(client.clone(), ProducerOptions::default());
    write(&producer, 60).await?;
    let committed = OffsetToCommit {
        at: first("timed"),
        offset: 7,
    };
    for committed in client.commit_offsets(GROUP, &[committed]).await? {
        committed?;
    }
    let mut written = 60;
    for by in ["+5y", "-5y", "+0"] {
        clock.jump(by)?;
        tokio::time::sleep(LOOKS).await;
        let start = offset(&client, "timed", OffsetSpec::Earliest).await?;
        ensure!(start == 0, "{by}: retention went up to {start}");
        let compacted = broker.metric("klamm_compaction_passes_total")?;
        ensure!(compacted == 0.0, "{by}: young records were compacted");
        let found = client.committed_offsets(GROUP, None).await?;
        ensure!(
            found.contains_key(&first("timed")),
            "{by}: the offset expired"
        );
        // The same producer goes on: it is not forgotten, and its sequences are in order.
        write(&producer, 2).await?;
        written += 2;
        let end = offset(&client, "timed", OffsetSpec::Latest).await?;
        ensure!(end == written, "{by}: {end} of {written} records");
    }
    // It was the clock alone that held it.
    let topic = ConfigResource::Topic("timed".to_owned());
    let keep = ConfigChange::Set("retention.ms".to_owned(), "1".to_owned());
    client.alter_configs(&topic, &[keep]).await?;
    let began = Instant::now();
    while offset(&client, "timed", OffsetSpec::Earliest).await? == 0 {
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "retention did not resume"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (_, clean) = broker.stop()?;
    ensure!(clean, "the stop was not clean");
    Ok(())
}
