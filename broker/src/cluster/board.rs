//! Who leads the partitions of which this node has no replica, and who is in sync with a leader elsewhere.
//!
//! Each node tells the others what it leads, when that changes. The entry of the highest term counts, so
//! news may come late and in any order; at worst a client is sent to a node that sends it on.

use std::collections::HashMap;
use std::sync::Arc;

use klamm_records::GroupId;
use parking_lot::RwLock;

use super::messages::Lead;

/// What a leader said of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Broker id of the leader.
    pub leader: i32,
    /// Raft term that it leads.
    pub term: u64,
    /// Brokers that have kept up with it.
    pub in_sync: Arc<[i32]>,
}

/// What the other nodes said they lead.
#[derive(Debug, Default)]
pub struct Board {
    told: RwLock<HashMap<GroupId, Told>>,
}

impl Board {
    /// The leader of a partition, as far as another node said that it is one.
    pub fn leader(&self, group: GroupId) -> Option<Told> {
        self.told.read().get(&group).cloned()
    }

    /// Takes news of `from`.
    pub(super) fn note(&self, from: i32, whole: bool, leads: Vec<Lead>, left: &[u64]) {
        let mut told = self.told.write();
        if whole {
            told.retain(|_, told| told.leader != from);
        }
        for group in left {
            let group = GroupId(*group);
            if told.get(&group).is_some_and(|told| told.leader == from) {
                told.remove(&group);
            }
        }
        for lead in leads {
            let group = GroupId(lead.group);
            if told.get(&group).is_some_and(|told| told.term > lead.term) {
                continue;
            }
            let news = Told {
                leader: from,
                term: lead.term,
                in_sync: lead.in_sync.into(),
            };
            told.insert(group, news);
        }
    }

    /// Forgets groups that are no more.
    pub(super) fn retain(&self, exists: impl Fn(GroupId) -> bool) {
        self.told.write().retain(|group, _| exists(*group));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(group: u64, term: u64) -> Lead {
        Lead {
            group,
            term,
            in_sync: vec![1, 2],
        }
    }

    #[test]
    fn the_highest_term_counts_and_nobody_takes_back_anothers_word() {
        let board = Board::default();
        let leader = |group| board.leader(GroupId(group)).map(|told| told.leader);
        board.note(1, true, vec![lead(5, 3), lead(6, 1)], &[]);
        board.note(2, false, vec![lead(5, 4)], &[]);
        assert_eq!(leader(5), Some(2));
        board.note(1, false, vec![lead(5, 3)], &[]);
        assert_eq!(leader(5), Some(2), "late news");
        board.note(1, false, vec![], &[5, 6]);
        assert_eq!((leader(5), leader(6)), (Some(2), None));
        board.note(2, true, vec![], &[]);
        assert_eq!(leader(5), None);
        board.note(1, true, vec![lead(7, 1)], &[]);
        board.retain(|_| false);
        assert_eq!(leader(7), None);
    }
}
