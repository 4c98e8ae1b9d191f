//! The newest entries of a log, in memory: all that is not yet in the segment, and some behind it
//! so that Raft's next look at them reads no file.

use std::collections::VecDeque;

use bytes::Bytes;
use klamm_records::{BatchHeader, EntryId};

use crate::segment::SegmentFile;

/// Written entries kept. An entry is asked for once more when it is applied, soon after. Each takes an eighth of a
/// kibibyte, in each of a node's logs.
const KEEP_WRITTEN: usize = 128;

/// Where a batch is, and its bytes until they are in the segment.
#[derive(Clone, Debug)]
pub(crate) struct BatchPlace {
    pub(crate) segment_base: i64,
    /// Of the segment's file; 0 for all that may still be appended to.
    pub(crate) generation: u32,
    pub(crate) position: u64,
    pub(crate) header: BatchHeader,
    /// The batch, first bytes not stamped; `None` once the segment file holds it.
    pub(crate) bytes: Option<Bytes>,
}

impl BatchPlace {
    /// The file it is in.
    pub(crate) fn file(&self) -> SegmentFile {
        SegmentFile {
            base_offset: self.segment_base,
            generation: self.generation,
        }
    }

    /// Length of the batch in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.header.total_len().map_or(0, |len| len as u64)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    /// Operation that appended it.
    op: u64,
    /// `None`: an entry without records, kept by the log state.
    pub(crate) batch: Option<BatchPlace>,
}

/// Descriptors of contiguous indexes up to the log's last. Operations ascend along it, so "written
/// up to an operation" is a prefix.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Index of the front; meaningless while it is empty.
    first: u64,
    items: VecDeque<Descriptor>,
    /// How many at the front are written.
    written: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, id: EntryId, op: u64, batch: Option<BatchPlace>) {
        if self.items.is_empty() {
            self.first = id.index;
        }
        self.items.push_back(Descriptor { op, batch });
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Descriptor> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.items.get(at)
    }

    /// Descriptors with indexes, from `index` on.
    pub(crate) fn from(&self, index: u64) -> impl Iterator<Item = (u64, &Descriptor)> {
        let skip = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let skip = skip.min(self.items.len());
        (self.first + skip as u64..).zip(self.items.range(skip..))
    }

    /// Batches with their Raft indexes, in order.
    pub(crate) fn batches(&self) -> impl Iterator<Item = (u64, &BatchPlace)> {
        self.from(0)
            .filter_map(|(index, d)| d.batch.as_ref().map(|batch| (index, batch)))
    }

    /// Batches that are not in their segment files yet, in order.
    pub(crate) fn unwritten(&self) -> impl Iterator<Item = &BatchPlace> {
        self.items
            .range(self.written..)
            .filter_map(|d| d.batch.as_ref())
    }

    /// Operations up to `op` are written: their bytes are dropped, and old descriptors with them.
    pub(crate) fn mark_written(&mut self, op: u64) {
        while let Some(descriptor) = self.items.get_mut(self.written) {
            if descriptor.op > op {
                break;
            }
            if let Some(batch) = &mut descriptor.batch {
                batch.bytes = None;
            }
            self.written += 1;
        }
        self.keep_written(KEEP_WRITTEN);
    }

    /// Forgets all written descriptors but the newest `keep`, and the memory they took.
    pub(crate) fn keep_written(&mut self, keep: usize) {
        while self.written > keep {
            self.pop_front();
        }
        if self.items.capacity() > 64 && self.items.len() < self.items.capacity() / 8 {
            self.items.shrink_to(2 * self.items.len());
        }
    }

    /// Forgets entries behind `last` (all, if None).
    pub(crate) fn truncate_after(&mut self, last: Option<u64>) {
        let keep = last.map_or(0, |last| (last + 1).saturating_sub(self.first));
        self.items
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.written = self.written.min(self.items.len());
    }

    /// Forgets written entries up to and including `upto`. Others stay: until they are in the
    /// file, a walk through the file must know where it ends.
    pub(crate) fn purge(&mut self, upto: u64) {
        while self.written > 0 && self.first <= upto {
            self.pop_front();
        }
    }

    /// Forgets everything: the next entry does not follow the last.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.written = 0;
    }

    fn pop_front(&mut self) {
        if self.items.pop_front().is_some() {
            self.first += 1;
            self.written = self.written.saturating_sub(1);
        }
    }
}
