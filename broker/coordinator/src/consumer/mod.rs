//! Groups of the consumer protocol (KIP-848).
//!
//! Owns: [`ConsumerGroup`], its rules and what its records add up to. A member tells the group what
//! it wants and what it has; the group computes a target for all members on the broker, and leads
//! each member to it by itself:
//!
//! ```text
//!   subscription or topics change ──> group epoch + 1 ──> target of that epoch (assignor)
//!                                                              │ for each member, at its heartbeat
//!   Stable <── UnreleasedPartitions <── UnrevokedPartitions <──┘
//!     has all    waits for others         has to give up
//! ```
//!
//! Invariants:
//! - A partition is told to one member at a time: it goes to another only when its owner said that
//!   it gave it up, left, or was removed.
//! - A request that is refused writes nothing: whatever can fail is checked before the first record.
//! - Only records change what outlives the process. Sessions and deadlines do not; a restart begins
//!   them anew and changes no epoch and no assignment.
//! - A heartbeat that changes nothing writes nothing and looks at nobody else.
//!
//! Members of the classic protocol may be among them while a group is rolled from one protocol to
//! the other. They are never kept waiting: a join is answered at once with what the member may have
//! now, and heartbeats tell it to join again when there is more.
//!
//! Deliberately absent: assignors of clients (never part of Kafka either), and commits of older
//! epochs for partitions the member kept (KIP-1251), for which the records have no place.

mod classic_members;
mod describe;
mod embedded;
mod expression;
mod heartbeat;
mod metadata_hash;
mod migration;
mod reconcile;
mod refusal;
mod state;
mod target;
mod timers;

use std::collections::BTreeSet;
use std::sync::Arc;

use klamm_protocol::ErrorCode;

pub use migration::{ClassicMemberSnapshot, ClassicSnapshot};
pub use refusal::Refusal;

use crate::outcome::Outcome;
use crate::records::{CurrentMemberAssignmentValue, GroupRecord, MemberState, TopicPartitions};
use crate::request::Environment;
use reconcile::Step;
use state::State;
use timers::{Step as TimedStep, Timers};

/// First version of OffsetCommit that carries the epoch of a member.
const FIRST_COMMIT_WITH_EPOCH: i16 = 9;

/// A group of the consumer protocol.
#[derive(Debug)]
pub struct ConsumerGroup {
    group: Arc<str>,
    state: State,
    soft: Soft,
}

/// What a restart forgets.
#[derive(Debug)]
struct Soft {
    timers: Timers,
    /// Topics changed since the metadata hash was last computed.
    metadata_stale: bool,
    /// Version of the image in which topics last changed.
    topics_changed: i64,
    /// Version of the image that the expressions were last resolved against.
    topics_seen: i64,
    /// When that was, in ms.
    refreshed_ms: i64,
    emptied_ms: Option<i64>,
}

/// State of a group, as tools show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerState {
    /// No members.
    Empty,
    /// The target of the group epoch has not been computed.
    Assigning,
    /// Members are on their way to their target.
    Reconciling,
    /// Every member has its target.
    Stable,
    /// There is no such group.
    Dead,
}

impl ConsumerState {
    /// Kafka's name of the state.
    pub fn as_str(self) -> &'static str {
        match self {
            ConsumerState::Empty => "Empty",
            ConsumerState::Assigning => "Assigning",
            ConsumerState::Reconciling => "Reconciling",
            ConsumerState::Stable => "Stable",
            ConsumerState::Dead => "Dead",
        }
    }
}

impl ConsumerGroup {
    /// A group without records.
    pub fn new(group: Arc<str>) -> ConsumerGroup {
        ConsumerGroup {
            group,
            state: State::default(),
            soft: Soft {
                timers: Timers::default(),
                metadata_stale: false,
                topics_changed: -1,
                topics_seen: -1,
                refreshed_ms: 0,
                emptied_ms: None,
            },
        }
    }

    /// Applies a record of the log. What the rules decide they replay themselves.
    pub fn replay(&mut self, record: &GroupRecord) {
        self.state.replay(record);
    }

    /// The log has been read to its end: sessions begin, and the topics may be others than before.
    pub fn loaded(&mut self, env: &Environment<'_>) {
        self.state.loaded();
        self.topics_changed(env);
        let members: Vec<Arc<str>> = self.state.members.keys().cloned().collect();
        for id in members {
            self.extend_session(env, &id);
            self.time_revocation(env, &id);
        }
    }

    /// Topics came, went or changed. The group looks at them when a member next shows itself.
    pub fn topics_changed(&mut self, env: &Environment<'_>) {
        self.soft.metadata_stale = true;
        self.soft.topics_changed = env.image.last_offset();
    }

    /// Removes members that are too late.
    pub fn tick(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        let expired = self.soft.timers.expired(env.now_ms);
        for member in &expired {
            tracing::info!(group = %self.group, %member, "member removed: it did not act in time");
        }
        self.remove_members(env, expired, out);
    }

    /// A moment before which [`ConsumerGroup::tick`] has nothing to do, in ms.
    pub fn deadline(&self) -> Option<i64> {
        self.soft.timers.next()
    }

    /// Whether the group has no record at all, as after a first request that was refused.
    pub fn is_blank(&self) -> bool {
        self.state.epoch == 0 && self.state.members.is_empty() && self.state.target_epoch == 0
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.state.members.is_empty()
    }

    /// How many members it has.
    pub fn member_count(&self) -> usize {
        self.state.members.len()
    }

    /// Whether a member subscribes to a topic.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.state.is_subscribed(topic)
    }

    /// When the last member left, in ms. `None` while there are members, and after a restart:
    /// no record tells it, so then the time of the commits counts, as in Kafka.
    pub fn emptied_ms(&self) -> Option<i64> {
        self.soft.emptied_ms.filter(|_| self.is_empty())
    }

    /// Its state now.
    pub fn state(&self) -> ConsumerState {
        if self.is_blank() {
            return ConsumerState::Dead;
        }
        let target_epoch = self.state.target_epoch;
        let mut members = self.state.members.values();
        if self.is_empty() {
            ConsumerState::Empty
        } else if self.state.epoch > target_epoch {
            ConsumerState::Assigning
        } else if members.all(|member| is_at(&member.current, target_epoch)) {
            ConsumerState::Stable
        } else {
            ConsumerState::Reconciling
        }
    }

    /// Whether a commit of a member may be taken (behaviour 102): by the member at its epoch, or by
    /// anybody without one when there are no members.
    pub fn check_commit(
        &mut self,
        env: &Environment<'_>,
        member_id: &str,
        instance: Option<&str>,
        epoch: i32,
        version: i16,
    ) -> Result<(), ErrorCode> {
        if epoch < 0 && self.is_empty() {
            return Ok(());
        }
        let Some((id, member)) = self.state.members.get_key_value(member_id) else {
            let replaced = instance.is_some_and(|it| self.state.statics.contains_key(it));
            return Err(if replaced && !member_id.is_empty() {
                ErrorCode::FENCED_INSTANCE_ID
            } else {
                ErrorCode::UNKNOWN_MEMBER_ID
            });
        };
        let is_classic = member.metadata.classic.is_some();
        if !is_classic && version < FIRST_COMMIT_WITH_EPOCH {
            return Err(ErrorCode::UNSUPPORTED_VERSION);
        }
        check_epoch(member, epoch)?;
        if is_classic {
            let id = Arc::clone(id);
            self.extend_session(env, &id);
        }
        Ok(())
    }

    /// Whether a member may read committed offsets; a request without member always may.
    pub fn check_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        match member_id {
            None if epoch < 0 => Ok(()),
            member_id => {
                let member = member_id.and_then(|id| self.state.members.get(id));
                check_epoch(member.ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?, epoch)
            }
        }
    }

    /// Adds the tombstones of all its records.
    pub fn tombstones(&self, out: &mut Vec<GroupRecord>) {
        let group = || Arc::clone(&self.group);
        let members: BTreeSet<_> = self
            .state
            .members
            .keys()
            .chain(self.state.targets.keys())
            .collect();
        for member in &members {
            out.extend(self.member_tombstones(member));
        }
        for expression in self.state.regexes.keys() {
            out.push(GroupRecord::ConsumerGroupRegularExpression {
                group: group(),
                expression: Arc::clone(expression),
                value: None,
            });
        }
        out.push(GroupRecord::ConsumerGroupTargetAssignmentMetadata {
            group: group(),
            value: None,
        });
        if self.state.partition_metadata {
            out.push(GroupRecord::ConsumerGroupPartitionMetadata { group: group() });
        }
        out.push(GroupRecord::ConsumerGroupMetadata {
            group: group(),
            value: None,
        });
    }

    fn member_tombstones(&self, member: &Arc<str>) -> [GroupRecord; 3] {
        let key = || (Arc::clone(&self.group), Arc::clone(member));
        let ((group, member), target, metadata) = (key(), key(), key());
        [
            GroupRecord::ConsumerGroupCurrentMemberAssignment {
                group,
                member,
                value: None,
            },
            GroupRecord::ConsumerGroupTargetAssignmentMember {
                group: target.0,
                member: target.1,
                value: None,
            },
            GroupRecord::ConsumerGroupMemberMetadata {
                group: metadata.0,
                member: metadata.1,
                value: None,
            },
        ]
    }

    /// Decides a record: it holds from here on.
    fn write(&mut self, record: GroupRecord, out: &mut Outcome) {
        self.state.replay(&record);
        out.write(record);
    }

    /// Removes members and begins a new epoch for the others. When the others all speak the classic
    /// protocol the group is about to become theirs, and the epoch that they know stays.
    fn remove_members(&mut self, env: &Environment<'_>, members: Vec<Arc<str>>, out: &mut Outcome) {
        if members.is_empty() {
            return;
        }
        for member in &members {
            self.soft.timers.remove(member);
            for record in self.member_tombstones(member) {
                self.write(record, out);
            }
        }
        self.drop_unused_expressions(out);
        if self.is_empty() {
            self.soft.emptied_ms = Some(env.now_ms);
        }
        if !self.may_downgrade(env) {
            self.advance_epoch(env, true, out);
        }
    }

    /// Leads a member one step towards its target. Tells whether what it has assigned changed.
    fn reconcile(
        &mut self,
        env: &Environment<'_>,
        id: &Arc<str>,
        subscription_changed: bool,
        owned: Option<&[reconcile::Owned]>,
        out: &mut Outcome,
    ) -> bool {
        let Some(member) = self.state.members.get(id) else {
            return false;
        };
        if !subscription_changed && is_at(&member.current, self.state.target_epoch) {
            return false;
        }
        let nothing = TopicPartitions::new();
        let step = Step {
            target_epoch: self.state.target_epoch,
            target: self.state.targets.get(id).unwrap_or(&nothing),
            owned,
            subscription_changed,
            subscribes: |topic| {
                let topic = env.image.topic_by_id(topic);
                topic.is_some_and(|it| self.state.subscribes(&member.metadata, &it.name))
            },
            is_free: |topic, partition| {
                let owner = self.state.owner(topic, partition);
                owner.is_none_or(|owner| owner == id)
            },
        };
        let next = step.next(&member.current);
        if next == member.current {
            return false;
        }
        let changed = next.assigned_partitions != member.current.assigned_partitions;
        let record = GroupRecord::ConsumerGroupCurrentMemberAssignment {
            group: Arc::clone(&self.group),
            member: Arc::clone(id),
            value: Some(next),
        };
        self.write(record, out);
        self.time_revocation(env, id);
        changed
    }

    /// A member of the consumer protocol that has to give partitions up has its rebalance timeout
    /// for it. Members of the classic protocol have one for their next join.
    fn time_revocation(&mut self, env: &Environment<'_>, id: &Arc<str>) {
        if let Some(member) = self.state.members.get(id) {
            let revokes = member.current.state == MemberState::UnrevokedPartitions
                && member.metadata.classic.is_none();
            let timeout = i64::from(member.metadata.rebalance_timeout_ms.max(0));
            let until = revokes.then_some(env.now_ms + timeout);
            self.soft.timers.set(id, TimedStep::Revoke, until);
        }
    }

    /// A member showed itself.
    fn extend_session(&mut self, env: &Environment<'_>, id: &Arc<str>) {
        if let Some(member) = self.state.members.get(id) {
            let classic = member.metadata.classic.as_ref();
            let timeout = classic.map_or_else(
                || env.settings.group(&self.group).session_timeout_ms,
                |classic| classic.session_timeout_ms,
            );
            self.soft
                .timers
                .session(id, env.now_ms + i64::from(timeout));
        }
    }
}

/// Whether a member has all of the target of an epoch.
fn is_at(current: &CurrentMemberAssignmentValue, target_epoch: i32) -> bool {
    current.state == MemberState::Stable && current.member_epoch == target_epoch
}

/// Whether an epoch, or a generation, is the member's own.
fn check_epoch(member: &state::Member, epoch: i32) -> Result<(), ErrorCode> {
    if member.current.member_epoch == epoch {
        Ok(())
    } else if member.metadata.classic.is_some() {
        Err(ErrorCode::ILLEGAL_GENERATION)
    } else {
        Err(ErrorCode::STALE_MEMBER_EPOCH)
    }
}
