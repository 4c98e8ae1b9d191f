//! Metadata (key 3), versions 0-13.
//!
//! Behaviours 12, 15-25, 27. Versions: 0 an empty list means all topics, 1 null does; 4 the
//! client says whether a topic may be created; 7 leader epochs; 8 authorised operations; 10 topic
//! ids; 12 topics by id; 13 a top-level error.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequest;
use kafka_protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use klamm_metadata::{Image, Partition, Topic, names};
use klamm_protocol::ErrorCode;
use klamm_records::TopicId;
use tokio::time::Instant;

use super::{
    CLUSTER_OPERATIONS, TOPIC_OPERATIONS, create_topics, distinct, endpoints, leaders, text,
};
use crate::context::RequestContext;

/// How long an answer waits for a topic it created to have leaders.
const CREATION_WAIT: Duration = Duration::from_secs(5);
const NOT_ASKED: i32 = i32::MIN;

/// What the client asks about.
enum Asked {
    All,
    Some(Vec<Name>),
}

enum Name {
    Name(TopicName),
    Id(TopicId),
}

impl Name {
    fn find<'a>(&self, image: &'a Image) -> Option<&'a Arc<Topic>> {
        match self {
            Name::Name(name) => image.topic(name),
            Name::Id(id) => image.topic_by_id(*id),
        }
    }
}

/// Bytes of an answer: about this many for a topic and for a partition with its replicas.
pub(super) const TOPIC_BYTES: usize = 64;
pub(super) const PARTITION_BYTES: usize = 64;

/// About how large the answer will be, in bytes.
pub fn answer_size(ctx: &RequestContext, request: &MetadataRequest) -> usize {
    let image = ctx.shared.controller.image();
    match &request.topics {
        Some(topics) if !(topics.is_empty() && ctx.version == 0) => topics
            .iter()
            .map(|topic| match &topic.name {
                Some(name) => TOPIC_BYTES + name.len() + partitions_bytes(image.topic(name)),
                None => TOPIC_BYTES + partitions_bytes(image.topic_by_id(TopicId(topic.topic_id))),
            })
            .sum(),
        _ => image.topic_count() * TOPIC_BYTES + image.partition_count() * PARTITION_BYTES,
    }
}

fn partitions_bytes(topic: Option<&Arc<Topic>>) -> usize {
    topic.map_or(0, |topic| topic.partitions.len() * PARTITION_BYTES)
}

/// Answers a Metadata request.
pub async fn handle(ctx: RequestContext, request: MetadataRequest) -> MetadataResponse {
    let with_operations = request.include_topic_authorized_operations;
    let may_create = request.allow_auto_topic_creation || ctx.version < 4;
    let cluster_operations = request.include_cluster_authorized_operations;
    let asked = asked(&ctx, request);
    if let Asked::Some(names) = &asked
        && may_create
    {
        create_missing(&ctx, names).await;
    }
    let image = ctx.shared.controller.image();
    settle(&ctx, &image, &asked).await;
    let topics = match &asked {
        Asked::All => image
            .topics()
            .map(|topic| describe(&ctx, &image, topic, with_operations))
            .collect(),
        Asked::Some(names) => names
            .iter()
            .map(|name| answer(&ctx, &image, name, with_operations))
            .collect(),
    };
    let brokers: Vec<MetadataResponseBroker> = endpoints::live(&ctx)
        .into_iter()
        .map(|address| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(address.id))
                .with_host(address.host)
                .with_port(address.port)
                .with_rack(address.rack)
        })
        .collect();
    let response = MetadataResponse::default()
        .with_controller_id(BrokerId(endpoints::controller(&ctx)))
        .with_cluster_id(image.cluster_id().map(text))
        .with_brokers(brokers)
        .with_topics(topics);
    if (8..=10).contains(&ctx.version) {
        return response.with_cluster_authorized_operations(if cluster_operations {
            CLUSTER_OPERATIONS
        } else {
            NOT_ASKED
        });
    }
    response
}

/// Has partitions that are just getting a leader named with it.
async fn settle(ctx: &RequestContext, image: &Image, asked: &Asked) {
    let topics: Vec<&Arc<Topic>> = match asked {
        Asked::All => image.topics().collect(),
        Asked::Some(names) => names.iter().filter_map(|name| name.find(image)).collect(),
    };
    let until = Instant::now() + leaders::NAMING;
    for topic in topics {
        for partition in topic.partitions.iter() {
            leaders::settle(ctx, topic.id, partition.index, until).await;
        }
    }
}

fn asked(ctx: &RequestContext, request: MetadataRequest) -> Asked {
    match request.topics {
        None => Asked::All,
        Some(topics) if topics.is_empty() && ctx.version == 0 => Asked::All,
        Some(topics) => Asked::Some(
            distinct(topics, |topic| (topic.name.clone(), topic.topic_id))
                .into_iter()
                .map(|topic| match topic.name {
                    Some(name) => Name::Name(name),
                    None => Name::Id(TopicId(topic.topic_id)),
                })
                .collect(),
        ),
    }
}

/// Auto creation (behaviours 16, 17): done before the answer, so that clients find the topic.
async fn create_missing(ctx: &RequestContext, asked: &[Name]) {
    if !ctx.shared.settings().boolean("auto.create.topics.enable") {
        return;
    }
    let image = ctx.shared.controller.image();
    let missing = asked.iter().filter_map(|name| match name {
        Name::Name(name) => Some(name),
        Name::Id(_) => None,
    });
    let missing =
        missing.filter(|name| image.topic(name).is_none() && names::check_topic_name(name).is_ok());
    // No copy is made of a million names that will not be created.
    let is_new = |name: &&TopicName| !names::is_internal(name);
    let (missing, _) = create_topics::within_rate(ctx, missing.collect(), is_new);
    let missing: BTreeSet<String> = missing.into_iter().map(|name| name.to_string()).collect();
    if !missing.is_empty() {
        create_topics::create_with_defaults(ctx, missing, CREATION_WAIT).await;
    }
}

fn answer(
    ctx: &RequestContext,
    image: &Image,
    name: &Name,
    with_operations: bool,
) -> MetadataResponseTopic {
    if let Some(topic) = name.find(image) {
        return describe(ctx, image, topic, with_operations);
    }
    let unknown = match name {
        Name::Name(name) => unknown_name(name),
        Name::Id(_) => ErrorCode::UNKNOWN_TOPIC_ID,
    };
    ctx.shared.metrics.failed(ctx.api, unknown);
    let topic = MetadataResponseTopic::default()
        .with_error_code(unknown.code())
        .with_topic_authorized_operations(NOT_ASKED);
    match name {
        Name::Name(name) => topic.with_name(Some(name.clone())),
        // Versions below 12 cannot say "no name".
        Name::Id(id) => topic
            .with_topic_id(id.0)
            .with_name((ctx.version < 12).then(TopicName::default)),
    }
}

fn unknown_name(name: &TopicName) -> ErrorCode {
    match names::check_topic_name(name) {
        Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Err(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
    }
}

fn describe(
    ctx: &RequestContext,
    image: &Image,
    topic: &Topic,
    with_operations: bool,
) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(&*topic.name))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.is_internal())
        .with_partitions(
            topic
                .partitions
                .iter()
                .map(|partition| describe_partition(ctx, image, topic, partition))
                .collect(),
        )
        .with_topic_authorized_operations(if with_operations {
            TOPIC_OPERATIONS
        } else {
            NOT_ASKED
        })
}

fn describe_partition(
    ctx: &RequestContext,
    image: &Image,
    topic: &Topic,
    partition: &Partition,
) -> MetadataResponsePartition {
    let led = leaders::led(ctx, image, topic, partition);
    let replicas = partition.replicas.iter().map(|&id| BrokerId(id));
    let error = if led.leader == -1 {
        ErrorCode::LEADER_NOT_AVAILABLE
    } else {
        ErrorCode::NONE
    };
    MetadataResponsePartition::default()
        .with_error_code(error.code())
        .with_partition_index(partition.index)
        .with_leader_id(BrokerId(led.leader))
        .with_leader_epoch(led.epoch)
        .with_isr_nodes(led.in_sync)
        .with_replica_nodes(replicas.collect())
        .with_offline_replicas(if ctx.version >= 5 {
            led.offline
        } else {
            Vec::new()
        })
}
