//! Partitions move: while clients write, from and to any node, with more or fewer replicas, and back; to nodes that come
//! later, and off nodes that are drained.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use klamm_client::{
    Client, ConfigChange, ConfigResource, NewMessage, OffsetSpec, PartitionReader, Producer,
    ProducerOptions, ReaderOptions, Topic, TopicPartition,
};
use klamm_protocol::StrBytes;
use klamm_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use klamm_protocol::messages::list_partition_reassignments_response::OngoingPartitionReassignment;
use klamm_protocol::messages::{
    AlterPartitionReassignmentsResponse, BrokerId, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse, TopicName,
};
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, Load, PARTITIONS, TOPIC};
use tokio::time::Instant;

use crate::rig::{client, client_of, create, eventually, node_command, topic, topic_is};

/// Longest wait for more acknowledgements.
const SOON: Duration = Duration::from_secs(30);
const NO_REASSIGNMENT_IN_PROGRESS: i16 = 85;

/// Asks for these replicas of the partitions of a topic from 0 on (nothing: cancel), through node `by`; the error
/// codes in that order.
pub(crate) async fn reassign(
    client: &Client,
    by: i32,
    name: &str,
    wanted: &[Option<&[i32]>],
) -> Result<Vec<i16>> {
    let partitions = wanted.iter().zip(0..).map(|(replicas, index)| {
        let brokers = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect();
        ReassignablePartition::default()
            .with_partition_index(index)
            .with_replicas(replicas.map(brokers))
    });
    let topic = ReassignableTopic::default()
        .with_name(TopicName(StrBytes::from_string(name.to_owned())))
        .with_partitions(partitions.collect());
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(20_000)
        .with_topics(vec![topic]);
    let connection = client.connect_to(by).await?;
    let response: AlterPartitionReassignmentsResponse = connection.send(&request).await?;
    ensure!(response.error_code == 0, "{response:?}");
    let answers = response.responses.into_iter().flat_map(|t| t.partitions);
    Ok(answers.map(|answer| answer.error_code).collect())
}

/// The partitions that are being moved, as one node says.
async fn moving(client: &Client, by: i32) -> Result<Vec<OngoingPartitionReassignment>> {
    let connection = client.connect_to(by).await?;
    let request = ListPartitionReassignmentsRequest::default()
        .with_timeout_ms(20_000)
        .with_topics(None);
    let response: ListPartitionReassignmentsResponse = connection.send(&request).await?;
    let partitions = response.topics.into_iter().flat_map(|t| t.partitions);
    Ok(partitions.collect())
}

/// Waits until a topic's partitions have exactly these replicas, all in sync, and the first leads or will.
async fn settled(client: &Client, name: &str, wanted: &[&[i32]]) -> Result<Topic> {
    let there = topic_is(client, name, |partition| {
        let at = usize::try_from(partition.index).unwrap_or_default();
        let in_sync: BTreeSet<i32> = partition.in_sync.iter().copied().collect();
        partition
            .leader
            .is_some_and(|leader| in_sync.contains(&leader))
            && wanted.get(at).is_some_and(|wanted| {
                *wanted == partition.replicas && in_sync == wanted.iter().copied().collect()
            })
    });
    let there = there.await?;
    eventually(async || match moving(client, 1).await? {
        none if none.is_empty() => Ok(()),
        some => bail!("still moving: {some:?}"),
    })
    .await?;
    Ok(there)
}

/// Folders of a topic's partitions on a node.
fn replicas_on_disk(cluster: &Cluster, id: i32) -> Result<usize> {
    let data = cluster.node(id).dir.join("data");
    let mut found = 0;
    for entry in std::fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        // What is deleted has another name until a checkpoint removes it.
        let is_there = name.len() > 36 && !name.to_string_lossy().ends_with(".deleted");
        let is_partition = is_there && entry.file_type()?.is_dir();
        found += usize::from(is_partition);
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_round_while_clients_write() -> Result<()> {
    let cluster = Cluster::start(3, &[])?;
    let bootstrap = cluster.bootstrap();
    load::create_topic(&bootstrap).await?;
    let admin = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 3);
    load.more(300, SOON).await?;
    // One replica on the next node, all on one, two each, three, one again: leaders come and go, too.
    let rounds: [[&[i32]; PARTITIONS as usize]; 5] = [
        [&[2], &[3], &[1], &[2]],
        [&[3], &[3], &[3], &[3]],
        [&[1, 2], &[2, 3], &[3, 1], &[1, 3]],
        [&[3, 2, 1], &[1, 2, 3], &[2, 3, 1], &[3, 1, 2]],
        [&[1], &[2], &[3], &[1]],
    ];
    for (round, by) in rounds.iter().zip([1, 2, 3, 1, 2]) {
        let wanted: Vec<Option<&[i32]>> = round.iter().map(|replicas| Some(*replicas)).collect();
        let codes = reassign(&admin, by, TOPIC, &wanted).await?;
        ensure!(codes == [0; PARTITIONS as usize], "{codes:?}");
        settled(&admin, TOPIC, round).await?;
        load.more(300, SOON).await?;
    }
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    // Who went dropped what it held.
    eventually(async || {
        let held = (1..=3).map(|id| replicas_on_disk(&cluster, id));
        let held = held.collect::<Result<Vec<_>>>()?;
        ensure!(held == [2, 1, 1], "{held:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_a_node_that_is_away_waits_and_can_be_cancelled() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    let bootstrap = cluster.bootstrap();
    load::create_topic(&bootstrap).await?;
    let admin = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 2);
    let home: [&[i32]; PARTITIONS as usize] = [&[1], &[1], &[1], &[1]];
    reassign(&admin, 1, TOPIC, &home.map(Some)).await?;
    settled(&admin, TOPIC, &home).await?;
    cluster.kill(3)?;
    reassign(&admin, 2, TOPIC, &[Some(&[1, 3]), Some(&[3]), Some(&[2])]).await?;
    // The one that can, moves.
    let found = eventually(async || {
        let found = moving(&admin, 2).await?;
        ensure!(found.len() == 2, "{found:?}");
        Ok(found)
    })
    .await?;
    let (first, second) = (&found[0], &found[1]);
    ensure!(first.adding_replicas == [BrokerId(3)] && first.removing_replicas.is_empty());
    ensure!(second.adding_replicas == [BrokerId(3)] && second.removing_replicas == [BrokerId(1)]);
    ensure!(second.replicas == [BrokerId(3), BrokerId(1)], "{second:?}");
    load.more(200, SOON).await?;
    let codes = reassign(&admin, 1, TOPIC, &[None, None, None]).await?;
    ensure!(codes == [0, 0, NO_REASSIGNMENT_IN_PROGRESS], "{codes:?}");
    let back: [&[i32]; PARTITIONS as usize] = [&[1], &[1], &[2], &[1]];
    settled(&admin, TOPIC, &back).await?;
    let codes = reassign(&admin, 1, TOPIC, &[None]).await?;
    ensure!(codes == [NO_REASSIGNMENT_IN_PROGRESS], "{codes:?}");
    cluster.boot(3)?;
    load.more(200, SOON).await?;
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    ensure!(replicas_on_disk(&cluster, 3)? == 0, "3 never had a replica");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_go_on_when_nodes_are_killed_in_the_middle() -> Result<()> {
    let mut cluster = Cluster::start(3, &["min.insync.replicas=1"])?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 2).await?;
    let admin = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 2);
    load.more(200, SOON).await?;
    for victim in 1..=3 {
        let now = topic_is(&admin, TOPIC, |partition| partition.in_sync.len() == 2).await?;
        // The one that was left out takes the place of the first.
        let wanted: Vec<Vec<i32>> = (0..PARTITIONS)
            .map(|index| {
                let replicas = &now.partition(index).context("a partition")?.replicas;
                let new = (1..=3).find(|id| !replicas.contains(id));
                Ok(vec![replicas[1], new.context("one is left out")?])
            })
            .collect::<Result<_>>()?;
        let wanted: Vec<Option<&[i32]>> = wanted.iter().map(|ids| Some(&**ids)).collect();
        let by = victim % 3 + 1;
        reassign(&admin, by, TOPIC, &wanted).await?;
        tokio::time::sleep(Duration::from_millis(u64::try_from(victim)? * 130)).await;
        cluster.kill(victim)?;
        cluster.boot(victim)?;
        let wanted: Vec<&[i32]> = wanted.into_iter().flatten().collect();
        settled(&admin, TOPIC, &wanted).await?;
        load.more(200, SOON).await?;
    }
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_node_joins_and_takes_over() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let admin = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 2);
    load.more(300, SOON).await?;
    let fourth = cluster.add()?;
    cluster.boot(fourth)?;
    for id in 1..=4 {
        let client = client_of(&cluster, id).await?;
        eventually(async || {
            let nodes = client.describe_cluster().await?.nodes;
            ensure!(nodes.len() == 4, "node {id}: {nodes:?}");
            Ok(())
        })
        .await?;
    }
    admin.refresh_all_topics().await?;
    // It takes the place of 1, and leads.
    let wanted: [&[i32]; PARTITIONS as usize] = [&[4, 2, 3], &[2, 4, 3], &[3, 2, 4], &[4, 3, 2]];
    reassign(&admin, 4, TOPIC, &wanted.map(Some)).await?;
    settled(&admin, TOPIC, &wanted).await?;
    cluster.stop(1)?;
    load.more(300, SOON).await?;
    // It comes back by itself after a crash, and without the first that it met.
    cluster.kill(fourth)?;
    load.more(300, SOON).await?;
    cluster.boot(fourth)?;
    topic_is(&admin, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    cluster.kill(2)?;
    load.more(300, SOON).await?;
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_and_gets_nothing_new() -> Result<()> {
    let mut cluster = Cluster::start(3, &["min.insync.replicas=1"])?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 2).await?;
    let admin = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 2);
    load.more(200, SOON).await?;
    let (drained, said) = node_command(&cluster, &["drain", "3"])?;
    ensure!(drained && said.contains("0 of"), "{said}");
    let none = |partition: &klamm_client::Partition| !partition.replicas.contains(&3);
    topic_is(&admin, TOPIC, none).await?;
    load.more(200, SOON).await?;
    // Any node may be asked, also for one that is away.
    cluster.kill(3)?;
    let (drained, said) = node_command(&cluster, &["drain", "3"])?;
    ensure!(drained, "{said}");
    create(&admin, topic("elsewhere", 6, 2)).await?;
    topic_is(&admin, "elsewhere", none).await?;
    // With two nodes left there is nowhere to go.
    let (drained, said) = node_command(&cluster, &["drain", "2"])?;
    ensure!(!drained && said.contains("replicas stay"), "{said}");
    for id in ["2", "3"] {
        let (undrained, said) = node_command(&cluster, &["undrain", id])?;
        ensure!(undrained, "{said}");
    }
    let (known, said) = node_command(&cluster, &["drain", "9"])?;
    ensure!(!known && said.contains("nodes 1, 2, 3"), "{said}");
    cluster.boot(3)?;
    create(&admin, topic("again", 6, 3)).await?;
    topic_is(&admin, "again", |partition| partition.in_sync.len() == 3).await?;
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_log_has_no_entries_of_any_more_moves_too() -> Result<()> {
    let cluster = Cluster::start(3, &["log.retention.check.interval.ms=300"])?;
    let admin = client(&cluster).await?;
    let mut old = topic("old", 1, 1);
    old.configs = vec![("segment.bytes".to_owned(), "1048576".to_owned())];
    create(&admin, old).await?;
    let producer = Producer::new(admin.clone(), ProducerOptions::default());
    let at = TopicPartition {
        topic: "old".to_owned(),
        partition: 0,
    };
    for number in 0..200 {
        let message = NewMessage {
            value: Some(format!("{number}").repeat(9_000).into()),
            ..NewMessage::default()
        };
        producer.send("old", Some(0), message).await?.await?;
    }
    admin.delete_records(&at, 120).await?;
    // The entries below are purged with the next round of retention.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for to in [1, 2, 3, 1] {
        reassign(&admin, 1, "old", &[Some(&[to])]).await?;
        settled(&admin, "old", &[&[to]]).await?;
        let start = admin
            .list_offsets(&[(at.clone(), OffsetSpec::Earliest)])
            .await?;
        ensure!(
            start.iter().all(|found| found.offset == Some(120)),
            "{start:?}"
        );
        let options = ReaderOptions::default();
        let mut reader = PartitionReader::new(admin.clone(), "old", 0, 120, options);
        while reader.position() < 200 {
            for message in reader.poll().await?.messages {
                let expected = format!("{}", message.offset).repeat(9_000);
                ensure!(
                    message.value.as_deref() == Some(expected.as_bytes()),
                    "offset {} on node {to}",
                    message.offset
                );
            }
        }
    }
    Ok(())
}

/// Bytes per second that a move of 15 MB is held back to.
const SLOW: &str = "300000";
/// After so long, at that rate, it cannot be over; without, it is.
const STILL_MOVING: Duration = Duration::from_secs(3);
/// Less than it takes at that rate.
const SOONER: Duration = Duration::from_secs(25);
/// A record that waited for the move would wait longer.
const AT_ONCE: Duration = Duration::from_secs(5);

async fn set(client: &Client, of: ConfigResource, name: &str, value: &str) -> Result<()> {
    let change = ConfigChange::Set(name.to_owned(), value.to_owned());
    Ok(client.alter_configs(&of, &[change]).await?)
}

/// What `kafka-reassign-partitions --throttle` does (KIP-73).
#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_held_back_until_the_limit_goes() -> Result<()> {
    let cluster = Cluster::start(3, &["log.retention.check.interval.ms=300"])?;
    let admin = client(&cluster).await?;
    let mut moved = topic("moved", 1, 1);
    moved.configs = vec![("segment.bytes".to_owned(), "1048576".to_owned())];
    create(&admin, moved).await?;
    reassign(&admin, 1, "moved", &[Some(&[1])]).await?;
    settled(&admin, "moved", &[&[1]]).await?;
    let producer = Producer::new(admin.clone(), ProducerOptions::default());
    let produce = async || {
        let message = NewMessage {
            value: Some(vec![b'x'; 100_000].into()),
            ..NewMessage::default()
        };
        producer.send("moved", Some(0), message).await?.await
    };
    for _ in 0..150 {
        produce().await?;
    }
    // As entries, by the leader's rate; then from segments, by that of the follower.
    for (from, to, rate) in [(1, 2, "leader"), (2, 3, "follower")] {
        if rate == "follower" {
            let at = TopicPartition {
                topic: "moved".to_owned(),
                partition: 0,
            };
            admin.delete_records(&at, 20).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let topic = || ConfigResource::Topic("moved".to_owned());
        let broker = || ConfigResource::Broker(Some(if rate == "leader" { from } else { to }));
        let leaders = "leader.replication.throttled.replicas";
        set(&admin, topic(), leaders, &format!("0:{from}")).await?;
        let followers = "follower.replication.throttled.replicas";
        set(&admin, topic(), followers, &format!("0:{to}")).await?;
        let limit = format!("{rate}.replication.throttled.rate");
        set(&admin, broker(), &limit, SLOW).await?;
        let began = Instant::now();
        reassign(&admin, 1, "moved", &[Some(&[to])]).await?;
        while began.elapsed() < STILL_MOVING {
            let sent = Instant::now();
            produce().await?;
            let took = sent.elapsed();
            ensure!(took < AT_ONCE, "a producer waited {took:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let left = moving(&admin, 1).await?;
        ensure!(left.len() == 1, "to {to}: moved in spite of the limit");
        let status = crate::status::json(&cluster)?;
        let (told, lag) = (
            &status["moving"][0],
            &status["moving"][0]["adding"][0]["lag"],
        );
        ensure!(
            told["topic"] == "moved" && told["adding"][0]["node"] == to,
            "{status:#}"
        );
        ensure!(lag.as_i64().is_none_or(|lag| lag > 0), "{status:#}");
        ensure!(status["under_replicated"] == 0, "{status:#}");
        let change = ConfigChange::Unset(limit);
        admin.alter_configs(&broker(), &[change]).await?;
        settled(&admin, "moved", &[&[to]]).await?;
        let took = began.elapsed();
        ensure!(took < SOONER, "to {to}: it took {took:?}");
    }
    Ok(())
}
