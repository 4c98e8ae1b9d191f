//! Bugs planted on purpose, below the program: a disk that says it has done what it has not. Whoever
//! believes a simulation wants to see it find these.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use klamm_storage::disk::{DirEntry, DiskLock, LockError, Space};
use klamm_storage::{Disk, DiskFile, FaultDisk, OpenMode};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The journal is not synced: records are acknowledged before they are durable (M1), and so are
    /// votes (M3) and cuts (M4).
    NoSync,
    /// Renamed and created files are used without a sync of their directory (M9).
    NoDirectorySync,
    /// A sync that failed is tried again, and then succeeds (M6).
    SyncRetried,
}

impl Plant {
    /// By its name.
    pub fn named(name: &str) -> Option<Plant> {
        match name {
            "no-sync" => Some(Plant::NoSync),
            "no-directory-sync" => Some(Plant::NoDirectorySync),
            "sync-retried" => Some(Plant::SyncRetried),
            _ => None,
        }
    }
}

/// A disk with a bug.
pub(crate) struct PlantedDisk {
    pub(crate) disk: FaultDisk,
    pub(crate) plant: Plant,
}

impl Disk for PlantedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        let is_journal = path.extension().is_some_and(|extension| extension == "wal");
        match self.plant {
            Plant::NoSync if !is_journal => Ok(file),
            plant => Ok(Arc::new(PlantedFile { file, plant })),
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
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
        match self.plant {
            Plant::NoDirectorySync => Ok(()),
            _ => self.disk.sync_dir(dir),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<DiskLock, LockError> {
        self.disk.lock(path, owner)
    }
}

struct PlantedFile {
    file: Arc<dyn DiskFile>,
    plant: Plant,
}

impl DiskFile for PlantedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.file.write_at(slices, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.plant {
            Plant::NoSync => Ok(()),
            Plant::SyncRetried => self.file.sync_data().or_else(|_| self.file.sync_data()),
            Plant::NoDirectorySync => self.file.sync_data(),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
}
