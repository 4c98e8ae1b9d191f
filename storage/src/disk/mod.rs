//! Files and directories as a seam: everything above asks [`Disk`] and [`DiskFile`] only, so that
//! the same code runs on [`RealDisk`] and on [`FaultDisk`], which tears, forgets and fails.
//!
//! Durability contract, the same for both:
//! - written bytes and a grown length are durable after [`DiskFile::sync_data`];
//! - a directory entry (create, rename, remove) is durable after [`Disk::sync_dir`] of the
//!   directory that holds it (R6). Syncing a file says nothing about its entry;
//! - a rename is atomic: after a crash it happened or it did not;
//! - whatever is not durable may after a crash be there, partly there (in sectors of 512 bytes) or
//!   gone, in any combination.
//!
//! Nothing here retries: the first failed write or sync is the caller's to act on (R1). Only opening
//! waits a little where no file descriptor is free.

mod direct;
mod fault;
mod files;
#[cfg(test)]
pub(crate) mod meddled;
mod real;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

#[cfg(test)]
pub(crate) use fault::Chance;
pub use fault::{Fault, FaultDisk, FaultRule, Operation};
pub use files::{FileCache, FileKey};
pub use real::RealDisk;

/// How [`Disk::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    ReadWrite,
    /// For reading and writing; created empty if it is missing, kept as it is otherwise.
    Create,
    /// For reading and writing; it must not exist yet.
    CreateNew,
    /// As `Create`, but for writing only, past the page cache where the file system can: for what is read back
    /// after a crash. Writes begin at multiples of [`DIRECT_ALIGN`] and are multiples of it long.
    Direct,
}

/// Unit of writes to a file opened with [`OpenMode::Direct`], in bytes: no sector in use is larger.
pub const DIRECT_ALIGN: u64 = 4096;

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Name without the directory. A name that is not UTF-8 is shown with replacement characters:
    /// it is none of ours.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Space of the file system that holds a path, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged process may still use.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
}

/// Why a lock file could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another store in this one, holds it.
    #[error("held by {owner}")]
    Held {
        /// What the holder wrote into the file.
        owner: String,
    },
    /// The file could not be opened or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An exclusive lock, held until dropped or until the process ends however it ends.
pub struct DiskLock {
    #[expect(dead_code, reason = "dropping it is its use")]
    held: Box<dyn Send + Sync>,
}

impl std::fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DiskLock")
    }
}

/// A file system. Errors name the operation and the path.
pub trait Disk: Send + Sync {
    /// Opens a file; its directory must exist.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a directory and those above it that are missing. An existing one is fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or directory atomically; an existing file at `to` is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Who has it open keeps reading it.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all in it. Not atomic: after a crash, parts may be left.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether a file or directory of that name is there.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Space of the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes the lock file at `path`, writing `owner` into it for whoever finds it taken.
    fn lock(&self, path: &Path, owner: &str) -> Result<DiskLock, LockError>;
}

/// An open file. All positions are absolute: there is no cursor, so threads may share it.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes from `position`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all slices, one after the other, from `position` on, growing the file as needed.
    /// After an error any part of them may have been written.
    fn write_at(&self, slices: &[io::IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Makes what was written to the file by anyone, and its length, durable (fdatasync). After an
    /// error the file's unsynced bytes are in an unknown state and must not be synced again.
    fn sync_data(&self) -> io::Result<()>;
    /// Begins to bring a range closer to the disk, without waiting and without any promise: the next
    /// [`DiskFile::sync_data`] then has less to do at once. A disk may pass over it.
    fn begin_writeback(&self, position: u64, len: u64) -> io::Result<()> {
        let _ = (position, len);
        Ok(())
    }
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space up to `len` and lengthens the file to it with zeros; existing bytes stay.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// From now on each read of this handle asks for as much as it wants at once, and nothing is read ahead of
    /// it. Changes no outcome; a disk may pass over it.
    fn reads_whole(&self) -> io::Result<()> {
        Ok(())
    }
    /// A range is going to be read soon: begins to read it, without waiting. Changes no outcome; a disk may
    /// pass over it.
    fn will_read(&self, position: u64, len: u64) -> io::Result<()> {
        let _ = (position, len);
        Ok(())
    }

    /// Fills `buffer` from `position`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        if self.read_at(buffer, position)? == buffer.len() {
            return Ok(());
        }
        let what = format!(
            "{} bytes from {position} reach past the end of the file",
            buffer.len()
        );
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, what))
    }
}

/// Bytes of a vectored write.
fn total_len(slices: &[io::IoSlice<'_>]) -> u64 {
    slices.iter().map(|slice| slice.len() as u64).sum()
}

/// Whether a write may go past the page cache.
fn is_whole_blocks(slices: &[io::IoSlice<'_>], position: u64) -> bool {
    position.is_multiple_of(DIRECT_ALIGN) && total_len(slices).is_multiple_of(DIRECT_ALIGN)
}

/// An error that says what was tried on which path; kind is kept (`StorageFull` stays that). Want of
/// a file descriptor, which has no kind of its own, becomes `ResourceBusy`.
fn context(operation: &str, path: &Path, error: &io::Error) -> io::Error {
    let of_descriptors = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    let kind = match error.raw_os_error() {
        errno @ Some(_) if of_descriptors.contains(&errno) => io::ErrorKind::ResourceBusy,
        _ => error.kind(),
    };
    io::Error::new(kind, format!("{operation} {}: {error}", path.display()))
}

/// Whether the process, or the machine, has no file descriptor left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
