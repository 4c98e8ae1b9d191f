//! SIGTERM: leadership goes to others first, and clients go on without an error.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, Load, TOPIC};

use crate::rig::{client, topic_is};

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_is_not_noticed_by_producers() -> Result<()> {
    let mut cluster = Cluster::start(3, &["min.insync.replicas=2"])?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let watcher = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 2);
    for id in 1..=3 {
        let before = load.acknowledged();
        while load.acknowledged() < before + 100 {
            load.check_alive().await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let began = Instant::now();
        let took = cluster.stop(id)?;
        ensure!(took < Duration::from_secs(10), "the stop took {took:?}");
        // Handed over, not elected: no longer than it takes to ask.
        let after = topic_is(&watcher, TOPIC, |partition| {
            partition.leader.is_some_and(|leader| leader != id)
        })
        .await?;
        println!(
            "stopped in {took:?}, led by others {:?} after SIGTERM",
            began.elapsed()
        );
        ensure!(after.has_all_leaders());
        let log = cluster.node(id).log();
        ensure!(!log.contains("without another replica"), "{log}");
        cluster.boot(id)?;
        topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    }
    let history = load.finish().await?;
    let records = load::check(&bootstrap, &history).await?;
    ensure!(
        records == history.len(),
        "{records} for {} acknowledged",
        history.len()
    );
    Ok(())
}
