//! A store on a machine whose disk is in memory and can lose power. Shared with the unit tests.

use std::sync::Arc;

use klamm_records::GroupId;
use klamm_storage::{
    FaultDisk, GroupLog, LogSettings, ManualClock, MemoryIndexStore, Store, StoreOptions,
};

/// Disk and index of a machine: what outlives a process.
pub(crate) struct Computer {
    pub(crate) disk: FaultDisk,
    pub(crate) indexes: MemoryIndexStore,
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
}

/// Creates the log of a group, with segments so small that they roll.
pub(crate) fn create_log(store: &Store, group: u64) -> GroupLog {
    let settings = LogSettings {
        segment_bytes: 16 << 10,
        ..LogSettings::default()
    };
    let dir = format!("group-{group}");
    store.create_group(GroupId(group), &dir, settings).unwrap()
}
