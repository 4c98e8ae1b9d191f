//! The end of a fill that is read from.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::manifest::{Manifest, ManifestSegment};
use super::{FillError, FillPlace};
use crate::error::StorageError;
use crate::log::GroupLog;
use crate::log::state::LogState;
use crate::log::walk::{ReadFault, SegmentReader, Spot};
use crate::segment::Segment;

/// A log that is being copied. While it is held the log is not compacted: a copy could otherwise
/// be overtaken by one pass after the other. Retention goes on.
#[derive(Debug)]
pub struct FillSource {
    log: GroupLog,
    manifest: Manifest,
}

/// Whole batches, and where the next ones are.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The batches, checked.
    pub bytes: Bytes,
    /// The place behind them; `None` at the segment's end.
    pub next: Option<FillPlace>,
}

impl GroupLog {
    /// What a replica needs that lacks entries which are purged here; `None` if none are.
    ///
    /// # Errors
    /// [`FillError::Changed`] while the last records to copy are not in their file yet.
    pub fn fill_source(&self) -> Result<Option<FillSource>, FillError> {
        let state = self.log.state.lock();
        self.log.check(&state)?;
        let Some(manifest) = manifest_of(&state)? else {
            return Ok(None);
        };
        self.log.copies.fetch_add(1, Ordering::SeqCst);
        drop(state);
        let log = self.clone();
        Ok(Some(FillSource { log, manifest }))
    }
}

fn manifest_of(state: &LogState) -> Result<Option<Manifest>, FillError> {
    let Some(purged) = state.purged else {
        return Ok(None);
    };
    let end = state.purged_end;
    let Some(kept) = state.first_kept.filter(|kept| kept.base_offset == end) else {
        let what = "an earlier version purged the log: where its entries begin is known with the \
                    next purge";
        return Err(StorageError::Io(what.into()).into());
    };
    let mut unwritten = state.tail.unwritten();
    if (unwritten.next()).is_some_and(|batch| batch.header.base_offset < end) {
        return Err(FillError::Changed);
    }
    let start_offset = state.start_offset.min(end);
    let entry = |s: &Segment| {
        let straddles = s.next_offset > end;
        ManifestSegment {
            base_offset: s.base_offset,
            next_offset: s.next_offset.min(end),
            generation: s.generation,
            size: if straddles { kept.position } else { s.size },
            first_index: s.first_index.min(purged.index),
            last_index: s.last_index.min(purged.index),
            contiguous: s.contiguous,
        }
    };
    let needed = |s: &&Segment| s.size > 0 && s.base_offset < end && s.next_offset > start_offset;
    let segments: Vec<ManifestSegment> = match start_offset < end {
        true => state.segments.iter().filter(needed).map(entry).collect(),
        false => Vec::new(),
    };
    let epochs = state.epochs.iter().filter(|(_, first)| *first < end);
    Ok(Some(Manifest {
        purged,
        purged_end: end,
        start_offset,
        compacted_upto: state.compacted_upto.min(end),
        membership: state.base_membership.clone(),
        epochs: epochs.copied().collect(),
        producers: state.producers.before(end).encode().into(),
        segments,
    }))
}

impl FillSource {
    /// What is to be copied.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whole batches from `from` on, at most `max_bytes` of them but at least one. Blocks.
    ///
    /// # Errors
    /// [`FillError::Changed`] when retention has taken the file; `Corrupt` for a damaged batch;
    /// [`FillError::Refused`] for a place that is none.
    pub fn read(&self, from: FillPlace, max_bytes: usize) -> Result<Chunk, FillError> {
        let number = usize::try_from(from.segment).unwrap_or(usize::MAX);
        let segment = self.manifest.segments.get(number);
        let inside = |s: &&ManifestSegment| from.position < s.size;
        let segment = segment
            .filter(inside)
            .ok_or(FillError::Refused("a place that is in no segment"))?;
        if !self.has(segment) {
            return Err(FillError::Changed);
        }
        self.batches(segment, from, max_bytes).map_err(|fault| {
            if self.has(segment) {
                let (log, shared) = (&self.log.log, self.log.shared());
                log.verdict(shared, fault).into()
            } else {
                FillError::Changed
            }
        })
    }

    fn has(&self, segment: &ManifestSegment) -> bool {
        let state = self.log.log.state.lock();
        let there = state.segment(segment.base_offset);
        there.is_some_and(|s| s.file() == segment.file()) && !state.deleted
    }

    fn batches(
        &self,
        segment: &ManifestSegment,
        from: FillPlace,
        max_bytes: usize,
    ) -> Result<Chunk, ReadFault> {
        let (log, shared) = (&self.log.log, self.log.shared());
        let mut reader = SegmentReader::open(log, shared, segment.file(), segment.size, max_bytes)?;
        let mut spot = Spot::at(from.position, from.offset);
        let mut bytes = BytesMut::new();
        while spot.position < segment.size {
            let header = reader.header_at(&spot)?;
            let len = header.total_len().unwrap_or(usize::MAX);
            if !bytes.is_empty() && bytes.len().saturating_add(len) > max_bytes {
                break;
            }
            bytes.extend_from_slice(&reader.batch_at(spot.position, &header)?);
            spot = spot.after(&header);
        }
        let more = spot.position < segment.size;
        Ok(Chunk {
            bytes: bytes.freeze(),
            next: more.then_some(FillPlace {
                segment: from.segment,
                position: spot.position,
                offset: spot.base_offset,
            }),
        })
    }
}

impl Drop for FillSource {
    fn drop(&mut self) {
        self.log.log.copies.fetch_sub(1, Ordering::SeqCst);
    }
}
