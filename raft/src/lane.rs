//! The order of a group's proposals across lost leases.
//!
//! Normally a proposal goes straight to openraft's queue, under the lane's lock, so that the order of the calls is the
//! order of the queue. When openraft refuses one because its quorum lease ran out, the lane starts a new
//! *generation*: everything still queued belongs to the old one and is parked when it surfaces, new proposals are
//! parked at once, and [`renew`] sends all of it again, by sequence, when the lease is back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::async_runtime::{Instant, WatchReceiver};
use parking_lot::Mutex;

use crate::proposal::{Pending, Proposal, ProposeError, Proposed};
use crate::shared::Shared;

/// See the module.
pub(crate) struct Lane {
    /// Read without the lock by the log store: it changes only on the task that also appends.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_sequence: u64,
    renewing: bool,
    closed: bool,
    parked: BTreeMap<u64, Arc<Pending>>,
}

impl Lane {
    pub(crate) fn new() -> Lane {
        Lane {
            generation: AtomicU64::new(0),
            state: Mutex::new(State::default()),
        }
    }

    /// Takes a proposal: sends it, or parks it behind those that wait for the lease.
    ///
    /// `send` puts it on openraft's queue. Returns the proposal when the lane is closed.
    pub(crate) fn enter(
        &self,
        term: u64,
        proposal: Proposal,
        done: Proposed,
        send: impl FnOnce(Arc<Pending>, u64),
    ) -> Result<(), Arc<Pending>> {
        let mut state = self.state.lock();
        let pending = Arc::new(Pending::new(term, state.next_sequence, proposal, done));
        if state.closed {
            return Err(pending);
        }
        state.next_sequence += 1;
        if state.renewing {
            state.parked.insert(pending.sequence, pending);
        } else {
            let generation = self.generation.load(Ordering::Relaxed);
            pending.sent(generation);
            send(pending, generation);
        }
        Ok(())
    }

    /// Whether a payload that reached the log store was overtaken by a lost lease.
    pub(crate) fn is_stale(&self, pending: &Pending) -> bool {
        !pending.is_of(self.generation.load(Ordering::Acquire))
    }

    /// Parks a proposal that was refused for the lease, or came through behind one that was.
    /// Returns whether the caller is the first of its generation and must start [`renew`].
    pub(crate) fn park(&self, pending: Arc<Pending>) -> bool {
        let mut state = self.state.lock();
        pending.parked();
        if state.closed {
            drop(state);
            pending.finish(Err(ProposeError::Stopped));
            return false;
        }
        state.parked.insert(pending.sequence, pending);
        if state.renewing {
            return false;
        }
        state.renewing = true;
        self.generation.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Sends all that is parked, in order, and lets new proposals through again.
    fn resume(&self, send: impl Fn(Arc<Pending>, u64)) {
        let mut state = self.state.lock();
        let generation = self.generation.load(Ordering::Acquire);
        for pending in std::mem::take(&mut state.parked).into_values() {
            pending.sent(generation);
            send(pending, generation);
        }
        state.renewing = false;
    }

    /// Takes no more proposals; fails those that are parked.
    pub(crate) fn close(&self) {
        let parked = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.parked)
        };
        for pending in parked.into_values() {
            pending.finish(Err(ProposeError::Stopped));
        }
    }
}

/// Waits until the leader's lease is back (or its leadership is over), then resumes the lane.
pub(crate) async fn renew(shared: Arc<Shared>) {
    let Some(raft) = shared.raft() else { return };
    let mut metrics = raft.data_metrics();
    loop {
        if raft.trigger().heartbeat().await.is_err() {
            // The group has stopped; closing the lane tells those who wait.
            return shared.lane.close();
        }
        let leads = shared.leadership().leader == Some(shared.node);
        let acknowledged = metrics.borrow_and_update().last_quorum_acked;
        let leased = acknowledged.is_some_and(|at| at.into_inner().elapsed() < shared.lease);
        if leased || !leads {
            break;
        }
        // Either an acknowledgement arrives or the next heartbeat is due.
        let _ = tokio::time::timeout(shared.heartbeat_interval, metrics.changed()).await;
    }
    // A message through the same queue: when it answers, all that was queued before it has surfaced.
    if raft.with_raft_state(|_| ()).await.is_err() {
        return shared.lane.close();
    }
    shared
        .lane
        .resume(|pending, generation| shared.send(pending, generation));
}
