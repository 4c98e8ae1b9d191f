//! Expiry of offsets and groups, and the offsets of deleted topics: in slices.
//!
//! A pass over all groups begins every `offsets.retention.check.interval.ms`. A slice ends after
//! `SLICE_GROUPS` groups or about `SLICE_RECORDS` records, and the next tick goes on behind the last group.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use super::Shard;
use crate::outcome::Outcome;
use crate::records::GroupRecord;
use crate::request::Environment;

/// Groups that are looked at in one slice.
const SLICE_GROUPS: usize = 500;

/// Records that a slice may decide; a group is not cut, so its tombstones may come on top.
const SLICE_RECORDS: usize = 5_000;

/// Where the passes are.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// When the next pass begins.
    next_ms: Option<i64>,
    /// The group that the pass under way has reached.
    reached: Option<Arc<str>>,
    /// Topics whose offsets are to be dropped, and the group that was reached with the first.
    deleted: VecDeque<Arc<str>>,
    deleted_reached: Option<Arc<str>>,
}

impl Sweep {
    /// A first pass in one interval from now.
    pub(super) fn schedule(&mut self, env: &Environment<'_>) {
        let interval = env.settings.offsets_retention_check_interval_ms.max(1);
        self.next_ms = Some(env.now_ms.saturating_add(interval));
    }

    pub(super) fn topics_deleted(&mut self, topics: &[Arc<str>]) {
        self.deleted.extend(topics.iter().cloned());
    }

    pub(super) fn deadline(&self) -> Option<i64> {
        if self.reached.is_some() || !self.deleted.is_empty() {
            // Long ago: at once.
            return Some(0);
        }
        self.next_ms
    }
}

impl Shard {
    /// Does the next slice of what is due.
    pub(super) fn sweep(&mut self, env: &Environment<'_>, out: &mut Outcome) {
        self.drop_deleted(out);
        let due = self.sweep.next_ms.is_some_and(|at| env.now_ms >= at);
        if !due && self.sweep.reached.is_none() {
            return;
        }
        self.sweep.schedule(env);
        let from = self.sweep.reached.take();
        self.sweep.reached = self.slice(from, out, |shard, id, limit| shard.expire(env, id, limit));
        if self.sweep.reached.is_none() {
            self.names.forget_unused();
        }
    }

    /// Drops offsets of deleted topics, as many as fit into a slice.
    pub(super) fn drop_deleted(&mut self, out: &mut Outcome) {
        let Some(topic) = self.sweep.deleted.front().cloned() else {
            return;
        };
        let from = self.sweep.deleted_reached.take();
        self.sweep.deleted_reached = self.slice(from, out, |shard, id, _| {
            let group = shard.groups.get(id);
            group
                .map(|group| group.offsets.topic_tombstones(id, &topic))
                .unwrap_or_default()
        });
        if self.sweep.deleted_reached.is_none() {
            self.sweep.deleted.pop_front();
        }
    }

    /// Asks the groups behind `from` for records, and says which group was last when more are left.
    fn slice(
        &mut self,
        from: Option<Arc<str>>,
        out: &mut Outcome,
        records: impl Fn(&Shard, &Arc<str>, usize) -> Vec<GroupRecord>,
    ) -> Option<Arc<str>> {
        let mut at = from;
        for _ in 0..SLICE_GROUPS {
            let behind = match &at {
                None => Bound::Unbounded,
                Some(id) => Bound::Excluded(Arc::clone(id)),
            };
            let (id, _) = self.groups.range((behind, Bound::Unbounded)).next()?;
            let id = Arc::clone(id);
            let decided = records(self, &id, SLICE_RECORDS);
            self.decide(decided, out);
            at = Some(id);
            if out.records.len() >= SLICE_RECORDS {
                break;
            }
        }
        at
    }

    /// Tombstones for what has expired in a group: offsets, and the group itself when nobody is in it
    /// and no offset is left.
    fn expire(&self, env: &Environment<'_>, id: &Arc<str>, limit: usize) -> Vec<GroupRecord> {
        let Some(group) = self.groups.get(id) else {
            return Vec::new();
        };
        let mut records = group.offsets.expired(
            id,
            env.now_ms,
            env.settings.offsets_retention_ms,
            limit,
            |topic, committed| group.kept_since(topic, committed),
        );
        if records.len() == group.offsets.len() && group.is_deserted() {
            group.tombstones(id, &mut records);
        }
        records
    }
}
