//! How nodes come into a cluster, and who is kept out.

use std::time::Duration;

use anyhow::{Result, ensure};
use klamm_tests::cluster::Cluster;
use klamm_tests::load::patient;

use crate::rig::{client, client_of, eventually, topic, topic_is};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_start_in_any_order_and_say_whom_they_wait_for() -> Result<()> {
    let mut cluster = Cluster::new(3, &[])?;
    cluster.launch(3)?;
    let third = cluster.node(3);
    eventually(async || {
        let (status, body) = third.get("/ready")?;
        ensure!(
            status == 503 && body.contains("node 1") && body.contains("node 2"),
            "{body}"
        );
        Ok(())
    })
    .await?;
    cluster.launch(1)?;
    let third = cluster.node(3);
    eventually(async || {
        let (_, body) = third.get("/ready")?;
        ensure!(
            !body.contains("node 1") && body.contains("node 2"),
            "{body}"
        );
        Ok(())
    })
    .await?;
    cluster.launch(2)?;
    cluster.wait_ready()?;
    let mut ids = Vec::new();
    for id in 1..=3 {
        let client = client_of(&cluster, id).await?;
        let description = eventually(async || {
            let description = client.describe_cluster().await?;
            ensure!(description.nodes.len() == 3, "{description:?}");
            Ok(description)
        })
        .await?;
        ids.push(description.id);
    }
    ensure!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_do_not_belong_are_refused_with_the_way_out() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    // An old disk under a new id.
    cluster.stop(3)?;
    cluster.configure(3, 2)?;
    cluster.launch(3)?;
    let status = cluster.wait_end(3, Duration::from_secs(20))?;
    ensure!(status.code() == Some(1), "{status}");
    let log = cluster.node(3).log();
    ensure!(
        log.contains("belongs to node 3") && log.contains("try:"),
        "{log}"
    );
    // An empty disk under an old id.
    cluster.configure(3, 3)?;
    let data = cluster.node(3).dir.join("data");
    std::fs::rename(&data, data.with_extension("aside"))?;
    cluster.launch(3)?;
    let status = cluster.wait_end(3, Duration::from_secs(20))?;
    ensure!(status.code() == Some(1), "{status}");
    let log = cluster.node(3).log();
    ensure!(log.contains("with another data directory"), "{log}");
    // The right disk.
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(data.with_extension("aside"), &data)?;
    cluster.boot(3)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_secret_is_not_let_in() -> Result<()> {
    let mut cluster = Cluster::new(2, &[])?;
    let file = cluster.node(2).dir.join("server.properties");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("a secret of tests", "another one"))?;
    cluster.launch(1)?;
    cluster.launch(2)?;
    let first = cluster.node(1);
    eventually(async || {
        let (status, body) = first.get("/ready")?;
        ensure!(status == 503 && body.contains("secret"), "{body}");
        Ok(())
    })
    .await?;
    // Clients are not answered at the peer port.
    let stranger = klamm_client::Client::connect(
        &first.controller,
        klamm_client::ClientOptions {
            retry_timeout: Duration::from_secs(1),
            ..patient()
        },
    );
    ensure!(stranger.await.is_err(), "the peer port answers clients");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_restart_and_know_what_they_knew() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    let first = client(&cluster).await?;
    for created in first.create_topics(&[topic("kept", 6, 3)], false).await? {
        created?;
    }
    drop(first);
    for id in 1..=3 {
        cluster.kill(id)?;
    }
    for id in [3, 2, 1] {
        cluster.launch(id)?;
    }
    cluster.wait_ready()?;
    for id in 1..=3 {
        let client = client_of(&cluster, id).await?;
        let kept = topic_is(&client, "kept", |partition| {
            partition.leader.is_some() && partition.in_sync.len() == 3
        })
        .await?;
        ensure!(kept.partitions.len() == 6);
    }
    Ok(())
}
