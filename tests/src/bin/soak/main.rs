//! Mixed load for hours, with memory, descriptors and latency sampled: at the end they have to be what
//! they were in the beginning.
//!
//! `cargo run --release -p klamm-tests --bin soak -- --minutes 5` (default 120). Prints a table of
//! start, middle and end, and fails if something grew or somebody was not served.

mod clients;
mod hostile;
mod samples;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use klamm_client::{Client, NewTopic};
use klamm_tests::broker::Broker;
use klamm_tests::load;

use samples::Samples;

/// Partitions of the topic that is written and read all the time.
pub(crate) const PARTITIONS: i32 = 4;
pub(crate) const TOPIC: &str = "soak";
pub(crate) const KEYED: &str = "soak-keyed";
/// How often the process is looked at.
const SAMPLE: Duration = Duration::from_secs(2);
/// Sizes that are reached within minutes, so that a short run meets all that a long one does.
const SETTINGS: [&str; 14] = [
    "--set",
    "klamm.disk.reserve.bytes=33554432",
    "--set",
    "klamm.checkpoint.bytes=33554432",
    "--set",
    "log.retention.check.interval.ms=5000",
    "--set",
    "log.cleaner.backoff.ms=3000",
    "--set",
    "klamm.request.read.timeout.ms=3000",
    "--set",
    "klamm.response.write.timeout.ms=3000",
    "--set",
    "max.connections.per.ip=1000",
];

/// What clients did.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) stop: AtomicBool,
    pub(crate) produced: AtomicU64,
    pub(crate) consumed: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) topics: AtomicU64,
    pub(crate) hostile: AtomicU64,
}

impl Counts {
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn minutes() -> Result<f64> {
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next(), words.next()) {
        (None, _, _) => Ok(120.0),
        (Some("--minutes"), Some(minutes), None) => Ok(minutes.parse()?),
        _ => bail!("usage: soak [--minutes N]"),
    }
}

async fn create_topics(client: &Client) -> Result<()> {
    let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let topic = |name: &str, configs: &[(&str, &str)]| NewTopic {
        name: name.to_owned(),
        partitions: Some(PARTITIONS),
        replication_factor: Some(1),
        configs: configs.iter().copied().map(own).collect(),
    };
    let topics = [
        topic(
            TOPIC,
            &[
                ("segment.bytes", "4194304"),
                ("retention.bytes", "16777216"),
            ],
        ),
        // What group members read.
        topic(
            load::TOPIC,
            &[("segment.bytes", "1048576"), ("retention.bytes", "8388608")],
        ),
        topic(
            KEYED,
            &[
                ("cleanup.policy", "compact"),
                ("segment.bytes", "1048576"),
                ("min.cleanable.dirty.ratio", "0.2"),
            ],
        ),
    ];
    for created in client.create_topics(&topics, false).await? {
        created?;
    }
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let lasts = Duration::from_secs_f64(minutes()? * 60.0);
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(&dir.path().join("data"), 0, &SETTINGS)?;
    let address = broker.address.clone();
    let client = Client::connect(&address, load::patient()).await?;
    create_topics(&client).await?;
    let counts = Arc::new(Counts::default());
    let samples = Arc::new(Samples::default());
    clients::walk(&address).await?;
    let mut tasks = clients::start(&client, &address, &counts, &samples);
    tasks.extend(hostile::start(&address, &counts));
    let began = Instant::now();
    while began.elapsed() < lasts {
        tokio::time::sleep(SAMPLE).await;
        if let Some(ended) = tasks.iter().position(|task| task.is_finished()) {
            tasks.swap_remove(ended).await?.context("a client failed")?;
            bail!("a client ended before it was told to");
        }
        samples.process(began.elapsed(), broker.resident()?, broker.descriptors()?);
    }
    counts.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await?.context("a client failed")?;
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{:.1} minutes: {} records produced, {} consumed, {} commits, {} looks at a group, {} topics, {} hostile connections",
        began.elapsed().as_secs_f64() / 60.0,
        count(&counts.produced),
        count(&counts.consumed),
        count(&counts.committed),
        count(&counts.groups),
        count(&counts.topics),
        count(&counts.hostile),
    );
    let corruptions = broker.metric("klamm_corruptions_total")?;
    let panics = broker.metric("klamm_connection_panics_total")?;
    ensure!(
        corruptions + panics == 0.0,
        "{corruptions} corruptions, {panics} panics"
    );
    let verdict = samples.table(lasts);
    let (_, clean) = broker.stop()?;
    ensure!(clean, "the stop was not clean");
    verdict
}
