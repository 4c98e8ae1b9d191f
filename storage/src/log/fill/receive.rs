//! The end of a fill that is written to.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use klamm_records::{BatchHeader, batch_crc_ok};

use super::install::{Install, InstalledFile};
use super::manifest::{Manifest, ManifestSegment};
use super::{FillError, FillPlace};
use crate::disk::{DiskFile, OpenMode};
use crate::error::{Completion, StorageError};
use crate::journal::{CompactedEntry, FrameBody};
use crate::log::GroupLog;
use crate::log::expected::Expected;
use crate::segment::{NO_TIMESTAMP, SegmentFile};

/// Index entries of all files together, at most: the journal carries them.
const MAX_ENTRIES: u64 = 1 << 18;
/// Bytes between two syncs of a file: much at once would hold up the journal's.
const SYNC_EVERY: u64 = 8 * 1024 * 1024;

/// Files under way for a log that is to be filled. Dropped before [`GroupLog::install`] took them
/// they are removed; what a crash leaves of them the next start removes.
#[derive(Debug)]
pub struct Fill {
    log: GroupLog,
    /// Which node the files are from: two of them may compact alike and not the same.
    source: u64,
    manifest: Manifest,
    files: Vec<Receiving>,
    /// Bytes between two index entries.
    interval: u64,
    /// Part of what is booked in the store: bytes that are still to come.
    booked: u64,
    /// A write or sync failed: nothing here is to be believed.
    failed: bool,
}

/// One file under way.
struct Receiving {
    segment: ManifestSegment,
    path: PathBuf,
    /// While it is written to.
    handle: Option<Arc<dyn DiskFile>>,
    written: u64,
    unsynced: u64,
    unindexed: u64,
    /// Behind the last batch.
    offset: i64,
    made: InstalledFile,
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} up to {}", self.path.display(), self.written)
    }
}

impl Receiving {
    fn new(log: &GroupLog, segment: ManifestSegment, generation: u32) -> Receiving {
        let file = SegmentFile {
            base_offset: segment.base_offset,
            generation,
        };
        Receiving {
            path: log.log.segment_path(file),
            handle: None,
            written: 0,
            unsynced: 0,
            unindexed: 0,
            offset: segment.base_offset,
            made: InstalledFile {
                generation,
                max_timestamp: NO_TIMESTAMP,
                first_timestamp: NO_TIMESTAMP,
                entries: Vec::new(),
            },
            segment,
        }
    }

    fn is_complete(&self) -> bool {
        self.written == self.segment.size
    }

    /// Whether it is a beginning of `segment`, the same file of the same replica. What was never
    /// compacted is the same everywhere.
    fn begins(&self, segment: &ManifestSegment, same_source: bool) -> bool {
        self.written > 0
            && self.segment.file() == segment.file()
            && self.segment.contiguous == segment.contiguous
            && (same_source || segment.generation == 0)
            && match self.written.cmp(&segment.size) {
                std::cmp::Ordering::Less => self.offset < segment.next_offset,
                std::cmp::Ordering::Equal => self.offset == segment.next_offset,
                std::cmp::Ordering::Greater => false,
            }
    }

    /// Notes a batch at `position`.
    fn note(&mut self, header: &BatchHeader, position: u64, interval: u64) {
        let made = &mut self.made;
        if position == 0 {
            made.first_timestamp = header.max_timestamp;
        }
        if header.record_count > 0 {
            made.max_timestamp = made.max_timestamp.max(header.max_timestamp);
        }
        if position > 0 && self.unindexed >= interval {
            made.entries.push(CompactedEntry {
                base_offset: header.base_offset,
                position,
                max_timestamp: made.max_timestamp,
            });
            self.unindexed = 0;
        }
        self.unindexed += header.total_len().map_or(0, |len| len as u64);
        self.offset = header.next_offset();
    }
}

impl GroupLog {
    /// Begins to fill this log as `manifest` of node `source` says, with what an earlier fill that
    /// did not come to its end already has. Blocks.
    ///
    /// # Errors
    /// The log is purged as far already, no space is left, or the store failed.
    pub fn begin_fill(
        &self,
        source: u64,
        manifest: Manifest,
        earlier: Option<Fill>,
    ) -> Result<Fill, FillError> {
        let (log, shared) = (&self.log, self.shared());
        shared.failure.accepts()?;
        let generation = {
            let mut state = log.state.lock();
            log.check(&state)?;
            let purged = state.purged.map(|purged| purged.index);
            if purged >= Some(manifest.purged.index) {
                return Err(FillError::Refused("less than the log holds"));
            }
            state.next_generation()
        };
        let total = manifest.total_bytes();
        let least = u64::from(log.state.lock().settings.index_interval_bytes);
        // From here on it is removed if anything fails.
        shared.fills.fetch_add(1, Ordering::SeqCst);
        let mut fill = Fill {
            log: self.clone(),
            source,
            files: Vec::new(),
            interval: least.max(total / MAX_ENTRIES),
            booked: 0,
            failed: false,
            manifest,
        };
        let mut usable = earlier.filter(|earlier| !earlier.failed);
        for segment in &fill.manifest.segments {
            let begun = usable.as_mut().and_then(|e| e.take(segment, source));
            let file = begun.unwrap_or_else(|| Receiving::new(self, *segment, generation));
            fill.files.push(file);
        }
        drop(usable);
        fill.book()?;
        shared.disk.create_dir_all(&log.path)?;
        shared.root_unsynced.store(true, Ordering::SeqCst);
        Ok(fill)
    }

    /// Makes the files of a complete fill the log, and nothing else of what it held but its vote;
    /// `done` when durable. Blocks: their directory is synced first. Does nothing to a log that is
    /// purged as far already. A log with entries behind the manifest's purged one is left as it is,
    /// and `done` hears of that: they are to be truncated first, or tell that nothing is missing.
    pub fn install(&self, mut fill: Fill, done: Completion) {
        if let Err(error) = fill.seal() {
            done(Err(error));
            return;
        }
        let files = &mut fill.files;
        let manifest = fill.manifest.clone();
        self.change(done, |log| {
            let state = log.state.lock();
            if state
                .purged
                .is_some_and(|p| p.index >= manifest.purged.index)
            {
                return Ok(None);
            }
            if let Some(reason) = state.refuses(&manifest) {
                return Err(StorageError::Io(reason.into()));
            }
            // From here on the frame may become durable: the files are the log's.
            let files = std::mem::take(files);
            let files = files.into_iter().map(|file| file.made).collect();
            let install = Install { manifest, files };
            Ok(Some(FrameBody::Install(Box::new(install))))
        });
    }
}

impl Fill {
    /// What the log is filled with.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes that are here, and bytes in all.
    pub fn progress(&self) -> (u64, u64) {
        let there = self.files.iter().map(|file| file.written).sum();
        (there, self.manifest.total_bytes())
    }

    /// What is to be brought next; `None` when all is here.
    pub fn wanted(&self) -> Option<FillPlace> {
        let number = self.files.iter().position(|file| !file.is_complete())?;
        let file = self.files.get(number)?;
        Some(FillPlace {
            segment: u32::try_from(number).ok()?,
            position: file.written,
            offset: file.offset,
        })
    }

    /// Books the bytes that are still to come: fills that begin at the same time do not count on the same space.
    fn book(&mut self) -> Result<(), FillError> {
        let (there, total) = self.progress();
        let needed = total - there;
        let shared = self.log.shared();
        let mut booked = shared.booked.lock();
        let free = shared.disk.space(&shared.options.dir)?.free;
        let taken = booked.saturating_add(shared.options.reserve_bytes);
        // One that was begun keeps what it has; its writes wait for room.
        if there == 0 && needed > 0 && free < needed.saturating_add(taken) {
            return Err(FillError::NoSpace { free, needed });
        }
        *booked += needed;
        self.booked = needed;
        Ok(())
    }

    /// Takes the whole batches at [`Fill::wanted`]. Blocks.
    ///
    /// # Errors
    /// [`FillError::Refused`] if they are not right, [`FillError::NoSpace`] while the reserve of the disk is touched;
    /// nothing is written then. After a failure of the disk the fill takes nothing more.
    pub fn write(&mut self, at: FillPlace, bytes: &[u8]) -> Result<(), FillError> {
        let shared = self.log.shared();
        shared.failure.accepts()?;
        self.log.log.check(&self.log.log.state.lock())?;
        if self.failed {
            return Err(FillError::Refused("more after a failure"));
        }
        if self.wanted() != Some(at) || bytes.is_empty() {
            return Err(FillError::Refused(
                "another part than the one that is wanted",
            ));
        }
        let Some(file) = self.files.get_mut(at.segment as usize) else {
            return Err(FillError::Refused("a place that is in no segment"));
        };
        let headers = check_batches(&self.manifest, file, bytes)?;
        // The journal needs what is left, or the node with all its logs stops.
        if !shared.space.writable() {
            let (free, needed) = (shared.space.seen().0, self.booked);
            return Err(FillError::NoSpace { free, needed });
        }
        let written = put(&self.log, file, bytes);
        self.failed = written.is_err();
        written?;
        let mut position = file.written;
        for header in &headers {
            file.note(header, position, self.interval);
            position += header.total_len().map_or(0, |len| len as u64);
        }
        file.written = position;
        shared.space.wrote(bytes.len() as u64);
        self.booked -= bytes.len() as u64;
        *shared.booked.lock() -= bytes.len() as u64;
        if file.is_complete() || file.unsynced >= SYNC_EVERY {
            let synced = sync(&self.log, file);
            self.failed = synced.is_err();
            synced?;
        }
        Ok(())
    }

    /// Takes out the file that begins `segment`.
    fn take(&mut self, segment: &ManifestSegment, source: u64) -> Option<Receiving> {
        let same_source = self.source == source;
        let begins = |file: &Receiving| file.begins(segment, same_source);
        let at = self.files.iter().position(begins)?;
        let mut file = self.files.swap_remove(at);
        file.segment = *segment;
        Some(file)
    }

    /// All files are complete, and their names durable.
    fn seal(&mut self) -> Result<(), StorageError> {
        let (log, shared) = (&self.log.log, self.log.shared());
        shared.failure.check()?;
        if self.failed || self.wanted().is_some() {
            return Err(StorageError::Io("a fill that is not complete".into()));
        }
        // One that another manifest wants no more of than there was.
        for file in self.files.iter_mut().filter(|file| file.unsynced > 0) {
            sync(&self.log, file).map_err(|e| StorageError::Io(e.to_string().into()))?;
        }
        log.unsynced.lock().dir = true;
        Ok(log.sync_dir(shared)?)
    }
}

fn put(log: &GroupLog, file: &mut Receiving, bytes: &[u8]) -> Result<(), FillError> {
    let shared = log.shared();
    let handle = match &file.handle {
        Some(handle) => Arc::clone(handle),
        None => {
            let open = || shared.disk.open(&file.path, OpenMode::Create);
            let handle = shared.files.making_room(open)?;
            // Longer only if a file of that name was left, of which nothing is known.
            handle.set_len(file.written)?;
            file.handle = Some(Arc::clone(&handle));
            handle
        }
    };
    handle.write_at(&[IoSlice::new(bytes)], file.written)?;
    file.unsynced += bytes.len() as u64;
    Ok(())
}

fn sync(log: &GroupLog, file: &mut Receiving) -> Result<(), FillError> {
    if let Some(handle) = &file.handle
        && log.shared().options.sync
    {
        handle.sync_data()?;
    }
    file.unsynced = 0;
    if file.is_complete() {
        file.handle = None;
    }
    Ok(())
}

/// Headers of the batches, if all of them may come next.
fn check_batches(
    manifest: &Manifest,
    file: &Receiving,
    bytes: &[u8],
) -> Result<Vec<BatchHeader>, FillError> {
    let segment = &file.segment;
    let expected = Expected::of_segment(segment, &manifest.epochs);
    if bytes.len() as u64 > segment.size - file.written {
        return Err(FillError::Refused("more than a segment holds"));
    }
    let mut headers = Vec::new();
    let (mut rest, mut offset) = (bytes, file.offset);
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).filter(|h| expected.complaint(h).is_none());
        let whole =
            header.and_then(|header| Some((header, rest.split_at_checked(header.total_len()?)?)));
        let Some((header, (batch, behind))) = whole else {
            return Err(FillError::Refused("what is no whole batch of its segment"));
        };
        let follows = match segment.contiguous {
            true => header.base_offset == offset,
            false => header.base_offset >= offset,
        };
        if !follows {
            return Err(FillError::Refused("a batch with another base offset"));
        }
        if !batch_crc_ok(batch) {
            return Err(FillError::Refused("a damaged batch"));
        }
        offset = header.next_offset();
        headers.push(header);
        rest = behind;
    }
    let ends = bytes.len() as u64 + file.written == segment.size;
    if ends != (offset == segment.next_offset) {
        return Err(FillError::Refused("a segment that ends elsewhere"));
    }
    Ok(headers)
}

impl Drop for Fill {
    fn drop(&mut self) {
        let shared = self.log.shared();
        let begun = self
            .files
            .drain(..)
            .filter(|file| file.written > 0 || file.handle.is_some());
        for file in begun {
            // If it cannot be, the next start removes it: this one will not count as closed.
            let _ = shared.disk.remove_file(&file.path);
        }
        *shared.booked.lock() -= self.booked;
        shared.fills.fetch_sub(1, Ordering::SeqCst);
    }
}
