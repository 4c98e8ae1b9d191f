//! DescribeQuorum (key 55), versions 0-2: the metadata group as Kafka's tools show a KRaft quorum
//! (behaviour 121). Offsets are Raft indexes of that group, its own unit.

use kafka_protocol::messages::describe_quorum_request::DescribeQuorumRequest;
use kafka_protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use klamm_protocol::ErrorCode;

use super::text;
use crate::context::RequestContext;
use crate::partition::epoch;

const METADATA_TOPIC: &str = "__cluster_metadata";

/// Answers a DescribeQuorum request.
pub async fn handle(ctx: RequestContext, request: DescribeQuorumRequest) -> DescribeQuorumResponse {
    let mut response = DescribeQuorumResponse::default();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            if &**topic.topic_name == METADATA_TOPIC && asked.partition_index == 0 {
                partitions.push(describe(&ctx).await);
                continue;
            }
            let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            ctx.shared.metrics.failed(ctx.api, unknown);
            partitions.push(
                PartitionData::default()
                    .with_partition_index(asked.partition_index)
                    .with_error_code(unknown.code()),
            );
        }
        response.topics.push(
            TopicData::default()
                .with_topic_name(TopicName(text(topic.topic_name.to_string())))
                .with_partitions(partitions),
        );
    }
    if ctx.version >= 2 {
        response.nodes = nodes(&ctx);
    }
    response
}

/// The metadata group as its leader sees it, wherever that is.
async fn describe(ctx: &RequestContext) -> PartitionData {
    let group = ctx.shared.controller.group();
    let Some(quorum) = ctx.shared.cluster.quorum(group).await else {
        ctx.shared
            .metrics
            .failed(ctx.api, ErrorCode::LEADER_NOT_AVAILABLE);
        return PartitionData::default()
            .with_error_code(ErrorCode::LEADER_NOT_AVAILABLE.code())
            .with_leader_id(BrokerId(-1))
            .with_leader_epoch(epoch(group.leadership().term));
    };
    let now_ms = ctx.shared.clock.now_ms();
    let state = |&(broker, index): &(i32, u64)| {
        let when = |is_now: bool| {
            if is_now && ctx.version >= 1 {
                now_ms
            } else {
                -1
            }
        };
        let is_heard = quorum.heard.contains(&broker);
        ReplicaState::default()
            .with_replica_id(BrokerId(broker))
            .with_replica_directory_id(if ctx.version >= 2 {
                ctx.shared.directory_id_of(broker)
            } else {
                uuid::Uuid::nil()
            })
            .with_log_end_offset(i64::try_from(index + 1).unwrap_or(i64::MAX))
            .with_last_fetch_timestamp(when(is_heard))
            .with_last_caught_up_timestamp(when(is_heard && index >= quorum.last))
    };
    PartitionData::default()
        .with_leader_id(BrokerId(quorum.leader))
        .with_leader_epoch(epoch(quorum.term))
        .with_high_watermark(i64::try_from(quorum.committed + 1).unwrap_or(i64::MAX))
        .with_current_voters(quorum.voters.iter().map(state).collect())
        .with_observers(quorum.learners.iter().map(state).collect())
}

fn nodes(ctx: &RequestContext) -> Vec<Node> {
    let image = ctx.shared.controller.image();
    image
        .brokers()
        .map(|broker| {
            let listeners = broker
                .endpoints
                .iter()
                .map(|(name, endpoint)| {
                    Listener::default()
                        .with_name(text(name))
                        .with_host(text(&endpoint.host))
                        .with_port(endpoint.port)
                })
                .collect();
            Node::default()
                .with_node_id(BrokerId(broker.id))
                .with_listeners(listeners)
        })
        .collect()
}
