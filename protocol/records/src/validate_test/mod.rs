//! Tests of the produce path: what the numbered behaviours and the hostile batches share.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod behaviours;
mod hostile;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::builder::{BatchBuilder, NewRecord};
use crate::compression::{Codec, compress};
use crate::control::end_transaction_marker;
use crate::error::{BatchError, MAX_RECORD_ERRORS, RecordFault};
use crate::header::{BATCH_HEADER_LEN, BatchHeader, TimestampType, batch_crc_ok};
use crate::record::RecordSet;
use crate::validate::{
    CompressionType, Validated, ValidationRules, assemble, needs_codec, validate,
};

const NOW: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;
const INVALID_RECORD: i16 = 87;
const INVALID_TIMESTAMP: i16 = 32;
const CORRUPT_MESSAGE: i16 = 2;
const MESSAGE_TOO_LARGE: i16 = 10;
const RECORD_LIST_TOO_LARGE: i16 = 18;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;

/// Kafka's defaults, for a Produce request of version 12.
fn rules() -> ValidationRules {
    ValidationRules {
        max_message_bytes: 1_048_588,
        segment_bytes: 1 << 30,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: HOUR,
        target: CompressionType::Producer,
        decompress_budget: 4 << 20,
        produce_version: 12,
        allow_control: false,
        allow_transactional: false,
    }
}

fn to_codec(codec: Codec) -> ValidationRules {
    ValidationRules {
        target: CompressionType::Codec { codec, level: None },
        ..rules()
    }
}

fn keyed(key: &[u8], timestamp: i64) -> NewRecord<'_> {
    NewRecord {
        timestamp,
        key: Some(key),
        value: Some(b"value"),
        headers: &[],
    }
}

/// Three records of an idempotent producer: duplicate headers, a null key, a tombstone.
fn sample(codec: Codec) -> Bytes {
    let headers = [
        (&b"h"[..], Some(&b"1"[..])),
        (b"h", None),
        (b"\xff", Some(b"")),
    ];
    let mut builder = BatchBuilder::new()
        .compression(codec, None)
        .producer(7, 1, 40);
    let first = NewRecord {
        headers: &headers,
        ..keyed(b"a", NOW - 5)
    };
    builder.push(&first).unwrap();
    builder
        .push(&NewRecord {
            key: None,
            ..keyed(b"", NOW + 3)
        })
        .unwrap();
    builder
        .push(&NewRecord {
            value: None,
            ..keyed(b"c", NOW - 9)
        })
        .unwrap();
    builder.build().unwrap()
}

/// A batch around hand-made record bytes, its length and CRC right.
fn sealed(codec: Codec, count: i32, records: &[u8]) -> Bytes {
    let header = header_of(&sample(codec));
    let header = BatchHeader {
        record_count: count,
        last_offset_delta: count - 1,
        ..header
    };
    assemble(header, &compress(codec, None, records).unwrap()).1
}

/// `batch` with its header changed, length and CRC right.
fn altered(batch: &Bytes, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = header_of(batch);
    change(&mut header);
    assemble(header, &batch[BATCH_HEADER_LEN..]).1
}

fn header_of(batch: &[u8]) -> BatchHeader {
    BatchHeader::parse(batch).unwrap()
}

fn records_of(batch: &Bytes) -> Bytes {
    RecordSet::open(batch, &header_of(batch), 1 << 24)
        .unwrap()
        .bytes()
        .clone()
}

fn code(batch: impl Into<Bytes>, rules: &ValidationRules) -> i16 {
    validate(batch.into(), rules, NOW).unwrap_err().code()
}

fn accepted(batch: &Bytes, rules: &ValidationRules) -> Validated {
    let validated = validate(batch.clone(), rules, NOW).unwrap();
    assert_eq!(header_of(&validated.bytes), validated.header);
    assert_eq!(validated.header.total_len(), Some(validated.bytes.len()));
    assert!(batch_crc_ok(&validated.bytes));
    validated
}

fn same_bytes(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr() == other.as_ptr() && one.len() == other.len()
}

/// A record of key "k" and null value.
fn raw_record(attributes: u8, offset_delta: u8) -> Vec<u8> {
    vec![14, attributes, 0, offset_delta * 2, 2, b'k', 1, 0]
}
