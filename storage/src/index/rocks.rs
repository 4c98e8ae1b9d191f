//! The index in RocksDB: one column family per table, its write-ahead log off.
//!
//! A commit is one write batch into the memtables and one atomic flush of all column families:
//! either all of it is in the manifest after a crash or nothing. Between commits nothing is
//! written, so memtables are empty but for the batch under way, and closing without care loses
//! nothing. RocksDB syncs its files and its directory; the entry of the directory itself is for
//! whoever creates the store.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, ErrorKind, FlushOptions, LogLevel, Options, ReadOptions, WriteBatch,
    WriteOptions,
};

use super::keys::{self, FORMAT, Table};
use super::manifest;
use super::{Change, Index, IndexError, IndexStore, Row, Rows, Visit};

/// Memtable size per column family. Small: only a commit's own rows are ever in it.
const WRITE_BUFFER_BYTES: usize = 2 << 20;
/// Cache of blocks, table indexes and filters for the whole store.
const BLOCK_CACHE_BYTES: usize = 8 << 20;
/// Table files that RocksDB keeps open, in each of two databases.
const MAX_OPEN_FILES: i32 = 48;
/// Up to so many rows a range is deleted row by row: a range tombstone slows every later read, and each open table file
/// keeps its own in memory.
const MAX_SINGLE_DELETES: usize = 32;

/// Name of the file that says why a database is not to be relied on. RocksDB leaves names alone that
/// are not its own.
const CONDEMNED: &str = "DAMAGED";

/// Opens the index as a RocksDB database.
#[derive(Clone, Copy, Debug, Default)]
pub struct RocksIndexStore;

fn failed(operation: &'static str) -> impl Fn(rocksdb::Error) -> IndexError {
    move |error| {
        let damaged = is_damage(operation, &error);
        let cause = error.into_string().into();
        match damaged {
            true => IndexError::Damaged { operation, cause },
            false => IndexError::Failed { operation, cause },
        }
    }
}

/// Whether an error tells of bytes that are not what was written. A file's number, read from
/// damaged bytes, leads to a file that is not there; a rotten sector cannot be read at all.
fn is_damage(operation: &'static str, error: &rocksdb::Error) -> bool {
    let of_the_disk = ["No such file", "Input/output error"];
    match error.kind() {
        ErrorKind::Corruption => true,
        // After a failed write the disk is not asked what it holds.
        ErrorKind::IOError if matches!(operation, "open" | "read") => of_the_disk
            .iter()
            .any(|text| error.to_string().contains(text)),
        ErrorKind::IOError | ErrorKind::Busy | ErrorKind::TimedOut | ErrorKind::TryAgain => false,
        _ => operation == "open",
    }
}

fn failed_io(operation: &'static str) -> impl Fn(io::Error) -> IndexError {
    move |error| IndexError::Failed {
        operation,
        cause: error.to_string().into(),
    }
}

/// RocksDB never ends over one kind of damage.
fn check_manifest(dir: &Path) -> Result<(), IndexError> {
    match manifest::trouble(dir) {
        Ok(Some(trouble)) => Err(IndexError::Damaged {
            operation: "open",
            cause: trouble.into(),
        }),
        // What cannot be read RocksDB meets next, and says so.
        Ok(None) | Err(_) => Ok(()),
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_open_files(MAX_OPEN_FILES);
    options.set_max_background_jobs(2);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options
}

fn table_options(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_compression_type(DBCompressionType::None);
    options
}

impl IndexStore for RocksIndexStore {
    fn open(&self, dir: &Path) -> Result<Index, IndexError> {
        check_manifest(dir)?;
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let tables = Table::ALL
            .iter()
            .map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(&cache)));
        let database =
            DB::open_cf_descriptors(&database_options(), dir, tables).map_err(failed("open"))?;
        let rows = RocksRows { database };
        match rows.get(Table::Meta, &keys::format_key())? {
            Some(format) => keys::check_format(&format)?,
            None => rows.commit(&[&[Change::Put {
                table: Table::Meta,
                key: keys::format_key(),
                value: FORMAT.to_le_bytes().to_vec(),
            }]])?,
        }
        Ok(Index {
            rows: Box::new(rows),
        })
    }

    fn exists(&self, dir: &Path) -> bool {
        // Written last when a database is created, and replaced by rename ever after.
        dir.join("CURRENT").exists()
    }

    fn destroy(&self, dir: &Path) -> Result<(), IndexError> {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed_io("destroy")(e)),
            _ => Ok(()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IndexError> {
        match std::fs::rename(from, to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed
                .and_then(|()| sync_dir(to.parent()))
                .map_err(failed_io("rename")),
        }
    }

    fn condemn(&self, dir: &Path, why: &str) -> Result<(), IndexError> {
        let write = || {
            let mut file = File::create(dir.join(CONDEMNED))?;
            file.write_all(why.as_bytes())?;
            file.sync_all()?;
            sync_dir(Some(dir))
        };
        write().map_err(failed_io("condemn"))
    }

    fn condemned(&self, dir: &Path) -> Option<String> {
        let why = std::fs::read(dir.join(CONDEMNED)).ok()?;
        Some(String::from_utf8_lossy(&why).into_owned())
    }
}

fn sync_dir(dir: Option<&Path>) -> io::Result<()> {
    dir.map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

struct RocksRows {
    database: DB,
}

impl RocksRows {
    fn family(&self, table: Table) -> &ColumnFamily {
        self.database
            .cf_handle(table.name())
            .expect("opened with every table")
    }

    fn iterator(&self, table: Table, from: &[u8], below: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        // Bounds let RocksDB stop at them instead of walking over another group's tombstones.
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(below.max(from));
        self.database
            .raw_iterator_cf_opt(self.family(table), options)
    }

    fn row_at(iterator: &DBRawIterator<'_>) -> Result<Option<Row>, IndexError> {
        if let Some((key, value)) = iterator.item() {
            return Ok(Some((key.to_vec(), Bytes::copy_from_slice(value))));
        }
        iterator.status().map_err(failed("read"))?;
        Ok(None)
    }

    /// The committed keys in `from..below`, if they are few.
    fn few_keys(
        &self,
        table: Table,
        from: &[u8],
        below: &[u8],
    ) -> Result<Option<Vec<Vec<u8>>>, IndexError> {
        let mut keys = Vec::new();
        self.scan(table, from, below, &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() > MAX_SINGLE_DELETES {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok((keys.len() <= MAX_SINGLE_DELETES).then_some(keys))
    }

    fn write_batch(&self, changes: &[&[Change]]) -> Result<WriteBatch, IndexError> {
        let mut batch = WriteBatch::default();
        // Rows that this batch put are not committed yet: a delete that follows covers them as well.
        let mut put: BTreeSet<(Table, &[u8])> = BTreeSet::new();
        for change in changes.iter().copied().flatten() {
            match change {
                Change::Put { table, key, value } => {
                    batch.put_cf(self.family(*table), key, value);
                    put.insert((*table, key));
                }
                Change::Delete { table, key } => batch.delete_cf(self.family(*table), key),
                Change::DeleteRange { from, below, .. } if from >= below => {}
                Change::DeleteRange { table, from, below } => {
                    let family = self.family(*table);
                    let just_put = put.range((*table, from.as_slice())..(*table, below.as_slice()));
                    let just_put: Vec<&[u8]> = just_put
                        .map(|(_, key)| *key)
                        .take(MAX_SINGLE_DELETES + 1)
                        .collect();
                    match self.few_keys(*table, from, below)? {
                        Some(keys) if keys.len() + just_put.len() <= MAX_SINGLE_DELETES => {
                            keys.iter().for_each(|key| batch.delete_cf(family, key));
                            just_put.iter().for_each(|key| batch.delete_cf(family, key));
                        }
                        _ => batch.delete_range_cf(family, from, below),
                    }
                }
            }
        }
        Ok(batch)
    }
}

impl Rows for RocksRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        let value = self
            .database
            .get_cf(self.family(table), key)
            .map_err(failed("read"))?;
        Ok(value.map(Bytes::from))
    }

    fn first(&self, table: Table, from: &[u8], below: &[u8]) -> Result<Option<Row>, IndexError> {
        let mut iterator = self.iterator(table, from, below);
        iterator.seek_to_first();
        Self::row_at(&iterator)
    }

    fn last(&self, table: Table, from: &[u8], below: &[u8]) -> Result<Option<Row>, IndexError> {
        let mut iterator = self.iterator(table, from, below);
        iterator.seek_to_last();
        Self::row_at(&iterator)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        below: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError> {
        let mut iterator = self.iterator(table, from, below);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(failed("read"))
    }

    fn commit(&self, changes: &[&[Change]]) -> Result<(), IndexError> {
        let batch = self.write_batch(changes)?;
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.database
            .write_opt(batch, &options)
            .map_err(failed("commit"))?;
        let families: Vec<&ColumnFamily> = Table::ALL.map(|table| self.family(table)).to_vec();
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        self.database
            .flush_cfs_opt(&families, &flush)
            .map_err(failed("flush"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{IndexBatch, SparseEntry};
    use klamm_records::GroupId;

    /// Range tombstones in the table files of all families.
    fn range_tombstones(rows: &RocksRows) -> u64 {
        let of = |table: &Table| {
            let property = "rocksdb.aggregated-table-properties";
            let told = rows
                .database
                .property_value_cf(rows.family(*table), property)
                .expect("a property that there is")
                .unwrap_or_default();
            let count = told.split("; ").find_map(|part| {
                let count = part.strip_prefix("# range deletions=")?;
                count.parse::<u64>().ok()
            });
            count.unwrap_or_else(|| panic!("{told}"))
        };
        Table::ALL.iter().map(of).sum()
    }

    fn fill(batch: &mut IndexBatch, group: GroupId, entries: i64) {
        batch.put_group(group, b"row".to_vec());
        batch.put_segment(group, 0, b"row".to_vec());
        for n in 0..entries {
            batch.put_raft_entry(group, n as u64, b"blank".to_vec());
            let entry = SparseEntry {
                segment_base: 0,
                base_offset: n,
                position: 0,
                raft_index: n as u64,
                max_timestamp: 0,
            };
            batch.put_sparse(group, &entry);
        }
    }

    #[test]
    fn small_groups_are_deleted_without_range_tombstones() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let tables = Table::ALL
            .iter()
            .map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(&cache)));
        let database = DB::open_cf_descriptors(&database_options(), dir.path(), tables);
        let rows = RocksRows {
            database: database.expect("a new one"),
        };
        let commit = |batch: IndexBatch| rows.commit(&[&batch.changes]).expect("committed");
        let (first, second, large) = (GroupId(1), GroupId(2), GroupId(3));
        let mut batch = IndexBatch::new();
        fill(&mut batch, first, 3);
        fill(&mut batch, large, MAX_SINGLE_DELETES as i64 + 1);
        commit(batch);
        // Others are put into the same tables at the same time.
        let mut batch = IndexBatch::new();
        fill(&mut batch, second, 3);
        batch.delete_group(first);
        batch.delete_group(second);
        commit(batch);
        assert_eq!(range_tombstones(&rows), 0);
        for group in [first, second] {
            let key = keys::group_key(group);
            for table in Table::ALL {
                let left = rows.first(table, &key, &keys::group_end(group));
                assert_eq!(left.expect("read"), None, "{table:?}");
            }
        }
        let mut batch = IndexBatch::new();
        batch.delete_group(large);
        commit(batch);
        assert_eq!(
            range_tombstones(&rows),
            3,
            "one for each table with many rows"
        );
    }
}
