//! Groups follow the leadership of their partition of `__consumer_offsets`.

use anyhow::{Context, Result, ensure};
use klamm_client::{OffsetToCommit, TopicPartition};
use klamm_tests::cluster::Cluster;

use crate::moving::reassign;
use crate::rig::{client, create, leader, topic, topic_is};

const OFFSETS: &str = "__consumer_offsets";
/// Java's `abs("readers".hashCode()) % 50`.
const PARTITION: i32 = java_hash("readers").abs() % 50;

const fn java_hash(text: &str) -> i32 {
    let bytes = text.as_bytes();
    let (mut hash, mut at) = (0_i32, 0);
    while at < bytes.len() {
        hash = hash.wrapping_mul(31).wrapping_add(bytes[at] as i32);
        at += 1;
    }
    hash
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_offsets_outlive_their_coordinator() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    let client = client(&cluster).await?;
    create(&client, topic("read", 1, 3)).await?;
    let at = TopicPartition {
        topic: "read".to_owned(),
        partition: 0,
    };
    for round in 1..=3_i64 {
        let commit = OffsetToCommit {
            at: at.clone(),
            offset: round,
        };
        for committed in client.commit_offsets("readers", &[commit]).await? {
            committed?;
        }
        let offsets = topic_is(&client, OFFSETS, |partition| {
            partition.replicas.len() == 3 && partition.leader.is_some()
        });
        let coordinator = leader(&offsets.await?, PARTITION)?;
        if round % 2 == 1 {
            cluster.kill(coordinator)?;
        } else {
            cluster.stop(coordinator)?;
        }
        let asked = [at.clone()];
        let committed = client.committed_offsets("readers", Some(&asked)).await?;
        let found = committed.get(&at).context("an offset is committed")?;
        ensure!(found.offset == round, "round {round}: {found:?}");
        let others = topic_is(&client, OFFSETS, |partition| {
            partition.leader.is_some_and(|leader| leader != coordinator)
        });
        others.await?;
        cluster.boot(coordinator)?;
    }
    Ok(())
}

/// What went with its log, and came back empty, is another replica of the partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_replica_went_and_came_back_coordinates_again() -> Result<()> {
    let settings = [
        "offsets.topic.num.partitions=1",
        "leader.imbalance.check.interval.seconds=1",
    ];
    let cluster = Cluster::start(3, &settings)?;
    let client = client(&cluster).await?;
    create(&client, topic("read", 1, 3)).await?;
    let at = TopicPartition {
        topic: "read".to_owned(),
        partition: 0,
    };
    let commit = |offset| OffsetToCommit {
        at: at.clone(),
        offset,
    };
    for committed in client.commit_offsets("readers", &[commit(1)]).await? {
        committed?;
    }
    let offsets = topic_is(&client, OFFSETS, |partition| partition.in_sync.len() == 3).await?;
    let stays = leader(&offsets, 0)?;
    let goes = stays % 3 + 1;
    let third = goes % 3 + 1;
    let without = [stays, third];
    reassign(&client, stays, OFFSETS, &[Some(&without[..])]).await?;
    topic_is(&client, OFFSETS, |partition| partition.replicas.len() == 2).await?;
    let preferred = [goes, stays, third];
    reassign(&client, stays, OFFSETS, &[Some(&preferred[..])]).await?;
    topic_is(&client, OFFSETS, |partition| partition.leader == Some(goes)).await?;
    for committed in client.commit_offsets("readers", &[commit(2)]).await? {
        committed?;
    }
    let asked = [at.clone()];
    let committed = client.committed_offsets("readers", Some(&asked)).await?;
    let found = committed.get(&at).context("an offset is committed")?;
    ensure!(found.offset == 2, "{found:?}");
    let offsets = topic_is(&client, OFFSETS, |partition| partition.in_sync.len() == 3).await?;
    ensure!(leader(&offsets, 0)? == goes, "{offsets:?}");
    Ok(())
}
