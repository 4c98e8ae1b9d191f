//! What the records of a consumer group add up to.
//!
//! Owns: [`State`], changed by [`State::replay`] alone. It takes any order of records: a compacted
//! log keeps the last record of each key, wherever that stands, so a member may come after its own
//! assignment, and for a while two members may seem to own a partition.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use klamm_records::TopicId;

use crate::records::{
    ConsumerGroupMemberMetadataValue, CurrentMemberAssignmentValue, GroupRecord, MemberState,
    RegularExpressionValue, TopicPartitions,
};

/// The epoch of a static member that left for a while.
pub(super) const LEFT_FOR_A_WHILE: i32 = -2;
/// The epoch of a member that left, or of which no assignment is known.
pub(super) const LEFT: i32 = -1;
/// The epoch of a member that has not been told any yet.
pub(super) const JOINING: i32 = 0;

/// A member: what it asked for and what it has.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) metadata: ConsumerGroupMemberMetadataValue,
    pub(super) current: CurrentMemberAssignmentValue,
}

/// A group as its records have it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Group epoch; 0 before the first member.
    pub(super) epoch: i32,
    /// Hash of the subscribed topics' metadata at the group epoch.
    pub(super) metadata_hash: i64,
    /// The group epoch the target was computed for.
    pub(super) target_epoch: i32,
    /// When it was computed, in ms; 0 when unknown.
    pub(super) target_timestamp: i64,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// What each member shall own.
    pub(super) targets: BTreeMap<Arc<str>, TopicPartitions>,
    /// Member id by instance id.
    pub(super) statics: BTreeMap<Arc<str>, Arc<str>>,
    /// What the regular expressions match.
    pub(super) regexes: BTreeMap<Arc<str>, RegularExpressionValue>,
    /// How many members subscribe to a name.
    pub(super) names: BTreeMap<Arc<str>, usize>,
    /// How many members subscribe by an expression.
    pub(super) expressions: BTreeMap<Arc<str>, usize>,
    /// How many members speak the classic protocol.
    pub(super) classic_members: usize,
    /// Who may be reading a partition: it is assigned to the member or the member has still to give
    /// it up.
    owners: HashMap<(TopicId, i32), Arc<str>>,
    /// Assignments whose member has not been read yet.
    early: BTreeMap<Arc<str>, CurrentMemberAssignmentValue>,
    /// Whether the log may have a partition metadata record of Kafka before 4.1.
    pub(super) partition_metadata: bool,
}

/// A member without an assignment.
pub(super) fn unassigned(epoch: i32) -> CurrentMemberAssignmentValue {
    CurrentMemberAssignmentValue {
        member_epoch: epoch,
        previous_member_epoch: LEFT,
        state: MemberState::Stable,
        assigned_partitions: TopicPartitions::new(),
        partitions_pending_revocation: TopicPartitions::new(),
    }
}

/// The partitions of an assignment, one by one.
pub(super) fn each(partitions: &TopicPartitions) -> impl Iterator<Item = (TopicId, i32)> {
    partitions
        .iter()
        .flat_map(|(topic, partitions)| partitions.iter().map(|it| (*topic, *it)))
}

impl State {
    /// Applies a record. Records of other kinds than a consumer group's are not for it.
    pub(super) fn replay(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::ConsumerGroupMetadata { value, .. } => {
                self.epoch = value.as_ref().map_or(0, |value| value.epoch);
                self.metadata_hash = value.as_ref().map_or(0, |value| value.metadata_hash);
            }
            GroupRecord::ConsumerGroupPartitionMetadata { .. } => self.partition_metadata = true,
            GroupRecord::ConsumerGroupMemberMetadata { member, value, .. } => match value {
                Some(value) => self.replay_member(member, value),
                None => self.remove_member(member),
            },
            GroupRecord::ConsumerGroupTargetAssignmentMetadata { value, .. } => {
                let value = value.as_ref();
                self.target_epoch = value.map_or(0, |value| value.assignment_epoch);
                self.target_timestamp = value.map_or(0, |value| value.assignment_timestamp);
            }
            GroupRecord::ConsumerGroupTargetAssignmentMember { member, value, .. } => {
                replace(&mut self.targets, member, value.as_ref());
            }
            GroupRecord::ConsumerGroupCurrentMemberAssignment { member, value, .. } => {
                self.replay_current(member, value.as_ref());
            }
            GroupRecord::ConsumerGroupRegularExpression {
                expression, value, ..
            } => replace(&mut self.regexes, expression, value.as_ref()),
            GroupRecord::OffsetCommit { .. } | GroupRecord::GroupMetadata { .. } => {}
        }
    }

    /// The log has been read: what never got a member is nobody's.
    pub(super) fn loaded(&mut self) {
        self.early.clear();
        let members = &self.members;
        self.targets
            .retain(|member, _| members.contains_key(member));
        self.owners.clear();
        for (id, member) in &self.members {
            for partition in held(&member.current) {
                self.owners.insert(partition, Arc::clone(id));
            }
        }
    }

    /// Who may be reading a partition.
    pub(super) fn owner(&self, topic: TopicId, partition: i32) -> Option<&Arc<str>> {
        self.owners.get(&(topic, partition))
    }

    /// Whether a member subscribes to a topic, by name or expression.
    pub(super) fn subscribes(
        &self,
        metadata: &ConsumerGroupMemberMetadataValue,
        topic: &str,
    ) -> bool {
        contains(&metadata.subscribed_topic_names, topic)
            || expression(metadata)
                .and_then(|expression| self.regexes.get(expression))
                .is_some_and(|resolved| contains(&resolved.topics, topic))
    }

    /// Whether any member subscribes to a topic.
    pub(super) fn is_subscribed(&self, topic: &str) -> bool {
        let mut regexes = self.regexes.iter();
        self.names.contains_key(topic)
            || regexes.any(|(expression, resolved)| {
                self.expressions.contains_key(expression) && contains(&resolved.topics, topic)
            })
    }

    fn replay_member(&mut self, id: &Arc<str>, value: &ConsumerGroupMemberMetadataValue) {
        let mut metadata = value.clone();
        for name in &mut metadata.subscribed_topic_names {
            // Members that subscribe to the same names share their text.
            if let Some((known, _)) = self.names.get_key_value(&**name) {
                *name = Arc::clone(known);
            }
        }
        let (id, current) = match self.members.remove_entry(id) {
            Some((id, member)) => {
                self.forget(&id, &member.metadata);
                (id, member.current)
            }
            None => {
                let early = self.early.remove(id);
                (Arc::clone(id), early.unwrap_or_else(|| unassigned(JOINING)))
            }
        };
        for name in &metadata.subscribed_topic_names {
            *self.names.entry(Arc::clone(name)).or_default() += 1;
        }
        if let Some(expression) = expression(&metadata) {
            *self.expressions.entry(Arc::clone(expression)).or_default() += 1;
        }
        if let Some(instance) = &metadata.instance_id {
            self.statics.insert(Arc::clone(instance), Arc::clone(&id));
        }
        self.classic_members += usize::from(metadata.classic.is_some());
        for partition in held(&current) {
            self.owners.insert(partition, Arc::clone(&id));
        }
        self.members.insert(id, Member { metadata, current });
    }

    fn remove_member(&mut self, id: &Arc<str>) {
        self.early.remove(id);
        if let Some(member) = self.members.remove(id) {
            self.forget(id, &member.metadata);
            self.release(id, &member.current);
        }
    }

    /// Takes a member's subscription out of the counts.
    fn forget(&mut self, id: &Arc<str>, metadata: &ConsumerGroupMemberMetadataValue) {
        for name in &metadata.subscribed_topic_names {
            decrement(&mut self.names, name);
        }
        if let Some(expression) = expression(metadata) {
            decrement(&mut self.expressions, expression);
        }
        if let Some(instance) = &metadata.instance_id
            && self.statics.get(instance) == Some(id)
        {
            self.statics.remove(instance);
        }
        self.classic_members -= usize::from(metadata.classic.is_some());
    }

    fn replay_current(&mut self, id: &Arc<str>, value: Option<&CurrentMemberAssignmentValue>) {
        let value = value.cloned();
        let Some((id, mut member)) = self.members.remove_entry(id) else {
            match value {
                Some(value) => self.early.insert(Arc::clone(id), value),
                None => self.early.remove(id),
            };
            return;
        };
        self.release(&id, &member.current);
        member.current = value.unwrap_or_else(|| unassigned(LEFT));
        for partition in held(&member.current) {
            self.owners.insert(partition, Arc::clone(&id));
        }
        self.members.insert(id, member);
    }

    fn release(&mut self, id: &Arc<str>, current: &CurrentMemberAssignmentValue) {
        for partition in held(current) {
            if self.owners.get(&partition) == Some(id) {
                self.owners.remove(&partition);
            }
        }
    }
}

/// The expression a member subscribes by. Empty is none (KIP-848).
pub(super) fn expression(metadata: &ConsumerGroupMemberMetadataValue) -> Option<&Arc<str>> {
    let expression = metadata.subscribed_topic_regex.as_ref()?;
    (!expression.is_empty()).then_some(expression)
}

/// What a member may be reading: what it has, and what it has not given up.
fn held(current: &CurrentMemberAssignmentValue) -> impl Iterator<Item = (TopicId, i32)> {
    each(&current.assigned_partitions).chain(each(&current.partitions_pending_revocation))
}

fn contains(sorted: &[Arc<str>], name: &str) -> bool {
    sorted.binary_search_by(|it| (**it).cmp(name)).is_ok()
}

fn replace<V: Clone>(map: &mut BTreeMap<Arc<str>, V>, key: &Arc<str>, value: Option<&V>) {
    match value {
        Some(value) => map.insert(Arc::clone(key), value.clone()),
        None => map.remove(key),
    };
}

fn decrement(counts: &mut BTreeMap<Arc<str>, usize>, key: &Arc<str>) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            counts.remove(key);
        }
    }
}
