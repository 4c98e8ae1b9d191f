//! Why a produced batch is refused, in terms that a Produce answer can carry.

use std::fmt;

use crate::compression::{CompressError, DecompressError};
use crate::record::RecordFormatError;

/// Record errors listed at most for one batch, so that a bad batch of many records does not
/// produce an answer larger than itself. A client gives the others a general message.
pub const MAX_RECORD_ERRORS: usize = 100;

/// Why one record of a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Position of the record in its batch, from 0: `batch_index` in the answer.
    pub index: i32,
    /// What is wrong with it.
    pub fault: RecordFault,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The bytes are no record.
    #[error("{0}")]
    Malformed(&'static str),
    /// No key on a topic whose `cleanup.policy` contains `compact`.
    #[error("a compacted topic cannot accept a record without key")]
    MissingKey,
    /// Offset deltas must count up from 0.
    #[error("offset delta {found} where {expected} is due")]
    OffsetDelta {
        /// The delta that was due.
        expected: i32,
        /// The delta in the record.
        found: i32,
    },
    /// A record within a compressed batch claims to be compressed itself.
    #[error("a record in a compressed batch cannot be compressed itself")]
    NestedCompression,
    /// Outside `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`.
    #[error("timestamp {timestamp} is outside [{earliest}, {latest}]")]
    TimestampOutOfRange {
        /// Timestamp of the record in ms.
        timestamp: i64,
        /// Earliest acceptable timestamp in ms.
        earliest: i64,
        /// Latest acceptable timestamp in ms.
        latest: i64,
    },
    /// Base timestamp plus delta does not fit an i64.
    #[error("its timestamp overflows")]
    TimestampOverflow,
    /// The producer claims that the broker set the timestamps.
    #[error("a producer cannot set the timestamp type LogAppendTime")]
    ProducerLogAppendTime,
}

impl RecordFault {
    pub(crate) fn is_timestamp(self) -> bool {
        matches!(
            self,
            RecordFault::TimestampOutOfRange { .. }
                | RecordFault::TimestampOverflow
                | RecordFault::ProducerLogAppendTime
        )
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}: {}", self.index, self.fault)
    }
}

/// Why a produced batch is refused. Nothing of it is appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes are not what the producer sent, or never were a batch: CORRUPT_MESSAGE.
    #[error("the record batch is corrupt: {0}")]
    Corrupt(String),
    /// The batch as a whole breaks a rule: INVALID_RECORD.
    #[error("the record batch is invalid: {0}")]
    InvalidBatch(String),
    /// Records break a rule: INVALID_RECORD. Never without errors.
    #[error("one or more records have been rejected, {}", Listed(.errors))]
    InvalidRecord {
        /// The first [`MAX_RECORD_ERRORS`] of them.
        errors: Vec<RecordError>,
    },
    /// Records break a rule, at least one of them by its timestamp: INVALID_TIMESTAMP.
    #[error("one or more records have been rejected due to an invalid timestamp, {}", Listed(.errors))]
    InvalidTimestamp {
        /// The first [`MAX_RECORD_ERRORS`] of them.
        errors: Vec<RecordError>,
    },
    /// The batch, or what it decompresses to, is too large: MESSAGE_TOO_LARGE. Clients split the
    /// batch and try again.
    #[error("the record batch exceeds {limit} bytes{}", if *.decompressed { " when decompressed" } else { "" })]
    TooLarge {
        /// `max.message.bytes`, or the budget for decompression.
        limit: usize,
        /// Whether the limit is that for decompression.
        decompressed: bool,
    },
    /// The batch does not fit a segment: RECORD_LIST_TOO_LARGE.
    #[error("the record batch of {size} bytes exceeds the segment size of {limit} bytes")]
    RecordListTooLarge {
        /// Size of the batch as it would be stored.
        size: usize,
        /// `segment.bytes`.
        limit: usize,
    },
    /// UNSUPPORTED_COMPRESSION_TYPE.
    #[error("the compression of the record batch is not supported: {0}")]
    UnsupportedCompression(String),
    /// A transactional batch in a request without an authorised transactional id:
    /// TRANSACTIONAL_ID_AUTHORIZATION_FAILED (CVE-2018-17196).
    #[error("the record batch is transactional, the request is not")]
    TransactionNotAllowed,
    /// The topic's own codec failed to compress: UNKNOWN_SERVER_ERROR.
    #[error("failed to compress the record batch: {0}")]
    Compress(#[from] CompressError),
}

impl BatchError {
    /// Kafka's error code, as the Produce answer carries it for the partition.
    pub fn code(&self) -> i16 {
        match self {
            BatchError::Corrupt(_) => 2,
            BatchError::InvalidBatch(_) | BatchError::InvalidRecord { .. } => 87,
            BatchError::InvalidTimestamp { .. } => 32,
            BatchError::TooLarge { .. } => 10,
            BatchError::RecordListTooLarge { .. } => 18,
            BatchError::UnsupportedCompression(_) => 76,
            BatchError::TransactionNotAllowed => 53,
            BatchError::Compress(_) => -1,
        }
    }

    /// The records at fault, for `record_errors` of the answer (KIP-467, Produce version 8).
    pub fn record_errors(&self) -> &[RecordError] {
        match self {
            BatchError::InvalidRecord { errors } | BatchError::InvalidTimestamp { errors } => {
                errors
            }
            _ => &[],
        }
    }

    /// The error for records that break rules. `errors` must not be empty.
    pub(crate) fn of_records(errors: Vec<RecordError>) -> BatchError {
        if errors.iter().any(|error| error.fault.is_timestamp()) {
            BatchError::InvalidTimestamp { errors }
        } else {
            BatchError::InvalidRecord { errors }
        }
    }
}

impl From<DecompressError> for BatchError {
    fn from(error: DecompressError) -> Self {
        match error {
            DecompressError::TooLarge { budget } => BatchError::TooLarge {
                limit: budget,
                decompressed: true,
            },
            // Not "corrupt", which clients would send again as it is.
            DecompressError::WindowTooLarge => {
                BatchError::UnsupportedCompression(error.to_string())
            }
            DecompressError::Corrupt { .. } => BatchError::Corrupt(error.to_string()),
        }
    }
}

impl From<RecordFormatError> for BatchError {
    fn from(error: RecordFormatError) -> Self {
        let index = i32::try_from(error.index).unwrap_or(i32::MAX);
        let fault = RecordFault::Malformed(error.what);
        BatchError::InvalidRecord {
            errors: vec![RecordError { index, fault }],
        }
    }
}

/// The first three record errors of a list, as Kafka's message shows them.
struct Listed<'a>(&'a [RecordError]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the first of them:")?;
        for (position, error) in self.0.iter().take(3).enumerate() {
            let separator = if position == 0 { "" } else { ";" };
            write!(f, "{separator} {error}")?;
        }
        Ok(())
    }
}
