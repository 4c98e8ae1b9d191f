//! OffsetCommit, OffsetFetch and OffsetDelete on the offsets of a group that admitted the request.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use klamm_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use klamm_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use klamm_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use klamm_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, TopicName,
};
use klamm_protocol::{ErrorCode, StrBytes};
use klamm_records::TopicId;

use super::{Committed, GroupOffsets, tombstone};
use crate::records::{GroupRecord, OffsetCommitValue};
use crate::request::Environment;

/// `retention_time_ms` of a client that leaves it to the broker.
const DEFAULT_RETENTION: i64 = -1;

/// Longest batch of offsets that one request may cause, in bytes: Kafka's limit of a batch.
const MAX_COMMIT_BYTES: usize = 1024 * 1024;

/// Bytes of an offset record besides group, topic and metadata, at most.
const RECORD_OVERHEAD_BYTES: usize = 80;

/// A commit that the group has admitted (behaviour 95): a record for every partition whose metadata is
/// short enough, and the answer. A commit that is too large as a whole is refused as a whole.
pub(crate) fn commit(
    env: &Environment<'_>,
    group: &Arc<str>,
    request: &OffsetCommitRequest,
) -> (Vec<GroupRecord>, OffsetCommitResponse) {
    if commit_bytes(group, request) > MAX_COMMIT_BYTES {
        let refused = refused_commit(request, ErrorCode::INVALID_COMMIT_OFFSET_SIZE);
        return (Vec::new(), refused);
    }
    let mut records = Vec::new();
    let topics = request.topics.iter().map(|topic| {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        // Not looked up for clients that give names: a stale image could make a good offset look like
        // that of a deleted topic.
        let topic_id = TopicId(topic.topic_id);
        let partitions = topic.partitions.iter().map(|partition| {
            let code = if metadata_fits(env, partition) {
                records.push(GroupRecord::OffsetCommit {
                    group: Arc::clone(group),
                    topic: Arc::clone(&name),
                    partition: partition.partition_index,
                    value: Some(committed(env, request, partition, topic_id)),
                });
                ErrorCode::NONE
            } else {
                ErrorCode::OFFSET_METADATA_TOO_LARGE
            };
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.0)
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions)
    });
    let response = OffsetCommitResponse::default().with_topics(topics.collect());
    (records, response)
}

fn commit_bytes(group: &str, request: &OffsetCommitRequest) -> usize {
    let of_topic = |name: &str, partition: &OffsetCommitRequestPartition| {
        let metadata = partition.committed_metadata.as_ref();
        RECORD_OVERHEAD_BYTES
            + group.len()
            + name.len()
            + metadata.map_or(0, |metadata| metadata.len())
    };
    request
        .topics
        .iter()
        .flat_map(|topic| {
            topic
                .partitions
                .iter()
                .map(move |partition| of_topic(&topic.name, partition))
        })
        .sum()
}

/// Kafka counts UTF-16 units, so that is what clients have learned to expect.
fn metadata_fits(env: &Environment<'_>, partition: &OffsetCommitRequestPartition) -> bool {
    let limit = env.settings.offset_metadata_max_bytes;
    match &partition.committed_metadata {
        None => true,
        Some(metadata) => metadata.len() <= limit || metadata.encode_utf16().count() <= limit,
    }
}

fn committed(
    env: &Environment<'_>,
    request: &OffsetCommitRequest,
    partition: &OffsetCommitRequestPartition,
    topic_id: TopicId,
) -> OffsetCommitValue {
    let metadata = partition.committed_metadata.as_deref().unwrap_or("");
    let mut value = OffsetCommitValue {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: Arc::from(metadata),
        commit_timestamp: env.now_ms,
        expire_timestamp: -1,
        topic_id,
    };
    if request.retention_time_ms != DEFAULT_RETENTION {
        // The only format with an expire time has room for nothing else.
        value.expire_timestamp = env.now_ms.saturating_add(request.retention_time_ms).max(0);
        value.leader_epoch = -1;
        value.topic_id = TopicId::ZERO;
    }
    value
}

/// The answer to a commit that is refused: every partition bears the error.
pub(crate) fn refused_commit(
    request: &OffsetCommitRequest,
    code: ErrorCode,
) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.0)
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// The offsets asked for, or all of them; what is not there has offset -1 and no error (behaviour 96).
/// `offsets` is `None` for an unknown group.
pub(crate) fn fetch(
    request: &OffsetFetchRequestGroup,
    offsets: Option<&GroupOffsets>,
) -> OffsetFetchResponseGroup {
    let topics = match &request.topics {
        Some(topics) => topics
            .iter()
            .map(|topic| fetch_topic(topic, offsets))
            .collect(),
        None => offsets.map(fetch_all).unwrap_or_default(),
    };
    OffsetFetchResponseGroup::default()
        .with_group_id(request.group_id.clone())
        .with_topics(topics)
}

fn fetch_topic(
    topic: &OffsetFetchRequestTopics,
    offsets: Option<&GroupOffsets>,
) -> OffsetFetchResponseTopics {
    let asked = TopicId(topic.topic_id);
    let partitions = topic.partition_indexes.iter().map(|partition| {
        let committed = offsets
            .and_then(|offsets| offsets.get(&topic.name, *partition))
            // The offset of a topic that has since been deleted and created again says nothing.
            .filter(|committed| {
                asked.is_zero() || committed.topic_id.is_zero() || asked == committed.topic_id
            });
        fetched(*partition, committed)
    });
    OffsetFetchResponseTopics::default()
        .with_name(topic.name.clone())
        .with_topic_id(topic.topic_id)
        .with_partitions(partitions.collect())
}

fn fetch_all(offsets: &GroupOffsets) -> Vec<OffsetFetchResponseTopics> {
    let of_topic = |(topic, partitions): (&Arc<str>, &BTreeMap<i32, Committed>)| {
        let topic_id = partitions
            .values()
            .map(|committed| committed.topic_id)
            .find(|id| !id.is_zero())
            .unwrap_or(TopicId::ZERO);
        let partitions = partitions
            .iter()
            .map(|(partition, committed)| fetched(*partition, Some(committed)));
        OffsetFetchResponseTopics::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_string())))
            .with_topic_id(topic_id.0)
            .with_partitions(partitions.collect())
    };
    offsets.topics.iter().map(of_topic).collect()
}

fn fetched(partition: i32, committed: Option<&Committed>) -> OffsetFetchResponsePartitions {
    let response = OffsetFetchResponsePartitions::default().with_partition_index(partition);
    match committed {
        None => response
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(StrBytes::default())),
        Some(committed) => response
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(Some(StrBytes::from_string(committed.metadata.to_string()))),
    }
}

/// Forgets offsets, but not of topics that the group reads (behaviour 99).
pub(crate) fn delete(
    group: &Arc<str>,
    request: &OffsetDeleteRequest,
    offsets: &GroupOffsets,
    is_subscribed: impl Fn(&str) -> bool,
) -> (Vec<GroupRecord>, OffsetDeleteResponse) {
    let mut records = Vec::new();
    let mut topics = Vec::new();
    for topic in &request.topics {
        let subscribed = is_subscribed(&topic.name);
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let code = if subscribed {
                ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC
            } else {
                ErrorCode::NONE
            };
            if !subscribed && offsets.get(&topic.name, index).is_some() {
                records.push(tombstone(group, &Arc::from(topic.name.as_str()), index));
            }
            partitions.push(
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code.0),
            );
        }
        topics.push(
            OffsetDeleteResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    (records, OffsetDeleteResponse::default().with_topics(topics))
}
