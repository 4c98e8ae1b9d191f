//! The records of a batch, read in place.
//!
//! Invariants: nothing is allocated per record, and no count that the bytes claim drives an
//! allocation or a loop beyond the bytes that are there. A [`Record`] exists only when its whole
//! encoding was checked, headers included.

use bytes::Bytes;

use crate::compression::{Codec, DecompressError, UnsupportedCodec, decompress};
use crate::header::{BATCH_HEADER_LEN, BatchHeader};
use crate::varint::{Cursor, Fault};

/// Bytes of the smallest record: length, attributes, two deltas, null key, null value, no header.
pub const MIN_RECORD_LEN: usize = 7;

/// One record as it lies in the decompressed bytes of its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Not used by format 2; producers write 0.
    pub attributes: u8,
    /// Timestamp relative to the batch's `base_timestamp`, in ms.
    pub timestamp_delta: i64,
    /// Offset relative to the batch's `base_offset`.
    pub offset_delta: i32,
    /// Key; absent and empty differ.
    pub key: Option<&'a [u8]>,
    /// Value; an absent one is a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// Headers in their order.
    pub headers: Headers<'a>,
}

impl Record<'_> {
    /// Offset of the record in the log.
    pub fn offset(&self, header: &BatchHeader) -> i64 {
        header
            .base_offset
            .saturating_add(i64::from(self.offset_delta))
    }

    /// Timestamp of the record in ms: the batch's one when that is the broker's (LogAppendTime).
    /// A sum outside the range of an i64 is clamped to it.
    pub fn timestamp(&self, header: &BatchHeader) -> i64 {
        if header.is_log_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.saturating_add(self.timestamp_delta)
        }
    }
}

/// The headers of a record as (key, value), in order, duplicates kept. Keys are meant to be
/// UTF-8, which nothing in the format enforces.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    cursor: Cursor<'a>,
    remaining: usize,
}

impl<'a> Headers<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<(&'a [u8], Option<&'a [u8]>), Fault> {
        let key = cursor
            .nullable_bytes()?
            .ok_or("a header key has a negative length")?;
        Ok((key, cursor.nullable_bytes()?))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        Some(Headers::read(&mut self.cursor).expect("headers were walked when the record was read"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// Bytes that are not the records their batch header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {index} is malformed: {what}")]
pub struct RecordFormatError {
    /// Position of the record in its batch, from 0.
    pub index: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Iterator over exactly the announced number of records. Ends after the first error; bytes left
/// over behind the last record are an error too.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    index: usize,
    count: usize,
}

impl<'a> Records<'a> {
    /// Reads `count` records from decompressed bytes; a negative count is none.
    pub fn new(bytes: &'a [u8], count: i32) -> Self {
        let count = usize::try_from(count).unwrap_or(0);
        Records {
            cursor: Cursor::new(bytes),
            index: 0,
            count,
        }
    }

    #[cold]
    fn end(&mut self, what: Fault) -> Option<Result<Record<'a>, RecordFormatError>> {
        let error = RecordFormatError {
            index: self.index,
            what,
        };
        self.cursor = Cursor::new(&[]);
        self.index = self.count;
        Some(Err(error))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordFormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            return if self.cursor.remaining() == 0 {
                None
            } else {
                self.end("bytes follow the last record that the batch counts")
            };
        }
        match read_record(&mut self.cursor) {
            Ok(record) => {
                self.index += 1;
                Some(Ok(record))
            }
            Err(what) => self.end(what),
        }
    }
}

impl std::iter::FusedIterator for Records<'_> {}

#[inline]
fn read_record<'a>(cursor: &mut Cursor<'a>) -> Result<Record<'a>, Fault> {
    if cursor.remaining() == 0 {
        return Err("the batch holds fewer records than it counts");
    }
    let length = usize::try_from(cursor.varint()?).map_err(|_| "its length is negative")?;
    let mut body = Cursor::new(
        cursor
            .take(length)
            .ok_or("its length points past the batch")?,
    );
    let attributes = body.u8()?;
    let timestamp_delta = body.varlong()?;
    let offset_delta = body.varint()?;
    let key = body.nullable_bytes()?;
    let value = body.nullable_bytes()?;
    let count = usize::try_from(body.varint()?).map_err(|_| "its header count is negative")?;
    // A header takes at least two bytes.
    if count > body.remaining() / 2 {
        return Err("it counts more headers than it has bytes for");
    }
    let headers = Headers {
        cursor: body,
        remaining: count,
    };
    for _ in 0..count {
        Headers::read(&mut body)?;
    }
    if body.remaining() != 0 {
        return Err("its length is greater than its fields");
    }
    Ok(Record {
        attributes,
        timestamp_delta,
        offset_delta,
        key,
        value,
        headers,
    })
}

/// Why the records of a stored batch could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes are shorter than the header says.
    #[error("the batch is shorter than its header says")]
    Truncated,
    /// The compression code has no codec.
    #[error(transparent)]
    UnsupportedCodec(#[from] UnsupportedCodec),
    /// The records do not decompress within the budget.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The decompressed bytes are not the announced records.
    #[error(transparent)]
    Format(#[from] RecordFormatError),
}

/// The decompressed records of one batch.
#[derive(Clone, Debug)]
pub struct RecordSet {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordSet {
    /// Decompresses the records of `batch` into at most `budget` bytes. Without compression
    /// nothing is copied and the budget does not matter. `header` is the batch's header as
    /// stamped, which may differ from the one in the bytes by base offset and leader epoch. The
    /// CRC is not checked.
    ///
    /// # Errors
    /// Every [`ReadError`] but `Format`, which iteration finds.
    pub fn open(batch: &Bytes, header: &BatchHeader, budget: usize) -> Result<Self, ReadError> {
        let len = header.total_len().filter(|&len| len <= batch.len());
        let stored = batch.slice(BATCH_HEADER_LEN..len.ok_or(ReadError::Truncated)?);
        let bytes = match header.codec()? {
            Codec::None => stored,
            // Compaction leaves a batch without records and without a compressed stream.
            _ if header.record_count == 0 && stored.is_empty() => stored,
            codec => decompress(codec, &stored, budget)?,
        };
        Ok(RecordSet {
            header: *header,
            bytes,
        })
    }

    /// The records in their order.
    pub fn iter(&self) -> Records<'_> {
        Records::new(&self.bytes, self.header.record_count)
    }

    /// The header that offsets and timestamps of the records are relative to.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The encoded, decompressed records.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl<'a> IntoIterator for &'a RecordSet {
    type Item = Result<Record<'a>, RecordFormatError>;
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

    use super::*;
    use crate::builder::{BatchBuilder, NewRecord};
    use crate::header::NO_TIMESTAMP;
    use proptest::collection::vec;
    use proptest::prelude::*;

    type OwnedHeader = (Vec<u8>, Option<Vec<u8>>);
    type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<OwnedHeader>);

    fn any_record() -> impl Strategy<Value = Owned> {
        let bytes = || vec(any::<u8>(), 0..80);
        let headers = vec((bytes(), prop::option::of(bytes())), 0..4);
        let timestamp = -1_000_000_000_000_000_000i64..1_000_000_000_000_000_000;
        (
            timestamp,
            prop::option::of(bytes()),
            prop::option::of(bytes()),
            headers,
        )
    }

    fn push_all(builder: &mut BatchBuilder, records: &[Owned]) {
        for (timestamp, key, value, headers) in records {
            let headers: Vec<_> = headers
                .iter()
                .map(|(key, value)| (key.as_slice(), value.as_deref()))
                .collect();
            let (timestamp, key, value) = (*timestamp, key.as_deref(), value.as_deref());
            builder
                .push(&NewRecord {
                    timestamp,
                    key,
                    value,
                    headers: &headers,
                })
                .unwrap();
        }
    }

    fn owned(set: &RecordSet) -> Vec<Owned> {
        let owned = |record: Record<'_>| {
            let headers = record
                .headers
                .map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec)));
            let (key, value) = (
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
            );
            (
                record.timestamp(set.header()),
                key,
                value,
                headers.collect(),
            )
        };
        set.iter().map(|record| owned(record.unwrap())).collect()
    }

    #[test]
    fn iteration_ends_after_an_error() {
        let mut records = Records::new(&[14, 0, 0, 0, 2, b'k', 1, 0, 9, 9], 3);
        assert_eq!(records.next().unwrap().unwrap().key, Some(&b"k"[..]));
        assert_eq!(records.next().unwrap().unwrap_err().index, 1);
        assert!(records.next().is_none() && records.next().is_none());
    }

    #[test]
    fn what_the_count_leaves_over_is_an_error() {
        let record = [14, 0, 0, 0, 2, b'k', 1, 0];
        let errors =
            |bytes: &[u8], count| Records::new(bytes, count).filter(Result::is_err).count();
        assert_eq!(errors(&record, 1), 0);
        assert_eq!(errors(&record, 0), 1);
        assert_eq!(errors(&record, -1), 1);
        assert_eq!(errors(&record, 2), 1);
        assert_eq!(errors(&[], 0), 0);
    }

    #[test]
    fn without_compression_the_records_are_a_view_of_the_batch() {
        let mut builder = BatchBuilder::new();
        builder
            .push(&NewRecord {
                timestamp: NO_TIMESTAMP,
                ..NewRecord::default()
            })
            .unwrap();
        let batch = builder.build().unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        let set = RecordSet::open(&batch, &header, 0).unwrap();
        assert_eq!(set.bytes().as_ptr(), batch[BATCH_HEADER_LEN..].as_ptr());
        let cut = batch.slice(..batch.len() - 1);
        assert_eq!(
            RecordSet::open(&cut, &header, 0).unwrap_err(),
            ReadError::Truncated
        );
    }

    #[test]
    fn a_batch_that_compaction_emptied_has_no_records_in_any_codec() {
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::new().compression(codec, None);
            builder.push(&NewRecord::default()).unwrap();
            let full = BatchHeader::parse(&builder.build().unwrap()).unwrap();
            let header = BatchHeader {
                record_count: 0,
                batch_length: 49,
                ..full
            };
            let batch = Bytes::copy_from_slice(&header.encode());
            let set = RecordSet::open(&batch, &header, 0).unwrap();
            assert_eq!(set.iter().count(), 0, "{codec}");
        }
    }

    #[test]
    fn offsets_and_times_relate_to_the_header_that_was_given() {
        let mut builder = BatchBuilder::new();
        builder
            .push(&NewRecord {
                timestamp: 100,
                ..NewRecord::default()
            })
            .unwrap();
        builder
            .push(&NewRecord {
                timestamp: 90,
                ..NewRecord::default()
            })
            .unwrap();
        let batch = builder.build().unwrap();
        let header = BatchHeader {
            base_offset: 50,
            ..BatchHeader::parse(&batch).unwrap()
        };
        let set = RecordSet::open(&batch, &header, 0).unwrap();
        let position = |record: Record<'_>| (record.offset(&header), record.timestamp(&header));
        let read: Vec<_> = set.iter().map(|record| position(record.unwrap())).collect();
        assert_eq!(read, [(50, 100), (51, 90)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_built_reads_back(
            records in vec(any_record(), 1..12),
            codec in prop::sample::select(Codec::ALL.to_vec()),
        ) {
            let mut builder = BatchBuilder::new().compression(codec, None);
            push_all(&mut builder, &records);
            let size = builder.size();
            let batch = builder.build().unwrap();
            let header = BatchHeader::parse(&batch).unwrap();
            let set = RecordSet::open(&batch, &header, 1 << 20).unwrap();
            prop_assert_eq!(size, BATCH_HEADER_LEN + set.bytes().len());
            prop_assert_eq!(header.record_count as usize, records.len());
            let max = records.iter().map(|record| record.0).fold(NO_TIMESTAMP, i64::max);
            prop_assert_eq!(header.max_timestamp, max);
            prop_assert_eq!(owned(&set), records);
        }

        #[test]
        fn arbitrary_bytes_end_within_their_length(bytes in vec(any::<u8>(), 0..300), count: i32) {
            let read = Records::new(&bytes, count).filter(Result::is_ok).count();
            prop_assert!(read <= bytes.len() / MIN_RECORD_LEN);
        }
    }
}
