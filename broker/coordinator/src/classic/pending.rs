//! Member ids that were given out and have not come back.

use std::collections::BTreeMap;
use std::sync::Arc;

/// How many ids a group remembers at most. A client comes back within a round trip, so only one that
/// floods the group gets here; the eldest id goes, and whoever holds it asks for another.
const MAX_PENDING: usize = 10_000;

/// Ids in the order in which they were given out.
#[derive(Debug, Default)]
pub(super) struct Pending {
    turns: BTreeMap<Arc<str>, u64>,
    order: BTreeMap<u64, Arc<str>>,
    next_turn: u64,
}

impl Pending {
    /// Adds an id; gives back the one that had to go for it.
    pub fn insert(&mut self, id: Arc<str>) -> Option<Arc<str>> {
        let evicted = (self.len() >= MAX_PENDING)
            .then(|| self.order.pop_first())
            .flatten()
            .map(|(_, eldest)| eldest);
        if let Some(eldest) = &evicted {
            self.turns.remove(eldest);
        }
        self.turns.insert(Arc::clone(&id), self.next_turn);
        self.order.insert(self.next_turn, id);
        self.next_turn += 1;
        evicted
    }

    /// Removes an id; false when it was not there.
    pub fn remove(&mut self, id: &str) -> bool {
        match self.turns.remove(id) {
            Some(turn) => {
                self.order.remove(&turn);
                true
            }
            None => false,
        }
    }

    pub fn contains(&self, id: &str) -> bool {
        self.turns.contains_key(id)
    }

    pub fn len(&self) -> usize {
        self.turns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_pushes_out_the_eldest() {
        let mut pending = Pending::default();
        for index in 0..MAX_PENDING {
            assert_eq!(pending.insert(index.to_string().into()), None);
        }
        assert!(pending.remove("0"));
        assert!(!pending.remove("0"));
        assert_eq!(pending.insert("a".into()), None);
        assert_eq!(pending.insert("b".into()).as_deref(), Some("1"));
        assert_eq!(pending.len(), MAX_PENDING);
        assert!(pending.contains("b") && !pending.contains("1"));
    }
}
