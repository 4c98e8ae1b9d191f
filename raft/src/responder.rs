//! Answers of openraft to a proposal.

use std::sync::Arc;

use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::ClientWriteResult;

use crate::NodeId;
use crate::lane;
use crate::proposal::{Pending, ProposeError};
use crate::shared::Shared;
use crate::types::{LogId, TypeConfig, entry_id};

/// openraft's responder type: generic by its trait, in fact only ever an [`Answer`].
pub(crate) struct Responder<T>(Box<dyn Outcome<T>>);

trait Outcome<T>: Send {
    fn committed(&mut self, id: LogId);
    fn completed(self: Box<Self>, result: T);
}

impl<T: Send + 'static> openraft::raft::responder::Responder<TypeConfig, T> for Responder<T> {
    fn on_commit(&mut self, id: LogId) {
        self.0.committed(id);
    }

    fn on_complete(self, result: T) {
        self.0.completed(result);
    }
}

/// The responder of one sending of one proposal.
struct Answer {
    shared: Arc<Shared>,
    pending: Arc<Pending>,
    generation: u64,
}

/// The responder for `pending`, sent in `generation`.
pub(crate) fn responder(
    shared: Arc<Shared>,
    pending: Arc<Pending>,
    generation: u64,
) -> Responder<ClientWriteResult<TypeConfig>> {
    Responder(Box::new(Answer {
        shared,
        pending,
        generation,
    }))
}

impl Outcome<ClientWriteResult<TypeConfig>> for Answer {
    fn committed(&mut self, id: LogId) {
        if !self.pending.is_of(self.generation) {
            // What committed is the blank entry that stands where this sending would have.
            return;
        }
        if let Some(end) = self.pending.proposal.end_offset() {
            self.shared.committed(end);
        }
        self.pending.finish(Ok(entry_id(id)));
    }

    fn completed(self: Box<Self>, result: ClientWriteResult<TypeConfig>) {
        if !self.pending.is_of(self.generation) {
            return;
        }
        match result {
            // Answered at commit.
            Ok(_) => {}
            Err(ClientWriteError::ForwardToLeader(forward))
                if forward.reason == ForwardReason::LeaseExpired =>
            {
                if self.shared.lane.park(Arc::clone(&self.pending)) {
                    self.shared
                        .runtime
                        .spawn(lane::renew(Arc::clone(&self.shared)));
                }
            }
            Err(ClientWriteError::ForwardToLeader(forward)) => {
                self.pending.finish(Err(not_leader(&forward, false)))
            }
            Err(ClientWriteError::LogEntryDiscarded(forward)) => {
                self.pending.finish(Err(not_leader(&forward, true)))
            }
            Err(
                error @ (ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            ) => {
                unreachable!("an answer to a change of membership came to a proposal: {error}")
            }
        }
    }
}

fn not_leader(forward: &ForwardToLeader<TypeConfig>, maybe_appended: bool) -> ProposeError {
    ProposeError::NotLeader {
        leader: forward.leader_id.map(NodeId),
        maybe_appended,
    }
}

impl Drop for Answer {
    /// openraft stopped with the proposal on its queue or in its log. The proposer is told from a
    /// task of its own: this may run inside `propose`, under the caller's lock.
    fn drop(&mut self) {
        if self.pending.is_of(self.generation) && self.pending.is_open() {
            let pending = Arc::clone(&self.pending);
            self.shared
                .runtime
                .spawn(async move { pending.finish(Err(ProposeError::Stopped)) });
        }
    }
}
