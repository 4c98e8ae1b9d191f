//! What is proposed, and what becomes of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use klamm_records::EntryId;
use klamm_storage::{Batch, StorageError};
use parking_lot::Mutex;

use crate::NodeId;

/// What to propose.
#[derive(Clone, Debug)]
pub enum Proposal {
    /// A validated batch, `header` parsed from its bytes.
    Batch {
        /// The batch; its stamp is assigned at append.
        batch: Batch,
        /// The base offset that the caller knows it will get: the log end when this node began
        /// to serve the term, plus all that was proposed since. A difference is a bug and panics.
        expected_offset: i64,
    },
    /// An order to the state machine that takes no offset.
    Command(Bytes),
}

impl Proposal {
    /// Offset after the last record, for a batch.
    pub(crate) fn end_offset(&self) -> Option<i64> {
        match self {
            Proposal::Batch {
                batch,
                expected_offset,
            } => Some(expected_offset + i64::from(batch.header.last_offset_delta) + 1),
            Proposal::Command(_) => None,
        }
    }
}

/// Why a proposal did not commit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead the proposal's term, or ceased to.
    #[error("not the leader")]
    NotLeader {
        /// Who leads now, if known.
        leader: Option<NodeId>,
        /// Whether it was appended here: then another leader may still have committed it.
        maybe_appended: bool,
    },
    /// The group was closed or has failed; the proposal may or may not have been appended.
    #[error("the group is stopped")]
    Stopped,
    /// The disk is full up to its reserve. Told to leaders only: this node's own proposals are the caller's to hold back.
    #[error("the disk is full up to its reserve")]
    Full,
    /// The log failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Called once, from one of the group's tasks or the journal's thread, as soon as the entry is committed (before apply) or
/// has failed. Must not block, nor take a lock that is held across [`crate::Group::propose`]: that may wait for the journal.
pub type Proposed = Box<dyn FnOnce(Result<EntryId, ProposeError>) + Send>;

/// `Pending::sent_in` of a proposal that is not on openraft's queue.
const PARKED: u64 = u64::MAX;

/// A proposal on its way. Shared by openraft's queue (as payload), its responder and, while the
/// lease is being renewed, the lane.
pub(crate) struct Pending {
    pub(crate) term: u64,
    /// Place in the order of the group's proposals.
    pub(crate) sequence: u64,
    pub(crate) proposal: Proposal,
    /// Generation of the lane in which it was last sent, or [`PARKED`]. A responder of an earlier
    /// sending, and a payload of an earlier generation, no longer count.
    sent_in: AtomicU64,
    done: Mutex<Option<Proposed>>,
}

impl Pending {
    pub(crate) fn new(term: u64, sequence: u64, proposal: Proposal, done: Proposed) -> Pending {
        Pending {
            term,
            sequence,
            proposal,
            sent_in: AtomicU64::new(PARKED),
            done: Mutex::new(Some(done)),
        }
    }

    pub(crate) fn sent(&self, generation: u64) {
        self.sent_in.store(generation, Ordering::Release);
    }

    pub(crate) fn parked(&self) {
        self.sent_in.store(PARKED, Ordering::Release);
    }

    pub(crate) fn is_of(&self, generation: u64) -> bool {
        self.sent_in.load(Ordering::Acquire) == generation
    }

    /// Whether nobody has been told its end.
    pub(crate) fn is_open(&self) -> bool {
        self.done.lock().is_some()
    }

    /// Tells the proposer; later calls do nothing.
    pub(crate) fn finish(&self, result: Result<EntryId, ProposeError>) {
        let done = self.done.lock().take();
        if let Some(done) = done {
            done(result);
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("term", &self.term)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} in term {}", self.sequence, self.term)
    }
}
