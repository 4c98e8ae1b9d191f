//! OffsetForLeaderEpoch (key 23), versions 2-4: where a leader epoch ended (KIP-101, KIP-320).
//!
//! Behaviour 78. Version 3 adds the replica id, which consumers leave at -2 or -1.

use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use klamm_metadata::Topic;
use klamm_protocol::ErrorCode;

use crate::context::RequestContext;
use crate::partition::EpochEnd;

/// Answers an OffsetForLeaderEpoch request.
pub async fn handle(
    ctx: RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let image = ctx.shared.controller.image();
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let found = image.topic(&topic.topic);
            let partitions = topic
                .partitions
                .iter()
                .map(|asked| answer(&ctx, found.map(|topic| &**topic), asked))
                .collect();
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic)
                .with_partitions(partitions)
        })
        .collect();
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

fn answer(
    ctx: &RequestContext,
    topic: Option<&Topic>,
    asked: &OffsetForLeaderPartition,
) -> EpochEndOffset {
    let answer = EpochEndOffset::default().with_partition(asked.partition);
    match end_of_epoch(ctx, topic, asked) {
        Ok(Some(end)) => answer
            .with_leader_epoch(end.epoch)
            .with_end_offset(end.end_offset),
        Ok(None) => answer.with_leader_epoch(-1).with_end_offset(-1),
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            answer
                .with_error_code(error.code())
                .with_leader_epoch(-1)
                .with_end_offset(-1)
        }
    }
}

fn end_of_epoch(
    ctx: &RequestContext,
    topic: Option<&Topic>,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<EpochEnd>, ErrorCode> {
    let topic = topic.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition = super::open_partition(ctx, topic, asked.partition)?;
    partition.check_epoch(asked.current_leader_epoch)?;
    Ok(partition.end_of_epoch(asked.leader_epoch))
}
