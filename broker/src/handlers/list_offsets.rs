//! ListOffsets (key 2), versions 1-11.
//!
//! Behaviours 82-84. Versions: 4 leader epochs, 6 flexible, 7 max timestamp (-3), 8 earliest local (-4), 9 last
//! tiered (-5), 11 earliest pending upload (-6). Without tiers, -4 is -2, and -5 and -6 are "none".

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use klamm_protocol::ErrorCode;
use klamm_storage::TimestampOffset;

use super::unpacked_bytes;
use crate::context::RequestContext;
use crate::partition::{Isolation, Partition};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// Offset, timestamp, leader epoch of an answer.
type Position = (i64, i64, i32);
const NONE: Position = (-1, -1, -1);

/// Answers a ListOffsets request.
pub async fn handle(ctx: RequestContext, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let isolation = if request.isolation_level == 1 {
        Isolation::ReadCommitted
    } else {
        Isolation::ReadUncommitted
    };
    let image = ctx.shared.controller.image();
    let mut seen = HashSet::new();
    let mut repeated = HashSet::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let key = (topic.name.clone(), partition.partition_index);
            if !seen.insert(key.clone()) {
                repeated.insert(key);
            }
        }
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = image.topic(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let index = asked.partition_index;
            let result = match found {
                _ if repeated.contains(&(topic.name.clone(), index)) => {
                    Err(ErrorCode::INVALID_REQUEST)
                }
                None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                Some(found) => match super::open_partition(&ctx, found, index) {
                    Ok(partition) => position(&ctx, partition, asked, isolation).await,
                    Err(error) => Err(error),
                },
            };
            partitions.push(answer(&ctx, index, result));
        }
        topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(topic.name)
                .with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

fn answer(
    ctx: &RequestContext,
    index: i32,
    result: Result<Position, ErrorCode>,
) -> ListOffsetsPartitionResponse {
    let answer = ListOffsetsPartitionResponse::default().with_partition_index(index);
    match result {
        Ok((offset, timestamp, epoch)) => answer
            .with_offset(offset)
            .with_timestamp(timestamp)
            .with_leader_epoch(if ctx.version >= 4 { epoch } else { -1 }),
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            answer
                .with_error_code(error.code())
                .with_offset(-1)
                .with_timestamp(-1)
                .with_leader_epoch(-1)
        }
    }
}

async fn position(
    ctx: &RequestContext,
    partition: Arc<Partition>,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<Position, ErrorCode> {
    if asked.timestamp < first_special(ctx.version) {
        return Err(ErrorCode::UNSUPPORTED_VERSION);
    }
    let told_epoch = if ctx.version >= 4 {
        asked.current_leader_epoch
    } else {
        -1
    };
    let epoch = partition.check_epoch(told_epoch)?;
    partition.check_fresh()?;
    match asked.timestamp {
        LATEST => Ok((partition.visible_end(isolation), -1, epoch)),
        EARLIEST | EARLIEST_LOCAL => {
            let start = partition.start_offset();
            Ok((start, -1, partition.epoch_of(start)))
        }
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => Ok(NONE),
        timestamp => {
            // The record is sought in a batch, which has to be unpacked for that.
            let bytes = unpacked_bytes(&partition.settings());
            let room = ctx.shared.codec_budget.room(bytes).await;
            let search = move || {
                let _room = room;
                match timestamp {
                    MAX_TIMESTAMP => partition.max_timestamp(isolation),
                    timestamp => partition.offset_for_timestamp(timestamp, isolation),
                }
            };
            let found = klamm_raft::blocking::spawn_blocking(search)
                .await
                .map_err(|_| ErrorCode::UNKNOWN_SERVER_ERROR)??;
            Ok(found.map_or(
                NONE,
                |TimestampOffset {
                     offset,
                     timestamp,
                     leader_epoch,
                 }| { (offset, timestamp, leader_epoch) },
            ))
        }
    }
}

/// The lowest special timestamp that a version knows.
fn first_special(version: i16) -> i64 {
    match version {
        ..=6 => EARLIEST,
        7 => MAX_TIMESTAMP,
        8 => EARLIEST_LOCAL,
        9 | 10 => LATEST_TIERED,
        _ => EARLIEST_PENDING_UPLOAD,
    }
}

#[cfg(test)]
mod tests {
    use super::first_special;

    #[test]
    fn behaviour_82_special_values_come_with_their_version() {
        let known: Vec<i64> = (1..=11).map(first_special).collect();
        assert_eq!(known, [-2, -2, -2, -2, -2, -2, -3, -4, -5, -5, -6]);
    }
}
