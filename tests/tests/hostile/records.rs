//! Group C: record batches. None of them reaches the log.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::{ListOffsetsRequest, ProduceRequest};
use klamm_records::{BATCH_HEADER_LEN, BatchBuilder, Codec, NewRecord, compress};

use crate::batches::{batch, dated, fill, now_ms, numbered, of_total, patched, with_records};
use crate::calls::{
    Topic, connect_and_create, create, init_producer, list_request, produce_request,
};
use crate::rig::{CANARY, Target, ask, connect};
use crate::{Case, Expect, Found, case};

type Codes = &'static [ErrorCode];

const CORRUPT: Codes = &[ErrorCode::CORRUPT_MESSAGE];
const INVALID: Codes = &[ErrorCode::INVALID_RECORD];
/// Bytes that are not what their codec says: which of the two is a matter of how far one gets.
const BROKEN: Codes = &[ErrorCode::CORRUPT_MESSAGE, ErrorCode::INVALID_RECORD];
const CODEC: Codes = &[
    ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
    ErrorCode::INVALID_RECORD,
];
const TOO_LARGE: Codes = &[ErrorCode::MESSAGE_TOO_LARGE];
const WINDOW: Codes = &[
    ErrorCode::MESSAGE_TOO_LARGE,
    ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::INVALID_RECORD,
];

/// Offsets of header fields.
const LENGTH: usize = 8;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const COUNT: usize = 57;

/// The partition's code for a batch in a version.
async fn produced(version: i16, topic: &Topic, records: Option<Bytes>) -> Result<Option<i16>> {
    let request = produce_request(topic, 0, -1, records);
    let answer = ask::<ProduceRequest>(version, &request).await?;
    Ok(answer.map(|answer| answer.responses[0].partition_responses[0].error_code))
}

/// A batch that is refused with one of these codes.
fn refused(
    number: u16,
    what: &'static str,
    codes: Codes,
    topic: &Arc<Topic>,
    batch: impl Into<Bytes>,
) -> Case {
    let (topic, batch) = (topic.clone(), batch.into());
    Case::codes(number, what, codes, move || {
        let (topic, batch) = (topic.clone(), batch.clone());
        async move { produced(9, &topic, Some(batch)).await }
    })
}

/// A batch that is strange and nevertheless right.
fn stored(number: u16, what: &'static str, topic: &Arc<Topic>, batch: Bytes) -> Case {
    let topic = topic.clone();
    case(number, what, Expect::Served, move || {
        let (topic, batch) = (topic.clone(), batch.clone());
        async move {
            let code = produced(9, &topic, Some(batch)).await?;
            ensure!(code == Some(0), "{code:?}");
            Ok(Found::Served)
        }
    })
}

/// Batches one after the other, each with its code; the last one counts.
fn sequence(
    number: u16,
    what: &'static str,
    codes: Codes,
    topic: &Arc<Topic>,
    batches: impl Fn((i64, i16)) -> Vec<Bytes> + Send + Sync + 'static,
) -> Case {
    let (topic, batches) = (topic.clone(), Arc::new(batches));
    Case::codes(number, what, codes, move || {
        let (topic, batches) = (topic.clone(), batches.clone());
        async move {
            let producer = init_producer(&connect().await?).await?;
            let mut all = batches(producer);
            let last = all.pop().context("a batch")?;
            for batch in all {
                let code = produced(9, &topic, Some(batch)).await?;
                ensure!(code == Some(0), "{code:?} on the way");
            }
            produced(9, &topic, Some(last)).await
        }
    })
}

fn canary() -> Bytes {
    batch(&[CANARY, CANARY])
}

fn varint(value: i32) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 31)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// One record: attributes, timestamp delta, offset delta, null key, the canary; then these headers.
fn record_with(headers: &[u8]) -> Vec<u8> {
    let len = i32::try_from(CANARY.len()).expect("short");
    let body = [&[0, 0, 0, 1][..], &varint(len), CANARY.as_bytes(), headers].concat();
    let len = i32::try_from(body.len()).expect("short");
    [varint(len), body].concat()
}

fn headers_lie(topic: &Arc<Topic>) -> Vec<Case> {
    let two = canary();
    let one = batch(&[CANARY]);
    let int = i32::to_be_bytes;
    let magic = |to: u8| {
        let mut changed = two.to_vec();
        changed[MAGIC] = to;
        Bytes::from(changed)
    };
    let length = |to: i32| {
        let mut changed = two.to_vec();
        changed[LENGTH..LENGTH + 4].copy_from_slice(&int(to));
        Bytes::from(changed)
    };
    let crc = || {
        let mut changed = two.to_vec();
        changed[CRC] ^= 1;
        Bytes::from(changed)
    };
    let count = |to: i32| {
        let delta = patched(&two, LAST_OFFSET_DELTA, &int(to.wrapping_sub(1)));
        patched(&delta, COUNT, &int(to))
    };
    let attributes = |to: i16| patched(&one, ATTRIBUTES, &to.to_be_bytes());
    let bare = patched(
        &patched(&one, COUNT, &int(i32::MAX)),
        LAST_OFFSET_DELTA,
        &int(i32::MAX - 1),
    );
    let bare = with_records(&bare, Codec::None, &[]);
    let transactional = BatchBuilder::new().producer(1, 0, 0).transactional();
    let twice = [two.clone(), two.clone()].concat();
    vec![
        refused(36, "no bytes", INVALID, topic, Bytes::new()),
        refused(37, "batch length 48", BROKEN, topic, length(48)),
        refused(37, "batch length -1", BROKEN, topic, length(-1)),
        refused(
            37,
            "batch length past the end",
            BROKEN,
            topic,
            length(10_000),
        ),
        refused(37, "batch length 2 GiB", BROKEN, topic, length(i32::MAX)),
        refused(38, "two batches", INVALID, topic, twice),
        refused(39, "magic 0", BROKEN, topic, magic(0)),
        refused(39, "magic 1", BROKEN, topic, magic(1)),
        refused(39, "magic 3", BROKEN, topic, magic(3)),
        refused(39, "magic 255", BROKEN, topic, magic(255)),
        refused(40, "a wrong CRC", CORRUPT, topic, crc()),
        refused(41, "2 billion records in 61 bytes", INVALID, topic, bare),
        refused(
            41,
            "2 billion records, two of them there",
            INVALID,
            topic,
            count(i32::MAX),
        ),
        refused(42, "0 records", INVALID, topic, count(0)),
        refused(42, "-1 records", INVALID, topic, count(-1)),
        refused(42, "i32::MIN records", INVALID, topic, count(i32::MIN)),
        refused(
            43,
            "last offset delta of 7",
            INVALID,
            topic,
            patched(&two, LAST_OFFSET_DELTA, &int(7)),
        ),
        refused(48, "codec 5", CODEC, topic, attributes(5)),
        refused(48, "codec 6", CODEC, topic, attributes(6)),
        refused(48, "codec 7", CODEC, topic, attributes(7)),
        refused(58, "the control bit", INVALID, topic, attributes(0x20)),
        refused(
            59,
            "the delete horizon bit",
            INVALID,
            topic,
            attributes(0x40),
        ),
        refused(
            60,
            "the transactional bit without a transactional id",
            &[
                ErrorCode::INVALID_TXN_STATE,
                ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            ],
            topic,
            fill(transactional, &[CANARY]),
        ),
        refused(
            66,
            "a producer id with sequence -1",
            INVALID,
            topic,
            fill(BatchBuilder::new().producer(1, 0, -1), &[CANARY]),
        ),
    ]
}

fn records_lie(topic: &Arc<Topic>) -> Vec<Case> {
    let one = batch(&[CANARY]);
    let two = canary();
    let good = &two[BATCH_HEADER_LEN..];
    let second_at = 1 + usize::from(good[0] >> 1);
    let changed = |at: usize, to: u8| {
        let mut records = good.to_vec();
        records[at] = to;
        with_records(&two, Codec::None, &records)
    };
    let with = |records: &[u8]| with_records(&one, Codec::None, records);
    let key_of = |len: i32| record_with(&[varint(1), varint(len), b"k".to_vec()].concat());
    let endless = [&varint(30)[..], &[0], &[0xff; 11], &[0; 18]].concat();
    vec![
        refused(44, "a record of length -1", INVALID, topic, changed(0, 1)),
        refused(
            44,
            "a record past the end",
            INVALID,
            topic,
            with(&varint(1_000_000)),
        ),
        refused(
            44,
            "a record of 2 GiB",
            INVALID,
            topic,
            with(&varint(i32::MAX)),
        ),
        refused(26, "a varlong of 11 bytes", INVALID, topic, with(&endless)),
        refused(
            45,
            "2 billion headers",
            INVALID,
            topic,
            with(&record_with(&varint(i32::MAX))),
        ),
        refused(
            45,
            "-1 headers",
            INVALID,
            topic,
            with(&record_with(&varint(-1))),
        ),
        refused(
            46,
            "a header key of length -1",
            INVALID,
            topic,
            with(&key_of(-1)),
        ),
        refused(
            46,
            "a header key past the end",
            INVALID,
            topic,
            with(&key_of(i32::MAX)),
        ),
        refused(47, "offset deltas 1, 1", INVALID, topic, changed(3, 2)),
        refused(
            47,
            "offset deltas 0, 0",
            INVALID,
            topic,
            changed(second_at + 3, 0),
        ),
    ]
}

fn bombs(topic: &Arc<Topic>, roomy: &Arc<Topic>) -> Result<Vec<Case>> {
    let one = batch(&[CANARY]);
    let packed = |codec, bytes: &[u8]| with_records(&one, codec, bytes);
    let zeros = vec![0; 256 << 20];
    let gzip = compress(Codec::Gzip, None, &zeros)?;
    let zstd = compress(Codec::Zstd, None, &zeros)?;
    let lz4 = compress(Codec::Lz4, None, &zeros[..128 << 20])?;
    let member = compress(Codec::Gzip, None, &zeros[..1 << 20])?;
    drop(zeros);
    let members = member.repeat(1000);
    // Magic, no content size, window of 2 GiB, an empty last block.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
    Ok(vec![
        refused(
            50,
            "gzip of 256 MiB",
            TOO_LARGE,
            topic,
            packed(Codec::Gzip, &gzip),
        ),
        refused(
            50,
            "gzip of 256 MiB where the topic would allow 1 GiB",
            TOO_LARGE,
            roomy,
            packed(Codec::Gzip, &gzip),
        ),
        refused(
            50,
            "zstd of 256 MiB",
            TOO_LARGE,
            topic,
            packed(Codec::Zstd, &zstd),
        ),
        refused(
            50,
            "lz4 of 128 MiB",
            TOO_LARGE,
            topic,
            packed(Codec::Lz4, &lz4),
        ),
        refused(
            51,
            "a zstd window of 2 GiB",
            WINDOW,
            topic,
            packed(Codec::Zstd, &window),
        ),
        refused(
            52,
            "raw snappy of 4 GiB",
            WINDOW,
            topic,
            packed(Codec::Snappy, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]),
        ),
        refused(
            55,
            "1 GiB in gzip members",
            TOO_LARGE,
            topic,
            packed(Codec::Gzip, &members),
        ),
    ])
}

fn garbage(topic: &Arc<Topic>) -> Result<Vec<Case>> {
    let one = batch(&[CANARY]);
    let mut cases = Vec::new();
    let noise: Vec<u8> = (0..4000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let inside = compress(codec, None, &one)?;
        cases.push(refused(
            56,
            "a batch inside a batch",
            BROKEN,
            topic,
            with_records(&one, codec, &inside),
        ));
        cases.push(refused(
            57,
            "noise where a codec is claimed",
            WINDOW,
            topic,
            with_records(&one, codec, &noise),
        ));
        let packed = compress(codec, None, &noise)?;
        cases.push(refused(
            57,
            "noise, well compressed",
            BROKEN,
            topic,
            with_records(&one, codec, &packed),
        ));
    }
    Ok(cases)
}

fn times(topic: &Arc<Topic>, bounded: &Arc<Topic>, compacted: &Arc<Topic>) -> Vec<Case> {
    let invalid_timestamp: Codes = &[ErrorCode::INVALID_TIMESTAMP];
    let (now, day) = (now_ms(), 86_400_000);
    let at = |timestamp| dated(BatchBuilder::new(), &[(timestamp, CANARY)]);
    let minimum = patched(&batch(&[CANARY]), BASE_TIMESTAMP, &i64::MIN.to_be_bytes());
    let maximum = patched(&batch(&[CANARY]), BASE_TIMESTAMP, &i64::MAX.to_be_bytes());
    // A delta of -1 below the smallest base, one of 1 above the largest.
    let shifted = |base: &Bytes, delta: u8| {
        let mut records = base[BATCH_HEADER_LEN..].to_vec();
        records[2] = delta;
        with_records(base, Codec::None, &records)
    };
    let refused_times: Codes = &[ErrorCode::INVALID_TIMESTAMP, ErrorCode::INVALID_RECORD];
    let claimed = patched(&batch(&[CANARY]), MAX_TIMESTAMP, &i64::MAX.to_be_bytes());
    let topic_of_claim = topic.clone();
    let not_poisoned = move || {
        let (topic, claimed) = (topic_of_claim.clone(), claimed.clone());
        async move {
            // The broker computes the largest itself: whatever is claimed, time lookups stay right.
            produced(9, &topic, Some(claimed)).await?;
            let request = list_request(&topic, 0, now + 10 * day);
            let answer = ask::<ListOffsetsRequest>(7, &request)
                .await?
                .context("closed")?;
            let found = &answer.topics[0].partitions[0];
            ensure!((found.error_code, found.offset) == (0, -1), "{found:?}");
            Ok(Found::Served)
        }
    };
    vec![
        refused(
            61,
            "a time of tomorrow",
            invalid_timestamp,
            bounded,
            at(now + day),
        ),
        refused(
            61,
            "a time of last year",
            invalid_timestamp,
            bounded,
            at(now - 365 * day),
        ),
        refused(
            62,
            "the smallest time less 1",
            refused_times,
            bounded,
            shifted(&minimum, 1),
        ),
        refused(
            62,
            "the largest time and 1",
            refused_times,
            bounded,
            shifted(&maximum, 2),
        ),
        case(
            62,
            "a largest time that is claimed",
            Expect::Served,
            not_poisoned,
        ),
        refused(
            63,
            "no key on a compacted topic",
            INVALID,
            compacted,
            batch(&[CANARY]),
        ),
    ]
}

/// Streams that no codec would write.
fn broken_streams(topic: &Arc<Topic>) -> Result<Vec<Case>> {
    let one = batch(&[CANARY]);
    let packed = |codec, bytes: &[u8]| with_records(&one, codec, bytes);
    let xerial = |chunk: i32| {
        let chunk = chunk.to_be_bytes();
        [&b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"[..], &chunk, b"xx"].concat()
    };
    let lz4_head = |flags: u8| {
        let content = (1_u64 << 63).to_le_bytes();
        [
            &[0x04, 0x22, 0x4d, 0x18, flags, 0x40][..],
            &content,
            &[0, 0, 0, 0, 0],
        ]
        .concat()
    };
    let mut wrong_check = compress(Codec::Lz4, None, &one[BATCH_HEADER_LEN..])?;
    wrong_check[6] ^= 0x55;
    Ok(vec![
        refused(
            53,
            "a xerial chunk of -1",
            BROKEN,
            topic,
            packed(Codec::Snappy, &xerial(-1)),
        ),
        refused(
            53,
            "a xerial chunk of 2 GiB",
            BROKEN,
            topic,
            packed(Codec::Snappy, &xerial(i32::MAX)),
        ),
        refused(
            54,
            "lz4 with a wrong check byte",
            BROKEN,
            topic,
            packed(Codec::Lz4, &wrong_check),
        ),
        refused(
            54,
            "lz4 of 2^63 bytes",
            WINDOW,
            topic,
            packed(Codec::Lz4, &lz4_head(0x68)),
        ),
    ])
}

fn sequences(topic: &Arc<Topic>) -> Vec<Case> {
    let gap: Codes = &[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER];
    // As Kafka: producers outlive the data of a broker that is begun anew, and go on with their ids.
    let fenced: Codes = &[
        ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::PRODUCER_FENCED,
    ];
    let of = |producer, sequences: &[i32]| -> Vec<Bytes> {
        sequences
            .iter()
            .map(|&sequence| numbered(producer, sequence))
            .collect()
    };
    let within = topic.clone();
    let duplicate = move || {
        let topic = within.clone();
        async move {
            let producer = init_producer(&connect().await?).await?;
            let mut first = None;
            for sequence in [0, 1, 2, 0] {
                let batch = numbered(producer, sequence);
                let request = produce_request(&topic, 0, -1, Some(batch));
                let answer = ask::<ProduceRequest>(9, &request)
                    .await?
                    .context("closed")?;
                let part = &answer.responses[0].partition_responses[0];
                ensure!(part.error_code == 0, "{part:?}");
                let expected = *first.get_or_insert(part.base_offset);
                ensure!(sequence > 0 || part.base_offset == expected, "{part:?}");
            }
            Ok(Found::Served)
        }
    };
    vec![
        sequence(67, "a gap in the sequence", gap, topic, move |producer| {
            of(producer, &[0, 2])
        }),
        case(
            68,
            "a duplicate within the last five",
            Expect::Served,
            duplicate,
        ),
        sequence(
            69,
            "a duplicate older than that",
            gap,
            topic,
            move |producer| of(producer, &[0, 1, 2, 3, 4, 5, 6, 0]),
        ),
        case(70, "after the largest sequence comes 0", Expect::Served, {
            let topic = topic.clone();
            move || {
                let topic = topic.clone();
                async move {
                    let producer = init_producer(&connect().await?).await?;
                    for sequence in [i32::MAX, 0] {
                        let code = produced(9, &topic, Some(numbered(producer, sequence))).await?;
                        ensure!(code == Some(0), "{sequence}: {code:?}");
                    }
                    Ok(Found::Served)
                }
            }
        }),
        stored(
            71,
            "a producer id that nobody was given",
            topic,
            numbered((i64::MAX, 0), 0),
        ),
        stored(
            71,
            "one just above the highest",
            topic,
            numbered((1 << 40, 0), 0),
        ),
        sequence(72, "an old epoch", fenced, topic, move |(id, epoch)| {
            vec![numbered((id, epoch + 1), 0), numbered((id, epoch), 0)]
        }),
    ]
}

pub(crate) async fn cases(_target: &'static Target) -> Result<Vec<Case>> {
    let (connection, topic) = connect_and_create().await?;
    let topic = Arc::new(topic);
    let bounds = [
        ("message.timestamp.before.max.ms", "3600000"),
        ("message.timestamp.after.max.ms", "3600000"),
    ];
    let bounded = Arc::new(create(&connection, 1, &bounds).await?);
    let compacted = Arc::new(create(&connection, 1, &[("cleanup.policy", "compact")]).await?);
    let sizes = [
        ("max.message.bytes", "8388608"),
        ("segment.bytes", "1048576"),
    ];
    let segments = Arc::new(create(&connection, 1, &sizes).await?);
    let roomy = [("max.message.bytes", "33554432")];
    let roomy = Arc::new(create(&connection, 1, &roomy).await?);
    let null = {
        let topic = topic.clone();
        move || {
            let topic = topic.clone();
            async move { produced(9, &topic, None).await }
        }
    };
    let old_zstd = {
        let topic = topic.clone();
        let packed = fill(
            BatchBuilder::new().compression(Codec::Zstd, None),
            &[CANARY],
        );
        move || {
            let (topic, packed) = (topic.clone(), packed.clone());
            async move { produced(6, &topic, Some(packed)).await }
        }
    };
    let mut keyed = BatchBuilder::new();
    keyed.push(&NewRecord {
        timestamp: now_ms(),
        key: None,
        value: Some(&[b'x'; 2 << 20]),
        ..NewRecord::default()
    })?;
    let mut cases = vec![Case::codes(36, "null records", INVALID, null)];
    cases.extend(headers_lie(&topic));
    cases.extend(records_lie(&topic));
    cases.push(Case::codes(49, "zstd in Produce 6", CODEC, old_zstd));
    cases.extend(bombs(&topic, &roomy)?);
    cases.extend(broken_streams(&topic)?);
    cases.extend(garbage(&topic)?);
    cases.extend(times(&topic, &bounded, &compacted));
    cases.push(refused(
        64,
        "a batch above max.message.bytes",
        TOO_LARGE,
        &topic,
        of_total(1_048_589),
    ));
    cases.push(refused(
        65,
        "a batch above the segment",
        &[ErrorCode::RECORD_LIST_TOO_LARGE],
        &segments,
        keyed.build()?,
    ));
    cases.extend(sequences(&topic));
    Ok(cases)
}
