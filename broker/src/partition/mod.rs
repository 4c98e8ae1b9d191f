//! One partition on this node: validation order, appends, reads, offsets.
//!
//! Owns: the order in which batches of a partition enter Raft (behaviour 50: check of the
//! producer's sequence and hand-over are one step), the high watermark and who waits for it.
//! Does not own: the log (klamm-storage), agreement (klamm-raft), which partitions exist
//! (the metadata image, by way of the reconciler), or wire formats (handlers).

mod append;
mod in_sync;
mod nearest;
mod order;
mod read;
mod registry;
mod replica;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use klamm_metadata::Partition as Assigned;
use klamm_metadata::settings::TopicSettings;
use klamm_protocol::ErrorCode;
use klamm_raft::{Group, Leadership, NodeId, Proposal, ProposeError};
use klamm_records::{GroupId, TopicId};
use klamm_storage::producers::ProducerInfo;
use klamm_storage::{GroupLog, LogSettings, StorageError, Store};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use append::{AppendError, Appended, Handover};
pub use read::{EpochEnd, Isolation, Read, ReadRequest};
pub use registry::Partitions;
pub use replica::{Replica, Watch};
pub use standing::Standing;

use in_sync::{Followers, Look};
use order::Order;
use replica::Awaited;

use crate::cluster::Cluster;

/// A partition replica of this node and its Raft group.
pub struct Partition {
    topic: Arc<str>,
    topic_id: TopicId,
    index: i32,
    replica: Arc<Replica>,
    group: Group,
    store: Store,
    settings: ArcSwap<TopicSettings>,
    followers: Mutex<Followers>,
}

impl Partition {
    /// Puts a partition together. `group` must run over `replica`'s log with it as state machine.
    pub fn new(
        topic: Arc<str>,
        topic_id: TopicId,
        index: i32,
        replica: Arc<Replica>,
        group: Group,
        store: Store,
        settings: Arc<TopicSettings>,
    ) -> Partition {
        crate::throttle::hold_back(&group, &settings, index);
        Partition {
            topic,
            topic_id,
            index,
            replica,
            group,
            store,
            settings: ArcSwap::new(settings),
            followers: Mutex::default(),
        }
    }

    /// A state machine for a partition's group, to be opened before the partition. `read_on_followers`: consumers
    /// may read the replica while another node leads (KIP-392).
    pub fn replica(log: GroupLog, read_on_followers: bool) -> Arc<Replica> {
        Arc::new(Replica::new(log, read_on_followers))
    }

    /// Name of the topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Id of the topic.
    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// Partition number within the topic.
    pub fn index(&self) -> i32 {
        self.index
    }

    /// The Raft group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The log.
    pub fn log(&self) -> &GroupLog {
        self.replica.log()
    }

    /// Settings in force.
    pub fn settings(&self) -> Arc<TopicSettings> {
        self.settings.load_full()
    }

    /// Puts changed settings in force.
    pub fn set_settings(&self, settings: Arc<TopicSettings>) {
        self.log()
            .set_settings(log_settings(&settings, self.log().group()));
        crate::throttle::hold_back(&self.group, &settings, self.index);
        self.settings.store(settings);
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        self.replica.leadership()
    }

    /// Leader epoch (Raft term) that this node serves; `None` when it does not lead.
    pub fn serving_epoch(&self) -> Option<i32> {
        let now = self.replica.leadership();
        now.serving.then(|| epoch(now.term))
    }

    /// Offset after the last committed record.
    pub fn high_watermark(&self) -> i64 {
        self.replica.high_watermark()
    }

    /// First offset that may be read.
    pub fn start_offset(&self) -> i64 {
        self.log().start_offset()
    }

    /// First offset that is not decided yet. No transactions: the high watermark.
    pub fn last_stable_offset(&self) -> i64 {
        self.high_watermark()
    }

    /// Wakes `notify` at the next change a reader may wait for, until the guard is dropped.
    pub fn watch(&self, notify: Arc<Notify>) -> Watch {
        self.replica.watch(notify, Awaited::Anything)
    }

    /// Wakes `notify` when it may be another node that leads, or this one in another term, until the
    /// guard is dropped.
    pub fn watch_leadership(&self, notify: Arc<Notify>) -> Watch {
        self.replica.watch(notify, Awaited::Leadership)
    }

    /// Waits until the high watermark reaches `offset`; false at the deadline or when leadership is lost.
    pub async fn wait_committed(&self, offset: i64, deadline: Instant) -> bool {
        let is_committed = || self.high_watermark() >= offset;
        let is_over = || is_committed() || self.serving_epoch().is_none();
        self.wait_until(deadline, is_over).await;
        is_committed()
    }

    /// Whether the partition has a leader: this node, able to serve, or another.
    pub fn is_led(&self) -> bool {
        let now = self.leadership();
        now.serving || now.leader.is_some_and(|leader| leader != self.group.node())
    }

    /// Waits until the partition has a leader. False at the deadline.
    pub async fn wait_led(&self, deadline: Instant) -> bool {
        self.wait_until(deadline, || self.is_led()).await
    }

    /// Waits for something that changes with the high watermark, the log start or the leadership; false
    /// at the deadline.
    async fn wait_until(&self, deadline: Instant, is_so: impl Fn() -> bool) -> bool {
        let notify = Arc::new(Notify::new());
        let _watch = self.watch(notify.clone());
        while !is_so() {
            let woken = tokio::time::timeout_at(deadline, notify.notified()).await;
            if woken.is_err() {
                return is_so();
            }
        }
        true
    }

    /// Whether this leader may answer for how things stand now (R15): no other has taken over unnoticed.
    ///
    /// # Errors
    /// `NOT_LEADER_OR_FOLLOWER` when it may not.
    pub fn check_fresh(&self) -> Result<(), ErrorCode> {
        match self.group.leads_surely() {
            true => Ok(()),
            false => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        }
    }

    /// Compares a client's idea of the leader epoch with ours (KIP-320, behaviour 78).
    pub fn check_epoch(&self, current_leader_epoch: i32) -> Result<i32, ErrorCode> {
        let epoch = self
            .serving_epoch()
            .ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
        compare_epochs(current_leader_epoch, epoch)
    }

    /// Deletes the records below `offset` on every replica (behaviour 110); -1 means the high
    /// watermark. Answers the new log start once the order is committed.
    pub async fn delete_records(&self, offset: i64, deadline: Instant) -> Result<i64, ErrorCode> {
        let term = self
            .serving_term()
            .ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
        let high_watermark = self.high_watermark();
        let offset = if offset == -1 { high_watermark } else { offset };
        if offset < 0 || offset > high_watermark {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        if offset <= self.start_offset() {
            return Ok(self.start_offset());
        }
        let (done, committed) = tokio::sync::oneshot::channel();
        self.group.propose(
            term,
            Proposal::Command(Order::StartOffset(offset).encode()),
            Box::new(move |result| {
                // The requester may have given up waiting.
                let _ = done.send(result);
            }),
        );
        match tokio::time::timeout_at(deadline, committed).await {
            Err(_) => Err(ErrorCode::REQUEST_TIMED_OUT),
            Ok(Err(_)) => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            Ok(Ok(Err(error))) => Err(propose_error(&error)),
            Ok(Ok(Ok(_))) => self.wait_start_offset(offset, deadline).await,
        }
    }

    async fn wait_start_offset(&self, offset: i64, deadline: Instant) -> Result<i64, ErrorCode> {
        let has_moved = || self.start_offset() >= offset;
        match self.wait_until(deadline, has_moved).await {
            true => Ok(self.start_offset()),
            false => Err(ErrorCode::REQUEST_TIMED_OUT),
        }
    }

    /// Closes the active segment, so that retention may drop it. False if it could not.
    pub async fn roll(&self) -> bool {
        let (done, rolled) = tokio::sync::oneshot::channel();
        self.log().roll(Box::new(move |result| {
            let _ = done.send(result);
        }));
        matches!(rolled.await, Ok(Ok(())))
    }

    /// Lets Raft forget what lies below the log start on this replica, so that its files go.
    pub async fn purge(&self, cluster: &Cluster) -> Result<(), ProposeError> {
        self.purge_entries_below(self.start_offset(), cluster).await
    }

    /// Lets Raft forget the entries wholly below `offset` on this replica, as far as they are
    /// applied, and every replica has them. Their records stay to be read, from the log start on.
    pub async fn purge_entries_below(
        &self,
        offset: i64,
        cluster: &Cluster,
    ) -> Result<(), ProposeError> {
        let below = self.log().last_entry_below(offset)?;
        let purged = self.log().raft_state().purged;
        let is_new = |index: u64| purged.is_none_or(|purged| purged.index < index);
        let Some(upto) = below.filter(|upto| is_new(upto.index)) else {
            return Ok(());
        };
        let held = cluster.held_by_all(&self.group).await;
        let Some(held) = held.and_then(|end| end.checked_sub(1)) else {
            return Ok(());
        };
        let index = upto.index.min(held);
        match is_new(index) {
            true => self.group.purge(index).await,
            false => Ok(()),
        }
    }

    /// Forgets producers that have been silent for `producer.id.expiration.ms` (behaviour 49).
    pub fn expire_producers(&self, now_ms: i64) {
        let ttl_ms = self.settings.load().producer_id_expiration_ms;
        if let Some(view) = self.replica.leader.lock().as_mut() {
            view.producers.expire(now_ms, ttl_ms);
        }
    }

    /// Producers this leader remembers; none when it does not lead.
    pub fn producers(&self) -> Vec<ProducerInfo> {
        let leader = self.replica.leader.lock();
        leader
            .as_ref()
            .map(|view| view.producers.iter().collect())
            .unwrap_or_default()
    }

    /// The sequence that this leader awaits of a producer; `None` if it may begin with any, or when it does
    /// not lead.
    pub fn next_sequence(&self, producer_id: i64, producer_epoch: i16) -> Option<i32> {
        let leader = self.replica.leader.lock();
        let producers = &leader.as_ref()?.producers;
        producers.next_sequence(producer_id, producer_epoch)
    }

    /// Stops serving, because the partition is gone, and wakes who waits for it.
    pub fn retire(&self) {
        self.replica.retire();
    }

    /// Brokers whose replicas keep up with this one, itself among them; none when it does not serve.
    pub fn in_sync(&self) -> Arc<[i32]> {
        let Some(term) = self.serving_term() else {
            return Arc::default();
        };
        let known = self.followers.lock().in_sync(term);
        known.unwrap_or_else(|| self.look(Instant::now(), Duration::MAX, |_| true))
    }

    /// Sees which followers keep up, if this node serves the partition.
    pub fn look_at_followers(
        &self,
        now: Instant,
        longest: Duration,
        is_there: impl Fn(NodeId) -> bool,
    ) {
        if self.serving_term().is_some() {
            self.look(now, longest, is_there);
        }
    }

    fn look(
        &self,
        now: Instant,
        longest: Duration,
        is_there: impl Fn(NodeId) -> bool,
    ) -> Arc<[i32]> {
        let progress = self.group.progress();
        let (voters, _) = self.group.members();
        let look = Look {
            now,
            term: self.leadership().term,
            me: self.group.node(),
            last_index: progress.last_index,
            matched: &progress.matched,
            voters: &voters,
        };
        self.followers.lock().look(&look, longest, is_there)
    }

    fn serving_term(&self) -> Option<u64> {
        let now = self.replica.leadership();
        now.serving.then_some(now.term)
    }
}

/// The replica that a broker has in a partition's Raft group.
pub fn replica_of(partition: &Assigned, broker: i32) -> NodeId {
    NodeId::new(broker, partition.number(broker))
}

/// A client's idea of the leader epoch, -1 for none, and the epoch that it is.
fn compare_epochs(told: i32, epoch: i32) -> Result<i32, ErrorCode> {
    match told {
        -1 => Ok(epoch),
        told if told < epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
        told if told > epoch => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(epoch),
    }
}

/// What the log itself needs of a topic's settings. The jitter of `segment.ms` is fixed per group.
pub fn log_settings(settings: &TopicSettings, group: GroupId) -> LogSettings {
    LogSettings {
        segment_bytes: settings.segment_bytes,
        segment_ms: settings.jittered_segment_ms(group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        index_interval_bytes: settings.index_interval_bytes,
        producer_id_expiration_ms: settings.producer_id_expiration_ms,
    }
}

/// A Raft term as a Kafka leader epoch. Pre-vote keeps terms small: one per real election.
pub fn epoch(term: u64) -> i32 {
    i32::try_from(term).expect("Raft terms grow by one per election and fit 31 bits for centuries")
}

/// The error a client sees for a storage failure on the read path.
pub fn storage_error(error: &StorageError) -> ErrorCode {
    match error {
        StorageError::OutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
        StorageError::GroupGone(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        StorageError::Poisoned(_) | StorageError::Corrupt { .. } | StorageError::Io(_) => {
            ErrorCode::KAFKA_STORAGE_ERROR
        }
    }
}

/// The error a client sees for a proposal that did not commit.
pub fn propose_error(error: &ProposeError) -> ErrorCode {
    match error {
        ProposeError::NotLeader { .. } | ProposeError::Stopped => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ProposeError::Full => ErrorCode::KAFKA_STORAGE_ERROR,
        ProposeError::Storage(error) => storage_error(error),
    }
}
