//! A node dies: others lead, nothing acknowledged is lost, and it catches up when it is back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, Load, TOPIC};

use crate::rig::{client, leader, topic_is};

const SETTINGS: [&str; 2] = ["min.insync.replicas=2", "default.replication.factor=3"];

async fn more(load: &mut Load, wanted: u64) -> Result<()> {
    let (before, began) = (load.acknowledged(), Instant::now());
    while load.acknowledged() < before + wanted {
        load.check_alive().await?;
        ensure!(
            began.elapsed() < Duration::from_secs(30),
            "nothing is acknowledged"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_a_leader_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(3, &SETTINGS)?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let mut load = Load::start(&bootstrap, 3);
    more(&mut load, 300).await?;
    let watcher = client(&cluster).await?;
    for partition in 0..2 {
        let before = topic_is(&watcher, TOPIC, |partition| partition.leader.is_some()).await?;
        let victim = leader(&before, partition)?;
        cluster.kill(victim)?;
        let killed = Instant::now();
        let after = topic_is(&watcher, TOPIC, |partition| {
            partition.leader.is_some_and(|leader| leader != victim)
        })
        .await?;
        println!("led again by others after {:?}", killed.elapsed());
        let epoch =
            |topic: &klamm_client::Topic| topic.partition(partition).map(|p| p.leader_epoch);
        ensure!(epoch(&after) > epoch(&before), "{before:?} {after:?}");
        more(&mut load, 300).await?;
        cluster.boot(victim)?;
        topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    }
    let history = load.finish().await?;
    let records = load::check(&bootstrap, &history).await?;
    ensure!(
        records == history.len(),
        "{records} for {} acknowledged",
        history.len()
    );
    // Each node alone with one other has all of it: whoever was away has caught up.
    for away in 1..=3 {
        cluster.stop(away)?;
        topic_is(&watcher, TOPIC, |partition| {
            partition.leader.is_some_and(|leader| leader != away)
        })
        .await?;
        let found = load::check(&bootstrap, &history).await?;
        ensure!(
            found == records,
            "{found} without node {away}, {records} with all"
        );
        cluster.boot(away)?;
        topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_lose_nothing_that_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(3, &SETTINGS)?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let mut load = Load::start(&bootstrap, 2);
    for _ in 0..2 {
        more(&mut load, 200).await?;
        for id in 1..=3 {
            cluster.kill(id)?;
        }
        for id in 1..=3 {
            cluster.launch(id)?;
        }
        cluster.wait_ready()?;
    }
    more(&mut load, 100).await?;
    let history = load.finish().await?;
    let records = load::check(&bootstrap, &history).await?;
    ensure!(
        records == history.len(),
        "{records} for {} acknowledged",
        history.len()
    );
    Ok(())
}
