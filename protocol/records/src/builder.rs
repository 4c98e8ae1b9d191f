//! Making batches: for the client, the metadata log, compaction, tests and benches.

use bytes::Bytes;

use crate::compression::{Codec, CompressError, compress};
use crate::header::{
    BATCH_HEADER_LEN, BatchHeader, CONTROL_BIT, DELETE_HORIZON_BIT, TIMESTAMP_TYPE_BIT,
    TRANSACTIONAL_BIT,
};
use crate::validate::assemble;
use crate::varint::{put_varint, varint_len};

/// A record to be put into a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// Timestamp in ms, [`NO_TIMESTAMP`] for none.
    pub timestamp: i64,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Headers as (key, value), written in this order.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

/// Why a batch could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A length, the number of records or their total size exceeds 2^31 - 1.
    #[error("the batch exceeds what its format can express")]
    TooLarge,
    /// Timestamps of the batch lie further apart than an i64 can say.
    #[error("a timestamp is too far from the first of the batch")]
    TimestampRange,
    /// Offset deltas must increase and not be negative.
    #[error("offset delta {found} is not above the one before")]
    OffsetDelta {
        /// The delta that was given.
        found: i32,
    },
    /// A batch needs at least one record.
    #[error("the batch has no records")]
    Empty,
    /// The codec failed.
    #[error(transparent)]
    Compress(#[from] CompressError),
}

/// Builds one batch. Records are encoded as they are pushed; [`build`](Self::build) compresses
/// and seals. Base offset 0 and leader epoch -1 stand unless set: a log assigns its own.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// Everything but the length, CRC and codec, which `build` fills in.
    header: BatchHeader,
    codec: Codec,
    level: Option<i32>,
    records: Vec<u8>,
    log_append_time: Option<i64>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    /// An empty batch: not compressed, no producer, CreateTime.
    pub fn new() -> Self {
        BatchBuilder {
            header: BatchHeader::BLANK,
            codec: Codec::None,
            level: None,
            records: Vec::new(),
            log_append_time: None,
        }
    }

    /// Compresses the records; `None` is the codec's default level.
    #[must_use]
    pub fn compression(mut self, codec: Codec, level: Option<i32>) -> Self {
        self.codec = codec;
        self.level = level;
        self
    }

    /// Makes it the batch of an idempotent producer (KIP-98).
    #[must_use]
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = producer_id;
        self.header.producer_epoch = producer_epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Makes it part of the producer's transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.header.attributes |= TRANSACTIONAL_BIT;
        self
    }

    /// Makes it a control batch, whose records consumers do not see.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.header.attributes |= CONTROL_BIT;
        self
    }

    /// Sets the offset that offset deltas are relative to.
    #[must_use]
    pub fn base_offset(mut self, base_offset: i64) -> Self {
        self.header.base_offset = base_offset;
        self
    }

    /// Sets the leader epoch.
    #[must_use]
    pub fn leader_epoch(mut self, leader_epoch: i32) -> Self {
        self.header.partition_leader_epoch = leader_epoch;
        self
    }

    /// Gives all records the broker's time (LogAppendTime), in ms.
    #[must_use]
    pub fn log_append_time(mut self, now_ms: i64) -> Self {
        self.header.attributes |= TIMESTAMP_TYPE_BIT;
        self.log_append_time = Some(now_ms);
        self
    }

    /// Sets the time in ms from which tombstones and markers of the batch may go (KIP-534), which
    /// takes the place of the base timestamp. To be called before the first push.
    #[must_use]
    pub fn delete_horizon(mut self, horizon_ms: i64) -> Self {
        assert!(
            self.header.record_count == 0,
            "the horizon is what record timestamps relate to"
        );
        self.header.attributes |= DELETE_HORIZON_BIT;
        self.header.base_timestamp = horizon_ms;
        self
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`BuildError::TooLarge`] or [`BuildError::TimestampRange`]; the batch is as before.
    pub fn push(&mut self, record: &NewRecord<'_>) -> Result<(), BuildError> {
        let delta = self
            .header
            .last_offset_delta
            .checked_add(1)
            .ok_or(BuildError::TooLarge)?;
        self.push_at(delta, record)
    }

    /// Appends a record at an offset relative to the base offset, which may leave a gap, as
    /// compaction does.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`BuildError::OffsetDelta`] unless deltas increase.
    pub fn push_at(&mut self, offset_delta: i32, record: &NewRecord<'_>) -> Result<(), BuildError> {
        if offset_delta <= self.header.last_offset_delta {
            return Err(BuildError::OffsetDelta {
                found: offset_delta,
            });
        }
        let base = if self.header.record_count == 0 && !self.header.has_delete_horizon() {
            record.timestamp
        } else {
            self.header.base_timestamp
        };
        let timestamp_delta = record
            .timestamp
            .checked_sub(base)
            .ok_or(BuildError::TimestampRange)?;
        let body = body_len(offset_delta, timestamp_delta, record);
        let encoded = varint_len(body as i64) + body;
        let limit = i32::MAX as usize - BATCH_HEADER_LEN;
        if self.records.len().saturating_add(encoded) > limit {
            return Err(BuildError::TooLarge);
        }
        put_record(
            &mut self.records,
            body,
            offset_delta,
            timestamp_delta,
            record,
        );
        self.header.base_timestamp = base;
        self.header.max_timestamp = self.header.max_timestamp.max(record.timestamp);
        self.header.last_offset_delta = offset_delta;
        self.header.record_count += 1;
        Ok(())
    }

    /// Number of records pushed.
    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// Size of the batch in bytes, were it not compressed.
    pub fn size(&self) -> usize {
        BATCH_HEADER_LEN + self.records.len()
    }

    /// Seals the batch.
    ///
    /// # Errors
    /// [`BuildError::Empty`], [`BuildError::Compress`], or [`BuildError::TooLarge`] when
    /// compression makes the batch longer than its length field can say.
    pub fn build(self) -> Result<Bytes, BuildError> {
        if self.header.record_count == 0 {
            return Err(BuildError::Empty);
        }
        let mut header = self.header;
        header.attributes = self.codec.into_attributes(header.attributes);
        if let Some(now_ms) = self.log_append_time {
            header.max_timestamp = now_ms;
        }
        if self.codec == Codec::None {
            return Ok(assemble(header, &self.records).1);
        }
        let packed = compress(self.codec, self.level, &self.records)?;
        if packed.len() > i32::MAX as usize - BATCH_HEADER_LEN {
            return Err(BuildError::TooLarge);
        }
        Ok(assemble(header, &packed).1)
    }
}

/// Encoded length of nullable bytes behind their varint length.
fn bytes_len(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint_len(bytes.len() as i64) + bytes.len(),
        None => varint_len(-1),
    }
}

fn body_len(offset_delta: i32, timestamp_delta: i64, record: &NewRecord<'_>) -> usize {
    let headers = record.headers.iter();
    1 + varint_len(timestamp_delta)
        + varint_len(offset_delta.into())
        + bytes_len(record.key)
        + bytes_len(record.value)
        + varint_len(record.headers.len() as i64)
        + headers
            .map(|(key, value)| bytes_len(Some(key)) + bytes_len(*value))
            .sum::<usize>()
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

fn put_record(
    out: &mut Vec<u8>,
    body: usize,
    offset_delta: i32,
    timestamp_delta: i64,
    record: &NewRecord<'_>,
) {
    put_varint(out, body as i64);
    let start = out.len();
    out.push(0);
    put_varint(out, timestamp_delta);
    put_varint(out, offset_delta.into());
    put_bytes(out, record.key);
    put_bytes(out, record.value);
    put_varint(out, record.headers.len() as i64);
    for (key, value) in record.headers {
        put_bytes(out, Some(key));
        put_bytes(out, *value);
    }
    assert_eq!(
        out.len() - start,
        body,
        "a record has the length it was given"
    );
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

    use super::*;
    use crate::header::batch_crc_ok;
    use crate::record::RecordSet;

    fn at(timestamp: i64) -> NewRecord<'static> {
        NewRecord {
            timestamp,
            ..NewRecord::default()
        }
    }

    fn header_of(batch: &Bytes) -> BatchHeader {
        assert!(batch_crc_ok(batch));
        BatchHeader::parse(batch).unwrap()
    }

    #[test]
    fn every_setting_reaches_the_header() {
        let mut builder = BatchBuilder::new()
            .compression(Codec::Lz4, Some(9))
            .producer(5, 6, 7)
            .transactional()
            .control()
            .base_offset(8)
            .leader_epoch(9)
            .log_append_time(10);
        builder.push(&at(1)).unwrap();
        let header = header_of(&builder.build().unwrap());
        assert_eq!(header.attributes, 0x3b);
        assert_eq!(
            (
                header.producer_id,
                header.producer_epoch,
                header.base_sequence
            ),
            (5, 6, 7)
        );
        assert_eq!((header.base_offset, header.partition_leader_epoch), (8, 9));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1, 10));
    }

    #[test]
    fn a_delete_horizon_takes_the_place_of_the_base_timestamp() {
        let mut builder = BatchBuilder::new().delete_horizon(1000);
        builder.push_at(3, &at(40)).unwrap();
        let batch = builder.build().unwrap();
        let header = header_of(&batch);
        assert_eq!(header.delete_horizon_ms(), Some(1000));
        let set = RecordSet::open(&batch, &header, 0).unwrap();
        assert_eq!(set.iter().next().unwrap().unwrap().timestamp(&header), 40);
    }

    #[test]
    fn what_the_format_cannot_say_is_refused_and_changes_nothing() {
        let mut builder = BatchBuilder::new();
        builder.push(&at(i64::MAX)).unwrap();
        let size = builder.size();
        assert_eq!(builder.push(&at(-2)), Err(BuildError::TimestampRange));
        assert_eq!(
            builder.push_at(0, &at(1)),
            Err(BuildError::OffsetDelta { found: 0 })
        );
        assert_eq!(
            builder.push_at(-5, &at(1)),
            Err(BuildError::OffsetDelta { found: -5 })
        );
        assert_eq!((builder.size(), builder.record_count()), (size, 1));
        builder.push_at(i32::MAX, &at(1)).unwrap();
        assert_eq!(builder.push(&at(1)), Err(BuildError::TooLarge));
        assert_eq!(BatchBuilder::new().build(), Err(BuildError::Empty));
    }
}
