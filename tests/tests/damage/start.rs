//! A bit flips in what a start reads, the index and the journal: it starts, names the damage, and
//! serves all that is whole.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::{
    Client, ClientOptions, NewMessage, NewTopic, PartitionReader, Producer, ProducerOptions,
    ReaderOptions,
};
use klamm_protocol::ErrorCode;
use klamm_tests::broker::Broker;
use klamm_tests::history::value;
use klamm_tests::rot::{flip, large_frames};

/// A client that waits for elections, but not for what has no leader for good.
fn patient_enough() -> ClientOptions {
    ClientOptions {
        retry_timeout: Duration::from_secs(3),
        ..ClientOptions::default()
    }
}

/// A replica that lost operations does not lead, and here is no other.
fn is_offline(error: &klamm_client::Error) -> bool {
    let refused = error.server_error();
    refused.is_some_and(|error| error.code == ErrorCode::LEADER_NOT_AVAILABLE)
}

const TOPICS: [&str; 4] = ["one", "two", "three", "four"];
const RECORDS: u64 = 30;
/// A batch of one is too large to be in the journal twice, and small enough to be in it whole.
const LARGE: usize = 60_000;

fn record(topic: usize, number: u64) -> Vec<u8> {
    let size = match number {
        10..20 => LARGE,
        _ => 100,
    };
    value(u32::try_from(topic).unwrap_or(0), number, size)
}

/// Writes records to [`TOPICS`], one after the other.
async fn fill(address: &str) -> Result<()> {
    let client = Client::connect(address, ClientOptions::default()).await?;
    let topics = TOPICS.map(|name| NewTopic {
        name: name.to_owned(),
        partitions: Some(1),
        replication_factor: Some(1),
        configs: Vec::new(),
    });
    for created in client.create_topics(&topics, false).await? {
        created?;
    }
    let producer = Producer::new(client, ProducerOptions::default());
    for number in 0..RECORDS {
        for (topic, name) in TOPICS.iter().enumerate() {
            let message = NewMessage {
                value: Some(record(topic, number).into()),
                ..NewMessage::default()
            };
            producer.send(name, Some(0), message).await?.await?;
        }
    }
    Ok(())
}

/// Reads all topics; answers those that are refused.
async fn refused(broker: &Broker) -> Result<Vec<usize>> {
    let client = Client::connect(&broker.address, patient_enough()).await?;
    let mut refused = Vec::new();
    for (topic, name) in TOPICS.iter().enumerate() {
        let mut reader = PartitionReader::new(client.clone(), name, 0, 0, ReaderOptions::default());
        let mut next = 0;
        while next < RECORDS {
            let fetched = match reader.poll().await {
                Ok(fetched) => fetched,
                Err(error) => {
                    ensure!(is_offline(&error) && next == 0, "{name} {next}: {error}");
                    refused.push(topic);
                    break;
                }
            };
            for message in fetched.messages {
                ensure!(
                    u64::try_from(message.offset)? == next,
                    "{name}: {}",
                    message.offset
                );
                ensure!(
                    message.value.as_deref() == Some(&record(topic, next)),
                    "{name}: offset {next} has another value"
                );
                next += 1;
            }
        }
    }
    Ok(refused)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// One file of each kind in RocksDB's folder, and where to flip a bit in it.
fn victims(index: &Path) -> Result<Vec<(String, usize)>> {
    let mut victims = Vec::new();
    for entry in std::fs::read_dir(index)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let name = name.to_string_lossy().into_owned();
        match &*name {
            "CURRENT" => victims.push((name, 9)),
            name if name.starts_with("MANIFEST") => {
                victims.push((
                    name.to_owned(),
                    std::fs::metadata(entry)?.len() as usize / 2,
                ));
            }
            name if name.ends_with(".sst") => victims.push((name.to_owned(), 3)),
            _ => {}
        }
    }
    victims.sort();
    Ok(victims)
}

async fn until_counted(broker: &Broker) -> Result<()> {
    let began = Instant::now();
    while broker.metric("klamm_corruptions_total ")? < 1.0 {
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "nothing is counted"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_index_costs_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let origin = dir.path().join("origin");
    let broker = Broker::start(&origin, 0, &[])?;
    fill(&broker.address).await?;
    broker.stop()?;
    let victims = victims(&origin.join("index"))?;
    let tables = victims.iter().filter(|(name, _)| name.ends_with(".sst"));
    ensure!(tables.count() > 2 && victims.len() > 4, "{victims:?}");
    for (name, position) in victims {
        let (data, log) = (
            dir.path().join(&name),
            dir.path().join(format!("{name}.log")),
        );
        copy(&origin, &data)?;
        flip(&data.join("index").join(&name), position)?;
        for start in 1..=3 {
            let broker = Broker::start_logged(&data, 0, &[], &log)?;
            let none = refused(&broker).await?;
            ensure!(
                none.is_empty(),
                "{name}, start {start}: {none:?} are refused"
            );
            match start {
                1 => until_counted(&broker).await?,
                3 => ensure!(broker.metric("klamm_corruptions_total ")? == 0.0, "{name}"),
                // It may have been found late, and the copy takes its place now.
                _ => {}
            }
            broker.stop()?;
        }
        let said = std::fs::read_to_string(&log)?;
        let index = data.join("index");
        ensure!(said.contains("the index is damaged"), "{said}");
        ensure!(said.contains("warning: corrupt data: "), "{said}");
        ensure!(said.contains(&*index.to_string_lossy()), "{said}");
        if name.ends_with(".sst") {
            ensure!(said.contains(&name), "{said}");
        }
        ensure!(data.join("index.damaged").exists(), "it is kept");
        std::fs::remove_dir_all(&data)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_journal_costs_one_topic_at_most() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let origin = dir.path().join("origin");
    let broker = Broker::start(&origin, 0, &[])?;
    fill(&broker.address).await?;
    broker.kill()?;
    let frames = large_frames(&origin, LARGE)?;
    let (file, frame) = frames.get(frames.len() / 2).context("large batches")?;
    let below = file.strip_prefix(&origin)?;
    // The block's header, which it has twice; a byte of the frame's header; one of its payload.
    for (number, (at, lost)) in [(frame - 40, 0), (frame + 9, 1), (frame + 500, 1)]
        .into_iter()
        .enumerate()
    {
        let data = dir.path().join(format!("data-{number}"));
        let log = dir.path().join(format!("log-{number}"));
        copy(&origin, &data)?;
        flip(&data.join(below), at)?;
        let broker = Broker::start_logged(&data, 0, &[], &log)?;
        let refused = refused(&broker).await?;
        ensure!(refused.len() == lost, "{refused:?} are refused");
        ensure!(broker.metric("klamm_corruptions_total ")? == 1.0);
        broker.stop()?;
        let said = std::fs::read_to_string(&log)?;
        let named = said
            .lines()
            .find(|line| line.starts_with("warning: corrupt data: "));
        let named = named.context("the damage is named")?;
        ensure!(
            named.contains(&*data.join(below).to_string_lossy()),
            "{named}"
        );
        ensure!(
            lost == 0 || named.contains("-0: journal: "),
            "the partition: {named}"
        );
        ensure!(lost == 0 || named.contains("offsets from "), "{named}");
    }
    Ok(())
}
