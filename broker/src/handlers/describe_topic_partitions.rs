//! DescribeTopicPartitions (key 75), version 0: topics in pages (KIP-966, behaviour 26).
//!
//! Topics come in the order of their names, whatever the order asked. The cursor names the first
//! partition that did not fit.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use klamm_metadata::{Image, Partition, Topic, names};
use klamm_protocol::ErrorCode;

use super::metadata::{PARTITION_BYTES, TOPIC_BYTES};
use super::{TOPIC_OPERATIONS, leaders, text};
use crate::context::RequestContext;

/// About how large the answer will be, in bytes.
pub fn answer_size(ctx: &RequestContext, request: &DescribeTopicPartitionsRequest) -> usize {
    let image = ctx.shared.controller.image();
    let topics = match request.topics.len() {
        0 => image.topic_count(),
        asked => asked,
    };
    let limit = ctx.shared.limits.describe_partitions;
    let partitions = image.partition_count().min(limit);
    topics.min(limit) * TOPIC_BYTES + partitions * PARTITION_BYTES
}

/// Answers a DescribeTopicPartitions request.
pub async fn handle(
    ctx: RequestContext,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let image = ctx.shared.controller.image();
    let server_limit = ctx.shared.limits.describe_partitions;
    let limit = usize::try_from(request.response_partition_limit)
        .unwrap_or(0)
        .clamp(1, server_limit);
    let (from, first_partition) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.to_string(), cursor.partition_index.max(0)),
        None => (String::new(), 0),
    };
    let names: Vec<Arc<str>> = if request.topics.is_empty() {
        image
            .topics_from(&from)
            .map(|topic| topic.name.clone())
            .collect()
    } else {
        let asked: BTreeSet<&str> = request.topics.iter().map(|topic| &**topic.name).collect();
        asked
            .into_iter()
            .filter(|name| *name >= from.as_str())
            .map(Arc::from)
            .collect()
    };
    let mut response = DescribeTopicPartitionsResponse::default();
    let mut room = limit;
    for name in names {
        let start = if *name == *from { first_partition } else { 0 };
        if room == 0 {
            response.next_cursor = Some(cursor(&name, start));
            break;
        }
        let Some(topic) = image.topic(&name) else {
            response.topics.push(unknown(&ctx, &name));
            continue;
        };
        let skipped = usize::try_from(start)
            .unwrap_or(0)
            .min(topic.partitions.len());
        let shown: Vec<_> = topic.partitions.iter().skip(skipped).take(room).collect();
        room -= shown.len();
        let next = skipped + shown.len();
        response.topics.push(describe(&ctx, &image, topic, &shown));
        if next < topic.partitions.len() {
            let next = i32::try_from(next).expect("partition numbers fit 31 bits");
            response.next_cursor = Some(cursor(&name, next));
            break;
        }
    }
    response
}

fn cursor(name: &str, partition: i32) -> Cursor {
    Cursor::default()
        .with_topic_name(TopicName(text(name)))
        .with_partition_index(partition)
}

fn unknown(ctx: &RequestContext, name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match names::check_topic_name(name) {
        Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Err(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
    };
    ctx.shared.metrics.failed(ctx.api, error);
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(TopicName(text(name))))
        .with_topic_authorized_operations(i32::MIN)
}

fn describe(
    ctx: &RequestContext,
    image: &Image,
    topic: &Topic,
    partitions: &[&Partition],
) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(text(&*topic.name))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.is_internal())
        .with_partitions(
            partitions
                .iter()
                .map(|partition| describe_partition(ctx, image, topic, partition))
                .collect(),
        )
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

fn describe_partition(
    ctx: &RequestContext,
    image: &Image,
    topic: &Topic,
    partition: &Partition,
) -> DescribeTopicPartitionsResponsePartition {
    let led = leaders::led(ctx, image, topic, partition);
    let error = if led.leader == -1 {
        ErrorCode::LEADER_NOT_AVAILABLE
    } else {
        ErrorCode::NONE
    };
    let replicas = partition.replicas.iter().map(|&id| BrokerId(id));
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(error.code())
        .with_partition_index(partition.index)
        .with_leader_id(BrokerId(led.leader))
        .with_leader_epoch(led.epoch)
        .with_isr_nodes(led.in_sync)
        .with_replica_nodes(replicas.collect())
        .with_offline_replicas(led.offline)
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}
