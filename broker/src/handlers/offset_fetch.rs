//! OffsetFetch (key 9), versions 1-9 (behaviour 95).
//!
//! Versions: 2 all topics by null and an error for the whole, 5 leader epochs, 7 only what no open
//! transaction covers (there are none), 8 several groups at once (KIP-709), 9 members of the consumer
//! protocol (KIP-848). The shard is always asked in the form of version 8.

use std::sync::Arc;

use klamm_coordinator::Request;
use klamm_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use klamm_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes an OffsetFetch request apart.
pub fn ask(ctx: &RequestContext, request: OffsetFetchRequest) -> GroupCall<OffsetFetchResponse> {
    let ctx = ctx.clone();
    if ctx.version >= 8 {
        let part = |group: OffsetFetchRequestGroup| {
            (Arc::from(&*group.group_id.0), Request::OffsetFetch(group))
        };
        let parts = request.groups.into_iter().map(part).collect();
        return GroupCall::many(parts, move |answers| {
            let found = answers
                .into_iter()
                .map(|answer| content!(answer, OffsetFetch));
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
