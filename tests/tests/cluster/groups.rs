//! Groups follow the leadership of their partition of `__consumer_offsets`.

use anyhow::{Context, Result, ensure};
use klamm_client::{OffsetToCommit, TopicPartition};
use klamm_tests::cluster::Cluster;

use crate::rig::{client, leader, topic, topic_is};

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
    for created in client.create_topics(&[topic("read", 1, 3)], false).await? {
        created?;
    }
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
