//! DescribeQuorum (key 55), versions 0-2: the metadata group as Kafka's tools show a KRaft quorum
//! (behaviour 121). Offsets are Raft indexes of that group, its own unit.

use kafka_protocol::messages::describe_quorum_request::DescribeQuorumRequest;
use kafka_protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use klamm_protocol::ErrorCode;
use klamm_raft::NodeId;

use super::text;
use crate::context::RequestContext;
use crate::partition::epoch;

const METADATA_TOPIC: &str = "__cluster_metadata";

/// Answers a DescribeQuorum request.
pub async fn handle(ctx: RequestContext, request: DescribeQuorumRequest) -> DescribeQuorumResponse {
    let mut response = DescribeQuorumResponse::default();
    for topic in &request.topics {
        let partitions = topic
            .partitions
            .iter()
            .map(|asked| {
                if &**topic.topic_name == METADATA_TOPIC && asked.partition_index == 0 {
                    describe(&ctx)
                } else {
                    ctx.shared
                        .metrics
                        .failed(ctx.api, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
                    PartitionData::default()
                        .with_partition_index(asked.partition_index)
                        .with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.code())
                }
            })
            .collect();
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

fn describe(ctx: &RequestContext) -> PartitionData {
    let group = ctx.shared.controller.group();
    let leadership = group.leadership();
    let progress = group.progress();
    let (voters, learners) = group.members();
    let now_ms = ctx.shared.clock.now_ms();
    let leader = leadership.leader.map_or(-1, NodeId::broker);
    let state = |node: &NodeId| {
        let is_self = node.broker() == ctx.shared.node_id;
        let matched = progress
            .matched
            .iter()
            .find(|(id, _)| id == node)
            .map(|&(_, index)| index);
        let end = if is_self {
            Some(progress.last_index)
        } else {
            matched
        };
        ReplicaState::default()
            .with_replica_id(BrokerId(node.broker()))
            .with_replica_directory_id(if ctx.version >= 2 {
                ctx.shared.directory_id_of(node.broker())
            } else {
                uuid::Uuid::nil()
            })
            .with_log_end_offset(
                end.map_or(-1, |index| i64::try_from(index + 1).unwrap_or(i64::MAX)),
            )
            .with_last_fetch_timestamp(if is_self && ctx.version >= 1 {
                now_ms
            } else {
                -1
            })
            .with_last_caught_up_timestamp(if is_self && ctx.version >= 1 {
                now_ms
            } else {
                -1
            })
    };
    PartitionData::default()
        .with_leader_id(BrokerId(leader))
        .with_leader_epoch(epoch(leadership.term))
        .with_high_watermark(i64::try_from(progress.committed_index + 1).unwrap_or(i64::MAX))
        .with_current_voters(voters.iter().map(state).collect())
        .with_observers(learners.iter().map(state).collect())
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
