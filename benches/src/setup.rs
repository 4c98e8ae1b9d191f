//! What every scenario needs before its load: connections, a topic, a coordinator that serves.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use klamm_client::{Client, ClientOptions, Connection, ConnectionOptions, NewTopic};
use klamm_protocol::messages::ProduceRequest;
use klamm_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use klamm_protocol::messages::{
    FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    TopicName,
};
use klamm_protocol::{ErrorCode, StrBytes, encode_request};
use klamm_records::{BatchBuilder, NewRecord};
use tokio::time::{Instant, sleep};

/// The topic that all group scenarios consume.
pub const TOPIC: StrBytes = StrBytes::from_static_str("bench");
/// The newest version that names topics by name, not by id.
pub const OFFSET_COMMIT: i16 = 9;
/// As [`OFFSET_COMMIT`].
pub const PRODUCE: i16 = 9;
/// As [`OFFSET_COMMIT`].
pub const FETCH: i16 = 12;
/// As [`OFFSET_COMMIT`].
pub const OFFSET_FETCH: i16 = 9;

/// How long a broker may take until it serves a group.
const PATIENCE: Duration = Duration::from_secs(120);
/// Partitions of one request: Kafka refuses what makes more than 10,000 metadata records (POLICY_VIOLATION).
const CREATED_AT_ONCE: i32 = 5000;
/// How long leaders may take to settle; not all brokers see to it soon.
const SETTLED: Duration = Duration::from_secs(10);
const LONG_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two questions whether it does.
const PAUSE: Duration = Duration::from_millis(1);

/// Connections for load: patient, and deep enough to be limited by the scenario alone.
pub fn connection_options() -> ConnectionOptions {
    ConnectionOptions {
        client_id: "klamm-bench".to_owned(),
        request_timeout: Duration::from_secs(300),
        max_in_flight: 8192,
        ..ConnectionOptions::default()
    }
}

/// Opens `count` connections.
pub async fn connect(address: &str, count: usize) -> Result<Vec<Connection>> {
    let options = connection_options();
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(Connection::connect(address, &options).await?);
    }
    Ok(connections)
}

/// A client that waits for what takes time.
pub async fn client(address: &str) -> Result<Client> {
    let options = ClientOptions {
        connection: connection_options(),
        retry_timeout: PATIENCE,
        unknown_topic_timeout: PATIENCE,
        retry_backoff: Duration::from_millis(2),
        ..ClientOptions::default()
    };
    Ok(Client::connect(address, options).await?)
}

/// Creates [`TOPIC`] and waits until it is known and every partition has a leader.
pub async fn create_topic(address: &str, partitions: i32) -> Result<()> {
    create(&client(address).await?, TOPIC.as_str(), partitions).await
}

/// As [`create_topic`], any topic; in steps that Kafka's controller takes.
pub async fn create(client: &Client, name: &str, partitions: i32) -> Result<()> {
    let topic = NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions.min(CREATED_AT_ONCE)),
        // The broker's own: one, or one on each node.
        replication_factor: None,
        configs: Vec::new(),
    };
    for created in client.create_topics(&[topic], false).await? {
        created.context("the topic cannot be created")?;
    }
    let mut there = CREATED_AT_ONCE;
    while there < partitions {
        there = partitions.min(there + CREATED_AT_ONCE);
        let grown = client.create_partitions(name, there).await;
        grown.context("the topic cannot get more partitions")?;
    }
    led(client, name, partitions).await
}

/// Waits until every partition of a topic has a leader.
pub async fn led(client: &Client, name: &str, partitions: i32) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let asked = Instant::now();
        let known = client.refresh_topic(name).await?;
        let took = asked.elapsed();
        let led = known.partitions.iter().filter(|one| one.leader.is_some());
        let led = led.count();
        if i32::try_from(led)? == partitions {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{led} of {partitions} partitions have a leader"
        );
        // The answer about many partitions is work, too.
        sleep(PAUSE.max(took * 4)).await;
    }
}

/// Waits until every partition is led by its first replica, where brokers bring that about: connections that write to a
/// leader are not to lose it meanwhile.
pub async fn settled(client: &Client, name: &str) -> Result<()> {
    let until = Instant::now() + SETTLED;
    loop {
        let known = client.refresh_topic(name).await?;
        let mut partitions = known.partitions.iter();
        let settled = partitions.all(|one| {
            one.leader == one.replicas.first().copied() && one.in_sync.len() == one.replicas.len()
        });
        if settled || Instant::now() > until {
            return Ok(());
        }
        sleep(LONG_PAUSE).await;
    }
}

/// Where the leader of each partition is, by partition.
pub async fn leaders(client: &Client, name: &str) -> Result<Vec<Option<String>>> {
    let known = client.refresh_topic(name).await?;
    let nodes = &client.cluster().nodes;
    let mut partitions: Vec<_> = known.partitions.iter().collect();
    partitions.sort_by_key(|one| one.index);
    let leaders = partitions.into_iter().map(|one| {
        let leader = one.leader.and_then(|id| nodes.get(&id));
        leader.map(|node| node.address())
    });
    Ok(leaders.collect())
}

/// Where the leaders of [`TOPIC`] are once they have settled.
pub async fn settled_leaders(address: &str) -> Result<Vec<String>> {
    let client = client(address).await?;
    settled(&client, TOPIC.as_str()).await?;
    let leaders = leaders(&client, TOPIC.as_str()).await?.into_iter();
    let leaders = leaders.collect::<Option<_>>();
    leaders.context("a partition without leader")
}

/// One uncompressed batch of these values, dated now.
pub fn batch_of<V: AsRef<[u8]>>(values: &[V]) -> Result<Bytes> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let timestamp = i64::try_from(now.as_millis())?;
    let mut batch = BatchBuilder::new();
    for value in values {
        batch.push(&NewRecord {
            timestamp,
            value: Some(value.as_ref()),
            ..NewRecord::default()
        })?;
    }
    Ok(batch.build()?)
}

/// The whole frame of a Produce request for partitions of [`TOPIC`], acks=all.
pub fn produce_frame(
    correlation_id: i32,
    batches: impl IntoIterator<Item = (i32, Bytes)>,
) -> Result<Bytes> {
    let parts = batches.into_iter().map(|(partition, batch)| {
        PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(batch))
    });
    let topic = TopicProduceData::default()
        .with_name(TopicName(TOPIC))
        .with_partition_data(parts.collect());
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic]);
    Ok(encode_request(
        PRODUCE,
        correlation_id,
        Some("klamm-bench"),
        &request,
    )?)
}

/// The id of group number `index`.
pub fn group_id(index: usize) -> GroupId {
    GroupId(StrBytes::from_string(format!("bench-{index}")))
}

/// Finds the groups' coordinator, which creates `__consumer_offsets`, and waits until each of the
/// groups can be asked for its offsets.
pub async fn coordinator_serves(connection: &Connection, groups: &[GroupId]) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    for group in groups {
        // One answer tells all there is to know of a single node, but asking for one group at a
        // time suits every version.
        let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![group.0.clone()]);
        loop {
            let answer = connection.send(&find).await?;
            let found = answer
                .coordinators
                .first()
                .context("no coordinator named")?;
            match ErrorCode(found.error_code) {
                ErrorCode::NONE => break,
                code => may_pass("FindCoordinator", code, until).await?,
            }
        }
    }
    offsets_served(connection, groups).await
}

/// Asks each group for a committed offset until all have answered.
pub async fn offsets_served(connection: &Connection, groups: &[GroupId]) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    for group in groups {
        let fetch = fetch_request(group, vec![0]);
        loop {
            let answer = connection.send_version(OFFSET_FETCH, &fetch).await?;
            let answer = answer.groups.first().context("no group in the answer")?;
            match ErrorCode(answer.error_code) {
                ErrorCode::NONE => break,
                code => may_pass("OffsetFetch", code, until).await?,
            }
        }
    }
    Ok(())
}

async fn may_pass(api: &str, code: ErrorCode, until: Instant) -> Result<()> {
    if !code.is_retriable() || Instant::now() > until {
        bail!("{api}: {code}");
    }
    sleep(PAUSE).await;
    Ok(())
}

/// Asks a group for the committed offsets of some partitions of [`TOPIC`].
pub fn fetch_request(group: &GroupId, partitions: Vec<i32>) -> OffsetFetchRequest {
    let topic = OffsetFetchRequestTopics::default()
        .with_name(TopicName(TOPIC))
        .with_partition_indexes(partitions);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(group.clone())
        .with_member_epoch(-1)
        .with_topics(Some(vec![topic]));
    OffsetFetchRequest::default().with_groups(vec![group])
}

/// A simple consumer's commit (no member, generation -1) of one offset for some partitions.
pub fn commit_request(
    group: &GroupId,
    partitions: impl Iterator<Item = i32>,
    offset: i64,
) -> OffsetCommitRequest {
    let partitions = partitions.map(|partition| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(StrBytes::default()))
    });
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(TOPIC))
        .with_partitions(partitions.collect());
    OffsetCommitRequest::default()
        .with_group_id(group.clone())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

/// That each of the partitions was committed.
pub fn committed(answer: &OffsetCommitResponse) -> Result<()> {
    for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
        let code = ErrorCode(partition.error_code);
        ensure!(
            code == ErrorCode::NONE,
            "commit of partition {}: {code}",
            partition.partition_index
        );
    }
    Ok(())
}
