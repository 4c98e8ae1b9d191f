//! OffsetDelete (key 47), version 0 (KIP-496, behaviour 98).

use klamm_coordinator::Request;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use klamm_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes an OffsetDelete request apart. Partitions that do not exist are not the shard's business.
pub fn ask(
    ctx: &RequestContext,
    mut request: OffsetDeleteRequest,
) -> GroupCall<OffsetDeleteResponse> {
    let image = ctx.shared.controller.image();
    let mut unknown = Vec::new();
    for topic in &mut request.topics {
        let found = image.topic(&topic.name);
        let mut missing = Vec::new();
        topic.partitions.retain(|part| {
            let index = part.partition_index;
            let exists = found.is_some_and(|found| found.partition(index).is_some());
            if !exists {
                missing.push(
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.code()),
                );
            }
            exists
        });
        if !missing.is_empty() {
            unknown.push(
                OffsetDeleteResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(missing),
            );
        }
    }
    request.topics.retain(|topic| !topic.partitions.is_empty());
    let group = request.group_id.clone();
    let ctx = ctx.clone();
    GroupCall::one(&group, Request::OffsetDelete(request), move |answer| {
        let mut response = content!(answer, OffsetDelete);
        if response.error_code == 0 {
            response.topics.extend(unknown);
        }
        count(&ctx, response.error_code);
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|part| count(&ctx, part.error_code));
        response
    })
}
