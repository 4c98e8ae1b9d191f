//! The machine's file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use super::direct::DirectFile;
use super::{DirEntry, Disk, DiskFile, DiskLock, LockError, OpenMode, Space, context, total_len};

/// Slices that one `pwritev` takes at most (Linux's UIO_MAXIOV).
const MAX_SLICES: usize = 1024;

/// Zeros written at a time where the file system cannot reserve space.
static ZEROS: Zeros = Zeros([0; 64 * 1024]);

/// As aligned as a write past the page cache has to be.
#[repr(align(4096))]
struct Zeros([u8; 64 * 1024]);

/// How often an open that found no descriptor is tried again, and when.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Files through the operating system's page cache, and past it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

pub(super) struct RealFile {
    pub(super) file: File,
    path: PathBuf,
}

/// `Path::parent` of a relative name is the empty path, which the system does not open.
fn openable(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    }
}

/// Opens something. Where no file descriptor is free, connections may end soon, and a journal that
/// cannot begin its next file would stop the store.
fn patiently<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..ATTEMPTS {
        match open() {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::MFILE) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    open()
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create(true).truncate(false),
            OpenMode::CreateNew => options.write(true).create_new(true),
            OpenMode::Direct => return self.open_direct(path),
        };
        let opened = patiently(|| options.open(path));
        let file = opened.map_err(|e| context("open", path, &e))?;
        // A directory opens for reading like a file does and then fails at the first read.
        if mode == OpenMode::Read {
            let kind = file.metadata().map_err(|e| context("stat", path, &e))?;
            if !kind.is_file() {
                let what = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
                return Err(context("open", path, &what));
            }
        }
        Ok(Arc::new(RealFile {
            file,
            path: path.to_owned(),
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path).map_err(|e| context("create directory", path, &e))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(|e| context("rename", from, &e))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(|e| context("remove", path, &e))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path).map_err(|e| context("remove directory", path, &e))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let read = || -> io::Result<Vec<DirEntry>> {
            let mut entries = Vec::new();
            for entry in patiently(|| fs::read_dir(openable(dir)))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                entries.push(DirEntry {
                    name,
                    is_dir: entry.file_type()?.is_dir(),
                });
            }
            entries.sort();
            Ok(entries)
        };
        read().map_err(|e| context("list", dir, &e))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        // A dangling symbolic link is something that is there.
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(context("stat", path, &e)),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let opened = patiently(|| File::open(openable(dir)));
        let synced = opened.and_then(|dir| dir.sync_all());
        synced.map_err(|e| context("sync directory", dir, &e))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(openable(path))
            .map_err(|e| context("read free space of", path, &e.into()))?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<DiskLock, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(|e| context("open", path, &e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = Vec::new();
                file.take(512)
                    .read_to_end(&mut text)
                    .map_err(|e| context("read", path, &e))?;
                let owner = String::from_utf8_lossy(&text).trim().to_owned();
                return Err(LockError::Held { owner });
            }
            Err(e) => return Err(context("lock", path, &e.into()).into()),
        }
        let mut write = || {
            file.set_len(0)?;
            file.write_all(owner.as_bytes())
        };
        write().map_err(|e| context("write", path, &e))?;
        Ok(DiskLock {
            held: Box::new(file),
        })
    }
}

impl RealDisk {
    fn open_direct(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let open = |flags: OFlags| {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false);
            options.custom_flags(flags.bits().cast_signed());
            patiently(|| options.open(path))
        };
        let file = match open(OFlags::DIRECT) {
            // A file system that cannot.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => open(OFlags::empty()),
            opened => opened,
        };
        Ok(Arc::new(DirectFile::new(RealFile {
            file: file.map_err(|e| context("open", path, &e))?,
            path: path.to_owned(),
        })))
    }
}

impl RealFile {
    pub(super) fn failed(&self, operation: &str, error: &io::Error) -> io::Error {
        context(operation, &self.path, error)
    }

    fn write_all(&self, mut slices: &mut [IoSlice<'_>], mut position: u64) -> io::Result<()> {
        while !slices.is_empty() {
            let window = &slices[..slices.len().min(MAX_SLICES)];
            match rustix::io::pwritev(&self.file, window, position) {
                Ok(0) if total_len(window) > 0 => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    position += written as u64;
                    // Also passes over empty slices, so a window of nothing else ends.
                    IoSlice::advance_slices(&mut slices, written);
                }
                // Interrupted before a byte was moved: not a failed write.
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn fill_with_zeros(&self, mut from: u64, to: u64) -> io::Result<()> {
        while from < to {
            let piece = usize::try_from(to - from)
                .unwrap_or(usize::MAX)
                .min(ZEROS.0.len());
            self.file.write_all_at(&ZEROS.0[..piece], from)?;
            from += piece as u64;
        }
        Ok(())
    }

    fn advise(&self, position: u64, len: Option<NonZeroU64>, advice: Advice) -> io::Result<()> {
        rustix::fs::fadvise(&self.file, position, len, advice)
            .map_err(|e| self.failed("advise on", &e.into()))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let current = self.file.metadata()?.len();
        if len <= current {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), current, len - current) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.fill_with_zeros(current, len),
            Err(e) => Err(e.into()),
        }
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, position + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed("read", &e)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut slices = slices.to_vec();
        self.write_all(&mut slices, position)
            .map_err(|e| self.failed("write", &e))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|e| self.failed("sync", &e))
    }

    fn begin_writeback(&self, position: u64, len: u64) -> io::Result<()> {
        klamm_writeback::begin(&self.file, position, len)
            .map_err(|e| self.failed("begin to write back", &e))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self
            .file
            .metadata()
            .map_err(|e| self.failed("stat", &e))?
            .len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file
            .set_len(len)
            .map_err(|e| self.failed("set the length of", &e))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.reserve(len)
            .map_err(|e| self.failed("reserve space for", &e))
    }

    fn reads_whole(&self) -> io::Result<()> {
        self.advise(0, None, Advice::Random)
    }

    fn will_read(&self, position: u64, len: u64) -> io::Result<()> {
        // No length at all would mean the rest of the file.
        NonZeroU64::new(len).map_or(Ok(()), |len| {
            self.advise(position, Some(len), Advice::WillNeed)
        })
    }
}
