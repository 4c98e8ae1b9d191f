//! From one protocol to the other while the group lives (`group.consumer.migration.policy`).
//!
//! Both ways go through [`ClassicSnapshot`], the members of a group of the classic protocol as plain
//! values: the rules of the two protocols need not know each other. What a conversion writes
//! replaces all records of the group of the one kind with those of the other, in one batch.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use klamm_protocol::ErrorCode;

use super::classic_members::{CONSUMER, encode};
use super::embedded::{Subscription, read_assignment, read_subscription};
use super::heartbeat::sorted;
use super::{ConsumerGroup, state};
use crate::outcome::Outcome;
use crate::records::{
    ClassicMemberMetadata, ConsumerGroupMemberMetadataValue, ConsumerGroupMetadataValue,
    CurrentMemberAssignmentValue, GroupRecord, TargetAssignmentMetadataValue, TopicPartitions,
};
use crate::request::Environment;
use crate::settings::MigrationPolicy;

/// A group of the classic protocol as plain values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicSnapshot {
    /// Group.
    pub group: Arc<str>,
    /// `consumer`, or a group of it that no longer has members.
    pub protocol_type: Arc<str>,
    /// Generation.
    pub generation: i32,
    /// Chosen protocol (assignor); `None` while members are joining for the first time.
    pub protocol: Option<Arc<str>>,
    /// Member id of the leader.
    pub leader: Option<Arc<str>>,
    /// Members.
    pub members: Vec<ClassicMemberSnapshot>,
}

/// A member of a group of the classic protocol as plain values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMemberSnapshot {
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
    /// Its protocols and their metadata, in order of preference.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// Its assignment, opaque; empty when it has none.
    pub assignment: Bytes,
}

impl ConsumerGroup {
    /// Whether the group should become one of the classic protocol: all its members speak that, and
    /// the policy allows it. To be asked after every request and tick; if so, follow with
    /// [`ConsumerGroup::downgrade`] in the same outcome.
    pub fn may_downgrade(&self, env: &Environment<'_>) -> bool {
        let allowed = matches!(
            env.settings.migration_policy,
            MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade
        );
        allowed
            && !self.is_empty()
            && self.state.classic_members == self.member_count()
            && self.member_count() <= env.settings.max_size
    }

    /// Deletes all its records and gives its members of the classic protocol. The new group has to
    /// let them all join again: none of them knows the assignment of the others. Also for an empty
    /// group that a classic member wants to join.
    pub fn downgrade(&mut self, env: &Environment<'_>, out: &mut Outcome) -> ClassicSnapshot {
        let mut members = Vec::new();
        for (id, member) in &self.state.members {
            let metadata = &member.metadata;
            let Some(classic) = &metadata.classic else {
                continue;
            };
            let first = classic.supported_protocols.first();
            let subscription = first.and_then(|(_, metadata)| read_subscription(metadata));
            let version = subscription.map_or(0, |subscription| subscription.version);
            members.push(ClassicMemberSnapshot {
                member_id: Arc::clone(id),
                group_instance_id: metadata.instance_id.clone(),
                client_id: Arc::clone(&metadata.client_id),
                client_host: Arc::clone(&metadata.client_host),
                rebalance_timeout_ms: metadata.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                protocols: classic.supported_protocols.clone(),
                assignment: encode(env, version, &member.current.assigned_partitions),
            });
        }
        let snapshot = ClassicSnapshot {
            group: Arc::clone(&self.group),
            protocol_type: Arc::from(CONSUMER),
            generation: self.state.epoch,
            protocol: common_protocol(&members),
            leader: members.first().map(|member| Arc::clone(&member.member_id)),
            members,
        };
        tracing::info!(group = %self.group, "group continues with the classic protocol");
        let mut tombstones = Vec::new();
        self.tombstones(&mut tombstones);
        for record in tombstones {
            self.write(record, out);
        }
        *self = ConsumerGroup::new(Arc::clone(&self.group));
        snapshot
    }

    /// Turns a group of the classic protocol into one of the consumer protocol, and writes it: the
    /// classic group's tombstone, then all of the new one. An empty group always may; one with
    /// members when the policy allows it and they are consumers.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND when it may not, as Kafka says; GROUP_MAX_SIZE_REACHED when there would be
    /// no place for the member that asks. Nothing is written then.
    pub fn upgrade(
        snapshot: ClassicSnapshot,
        env: &Environment<'_>,
        out: &mut Outcome,
    ) -> Result<ConsumerGroup, ErrorCode> {
        let mut group = ConsumerGroup::new(Arc::clone(&snapshot.group));
        let mut members = Vec::new();
        if !snapshot.members.is_empty() {
            check_upgrade(&snapshot, env)?;
            let mut taken = HashSet::new();
            for member in &snapshot.members {
                let converted = convert(&snapshot, member, env, &mut taken);
                members.push(converted.ok_or(ErrorCode::GROUP_ID_NOT_FOUND)?);
            }
        }
        let id = || Arc::clone(&snapshot.group);
        group.write(
            GroupRecord::GroupMetadata {
                group: id(),
                value: None,
            },
            out,
        );
        if members.is_empty() {
            return Ok(group);
        }
        tracing::info!(group = %snapshot.group, "group continues with the consumer protocol");
        group.write_converted(snapshot.generation, members, out);
        let ids: Vec<Arc<str>> = group.state.members.keys().cloned().collect();
        for member in ids {
            group.extend_session(env, &member);
        }
        Ok(group)
    }

    fn write_converted(
        &mut self,
        generation: i32,
        members: Vec<(Arc<str>, state::Member)>,
        out: &mut Outcome,
    ) {
        let id = Arc::clone(&self.group);
        let group = || Arc::clone(&id);
        let epoch = GroupRecord::ConsumerGroupMetadata {
            group: group(),
            value: Some(ConsumerGroupMetadataValue {
                epoch: generation,
                metadata_hash: 0,
            }),
        };
        let target_epoch = GroupRecord::ConsumerGroupTargetAssignmentMetadata {
            group: group(),
            value: Some(TargetAssignmentMetadataValue {
                assignment_epoch: generation,
                assignment_timestamp: 0,
            }),
        };
        self.write(epoch, out);
        self.write(target_epoch, out);
        for (member, converted) in members {
            let metadata = GroupRecord::ConsumerGroupMemberMetadata {
                group: group(),
                member: Arc::clone(&member),
                value: Some(converted.metadata),
            };
            let target = GroupRecord::ConsumerGroupTargetAssignmentMember {
                group: group(),
                member: Arc::clone(&member),
                value: Some(converted.current.assigned_partitions.clone()),
            };
            let current = GroupRecord::ConsumerGroupCurrentMemberAssignment {
                group: group(),
                member,
                value: Some(converted.current),
            };
            for record in [metadata, target, current] {
                self.write(record, out);
            }
        }
    }
}

fn check_upgrade(snapshot: &ClassicSnapshot, env: &Environment<'_>) -> Result<(), ErrorCode> {
    let allowed = matches!(
        env.settings.migration_policy,
        MigrationPolicy::Bidirectional | MigrationPolicy::Upgrade
    );
    if !allowed || &*snapshot.protocol_type != CONSUMER {
        return Err(ErrorCode::GROUP_ID_NOT_FOUND);
    }
    if snapshot.members.len() >= env.settings.consumer_max_size {
        return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
    }
    Ok(())
}

/// The first protocol of the first member that all know.
fn common_protocol(members: &[ClassicMemberSnapshot]) -> Option<Arc<str>> {
    let (first, others) = members.split_first()?;
    let mut names = first.protocols.iter().map(|(name, _)| name);
    let common = names.find(|name| {
        let knows = |member: &ClassicMemberSnapshot| {
            member.protocols.iter().any(|(known, _)| known == *name)
        };
        others.iter().all(knows)
    });
    common.cloned()
}

/// A classic member as a member of the new group: where it was, at the generation it knows. A
/// partition that an assignor of a client gave to several stays with the first.
fn convert(
    snapshot: &ClassicSnapshot,
    member: &ClassicMemberSnapshot,
    env: &Environment<'_>,
    taken: &mut HashSet<(klamm_records::TopicId, i32)>,
) -> Option<(Arc<str>, state::Member)> {
    let subscription = subscription(snapshot, member)?;
    let mut assigned: BTreeMap<_, Vec<i32>> = TopicPartitions::new();
    for (name, partitions) in read_assignment(&member.assignment)? {
        let Some(topic) = env.image.topic(&name) else {
            continue;
        };
        for partition in partitions {
            if topic.partition(partition).is_some() && taken.insert((topic.id, partition)) {
                assigned.entry(topic.id).or_default().push(partition);
            }
        }
    }
    for partitions in assigned.values_mut() {
        partitions.sort_unstable();
    }
    let names = sorted(subscription.topics.iter().map(String::as_str));
    let metadata = ConsumerGroupMemberMetadataValue {
        instance_id: member.group_instance_id.clone(),
        rack_id: subscription.rack.as_deref().map(Arc::from),
        client_id: Arc::clone(&member.client_id),
        client_host: Arc::clone(&member.client_host),
        subscribed_topic_names: names.into_iter().map(Arc::from).collect(),
        subscribed_topic_regex: None,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        server_assignor: None,
        classic: Some(ClassicMemberMetadata {
            session_timeout_ms: member.session_timeout_ms,
            supported_protocols: member.protocols.clone(),
        }),
    };
    let current = CurrentMemberAssignmentValue {
        previous_member_epoch: snapshot.generation,
        assigned_partitions: assigned,
        ..state::unassigned(snapshot.generation)
    };
    let id = Arc::clone(&member.member_id);
    Some((id, state::Member { metadata, current }))
}

/// A member's subscription: of the chosen protocol, or of its first while none is chosen.
fn subscription(
    snapshot: &ClassicSnapshot,
    member: &ClassicMemberSnapshot,
) -> Option<Subscription> {
    let chosen = snapshot.protocol.as_ref();
    let mut protocols = member.protocols.iter();
    let (_, metadata) = match chosen {
        Some(chosen) => protocols.find(|(name, _)| name == chosen)?,
        None => protocols.next()?,
    };
    read_subscription(metadata)
}
