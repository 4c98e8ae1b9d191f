//! A disk for tests on which somebody else is at work: in the middle of an operation, where a fault or a
//! crash would come too early or too late.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{DirEntry, Disk, DiskFile, DiskLock, FaultDisk, LockError, OpenMode, Space};

/// Who is at work, and when.
pub(crate) trait Meddler: Send + Sync {
    /// A file has been opened, and its opener does not have it yet.
    fn opened(&self, disk: &FaultDisk, path: &Path) -> io::Result<()> {
        let _ = (disk, path);
        Ok(())
    }

    /// A file is about to be renamed.
    fn renames(&self, disk: &FaultDisk) {
        let _ = disk;
    }
}

/// See the module.
pub(crate) struct MeddledDisk<M> {
    pub(crate) disk: FaultDisk,
    pub(crate) meddler: M,
}

impl<M: Meddler> Disk for MeddledDisk<M> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        self.meddler.opened(&self.disk, path)?;
        Ok(file)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.meddler.renames(&self.disk);
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<DiskLock, LockError> {
        self.disk.lock(path, owner)
    }
}
