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
//! partition, the next request to the next partition. Threads and blocking sockets: a timer of the
//! runtime is a millisecond coarse.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
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
    unanswered: Mutex<usize>,
    answered: Condvar,
    failed: AtomicBool,
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

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        setup::create_topic(&peer.address(), self.partitions).await?;
        if self.backlog > 0 {
            self.preload(home, &peer).await?;
        }
        let measured = tokio::task::block_in_place(|| self.load(home, &peer))?;
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

    fn load(&self, home: &Home, peer: &Peer<'_>) -> Result<Vec<Measured>> {
        let address = peer.address();
        self.await_partitions(&address)?;
        let sending = Wire::connect(&address)?;
        let answers = sending.socket().try_clone()?;
        let shared = Shared {
            origin: Instant::now() + Duration::from_millis(200),
            unanswered: Mutex::new(0),
            answered: Condvar::new(),
            failed: AtomicBool::new(false),
        };
        let (latencies, before, after, drained) = std::thread::scope(|scope| {
            let consumer =
                scope.spawn(|| self.noting_failure(&shared, || self.consume(&address, &shared)));
            let reader =
                scope.spawn(|| self.noting_failure(&shared, || read_answers(answers, &shared)));
            let sender =
                scope.spawn(|| self.noting_failure(&shared, || self.send(sending, &shared)));
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
            let latencies = consumer.join().expect("the consumer does not panic")?;
            reader.join().expect("the reader does not panic")?;
            // Last: it also fails when another did, and that one knows why.
            sent?;
            anyhow::Ok((latencies, before, after, drained))
        })?;
        Ok(self.values(latencies, drained.as_ref(), after.since(&before)))
    }

    /// Kafka names a partition's leader some time before that one serves it.
    fn await_partitions(&self, address: &str) -> Result<()> {
        let mut offsets = vec![0; usize::try_from(self.partitions)?];
        let mut wire = Wire::connect(address)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let served = fetched(&wire.fetch(&offsets)?, &mut offsets, |_| Ok(()));
            if served.is_ok() || Instant::now() > until {
                return served;
            }
        }
    }

    fn values(
        &self,
        mut latencies: Latencies,
        drained: Option<&Run>,
        usage: [Measured; 3],
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

    /// Tells the other threads when one has failed, so that none waits for ever.
    fn noting_failure<T>(&self, shared: &Shared, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = work();
        if done.is_err() {
            shared.failed.store(true, Ordering::Relaxed);
            shared.answered.notify_all();
        }
        done
    }

    fn records(&self) -> u64 {
        self.rate * (self.warm_up + self.seconds)
    }

    fn due(&self, record: u64) -> Duration {
        Duration::from_nanos(record * 1_000_000_000 / self.rate)
    }

    fn send(&self, mut wire: Wire, shared: &Shared) -> Result<()> {
        let size = usize::try_from(self.size)?;
        let mut sent = 0;
        for request in 0_i32.. {
            if sent == self.records() {
                break;
            }
            sleep_until(shared.origin + self.due(sent));
            shared.wait_for_room();
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
            wire.send(&setup::produce_frame(
                request,
                [(request % self.partitions, batch)],
            )?)?;
        }
        wire.finish_writing()
    }

    /// Reads until all records are there; the times of those due in the measured time.
    fn consume(&self, address: &str, shared: &Shared) -> Result<Latencies> {
        let mut wire = Wire::connect(address)?;
        let mut offsets = vec![0; usize::try_from(self.partitions)?];
        let mut latencies = Latencies::default();
        let mut received = 0;
        let end = self.due(self.records()) + PATIENCE;
        while received < self.records() && shared.origin.elapsed() < end {
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
                received += 1;
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
    /// Waits until one more request may be sent, and counts it.
    fn wait_for_room(&self) {
        let mut unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while *unanswered >= IN_FLIGHT && !self.failed.load(Ordering::Relaxed) {
            let waited = self.answered.wait(unanswered);
            unanswered = waited.unwrap_or_else(PoisonError::into_inner);
        }
        *unanswered += 1;
    }
}

fn read_answers(socket: TcpStream, shared: &Shared) -> Result<()> {
    let mut wire = Wire::over(socket);
    while let Some(answer) = wire.receive()? {
        sync::acknowledged(answer)?;
        *shared
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) -= 1;
        shared.answered.notify_one();
    }
    Ok(())
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}
