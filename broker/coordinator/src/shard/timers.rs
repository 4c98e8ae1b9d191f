//! When groups want to be called: one ordered set of moments.
//!
//! Invariant: a group with a deadline is in the set not later than that deadline. It may be in it
//! earlier: a deadline that moves away (a heartbeat) costs nothing, the early call corrects it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(i64, Arc<str>)>,
    armed: BTreeMap<Arc<str>, i64>,
}

impl Timers {
    /// The earliest moment.
    pub(super) fn next(&self) -> Option<i64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Notes a group's deadline.
    pub(super) fn arm(&mut self, group: &Arc<str>, deadline: Option<i64>) {
        let Some(deadline) = deadline else {
            return;
        };
        match self.armed.get_mut(group) {
            Some(armed) if *armed <= deadline => {}
            Some(armed) => {
                self.due.remove(&(*armed, Arc::clone(group)));
                *armed = deadline;
                self.due.insert((deadline, Arc::clone(group)));
            }
            None => {
                self.armed.insert(Arc::clone(group), deadline);
                self.due.insert((deadline, Arc::clone(group)));
            }
        }
    }

    /// Takes a group whose moment has come; it is armed again by whoever called it.
    pub(super) fn pop_due(&mut self, now_ms: i64) -> Option<Arc<str>> {
        if self.next()? > now_ms {
            return None;
        }
        let (_, group) = self.due.pop_first()?;
        self.armed.remove(&group);
        Some(group)
    }

    /// Forgets a group that is gone.
    pub(super) fn disarm(&mut self, group: &str) {
        if let Some((group, at)) = self.armed.remove_entry(group) {
            self.due.remove(&(at, group));
        }
    }
}
