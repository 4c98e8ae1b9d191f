//! Operations that change the log. Each is applied to the state and queued for the journal under
//! the `order` lock; what it needs to read from files is read before the state is touched.

use klamm_records::EntryId;

use super::state::FileAction;
use super::walk::{Begin, ReadFault};
use super::{GroupLog, Log};
use crate::entry::{Entry, Payload, Vote};
use crate::error::{Completion, StorageError};
use crate::index::SparseEntry;
use crate::journal::{Anchor, Cut, Done, Frame, FrameBody, Op};
use crate::producers::ProducerStates;
use crate::segment::NO_TIMESTAMP;
use crate::store::{Shared, decode_producers};

impl GroupLog {
    /// Appends in order and stamps batches; `done` when durable. Entries are visible to `entries`
    /// and `read` at once (before durable). Returns the log end offset after them. Waits while
    /// more than a bounded number of bytes is queued for the journal.
    ///
    /// # Errors
    /// The store failed, or the group is gone; `done` is called with the error as well.
    ///
    /// # Panics
    /// When an index is not the one after the last, or a term goes back.
    pub fn append(&self, entries: Vec<Entry>, done: Completion) -> Result<i64, StorageError> {
        let done = Done::new(done);
        let bytes = entries.iter().map(batch_bytes).sum();
        if let Err(error) = self.shared().gate.admit(bytes, &self.shared().failure) {
            done.call(Err(error.clone()));
            return Err(error);
        }
        let now_ms = self.shared().steady.now_ms();
        let _order = self.log.order.lock();
        let mut state = self.log.state.lock();
        if let Err(error) = self.log.check(&state) {
            drop(state);
            self.shared().gate.release(bytes);
            done.call(Err(error.clone()));
            return Err(error);
        }
        let mut frames = Vec::with_capacity(entries.len());
        for entry in entries {
            let frame = state.frame_for(self.log.group, entry);
            let applied = state.apply(&frame, now_ms);
            assert!(
                applied.is_ok(),
                "append to group {}: {applied:?}",
                self.log.group
            );
            frames.push(frame);
        }
        let end_offset = state.end_offset;
        drop(state);
        self.queue(frames, Vec::new(), done, bytes);
        Ok(end_offset)
    }

    /// Saves Raft's vote; `done` when durable.
    pub fn save_vote(&self, vote: Vote, done: Completion) {
        self.change(done, |_| Ok(Some(FrameBody::Vote(vote))));
    }

    /// Removes entries with index > `last` (all, if None); `done` when durable. Reads the log to
    /// find what producers and segment looked like there: rare, and mostly from memory.
    pub fn truncate_after(&self, last: Option<EntryId>, done: Completion) {
        self.change(done, |log| {
            let from = last.map_or(0, |last| last.index + 1);
            if log.state.lock().last.is_none_or(|end| end.index < from) {
                return Ok(None);
            }
            let cut = log.stable(self.shared(), || log.find_cut(self.shared(), from))?;
            Ok(Some(FrameBody::Truncate { last, cut }))
        });
    }

    /// Forgets entries with index <= `upto` as Raft's. Their records stay to be read by offset
    /// until the log start has passed them: a segment's file goes when both have.
    pub fn purge(&self, upto: EntryId, done: Completion) {
        self.change(done, |log| {
            if log
                .state
                .lock()
                .purged
                .is_some_and(|purged| purged.index >= upto.index)
            {
                return Ok(None);
            }
            let shared = self.shared();
            let first_kept = log.stable(shared, || {
                log.walk(shared, Begin::Index(upto.index + 1))?.next()
            })?;
            let first_kept = match first_kept {
                Some((raft_index, place)) => Anchor {
                    segment_base: place.segment_base,
                    position: place.position,
                    base_offset: place.header.base_offset,
                    raft_index,
                },
                // The next batch to come, with any index from here on.
                None => log.state.lock().end_anchor(upto.index + 1),
            };
            Ok(Some(FrameBody::Purge {
                upto,
                end_offset: first_kept.base_offset,
                first_kept: Some(first_kept),
            }))
        });
    }

    /// Moves the log start inside the log (DeleteRecords, retention), never back. Files go when
    /// their entries are purged as well.
    pub fn set_start_offset(&self, offset: i64, done: Completion) {
        self.change(done, |log| {
            let state = log.state.lock();
            let (start, end) = (state.start_offset, state.end_offset);
            if offset > end {
                return Err(StorageError::OutOfRange { offset, start, end });
            }
            Ok((offset > start).then_some(FrameBody::StartOffset(offset)))
        });
    }

    /// Closes the active segment if it holds data, so that retention may drop it.
    pub fn roll(&self, done: Completion) {
        self.change(done, |log| {
            let state = log.state.lock();
            Ok((state.active().size > 0).then_some(FrameBody::Roll(state.end_offset)))
        });
    }

    /// Remembers what Raft knows to be committed; durable with the next checkpoint, which is soon
    /// enough: Raft finds out again.
    pub fn set_committed(&self, committed: EntryId) {
        let mut state = self.log.state.lock();
        let last = state.last;
        let committed = last
            .filter(|last| last.index < committed.index)
            .unwrap_or(committed);
        if state.committed != Some(committed) {
            state.committed = Some(committed);
            state.dirty = true;
        }
    }

    /// Runs one operation: `decide` makes its frame, or says that nothing is left to do; then
    /// `done` still waits for what was queued before.
    pub(crate) fn change(
        &self,
        done: Completion,
        decide: impl FnOnce(&Log) -> Result<Option<FrameBody>, StorageError>,
    ) {
        let done = Done::new(done);
        let _order = self.log.order.lock();
        match self.apply_change(decide) {
            Ok((frames, actions)) => self.queue(frames, actions, done, 0),
            Err(error) => done.call(Err(error)),
        }
    }

    fn apply_change(
        &self,
        decide: impl FnOnce(&Log) -> Result<Option<FrameBody>, StorageError>,
    ) -> Result<(Vec<Frame>, Vec<FileAction>), StorageError> {
        let (log, shared) = (self.log.as_ref(), self.shared());
        shared.failure.accepts()?;
        log.check(&log.state.lock())?;
        let Some(body) = decide(log)? else {
            return Ok((Vec::new(), Vec::new()));
        };
        let producers = match &body {
            FrameBody::Truncate { cut: Some(cut), .. } => {
                Some(log.producers_now(shared, cut.offset)?)
            }
            _ => None,
        };
        let mut state = log.state.lock();
        let frame = Frame {
            group: log.group,
            op: state.op + 1,
            body,
        };
        let applied = state.apply(&frame, shared.steady.now_ms());
        let actions = match applied {
            Ok(actions) => actions,
            Err(reason) => panic!("group {}: {reason}", log.group),
        };
        if let Some(producers) = producers {
            state.producers = producers;
            state.producers_stale = false;
        }
        // A fill, too, begins a file under a name that replay writes earlier batches to.
        if matches!(
            frame.body,
            FrameBody::Truncate { .. } | FrameBody::Install(_)
        ) {
            log.note_truncation(frame.op);
        }
        Ok((vec![frame], actions))
    }

    /// Queues an operation that was applied to the state. The caller holds the order lock.
    pub(crate) fn queue(
        &self,
        frames: Vec<Frame>,
        actions: Vec<FileAction>,
        done: Done,
        bytes: u64,
    ) {
        let log = std::sync::Arc::clone(&self.log);
        self.store.send(Op {
            log,
            frames,
            actions,
            done,
            bytes,
        });
    }
}

fn batch_bytes(entry: &Entry) -> u64 {
    match &entry.payload {
        Payload::Batch(batch) => batch.bytes.len() as u64,
        _ => 0,
    }
}

impl Log {
    /// Where the log ends if entries from `from` on go; `None` if no batch is among them.
    fn find_cut(&self, shared: &Shared, from: u64) -> Result<Option<Cut>, ReadFault> {
        let Some((_, place)) = self.walk(shared, Begin::Index(from))?.next()? else {
            return Ok(None);
        };
        let (segment_base, offset) = (place.segment_base, place.header.base_offset);
        let mut cut = Cut {
            segment_base,
            position: place.position,
            offset,
            max_timestamp: NO_TIMESTAMP,
            last_batch_index: 0,
        };
        if place.position > 0 {
            let near = self.indexed_below(shared, segment_base, offset)?;
            cut.max_timestamp = near.map_or(NO_TIMESTAMP, |entry| entry.max_timestamp);
            let begin = near.map_or(segment_base, |entry| entry.base_offset);
            let mut walk = self.walk(shared, Begin::Offset(begin))?;
            while let Some((index, kept)) = walk.next()?
                && kept.header.base_offset < offset
            {
                cut.max_timestamp = cut.max_timestamp.max(kept.header.max_timestamp);
                cut.last_batch_index = index;
            }
        }
        Ok(Some(cut))
    }

    /// The last indexed batch of a segment that begins below `offset`.
    pub(super) fn indexed_below(
        &self,
        shared: &Shared,
        segment_base: i64,
        offset: i64,
    ) -> Result<Option<SparseEntry>, ReadFault> {
        let bound = {
            let state = self.state.lock();
            let fresh = state.fresh_of(segment_base);
            let below = fresh.partition_point(|entry| entry.base_offset < offset);
            if let Some(entry) = below.checked_sub(1).and_then(|at| fresh.get(at)) {
                return Ok(Some(*entry));
            }
            if !state.has_rows(segment_base) {
                return Ok(None);
            }
            state.index_bounds().0
        };
        let highest = offset.min(bound).saturating_sub(1);
        Ok(shared
            .index
            .at_or_below_offset(self.group, segment_base, highest)?)
    }

    /// Like [`Log::producers_at`], while nothing else happens to the log.
    pub(crate) fn producers_now(
        &self,
        shared: &Shared,
        offset: i64,
    ) -> Result<ProducerStates, StorageError> {
        self.stable(shared, || self.producers_at(shared, offset))
    }

    /// Producer state as of log end offset `offset`: that of the last checkpoint, if it is not
    /// from beyond, and what was appended since; else what the whole log says.
    fn producers_at(&self, shared: &Shared, offset: i64) -> Result<ProducerStates, ReadFault> {
        let (bound, installed) = {
            let state = self.state.lock();
            (state.index_bounds().0, state.installed_producers.clone())
        };
        let saved = shared
            .index
            .producers(self.group)?
            .and_then(|row| decode_producers(&row));
        let usable = saved.filter(|(upto, _)| *upto <= offset && *upto <= bound);
        let (begin, mut producers) = match installed {
            // What the index has is older.
            Some(installed) => (installed.upto, installed.producers.as_ref().clone()),
            None => usable.unwrap_or((0, ProducerStates::default())),
        };
        let now_ms = shared.steady.now_ms();
        let mut walk = self.walk(shared, Begin::Offset(begin))?;
        while let Some((_, place)) = walk.next()?
            && place.header.base_offset < offset
        {
            producers.appended(&place.header, now_ms);
        }
        Ok(producers)
    }
}
