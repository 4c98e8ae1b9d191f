//! The records of `__consumer_offsets`: Kafka's own formats, so that its tools read them.
//!
//! Owns: the typed records and their bytes (`codec` for keys, with the versions written and read; `values`).
//! Invariant: what `encode` writes, Apache Kafka 4.3 reads, and the other way round (`fixtures/`).

mod codec;
#[cfg(test)]
mod codec_test;
mod primitives;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::TopicId;

pub(crate) use self::primitives::MAX_NAME_BYTES;
pub use self::primitives::RecordError;

/// Partitions by topic id, each list ascending without repetition.
pub type TopicPartitions = BTreeMap<TopicId, Vec<i32>>;

/// A record of the log. A value of `None` is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord {
    /// A committed offset (key version 1).
    OffsetCommit {
        /// Group.
        group: Arc<str>,
        /// Topic name.
        topic: Arc<str>,
        /// Partition index.
        partition: i32,
        /// The offset; `None`: forgotten.
        value: Option<OffsetCommitValue>,
    },
    /// A classic group (key version 2).
    GroupMetadata {
        /// Group.
        group: Arc<str>,
        /// Its state; `None`: deleted.
        value: Option<GroupMetadataValue>,
    },
    /// Epoch of a consumer group (key version 3).
    ConsumerGroupMetadata {
        /// Group.
        group: Arc<str>,
        /// Its state; `None`: deleted.
        value: Option<ConsumerGroupMetadataValue>,
    },
    /// Partition metadata of a consumer group, which Kafka before 4.1 wrote (key version 4). Read and
    /// ignored; written only as a tombstone.
    ConsumerGroupPartitionMetadata {
        /// Group.
        group: Arc<str>,
    },
    /// A member of a consumer group and what it subscribes to (key version 5).
    ConsumerGroupMemberMetadata {
        /// Group.
        group: Arc<str>,
        /// Member id.
        member: Arc<str>,
        /// The member; `None`: gone.
        value: Option<ConsumerGroupMemberMetadataValue>,
    },
    /// Epoch of a consumer group's target assignment (key version 6).
    ConsumerGroupTargetAssignmentMetadata {
        /// Group.
        group: Arc<str>,
        /// The epoch; `None`: deleted.
        value: Option<TargetAssignmentMetadataValue>,
    },
    /// What a member shall own (key version 7).
    ConsumerGroupTargetAssignmentMember {
        /// Group.
        group: Arc<str>,
        /// Member id.
        member: Arc<str>,
        /// Its partitions; `None`: gone.
        value: Option<TopicPartitions>,
    },
    /// What a member owns now (key version 8).
    ConsumerGroupCurrentMemberAssignment {
        /// Group.
        group: Arc<str>,
        /// Member id.
        member: Arc<str>,
        /// Its epochs and partitions; `None`: gone.
        value: Option<CurrentMemberAssignmentValue>,
    },
    /// The topics that a regular expression was resolved to (key version 16).
    ConsumerGroupRegularExpression {
        /// Group.
        group: Arc<str>,
        /// The expression as the client sent it.
        expression: Arc<str>,
        /// The topics; `None`: nobody subscribes by it any more.
        value: Option<RegularExpressionValue>,
    },
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommitValue {
    /// Next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 when unknown.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: Arc<str>,
    /// Time of the commit in ms.
    pub commit_timestamp: i64,
    /// Time in ms after which it may go, when the client asked for one (OffsetCommit v2-4), else -1.
    pub expire_timestamp: i64,
    /// Id of the topic at the time of the commit; zero when unknown.
    pub topic_id: TopicId,
}

/// A classic group at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadataValue {
    /// `consumer`, `connect`, ...; empty for a group that only has offsets.
    pub protocol_type: Arc<str>,
    /// Generation.
    pub generation: i32,
    /// Chosen protocol (assignor).
    pub protocol: Option<Arc<str>>,
    /// Member id of the leader.
    pub leader: Option<Arc<str>>,
    /// When the group came to its state, in ms; -1 when unknown (versions below 2).
    pub current_state_timestamp: i64,
    /// Members; none in an empty group.
    pub members: Vec<GroupMember>,
}

/// A member of a classic group at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Member id.
    pub member_id: Arc<str>,
    /// `group.instance.id` of a static member.
    pub group_instance_id: Option<Arc<str>>,
    /// Client id.
    pub client_id: Arc<str>,
    /// Address as `/1.2.3.4`.
    pub client_host: Arc<str>,
    /// In ms.
    pub rebalance_timeout_ms: i32,
    /// In ms.
    pub session_timeout_ms: i32,
    /// Its metadata for the chosen protocol, opaque.
    pub subscription: Bytes,
    /// Its assignment, opaque.
    pub assignment: Bytes,
}

/// Epoch of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupMetadataValue {
    /// Group epoch.
    pub epoch: i32,
    /// Hash of the subscribed topics' metadata at this epoch; 0 when unknown.
    pub metadata_hash: i64,
}

/// A member of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupMemberMetadataValue {
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack_id: Option<Arc<str>>,
    /// Client id.
    pub client_id: Arc<str>,
    /// Address as `/1.2.3.4`.
    pub client_host: Arc<str>,
    /// Names, ascending, without repetition.
    pub subscribed_topic_names: Vec<Arc<str>>,
    /// Regular expression (RE2 syntax).
    pub subscribed_topic_regex: Option<Arc<str>>,
    /// In ms.
    pub rebalance_timeout_ms: i32,
    /// The assignor it prefers.
    pub server_assignor: Option<Arc<str>>,
    /// Set for a member that speaks the classic protocol.
    pub classic: Option<ClassicMemberMetadata>,
}

/// What is kept of a classic member of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMemberMetadata {
    /// In ms.
    pub session_timeout_ms: i32,
    /// Its protocols and their metadata, in order of preference.
    pub supported_protocols: Vec<(Arc<str>, Bytes)>,
}

/// Epoch of a target assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetAssignmentMetadataValue {
    /// The group epoch it was computed for.
    pub assignment_epoch: i32,
    /// When it was computed, in ms; 0 when unknown.
    pub assignment_timestamp: i64,
}

/// Where a member is on its way to its target (KIP-848).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum MemberState {
    /// Owns its target.
    Stable = 0,
    /// Has been told to give partitions up and has not confirmed.
    UnrevokedPartitions = 1,
    /// Waits for partitions that others have not given up.
    UnreleasedPartitions = 2,
    /// A code of a later version.
    Unknown = 127,
}

/// What a member owns now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentMemberAssignmentValue {
    /// Epoch.
    pub member_epoch: i32,
    /// The epoch before, for a client that missed the last answer.
    pub previous_member_epoch: i32,
    /// State.
    pub state: MemberState,
    /// Partitions it owns.
    pub assigned_partitions: TopicPartitions,
    /// Partitions it has still to give up.
    pub partitions_pending_revocation: TopicPartitions,
}

/// What a regular expression matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegularExpressionValue {
    /// Names, ascending.
    pub topics: Vec<Arc<str>>,
    /// Offset of the metadata image it was resolved against.
    pub version: i64,
    /// When, in ms.
    pub timestamp: i64,
}

impl GroupRecord {
    /// The group that the record belongs to.
    pub fn group(&self) -> &Arc<str> {
        match self {
            GroupRecord::OffsetCommit { group, .. }
            | GroupRecord::GroupMetadata { group, .. }
            | GroupRecord::ConsumerGroupMetadata { group, .. }
            | GroupRecord::ConsumerGroupPartitionMetadata { group }
            | GroupRecord::ConsumerGroupMemberMetadata { group, .. }
            | GroupRecord::ConsumerGroupTargetAssignmentMetadata { group, .. }
            | GroupRecord::ConsumerGroupTargetAssignmentMember { group, .. }
            | GroupRecord::ConsumerGroupCurrentMemberAssignment { group, .. }
            | GroupRecord::ConsumerGroupRegularExpression { group, .. } => group,
        }
    }
}
