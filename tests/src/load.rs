//! Idempotent producers that go on through crashes, and a reader that takes stock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::{
    Acks, Client, ClientOptions, Codec, NewMessage, NewTopic, OffsetSpec, PartitionReader,
    Producer, ProducerOptions, ReaderOptions, TopicPartition,
};
use tokio::sync::Mutex;

use crate::history::{History, value};

/// The topic that tests write to.
pub const TOPIC: &str = "load";
/// Its partitions.
pub const PARTITIONS: i32 = 4;
/// How long producers keep trying.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Options of clients that outlast a crash of the broker.
pub fn patient() -> ClientOptions {
    ClientOptions {
        retry_timeout: PATIENCE,
        retry_backoff: Duration::from_millis(20),
        ..ClientOptions::default()
    }
}

/// Creates [`TOPIC`] with small segments, so that rolls happen under load.
pub async fn create_topic(bootstrap: &str) -> Result<()> {
    create_replicated_topic(bootstrap, 1).await
}

/// As [`create_topic`], with so many replicas.
pub async fn create_replicated_topic(bootstrap: &str, replicas: i16) -> Result<()> {
    let client = Client::connect(bootstrap, patient()).await?;
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions: Some(PARTITIONS),
        replication_factor: Some(replicas),
        configs: vec![("segment.bytes".to_owned(), (1 << 20).to_string())],
    };
    for created in client.create_topics(&[topic], false).await? {
        created?;
    }
    Ok(())
}

/// Producers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    history: Arc<Mutex<History>>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts `producers`, each writing to all partitions: mostly small records, some large ones.
    pub fn start(bootstrap: &str, producers: u32) -> Load {
        let load = Load {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            history: Arc::default(),
            tasks: Vec::new(),
        };
        let tasks = (0..producers).map(|producer| {
            tokio::spawn(produce(
                bootstrap.to_owned(),
                producer,
                load.stop.clone(),
                load.acknowledged.clone(),
                load.history.clone(),
            ))
        });
        Load {
            tasks: tasks.collect(),
            ..load
        }
    }

    /// Acknowledgements so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Fails with what a producer failed with, if one has ended.
    pub async fn check_alive(&mut self) -> Result<()> {
        let Some(ended) = self.tasks.iter().position(|task| task.is_finished()) else {
            return Ok(());
        };
        self.tasks.swap_remove(ended).await??;
        anyhow::bail!("a producer ended before it was told to")
    }

    /// Waits until so many more records are acknowledged.
    pub async fn more(&mut self, wanted: u64, within: Duration) -> Result<()> {
        let (before, began) = (self.acknowledged(), Instant::now());
        while self.acknowledged() < before + wanted {
            self.check_alive().await?;
            ensure!(began.elapsed() < within, "nothing is acknowledged");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// The history up to now.
    pub fn history(&self) -> &Mutex<History> {
        &self.history
    }

    /// Lets producers finish what they have sent: all of it must be acknowledged.
    pub async fn finish(self) -> Result<History> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(std::mem::take(&mut *self.history.lock().await))
    }
}

async fn produce(
    bootstrap: String,
    producer_number: u32,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    history: Arc<Mutex<History>>,
) -> Result<()> {
    let client = Client::connect(&bootstrap, patient()).await?;
    let options = ProducerOptions {
        acks: Acks::All,
        idempotent: true,
        codec: if producer_number.is_multiple_of(2) {
            Codec::None
        } else {
            Codec::Lz4
        },
        linger: Duration::from_millis(u64::from(producer_number % 3)),
        delivery_timeout: PATIENCE,
        retry_backoff: Duration::from_millis(20),
        ..ProducerOptions::default()
    };
    let producer = Producer::new(client, options);
    let (deliveries, mut delivered) = tokio::sync::mpsc::channel(2000);
    let record = tokio::spawn(async move {
        while let Some((number, delivery)) = delivered.recv().await {
            let delivery: klamm_client::Delivery = delivery;
            let told = delivery
                .await
                .with_context(|| format!("record {producer_number}:{number}"))?;
            history.lock().await.acknowledged(
                told.partition,
                told.offset,
                producer_number,
                number,
            )?;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    });
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let size = if number % 199 == 198 {
            150_000
        } else {
            40 + usize::try_from(number % 300)?
        };
        let partition = i32::try_from(number % u64::try_from(PARTITIONS)?)?;
        let message = NewMessage {
            value: Some(value(producer_number, number, size).into()),
            ..NewMessage::default()
        };
        let delivery = producer.send(TOPIC, Some(partition), message).await?;
        if deliveries.send((number, delivery)).await.is_err() {
            break;
        }
        number += 1;
    }
    drop(deliveries);
    producer.flush().await?;
    record.await?
}

/// Reads a whole partition of [`TOPIC`].
pub async fn read_partition(bootstrap: &str, partition: i32) -> Result<Vec<(i64, Vec<u8>)>> {
    let client = Client::connect(bootstrap, patient()).await?;
    let at = TopicPartition {
        topic: TOPIC.to_owned(),
        partition,
    };
    let end = client
        .list_offsets(&[(at.clone(), OffsetSpec::Latest)])
        .await?
        .into_iter()
        .next()
        .context("one answer")?
        .offset
        .context("a partition has an end")?;
    let mut reader = PartitionReader::new(client, TOPIC, partition, 0, ReaderOptions::default());
    let mut records = Vec::new();
    while reader.position() < end {
        for message in reader.poll().await?.messages {
            records.push((
                message.offset,
                message
                    .value
                    .map(|value| value.to_vec())
                    .unwrap_or_default(),
            ));
        }
    }
    Ok(records)
}

/// As [`check`], once all that was written has been acknowledged: as many records are there.
pub async fn check_all(bootstrap: &str, history: &History) -> Result<u64> {
    let records = check(bootstrap, history).await?;
    ensure!(
        records == history.len(),
        "{records} records for {} acknowledgements",
        history.len()
    );
    Ok(records)
}

/// Reads everything and judges it.
pub async fn check(bootstrap: &str, history: &History) -> Result<u64> {
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let read = read_partition(bootstrap, partition).await?;
        records += read.len() as u64;
        history.check(partition, &read)?;
    }
    Ok(records)
}
