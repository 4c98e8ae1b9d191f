#![doc = include_str!("../README.md")]

mod builder;
mod compression;
mod control;
mod error;
mod header;
mod ids;
mod lookup;
pub mod plant;
mod record;
mod sequence;
mod split;
mod validate;
#[cfg(test)]
mod validate_test;
mod varint;

pub use builder::{BatchBuilder, BuildError, NewRecord};
pub use compression::{
    Codec, CompressError, DecompressError, UnsupportedCodec, ZSTD_WINDOW_LOG_MAX, compress,
    decompress,
};
pub use control::{ControlRecord, ControlRecordError, end_transaction_marker};
pub use error::{BatchError, MAX_RECORD_ERRORS, RecordError, RecordFault};
pub use header::{
    BATCH_HEADER_LEN, BATCH_LENGTH_OVERHEAD, BatchHeader, MAGIC_V2, NO_TIMESTAMP, STAMP_LEN,
    TimestampType, batch_crc_ok,
};
pub use ids::{EntryId, GroupId, TopicId};
pub use lookup::{RecordPosition, first_at_or_after, max_timestamp_record};
pub use record::{
    Headers, MIN_RECORD_LEN, ReadError, Record, RecordFormatError, RecordSet, Records,
};
pub use sequence::{sequence_after, sequence_is_before, sequence_steps};
pub use split::{SplitBatches, SplitError, single_batch, split_batches};
pub use validate::{CompressionType, Validated, ValidationRules, needs_codec, validate};
