//! The disk of one node is full up to its reserve (R11): the others lead and go on, and it comes back when there is space.

use std::time::Duration;

use anyhow::{Result, ensure};
use klamm_tests::load::{self, Load, TOPIC};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::rig::{eventually, three_with, topic_is, volume};

/// Far more than anything takes on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Less than the reserve, and more than can be written until the node has looked.
const LEFT_BYTES: u64 = 100 << 20;
const SETTINGS: [&str; 4] = [
    "klamm.disk.reserve.bytes=134217728",
    "min.insync.replicas=2",
    "replica.lag.time.max.ms=2000",
    "leader.imbalance.check.interval.seconds=1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_full_disk_leads_nothing_until_there_is_space() -> Result<()> {
    const FULL: i32 = 1;
    let dir = tempfile::tempdir()?;
    let Some(volume) = volume(dir.path()) else {
        return Ok(());
    };
    let (cluster, watcher) = three_with(&volume, FULL, &SETTINGS).await?;
    let bootstrap = cluster.bootstrap();

    let mut load = Load::start(&bootstrap, 2);
    load.more(100, PATIENCE).await?;
    let ballast = volume.path().join("ballast");
    let file = std::fs::File::create(&ballast)?;
    let space = statvfs(volume.path())?;
    let bytes = (space.f_bavail * space.f_frsize).saturating_sub(LEFT_BYTES);
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    drop(file);

    topic_is(&watcher, TOPIC, |partition| {
        partition.leader.is_some_and(|leader| leader != FULL) && !partition.in_sync.contains(&FULL)
    })
    .await?;
    load.more(200, PATIENCE).await?;
    let (status, words) = cluster.node(FULL).get("/ready")?;
    ensure!(status == 200 && words.contains("full"), "{status} {words}");
    let (_, metrics) = cluster.node(FULL).get("/metrics")?;
    ensure!(metrics.contains("klamm_writable 0"), "{metrics}");

    std::fs::remove_file(&ballast)?;
    load.more(100, PATIENCE).await?;
    let history = load.finish().await?;
    // Its disk may be slower than the others': it need not keep up with all that they take.
    topic_is(&watcher, TOPIC, |partition| {
        partition.in_sync.len() == 3 && partition.leader == partition.replicas.first().copied()
    })
    .await?;
    load::check_all(&bootstrap, &history).await?;
    let ready = async || {
        let (_, words) = cluster.node(FULL).get("/ready")?;
        ensure!(words == "ready\n", "{words}");
        Ok(())
    };
    eventually(ready).await
}
