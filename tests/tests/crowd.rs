//! Many clients at once: memory stays below its bound, and what an idle connection costs.
//!
//! `cargo test --release -p klamm-tests --test crowd -- --ignored --nocapture`, for
//! `KLAMM_CROWD_SECONDS` (30): 2,000 producers, 500 consumers and 200 connections that mean no good.

#[path = "wire/batches.rs"]
#[expect(dead_code, reason = "shared with the tests of the wire")]
mod batches;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_client::{Client, ClientOptions, NewTopic};
use klamm_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use klamm_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use klamm_protocol::messages::{
    ApiVersionsRequest, BrokerId, FetchRequest, ProduceRequest, TopicName,
};
use klamm_protocol::{StrBytes, encode_request};
use klamm_tests::broker::Broker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PRODUCERS: usize = 2000;
const CONSUMERS: usize = 500;
const HOSTILE: usize = 200;
const PARTITIONS: i32 = 16;
const TOPIC: &str = "crowd";
/// What the node may take, in bytes.
const BOUND: u64 = 512 << 20;

/// What clients did.
#[derive(Default)]
struct Counts {
    produced: AtomicU64,
    fetched: AtomicU64,
    hostile: AtomicU64,
    stop: AtomicBool,
}

fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("it ended")?;
    let kib: u64 = line
        .split_whitespace()
        .next()
        .context("a number")?
        .parse()?;
    Ok(kib * 1024)
}

fn produce(partition: i32, bytes: usize) -> Result<Bytes> {
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batches::sized(bytes)));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_static_str(TOPIC)))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic]);
    Ok(encode_request(9, 1, Some("crowd"), &request)?)
}

fn fetch(offset: i64, wait_ms: i32) -> Result<Bytes> {
    let partitions = (0..PARTITIONS).map(|partition| {
        FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(1 << 20)
    });
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_static_str(TOPIC)))
        .with_partitions(partitions.collect());
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    Ok(encode_request(11, 1, Some("crowd"), &request)?)
}

async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<usize> {
    stream.write_all(request).await?;
    let len = usize::try_from(stream.read_i32().await?)?;
    let mut rest = len;
    let mut buffer = vec![0; 64 << 10];
    while rest > 0 {
        let room = rest.min(buffer.len());
        let read = stream.read(&mut buffer[..room]).await?;
        ensure!(read > 0, "closed inside an answer");
        rest -= read;
    }
    Ok(len)
}

async fn producer(address: String, number: usize, counts: Arc<Counts>) -> Result<()> {
    let mut stream = TcpStream::connect(&address).await?;
    let request = produce(i32::try_from(number)? % PARTITIONS, 1000)?;
    while !counts.stop.load(Ordering::Relaxed) {
        exchange(&mut stream, &request)
            .await
            .context("a producer")?;
        counts.produced.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn consumer(address: String, counts: Arc<Counts>) -> Result<()> {
    let mut stream = TcpStream::connect(&address).await?;
    // From the beginning, again and again: the most that a consumer can ask for.
    let request = fetch(0, 500)?;
    while !counts.stop.load(Ordering::Relaxed) {
        let bytes = exchange(&mut stream, &request)
            .await
            .context("a consumer")?;
        counts.fetched.fetch_add(bytes as u64, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// One connection after the other, each bad in its way, until the broker closes it.
async fn hostile(address: String, number: usize, counts: Arc<Counts>) -> Result<()> {
    let answers = fetch(0, 0)?;
    let large = produce(0, 900_000)?;
    let mut kind = number;
    while !counts.stop.load(Ordering::Relaxed) {
        kind += 1;
        let mut stream = TcpStream::connect(&address).await?;
        let bytes = match kind % 5 {
            // 99 MiB of 100 are promised, some come.
            0 => [&(100_i32 << 20).to_be_bytes()[..], &vec![0; 4 << 20]].concat(),
            // Much is asked for, nothing is read.
            1 => answers.repeat(200),
            2 => large.repeat(20),
            3 => vec![0xff; 4096],
            _ => vec![0, 0],
        };
        // It may close before it has read everything.
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&bytes)).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        counts.hostile.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn create_topic(address: &str) -> Result<()> {
    let client = Client::connect(address, ClientOptions::default()).await?;
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions: Some(PARTITIONS),
        replication_factor: Some(1),
        configs: Vec::new(),
    };
    for created in client.create_topics(&[topic], false).await? {
        created?;
    }
    Ok(())
}

/// Bytes per connection that has said who it is and then nothing.
async fn idle_cost(broker: &Broker) -> Result<u64> {
    let hello = encode_request(0, 1, Some("idle"), &ApiVersionsRequest::default())?;
    let before = resident(broker.pid())?;
    let mut idle = Vec::new();
    for _ in 0..PRODUCERS {
        let mut stream = TcpStream::connect(&broker.address).await?;
        exchange(&mut stream, &hello).await?;
        idle.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(resident(broker.pid())?.saturating_sub(before) / PRODUCERS as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute and most of a machine"]
async fn a_crowd_stays_below_512_mb() -> Result<()> {
    let seconds = std::env::var("KLAMM_CROWD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let dir = tempfile::tempdir()?;
    let broker = Broker::start(
        dir.path(),
        0,
        &["--set", "klamm.disk.reserve.bytes=33554432"],
    )?;
    create_topic(&broker.address).await?;
    let at_start = resident(broker.pid())?;
    let idle = idle_cost(&broker).await?;
    let counts = Arc::new(Counts::default());
    let address = || broker.address.clone();
    let mut tasks = Vec::new();
    for number in 0..PRODUCERS {
        tasks.push(tokio::spawn(producer(address(), number, counts.clone())));
    }
    for _ in 0..CONSUMERS {
        tasks.push(tokio::spawn(consumer(address(), counts.clone())));
    }
    let bad: Vec<_> = (0..HOSTILE)
        .map(|number| tokio::spawn(hostile(address(), number, counts.clone())))
        .collect();
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(30));
    let mut samples = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(200)).await;
        samples.push(resident(broker.pid())?);
    }
    counts.stop.store(true, Ordering::Relaxed);
    for task in bad {
        task.abort();
    }
    let mut broken = 0;
    for task in tasks {
        broken += usize::from(
            tokio::time::timeout(Duration::from_secs(30), task)
                .await??
                .is_err(),
        );
    }
    let most = samples.iter().max().copied().unwrap_or_default();
    let last = samples.last().copied().unwrap_or_default();
    eprintln!(
        "idle connection {} bytes; resident at start {} MiB, at most {} MiB, at the end {} MiB; \
         {} batches produced, {} MiB fetched, {} hostile connections, {broken} clients that behave cut off",
        idle,
        at_start >> 20,
        most >> 20,
        last >> 20,
        counts.produced.load(Ordering::Relaxed),
        counts.fetched.load(Ordering::Relaxed) >> 20,
        counts.hostile.load(Ordering::Relaxed),
    );
    ensure!(broken == 0, "{broken} clients that behave were cut off");
    ensure!(most < BOUND, "{most} bytes resident");
    Ok(())
}
