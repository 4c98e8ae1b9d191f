//! Stands in for the crate of this name, by which openraft counts the sizes of its batches.
//!
//! The counts are shown only with openraft's feature `runtime-stats`, which is off here. That crate builds tables for
//! all its scales when the first histogram is made, 25 MiB of them, half of what an idle node has in memory, and each
//! group has ten histograms. Here they count nothing and take no space.
//!
//! Only what openraft calls is here; the version is the one it asks for.

use std::fmt;
use std::marker::PhantomData;

/// Counts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()>(PhantomData<T>);

impl<T> Histogram<T> {
    /// One that counts nothing.
    pub fn new() -> Histogram<T> {
        Histogram(PhantomData)
    }

    /// Does nothing.
    pub fn record(&mut self, _value: u64) {}

    /// Does nothing.
    pub fn record_n(&mut self, _value: u64, _count: u64) {}

    /// Of no samples.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// Percentiles of no samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// Always 0.
    pub samples: u64,
    /// Always 0.
    pub p0_1: u64,
    /// Always 0.
    pub p1: u64,
    /// Always 0.
    pub p5: u64,
    /// Always 0.
    pub p10: u64,
    /// Always 0.
    pub p50: u64,
    /// Always 0.
    pub p90: u64,
    /// Always 0.
    pub p99: u64,
    /// Always 0.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no samples")
    }
}

/// Shows nothing.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// One that shows nothing.
    pub fn new() -> AsciiChart {
        AsciiChart
    }

    /// Adds nothing.
    #[must_use]
    pub fn add(self, _name: &str, _histogram: Histogram) -> AsciiChart {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
