//! The log of one Raft group: Kafka segments on disk, Raft's view of them, Kafka's view of them.
//!
//! ```text
//! append ──► state (memory) ──► journal queue ──► journal thread ──► segment file
//!              │ entries, read: what is not in the file yet comes from the tail
//! ```
//!
//! Two locks: `order` is held while an operation is applied to the state *and* queued, so that the
//! journal sees operations in the order of the state; `state` is held for short moments only, and
//! never while waiting, because the journal thread takes it too.
//!
//! - `state.rs`: the state as a value, and every transition; `row.rs`: its form in a checkpoint;
//! - `tail.rs`: newest entries in memory;
//! - `append.rs`: operations that change the log;
//! - `read.rs`: Kafka's reads; `entries.rs`: Raft's reads; `times.rs`: lookups by timestamp;
//! - `compact/`: log compaction; `fill/`: filling a log from another replica's segments;
//! - `walk.rs`: going through batches, in files and in memory; `expected.rs`: what their headers have
//!   to say; `salvage.rs`: past a damaged one.
//!
//! Deliberately absent: what is committed. A reader brings its own bound.

mod append;
mod compact;
mod entries;
mod expected;
pub(crate) mod fill;
mod read;
pub(crate) mod row;
mod salvage;
pub(crate) mod state;
mod tail;
mod times;
mod walk;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use klamm_records::GroupId;
use parking_lot::Mutex;

use crate::disk::{DiskFile, FileKey};
use crate::error::StorageError;
use crate::options::LogSettings;
use crate::producers::ProducerStates;
use crate::segment::{SegmentFile, SegmentInfo};
use crate::store::{Handle, Shared};

pub use compact::{Compaction, CompactionError, CompactionRules, Pace};
pub use fill::{Chunk, Fill, FillError, FillPlace, FillSource, Manifest, ManifestError};
pub(crate) use read::ReadHints;
pub(crate) use state::{FileAction, LogState};
pub use times::TimestampOffset;

/// Files of a group that a checkpoint has to sync.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    pub(crate) segments: BTreeSet<i64>,
    /// Segments were created or removed.
    pub(crate) dir: bool,
}

/// What all handles of one log share.
pub(crate) struct Log {
    pub(crate) group: GroupId,
    /// Folder name below the store's directory.
    pub(crate) dir: String,
    pub(crate) path: PathBuf,
    pub(crate) order: Mutex<()>,
    pub(crate) state: Mutex<LogState>,
    pub(crate) unsynced: Mutex<Unsynced>,
    /// Held while a segment is synced.
    syncing: Mutex<()>,
    /// Held while the log is compacted.
    pub(crate) compacting: Mutex<()>,
    /// Copies of the log that are being made for other replicas.
    pub(crate) copies: AtomicUsize,
    /// Last operation that truncated.
    truncated_op: AtomicU64,
    /// Last operation that a checkpoint covers.
    pub(crate) checkpointed_op: AtomicU64,
    /// Places known to be damaged: (segment, position).
    damaged: Mutex<BTreeSet<(SegmentFile, u64)>>,
    hints: Mutex<ReadHints>,
}

impl Log {
    pub(crate) fn new(group: GroupId, dir: &str, path: PathBuf, state: LogState) -> Log {
        let op = state.op;
        Log {
            group,
            dir: dir.to_owned(),
            path,
            order: Mutex::default(),
            state: Mutex::new(state),
            unsynced: Mutex::default(),
            syncing: Mutex::default(),
            compacting: Mutex::default(),
            copies: AtomicUsize::new(0),
            truncated_op: AtomicU64::new(0),
            checkpointed_op: AtomicU64::new(op),
            damaged: Mutex::default(),
            hints: Mutex::default(),
        }
    }

    /// Whether a large append may go to the segment before the journal refers to it. Not between
    /// a truncation and the checkpoint that covers it: replay writes the truncated batches again,
    /// and must not write them over ones that only the segment has.
    pub(crate) fn may_bypass(&self) -> bool {
        let checkpointed = self.checkpointed_op.load(Ordering::SeqCst);
        self.truncated_op.load(Ordering::SeqCst) <= checkpointed
    }

    /// Operation `op` truncates.
    pub(crate) fn note_truncation(&self, op: u64) {
        self.truncated_op.store(op, Ordering::SeqCst);
    }

    pub(crate) fn key(&self, file: SegmentFile) -> FileKey {
        FileKey {
            group: self.group,
            base_offset: file.base_offset,
            generation: file.generation,
        }
    }

    pub(crate) fn segment_path(&self, file: SegmentFile) -> PathBuf {
        self.path.join(file.name())
    }

    /// The file of a segment that holds data.
    pub(crate) fn file(&self, shared: &Shared, file: SegmentFile) -> io::Result<Arc<dyn DiskFile>> {
        shared.files.get(self.key(file), || self.segment_path(file))
    }

    /// The file of a segment that is written to at `position`; created with the first batch.
    pub(crate) fn file_for_write(
        &self,
        shared: &Shared,
        base_offset: i64,
        position: u64,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let segment = SegmentFile::appended(base_offset);
        if position > 0 {
            return self.file(shared, segment);
        }
        shared.disk.create_dir_all(&self.path)?;
        let path = || self.segment_path(segment);
        let file = shared.files.get_or_create(self.key(segment), path)?;
        self.unsynced.lock().dir = true;
        shared.root_unsynced.store(true, Ordering::SeqCst);
        Ok(file)
    }

    /// Makes durable what was written to the group's segments, and their directory entries.
    pub(crate) fn sync_files(&self, shared: &Shared) -> io::Result<()> {
        let segments = std::mem::take(&mut self.unsynced.lock().segments);
        for base_offset in segments {
            self.sync_segment(shared, base_offset)?;
        }
        self.sync_dir(shared)
    }

    /// Makes durable what was written to one segment, by anyone.
    pub(crate) fn sync_segment(&self, shared: &Shared, base_offset: i64) -> io::Result<()> {
        if !shared.options.sync {
            return Ok(());
        }
        // A failed sync is reported once, to one of two threads; the other one must find the
        // store poisoned by the time it gets its false success.
        let _syncing = self.syncing.lock();
        let synced = match self.file(shared, SegmentFile::appended(base_offset)) {
            Ok(file) => file.sync_data(),
            // Purged, truncated or compacted since; the journal has the operation that did it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = &synced {
            shared.failure.poison(&format!("segment: {e}"));
        }
        synced
    }

    /// Makes the entries of the group's segments durable, and that of its directory.
    pub(crate) fn sync_dir(&self, shared: &Shared) -> io::Result<()> {
        if !shared.options.sync {
            return Ok(());
        }
        // Held throughout: who finds nothing to sync must be able to rely on it.
        let syncing = shared.dir_sync.lock();
        let changed = std::mem::take(&mut self.unsynced.lock().dir);
        if changed {
            match shared
                .files
                .making_room(|| shared.disk.sync_dir(&self.path))
            {
                // Deleted meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    shared.failure.poison(&format!("segment directory: {e}"));
                    return Err(e);
                }
                Ok(()) => {}
            }
        }
        drop(syncing);
        shared.sync_root()
    }

    /// Counts and logs a damaged place once, and makes the error.
    pub(crate) fn damage(
        &self,
        shared: &Shared,
        segment: SegmentFile,
        position: u64,
        what: &str,
    ) -> StorageError {
        let file = self.segment_path(segment);
        if self.damaged.lock().insert((segment, position)) {
            shared.counters.corruptions.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                group = self.group.0, file = %file.display(), position, what,
                "corrupt data; the range is quarantined"
            );
        }
        StorageError::Corrupt {
            file,
            position,
            what: what.into(),
        }
    }

    /// What is known to be damaged, in words; nothing of a log that is deleted. Places whose segment is gone, or ends
    /// before them by now, count no more.
    pub(crate) fn known_damage(&self) -> Option<String> {
        let places = self.damaged.lock().clone();
        let state = self.state.lock();
        if state.deleted {
            return None;
        }
        if let Some(reason) = &state.quarantine {
            return Some(reason.clone());
        }
        let segments = &state.segments;
        let holds = |(file, position): &&(SegmentFile, u64)| {
            let mut segments = segments.iter();
            segments.any(|segment| segment.file() == *file && *position < segment.size)
        };
        let mut left = places.iter().filter(holds);
        let (file, position) = left.next()?;
        let more = match left.count() {
            0 => String::new(),
            more => format!(", and {more} other places"),
        };
        let path = self.segment_path(*file);
        Some(format!(
            "corrupt data in {} at {position}{more}",
            path.display()
        ))
    }

    /// Refuses on a deleted or quarantined log.
    pub(crate) fn check(&self, state: &LogState) -> Result<(), StorageError> {
        if state.deleted {
            return Err(StorageError::GroupGone(self.group));
        }
        match &state.quarantine {
            Some(reason) => Err(StorageError::Corrupt {
                file: self.path.clone(),
                position: 0,
                what: reason.as_str().into(),
            }),
            None => Ok(()),
        }
    }
}

/// One group's log. Cheap handle.
#[derive(Clone)]
pub struct GroupLog {
    pub(crate) log: Arc<Log>,
    pub(crate) store: Arc<Handle>,
}

impl std::fmt::Debug for GroupLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupLog")
            .field("group", &self.log.group)
            .finish_non_exhaustive()
    }
}

impl GroupLog {
    /// The group.
    pub fn group(&self) -> GroupId {
        self.log.group
    }

    /// Log start offset: the first offset that may be read.
    pub fn start_offset(&self) -> i64 {
        self.log.state.lock().start_offset
    }

    /// Kafka offset at which the entries begin that Raft still has. What lies before it, from the
    /// log start on, is committed and only there to be read.
    pub fn entries_start_offset(&self) -> i64 {
        let state = self.log.state.lock();
        state.purged_end.max(state.start_offset)
    }

    /// Offset below which compaction has been: each key has one record at most there, but for
    /// those that later ones supersede.
    pub fn compacted_offset(&self) -> i64 {
        let state = self.log.state.lock();
        state
            .compacted_upto
            .clamp(state.start_offset, state.end_offset)
    }

    /// Log end offset: what the next record gets.
    pub fn end_offset(&self) -> i64 {
        self.log.state.lock().end_offset
    }

    /// Bytes of batches in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.log.state.lock().size_bytes()
    }

    /// The group's directory.
    pub fn dir(&self) -> PathBuf {
        self.log.path.clone()
    }

    /// Why the log takes nothing, if the journal lost operations of it (R9). Such a replica
    /// neither votes nor leads; what lies before the damage is still there to be copied.
    pub fn quarantine(&self) -> Option<StorageError> {
        let state = self.log.state.lock();
        self.log
            .check(&state)
            .err()
            .filter(|e| matches!(e, StorageError::Corrupt { .. }))
    }

    /// What is known to be damaged of the log, in words: it is in quarantine, or parts of it were found corrupt since
    /// the start and are there still. A log of which this tells something serves what is whole; it is for its node to
    /// have it replaced.
    pub fn known_damage(&self) -> Option<String> {
        self.log.known_damage()
    }

    /// Whether the disk has more free space than its reserve, which is for what keeps a node going.
    pub fn has_room(&self) -> bool {
        self.store.shared.space.writable()
    }

    /// Epoch history: (leader epoch, its first offset), ascending.
    pub fn epochs(&self) -> Vec<(i32, i64)> {
        self.log.state.lock().epochs.clone()
    }

    /// Producer state as the log implies it (all appended batches, committed or not).
    pub fn producers(&self) -> ProducerStates {
        self.log.state.lock().producers.clone()
    }

    /// Segments, oldest first; the last one is active.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.log.state.lock();
        let active = state.active().base_offset;
        let info = |s: &crate::segment::Segment| SegmentInfo {
            base_offset: s.base_offset,
            next_offset: s.next_offset,
            size_bytes: s.size,
            max_timestamp: s.max_timestamp,
            first_timestamp: s.first_timestamp,
            active: s.base_offset == active,
            path: self.log.segment_path(s.file()),
        };
        state.segments.iter().map(info).collect()
    }

    /// Settings in force.
    pub fn settings(&self) -> LogSettings {
        self.log.state.lock().settings.clone()
    }

    /// Changes the settings; kept with the next checkpoint.
    pub fn set_settings(&self, settings: LogSettings) {
        let mut state = self.log.state.lock();
        state.dirty |= state.settings != settings;
        state.settings = settings;
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.store.shared
    }
}
