//! End-to-end latency under an open load: records are due at a constant rate whatever the broker
//! does, and each is timed from when it was due until a consumer has it. So a broker that stalls
//! pays for every record that had to wait, sent or not (no coordinated omission).
//!
//! ```text
//! sender ---- <= 5 requests unanswered ----> broker ----> consumer, one long poll at a time
//!    ^----------- reader of answers ------------'
//! ```
//!
//! As in a real producer with linger 0, what is due goes into the next request as one batch of one
//! partition, the next request to the next partition whose leader has room. Each leader has connections
//! and a consumer of its own. Threads and blocking sockets: a timer of the
//! runtime is a millisecond coarse.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{Bar, Held, held, sync};
use crate::librdkafka::{self, Run};
use crate::measure::{Latencies, Measured, Unit};
use crate::peer::{Home, Kind, Peer};
use crate::setup;
use crate::wire::{Wire, fetched};

/// As Java's `max.in.flight.requests.per.connection`.
const IN_FLIGHT: usize = 5;
/// Records of one request, at most: about what fits into Java's 1 MiB.
const BATCH: u64 = 1000;
/// How long the last record may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Topic of the backlog.
const BACKLOG: &str = "backlog";
/// Bytes of its records.
const BACKLOG_RECORD: usize = 1024;

/// Arguments of `latency`.
#[derive(Args, Clone, Debug)]
pub struct Latency {
    /// Records due in a second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Bytes of a record's value, 8 at least
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(8..))]
    size: u32,
    /// Partitions
    #[arg(long, default_value_t = 12)]
    partitions: i32,
    /// Seconds that are measured
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Seconds of the same load before that
    #[arg(long, default_value_t = 30)]
    warm_up: u64,
    /// MiB of another topic that a second consumer reads, from the disk, while it is measured
    #[arg(long, default_value_t = 0)]
    backlog: u64,
}

/// What the threads share.
struct Shared {
    origin: Instant,
    /// By leader.
    unanswered: Mutex<Vec<usize>>,
    answered: Condvar,
    received: AtomicU64,
    failed: AtomicBool,
}

/// Who leads what: the leaders' addresses, and for each partition the place of its leader among them.
struct Leaders {
    addresses: Vec<String>,
    of: Vec<usize>,
}

impl Leaders {
    fn new(by_partition: Vec<String>) -> Leaders {
        let mut addresses = by_partition.clone();
        addresses.sort();
        addresses.dedup();
        let place = |address: &String| addresses.binary_search(address).unwrap_or_default();
        Leaders {
            of: by_partition.iter().map(place).collect(),
            addresses,
        }
    }

    /// Where reading a leader's partitions begins.
    fn offsets(&self, leader: usize) -> BTreeMap<i32, i64> {
        let led = (0..).zip(&self.of).filter(|(_, of)| **of == leader);
        led.map(|(partition, _)| (partition, 0)).collect()
    }
}

impl Latency {
    pub(super) fn summary(&self) -> String {
        let beside = match self.backlog {
            0 => String::new(),
            mib => format!(" beside the drain of a cold backlog of {mib} MiB"),
        };
        format!(
            "{}/s of {} B are due, {} partitions{beside}, for {} s after {} s; due to consumed",
            self.rate, self.size, self.partitions, self.seconds, self.warm_up
        )
    }

    pub(super) fn bars(&self) -> Vec<Held> {
        let at_most = |name, kind, bar| held(name, kind, Bar::AtMost(bar));
        if self.backlog > 0 {
            return vec![
                at_most("e2e_p99", Kind::Kafka, 1.0 / 3.0),
                held("drain_megabytes_per_second", Kind::Kafka, Bar::AtLeast(1.0)),
                held("missed", Kind::Klamm, Bar::Zero),
            ];
        }
        let mut bars = vec![
            held("missed", Kind::Klamm, Bar::Zero),
            at_most("broker_cpu_seconds", Kind::Kafka, 1.0 / 3.0),
            at_most("e2e_p50", Kind::Kafka, 1.0),
        ];
        if self.rate < 5000 {
            bars.extend([
                at_most("e2e_p99", Kind::Kafka, 1.0),
                at_most("e2e_p50", Kind::KafkaFlush, 0.05),
                at_most("e2e_p99", Kind::KafkaFlush, 0.05),
            ]);
        } else {
            bars.extend([
                at_most("e2e_p99", Kind::Kafka, 0.5),
                at_most("e2e_p999", Kind::Kafka, 0.5),
            ]);
        }
        bars
    }

    pub(super) fn cluster_bars(&self) -> Vec<Held> {
        let at_most = |name, bar| held(name, Kind::Kafka, Bar::AtMost(bar));
        vec![
            held("missed", Kind::Klamm, Bar::Zero),
            at_most("broker_cpu_seconds", 1.0 / 3.0),
            at_most("e2e_p50", 0.5),
            at_most("e2e_p99", 1.0 / 3.0),
        ]
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        setup::create_topic(&peer.address(), self.partitions).await?;
        if self.backlog > 0 {
            self.preload(home, &peer).await?;
        }
        let leaders = Leaders::new(setup::settled_leaders(&peer.address()).await?);
        let measured = tokio::task::block_in_place(|| self.load(home, &peer, &leaders))?;
        peer.stop().await?;
        Ok(measured)
    }

    fn backlog_records(&self) -> u64 {
        self.backlog * 1024 * 1024 / BACKLOG_RECORD as u64
    }

    async fn preload(&self, home: &Home, peer: &Peer<'_>) -> Result<()> {
        let client = setup::client(&peer.address()).await?;
        setup::create(&client, BACKLOG, self.partitions).await?;
        let arguments = librdkafka::produce(
            &peer.address(),
            BACKLOG,
            (self.partitions, BACKLOG_RECORD),
            (0, 0, self.backlog_records()),
            &[],
        );
        let load = &home.programs().load;
        tokio::task::block_in_place(|| Run::of(load, &arguments, peer))?;
        Ok(())
    }

    fn load(&self, home: &Home, peer: &Peer<'_>, leaders: &Leaders) -> Result<Vec<Measured>> {
        let address = peer.address();
        for (index, leader) in leaders.addresses.iter().enumerate() {
            await_partitions(leader, leaders.offsets(index))?;
        }
        let to = leaders.addresses.iter();
        let sending = to
            .map(|leader| Wire::connect(leader))
            .collect::<Result<Vec<Wire>>>()?;
        let answers = sending.iter().map(|wire| wire.socket().try_clone());
        let answers = answers.collect::<std::io::Result<Vec<TcpStream>>>()?;
        let shared = Shared {
            origin: Instant::now() + Duration::from_millis(200),
            unanswered: Mutex::new(vec![0; sending.len()]),
            answered: Condvar::new(),
            received: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        };
        let shared = &shared;
        let (latencies, before, after, drained) =
            std::thread::scope(|scope| {
                let mut consumers = Vec::new();
                let mut readers = Vec::new();
                for (index, socket) in answers.into_iter().enumerate() {
                    consumers.push(scope.spawn(move || {
                        shared.noting_failure(|| self.consume(leaders, index, shared))
                    }));
                    readers.push(scope.spawn(move || {
                        shared.noting_failure(|| read_answers(socket, index, shared))
                    }));
                }
                let sender =
                    scope.spawn(|| shared.noting_failure(|| self.send(sending, leaders, shared)));
                sleep_until(shared.origin + Duration::from_secs(self.warm_up));
                let before = peer.usage()?;
                let drained = match self.backlog {
                    0 => None,
                    _ => {
                        crate::scenarios::consume::drop_page_cache()?;
                        let arguments = librdkafka::consume(
                            &address,
                            BACKLOG,
                            self.partitions,
                            (0, 0, self.backlog_records()),
                        );
                        Some(Run::of(&home.programs().load, &arguments, peer)?)
                    }
                };
                sleep_until(shared.origin + Duration::from_secs(self.warm_up + self.seconds));
                let after = peer.usage()?;
                let sent = sender.join().expect("the sender does not panic");
                let mut latencies = Latencies::default();
                for consumer in consumers {
                    latencies.merge(consumer.join().expect("a consumer does not panic")?);
                }
                for reader in readers {
                    reader.join().expect("a reader does not panic")?;
                }
                // Last: it also fails when another did, and that one knows why.
                sent?;
                anyhow::Ok((latencies, before, after, drained))
            })?;
        Ok(self.values(latencies, drained.as_ref(), after.since(&before)))
    }

    fn values(
        &self,
        mut latencies: Latencies,
        drained: Option<&Run>,
        usage: Vec<Measured>,
    ) -> Vec<Measured> {
        let missed = (self.rate * self.seconds) as f64 - latencies.count() as f64;
        let mut measured = vec![
            Measured::milliseconds("e2e_p50", latencies.percentile(0.5)),
            Measured::milliseconds("e2e_p99", latencies.percentile(0.99)),
            Measured::milliseconds("e2e_p999", latencies.percentile(0.999)),
            Measured::milliseconds("e2e_max", latencies.percentile(1.0)),
            Measured::new("missed", Unit::Count, missed),
        ];
        if let Some(run) = drained {
            let [_, rate] = run.rates();
            measured.push(Measured::new(
                "drain_megabytes_per_second",
                rate.unit,
                rate.value,
            ));
        }
        measured.extend(usage);
        measured
    }

    fn records(&self) -> u64 {
        self.rate * (self.warm_up + self.seconds)
    }

    fn due(&self, record: u64) -> Duration {
        Duration::from_nanos(record * 1_000_000_000 / self.rate)
    }

    fn send(&self, mut wires: Vec<Wire>, leaders: &Leaders, shared: &Shared) -> Result<()> {
        let size = usize::try_from(self.size)?;
        let (mut sent, mut turn) = (0, 0);
        for request in 0_i32.. {
            if sent == self.records() {
                break;
            }
            sleep_until(shared.origin + self.due(sent));
            let partition = shared.wait_for_room(turn, &leaders.of);
            turn = partition + 1;
            ensure!(
                !shared.failed.load(Ordering::Relaxed),
                "another thread failed"
            );
            let now = shared.origin.elapsed();
            let first = sent;
            let mut values = Vec::new();
            while sent < self.records() && sent - first < BATCH && self.due(sent) <= now {
                let mut value = vec![b'x'; size];
                let stamp = value.first_chunk_mut::<8>();
                *stamp.context("a record has room for its number")? = sent.to_be_bytes();
                values.push(value);
                sent += 1;
            }
            let batch = setup::batch_of(&values)?;
            let frame = setup::produce_frame(request, [(i32::try_from(partition)?, batch)])?;
            let leader = leaders.of.get(partition).copied().unwrap_or_default();
            let wire = wires.get_mut(leader).context("a leader's connection")?;
            wire.send(&frame)?;
        }
        wires.iter().try_for_each(Wire::finish_writing)
    }

    /// Reads what a leader has until all records are there; the times of those due in the measured time.
    fn consume(&self, leaders: &Leaders, leader: usize, shared: &Shared) -> Result<Latencies> {
        let address = leaders.addresses.get(leader).context("a leader")?;
        let mut wire = Wire::connect(address)?;
        let mut offsets = leaders.offsets(leader);
        let mut latencies = Latencies::default();
        let end = self.due(self.records()) + PATIENCE;
        while shared.received.load(Ordering::Relaxed) < self.records()
            && shared.origin.elapsed() < end
        {
            ensure!(
                !shared.failed.load(Ordering::Relaxed),
                "another thread failed"
            );
            let answer = wire.fetch(&offsets)?;
            let now = shared.origin.elapsed();
            fetched(&answer, &mut offsets, |value| {
                let stamp = value
                    .first_chunk::<8>()
                    .context("a record without number")?;
                let record = u64::from_be_bytes(*stamp);
                shared.received.fetch_add(1, Ordering::Relaxed);
                if record >= self.rate * self.warm_up {
                    latencies.record(now.saturating_sub(self.due(record)));
                }
                Ok(())
            })?;
        }
        Ok(latencies)
    }
}

impl Shared {
    /// Waits until the leader of a partition may be sent one more request, and counts it; the first such partition
    /// from `turn` on.
    fn wait_for_room(&self, turn: usize, leader_of: &[usize]) -> usize {
        let mut unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            for ahead in 0..leader_of.len() {
                let partition = (turn + ahead) % leader_of.len();
                let leader = leader_of.get(partition).copied().unwrap_or_default();
                let count = unanswered.get_mut(leader);
                if let Some(count) = count
                    && (*count < IN_FLIGHT || self.failed.load(Ordering::Relaxed))
                {
                    *count += 1;
                    return partition;
                }
            }
            let waited = self.answered.wait(unanswered);
            unanswered = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells the other threads when one has failed, so that none waits for ever.
    fn noting_failure<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = work();
        if done.is_err() {
            self.failed.store(true, Ordering::Relaxed);
            self.answered.notify_all();
        }
        done
    }
}

/// Kafka names a partition's leader some time before that one serves it.
fn await_partitions(leader: &str, mut offsets: BTreeMap<i32, i64>) -> Result<()> {
    let mut wire = Wire::connect(leader)?;
    let until = Instant::now() + PATIENCE;
    loop {
        let served = fetched(&wire.fetch(&offsets)?, &mut offsets, |_| Ok(()));
        if served.is_ok() || Instant::now() > until {
            return served;
        }
    }
}

fn read_answers(socket: TcpStream, leader: usize, shared: &Shared) -> Result<()> {
    let mut wire = Wire::over(socket);
    while let Some(answer) = wire.receive()? {
        sync::acknowledged(answer)?;
        let mut unanswered = shared
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = unanswered.get_mut(leader) {
            *count -= 1;
        }
        drop(unanswered);
        shared.answered.notify_one();
    }
    Ok(())
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}
