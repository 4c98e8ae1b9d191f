//! A store on a machine whose disk is in memory and can lose power. Shared with the unit tests.

use std::sync::Arc;

use klamm_records::GroupId;
use klamm_storage::{
    FaultDisk, GroupLog, LogSettings, ManualClock, MemoryIndexStore, RealDisk, Store, StoreOptions, SystemClock,
};

/// Disk and index of a machine: what outlives a process.
pub(crate) struct Computer {
    pub(crate) disk: FaultDisk,
    indexes: MemoryIndexStore,
}

impl Computer {
    pub(crate) fn new() -> Computer {
        let disk = FaultDisk::new();
        Computer {
            indexes: MemoryIndexStore::on(disk.clone()),
            disk,
        }
    }

    /// Starts a store on it.
    pub(crate) fn open(&self) -> Store {
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::new("/data")
        };
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        Store::open_with(options, Arc::new(self.disk.clone()), &self.indexes, clock)
            .unwrap()
            .0
    }

    /// Loses power; the machine as it comes back.
    pub(crate) fn crash(&self, seed: u64) -> Computer {
        let disk = self.disk.crash(seed);
        Computer {
            indexes: self.indexes.after_crash(disk.clone()),
            disk,
        }
    }
}

/// A store on a real disk, for measurements.
pub(crate) fn open_real(dir: &std::path::Path) -> Store {
    let options = StoreOptions { reserve_bytes: 0, ..StoreOptions::new(dir) };
    Store::open(options, Arc::new(RealDisk), Arc::new(SystemClock::default())).unwrap().0
}

/// Creates the log of a group, with segments so small that they roll.
pub(crate) fn create_log(store: &Store, group: u64) -> GroupLog {
    let settings = LogSettings { segment_bytes: 16 << 10, ..LogSettings::default() };
    create_log_with(store, group, settings)
}

/// Creates the log of a group.
pub(crate) fn create_log_with(store: &Store, group: u64, settings: LogSettings) -> GroupLog {
    store.create_group(GroupId(group), &format!("group-{group}"), settings).unwrap()
}
