//! Classic groups: members join, one of them (the leader) decides who gets what, all sync.
//!
//! ```text
//!            join                  all joined, or time is up            leader syncs
//!  Empty ───────────> PreparingRebalance ─────────────> CompletingRebalance ─────> Stable
//!    ^                  │    ^  ^                                │                   │
//!    └── nobody left ───┘    │  └── a member joins, leaves, dies ┘                   │
//!                            └─────── the same, or the leader joins again ───────────┘
//! ```
//!
//! Owns: [`ClassicGroup`], the rules of JoinGroup, SyncGroup, Heartbeat and LeaveGroup of one group.
//!
//! Invariants:
//! - Requests wait only where the state says so: joins in PreparingRebalance, syncs in
//!   CompletingRebalance. Every ticket is answered once, and each of these states has a time at which
//!   it ends, so none waits for ever.
//! - All members share at least one protocol: a join that would end that is refused.
//! - There is a leader while there are members, and it is one of them.
//! - The record of the group is written when a generation gets its assignment, when the group becomes
//!   empty, and when a static member is replaced without a rebalance. Nothing else outlives the process:
//!   members that join but never get an assignment are gone after a restart and join again.
//!
//! Deliberately absent: clock and randomness (they come with [`Environment`]), offsets, whether a group
//! exists at all (the shard's business), and what the opaque blobs mean, but for the topics of a
//! `consumer` subscription.

mod answers;
mod describe;
mod join;
mod leave;
mod member;
mod pending;
mod persist;
mod rebalance;
mod roster;
mod sessions;
mod subscription;
mod sync;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use klamm_protocol::ErrorCode;
use klamm_records::plant::{self, Bug};

use crate::outcome::Outcome;
use crate::request::Environment;
pub(crate) use join::distinct_protocols;
use pending::Pending;
use roster::Roster;
use sessions::Sessions;

pub use member::{Member, Protocol};

/// Protocol type of consumers: the only one whose metadata the broker may look into.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// The largest record of a group, about. An assignment that would make a larger one is refused: a record
/// that cannot be written would take all groups of the shard down with it.
pub const MAX_RECORD_BYTES: usize = 8 * 1024 * 1024;

/// What a member may say of itself: names and metadata of its protocols.
pub const MAX_MEMBER_BYTES: usize = 1024 * 1024;

/// What the members of one group may say together.
pub const MAX_GROUP_BYTES: usize = 64 * 1024 * 1024;

/// State of a classic group, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassicState {
    /// No members. The group may have offsets.
    Empty,
    /// Members are joining the next generation.
    PreparingRebalance,
    /// The generation is complete and waits for its assignment.
    CompletingRebalance,
    /// Every member may fetch its assignment.
    Stable,
    /// Handed over or given up: nothing is accepted.
    Dead,
}

impl ClassicState {
    /// Kafka's name of the state.
    pub const fn as_str(self) -> &'static str {
        match self {
            ClassicState::Empty => "Empty",
            ClassicState::PreparingRebalance => "PreparingRebalance",
            ClassicState::CompletingRebalance => "CompletingRebalance",
            ClassicState::Stable => "Stable",
            ClassicState::Dead => "Dead",
        }
    }
}

/// The state with its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Empty,
    /// PreparingRebalance: ends at `until` with those who have joined by then.
    Joining {
        until: i64,
        /// Set while an empty group waits for its first members.
        initial: Option<InitialDelay>,
    },
    /// CompletingRebalance: at `until` those who have not synced are removed.
    Syncing {
        until: i64,
    },
    Stable {
        /// As in `Syncing`, while there are members who have not synced.
        until: Option<i64>,
    },
    Dead,
}

/// How the first rebalance of an empty group is put off (`group.initial.rebalance.delay.ms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InitialDelay {
    /// What may still be added to the wait under way, in ms.
    remaining_ms: i64,
    /// Whether somebody joined since it began.
    grew: bool,
}

/// A classic group.
#[derive(Debug)]
pub struct ClassicGroup {
    group: Arc<str>,
    phase: Phase,
    /// When `phase` began; unknown when it comes from an old record.
    state_since_ms: Option<i64>,
    generation: i32,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    leader: Option<Arc<str>>,
    members: Roster,
    /// Member ids given out to clients that have not come back with them.
    pending: Pending,
    /// Until when members and pending ids are believed to live.
    sessions: Sessions,
    /// Topics of the members' subscriptions, computed when first asked for.
    subscribed: OnceLock<Option<BTreeSet<Arc<str>>>>,
    /// Whether the log has a record of it.
    in_log: bool,
    /// Whether it serves requests, so that records that come by are its own.
    live: bool,
}

impl ClassicGroup {
    /// A group without members, in generation 0.
    pub fn new(group: Arc<str>, now_ms: i64) -> ClassicGroup {
        ClassicGroup {
            group,
            phase: Phase::Empty,
            state_since_ms: Some(now_ms),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Roster::default(),
            pending: Pending::default(),
            sessions: Sessions::default(),
            subscribed: OnceLock::new(),
            in_log: false,
            live: false,
        }
    }

    /// The group's name.
    pub fn group(&self) -> &Arc<str> {
        &self.group
    }

    /// Its state.
    pub fn state(&self) -> ClassicState {
        match self.phase {
            Phase::Empty => ClassicState::Empty,
            Phase::Joining { .. } => ClassicState::PreparingRebalance,
            Phase::Syncing { .. } => ClassicState::CompletingRebalance,
            Phase::Stable { .. } => ClassicState::Stable,
            Phase::Dead => ClassicState::Dead,
        }
    }

    /// Its generation: one more with every completed join phase.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// `consumer`, `connect`, ...; none in a group that never had members.
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// The protocol (assignor) that the members voted for.
    pub fn protocol_name(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Member id of the leader.
    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    /// How many members it has, without pending ids.
    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// The member of this id.
    pub fn member(&self, member_id: &str) -> Option<&Member> {
        self.members.get(member_id)
    }

    /// Member id of the static member of this instance id.
    pub fn static_member(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.members.by_instance(instance_id)
    }

    /// Whether the group is between two generations.
    pub fn is_in_transition(&self) -> bool {
        matches!(self.phase, Phase::Joining { .. } | Phase::Syncing { .. })
    }

    /// Whether it is in state Empty.
    pub fn is_empty(&self) -> bool {
        self.phase == Phase::Empty
    }

    /// Whether it has given out member ids that have not come back yet.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether nothing would be lost with it: no members, no member id given out, no record in the log.
    pub fn is_forgettable(&self) -> bool {
        self.is_empty() && self.pending.is_empty() && !self.in_log
    }

    /// When it came to its state, in ms; none when that is not known.
    pub fn state_since_ms(&self) -> Option<i64> {
        self.state_since_ms
    }

    /// The topics that the members subscribe to; none when they cannot be known: another protocol type,
    /// no protocol chosen yet, or metadata that does not parse. Computed once a generation.
    pub fn subscribed_topics(&self) -> Option<&BTreeSet<Arc<str>>> {
        self.subscribed
            .get_or_init(|| {
                if self.protocol_type() != Some(CONSUMER_PROTOCOL_TYPE) {
                    return None;
                }
                if self.members.is_empty() {
                    return Some(BTreeSet::new());
                }
                let protocol = self.protocol.as_deref()?;
                subscription::topics(self.members.iter().map(|member| member.metadata(protocol)))
            })
            .as_ref()
    }

    /// Whether a member may be reading the topic: when the subscriptions of a `consumer` group are not
    /// known, it may.
    pub fn has_subscription_to(&self, topic: &str) -> bool {
        match self.subscribed_topics() {
            Some(topics) => topics.contains(topic),
            None => self.protocol_type() == Some(CONSUMER_PROTOCOL_TYPE),
        }
    }

    /// Whether offsets may be committed in this member's name (behaviour 95); its session goes on.
    ///
    /// Generation -1 with neither member nor instance is a consumer outside of the group, or an
    /// administrator: they may when there are no members. A `transactional` commit may come without
    /// member at any time, and does not touch the session.
    pub fn check_commit(
        &mut self,
        env: &Environment<'_>,
        member_id: &str,
        instance: Option<&str>,
        generation: i32,
        transactional: bool,
    ) -> Result<(), ErrorCode> {
        if self.phase == Phase::Dead {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        if generation < 0 && self.is_empty() {
            return Ok(());
        }
        if generation >= 0 || !member_id.is_empty() || instance.is_some() {
            self.validate_member(member_id, instance)?;
            if generation != self.generation && !plant::is(Bug::OldGenerationCommits) {
                return Err(ErrorCode::ILLEGAL_GENERATION);
            }
        } else if !transactional {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        if transactional {
            return Ok(());
        }
        if matches!(self.phase, Phase::Syncing { .. }) {
            // It knows the generation but not yet its part in it.
            return Err(ErrorCode::REBALANCE_IN_PROGRESS);
        }
        self.extend_session(env, member_id);
        Ok(())
    }

    /// Answers every request that waits with an error; nothing is accepted from now on.
    pub fn abandon(&mut self, code: ErrorCode, out: &mut Outcome) {
        self.phase = Phase::Dead;
        self.members.change_all(|member| {
            let id = Arc::clone(member.id());
            member.refuse_join(&id, code, out);
            member.refuse_sync(code, out);
        });
    }

    /// Whether the member id (and instance id, when given) is that of a member.
    fn validate_member(&self, member_id: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.members.by_instance(instance) {
                None => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(current) if &**current != member_id => {
                    return Err(ErrorCode::FENCED_INSTANCE_ID);
                }
                Some(_) => {}
            }
        }
        match self.members.get(member_id) {
            Some(_) => Ok(()),
            None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
        }
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    fn enter(&mut self, env: &Environment<'_>, phase: Phase) {
        self.phase = phase;
        self.state_since_ms = Some(env.now_ms);
    }

    /// Starts the member's session anew, if it is a member.
    fn extend_session(&mut self, env: &Environment<'_>, member_id: &str) {
        if let Some(member) = self.members.get(member_id) {
            let until = env.now_ms + i64::from(member.session_timeout_ms());
            self.sessions.set(member.id(), until);
        }
    }

    /// Takes a member out and answers what it waits for. The caller goes on with the group.
    fn remove_member(&mut self, member_id: &str, out: &mut Outcome) {
        let Some(mut member) = self.members.remove(member_id) else {
            return;
        };
        // The client, if it still listens, starts over with a new id.
        member.refuse_join("", ErrorCode::UNKNOWN_MEMBER_ID, out);
        member.refuse_sync(ErrorCode::UNKNOWN_MEMBER_ID, out);
        self.sessions.remove(member_id);
        if self.is_leader(member_id) {
            self.leader = self.members.first().map(|next| Arc::clone(next.id()));
        }
    }

    fn remove_pending(&mut self, member_id: &str) -> bool {
        let removed = self.pending.remove(member_id);
        if removed {
            self.sessions.remove(member_id);
        }
        removed
    }
}

#[cfg(test)]
mod tests;
