//! Going through a log's batches in order: first those that only the files have, then those whose
//! descriptors are in memory.
//!
//! A walk works on a picture of the state taken at its start. A truncation or purge that comes
//! meanwhile may pull the file away under it; then what looks like damage is none, and the walk
//! is begun again ([`Log::stable`]).

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::plant::{self, Bug};
use klamm_records::{BATCH_HEADER_LEN, BatchHeader, batch_crc_ok};

use super::expected::Expected;
use super::tail::BatchPlace;
use super::{Log, LogState};
use crate::buffers::{Buffer, Buffers};
use crate::disk::DiskFile;
use crate::error::StorageError;
use crate::index::{IndexError, SparseEntry};
use crate::journal::Anchor;
use crate::segment::SegmentFile;
use crate::store::Shared;

/// Bytes read at once when only headers are wanted.
pub(super) const HEADER_WINDOW: usize = 32 * 1024;
/// Bytes read at once when the batches are wanted.
pub(super) const DATA_WINDOW: usize = 1024 * 1024;
/// Times a read is begun again because the log was rearranged under it.
const ATTEMPTS: usize = 16;

/// Why a read did not succeed.
#[derive(Debug)]
pub(crate) enum ReadFault {
    /// Stored bytes are not what they should be, unless the log was rearranged meanwhile.
    Damage {
        file: SegmentFile,
        position: u64,
        what: &'static str,
    },
    /// The file is not there, unless the log was rearranged meanwhile.
    Missing { file: SegmentFile, error: io::Error },
    /// Anything that stays.
    Storage(StorageError),
}

impl From<StorageError> for ReadFault {
    fn from(error: StorageError) -> ReadFault {
        ReadFault::Storage(error)
    }
}

impl From<IndexError> for ReadFault {
    fn from(error: IndexError) -> ReadFault {
        ReadFault::Storage(StorageError::Io(error.to_string().into()))
    }
}

/// A place in a segment where a batch is to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) position: u64,
    /// Its base offset; in a compacted segment the first that it may have, unless `exact`.
    pub(super) base_offset: i64,
    /// An index entry says so.
    exact: bool,
}

impl Spot {
    /// The start of a segment.
    pub(super) fn start_of(segment_base: i64) -> Spot {
        Spot {
            position: 0,
            base_offset: segment_base,
            exact: false,
        }
    }

    /// A place that somebody names.
    pub(super) fn at(position: u64, base_offset: i64) -> Spot {
        Spot {
            position,
            base_offset,
            exact: false,
        }
    }

    /// An indexed batch.
    pub(super) fn of(entry: &SparseEntry) -> Spot {
        Spot {
            position: entry.position,
            base_offset: entry.base_offset,
            exact: true,
        }
    }

    /// Behind the batch that is here.
    pub(super) fn after(self, header: &BatchHeader) -> Spot {
        Spot {
            position: self.position + header.total_len().map_or(0, |len| len as u64),
            base_offset: header.next_offset(),
            exact: false,
        }
    }
}

/// Reads one segment through a window. Works on one file from open to end, whatever becomes of
/// the segment.
pub(super) struct SegmentReader {
    segment: SegmentFile,
    file: Arc<dyn DiskFile>,
    expected: Expected,
    /// Bytes of the segment that may be read.
    end: u64,
    window: usize,
    chunk: Bytes,
    chunk_at: u64,
}

impl SegmentReader {
    pub(super) fn open(
        log: &Log,
        shared: &Shared,
        segment: SegmentFile,
        end: u64,
        window: usize,
    ) -> Result<SegmentReader, ReadFault> {
        let file = log
            .file(shared, segment)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => ReadFault::Missing {
                    file: segment,
                    error,
                },
                _ => ReadFault::Storage(error.into()),
            })?;
        Ok(SegmentReader {
            segment,
            file,
            expected: Expected::of(log, segment),
            end,
            window,
            chunk: Bytes::new(),
            chunk_at: 0,
        })
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether batches may be missing between two others.
    pub(super) fn has_gaps(&self) -> bool {
        !self.expected.is_contiguous()
    }

    /// What is wrong with a header, wherever in the segment it is.
    pub(super) fn complaint(&self, header: &BatchHeader) -> Option<&'static str> {
        self.expected.complaint(header)
    }

    pub(super) fn damage(&self, position: u64, what: &'static str) -> ReadFault {
        ReadFault::Damage {
            file: self.segment,
            position,
            what,
        }
    }

    /// `len` bytes at `position`, all before the end.
    pub(super) fn bytes_at(&mut self, position: u64, len: usize) -> Result<Bytes, ReadFault> {
        if let Some(found) = self.buffered(position, len) {
            return Ok(found);
        }
        let left = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
        self.chunk = Bytes::from(self.read(position, self.window.min(left).max(len))?);
        self.chunk_at = position;
        if self.chunk.len() < len {
            return Err(self.damage(position, "the file ends early"));
        }
        Ok(self.chunk.slice(..len))
    }

    /// Up to `len` bytes at `position`, which lie before the end, past the window; fewer if the
    /// file ends early.
    pub(super) fn read(&self, position: u64, len: usize) -> Result<Buffer, ReadFault> {
        if self.end.saturating_sub(position) < len as u64 {
            return Err(self.damage(position, "a batch reaches past the end of the segment"));
        }
        let mut buffer = Buffers::of_process().take(len);
        let read = self.file.read_at(buffer.as_mut(), position);
        let read = read.map_err(|error| ReadFault::Storage(error.into()))?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// `len` bytes from `position` on, as far as there are so many, are going to be read next.
    pub(super) fn will_read(&self, position: u64, len: usize) -> Result<(), ReadFault> {
        let len = self.end.saturating_sub(position).min(len as u64);
        let begun = self.file.will_read(position, len);
        begun.map_err(|error| ReadFault::Storage(error.into()))
    }

    fn buffered(&self, position: u64, len: usize) -> Option<Bytes> {
        let from = usize::try_from(position.checked_sub(self.chunk_at)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.chunk.len()).then(|| self.chunk.slice(from..to))
    }

    /// The header of the batch at a place.
    pub(super) fn header_at(&mut self, spot: &Spot) -> Result<BatchHeader, ReadFault> {
        let position = spot.position;
        let bytes = self.bytes_at(position, BATCH_HEADER_LEN)?;
        let header = BatchHeader::parse(&bytes).filter(|h| h.total_len().is_some() && h.magic == 2);
        match header {
            None => Err(self.damage(position, "no batch header")),
            Some(h)
                if h.base_offset < spot.base_offset
                    || (h.base_offset > spot.base_offset && (spot.exact || !self.has_gaps())) =>
            {
                Err(self.damage(position, "a batch with another base offset"))
            }
            Some(h) => match self.expected.complaint(&h) {
                Some(what) => Err(self.damage(position, what)),
                None => Ok(h),
            },
        }
    }

    /// Header of the batch at `position`, if a whole one is there that may be.
    pub(super) fn whole_at(&mut self, position: u64) -> Result<Option<BatchHeader>, ReadFault> {
        let left = self.end.saturating_sub(position);
        let bytes = self.bytes_at(position, BATCH_HEADER_LEN.min(left as usize))?;
        let header = BatchHeader::parse(&bytes).filter(|h| self.complaint(h).is_none());
        let Some((header, len)) = header.and_then(|h| Some((h, h.total_len()?))) else {
            return Ok(None);
        };
        if len as u64 > left {
            return Ok(None);
        }
        let batch = self.bytes_at(position, len)?;
        Ok(batch_crc_ok(&batch).then_some(header))
    }

    /// The whole batch at `position`, checked.
    pub(super) fn batch_at(
        &mut self,
        position: u64,
        header: &BatchHeader,
    ) -> Result<Bytes, ReadFault> {
        let len = header
            .total_len()
            .ok_or_else(|| self.damage(position, "no batch header"))?;
        let bytes = self.bytes_at(position, len)?;
        if BatchHeader::parse(&bytes).as_ref() != Some(header) {
            return Err(self.damage(position, "another batch"));
        }
        if !batch_crc_ok(&bytes) && !plant::is(Bug::CatchUpUnchecked) {
            return Err(self.damage(position, "the batch's CRC is wrong"));
        }
        Ok(bytes)
    }
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// With the batch that holds the offset, or the first one behind it.
    Offset(i64),
    /// With the batch of that Raft index, or the first one behind it.
    Index(u64),
}

impl Begin {
    fn is_before(self, index: u64, header: &BatchHeader) -> bool {
        match self {
            Begin::Offset(offset) => header.last_offset() < offset,
            Begin::Index(wanted) => index < wanted,
        }
    }
}

/// A segment as far as its file holds it.
#[derive(Clone, Copy)]
struct ColdSegment {
    file: SegmentFile,
    len: u64,
    first_index: u64,
}

/// The part of the log that only files have.
struct Cold {
    /// The current one in front.
    segments: VecDeque<ColdSegment>,
    /// Where the walk is in the first of them.
    spot: Spot,
    /// Raft index of the next batch. In front of `first_kept`, where nothing counts any more, a
    /// lower bound.
    index: u64,
    first_kept: Option<Anchor>,
    /// Whether the index may be asked about the first segment.
    has_rows: bool,
    /// Indexes of entries without records.
    plain: BTreeSet<u64>,
    reader: Option<SegmentReader>,
}

/// Batches in order.
pub(super) struct Walk<'a> {
    log: &'a Log,
    shared: &'a Shared,
    from: Begin,
    cold: Option<Cold>,
    warm: VecDeque<(u64, BatchPlace)>,
}

impl Log {
    /// A walk from `from` to the end of the log.
    pub(super) fn walk<'a>(
        &'a self,
        shared: &'a Shared,
        from: Begin,
    ) -> Result<Walk<'a>, ReadFault> {
        let (mut cold, warm, bounds) = {
            let state = self.state.lock();
            let warm = warm_part(&state, from);
            (cold_part(&state, from), warm, state.index_bounds())
        };
        if let Some(cold) = &mut cold {
            self.skip_by_index(shared, cold, from, bounds)?;
        }
        Ok(Walk {
            log: self,
            shared,
            from,
            cold,
            warm,
        })
    }

    /// Moves the start forward to the nearest checkpointed index entry.
    fn skip_by_index(
        &self,
        shared: &Shared,
        cold: &mut Cold,
        from: Begin,
        (offset_bound, index_bound): (i64, u64),
    ) -> Result<(), ReadFault> {
        let Some(front) = cold.segments.front().copied() else {
            return Ok(());
        };
        let segment_base = front.file.base_offset;
        if !cold.has_rows {
            return Ok(());
        }
        let entry = match from {
            Begin::Offset(offset) => {
                let offset = offset.min(offset_bound.saturating_sub(1));
                shared
                    .index
                    .at_or_below_offset(self.group, segment_base, offset)?
            }
            Begin::Index(0) => None,
            Begin::Index(index) => {
                let index = index.min(index_bound.saturating_sub(1));
                shared.index.at_or_below_raft_index(self.group, index)?
            }
        };
        if let Some(entry) = entry
            && entry.segment_base == segment_base
            && entry.position > cold.spot.position
            && entry.position < front.len
        {
            cold.start_at(Spot::of(&entry), entry.raft_index);
        }
        Ok(())
    }

    /// Runs a read until it succeeds or fails for good. What looks like damage is none if the log
    /// was rearranged since the read began.
    pub(super) fn stable<T>(
        &self,
        shared: &Shared,
        read: impl Fn() -> Result<T, ReadFault>,
    ) -> Result<T, StorageError> {
        for attempt in 1.. {
            let before = self.rearranged()?;
            let fault = match read() {
                Ok(value) => return Ok(value),
                Err(ReadFault::Storage(error)) => return Err(error),
                Err(fault) => fault,
            };
            if attempt < ATTEMPTS && self.rearranged()? != before {
                continue;
            }
            return Err(self.verdict(shared, fault));
        }
        unreachable!("the loop returns")
    }

    /// What a fault is that no rearrangement explains.
    pub(super) fn verdict(&self, shared: &Shared, fault: ReadFault) -> StorageError {
        match fault {
            ReadFault::Damage {
                file,
                position,
                what,
            } => self.damage(shared, file, position, what),
            ReadFault::Missing { file, error } => self.damage(shared, file, 0, &error.to_string()),
            ReadFault::Storage(error) => error,
        }
    }

    /// How often the log was rearranged so far.
    pub(super) fn rearranged(&self) -> Result<u64, StorageError> {
        let state = self.state.lock();
        self.check(&state)?;
        Ok(state.rearranged)
    }
}

/// Descriptors in memory from `from` on.
fn warm_part(state: &LogState, from: Begin) -> VecDeque<(u64, BatchPlace)> {
    let wanted = state
        .tail
        .batches()
        .skip_while(|(i, place)| from.is_before(*i, &place.header));
    wanted
        .map(|(index, place)| (index, place.clone()))
        .collect()
}

/// What lies before the descriptors in memory, from the nearest known place before `from`.
fn cold_part(state: &LogState, from: Begin) -> Option<Cold> {
    let first_warm = state.tail.batches().next();
    if first_warm.is_some_and(|(index, place)| match from {
        Begin::Offset(offset) => place.header.base_offset <= offset,
        Begin::Index(wanted) => index <= wanted,
    }) {
        return None;
    }
    // Bytes of a segment before the first batch in memory.
    let cold_len = |base: i64, size: u64| match first_warm {
        Some((_, warm)) if base > warm.segment_base => 0,
        Some((_, warm)) if base == warm.segment_base => warm.position.min(size),
        _ => size,
    };
    let first = match from {
        Begin::Offset(offset) => state.segments.partition_point(|s| s.next_offset <= offset),
        Begin::Index(index) => state.segment_from_index(index),
    };
    let segments: VecDeque<ColdSegment> = state
        .segments
        .iter()
        .skip(first)
        .map(|s| ColdSegment {
            file: s.file(),
            len: cold_len(s.base_offset, s.size),
            first_index: s.first_index,
        })
        .filter(|segment| segment.len > 0)
        .collect();
    let ColdSegment {
        file,
        len,
        first_index,
    } = *segments.front()?;
    let base = file.base_offset;
    let known = |entry: &SparseEntry| match from {
        Begin::Offset(offset) => entry.base_offset <= offset && entry.position < len,
        Begin::Index(wanted) => entry.raft_index <= wanted && entry.position < len,
    };
    let fresh = state.fresh_of(base);
    let fresh = fresh
        .get(..fresh.partition_point(known))
        .and_then(<[_]>::last);
    let mut cold = Cold {
        segments,
        spot: Spot::start_of(base),
        index: first_index,
        first_kept: state.first_kept,
        has_rows: state.has_rows(base),
        plain: BTreeSet::new(),
        reader: None,
    };
    let kept = state.first_kept.filter(|kept| kept.segment_base == base);
    if let Some(kept) = kept
        && match from {
            Begin::Offset(offset) => kept.base_offset <= offset,
            Begin::Index(_) => true,
        }
    {
        let spot = Spot {
            position: kept.position,
            base_offset: kept.base_offset,
            exact: false,
        };
        cold.start_at(spot, kept.raft_index);
    }
    // Before the start is moved any further: an index entry knows its index, the places above
    // only from where on it is to be sought.
    let plain = state.plain.range(cold.index..);
    cold.plain = plain.map(|(index, _)| *index).collect();
    if let Some(entry) = fresh.filter(|entry| entry.position > cold.spot.position) {
        cold.start_at(Spot::of(entry), entry.raft_index);
    }
    Some(cold)
}

impl Cold {
    fn start_at(&mut self, spot: Spot, index: u64) {
        (self.spot, self.index) = (spot, index);
    }

    fn next(&mut self, log: &Log, shared: &Shared) -> Result<Option<(u64, BatchPlace)>, ReadFault> {
        while let Some(front) = self.segments.front() {
            if self.spot.position < front.len {
                break;
            }
            self.segments.pop_front();
            self.reader = None;
            if let Some(next) = self.segments.front() {
                self.spot = Spot::start_of(next.file.base_offset);
                self.index = next.first_index;
            }
        }
        let Some(ColdSegment { file, len, .. }) = self.segments.front().copied() else {
            return Ok(None);
        };
        if let Some(kept) = self.first_kept
            && (kept.segment_base, kept.position) == (file.base_offset, self.spot.position)
        {
            self.index = kept.raft_index;
        }
        while self.plain.contains(&self.index) {
            self.index += 1;
        }
        if self.reader.is_none() {
            let reader = SegmentReader::open(log, shared, file, len, HEADER_WINDOW)?;
            self.reader = Some(reader);
        }
        let reader = self.reader.as_mut().expect("set above");
        let header = reader.header_at(&self.spot)?;
        let place = BatchPlace {
            segment_base: file.base_offset,
            generation: file.generation,
            position: self.spot.position,
            header,
            bytes: None,
        };
        let found = (self.index, place);
        self.spot = self.spot.after(&header);
        self.index += 1;
        Ok(Some(found))
    }
}

impl Walk<'_> {
    /// The next batch with its Raft index.
    pub(super) fn next(&mut self) -> Result<Option<(u64, BatchPlace)>, ReadFault> {
        while let Some(cold) = &mut self.cold {
            match cold.next(self.log, self.shared)? {
                Some((index, place)) if self.from.is_before(index, &place.header) => {}
                Some(found) => return Ok(Some(found)),
                None => self.cold = None,
            }
        }
        Ok(self.warm.pop_front())
    }

    /// Reads the bytes of a batch this walk found.
    pub(super) fn data(&mut self, place: &BatchPlace) -> Result<Bytes, ReadFault> {
        match &place.bytes {
            Some(bytes) => Ok(bytes.clone()),
            None => read_place(self.log, self.shared, place),
        }
    }
}

/// Reads one batch from its file, checked.
pub(super) fn read_place(
    log: &Log,
    shared: &Shared,
    place: &BatchPlace,
) -> Result<Bytes, ReadFault> {
    let end = place.position + place.len();
    let mut reader = SegmentReader::open(log, shared, place.file(), end, 0)?;
    reader.batch_at(place.position, &place.header)
}
