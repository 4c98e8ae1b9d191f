//! What a record changes.

use std::sync::Arc;

use super::Shard;
use super::group::Kind;
use crate::classic::ClassicGroup;
use crate::consumer::ConsumerGroup;
use crate::offsets::Committed;
use crate::outcome::Outcome;
use crate::records::{GroupMetadataValue, GroupRecord};

impl Shard {
    /// Applies a committed record while the log is read.
    pub fn replay(&mut self, record: GroupRecord) {
        match record {
            GroupRecord::OffsetCommit {
                group,
                topic,
                partition,
                value,
            } => self.replay_offset(group, topic, partition, value),
            GroupRecord::GroupMetadata {
                group,
                value: Some(value),
            } => self.replay_classic(&group, &value),
            GroupRecord::GroupMetadata { group, value: None } => {
                self.forget_kind(&group, |kind| matches!(kind, Kind::Classic(_)));
            }
            GroupRecord::ConsumerGroupMetadata { group, value: None } => {
                self.forget_kind(&group, |kind| matches!(kind, Kind::Consumer(_)));
            }
            record => self.replay_consumer(&record),
        }
    }

    /// Applies records that the shard itself has decided, and passes them on.
    pub(super) fn decide(&mut self, records: Vec<GroupRecord>, out: &mut Outcome) {
        for record in records {
            self.replay(record.clone());
            out.write(record);
        }
    }

    fn replay_offset(
        &mut self,
        id: Arc<str>,
        topic: Arc<str>,
        partition: i32,
        value: Option<Committed>,
    ) {
        let is_tombstone = value.is_none();
        let group = match self.groups.get_mut(&id) {
            Some(group) => group,
            None if is_tombstone => return,
            None => self.groups.entry(Arc::clone(&id)).or_default(),
        };
        group
            .offsets
            .apply(&mut self.names, topic, partition, value);
        if is_tombstone {
            self.forget_if_void(&id);
        }
    }

    fn replay_classic(&mut self, id: &Arc<str>, value: &GroupMetadataValue) {
        let group = self.groups.entry(Arc::clone(id)).or_default();
        if let Kind::Consumer(_) = group.kind {
            tracing::warn!(group = %id, "a classic group takes the place of a consumer group");
        }
        if !matches!(group.kind, Kind::Classic(_)) {
            group.kind = Kind::Classic(Box::new(ClassicGroup::new(Arc::clone(id), 0)));
        }
        if let Kind::Classic(classic) = &mut group.kind {
            classic.replay(value);
        }
    }

    fn replay_consumer(&mut self, record: &GroupRecord) {
        let id = record.group();
        if is_tombstone(record) {
            // Of a group that is gone, or has become a classic one.
            if let Some(group) = self.groups.get_mut(id)
                && let Kind::Consumer(consumer) = &mut group.kind
            {
                consumer.replay(record);
            }
            return;
        }
        let group = self.groups.entry(Arc::clone(id)).or_default();
        if let Kind::Classic(_) = group.kind {
            tracing::warn!(group = %id, "a consumer group takes the place of a classic group");
        }
        if !matches!(group.kind, Kind::Consumer(_)) {
            group.kind = Kind::Consumer(Box::new(ConsumerGroup::new(Arc::clone(id))));
        }
        if let Kind::Consumer(consumer) = &mut group.kind {
            consumer.replay(record);
        }
    }

    /// A group of the kind is deleted; its offsets have tombstones of their own.
    fn forget_kind(&mut self, id: &str, is_it: impl Fn(&Kind) -> bool) {
        if let Some(group) = self.groups.get_mut(id)
            && is_it(&group.kind)
        {
            group.kind = Kind::Simple;
            self.forget_if_void(id);
        }
    }

    /// Drops a group of which the log has nothing more.
    fn forget_if_void(&mut self, id: &str) {
        let void =
            |group: &super::Group| matches!(group.kind, Kind::Simple) && group.offsets.is_empty();
        if self.groups.get(id).is_some_and(void) {
            self.groups.remove(id);
            self.timers.disarm(id);
        }
    }
}

/// Whether a record of a consumer group deletes something.
fn is_tombstone(record: &GroupRecord) -> bool {
    matches!(
        record,
        GroupRecord::ConsumerGroupPartitionMetadata { .. }
            | GroupRecord::ConsumerGroupMetadata { value: None, .. }
            | GroupRecord::ConsumerGroupMemberMetadata { value: None, .. }
            | GroupRecord::ConsumerGroupTargetAssignmentMetadata { value: None, .. }
            | GroupRecord::ConsumerGroupTargetAssignmentMember { value: None, .. }
            | GroupRecord::ConsumerGroupCurrentMemberAssignment { value: None, .. }
            | GroupRecord::ConsumerGroupRegularExpression { value: None, .. }
    )
}
