//! The numbered behaviours 28 to 38 that clients rely on, with the hostile batches that are
//! their other side.

use super::*;

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
