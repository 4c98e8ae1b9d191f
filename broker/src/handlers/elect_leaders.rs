//! ElectLeaders (key 43), versions 0-2 (behaviour 117).
//!
//! With one replica each partition is led by its preferred replica: a named partition answers
//! ELECTION_NOT_NEEDED, "all partitions" answers nothing. Version 1 adds unclean elections,
//! which Raft never does and which find no candidate either.

use kafka_protocol::messages::elect_leaders_request::ElectLeadersRequest;
use kafka_protocol::messages::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use klamm_protocol::ErrorCode;

use super::text;
use crate::context::RequestContext;

/// Answers an ElectLeaders request.
pub async fn handle(ctx: RequestContext, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let image = ctx.shared.controller.image();
    let results = request
        .topic_partitions
        .unwrap_or_default()
        .into_iter()
        .map(|asked| {
            let found = image.topic(&asked.topic);
            let partitions = asked
                .partitions
                .iter()
                .map(|&index| {
                    let known = found.is_some_and(|topic| topic.partition(index).is_some());
                    let (error, message) = if known {
                        (
                            ErrorCode::ELECTION_NOT_NEEDED,
                            "Leader election not needed for topic partition.",
                        )
                    } else {
                        (
                            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                            "No such topic partition.",
                        )
                    };
                    PartitionResult::default()
                        .with_partition_id(index)
                        .with_error_code(error.code())
                        .with_error_message(Some(text(message)))
                })
                .collect();
            ReplicaElectionResult::default()
                .with_topic(asked.topic)
                .with_partition_result(partitions)
        })
        .collect();
    ElectLeadersResponse::default().with_replica_election_results(results)
}
