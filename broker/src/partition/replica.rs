//! What a partition's Raft group does on this node: the state machine behind the log.
//!
//! Owns the high watermark and, while this node leads, the leader's speculative view of the log
//! (next offset and producer sequences, ahead of Raft by the batches in flight).
//!
//! Invariants
//! - The high watermark never goes back and never passes what Raft has committed.
//! - The leader view exists only between "serving term T" and the loss of T. Proposals are
//!   fenced by T, so a view that outlived its term cannot append anything.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use klamm_raft::{Applied, Leadership, StateMachine};
use klamm_records::plant::{self, Bug};
use klamm_storage::{GroupLog, ProducerStates};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, error};

use super::order::Order;

/// The leader's view of a partition: what the log will be once everything in flight is appended.
#[derive(Debug)]
pub(super) struct LeaderView {
    pub(super) term: u64,
    pub(super) since: Instant,
    /// Whether another leader may have served before, so that clients may have sent batches there.
    pub(super) succeeds_another: bool,
    pub(super) next_offset: i64,
    pub(super) producers: ProducerStates,
}

/// State machine of one partition replica.
pub struct Replica {
    log: GroupLog,
    /// Consumers may read it while another node leads (KIP-392).
    pub(super) read_on_followers: bool,
    high_watermark: AtomicI64,
    pub(super) leader: Mutex<Option<LeaderView>>,
    leadership: Mutex<Leadership>,
    waiters: Mutex<HashMap<u64, (Awaited, Arc<Notify>)>>,
    next_waiter: AtomicU64,
}

impl Replica {
    pub(super) fn new(log: GroupLog, read_on_followers: bool) -> Replica {
        Replica {
            read_on_followers,
            // What was committed before a restart is unknown until the group commits again, but
            // it is at least the log start.
            high_watermark: AtomicI64::new(log.start_offset()),
            log,
            leader: Mutex::new(None),
            leadership: Mutex::new(Leadership {
                term: 0,
                leader: None,
                serving: false,
            }),
            waiters: Mutex::new(HashMap::new()),
            next_waiter: AtomicU64::new(0),
        }
    }

    /// The group's log.
    pub fn log(&self) -> &GroupLog {
        &self.log
    }

    /// Offset after the last committed record.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// Who leads, as the group last said.
    pub fn leadership(&self) -> Leadership {
        *self.leadership.lock()
    }

    /// Whether an earlier term than `term` had a leader that served: its first entry is in the log, or was purged.
    /// Term 0 has only the entry that the group was founded with.
    fn has_been_led_before(&self, term: u64) -> bool {
        let mut terms = self.log.terms().into_iter();
        self.log.raft_state().purged.is_some()
            || terms.any(|(earlier, _)| 0 < earlier && earlier < term)
    }

    /// Registers `notify` to be woken by what is `awaited`. Dropping the guard takes it off again.
    pub(super) fn watch(self: &Arc<Self>, notify: Arc<Notify>, awaited: Awaited) -> Watch {
        let id = self.next_waiter.fetch_add(1, Ordering::Relaxed);
        self.waiters.lock().insert(id, (awaited, notify));
        Watch {
            replica: self.clone(),
            id,
        }
    }

    /// Serves no more: its group is about to be closed.
    pub(super) fn retire(&self) {
        *self.leader.lock() = None;
        self.leadership.lock().serving = false;
        self.wake(Awaited::Leadership);
    }

    /// Wakes who awaits what happened.
    fn wake(&self, happened: Awaited) {
        for (awaited, notify) in self.waiters.lock().values() {
            if *awaited == Awaited::Anything || *awaited == happened {
                notify.notify_one();
            }
        }
    }
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// A move of the high watermark or the log start, or a change of leadership.
    Anything,
    /// A change of leadership.
    Leadership,
}

/// Registration of a waiter with one replica.
pub struct Watch {
    replica: Arc<Replica>,
    id: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.replica.waiters.lock().remove(&self.id);
    }
}

impl StateMachine for Replica {
    fn wants_data(&self) -> bool {
        false
    }

    fn is_read_on_followers(&self) -> bool {
        self.read_on_followers
    }

    fn committed(&self, end_offset: i64) {
        if self.high_watermark.fetch_max(end_offset, Ordering::AcqRel) < end_offset {
            self.wake(Awaited::Anything);
        }
    }

    fn apply(&self, entry: Applied) {
        let Applied::Command { id, data } = entry else {
            return;
        };
        match Order::decode(&data) {
            Ok(Order::StartOffset(offset)) => {
                let group = self.log.group();
                self.high_watermark.fetch_max(offset, Ordering::AcqRel);
                self.log.set_start_offset(
                    offset,
                    Box::new(move |done| match done {
                        Ok(()) => debug!(%group, offset, "log start moved"),
                        Err(cause) => {
                            error!(%group, offset, %cause, "failed to move the log start")
                        }
                    }),
                );
                self.wake(Awaited::Anything);
            }
            Err(cause) => {
                // Written by a newer program: going on would make replicas differ.
                error!(group = %self.log.group(), index = id.index, %cause, "unknown order in the log");
                panic!(
                    "unknown order in the log of group {}: {cause}",
                    self.log.group()
                );
            }
        }
    }

    fn leadership(&self, now: Leadership) {
        let mut leader = self.leader.lock();
        *leader = now.serving.then(|| LeaderView {
            term: now.term,
            since: Instant::now(),
            succeeds_another: self.has_been_led_before(now.term),
            next_offset: self.log.end_offset(),
            producers: match plant::is(Bug::ProducersForgotten) {
                true => ProducerStates::default(),
                false => self.log.producers(),
            },
        });
        *self.leadership.lock() = now;
        drop(leader);
        self.wake(Awaited::Leadership);
    }
}
