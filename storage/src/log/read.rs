//! Kafka's reads: whole batches from an offset on.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use klamm_records::{BATCH_HEADER_LEN, BatchHeader, STAMP_LEN, batch_crc_ok};

use super::salvage::{Found, Search};
use super::walk::{HEADER_WINDOW, ReadFault, SegmentReader, Spot};
use super::{GroupLog, Log, LogState};
use crate::error::StorageError;
use crate::segment::SegmentFile;
use crate::store::Shared;

/// Ends of the last reads that are remembered: consumers continue where they stopped.
const HINTS: usize = 8;
/// A read this close to the end of the log is expected to be in the page cache.
const HOT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of a log that the disk is asked for ahead of a consumer. Few: a journal's small write waits behind them.
const READ_AHEAD: usize = 1 << 20;

/// Where the last reads ended.
#[derive(Debug, Default)]
pub(crate) struct ReadHints(VecDeque<Hint>);

#[derive(Clone, Copy, Debug)]
struct Hint {
    offset: i64,
    segment_base: i64,
    /// What the log counted then: a hint does not outlive a truncation.
    rearranged: u64,
    position: u64,
}

impl ReadHints {
    fn take(&mut self, offset: i64, segment_base: i64, rearranged: u64) -> Option<Hint> {
        let wanted = |h: &Hint| {
            (h.offset, h.segment_base, h.rearranged) == (offset, segment_base, rearranged)
        };
        let at = self.0.iter().position(wanted)?;
        self.0.remove(at)
    }

    fn keep(&mut self, hint: Hint) {
        if self.0.len() >= HINTS {
            self.0.pop_front();
        }
        self.0.push_back(hint);
    }
}

/// What of a read is known under the lock.
enum Plan {
    Empty,
    Memory(Bytes),
    File(FilePlan),
}

struct FilePlan {
    file: SegmentFile,
    /// Bytes of the segment that are in the file.
    end: u64,
    /// Offsets from here on are not to be returned.
    limit: i64,
    /// Nearest batch at or before the wanted offset that is known without the index.
    near: Spot,
    /// Nearest batch behind it that is.
    next: Option<Spot>,
    /// Up to where the index may be asked; not at all if `None`.
    index_bound: Option<i64>,
    rearranged: u64,
}

/// What a read asks for.
#[derive(Clone, Copy)]
struct Wanted {
    from: i64,
    end_offset: i64,
    max_bytes: usize,
    at_least_one: bool,
}

impl GroupLog {
    /// Whole batches from the one that holds `from`, up to those that end at or before
    /// `end_offset` (exclusive bound, e.g. high watermark), at most `max_bytes` but the first
    /// batch always if `at_least_one`. Bytes are as on disk, CRC checked. May end early, at a
    /// segment's end for example; empty only if nothing is there to return.
    ///
    /// # Errors
    /// `OutOfRange` below the log start or above the log end; `Corrupt` if the batch that holds
    /// `from` is damaged (batches before a damaged one are returned without it).
    pub fn read(
        &self,
        from: i64,
        end_offset: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Bytes, StorageError> {
        let wanted = Wanted {
            from,
            end_offset,
            max_bytes,
            at_least_one,
        };
        self.log
            .stable(self.shared(), || self.log.read_once(self.shared(), wanted))
    }

    /// True when a `read` there would be served from memory or recent page cache (no seek
    /// expected).
    pub fn is_hot(&self, from: i64) -> bool {
        let state = self.log.state.lock();
        if state
            .tail
            .batches()
            .next()
            .is_some_and(|(_, b)| b.header.base_offset <= from)
        {
            return true;
        }
        let active = state.active();
        if from < active.base_offset {
            return false;
        }
        let at = active
            .fresh
            .partition_point(|entry| entry.base_offset <= from);
        let position = active
            .fresh
            .get(at)
            .map_or(active.size, |entry| entry.position);
        // Before the first fresh entry nothing is known but the size of the segment.
        let near = if at == 0 {
            active.size
        } else {
            active.size - position
        };
        near <= HOT_BYTES
    }
}

impl Log {
    fn read_once(&self, shared: &Shared, wanted: Wanted) -> Result<Bytes, ReadFault> {
        let plan = self.plan(&self.state.lock(), wanted)?;
        let plan = match plan {
            Plan::Empty => return Ok(Bytes::new()),
            Plan::Memory(bytes) => return Ok(bytes),
            Plan::File(plan) => plan,
        };
        let FilePlan {
            file, rearranged, ..
        } = plan;
        let segment_base = file.base_offset;
        let hint = self
            .hints
            .lock()
            .take(wanted.from, segment_base, rearranged);
        let goes_on = hint.is_some();
        let mut reader = SegmentReader::open(self, shared, file, plan.end, HEADER_WINDOW)?;
        let found = match hint {
            Some(hint) => Ok(Start {
                position: hint.position,
                continues: !reader.has_gaps(),
            }),
            None => self.start_of(shared, &mut reader, wanted.from, &plan),
        };
        let read = found.and_then(|start| {
            let batches = read_batches(&reader, start, plan.limit, wanted)?;
            Ok((start, batches))
        });
        let (start, batches) = match read {
            Ok(read) => read,
            Err(fault) => {
                let search = self.way_past(shared, wanted.from, &plan)?;
                let Found { position, passed } = search.run(&mut reader, fault)?;
                let start = Start {
                    position,
                    continues: false,
                };
                let batches = read_batches(&reader, start, plan.limit, wanted)?;
                for position in passed {
                    let what = "a batch in front of the wanted one is damaged";
                    if self.rearranged()? != rearranged {
                        // It is none, perhaps: begin again.
                        return Err(reader.damage(position, what));
                    }
                    self.damage(shared, file, position, what);
                }
                (start, batches)
            }
        };
        let Batches { bytes, next_offset } = batches;
        if let Some(offset) = next_offset {
            let position = start.position + bytes.len() as u64;
            // Whoever reads on where a read ended will do so again: the disk works while the consumer does.
            if goes_on {
                reader.will_read(position, wanted.max_bytes.min(READ_AHEAD))?;
            }
            self.hints.lock().keep(Hint {
                offset,
                segment_base,
                rearranged,
                position,
            });
        }
        Ok(bytes)
    }

    fn plan(&self, state: &LogState, wanted: Wanted) -> Result<Plan, StorageError> {
        self.check(state)?;
        let (start, end) = (state.start_offset, state.end_offset);
        let from = wanted.from;
        if from < start || from > end {
            return Err(StorageError::OutOfRange {
                offset: from,
                start,
                end,
            });
        }
        let limit = wanted.end_offset.min(end);
        if from >= limit {
            return Ok(Plan::Empty);
        }
        let unwritten = state.tail.unwritten().next();
        if unwritten.is_some_and(|batch| batch.header.base_offset <= from) {
            return Ok(Plan::Memory(read_memory(state, limit, wanted)));
        }
        let segment = state.segment_of(from);
        let end = match unwritten {
            Some(first) if first.segment_base == segment.base_offset => first.position,
            _ => segment.size,
        };
        let fresh = &segment.fresh;
        let at = fresh.partition_point(|e| e.base_offset <= from);
        let near = at.checked_sub(1).and_then(|at| fresh.get(at));
        Ok(Plan::File(FilePlan {
            file: segment.file(),
            end,
            limit,
            near: near.map_or_else(|| Spot::start_of(segment.base_offset), Spot::of),
            next: fresh.get(at).map(Spot::of),
            index_bound: (!segment.rows_stale).then(|| state.index_bounds().0),
            rearranged: state.rearranged,
        }))
    }

    /// The last known place at or before `from`.
    fn near(
        &self,
        shared: &Shared,
        end: u64,
        from: i64,
        plan: &FilePlan,
    ) -> Result<Spot, ReadFault> {
        let mut spot = plan.near;
        if spot.position == 0
            && spot.base_offset < from
            && let Some(bound) = plan.index_bound
        {
            let bound = from.min(bound.saturating_sub(1));
            let segment_base = plan.file.base_offset;
            let entry = shared
                .index
                .at_or_below_offset(self.group, segment_base, bound)?;
            if let Some(entry) = entry.filter(|e| e.position < end) {
                spot = Spot::of(&entry);
            }
        }
        Ok(spot)
    }

    /// Where to look for a way past damage.
    fn way_past(&self, shared: &Shared, from: i64, plan: &FilePlan) -> Result<Search, ReadFault> {
        let near = self.near(shared, plan.end, from, plan)?;
        let mut next = plan.next;
        if let Some(bound) = plan.index_bound {
            let base = plan.file.base_offset;
            let row = shared
                .index
                .at_or_above_offset(self.group, base, from.saturating_add(1))?;
            let row = row.filter(|row| row.position < plan.end && row.base_offset < bound);
            let rows = row.as_ref().map(Spot::of);
            next = rows
                .into_iter()
                .chain(next)
                .min_by_key(|spot| spot.position);
        }
        Ok(Search { near, next, from })
    }

    /// Where the batch that holds `from` begins.
    fn start_of(
        &self,
        shared: &Shared,
        reader: &mut SegmentReader,
        from: i64,
        plan: &FilePlan,
    ) -> Result<Start, ReadFault> {
        let mut spot = self.near(shared, reader.end(), from, plan)?;
        loop {
            let header = reader.header_at(&spot)?;
            if header.last_offset() >= from {
                return Ok(Start {
                    position: spot.position,
                    continues: false,
                });
            }
            spot = spot.after(&header);
        }
    }
}

/// Where a read begins.
#[derive(Clone, Copy)]
struct Start {
    position: u64,
    /// With the wanted offset, since the batch before ends there.
    continues: bool,
}

struct Batches {
    bytes: Bytes,
    /// Offset behind the last batch, if there is one.
    next_offset: Option<i64>,
}

/// Reads and checks batches from `start` on. Damage behind the first batch ends the read.
fn read_batches(
    reader: &SegmentReader,
    start: Start,
    limit: i64,
    wanted: Wanted,
) -> Result<Batches, ReadFault> {
    let (start, continues) = (start.position, start.continues);
    let left = usize::try_from(reader.end().saturating_sub(start)).unwrap_or(usize::MAX);
    let mut buffer = reader.read(start, wanted.max_bytes.max(BATCH_HEADER_LEN).min(left))?;
    let mut taken = 0;
    let mut next_offset = continues.then_some(wanted.from);
    while let Some(header) = buffer.get(taken..).and_then(BatchHeader::parse) {
        let first = taken == 0;
        let follows = Follows {
            next_offset,
            from: wanted.from,
            gaps: reader.has_gaps(),
        };
        let (len, mut damage) = follows.check(&header);
        damage = damage.or_else(|| reader.complaint(&header));
        let forced = first && wanted.at_least_one;
        if damage.is_none() {
            if header.next_offset() > limit || (taken + len > wanted.max_bytes && !forced) {
                break;
            }
            if taken + len > buffer.len() {
                if !first {
                    break;
                }
                buffer = reader.read(start, len)?;
            }
            if !buffer.get(taken..taken + len).is_some_and(batch_crc_ok) {
                damage = Some("the batch's CRC is wrong");
            }
        }
        match damage {
            Some(what) if first => return Err(reader.damage(start, what)),
            Some(_) => break,
            None => {}
        }
        taken += len;
        next_offset = Some(header.next_offset());
    }
    if taken == 0 && buffer.len() < BATCH_HEADER_LEN {
        return Err(reader.damage(start, "the file ends early"));
    }
    buffer.truncate(taken);
    Ok(Batches {
        bytes: Bytes::from(buffer),
        next_offset,
    })
}

/// What the next batch of a read has to be.
struct Follows {
    /// Where the batch before ends.
    next_offset: Option<i64>,
    /// What the first one has to hold.
    from: i64,
    /// Batches may be missing in between.
    gaps: bool,
}

impl Follows {
    /// Length of a batch, and what is wrong with its header.
    fn check(&self, header: &BatchHeader) -> (usize, Option<&'static str>) {
        let follows = match self.next_offset {
            Some(next) if self.gaps => next <= header.base_offset,
            Some(next) => next == header.base_offset,
            None => {
                (self.gaps || header.base_offset <= self.from) && self.from <= header.last_offset()
            }
        };
        match header.total_len() {
            None => (0, Some("no batch header")),
            Some(len) if follows => (len, None),
            Some(len) => (len, Some("a batch with another base offset")),
        }
    }
}

/// Batches that are not written yet, stamped.
fn read_memory(state: &LogState, limit: i64, wanted: Wanted) -> Bytes {
    let mut out = BytesMut::new();
    let holding = state
        .tail
        .unwritten()
        .skip_while(|b| b.header.last_offset() < wanted.from);
    for batch in holding {
        let (header, Some(bytes)) = (&batch.header, &batch.bytes) else {
            break;
        };
        let forced = out.is_empty() && wanted.at_least_one;
        let fits = out.len() + bytes.len() <= wanted.max_bytes;
        if header.next_offset() > limit || !(fits || forced) {
            break;
        }
        out.extend_from_slice(&header.stamp(header.base_offset, header.partition_leader_epoch));
        out.extend_from_slice(bytes.get(STAMP_LEN..).unwrap_or_default());
    }
    out.freeze()
}
