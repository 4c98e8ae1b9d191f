//! What was measured, and whether it grew.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Memory may grow by this share and so many bytes: arenas of the allocator, caches that fill.
const MEMORY_SHARE: f64 = 1.10;
const MEMORY_NOISE: f64 = 48.0 * 1024.0 * 1024.0;
/// Descriptors come and go with topics and hostile connections.
const DESCRIPTORS: u64 = 64;
/// Latency on a shared machine has moments of its own.
const LATENCY_FACTOR: u32 = 3;
const LATENCY_NOISE: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Taken {
    began: Option<Instant>,
    /// (when, resident bytes, descriptors)
    process: Vec<(Duration, u64, u64)>,
    /// (when, how long a write took until it was durable)
    writes: Vec<(Duration, Duration)>,
}

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Samples(Mutex<Taken>);

/// Middle values of one part of the run.
struct Window {
    name: &'static str,
    resident: u64,
    descriptors: u64,
    p50: Duration,
    p99: Duration,
}

fn quantile<T: Copy + Ord + Default>(mut values: Vec<T>, percent: usize) -> T {
    values.sort_unstable();
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}

impl Samples {
    /// The process now.
    pub(crate) fn process(&self, when: Duration, resident: u64, descriptors: u64) {
        let mut taken = self.0.lock().expect("no panic holds it");
        taken.began.get_or_insert_with(|| Instant::now() - when);
        taken.process.push((when, resident, descriptors));
    }

    /// A write was acknowledged after so long.
    pub(crate) fn write(&self, took: Duration) {
        let mut taken = self.0.lock().expect("no panic holds it");
        if let Some(began) = taken.began {
            taken.writes.push((began.elapsed(), took));
        }
    }

    fn window(&self, name: &'static str, from: Duration, to: Duration) -> Window {
        let taken = self.0.lock().expect("no panic holds it");
        let within = |when: &Duration| (from..to).contains(when);
        let process = || taken.process.iter().filter(|(when, ..)| within(when));
        let writes = || taken.writes.iter().filter(|(when, _)| within(when));
        Window {
            name,
            resident: quantile(process().map(|(_, resident, _)| *resident).collect(), 50),
            descriptors: quantile(process().map(|(.., count)| *count).collect(), 50),
            p50: quantile(writes().map(|(_, took)| *took).collect(), 50),
            p99: quantile(writes().map(|(_, took)| *took).collect(), 99),
        }
    }

    /// Prints start, middle and end, each a sixth of the run; fails if the end is worse than the
    /// start. The first sixth is not looked at: caches fill then.
    pub(crate) fn table(&self, lasted: Duration) -> Result<()> {
        let part = lasted / 6;
        let start = self.window("start", part, part * 2);
        let middle = self.window("middle", part * 3, part * 4);
        let end = self.window("end", part * 5, part * 7);
        println!("           memory   descriptors   write p50   write p99");
        for window in [&start, &middle, &end] {
            println!(
                "{:<7} {:>6.1} MiB {:>10} {:>11.1?} {:>11.1?}",
                window.name,
                window.resident as f64 / f64::from(1 << 20),
                window.descriptors,
                window.p50,
                window.p99
            );
        }
        let bound = start.resident as f64 * MEMORY_SHARE + MEMORY_NOISE;
        ensure!(
            (end.resident as f64) < bound,
            "memory grew beyond {bound:.0} bytes"
        );
        ensure!(
            end.descriptors <= start.descriptors + DESCRIPTORS,
            "descriptors grew"
        );
        ensure!(
            end.p99 <= start.p99 * LATENCY_FACTOR + LATENCY_NOISE,
            "latency grew"
        );
        Ok(())
    }
}
