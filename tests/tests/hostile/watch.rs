//! What must be true after every line, whatever it was.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use klamm_protocol::messages::ProduceRequest;
use klamm_protocol::{decode_response, encode_request};
use std::sync::Mutex;

use crate::Case;
use crate::batches::batch;
use crate::calls::{Topic, create, fetch_partition, fetch_request, produce_request};
use crate::rig::{CANARY, Target, connect};

/// A p99 below this is nobody's trouble: a shared machine has such moments by itself.
const READ_FLOOR: Duration = Duration::from_millis(15);
/// Likewise for writes, which wait for the disk.
const WRITE_FLOOR: Duration = Duration::from_millis(80);
/// Samples that make a p99.
const SAMPLES: usize = 40;
/// Memory that comes and goes by itself: the probes' own writes, the allocator's arenas.
const MEMORY_NOISE: u64 = 16 << 20;
/// Memory of a connection before anything is known of its client.
const PER_CONNECTION: u64 = 64 << 10;
/// Memory at the worst moment, beyond what the bytes received account for.
const PEAK: u64 = 96 << 20;

#[derive(Default)]
struct Latencies {
    reads: Vec<(Instant, Duration)>,
    writes: Vec<(Instant, Duration)>,
    failure: Option<String>,
    peak: u64,
}

/// A client that behaves, and an eye on the process.
pub(crate) struct Watch {
    target: &'static Target,
    seen: Arc<Mutex<Latencies>>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    normal: Mutex<(Instant, Duration, Duration)>,
    resident_at_start: u64,
}

/// The state before a line.
pub(crate) struct Before {
    at: Instant,
    resident: u64,
    counters: BTreeMap<String, f64>,
    sent: (u64, u64),
}

/// One request and its answer on a socket of the probe.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(request)?;
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

/// Asks again and again and notes how long it took.
fn probe(
    address: &str,
    request: &dyn Fn() -> Bytes,
    check: &dyn Fn(Vec<u8>) -> Result<()>,
    pause: Duration,
    stop: &AtomicBool,
    note: &dyn Fn(Instant, Duration),
) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    while !stop.load(Ordering::Relaxed) {
        let request = request();
        let began = Instant::now();
        let answer = exchange(&mut stream, &request).context("the probe was not answered")?;
        note(began, began.elapsed());
        check(answer)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

fn p99(samples: &[(Instant, Duration)], since: Instant) -> Duration {
    let mut taken: Vec<Duration> = samples
        .iter()
        .filter(|(began, took)| *began + *took >= since)
        .map(|(_, took)| *took)
        .collect();
    taken.sort_unstable();
    let at = (taken.len() * 99).div_ceil(100).saturating_sub(1);
    taken.get(at).copied().unwrap_or_default()
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process ended")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("the process ended")?;
    let kib: u64 = line
        .split_whitespace()
        .next()
        .context("a number")?
        .parse()?;
    Ok(kib * 1024)
}

impl Watch {
    pub(crate) async fn start(target: &'static Target) -> Result<Watch> {
        let connection = connect().await?;
        let topic = create(&connection, 1, &[("retention.bytes", "4000000")]).await?;
        let seen = Arc::new(Mutex::new(Latencies::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = vec![
            reader(target, topic.clone(), seen.clone(), stop.clone()),
            writer(target, topic, seen.clone(), stop.clone()),
            sampler(target, seen.clone(), stop.clone()),
        ];
        let watch = Watch {
            target,
            seen,
            stop,
            threads,
            normal: Mutex::new((Instant::now(), Duration::ZERO, Duration::ZERO)),
            resident_at_start: resident(target.broker.pid())?,
        };
        watch.calm().await?;
        Ok(watch)
    }

    /// Measures what is normal, while nothing hostile happens.
    pub(crate) async fn calm(&self) -> Result<()> {
        let since = Instant::now();
        self.samples(since, 2 * SAMPLES).await?;
        let seen = self.seen.lock().expect("no panic holds it");
        *self.normal.lock().expect("no panic holds it") =
            (since, p99(&seen.reads, since), p99(&seen.writes, since));
        Ok(())
    }

    /// Waits until the probes have so many answers since a moment.
    async fn samples(&self, since: Instant, count: usize) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            {
                let seen = self.seen.lock().expect("no panic holds it");
                if let Some(failure) = &seen.failure {
                    bail!("a client that behaves was not served: {failure}");
                }
                let reads = seen.reads.iter().filter(|(at, _)| *at >= since).count();
                let writes = seen.writes.iter().filter(|(at, _)| *at >= since).count();
                if reads >= count && writes >= count / 8 {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < until, "the probes are not answered");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn before(&self) -> Result<Before> {
        let resident = resident(self.target.broker.pid())?;
        self.seen.lock().expect("no panic holds it").peak = resident;
        Ok(Before {
            at: Instant::now(),
            resident,
            counters: self.counters()?,
            sent: self.target.sent(),
        })
    }

    fn counters(&self) -> Result<BTreeMap<String, f64>> {
        let (_, text) = self.target.broker.get("/metrics")?;
        let parse = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Ok(text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(parse)
            .collect())
    }

    /// Whether everybody else is well. The inner error is a disturbance, which may be the
    /// machine's; the outer one is ours.
    pub(crate) async fn after(&self, before: &Before, case: &Case) -> Result<Result<(), String>> {
        self.samples(before.at, SAMPLES).await?;
        self.counted(before, case.expect.counters()).await?;
        self.check_log()?;
        if let Err(grown) = self.memory(before, case).await? {
            return Ok(Err(grown));
        }
        let seen = self.seen.lock().expect("no panic holds it");
        let normal = *self.normal.lock().expect("no panic holds it");
        let (reads, writes) = (p99(&seen.reads, before.at), p99(&seen.writes, before.at));
        if reads > (normal.1 * 2).max(READ_FLOOR) {
            return Ok(Err(format!(
                "p99 of reads {reads:?}, normally {:?}",
                normal.1
            )));
        }
        if writes > (normal.2 * 2).max(WRITE_FLOOR) {
            return Ok(Err(format!(
                "p99 of writes {writes:?}, normally {:?}",
                normal.2
            )));
        }
        Ok(Ok(()))
    }

    /// A counter moves, soon: a connection is counted as ended after its client has seen it end. None panicked.
    async fn counted(&self, before: &Before, counters: &[&str]) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let now = self.counters()?;
            let grown = |name: &str| -> f64 {
                let of_name = now.iter().filter(|(series, _)| series.starts_with(name));
                of_name
                    .map(|(series, value)| value - before.counters.get(series).unwrap_or(&0.0))
                    .sum()
            };
            ensure!(
                grown("klamm_connection_panics_total") == 0.0,
                "a connection panicked"
            );
            if counters.iter().any(|name| grown(name) > 0.0) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "none of {counters:?} moved");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Memory is back soon, and was never far away.
    async fn memory(&self, before: &Before, case: &Case) -> Result<Result<(), String>> {
        let (sent, connections) = self.target.sent();
        let (received, connections) = (sent - before.sent.0, connections - before.sent.1);
        let bound = MEMORY_NOISE + case.costs + 2 * received + PER_CONNECTION * connections;
        let peak = self.seen.lock().expect("no panic holds it").peak;
        let mib = |bytes: u64| bytes >> 20;
        if peak > before.resident + bound + PEAK + case.peaks {
            return Ok(Err(format!(
                "memory peaked {} MiB above before, {} MiB were received",
                mib(peak - before.resident),
                mib(received)
            )));
        }
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let now = resident(self.target.broker.pid())?;
            if now <= before.resident + bound {
                return Ok(Ok(()));
            }
            if Instant::now() > until {
                return Ok(Err(format!(
                    "memory stays {} MiB above before, {} MiB were received",
                    mib(now - before.resident),
                    mib(received)
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Nothing of a payload, no panic, no control character is in the log.
    fn check_log(&self) -> Result<()> {
        let log = std::fs::read(&self.target.log)?;
        let contains = |word: &[u8]| log.windows(word.len()).any(|window| window == word);
        ensure!(!contains(CANARY.as_bytes()), "a payload is in the log");
        ensure!(!contains(b"panicked"), "a panic is in the log");
        ensure!(!contains(b"\x00"), "raw bytes are in the log");
        Ok(())
    }

    /// Ends the probes; the memory of the whole group must be back too.
    pub(crate) async fn end(self) -> Result<()> {
        let bound = self.resident_at_start + (160 << 20);
        let until = Instant::now() + Duration::from_secs(15);
        let mut now = resident(self.target.broker.pid())?;
        // The allocator gives back what is free while the probes go on.
        while now > bound && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(200)).await;
            now = resident(self.target.broker.pid())?;
        }
        self.stop.store(true, Ordering::Relaxed);
        eprintln!(
            "memory {} MiB, {} MiB at the start",
            now >> 20,
            self.resident_at_start >> 20
        );
        for thread in self.threads {
            ensure!(thread.join().is_ok(), "a probe panicked");
        }
        ensure!(
            now <= bound,
            "memory grew from {} to {} MiB",
            self.resident_at_start >> 20,
            now >> 20
        );
        Ok(())
    }
}

type Seen = Arc<Mutex<Latencies>>;

fn reader(
    target: &'static Target,
    topic: Topic,
    seen: Seen,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let request = fetch_request(
            &topic,
            vec![fetch_partition(0, 0).with_partition_max_bytes(1)],
        );
        let request = encode_request(11, 1, Some("probe"), &request).expect("encodes");
        let note = |at, took| {
            let mut seen = seen.lock().expect("no panic holds it");
            seen.reads.push((at, took));
        };
        let done = probe(
            &target.broker.address,
            &|| request.clone(),
            &|_| Ok(()),
            Duration::from_millis(1),
            &stop,
            &note,
        );
        if let Err(error) = done {
            seen.lock().expect("no panic holds it").failure = Some(format!("{error:#}"));
        }
    })
}

fn writer(
    target: &'static Target,
    topic: Topic,
    seen: Seen,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let request = || {
            let request = produce_request(&topic, 0, -1, Some(batch(&["probe"])));
            encode_request(9, 1, Some("probe"), &request).expect("encodes")
        };
        let check = |answer: Vec<u8>| {
            let answer = decode_response::<ProduceRequest>(answer.into(), 9)?;
            let code = answer.responses[0].partition_responses[0].error_code;
            ensure!(code == 0, "the probe's Produce failed with {code}");
            Ok(())
        };
        let note = |at, took| {
            let mut seen = seen.lock().expect("no panic holds it");
            seen.writes.push((at, took));
        };
        let pause = Duration::from_millis(5);
        let done = probe(
            &target.broker.address,
            &request,
            &check,
            pause,
            &stop,
            &note,
        );
        if let Err(error) = done {
            seen.lock().expect("no panic holds it").failure = Some(format!("{error:#}"));
        }
    })
}

fn sampler(
    target: &'static Target,
    seen: Seen,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            match resident(target.broker.pid()) {
                Ok(now) => {
                    let mut seen = seen.lock().expect("no panic holds it");
                    seen.peak = seen.peak.max(now);
                }
                Err(error) => {
                    seen.lock().expect("no panic holds it").failure = Some(error.to_string());
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}
