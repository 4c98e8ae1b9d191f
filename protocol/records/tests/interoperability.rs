//! Batches that others wrote, and others reading what we write: Java's client by recorded
//! bytes, the crate kafka-protocol (whose LZ4 and zstd are the C libraries) by running it.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType as TheirTimestampType,
};
use klamm_records::{
    BatchBuilder, BatchHeader, Codec, CompressionType, ControlRecord, NewRecord, Record, RecordSet,
    TimestampType, ValidationRules, end_transaction_marker, validate,
};
use proptest::collection::vec;
use proptest::prelude::*;

const THEIRS: [(Codec, Compression); 5] = [
    (Codec::None, Compression::None),
    (Codec::Gzip, Compression::Gzip),
    (Codec::Snappy, Compression::Snappy),
    (Codec::Lz4, Compression::Lz4),
    (Codec::Zstd, Compression::Zstd),
];

/// Written by `MemoryRecords` of Kafka 4.3.1's Java client.
const JAVA: [(Codec, &[u8]); 5] = [
    (Codec::None, include_bytes!("fixtures/java-none.batch")),
    (Codec::Gzip, include_bytes!("fixtures/java-gzip.batch")),
    (Codec::Snappy, include_bytes!("fixtures/java-snappy.batch")),
    (Codec::Lz4, include_bytes!("fixtures/java-lz4.batch")),
    (Codec::Zstd, include_bytes!("fixtures/java-zstd.batch")),
];
const JAVA_COMMIT_MARKER: &[u8] = include_bytes!("fixtures/java-commit-marker.batch");
const TIME: i64 = 1_700_000_000_000;

fn rules() -> ValidationRules {
    ValidationRules {
        max_message_bytes: 1_048_588,
        segment_bytes: 1 << 30,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        target: CompressionType::Producer,
        decompress_budget: 4 << 20,
        produce_version: 12,
        allow_control: false,
        allow_transactional: true,
    }
}

/// The batch that the Java program built.
fn as_java_built(codec: Codec) -> Bytes {
    let value = [b'v'; 200];
    let headers = [
        (&b"h"[..], Some(&b"1"[..])),
        (b"h", None),
        (b"", Some(b"x")),
    ];
    let records = [
        NewRecord {
            timestamp: TIME,
            key: Some(b"k0"),
            value: Some(&value),
            headers: &headers,
        },
        NewRecord {
            timestamp: TIME + 5,
            key: None,
            value: Some(b""),
            headers: &[],
        },
        NewRecord {
            timestamp: TIME - 3,
            key: Some(b""),
            value: None,
            headers: &[],
        },
    ];
    let mut builder = BatchBuilder::new()
        .compression(codec, None)
        .producer(4001, 7, 12)
        .transactional();
    for record in &records {
        builder.push(record).unwrap();
    }
    builder.build().unwrap()
}

fn open(batch: &Bytes) -> RecordSet {
    RecordSet::open(batch, &BatchHeader::parse(batch).unwrap(), 4 << 20).unwrap()
}

#[test]
fn what_java_wrote_is_accepted_as_it_is_and_reads_back() {
    for (codec, java) in JAVA {
        let java = Bytes::from_static(java);
        let validated = validate(java.clone(), &rules(), TIME).unwrap();
        assert_eq!(validated.bytes.as_ptr(), java.as_ptr(), "{codec}");
        assert_eq!(validated.header.codec(), Ok(codec));
        assert_eq!(
            open(&java).bytes(),
            open(&as_java_built(codec)).bytes(),
            "{codec}"
        );
    }
}

#[test]
fn what_we_write_is_what_java_wrote() {
    assert_eq!(as_java_built(Codec::None), JAVA[0].1);
    let marker = end_transaction_marker(4001, 7, true, 31, TIME).unwrap();
    assert_eq!(marker, JAVA_COMMIT_MARKER);
    let set = open(&marker);
    let read = ControlRecord::parse(&set.iter().next().unwrap().unwrap()).unwrap();
    assert_eq!(
        read,
        ControlRecord::EndTransaction {
            committed: true,
            coordinator_epoch: 31
        }
    );
    for (codec, java) in JAVA {
        let (ours, java) = (as_java_built(codec), BatchHeader::parse(java).unwrap());
        let ours = BatchHeader::parse(&ours).unwrap();
        let expected = BatchHeader {
            batch_length: java.batch_length,
            crc: java.crc,
            ..ours
        };
        assert_eq!(java, expected, "{codec}: all but length and CRC");
    }
}

fn any_theirs() -> impl Strategy<Value = TheirRecord> {
    let bytes = || vec(any::<u8>(), 0..4000).prop_map(|bytes| Bytes::from(bytes.repeat(9)));
    let headers = vec(("[a-z]{0,8}", prop::option::of(bytes())), 0..3);
    let nullable = (prop::option::of(bytes()), prop::option::of(bytes()));
    (0..4_000_000_000_000i64, nullable, headers).prop_map(|(timestamp, (key, value), headers)| {
        TheirRecord {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: 9,
            producer_epoch: 2,
            timestamp_type: TheirTimestampType::Creation,
            offset: 0,
            sequence: 0,
            timestamp,
            key,
            value,
            headers: headers
                .into_iter()
                .map(|(key, value)| (StrBytes::from_string(key), value))
                .collect::<IndexMap<_, _>>(),
        }
    })
}

fn any_batch() -> impl Strategy<Value = Vec<TheirRecord>> {
    vec(any_theirs(), 1..6).prop_map(|mut records| {
        for (offset, record) in (0i32..).zip(&mut records) {
            (record.offset, record.sequence) = (offset.into(), 30 + offset);
        }
        records
    })
}

fn assert_same(ours: &Record<'_>, header: &BatchHeader, theirs: &TheirRecord) {
    assert_eq!(ours.offset(header), theirs.offset);
    assert_eq!(ours.timestamp(header), theirs.timestamp);
    assert_eq!(ours.key, theirs.key.as_deref());
    assert_eq!(ours.value, theirs.value.as_deref());
    let headers: Vec<_> = theirs
        .headers
        .iter()
        .map(|(key, value)| (key.as_bytes(), value.as_deref()))
        .collect();
    assert_eq!(ours.headers.collect::<Vec<_>>(), headers);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_kafka_protocol_encodes_is_accepted_as_it_is(records in any_batch()) {
        for (codec, compression) in THEIRS {
            let mut encoded = BytesMut::new();
            let options = RecordEncodeOptions { version: 2, compression };
            RecordBatchEncoder::encode(&mut encoded, &records, &options).unwrap();
            let encoded = encoded.freeze();
            let validated = validate(encoded.clone(), &rules(), TIME).unwrap();
            prop_assert_eq!(validated.bytes.as_ptr(), encoded.as_ptr());
            prop_assert_eq!(validated.header.codec(), Ok(codec));
            let set = open(&encoded);
            prop_assert_eq!(set.iter().count(), records.len());
            for (ours, theirs) in set.iter().zip(&records) {
                assert_same(&ours.unwrap(), &validated.header, theirs);
            }
        }
    }

    #[test]
    fn what_we_build_kafka_protocol_decodes(records in any_batch()) {
        for (codec, compression) in THEIRS {
            let mut builder = BatchBuilder::new().compression(codec, None).producer(9, 2, 30);
            for record in &records {
                let headers: Vec<_> = record
                    .headers
                    .iter()
                    .map(|(key, value)| (key.as_bytes(), value.as_deref()))
                    .collect();
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                let timestamp = record.timestamp;
                builder.push(&NewRecord { timestamp, key, value, headers: &headers }).unwrap();
            }
            let decoded = RecordBatchDecoder::decode(&mut builder.build().unwrap()).unwrap();
            prop_assert_eq!(decoded.compression, compression);
            prop_assert_eq!(&decoded.records, &records);
        }
    }
}
