//! Entries of a group's Raft log, and Raft's hard state.

use bytes::Bytes;
use klamm_records::{BatchHeader, EntryId};

/// One entry of a group's Raft log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Term and index.
    pub id: EntryId,
    /// What it carries.
    pub payload: Payload,
}

/// What an entry carries. Only `Batch` takes Kafka offsets and lies in a segment file.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing: the first entry of a leader's term.
    Blank,
    /// Raft membership, encoded by klamm-raft; opaque here.
    Membership(Bytes),
    /// Replicated order to the state machine that takes no offset (e.g. "move the log start").
    Command(Bytes),
    /// Records.
    Batch(Batch),
}

/// A record batch. The first `STAMP_LEN` bytes of `bytes` are what the client sent; the stamp is
/// what counts: `append` fills it in (base offset = log end, epoch = term of the entry).
#[derive(Clone, Debug)]
pub struct Batch {
    /// Header as stamped: `base_offset` and `partition_leader_epoch` are the assigned ones once
    /// the batch was appended.
    pub header: BatchHeader,
    /// The whole batch, or nothing where only headers were asked for. Read from a segment these
    /// are its bytes; an entry not yet written still has the first `STAMP_LEN` bytes as sent.
    pub bytes: Bytes,
}

/// Raft's hard state, opaque but for its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Node voted for.
    pub node: u64,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// What Raft needs to know of its log at start.
#[derive(Clone, Debug)]
pub struct RaftState {
    /// The last vote saved.
    pub vote: Option<Vote>,
    /// The last entry that was purged.
    pub purged: Option<EntryId>,
    /// The last entry; equal to `purged` when the log holds none.
    pub last: Option<EntryId>,
    /// The last entry known to be committed; may lag after a crash, never leads.
    pub committed: Option<EntryId>,
}

impl RaftState {
    /// Whether anything was ever written to the log, a vote included.
    pub fn is_written(&self) -> bool {
        self.last.is_some() || self.purged.is_some() || self.vote.is_some()
    }
}
