//! Keys of a topic, with the broker keys that give their defaults.

use super::super::key::Kind::{Boolean, Double, Int, List, Long, String};
use super::super::key::{Accepts, Key, Unit, same, topic, unit};
use super::reasons::{COMPRESSION_TYPES, LZ4_LEVEL, NO_TIERS, NO_UNCLEAN_ELECTION, SYNC_ALWAYS};

const MAX_LONG: &str = "9223372036854775807";
const REMOVED_FORMAT: &str = "Apache Kafka 4.0 removed it: every batch has format 2. Leave it out.";

pub(super) const KEYS: &[Key] = &[
    topic(List, "cleanup.policy", "delete")
        .one_of(&["compact", "delete"])
        .from(&[same("log.cleanup.policy")])
        .doc("What happens to old records: 'delete' removes whole segments by age and size, 'compact' keeps the last record of each key. Empty keeps everything."),
    topic(String, "compression.type", "producer")
        .one_of(COMPRESSION_TYPES)
        .from(&[same("compression.type")])
        .doc("Codec in which batches are stored. 'producer' keeps what the producer chose, 'uncompressed' stores plain; with a codec, batches in another one are recompressed."),
    topic(Int, "compression.gzip.level", "-1")
        .accepts(Accepts::MinusOneOrBetween(1, 9))
        .from(&[same("compression.gzip.level")])
        .doc("Level when compression.type is gzip: 1 (fast) to 9 (small), -1 for the codec's default."),
    topic(Int, "compression.lz4.level", "9")
        .between(1, 17)
        .from(&[same("compression.lz4.level")])
        .inert(LZ4_LEVEL)
        .doc("Level when compression.type is lz4: 1 (fast) to 17 (small)."),
    topic(Int, "compression.zstd.level", "3")
        .between(-131_072, 22)
        .from(&[same("compression.zstd.level")])
        .doc("Level when compression.type is zstd: up to 22 (small); negative levels trade size for speed."),
    topic(Long, "delete.retention.ms", "86400000")
        .at_least(0)
        .from(&[same("log.cleaner.delete.retention.ms")])
        .doc("How long, in milliseconds, delete markers stay in a compacted topic."),
    topic(Long, "file.delete.delay.ms", "60000")
        .at_least(0)
        .from(&[same("log.segment.delete.delay.ms")])
        .inert("files are unlinked at once: a reader that has one open finishes, and the space comes back sooner")
        .doc("How long, in milliseconds, Apache Kafka waits before it removes the file of a deleted segment."),
    topic(Long, "flush.messages", MAX_LONG)
        .at_least(1)
        .from(&[same("log.flush.interval.messages")])
        .inert(SYNC_ALWAYS)
        .doc("Number of records after which Apache Kafka forces data to disk."),
    topic(Long, "flush.ms", MAX_LONG)
        .at_least(0)
        .from(&[same("log.flush.interval.ms"), same("log.flush.scheduler.interval.ms")])
        .inert(SYNC_ALWAYS)
        .doc("Time in milliseconds after which Apache Kafka forces data to disk."),
    topic(Int, "index.interval.bytes", "4096")
        .at_least(0)
        .from(&[same("log.index.interval.bytes")])
        .doc("Bytes of log between two entries of the offset index. Smaller finds positions faster and takes more index."),
    topic(Long, "max.compaction.lag.ms", MAX_LONG)
        .at_least(1)
        .from(&[same("log.cleaner.max.compaction.lag.ms")])
        .doc("Longest time in milliseconds that a record may wait for compaction."),
    topic(Int, "max.message.bytes", "1048588")
        .at_least(0)
        .from(&[same("message.max.bytes")])
        .doc("Largest record batch in bytes, as stored, header included. A larger one is refused with MESSAGE_TOO_LARGE."),
    topic(Long, "message.timestamp.after.max.ms", "3600000")
        .at_least(0)
        .from(&[same("log.message.timestamp.after.max.ms")])
        .doc("How far, in milliseconds, a record's timestamp may lie ahead of the broker's clock when message.timestamp.type is CreateTime."),
    topic(Long, "message.timestamp.before.max.ms", MAX_LONG)
        .at_least(0)
        .from(&[same("log.message.timestamp.before.max.ms")])
        .doc("How far, in milliseconds, a record's timestamp may lie behind the broker's clock when message.timestamp.type is CreateTime."),
    topic(String, "message.timestamp.type", "CreateTime")
        .one_of(&["CreateTime", "LogAppendTime"])
        .from(&[same("log.message.timestamp.type")])
        .doc("Whose clock dates a record: the producer's (CreateTime) or the broker's at append (LogAppendTime)."),
    topic(Double, "min.cleanable.dirty.ratio", "0.5")
        .accepts(Accepts::Ratio)
        .from(&[same("log.cleaner.min.cleanable.ratio")])
        .doc("Share of a log that must be uncompacted before it is compacted again."),
    topic(Long, "min.compaction.lag.ms", "0")
        .at_least(0)
        .from(&[same("log.cleaner.min.compaction.lag.ms")])
        .doc("Shortest time in milliseconds that a record stays uncompacted."),
    topic(Int, "min.insync.replicas", "1")
        .at_least(1)
        .from(&[same("min.insync.replicas")])
        .doc("Replicas that must have a batch before acks=all is answered. A majority always must, so a smaller number changes nothing; a larger one than the topic has refuses every acks=all write."),
    topic(Boolean, "preallocate", "false")
        .from(&[same("log.preallocate")])
        .inert("segments grow as they are written: the journal, which is what is synced, is what is preallocated")
        .doc("Whether Apache Kafka creates a segment's file at its full size."),
    topic(Long, "retention.bytes", "-1")
        .from(&[same("log.retention.bytes")])
        .doc("Size of a partition in bytes above which its oldest segments are removed; -1 for no limit. Needs 'delete' in cleanup.policy."),
    topic(Long, "retention.ms", "604800000")
        .at_least(-1)
        .from(&[same("log.retention.ms"), unit("log.retention.minutes", Unit::Minutes), unit("log.retention.hours", Unit::Hours)])
        .doc("Age in milliseconds, by the largest record timestamp of a segment, above which the segment is removed; -1 for no limit. Needs 'delete' in cleanup.policy."),
    topic(Int, "segment.bytes", "1073741824")
        .at_least(1_048_576)
        .from(&[same("log.segment.bytes")])
        .doc("Size in bytes at which a segment is closed and the next begun. Retention removes whole segments."),
    topic(Int, "internal.segment.bytes", "0")
        .at_least(0)
        .internal()
        .doc("Segment size in bytes for tests, without the lower limit of segment.bytes; 0 for segment.bytes."),
    topic(Int, "segment.index.bytes", "10485760")
        .at_least(4)
        .from(&[same("log.index.size.max.bytes")])
        .inert("the index is a database, not one file per segment, and has no size to set")
        .doc("Size of the file that Apache Kafka keeps a segment's offset index in."),
    topic(Long, "segment.jitter.ms", "0")
        .at_least(0)
        .from(&[same("log.roll.jitter.ms"), unit("log.roll.jitter.hours", Unit::Hours)])
        .doc("Up to how many milliseconds are taken off segment.ms, by partition, so that segments are not all closed at once."),
    topic(Long, "segment.ms", "604800000")
        .at_least(1)
        .from(&[same("log.roll.ms"), unit("log.roll.hours", Unit::Hours)])
        .doc("Age in milliseconds of its first record at which a segment is closed by the next append, so that retention can remove it."),
    topic(Boolean, "unclean.leader.election.enable", "false")
        .refuses(&[("true", NO_UNCLEAN_ELECTION)])
        .from(&[same("unclean.leader.election.enable")])
        .doc("Whether a replica that misses acknowledged records may become leader. It never may: only false is accepted."),
    topic(List, "leader.replication.throttled.replicas", "")
        .accepts(Accepts::ThrottledReplicas)
        .doc("Replicas that send no faster than leader.replication.throttled.rate, while they lead, to replicas that are being made: '*' or a list of partition:broker."),
    topic(List, "follower.replication.throttled.replicas", "")
        .accepts(Accepts::ThrottledReplicas)
        .doc("Replicas that are sent no more than follower.replication.throttled.rate while they are being made: '*' or a list of partition:broker."),
    topic(Boolean, "remote.storage.enable", "false")
        .refuses(&[("true", NO_TIERS)])
        .doc("Whether closed segments also go to remote storage. Only false is accepted."),
    topic(Long, "local.retention.ms", "-2")
        .at_least(-2)
        .from(&[same("log.local.retention.ms")])
        .inert(NO_TIERS)
        .doc("Age in milliseconds up to which segments that are in remote storage are kept locally too; -2 for retention.ms."),
    topic(Long, "local.retention.bytes", "-2")
        .at_least(-2)
        .from(&[same("log.local.retention.bytes")])
        .inert(NO_TIERS)
        .doc("Size in bytes up to which segments that are in remote storage are kept locally too; -2 for retention.bytes."),
    topic(Boolean, "remote.log.copy.disable", "false")
        .inert(NO_TIERS)
        .doc("Whether copying to remote storage is paused."),
    topic(Boolean, "remote.log.delete.on.disable", "false")
        .inert(NO_TIERS)
        .doc("Whether switching remote storage off deletes what is there."),
    topic(Long, "remote.copy.lag.ms", "0")
        .at_least(-2)
        .from(&[same("log.remote.copy.lag.ms")])
        .inert(NO_TIERS)
        .doc("Time in milliseconds that a closed segment waits before it is copied to remote storage."),
    topic(Long, "remote.copy.lag.bytes", "0")
        .at_least(-2)
        .from(&[same("log.remote.copy.lag.bytes")])
        .inert(NO_TIERS)
        .doc("Bytes of newer log that a closed segment waits for before it is copied to remote storage."),
    topic(Boolean, "errors.deadletterqueue.group.enable", "false")
        .inert("there are no share groups yet")
        .doc("Whether share groups may use the topic as their dead letter queue."),
    topic(String, "message.format.version", "3.0-IV1").refused(REMOVED_FORMAT).doc("Format of stored batches."),
    topic(Boolean, "message.downconversion.enable", "true")
        .refused("Apache Kafka 4.0 removed it: batches are never converted to older formats. Leave it out.")
        .doc("Whether batches are converted for old consumers."),
    topic(Long, "message.timestamp.difference.max.ms", MAX_LONG)
        .refused("Apache Kafka 4.0 removed it: use message.timestamp.before.max.ms and message.timestamp.after.max.ms.")
        .doc("How far a record's timestamp may be from the broker's clock."),
];
