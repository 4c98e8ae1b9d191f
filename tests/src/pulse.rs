//! One record at a time into each partition, and when each was acknowledged: whom a fault silences, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::{Acks, Client, NewMessage, Producer, ProducerOptions};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::history::{History, value};
use crate::load::{PARTITIONS, PATIENCE, TOPIC, patient};

/// Pause after each acknowledgement.
const PAUSE: Duration = Duration::from_millis(5);

/// A writer for each partition of [`TOPIC`].
pub struct Pulse {
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
    /// By partition, when records were acknowledged.
    beats: Vec<Arc<Mutex<Vec<Instant>>>>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Pulse {
    /// Starts the writers, each with connections of its own, which give up a broker that does not answer after
    /// `request_timeout`.
    pub fn start(bootstrap: &str, request_timeout: Duration) -> Pulse {
        let mut pulse = Pulse {
            stop: Arc::default(),
            history: Arc::default(),
            beats: (0..PARTITIONS).map(|_| Arc::default()).collect(),
            tasks: Vec::new(),
        };
        for (partition, beats) in (0..).zip(&pulse.beats) {
            pulse.tasks.push(tokio::spawn(write(
                bootstrap.to_owned(),
                request_timeout,
                partition,
                pulse.stop.clone(),
                pulse.history.clone(),
                beats.clone(),
            )));
        }
        pulse
    }

    /// Waits until each partition has had an acknowledgement since now; how long each took.
    pub async fn beat(&self, within: Duration) -> Result<Vec<Duration>> {
        let began = Instant::now();
        let mut took = Vec::new();
        for (partition, beats) in self.beats.iter().enumerate() {
            let first = loop {
                if let Some(ended) = self.tasks.iter().find(|task| task.is_finished()) {
                    anyhow::bail!("a writer ended: {ended:?}");
                }
                let beats = beats.lock().await;
                let first = beats.iter().rev().take_while(|at| **at >= began).last();
                if let Some(first) = first {
                    break *first;
                }
                drop(beats);
                let silent = began.elapsed();
                ensure!(
                    silent < within,
                    "partition {partition} is silent for {silent:?}"
                );
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            took.push(first - began);
        }
        Ok(took)
    }

    /// By partition, the longest time without an acknowledgement since `from`.
    pub async fn silences(&self, from: Instant) -> Vec<Duration> {
        let mut longest = Vec::new();
        for beats in &self.beats {
            let beats = beats.lock().await;
            let now = Instant::now();
            let since = beats.partition_point(|at| *at < from);
            let times = [from].into_iter().chain(beats[since..].iter().copied());
            let next = beats[since..].iter().copied().chain([now]);
            let gaps = times.zip(next).map(|(before, after)| after - before);
            longest.push(gaps.max().unwrap_or_default());
        }
        longest
    }

    /// Lets the writers end; what they were told.
    pub async fn finish(self) -> Result<History> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(std::mem::take(&mut *self.history.lock().await))
    }
}

async fn write(
    bootstrap: String,
    request_timeout: Duration,
    partition: i32,
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
    beats: Arc<Mutex<Vec<Instant>>>,
) -> Result<()> {
    let mut options = patient();
    options.connection.request_timeout = request_timeout;
    let client = Client::connect(&bootstrap, options).await?;
    let options = ProducerOptions {
        acks: Acks::All,
        idempotent: true,
        linger: Duration::ZERO,
        delivery_timeout: PATIENCE,
        retry_backoff: Duration::from_millis(20),
        ..ProducerOptions::default()
    };
    let producer = Producer::new(client, options);
    let number = u32::try_from(partition)?;
    for record in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let message = NewMessage {
            value: Some(value(number, record, 100).into()),
            ..NewMessage::default()
        };
        let delivery = producer.send(TOPIC, Some(partition), message).await?;
        let told = delivery
            .await
            .with_context(|| format!("record {number}:{record}"))?;
        beats.lock().await.push(Instant::now());
        history
            .lock()
            .await
            .acknowledged(told.partition, told.offset, number, record)?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
