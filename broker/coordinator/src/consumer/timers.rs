//! When members lose their place: sessions and the steps they owe. Forgotten by a restart, which
//! begins them anew.
//!
//! A heartbeat only moves a member's session forward; its entry in the queue stays where it was and
//! is put right when it comes up. So a heartbeat costs one look-up.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Deadlines of the members of a group, in ms.
#[derive(Debug, Default)]
pub(super) struct Timers {
    members: HashMap<Arc<str>, Deadlines>,
    /// One entry for each member, never later than the first of its deadlines.
    queue: BTreeSet<(i64, Arc<str>)>,
}

#[derive(Clone, Copy, Debug)]
struct Deadlines {
    session: i64,
    steps: [Option<i64>; Step::COUNT],
    queued: i64,
}

/// What a member must do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Confirm that it gave partitions up.
    Revoke,
    /// Join again (classic protocol).
    Join,
    /// Fetch its assignment after a join (classic protocol).
    Sync,
}

impl Step {
    const COUNT: usize = 3;
}

impl Deadlines {
    fn first(&self) -> i64 {
        let steps = self.steps.iter().flatten();
        steps.fold(self.session, |first, step| first.min(*step))
    }
}

impl Timers {
    /// The member showed itself; `until` is when its session ends now.
    pub(super) fn session(&mut self, member: &Arc<str>, until: i64) {
        match self.members.get_mut(member) {
            Some(deadlines) => {
                deadlines.session = until;
                self.requeue(member);
            }
            None => {
                let deadlines = Deadlines {
                    session: until,
                    steps: [None; Step::COUNT],
                    queued: until,
                };
                self.queue.insert((until, Arc::clone(member)));
                self.members.insert(Arc::clone(member), deadlines);
            }
        }
    }

    /// The member owes a step by `until`; `None`: no more.
    pub(super) fn set(&mut self, member: &Arc<str>, step: Step, until: Option<i64>) {
        if let Some(deadlines) = self.members.get_mut(member) {
            deadlines.steps[step as usize] = until;
            self.requeue(member);
        }
    }

    /// As [`Timers::set`], but leaves a deadline that is set.
    pub(super) fn set_if_absent(&mut self, member: &Arc<str>, step: Step, until: i64) {
        let known = self.members.get(member);
        if known.is_some_and(|deadlines| deadlines.steps[step as usize].is_none()) {
            self.set(member, step, Some(until));
        }
    }

    /// Forgets a member.
    pub(super) fn remove(&mut self, member: &Arc<str>) {
        if let Some(deadlines) = self.members.remove(member) {
            self.queue.remove(&(deadlines.queued, Arc::clone(member)));
        }
    }

    /// Takes out the members that are too late, ascending by how late.
    pub(super) fn expired(&mut self, now_ms: i64) -> Vec<Arc<str>> {
        let mut expired = Vec::new();
        while self.queue.first().is_some_and(|(at, _)| *at <= now_ms) {
            let Some((_, member)) = self.queue.pop_first() else {
                break;
            };
            let Some(deadlines) = self.members.get_mut(&member) else {
                continue;
            };
            let first = deadlines.first();
            if first <= now_ms {
                self.members.remove(&member);
                expired.push(member);
            } else {
                deadlines.queued = first;
                self.queue.insert((first, member));
            }
        }
        expired
    }

    /// A moment before which nobody is too late.
    pub(super) fn next(&self) -> Option<i64> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Moves the queue's entry forward if a deadline now comes before it.
    fn requeue(&mut self, member: &Arc<str>) {
        let Some(deadlines) = self.members.get_mut(member) else {
            return;
        };
        let first = deadlines.first();
        if first < deadlines.queued {
            self.queue.remove(&(deadlines.queued, Arc::clone(member)));
            deadlines.queued = first;
            self.queue.insert((first, Arc::clone(member)));
        }
    }
}
