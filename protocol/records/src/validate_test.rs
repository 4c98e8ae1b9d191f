//! The numbered behaviours of the produce path and the hostile batches, one test each.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

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

#[test]
fn what_needs_no_change_is_stored_as_the_bytes_that_came() {
    for codec in Codec::ALL {
        let batch = sample(codec);
        let validated = accepted(&batch, &rules());
        assert!(same_bytes(&validated.bytes, &batch), "{codec}");
        assert_eq!(needs_codec(&batch, &rules()), codec != Codec::None);
    }
    assert!(needs_codec(&sample(Codec::None), &to_codec(Codec::Zstd)));
    assert!(!needs_codec(b"short", &to_codec(Codec::Zstd)));
}

/// Behaviour 28, C36, C38, C39, C49.
#[test]
fn behaviour_28_exactly_one_batch_of_format_2() {
    assert_eq!(code(Bytes::new(), &rules()), INVALID_RECORD);
    let two = [sample(Codec::None), sample(Codec::None)].concat();
    assert_eq!(code(two, &rules()), INVALID_RECORD);
    for magic in [0, 1, 3, 255] {
        let mut batch = sample(Codec::None).to_vec();
        batch[16] = magic;
        assert_eq!(code(batch, &rules()), INVALID_RECORD, "magic {magic}");
    }
    // A message set of format 0 that is shorter than a header of format 2.
    assert_eq!(code(vec![0; 26], &rules()), INVALID_RECORD);
    let old = ValidationRules {
        produce_version: 6,
        ..rules()
    };
    assert_eq!(
        code(sample(Codec::Zstd), &old),
        UNSUPPORTED_COMPRESSION_TYPE
    );
    accepted(&sample(Codec::Lz4), &old);
}

/// Behaviour 29, C40: every bit from the attributes on is covered; offset and epoch are not.
#[test]
fn behaviour_29_the_crc_covers_all_but_offset_and_epoch() {
    let batch = sample(Codec::None);
    for at in 17..batch.len() {
        let mut bad = batch.to_vec();
        bad[at] ^= 0x80;
        assert!(!batch_crc_ok(&bad), "byte {at}");
        assert!(validate(bad.into(), &rules(), NOW).is_err(), "byte {at}");
    }
    let mut bad = batch.to_vec();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(code(bad, &rules()), CORRUPT_MESSAGE);

    let stamp = header_of(&batch).stamp(1 << 40, 9);
    let stamped = [&stamp[..], &batch[stamp.len()..]].concat();
    assert!(batch_crc_ok(&stamped));
    // A client has no offsets to give, as Kafka insists too.
    assert_eq!(code(stamped, &rules()), INVALID_RECORD);
}

/// Behaviour 30, C42, C43, C58, C66.
#[test]
fn behaviour_30_the_header_makes_sense_in_itself() {
    let batch = sample(Codec::None);
    let refused = |change: fn(&mut BatchHeader)| code(altered(&batch, change), &rules());
    assert_eq!(
        refused(|h| (h.record_count, h.last_offset_delta) = (0, -1)),
        INVALID_RECORD
    );
    assert_eq!(
        refused(|h| (h.record_count, h.last_offset_delta) = (-1, -2)),
        INVALID_RECORD
    );
    assert_eq!(
        refused(|h| (h.record_count, h.last_offset_delta) = (i32::MIN, i32::MAX)),
        INVALID_RECORD
    );
    assert_eq!(refused(|h| h.last_offset_delta = 3), INVALID_RECORD);
    assert_eq!(refused(|h| h.last_offset_delta = -1), INVALID_RECORD);
    assert_eq!(refused(|h| h.attributes |= 0x20), INVALID_RECORD);
    assert_eq!(refused(|h| h.base_sequence = -1), INVALID_RECORD);
    assert_eq!(refused(|h| h.base_sequence = i32::MIN), INVALID_RECORD);
}

/// Behaviour 31, C57: the header alone is never trusted, compressed or not.
#[test]
fn behaviour_31_c57_records_are_walked_also_within_compression() {
    for codec in Codec::ALL {
        let good = records_of(&sample(codec));
        accepted(&sealed(codec, 3, &good), &rules());
        assert_eq!(
            code(sealed(codec, 2, &good), &rules()),
            INVALID_RECORD,
            "{codec} fewer"
        );
        assert_eq!(
            code(sealed(codec, 4, &good), &rules()),
            INVALID_RECORD,
            "{codec} more"
        );
        for cut in 0..good.len() {
            let refused = code(sealed(codec, 3, &good[..cut]), &rules());
            assert_eq!(refused, INVALID_RECORD, "{codec} cut at {cut}");
        }
        let header = header_of(&sample(codec));
        let garbage = assemble(header, b"this is not what it claims to be").1;
        let refused = code(garbage, &rules());
        assert!(
            [CORRUPT_MESSAGE, INVALID_RECORD].contains(&refused),
            "{codec}: {refused}"
        );
    }
}

/// Behaviour 33, C63.
#[test]
fn behaviour_33_c63_a_compacted_topic_refuses_records_without_key() {
    let compacted = ValidationRules {
        compacted: true,
        ..rules()
    };
    for codec in Codec::ALL {
        let error = validate(sample(codec), &compacted, NOW).unwrap_err();
        assert_eq!(error.code(), INVALID_RECORD);
        let faults: Vec<_> = error
            .record_errors()
            .iter()
            .map(|e| (e.index, e.fault))
            .collect();
        assert_eq!(faults, [(1, RecordFault::MissingKey)]);
        assert!(
            error.to_string().contains("record 1: a compacted topic"),
            "{error}"
        );
    }
    let mut builder = BatchBuilder::new();
    builder.push(&keyed(b"", NOW)).unwrap();
    accepted(&builder.build().unwrap(), &compacted);
}

#[test]
fn record_errors_are_bounded() {
    let mut builder = BatchBuilder::new();
    for _ in 0..1000 {
        builder
            .push(&NewRecord {
                timestamp: NOW,
                ..NewRecord::default()
            })
            .unwrap();
    }
    let compacted = ValidationRules {
        compacted: true,
        ..rules()
    };
    let error = validate(builder.build().unwrap(), &compacted, NOW).unwrap_err();
    assert_eq!(error.record_errors().len(), MAX_RECORD_ERRORS);
    assert!(error.to_string().len() < 400);
}

/// Behaviour 34, C61.
#[test]
fn behaviour_34_c61_create_times_must_lie_near_now() {
    let rules = ValidationRules {
        before_max_ms: HOUR,
        after_max_ms: 2 * HOUR,
        ..rules()
    };
    let with = |timestamp| {
        let mut builder = BatchBuilder::new();
        builder.push(&keyed(b"k", NOW)).unwrap();
        builder.push(&keyed(b"k", timestamp)).unwrap();
        builder.build().unwrap()
    };
    for timestamp in [NOW - HOUR, NOW + 2 * HOUR, -1] {
        accepted(&with(timestamp), &rules);
    }
    for timestamp in [NOW - HOUR - 1, NOW + 2 * HOUR + 1, 0, -2, i64::MAX] {
        let error = validate(with(timestamp), &rules, NOW).unwrap_err();
        assert_eq!(error.code(), INVALID_TIMESTAMP);
        let [only] = error.record_errors() else {
            panic!("{error}")
        };
        let (earliest, latest) = (NOW - HOUR, NOW + 2 * HOUR);
        assert_eq!(only.index, 1);
        assert_eq!(
            only.fault,
            RecordFault::TimestampOutOfRange {
                timestamp,
                earliest,
                latest
            }
        );
    }
}

#[test]
fn behaviour_34_the_default_takes_any_past_and_an_hour_of_future() {
    let with = |timestamp| {
        let mut builder = BatchBuilder::new();
        builder.push(&keyed(b"k", timestamp)).unwrap();
        builder.build().unwrap()
    };
    accepted(&with(0), &rules());
    accepted(&with(NOW + HOUR), &rules());
    assert_eq!(code(with(NOW + HOUR + 1), &rules()), INVALID_TIMESTAMP);
}

#[test]
fn behaviour_34_a_client_cannot_claim_log_append_time() {
    let claim = altered(&sample(Codec::None), |h| h.attributes |= 0x08);
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let rules = ValidationRules {
            timestamp_type,
            ..rules()
        };
        let error = validate(claim.clone(), &rules, NOW).unwrap_err();
        assert_eq!(error.code(), INVALID_TIMESTAMP);
        assert_eq!(error.record_errors().len(), 3);
    }
}

/// Behaviour 35: bit 3, max_timestamp and CRC change; records and the rest do not.
#[test]
fn behaviour_35_log_append_time_leaves_the_records_alone() {
    let rules = ValidationRules {
        timestamp_type: TimestampType::LogAppendTime,
        ..rules()
    };
    for codec in Codec::ALL {
        let batch = sample(codec);
        let before = header_of(&batch);
        let validated = accepted(&batch, &rules);
        let expected = BatchHeader {
            attributes: before.attributes | 0x08,
            max_timestamp: NOW,
            crc: validated.header.crc,
            ..before
        };
        assert_eq!(validated.header, expected);
        assert_ne!(validated.header.crc, before.crc);
        assert_eq!(
            validated.bytes[BATCH_HEADER_LEN..],
            batch[BATCH_HEADER_LEN..]
        );
        let set = RecordSet::open(&validated.bytes, &validated.header, 1 << 20).unwrap();
        assert!(
            set.iter()
                .all(|record| record.unwrap().timestamp(set.header()) == NOW)
        );
    }
    // The producer's times do not matter then.
    let mut builder = BatchBuilder::new();
    builder.push(&keyed(b"k", i64::MAX)).unwrap();
    accepted(&builder.build().unwrap(), &rules);
}

/// Behaviour 36.
#[test]
fn behaviour_36_a_wrong_max_timestamp_is_corrected() {
    for codec in Codec::ALL {
        let right = sample(codec);
        for wrong in [i64::MAX, 0, -1, NOW + 2] {
            let validated = accepted(&altered(&right, |h| h.max_timestamp = wrong), &rules());
            assert_eq!(validated.bytes, right, "{codec} {wrong}");
        }
    }
    let mut builder = BatchBuilder::new();
    builder.push(&keyed(b"k", -1)).unwrap();
    let validated = accepted(&builder.build().unwrap(), &rules());
    assert_eq!(validated.header.max_timestamp, -1);
}

/// Behaviour 37: from every codec to every codec.
#[test]
fn behaviour_37_recompression_keeps_everything_else() {
    for source in Codec::ALL {
        let batch = sample(source);
        let before = header_of(&batch);
        for target in Codec::ALL {
            let validated = accepted(&batch, &to_codec(target));
            assert_eq!(same_bytes(&validated.bytes, &batch), source == target);
            assert_eq!(validated.header.codec(), Ok(target));
            assert_eq!(records_of(&validated.bytes), records_of(&batch));
            let expected = BatchHeader {
                attributes: target.into_attributes(before.attributes),
                batch_length: validated.header.batch_length,
                crc: validated.header.crc,
                ..before
            };
            assert_eq!(validated.header, expected, "{source} to {target}");
        }
    }
}

#[test]
fn behaviour_37_recompression_and_log_append_time_together() {
    let rules = ValidationRules {
        timestamp_type: TimestampType::LogAppendTime,
        ..to_codec(Codec::Zstd)
    };
    let validated = accepted(&sample(Codec::Gzip), &rules);
    assert!(validated.header.is_log_append_time());
    assert_eq!(validated.header.codec(), Ok(Codec::Zstd));
    assert_eq!(validated.header.max_timestamp, NOW);
    assert_eq!(
        records_of(&validated.bytes),
        records_of(&sample(Codec::None))
    );
}

/// Behaviour 38, C64, C65.
#[test]
fn behaviour_38_sizes_are_checked_as_stored() {
    let batch = sample(Codec::None);
    let len = batch.len();
    let message = |max_message_bytes| ValidationRules {
        max_message_bytes,
        ..rules()
    };
    accepted(&batch, &message(len));
    assert_eq!(code(batch.clone(), &message(len - 1)), MESSAGE_TOO_LARGE);
    let segment = |segment_bytes| ValidationRules {
        segment_bytes,
        ..rules()
    };
    accepted(&batch, &segment(len));
    assert_eq!(code(batch, &segment(len - 1)), RECORD_LIST_TOO_LARGE);

    // Small as it came, too large as the topic stores it.
    let mut builder = BatchBuilder::new().compression(Codec::Zstd, None);
    builder
        .push(&NewRecord {
            value: Some(&[0; 5000]),
            ..keyed(b"k", NOW)
        })
        .unwrap();
    let batch = builder.build().unwrap();
    let stored = ValidationRules {
        max_message_bytes: 5000,
        ..to_codec(Codec::None)
    };
    assert_eq!(code(batch.clone(), &stored), MESSAGE_TOO_LARGE);
    let stored = ValidationRules {
        segment_bytes: 5000,
        ..to_codec(Codec::None)
    };
    assert_eq!(code(batch, &stored), RECORD_LIST_TOO_LARGE);
}

/// C37.
#[test]
fn c37_a_batch_length_that_does_not_fit_is_corrupt() {
    let batch = sample(Codec::None);
    let longer = i32::try_from(batch.len()).unwrap() - 11;
    for length in [-1, 0, 48, longer, i32::MAX, i32::MIN] {
        let mut bad = batch.to_vec();
        bad[8..12].copy_from_slice(&length.to_be_bytes());
        assert_eq!(code(bad, &rules()), CORRUPT_MESSAGE, "{length}");
    }
    for cut in 17..batch.len() {
        assert_eq!(code(batch.slice(..cut), &rules()), CORRUPT_MESSAGE, "{cut}");
    }
}

/// C41: 61 bytes that count 2^31 - 1 records.
#[test]
fn c41_a_record_count_is_not_believed() {
    for codec in Codec::ALL {
        assert_eq!(
            code(sealed(codec, i32::MAX, &[]), &rules()),
            INVALID_RECORD,
            "{codec}"
        );
    }
    let bare = altered(&sample(Codec::None), |h| {
        (h.record_count, h.last_offset_delta) = (i32::MAX, i32::MAX - 1);
    });
    let bare = assemble(header_of(&bare), &[]).1;
    assert_eq!(bare.len(), 61);
    assert_eq!(code(bare, &rules()), INVALID_RECORD);
}

/// C44, C45, C46, and the other lengths of a record.
#[test]
fn c44_c45_c46_lengths_and_counts_within_a_record() {
    let cases: [(&str, &[u8]); 10] = [
        ("well formed", &[14, 0, 0, 0, 2, b'k', 1, 0]),
        ("record length -1", &[1, 0, 0, 0, 2, b'k', 1, 0]),
        ("record length past the end", &[16, 0, 0, 0, 2, b'k', 1, 0]),
        (
            "record longer than its fields",
            &[16, 0, 0, 0, 2, b'k', 1, 0, 0],
        ),
        (
            "header count 2^31-1",
            &[22, 0, 0, 0, 2, b'k', 1, 0xfe, 0xff, 0xff, 0xff, 0x0f],
        ),
        ("header count -1", &[14, 0, 0, 0, 2, b'k', 1, 1]),
        ("header key length -1", &[18, 0, 0, 0, 2, b'k', 1, 2, 1, 1]),
        (
            "header value past the end",
            &[18, 0, 0, 0, 2, b'k', 1, 2, 0, 2],
        ),
        ("key past the end", &[14, 0, 0, 0, 40, b'k', 1, 0]),
        ("value length -2", &[14, 0, 0, 0, 2, b'k', 3, 0]),
    ];
    for codec in Codec::ALL {
        for (position, (what, record)) in cases.iter().enumerate() {
            let result = validate(sealed(codec, 1, record), &rules(), NOW);
            if position == 0 {
                assert!(result.is_ok(), "{codec} {what}: {result:?}");
                continue;
            }
            let error = result.expect_err(what);
            assert_eq!(error.code(), INVALID_RECORD, "{codec} {what}");
            let [only] = error.record_errors() else {
                panic!("{what}: {error}")
            };
            assert!(matches!(only.fault, RecordFault::Malformed(_)), "{what}");
        }
    }
}

/// C47.
#[test]
fn c47_offset_deltas_count_up_from_zero() {
    for codec in Codec::ALL {
        for deltas in [[1, 2], [0, 0], [0, 2], [1, 0]] {
            let records = deltas.map(|delta| raw_record(0, delta)).concat();
            let error = validate(sealed(codec, 2, &records), &rules(), NOW).unwrap_err();
            assert_eq!(error.code(), INVALID_RECORD);
            let fault = error.record_errors()[0].fault;
            assert!(
                matches!(fault, RecordFault::OffsetDelta { .. }),
                "{codec} {deltas:?}"
            );
        }
        let good = [raw_record(0, 0), raw_record(0, 1)].concat();
        accepted(&sealed(codec, 2, &good), &rules());
    }
}

/// C48.
#[test]
fn c48_compression_codes_without_codec_are_refused() {
    for bits in 5..=7 {
        let batch = altered(&sample(Codec::None), |h| h.attributes |= bits);
        assert_eq!(
            code(batch, &rules()),
            UNSUPPORTED_COMPRESSION_TYPE,
            "{bits}"
        );
    }
}

/// C50, C51.
#[test]
fn c50_c51_decompression_is_bounded() {
    let mut builder = BatchBuilder::new();
    builder
        .push(&NewRecord {
            value: Some(&vec![0; 8 << 20]),
            ..keyed(b"k", NOW)
        })
        .unwrap();
    let plain = records_of(&builder.build().unwrap());
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let error = validate(sealed(codec, 1, &plain), &rules(), NOW).unwrap_err();
        let limit = rules().decompress_budget;
        assert_eq!(
            error,
            BatchError::TooLarge {
                limit,
                decompressed: true
            },
            "{codec}"
        );
    }
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    let batch = assemble(header_of(&sample(Codec::Zstd)), &window).1;
    assert_eq!(code(batch, &rules()), UNSUPPORTED_COMPRESSION_TYPE);
}

/// C52, C53, C54: what the codecs find is a corrupt message.
#[test]
fn c52_c53_c54_corrupt_streams_are_corrupt_messages() {
    let streams: [(Codec, &[u8]); 3] = [
        (Codec::Snappy, b"\xff\xff\xff\xff\x0f\x00a"),
        (
            Codec::Snappy,
            b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff",
        ),
        (Codec::Lz4, b"\x04\x22\x4d\x18\x60\x40\x83\0\0\0\0"),
    ];
    for (codec, stream) in streams {
        let batch = assemble(header_of(&sample(codec)), stream).1;
        assert_eq!(code(batch, &rules()), CORRUPT_MESSAGE, "{codec}");
    }
}

/// C55.
#[test]
fn c55_members_of_gzip_make_one_batch() {
    let plain = records_of(&sample(Codec::None));
    let (one, other) = plain.split_at(10);
    let mut members = compress(Codec::Gzip, None, one).unwrap();
    members.extend(compress(Codec::Gzip, None, other).unwrap());
    accepted(
        &assemble(header_of(&sample(Codec::Gzip)), &members).1,
        &rules(),
    );
}

/// C56: a batch where records should be, and records that claim compression.
#[test]
fn c56_compression_does_not_nest() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let nested = sealed(codec, 1, &sample(codec));
        assert_eq!(code(nested, &rules()), INVALID_RECORD, "{codec}");
        let error = validate(sealed(codec, 1, &raw_record(1, 0)), &rules(), NOW).unwrap_err();
        assert_eq!(
            error.record_errors()[0].fault,
            RecordFault::NestedCompression
        );
    }
    // Without compression the bits mean nothing, as in Kafka.
    accepted(&sealed(Codec::None, 1, &raw_record(1, 0)), &rules());
}

/// C58: only the broker itself writes markers.
#[test]
fn c58_control_batches_are_the_brokers() {
    let marker = end_transaction_marker(7, 1, true, 3, NOW).unwrap();
    assert_eq!(code(marker.clone(), &rules()), INVALID_RECORD);
    let own = ValidationRules {
        allow_control: true,
        allow_transactional: true,
        ..rules()
    };
    assert!(same_bytes(&accepted(&marker, &own).bytes, &marker));
    let compressing = ValidationRules {
        target: to_codec(Codec::Zstd).target,
        ..own
    };
    assert!(same_bytes(&accepted(&marker, &compressing).bytes, &marker));
}

/// C59.
#[test]
fn c59_a_client_cannot_set_a_delete_horizon() {
    let batch = altered(&sample(Codec::None), |h| h.attributes |= 0x40);
    assert_eq!(code(batch, &rules()), INVALID_RECORD);
}

/// C60, CVE-2018-17196: what counts is the batch.
#[test]
fn c60_a_transactional_batch_needs_a_transactional_request() {
    let batch = altered(&sample(Codec::None), |h| h.attributes |= 0x10);
    let refused = validate(batch.clone(), &rules(), NOW).unwrap_err();
    assert_eq!(refused, BatchError::TransactionNotAllowed);
    let allowed = ValidationRules {
        allow_transactional: true,
        ..rules()
    };
    accepted(&batch, &allowed);
    let nameless = altered(&batch, |h| h.producer_id = -1);
    assert_eq!(code(nameless, &allowed), INVALID_RECORD);
}

/// C62: sums do not wrap, and the maximum of the batch is not poisoned.
#[test]
fn c62_timestamps_do_not_wrap() {
    let record = |delta: i64| {
        let mut builder = BatchBuilder::new();
        builder.push(&keyed(b"k", 0)).unwrap();
        builder.push(&keyed(b"k", delta)).unwrap();
        builder.build().unwrap()
    };
    for (base, delta) in [(i64::MIN, -1), (i64::MAX, 1), (i64::MIN, i64::MIN)] {
        let batch = altered(&record(delta), |h| h.base_timestamp = base);
        let error = validate(batch, &rules(), NOW).unwrap_err();
        assert_eq!(error.code(), INVALID_TIMESTAMP);
        let faults = error.record_errors();
        assert!(
            faults
                .iter()
                .any(|e| e.fault == RecordFault::TimestampOverflow),
            "{error}"
        );
    }
    let lowest = altered(&record(1), |h| h.base_timestamp = i64::MIN);
    assert_eq!(code(lowest, &rules()), INVALID_TIMESTAMP);
    let negative = altered(&record(1), |h| {
        (h.base_timestamp, h.max_timestamp) = (-9, i64::MAX)
    });
    assert_eq!(accepted(&negative, &rules()).header.max_timestamp, -1);
    let extreme = ValidationRules {
        after_max_ms: i64::MAX,
        ..rules()
    };
    assert!(validate(record(i64::MAX), &extreme, i64::MAX).is_ok());
}

/// C70: a sequence that wraps within the batch is the log's business, not an error here.
#[test]
fn c70_a_sequence_may_wrap() {
    let batch = altered(&sample(Codec::None), |h| h.base_sequence = i32::MAX);
    assert_eq!(accepted(&batch, &rules()).header.last_sequence(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_bytes_are_an_error(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(validate(bytes.into(), &rules(), NOW).is_err());
    }

    /// Whatever record bytes a right CRC covers: an error, or a batch that reads back whole.
    #[test]
    fn damaged_records_under_a_right_crc_are_refused_or_readable(
        codec in prop::sample::select(Codec::ALL.to_vec()),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        inner: bool,
    ) {
        let batch = sample(codec);
        let mut bytes = if inner { records_of(&batch).to_vec() } else { batch[61..].to_vec() };
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        let batch =
            if inner { sealed(codec, 3, &bytes) } else { assemble(header_of(&batch), &bytes).1 };
        if let Ok(validated) = validate(batch, &rules(), NOW) {
            let set = RecordSet::open(&validated.bytes, &validated.header, 4 << 20).unwrap();
            let records: Vec<_> = set.iter().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(records.len(), 3);
            let max = records.iter().map(|r| r.timestamp(set.header())).max();
            prop_assert_eq!(max.map(|max| max.max(-1)), Some(validated.header.max_timestamp));
        }
    }
}
