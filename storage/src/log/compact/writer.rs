//! The new file of a run of segments, before it is the log's.
//!
//! Its batches follow each other without a gap, whatever was left out: a batch reaches over the
//! offsets that were behind it (KIP-98 lets it: the offsets of a batch are those it once had), or an
//! empty batch stands for them where its last offset has to stay. So a reader knows the base offset
//! of every batch before it reads it.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::{BATCH_HEADER_LEN, BatchHeader};

use super::filter::{filler, is_filler, sealed};
use crate::disk::{DiskFile, OpenMode};
use crate::error::StorageError;
use crate::journal::{CompactedEntry, Replacement};
use crate::log::Log;
use crate::segment::{NO_TIMESTAMP, SegmentFile};
use crate::store::Shared;

/// Index entries of one file at most: the journal carries them.
const MAX_ENTRIES: u64 = 4096;

/// A compacted file under way. Dropped before [`NewFile::adopted`] it removes itself.
pub(super) struct NewFile<'a> {
    shared: &'a Shared,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    buffer_bytes: usize,
    /// Bytes in the file, not counting the buffer.
    written: u64,
    interval: u64,
    unindexed: u64,
    made: Replacement,
    /// The last batch, as long as it may grow over offsets that are left out behind it.
    pending: Option<Pending>,
    /// Offset behind the last batch.
    reached: i64,
    /// Leader epochs, each with its first offset.
    epochs: Vec<(i32, i64)>,
    adopted: bool,
}

/// A batch that is not in the buffer yet.
struct Pending {
    header: BatchHeader,
    batch: Bytes,
    may_grow: bool,
    grown: bool,
}

impl<'a> NewFile<'a> {
    /// Begins the file for sources of `source_bytes`.
    pub(super) fn create(
        log: &Log,
        shared: &'a Shared,
        made: Replacement,
        source_bytes: u64,
        buffer_bytes: usize,
    ) -> Result<NewFile<'a>, StorageError> {
        // After a failure a file of this name may be one that a durable frame speaks of.
        shared.failure.check()?;
        let name = SegmentFile {
            base_offset: made.first_base,
            generation: made.generation,
        };
        let path = log.segment_path(name);
        let file = shared.disk.open(&path, OpenMode::Create)?;
        let (index_interval, epochs) = {
            let state = log.state.lock();
            (state.settings.index_interval_bytes, state.epochs.clone())
        };
        let new = NewFile {
            shared,
            path,
            file,
            buffer: Vec::with_capacity(buffer_bytes),
            buffer_bytes,
            written: 0,
            interval: u64::from(index_interval).max(source_bytes / MAX_ENTRIES),
            unindexed: 0,
            pending: None,
            reached: made.first_base,
            epochs,
            made,
            adopted: false,
        };
        // Left by a pass that did not come to its end.
        new.file.set_len(0)?;
        Ok(new)
    }

    /// Takes the next batch. `may_grow`: nobody needs its last offset to be what it is.
    pub(super) fn append(
        &mut self,
        header: &BatchHeader,
        batch: Bytes,
        may_grow: bool,
    ) -> io::Result<()> {
        if header.base_offset > self.reached {
            self.cover(header.base_offset)?;
        }
        self.reached = header.next_offset();
        if is_filler(header)
            && let Some(pending) = self.pending.as_mut().filter(|pending| pending.may_grow)
        {
            pending.grow_to(self.reached);
            return Ok(());
        }
        self.settle()?;
        self.pending = Some(Pending {
            header: *header,
            batch,
            may_grow,
            grown: false,
        });
        Ok(())
    }

    /// Covers the offsets up to `to`, which are left out: Kafka's CRC does not cover a batch's base
    /// offset, and where offsets are missing nothing tells a flipped bit in one from a gap.
    fn cover(&mut self, to: i64) -> io::Result<()> {
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.may_grow) {
            pending.grow_to(to);
            return Ok(());
        }
        self.settle()?;
        let after = self
            .epochs
            .partition_point(|(_, first)| *first <= self.reached);
        let epoch = self.epochs.get(after.saturating_sub(1));
        let (header, batch) = filler(self.reached, to, epoch.map_or(0, |(epoch, _)| *epoch));
        self.pending = Some(Pending {
            header,
            batch,
            may_grow: true,
            grown: false,
        });
        Ok(())
    }

    /// Puts the last batch into the buffer.
    fn settle(&mut self) -> io::Result<()> {
        match self.pending.take() {
            None => Ok(()),
            Some(Pending {
                header,
                batch,
                grown: false,
                ..
            }) => self.put(&header, &batch),
            Some(Pending { header, batch, .. }) => {
                let (header, batch) =
                    sealed(header, batch.get(BATCH_HEADER_LEN..).unwrap_or_default());
                self.put(&header, &batch)
            }
        }
    }

    fn put(&mut self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
        let position = self.written + self.buffer.len() as u64;
        let made = &mut self.made;
        if header.record_count > 0 {
            made.max_timestamp = made.max_timestamp.max(header.max_timestamp);
        }
        if position > 0 && self.unindexed >= self.interval {
            made.entries.push(CompactedEntry {
                base_offset: header.base_offset,
                position,
                max_timestamp: made.max_timestamp,
            });
            self.unindexed = 0;
        }
        self.unindexed += batch.len() as u64;
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() >= self.buffer_bytes {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file
            .write_at(&[IoSlice::new(&self.buffer)], self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the file durable; then says what it is. Nothing refers to it yet: a failure here
    /// loses nothing and is no failure of the store, unless the directory cannot be synced.
    pub(super) fn finish(&mut self, log: &Log) -> io::Result<Replacement> {
        self.settle()?;
        self.flush()?;
        if self.shared.options.sync {
            self.file.sync_data()?;
        }
        log.unsynced.lock().dir = true;
        log.sync_dir(self.shared)?;
        self.made.size = self.written;
        Ok(self.made.clone())
    }

    /// The log has taken it, or may have.
    pub(super) fn adopted(mut self) {
        self.adopted = true;
    }
}

impl Pending {
    fn grow_to(&mut self, next_offset: i64) {
        let delta = next_offset - 1 - self.header.base_offset;
        self.header.last_offset_delta =
            i32::try_from(delta).expect("a file's offsets span 31 bits");
        self.grown = true;
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if !self.adopted {
            // Otherwise the next start removes it.
            let _ = self.shared.disk.remove_file(&self.path);
        }
    }
}

/// A file that is to replace `first..=last`, with nothing in it yet.
pub(super) fn replacement_of(
    first: SegmentFile,
    last: SegmentFile,
    generation: u32,
) -> Replacement {
    Replacement {
        first_base: first.base_offset,
        last_base: last.base_offset,
        generation,
        size: 0,
        max_timestamp: NO_TIMESTAMP,
        contiguous: true,
        entries: Vec::new(),
    }
}
