//! Questions to a cluster that tests repeat.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use klamm_client::{Client, NewTopic, Partition, Topic};
use klamm_protocol::StrBytes;
use klamm_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use klamm_protocol::messages::{ProduceRequest, TopicName};
use klamm_records::{BatchBuilder, NewRecord};
use klamm_tests::broker::binary;
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, TOPIC, patient};
use klamm_tests::volume::Volume;

/// A client that knows all nodes.
pub(crate) async fn client(cluster: &Cluster) -> Result<Client> {
    Ok(Client::connect(&cluster.bootstrap(), patient()).await?)
}

/// A client that knows one node.
pub(crate) async fn client_of(cluster: &Cluster, id: i32) -> Result<Client> {
    Ok(Client::connect(&cluster.node(id).kafka, patient()).await?)
}

/// A volume for the data of one node, with room for whatever a load writes on a fast machine; sparse.
pub(crate) fn volume(dir: &Path) -> Option<Volume> {
    Volume::or_skip(dir, 8192)
}

/// Three nodes, one of them with its data on a volume, and [`TOPIC`] in sync on all, of which this one leads a part.
pub(crate) async fn three_with(
    volume: &Volume,
    id: i32,
    settings: &[&str],
) -> Result<(Cluster, Client)> {
    let mut cluster = Cluster::new(3, settings)?;
    let data = volume.path().join("data");
    std::fs::create_dir(&data)?;
    symlink(data, cluster.node(id).dir.join("data"))?;
    for id in 1..=3 {
        cluster.launch(id)?;
    }
    cluster.wait_ready()?;
    load::create_replicated_topic(&cluster.bootstrap(), 3).await?;
    let watcher = client(&cluster).await?;
    let topic = topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    let mut leaders = topic.partitions.iter().map(|partition| partition.leader);
    ensure!(
        leaders.any(|leader| leader == Some(id)),
        "node {id} leads nothing: {topic:?}"
    );
    Ok((cluster, watcher))
}

/// A request with one record for partition 0 of a topic, in a version that names topics.
pub(crate) fn produce_request(name: &str, acks: i16) -> Result<ProduceRequest> {
    produce_request_by(name, acks, BatchBuilder::new())
}

/// As [`produce_request`], with what the batch says of its producer.
pub(crate) fn produce_request_by(
    name: &str,
    acks: i16,
    mut builder: BatchBuilder,
) -> Result<ProduceRequest> {
    builder.push(&NewRecord {
        value: Some(b"x"),
        ..NewRecord::default()
    })?;
    let partition = PartitionProduceData::default().with_records(Some(builder.build()?));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(name.to_owned())))
        .with_partition_data(vec![partition]);
    Ok(ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(20_000)
        .with_topic_data(vec![topic]))
}

/// A topic to create.
pub(crate) fn topic(name: &str, partitions: i32, replicas: i16) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        replication_factor: Some(replicas),
        configs: Vec::new(),
    }
}

/// Creates a topic.
pub(crate) async fn create(client: &Client, topic: NewTopic) -> Result<()> {
    for created in client.create_topics(&[topic], false).await? {
        created?;
    }
    Ok(())
}

/// Far more than anything takes on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// Looks until `wanted` says what it found; fails with what was seen last.
pub(crate) async fn eventually<T>(mut wanted: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match wanted().await {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= until => return Err(last),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until a topic's partitions are all as `is_so` wants them, as a node that is asked says.
pub(crate) async fn topic_is(
    client: &Client,
    name: &str,
    is_so: impl Fn(&Partition) -> bool,
) -> Result<Topic> {
    eventually(async || {
        let topic = client.refresh_topic(name).await?;
        match topic.partitions.iter().find(|partition| !is_so(partition)) {
            None => Ok((*topic).clone()),
            Some(partition) => bail!("{name}: {partition:?}"),
        }
    })
    .await
}

/// The leader of a partition.
pub(crate) fn leader(topic: &Topic, partition: i32) -> Result<i32> {
    let partition = topic.partition(partition).context("the partition")?;
    partition.leader.context("a leader")
}

/// Runs `klamm node` with these arguments: whether it succeeded, and what it said.
pub(crate) fn node_command(cluster: &Cluster, args: &[&str]) -> Result<(bool, String)> {
    let output = std::process::Command::new(binary()?)
        .arg("node")
        .args(args)
        .args(["--bootstrap", &cluster.bootstrap()])
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(said)?))
}
