//! The index in memory, for tests and simulation: the same rows in ordered maps, with the same
//! promise, that a commit happens whole or not at all and survives a crash once it happened.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::keys::Table;
use super::{Change, Index, IndexError, IndexStore, Row, Rows, Visit};
use crate::disk::FaultDisk;

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Bytes>>;

/// Committed rows that outlive the [`Index`] handles opened on them, as a disk outlives a process.
#[derive(Clone, Default)]
pub struct MemoryIndexStore {
    committed: Arc<RwLock<Tables>>,
    /// The machine it belongs to: a commit fails when a sync of this disk would.
    disk: Option<FaultDisk>,
}

impl MemoryIndexStore {
    /// An empty index that never fails.
    pub fn new() -> MemoryIndexStore {
        MemoryIndexStore::default()
    }

    /// An empty index on the machine of `disk`: each commit counts as one sync of a file named
    /// `index` there, so that it fails or finds the power cut like any other.
    pub fn on(disk: FaultDisk) -> MemoryIndexStore {
        MemoryIndexStore {
            committed: Arc::default(),
            disk: Some(disk),
        }
    }

    /// What is found after the crash that turned the machine into `disk`: every finished commit.
    /// The former handles do not reach it any more.
    pub fn after_crash(&self, disk: FaultDisk) -> MemoryIndexStore {
        let committed = self.committed.read().clone();
        MemoryIndexStore {
            committed: Arc::new(RwLock::new(committed)),
            disk: Some(disk),
        }
    }
}

impl IndexStore for MemoryIndexStore {
    fn open(&self, _dir: &Path) -> Result<Index, IndexError> {
        let rows = MemoryRows {
            committed: Arc::clone(&self.committed),
            disk: self.disk.clone(),
        };
        Ok(Index {
            rows: Box::new(rows),
        })
    }

    fn exists(&self, _dir: &Path) -> bool {
        !self.committed.read().is_empty()
    }

    fn destroy(&self, _dir: &Path) -> Result<(), IndexError> {
        self.committed.write().clear();
        Ok(())
    }
}

struct MemoryRows {
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

    fn commit(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        let mut tables = self.committed.write();
        let Some(disk) = &self.disk else {
            apply(&mut tables, changes);
            return Ok(());
        };
        let committed = disk.sync_elsewhere(Path::new("index"), || apply(&mut tables, changes));
        committed.map_err(|e| IndexError::Failed {
            operation: "commit",
            cause: e.to_string().into(),
        })
    }
}

fn apply(tables: &mut Tables, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Put { table, key, value } => {
                let rows = tables.entry(table).or_default();
                rows.insert(key, Bytes::from(value));
            }
            Change::Delete { table, key } => {
                tables.entry(table).or_default().remove(&key);
            }
            Change::DeleteRange { table, from, below } => {
                let rows = tables.entry(table).or_default();
                let gone: Vec<Vec<u8>> = range(rows, &from, &below)
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
