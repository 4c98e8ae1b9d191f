//! OffsetFetch (key 9), versions 1-10 (behaviour 95).
//!
//! Versions: 2 all topics by null and an error for the whole, 5 leader epochs, 7 only what no open
//! transaction covers (there are none), 8 several groups at once (KIP-709), 9 members of the consumer
//! protocol (KIP-848), 10 topics by id. The shard is always asked in the form of version 9.

use std::sync::Arc;

use klamm_coordinator::Request;
use klamm_metadata::Image;
use klamm_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use klamm_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse, TopicName};
use klamm_protocol::{ErrorCode, StrBytes};
use klamm_records::TopicId;
use uuid::Uuid;

use super::distinct;
use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes an OffsetFetch request apart.
pub fn ask(ctx: &RequestContext, request: OffsetFetchRequest) -> GroupCall<OffsetFetchResponse> {
    let ctx = ctx.clone();
    if ctx.version >= 8 {
        let by_id = ctx.version >= 10;
        let image = ctx.shared.controller.image();
        let mut unknown = Vec::new();
        let mut part = |mut group: OffsetFetchRequestGroup| {
            unknown.push(if by_id {
                name_topics(&image, &mut group)
            } else {
                Vec::new()
            });
            (Arc::from(&*group.group_id.0), Request::OffsetFetch(group))
        };
        let groups = distinct(request.groups, |group| group.group_id.clone());
        let parts = groups.into_iter().map(&mut part).collect();
        return GroupCall::many(parts, move |answers| {
            let found = answers.into_iter().zip(unknown).map(|(answer, unknown)| {
                let mut group = content!(answer, OffsetFetch);
                if by_id {
                    identify_topics(&image, &mut group, unknown);
                }
                group
            });
            let groups: Vec<OffsetFetchResponseGroup> = found.collect();
            groups.iter().for_each(|group| count_errors(&ctx, group));
            OffsetFetchResponse::default().with_groups(groups)
        });
    }
    let group = request.group_id.clone();
    let topics = request.topics.clone().map(|topics| {
        let topics = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topics.collect()
    });
    let asked = OffsetFetchRequestGroup::default()
        .with_group_id(group.clone())
        .with_member_epoch(-1)
        .with_topics(topics);
    GroupCall::one(&group, Request::OffsetFetch(asked), move |answer| {
        let found = content!(answer, OffsetFetch);
        count_errors(&ctx, &found);
        single(&ctx, &request, found)
    })
}

/// Names topics that are given by id; what is answered of those that are not known.
fn name_topics(
    image: &Image,
    group: &mut OffsetFetchRequestGroup,
) -> Vec<OffsetFetchResponseTopics> {
    let mut unknown = Vec::new();
    for topic in group.topics.iter_mut().flatten() {
        if let Some(found) = image.topic_by_id(TopicId(topic.topic_id)) {
            topic.name = TopicName(super::text(&*found.name));
            continue;
        }
        let partitions = topic.partition_indexes.iter().map(|&index| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(index)
                .with_committed_offset(-1)
                .with_committed_leader_epoch(-1)
                .with_metadata(Some(StrBytes::default()))
                .with_error_code(ErrorCode::UNKNOWN_TOPIC_ID.code())
        });
        unknown.push(
            OffsetFetchResponseTopics::default()
                .with_topic_id(topic.topic_id)
                .with_partitions(partitions.collect()),
        );
    }
    if let Some(topics) = &mut group.topics {
        topics.retain(|topic| !topic.name.is_empty());
    }
    unknown
}

/// Gives topics their ids for names, and adds what was not known. A topic that is gone has no id any
/// more and is left out.
fn identify_topics(
    image: &Image,
    group: &mut OffsetFetchResponseGroup,
    unknown: Vec<OffsetFetchResponseTopics>,
) {
    group.topics.retain_mut(|topic| {
        let name = std::mem::take(&mut topic.name);
        let found = image.topic(&name);
        topic.topic_id = found.map_or_else(Uuid::nil, |found| found.id.0);
        found.is_some()
    });
    if group.error_code == 0 {
        group.topics.extend(unknown);
    }
}

fn count_errors(ctx: &RequestContext, group: &OffsetFetchResponseGroup) {
    count(ctx, group.error_code);
    let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.for_each(|part| count(ctx, part.error_code));
}

/// The answer for one group, before version 8.
fn single(
    ctx: &RequestContext,
    request: &OffsetFetchRequest,
    found: OffsetFetchResponseGroup,
) -> OffsetFetchResponse {
    if ctx.version < 2 && found.error_code != 0 {
        // Without an error of its own, every partition has it.
        return OffsetFetchResponse::default().with_topics(failed(request, found.error_code));
    }
    let topics = found.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|part| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(part.partition_index)
                .with_committed_offset(part.committed_offset)
                .with_committed_leader_epoch(part.committed_leader_epoch)
                .with_metadata(part.metadata)
                .with_error_code(part.error_code)
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default()
        .with_topics(topics.collect())
        .with_error_code(found.error_code)
}

fn failed(request: &OffsetFetchRequest, code: i16) -> Vec<OffsetFetchResponseTopic> {
    let topics = request.topics.iter().flatten();
    topics
        .map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|&index| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(-1)
                    .with_metadata(Some(Default::default()))
                    .with_error_code(code)
            });
            OffsetFetchResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        })
        .collect()
}
