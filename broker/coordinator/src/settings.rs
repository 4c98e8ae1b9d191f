//! The settings that the rules ask for, as plain values.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Settings of all groups of a node (`group.*`, `offsets.*`).
#[derive(Clone, Debug)]
pub struct Settings {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms` of classic groups.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms` of classic groups.
    pub max_session_timeout_ms: i32,
    /// `group.max.size` of classic groups.
    pub max_size: usize,
    /// `group.consumer.max.size`.
    pub consumer_max_size: usize,
    /// `group.consumer.assignors`: names of the built-in assignors that may be asked for; the first is the default.
    pub consumer_assignors: Vec<String>,
    /// `group.consumer.migration.policy`.
    pub migration_policy: MigrationPolicy,
    /// `group.consumer.regex.refresh.interval.ms`.
    pub regex_refresh_interval_ms: i64,
    /// `offsets.retention.minutes`, in ms.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: usize,
    /// Whether `group.version` 1 is finalized and `group.coordinator.rebalance.protocols` has `consumer`.
    pub consumer_protocol: bool,
    /// What a group gets that has no settings of its own (`group.consumer.*`).
    pub group_default: GroupSettings,
    /// Settings of groups with overrides (GROUP resources), with the broker's bounds applied.
    pub groups: BTreeMap<Arc<str>, GroupSettings>,
}

/// Settings of one group of the consumer protocol (KIP-848).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// `consumer.session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// `consumer.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `consumer.assignment.interval.ms`: shortest time between two assignments.
    pub assignment_interval_ms: i32,
}

/// Which changes between the two protocols a live group may make (`group.consumer.migration.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPolicy {
    /// Both ways.
    Bidirectional,
    /// Classic to consumer only.
    Upgrade,
    /// Consumer to classic only.
    Downgrade,
    /// None.
    Disabled,
}

impl Settings {
    /// The settings of a group.
    pub fn group(&self, group: &str) -> &GroupSettings {
        self.groups.get(group).unwrap_or(&self.group_default)
    }
}

impl Default for Settings {
    /// Kafka's defaults.
    fn default() -> Settings {
        Settings {
            initial_rebalance_delay_ms: 3_000,
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            max_size: usize::MAX,
            consumer_max_size: usize::MAX,
            consumer_assignors: vec!["uniform".to_owned(), "range".to_owned()],
            migration_policy: MigrationPolicy::Bidirectional,
            regex_refresh_interval_ms: 600_000,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_retention_check_interval_ms: 600_000,
            offset_metadata_max_bytes: 4_096,
            consumer_protocol: true,
            group_default: GroupSettings {
                session_timeout_ms: 45_000,
                heartbeat_interval_ms: 5_000,
                assignment_interval_ms: 1_000,
            },
            groups: BTreeMap::new(),
        }
    }
}
