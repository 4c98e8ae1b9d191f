//! Committed offsets of one group: commit, fetch, delete, expiry.
//!
//! Owns: `GroupOffsets` and the rules that look at nothing but offsets. Whether a member may commit is
//! the group's business, whether a topic exists the handler's.
//! Invariants: only `GroupOffsets::apply` changes anything; no topic is kept without an offset; a topic's
//! name is one allocation for all groups of a shard (`Names`).

mod requests;
#[cfg(test)]
mod requests_test;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) use requests::{commit, delete, fetch, refused_commit};

use crate::records::{GroupRecord, OffsetCommitValue};

/// A committed offset.
pub type Committed = OffsetCommitValue;

/// Strings that many offsets have in common, each held once.
#[derive(Debug)]
pub(crate) struct Names {
    topics: BTreeSet<Arc<str>>,
    empty: Arc<str>,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            topics: BTreeSet::new(),
            empty: Arc::from(""),
        }
    }
}

impl Names {
    fn topic(&mut self, name: Arc<str>) -> Arc<str> {
        match self.topics.get(&name) {
            Some(known) => Arc::clone(known),
            None => {
                self.topics.insert(Arc::clone(&name));
                name
            }
        }
    }

    /// Lets go of names that no group uses.
    pub(crate) fn forget_unused(&mut self) {
        self.topics.retain(|name| Arc::strong_count(name) > 1);
    }
}

/// The committed offsets of a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupOffsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, Committed>>,
}

impl GroupOffsets {
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.topics.values().map(BTreeMap::len).sum()
    }

    pub(crate) fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.topics.get(topic)?.get(&partition)
    }

    /// All offsets, by topic and partition.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, &Committed)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .map(move |(partition, committed)| (topic, *partition, committed))
        })
    }

    /// Applies a record.
    pub(crate) fn apply(
        &mut self,
        names: &mut Names,
        topic: Arc<str>,
        partition: i32,
        value: Option<OffsetCommitValue>,
    ) {
        let Some(mut value) = value else {
            if let Some(partitions) = self.topics.get_mut(&topic) {
                partitions.remove(&partition);
                if partitions.is_empty() {
                    self.topics.remove(&topic);
                }
            }
            return;
        };
        if value.metadata.is_empty() {
            value.metadata = Arc::clone(&names.empty);
        }
        match self.topics.get_mut(&topic) {
            Some(partitions) => {
                partitions.insert(partition, value);
            }
            None => {
                self.topics
                    .insert(names.topic(topic), BTreeMap::from([(partition, value)]));
            }
        }
    }

    /// A tombstone for every offset.
    pub(crate) fn tombstones(&self, group: &Arc<str>) -> Vec<GroupRecord> {
        self.iter()
            .map(|(topic, partition, _)| tombstone(group, topic, partition))
            .collect()
    }

    /// Tombstones for the offsets of a topic.
    pub(crate) fn topic_tombstones(&self, group: &Arc<str>, topic: &str) -> Vec<GroupRecord> {
        match self.topics.get_key_value(topic) {
            None => Vec::new(),
            Some((topic, partitions)) => partitions
                .keys()
                .map(|partition| tombstone(group, topic, *partition))
                .collect(),
        }
    }

    /// Tombstones for the offsets that have expired (behaviour 97), at most `limit`. An offset with an
    /// expire time of its own goes by that; the others `retention_ms` after the time that `kept_since`
    /// says, which is `None` for offsets that stay.
    pub(crate) fn expired(
        &self,
        group: &Arc<str>,
        now_ms: i64,
        retention_ms: i64,
        limit: usize,
        kept_since: impl Fn(&str, &Committed) -> Option<i64>,
    ) -> Vec<GroupRecord> {
        self.iter()
            .filter(|(topic, _, committed)| {
                let Some(since) = kept_since(topic, committed) else {
                    return false;
                };
                if committed.expire_timestamp == -1 {
                    now_ms.saturating_sub(since) >= retention_ms
                } else {
                    now_ms >= committed.expire_timestamp
                }
            })
            .map(|(topic, partition, _)| tombstone(group, topic, partition))
            .take(limit)
            .collect()
    }
}

fn tombstone(group: &Arc<str>, topic: &Arc<str>, partition: i32) -> GroupRecord {
    GroupRecord::OffsetCommit {
        group: Arc::clone(group),
        topic: Arc::clone(topic),
        partition,
        value: None,
    }
}
