//! One Raft group: the handle the rest of the program holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use klamm_records::plant::{self, Bug};
use klamm_records::{EntryId, GroupId};
use klamm_storage::{GroupLog, StorageError, Vote};
use openraft::ChangeMembers;
use openraft::alias::StoredMembershipOf;
use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::errors::{ClientWriteError, ForwardReason, RaftError};
use openraft::raft::VoteResponse;

use crate::NodeId;
use crate::fill::{self, FillProgress};
use crate::lane;
use crate::leadership::Leadership;
use crate::log_store::durable;
use crate::network::{PeerRequest, PeerResponse, Request, Response};
use crate::proposal::{Proposal, ProposeError, Proposed};
use crate::shared::Shared;
use crate::solo::{self, Solo};
use crate::throttle::Throttle;
use crate::types::{Raft, TypeConfig, log_id, raft_vote};

/// After so long a purge that openraft did not take up is asked for again: it ignores the wish
/// while an earlier one is in progress.
const PURGE_RETRY: Duration = Duration::from_secs(1);

/// One Raft group. Cheap handle.
#[derive(Clone)]
pub struct Group {
    pub(crate) shared: Arc<Shared>,
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

/// A change of a group's members did not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the members were not changed: {0}")]
pub struct MembershipError(String);

impl MembershipError {
    fn of(cause: impl std::fmt::Display) -> MembershipError {
        MembershipError(cause.to_string())
    }
}

impl Group {
    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.shared.group
    }

    /// This node's replica.
    pub fn node(&self) -> NodeId {
        self.shared.node
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

    /// Purges entries up to index `upto` on this replica, but none that is not applied yet, nor on a leader
    /// one that a member still lacks for which it is to be kept ([`Group::held_by_all`]). Their records
    /// stay in the log; whole segments go once the log start has passed them too. Returns when the
    /// entries are gone. On a leader that waits for a follower
    /// which still reads them; giving up the wait does not take the purge back.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`] when the group is closed or has failed; [`ProposeError::Storage`]
    /// when the entry cannot be looked up.
    pub async fn purge(&self, upto: u64) -> Result<(), ProposeError> {
        let Some(applied) = self.applied() else {
            return Ok(());
        };
        let end = self.held_by_all().unwrap_or(u64::MAX);
        let Some(held) = end.checked_sub(1) else {
            return Ok(());
        };
        let most = applied.min(held);
        let Some(at) = self.shared.log.entry_id(upto.min(most))? else {
            return Ok(());
        };
        if let Some(solo) = self.shared.solo() {
            let _one = solo.handover.lock().await;
            if self.raft().is_none() {
                return self.purge_alone(at).await;
            }
        }
        let raft = self.raft().ok_or(ProposeError::Stopped)?;
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
            raft.trigger()
                .snapshot()
                .await
                .map_err(|_| ProposeError::Stopped)?;
            // Elapsed: look again, and ask again.
            let _ = tokio::time::timeout(PURGE_RETRY, purged).await;
        }
    }

    /// Index of the last applied entry.
    fn applied(&self) -> Option<u64> {
        match self.raft() {
            Some(raft) => {
                let metrics = raft.data_metrics();
                let applied = metrics.borrow_watched().last_applied;
                applied.map(|applied| applied.index)
            }
            None => self.shared.solo().map(Solo::applied),
        }
    }

    async fn purge_alone(&self, at: EntryId) -> Result<(), ProposeError> {
        if self.shared.closing.load(Ordering::Acquire) {
            return Err(ProposeError::Stopped);
        }
        let purged = durable(|done| self.shared.log.purge(at, done)).await;
        purged.map_err(|_| ProposeError::Stopped)
    }

    /// Index below which no entry is kept for any member's sake, as this leader knows. `None` on a node that does
    /// not lead; a follower that purges on its own asks the leader first: it may lead one day.
    ///
    /// What a voter lacks is kept (while its node is there, at least: [`crate::StateMachine::keeps_for_absent_voters`]),
    /// and what a learner lacks that is there and has a beginning. A learner without a
    /// log, or on a node that is gone, is filled from the segments instead; what follows those is kept meanwhile.
    pub fn held_by_all(&self) -> Option<u64> {
        let Some(raft) = self.raft() else {
            return Some(u64::MAX);
        };
        let newest = newest_membership(raft);
        let voters: BTreeSet<u64> = newest.membership().voter_ids().collect();
        let metrics = raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let is_there = |node: u64| {
            let hearing = self.shared.transport.hears(NodeId(node));
            hearing.is_none_or(|hearing| hearing.alive)
        };
        let keeps = self.shared.machine.keeps_for_absent_voters();
        let matched = metrics.replication.as_ref()?.iter();
        let held = matched
            .filter(|(node, id)| {
                let is_kept = match voters.contains(*node) {
                    true => keeps || is_there(**node),
                    false => id.is_some() && is_there(**node),
                };
                **node != self.shared.node.0 && is_kept
            })
            .map(|(_, id)| id.as_ref().map_or(0, |id| id.index + 1));
        let held = held.chain(self.shared.fills.held()).min();
        Some(held.unwrap_or(u64::MAX))
    }

    /// What of the group's replication is held back, from the next bytes on.
    pub fn set_throttle(&self, throttle: Throttle) {
        self.shared.brake.set(throttle);
    }

    /// Replicas of the group that are being filled, here and from here.
    pub fn fills(&self) -> Vec<FillProgress> {
        self.shared.fills.progress()
    }

    /// Whether anything was ever written to the group's log here, a vote included.
    pub fn is_written(&self) -> bool {
        self.log().raft_state().is_written()
    }

    /// Founds a group that was opened without voters and is empty still: for when the replica that
    /// was to found it does not come. Each replica founds with the same voters. Does nothing to a log
    /// that is written.
    ///
    /// # Errors
    /// [`MembershipError`] when the group is closed, has failed, or got its first entry meanwhile.
    pub async fn found(&self, voters: &BTreeSet<NodeId>) -> Result<(), MembershipError> {
        if self.is_written() {
            return Ok(());
        }
        crate::groups::found(self, voters)
            .await
            .map_err(MembershipError)
    }

    fn want_snapshot(&self, at: EntryId) {
        let mut wanted = self.shared.snapshot_at.lock();
        if wanted.is_none_or(|wanted| wanted.index < at.index) {
            *wanted = Some(at);
        }
    }

    /// Answers a call that a [`crate::PeerTransport`] brought from the node of broker `from`.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`] when the group is closed or has failed, and when the call is for another replica:
    /// one that the broker had before, or will have, and for which this one must not speak. [`ProposeError::Full`] to
    /// entries for which there is no room.
    pub async fn answer(
        &self,
        from: i32,
        request: PeerRequest,
    ) -> Result<PeerResponse, ProposeError> {
        if request.to != self.shared.node || request.from.broker() != from {
            return Err(ProposeError::Stopped);
        }
        let from = request.from;
        let Some(raft) = self.raft() else {
            return self.answer_alone(&request.request);
        };
        let answer = match request.request {
            // What has been written stays; more of it comes when there is space (R11). The leader goes on with the others.
            Request::Append(request) if !request.entries.is_empty() && !self.takes_entries() => {
                return Err(ProposeError::Full);
            }
            Request::Append(request) => {
                let answer = raft.append_entries(request).await;
                if matches!(&answer, Ok(answer) if answer.is_success()) {
                    self.shared.heard_leader();
                }
                answer.map(Response::Append)
            }
            Request::Vote(_) if self.is_in_doubt_of_itself() => Ok(self.refusal()),
            Request::Vote(request) => raft.vote(request).await.map(Response::Vote),
            Request::PreVote(_) if self.is_in_doubt_of_itself() => Ok(self.refusal()),
            Request::PreVote(_) if self.trusts_another_than(from) => {
                if self.leads() {
                    // He has missed that; a group at rest would tell him only much later.
                    let _ = raft.trigger().heartbeat().await;
                }
                Ok(self.refusal())
            }
            Request::PreVote(request) => raft.pre_vote(request).await.map(Response::Vote),
            Request::Fill(request) => {
                let answer = fill::answer(self, from, request).await?;
                return Ok(PeerResponse(Response::Fill(answer)));
            }
            Request::TransferLeader(request) => {
                self.shared
                    .leader_hands_over(request.from_leader().leader_id.term);
                let accepted = raft.handle_transfer_leader(request).await;
                accepted.map(Response::TransferLeader).map_err(Into::into)
            }
        };
        answer.map(PeerResponse).map_err(|_| ProposeError::Stopped)
    }

    /// Answers who takes himself for a member: one of old, to whom nobody has said that he is none any more.
    fn answer_alone(&self, request: &Request) -> Result<PeerResponse, ProposeError> {
        match request {
            Request::Vote(_) | Request::PreVote(_) => Ok(PeerResponse(self.refusal())),
            Request::Append(_) | Request::TransferLeader(_) | Request::Fill(_) => {
                Err(ProposeError::Stopped)
            }
        }
    }

    /// Whether there is room for entries of the group. There always is for those of the metadata: a node that knows of
    /// no change could not be mended.
    pub(crate) fn takes_entries(&self) -> bool {
        self.id() == GroupId::METADATA || self.shared.log.has_room()
    }

    /// A replica whose log lost something neither votes nor leads (R9).
    pub(crate) fn is_in_doubt_of_itself(&self) -> bool {
        self.shared.log.quarantine().is_some()
    }

    fn refusal(&self) -> Response {
        let state = self.shared.log.raft_state();
        let nobody = Vote {
            term: 0,
            node: 0,
            committed: false,
        };
        let vote = raft_vote(state.vote.unwrap_or(nobody));
        let last = state.last.or(state.purged).map(log_id);
        Response::Vote(VoteResponse::new(vote, last, false))
    }

    /// openraft's lease ends soon after a leader's last message, and a group at rest has none. But
    /// as long as the leader's node is heard, its groups have a leader, and nobody else is let in.
    fn trusts_another_than(&self, candidate: NodeId) -> bool {
        if self.shared.has_handed_over(self.leadership().term) {
            return false;
        }
        if self.leads() {
            return self.transport_can_tell() && self.hears_quorum();
        }
        match self.leadership().leader {
            None => false,
            Some(leader) if leader == candidate => false,
            Some(leader) => {
                !self.shared.doubts_leader.load(Ordering::Acquire)
                    && self.shared.transport.is_heard(leader)
            }
        }
    }

    /// Whether there are other voters, so that another node may have led.
    pub fn has_peers(&self) -> bool {
        self.shared.has_peers.load(Ordering::Acquire)
    }

    /// Whether this node leads the group, if it does not serve yet.
    pub fn leads(&self) -> bool {
        self.leadership().leader == Some(self.shared.node)
    }

    fn transport_can_tell(&self) -> bool {
        self.shared.transport.hears(self.shared.node).is_some()
    }

    /// Whether this node is in touch with a majority of the group's voters (itself included), by
    /// the pings between nodes.
    pub fn hears_quorum(&self) -> bool {
        let here = self.shared.node.0;
        self.majority(|node| node == here || self.shared.transport.is_heard(NodeId(node)))
    }

    /// Whether something is so for a majority of the voters, of each set of them while they change.
    fn majority(&self, is_so: impl Fn(u64) -> bool) -> bool {
        let Some(raft) = self.raft() else {
            return is_so(self.shared.node.0);
        };
        let newest = newest_membership(raft);
        let mut sets = newest.membership().get_joint_config().iter();
        sets.all(|voters| voters.iter().filter(|node| is_so(**node)).count() * 2 > voters.len())
    }

    /// Whether this node leads, and may answer for how things stand now (R15): a majority of the voters has accepted
    /// its leadership, and each of them has been heard without a break since. None of them can have given it
    /// up and voted for another meanwhile, as one may have while this process stood still.
    pub fn leads_surely(&self) -> bool {
        if plant::is(Bug::LeaseUnbounded) {
            return self.leads() && self.hears_quorum();
        }
        let Some(raft) = self.raft() else {
            return self.leads();
        };
        let metrics = raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let accepted = metrics.heartbeat.as_ref();
        let here = self.shared.node.0;
        self.leads()
            && self.majority(|node| {
                let heard = self.shared.transport.hears(NodeId(node));
                // Ages, the older first: what comes between makes it no surer.
                let heard = heard.filter(|heard| heard.alive);
                let unbroken = heard.and_then(|heard| Some(heard.since?.elapsed()));
                let accepted = accepted.and_then(|accepted| accepted.get(&node).copied()?);
                let accepted = accepted.map(|at| at.into_inner().elapsed());
                node == here || matches!((accepted, unbroken), (Some(a), Some(u)) if a <= u)
            })
    }

    /// Hands leadership to the voter `to`, who calls an election as soon as it has the whole log.
    /// Returns when that has begun; who leads in the end is told as every change of leadership is.
    /// From now on this node takes no proposals; if `to` does not come, another voter is asked.
    /// Does nothing on a node that does not lead.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`] when the group is closed or has failed.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        let Some(raft) = self.raft() else {
            // There is nobody else.
            return Ok(());
        };
        let leadership = self.leadership();
        if leadership.leader == Some(self.shared.node) {
            self.shared.hands_over(leadership.term);
        }
        let begun = raft.trigger().transfer_leader(to.0).await;
        begun.map_err(|_| ProposeError::Stopped)
    }

    /// The other voters that are there as far as can be told, and up to which index each has the log. Empty on
    /// a node that does not lead.
    pub fn successors(&self) -> Vec<(NodeId, u64)> {
        let (voters, _) = self.members();
        let there = |node: NodeId| {
            let hearing = self.shared.transport.hears(node);
            hearing.is_none_or(|hearing| hearing.alive)
        };
        let mut matched = self.progress().matched;
        matched
            .retain(|(node, _)| *node != self.shared.node && voters.contains(node) && there(*node));
        matched
    }

    /// Adds a replica that gets the log but has no vote yet. It is open on its node, with an empty
    /// log and no voters. Returns when the entry is committed, not when the log has arrived there:
    /// [`Group::progress`] tells.
    ///
    /// # Errors
    /// When this node does not lead, or another change is under way.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let added = ChangeMembers::AddNodes([(node.0, ())].into());
        self.change(added, true).await
    }

    /// Makes exactly `voters` the voters; who was one and is not among them leaves the group. Each
    /// of them is a voter or a learner already. Goes through a joint configuration; returns when
    /// the final one is committed. One caller at a time: a change that overtakes another may leave
    /// the joint one in force.
    ///
    /// # Errors
    /// When this node does not lead, a voter is no member, or another change is under way.
    pub async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let voters: BTreeSet<u64> = voters.iter().map(|voter| voter.0).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters), false)
            .await
    }

    /// Lets learners go. Their replicas get nothing more.
    ///
    /// # Errors
    /// When this node does not lead, one of them is a voter, or another change is under way.
    pub async fn remove_learners(
        &self,
        learners: &BTreeSet<NodeId>,
    ) -> Result<(), MembershipError> {
        let learners = learners.iter().map(|learner| learner.0).collect();
        self.change(ChangeMembers::RemoveNodes(learners), false)
            .await
    }

    /// Changes the members; once more when the lease has come back that a leader at rest has not.
    async fn change(
        &self,
        members: ChangeMembers<u64, ()>,
        retain: bool,
    ) -> Result<(), MembershipError> {
        let shared = Arc::clone(&self.shared);
        // Goes on if nobody waits for it any more: proposals wait.
        let handed = self
            .shared
            .runtime
            .spawn(async move { solo::share(&shared).await });
        let handed = handed.await.map_err(MembershipError::of)?;
        handed.map_err(MembershipError::of)?;
        let raft = self
            .raft()
            .ok_or_else(|| MembershipError::of("it has stopped"))?;
        let first = raft.change_membership(members.clone(), retain).await;
        let leaseless = matches!(&first, Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))
            if forward.reason == ForwardReason::LeaseExpired);
        if !leaseless {
            return first.map(drop).map_err(MembershipError::of);
        }
        // No answer within that: the majority is away, which the second refusal says.
        let leased = lane::lease(&self.shared, raft);
        let _ = tokio::time::timeout(self.shared.lease * 2, leased).await;
        let second = raft.change_membership(members, retain).await;
        second.map(drop).map_err(MembershipError::of)
    }

    /// Whether a change of members is under way: the newest membership is a joint one, or is not committed.
    /// A joint one that its leader left behind is ended by [`Group::change_voters`].
    pub fn is_changing(&self) -> bool {
        let Some(raft) = self.raft() else {
            return false;
        };
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let committed = &metrics.committed_membership_config;
        metrics.membership_config.log_id() != committed.log_id()
            || committed.membership().get_joint_config().len() > 1
    }

    /// What runs the group, but for one that has no other member: that is `None`.
    pub(crate) fn raft(&self) -> Option<&Raft> {
        self.shared.raft()
    }

    /// Whether this replica has a vote, by the newest membership that it knows.
    pub(crate) fn has_vote(&self) -> bool {
        self.shared.is_voter(self.shared.node)
    }

    /// Voters and learners of the committed membership.
    pub fn members(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let Some(raft) = self.raft() else {
            return (BTreeSet::from([self.shared.node]), BTreeSet::new());
        };
        let metrics = raft.server_metrics();
        let stored = Arc::clone(&metrics.borrow_watched().committed_membership_config);
        let membership = stored.membership();
        (
            membership.voter_ids().map(NodeId).collect(),
            membership.learner_ids().map(NodeId).collect(),
        )
    }

    /// Kafka offset after the last record at or before entry `index`: of what a replica that has the log up
    /// to there holds. Reads the log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn end_offset_at(&self, index: u64) -> Result<i64, StorageError> {
        crate::machine::end_offset_at(self.log(), Some(index))
    }

    /// How far the log is here and, on the leader, on each member (for DescribeQuorum).
    pub fn progress(&self) -> Progress {
        let Some(raft) = self.raft() else {
            return self.progress_alone();
        };
        let metrics = raft.data_metrics();
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

    fn progress_alone(&self) -> Progress {
        let last = self.shared.log.raft_state().last;
        let committed_index = self.shared.solo().map_or(0, Solo::committed);
        Progress {
            last_index: last.map_or(0, |id| id.index),
            committed_index,
            matched: vec![(self.shared.node, committed_index)],
        }
    }
}

/// The last membership in the log, committed or not: the one that elections and commits go by.
fn newest_membership(raft: &Raft) -> Arc<StoredMembershipOf<TypeConfig>> {
    let metrics = raft.server_metrics();
    Arc::clone(&metrics.borrow_watched().membership_config)
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id())
            .field("leadership", &self.leadership())
            .finish_non_exhaustive()
    }
}
