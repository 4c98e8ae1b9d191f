//! Consumers read from the replica in their rack (KIP-392).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::StrBytes;
use klamm_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use klamm_protocol::messages::fetch_response::PartitionData;
use klamm_protocol::messages::{BrokerId, FetchRequest, TopicName};
use klamm_tests::cluster::Cluster;
use rustix::process::Signal;

use crate::rig::{client, create, eventually, leader, produce_request, topic, topic_is};

pub(crate) const SETTINGS: [&str; 2] = [
    "broker.rack=rack-{id}",
    "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector",
];

/// The last version of both requests that names topics.
pub(crate) const VERSION: i16 = 12;
/// The last one without a rack.
const NO_RACKS: i16 = 10;
pub(crate) const NONE: i16 = 0;
const OFFSET_OUT_OF_RANGE: i16 = 1;
pub(crate) const NOT_LEADER_OR_FOLLOWER: i16 = 6;
/// Longer than a test takes.
const PATIENTLY: Duration = Duration::from_secs(20);

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str("t"))
}

/// Appends a record; its offset.
async fn produce(leader: &Connection) -> Result<i64> {
    let request = produce_request("t", -1)?;
    let answer = leader.send_version(VERSION, &request).await?;
    let partition = &answer.responses[0].partition_responses[0];
    ensure!(partition.error_code == NONE, "{answer:?}");
    Ok(partition.base_offset)
}

/// Reads from `offset` as a consumer in a rack, waiting for records for so long.
pub(crate) async fn fetch(
    node: &Connection,
    version: i16,
    rack: &str,
    offset: i64,
    wait: Duration,
) -> Result<PartitionData> {
    let partition = FetchPartition::default()
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20)
        .with_log_start_offset(-1);
    let topic = FetchTopic::default()
        .with_topic(name())
        .with_partitions(vec![partition]);
    let mut request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(wait.as_millis())?)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    if version > NO_RACKS {
        request = request.with_rack_id(StrBytes::from_string(rack.to_owned()));
    }
    let answer = node.send_version(version, &request).await?;
    let topic = answer.responses.first().context("a topic")?;
    topic.partitions.first().context("a partition").cloned()
}

fn bytes(answer: &PartitionData) -> usize {
    answer.records.as_ref().map_or(0, |records| records.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_reads_from_the_replica_in_its_rack() -> Result<()> {
    let cluster = Cluster::start(3, &SETTINGS)?;
    let client = client(&cluster).await?;
    create(&client, topic("t", 1, 3)).await?;
    let found = topic_is(&client, "t", |partition| partition.in_sync.len() == 3).await?;
    let leader = leader(&found, 0)?;
    let follower = (1..=3).find(|id| *id != leader).context("a follower")?;
    let (far, near) = (format!("rack-{leader}"), format!("rack-{follower}"));
    let leads = client.connect_to(leader).await?;
    let follows = client.connect_to(follower).await?;
    ensure!(produce(&leads).await? == 0);

    // The leader sends the consumer to the follower at once, and nobody else.
    let sent = fetch(&leads, VERSION, &near, 0, PATIENTLY).await?;
    ensure!(
        (sent.error_code, sent.preferred_read_replica, bytes(&sent))
            == (NONE, BrokerId(follower), 0),
        "{sent:?}"
    );
    ensure!(sent.high_watermark == 1, "{sent:?}");
    for rack in [&*far, "", "elsewhere"] {
        let kept = fetch(&leads, VERSION, rack, 0, PATIENTLY).await?;
        ensure!(
            kept.preferred_read_replica == BrokerId(-1) && bytes(&kept) > 0,
            "{rack}: {kept:?}"
        );
    }

    let read = fetch(&follows, VERSION, &near, 0, PATIENTLY).await?;
    ensure!(
        (read.error_code, read.high_watermark) == (NONE, 1) && bytes(&read) > 0,
        "{read:?}"
    );
    // A consumer that knows nothing of this is told to look for the leader.
    let refused = fetch(&follows, NO_RACKS, "", 0, PATIENTLY).await?;
    ensure!(refused.error_code == NOT_LEADER_OR_FOLLOWER, "{refused:?}");
    let beyond = fetch(&follows, VERSION, &near, 9, PATIENTLY).await?;
    ensure!(beyond.error_code == OFFSET_OUT_OF_RANGE, "{beyond:?}");

    // Who waits at the follower hears of a commit as soon as the follower does, which is at once.
    for offset in 1..5 {
        let waiting = fetch(&follows, VERSION, &near, offset, PATIENTLY);
        let (woken, produced) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(2), waiting),
            produce(&leads)
        );
        ensure!(produced? == offset);
        let woken = woken.context("the follower was told too late")??;
        ensure!(bytes(&woken) > 0, "{woken:?}");
    }

    // A follower that has lost its leader does not go on with what it knew.
    cluster.pause(leader)?;
    let third = (1..=3).find(|id| ![leader, follower].contains(id));
    cluster.pause(third.context("a third node")?)?;
    let lost = eventually(async || {
        let lost = fetch(&follows, VERSION, &near, 5, Duration::ZERO).await?;
        ensure!(lost.error_code == NOT_LEADER_OR_FOLLOWER, "{lost:?}");
        Ok(())
    });
    let lost = lost.await;
    for id in (1..=3).filter(|id| *id != follower) {
        cluster.signal(id, Signal::CONT)?;
    }
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_selector_leaders_are_read() -> Result<()> {
    let cluster = Cluster::start(3, &SETTINGS[..1])?;
    let client = client(&cluster).await?;
    create(&client, topic("t", 1, 3)).await?;
    let found = topic_is(&client, "t", |partition| partition.in_sync.len() == 3).await?;
    let leader = leader(&found, 0)?;
    let follower = (1..=3).find(|id| *id != leader).context("a follower")?;
    let near = format!("rack-{follower}");
    let leads = client.connect_to(leader).await?;
    produce(&leads).await?;
    let kept = fetch(&leads, VERSION, &near, 0, PATIENTLY).await?;
    ensure!(
        kept.preferred_read_replica == BrokerId(-1) && bytes(&kept) > 0,
        "{kept:?}"
    );
    let follows = client.connect_to(follower).await?;
    let refused = fetch(&follows, VERSION, &near, 0, PATIENTLY).await?;
    ensure!(refused.error_code == NOT_LEADER_OR_FOLLOWER, "{refused:?}");
    Ok(())
}
