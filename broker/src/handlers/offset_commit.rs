//! OffsetCommit (key 8), versions 2-10 (behaviours 91, 95).
//!
//! Versions: 2-4 a retention time, 6 leader epochs (KIP-320), 7 static members, 9 members of the
//! consumer protocol by their epoch (KIP-848), 10 topics by id.
//!
//! Topics and partitions must exist; those that do not are answered here and the rest is committed, as
//! in Kafka.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use klamm_coordinator::Request;
use klamm_metadata::Image;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use klamm_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use klamm_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, TopicName};
use klamm_records::TopicId;

use super::groups::{GroupCall, content, count};
use crate::context::RequestContext;

/// Takes an OffsetCommit request apart.
pub fn ask(
    ctx: &RequestContext,
    mut request: OffsetCommitRequest,
) -> GroupCall<OffsetCommitResponse> {
    let image = ctx.shared.controller.image();
    let by_id = ctx.version >= 10;
    let mut refused = Vec::new();
    let mut ids = HashMap::new();
    for topic in &mut request.topics {
        if by_id {
            refused.extend(name(&image, topic));
            ids.insert(topic.name.clone(), topic.topic_id);
        }
        refused.extend(refuse_unknown(&image, topic));
    }
    request.topics.retain(|topic| !topic.partitions.is_empty());
    let ctx = ctx.clone();
    let finish = move |committed: Option<OffsetCommitResponse>| {
        let mut response = committed.unwrap_or_default();
        for topic in response.topics.iter_mut().filter(|_| by_id) {
            let name = std::mem::take(&mut topic.name);
            topic.topic_id = ids.get(&name).copied().unwrap_or_default();
        }
        add(&mut response, refused, by_id);
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|part| count(&ctx, part.error_code));
        response
    };
    if request.topics.is_empty() {
        return GroupCall::done(finish(None));
    }
    let group = request.group_id.clone();
    GroupCall::one(&group, Request::OffsetCommit(request), move |answer| {
        finish(Some(content!(answer, OffsetCommit)))
    })
}

/// Names a topic that was given by id; one that is not known is refused as a whole.
fn name(image: &Image, topic: &mut OffsetCommitRequestTopic) -> Option<OffsetCommitResponseTopic> {
    if let Some(found) = image.topic_by_id(TopicId(topic.topic_id)) {
        topic.name = TopicName(super::text(&*found.name));
        return None;
    }
    let code = ErrorCode::UNKNOWN_TOPIC_ID.code();
    let partitions = topic.partitions.drain(..).map(|part| {
        OffsetCommitResponsePartition::default()
            .with_partition_index(part.partition_index)
            .with_error_code(code)
    });
    Some(
        OffsetCommitResponseTopic::default()
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect()),
    )
}

/// Takes partitions that do not exist out of a topic; answers what is said of them.
fn refuse_unknown(
    image: &Image,
    topic: &mut OffsetCommitRequestTopic,
) -> Option<OffsetCommitResponseTopic> {
    let found = image.topic(&topic.name);
    if let Some(found) = found {
        topic.topic_id = found.id.0;
    }
    let mut missing = Vec::new();
    topic.partitions.retain(|part| {
        let index = part.partition_index;
        let exists = found.is_some_and(|found| found.partition(index).is_some());
        if !exists {
            missing.push(
                OffsetCommitResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.code()),
            );
        }
        exists
    });
    (!missing.is_empty()).then(|| {
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(missing)
    })
}

/// Adds refused partitions to the topics that are there, and the topics that are not. Clients see
/// either a topic's id or its name.
fn add(response: &mut OffsetCommitResponse, refused: Vec<OffsetCommitResponseTopic>, by_id: bool) {
    let key = |topic: &OffsetCommitResponseTopic| match by_id {
        true => (topic.topic_id, TopicName::default()),
        false => (uuid::Uuid::nil(), topic.name.clone()),
    };
    let mut places: HashMap<_, usize> = HashMap::new();
    for (at, topic) in response.topics.iter().enumerate() {
        places.entry(key(topic)).or_insert(at);
    }
    for topic in refused {
        match places.entry(key(&topic)) {
            Entry::Occupied(place) => {
                if let Some(present) = response.topics.get_mut(*place.get()) {
                    present.partitions.extend(topic.partitions);
                }
            }
            Entry::Vacant(place) => {
                place.insert(response.topics.len());
                response.topics.push(topic);
            }
        }
    }
}
