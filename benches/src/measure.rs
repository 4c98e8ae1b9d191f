//! What is measured, and how: latencies, a process's processor time and memory, medians.
//!
//! Percentiles are exact (every sample is kept, 4 bytes each), by nearest rank. Processor time and
//! memory are what the kernel counts for the broker's processes alone, never for the load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::param::{clock_ticks_per_second, page_size};

/// How often the memory of several processes is added up.
const WATCH: Duration = Duration::from_millis(100);

/// What a value counts; decides how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Events in one second.
    PerSecond,
    /// Milliseconds.
    Milliseconds,
    /// Seconds, of the clock or of processors.
    Seconds,
    /// Bytes, printed in MiB.
    Bytes,
    /// 1,000,000 bytes in one second.
    MegabytesPerSecond,
    /// Seconds of processors for 1,000,000,000 bytes of keys and values.
    SecondsPerGigabyte,
    /// Hundredths of one processor.
    Percent,
    /// A plain number.
    Count,
    /// So many times something else.
    Ratio,
}

impl Unit {
    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "1/s",
            Unit::Milliseconds => "ms",
            Unit::Seconds => "s",
            Unit::Bytes => "bytes",
            Unit::MegabytesPerSecond => "MB/s",
            Unit::SecondsPerGigabyte => "s/GB",
            Unit::Percent => "%",
            Unit::Count => "",
            Unit::Ratio => "x",
        }
    }
}

/// One value of one run.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Stable name, the key in JSON.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// The value, in that unit.
    pub value: f64,
}

impl Measured {
    /// A value in a unit of the caller's choice.
    pub fn new(name: &'static str, unit: Unit, value: f64) -> Measured {
        Measured { name, unit, value }
    }

    /// A time in seconds.
    pub fn seconds(name: &'static str, time: Duration) -> Measured {
        Measured::new(name, Unit::Seconds, time.as_secs_f64())
    }

    /// A time in milliseconds.
    pub fn milliseconds(name: &'static str, time: Duration) -> Measured {
        Measured::new(name, Unit::Milliseconds, time.as_secs_f64() * 1e3)
    }
}

/// Times that something took, each kept to the microsecond (and up to an hour).
#[derive(Debug, Default)]
pub struct Latencies {
    micros: Vec<u32>,
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, took: Duration) {
        self.micros
            .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: Latencies) {
        self.micros.extend(other.micros);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.micros.len()
    }

    /// The smallest time that `share` (0 to 1) of all are not above; zero when there is none.
    pub fn percentile(&mut self, share: f64) -> Duration {
        self.micros.sort_unstable();
        let rank = (share * self.micros.len() as f64).ceil() as usize;
        let at = self
            .micros
            .get(rank.saturating_sub(1))
            .or(self.micros.last());
        Duration::from_micros(u64::from(at.copied().unwrap_or(0)))
    }
}

/// The middle of some values (of an even number, the mean of the two in the middle); 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2);
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2);
    match (lower, upper) {
        (Some(lower), Some(upper)) => (lower + upper) / 2.0,
        _ => 0.0,
    }
}

/// What one process used so far, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    /// Resident memory now.
    pub rss_bytes: f64,
    /// The most that was ever resident; of several processes, at one time.
    pub peak_rss_bytes: f64,
    /// Of several processes: the most that was ever resident of one.
    pub node_peak_rss_bytes: Option<f64>,
}

impl Usage {
    /// What processes used together; `watched` is the most seen of all at one time.
    pub fn sum(each: &[Usage], watched: f64) -> Usage {
        if let [one] = each {
            // The kernel knows better than who looks now and then; but not of those that have ended.
            if watched == 0.0 {
                return *one;
            }
        }
        let rss = each.iter().map(|one| one.rss_bytes).sum::<f64>();
        let peaks = each.iter().map(|one| one.peak_rss_bytes);
        Usage {
            cpu_seconds: each.iter().map(|one| one.cpu_seconds).sum(),
            rss_bytes: rss,
            peak_rss_bytes: watched.max(rss),
            node_peak_rss_bytes: peaks.reduce(f64::max),
        }
    }

    /// Reads `/proc` for a process.
    pub fn of(pid: u32) -> Result<Usage> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("{path}: the broker has ended"))
        };
        Usage::parse(&read("stat")?, &read("status")?, clock_ticks_per_second())
            .with_context(|| format!("/proc/{pid} is not laid out as Linux does"))
    }

    fn parse(stat: &str, status: &str, ticks_per_second: u64) -> Option<Usage> {
        // The name in parentheses may hold anything; after it come state and numbers, of which
        // user and system time are the 12th and 13th.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut times = fields.split_whitespace().skip(11);
        let mut ticks = || times.next()?.parse::<f64>().ok();
        let cpu = ticks()? + ticks()?;
        let bytes = |label: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(label))?;
            let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib * 1024.0)
        };
        Some(Usage {
            cpu_seconds: cpu / ticks_per_second as f64,
            rss_bytes: bytes("VmRSS:")?,
            peak_rss_bytes: bytes("VmHWM:")?,
            node_peak_rss_bytes: None,
        })
    }

    /// The rows that every scenario ends with: processor time since `before`, memory now and at
    /// its highest.
    pub fn since(&self, before: &Usage) -> Vec<Measured> {
        let cpu = self.cpu_seconds - before.cpu_seconds;
        let mut measured = vec![Measured::new("broker_cpu_seconds", Unit::Seconds, cpu)];
        measured.extend(self.memory());
        measured
    }

    /// Memory now and at its highest, and the highest of a node where there are several.
    pub fn memory(&self) -> Vec<Measured> {
        let mut measured = vec![
            Measured::new("broker_rss", Unit::Bytes, self.rss_bytes),
            Measured::new("broker_peak_rss", Unit::Bytes, self.peak_rss_bytes),
        ];
        let node = self.node_peak_rss_bytes;
        measured.extend(node.map(|peak| Measured::new("node_peak_rss", Unit::Bytes, peak)));
        measured
    }
}

/// Adds up the resident memory of processes now and then: the kernel keeps the most of each, and those need not fall
/// together.
#[derive(Debug, Default)]
pub struct Watch {
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Watch {
    /// Watches these processes until dropped; one that ends counts nothing.
    pub fn begin(&self, pids: Vec<u32>) {
        let (most, over) = (self.most.clone(), self.over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let resident: u64 = pids.iter().filter_map(|pid| resident_pages(*pid)).sum();
                most.fetch_max(resident, Ordering::Relaxed);
                std::thread::sleep(WATCH);
            }
        });
    }

    /// The most bytes seen of all together.
    pub fn most(&self) -> f64 {
        (self.most.load(Ordering::Relaxed) * page_size() as u64) as f64
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn resident_pages(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_nearest_rank() {
        let mut times = Latencies::default();
        assert_eq!(times.percentile(0.5), Duration::ZERO);
        for millis in (1..=100).rev() {
            times.record(Duration::from_millis(millis));
        }
        assert_eq!(times.percentile(0.0), Duration::from_millis(1));
        assert_eq!(times.percentile(0.5), Duration::from_millis(50));
        assert_eq!(times.percentile(0.99), Duration::from_millis(99));
        assert_eq!(times.percentile(1.0), Duration::from_millis(100));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn proc_is_read_past_any_process_name() {
        let stat = "7 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let usage = Usage::parse(stat, status, 100);
        let expected = Usage {
            cpu_seconds: 3.0,
            rss_bytes: 1024.0 * 1024.0,
            peak_rss_bytes: 2048.0 * 1024.0,
            node_peak_rss_bytes: None,
        };
        assert_eq!(usage, Some(expected));
        assert_eq!(Usage::parse("7 (a) S 1", status, 100), None);
        assert!(Usage::of(std::process::id()).is_ok());
    }

    #[test]
    fn several_processes_add_up_and_their_peaks_do_not() {
        let of = |cpu_seconds, rss_bytes, peak_rss_bytes| Usage {
            cpu_seconds,
            rss_bytes,
            peak_rss_bytes,
            node_peak_rss_bytes: None,
        };
        let each = [of(1.0, 10.0, 30.0), of(2.0, 20.0, 25.0)];
        let expected = Usage {
            node_peak_rss_bytes: Some(30.0),
            ..of(3.0, 30.0, 40.0)
        };
        assert_eq!(Usage::sum(&each, 40.0), expected);
        assert_eq!(Usage::sum(&each[..1], 0.0), each[0]);
        let watch = Watch::default();
        watch.begin(vec![std::process::id(), std::process::id()]);
        let one = Usage::of(std::process::id()).expect("we run");
        std::thread::sleep(WATCH * 2);
        assert!(watch.most() > one.rss_bytes, "{} {one:?}", watch.most());
    }
}
