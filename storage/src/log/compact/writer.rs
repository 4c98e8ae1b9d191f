//! The new file of a run of segments, before it is the log's.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use klamm_records::BatchHeader;

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
    adopted: bool,
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
        let index_interval = log.state.lock().settings.index_interval_bytes;
        let new = NewFile {
            shared,
            path,
            file,
            buffer: Vec::with_capacity(buffer_bytes),
            buffer_bytes,
            written: 0,
            interval: u64::from(index_interval).max(source_bytes / MAX_ENTRIES),
            unindexed: 0,
            made,
            adopted: false,
        };
        // Left by a pass that did not come to its end.
        new.file.set_len(0)?;
        Ok(new)
    }

    pub(super) fn append(&mut self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
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
        entries: Vec::new(),
    }
}
