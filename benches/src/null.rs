//! The null broker: what any broker that is reached over Kafka's protocol has to do, and no more.
//!
//! It takes frames from the socket, checks and decodes each request with the crates of Klamm,
//! checks the CRC of every batch, counts offsets, and answers. It validates no records and stores
//! nothing, neither records nor the offsets that consumers commit. What it reaches on a load is the
//! limit that the client, the kernel's loopback and the protocol set to that load on this machine.
//!
//! Deliberately absent: Fetch (there is nothing to read), members of groups, limits on memory, an
//! orderly end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use clap::Args;
use klamm_protocol::messages::create_topics_response::CreatableTopicResult;
use klamm_protocol::messages::find_coordinator_response::Coordinator;
use klamm_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use klamm_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use klamm_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use klamm_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use klamm_protocol::messages::{
    BrokerId, CreateTopicsRequest, CreateTopicsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse, MetadataRequest,
    MetadataResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, ProduceRequest, ProduceResponse, ProducerId, TopicName,
};
use klamm_protocol::{
    Api, ApiResponse, ErrorCode, Features, HeadError, RequestHead, StrBytes, api_versions_response,
    decode, encode_response, next_frame, unsupported_api_versions_response,
};
use klamm_records::{TopicId, batch_crc_ok, single_batch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// Its only node.
const NODE: BrokerId = BrokerId(0);
/// Kafka's `socket.request.max.bytes`.
const MAX_FRAME: usize = 100 * 1024 * 1024;
/// Room for reading, at least.
const READ_ROOM: usize = 64 * 1024;

/// Arguments of `null`.
#[derive(Args, Clone, Debug)]
pub struct Null {
    /// Where clients connect
    #[arg(long, default_value = "127.0.0.1:9092")]
    listen: SocketAddr,
}

/// What it knows: the topics, and how many records each partition would hold.
#[derive(Default)]
struct Topics {
    by_name: HashMap<TopicName, usize>,
    all: Vec<Topic>,
}

struct Topic {
    name: TopicName,
    ends: Vec<i64>,
}

impl Topics {
    fn create(&mut self, name: &TopicName, partitions: usize) -> usize {
        let next = self.all.len();
        let index = *self.by_name.entry(name.clone()).or_insert(next);
        if index == next {
            self.all.push(Topic {
                name: name.clone(),
                ends: vec![0; partitions],
            });
        }
        index
    }

    /// The topic that a request of either kind names; ids count up from 1.
    fn find(&self, name: &TopicName, id: TopicId) -> Option<usize> {
        match self.by_name.get(name) {
            Some(index) => Some(*index),
            None => usize::try_from(id.0.as_u128()).ok()?.checked_sub(1),
        }
    }

    /// Counts records in and gives the offset of the first; `None` for a partition there is not.
    fn append(&mut self, topic: usize, partition: i32, records: i32) -> Option<i64> {
        let ends = &mut self.all.get_mut(topic)?.ends;
        let end = ends.get_mut(usize::try_from(partition).ok()?)?;
        let base = *end;
        *end += i64::from(records);
        Some(base)
    }
}

fn id_of(index: usize) -> TopicId {
    TopicId(Uuid::from_u128(index as u128 + 1))
}

struct Broker {
    topics: Mutex<Topics>,
    address: SocketAddr,
}

impl Null {
    /// Serves until the process is ended.
    pub async fn run(&self) -> Result<()> {
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", self.listen))?;
        let broker = Arc::new(Broker {
            topics: Mutex::default(),
            address: listener.local_addr()?,
        });
        println!("ready");
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let broker = Arc::clone(&broker);
            tokio::spawn(async move {
                if let Err(error) = broker.serve(stream).await {
                    eprintln!("a connection ended: {error:#}");
                }
            });
        }
    }
}

impl Broker {
    async fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut input = BytesMut::new();
        let mut output = BytesMut::new();
        loop {
            while let Some(frame) = next_frame(&mut input, MAX_FRAME)? {
                if let Some(answer) = self.answer(frame)? {
                    output.extend_from_slice(&answer);
                }
            }
            if !output.is_empty() {
                stream.write_all(&output).await?;
                output.clear();
            }
            input.reserve(READ_ROOM);
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    }

    /// The whole frame that answers a request; none for Produce without acknowledgement.
    fn answer(&self, frame: Bytes) -> Result<Option<Bytes>> {
        let (head, body) = match RequestHead::parse(frame) {
            Ok(parsed) => parsed,
            Err(HeadError::UnsupportedApiVersions { correlation_id, .. }) => {
                return Ok(Some(unsupported_api_versions_response(correlation_id)));
            }
            Err(error) => return Err(error.into()),
        };
        let version = head.version;
        Ok(Some(match head.api {
            Api::Produce => {
                let request: ProduceRequest = decode(body, version)?;
                if request.acks == 0 {
                    self.produce(version, request)?;
                    return Ok(None);
                }
                encoded(&head, &self.produce(version, request)?)?
            }
            Api::ApiVersions => {
                let features = Features {
                    epoch: 0,
                    features: Vec::new(),
                };
                encoded(&head, &api_versions_response(version, &features))?
            }
            Api::Metadata => encoded(&head, &self.metadata(version, &decode(body, version)?))?,
            Api::CreateTopics => {
                let request: CreateTopicsRequest = decode(body, version)?;
                encoded(&head, &self.create_topics(version, &request)?)?
            }
            Api::InitProducerId => {
                decode::<InitProducerIdRequest>(body, version)?;
                let answer = InitProducerIdResponse::default()
                    .with_producer_id(ProducerId(1))
                    .with_producer_epoch(0);
                encoded(&head, &answer)?
            }
            Api::FindCoordinator => {
                encoded(&head, &self.coordinator(version, &decode(body, version)?))?
            }
            Api::OffsetCommit => encoded(&head, &committed(version, &decode(body, version)?))?,
            Api::OffsetFetch => encoded(&head, &no_offsets(&decode(body, version)?))?,
            api => bail!("the null broker does not serve {api}"),
        }))
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn produce(&self, version: i16, request: ProduceRequest) -> Result<ProduceResponse> {
        let mut topics = Vec::with_capacity(request.topic_data.len());
        for topic in request.topic_data {
            let found = self.topics().find(&topic.name, TopicId(topic.topic_id));
            let mut parts = Vec::with_capacity(topic.partition_data.len());
            for part in topic.partition_data {
                let records = part.records.context("a partition without records")?;
                let header = single_batch(&records)?;
                ensure!(batch_crc_ok(&records), "the CRC of a batch does not match");
                let appended = found
                    .and_then(|topic| self.topics().append(topic, part.index, header.record_count));
                let answer = PartitionProduceResponse::default().with_index(part.index);
                parts.push(match appended {
                    Some(base_offset) => answer.with_base_offset(base_offset),
                    None => answer.with_error_code(unknown_topic()),
                });
            }
            let answer = TopicProduceResponse::default().with_partition_responses(parts);
            topics.push(match version {
                ..13 => answer.with_name(topic.name),
                _ => answer.with_topic_id(topic.topic_id),
            });
        }
        Ok(ProduceResponse::default().with_responses(topics))
    }

    fn metadata(&self, version: i16, request: &MetadataRequest) -> MetadataResponse {
        let topics = self.topics();
        let described = match &request.topics {
            Some(asked) if !asked.is_empty() || version > 0 => asked
                .iter()
                .map(|asked| {
                    let name = asked.name.clone().unwrap_or_default();
                    match topics.find(&name, TopicId(asked.topic_id)) {
                        Some(index) => describe(&topics, version, index),
                        None => MetadataResponseTopic::default()
                            .with_name(Some(name))
                            .with_error_code(unknown_topic()),
                    }
                })
                .collect(),
            _ => (0..topics.all.len())
                .map(|index| describe(&topics, version, index))
                .collect(),
        };
        let broker = MetadataResponseBroker::default()
            .with_node_id(NODE)
            .with_host(StrBytes::from_string(self.address.ip().to_string()))
            .with_port(i32::from(self.address.port()));
        MetadataResponse::default()
            .with_controller_id(NODE)
            .with_cluster_id(Some(StrBytes::from_static_str("null")))
            .with_brokers(vec![broker])
            .with_topics(described)
    }

    fn create_topics(
        &self,
        version: i16,
        request: &CreateTopicsRequest,
    ) -> Result<CreateTopicsResponse> {
        let mut topics = self.topics();
        let mut results = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let partitions = usize::try_from(topic.num_partitions.max(1))?;
            let index = topics.create(&topic.name, partitions);
            let result = CreatableTopicResult::default().with_name(topic.name.clone());
            results.push(match version {
                ..5 => result,
                5..7 => result.with_num_partitions(topic.num_partitions.max(1)),
                _ => result
                    .with_num_partitions(topic.num_partitions.max(1))
                    .with_topic_id(id_of(index).0),
            });
        }
        Ok(CreateTopicsResponse::default().with_topics(results))
    }

    fn coordinator(
        &self,
        version: i16,
        request: &FindCoordinatorRequest,
    ) -> FindCoordinatorResponse {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        let host = StrBytes::from_string(host);
        if version < 4 {
            return FindCoordinatorResponse::default()
                .with_node_id(NODE)
                .with_host(host)
                .with_port(i32::from(port));
        }
        let keys = request.coordinator_keys.iter().map(|key| {
            Coordinator::default()
                .with_key(key.clone())
                .with_node_id(NODE)
                .with_host(host.clone())
                .with_port(i32::from(port))
        });
        FindCoordinatorResponse::default().with_coordinators(keys.collect())
    }
}

/// Every offset is taken, whoever commits it, and forgotten.
fn committed(version: i16, request: &OffsetCommitRequest) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index)
        });
        let answer = OffsetCommitResponseTopic::default().with_partitions(partitions.collect());
        match version {
            ..10 => answer.with_name(topic.name.clone()),
            _ => answer.with_topic_id(topic.topic_id),
        }
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// For clients that wait until the coordinator serves their groups.
fn no_offsets(request: &OffsetFetchRequest) -> OffsetFetchResponse {
    let groups = request
        .groups
        .iter()
        .map(|group| OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone()));
    OffsetFetchResponse::default().with_groups(groups.collect())
}

fn unknown_topic() -> i16 {
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.code()
}

fn describe(topics: &Topics, version: i16, index: usize) -> MetadataResponseTopic {
    let Some(topic) = topics.all.get(index) else {
        return MetadataResponseTopic::default().with_error_code(unknown_topic());
    };
    let partitions = (0..).zip(&topic.ends).map(|(partition, _)| {
        MetadataResponsePartition::default()
            .with_partition_index(partition)
            .with_leader_id(NODE)
            .with_leader_epoch(if version < 7 { -1 } else { 0 })
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE])
    });
    let answer = MetadataResponseTopic::default()
        .with_name(Some(topic.name.clone()))
        .with_partitions(partitions.collect());
    match version {
        ..10 => answer,
        _ => answer.with_topic_id(id_of(index).0),
    }
}

fn encoded<T: ApiResponse>(head: &RequestHead, response: &T) -> Result<Bytes> {
    Ok(encode_response(
        head.version,
        head.correlation_id,
        response,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_found_by_name_and_by_id_and_offsets_count_up() {
        let mut topics = Topics::default();
        let name = TopicName(StrBytes::from_static_str("t"));
        let index = topics.create(&name, 2);
        assert_eq!(topics.create(&name, 5), index, "made once");
        let none = TopicName::default();
        assert_eq!(topics.find(&none, id_of(index)), Some(index));
        assert_eq!(topics.append(index, 1, 3), Some(0));
        assert_eq!(topics.append(index, 1, 1), Some(3));
        assert_eq!(topics.append(index, 2, 1), None);
        assert_eq!(topics.append(7, 0, 1), None);
    }
}
