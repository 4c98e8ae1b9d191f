//! librdkafka as a consumer of all partitions: of what the page cache holds, of what only the disk
//! holds, or of what a producer at full speed appends meanwhile.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::{Bar, Held, held};
use crate::librdkafka::{self, Run};
use crate::measure::{Measured, Unit};
use crate::peer::{Home, Kind, Peer};
use crate::setup;

/// Where what is read comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// From the page cache.
    Cache,
    /// From the disk: the page cache is dropped before (root).
    Disk,
    /// The tail of what a producer at full speed writes.
    Tail,
}

/// Arguments of `consume`.
#[derive(Args, Clone, Debug)]
pub struct Consume {
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Partitions
    #[arg(long, default_value_t = 12)]
    partitions: i32,
    /// MiB of values that are written and read (`cache`, `disk`)
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Seconds that are measured (`tail`)
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where what is read comes from
    #[arg(long, value_enum, default_value = "cache")]
    from: From,
}

impl Consume {
    pub(super) fn summary(&self) -> String {
        let what = match self.from {
            From::Cache => format!("{} MiB from the page cache", self.mib),
            From::Disk => format!("{} MiB from the disk", self.mib),
            From::Tail => format!("the tail of a full-speed producer for {} s", self.seconds),
        };
        format!(
            "librdkafka consumes {} B, {} partitions, {what}",
            self.size, self.partitions
        )
    }

    pub(super) fn bars(&self) -> Vec<Held> {
        vec![
            held("records_per_second", Kind::Kafka, Bar::AtLeast(1.0)),
            held("cpu_seconds_per_gb", Kind::Kafka, Bar::AtMost(0.5)),
            held("broker_peak_rss", Kind::Kafka, Bar::AtMost(1.0 / 6.0)),
        ]
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        setup::create_topic(&peer.address(), self.partitions).await?;
        let measured = tokio::task::block_in_place(|| match self.from {
            From::Tail => self.tail(home, &peer),
            From::Cache | From::Disk => self.stored(home, &peer),
        })?;
        peer.stop().await?;
        Ok(measured)
    }

    fn stored(&self, home: &Home, peer: &Peer<'_>) -> Result<Vec<Measured>> {
        let load = &home.programs().load;
        let count = self.mib * 1024 * 1024 / self.size as u64;
        let (address, topic) = (peer.address(), setup::TOPIC);
        let written = librdkafka::produce(
            &address,
            topic.as_str(),
            (self.partitions, self.size),
            (0, 0, count),
            &[],
        );
        Run::of(load, &written, peer)?;
        if self.from == From::Disk {
            drop_page_cache()?;
        }
        let read = librdkafka::consume(&address, topic.as_str(), self.partitions, (0, 0, count));
        let run = Run::of(load, &read, peer)?;
        let mut measured = Vec::from(run.rates());
        measured.extend(run.usage());
        Ok(measured)
    }

    fn tail(&self, home: &Home, peer: &Peer<'_>) -> Result<Vec<Measured>> {
        let load = &home.programs().load;
        let (address, topic) = (peer.address(), setup::TOPIC);
        let warm_up = 3;
        let written = librdkafka::produce(
            &address,
            topic.as_str(),
            (self.partitions, self.size),
            // Longer than what is measured, so that the tail never stands still meanwhile.
            (self.seconds + 1, warm_up, 0),
            &[],
        );
        let read = librdkafka::consume(
            &address,
            topic.as_str(),
            self.partitions,
            (self.seconds, warm_up, 0),
        );
        let (written, run) = std::thread::scope(|scope| {
            let producer = scope.spawn(|| Run::of(load, &written, peer));
            let run = Run::of(load, &read, peer)?;
            let written = producer.join().expect("the load does not panic")?;
            anyhow::Ok((written, run))
        })?;
        let mut measured = Vec::from(run.rates());
        let [rate, _] = written.rates();
        measured.push(Measured::new(
            "produced_per_second",
            Unit::PerSecond,
            rate.value,
        ));
        measured.extend(run.usage());
        Ok(measured)
    }
}

/// Writes back what is dirty and drops the page cache of the machine.
pub(super) fn drop_page_cache() -> Result<()> {
    let status = Command::new("sync").status().context("sync")?;
    ensure!(status.success(), "sync: {status}");
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("only root can drop the page cache")
}
