//! Batches that are refused, and with which code: behaviours 28 to 34.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::produce_response::PartitionProduceResponse;
use klamm_records::{BATCH_HEADER_LEN, BatchBuilder, Codec, NewRecord, compress};

use crate::batches::{batch, dated, fill, now_ms, patched, with_records};
use crate::calls::{
    Topic, code, connect_and_create, create, describe, end_offset, fetch, produce, produce_answer,
    produce_request, produce_version, read_all, try_produce, values,
};
use crate::rig::{connect, eventually, ours, ours_only};

async fn refused(
    connection: &Connection,
    topic: &Topic,
    batch: impl Into<Bytes>,
    expected: ErrorCode,
    what: &str,
) -> Result<PartitionProduceResponse> {
    let answer = try_produce(connection, topic, 0, batch).await?;
    assert_eq!(
        code(answer.error_code),
        expected,
        "{what}: {:?}",
        answer.error_message
    );
    assert_eq!(
        (answer.base_offset, answer.log_append_time_ms),
        (-1, -1),
        "{what}"
    );
    Ok(answer)
}

#[tokio::test]
async fn behaviour_28_a_partition_gets_exactly_one_batch() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let two = [batch(&["a"]), batch(&["b"])].concat();
    for version in [3, 9, 13] {
        for (what, records) in [
            ("null", None),
            ("empty", Some(Bytes::new())),
            ("two", Some(two.clone().into())),
        ] {
            if records.is_none() && !ours() {
                // Kafka 4.3 fails inside and never answers.
                continue;
            }
            let request = produce_request(&topic, 0, -1, records);
            let answer = produce_answer(connection.send_version(version, &request).await?)?;
            assert_eq!(
                code(answer.error_code),
                ErrorCode::INVALID_RECORD,
                "{what} in version {version}"
            );
        }
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

#[tokio::test]
async fn behaviour_28_other_formats_are_refused() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for magic in [0, 1] {
        // A message of the old formats: offset, size, CRC, magic, attributes, key, value.
        let timestamp: &[u8] = if magic == 1 { &[0; 8] } else { &[] };
        let body = [&[magic, 0][..], timestamp, &[0xff; 4], &[0, 0, 0, 1, b'x']].concat();
        let crc = crc32(&body).to_be_bytes();
        let size = u32::try_from(body.len() + 4)?.to_be_bytes();
        let old = [&[0; 8][..], &size, &crc, &body].concat();
        refused(
            &connection,
            &topic,
            old,
            ErrorCode::INVALID_RECORD,
            &format!("magic {magic}"),
        )
        .await?;
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

/// CRC-32 of ISO 3309, as in gzip and the old message formats.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[tokio::test]
async fn behaviour_28_zstd_needs_version_7() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let zstd = || {
        fill(
            BatchBuilder::new().compression(Codec::Zstd, None),
            &["zstd"],
        )
    };
    for version in 3..=13 {
        let answer = produce_version(&connection, version, &topic, 0, zstd()).await?;
        let expected = if version < 7 {
            ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
        } else {
            ErrorCode::NONE
        };
        assert_eq!(code(answer.error_code), expected, "version {version}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_29_a_wrong_crc_is_a_corrupt_message() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let good = batch(&["checked"]);
    for at in [17, 21, 22, 30, 40, 60, good.len() - 1] {
        let mut bad = good.to_vec();
        // Not the codec or a control bit by accident: the CRC must be what is found.
        bad[at] ^= if at == 22 { 0x80 } else { 1 };
        refused(
            &connection,
            &topic,
            bad,
            ErrorCode::CORRUPT_MESSAGE,
            &format!("byte {at}"),
        )
        .await?;
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

#[tokio::test]
async fn behaviour_29_offset_and_epoch_are_the_brokers_to_assign() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let epoch = describe(&connection, &topic.name).await?.partitions[0].leader_epoch;
    let mut sent = batch(&["assigned"]).to_vec();
    sent[12..16].copy_from_slice(&99_i32.to_be_bytes());
    assert_eq!(produce(&connection, &topic, 0, sent.clone()).await?, 0);
    assert_eq!(produce(&connection, &topic, 0, sent.clone()).await?, 1);
    for offset in 0..2 {
        let answer = fetch(&connection, &topic, 0, offset).await?;
        let (header, _) = crate::batches::headers(&answer.records.context("records")?)?.remove(0);
        assert_eq!(
            (header.base_offset, header.partition_leader_epoch),
            (offset, epoch)
        );
    }
    // A client that believes it knows the offset is mistaken.
    for offset in [2_i64, 12345, -1] {
        sent[0..8].copy_from_slice(&offset.to_be_bytes());
        refused(
            &connection,
            &topic,
            sent.clone(),
            ErrorCode::INVALID_RECORD,
            "base offset",
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_length_that_is_not_the_fields_is_refused() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let good = batch(&["length"]);
    let length = i32::from_be_bytes(good[8..12].try_into()?);
    for wrong in [length + 1, length - 1, 0, 48, -1] {
        let mut bad = good.to_vec();
        bad[8..12].copy_from_slice(&wrong.to_be_bytes());
        let answer = try_produce(&connection, &topic, 0, bad).await?;
        let found = code(answer.error_code);
        ensure!(
            [ErrorCode::CORRUPT_MESSAGE, ErrorCode::INVALID_RECORD].contains(&found),
            "length {wrong} instead of {length}: {found}"
        );
    }
    for cut in [1, 11, 12, 16, 60] {
        let answer = try_produce(&connection, &topic, 0, good.slice(..cut)).await?;
        let found = code(answer.error_code);
        ensure!(
            [ErrorCode::CORRUPT_MESSAGE, ErrorCode::INVALID_RECORD].contains(&found),
            "first {cut} bytes: {found}"
        );
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

#[tokio::test]
async fn behaviour_30_the_header_makes_sense() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let three = batch(&["a", "b", "c"]);
    let int = i32::to_be_bytes;
    let cases = [
        ("count 0", patched(&three, 57, &int(0))),
        ("count -1", patched(&three, 57, &int(-1))),
        ("count 4", patched(&three, 57, &int(4))),
        ("count 2", patched(&three, 57, &int(2))),
        ("last offset delta 3", patched(&three, 23, &int(3))),
        ("last offset delta 1", patched(&three, 23, &int(1))),
        ("last offset delta -1", patched(&three, 23, &int(-1))),
        (
            "control batch",
            fill(BatchBuilder::new().control(), &["control"]),
        ),
        (
            "producer without sequence",
            fill(
                BatchBuilder::new().producer(5_000_000, 0, -1),
                &["no sequence"],
            ),
        ),
    ];
    for (what, bad) in cases {
        refused(&connection, &topic, bad, ErrorCode::INVALID_RECORD, what).await?;
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

#[tokio::test]
async fn behaviour_31_the_records_are_what_the_header_says() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let good = batch(&["first", "second"]);
    let records = &good[BATCH_HEADER_LEN..];
    // One record: length, attributes, timestamp delta, offset delta, key length -1, value length.
    let second_at = 1 + usize::from(records[0] >> 1);
    let change = |at: usize, to: u8| {
        let mut changed = records.to_vec();
        changed[at] = to;
        changed
    };
    let cases = [
        ("a record fewer", records[..second_at].to_vec()),
        ("nothing", Vec::new()),
        ("a record more", [records, &records[second_at..]].concat()),
        ("a byte more", [records, &[0]].concat()),
        ("a byte less", records[..records.len() - 1].to_vec()),
        ("value length beyond the record", change(5, 120)),
        ("header count -1", change(second_at - 1, 1)),
        ("header count 5", change(second_at - 1, 10)),
    ];
    for codec in [Codec::None, Codec::Gzip] {
        for (what, records) in &cases {
            let packed = match codec {
                Codec::None => records.clone(),
                codec => compress(codec, None, records)?,
            };
            let bad = with_records(&good, codec, &packed);
            let answer = try_produce(&connection, &topic, 0, bad).await?;
            assert_eq!(
                code(answer.error_code),
                ErrorCode::INVALID_RECORD,
                "{codec:?}: {what}"
            );
        }
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

/// Where Kafka looks away, or fails inside, and stores what consumers stumble over.
#[tokio::test]
async fn behaviour_31_records_that_kafka_lets_pass_are_refused() -> Result<()> {
    ours_only!();
    let (connection, topic) = connect_and_create().await?;
    let good = batch(&["first", "second"]);
    let records = &good[BATCH_HEADER_LEN..];
    let second_at = 1 + usize::from(records[0] >> 1);
    let change = |at: usize, to: u8| {
        let mut changed = records.to_vec();
        changed[at] = to;
        changed
    };
    let cases = [
        ("record length too long", change(0, records[0] + 2)),
        ("record length too short", change(0, records[0] - 2)),
        ("record length negative", change(0, 1)),
        ("offset delta 1 in front", change(3, 2)),
        ("offset delta 0 twice", change(second_at + 3, 0)),
        ("key length -2", change(4, 3)),
    ];
    for (what, records) in cases {
        for codec in [Codec::None, Codec::Gzip] {
            let packed = match codec {
                Codec::None => records.clone(),
                codec => compress(codec, None, &records)?,
            };
            refused(
                &connection,
                &topic,
                with_records(&good, codec, &packed),
                ErrorCode::INVALID_RECORD,
                what,
            )
            .await?;
        }
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

#[tokio::test]
async fn behaviour_32_all_codecs_are_read() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let mut expected = Vec::new();
    for codec in Codec::ALL {
        let value = format!("{codec:?} {}", "again and ".repeat(2000));
        produce(
            &connection,
            &topic,
            0,
            fill(BatchBuilder::new().compression(codec, None), &[&value]),
        )
        .await?;
        expected.push(value);
    }
    assert_eq!(values(&connection, &topic, 0).await?, expected);
    Ok(())
}

#[tokio::test]
async fn behaviour_32_the_odd_forms_of_the_codecs_are_read() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let good = batch(&["odd", "form"]);
    let records = &good[BATCH_HEADER_LEN..];
    let (front, back) = records.split_at(7);
    let len = u8::try_from(records.len())?;
    // Snappy as C clients write it: one raw block, here a single literal.
    let snappy = [&[len, (len - 1) << 2][..], records].concat();
    let members = [
        compress(Codec::Gzip, None, front)?,
        compress(Codec::Gzip, None, back)?,
    ]
    .concat();
    // Zstandard: magic, no content size, window of 1 KiB, one raw block, the last one.
    let zstd = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 1 | len << 3, len >> 5, 0][..],
        records,
    ]
    .concat();
    let cases = [
        ("raw snappy", Codec::Snappy, snappy),
        ("gzip in two members", Codec::Gzip, members),
        ("zstd without size", Codec::Zstd, zstd),
    ];
    for (what, codec, packed) in cases {
        let offset = produce(&connection, &topic, 0, with_records(&good, codec, &packed))
            .await
            .context(what)?;
        let seen = read_all(&connection, &topic, 0).await?;
        let last: Vec<_> = seen
            .iter()
            .filter(|seen| seen.offset >= offset)
            .map(|seen| seen.text())
            .collect();
        assert_eq!(last, ["odd", "form"], "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_32_what_is_no_stream_of_the_codec_is_refused() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let good = batch(&["stream"]);
    let records = &good[BATCH_HEADER_LEN..];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let packed = compress(codec, None, records)?;
        let cases = [
            ("garbage", b"certainly not compressed".to_vec()),
            ("nothing", Vec::new()),
            ("half", packed[..packed.len() / 2].to_vec()),
        ];
        for (what, packed) in cases {
            let bad = with_records(&good, codec, &packed);
            let answer = try_produce(&connection, &topic, 0, bad).await?;
            let found = code(answer.error_code);
            assert_ne!(found, ErrorCode::NONE, "{codec:?}: {what}");
            // Kafka mostly says UNKNOWN_SERVER_ERROR.
            let told = [ErrorCode::CORRUPT_MESSAGE, ErrorCode::INVALID_RECORD].contains(&found);
            ensure!(told || !ours(), "{codec:?}: {what}: {found}");
        }
    }
    // The check byte of the frame header.
    let mut lz4 = compress(Codec::Lz4, None, records)?;
    lz4[6] ^= 0x55;
    let answer = try_produce(
        &connection,
        &topic,
        0,
        with_records(&good, Codec::Lz4, &lz4),
    )
    .await?;
    ensure!(answer.error_code != 0, "lz4 with a wrong header checksum");
    for unknown in 5_i16..=7 {
        let answer = try_produce(
            &connection,
            &topic,
            0,
            patched(&good, 21, &unknown.to_be_bytes()),
        )
        .await?;
        ensure!(answer.error_code != 0, "codec {unknown}");
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

#[tokio::test]
async fn behaviour_33_a_compacted_topic_needs_keys() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("cleanup.policy", "compact")]).await?;
    let mut builder = BatchBuilder::new();
    builder.push(&NewRecord {
        timestamp: now_ms(),
        key: Some(b"k"),
        ..NewRecord::default()
    })?;
    builder.push(&NewRecord {
        timestamp: now_ms(),
        key: None,
        ..NewRecord::default()
    })?;
    let answer = refused(
        &connection,
        &topic,
        builder.build()?,
        ErrorCode::INVALID_RECORD,
        "null key",
    )
    .await?;
    let errors: Vec<i32> = answer
        .record_errors
        .iter()
        .map(|error| error.batch_index)
        .collect();
    assert_eq!(errors, [1]);
    ensure!(answer.error_message.is_some());
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

#[tokio::test]
async fn behaviour_34_timestamps_lie_within_the_limits() -> Result<()> {
    const HOUR: i64 = 3_600_000;
    let connection = connect().await?;
    let topic = create(
        &connection,
        1,
        &[("message.timestamp.before.max.ms", "7200000")],
    )
    .await?;
    let now = now_ms();
    for (what, timestamps) in [
        ("in time", vec![now]),
        ("nearly an hour ahead", vec![now + HOUR - 60_000]),
        ("nearly two hours back", vec![now - 2 * HOUR + 60_000]),
        ("none", vec![-1]),
        ("none among others", vec![now, -1]),
    ] {
        let records: Vec<_> = timestamps
            .iter()
            .map(|timestamp| (*timestamp, "x"))
            .collect();
        let answer =
            try_produce(&connection, &topic, 0, dated(BatchBuilder::new(), &records)).await?;
        assert_eq!(
            code(answer.error_code),
            ErrorCode::NONE,
            "{what}: {answer:?}"
        );
    }
    let end = end_offset(&connection, &topic, 0).await?;
    for codec in [Codec::None, Codec::Lz4] {
        for bad in [now + HOUR + 60_000, now - 2 * HOUR - 60_000] {
            let builder = BatchBuilder::new().compression(codec, None);
            let sent = dated(
                builder,
                &[(now, "good"), (bad, "bad"), (now, "good"), (bad, "bad")],
            );
            let answer = refused(
                &connection,
                &topic,
                sent,
                ErrorCode::INVALID_TIMESTAMP,
                "out of the limits",
            )
            .await?;
            let errors: Vec<i32> = answer
                .record_errors
                .iter()
                .map(|error| error.batch_index)
                .collect();
            assert_eq!(errors, [1, 3], "{codec:?}");
            ensure!(
                answer
                    .record_errors
                    .iter()
                    .all(|error| error.batch_index_error_message.is_some())
            );
            ensure!(answer.error_message.is_some());
        }
    }
    assert_eq!(
        end_offset(&connection, &topic, 0).await?,
        end,
        "the whole batch is refused"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_34_details_are_told_from_version_8() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in [3, 7, 8, 10, 13] {
        let late = dated(BatchBuilder::new(), &[(now_ms() + 10_000_000, "late")]);
        let answer = produce_version(&connection, version, &topic, 0, late).await?;
        assert_eq!(code(answer.error_code), ErrorCode::INVALID_TIMESTAMP);
        assert_eq!(
            answer.record_errors.len(),
            usize::from(version >= 8),
            "version {version}"
        );
        assert_eq!(
            answer.error_message.is_some(),
            version >= 8,
            "version {version}"
        );
    }
    Ok(())
}

/// A record that is refused leaves no trace in the offsets of those after it.
#[tokio::test]
async fn offsets_have_no_gaps_after_refusals() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for round in 0..5 {
        assert_eq!(
            produce(&connection, &topic, 0, batch(&["kept"])).await?,
            round
        );
        let late = dated(BatchBuilder::new(), &[(now_ms() + 10_000_000, "late")]);
        refused(
            &connection,
            &topic,
            late,
            ErrorCode::INVALID_TIMESTAMP,
            "late",
        )
        .await?;
    }
    eventually("all are there", || async {
        Ok((values(&connection, &topic, 0).await?.len() == 5).then_some(()))
    })
    .await
}
