//! Counters of a store. Writers touch atomics only; readers take a copy.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters and histograms since start, for /metrics. Reading costs nothing on the write path.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    /// Bytes written to the journal, padding included.
    pub journal_bytes: u64,
    /// Frames written to the journal.
    pub journal_frames: u64,
    /// Syncs done by the journal thread, of the journal and of bulk-written segments.
    pub syncs: u64,
    /// (upper bound in seconds, count) of journal fdatasync latency; counts are per bucket.
    pub sync_seconds: Vec<(f64, u64)>,
    /// Sum of those latencies in seconds.
    pub sync_seconds_sum: f64,
    /// The slowest round of the last quarter of a minute at least, the one under way included, in seconds: the writes and
    /// syncs after which all that was queued is durable.
    pub slowest_round_seconds: f64,
    /// (upper bound, count) of frames per round; counts are per bucket.
    pub round_frames: Vec<(f64, u64)>,
    /// Sum of frames over all rounds.
    pub round_frames_sum: f64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Segments of all groups.
    pub segments: u64,
    /// Bytes in them.
    pub segment_bytes: u64,
    /// Segment files held open.
    pub open_files: u64,
    /// Free bytes of the file system when last looked at.
    pub free_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
    /// Places where stored bytes were found wrong, each counted once.
    pub corruptions: u64,
}

/// Upper bounds in microseconds; the last bucket has none.
const SYNC_MICROS: [u64; 12] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    500_000,
    u64::MAX,
];
const ROUND_FRAMES: [u64; 12] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1_024, 4_096, u64::MAX];

/// Histogram over fixed bounds.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [u64; 12],
    counts: [AtomicU64; 12],
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64; 12]) -> Histogram {
        Histogram {
            bounds,
            counts: Default::default(),
            sum: AtomicU64::new(0),
        }
    }

    fn record(&self, value: u64) {
        let buckets = self.bounds.iter().zip(&self.counts);
        if let Some((_, count)) = buckets.into_iter().find(|(bound, _)| value <= **bound) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    /// Bounds and counts, with bounds divided by `unit`.
    fn snapshot(&self, unit: f64) -> (Vec<(f64, u64)>, f64) {
        let bound = |bound: u64| {
            if bound == u64::MAX {
                f64::INFINITY
            } else {
                bound as f64 / unit
            }
        };
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        let buckets = self.bounds.iter().map(|b| bound(*b)).zip(counts).collect();
        (buckets, self.sum.load(Relaxed) as f64 / unit)
    }
}

/// What the threads of a store count.
#[derive(Debug)]
pub(crate) struct Counters {
    journal_bytes: AtomicU64,
    journal_frames: AtomicU64,
    syncs: AtomicU64,
    sync_micros: Histogram,
    round_frames: Histogram,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) corruptions: AtomicU64,
}

impl Counters {
    pub(crate) fn new() -> Counters {
        Counters {
            journal_bytes: AtomicU64::new(0),
            journal_frames: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            sync_micros: Histogram::new(&SYNC_MICROS),
            round_frames: Histogram::new(&ROUND_FRAMES),
            checkpoints: AtomicU64::new(0),
            corruptions: AtomicU64::new(0),
        }
    }

    /// A block of `bytes` with `frames` was written.
    pub(crate) fn round(&self, bytes: u64, frames: u64) {
        self.journal_bytes.fetch_add(bytes, Relaxed);
        self.journal_frames.fetch_add(frames, Relaxed);
        self.round_frames.record(frames);
    }

    /// The journal file was synced.
    pub(crate) fn journal_synced(&self, took: Duration) {
        self.syncs.fetch_add(1, Relaxed);
        self.sync_micros
            .record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX - 1));
    }

    /// A segment was synced by the journal thread.
    pub(crate) fn segment_synced(&self) {
        self.syncs.fetch_add(1, Relaxed);
    }

    /// What is counted here; the gauges are left for the store to fill in.
    pub(crate) fn snapshot(&self) -> StoreStats {
        let (sync_seconds, sync_seconds_sum) = self.sync_micros.snapshot(1e6);
        let (round_frames, round_frames_sum) = self.round_frames.snapshot(1.0);
        StoreStats {
            journal_bytes: self.journal_bytes.load(Relaxed),
            journal_frames: self.journal_frames.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            sync_seconds,
            sync_seconds_sum,
            round_frames,
            round_frames_sum,
            checkpoints: self.checkpoints.load(Relaxed),
            corruptions: self.corruptions.load(Relaxed),
            ..StoreStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_holds_it() {
        let counters = Counters::new();
        counters.round(4096, 3);
        counters.round(4096, 1_000_000);
        counters.journal_synced(Duration::from_micros(800));
        let stats = counters.snapshot();
        assert_eq!(
            (stats.journal_bytes, stats.journal_frames),
            (8192, 1_000_003)
        );
        assert_eq!(
            stats.round_frames.iter().find(|b| b.0 == 4.0),
            Some(&(4.0, 1))
        );
        assert_eq!(stats.round_frames.last(), Some(&(f64::INFINITY, 1)));
        assert_eq!(
            stats.sync_seconds.iter().find(|b| b.1 == 1),
            Some(&(0.001, 1))
        );
        assert_eq!(stats.round_frames_sum, 1_000_003.0);
    }
}
