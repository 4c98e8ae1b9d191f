//! The types openraft is instantiated with, and the mapping between them and storage's.
//!
//! A log id is (term, index): one leader per term (`leader_id_std`), so 16 bytes name an entry. Payloads are never
//! serialised by openraft; they move by reference count from the proposal to storage and back.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::EntryId;
use klamm_storage::{Batch, StorageError, Vote};
use openraft::alias::{CommittedLeaderIdOf, LogIdOf, VoteOf};
use openraft::entry::{RaftEntry, RaftPayload};

use crate::membership::{self, GroupMembership};
use crate::proposal::Pending;
use crate::responder::Responder;

/// How openraft is instantiated for Klamm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Arc<Pending>;
    type R = ();
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = crate::runtime::Runtime;
    type Responder<T>
        = Responder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A group as openraft runs it.
pub(crate) type Raft = openraft::Raft<TypeConfig, crate::machine::Machine>;
/// (term, index).
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type RaftVote = VoteOf<TypeConfig>;

/// A replica of a group: broker id, and which of the replicas that the broker had of the group it is. Also a node
/// itself: broker id, and which of the disks that the broker had. An identity is never reused with an empty log, or
/// a quorum could forget what it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeId(pub u64);

impl NodeId {
    /// What broker `broker` (`node.id`) has for the `incarnation`-th time, counted from 0.
    pub fn new(broker: i32, incarnation: u32) -> NodeId {
        NodeId((u64::from(broker.cast_unsigned()) << 32) | u64::from(incarnation))
    }

    /// The broker id (`node.id`).
    pub fn broker(self) -> i32 {
        u32::try_from(self.0 >> 32)
            .expect("the upper half of 64 bits")
            .cast_signed()
    }

    /// Whether it is `other`, or what the same broker has by now in its place.
    pub(crate) fn succeeds(self, other: NodeId) -> bool {
        self.broker() == other.broker() && self.incarnation() >= other.incarnation()
    }

    /// How many the broker had before.
    pub fn incarnation(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).expect("the lower half of 64 bits")
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.broker(), self.0 & u64::from(u32::MAX))
    }
}

/// What an entry carries, between proposal, log store and state machine.
#[derive(Debug)]
pub(crate) enum Payload {
    Blank,
    Membership(GroupMembership),
    /// Proposed here; becomes a command or a batch when the log store appends it.
    Proposed(Arc<Pending>),
    Command(Bytes),
    Batch(Batch),
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Blank => f.write_str("blank"),
            Payload::Membership(membership) => write!(f, "membership {membership}"),
            Payload::Proposed(pending) => write!(f, "proposed {pending}"),
            Payload::Command(data) => write!(f, "command of {} bytes", data.len()),
            Payload::Batch(batch) => write!(f, "batch at {}", batch.header.base_offset),
        }
    }
}

impl RaftPayload for Payload {
    type D = Arc<Pending>;
    type NodeId = u64;
    type Node = ();

    fn blank() -> Payload {
        Payload::Blank
    }

    fn with_normal(self, data: Arc<Pending>) -> Payload {
        Payload::Proposed(data)
    }

    fn with_membership(self, membership: GroupMembership) -> Payload {
        Payload::Membership(membership)
    }

    fn get_membership(&self) -> Option<GroupMembership> {
        match self {
            Payload::Membership(membership) => Some(membership.clone()),
            _ => None,
        }
    }
}

/// An entry of a group's Raft log.
#[derive(Debug)]
pub(crate) struct LogEntry {
    pub(crate) id: LogId,
    pub(crate) payload: Payload,
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.payload)
    }
}

impl RaftEntry for LogEntry {
    type CommittedLeaderId = CommittedLeaderIdOf<TypeConfig>;
    type Payload = Payload;

    fn new(id: LogId, payload: Payload) -> LogEntry {
        LogEntry { id, payload }
    }

    fn log_id_parts(&self) -> (&CommittedLeaderIdOf<TypeConfig>, u64) {
        (&self.id.leader_id, self.id.index)
    }

    fn set_log_id(&mut self, id: LogId) {
        self.id = id;
    }

    fn get_membership(&self) -> Option<GroupMembership> {
        self.payload.get_membership()
    }
}

impl LogEntry {
    /// An entry as storage hands it back.
    ///
    /// # Errors
    /// `InvalidData` when a membership does not decode.
    pub(crate) fn from_stored(entry: klamm_storage::Entry) -> io::Result<LogEntry> {
        let payload = match entry.payload {
            klamm_storage::Payload::Blank => Payload::Blank,
            klamm_storage::Payload::Membership(bytes) => {
                Payload::Membership(membership::decode(&bytes)?)
            }
            klamm_storage::Payload::Command(data) => Payload::Command(data),
            klamm_storage::Payload::Batch(batch) => Payload::Batch(batch),
        };
        Ok(LogEntry {
            id: log_id(entry.id),
            payload,
        })
    }
}

/// openraft's form of an entry id.
pub(crate) fn log_id(id: EntryId) -> LogId {
    LogId::new(id.term.into(), id.index)
}

/// Storage's form of a log id.
pub(crate) fn entry_id(id: LogId) -> EntryId {
    EntryId {
        term: id.leader_id.term,
        index: id.index,
    }
}

/// openraft's form of a stored vote.
pub(crate) fn raft_vote(vote: Vote) -> RaftVote {
    let mut out = RaftVote::new(vote.term, vote.node);
    out.committed = vote.committed;
    out
}

/// Storage's form of a vote.
pub(crate) fn stored_vote(vote: &RaftVote) -> Vote {
    Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// openraft takes only I/O errors from a log store; any of them is fatal to the group.
pub(crate) fn io_error(error: StorageError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_id_keeps_broker_and_incarnation() {
        for (broker, incarnation) in [(0, 0), (1, 7), (i32::MAX, u32::MAX)] {
            let node = NodeId::new(broker, incarnation);
            assert_eq!(node.broker(), broker);
            assert_eq!(node.to_string(), format!("{broker}.{incarnation}"));
        }
    }

    #[test]
    fn votes_and_log_ids_convert_both_ways() {
        for committed in [false, true] {
            let vote = Vote {
                term: 7,
                node: 9,
                committed,
            };
            assert_eq!(stored_vote(&raft_vote(vote)), vote);
        }
        let id = EntryId { term: 3, index: 12 };
        assert_eq!(entry_id(log_id(id)), id);
    }
}
