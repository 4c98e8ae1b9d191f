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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

    use super::*;
    use crate::builder::{BatchBuilder, NewRecord};
    use crate::compression::Codec;

    const BUDGET: usize = 1 << 16;

    /// Records at the given (offset delta, timestamp), stamped with base offset 100.
    fn batch(mut builder: BatchBuilder, records: &[(i32, i64)]) -> (Bytes, BatchHeader) {
        for &(delta, timestamp) in records {
            builder
                .push_at(
                    delta,
                    &NewRecord {
                        timestamp,
                        ..NewRecord::default()
                    },
                )
                .unwrap();
        }
        let bytes = builder.build().unwrap();
        let header = BatchHeader {
            base_offset: 100,
            ..BatchHeader::parse(&bytes).unwrap()
        };
        (bytes, header)
    }

    fn found(offset: i64, timestamp: i64) -> Option<RecordPosition> {
        Some(RecordPosition { offset, timestamp })
    }

    #[test]
    fn create_times_are_found_to_the_record_in_every_codec() {
        for codec in Codec::ALL {
            let builder = BatchBuilder::new().compression(codec, None);
            let (bytes, header) = batch(builder, &[(0, 10), (1, 40), (2, 20), (3, 40), (4, 30)]);
            let first =
                |time, from| first_at_or_after(&bytes, &header, time, from, BUDGET).unwrap();
            assert_eq!(first(0, 0), found(100, 10));
            assert_eq!(first(11, 0), found(101, 40));
            assert_eq!(first(15, 102), found(102, 20));
            assert_eq!(first(40, 102), found(103, 40));
            assert_eq!(first(40, 104), None);
            assert_eq!(first(41, 0), None);
            let max = |from| max_timestamp_record(&bytes, &header, from, BUDGET).unwrap();
            assert_eq!(max(0), found(101, 40));
            assert_eq!(max(102), found(103, 40));
            assert_eq!(max(104), found(104, 30));
            assert_eq!(max(105), None);
        }
    }

    #[test]
    fn log_append_time_is_the_time_of_every_record() {
        let builder = BatchBuilder::new()
            .log_append_time(500)
            .compression(Codec::Gzip, None);
        let (bytes, header) = batch(builder, &[(0, 10), (1, 900)]);
        let first = |time, from| first_at_or_after(&bytes, &header, time, from, BUDGET).unwrap();
        assert_eq!(first(11, 0), found(100, 500));
        assert_eq!(first(500, 101), found(101, 500));
        assert_eq!(first(501, 0), None);
        assert_eq!(
            max_timestamp_record(&bytes, &header, 0, BUDGET).unwrap(),
            found(100, 500)
        );
        // Nothing needs to be decompressed.
        assert_eq!(
            first_at_or_after(&bytes, &header, 11, 0, 0).unwrap(),
            found(100, 500)
        );
    }

    #[test]
    fn after_compaction_only_records_that_exist_are_found() {
        for builder in [BatchBuilder::new(), BatchBuilder::new().log_append_time(30)] {
            let (bytes, header) = batch(builder, &[(2, 30), (5, 30)]);
            let first = |from| first_at_or_after(&bytes, &header, 1, from, BUDGET).unwrap();
            assert_eq!(first(0), found(102, 30));
            assert_eq!(first(103), found(105, 30));
            assert_eq!(
                max_timestamp_record(&bytes, &header, 0, BUDGET).unwrap(),
                found(102, 30)
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_not_a_miss() {
        let builder = BatchBuilder::new().compression(Codec::Zstd, None);
        let (bytes, header) = batch(builder, &[(0, 10), (1, 20)]);
        assert!(first_at_or_after(&bytes, &header, 5, 0, 3).is_err());
        assert!(max_timestamp_record(&bytes, &header, 0, 3).is_err());
        assert!(max_timestamp_record(&bytes.slice(..70), &header, 0, BUDGET).is_err());
    }
}
