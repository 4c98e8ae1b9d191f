//! The disk of one node hangs: what it leads goes on with the disks of the others, and it says what is wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_tests::load::{self, TOPIC};
use klamm_tests::pulse::Pulse;

use crate::rig::{eventually, three_with, topic_is, volume};
use crate::status::{json, status};

const PATIENCE: Duration = Duration::from_secs(60);
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
    let Some(volume) = volume(dir.path()) else {
        return Ok(());
    };
    let (cluster, watcher) = three_with(&volume, HANGING, &SETTINGS).await?;
    let bootstrap = cluster.bootstrap();

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
    let slowest = cluster
        .node(HANGING)
        .metric("klamm_journal_slowest_round_seconds ")?;
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
