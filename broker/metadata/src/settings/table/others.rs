//! Keys of groups (KIP-848 and later types) and of client metrics subscriptions (KIP-714).

use super::super::key::Kind::{Boolean, Int, List, String};
use super::super::key::{Key, client_metrics, group, same};
use super::reasons::{NO_SHARE_GROUPS, NO_STREAMS_GROUPS, NO_TELEMETRY};

pub(super) const KEYS: &[Key] = &[
    group(Int, "consumer.session.timeout.ms", "45000")
        .at_least(1)
        .from(&[same("group.consumer.session.timeout.ms")])
        .doc("Time in milliseconds without a heartbeat after which a member of the group is removed."),
    group(Int, "consumer.heartbeat.interval.ms", "5000")
        .at_least(1)
        .from(&[same("group.consumer.heartbeat.interval.ms")])
        .doc("Time in milliseconds between two heartbeats of a member of the group."),
    group(Int, "consumer.assignment.interval.ms", "1000")
        .at_least(0)
        .from(&[same("group.consumer.assignment.interval.ms")])
        .doc("Shortest time in milliseconds between two assignments of the group."),
    group(Int, "share.session.timeout.ms", "45000")
        .at_least(1)
        .from(&[same("group.share.session.timeout.ms")])
        .inert(NO_SHARE_GROUPS)
        .doc("Time in milliseconds without a heartbeat after which a member of the share group is removed."),
    group(Int, "share.heartbeat.interval.ms", "5000")
        .at_least(1)
        .from(&[same("group.share.heartbeat.interval.ms")])
        .inert(NO_SHARE_GROUPS)
        .doc("Time in milliseconds between two heartbeats of a member of the share group."),
    group(Int, "share.record.lock.duration.ms", "30000")
        .at_least(1000)
        .from(&[same("group.share.record.lock.duration.ms")])
        .inert(NO_SHARE_GROUPS)
        .doc("Time in milliseconds for which a record is a consumer's to acknowledge."),
    group(Int, "share.delivery.count.limit", "5")
        .between(2, 10)
        .from(&[same("group.share.delivery.count.limit")])
        .inert(NO_SHARE_GROUPS)
        .doc("How often a record is delivered before it counts as undeliverable."),
    group(Int, "share.partition.max.record.locks", "2000")
        .between(100, 10_000)
        .from(&[same("group.share.partition.max.record.locks")])
        .inert(NO_SHARE_GROUPS)
        .doc("Records of one partition that may be in delivery at the same time."),
    group(String, "share.auto.offset.reset", "latest")
        .inert(NO_SHARE_GROUPS)
        .doc("Where a share group begins: 'earliest', 'latest' or 'by_duration:' and a period such as P1D."),
    group(String, "share.isolation.level", "read_uncommitted")
        .one_of(&["read_committed", "read_uncommitted"])
        .inert(NO_SHARE_GROUPS)
        .doc("Whether records of open and aborted transactions are delivered."),
    group(Boolean, "share.renew.acknowledge.enable", "true")
        .inert(NO_SHARE_GROUPS)
        .doc("Whether a consumer may prolong its hold on a record."),
    group(Int, "streams.session.timeout.ms", "45000")
        .at_least(1)
        .from(&[same("group.streams.session.timeout.ms")])
        .inert(NO_STREAMS_GROUPS)
        .doc("Time in milliseconds without a heartbeat after which a member of the streams group is removed."),
    group(Int, "streams.heartbeat.interval.ms", "5000")
        .at_least(1)
        .from(&[same("group.streams.heartbeat.interval.ms")])
        .inert(NO_STREAMS_GROUPS)
        .doc("Time in milliseconds between two heartbeats of a member of the streams group."),
    group(Int, "streams.num.standby.replicas", "0")
        .at_least(0)
        .from(&[same("group.streams.num.standby.replicas")])
        .inert(NO_STREAMS_GROUPS)
        .doc("Standby copies of each task's state."),
    group(Int, "streams.initial.rebalance.delay.ms", "3000")
        .at_least(0)
        .from(&[same("group.streams.initial.rebalance.delay.ms")])
        .inert(NO_STREAMS_GROUPS)
        .doc("Time in milliseconds that a new streams group waits for members."),
    client_metrics(List, "metrics", "")
        .inert(NO_TELEMETRY)
        .doc("Prefixes of the names of the metrics to collect; '*' for all, empty for none."),
    client_metrics(Int, "interval.ms", "300000")
        .between(100, 3_600_000)
        .inert(NO_TELEMETRY)
        .doc("Time in milliseconds between two reports of a client."),
    client_metrics(List, "match", "")
        .inert(NO_TELEMETRY)
        .doc("Which clients report: name=regular expression, for client_id, client_software_name and the like; empty for all."),
];
