//! ElectLeaders (key 43), versions 0-2 (behaviour 117).
//!
//! A preferred election has the leader hand over to the first replica. "All partitions" answers only those that were led
//! by another. Version 1 adds unclean elections, which Raft never does: where there is a leader none is needed,
//! and where there is none no replica is eligible.

use std::time::Duration;

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::elect_leaders_request::ElectLeadersRequest;
use kafka_protocol::messages::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use klamm_metadata::{Image, Partition, Topic};
use klamm_protocol::ErrorCode;
use tokio::time::Instant;

use super::{leaders, poll_until, text, timeout};
use crate::context::RequestContext;

const UNCLEAN: i8 = 1;
const POLL: Duration = Duration::from_millis(20);

type Failure = (ErrorCode, &'static str);
const NOT_NEEDED: Failure = (
    ErrorCode::ELECTION_NOT_NEEDED,
    "Leader election not needed for topic partition.",
);
const UNKNOWN: Failure = (
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    "No such topic partition.",
);
const NOT_AVAILABLE: Failure = (
    ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE,
    "The preferred leader is not available, or not in sync.",
);
const NO_CANDIDATE: Failure = (
    ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
    "No majority of the replicas is available.",
);

/// Answers an ElectLeaders request.
pub async fn handle(ctx: RequestContext, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let deadline = Instant::now() + timeout(request.timeout_ms);
    let unclean = ctx.version >= 1 && request.election_type == UNCLEAN;
    let image = ctx.shared.controller.image();
    let all = request.topic_partitions.is_none();
    let asked: Vec<(TopicName, Vec<i32>)> = match request.topic_partitions {
        Some(topics) => {
            let asked = topics
                .into_iter()
                .map(|asked| (asked.topic, asked.partitions));
            asked.collect()
        }
        None => image
            .topics()
            .map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| partition.index);
                (TopicName(text(&*topic.name)), partitions.collect())
            })
            .collect(),
    };
    let elections = asked.iter().flat_map(|(name, partitions)| {
        let found = image.topic(name).map(|topic| &**topic);
        let (ctx, image) = (&ctx, &image);
        partitions
            .iter()
            .map(move |&index| elect(ctx, image, found, index, unclean, deadline))
    });
    let mut elected = futures::future::join_all(elections).await.into_iter();
    let mut results = Vec::new();
    for (name, partitions) in asked {
        let answers = partitions.into_iter().zip(elected.by_ref());
        let answers: Vec<PartitionResult> = answers
            .filter(|(_, elected)| !all || *elected != Err(NOT_NEEDED))
            .map(|(index, elected)| answer(index, elected))
            .collect();
        if !all || !answers.is_empty() {
            results.push(
                ReplicaElectionResult::default()
                    .with_topic(name)
                    .with_partition_result(answers),
            );
        }
    }
    ElectLeadersResponse::default().with_replica_election_results(results)
}

fn answer(index: i32, elected: Result<(), Failure>) -> PartitionResult {
    let answer = PartitionResult::default().with_partition_id(index);
    match elected {
        Ok(()) => answer.with_error_message(None),
        Err((error, message)) => answer
            .with_error_code(error.code())
            .with_error_message(Some(text(message))),
    }
}

async fn elect(
    ctx: &RequestContext,
    image: &Image,
    topic: Option<&Topic>,
    index: i32,
    unclean: bool,
    deadline: Instant,
) -> Result<(), Failure> {
    let topic = topic.ok_or(UNKNOWN)?;
    let partition = topic.partition(index).ok_or(UNKNOWN)?;
    if partition.replicas.as_ref() == [ctx.shared.node_id] {
        // Alone it has elected itself, or will have in milliseconds.
        return Err(NOT_NEEDED);
    }
    let led = leaders::led(ctx, image, topic, partition);
    if unclean {
        return Err(if led.leader == -1 {
            NO_CANDIDATE
        } else {
            NOT_NEEDED
        });
    }
    let preferred = *partition.replicas.first().ok_or(UNKNOWN)?;
    if led.leader == preferred {
        return Err(NOT_NEEDED);
    }
    if led.leader == -1 || !led.in_sync.iter().any(|id| id.0 == preferred) {
        return Err(NOT_AVAILABLE);
    }
    hand_over(ctx, topic, partition, led.leader, preferred, deadline).await
}

async fn hand_over(
    ctx: &RequestContext,
    topic: &Topic,
    partition: &Partition,
    leader: i32,
    preferred: i32,
    deadline: Instant,
) -> Result<(), Failure> {
    let shared = &ctx.shared;
    let open = shared.partitions.get(topic.id, partition.index);
    let here = open.as_ref().map(|open| open.group());
    let leader = shared.node_of(leader);
    if !shared
        .cluster
        .give_up(partition.group, leader, preferred, here)
        .await
    {
        return Err(NOT_AVAILABLE);
    }
    let leads = || {
        let image = shared.controller.image();
        leaders::led(ctx, &image, topic, partition).leader == preferred
    };
    match poll_until(deadline, POLL, leads).await {
        true => Ok(()),
        false => Err((
            ErrorCode::REQUEST_TIMED_OUT,
            "The preferred leader does not lead yet.",
        )),
    }
}
