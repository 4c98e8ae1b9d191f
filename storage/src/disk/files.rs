//! Open segment files, bounded: thousands of partitions share a few hundred descriptors.
//!
//! Invariants:
//! - at most `max` files are kept; the one used longest ago goes first. A file in use stays open
//!   until its last user drops it, so a reader of a deleted segment finishes;
//! - after [`FileCache::remove`] of a key no later `get` of it returns the file that was removed,
//!   even if an open of it was in flight: a segment may be deleted and created again under the
//!   same base offset (truncation), and bytes of the old one must never appear in the new.
//!
//! Deliberately absent: syncing on eviction. The kernel keeps a failed write-back on the inode and
//! reports it to the next descriptor that syncs, so a checkpoint may reopen the file and sync it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use klamm_records::GroupId;
use parking_lot::Mutex;

use super::{Disk, DiskFile, OpenMode, is_out_of_descriptors};

/// A segment file: its group, base offset and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// The group whose log it belongs to.
    pub group: GroupId,
    /// Offset of the first record, which also is the file's name.
    pub base_offset: i64,
    /// How often the segment was compacted: each time it got a file of its own.
    pub generation: u32,
}

/// Least-recently-used cache of open files, shared by readers and the journal thread.
pub struct FileCache {
    disk: Arc<dyn Disk>,
    max: usize,
    open: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    files: HashMap<FileKey, Slot>,
    /// Last use to key; ticks are unique.
    by_use: BTreeMap<u64, FileKey>,
    tick: u64,
    /// Counts removals, to notice one that happens while a file is being opened.
    removals: u64,
}

struct Slot {
    file: Arc<dyn DiskFile>,
    used: u64,
}

impl OpenFiles {
    fn touch(&mut self, key: FileKey) -> Option<Arc<dyn DiskFile>> {
        let slot = self.files.get_mut(&key)?;
        self.by_use.remove(&slot.used);
        self.tick += 1;
        slot.used = self.tick;
        self.by_use.insert(self.tick, key);
        Some(Arc::clone(&slot.file))
    }

    /// Keeps `file`; returns what had to go, to be closed outside the lock.
    fn insert(&mut self, key: FileKey, file: Arc<dyn DiskFile>, max: usize) -> Vec<Slot> {
        let mut closed: Vec<Slot> = self.take(key).into_iter().collect();
        self.tick += 1;
        self.files.insert(
            key,
            Slot {
                file,
                used: self.tick,
            },
        );
        self.by_use.insert(self.tick, key);
        while self.files.len() > max {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            closed.extend(self.files.remove(&oldest));
        }
        closed
    }

    /// Half of the files, those used longest ago.
    fn close_oldest(&mut self) -> Vec<Slot> {
        let count = self.files.len().div_ceil(2);
        let oldest = std::iter::from_fn(|| self.by_use.pop_first()).take(count);
        oldest
            .filter_map(|(_, key)| self.files.remove(&key))
            .collect()
    }

    fn take(&mut self, key: FileKey) -> Option<Slot> {
        let slot = self.files.remove(&key)?;
        self.by_use.remove(&slot.used);
        Some(slot)
    }
}

impl FileCache {
    /// A cache of at most `max` files (at least one).
    pub fn new(disk: Arc<dyn Disk>, max: usize) -> FileCache {
        FileCache {
            disk,
            max: max.max(1),
            open: Mutex::default(),
        }
    }

    /// The file of `key` for reading and writing; `path` names it if it has to be opened.
    pub fn get<P: AsRef<Path>>(
        &self,
        key: FileKey,
        path: impl FnOnce() -> P,
    ) -> io::Result<Arc<dyn DiskFile>> {
        self.get_or_open(key, OpenMode::ReadWrite, path)
    }

    /// Like [`FileCache::get`], but creates the file if it is missing. Its directory entry is for
    /// the caller to sync.
    pub fn get_or_create<P: AsRef<Path>>(
        &self,
        key: FileKey,
        path: impl FnOnce() -> P,
    ) -> io::Result<Arc<dyn DiskFile>> {
        self.get_or_open(key, OpenMode::Create, path)
    }

    fn get_or_open<P: AsRef<Path>>(
        &self,
        key: FileKey,
        mode: OpenMode,
        path: impl FnOnce() -> P,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let removals = {
            let mut open = self.open.lock();
            if let Some(file) = open.touch(key) {
                return Ok(file);
            }
            open.removals
        };
        // Outside the lock: a slow open of a cold segment must not hold up the journal thread.
        let path = path();
        let file = self.making_room(|| self.disk.open(path.as_ref(), mode))?;
        // What the system reads ahead of a consumer of the past may be megabytes for each partition, in front of which
        // a journal's small write waits; readers of segments take a megabyte at a time themselves.
        file.reads_whole()?;
        let mut open = self.open.lock();
        if open.removals != removals {
            // Perhaps this very file was unlinked meanwhile; good for this caller, not for keeps.
            return Ok(file);
        }
        if let Some(earlier) = open.touch(key) {
            return Ok(earlier);
        }
        let closed = open.insert(key, Arc::clone(&file), self.max);
        drop(open);
        drop(closed);
        Ok(file)
    }

    /// Does what needs a descriptor. Where none is free the files that are kept make room: to fail is
    /// to stop the store, if it is a thread of the store that asks.
    pub fn making_room<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match act() {
                Err(e) if is_out_of_descriptors(&e) => {
                    let closed = self.open.lock().close_oldest();
                    if closed.is_empty() {
                        return Err(e);
                    }
                }
                other => return other,
            }
        }
    }

    /// Forgets the file of `key`: it was or is about to be removed or replaced.
    pub fn remove(&self, key: FileKey) {
        let mut open = self.open.lock();
        open.removals += 1;
        let closed = open.take(key);
        drop(open);
        drop(closed);
    }

    /// Forgets all files of a group.
    pub fn remove_group(&self, group: GroupId) {
        let mut open = self.open.lock();
        open.removals += 1;
        let keys: Vec<FileKey> = open
            .files
            .keys()
            .filter(|k| k.group == group)
            .copied()
            .collect();
        let closed: Vec<Slot> = keys.into_iter().filter_map(|key| open.take(key)).collect();
        drop(open);
        drop(closed);
    }

    /// Files kept open by the cache.
    pub fn len(&self) -> usize {
        self.open.lock().files.len()
    }

    /// Whether no file is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
