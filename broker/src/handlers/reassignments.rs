//! AlterPartitionReassignments (key 45), versions 0-1, and ListPartitionReassignments (key 46),
//! version 0 (behaviour 118).
//!
//! On one node a partition has nowhere to move: the assignment it has is accepted as done, any
//! other names brokers that do not exist. Nothing is ever in progress.

use std::collections::BTreeSet;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition,
};
use kafka_protocol::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use kafka_protocol::messages::list_partition_reassignments_response::ListPartitionReassignmentsResponse;
use klamm_metadata::{Image, Topic};
use klamm_protocol::ErrorCode;

use super::text;
use crate::context::RequestContext;

/// Answers an AlterPartitionReassignments request.
pub async fn alter(
    ctx: RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let image = ctx.shared.controller.image();
    let responses = request
        .topics
        .into_iter()
        .map(|topic| {
            let found = image.topic(&topic.name).map(|topic| &**topic);
            let partitions = topic
                .partitions
                .iter()
                .map(|asked| answer(&ctx, &image, found, asked))
                .collect();
            ReassignableTopicResponse::default()
                .with_name(topic.name)
                .with_partitions(partitions)
        })
        .collect();
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_responses(responses)
}

fn answer(
    ctx: &RequestContext,
    image: &Image,
    topic: Option<&Topic>,
    asked: &ReassignablePartition,
) -> ReassignablePartitionResponse {
    let answer =
        ReassignablePartitionResponse::default().with_partition_index(asked.partition_index);
    match check(image, topic, asked) {
        Ok(()) => answer,
        Err((error, message)) => {
            ctx.shared.metrics.failed(ctx.api, error);
            answer
                .with_error_code(error.code())
                .with_error_message(Some(text(message)))
        }
    }
}

fn check(
    image: &Image,
    topic: Option<&Topic>,
    asked: &ReassignablePartition,
) -> Result<(), (ErrorCode, String)> {
    let partition = topic
        .and_then(|topic| topic.partition(asked.partition_index))
        .ok_or((
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            "No such topic partition.".to_owned(),
        ))?;
    let Some(replicas) = &asked.replicas else {
        return Err((
            ErrorCode::NO_REASSIGNMENT_IN_PROGRESS,
            "No reassignment of the partition is in progress.".to_owned(),
        ));
    };
    let invalid = |message: String| Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
    let distinct: BTreeSet<i32> = replicas.iter().map(|id| id.0).collect();
    if distinct.is_empty() || distinct.len() != replicas.len() {
        return invalid("The assignment is empty or names a broker twice.".to_owned());
    }
    if let Some(id) = distinct
        .iter()
        .find(|&&id| image.broker(id).is_none_or(|broker| broker.fenced))
    {
        return invalid(format!("Broker {id} is not registered or not available."));
    }
    if !partition
        .replicas
        .iter()
        .copied()
        .eq(replicas.iter().map(|id| id.0))
    {
        return invalid("Moving partitions between brokers is not supported yet.".to_owned());
    }
    Ok(())
}

/// Answers a ListPartitionReassignments request.
pub async fn list(
    _ctx: RequestContext,
    _request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default()
}
