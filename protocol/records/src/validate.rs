//! The gate of the produce path: what may become part of a log.
//!
//! Invariant: after [`validate`] every reader can read the batch. Its CRC is right, its header
//! agrees with its records, and its `max_timestamp` is true, which the time index relies on.
//! Like Kafka's `LogValidator` it walks every record; unlike it, it also refuses offset deltas
//! that do not count up from 0, garbage within a compressed batch, and decompression beyond a
//! budget.
//!
//! Deliberately absent: offsets and leader epoch (assigned at append, see
//! [`BatchHeader::stamp`]) and the order of producer sequences, which needs the log's state.

use bytes::{Bytes, BytesMut};

use crate::compression::{Codec, compress};
use crate::error::{BatchError, MAX_RECORD_ERRORS, RecordError, RecordFault};
use crate::header::{
    BATCH_HEADER_LEN, BATCH_LENGTH_OVERHEAD, BatchHeader, NO_TIMESTAMP, TIMESTAMP_TYPE_BIT,
    TimestampType, batch_crc_ok,
};
use crate::record::{MIN_RECORD_LEN, ReadError, Record, RecordSet};
use crate::split::single_batch;

/// The first Produce version that may carry zstd (KIP-110).
const FIRST_ZSTD_VERSION: i16 = 7;

/// The topic setting `compression.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CompressionType {
    /// Keep what the producer chose.
    #[default]
    Producer,
    /// Store with this codec (`uncompressed` is [`Codec::None`]), whatever the producer chose.
    Codec {
        /// The codec of stored batches.
        codec: Codec,
        /// Its level; `None` is the codec's default. A batch that already has the codec keeps
        /// its level.
        level: Option<i32>,
    },
}

/// What a batch must satisfy: the settings of its topic, and what its request may do.
#[derive(Clone, Debug)]
pub struct ValidationRules {
    /// `max.message.bytes`: largest batch in bytes, header included.
    pub max_message_bytes: usize,
    /// `segment.bytes`: no batch is larger than a segment.
    pub segment_bytes: usize,
    /// Whether `cleanup.policy` contains `compact`, so that every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a CreateTime may lie in the past.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far a CreateTime may lie in the future.
    pub after_max_ms: i64,
    /// `compression.type`, and the level of its codec.
    pub target: CompressionType,
    /// Largest decompressed size of the records of a batch, in bytes.
    pub decompress_budget: usize,
    /// Version of the Produce request.
    pub produce_version: i16,
    /// Whether control batches are accepted: from the broker itself, never from a client.
    pub allow_control: bool,
    /// Whether transactional batches are accepted: the request names an authorised transactional
    /// id.
    pub allow_transactional: bool,
}

/// A batch that may be appended.
#[derive(Clone, Debug)]
pub struct Validated {
    /// The header of `bytes`.
    pub header: BatchHeader,
    /// The batch as it is to be stored: the very bytes that came in, unless timestamps or
    /// compression had to change.
    pub bytes: Bytes,
}

/// Whether [`validate`] would compress or decompress: work worth moving off an event loop. False
/// for bytes that are no batch, which fail at once.
pub fn needs_codec(batch: &[u8], rules: &ValidationRules) -> bool {
    let Some(Ok(source)) = BatchHeader::parse(batch).map(|header| header.codec()) else {
        return false;
    };
    source != Codec::None
        || matches!(rules.target, CompressionType::Codec { codec, .. } if codec != Codec::None)
}

/// Checks the records of one partition in a produce request against `rules` at the time
/// `now_ms`, and makes of them what is stored. `batch` is the request's whole field; a null field
/// is given as no bytes.
///
/// Costs one CRC pass and one walk over the records, without allocation, when the batch is not
/// compressed and nothing changes.
///
/// # Errors
/// [`BatchError`], the first that Kafka's order of checks meets.
pub fn validate(
    batch: Bytes,
    rules: &ValidationRules,
    now_ms: i64,
) -> Result<Validated, BatchError> {
    let header = single_batch(&batch)?;
    let source = check_codec(&header, rules)?;
    if header.base_offset != 0 {
        return invalid(format!("its base offset is {}, not 0", header.base_offset));
    }
    check_size(batch.len(), rules)?;
    if !batch_crc_ok(&batch) {
        return Err(BatchError::Corrupt("its CRC does not match".into()));
    }
    check_header(&header, rules)?;
    let records = open_records(&batch, &header, rules)?;
    let max_timestamp = check_records(&records, source, rules, now_ms)?;

    let stored = stored_header(&header, rules, max_timestamp, now_ms);
    let (header, bytes) = match target_codec(&header, source, rules) {
        Some((codec, level)) => {
            let packed = compress(codec, level, records.bytes())?;
            let attributes = codec.into_attributes(stored.attributes);
            let (header, bytes) = assemble(
                BatchHeader {
                    attributes,
                    ..stored
                },
                &packed,
            );
            check_size(bytes.len(), rules)?;
            (header, bytes)
        }
        None if stored == header => (header, batch),
        None => assemble(stored, batch.get(BATCH_HEADER_LEN..).unwrap_or_default()),
    };
    if bytes.len() > rules.segment_bytes {
        let (size, limit) = (bytes.len(), rules.segment_bytes);
        return Err(BatchError::RecordListTooLarge { size, limit });
    }
    Ok(Validated { header, bytes })
}

fn invalid<T>(what: impl Into<String>) -> Result<T, BatchError> {
    Err(BatchError::InvalidBatch(what.into()))
}

fn check_codec(header: &BatchHeader, rules: &ValidationRules) -> Result<Codec, BatchError> {
    let unsupported = |what: String| BatchError::UnsupportedCompression(what);
    let codec = header
        .codec()
        .map_err(|error| unsupported(error.to_string()))?;
    if codec == Codec::Zstd && rules.produce_version < FIRST_ZSTD_VERSION {
        return Err(unsupported(format!(
            "zstd needs Produce version {FIRST_ZSTD_VERSION}"
        )));
    }
    Ok(codec)
}

fn check_size(size: usize, rules: &ValidationRules) -> Result<(), BatchError> {
    if size > rules.max_message_bytes {
        return Err(BatchError::TooLarge {
            limit: rules.max_message_bytes,
            decompressed: false,
        });
    }
    Ok(())
}

/// Whether the header makes sense in itself and may be sent by this producer.
fn check_header(header: &BatchHeader, rules: &ValidationRules) -> Result<(), BatchError> {
    let count = header.record_count;
    if count <= 0 {
        return invalid(format!("its record count is {count}"));
    }
    if header.last_offset_delta != count - 1 {
        let delta = header.last_offset_delta;
        return invalid(format!(
            "its last offset delta is {delta} with {count} records"
        ));
    }
    if header.is_control() && !rules.allow_control {
        return invalid("a client cannot write control records");
    }
    if header.has_delete_horizon() {
        return invalid("a client cannot set a delete horizon");
    }
    if header.has_producer_id() && !header.is_control() && header.base_sequence < 0 {
        return invalid(format!(
            "its sequence is {} with producer id {}",
            header.base_sequence, header.producer_id
        ));
    }
    if header.is_transactional() {
        if !header.has_producer_id() {
            return invalid("it is transactional without a producer id");
        }
        if !rules.allow_transactional {
            return Err(BatchError::TransactionNotAllowed);
        }
    }
    Ok(())
}

fn open_records(
    batch: &Bytes,
    header: &BatchHeader,
    rules: &ValidationRules,
) -> Result<RecordSet, BatchError> {
    let records =
        RecordSet::open(batch, header, rules.decompress_budget).map_err(|error| match error {
            ReadError::Truncated => BatchError::Corrupt(error.to_string()),
            ReadError::UnsupportedCodec(code) => {
                BatchError::UnsupportedCompression(code.to_string())
            }
            ReadError::Decompress(error) => error.into(),
            ReadError::Format(error) => error.into(),
        })?;
    let most = records.bytes().len() / MIN_RECORD_LEN;
    if usize::try_from(header.record_count).is_ok_and(|count| count > most) {
        let count = header.record_count;
        return invalid(format!(
            "it counts {count} records and has room for {most} at most"
        ));
    }
    Ok(records)
}

/// Walks every record. Gives the largest timestamp, [`NO_TIMESTAMP`] when there is none.
fn check_records(
    records: &RecordSet,
    source: Codec,
    rules: &ValidationRules,
    now_ms: i64,
) -> Result<i64, BatchError> {
    let check = RecordCheck {
        header: records.header(),
        source,
        rules,
        now_ms,
    };
    let mut max_timestamp = NO_TIMESTAMP;
    let mut errors = Vec::new();
    for (index, record) in (0..).zip(records) {
        match check.record(index, &record?) {
            Ok(timestamp) => max_timestamp = max_timestamp.max(timestamp),
            Err(fault) if errors.len() < MAX_RECORD_ERRORS => {
                errors.push(RecordError { index, fault });
            }
            Err(_) => {}
        }
    }
    if errors.is_empty() {
        Ok(max_timestamp)
    } else {
        Err(BatchError::of_records(errors))
    }
}

struct RecordCheck<'a> {
    header: &'a BatchHeader,
    source: Codec,
    rules: &'a ValidationRules,
    now_ms: i64,
}

impl RecordCheck<'_> {
    /// The record's timestamp if the record is acceptable.
    fn record(&self, index: i32, record: &Record<'_>) -> Result<i64, RecordFault> {
        if self.source != Codec::None
            && Codec::from_attributes(record.attributes.into()) != Ok(Codec::None)
        {
            return Err(RecordFault::NestedCompression);
        }
        if record.offset_delta != index {
            return Err(RecordFault::OffsetDelta {
                expected: index,
                found: record.offset_delta,
            });
        }
        if self.rules.compacted && record.key.is_none() {
            return Err(RecordFault::MissingKey);
        }
        self.timestamp(record)
    }

    fn timestamp(&self, record: &Record<'_>) -> Result<i64, RecordFault> {
        let timestamp = self
            .header
            .base_timestamp
            .checked_add(record.timestamp_delta)
            .ok_or(RecordFault::TimestampOverflow)?;
        // As Kafka: on a CreateTime topic the claim does not count, the record's own time does.
        let dated_by_broker =
            self.rules.timestamp_type == TimestampType::LogAppendTime || timestamp == NO_TIMESTAMP;
        if dated_by_broker && self.header.is_log_append_time() {
            return Err(RecordFault::ProducerLogAppendTime);
        }
        if self.rules.timestamp_type == TimestampType::LogAppendTime || timestamp == NO_TIMESTAMP {
            return Ok(timestamp);
        }
        let earliest = self.now_ms.saturating_sub(self.rules.before_max_ms);
        let latest = self.now_ms.saturating_add(self.rules.after_max_ms);
        if (earliest..=latest).contains(&timestamp) {
            Ok(timestamp)
        } else {
            Err(RecordFault::TimestampOutOfRange {
                timestamp,
                earliest,
                latest,
            })
        }
    }
}

/// The header with true timestamps: the broker's for LogAppendTime, else the records' largest.
fn stored_header(
    header: &BatchHeader,
    rules: &ValidationRules,
    max_timestamp: i64,
    now_ms: i64,
) -> BatchHeader {
    match rules.timestamp_type {
        TimestampType::CreateTime => BatchHeader {
            attributes: header.attributes & !TIMESTAMP_TYPE_BIT,
            max_timestamp,
            ..*header
        },
        TimestampType::LogAppendTime => BatchHeader {
            attributes: header.attributes | TIMESTAMP_TYPE_BIT,
            max_timestamp: now_ms,
            ..*header
        },
    }
}

/// The codec and level to compress with anew, if any.
fn target_codec(
    header: &BatchHeader,
    source: Codec,
    rules: &ValidationRules,
) -> Option<(Codec, Option<i32>)> {
    match rules.target {
        // Markers are tiny, and Kafka does not compress them either.
        CompressionType::Codec { .. } if header.is_control() && source == Codec::None => None,
        CompressionType::Codec { codec, level } if codec != source => Some((codec, level)),
        CompressionType::Codec { .. } | CompressionType::Producer => None,
    }
}

/// Puts a header in front of encoded records, its length and CRC computed.
pub(crate) fn assemble(mut header: BatchHeader, records: &[u8]) -> (BatchHeader, Bytes) {
    let length = BATCH_HEADER_LEN - BATCH_LENGTH_OVERHEAD + records.len();
    header.batch_length = i32::try_from(length).expect("callers keep a batch below 2 GiB");
    header.crc = header.computed_crc(records);
    let mut bytes = BytesMut::with_capacity(BATCH_HEADER_LEN + records.len());
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(records);
    (header, bytes.freeze())
}
