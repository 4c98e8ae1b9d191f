//! Checkpoints: the journal's effects are made durable in segments and index, then its old files
//! are free to be used again.
//!
//! 1. The journal begins a new file: replay will begin there.
//! 2. Each changed log's state is copied. It may be ahead of the new file's start: each row says
//!    up to which operation it goes, and replay skips frames up to there.
//! 3. A barrier: all operations in the copies are durable and in the segment files.
//! 4. Segment files and directories are synced.
//! 5. One atomic commit of the index: rows, and the marker with the place to replay from.
//! 6. Memory that the index now covers is released, journal files before the place are recycled.
//!
//! A crash anywhere leaves the old marker with all its files, or the new one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, TryGetError};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use klamm_records::GroupId;
use parking_lot::Mutex;

use crate::error::StorageError;
use crate::hands::JournalHands;
use crate::index::{Check, IndexBatch};
use crate::journal::{JournalPlace, Message, Spares, recycle};
use crate::layout::journal_dir;
use crate::log::fill::InstalledProducers;
use crate::log::{Log, row};
use crate::mailbox::Post;
use crate::segment::SegmentFile;
use crate::store::{Shared, encode_producers};

/// Written entries kept in memory of a log at a checkpoint: idle logs shall cost little.
const KEEP_DESCRIPTORS: usize = 16;

/// A start that has replayed so many journal files asks for a checkpoint at once: so many are full when one is due by size.
const MANY_FILES: u64 = 4;

/// Between two pieces of the index that are checked: not to be in anyone's way.
const CHECK_PAUSE: Duration = Duration::from_millis(20);

/// What the checkpoint thread is asked for.
pub(crate) enum Request {
    /// Something was journaled: a checkpoint within the interval.
    Within,
    /// The journal has grown enough.
    Due,
    /// At once; the last one before the store closes if `last`.
    Now {
        last: bool,
        answer: Sender<Result<(), StorageError>>,
    },
    /// End the thread.
    Stop,
}

impl Request {
    /// What a start asks for. Each start that finds something begins a journal file of its own: a node that is ended again
    /// and again before a checkpoint is due by time would fill the disk with them, and read them all.
    pub(crate) fn after_replay(files: u64, frames: u64) -> Option<Request> {
        if files >= MANY_FILES {
            return Some(Request::Due);
        }
        (frames > 0).then_some(Request::Within)
    }
}

/// Why the checkpoint thread goes on.
enum Wake {
    Asked(Request),
    /// A checkpoint is due by time.
    Due,
    /// Nobody wants anything.
    Idle,
}

/// What the checkpoint thread does while nobody asks for anything.
enum Work {
    /// The index has no copy: it is made.
    Copy,
    /// Both are read.
    Check(Check),
}

impl Work {
    /// How long nobody must have asked.
    fn pause(&self) -> Duration {
        match self {
            Work::Copy => Duration::ZERO,
            Work::Check(_) => CHECK_PAUSE,
        }
    }
}

/// The row that says where a start begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// First journal file to replay, and its first block.
    pub(crate) place: JournalPlace,
    /// The store was closed after this checkpoint: no file holds more than its state says.
    pub(crate) clean: bool,
    /// Groups that are gone although the journal still has frames of them, up to an operation.
    pub(crate) deleted: Vec<(GroupId, u64)>,
}

const MARKER_VERSION: u8 = 1;

impl Marker {
    pub(crate) fn new(place: JournalPlace) -> Marker {
        Marker {
            place,
            clean: true,
            deleted: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(32);
        row.put_u8(MARKER_VERSION);
        row.put_u64_le(self.place.file_seq);
        row.put_u64_le(self.place.block_seq);
        row.put_u8(u8::from(self.clean));
        row.put_u32_le(u32::try_from(self.deleted.len()).expect("deleted groups are few"));
        for (group, op) in &self.deleted {
            row.put_u64_le(group.0);
            row.put_u64_le(*op);
        }
        row
    }

    /// `None`: a version this program does not know.
    pub(crate) fn decode(mut row: &[u8]) -> Result<Option<Marker>, TryGetError> {
        if row.try_get_u8()? != MARKER_VERSION {
            return Ok(None);
        }
        let place = JournalPlace {
            file_seq: row.try_get_u64_le()?,
            block_seq: row.try_get_u64_le()?,
        };
        let clean = row.try_get_u8()? != 0;
        let mut deleted = Vec::new();
        for _ in 0..row.try_get_u32_le()? {
            deleted.push((GroupId(row.try_get_u64_le()?), row.try_get_u64_le()?));
        }
        Ok(Some(Marker {
            place,
            clean,
            deleted,
        }))
    }
}

/// A log whose state is in the commit under way.
struct Copied {
    log: Arc<Log>,
    op: u64,
    /// Index entries in the commit, by segment.
    indexed: Vec<(SegmentFile, usize)>,
}

/// The checkpoint thread.
pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    journal: Post<Message>,
    requests: Receiver<Request>,
    spares: Arc<Mutex<Spares>>,
    /// The journal, where it has no thread.
    hands: Option<JournalHands>,
    /// When a checkpoint is due by time.
    due: Option<Instant>,
    /// What is done between requests.
    work: Option<Work>,
}

impl Checkpointer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        journal: Post<Message>,
        requests: Receiver<Request>,
        spares: Arc<Mutex<Spares>>,
    ) -> Checkpointer {
        let work = Some(match shared.pair.lacks_copy() {
            true => Work::Copy,
            false => Work::Check(Check::new()),
        });
        Checkpointer {
            shared,
            journal,
            requests,
            spares,
            hands: None,
            due: None,
            work,
        }
    }

    /// One that drives the journal itself.
    pub(crate) fn driving(self, hands: JournalHands) -> Checkpointer {
        Checkpointer {
            hands: Some(hands),
            ..self
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Serves requests until told to stop; between them copies the index if it has no copy, and goes
    /// through it once.
    pub(crate) fn run(mut self) {
        loop {
            let next = self.wait();
            if !self.serve(next) {
                return;
            }
        }
    }

    /// Does what is to be done now; false if nothing is.
    pub(crate) fn step(&mut self) -> bool {
        let next = match self.requests.try_recv() {
            Ok(request) => Wake::Asked(request),
            Err(_) if self.due.is_some_and(|due| due <= Instant::now()) => Wake::Due,
            Err(_) if self.work.is_some() => Wake::Idle,
            Err(_) => return false,
        };
        self.serve(next)
    }

    /// False when told to stop.
    fn serve(&mut self, next: Wake) -> bool {
        match next {
            Wake::Asked(Request::Within) => {
                let interval = self.shared.options.checkpoint_interval;
                self.due = self.due.or_else(|| Instant::now().checked_add(interval));
            }
            Wake::Asked(Request::Due) | Wake::Due => {
                self.due = None;
                // A failure has been reported by whoever met it.
                let _ = self.checkpoint(false);
            }
            Wake::Asked(Request::Now { last, answer }) => {
                self.due = None;
                let _ = answer.send(self.checkpoint(last));
            }
            Wake::Asked(Request::Stop) => return false,
            Wake::Idle => self.work = self.work.take().and_then(|work| self.work(work)),
        }
        true
    }

    /// Does a piece of work that nobody waits for; what is left of it.
    fn work(&self, work: Work) -> Option<Work> {
        let pair = &self.shared.pair;
        match work {
            Work::Copy if self.shared.failure.accepts().is_err() => None,
            Work::Copy => match pair.copy_piece() {
                Ok(true) => Some(Work::Copy),
                Ok(false) => Some(Work::Check(Check::new())),
                Err(cause) => {
                    // Without one the store is as good as stores of earlier versions.
                    tracing::error!(%cause, "the index has no copy: making one failed");
                    Some(Work::Check(Check::new()))
                }
            },
            Work::Check(check) => pair.check(check).map(Work::Check),
        }
    }

    /// What comes next; with work to do, so long without anything is something, too.
    fn wait(&self) -> Wake {
        let pause = self.work.as_ref().map(Work::pause);
        let left = self
            .due
            .map(|due| due.saturating_duration_since(Instant::now()));
        let Some(timeout) = left.into_iter().chain(pause).min() else {
            return Wake::Asked(self.requests.recv().unwrap_or(Request::Stop));
        };
        match self.requests.recv_timeout(timeout) {
            Ok(request) => Wake::Asked(request),
            Err(RecvTimeoutError::Timeout) if Some(timeout) == left => Wake::Due,
            Err(RecvTimeoutError::Timeout) => Wake::Idle,
            Err(RecvTimeoutError::Disconnected) => Wake::Asked(Request::Stop),
        }
    }

    fn checkpoint(&self, last: bool) -> Result<(), StorageError> {
        let shared = &self.shared;
        let place = self.ask(Message::Rotate)?;
        let logs: Vec<Arc<Log>> = shared.groups.read().values().cloned().collect();
        let mut batch = IndexBatch::new();
        let now_ms = shared.steady.now_ms();
        let copied: Vec<Copied> = logs
            .iter()
            .filter_map(|log| copy(log, &mut batch, now_ms))
            .collect();
        // After the copies: a log that was not copied because it is deleted is among these, and so may be
        // one that was copied. Otherwise frames behind `place` would belong to a log nobody knows.
        let deleted = std::mem::take(&mut *shared.deleted.lock());
        for (group, _) in &deleted {
            batch.delete_group(*group);
        }
        let just_deleted: BTreeSet<GroupId> = deleted.iter().map(|(group, _)| *group).collect();
        let marker = Marker {
            place,
            // Files that a fill leaves behind are for the next start to remove.
            clean: last && shared.fills.load(Ordering::SeqCst) == 0,
            deleted,
        };
        batch.set_marker(marker.encode());
        self.ask(Message::Barrier)?;
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            shared.failure.poison(&format!("checkpoint: {what}: {e}"))
        };
        for log in &logs {
            log.sync_files(shared).map_err(|e| failed("segments", &e))?;
        }
        shared.sync_root().map_err(|e| failed("directory", &e))?;
        // Another thread may have been told of a failed sync that this one was not.
        shared.failure.check()?;
        shared
            .index
            .commit(batch)
            .map_err(|e| failed("index", &e))?;
        copied.iter().for_each(release);
        let dir = journal_dir(&shared.options.dir);
        recycle(shared.disk.as_ref(), &dir, place.file_seq, &self.spares)
            .map_err(|e| failed("journal", &e))?;
        let graves = std::mem::take(&mut *shared.graves.lock());
        for grave in graves {
            match shared.disk.remove_dir_all(&grave) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(|e| failed("removal", &e))?,
            }
        }
        self.release_ids(&just_deleted);
        shared.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Of groups deleted before the last checkpoint, this one left no frames to replay.
    fn release_ids(&self, just_deleted: &BTreeSet<GroupId>) {
        let deleted = self.shared.deleted.lock();
        let since = |group: &GroupId| deleted.iter().any(|(other, _)| other == group);
        self.shared
            .retired
            .lock()
            .retain(|group| just_deleted.contains(group) || since(group));
    }

    /// Sends a control message to the journal thread and waits for the answer.
    fn ask<T>(
        &self,
        message: impl FnOnce(Sender<Result<T, StorageError>>) -> Message,
    ) -> Result<T, StorageError> {
        let (answer, answered) = bounded(1);
        let stopped = || StorageError::Poisoned("the journal thread ended".into());
        self.journal.send(message(answer)).map_err(|_| stopped())?;
        if let Some(hands) = &self.hands {
            hands.finish();
        }
        answered.recv().map_err(|_| stopped())?
    }
}

/// Puts a changed log's state into the batch.
fn copy(log: &Arc<Log>, batch: &mut IndexBatch, now_ms: i64) -> Option<Copied> {
    let group = log.group;
    // With the order lock, what the state holds has been queued.
    let _order = log.order.lock();
    let mut state = log.state.lock();
    if !state.dirty || state.deleted {
        return None;
    }
    state.dirty = false;
    let ttl_ms = state.settings.producer_id_expiration_ms;
    state.producers.expire(now_ms, ttl_ms);
    let stale = std::mem::take(&mut state.stale);
    for base_offset in &stale.dropped {
        batch.delete_segment(group, *base_offset);
    }
    if let Some((segment_base, offset)) = stale.cut {
        batch.truncate_offsets(group, segment_base, offset);
    }
    if let Some(from) = stale.truncated_from {
        batch.truncate_raft(group, from);
    }
    if let Some(upto) = stale.purged_upto {
        batch.purge_raft(group, upto);
    }
    state.stale_committing = stale;
    let mut indexed = Vec::new();
    let purged = state.purged.map(|purged| purged.index);
    for segment in state.segments.iter_mut().filter(|s| s.dirty) {
        segment.dirty = false;
        batch.put_segment(group, segment.base_offset, segment.encode());
        for entry in &segment.fresh {
            if Some(entry.raft_index) > purged {
                batch.put_sparse(group, entry);
            } else {
                batch.put_offset(group, entry);
            }
        }
        indexed.push((segment.file(), segment.fresh.len()));
    }
    for (index, entry) in state.plain.iter_mut().filter(|(_, entry)| !entry.saved) {
        entry.saved = true;
        batch.put_raft_entry(group, *index, row::encode_plain(entry));
    }
    batch.put_group(group, row::encode(&log.dir, &state));
    batch.put_producers(group, encode_producers(state.end_offset, &state.producers));
    Some(Copied {
        log: Arc::clone(log),
        op: state.op,
        indexed,
    })
}

/// Releases memory that the index covers since the commit.
fn release(copied: &Copied) {
    let log = &copied.log;
    let mut state = log.state.lock();
    state.stale_committing = Default::default();
    // After a cut the counts do not fit any more; the entries are then committed once more.
    if state.stale.cut.is_none() {
        for (file, count) in &copied.indexed {
            if let Ok(at) = state
                .segments
                .binary_search_by_key(&file.base_offset, |s| s.base_offset)
                && let Some(segment) = state.segments.get_mut(at)
                // Or it was compacted since, and these are not its entries.
                && segment.file() == *file
            {
                segment.fresh.drain(..*count);
                segment.fresh.shrink_to_fit();
                segment.rows_stale = false;
            }
        }
    } else {
        state.dirty = true;
        state
            .segments
            .iter_mut()
            .filter(|s| !s.fresh.is_empty())
            .for_each(|s| s.dirty = true);
    }
    state.tail.keep_written(KEEP_DESCRIPTORS);
    let covered = |installed: &mut InstalledProducers| installed.op <= copied.op;
    state.installed_producers.take_if(covered);
    log.checkpointed_op.store(copied.op, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn markers_round_trip(
            (file_seq, block_seq, clean) in (any::<u64>(), any::<u64>(), any::<bool>()),
            deleted in prop::collection::vec((any::<u64>(), any::<u64>()), 0..5),
        ) {
            let deleted = deleted.into_iter().map(|(group, op)| (GroupId(group), op)).collect();
            let place = JournalPlace { file_seq, block_seq };
            let marker = Marker { place, clean, deleted };
            let mut row = marker.encode();
            prop_assert_eq!(Marker::decode(&row), Ok(Some(marker)));
            prop_assert!(Marker::decode(&row[..row.len() - 1]).is_err());
            row[0] = 9;
            prop_assert_eq!(Marker::decode(&row), Ok(None));
        }
    }
}
