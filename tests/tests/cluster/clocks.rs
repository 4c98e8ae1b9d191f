//! The wall clock of one node jumps by years: nothing is deleted, nothing expires, nobody is taken for gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_client::{Client, NewTopic, OffsetSpec, OffsetToCommit, TopicPartition};
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, Load, PARTITIONS, TOPIC};
use klamm_tests::wall_clock::WallClock;

use crate::rig::{client, create, topic, topic_is};

const JUMPING: i32 = 1;
const GROUPS: usize = 6;
/// Far more than anything takes on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// What looks after age looks often, and segments are closed early enough to be dropped.
const SETTINGS: [&str; 6] = [
    "min.insync.replicas=2",
    "log.segment.bytes=1048576",
    "log.retention.check.interval.ms=200",
    "offsets.retention.check.interval.ms=200",
    "producer.id.expiration.check.interval.ms=200",
    "log.message.timestamp.after.max.ms=9223372036854775807",
];
/// Longer than all intervals above together.
const LOOKS: Duration = Duration::from_secs(2);

fn partition(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TOPIC.to_owned(),
        partition,
    }
}

fn group(number: usize) -> String {
    format!("late-{number}")
}

async fn starts(client: &Client) -> Result<Vec<i64>> {
    let wanted: Vec<_> = (0..PARTITIONS)
        .map(|index| (partition(index), OffsetSpec::Earliest))
        .collect();
    let listed = client.list_offsets(&wanted).await?;
    listed
        .iter()
        .map(|one| one.offset.context("an offset"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_wall_clock_jumps_by_years_harms_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(clock) = WallClock::new(dir.path())? else {
        println!("skipped: libfaketime is not installed");
        return Ok(());
    };
    let mut cluster = Cluster::new(3, &SETTINGS)?;
    cluster.set_clock(JUMPING, &clock);
    for id in 1..=3 {
        cluster.launch(id)?;
    }
    cluster.wait_ready()?;
    let bootstrap = cluster.bootstrap();
    let client = client(&cluster).await?;
    let stamped = NewTopic {
        configs: vec![(
            "message.timestamp.type".to_owned(),
            "LogAppendTime".to_owned(),
        )],
        ..topic(TOPIC, PARTITIONS, 3)
    };
    create(&client, stamped).await?;
    let all = topic_is(&client, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    let leads = all
        .partitions
        .iter()
        .any(|partition| partition.leader == Some(JUMPING));
    ensure!(leads, "node {JUMPING} leads nothing: {all:?}");
    // Spread over the coordinators.
    for number in 0..GROUPS {
        let commit = OffsetToCommit {
            at: partition(0),
            offset: 7,
        };
        for committed in client.commit_offsets(&group(number), &[commit]).await? {
            committed?;
        }
    }
    let mut load = Load::start(&bootstrap, 2);
    for by in ["+5y", "-5y", "+0"] {
        load.more(50, PATIENCE).await?;
        clock.jump(by)?;
        load.more(50, PATIENCE).await?;
        tokio::time::sleep(LOOKS).await;
        let starts = starts(&client).await?;
        ensure!(
            starts.iter().all(|start| *start == 0),
            "{by}: retention went up to {starts:?}"
        );
        for number in 0..GROUPS {
            let found = client.committed_offsets(&group(number), None).await?;
            ensure!(
                found.contains_key(&partition(0)),
                "{by}: the offset of group {number} expired"
            );
        }
        topic_is(&client, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    }
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    Ok(())
}
