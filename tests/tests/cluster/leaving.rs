//! Nodes that go for good: one whose disk is lost and that comes back with an empty one, and one that is removed.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use klamm_client::Client;
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, Load, TOPIC};

use crate::rig::{client, create, eventually, node_command, topic, topic_is};

const SOON: Duration = Duration::from_secs(60);

/// Waits until the cluster has so many live nodes.
async fn live_nodes_are(client: &Client, wanted: usize) -> Result<()> {
    eventually(async || {
        let nodes = client.describe_cluster().await?.nodes;
        ensure!(nodes.len() == wanted, "{nodes:?}");
        Ok(())
    })
    .await
}

/// A node's directory is empty from now on.
fn lose_disk(cluster: &Cluster, id: i32) -> Result<()> {
    Ok(fs::remove_dir_all(cluster.node(id).dir.join("data"))?)
}

/// A node that starts with a disk that was given up is told so.
fn is_not_wanted(cluster: &mut Cluster, id: i32) -> Result<()> {
    let told = |cluster: &Cluster| {
        let log = cluster.node(id).log();
        let words = format!("node {id} was removed from cluster");
        (log.matches(&words).count(), log)
    };
    let (before, _) = told(cluster);
    cluster.launch(id)?;
    let ended = cluster.wait_end(id, SOON)?;
    let (times, log) = told(cluster);
    let is_told = times > before && log.contains("empty directory");
    ensure!(!ended.success() && is_told, "{ended}: {log}");
    Ok(())
}

/// Waits until these have a vote in the metadata group, and nobody else follows it.
async fn metadata_voters_are(client: &Client, wanted: &[i32]) -> Result<()> {
    eventually(async || {
        let quorum = client.metadata_quorum().await?;
        let mut voters: Vec<i32> = quorum.voters.iter().map(|voter| voter.node).collect();
        voters.sort_unstable();
        let learns = quorum.observers.len();
        ensure!(voters == wanted && learns == 0, "{voters:?} and {learns}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_is_replaced_under_its_id() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let admin = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 2);
    load.more(300, SOON).await?;
    let (removed, said) = node_command(&cluster, &["remove", "3", "--lost"])?;
    ensure!(!removed && said.contains("is live"), "{said}");
    for _ in 0..2 {
        cluster.kill(3)?;
        lose_disk(&cluster, 3)?;
        eventually(async || {
            let (removed, said) = node_command(&cluster, &["remove", "3", "--lost"])?;
            ensure!(removed && said.contains("empty directory"), "{said}");
            Ok(())
        })
        .await?;
        load.more(300, SOON).await?;
        topic_is(&admin, TOPIC, |partition| partition.in_sync.len() == 2).await?;
        cluster.boot(3)?;
        topic_is(&admin, TOPIC, |partition| partition.in_sync.len() == 3).await?;
        metadata_voters_are(&admin, &[1, 2, 3]).await?;
    }
    // What it has counts: with one of the others it is a majority, of the metadata too.
    cluster.kill(1)?;
    load.more(300, SOON).await?;
    live_nodes_are(&admin, 2).await?;
    create(&admin, topic("later", 3, 2)).await?;
    cluster.boot(1)?;
    topic_is(&admin, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    cluster.kill(2)?;
    load.more(300, SOON).await?;
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_removed_and_another_votes_in_its_place() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let fourth = cluster.add()?;
    cluster.boot(fourth)?;
    let admin = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 2);
    load.more(300, SOON).await?;
    // The one that leads the metadata group is the hardest to let go.
    let quorum = admin.metadata_quorum().await?;
    let gone = quorum.leader;
    let (removed, said) = node_command(&cluster, &["remove", &gone.to_string()])?;
    ensure!(removed && said.contains("is removed"), "{said}");
    ensure!(cluster.wait_end(gone, SOON)?.success(), "it ends by itself");
    is_not_wanted(&mut cluster, gone)?;
    let rest: Vec<i32> = (1..=4).filter(|id| *id != gone).collect();
    metadata_voters_are(&admin, &rest).await?;
    load.more(300, SOON).await?;
    let away = rest[0];
    cluster.kill(away)?;
    load.more(300, SOON).await?;
    live_nodes_are(&admin, 2).await?;
    create(&admin, topic("later", 3, 2)).await?;
    cluster.boot(away)?;
    // It may come again, with nothing.
    let data = cluster.node(gone).dir.join("data");
    let old = cluster.node(gone).dir.join("old");
    fs::rename(&data, &old)?;
    cluster.boot(gone)?;
    live_nodes_are(&admin, 4).await?;
    // And then not with what it had before.
    cluster.stop(gone)?;
    fs::remove_dir_all(&data)?;
    fs::rename(&old, &data)?;
    is_not_wanted(&mut cluster, gone)?;
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    Ok(())
}
