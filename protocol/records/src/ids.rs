//! Identifiers shared by every layer. Numbers of different kinds are different types where
//! mixing them up would compile and lose data.

use std::fmt;

use uuid::Uuid;

/// A topic's identity (KIP-516): random, never zero, never reused, new after delete and recreate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TopicId(pub Uuid);

impl TopicId {
    /// The reserved "no id" value.
    pub const ZERO: TopicId = TopicId(Uuid::nil());

    /// Whether this is the reserved "no id" value.
    pub fn is_zero(self) -> bool {
        self.0.is_nil()
    }
}

impl fmt::Display for TopicId {
    /// Lower-case hyphenated form: also the stem of the topic's directory names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Raft group: 0 is the metadata group, every other group is one partition. Given out by the
/// metadata group, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The group that replicates cluster metadata.
    pub const METADATA: GroupId = GroupId(0);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of an entry in a group's Raft log. Counts entries, where Kafka offsets count records.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EntryId {
    /// Raft term in which the entry was proposed; also the Kafka leader epoch of its records.
    pub term: u64,
    /// Raft index, contiguous within a group.
    pub index: u64,
}
