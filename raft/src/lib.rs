//! SEAM (to be replaced by the raft crate's author, signatures kept).
#![allow(missing_docs, unused_variables, clippy::unimplemented, reason = "seam")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::{BatchHeader, EntryId, GroupId};
use klamm_storage::{Batch, GroupLog, StorageError};

/// A replica: broker id and incarnation of its disk (an identity is never reused with an empty log).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeId(pub u64);

impl NodeId {
    pub fn new(broker: i32, incarnation: u32) -> NodeId { unimplemented!() }
    pub fn broker(self) -> i32 { unimplemented!() }
}

/// Who leads a group, as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<NodeId>,
    /// This node leads `term` and has committed (and applied) an entry of it: it may serve.
    pub serving: bool,
}

/// What a group's entries do on this node. Called from the group's tasks: must not block.
pub trait StateMachine: Send + Sync + 'static {
    /// Whether `apply` wants the bytes of batches (metadata, coordinators) or only their headers.
    fn wants_data(&self) -> bool;
    /// Everything below Kafka offset `end_offset` is committed. On the leader this comes at
    /// commit, before apply; on followers with apply. Never goes back.
    fn committed(&self, end_offset: i64);
    /// A committed entry, in order. After a restart entries since the last checkpoint come again.
    fn apply(&self, entry: Applied);
    /// Leadership of the group changed (called in order, from one task).
    fn leadership(&self, now: Leadership);
}

/// A committed entry handed to the state machine.
#[derive(Clone, Debug)]
pub enum Applied {
    Batch { id: EntryId, batch: Batch },
    Command { id: EntryId, data: Bytes },
    /// Blank or membership.
    Other { id: EntryId },
}

/// What to propose.
#[derive(Debug)]
pub enum Proposal {
    /// A validated batch; `header` parsed from it. `expected_offset`: what the caller believes
    /// the assigned base offset will be; a difference is a bug and asserts.
    Batch { batch: Batch, expected_offset: i64 },
    Command(Bytes),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Not leader of that term (any more); nothing was appended, or it may have been (see `maybe`).
    #[error("not the leader")]
    NotLeader { leader: Option<NodeId>, maybe_appended: bool },
    #[error("the group is stopped")]
    Stopped,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Called once, from the group's task, as soon as the entry is committed (before apply), or failed.
pub type Proposed = Box<dyn FnOnce(Result<EntryId, ProposeError>) + Send>;

/// All Raft groups of this node.
#[derive(Clone)]
pub struct Groups {}

#[derive(Clone, Debug)]
pub struct GroupsOptions {
    pub node: NodeId,
    pub heartbeat_interval: std::time::Duration,
    pub election_timeout: std::time::Duration,
}

impl Groups {
    /// `runtime`: where the groups' tasks live. `on_fatal`: a group hit a fatal error; the caller ends the process.
    pub fn new(options: GroupsOptions, runtime: tokio::runtime::Handle, on_fatal: Arc<dyn Fn(GroupId, String) + Send + Sync>) -> Groups { unimplemented!() }
    /// Starts a group over its log. A log that never saw a membership and `voters: Some(..)` is founded with them.
    pub async fn open(&self, log: GroupLog, voters: Option<BTreeSet<NodeId>>, machine: Arc<dyn StateMachine>) -> Result<Group, OpenGroupError> { unimplemented!() }
    pub fn get(&self, group: GroupId) -> Option<Group> { unimplemented!() }
    /// Stops a group's tasks (before its log is deleted).
    pub async fn close(&self, group: GroupId) { unimplemented!() }
    pub async fn shutdown(&self) { unimplemented!() }
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("raft group {group}: {cause}")]
pub struct OpenGroupError { pub group: GroupId, pub cause: String }

/// One Raft group. Cheap handle.
#[derive(Clone)]
pub struct Group {}

impl Group {
    pub fn id(&self) -> GroupId { unimplemented!() }
    pub fn log(&self) -> &GroupLog { unimplemented!() }
    pub fn leadership(&self) -> Leadership { unimplemented!() }
    /// Hands a proposal to Raft if this node leads `term`. Never blocks, never awaits: proposals
    /// of one caller (holding its own lock) are appended in the order of the calls. A lease that ran out is
    /// renewed by a heartbeat and the proposal retried inside (it must not overtake or be overtaken).
    pub fn propose(&self, term: u64, proposal: Proposal, done: Proposed) { unimplemented!() }
    /// Purges entries up to `upto` on this replica (retention; see openraft.md section 1: a
    /// "snapshot" at log start - 1, then purge; storage unlinks whole segments).
    pub async fn purge(&self, upto: EntryId) -> Result<(), ProposeError> { unimplemented!() }
    /// Voters and learners of the committed membership.
    pub fn members(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) { unimplemented!() }
    /// Index up to which this node applied, last index, and (leader only) matched index per member: for DescribeQuorum.
    pub fn progress(&self) -> Progress { unimplemented!() }
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub last_index: u64,
    pub committed_index: u64,
    pub matched: Vec<(NodeId, u64)>,
}
#[allow(unused_imports, reason = "seam")]
use BatchHeader as _;
