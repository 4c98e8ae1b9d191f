//! The disk of one node hangs: what it leads goes on with the disks of the others, and it says what is wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, TOPIC};
use klamm_tests::pulse::Pulse;
use klamm_tests::volume::Volume;

use crate::rig::{client, eventually, put_on, topic_is};
use crate::status::{json, status};

const PATIENCE: Duration = Duration::from_secs(60);
/// Sparse.
const VOLUME_MEBIBYTES: u64 = 8192;
const HANGS: Duration = Duration::from_secs(8);
/// Far less than the disk hangs.
const MOST_SILENT: Duration = Duration::from_secs(3);
const SETTINGS: [&str; 2] = [
    "min.insync.replicas=2",
    "auto.leader.rebalance.enable=false",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_holds_up_no_partition() -> Result<()> {
    const HANGING: i32 = 1;
    let dir = tempfile::tempdir()?;
    let Some(volume) = Volume::or_skip(dir.path(), VOLUME_MEBIBYTES) else {
        return Ok(());
    };
    let mut cluster = Cluster::new(3, &SETTINGS)?;
    put_on(&cluster, HANGING, &volume)?;
    for id in 1..=3 {
        cluster.launch(id)?;
    }
    cluster.wait_ready()?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let watcher = client(&cluster).await?;
    let before = topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    let mut led = before.partitions.iter().map(|partition| partition.leader);
    ensure!(led.any(|leader| leader == Some(HANGING)), "{before:?}");

    let pulse = Pulse::start(&bootstrap, PATIENCE);
    pulse.beat(PATIENCE).await?;
    let frozen = volume.freeze()?;
    let began = Instant::now();
    eventually(async || {
        let (code, words) = cluster.node(HANGING).get("/ready")?;
        let is_told = code == 200 && words.starts_with("ready, but its disk is slow: ");
        ensure!(is_told, "{code} {words}");
        Ok(())
    })
    .await?;
    let (_, metrics) = cluster.node(HANGING).get("/metrics")?;
    let slowest = metrics
        .lines()
        .find_map(|line| line.strip_prefix("klamm_journal_slowest_round_seconds "));
    let slowest: f64 = slowest.context("no such metric")?.parse()?;
    ensure!(slowest >= 2.0, "{slowest}");
    let told = json(&cluster)?;
    for node in told["nodes"].as_array().context("nodes")? {
        let trouble = node["disk"]["trouble"].as_str();
        let is_slow = trouble.is_some_and(|trouble| trouble.starts_with("slow: "));
        ensure!(is_slow == (node["node"] == HANGING), "{told:#}");
        ensure!(node["disk"]["free_bytes"].is_u64(), "{told:#}");
    }
    let table = status(&cluster, "table")?;
    let line = format!("The disk of node {HANGING} is slow: ");
    ensure!(table.contains(&line), "{table}");

    tokio::time::sleep(HANGS.saturating_sub(began.elapsed())).await;
    let silences = pulse.silences(began).await;
    drop(frozen);
    ensure!(
        silences.iter().all(|silence| *silence < MOST_SILENT),
        "{silences:?} in {:?}",
        began.elapsed()
    );
    pulse.beat(PATIENCE).await?;
    topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    load::check_all(&bootstrap, &pulse.finish().await?).await?;
    Ok(())
}
