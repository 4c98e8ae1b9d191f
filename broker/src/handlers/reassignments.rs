//! AlterPartitionReassignments (key 45), versions 0-1, and ListPartitionReassignments (key 46),
//! version 0 (KIP-455, KIP-860, behaviour 118).
//!
//! A request is answered when the move has begun. One that cancels a move waits for the way back, for as long
//! as its client would, since what it leaves behind is a replica less or more.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignableTopic,
};
use kafka_protocol::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use kafka_protocol::messages::list_partition_reassignments_response::{
    ListPartitionReassignmentsResponse, OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use klamm_metadata::rules::{self, Reassignment};
use klamm_metadata::{Image, Partition, Problem, Topic};
use tokio::time::Instant;

use super::{code_of, message_of, poll_until, text, timeout};
use crate::context::RequestContext;

/// Moves that were cancelled are looked at so often.
const LOOK: Duration = Duration::from_millis(50);

/// Answers an AlterPartitionReassignments request.
pub async fn alter(
    ctx: RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let deadline = Instant::now() + timeout(request.timeout_ms);
    let may_resize = request.allow_replication_factor_change;
    let asked: Vec<Reassignment> = request.topics.iter().flat_map(reassignments).collect();
    let cancelled: Vec<(String, i32)> = asked
        .iter()
        .filter(|asked| asked.replicas.is_none())
        .map(|asked| (asked.topic.clone(), asked.partition))
        .collect();
    let changed = ctx
        .shared
        .change(move |context| rules::alter_partition_reassignments(context, &asked, may_resize));
    let response = AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(may_resize);
    let results = match changed.await {
        Ok(results) => results,
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            return response.with_error_code(error.code());
        }
    };
    wait_returned(&ctx, &cancelled, deadline).await;
    let mut results = results.into_iter();
    let responses = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(results.by_ref());
        let partitions =
            partitions.map(|(asked, result)| answer(&ctx, asked.partition_index, result));
        ReassignableTopicResponse::default()
            .with_partitions(partitions.collect())
            .with_name(topic.name)
    });
    response.with_responses(responses.collect())
}

fn reassignments(topic: &ReassignableTopic) -> impl Iterator<Item = Reassignment> + '_ {
    topic.partitions.iter().map(|asked| Reassignment {
        topic: topic.name.to_string(),
        partition: asked.partition_index,
        replicas: asked
            .replicas
            .as_ref()
            .map(|replicas| replicas.iter().map(|id| id.0).collect()),
    })
}

fn answer(
    ctx: &RequestContext,
    index: i32,
    result: Result<(), Problem>,
) -> ReassignablePartitionResponse {
    let answer = ReassignablePartitionResponse::default().with_partition_index(index);
    match result {
        Ok(()) => answer.with_error_message(None),
        Err(problem) => {
            ctx.shared.metrics.failed(ctx.api, code_of(&problem));
            answer
                .with_error_code(code_of(&problem).code())
                .with_error_message(message_of(&problem))
        }
    }
}

/// Waits until the partitions are where they were before.
async fn wait_returned(ctx: &RequestContext, cancelled: &[(String, i32)], deadline: Instant) {
    let is_back = || {
        let image = ctx.shared.controller.image();
        let moves = |(topic, index): &(String, i32)| {
            let topic = image.topic(topic)?;
            let moving = topic.partition(*index)?.moving.as_ref();
            moving.filter(|moving| moving.is_reassignment()).cloned()
        };
        cancelled.iter().all(|at| moves(at).is_none())
    };
    // Not back in time, it still will be; ListPartitionReassignments shows it.
    poll_until(deadline, LOOK, is_back).await;
}

/// Answers a ListPartitionReassignments request.
pub async fn list(
    ctx: RequestContext,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let image = ctx.shared.controller.image();
    let topics = match request.topics {
        None => all_moving(&image),
        Some(asked) => asked
            .into_iter()
            .filter_map(|asked| {
                let topic = image.topic(&asked.name)?;
                let indexes: BTreeSet<i32> = asked.partition_indexes.into_iter().collect();
                let partitions = indexes.iter().filter_map(|index| topic.partition(*index));
                moving(topic, partitions)
            })
            .collect(),
    };
    ListPartitionReassignmentsResponse::default()
        .with_error_message(None)
        .with_topics(topics)
}

fn all_moving(image: &Image) -> Vec<OngoingTopicReassignment> {
    let topics = image.moving().filter_map(|group| {
        let (topic, _) = image.partition_of_group(group)?;
        Some(topic.name.clone())
    });
    let topics: BTreeSet<_> = topics.collect();
    let topics = topics.iter().filter_map(|name| image.topic(name));
    topics
        .filter_map(|topic| moving(topic, topic.partitions.iter()))
        .collect()
}

/// Those of a topic's partitions that are being moved; `None` when there are none.
fn moving<'a>(
    topic: &Topic,
    partitions: impl Iterator<Item = &'a Partition>,
) -> Option<OngoingTopicReassignment> {
    let brokers = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
    let partitions = partitions.filter_map(|partition| {
        let moving = partition.moving.as_ref()?;
        // A damaged replica that is replaced by another of its broker moves nowhere.
        moving.is_reassignment().then(|| {
            OngoingPartitionReassignment::default()
                .with_partition_index(partition.index)
                .with_replicas(brokers(&partition.replicas))
                .with_adding_replicas(brokers(&moving.adding))
                .with_removing_replicas(brokers(&moving.removing))
        })
    });
    let partitions: Vec<_> = partitions.collect();
    (!partitions.is_empty()).then(|| {
        OngoingTopicReassignment::default()
            .with_name(TopicName(text(&*topic.name)))
            .with_partitions(partitions)
    })
}
