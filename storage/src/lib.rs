//! SEAM (to be replaced by the storage crate's author, signatures kept).
#![allow(missing_docs, unused_variables, clippy::unimplemented, reason = "seam")]

pub mod clock;
pub mod disk;
pub mod index;
pub mod producers;

pub use clock::{Clock, ManualClock, SystemClock};
pub use disk::{Disk, DiskFile, FaultDisk, OpenMode, RealDisk};
pub use index::{Index, IndexBatch, IndexStore, MemoryIndexStore, RocksIndexStore};
pub use producers::{ProducerStates, SequenceCheck};

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::{BatchHeader, EntryId, GroupId};

/// One entry of a group's Raft log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: EntryId,
    pub payload: Payload,
}

/// What an entry carries. Only `Batch` takes Kafka offsets and lies in a segment file.
#[derive(Clone, Debug)]
pub enum Payload {
    Blank,
    /// Raft membership, encoded by klamm-raft; opaque here.
    Membership(Bytes),
    /// Replicated order to the state machine that takes no offset (e.g. "move the log start").
    Command(Bytes),
    Batch(Batch),
}

/// A record batch. The first STAMP_LEN bytes of `bytes` are what the client sent; the stamp is
/// what counts: `append` fills it in (base offset = log end, epoch = term of the entry).
#[derive(Clone, Debug)]
pub struct Batch {
    /// Header as stamped (base_offset and partition_leader_epoch are the assigned ones after append).
    pub header: BatchHeader,
    /// The whole batch. After reading back: exactly the bytes of the segment file.
    pub bytes: Bytes,
}

/// Raft's hard state, opaque but for its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// Called exactly once, from the journal thread, when the operation is durable or has failed.
/// Must not block.
pub type Completion = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The store met a failed write or sync and takes nothing more (R1).
    #[error("the store failed and stopped: {0}")]
    Poisoned(Arc<str>),
    /// CRC or structure of stored bytes is wrong; the range is quarantined.
    #[error("corrupt data in {file} at {position}: {what}")]
    Corrupt { file: PathBuf, position: u64, what: Arc<str> },
    #[error("offset {offset} is outside {start}..={end}")]
    OutOfRange { offset: i64, start: i64, end: i64 },
    #[error("group {0} is gone")]
    GroupGone(GroupId),
    #[error("i/o: {0}")]
    Io(Arc<str>),
}

#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub dir: PathBuf,
    /// Checkpoint after so many journal bytes.
    pub checkpoint_bytes: u64,
    /// ... or when the oldest un-checkpointed frame is so old.
    pub checkpoint_interval: std::time::Duration,
    /// Batches of one group in one round from this size on go to the segment directly.
    pub bypass_bytes: usize,
    /// Free bytes on the file system below which `writable()` is false (R11).
    pub reserve_bytes: u64,
    pub max_open_files: usize,
    /// false: no fdatasync (dev --ephemeral tests only); the caller says so to the user.
    pub sync: bool,
}

/// Settings of one log, changeable at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub segment_bytes: u64,
    pub segment_ms: u64,
    pub index_interval_bytes: u32,
    pub producer_id_expiration_ms: u64,
}

/// Store of one node: the journal, the index, all group logs. Cheap handle.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens (or founds) the store under `options.dir`, replays the journal.
    pub fn open(options: StoreOptions, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<(Store, RecoveryReport), OpenError> { unimplemented!() }
    pub fn groups(&self) -> Vec<GroupId> { unimplemented!() }
    pub fn group(&self, group: GroupId) -> Option<GroupLog> { unimplemented!() }
    /// Journaled, durable on return of `done`; the handle is usable at once. `dir` is the folder
    /// name below the store's directory (never client-chosen text: topic uuid and partition).
    pub fn create_group(&self, group: GroupId, dir: &str, settings: LogSettings) -> Result<GroupLog, StorageError> { unimplemented!() }
    /// Journaled; closes the log, unlinks its files. Readers in progress finish or get GroupGone.
    pub fn delete_group(&self, group: GroupId, done: Completion) { unimplemented!() }
    /// False once free space is below the reserve; true again by itself.
    pub fn writable(&self) -> bool { unimplemented!() }
    pub fn failure(&self) -> Option<StorageError> { unimplemented!() }
    /// Called once, from any thread, when the store is poisoned.
    pub fn on_failure(&self, hook: Box<dyn Fn(&StorageError) + Send + Sync>) { unimplemented!() }
    pub fn stats(&self) -> StoreStats { unimplemented!() }
    /// Final checkpoint and stop of the threads; blocking.
    pub fn close(&self) -> Result<(), StorageError> { unimplemented!() }
}

#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    pub frames_replayed: u64,
    pub bytes_replayed: u64,
    pub torn_tail_bytes: u64,
    /// Human-readable descriptions of corruption met: partition dir, file, range.
    pub corrupt: Vec<String>,
    pub took: std::time::Duration,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data directory {dir} is locked by {owner}")]
    Locked { dir: PathBuf, owner: String },
    #[error("data directory {dir} has format {found}, this program knows up to {known}")]
    NewerFormat { dir: PathBuf, found: u32, known: u32 },
    #[error("{what}: {cause}")]
    Failed { what: String, cause: String },
}

/// Counters and histograms since start, for /metrics. Reading costs nothing on the write path.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    pub journal_bytes: u64,
    pub journal_frames: u64,
    pub syncs: u64,
    /// (upper bound in seconds, count) of fdatasync latency; and of frames per round.
    pub sync_seconds: Vec<(f64, u64)>,
    pub sync_seconds_sum: f64,
    pub round_frames: Vec<(f64, u64)>,
    pub round_frames_sum: f64,
    pub checkpoints: u64,
    pub segments: u64,
    pub segment_bytes: u64,
    pub open_files: u64,
    pub free_bytes: u64,
    pub total_bytes: u64,
    pub corruptions: u64,
}

/// One group's log. Cheap handle (`Arc` inside).
#[derive(Clone)]
pub struct GroupLog {}

impl GroupLog {
    pub fn group(&self) -> GroupId { unimplemented!() }

    // --- Raft's side. Operations of one group take effect in the order of the calls.

    pub fn raft_state(&self) -> RaftState { unimplemented!() }
    /// Appends in order; stamps batches; `done` when durable. Entries are visible to `entries`
    /// and `read` at once (before durable). Returns the log end offset after them.
    /// Panics (assert) when an index is not last + 1 or a term goes back.
    pub fn append(&self, entries: Vec<Entry>, done: Completion) -> Result<i64, StorageError> { unimplemented!() }
    pub fn save_vote(&self, vote: Vote, done: Completion) { unimplemented!() }
    /// Removes entries with index > `last` (all, if None).
    pub fn truncate_after(&self, last: Option<EntryId>, done: Completion) { unimplemented!() }
    /// Removes entries with index <= `upto`: whole segments below are unlinked, the log start
    /// offset moves to the first kept record (never back).
    pub fn purge(&self, upto: EntryId, done: Completion) { unimplemented!() }
    /// Remembers what Raft knows to be committed; lazily durable (with the next checkpoint).
    pub fn set_committed(&self, committed: EntryId) { unimplemented!() }
    /// Entries of an index range, at most `max_bytes` of payload but at least one. With
    /// `with_data` false, batches come with an empty `bytes` (for apply). CRC checked when read from disk.
    pub fn entries(&self, range: std::ops::Range<u64>, max_bytes: usize, with_data: bool) -> Result<Vec<Entry>, StorageError> { unimplemented!() }
    pub fn entry_id(&self, index: u64) -> Result<Option<EntryId>, StorageError> { unimplemented!() }
    /// The last membership entry at or below `index`.
    pub fn membership_at(&self, index: u64) -> Result<Option<Entry>, StorageError> { unimplemented!() }
    /// The last entry wholly below Kafka offset `offset` that may be purged with it.
    pub fn last_entry_below(&self, offset: i64) -> Result<Option<EntryId>, StorageError> { unimplemented!() }

    // --- Kafka's side.

    pub fn start_offset(&self) -> i64 { unimplemented!() }
    pub fn end_offset(&self) -> i64 { unimplemented!() }
    pub fn size_bytes(&self) -> u64 { unimplemented!() }
    pub fn dir(&self) -> PathBuf { unimplemented!() }
    /// Whole batches from the one that holds `from`, up to those that end at or before
    /// `end_offset` (exclusive bound, e.g. high watermark), at most `max_bytes` but the first
    /// batch always if `at_least_one`. Bytes are as on disk, CRC checked.
    pub fn read(&self, from: i64, end_offset: i64, max_bytes: usize, at_least_one: bool) -> Result<Bytes, StorageError> { unimplemented!() }
    /// True when a `read` there would be served from memory or recent page cache (no seek expected).
    pub fn is_hot(&self, from: i64) -> bool { unimplemented!() }
    /// First record below `end_offset` with timestamp >= `timestamp`: (offset, timestamp, leader epoch).
    pub fn offset_for_timestamp(&self, timestamp: i64, end_offset: i64) -> Result<Option<TimestampOffset>, StorageError> { unimplemented!() }
    /// The record with the largest timestamp below `end_offset`.
    pub fn max_timestamp(&self, end_offset: i64) -> Result<Option<TimestampOffset>, StorageError> { unimplemented!() }
    /// Epoch history: (epoch, first offset), ascending.
    pub fn epochs(&self) -> Vec<(i32, i64)> { unimplemented!() }
    /// Producer state as the log implies it (all appended batches, committed or not).
    pub fn producers(&self) -> ProducerStates { unimplemented!() }
    /// Moves the log start inside the log (DeleteRecords); journaled; files go with `purge`.
    pub fn set_start_offset(&self, offset: i64, done: Completion) { unimplemented!() }
    pub fn segments(&self) -> Vec<SegmentInfo> { unimplemented!() }
    /// Closes the active segment if it holds data, so that retention may drop it.
    pub fn roll(&self, done: Completion) { unimplemented!() }
    pub fn set_settings(&self, settings: LogSettings) { unimplemented!() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    pub offset: i64,
    pub timestamp: i64,
    pub leader_epoch: i32,
}

#[derive(Clone, Debug)]
pub struct SegmentInfo {
    pub base_offset: i64,
    pub next_offset: i64,
    pub size_bytes: u64,
    /// -1 if it holds no timestamp.
    pub max_timestamp: i64,
    pub active: bool,
    pub path: PathBuf,
}

#[derive(Clone, Debug)]
pub struct RaftState {
    pub vote: Option<Vote>,
    pub purged: Option<EntryId>,
    pub last: Option<EntryId>,
    pub committed: Option<EntryId>,
}
