//! Every key and the one row format that the index itself defines. Rows of other tables are the
//! caller's bytes, versioned by the caller.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | text: `format`, `marker`, `commits` | format: u32; marker: caller's; commits: u64, see `pair.rs` |
//! | `groups` | group | caller's |
//! | `segments` | group, base offset | caller's |
//! | `offsets` | group, segment base, batch base offset | sparse entry |
//! | `raft_positions` | group, Raft index | sparse entry |
//! | `raft_entries` | group, Raft index | caller's |
//! | `producers` | group | caller's |
//!
//! Numbers in keys are 8 bytes big-endian, so rows sort as their numbers do. Offsets are never
//! negative. Sparse entry, version 1: version u8, then segment base, base offset, position, Raft
//! index, largest timestamp, 8 bytes little-endian each.

use klamm_records::GroupId;

use super::{IndexError, SparseEntry};

/// Version of keys and tables as a whole; a higher one is not opened.
pub(super) const FORMAT: u32 = 1;
/// Behind every key of a table: no key is so long or starts so high.
pub(super) const TABLE_END: [u8; 32] = [0xff; 32];

const SPARSE_VERSION: u8 = 1;
const SPARSE_LEN: usize = 1 + 5 * 8;
/// Longest key: three numbers.
const MAX_KEY_LEN: usize = 24;

/// A table: a column family in RocksDB, a map in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Table {
    Meta,
    Groups,
    Segments,
    Offsets,
    RaftPositions,
    RaftEntries,
    Producers,
}

impl Table {
    pub(super) const ALL: [Table; 7] = [
        Table::Meta,
        Table::Groups,
        Table::Segments,
        Table::Offsets,
        Table::RaftPositions,
        Table::RaftEntries,
        Table::Producers,
    ];

    /// Name on disk.
    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Groups => "groups",
            Table::Segments => "segments",
            Table::Offsets => "offsets",
            Table::RaftPositions => "raft_positions",
            Table::RaftEntries => "raft_entries",
            Table::Producers => "producers",
        }
    }
}

pub(super) fn format_key() -> Vec<u8> {
    b"format".to_vec()
}

pub(super) fn marker_key() -> Vec<u8> {
    b"marker".to_vec()
}

pub(super) fn commits_key() -> Vec<u8> {
    b"commits".to_vec()
}

/// An offset as a key's number.
pub(super) fn offset(offset: i64) -> u64 {
    u64::try_from(offset).expect("the log's own offsets are never negative")
}

/// The offset of a key's number.
pub(super) fn offset_of(number: u64) -> Result<i64, IndexError> {
    i64::try_from(number).map_err(|_| IndexError::Corrupt {
        table: "segments",
        what: "negative offset",
    })
}

fn key_of(numbers: &[u64]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect()
}

/// Behind every key that starts with `prefix`.
fn end_of(mut prefix: Vec<u8>) -> Vec<u8> {
    prefix.resize(MAX_KEY_LEN + 1, 0xff);
    prefix
}

/// A group's own key, and the start of all its keys.
pub(super) fn group_key(group: GroupId) -> Vec<u8> {
    key_of(&[group.0])
}

/// Behind all keys of a group.
pub(super) fn group_end(group: GroupId) -> Vec<u8> {
    end_of(group_key(group))
}

/// Key by group and base offset or Raft index; also the start of a segment's offsets.
pub(super) fn numbered_key(group: GroupId, number: u64) -> Vec<u8> {
    key_of(&[group.0, number])
}

/// Behind all keys of a segment.
pub(super) fn segment_end(group: GroupId, base_offset: i64) -> Vec<u8> {
    end_of(numbered_key(group, offset(base_offset)))
}

/// Behind the key of a Raft index.
pub(super) fn after_index(group: GroupId, index: u64) -> Vec<u8> {
    end_of(numbered_key(group, index))
}

/// Key of an indexed batch.
pub(super) fn offset_key(group: GroupId, segment_base: i64, base_offset: i64) -> Vec<u8> {
    key_of(&[group.0, offset(segment_base), offset(base_offset)])
}

/// The group of a row in `groups`.
pub(super) fn decode_group(key: &[u8]) -> Result<GroupId, IndexError> {
    let bytes = key.try_into().map_err(|_| IndexError::Corrupt {
        table: "groups",
        what: "key is not one number",
    })?;
    Ok(GroupId(u64::from_be_bytes(bytes)))
}

/// The second number of a key that has two.
pub(super) fn decode_number(table: Table, key: &[u8]) -> Result<u64, IndexError> {
    key.get(8..)
        .and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)))
        .ok_or(IndexError::Corrupt {
            table: table.name(),
            what: "key is not two numbers",
        })
}

pub(super) fn encode_sparse(entry: &SparseEntry) -> Vec<u8> {
    let mut row = Vec::with_capacity(SPARSE_LEN);
    row.push(SPARSE_VERSION);
    row.extend_from_slice(&entry.segment_base.to_le_bytes());
    row.extend_from_slice(&entry.base_offset.to_le_bytes());
    row.extend_from_slice(&entry.position.to_le_bytes());
    row.extend_from_slice(&entry.raft_index.to_le_bytes());
    row.extend_from_slice(&entry.max_timestamp.to_le_bytes());
    row
}

pub(super) fn decode_sparse(row: &[u8]) -> Result<SparseEntry, IndexError> {
    let corrupt = |what| IndexError::Corrupt {
        table: "offsets",
        what,
    };
    match row.first() {
        Some(&SPARSE_VERSION) if row.len() == SPARSE_LEN => {}
        Some(&SPARSE_VERSION) => return Err(corrupt("wrong length")),
        _ => return Err(corrupt("unknown version")),
    }
    let number = |at: usize| -> Result<[u8; 8], IndexError> {
        let field = row
            .get(1 + at * 8..9 + at * 8)
            .and_then(|bytes| bytes.try_into().ok());
        field.ok_or(corrupt("wrong length"))
    };
    let entry = SparseEntry {
        segment_base: i64::from_le_bytes(number(0)?),
        base_offset: i64::from_le_bytes(number(1)?),
        position: u64::from_le_bytes(number(2)?),
        raft_index: u64::from_le_bytes(number(3)?),
        max_timestamp: i64::from_le_bytes(number(4)?),
    };
    if entry.segment_base < 0 || entry.base_offset < entry.segment_base {
        return Err(corrupt("offset outside its segment"));
    }
    Ok(entry)
}

/// The format number of a row in `meta`, refused if this program is too old for it.
pub(super) fn check_format(row: &[u8]) -> Result<(), IndexError> {
    let bytes = row.try_into().map_err(|_| IndexError::Corrupt {
        table: "meta",
        what: "format is not a number",
    })?;
    let found = u32::from_le_bytes(bytes);
    if found > FORMAT {
        return Err(IndexError::NewerFormat {
            found,
            known: FORMAT,
        });
    }
    Ok(())
}
