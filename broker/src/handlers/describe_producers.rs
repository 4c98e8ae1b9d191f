//! DescribeProducers (key 61), version 0: producers a partition remembers (behaviours 68, 119).

use kafka_protocol::messages::ProducerId;
use kafka_protocol::messages::describe_producers_request::DescribeProducersRequest;
use kafka_protocol::messages::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use klamm_metadata::Topic;
use klamm_protocol::ErrorCode;

use super::distinct;
use crate::context::RequestContext;

/// Answers a DescribeProducers request.
pub async fn handle(
    ctx: RequestContext,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let image = ctx.shared.controller.image();
    let topics = distinct(request.topics, |topic| topic.name.clone())
        .into_iter()
        .map(|topic| {
            let found = image.topic(&topic.name).map(|topic| &**topic);
            let indexes = distinct(topic.partition_indexes, |index| *index);
            let partitions = indexes
                .into_iter()
                .map(|index| answer(&ctx, found, index))
                .collect();
            TopicResponse::default()
                .with_name(topic.name)
                .with_partitions(partitions)
        })
        .collect();
    DescribeProducersResponse::default().with_topics(topics)
}

fn answer(ctx: &RequestContext, topic: Option<&Topic>, index: i32) -> PartitionResponse {
    let answer = PartitionResponse::default().with_partition_index(index);
    let partition = topic
        .ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        .and_then(|topic| super::open_partition(ctx, topic, index))
        .and_then(|partition| partition.check_epoch(-1).map(|_| partition));
    match partition {
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            answer.with_error_code(error.code())
        }
        Ok(partition) => {
            let states = partition.producers().into_iter().map(|producer| {
                ProducerState::default()
                    .with_producer_id(ProducerId(producer.producer_id))
                    .with_producer_epoch(i32::from(producer.producer_epoch))
                    .with_last_sequence(producer.last_sequence)
                    .with_last_timestamp(producer.last_timestamp)
                    .with_coordinator_epoch(-1)
                    .with_current_txn_start_offset(-1)
            });
            answer.with_active_producers(states.collect())
        }
    }
}
