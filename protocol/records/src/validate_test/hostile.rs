//! Hostile batches, by their number among the hostile inputs.

use super::*;

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
