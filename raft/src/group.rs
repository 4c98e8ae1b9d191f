//! One Raft group: the handle the rest of the program holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use klamm_records::{EntryId, GroupId};
use klamm_storage::GroupLog;
use openraft::async_runtime::WatchReceiver;

use crate::NodeId;
use crate::leadership::Leadership;
use crate::network::{PeerRequest, PeerResponse, Request, Response};
use crate::proposal::{Proposal, ProposeError, Proposed};
use crate::shared::Shared;
use crate::types::Raft;

/// After so long a purge that openraft did not take up is asked for again: it ignores the wish
/// while an earlier one is in progress.
const PURGE_RETRY: Duration = Duration::from_secs(1);

/// One Raft group. Cheap handle.
#[derive(Clone)]
pub struct Group {
    pub(crate) shared: Arc<Shared>,
    pub(crate) raft: Raft,
}

/// How far a group has come on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Index of the last entry in the log.
    pub last_index: u64,
    /// Index up to which the log is committed.
    pub committed_index: u64,
    /// Index up to which each member has the log; empty unless this node leads.
    pub matched: Vec<(NodeId, u64)>,
}

impl Group {
    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.shared.group
    }

    /// The group's log, for reading.
    pub fn log(&self) -> &GroupLog {
        &self.shared.log
    }

    /// Who leads, as the state machine was told last.
    pub fn leadership(&self) -> Leadership {
        self.shared.leadership()
    }

    /// Proposes under the condition that this node leads `term`.
    ///
    /// Never blocks and never calls `done` itself: one of the group's tasks does. Proposals are
    /// appended in the order of the calls; a caller that needs an order among its own holds a lock
    /// across them. A lease that ran out is renewed inside, with the order kept. How many bytes may
    /// be under way is the caller's to bound.
    pub fn propose(&self, term: u64, proposal: Proposal, done: Proposed) {
        let send = |pending, generation| self.shared.send(pending, generation);
        if let Err(refused) = self.shared.lane.enter(term, proposal, done, send) {
            self.shared
                .runtime
                .spawn(async move { refused.finish(Err(ProposeError::Stopped)) });
        }
    }

    /// Purges entries up to `upto` on this replica, but none that is not applied yet. Their records
    /// stay in the log; whole segments go once the log start has passed them too. Returns when the
    /// entries are gone. On a leader that waits for a follower
    /// which still reads them; giving up the wait does not take the purge back.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`] when the group is closed or has failed; [`ProposeError::Storage`]
    /// when the entry cannot be looked up.
    pub async fn purge(&self, upto: EntryId) -> Result<(), ProposeError> {
        let applied = self.raft.data_metrics().borrow_watched().last_applied;
        let Some(applied) = applied else {
            return Ok(());
        };
        let Some(at) = self.shared.log.entry_id(upto.index.min(applied.index))? else {
            return Ok(());
        };
        loop {
            let purged = self.shared.purged.notified();
            tokio::pin!(purged);
            purged.as_mut().enable();
            if self
                .shared
                .log
                .raft_state()
                .purged
                .is_some_and(|purged| purged.index >= at.index)
            {
                return Ok(());
            }
            self.want_snapshot(at);
            self.raft
                .trigger()
                .snapshot()
                .await
                .map_err(|_| ProposeError::Stopped)?;
            // Elapsed: look again, and ask again.
            let _ = tokio::time::timeout(PURGE_RETRY, purged).await;
        }
    }

    fn want_snapshot(&self, at: EntryId) {
        let mut wanted = self.shared.snapshot_at.lock();
        if wanted.is_none_or(|wanted| wanted.index < at.index) {
            *wanted = Some(at);
        }
    }

    /// Answers a call that a [`crate::PeerTransport`] brought from another replica of this group.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`] when the group is closed or has failed.
    pub async fn answer(&self, request: PeerRequest) -> Result<PeerResponse, ProposeError> {
        let raft = &self.raft;
        let answer = match request.0 {
            Request::Append(request) => raft.append_entries(request).await.map(Response::Append),
            Request::Vote(request) => raft.vote(request).await.map(Response::Vote),
            Request::PreVote(request) => raft.pre_vote(request).await.map(Response::Vote),
            Request::TransferLeader(request) => {
                let accepted = raft.handle_transfer_leader(request).await;
                accepted.map(Response::TransferLeader).map_err(Into::into)
            }
        };
        answer.map(PeerResponse).map_err(|_| ProposeError::Stopped)
    }

    /// Voters and learners of the committed membership.
    pub fn members(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let metrics = self.raft.server_metrics();
        let stored = Arc::clone(&metrics.borrow_watched().committed_membership_config);
        let membership = stored.membership();
        (
            membership.voter_ids().map(NodeId).collect(),
            membership.learner_ids().map(NodeId).collect(),
        )
    }

    /// How far the log is here and, on the leader, on each member (for DescribeQuorum).
    pub fn progress(&self) -> Progress {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten();
        Progress {
            last_index: metrics.last_log.map_or(0, |id| id.index),
            committed_index: metrics.local_committed.map_or(0, |id| id.index),
            matched: matched
                .map(|(&node, id)| (NodeId(node), id.map_or(0, |id| id.index)))
                .collect(),
        }
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id())
            .field("leadership", &self.leadership())
            .finish_non_exhaustive()
    }
}
