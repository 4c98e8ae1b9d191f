//! One partition of `__consumer_offsets`: all its groups and offsets, and what is asked of them.
//!
//! Owns: `Shard`, its groups by id, and which rule serves which request (`dispatch`); when something
//! is due (`timers`, `sweep`).
//! Invariants: every ticket is answered once, at once or by a later outcome; what an outcome's records
//! say has been applied before it is returned; a group that has nothing in the log and waits for nobody
//! is not kept; one call of `tick` does a bounded amount of work.

mod dispatch;
mod group;
mod offset_requests;
mod sweep;
mod timers;

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_protocol::ErrorCode;

use crate::offsets::{Committed, Names};
use crate::outcome::Outcome;
use crate::records::GroupRecord;
use crate::request::{Answer, Caller, Environment, Request, Ticket};

use group::Group;
use sweep::Sweep;
use timers::Timers;

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

    /// Applies a committed record while the log is read.
    pub fn replay(&mut self, record: GroupRecord) {
        if let GroupRecord::OffsetCommit {
            group,
            topic,
            partition,
            value,
        } = record
        {
            self.replay_offset(group, topic, partition, value);
        }
    }

    /// The log has been read to its end: sessions begin now.
    pub fn loaded(&mut self, env: &Environment<'_>) -> Outcome {
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
        match dispatch::refusal(&request) {
            Some(answer) => out.answer(ticket, answer),
            None => self.dispatch(env, ticket, caller, request, &mut out),
        }
        out
    }

    /// Does what is due: sessions, rebalances, offsets. What does not fit into one call is left for the
    /// next, which [`Shard::deadline`] then asks for at once.
    pub fn tick(&mut self, env: &Environment<'_>) -> Outcome {
        let mut out = Outcome::new();
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
        self.sweep.topics_deleted(deleted);
        self.drop_deleted(env, &mut out);
        out
    }

    /// Refuses all requests that wait; the shard is dropped after this.
    pub fn abandon(&mut self, code: ErrorCode) -> Vec<(Ticket, Answer)> {
        let _ = code;
        Vec::new()
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

    fn replay_offset(
        &mut self,
        id: Arc<str>,
        topic: Arc<str>,
        partition: i32,
        value: Option<Committed>,
    ) {
        let Some(group) = self.groups.get_mut(&id) else {
            if value.is_some() {
                let group = self.groups.entry(id).or_default();
                group
                    .offsets
                    .apply(&mut self.names, topic, partition, value);
            }
            return;
        };
        let forgets = value.is_none();
        group
            .offsets
            .apply(&mut self.names, topic, partition, value);
        if forgets {
            self.forget_if_void(&id);
        }
    }

    /// Drops a group of which nothing is left.
    fn forget_if_void(&mut self, id: &str) {
        if self.groups.get(id).is_some_and(Group::is_void) {
            self.groups.remove(id);
        }
    }

    /// Applies records that this shard itself has decided, and passes them on.
    fn decide(&mut self, records: Vec<GroupRecord>, out: &mut Outcome) {
        for record in records {
            self.replay(record.clone());
            out.write(record);
        }
    }
}
