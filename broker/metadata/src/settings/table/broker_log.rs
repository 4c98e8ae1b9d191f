//! Broker keys: logs. Most give the default of a topic key.

use super::super::key::Kind::{Boolean, Double, Int, List, Long, String};
use super::super::key::{Accepts, Key, broker, broker_null};
use super::reasons::{
    COMPRESSION_TYPES, LZ4_LEVEL, METADATA_LOG, NO_TIERS, ONE_CLEANER, SYNC_ALWAYS,
};

const MAX_LONG: &str = "9223372036854775807";
const CHECKPOINTS: &str = "checkpoints of the journal cover all logs at once";

pub(super) const KEYS: &[Key] = &[
    broker(List, "log.cleanup.policy", "delete")
        .one_of(&["compact", "delete"])
        .cluster()
        .doc("Default of the topic setting cleanup.policy: what happens to old records."),
    broker(String, "compression.type", "producer")
        .one_of(COMPRESSION_TYPES)
        .cluster()
        .doc("Default of the topic setting compression.type: codec in which batches are stored."),
    broker(Int, "compression.gzip.level", "-1")
        .accepts(Accepts::MinusOneOrBetween(1, 9))
        .cluster()
        .doc("Default of the topic setting compression.gzip.level."),
    broker(Int, "compression.lz4.level", "9").between(1, 17).cluster().inert(LZ4_LEVEL).doc("Default of the topic setting compression.lz4.level."),
    broker(Int, "compression.zstd.level", "3").between(-131_072, 22).cluster().doc("Default of the topic setting compression.zstd.level."),
    broker(Int, "log.segment.bytes", "1073741824")
        .at_least(1_048_576)
        .cluster()
        .doc("Default of the topic setting segment.bytes: size at which a segment is closed."),
    broker_null(Long, "log.roll.ms").at_least(1).cluster().doc("Default of the topic setting segment.ms; log.roll.hours when not given."),
    broker(Int, "log.roll.hours", "168").at_least(1).doc("Default of the topic setting segment.ms, in hours."),
    broker_null(Long, "log.roll.jitter.ms").at_least(0).cluster().doc("Default of the topic setting segment.jitter.ms; log.roll.jitter.hours when not given."),
    broker(Int, "log.roll.jitter.hours", "0").at_least(0).doc("Default of the topic setting segment.jitter.ms, in hours."),
    broker_null(Long, "log.retention.ms").at_least(-1).cluster().doc("Default of the topic setting retention.ms; log.retention.minutes when not given."),
    broker_null(Int, "log.retention.minutes").doc("Default of the topic setting retention.ms, in minutes; log.retention.hours when not given."),
    broker(Int, "log.retention.hours", "168").doc("Default of the topic setting retention.ms, in hours; -1 for no limit."),
    broker(Long, "log.retention.bytes", "-1").cluster().doc("Default of the topic setting retention.bytes: size above which old segments go."),
    broker(Long, "log.retention.check.interval.ms", "300000").at_least(1).doc("Time in milliseconds between two looks for segments to remove."),
    broker(Long, "log.initial.task.delay.ms", "30000").at_least(0).doc("Time in milliseconds after the start before segments are first looked at for removal."),
    broker(Int, "log.index.interval.bytes", "4096").at_least(0).cluster().doc("Default of the topic setting index.interval.bytes."),
    broker(Int, "log.index.size.max.bytes", "10485760")
        .at_least(4)
        .cluster()
        .inert("the index is a database, not one file per segment, and has no size to set")
        .doc("Default of the topic setting segment.index.bytes."),
    broker(Long, "log.segment.delete.delay.ms", "60000")
        .at_least(0)
        .cluster()
        .inert("files are unlinked at once: a reader that has one open finishes, and the space comes back sooner")
        .doc("Default of the topic setting file.delete.delay.ms."),
    broker(Long, "log.flush.interval.messages", MAX_LONG).at_least(1).cluster().inert(SYNC_ALWAYS).doc("Default of the topic setting flush.messages."),
    broker_null(Long, "log.flush.interval.ms").at_least(0).cluster().inert(SYNC_ALWAYS).doc("Default of the topic setting flush.ms."),
    broker(Long, "log.flush.scheduler.interval.ms", MAX_LONG).at_least(0).inert(SYNC_ALWAYS).doc("Time in milliseconds between two looks for logs to force to disk."),
    broker(Int, "log.flush.offset.checkpoint.interval.ms", "60000").at_least(0).inert(CHECKPOINTS).doc("Time in milliseconds between two checkpoints of what is on disk."),
    broker(Int, "log.flush.start.offset.checkpoint.interval.ms", "60000").at_least(0).inert(CHECKPOINTS).doc("Time in milliseconds between two checkpoints of log start offsets."),
    broker(Long, "replica.high.watermark.checkpoint.interval.ms", "5000").inert(CHECKPOINTS).doc("Time in milliseconds between two checkpoints of high watermarks."),
    broker(Boolean, "log.preallocate", "false")
        .cluster()
        .inert("segments grow as they are written: the journal, which is what is synced, is what is preallocated")
        .doc("Default of the topic setting preallocate."),
    broker(String, "log.message.timestamp.type", "CreateTime")
        .one_of(&["CreateTime", "LogAppendTime"])
        .cluster()
        .doc("Default of the topic setting message.timestamp.type: whose clock dates a record."),
    broker(Long, "log.message.timestamp.before.max.ms", MAX_LONG).at_least(0).cluster().doc("Default of the topic setting message.timestamp.before.max.ms."),
    broker(Long, "log.message.timestamp.after.max.ms", "3600000").at_least(0).cluster().doc("Default of the topic setting message.timestamp.after.max.ms."),
    broker(Long, "log.message.timestamp.difference.max.ms", MAX_LONG)
        .refused("Apache Kafka 4.0 removed it: use log.message.timestamp.before.max.ms and log.message.timestamp.after.max.ms.")
        .doc("How far a record's timestamp may be from the broker's clock."),
    broker(String, "log.message.format.version", "3.0-IV1")
        .refused("Apache Kafka 4.0 removed it: every batch has format 2. Leave it out.")
        .doc("Format of stored batches."),
    broker(Boolean, "log.message.downconversion.enable", "true")
        .refused("Apache Kafka 4.0 removed it: batches are never converted to older formats. Leave it out.")
        .doc("Whether batches are converted for old consumers."),
    broker(Long, "log.dir.failure.timeout.ms", "30000")
        .at_least(1)
        .inert("there is one data directory, and when it fails the process ends at once")
        .doc("Time in milliseconds after which a broker ends that cannot report a failed data directory."),
    broker(Boolean, "log.cleaner.enable", "true").doc("Whether logs are compacted at all."),
    broker(Int, "log.cleaner.threads", "1").at_least(0).cluster().inert(ONE_CLEANER).doc("Threads that compact logs."),
    broker(Long, "log.cleaner.backoff.ms", "15000").at_least(0).cluster().doc("Pause in milliseconds of compaction when there is nothing to do."),
    broker(Long, "log.cleaner.dedupe.buffer.size", "134217728").cluster().doc("Memory in bytes for the keys of a log under compaction."),
    broker(Int, "log.cleaner.io.buffer.size", "524288").at_least(0).cluster().doc("Memory in bytes for reading and writing in compaction."),
    broker(Double, "log.cleaner.io.buffer.load.factor", "0.9").cluster().doc("How full the buffer of keys may become in compaction."),
    broker(Double, "log.cleaner.io.max.bytes.per.second", "1.7976931348623157E308").cluster().doc("Bytes per second that compaction may read and write."),
    broker(Double, "log.cleaner.min.cleanable.ratio", "0.5").accepts(Accepts::Ratio).cluster().doc("Default of the topic setting min.cleanable.dirty.ratio."),
    broker(Long, "log.cleaner.delete.retention.ms", "86400000").at_least(0).cluster().doc("Default of the topic setting delete.retention.ms."),
    broker(Long, "log.cleaner.min.compaction.lag.ms", "0").at_least(0).cluster().doc("Default of the topic setting min.compaction.lag.ms."),
    broker(Long, "log.cleaner.max.compaction.lag.ms", MAX_LONG).at_least(1).cluster().doc("Default of the topic setting max.compaction.lag.ms."),
    broker(Long, "log.local.retention.ms", "-2").at_least(-2).cluster().inert(NO_TIERS).doc("Default of the topic setting local.retention.ms."),
    broker(Long, "log.local.retention.bytes", "-2").at_least(-2).cluster().inert(NO_TIERS).doc("Default of the topic setting local.retention.bytes."),
    broker(Long, "log.remote.copy.lag.ms", "0").at_least(-2).cluster().inert(NO_TIERS).doc("Default of the topic setting remote.copy.lag.ms."),
    broker(Long, "log.remote.copy.lag.bytes", "0").at_least(-2).cluster().inert(NO_TIERS).doc("Default of the topic setting remote.copy.lag.bytes."),
    broker(Boolean, "remote.log.storage.system.enable", "false").refuses(&[("true", NO_TIERS)]).doc("Whether there is remote (tiered) storage. Only false is accepted."),
    broker(Int, "metadata.log.segment.bytes", "1073741824").at_least(12).inert(METADATA_LOG).doc("Size in bytes at which a segment of the metadata log is closed."),
    broker(Long, "metadata.log.segment.ms", "604800000").inert(METADATA_LOG).doc("Age in milliseconds at which a segment of the metadata log is closed."),
    broker(Long, "metadata.log.max.record.bytes.between.snapshots", "20971520").at_least(1).doc("Bytes of metadata log after which a snapshot is written, and what lies before it goes."),
    broker(Long, "metadata.log.max.snapshot.interval.ms", "3600000").at_least(0).doc("Time in milliseconds after which a snapshot of the metadata is written if anything changed; 0 for never."),
    broker(Int, "metadata.max.idle.interval.ms", "500").at_least(0).inert(METADATA_LOG).doc("Time in milliseconds between two empty entries of an idle metadata log."),
    broker(Long, "metadata.max.retention.bytes", "104857600").inert(METADATA_LOG).doc("Size in bytes above which old parts of the metadata log go."),
    broker(Long, "metadata.max.retention.ms", "604800000").inert(METADATA_LOG).doc("Age in milliseconds above which old parts of the metadata log go."),
];
