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
