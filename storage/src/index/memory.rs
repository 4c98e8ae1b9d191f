//! The index in memory, for tests and simulation: the same rows in ordered maps, with the same
//! promise, that a commit happens whole or not at all and survives a crash once it happened.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::keys::Table;
use super::{Change, Index, IndexError, IndexStore, Row, Rows, Visit};
use crate::disk::FaultDisk;

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Bytes>>;

/// One index, whatever its name is now.
#[derive(Clone, Default)]
struct Kept {
    committed: Arc<RwLock<Tables>>,
    condemned: Option<String>,
}

/// Committed rows that outlive the [`Index`] handles opened on them, as a disk outlives a process.
#[derive(Clone, Default)]
pub struct MemoryIndexStore {
    kept: Arc<RwLock<BTreeMap<PathBuf, Kept>>>,
    /// The machine it belongs to: what changes an index fails when a sync of this disk would.
    disk: Option<FaultDisk>,
}

impl MemoryIndexStore {
    /// No index yet, and none that ever fails.
    pub fn new() -> MemoryIndexStore {
        MemoryIndexStore::default()
    }

    /// No index yet, on the machine of `disk`: each commit, renaming and removal counts as one sync
    /// of the index's directory there, so that it fails or finds the power cut like any other.
    pub fn on(disk: FaultDisk) -> MemoryIndexStore {
        MemoryIndexStore {
            kept: Arc::default(),
            disk: Some(disk),
        }
    }

    /// What is found after the crash that turned the machine into `disk`: every finished commit.
    /// The former handles do not reach it any more.
    pub fn after_crash(&self, disk: FaultDisk) -> MemoryIndexStore {
        let copied = |(dir, kept): (&PathBuf, &Kept)| {
            let committed = Arc::new(RwLock::new(kept.committed.read().clone()));
            let condemned = kept.condemned.clone();
            (
                dir.clone(),
                Kept {
                    committed,
                    condemned,
                },
            )
        };
        let kept = self.kept.read().iter().map(copied).collect();
        MemoryIndexStore {
            kept: Arc::new(RwLock::new(kept)),
            disk: Some(disk),
        }
    }

    fn change(
        &self,
        operation: &'static str,
        dir: &Path,
        change: impl FnOnce(&mut BTreeMap<PathBuf, Kept>),
    ) -> Result<(), IndexError> {
        on_disk(self.disk.as_ref(), operation, dir, || {
            change(&mut self.kept.write());
        })
    }
}

/// Makes a change that is durable when it is made, unless the disk fails it.
fn on_disk(
    disk: Option<&FaultDisk>,
    operation: &'static str,
    dir: &Path,
    change: impl FnOnce(),
) -> Result<(), IndexError> {
    let Some(disk) = disk else {
        change();
        return Ok(());
    };
    disk.sync_elsewhere(dir, change)
        .map_err(|e| IndexError::Failed {
            operation,
            cause: e.to_string().into(),
        })
}

impl IndexStore for MemoryIndexStore {
    fn open(&self, dir: &Path) -> Result<Index, IndexError> {
        let kept = self
            .kept
            .write()
            .entry(dir.to_path_buf())
            .or_default()
            .clone();
        let rows = MemoryRows {
            dir: dir.to_path_buf(),
            committed: kept.committed,
            disk: self.disk.clone(),
        };
        Ok(Index {
            rows: Box::new(rows),
        })
    }

    fn exists(&self, dir: &Path) -> bool {
        let kept = self.kept.read();
        kept.get(dir)
            .is_some_and(|kept| !kept.committed.read().is_empty())
    }

    fn destroy(&self, dir: &Path) -> Result<(), IndexError> {
        if !self.kept.read().contains_key(dir) {
            return Ok(());
        }
        self.change("destroy", dir, |kept| {
            kept.remove(dir);
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IndexError> {
        if !self.kept.read().contains_key(from) {
            return Ok(());
        }
        self.change("rename", from, |kept| {
            if let Some(index) = kept.remove(from) {
                kept.insert(to.to_path_buf(), index);
            }
        })
    }

    fn condemn(&self, dir: &Path, why: &str) -> Result<(), IndexError> {
        self.change("condemn", dir, |kept| {
            kept.entry(dir.to_path_buf()).or_default().condemned = Some(why.to_owned());
        })
    }

    fn condemned(&self, dir: &Path) -> Option<String> {
        self.kept.read().get(dir)?.condemned.clone()
    }
}

struct MemoryRows {
    dir: PathBuf,
    committed: Arc<RwLock<Tables>>,
    disk: Option<FaultDisk>,
}

impl Rows for MemoryRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        Ok(self
            .committed
            .read()
            .get(&table)
            .and_then(|rows| rows.get(key))
            .cloned())
    }

    fn first(&self, table: Table, from: &[u8], below: &[u8]) -> Result<Option<Row>, IndexError> {
        let tables = self.committed.read();
        let found = tables
            .get(&table)
            .and_then(|rows| range(rows, from, below).next());
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn last(&self, table: Table, from: &[u8], below: &[u8]) -> Result<Option<Row>, IndexError> {
        let tables = self.committed.read();
        let found = tables
            .get(&table)
            .and_then(|rows| range(rows, from, below).next_back());
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        below: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError> {
        let tables = self.committed.read();
        for (key, value) in tables
            .get(&table)
            .into_iter()
            .flat_map(|r| range(r, from, below))
        {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, changes: &[&[Change]]) -> Result<(), IndexError> {
        on_disk(self.disk.as_ref(), "commit", &self.dir, || {
            apply(&mut self.committed.write(), changes);
        })
    }
}

fn apply(tables: &mut Tables, changes: &[&[Change]]) {
    for change in changes.iter().copied().flatten() {
        match change {
            Change::Put { table, key, value } => {
                let rows = tables.entry(*table).or_default();
                rows.insert(key.clone(), Bytes::copy_from_slice(value));
            }
            Change::Delete { table, key } => {
                tables.entry(*table).or_default().remove(key);
            }
            Change::DeleteRange { table, from, below } => {
                let rows = tables.entry(*table).or_default();
                let gone: Vec<Vec<u8>> = range(rows, from, below)
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in gone {
                    rows.remove(&key);
                }
            }
        }
    }
}

/// The rows in `from..below`; none when the bounds cross, where `BTreeMap::range` would panic.
fn range<'a>(
    rows: &'a BTreeMap<Vec<u8>, Bytes>,
    from: &[u8],
    below: &[u8],
) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Bytes)> {
    let below = below.max(from);
    rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(below)))
}
