//! One partition of `__consumer_offsets`: all its groups and offsets, and what is asked of them.
//!
//! Owns: `Shard`, its groups by id, and which rule serves which request: `classic_requests`,
//! `consumer_requests`, `offset_requests`, `admin_requests`; how a group becomes one of the other kind
//! (`migration`); when something is due (`timers`, `sweep`).
//! Invariants: every ticket is answered once, at once or by a later outcome; what an outcome's records
//! say has been applied before it is returned; a group that has nothing in the log and waits for nobody
//! is not kept; one call of `tick` does a bounded amount of work.

mod admin_requests;
mod classic_requests;
mod consumer_requests;
mod group;
mod migration;
mod offset_requests;
mod replay;
mod sweep;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::ErrorCode;

use crate::offsets::{Committed, Names};
use crate::outcome::Outcome;
use crate::records::MAX_NAME_BYTES;
use crate::request::{Answer, Caller, Environment, Request, Ticket};

use group::{Group, Kind};
use sweep::Sweep;
use timers::Timers;

/// Groups that one tick calls.
const TICK_GROUPS: usize = 200;

/// Records after which a tick leaves the rest to the next.
const TICK_RECORDS: usize = 5_000;

/// What a member id adds to a client or instance id, with room to spare.
const MEMBER_ID_SUFFIX_BYTES: usize = 64;

/// The groups and offsets of one partition.
#[derive(Debug, Default)]
pub struct Shard {
    groups: BTreeMap<Arc<str>, Group>,
    names: Names,
    timers: Timers,
    sweep: Sweep,
}

impl Shard {
    /// A shard before its first record.
    pub fn new() -> Shard {
        Shard::default()
    }

    /// The log has been read to its end: sessions begin now.
    pub fn loaded(&mut self, env: &Environment<'_>) -> Outcome {
        for (id, group) in &mut self.groups {
            group.loaded(env);
            self.timers.arm(id, group.deadline());
        }
        self.sweep.schedule(env);
        Outcome::new()
    }

    /// Answers a request now, or keeps its ticket. The outcome's records have been replayed.
    pub fn handle(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: Request,
    ) -> Outcome {
        let mut out = Outcome::new();
        if let Some(code) = refusal(caller, &request) {
            out.answer(ticket, request.refused(code));
            return out;
        }
        let id = request
            .group()
            .map(|id| match self.groups.get_key_value(id) {
                Some((id, _)) => Arc::clone(id),
                None => Arc::from(id),
            });
        self.dispatch(env, ticket, caller, request, &mut out);
        if let Some(id) = id {
            self.settle(env, &id, &mut out);
        }
        out
    }

    fn dispatch(
        &mut self,
        env: &Environment<'_>,
        ticket: Ticket,
        caller: &Caller,
        request: Request,
        out: &mut Outcome,
    ) {
        match request {
            Request::JoinGroup(request) => self.join_group(env, ticket, caller, request, out),
            Request::SyncGroup(request) => self.sync_group(env, ticket, caller, request, out),
            Request::Heartbeat(request) => self.heartbeat(env, ticket, caller, request, out),
            Request::LeaveGroup(request) => self.leave_group(env, ticket, caller, request, out),
            Request::OffsetCommit(request) => {
                self.offset_commit(env, ticket, caller, &request, out);
            }
            Request::OffsetFetch(request) => self.offset_fetch(ticket, request, out),
            Request::OffsetDelete(request) => self.offset_delete(ticket, request, out),
            Request::DescribeGroup { group } => self.describe_group(ticket, caller, &group, out),
            Request::DeleteGroup { group } => self.delete_group(ticket, &group, out),
            Request::ListGroups => out.answer(ticket, Answer::ListGroups(self.list_groups())),
            Request::ConsumerGroupHeartbeat(request) => {
                self.consumer_group_heartbeat(env, ticket, caller, request, out);
            }
            Request::ConsumerGroupDescribe { group } => {
                self.consumer_group_describe(env, ticket, &group, out);
            }
        }
    }

    /// Does what is due: sessions, rebalances, offsets. What does not fit into one call is left for the
    /// next, which [`Shard::deadline`] then asks for at once.
    pub fn tick(&mut self, env: &Environment<'_>) -> Outcome {
        let mut out = Outcome::new();
        for _ in 0..TICK_GROUPS {
            if out.records.len() >= TICK_RECORDS {
                return out;
            }
            let Some(id) = self.timers.pop_due(env.now_ms) else {
                break;
            };
            if let Some(group) = self.groups.get_mut(&id) {
                group.tick(env, &mut out);
            }
            self.settle(env, &id, &mut out);
        }
        self.sweep(env, &mut out);
        out
    }

    /// When [`Shard::tick`] should be called next, in ms; it may be called earlier or later.
    pub fn deadline(&self) -> Option<i64> {
        [self.timers.next(), self.sweep.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Topics came, went, or changed. `deleted` names those that are gone; their offsets are dropped by
    /// this call and, when they are many, the ticks that follow.
    pub fn topics_changed(&mut self, env: &Environment<'_>, deleted: &[Arc<str>]) -> Outcome {
        let mut out = Outcome::new();
        for (id, group) in &mut self.groups {
            if let Kind::Consumer(consumer) = &mut group.kind {
                consumer.topics_changed(env);
                self.timers.arm(id, group.deadline());
            }
        }
        self.sweep.topics_deleted(deleted);
        self.drop_deleted(&mut out);
        out
    }

    /// Refuses all requests that wait; the shard is dropped after this.
    pub fn abandon(&mut self, code: ErrorCode) -> Vec<(Ticket, Answer)> {
        let mut out = Outcome::new();
        for group in self.groups.values_mut() {
            group.abandon(code, &mut out);
        }
        out.answers
    }

    /// Every committed offset: group, topic, partition.
    pub fn committed(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, i32, &Committed)> {
        self.groups.iter().flat_map(|(id, group)| {
            group
                .offsets
                .iter()
                .map(move |(topic, partition, committed)| (id, topic, partition, committed))
        })
    }

    /// After a group was asked or called: it may have to become a classic group, there may be nothing
    /// left of it, and it may want to be called at another time.
    fn settle(&mut self, env: &Environment<'_>, id: &Arc<str>, out: &mut Outcome) {
        self.downgrade_if_due(env, id, out);
        let Some(group) = self.groups.get_mut(id) else {
            self.timers.disarm(id);
            return;
        };
        if group.settle() {
            self.groups.remove(id);
            self.timers.disarm(id);
            return;
        }
        // Never before the next moment: a group that is due again at once must not keep a tick busy.
        let deadline = group.deadline().map(|at| at.max(env.now_ms + 1));
        self.timers.arm(id, deadline);
    }
}

/// Why no group can serve a request: there is no group id where one is needed, or a name does not fit
/// into the key of a record.
fn refusal(caller: &Caller, request: &Request) -> Option<ErrorCode> {
    let group = request.group()?;
    let needs_id = matches!(
        request,
        Request::JoinGroup(_)
            | Request::SyncGroup(_)
            | Request::Heartbeat(_)
            | Request::LeaveGroup(_)
            | Request::OffsetDelete(_)
            | Request::ConsumerGroupDescribe { .. }
    );
    if group.len() > MAX_NAME_BYTES || (needs_id && group.is_empty()) {
        return Some(ErrorCode::INVALID_GROUP_ID);
    }
    let len = |name: Option<&klamm_protocol::StrBytes>| name.map_or(0, |name| name.len());
    let longest = match request {
        Request::JoinGroup(join) => caller
            .client_id
            .len()
            .max(len(join.group_instance_id.as_ref()))
            .saturating_add(MEMBER_ID_SUFFIX_BYTES),
        Request::ConsumerGroupHeartbeat(beat) => beat
            .member_id
            .len()
            .max(len(beat.subscribed_topic_regex.as_ref())),
        Request::OffsetCommit(commit) => {
            let topics = commit.topics.iter().map(|topic| topic.name.len());
            topics.max().unwrap_or(0)
        }
        _ => 0,
    };
    (longest > MAX_NAME_BYTES).then_some(ErrorCode::INVALID_REQUEST)
}
