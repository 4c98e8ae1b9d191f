//! The settings of one topic, typed, for the path that asks them for every batch.

use std::collections::{BTreeMap, BTreeSet};

use super::key::Scope;
use super::layers::Settings;
use super::table::find;
use super::value::elements;

/// Settings of a topic: its overrides, else the broker's, else the defaults. Made anew when either
/// changes, never per batch.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicSettings {
    /// `cleanup.policy` has `delete`: retention applies.
    pub delete: bool,
    /// `cleanup.policy` has `compact`.
    pub compact: bool,
    /// `compression.type` and its level.
    pub compression: CompressionTarget,
    /// `retention.ms`; `None` for no limit or without `delete`.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`; `None` for no limit or without `delete`.
    pub retention_bytes: Option<u64>,
    /// `segment.bytes`, or `internal.segment.bytes` where set.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: u64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: u64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `max.message.bytes`: of a stored batch, header included.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: usize,
    /// `delete.retention.ms`.
    pub delete_retention_ms: u64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: u64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: u64,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
    /// `leader.replication.throttled.replicas`.
    pub throttled_leaders: ThrottledReplicas,
    /// `follower.replication.throttled.replicas`.
    pub throttled_followers: ThrottledReplicas,
    /// The broker's `producer.id.expiration.ms`: not a topic key, but each log acts on it.
    pub producer_id_expiration_ms: u64,
}

/// Replicas of a topic whose making is held back (KIP-73).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThrottledReplicas {
    /// All of all partitions.
    All,
    /// Partitions and brokers.
    Of(BTreeSet<(i32, i32)>),
}

impl ThrottledReplicas {
    /// Reads `*`, or `partition:broker,..`; what is neither does not count.
    fn parse(text: &str) -> ThrottledReplicas {
        if text.trim() == "*" {
            return ThrottledReplicas::All;
        }
        let pair = |element: &str| {
            let (partition, broker) = element.split_once(':')?;
            Some((partition.trim().parse().ok()?, broker.trim().parse().ok()?))
        };
        ThrottledReplicas::Of(elements(text).filter_map(pair).collect())
    }

    /// Whether a broker's replica of a partition is among them.
    pub fn contains(&self, partition: i32, broker: i32) -> bool {
        match self {
            ThrottledReplicas::All => true,
            ThrottledReplicas::Of(replicas) => replicas.contains(&(partition, broker)),
        }
    }

    /// The brokers whose replicas of a partition are among them; `None`: all of them.
    pub fn brokers(&self, partition: i32) -> Option<BTreeSet<i32>> {
        match self {
            ThrottledReplicas::All => None,
            ThrottledReplicas::Of(replicas) => {
                let of_partition = replicas.range((partition, i32::MIN)..=(partition, i32::MAX));
                Some(of_partition.map(|(_, broker)| *broker).collect())
            }
        }
    }
}

/// Codec in which batches are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionTarget {
    /// The codec the producer chose.
    Producer,
    /// Plain.
    Uncompressed,
    /// gzip, with a level 1-9 or the codec's default.
    Gzip {
        /// Level.
        level: Option<u32>,
    },
    /// snappy.
    Snappy,
    /// lz4, with a level 1-17.
    Lz4 {
        /// Level.
        level: u32,
    },
    /// zstd, with a level up to 22.
    Zstd {
        /// Level.
        level: i32,
    },
}

/// Whose clock dates a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, at append.
    LogAppendTime,
}

/// Reads topic keys by name out of overrides and settings.
struct Reader<'a> {
    settings: &'a Settings,
    overrides: &'a BTreeMap<String, String>,
}

impl TopicSettings {
    /// Resolves the settings of a topic. An override that this program does not accept (a newer one
    /// wrote it) does not count.
    pub(super) fn resolve(
        settings: &Settings,
        overrides: &BTreeMap<String, String>,
    ) -> TopicSettings {
        let read = Reader {
            settings,
            overrides,
        };
        let policy = read.text("cleanup.policy");
        let delete = elements(&policy).any(|element| element == "delete");
        let internal_segment_bytes = read.unsigned("internal.segment.bytes");
        TopicSettings {
            delete,
            compact: elements(&policy).any(|element| element == "compact"),
            compression: read.compression(),
            retention_ms: u64::try_from(read.long("retention.ms"))
                .ok()
                .filter(|_| delete),
            retention_bytes: u64::try_from(read.long("retention.bytes"))
                .ok()
                .filter(|_| delete),
            segment_bytes: if internal_segment_bytes > 0 {
                internal_segment_bytes
            } else {
                read.unsigned("segment.bytes")
            },
            segment_ms: read.unsigned("segment.ms"),
            segment_jitter_ms: read.unsigned("segment.jitter.ms"),
            index_interval_bytes: u32::try_from(read.long("index.interval.bytes"))
                .expect("an INT of at least 0"),
            max_message_bytes: usize::try_from(read.long("max.message.bytes"))
                .expect("an INT of at least 0"),
            timestamp_type: match read.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: read.long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: read.long("message.timestamp.after.max.ms"),
            min_insync_replicas: usize::try_from(read.long("min.insync.replicas"))
                .expect("an INT of at least 1"),
            delete_retention_ms: read.unsigned("delete.retention.ms"),
            min_compaction_lag_ms: read.unsigned("min.compaction.lag.ms"),
            max_compaction_lag_ms: read.unsigned("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: read
                .text("min.cleanable.dirty.ratio")
                .parse()
                .expect("a DOUBLE, checked"),
            throttled_leaders: read.throttled("leader.replication.throttled.replicas"),
            throttled_followers: read.throttled("follower.replication.throttled.replicas"),
            producer_id_expiration_ms: u64::try_from(settings.long("producer.id.expiration.ms"))
                .expect("at least 1"),
        }
    }

    /// `segment.ms` less this partition's part of `segment.jitter.ms`; `random` picks the part and
    /// should stay the same for a partition. At least 1.
    pub fn jittered_segment_ms(&self, random: u64) -> u64 {
        match self.segment_jitter_ms.min(self.segment_ms) {
            0 => self.segment_ms,
            jitter => (self.segment_ms - random % jitter).max(1),
        }
    }
}

impl Reader<'_> {
    fn text(&self, name: &'static str) -> String {
        let key = find(Scope::Topic, name)
            .unwrap_or_else(|| panic!("topic key {name} is not in the table"));
        let overridden = self
            .overrides
            .get(name)
            .filter(|value| key.check(value).is_ok())
            .map(|value| key.canonical(value));
        overridden.unwrap_or_else(|| self.settings.inherited(key).value.unwrap_or_default())
    }

    fn long(&self, name: &'static str) -> i64 {
        self.text(name)
            .parse()
            .expect("topic values are checked when they enter")
    }

    /// A number that the table bounds at 0 or more.
    fn unsigned(&self, name: &'static str) -> u64 {
        u64::try_from(self.long(name)).expect("the table bounds it at 0 or more")
    }

    fn throttled(&self, name: &'static str) -> ThrottledReplicas {
        ThrottledReplicas::parse(&self.text(name))
    }

    fn compression(&self) -> CompressionTarget {
        match self.text("compression.type").as_str() {
            "uncompressed" => CompressionTarget::Uncompressed,
            "gzip" => CompressionTarget::Gzip {
                level: u32::try_from(self.long("compression.gzip.level")).ok(),
            },
            "snappy" => CompressionTarget::Snappy,
            "lz4" => CompressionTarget::Lz4 {
                level: u32::try_from(self.long("compression.lz4.level")).expect("1-17"),
            },
            "zstd" => CompressionTarget::Zstd {
                level: i32::try_from(self.long("compression.zstd.level")).expect("an INT"),
            },
            _ => CompressionTarget::Producer,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{map, settings};

    #[test]
    fn defaults_are_those_of_kafka() {
        let topic = settings(&[]).topic(&map(&[]));
        assert_eq!((topic.delete, topic.compact), (true, false));
        assert_eq!(
            (topic.retention_ms, topic.retention_bytes),
            (Some(604_800_000), None)
        );
        assert_eq!(
            (
                topic.segment_bytes,
                topic.segment_ms,
                topic.max_message_bytes
            ),
            (1 << 30, 604_800_000, 1_048_588)
        );
        assert_eq!(
            (topic.timestamp_type, topic.compression),
            (TimestampType::CreateTime, CompressionTarget::Producer)
        );
        assert_eq!(
            (topic.timestamp_before_max_ms, topic.timestamp_after_max_ms),
            (i64::MAX, 3_600_000)
        );
        assert_eq!(
            (topic.min_insync_replicas, topic.index_interval_bytes),
            (1, 4096)
        );
        assert_eq!(topic.producer_id_expiration_ms, 86_400_000);
    }

    #[test]
    fn an_override_comes_before_the_broker_comes_before_the_default() {
        let broker = settings(&[
            ("log.segment.bytes", "2000000"),
            ("log.roll.hours", "1"),
            ("message.max.bytes", "7"),
        ]);
        let topic = broker.topic(&map(&[
            ("segment.bytes", "3000000"),
            ("message.timestamp.type", "LogAppendTime"),
        ]));
        assert_eq!(
            (
                topic.segment_bytes,
                topic.segment_ms,
                topic.max_message_bytes
            ),
            (3_000_000, 3_600_000, 7)
        );
        assert_eq!(topic.timestamp_type, TimestampType::LogAppendTime);
    }

    #[test]
    fn retention_needs_delete() {
        let topic = settings(&[]).topic(&map(&[("cleanup.policy", ""), ("retention.bytes", "5")]));
        assert_eq!(
            (topic.delete, topic.retention_ms, topic.retention_bytes),
            (false, None, None)
        );
        let topic = settings(&[]).topic(&map(&[("retention.ms", "-1"), ("retention.bytes", "5")]));
        assert_eq!((topic.retention_ms, topic.retention_bytes), (None, Some(5)));
    }

    #[test]
    fn compression_with_its_level() {
        let compression = |configs: &[(&str, &str)]| {
            settings(&[("compression.zstd.level", "5")])
                .topic(&map(configs))
                .compression
        };
        assert_eq!(
            compression(&[("compression.type", "zstd")]),
            CompressionTarget::Zstd { level: 5 }
        );
        assert_eq!(
            compression(&[("compression.type", "gzip")]),
            CompressionTarget::Gzip { level: None }
        );
        let gzip = [
            ("compression.type", "gzip"),
            ("compression.gzip.level", "3"),
        ];
        assert_eq!(
            compression(&gzip),
            CompressionTarget::Gzip { level: Some(3) }
        );
        assert_eq!(
            compression(&[("compression.type", "uncompressed")]),
            CompressionTarget::Uncompressed
        );
        assert_eq!(
            compression(&[("compression.type", "snappy")]),
            CompressionTarget::Snappy
        );
        assert_eq!(
            compression(&[("compression.type", "lz4")]),
            CompressionTarget::Lz4 { level: 9 }
        );
    }

    #[test]
    fn jitter_shortens_segments_but_never_to_nothing() {
        let topic = |ms, jitter| {
            settings(&[]).topic(&map(&[("segment.ms", ms), ("segment.jitter.ms", jitter)]))
        };
        assert_eq!(topic("100", "0").jittered_segment_ms(77), 100);
        assert_eq!(topic("100", "10").jittered_segment_ms(77), 93);
        assert_eq!(
            topic("1", "9223372036854775807").jittered_segment_ms(u64::MAX),
            1
        );
    }

    #[test]
    fn small_segments_for_tests() {
        assert_eq!(
            settings(&[])
                .topic(&map(&[("internal.segment.bytes", "500")]))
                .segment_bytes,
            500
        );
    }

    proptest! {
        #[test]
        fn any_stored_overrides_resolve(name in 0..60_usize, value in ".{0,8}|-?[0-9]{1,19}|[a-z,]{0,12}") {
            let keys: Vec<_> = crate::settings::keys(Scope::Topic).collect();
            let key = keys[name % keys.len()].name;
            let _ = settings(&[]).topic(&map(&[(key, &value)]));
        }
    }
}
