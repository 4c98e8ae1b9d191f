//! One file per API: what a request means, and the answer Kafka's clients expect.
//!
//! A handler reads the metadata image, asks partitions and the controller, and builds the
//! answer. It reaches neither the storage nor Raft past them, decodes nothing and counts only
//! what went wrong.

pub mod acls;
pub mod alter_configs;
pub mod api_versions;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_client_quotas;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod elect_leaders;
mod endpoints;
pub mod fetch;
pub mod find_coordinator;
pub mod groups;
pub mod heartbeat;
pub mod init_producer_id;
pub mod join_group;
mod leaders;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod reassignments;
pub mod refusals;
pub mod sync_group;
pub mod unregister_broker;
pub mod update_features;

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use kafka_protocol::protocol::StrBytes;
use klamm_metadata::rules::Verdict;
use klamm_metadata::settings::{CompressionTarget, TimestampType, TopicSettings};
use klamm_metadata::{Command, Problem, Topic};
use klamm_protocol::ErrorCode;
use klamm_records::{Codec, CompressionType, ValidationRules};
use tokio::time::Instant;

use crate::context::RequestContext;
use crate::partition::Partition;

/// All operations an unsecured broker allows, as a bit field, by kind of resource (behaviour 25).
const TOPIC_OPERATIONS: i32 = 0b0000_1101_1111_1000;
const CLUSTER_OPERATIONS: i32 = 0b0001_1111_1010_0000;

/// An administrative request is answered after this, however long its client would wait.
const MAX_ADMIN_WAIT: Duration = Duration::from_secs(60);
/// A batch may decompress to so many times `max.message.bytes` (R22).
const DECOMPRESS_RATIO: usize = 32;

/// A client's timeout in ms, within what the broker allows.
fn timeout(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).min(MAX_ADMIN_WAIT)
}

/// An open partition of a topic, or the error for a client that asks for it here.
fn open_partition(
    ctx: &RequestContext,
    topic: &Topic,
    index: i32,
) -> Result<Arc<Partition>, ErrorCode> {
    topic
        .partition(index)
        .ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    ctx.shared
        .partitions
        .get(topic.id, index)
        .ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)
}

/// The code of a rule's refusal on the wire.
fn code_of(problem: &Problem) -> ErrorCode {
    ErrorCode(problem.code.code())
}

/// Text for an answer.
fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// A refusal's message for an answer.
fn message_of(problem: &Problem) -> Option<StrBytes> {
    Some(text(&problem.message))
}

/// Verdicts as commands to propose and answers to give.
fn split<T>(verdicts: Vec<Verdict<T>>) -> (Vec<Command>, Vec<Result<T, Problem>>) {
    let mut commands = Vec::new();
    let answers = verdicts
        .into_iter()
        .map(|verdict| {
            verdict.map(|planned| {
                commands.extend(planned.command);
                planned.answer
            })
        })
        .collect();
    (commands, answers)
}

/// The answer to one named item of a request.
type Named<N, T> = (N, Result<T, Problem>);

/// Named verdicts as commands to propose and named answers to give.
fn answers<N, T>(verdicts: Vec<(N, Verdict<T>)>) -> (Vec<Command>, Vec<Named<N, T>>) {
    let (names, verdicts): (Vec<N>, Vec<Verdict<T>>) = verdicts.into_iter().unzip();
    let (commands, answers) = split(verdicts);
    (commands, names.into_iter().zip(answers).collect())
}

/// Looks every so often until it is so; false at the deadline.
async fn poll_until(deadline: Instant, every: Duration, is_so: impl Fn() -> bool) -> bool {
    while !is_so() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(every).await;
    }
    true
}

/// Without what was asked before in the same request: a name of a few bytes that is repeated would be
/// answered with as many megabytes.
fn distinct<T, K: Hash + Eq>(mut asked: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let hasher = RandomState::new();
    // Numbers of those seen, not keys: a request may have a million.
    let mut seen: HashTable<usize> = HashTable::new();
    let mut is_first = Vec::with_capacity(asked.len());
    for (number, one) in asked.iter().enumerate() {
        let one = key(one);
        let same = |other: &usize| key(&asked[*other]) == one;
        let hash = |other: &usize| hasher.hash_one(key(&asked[*other]));
        let entry = seen.entry(hasher.hash_one(&one), same, hash);
        is_first.push(matches!(entry, Entry::Vacant(_)));
        entry.or_insert(number);
    }
    let mut is_first = is_first.into_iter();
    asked.retain(|_| is_first.next() == Some(true));
    asked
}

/// Bytes that a batch of a topic may decompress to.
fn unpacked_bytes(settings: &TopicSettings) -> usize {
    settings.max_message_bytes.saturating_mul(DECOMPRESS_RATIO)
}

/// What a produced batch must satisfy on a topic with these settings.
fn validation_rules(settings: &TopicSettings, produce_version: i16) -> ValidationRules {
    let codec = |codec, level| CompressionType::Codec { codec, level };
    ValidationRules {
        max_message_bytes: settings.max_message_bytes,
        segment_bytes: usize::try_from(settings.segment_bytes).unwrap_or(usize::MAX),
        compacted: settings.compact,
        timestamp_type: match settings.timestamp_type {
            TimestampType::CreateTime => klamm_records::TimestampType::CreateTime,
            TimestampType::LogAppendTime => klamm_records::TimestampType::LogAppendTime,
        },
        before_max_ms: settings.timestamp_before_max_ms,
        after_max_ms: settings.timestamp_after_max_ms,
        target: match settings.compression {
            CompressionTarget::Producer => CompressionType::Producer,
            CompressionTarget::Uncompressed => codec(Codec::None, None),
            CompressionTarget::Gzip { level } => codec(
                Codec::Gzip,
                level.and_then(|level| i32::try_from(level).ok()),
            ),
            CompressionTarget::Snappy => codec(Codec::Snappy, None),
            CompressionTarget::Lz4 { level } => codec(Codec::Lz4, i32::try_from(level).ok()),
            CompressionTarget::Zstd { level } => codec(Codec::Zstd, Some(level)),
        },
        decompress_budget: unpacked_bytes(settings),
        produce_version,
        allow_control: false,
        // Transactions come with their coordinator; until then no id can be authorised.
        allow_transactional: false,
    }
}

#[cfg(test)]
mod tests {
    use super::distinct;

    #[test]
    fn of_equal_ones_the_first_stays_and_the_order_too() {
        let asked = vec![("b", 1), ("a", 2), ("b", 3), ("c", 4), ("a", 5)];
        let kept = distinct(asked, |(name, _)| *name);
        assert_eq!(kept, [("b", 1), ("a", 2), ("c", 4)]);
        let many: Vec<u32> = (0..10_000).map(|number| number % 1000).collect();
        assert_eq!(
            distinct(many, Clone::clone),
            (0..1000).collect::<Vec<u32>>()
        );
    }
}
