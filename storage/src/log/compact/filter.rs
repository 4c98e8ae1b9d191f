//! What compaction leaves of one batch. Pure.
//!
//! Kept: the newest record of a key, and what lies behind the part of the log that the map knows.
//! A tombstone that is kept for the first time gives its batch a delete horizon (KIP-534); from
//! then on it goes. Records without a key go, as in Kafka: they can only be from before the topic
//! was compacted.
//!
//! A batch keeps its offsets, epoch, producer and sequence whatever goes from it. Control and
//! transactional batches stay as they are: what was aborted is not known here.

use std::collections::BTreeMap;

use bytes::Bytes;
use klamm_records::plant::{self, Bug};
use klamm_records::{
    BATCH_HEADER_LEN, BATCH_LENGTH_OVERHEAD, BatchBuilder, BatchHeader, BuildError, NO_TIMESTAMP,
    NewRecord, ReadError, Record, RecordSet,
};

use super::map::OffsetMap;

/// Where the CRC of a batch begins.
const CRC_FROM: usize = 21;
/// Compression and delete horizon: bits of the attributes that mean nothing without records.
const RECORD_BITS: i16 = 0x47;

/// What becomes of a batch.
#[derive(Debug)]
pub(super) enum Fate {
    /// It stays, byte for byte.
    Kept,
    /// Some records went, or it got a delete horizon.
    Rewritten(BatchHeader, Bytes),
    /// All records went; the header stays, for its offsets and sequence are needed.
    Emptied(BatchHeader, Bytes),
    /// It goes.
    Dropped,
}

/// The rules of one pass.
pub(super) struct Filter<'a> {
    pub(super) map: &'a OffsetMap,
    /// Last offset that the map knows.
    pub(super) latest: i64,
    /// Records below are deleted.
    pub(super) start_offset: i64,
    pub(super) now_ms: i64,
    pub(super) delete_retention_ms: u64,
    /// Last batch of each active producer, by its last offset; of a producer with `None` all stay.
    pub(super) producers: &'a BTreeMap<i64, Option<i64>>,
    /// Bytes that the records of a batch may unpack to.
    pub(super) budget: usize,
}

impl Filter<'_> {
    /// Judges a batch. `needed`: its offsets must stay in the log.
    pub(super) fn judge(
        &self,
        header: &BatchHeader,
        batch: &Bytes,
        needed: bool,
    ) -> Result<Fate, ReadError> {
        if !is_plain(header) || header.base_offset > self.latest || is_filler(header) {
            return Ok(Fate::Kept);
        }
        let set = RecordSet::open(batch, header, self.budget)?;
        let (mut kept, mut tombstones) = (0, false);
        for record in &set {
            let record = record?;
            if self.keeps(header, &record) {
                kept += 1;
                tombstones |= record.value.is_none();
            }
        }
        if kept == 0 {
            return Ok(self.without_records(header, needed));
        }
        let horizon = (tombstones && !header.has_delete_horizon()).then(|| {
            let keep_ms = i64::try_from(self.delete_retention_ms).unwrap_or(i64::MAX);
            self.now_ms.saturating_add(keep_ms)
        });
        if kept == header.record_count && horizon.is_none() {
            return Ok(Fate::Kept);
        }
        // What the format cannot express anew stays as it was.
        let rebuilt = self.rebuild(&set, horizon.or(header.delete_horizon_ms()));
        Ok(rebuilt.map_or(Fate::Kept, |(header, bytes)| Fate::Rewritten(header, bytes)))
    }

    /// Whether a batch may reach over offsets behind it that go: it does not if its last sequence,
    /// which follows from its last offset, is or may be needed.
    pub(super) fn may_grow(&self, header: &BatchHeader) -> bool {
        is_plain(header) && !self.producers.contains_key(&header.producer_id)
    }

    fn keeps(&self, header: &BatchHeader, record: &Record<'_>) -> bool {
        let offset = record.offset(header);
        if offset > self.latest {
            return true;
        }
        let Some(key) = record.key else {
            return false;
        };
        let newest = self
            .map
            .get(key)
            .is_none_or(|newest| match newest == offset {
                true => !plant::is(Bug::LastRecordDropped),
                false => offset > newest,
            });
        let wanted = record.value.is_some()
            || header
                .delete_horizon_ms()
                .is_none_or(|horizon_ms| self.now_ms < horizon_ms);
        newest && wanted && offset >= self.start_offset
    }

    /// What becomes of a batch whose records all go.
    fn without_records(&self, header: &BatchHeader, needed: bool) -> Fate {
        let of_producer = self.producers.get(&header.producer_id);
        let last =
            of_producer.is_some_and(|last| last.is_none_or(|last| last == header.last_offset()));
        match needed || last {
            false => Fate::Dropped,
            true if header.record_count == 0 => Fate::Kept,
            true => {
                let empty = BatchHeader {
                    attributes: header.attributes & !RECORD_BITS,
                    base_timestamp: NO_TIMESTAMP,
                    record_count: 0,
                    ..*header
                };
                let (header, bytes) = sealed(empty, &[]);
                Fate::Emptied(header, bytes)
            }
        }
    }

    fn rebuild(
        &self,
        set: &RecordSet,
        horizon_ms: Option<i64>,
    ) -> Result<(BatchHeader, Bytes), BuildError> {
        let header = set.header();
        let codec = header.codec().unwrap_or_default();
        let mut builder = BatchBuilder::new().compression(codec, None);
        if let Some(horizon_ms) = horizon_ms {
            builder = builder.delete_horizon(horizon_ms);
        }
        if header.is_log_append_time() {
            builder = builder.log_append_time(header.max_timestamp);
        }
        let mut headers = Vec::new();
        for record in set.iter().flatten() {
            if self.keeps(header, &record) {
                headers.clear();
                headers.extend(record.headers);
                let new = NewRecord {
                    timestamp: record.timestamp(header),
                    key: record.key,
                    value: record.value,
                    headers: &headers,
                };
                builder.push_at(record.offset_delta, &new)?;
            }
        }
        let built = builder.build()?;
        let made = BatchHeader::parse(&built).ok_or(BuildError::Empty)?;
        // All that the batch is in the log, with the records it has now.
        let kept = BatchHeader {
            attributes: made.attributes,
            base_timestamp: made.base_timestamp,
            max_timestamp: made.max_timestamp,
            record_count: made.record_count,
            ..*header
        };
        Ok(sealed(
            kept,
            built.get(BATCH_HEADER_LEN..).unwrap_or_default(),
        ))
    }
}

/// Whether compaction may take records of a batch.
pub(super) fn is_plain(header: &BatchHeader) -> bool {
    !header.is_control() && !header.is_transactional()
}

/// Whether a batch only stands for offsets: whatever is before it may do so too.
pub(super) fn is_filler(header: &BatchHeader) -> bool {
    header.record_count == 0 && header.producer_id < 0 && is_plain(header)
}

/// A batch without records that stands for the offsets `from..to`.
pub(super) fn filler(from: i64, to: i64, epoch: i32) -> (BatchHeader, Bytes) {
    let header = BatchHeader {
        base_offset: from,
        partition_leader_epoch: epoch,
        last_offset_delta: i32::try_from(to - 1 - from).expect("a file's offsets span 31 bits"),
        ..BatchHeader::BLANK
    };
    sealed(header, &[])
}

/// A header in front of encoded records, with its length and CRC computed.
pub(super) fn sealed(mut header: BatchHeader, records: &[u8]) -> (BatchHeader, Bytes) {
    let len = BATCH_HEADER_LEN - BATCH_LENGTH_OVERHEAD + records.len();
    header.batch_length = i32::try_from(len).expect("the builder keeps a batch below 2 GiB");
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(records);
    header.crc = crc32c::crc32c(bytes.get(CRC_FROM..).unwrap_or_default());
    bytes
        .splice(..BATCH_HEADER_LEN, header.encode())
        .for_each(drop);
    (header, Bytes::from(bytes))
}
