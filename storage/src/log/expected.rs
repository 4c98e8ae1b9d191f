//! What the log knows of a segment's batches before it reads them: their CRC does not cover the base
//! offset, the leader epoch and the magic, which lie before it.
//!
//! Offsets follow each other without a gap in every segment that this version writes, so a base
//! offset is known from the batch before. What compaction of an earlier version wrote has gaps; a bit
//! that flips in one of its base offsets is not noticed if the batch stays between its neighbours.

use klamm_records::{BatchHeader, MAGIC_V2};

use super::Log;
use super::fill::ManifestSegment;
use crate::segment::SegmentFile;

/// What the headers of a segment's batches have to say.
pub(super) struct Expected {
    /// No offset is missing between two batches.
    contiguous: bool,
    /// Batches are as they were appended.
    is_appended: bool,
    /// Offset behind the segment's last batch.
    next_offset: i64,
    /// Epochs of the log from the segment's start on, each with its first offset.
    epochs: Vec<(i32, i64)>,
}

impl Expected {
    /// What the log says now.
    pub(super) fn of(log: &Log, file: SegmentFile) -> Expected {
        let state = log.state.lock();
        match state.segment(file.base_offset) {
            Some(segment) if segment.file() == file => Expected {
                contiguous: segment.contiguous,
                is_appended: !file.is_compacted(),
                next_offset: segment.next_offset,
                epochs: state.epochs_in(segment.base_offset, segment.next_offset),
            },
            // It was replaced or dropped since, and what is read from it does not count.
            _ => Expected {
                contiguous: false,
                is_appended: false,
                next_offset: i64::MAX,
                epochs: Vec::new(),
            },
        }
    }

    /// What another replica's log says of a segment of its own.
    pub(super) fn of_segment(segment: &ManifestSegment, epochs: &[(i32, i64)]) -> Expected {
        let behind = |(_, first): &&(i32, i64)| *first < segment.next_offset;
        let (from, to) = (epochs, epochs.iter().take_while(behind).count());
        let before = epochs.partition_point(|(_, first)| *first <= segment.base_offset);
        let held = from.get(before.saturating_sub(1)..to).unwrap_or_default();
        Expected {
            contiguous: segment.contiguous,
            is_appended: !segment.file().is_compacted(),
            next_offset: segment.next_offset,
            epochs: held.to_vec(),
        }
    }

    /// Whether each batch begins where the one before it ends.
    pub(super) fn is_contiguous(&self) -> bool {
        self.contiguous
    }

    /// What is wrong with a header, wherever it is in the segment.
    pub(super) fn complaint(&self, header: &BatchHeader) -> Option<&'static str> {
        if header.magic != MAGIC_V2 {
            return Some("no batch header");
        }
        if header.last_offset_delta < 0 {
            return Some("a batch with a negative number of offsets");
        }
        if header.next_offset() > self.next_offset {
            return Some("a batch with offsets behind its segment");
        }
        let epoch = self.epoch_of(header)?;
        (epoch != header.partition_leader_epoch).then_some("a batch with another leader epoch")
    }

    /// The epoch of a batch, as far as the log still knows it: an epoch begins with a batch.
    fn epoch_of(&self, header: &BatchHeader) -> Option<i32> {
        let begun = |offset: i64| {
            let after = self.epochs.partition_point(|(_, first)| *first <= offset);
            let (epoch, _) = self.epochs.get(after.checked_sub(1)?)?;
            Some(*epoch)
        };
        begun(header.base_offset).or_else(|| {
            // The log starts in the middle of this batch; a compacted one may reach over the
            // offsets of others, from other epochs.
            let known = self.is_appended.then_some(header.last_offset());
            begun(known?)
        })
    }
}
