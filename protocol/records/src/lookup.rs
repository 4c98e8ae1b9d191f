//! Offsets by timestamp within one batch, to the record (ListOffsets, KIP-79 and KIP-734). Which
//! batch to look into is the storage's to find, by the time index.

use bytes::Bytes;

use crate::header::BatchHeader;
use crate::record::{ReadError, RecordSet};

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPosition {
    /// Offset in the log.
    pub offset: i64,
    /// Timestamp in ms.
    pub timestamp: i64,
}

/// The first record of `batch` with a timestamp of at least `timestamp_ms` and an offset of at
/// least `from_offset` (the log start may lie within a batch). With LogAppendTime every record
/// has the batch's timestamp. `budget` bounds decompression in bytes.
///
/// # Errors
/// [`ReadError`] when the records cannot be read up to the one sought.
pub fn first_at_or_after(
    batch: &Bytes,
    header: &BatchHeader,
    timestamp_ms: i64,
    from_offset: i64,
    budget: usize,
) -> Result<Option<RecordPosition>, ReadError> {
    // The batch's maximum is true since validation, so most misses cost nothing.
    if header.max_timestamp < timestamp_ms || header.last_offset() < from_offset {
        return Ok(None);
    }
    if let Some(offset) = first_of_one_time(header, from_offset) {
        return Ok(Some(RecordPosition {
            offset,
            timestamp: header.max_timestamp,
        }));
    }
    for record in &RecordSet::open(batch, header, budget)? {
        let record = record?;
        let (offset, timestamp) = (record.offset(header), record.timestamp(header));
        if timestamp >= timestamp_ms && offset >= from_offset {
            return Ok(Some(RecordPosition { offset, timestamp }));
        }
    }
    Ok(None)
}

/// The first record with the largest timestamp of `batch`, among those from `from_offset` on.
/// `budget` bounds decompression in bytes.
///
/// # Errors
/// [`ReadError`] when the records cannot be read.
pub fn max_timestamp_record(
    batch: &Bytes,
    header: &BatchHeader,
    from_offset: i64,
    budget: usize,
) -> Result<Option<RecordPosition>, ReadError> {
    if header.last_offset() < from_offset {
        return Ok(None);
    }
    if let Some(offset) = first_of_one_time(header, from_offset) {
        return Ok(Some(RecordPosition {
            offset,
            timestamp: header.max_timestamp,
        }));
    }
    let mut found: Option<RecordPosition> = None;
    for record in &RecordSet::open(batch, header, budget)? {
        let record = record?;
        let (offset, timestamp) = (record.offset(header), record.timestamp(header));
        if offset >= from_offset && found.is_none_or(|found| timestamp > found.timestamp) {
            found = Some(RecordPosition { offset, timestamp });
        }
    }
    Ok(found)
}

/// The first offset from `from_offset` on when the header alone tells it: all records have one
/// time and compaction has taken none of them.
fn first_of_one_time(header: &BatchHeader, from_offset: i64) -> Option<i64> {
    let dense = header.record_count > 0 && header.last_offset_delta == header.record_count - 1;
    (header.is_log_append_time() && dense).then(|| header.base_offset.max(from_offset))
}
