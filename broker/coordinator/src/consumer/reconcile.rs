//! A member's way to its target (KIP-848): give up first, then take what others gave up.

pub(super) use klamm_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as Owned;
use klamm_records::TopicId;

use super::state::each;
use crate::records::{CurrentMemberAssignmentValue, MemberState, TopicPartitions};

/// What decides the next step of a member.
pub(super) struct Step<'a, S, F> {
    /// Epoch of the target.
    pub(super) target_epoch: i32,
    /// What the member shall own.
    pub(super) target: &'a TopicPartitions,
    /// What the member says it owns; `None`: it did not say.
    pub(super) owned: Option<&'a [Owned]>,
    /// Whether the member's own subscription has just changed: it then gives up at once what it no
    /// longer subscribes to, even when the target is not computed yet.
    pub(super) subscription_changed: bool,
    /// Whether the member subscribes to a topic.
    pub(super) subscribes: S,
    /// Whether nobody may be reading a partition.
    pub(super) is_free: F,
}

impl<S, F> Step<'_, S, F>
where
    S: Fn(TopicId) -> bool,
    F: Fn(TopicId, i32) -> bool,
{
    /// Where the member is next; equal to where it is when it has to wait.
    pub(super) fn next(
        &self,
        current: &CurrentMemberAssignmentValue,
    ) -> CurrentMemberAssignmentValue {
        let waits = match current.state {
            MemberState::Stable => current.member_epoch == self.target_epoch,
            MemberState::UnrevokedPartitions => {
                self.still_owns(&current.partitions_pending_revocation)
            }
            MemberState::UnreleasedPartitions | MemberState::Unknown => false,
        };
        if !waits {
            self.towards_target(current)
        } else if self.subscription_changed {
            self.drop_unsubscribed(current)
        } else {
            current.clone()
        }
    }

    fn towards_target(
        &self,
        current: &CurrentMemberAssignmentValue,
    ) -> CurrentMemberAssignmentValue {
        let mut assigned = TopicPartitions::new();
        let mut pending = TopicPartitions::new();
        let wanted = |topic: TopicId, partition: i32| {
            self.target
                .get(&topic)
                .is_some_and(|it| it.binary_search(&partition).is_ok())
                && (self.subscribes)(topic)
        };
        for (topic, partition) in each(&current.assigned_partitions) {
            let kept = if wanted(topic, partition) {
                &mut assigned
            } else {
                &mut pending
            };
            kept.entry(topic).or_default().push(partition);
        }
        if !pending.is_empty() && self.still_owns(&pending) {
            return CurrentMemberAssignmentValue {
                state: MemberState::UnrevokedPartitions,
                assigned_partitions: assigned,
                partitions_pending_revocation: pending,
                ..*current
            };
        }
        let mut state = MemberState::Stable;
        for (topic, partitions) in self.target {
            if !(self.subscribes)(*topic) {
                continue;
            }
            for partition in partitions {
                if has(&current.assigned_partitions, *topic, *partition) {
                    continue;
                }
                if (self.is_free)(*topic, *partition) {
                    assigned.entry(*topic).or_default().push(*partition);
                } else {
                    state = MemberState::UnreleasedPartitions;
                }
            }
        }
        for partitions in assigned.values_mut() {
            partitions.sort_unstable();
        }
        CurrentMemberAssignmentValue {
            state,
            assigned_partitions: assigned,
            partitions_pending_revocation: TopicPartitions::new(),
            ..moved(current, self.target_epoch)
        }
    }

    fn drop_unsubscribed(
        &self,
        current: &CurrentMemberAssignmentValue,
    ) -> CurrentMemberAssignmentValue {
        let mut next = current.clone();
        next.assigned_partitions.retain(|topic, partitions| {
            let subscribes = (self.subscribes)(*topic);
            if !subscribes {
                let pending = next
                    .partitions_pending_revocation
                    .entry(*topic)
                    .or_default();
                pending.append(partitions);
                pending.sort_unstable();
            }
            subscribes
        });
        if next.partitions_pending_revocation.is_empty() {
            return next;
        }
        if self.still_owns(&next.partitions_pending_revocation) {
            next.state = MemberState::UnrevokedPartitions;
        } else {
            next.partitions_pending_revocation.clear();
        }
        next
    }

    /// Whether the member may still be reading any of the partitions: it says so, or does not say.
    fn still_owns(&self, partitions: &TopicPartitions) -> bool {
        self.owned.is_none_or(|owned| {
            owned.iter().any(|topic| {
                let id = TopicId(topic.topic_id);
                topic
                    .partitions
                    .iter()
                    .any(|partition| has(partitions, id, *partition))
            })
        })
    }
}

/// Whether an assignment has a partition.
pub(super) fn has(partitions: &TopicPartitions, topic: TopicId, partition: i32) -> bool {
    let partitions = partitions.get(&topic);
    partitions.is_some_and(|it| it.binary_search(&partition).is_ok())
}

/// The member at an epoch, with nothing assigned. The epoch before is remembered only when it
/// changes: the answer that told the member of the change may have been lost more than once.
fn moved(current: &CurrentMemberAssignmentValue, epoch: i32) -> CurrentMemberAssignmentValue {
    let previous = if current.member_epoch == epoch {
        current.previous_member_epoch
    } else {
        current.member_epoch
    };
    CurrentMemberAssignmentValue {
        member_epoch: epoch,
        previous_member_epoch: previous,
        state: current.state,
        assigned_partitions: TopicPartitions::new(),
        partitions_pending_revocation: TopicPartitions::new(),
    }
}
