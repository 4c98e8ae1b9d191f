//! Until when each member is believed to live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Deadlines by member id.
///
/// A deadline that moves later, as every heartbeat makes it, costs one look-up: the queue keeps the old
/// time until that comes, and only then looks at the true one. So the queue is a lower bound, with one
/// entry an id.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    deadlines: BTreeMap<Arc<str>, Deadline>,
    queue: BTreeSet<(i64, Arc<str>)>,
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: i64,
    /// The time in the queue; not after `at`.
    queued: i64,
}

impl Sessions {
    /// Sets the deadline of an id, known or not.
    pub fn set(&mut self, id: &Arc<str>, at: i64) {
        match self.deadlines.get_mut(id) {
            Some(deadline) if at >= deadline.queued => deadline.at = at,
            Some(deadline) => {
                let stale = (deadline.queued, Arc::clone(id));
                *deadline = Deadline { at, queued: at };
                self.queue.remove(&stale);
                self.queue.insert((at, Arc::clone(id)));
            }
            None => {
                self.deadlines
                    .insert(Arc::clone(id), Deadline { at, queued: at });
                self.queue.insert((at, Arc::clone(id)));
            }
        }
    }

    /// Forgets an id.
    pub fn remove(&mut self, id: &str) {
        if let Some((id, deadline)) = self.deadlines.remove_entry(id) {
            self.queue.remove(&(deadline.queued, id));
        }
    }

    /// Takes out one id whose deadline has come.
    pub fn pop_due(&mut self, now_ms: i64) -> Option<Arc<str>> {
        while self.queue.first().is_some_and(|(at, _)| *at <= now_ms) {
            let (_, id) = self.queue.pop_first()?;
            let deadline = self.deadlines.get_mut(&id)?;
            if deadline.at <= now_ms {
                self.deadlines.remove(&id);
                return Some(id);
            }
            deadline.queued = deadline.at;
            self.queue.insert((deadline.at, id));
        }
        None
    }

    /// No deadline is before this.
    pub fn next(&self) -> Option<i64> {
        self.queue.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_moved_is_the_one_that_counts() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut sessions = Sessions::default();
        sessions.set(&a, 10);
        sessions.set(&b, 100);
        sessions.set(&a, 30);
        sessions.set(&b, 20);
        assert_eq!(
            sessions.next(),
            Some(10),
            "a lower bound, not yet looked at"
        );
        assert_eq!(sessions.pop_due(19), None);
        assert_eq!(sessions.next(), Some(20));
        assert_eq!(sessions.pop_due(30), Some(b));
        assert_eq!(sessions.pop_due(30), Some(a));
        assert_eq!(sessions.pop_due(i64::MAX), None);
        assert_eq!(sessions.next(), None);
    }

    #[test]
    fn a_removed_id_leaves_nothing_behind() {
        let a: Arc<str> = "a".into();
        let mut sessions = Sessions::default();
        sessions.set(&a, 10);
        sessions.set(&a, 30);
        sessions.remove("a");
        assert!(sessions.queue.is_empty() && sessions.deadlines.is_empty());
    }
}
