//! What the parts of one group share: handle, log store, state machine adapter, responders, tasks.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use klamm_records::{EntryId, GroupId};
use klamm_storage::{GroupLog, StorageError};
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::NodeId;
use crate::fill::{Fills, GroupFills};
use crate::lane::Lane;
use crate::leadership::Leadership;
use crate::machine::StateMachine;
use crate::network::PeerTransport;
use crate::proposal::Pending;
use crate::responder::responder;
use crate::solo::Solo;
use crate::throttle::{Brake, Rates};
use crate::types::Raft;

/// See the module.
pub(crate) struct Shared {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) log: GroupLog,
    pub(crate) machine: Arc<dyn StateMachine>,
    pub(crate) wants_data: bool,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) transport: Arc<dyn PeerTransport>,
    /// What the fills of all groups share.
    pub(crate) node_fills: Arc<Fills>,
    pub(crate) fills: GroupFills,
    pub(crate) brake: Brake,
    pub(crate) heartbeat_interval: Duration,
    /// How long after a quorum's acknowledgement a leader may still take writes.
    pub(crate) lease: Duration,
    pub(crate) lane: Lane,
    /// openraft is being built: it reads the log only to find its place.
    pub(crate) opening: AtomicBool,
    /// The group is being closed: that its tasks end is no failure.
    pub(crate) closing: AtomicBool,
    /// More than one voter: needs heartbeats and may need elections.
    pub(crate) has_peers: AtomicBool,
    /// Set by the driver while it would rather see another leader than the one it follows, or the
    /// transport cannot tell whether that one is there.
    pub(crate) doubts_leader: AtomicBool,
    /// Something happened that the driver should look at: an append, or its own unfinished work.
    pub(crate) stirred: AtomicBool,
    /// What another replica needs cannot be read here: somebody else is to lead. Set until the driver has looked.
    pub(crate) cannot_send: AtomicBool,
    /// The term in which this node, its leader, gave leadership away last, and when.
    handed_over: Mutex<Option<(u64, Instant)>>,
    /// The damage that was told of last.
    damage_told: Mutex<Option<String>>,
    created: Instant,
    /// When a leader's append was accepted last, in milliseconds since `created`; 0 for never.
    heard_at: AtomicU64,
    /// Term of the last applied entry.
    pub(crate) applied_term: AtomicU64,
    /// Who leads, or serves, may be another now.
    pub(crate) look_at_leadership: Notify,
    /// Where `purge` wants the next snapshot.
    pub(crate) snapshot_at: Mutex<Option<EntryId>>,
    pub(crate) purged: Notify,
    leadership: Mutex<Leadership>,
    /// What the state machine was told to be committed.
    committed_end: AtomicI64,
    raft: OnceLock<Raft>,
    solo: OnceLock<Solo>,
}

/// The settings of a node that its groups need.
pub(crate) struct Timing {
    pub(crate) fills: Arc<Fills>,
    pub(crate) rates: Arc<Rates>,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) lease: Duration,
}

impl Shared {
    pub(crate) fn new(
        node: NodeId,
        log: GroupLog,
        machine: Arc<dyn StateMachine>,
        runtime: tokio::runtime::Handle,
        transport: Arc<dyn PeerTransport>,
        timing: &Timing,
    ) -> Shared {
        Shared {
            group: log.group(),
            node,
            log,
            wants_data: machine.wants_data(),
            machine,
            runtime,
            transport,
            node_fills: Arc::clone(&timing.fills),
            fills: GroupFills::default(),
            brake: Brake::new(Arc::clone(&timing.rates)),
            heartbeat_interval: timing.heartbeat_interval,
            lease: timing.lease,
            lane: Lane::new(),
            opening: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            has_peers: AtomicBool::new(false),
            doubts_leader: AtomicBool::new(true),
            stirred: AtomicBool::new(true),
            cannot_send: AtomicBool::new(false),
            handed_over: Mutex::new(None),
            damage_told: Mutex::new(None),
            created: Instant::now(),
            heard_at: AtomicU64::new(0),
            applied_term: AtomicU64::new(0),
            look_at_leadership: Notify::new(),
            snapshot_at: Mutex::new(None),
            purged: Notify::new(),
            leadership: Mutex::new(Leadership {
                term: 0,
                leader: None,
                serving: false,
            }),
            committed_end: AtomicI64::new(0),
            raft: OnceLock::new(),
            solo: OnceLock::new(),
        }
    }

    /// The group's openraft, once built. `None` while [`Solo`] leads it.
    pub(crate) fn raft(&self) -> Option<&Raft> {
        self.raft.get()
    }

    pub(crate) fn set_raft(&self, raft: Raft) {
        assert!(
            self.raft.set(raft).is_ok(),
            "group {} was started twice",
            self.group
        );
        self.opening.store(false, Ordering::Release);
    }

    /// What leads a group without openraft, or did until there was one.
    pub(crate) fn solo(&self) -> Option<&Solo> {
        self.solo.get()
    }

    pub(crate) fn set_solo(&self, solo: Solo) {
        let is_first = self.solo.set(solo).is_ok();
        assert!(is_first, "group {} was started twice", self.group);
    }

    /// Lets proposals through again, those that waited first.
    pub(crate) fn resume_lane(self: &Arc<Self>) {
        self.lane
            .resume(|pending, generation| self.send(pending, generation));
    }

    /// Waits until `bytes` of entries may go to a replica. A voter does not wait.
    pub(crate) async fn hold_back_entries(&self, node: NodeId, bytes: usize) {
        let broker = node.broker();
        if bytes > 0 && self.brake.is_on(broker) && !self.is_voter(node) {
            self.brake.wait(broker, bytes).await;
        }
    }

    /// Whether a replica has a vote, by the newest membership that this one knows.
    pub(crate) fn is_voter(&self, node: NodeId) -> bool {
        match self.raft() {
            Some(raft) => {
                let newest = Arc::clone(&raft.server_metrics().borrow_watched().membership_config);
                newest.voter_ids().any(|voter| voter == node.0)
            }
            None => self.solo().is_some() && node == self.node,
        }
    }

    /// This node, which leads in `term`, asks another to lead.
    pub(crate) fn hands_over(&self, term: u64) {
        *self.handed_over.lock() = Some((term, Instant::now()));
        self.look_at_leadership.notify_one();
    }

    /// Another node, which leads in `term`, has asked for a successor; it may ask more than once.
    pub(crate) fn leader_hands_over(&self, term: u64) {
        let mut handed_over = self.handed_over.lock();
        if handed_over.is_none_or(|(then, _)| then < term) {
            *handed_over = Some((term, Instant::now()));
        }
    }

    /// Whether who leads in `term` has asked for a successor: it takes no proposals any more.
    pub(crate) fn has_handed_over(&self, term: u64) -> bool {
        let handed_over = *self.handed_over.lock();
        handed_over.is_some_and(|(then, _)| then == term)
    }

    /// Whether who leads in `term` asked for a successor, who has not come in two leases. openraft takes no
    /// proposals meanwhile, and never takes such a wish back.
    pub(crate) fn waits_for_successor(&self, term: u64) -> bool {
        let handed_over = *self.handed_over.lock();
        handed_over.is_some_and(|(then, at)| then == term && at.elapsed() > self.lease * 2)
    }

    /// Another replica needs what cannot be read here.
    pub(crate) fn cannot_send(&self, error: &StorageError) {
        let text = error.to_string();
        let mut told = self.damage_told.lock();
        if told.as_ref() != Some(&text) {
            tracing::error!(group = %self.group, error = text, "another replica needs what cannot be read here");
            *told = Some(text);
        }
        self.cannot_send.store(true, Ordering::Relaxed);
        self.stirred.store(true, Ordering::Relaxed);
    }

    pub(crate) fn leadership(&self) -> Leadership {
        *self.leadership.lock()
    }

    pub(crate) fn set_leadership(&self, now: Leadership) {
        *self.leadership.lock() = now;
    }

    /// Everything below `end_offset` is committed. Comes from the leader's commit and from apply;
    /// the machine hears only of progress.
    pub(crate) fn committed(&self, end_offset: i64) {
        if self.committed_end.fetch_max(end_offset, Ordering::AcqRel) < end_offset {
            self.machine.committed(end_offset);
        }
    }

    /// Below which all is committed, as far as this node knows.
    pub(crate) fn committed_end(&self) -> i64 {
        self.committed_end.load(Ordering::Acquire)
    }

    /// A leader's append was accepted.
    pub(crate) fn heard_leader(&self) {
        let at = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.heard_at.swap(at.max(1), Ordering::Relaxed) == 0 {
            self.look_at_leadership.notify_one();
        }
    }

    /// Whether any leader has been heard since the group was opened.
    pub(crate) fn has_heard_leader(&self) -> bool {
        self.heard_at.load(Ordering::Relaxed) > 0
    }

    /// How long ago that was; since the group was opened if it never was.
    pub(crate) fn unheard_for(&self) -> Duration {
        let heard_at = Duration::from_millis(self.heard_at.load(Ordering::Relaxed));
        self.created.elapsed().saturating_sub(heard_at)
    }

    /// An entry of `term` was applied.
    pub(crate) fn applied(&self, term: u64) {
        if self.applied_term.fetch_max(term, Ordering::AcqRel) < term {
            self.look_at_leadership.notify_one();
        }
    }

    /// Puts a proposal into the log, or on openraft's queue without waiting.
    ///
    /// openraft offers this only as a future. Its queue is configured never to be full, so the
    /// first poll completes it, unless the group has stopped: then it finds out why, which must
    /// not be cut short (openraft cannot stand it) and so goes on in a task.
    pub(crate) fn send(self: &Arc<Self>, pending: Arc<Pending>, generation: u64) {
        if let (None, Some(solo)) = (self.raft(), self.solo()) {
            return solo.append(self, pending);
        }
        let shared = Arc::clone(self);
        let mut sending = Box::pin(tokio::task::unconstrained(async move {
            let Some(raft) = shared.raft() else { return };
            let responder = responder(Arc::clone(&shared), Arc::clone(&pending), generation);
            let term = pending.term;
            // A stopped group drops the responder, which tells the proposer.
            let _ = raft
                .write(pending)
                .with_leader(term)
                .responder(responder)
                .into_future()
                .await;
        }));
        if sending.as_mut().now_or_never().is_none() {
            self.runtime.spawn(sending);
        }
    }
}
