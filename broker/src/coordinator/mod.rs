//! The runtime of the group coordinator: which shards this node has, and how requests reach them.
//!
//! The rules are klamm-coordinator's: pure. Here are the log, the clock, randomness and tasks.
//!
//! ```text
//!  handler ── ask ──> queue ──> shard task ── rules ──> records ── Partition::append ──> Raft
//!                                  │  ▲                                                   │
//!                                  │  └───────────────── committed ───────────────────────┘
//!  handler <── answer ─────────────┘  everything decided before it is committed
//! ```
//!
//! - **A shard is one task** (`shard.rs`), one for each partition of `__consumer_offsets` that is open
//!   here; it coordinates while this node leads the partition. The **supervisor** starts and ends them.
//! - **Leading begins with reading** (`load.rs`) the log up to where it ended when this node became
//!   leader. Until then requests are `COORDINATOR_LOAD_IN_PROGRESS`.
//! - **Batching without delay**: while a batch is on its way to disk, requests queue; all that have
//!   queued are decided together and share the next batch (`batches.rs`). Several are in flight.
//! - **Answers leave** (`release.rs`) when everything decided before them is committed: also those that
//!   read, for they may tell of it.
//! - **Whatever fails drops the shard**: requests that wait are `NOT_COORDINATOR`, and what is in the
//!   log is read again. A rule that panics is a bug that costs its shard a reload, not the process.
//!
//! A full queue holds the connection back (it stops reading) instead of refusing: what waits is bounded
//! by the pool of request memory already, and clients that are refused come back at once.

mod batches;
mod lag;
mod load;
mod placement;
mod release;
mod settings;
mod shard;
mod supervisor;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use klamm_coordinator::{Answer, Caller, Request, Settings};
use klamm_metadata::Image;
use klamm_metadata::names::GROUP_METADATA_TOPIC;
use klamm_protocol::ErrorCode;
use klamm_records::plant::{self, Bug};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use crate::partition::Partition;

pub use lag::{GroupCount, GroupLag, Lags, Overview};
pub use placement::offsets_topic;
pub use supervisor::run;

/// A request on its way to a shard.
pub struct Ask {
    /// Who asks.
    pub caller: Caller,
    /// What.
    pub request: Request,
    /// Where the answer goes. Dropped without one: this node no longer coordinates the group.
    pub reply: Reply,
}

impl Ask {
    /// Whether it may write: refused while the disk is full.
    fn writes(&self) -> bool {
        use klamm_coordinator::Request;
        match &self.request {
            Request::JoinGroup(_)
            | Request::SyncGroup(_)
            | Request::LeaveGroup(_)
            | Request::OffsetCommit(_)
            | Request::OffsetDelete(_)
            | Request::DeleteGroup { .. }
            | Request::ConsumerGroupHeartbeat(_) => true,
            Request::Heartbeat(_)
            | Request::OffsetFetch(_)
            | Request::DescribeGroup { .. }
            | Request::ListGroups
            | Request::ConsumerGroupDescribe { .. } => false,
        }
    }
}

/// Takes the answer to one request, or why there is none.
pub type Reply = oneshot::Sender<Result<Answer, ErrorCode>>;

/// Whether a shard takes requests.
enum Phase {
    /// This node does not lead the partition.
    NotLeading,
    /// It reads the log.
    Loading,
    /// It coordinates.
    Active(Door),
}

/// Ways into a shard.
#[derive(Clone)]
struct Door {
    asks: mpsc::Sender<Ask>,
    looks: mpsc::Sender<Look>,
    partition: Arc<Partition>,
}

/// Takes all committed offsets of a shard.
type Look = oneshot::Sender<Vec<CommittedOffset>>;

/// A committed offset of a group.
struct CommittedOffset {
    group: Arc<str>,
    topic: Arc<str>,
    partition: i32,
    offset: i64,
}

/// What others see of a shard's task.
struct Slot {
    phase: RwLock<Phase>,
    /// Changes of topics that the shard has not seen yet.
    topics: Mutex<TopicChanges>,
    topics_changed: tokio::sync::Notify,
}

/// Topics that changed since a shard last looked.
#[derive(Default)]
struct TopicChanges {
    any: bool,
    deleted: Vec<Arc<str>>,
}

impl Slot {
    fn new() -> Slot {
        Slot {
            phase: RwLock::new(Phase::NotLeading),
            topics: Mutex::default(),
            topics_changed: tokio::sync::Notify::new(),
        }
    }

    fn set(&self, phase: Phase) {
        *self.phase.write() = phase;
    }

    fn door(&self) -> Result<Door, ErrorCode> {
        match &*self.phase.read() {
            Phase::NotLeading => Err(ErrorCode::NOT_COORDINATOR),
            Phase::Loading => Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            Phase::Active(door) => Ok(door.clone()),
        }
    }
}

/// The shards of this node.
pub struct Coordinators {
    slots: RwLock<BTreeMap<i32, Arc<Slot>>>,
    settings: ArcSwap<Settings>,
    lags: Lags,
}

impl Default for Coordinators {
    fn default() -> Coordinators {
        Coordinators {
            slots: RwLock::default(),
            settings: ArcSwap::from_pointee(Settings::default()),
            lags: Lags::default(),
        }
    }
}

impl Coordinators {
    /// The partition of `__consumer_offsets` that a group lives in; `None` before the topic exists.
    pub fn partition_of(image: &Image, group: &str) -> Option<i32> {
        let partitions = image.topic(GROUP_METADATA_TOPIC)?.partitions.len();
        let partitions = i32::try_from(partitions).ok().filter(|count| *count > 0)?;
        Some(placement::partition_of(group, partitions))
    }

    /// The queue of a group's shard.
    ///
    /// # Errors
    /// `NOT_COORDINATOR` and `COORDINATOR_LOAD_IN_PROGRESS`.
    pub fn queue_of(&self, image: &Image, group: &str) -> Result<mpsc::Sender<Ask>, ErrorCode> {
        let partition = Self::partition_of(image, group).ok_or(ErrorCode::NOT_COORDINATOR)?;
        let slots = self.slots.read();
        let slot = slots.get(&partition).ok_or(ErrorCode::NOT_COORDINATOR)?;
        let door = slot.door()?;
        // Another may be the coordinator by now, with newer offsets.
        let fresh = door.partition.check_fresh();
        if !plant::is(Bug::DeposedAnswers) {
            fresh.map_err(|_| ErrorCode::NOT_COORDINATOR)?;
        }
        Ok(door.asks)
    }

    /// The queues of all shards that this node leads.
    ///
    /// # Errors
    /// `COORDINATOR_LOAD_IN_PROGRESS` while one of them is being read.
    pub fn queues(&self) -> Result<Vec<mpsc::Sender<Ask>>, ErrorCode> {
        let doors = self.doors().into_iter();
        doors.map(|door| door.map(|door| door.asks)).collect()
    }

    /// The shards that this node leads; an error for each that is being read.
    fn doors(&self) -> Vec<Result<Door, ErrorCode>> {
        let slots = self.slots.read();
        let doors = slots.values().map(|slot| slot.door());
        doors
            .filter(|door| !matches!(door, Err(ErrorCode::NOT_COORDINATOR)))
            .collect()
    }

    /// Whether the shard of a partition takes requests.
    pub fn is_active(&self, partition: i32) -> bool {
        let slots = self.slots.read();
        slots
            .get(&partition)
            .is_some_and(|slot| slot.door().is_ok())
    }

    /// Lag of groups, as last looked at.
    pub fn lags(&self) -> &Lags {
        &self.lags
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }
}
