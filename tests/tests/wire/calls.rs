//! Requests that many tests make, with one topic or one partition in them.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_client::Connection;
use klamm_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use klamm_protocol::messages::create_topics_response::CreatableTopicResult;
use klamm_protocol::messages::delete_topics_request::DeleteTopicState;
use klamm_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use klamm_protocol::messages::fetch_response::{FetchResponse, PartitionData};
use klamm_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use klamm_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use klamm_protocol::messages::metadata_request::MetadataRequestTopic;
use klamm_protocol::messages::metadata_response::MetadataResponseTopic;
use klamm_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use klamm_protocol::messages::produce_response::PartitionProduceResponse;
use klamm_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteTopicsRequest, FetchRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, ProduceRequest, ProducerId, TopicName,
};
use klamm_protocol::{ErrorCode, StrBytes};
use uuid::Uuid;

use crate::batches::{Seen, records};
use crate::rig::{connect, eventually, unique};

/// Time that a request may take on the broker.
pub(crate) const TIMEOUT_MS: i32 = 10_000;

/// A topic that exists.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: Uuid,
}

/// Text of the protocol.
pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The name of a topic.
pub(crate) fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// An error code with its name, fit for `assert_eq!`.
pub(crate) fn code(code: i16) -> ErrorCode {
    ErrorCode(code)
}

/// A topic to create.
pub(crate) fn creatable(topic: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    let config = |(key, value): &(&str, &str)| {
        CreatableTopicConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    };
    CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.iter().map(config).collect())
}

/// Asks for topics; the results are in the order of the answer.
pub(crate) async fn create_all(
    connection: &Connection,
    topics: Vec<CreatableTopic>,
    validate_only: bool,
) -> Result<Vec<CreatableTopicResult>> {
    let request = CreateTopicsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(TIMEOUT_MS)
        .with_validate_only(validate_only);
    Ok(connection.send(&request).await?.topics)
}

/// Asks for one topic.
pub(crate) async fn try_create(
    connection: &Connection,
    topic: CreatableTopic,
) -> Result<CreatableTopicResult> {
    let mut results = create_all(connection, vec![topic], false).await?;
    ensure!(results.len() == 1, "{results:?}");
    Ok(results.remove(0))
}

/// Creates a topic and waits until it can be written to and read from.
pub(crate) async fn create(
    connection: &Connection,
    partitions: i32,
    configs: &[(&str, &str)],
) -> Result<Topic> {
    let topic = unique("wire");
    let created = try_create(connection, creatable(&topic, partitions, configs)).await?;
    ensure!(
        created.error_code == 0,
        "{topic}: {} {:?}",
        code(created.error_code),
        created.error_message
    );
    wait_for(connection, &topic, partitions).await
}

/// Connects and creates a topic with one partition.
pub(crate) async fn connect_and_create() -> Result<(Connection, Topic)> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[]).await?;
    Ok((connection, topic))
}

/// Waits until all partitions of a topic are served.
pub(crate) async fn wait_for(
    connection: &Connection,
    topic: &str,
    partitions: i32,
) -> Result<Topic> {
    let led = eventually("the topic has leaders", || async {
        let found = describe(connection, topic).await?;
        let count = i32::try_from(found.partitions.len())?;
        let all_led = found
            .partitions
            .iter()
            .all(|partition| partition.error_code == 0);
        Ok((found.error_code == 0 && count == partitions && all_led).then_some(found))
    })
    .await?;
    let topic = Topic {
        name: topic.to_owned(),
        id: led.topic_id,
    };
    for partition in 0..partitions {
        let topic = &topic;
        eventually("the partition is served", || async move {
            let listed = list_offset(connection, topic, partition, -1).await?;
            Ok((listed.error_code == 0).then_some(()))
        })
        .await?;
    }
    Ok(topic)
}

/// One topic of Metadata, never created by asking.
pub(crate) async fn describe(
    connection: &Connection,
    topic: &str,
) -> Result<MetadataResponseTopic> {
    let asked = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![asked]))
        .with_allow_auto_topic_creation(false);
    let mut topics = connection.send(&request).await?.topics;
    ensure!(topics.len() == 1, "{topics:?}");
    Ok(topics.remove(0))
}

/// Deletes a topic and waits until it is gone.
pub(crate) async fn delete(connection: &Connection, topic: &Topic) -> Result<()> {
    let named = DeleteTopicState::default().with_name(Some(name(&topic.name)));
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![named])
        .with_timeout_ms(TIMEOUT_MS);
    let response = connection.send(&request).await?;
    ensure!(response.responses[0].error_code == 0, "{response:?}");
    eventually("the topic is gone", || async {
        let found = describe(connection, &topic.name).await?;
        Ok((code(found.error_code) == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION).then_some(()))
    })
    .await
}

/// A Produce request for one partition, by name and by id.
pub(crate) fn produce_request(
    topic: &Topic,
    partition: i32,
    acks: i16,
    batch: Option<Bytes>,
) -> ProduceRequest {
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(batch);
    let topic = TopicProduceData::default()
        .with_name(name(&topic.name))
        .with_topic_id(topic.id)
        .with_partition_data(vec![data]);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(TIMEOUT_MS)
        .with_topic_data(vec![topic])
}

/// Produces a batch with acks -1 in the newest version; the partition's answer.
pub(crate) async fn try_produce(
    connection: &Connection,
    topic: &Topic,
    partition: i32,
    batch: impl Into<Bytes>,
) -> Result<PartitionProduceResponse> {
    let version = connection.version_of::<ProduceRequest>()?;
    produce_version(connection, version, topic, partition, batch).await
}

/// Produces a batch with acks -1 in a version.
pub(crate) async fn produce_version(
    connection: &Connection,
    version: i16,
    topic: &Topic,
    partition: i32,
    batch: impl Into<Bytes>,
) -> Result<PartitionProduceResponse> {
    let request = produce_request(topic, partition, -1, Some(batch.into()));
    produce_answer(connection.send_version(version, &request).await?)
}

/// The only partition of a Produce answer.
pub(crate) fn produce_answer(
    response: klamm_protocol::messages::ProduceResponse,
) -> Result<PartitionProduceResponse> {
    ensure!(response.responses.len() == 1, "{response:?}");
    let partitions = &response.responses[0].partition_responses;
    ensure!(partitions.len() == 1, "{response:?}");
    Ok(partitions[0].clone())
}

/// Produces a batch, which must succeed; its base offset.
pub(crate) async fn produce(
    connection: &Connection,
    topic: &Topic,
    partition: i32,
    batch: impl Into<Bytes>,
) -> Result<i64> {
    let answer = try_produce(connection, topic, partition, batch).await?;
    ensure!(
        answer.error_code == 0,
        "{} {:?}",
        code(answer.error_code),
        answer
    );
    Ok(answer.base_offset)
}

/// A partition to fetch, up to 1 MiB.
pub(crate) fn fetch_partition(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20)
        .with_log_start_offset(-1)
}

/// A sessionless Fetch request that does not wait.
pub(crate) fn fetch_request(topic: &Topic, partitions: Vec<FetchPartition>) -> FetchRequest {
    let topic = FetchTopic::default()
        .with_topic(name(&topic.name))
        .with_topic_id(topic.id)
        .with_partitions(partitions);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// The only partition of a Fetch answer.
pub(crate) fn fetch_answer(response: FetchResponse) -> Result<PartitionData> {
    ensure!(response.error_code == 0, "{response:?}");
    ensure!(response.responses.len() == 1, "{response:?}");
    ensure!(response.responses[0].partitions.len() == 1, "{response:?}");
    Ok(response.responses[0].partitions[0].clone())
}

/// Fetches one partition, not waiting, in the newest version for consumers.
pub(crate) async fn fetch(
    connection: &Connection,
    topic: &Topic,
    partition: i32,
    offset: i64,
) -> Result<PartitionData> {
    let request = fetch_request(topic, vec![fetch_partition(partition, offset)]);
    fetch_answer(connection.send(&request).await?)
}

/// All records of a partition from its log start on.
pub(crate) async fn read_all(
    connection: &Connection,
    topic: &Topic,
    partition: i32,
) -> Result<Vec<Seen>> {
    let mut offset = list_offset(connection, topic, partition, -2).await?.offset;
    let mut seen: Vec<Seen> = Vec::new();
    loop {
        let answer = fetch(connection, topic, partition, offset).await?;
        ensure!(answer.error_code == 0, "{}", code(answer.error_code));
        let more = records(&answer.records.clone().context("records are not null")?)?;
        seen.extend(more.into_iter().filter(|record| record.offset >= offset));
        let next = seen.last().map_or(offset, |last| last.offset + 1);
        if next >= answer.high_watermark {
            return Ok(seen);
        }
        ensure!(
            next > offset,
            "no progress at {offset} below {}",
            answer.high_watermark
        );
        offset = next;
    }
}

/// Values of a partition as text.
pub(crate) async fn values(
    connection: &Connection,
    topic: &Topic,
    partition: i32,
) -> Result<Vec<String>> {
    let seen = read_all(connection, topic, partition).await?;
    Ok(seen.iter().map(Seen::text).collect())
}

/// A ListOffsets request for one partition.
pub(crate) fn list_request(topic: &Topic, partition: i32, timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(name(&topic.name))
        .with_partitions(vec![partition]);
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic])
}

/// ListOffsets for one partition in a version.
pub(crate) async fn list_version(
    connection: &Connection,
    version: i16,
    topic: &Topic,
    partition: i32,
    timestamp: i64,
) -> Result<ListOffsetsPartitionResponse> {
    let response = connection
        .send_version(version, &list_request(topic, partition, timestamp))
        .await?;
    ensure!(
        response.topics.len() == 1 && response.topics[0].partitions.len() == 1,
        "{response:?}"
    );
    Ok(response.topics[0].partitions[0].clone())
}

/// ListOffsets for one partition in the newest version.
pub(crate) async fn list_offset(
    connection: &Connection,
    topic: &Topic,
    partition: i32,
    timestamp: i64,
) -> Result<ListOffsetsPartitionResponse> {
    let version = connection.version_of::<ListOffsetsRequest>()?;
    list_version(connection, version, topic, partition, timestamp).await
}

/// Log end of a partition.
pub(crate) async fn end_offset(
    connection: &Connection,
    topic: &Topic,
    partition: i32,
) -> Result<i64> {
    Ok(list_offset(connection, topic, partition, -1).await?.offset)
}

/// An InitProducerId request for idempotence only.
pub(crate) fn init_producer_request() -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1)
}

/// A producer id and epoch. A broker may first have to get itself some ids to give.
pub(crate) async fn init_producer(connection: &Connection) -> Result<(i64, i16)> {
    eventually("there are producer ids", || async {
        let response = connection.send(&init_producer_request()).await?;
        if code(response.error_code) == ErrorCode::COORDINATOR_LOAD_IN_PROGRESS {
            return Ok(None);
        }
        ensure!(response.error_code == 0, "{}", code(response.error_code));
        Ok(Some((response.producer_id.0, response.producer_epoch)))
    })
    .await
}
