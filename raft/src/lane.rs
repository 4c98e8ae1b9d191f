//! The order of a group's proposals across lost leases.
//!
//! Normally a proposal goes straight to openraft's queue (or into the log, `solo.rs`), under the lane's lock, so that the
//! order of the calls is the order of the queue. When openraft refuses one because its quorum lease ran out, the lane starts
//! a new *generation*: everything still queued belongs to the old one and is parked when it surfaces, new proposals are
//! parked at once, and [`renew`] sends all of it again, by sequence, when the lease is back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::async_runtime::{Instant, WatchReceiver};
use parking_lot::Mutex;

use crate::proposal::{Pending, Proposal, ProposeError, Proposed};
use crate::shared::Shared;
use crate::types::Raft;

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

    /// Parks all proposals until [`Lane::resume`].
    pub(crate) fn hold(&self) {
        self.state.lock().renewing = true;
    }

    /// Sends all that is parked, in order, and lets new proposals through again.
    pub(crate) fn resume(&self, send: impl Fn(Arc<Pending>, u64)) {
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

/// Waits until the leader's lease is back (or its leadership is over).
///
/// # Errors
/// When the group has stopped.
pub(crate) async fn lease(shared: &Shared, raft: &Raft) -> Result<(), ProposeError> {
    let mut metrics = raft.data_metrics();
    loop {
        let sent = raft.trigger().heartbeat().await;
        sent.map_err(|_| ProposeError::Stopped)?;
        let leads = shared.leadership().leader == Some(shared.node);
        let acknowledged = metrics.borrow_and_update().last_quorum_acked;
        let leased = acknowledged.is_some_and(|at| at.into_inner().elapsed() < shared.lease);
        if leased || !leads {
            return Ok(());
        }
        // Either an acknowledgement arrives or the next heartbeat is due.
        let _ = tokio::time::timeout(shared.heartbeat_interval, metrics.changed()).await;
    }
}

/// Waits for the lease, then resumes the lane.
pub(crate) async fn renew(shared: Arc<Shared>) {
    let Some(raft) = shared.raft() else { return };
    if lease(&shared, raft).await.is_err() {
        // Closing the lane tells those who wait.
        return shared.lane.close();
    }
    // A message through the same queue: when it answers, all that was queued before it has surfaced.
    if raft.with_raft_state(|_| ()).await.is_err() {
        return shared.lane.close();
    }
    shared.resume_lane();
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use bytes::Bytes;
    use klamm_records::EntryId;

    use super::*;

    /// A lane whose "queue" is a vector, and whose answers go to another.
    struct Bench {
        lane: Lane,
        queue: RefCell<Vec<(Arc<Pending>, u64)>>,
        answers: Arc<Mutex<Vec<String>>>,
    }

    impl Bench {
        fn new() -> Bench {
            Bench {
                lane: Lane::new(),
                queue: RefCell::default(),
                answers: Arc::default(),
            }
        }

        fn enter(&self) -> bool {
            let answers = Arc::clone(&self.answers);
            let done = Box::new(move |result: Result<EntryId, ProposeError>| {
                answers.lock().push(format!("{result:?}"));
            });
            let send = |pending, generation| self.queue.borrow_mut().push((pending, generation));
            self.lane
                .enter(1, Proposal::Command(Bytes::new()), done, send)
                .is_ok()
        }

        fn resume(&self) {
            self.lane
                .resume(|pending, generation| self.queue.borrow_mut().push((pending, generation)));
        }

        /// What openraft would see next: sequences and generations.
        fn queued(&self) -> Vec<(u64, u64)> {
            self.queue
                .borrow()
                .iter()
                .map(|(pending, generation)| (pending.sequence, *generation))
                .collect()
        }

        fn surface(&self, at: usize) -> Arc<Pending> {
            self.queue.borrow_mut().remove(at).0
        }
    }

    #[test]
    fn what_was_refused_or_overtaken_is_sent_again_in_order() {
        let bench = Bench::new();
        (0..4).for_each(|_| assert!(bench.enter()));
        assert_eq!(bench.queued(), [(0, 0), (1, 0), (2, 0), (3, 0)]);

        let accepted = bench.surface(0);
        assert!(!bench.lane.is_stale(&accepted));
        assert!(
            bench.lane.park(bench.surface(0)),
            "the first starts the renewal"
        );
        assert!(bench.enter(), "a new one waits behind");
        let overtaken = bench.surface(0);
        assert!(bench.lane.is_stale(&overtaken));
        assert!(!bench.lane.park(overtaken));
        assert!(!bench.lane.park(bench.surface(0)));
        assert_eq!(bench.queued(), []);

        bench.resume();
        assert_eq!(bench.queued(), [(1, 1), (2, 1), (3, 1), (4, 1)]);
        assert!(bench.enter());
        assert_eq!(bench.queued().last(), Some(&(5, 1)));
        for (pending, generation) in bench.queue.borrow().iter() {
            assert!(!bench.lane.is_stale(pending));
            assert!(pending.is_of(*generation));
        }
        assert!(bench.answers.lock().is_empty());
    }

    #[test]
    fn the_lease_can_be_lost_again() {
        let bench = Bench::new();
        (0..2).for_each(|_| assert!(bench.enter()));
        assert!(bench.lane.park(bench.surface(0)));
        assert!(!bench.lane.park(bench.surface(0)));
        bench.resume();
        assert!(bench.lane.park(bench.surface(0)), "a new renewal");
        assert!(bench.lane.is_stale(&bench.surface(0)));
    }

    #[test]
    fn closing_answers_what_waits_and_refuses_the_rest() {
        let bench = Bench::new();
        (0..2).for_each(|_| assert!(bench.enter()));
        assert!(bench.lane.park(bench.surface(0)));
        bench.lane.close();
        assert!(
            !bench.lane.park(bench.surface(0)),
            "no renewal for a closed lane"
        );
        assert!(!bench.enter());
        assert_eq!(*bench.answers.lock(), ["Err(Stopped)", "Err(Stopped)"]);
    }
}
