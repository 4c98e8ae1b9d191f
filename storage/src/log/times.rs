//! Lookups by timestamp, to the record (ListOffsets, KIP-79 and KIP-734).

use klamm_records::{first_at_or_after, max_timestamp_record};

use super::tail::BatchPlace;
use super::walk::{Begin, ReadFault};
use super::{GroupLog, Log};
use crate::error::StorageError;
use crate::segment::NO_TIMESTAMP;
use crate::store::Shared;

/// Bound on the decompressed size of one batch that is looked into.
const DECOMPRESS_BUDGET: usize = 256 * 1024 * 1024;

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in ms.
    pub timestamp: i64,
    /// Leader epoch it was written in.
    pub leader_epoch: i32,
}

/// A segment that may hold what is looked for.
pub(crate) struct Candidate {
    base_offset: i64,
    next_offset: i64,
    max_timestamp: i64,
}

impl GroupLog {
    /// First record below `end_offset` with timestamp >= `timestamp`.
    pub fn offset_for_timestamp(
        &self,
        timestamp: i64,
        end_offset: i64,
    ) -> Result<Option<TimestampOffset>, StorageError> {
        let (log, shared) = (&self.log, self.shared());
        log.stable(shared, || {
            let start = log.state.lock().start_offset;
            for segment in log.candidates(end_offset) {
                if segment.max_timestamp < timestamp {
                    continue;
                }
                let found = log.first_in(shared, &segment, timestamp, start, end_offset)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })
    }

    /// The first record with the largest timestamp below `end_offset`.
    pub fn max_timestamp(&self, end_offset: i64) -> Result<Option<TimestampOffset>, StorageError> {
        let (log, shared) = (&self.log, self.shared());
        log.stable(shared, || {
            let start = log.state.lock().start_offset;
            let mut best: Option<(i64, Candidate)> = None;
            for segment in log.candidates(end_offset) {
                let whole = segment.base_offset >= start && segment.next_offset <= end_offset;
                let max = if whole {
                    segment.max_timestamp
                } else {
                    log.max_in_part(shared, &segment, start, end_offset)?
                };
                if max > best.as_ref().map_or(NO_TIMESTAMP, |(max, _)| *max) {
                    best = Some((max, segment));
                }
            }
            let Some((max, segment)) = best else {
                return Ok(None);
            };
            log.max_of(shared, &segment, max, start, end_offset)
        })
    }
}

impl Log {
    /// Segments with records in the log below `end_offset`, in order.
    pub(crate) fn candidates(&self, end_offset: i64) -> Vec<Candidate> {
        let state = self.state.lock();
        let inside = |s: &&crate::segment::Segment| {
            s.size > 0 && s.base_offset < end_offset && s.next_offset > state.start_offset
        };
        let candidate = |s: &crate::segment::Segment| Candidate {
            base_offset: s.base_offset,
            next_offset: s.next_offset,
            max_timestamp: s.max_timestamp,
        };
        state
            .segments
            .iter()
            .filter(inside)
            .map(candidate)
            .collect()
    }

    /// An offset of the segment before which every timestamp is below `timestamp`.
    fn begin_for(
        &self,
        shared: &Shared,
        segment_base: i64,
        timestamp: i64,
    ) -> Result<i64, ReadFault> {
        let bound = {
            let state = self.state.lock();
            let fresh = state.fresh_of(segment_base);
            let earlier = fresh.partition_point(|entry| entry.max_timestamp < timestamp);
            if let Some(entry) = earlier.checked_sub(1).and_then(|at| fresh.get(at)) {
                return Ok(entry.base_offset);
            }
            if !state.has_rows(segment_base) {
                return Ok(segment_base);
            }
            state.index_bounds().0
        };
        let entry = shared
            .index
            .before_timestamp(self.group, segment_base, timestamp)?;
        // Rows behind a truncation are stale, and what lies before one is not known from it.
        let entry = entry.filter(|entry| entry.base_offset < bound);
        Ok(entry.map_or(segment_base, |entry| entry.base_offset))
    }

    /// Visits the batches of a segment inside `start..end_offset` from `begin` on until `visit`
    /// has an answer.
    fn search<T>(
        &self,
        shared: &Shared,
        segment: &Candidate,
        begin: i64,
        (start, end_offset): (i64, i64),
        mut visit: impl FnMut(&mut super::walk::Walk<'_>, &BatchPlace) -> Result<Option<T>, ReadFault>,
    ) -> Result<Option<T>, ReadFault> {
        let mut walk = self.walk(shared, Begin::Offset(begin.max(start)))?;
        while let Some((_, place)) = walk.next()? {
            // By offsets: the segment may have been merged into an earlier one since it was chosen.
            let inside = place.header.base_offset < segment.next_offset
                && place.header.next_offset() <= end_offset;
            if !inside {
                break;
            }
            if let Some(found) = visit(&mut walk, &place)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// First record of a segment with timestamp >= `timestamp` inside `start..end_offset`.
    pub(crate) fn first_in(
        &self,
        shared: &Shared,
        segment: &Candidate,
        timestamp: i64,
        start: i64,
        end_offset: i64,
    ) -> Result<Option<TimestampOffset>, ReadFault> {
        let begin = self.begin_for(shared, segment.base_offset, timestamp)?;
        self.search(
            shared,
            segment,
            begin,
            (start, end_offset),
            |walk, place| {
                let header = &place.header;
                if header.max_timestamp < timestamp {
                    return Ok(None);
                }
                let bytes = walk.data(place)?;
                let found = first_at_or_after(&bytes, header, timestamp, start, DECOMPRESS_BUDGET)
                    .map_err(|_| unreadable(place))?;
                Ok(found.map(|record| TimestampOffset {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    leader_epoch: header.partition_leader_epoch,
                }))
            },
        )
    }

    /// Largest timestamp of the segment's batches inside `start..end_offset`, by their headers.
    fn max_in_part(
        &self,
        shared: &Shared,
        segment: &Candidate,
        start: i64,
        end_offset: i64,
    ) -> Result<i64, ReadFault> {
        let mut max = NO_TIMESTAMP;
        let mut begin = segment.base_offset;
        if start <= segment.base_offset
            && let Some(entry) = self.indexed_below(shared, segment.base_offset, end_offset)?
            // Its maximum includes its own batch, which may reach beyond the end.
            && let Some(before) = self.indexed_below(shared, segment.base_offset, entry.base_offset)?
        {
            (max, begin) = (before.max_timestamp, before.base_offset);
        }
        self.search(shared, segment, begin, (start, end_offset), |_, place| {
            // A batch that compaction emptied has a time but no record of it.
            if place.header.record_count > 0 {
                max = max.max(place.header.max_timestamp);
            }
            Ok(None::<()>)
        })?;
        Ok(max)
    }

    /// The first record with timestamp `max`, which the segment holds.
    fn max_of(
        &self,
        shared: &Shared,
        segment: &Candidate,
        max: i64,
        start: i64,
        end_offset: i64,
    ) -> Result<Option<TimestampOffset>, ReadFault> {
        let begin = self.begin_for(shared, segment.base_offset, max)?;
        self.search(
            shared,
            segment,
            begin,
            (start, end_offset),
            |walk, place| {
                let header = &place.header;
                if header.max_timestamp < max {
                    return Ok(None);
                }
                let bytes = walk.data(place)?;
                let found = max_timestamp_record(&bytes, header, start, DECOMPRESS_BUDGET)
                    .map_err(|_| unreadable(place))?;
                Ok(found.map(|record| TimestampOffset {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    leader_epoch: header.partition_leader_epoch,
                }))
            },
        )
    }
}

fn unreadable(place: &BatchPlace) -> ReadFault {
    ReadFault::Damage {
        file: place.file(),
        position: place.position,
        what: "the batch's records cannot be read",
    }
}
