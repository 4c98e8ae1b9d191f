//! Log compaction: of each key the newest record stays, offsets and batch headers stay true.
//!
//! ```text
//! sealed, purged segments ──► newest offset of each key, from the dirty part (map.rs)
//!          └────────────────► each run of segments, filtered (filter.rs), into a new file (writer.rs)
//!                              synced ──► journal: "this file is those segments" ──► old files go
//! ```
//!
//! Invariants:
//! - only segments whose entries are purged are rewritten: Raft never sees a log with holes;
//! - no file ever changes: the new one has its own name, complete and durable before the journal
//!   has the one frame that puts it in the place of the old ones. A crash before leaves a file that
//!   nothing refers to, which the next start removes; a crash after is replayed;
//! - readers that hold an old file finish, others begin again ([`Log::stable`]);
//! - runs are replaced in order of their offsets, so that a tombstone never goes before what it
//!   deletes;
//! - the last batch of a new file stays, if only as a header: a read finds the end of the segment,
//!   and a consumer that waits for the end of the log gets there;
//! - offsets stay without a gap: where batches go, the one before reaches over their offsets, or an
//!   empty one stands for them (writer.rs);
//! - the last committed batch of a producer stays likewise, and with it the sequence to go on from.
//!
//! Memory: the map, two buffers, one batch unpacked. Where the map is full the pass ends, and the
//! next one goes on there.
//!
//! Deliberately absent: when to compact, and how fast. The caller decides, and is asked to go on
//! with every read and write.

mod filter;
mod map;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use bytes::Bytes;
use klamm_records::{BatchHeader, RecordSet};

use super::walk::{ReadFault, SegmentReader, Spot};
use super::{GroupLog, Log};
use crate::error::StorageError;
use crate::journal::FrameBody;
use crate::segment::{Segment, SegmentFile};
use crate::store::Shared;
use filter::{Fate, Filter, is_plain};
use map::OffsetMap;
use writer::{NewFile, replacement_of};

/// Bytes of the smallest record with a key, uncompressed.
const MIN_KEYED_RECORD: u64 = 8;
/// New files stay so far below what Kafka's tools can address: delete horizons and another
/// compressor's version may make a batch grow.
const MAX_NEW_FILE: u64 = i32::MAX as u64 - 64 * 1024 * 1024;

/// What a pass may do and use.
#[derive(Clone, Debug)]
pub struct CompactionRules {
    /// Segments that end above this offset stay as they are (`min.compaction.lag.ms`, and the last
    /// stable offset: batches may reach over offsets that went).
    pub upto_offset: i64,
    /// High watermark: what lies below is never truncated.
    pub committed_offset: i64,
    /// The present, in ms.
    pub now_ms: i64,
    /// `delete.retention.ms`: how long a tombstone stays after it was first compacted.
    pub delete_retention_ms: u64,
    /// Bytes of memory for the map of keys.
    pub map_bytes: usize,
    /// How full the map may become, 0 to 1.
    pub map_load_factor: f64,
    /// Bytes of memory for reading and writing, half each.
    pub io_buffer_bytes: usize,
    /// Bytes that the records of one batch may unpack to.
    pub decompress_budget: usize,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Bytes of the segments it looked at.
    pub bytes_before: u64,
    /// Bytes that are left of them.
    pub bytes_after: u64,
    /// Segments it looked at.
    pub segments_before: usize,
    /// Segments that are left of them.
    pub segments_after: usize,
    /// Keys in the map.
    pub keys: usize,
    /// Keys that the map takes; as many as it held if it was full.
    pub key_capacity: usize,
    /// The log is compacted below this offset now.
    pub compacted_offset: i64,
}

/// Why a pass did not come to its end. What it had replaced by then stays replaced, which is right
/// at any point.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompactionError {
    /// The caller said so.
    #[error("compaction was stopped")]
    Stopped,
    /// Segments went while they were read (retention, deletion), another pass is under way, or the
    /// log is being copied ([`super::FillSource`]).
    #[error("the log changed during compaction")]
    Changed,
    /// Too little space is free for the new file.
    #[error("too little free disk space for compaction: {free} bytes, {needed} are needed")]
    NoSpace {
        /// Bytes free.
        free: u64,
        /// Bytes wanted.
        needed: u64,
    },
    /// A batch whose records cannot be read, or the store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<std::io::Error> for CompactionError {
    fn from(error: std::io::Error) -> CompactionError {
        CompactionError::Storage(error.into())
    }
}

/// Asked before every read and write of so many bytes; sleeps to hold a rate. False: stop.
pub type Pace<'a> = dyn FnMut(u64) -> bool + 'a;

impl GroupLog {
    /// Makes one pass over the segments that may be compacted; blocks for as long as it takes,
    /// while appends and reads go on. A segment may be if it is sealed, ends at or below
    /// `rules.upto_offset`, and all its entries are purged ([`GroupLog::purge`]).
    ///
    /// # Errors
    /// See [`CompactionError`]; `Corrupt` names the file and place that cannot be read.
    pub fn compact(
        &self,
        rules: &CompactionRules,
        pace: &mut Pace<'_>,
    ) -> Result<Compaction, CompactionError> {
        let (log, shared) = (self.log.as_ref(), self.shared());
        shared.failure.accepts()?;
        let Some(_alone) = log.compacting.try_lock() else {
            return Err(CompactionError::Changed);
        };
        if log.copies.load(Ordering::SeqCst) > 0 {
            return Err(CompactionError::Changed);
        }
        let plan = Plan::of(log, rules)?;
        let mut done = Compaction {
            compacted_offset: plan.first_dirty,
            ..Compaction::default()
        };
        if plan.first_dirty >= plan.end() {
            return Ok(done);
        }
        let mut pass = Pass {
            log,
            shared,
            rules,
            plan,
            pace,
        };
        let dirty_bytes: u64 = pass.plan.dirty().map(|s| s.size).sum();
        let records = usize::try_from(dirty_bytes / MIN_KEYED_RECORD).unwrap_or(usize::MAX);
        let mut map = OffsetMap::new(rules.map_bytes, rules.map_load_factor, records);
        let latest = pass.fill(&mut map)?;
        (done.keys, done.key_capacity) = (map.len(), map.capacity());
        for run in pass.plan.runs(latest + 1) {
            let after = pass.rewrite(self, &run, &map, latest)?;
            done.bytes_before += run.iter().map(|s| s.size).sum::<u64>();
            done.segments_before += run.len();
            done.bytes_after += after;
            done.segments_after += 1;
        }
        done.compacted_offset = latest + 1;
        let mut state = log.state.lock();
        if state.compacted_upto < done.compacted_offset {
            state.compacted_upto = done.compacted_offset;
            state.dirty = true;
        }
        Ok(done)
    }
}

/// What a pass works on, as of its start.
struct Plan {
    sources: Vec<Segment>,
    start_offset: i64,
    first_dirty: i64,
    run_bytes: u64,
    rearranged: u64,
    producers: BTreeMap<i64, Option<i64>>,
}

impl Plan {
    fn of(log: &Log, rules: &CompactionRules) -> Result<Plan, StorageError> {
        let state = log.state.lock();
        log.check(&state)?;
        let purged = state.purged.map(|purged| purged.index);
        let upto = rules.upto_offset.min(rules.committed_offset);
        let unwritten = state.tail.unwritten().next().map(|b| b.header.base_offset);
        let ready = |s: &&Segment| {
            s.size > 0
                && s.next_offset <= upto
                && Some(s.last_index) <= purged
                && unwritten.is_none_or(|from| s.next_offset <= from)
        };
        let sealed = state.segments.len() - 1;
        let sources = state.segments.iter().take(sealed).take_while(ready);
        Ok(Plan {
            sources: sources.cloned().collect(),
            start_offset: state.start_offset,
            first_dirty: state
                .compacted_upto
                .clamp(state.start_offset, state.end_offset),
            run_bytes: state.settings.segment_bytes.min(MAX_NEW_FILE),
            rearranged: state.rearranged,
            producers: state
                .producers
                .last_batches(rules.committed_offset)
                .collect(),
        })
    }

    fn end(&self) -> i64 {
        self.sources.last().map_or(0, |s| s.next_offset)
    }

    fn dirty(&self) -> impl Iterator<Item = &Segment> {
        self.sources
            .iter()
            .filter(|s| s.next_offset > self.first_dirty)
    }

    /// Segments below `end` in runs that fit one file each.
    fn runs(&self, end: i64) -> Vec<Vec<Segment>> {
        let mut runs: Vec<Vec<Segment>> = Vec::new();
        let mut bytes = 0;
        for segment in self.sources.iter().filter(|s| s.base_offset < end) {
            let fits = |run: &&mut Vec<Segment>| {
                let base = run.first().map_or(0, |first| first.base_offset);
                bytes + segment.size <= self.run_bytes
                    && segment.next_offset - 1 - base <= i64::from(i32::MAX)
            };
            match runs.last_mut().filter(fits) {
                Some(run) => {
                    bytes += segment.size;
                    run.push(segment.clone());
                }
                None => {
                    bytes = segment.size;
                    runs.push(vec![segment.clone()]);
                }
            }
        }
        runs
    }
}

/// A pass under way.
struct Pass<'a> {
    log: &'a Log,
    shared: &'a Shared,
    rules: &'a CompactionRules,
    plan: Plan,
    pace: &'a mut Pace<'a>,
}

impl Pass<'_> {
    /// Fills the map from the dirty part; returns the last offset that it knows.
    fn fill(&mut self, map: &mut OffsetMap) -> Result<i64, CompactionError> {
        let first_dirty = self.plan.first_dirty;
        let dirty: Vec<Segment> = self.plan.dirty().cloned().collect();
        let mut latest = first_dirty - 1;
        for segment in &dirty {
            let mut batches = self.batches(segment)?;
            while let Some((header, batch)) = self.next_batch(&mut batches)? {
                if header.last_offset() >= first_dirty && is_plain(&header) {
                    let budget = self.rules.decompress_budget;
                    let filled = note_keys(map, &header, &batch, first_dirty, budget);
                    if let Some(full_at) = filled.map_err(|_| self.unreadable(&batches))? {
                        return Ok(full_at - 1);
                    }
                }
                latest = latest.max(header.last_offset());
            }
            latest = latest.max(segment.next_offset - 1);
        }
        Ok(latest)
    }

    /// Writes what is left of a run to a new file and puts it in the run's place; returns the
    /// bytes that are left.
    fn rewrite(
        &mut self,
        handle: &GroupLog,
        run: &[Segment],
        map: &OffsetMap,
        latest: i64,
    ) -> Result<u64, CompactionError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(0);
        };
        let bytes: u64 = run.iter().map(|s| s.size).sum();
        self.check_space(bytes)?;
        let generation = run.iter().map(|s| s.generation).max().unwrap_or(0);
        let made = replacement_of(first.file(), last.file(), generation.saturating_add(1));
        let buffer = self.rules.io_buffer_bytes / 2;
        let mut new = NewFile::create(self.log, self.shared, made, bytes, buffer)?;
        let producers = std::mem::take(&mut self.plan.producers);
        let filter = Filter {
            map,
            latest,
            start_offset: self.plan.start_offset,
            now_ms: self.rules.now_ms,
            delete_retention_ms: self.rules.delete_retention_ms,
            producers: &producers,
            budget: self.rules.decompress_budget,
        };
        let changed = self.filter_into(&mut new, run, &filter);
        self.plan.producers = producers;
        if !changed? && run.len() == 1 {
            return Ok(bytes);
        }
        let made = new.finish(self.log)?;
        let size = made.size;
        if !(self.pace)(0) {
            return Err(CompactionError::Stopped);
        }
        let wanted: Vec<SegmentFile> = run.iter().map(Segment::file).collect();
        let replaced = self.replace(handle, &wanted, FrameBody::Replace(made));
        // Whatever else went wrong, the frame may be durable or become so, and replay then removes
        // the sources: the file stays. The next start removes it if no log has it.
        if !matches!(replaced, Err(CompactionError::Changed)) {
            new.adopted();
        }
        replaced.map(|()| size)
    }

    fn filter_into(
        &mut self,
        new: &mut NewFile<'_>,
        run: &[Segment],
        filter: &Filter<'_>,
    ) -> Result<bool, CompactionError> {
        let end = run.last().map_or(0, |last| last.next_offset);
        let mut changed = false;
        for segment in run {
            let mut batches = self.batches(segment)?;
            while let Some((header, batch)) = self.next_batch(&mut batches)? {
                let needed = header.next_offset() == end;
                let fate = filter.judge(&header, &batch, needed);
                let (header, batch) = match fate.map_err(|_| self.unreadable(&batches))? {
                    Fate::Kept => (header, batch),
                    Fate::Rewritten(header, batch) | Fate::Emptied(header, batch) => {
                        changed = true;
                        (header, batch)
                    }
                    Fate::Dropped => {
                        changed = true;
                        continue;
                    }
                };
                if !(self.pace)(batch.len() as u64) {
                    return Err(CompactionError::Stopped);
                }
                new.append(&header, batch, filter.may_grow(&header))?;
            }
        }
        Ok(changed)
    }

    /// The one step that changes the log. Refused if the segments are not there any more.
    fn replace(
        &self,
        handle: &GroupLog,
        wanted: &[SegmentFile],
        body: FrameBody,
    ) -> Result<(), CompactionError> {
        let (sender, durable) = channel();
        let mut gone = false;
        let done = Box::new(move |result| sender.send(result).unwrap_or_default());
        handle.change(done, |log| {
            let state = log.state.lock();
            let there = |file: &SegmentFile| {
                let segment = state.segment(file.base_offset);
                segment.is_some_and(|segment| segment.file() == *file)
            };
            gone = !wanted.iter().all(there);
            Ok((!gone).then_some(body))
        });
        let stopped = |_| StorageError::Poisoned("the store was closed".into());
        handle.store.help();
        durable.recv().map_err(stopped)??;
        if gone {
            return Err(CompactionError::Changed);
        }
        Ok(())
    }

    /// Compaction may use half of what is kept in reserve: it makes room.
    fn check_space(&self, needed: u64) -> Result<(), CompactionError> {
        let free = self.shared.disk.space(&self.shared.options.dir)?.free;
        if free < needed.saturating_add(self.shared.options.reserve_bytes / 2) {
            return Err(CompactionError::NoSpace { free, needed });
        }
        Ok(())
    }

    fn batches(&self, segment: &Segment) -> Result<Batches, CompactionError> {
        let window = self.rules.io_buffer_bytes / 2;
        let reader =
            SegmentReader::open(self.log, self.shared, segment.file(), segment.size, window);
        Ok(Batches {
            reader: reader.map_err(|fault| self.verdict(fault))?,
            spot: Spot::start_of(segment.base_offset),
            at: 0,
        })
    }

    /// The next batch of a segment, checked.
    fn next_batch(
        &mut self,
        batches: &mut Batches,
    ) -> Result<Option<(BatchHeader, Bytes)>, CompactionError> {
        if batches.spot.position >= batches.reader.end() {
            return Ok(None);
        }
        let next = batches.next().map_err(|fault| self.verdict(fault))?;
        if !(self.pace)(next.1.len() as u64) {
            return Err(CompactionError::Stopped);
        }
        Ok(Some(next))
    }

    fn unreadable(&self, batches: &Batches) -> CompactionError {
        self.verdict(
            batches
                .reader
                .damage(batches.at, "the batch's records cannot be read"),
        )
    }

    /// What looks like damage is none if the log was rearranged since the pass began.
    fn verdict(&self, fault: ReadFault) -> CompactionError {
        match self.log.rearranged() {
            Err(error) => error.into(),
            Ok(now)
                if now != self.plan.rearranged && matches!(fault, ReadFault::Missing { .. }) =>
            {
                CompactionError::Changed
            }
            Ok(_) => self.log.verdict(self.shared, fault).into(),
        }
    }
}

/// The batches of one file in order.
struct Batches {
    reader: SegmentReader,
    spot: Spot,
    /// Position of the last batch that was returned.
    at: u64,
}

impl Batches {
    fn next(&mut self) -> Result<(BatchHeader, Bytes), ReadFault> {
        let header = self.reader.header_at(&self.spot)?;
        self.at = self.spot.position;
        let batch = self.reader.batch_at(self.at, &header)?;
        self.spot = self.spot.after(&header);
        Ok((header, batch))
    }
}

/// Puts a batch's keys into the map. The offset of the first record that did not fit, if any.
fn note_keys(
    map: &mut OffsetMap,
    header: &BatchHeader,
    batch: &Bytes,
    first_dirty: i64,
    budget: usize,
) -> Result<Option<i64>, klamm_records::ReadError> {
    for record in &RecordSet::open(batch, header, budget)? {
        let record = record?;
        let offset = record.offset(header);
        if let Some(key) = record.key.filter(|_| offset >= first_dirty)
            && !map.put(key, offset)
        {
            return Ok(Some(offset));
        }
    }
    Ok(None)
}
