//! Files of the journal: `journal/NNNNNNNNNNNNNNNNNNNN.wal`, numbered without gaps.
//!
//! A file is reserved in full before it is used, its blocks are written once (as zeros, a piece
//! ahead of the journal) before they matter, and files no longer needed are used again under the
//! next number: then a sync changes no metadata of the file system. Measured on ext4, a sync of a
//! block that was only reserved takes twice as long as one of a block that was written before.
//! What a recycled file still holds cannot be mistaken: each block names the file it was written to,
//! and its frames are bound to it.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::block::BLOCK_ALIGN;
use super::format::BlockBuilder;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::options::StoreOptions;

/// Old files kept for reuse.
const SPARES: usize = 4;
const MIN_FILE_LEN: u64 = 16 * BLOCK_ALIGN;
const MAX_FILE_LEN: u64 = 64 * 1024 * 1024;
/// Zeros written at a time ahead of the journal.
const AHEAD: u64 = 1024 * 1024;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Old files to be used again, and how far every file is known to have been written.
#[derive(Default)]
pub(crate) struct Spares {
    old: Vec<u64>,
    /// Bytes by file; a file of an earlier process counts as not written.
    written: HashMap<u64, u64>,
}

impl Spares {
    /// Files that an earlier process left and nobody needs.
    pub(crate) fn of_earlier(old: Vec<u64>) -> Spares {
        Spares {
            old,
            written: HashMap::new(),
        }
    }
}

/// Where replay has to begin: a file, and the sequence number of its first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalPlace {
    pub(crate) file_seq: u64,
    pub(crate) block_seq: u64,
}

/// Path of a journal file.
pub(crate) fn path_of(dir: &Path, file_seq: u64) -> PathBuf {
    dir.join(format!("{file_seq:020}.wal"))
}

/// Numbers of the journal files in `dir`, ascending.
pub(crate) fn list_journal(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let number = |name: &str| name.strip_suffix(".wal").and_then(|stem| stem.parse().ok());
    let mut found: Vec<u64> = disk
        .list(dir)?
        .iter()
        .filter_map(|entry| number(&entry.name))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// The end of the journal, and the files it will use next.
pub(crate) struct JournalFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    salt: u64,
    /// Reserved length of a file.
    file_len: u64,
    file: Arc<dyn DiskFile>,
    /// Where the next block goes.
    place: JournalPlace,
    position: u64,
    /// Bytes of the file that have been written before, with zeros at least.
    written: u64,
    spares: Arc<Mutex<Spares>>,
}

impl JournalFiles {
    /// Begins a new file at `place`; one of that number that is there holds no block.
    pub(crate) fn begin(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        salt: u64,
        options: &StoreOptions,
        place: JournalPlace,
        spares: Arc<Mutex<Spares>>,
    ) -> io::Result<JournalFiles> {
        let file_len = (options.checkpoint_bytes / 4).clamp(MIN_FILE_LEN, MAX_FILE_LEN);
        let file_len = file_len.next_multiple_of(BLOCK_ALIGN);
        clear(disk.as_ref(), &path_of(&dir, place.file_seq))?;
        let (file, written) = prepare(disk.as_ref(), &dir, place.file_seq, file_len, &spares)?;
        Ok(JournalFiles {
            disk,
            dir,
            salt,
            file_len,
            file,
            place,
            position: 0,
            written,
            spares,
        })
    }

    /// Begins the next file, unless the current one is empty; returns where it begins.
    pub(crate) fn rotate(&mut self) -> io::Result<JournalPlace> {
        if self.position > 0 {
            let next = self.place.file_seq + 1;
            let file_seq = self.place.file_seq;
            self.spares.lock().written.insert(file_seq, self.written);
            (self.file, self.written) = prepare(
                self.disk.as_ref(),
                &self.dir,
                next,
                self.file_len,
                &self.spares,
            )?;
            self.place.file_seq = next;
            self.position = 0;
        }
        Ok(self.place)
    }

    /// Begins the next block.
    pub(crate) fn block(&self) -> BlockBuilder {
        BlockBuilder::new(self.salt, self.place.block_seq)
    }

    /// Writes the block that was begun; durable after [`JournalFiles::sync`]. Returns its length.
    pub(crate) fn write(&mut self, block: &mut BlockBuilder) -> io::Result<u64> {
        if self.position > 0 && self.position + block.disk_len() > self.file_len {
            self.rotate()?;
        }
        let len = block.finish(self.place.file_seq);
        self.file.write_at(&block.slices(), self.position)?;
        self.position += len;
        self.place.block_seq += 1;
        if self.position > self.written {
            self.write_ahead()?;
        }
        Ok(len)
    }

    /// Writes zeros behind the last block; the sync that is due for the block covers them.
    fn write_ahead(&mut self) -> io::Result<()> {
        self.written = (self.position + AHEAD)
            .min(self.file_len)
            .max(self.position);
        let (mut zeros, mut left) = (Vec::new(), self.written - self.position);
        while left > 0 {
            let piece = left.min(ZEROS.len() as u64);
            let piece = usize::try_from(piece).expect("shorter than a static array");
            zeros.push(IoSlice::new(&ZEROS[..piece]));
            left -= piece as u64;
        }
        self.file.write_at(&zeros, self.position)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Takes all bytes out of a file. It may hold the middle of a block that was torn so that nothing shows it, and the next
/// block there gets the same number: what is left of the one must not pass for a part of the other.
fn clear(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.exists(path)? {
        true => disk.open(path, OpenMode::ReadWrite)?.set_len(0),
        false => Ok(()),
    }
}

/// Opens file `file_seq`, new or recycled, reserved and with a durable directory entry. Also tells
/// how many of its bytes have been written before.
fn prepare(
    disk: &dyn Disk,
    dir: &Path,
    file_seq: u64,
    file_len: u64,
    spares: &Mutex<Spares>,
) -> io::Result<(Arc<dyn DiskFile>, u64)> {
    let path = path_of(dir, file_seq);
    let mut written = 0;
    {
        // Held until the old name is gone: recycling would find the file there and take it again.
        let mut spares = spares.lock();
        if let Some(spare) = spares.old.pop() {
            written = spares.written.remove(&spare).unwrap_or(0);
            disk.rename(&path_of(dir, spare), &path)?;
        }
    }
    let file = disk.open(&path, OpenMode::Direct)?;
    if file.len()? < file_len {
        file.allocate(file_len)?;
        file.sync_data()?;
        written = 0;
    }
    disk.sync_dir(dir)?;
    Ok((file, written))
}

/// Files before `first_needed` are kept for reuse or removed.
pub(crate) fn recycle(
    disk: &dyn Disk,
    dir: &Path,
    first_needed: u64,
    spares: &Mutex<Spares>,
) -> io::Result<()> {
    let mut spares = spares.lock();
    for file_seq in list_journal(disk, dir)? {
        if file_seq >= first_needed || spares.old.contains(&file_seq) {
            continue;
        }
        if spares.old.len() < SPARES {
            spares.old.push(file_seq);
        } else {
            spares.written.remove(&file_seq);
            disk.remove_file(&path_of(dir, file_seq))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
