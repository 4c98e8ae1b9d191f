//! Tests of the store as a whole, on a disk that fails.

#![expect(clippy::unwrap_used, reason = "tests")]

mod basics;
mod compact;
mod compact_life;
mod concurrent;
mod crash;
mod damage;
mod deleted;
mod driven;
mod fill;
mod model;
mod real;
mod rot;
mod rot_index;
mod sweep;
mod time;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use klamm_records::{BATCH_HEADER_LEN, BatchBuilder, BatchHeader, EntryId, GroupId, NewRecord};

use crate::disk::FaultDisk;
use crate::index::{IndexStore, MemoryIndexStore};
use crate::{
    Batch, Completion, Entry, GroupLog, LogSettings, ManualClock, Payload, RecoveryReport,
    StorageError, Store, StoreOptions,
};

pub(super) const DIR: &str = "/data";

/// A machine with a disk that can crash.
pub(super) struct Machine {
    pub(super) disk: FaultDisk,
    pub(super) indexes: MemoryIndexStore,
    pub(super) clock: Arc<ManualClock>,
    pub(super) options: StoreOptions,
}

impl Machine {
    pub(super) fn new() -> Machine {
        let disk = FaultDisk::new();
        let options = StoreOptions {
            checkpoint_bytes: 1024 * 1024,
            checkpoint_interval: Duration::from_secs(3600),
            bypass_bytes: 16 * 1024,
            reserve_bytes: 0,
            // So that crashes and faults meet writes to segments often.
            segment_delay: Duration::ZERO,
            max_open_files: 4,
            ..StoreOptions::new(DIR)
        };
        Machine {
            indexes: MemoryIndexStore::on(disk.clone()),
            disk,
            clock: Arc::new(ManualClock::at(1_000)),
            options,
        }
    }

    pub(super) fn try_open(&self) -> Result<(Store, RecoveryReport), crate::OpenError> {
        let disk = Arc::new(self.disk.clone());
        Store::open_with(
            self.options.clone(),
            disk,
            &self.indexes,
            self.clock.clone(),
        )
    }

    pub(super) fn open(&self) -> (Store, RecoveryReport) {
        self.try_open().unwrap()
    }

    /// The machine after a power failure.
    pub(super) fn crashed(&self, seed: u64) -> Machine {
        self.on(self.disk.crash(seed))
    }

    /// The machine after the process was killed.
    pub(super) fn killed(&self) -> Machine {
        self.on(self.disk.kill())
    }

    fn on(&self, disk: FaultDisk) -> Machine {
        Machine {
            indexes: self.indexes.after_crash(disk.clone()),
            disk,
            clock: Arc::clone(&self.clock),
            options: self.options.clone(),
        }
    }

    /// The index rots as a whole, or its copy does. `false`: there is no other one.
    pub(super) fn lose_index(&self, name: &str) -> bool {
        let both = ["index", "index.copy"];
        let there = both
            .iter()
            .all(|name| self.indexes.exists(&self.path(name)));
        there && self.indexes.destroy(&self.path(name)).is_ok()
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        Path::new(DIR).join(below)
    }
}

pub(super) fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, index }
}

pub(super) fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 4096,
        index_interval_bytes: 256,
        ..LogSettings::default()
    }
}

/// A batch of `records` records with `size` bytes of value each.
pub(super) fn batch_of(records: usize, size: usize, timestamp: i64) -> Bytes {
    let value: Vec<u8> = (0..size).map(|at| (at as i64 + timestamp) as u8).collect();
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        let timestamp = timestamp + n as i64;
        builder
            .push(&NewRecord {
                timestamp,
                value: Some(&value),
                ..NewRecord::default()
            })
            .unwrap();
    }
    builder.build().unwrap()
}

pub(super) fn batch_entry(id: EntryId, bytes: Bytes) -> Entry {
    let header = BatchHeader::parse(&bytes).unwrap();
    Entry {
        id,
        payload: Payload::Batch(Batch { header, bytes }),
    }
}

pub(super) fn blank(id: EntryId) -> Entry {
    Entry {
        id,
        payload: Payload::Blank,
    }
}

/// A completion and where its result arrives.
pub(super) fn waiter() -> (Completion, Receiver<Result<(), StorageError>>) {
    let (sender, receiver) = channel();
    (
        Box::new(move |result| sender.send(result).unwrap_or_default()),
        receiver,
    )
}

pub(super) fn wait(operation: impl FnOnce(Completion)) -> Result<(), StorageError> {
    let (done, result) = waiter();
    operation(done);
    result.recv_timeout(Duration::from_secs(20)).unwrap()
}

/// Appends and waits until it is durable; returns the log end offset.
pub(super) fn append(log: &GroupLog, entries: Vec<Entry>) -> i64 {
    let (done, result) = waiter();
    let end = log.append(entries, done).unwrap();
    result
        .recv_timeout(Duration::from_secs(20))
        .unwrap()
        .unwrap();
    end
}

/// Waits until everything queued is in the segment files.
pub(super) fn settle(log: &GroupLog) {
    log.store.settle().unwrap();
}

/// All batches of the log from its start, as a consumer reads them.
pub(super) fn read_all(log: &GroupLog) -> Vec<u8> {
    let mut out = Vec::new();
    let mut from = log.start_offset();
    let end = log.end_offset();
    while from < end {
        let bytes = log.read(from, end, 1000, true).unwrap();
        let mut at = 0;
        while at < bytes.len() {
            let header = BatchHeader::parse(&bytes[at..]).unwrap();
            from = header.next_offset();
            at += header.total_len().unwrap().max(BATCH_HEADER_LEN);
        }
        out.extend_from_slice(&bytes);
    }
    out
}

pub(super) fn group(store: &Store, group: u64) -> GroupLog {
    store
        .create_group(GroupId(group), &format!("g-{group}"), settings())
        .unwrap()
}
