//! Bugs planted on purpose. Whoever believes a simulation wants to see it find these.
//!
//! Most are in the program (`klamm_records::plant`, with the feature `plant`); one is a disk that says it has done
//! what it has not.

use std::io;
use std::path::Path;
use std::sync::Arc;

use klamm_records::plant::Bug;
use klamm_storage::disk::{DirEntry, DiskLock, LockError, Space};
use klamm_storage::{Disk, DiskFile, FaultDisk, OpenMode};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// In the program.
    Program(Bug),
    /// Renamed and created files are used without a sync of their directory.
    NoDirectorySync,
}

/// All of them: number in the list of bugs that a fault harness has to find, name, bug.
pub const ALL: [(&str, &str, Plant); 20] = [
    ("M1", "ack-before-sync", Plant::Program(Bug::AckBeforeSync)),
    (
        "M2",
        "ack-before-quorum",
        Plant::Program(Bug::AckBeforeQuorum),
    ),
    ("M3", "vote-unsynced", Plant::Program(Bug::VoteUnsynced)),
    (
        "M4",
        "truncation-forgotten",
        Plant::Program(Bug::TruncationForgotten),
    ),
    (
        "M5",
        "vote-after-entries",
        Plant::Program(Bug::VoteAfterEntries),
    ),
    ("M6", "sync-retried", Plant::Program(Bug::SyncRetried)),
    (
        "M7",
        "catch-up-unchecked",
        Plant::Program(Bug::CatchUpUnchecked),
    ),
    ("M8", "cut-at-bad-block", Plant::Program(Bug::CutAtBadBlock)),
    ("M9", "no-directory-sync", Plant::NoDirectorySync),
    (
        "M10",
        "producers-forgotten",
        Plant::Program(Bug::ProducersForgotten),
    ),
    ("M11", "epoch-ignored", Plant::Program(Bug::EpochIgnored)),
    (
        "M15",
        "commit-answered-early",
        Plant::Program(Bug::CommitAnsweredEarly),
    ),
    (
        "M16",
        "deposed-answers",
        Plant::Program(Bug::DeposedAnswers),
    ),
    (
        "M17",
        "reads-uncommitted",
        Plant::Program(Bug::ReadsUncommitted),
    ),
    (
        "M18",
        "high-watermark-forgotten",
        Plant::Program(Bug::HighWatermarkForgotten),
    ),
    ("M19", "stale-tail", Plant::Program(Bug::StaleTail)),
    (
        "M20",
        "last-record-dropped",
        Plant::Program(Bug::LastRecordDropped),
    ),
    (
        "M21",
        "old-generation-commits",
        Plant::Program(Bug::OldGenerationCommits),
    ),
    ("M22", "old-tail-stays", Plant::Program(Bug::OldTailStays)),
    (
        "M23",
        "lease-unbounded",
        Plant::Program(Bug::LeaseUnbounded),
    ),
];

impl Plant {
    /// By its name or number.
    pub fn named(name: &str) -> Option<Plant> {
        let found = ALL.iter().find(|plant| plant.0 == name || plant.1 == name);
        found.map(|(_, _, plant)| *plant)
    }

    /// Has the program of this process have it.
    ///
    /// # Errors
    /// When it was built without.
    pub fn plant(self) -> Result<(), &'static str> {
        match self {
            Plant::NoDirectorySync => Ok(()),
            #[cfg(feature = "plant")]
            Plant::Program(bug) => {
                klamm_records::plant::plant(bug);
                Ok(())
            }
            #[cfg(not(feature = "plant"))]
            Plant::Program(_) => Err("built without --features klamm-sim/plant"),
        }
    }
}

/// A disk that does not sync directories.
pub(crate) struct HastyDisk(pub(crate) FaultDisk);

impl Disk for HastyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path, mode)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<DiskLock, LockError> {
        self.0.lock(path, owner)
    }
}
