//! DescribeQuorum (key 55), versions 0-2: the metadata group as Kafka's tools show a KRaft quorum
//! (behaviour 121). Offsets are Raft indexes of that group, its own unit.
//!
//! Every partition is a Raft group, so of partitions that are led here it is told likewise, with Kafka's
//! offsets. Kafka knows no quorum of a partition, and its clients ask for none.

use kafka_protocol::messages::describe_quorum_request::DescribeQuorumRequest;
use kafka_protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use klamm_protocol::ErrorCode;
use klamm_records::TopicId;
use tokio::time::Instant;

use super::{distinct, text};
use crate::context::RequestContext;
use crate::partition::{epoch, storage_error};

const METADATA_TOPIC: &str = "__cluster_metadata";

/// Answers a DescribeQuorum request.
pub async fn handle(ctx: RequestContext, request: DescribeQuorumRequest) -> DescribeQuorumResponse {
    let mut response = DescribeQuorumResponse::default();
    let image = ctx.shared.controller.image();
    for topic in distinct(request.topics, |topic| topic.topic_name.clone()) {
        let known = image.topic(&topic.topic_name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in distinct(topic.partitions, |asked| asked.partition_index) {
            if &**topic.topic_name == METADATA_TOPIC && asked.partition_index == 0 {
                partitions.push(describe(&ctx).await);
                continue;
            }
            let index = asked.partition_index;
            let described = match known.filter(|topic| topic.partition(index).is_some()) {
                Some(topic) => describe_partition(&ctx, topic.id, index).await,
                None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            };
            partitions.push(described.unwrap_or_else(|error| {
                ctx.shared.metrics.failed(ctx.api, error);
                PartitionData::default()
                    .with_partition_index(index)
                    .with_error_code(error.code())
            }));
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

/// A partition that is led here.
async fn describe_partition(
    ctx: &RequestContext,
    topic: TopicId,
    index: i32,
) -> Result<PartitionData, ErrorCode> {
    let elsewhere = ErrorCode::NOT_LEADER_OR_FOLLOWER;
    let partition = ctx.shared.partitions.get(topic, index).ok_or(elsewhere)?;
    partition.check_fresh()?;
    let leader_epoch = partition.serving_epoch().ok_or(elsewhere)?;
    let high_watermark = partition.high_watermark();
    let (now, now_ms) = (Instant::now(), ctx.shared.clock.now_ms());
    // Replicas that are behind are looked up in the log.
    let looking = klamm_raft::blocking::spawn_blocking(move || partition.standings(now));
    let standings = match looking.await {
        Ok(Ok(standings)) => standings.ok_or(elsewhere)?,
        Ok(Err(error)) => return Err(storage_error(&error)),
        Err(_) => return Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    };
    let replicas = |votes: bool| {
        let those = standings.iter().filter(|standing| standing.votes == votes);
        let states = those.map(|standing| {
            let caught_up_ms = standing.caught_up.map_or(-1, |at| {
                let ago_ms = now.saturating_duration_since(at).as_millis();
                now_ms.saturating_sub(i64::try_from(ago_ms).unwrap_or(i64::MAX))
            });
            let state = ReplicaState::default()
                .with_replica_id(BrokerId(standing.broker))
                .with_log_end_offset(standing.end_offset.unwrap_or(-1));
            let state = match ctx.version {
                0 => state,
                _ => state.with_last_caught_up_timestamp(caught_up_ms),
            };
            match ctx.version {
                ..2 => state,
                _ => state.with_replica_directory_id(ctx.shared.directory_id_of(standing.broker)),
            }
        });
        states.collect()
    };
    Ok(PartitionData::default()
        .with_partition_index(index)
        .with_leader_id(BrokerId(ctx.shared.node_id))
        .with_leader_epoch(leader_epoch)
        .with_high_watermark(high_watermark)
        .with_current_voters(replicas(true))
        .with_observers(replicas(false)))
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
