//! What single steps of the hot paths cost: codec, batch validation, journal append and group
//! commit, segment read, Fetch encoding. Run by `cargo bench -p klamm-benches`; arguments after `--`
//! are divan's (`--sample-count`, a filter).

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use klamm_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use klamm_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use klamm_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use klamm_protocol::{
    ErrorCode, FetchPartition, FetchResponse, RequestHead, StrBytes, decode, encode_request,
    encode_response, next_frame,
};
use klamm_records::{
    BatchBuilder, BatchHeader, Codec, CompressionType, EntryId, GroupId, NewRecord, TimestampType,
    TopicId, ValidationRules, batch_crc_ok, validate,
};
use klamm_storage::{
    Batch, Entry, GroupLog, LogSettings, Payload, RealDisk, Store, StoreOptions, SystemClock,
};

const PRODUCE: i16 = 9;
const FETCH: i16 = 12;
const NOW: i64 = 1_700_000_000_000;

fn main() {
    divan::main();
}

/// A batch of `count` records with values of `size` bytes that codecs can do something with.
fn batch(count: usize, size: usize, codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new().compression(codec, None);
    let words = b"one record of many in a batch of a topic with partitions ";
    for n in 0..count {
        let value: Vec<u8> = words
            .iter()
            .copied()
            .cycle()
            .skip(n % 57)
            .take(size)
            .collect();
        builder
            .push(&NewRecord {
                timestamp: NOW,
                value: Some(&value),
                ..NewRecord::default()
            })
            .expect("the batch is small");
    }
    builder.build().expect("the batch is small")
}

fn rules() -> ValidationRules {
    ValidationRules {
        max_message_bytes: 1 << 20,
        segment_bytes: 1 << 30,
        compacted: false,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        target: CompressionType::Producer,
        decompress_budget: 64 << 20,
        produce_version: PRODUCE,
        allow_control: false,
        allow_transactional: false,
    }
}

fn produce_request(partitions: i32, batch: &Bytes) -> Bytes {
    let parts = (0..partitions).map(|index| {
        PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(batch.clone()))
    });
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_static_str("bench")))
        .with_partition_data(parts.collect());
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic]);
    encode_request(PRODUCE, 1, Some("bench"), &request).expect("the version is served")
}

/// Frame, head and body of a Produce request with so many partitions; batches are not looked into.
#[divan::bench(args = [1, 12, 100])]
fn decode_produce(bencher: Bencher<'_, '_>, partitions: i32) {
    let frame = produce_request(partitions, &batch(1, 100, Codec::None));
    bencher
        .with_inputs(|| BytesMut::from(&frame[..]))
        .bench_values(|mut input| {
            let frame = next_frame(&mut input, 1 << 20).expect("a positive length");
            let (head, body) =
                RequestHead::parse(frame.expect("a whole frame")).expect("a request");
            decode::<ProduceRequest>(body, head.version).expect("a Produce request")
        });
}

/// The answer to it.
#[divan::bench(args = [1, 12, 100])]
fn encode_produce_response(bencher: Bencher<'_, '_>, partitions: i32) {
    let parts = (0..partitions).map(|index| PartitionProduceResponse::default().with_index(index));
    let topic = TopicProduceResponse::default()
        .with_name(TopicName(StrBytes::from_static_str("bench")))
        .with_partition_responses(parts.collect());
    let response = ProduceResponse::default().with_responses(vec![topic]);
    bencher.bench(|| encode_response(PRODUCE, 1, &response).expect("the version is served"));
}

/// Records and bytes of a value: batches of about 16 KiB and 1 MiB.
const BATCHES: [(usize, usize); 4] = [(1, 100), (150, 100), (9_000, 100), (1_000, 1_000)];

#[divan::bench(args = BATCHES)]
fn crc(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    let batch = batch(count, size, Codec::None);
    bencher
        .counter(BytesCount::new(batch.len()))
        .bench(|| assert!(batch_crc_ok(&batch)));
}

#[divan::bench(args = BATCHES)]
fn validate_plain(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    validated(bencher, count, size, Codec::None);
}

#[divan::bench(args = BATCHES)]
fn validate_lz4(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    validated(bencher, count, size, Codec::Lz4);
}

fn validated(bencher: Bencher<'_, '_>, count: usize, size: usize, codec: Codec) {
    let (batch, rules) = (batch(count, size, codec), rules());
    bencher
        .counter(BytesCount::new(count * size))
        .counter(ItemsCount::new(count))
        .bench(|| validate(batch.clone(), &rules, NOW).expect("a valid batch"));
}

fn store(dir: &Path) -> Store {
    let opened = Store::open(
        StoreOptions::new(dir),
        Arc::new(RealDisk),
        Arc::new(SystemClock::default()),
    );
    opened.expect("an empty folder can be opened").0
}

fn logs(store: &Store, count: u64) -> Vec<GroupLog> {
    let create = |group| {
        let dir = format!("group-{group}");
        store.create_group(GroupId(group), &dir, LogSettings::default())
    };
    let groups = (1..=count).map(create);
    groups.map(|log| log.expect("a new group")).collect()
}

fn entry(index: u64, bytes: &Bytes) -> Entry {
    let header = BatchHeader::parse(bytes).expect("a batch");
    Entry {
        id: EntryId { term: 1, index },
        payload: Payload::Batch(Batch {
            header,
            bytes: bytes.clone(),
        }),
    }
}

/// So many logs append one batch of 100 B each at once, and all wait: one sync for all of them.
#[divan::bench(args = [1, 10, 100, 1000])]
fn group_commit(bencher: Bencher<'_, '_>, logs_at_once: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = store(dir.path());
    let logs = logs(&store, logs_at_once);
    let batch = batch(1, 100, Codec::None);
    let mut index = 0;
    bencher
        .counter(ItemsCount::new(logs_at_once))
        .bench_local(|| {
            index += 1;
            append(&logs, index, &batch);
        });
}

/// One log appends batches of about 1 MiB.
#[divan::bench]
fn append_1_mib(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = store(dir.path());
    let logs = logs(&store, 1);
    let batch = batch(9_000, 100, Codec::None);
    let mut index = 0;
    bencher
        .counter(BytesCount::new(batch.len()))
        .bench_local(|| {
            index += 1;
            append(&logs, index, &batch);
        });
}

/// Appends to each log and waits until all of it is durable.
fn append(logs: &[GroupLog], index: u64, batch: &Bytes) {
    let (sender, durable) = channel();
    for log in logs {
        let sender = sender.clone();
        let done = Box::new(move |result| sender.send(result).unwrap_or_default());
        log.append(vec![entry(index, batch)], done)
            .expect("the store is healthy");
    }
    for _ in logs {
        let result = durable.recv().expect("every append completes");
        result.expect("the store is healthy");
    }
}

/// Reads up to so many bytes from the middle of a segment, in the page cache.
#[divan::bench(args = [16 << 10, 1 << 20])]
fn segment_read(bencher: Bencher<'_, '_>, max_bytes: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = store(dir.path());
    let logs = logs(&store, 1);
    let batch = batch(150, 100, Codec::None);
    for index in 1..=2_000 {
        append(&logs, index, &batch);
    }
    let Some(log) = logs.first() else { return };
    // Behind what is kept in memory for consumers at the tail.
    let (from, end) = (150 * 400, log.end_offset());
    bencher
        .counter(BytesCount::new(max_bytes))
        .bench(|| log.read(from, end, max_bytes, true).expect("a sound log"));
}

/// The chunks of a response with so many partitions of 16 KiB.
#[divan::bench(args = [1, 12, 100])]
fn encode_fetch_response(bencher: Bencher<'_, '_>, partitions: i32) {
    let records = batch(150, 100, Codec::None);
    let name = StrBytes::from_static_str("bench");
    bencher
        .with_inputs(|| {
            let mut response = FetchResponse::default();
            for index in 0..partitions {
                let mut partition = FetchPartition::of_error(index, ErrorCode::NONE);
                partition.records = vec![records.clone()];
                response.push(&name, TopicId::ZERO, partition);
            }
            response
        })
        .bench_values(|response| response.encode(FETCH, 1).expect("the version is served"));
}
