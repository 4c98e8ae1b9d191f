//! The index: where in the segments an offset, a Raft entry or a point in time is found, and the
//! small rows that a checkpoint leaves behind. Never the only copy of a record (R3).
//!
//! [`Index`] holds the meaning (keys, lookups, what a delete covers) once; beneath it lie ordered
//! rows in one of two forms, RocksDB ([`RocksIndexStore`]) and memory ([`MemoryIndexStore`]), which
//! pass one contract suite. An [`IndexBatch`] is the unit of change: [`Index::commit`] makes all of
//! it durable or none of it, and nothing is ever visible that was not committed. What happened
//! since the last commit is the caller's to keep in memory and to replay from the journal.
//!
//! Tables and keys: `keys.rs`. There is no table by time: within a segment the largest timestamp
//! so far never falls, so a lookup by time bisects the rows by offset, and every indexed position
//! costs two rows instead of three.

mod copying;
mod keys;
mod manifest;
mod memory;
mod pair;
mod rocks;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::GroupId;

use keys::{Table, group_end, group_key, marker_key, numbered_key, offset_key, segment_end};
pub use memory::MemoryIndexStore;
pub(crate) use pair::{Check, Pair};
pub use rocks::RocksIndexStore;

/// A batch whose place is indexed: one per `index_interval_bytes` of segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseEntry {
    /// Base offset of the segment that holds the batch.
    pub segment_base: i64,
    /// Base offset of the batch.
    pub base_offset: i64,
    /// Byte position of the batch in the segment file.
    pub position: u64,
    /// Raft index of the batch.
    pub raft_index: u64,
    /// Largest timestamp in the segment up to and including this batch, in ms.
    pub max_timestamp: i64,
}

/// Why an index operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    /// The store beneath refused to read or to commit; after a failed commit nothing of the batch
    /// may be relied on.
    #[error("index {operation} failed: {cause}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// What the store said.
        cause: Arc<str>,
    },
    /// What the store beneath finds is not what it wrote; the cause names the file.
    #[error("index {operation} found damage: {cause}")]
    Damaged {
        /// What was tried.
        operation: &'static str,
        /// What the store said.
        cause: Arc<str>,
    },
    /// A row does not have the form its table prescribes. The index can be rebuilt.
    #[error("corrupt row in index table {table}: {what}")]
    Corrupt {
        /// The table's name.
        table: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A later version wrote it.
    #[error("index has format {found}, this program knows up to {known}")]
    NewerFormat {
        /// Format of the index.
        found: u32,
        /// Newest format this program reads.
        known: u32,
    },
}

/// Opens the index of a store; decides the form.
pub trait IndexStore: Send + Sync {
    /// Opens the index in `dir`, creating an empty one if there is none. A fresh index has no
    /// marker, which tells it from one that lived through a checkpoint.
    fn open(&self, dir: &Path) -> Result<Index, IndexError>;
    /// Whether an index is there.
    fn exists(&self, dir: &Path) -> bool;
    /// Removes the index, which must not be open, so that it can be rebuilt.
    fn destroy(&self, dir: &Path) -> Result<(), IndexError>;
    /// Gives an index, which must not be open, another name that is free; durable and atomic. One
    /// that is not there stays so.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), IndexError>;
    /// Notes durably, with the index itself, that it is not to be relied on any more, and why. It
    /// may be open.
    fn condemn(&self, dir: &Path, why: &str) -> Result<(), IndexError>;
    /// What [`IndexStore::condemn`] noted.
    fn condemned(&self, dir: &Path) -> Option<String>;
}

/// One change to the rows.
#[derive(Clone, Debug)]
enum Change {
    Put {
        table: Table,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        table: Table,
        key: Vec<u8>,
    },
    /// Every key in `from..below`.
    DeleteRange {
        table: Table,
        from: Vec<u8>,
        below: Vec<u8>,
    },
}

type Row = (Vec<u8>, Bytes);
/// Takes a key and its value.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Ordered rows by table: what RocksDB and memory have in common.
trait Rows: Send + Sync {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, IndexError>;
    /// The first row in `from..below`.
    fn first(&self, table: Table, from: &[u8], below: &[u8]) -> Result<Option<Row>, IndexError>;
    /// The last row in `from..below`.
    fn last(&self, table: Table, from: &[u8], below: &[u8]) -> Result<Option<Row>, IndexError>;
    /// The rows in `from..below` in order, until `visit` breaks.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        below: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError>;
    /// Makes the changes, which take effect in their order, durable: all or none. They come in parts, so that
    /// who adds some need not copy the others.
    fn commit(&self, changes: &[&[Change]]) -> Result<(), IndexError>;
}

/// Changes that become durable together. They take effect in the order of the calls: a delete
/// covers what the same batch put before it, a later put stays.
#[derive(Debug, Default)]
pub struct IndexBatch {
    changes: Vec<Change>,
}

impl IndexBatch {
    /// A batch without changes.
    pub fn new() -> IndexBatch {
        IndexBatch::default()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push(Change::Put { table, key, value });
    }

    fn delete_range(&mut self, table: Table, from: Vec<u8>, below: Vec<u8>) {
        self.changes
            .push(Change::DeleteRange { table, from, below });
    }

    /// Sets the store-wide marker (from which journal file a start has to replay).
    pub fn set_marker(&mut self, row: Vec<u8>) {
        self.put(Table::Meta, marker_key(), row);
    }

    /// Sets a group's state.
    pub fn put_group(&mut self, group: GroupId, row: Vec<u8>) {
        self.put(Table::Groups, group_key(group), row);
    }

    /// Sets what is known of a segment.
    pub fn put_segment(&mut self, group: GroupId, base_offset: i64, row: Vec<u8>) {
        self.put(
            Table::Segments,
            numbered_key(group, keys::offset(base_offset)),
            row,
        );
    }

    /// Indexes a batch by offset only: its Raft index is purged.
    pub fn put_offset(&mut self, group: GroupId, entry: &SparseEntry) {
        let row = keys::encode_sparse(entry);
        let by_offset = offset_key(group, entry.segment_base, entry.base_offset);
        self.put(Table::Offsets, by_offset, row);
    }

    /// Indexes a batch, by offset and by Raft index.
    pub fn put_sparse(&mut self, group: GroupId, entry: &SparseEntry) {
        self.put_offset(group, entry);
        let row = keys::encode_sparse(entry);
        self.put(
            Table::RaftPositions,
            numbered_key(group, entry.raft_index),
            row,
        );
    }

    /// Stores a Raft entry that is not a batch (blank, membership, command).
    pub fn put_raft_entry(&mut self, group: GroupId, index: u64, row: Vec<u8>) {
        self.put(Table::RaftEntries, numbered_key(group, index), row);
    }

    /// Stores a group's producer state.
    pub fn put_producers(&mut self, group: GroupId, row: Vec<u8>) {
        self.put(Table::Producers, group_key(group), row);
    }

    /// Removes everything about a group.
    pub fn delete_group(&mut self, group: GroupId) {
        for table in [Table::Groups, Table::Producers] {
            self.changes.push(Change::Delete {
                table,
                key: group_key(group),
            });
        }
        for table in [
            Table::Segments,
            Table::Offsets,
            Table::RaftPositions,
            Table::RaftEntries,
        ] {
            self.delete_range(table, group_key(group), group_end(group));
        }
    }

    /// Removes a segment's row and its offsets. Its Raft positions go with
    /// [`IndexBatch::purge_raft`] or [`IndexBatch::truncate_raft`].
    pub fn delete_segment(&mut self, group: GroupId, base_offset: i64) {
        let key = numbered_key(group, keys::offset(base_offset));
        let below = segment_end(group, base_offset);
        self.delete_range(Table::Offsets, key.clone(), below);
        self.changes.push(Change::Delete {
            table: Table::Segments,
            key,
        });
    }

    /// Removes what lies at and behind `offset`, which is in the segment `segment_base` or its
    /// end: offsets from there on, in this and every later segment, and the later segments' rows.
    pub fn truncate_offsets(&mut self, group: GroupId, segment_base: i64, offset: i64) {
        let from = offset_key(group, segment_base, offset);
        self.delete_range(Table::Offsets, from, group_end(group));
        let later = segment_end(group, segment_base);
        self.delete_range(Table::Segments, later, group_end(group));
    }

    /// Removes Raft entries and positions with an index of `from` and above.
    pub fn truncate_raft(&mut self, group: GroupId, from: u64) {
        for table in [Table::RaftPositions, Table::RaftEntries] {
            self.delete_range(table, numbered_key(group, from), group_end(group));
        }
    }

    /// Removes Raft entries and positions with an index up to and including `upto`.
    pub fn purge_raft(&mut self, group: GroupId, upto: u64) {
        let below = keys::after_index(group, upto);
        for table in [Table::RaftPositions, Table::RaftEntries] {
            self.delete_range(table, group_key(group), below.clone());
        }
    }
}

/// The index of one store. Reads see committed rows only.
pub struct Index {
    rows: Box<dyn Rows>,
}

impl Index {
    /// The store-wide marker; `None` in an index that was never committed to.
    pub fn marker(&self) -> Result<Option<Bytes>, IndexError> {
        self.rows.get(Table::Meta, &marker_key())
    }

    /// All groups with their rows, ascending.
    pub fn groups(&self) -> Result<Vec<(GroupId, Bytes)>, IndexError> {
        let mut groups = Vec::new();
        let mut bad = None;
        self.rows
            .scan(Table::Groups, &[], &keys::TABLE_END, &mut |key, value| {
                match keys::decode_group(key) {
                    Ok(group) => groups.push((group, Bytes::copy_from_slice(value))),
                    Err(e) => bad = Some(e),
                }
                if bad.is_some() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
        bad.map_or(Ok(groups), Err)
    }

    /// A group's row.
    pub fn group(&self, group: GroupId) -> Result<Option<Bytes>, IndexError> {
        self.rows.get(Table::Groups, &group_key(group))
    }

    /// A group's segments, by base offset, ascending.
    pub fn segments(&self, group: GroupId) -> Result<Vec<(i64, Bytes)>, IndexError> {
        let rows = self.numbered(
            Table::Segments,
            &group_key(group),
            &group_end(group),
            usize::MAX,
        )?;
        rows.into_iter()
            .map(|(base, row)| Ok((keys::offset_of(base)?, row)))
            .collect()
    }

    /// A group's producer state.
    pub fn producers(&self, group: GroupId) -> Result<Option<Bytes>, IndexError> {
        self.rows.get(Table::Producers, &group_key(group))
    }

    /// The last indexed batch of a segment whose base offset is at or below `offset`.
    pub fn at_or_below_offset(
        &self,
        group: GroupId,
        segment_base: i64,
        offset: i64,
    ) -> Result<Option<SparseEntry>, IndexError> {
        let from = numbered_key(group, keys::offset(segment_base));
        let below = match offset.checked_add(1) {
            Some(next) if next > 0 => offset_key(group, segment_base, next),
            Some(_) => return Ok(None),
            None => segment_end(group, segment_base),
        };
        self.sparse(self.rows.last(Table::Offsets, &from, &below)?)
    }

    /// The first indexed batch of a segment whose base offset is at or above `offset`.
    pub fn at_or_above_offset(
        &self,
        group: GroupId,
        segment_base: i64,
        offset: i64,
    ) -> Result<Option<SparseEntry>, IndexError> {
        let from = offset_key(group, segment_base, offset.max(0));
        let below = segment_end(group, segment_base);
        self.sparse(self.rows.first(Table::Offsets, &from, &below)?)
    }

    /// The last indexed batch of a segment up to which (itself included) every timestamp is below
    /// `timestamp`: a search for the first record at or after `timestamp` may begin behind it.
    /// `None`: begin at the start of the segment.
    pub fn before_timestamp(
        &self,
        group: GroupId,
        segment_base: i64,
        timestamp: i64,
    ) -> Result<Option<SparseEntry>, IndexError> {
        let earlier = |entry: &SparseEntry| entry.max_timestamp < timestamp;
        let Some(mut low) = self
            .at_or_above_offset(group, segment_base, segment_base)?
            .filter(earlier)
        else {
            return Ok(None);
        };
        let Some(last) = self.at_or_below_offset(group, segment_base, i64::MAX)? else {
            return Ok(Some(low));
        };
        if earlier(&last) {
            return Ok(Some(last));
        }
        // `low` is earlier; the first entry at or above `high` is not.
        let mut high = last.base_offset;
        while high - low.base_offset > 1 {
            let middle = low.base_offset + (high - low.base_offset) / 2;
            match self.at_or_above_offset(group, segment_base, middle)? {
                Some(entry) if earlier(&entry) => low = entry,
                _ => high = middle,
            }
        }
        Ok(Some(low))
    }

    /// The last indexed batch whose Raft index is at or below `index`, in any segment.
    pub fn at_or_below_raft_index(
        &self,
        group: GroupId,
        index: u64,
    ) -> Result<Option<SparseEntry>, IndexError> {
        let below = keys::after_index(group, index);
        self.sparse(
            self.rows
                .last(Table::RaftPositions, &group_key(group), &below)?,
        )
    }

    /// A Raft entry that is not a batch.
    pub fn raft_entry(&self, group: GroupId, index: u64) -> Result<Option<Bytes>, IndexError> {
        self.rows
            .get(Table::RaftEntries, &numbered_key(group, index))
    }

    /// At most `limit` Raft entries that are not batches, with `range.start <= index < range.end`.
    pub fn raft_entries(
        &self,
        group: GroupId,
        range: std::ops::Range<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, IndexError> {
        let (from, below) = (
            numbered_key(group, range.start),
            numbered_key(group, range.end),
        );
        self.numbered(Table::RaftEntries, &from, &below, limit)
    }

    /// The last Raft entry that is not a batch at or below `index`.
    pub fn raft_entry_at_or_below(
        &self,
        group: GroupId,
        index: u64,
    ) -> Result<Option<(u64, Bytes)>, IndexError> {
        let below = keys::after_index(group, index);
        let row = self
            .rows
            .last(Table::RaftEntries, &group_key(group), &below)?;
        row.map(|(key, value)| Ok((keys::decode_number(Table::RaftEntries, &key)?, value)))
            .transpose()
    }

    /// Makes a batch durable, all of it or nothing. Blocks for as long as the disk takes.
    pub fn commit(&self, batch: IndexBatch) -> Result<(), IndexError> {
        if batch.is_empty() {
            Ok(())
        } else {
            self.rows.commit(&[&batch.changes])
        }
    }

    fn sparse(&self, row: Option<Row>) -> Result<Option<SparseEntry>, IndexError> {
        row.map(|(_, value)| keys::decode_sparse(&value))
            .transpose()
    }

    fn numbered(
        &self,
        table: Table,
        from: &[u8],
        below: &[u8],
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, IndexError> {
        let mut found = Vec::new();
        let mut bad = None;
        self.rows.scan(table, from, below, &mut |key, value| {
            if found.len() >= limit {
                return ControlFlow::Break(());
            }
            match keys::decode_number(table, key) {
                Ok(number) => {
                    found.push((number, Bytes::copy_from_slice(value)));
                    ControlFlow::Continue(())
                }
                Err(e) => {
                    bad = Some(e);
                    ControlFlow::Break(())
                }
            }
        })?;
        bad.map_or(Ok(found), Err)
    }
}

#[cfg(test)]
#[path = "contract_test.rs"]
mod contract_tests;
#[cfg(test)]
#[path = "forms_test.rs"]
mod forms_tests;
#[cfg(test)]
#[path = "pair_test.rs"]
mod pair_tests;
