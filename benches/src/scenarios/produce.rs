//! librdkafka at full speed: a queue that is never empty, acks=all.

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Bar, Held, held};
use crate::librdkafka::{Run, produce};
use crate::measure::Measured;
use crate::peer::{Home, Kind};
use crate::setup;

/// How the producer compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Not at all.
    None,
    /// By lz4.
    Lz4,
}

/// Arguments of `produce`.
#[derive(Args, Clone, Debug)]
pub struct Produce {
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Partitions, filled in turn
    #[arg(long, default_value_t = 12)]
    partitions: i32,
    /// How the producer compresses
    #[arg(long, value_enum, default_value = "none")]
    compression: Compression,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds of the same load before that
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
    /// A property of librdkafka; may be given often
    #[arg(long = "property", value_name = "NAME=VALUE")]
    properties: Vec<String>,
}

impl Produce {
    fn codec(&self) -> &'static str {
        match self.compression {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
        }
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "librdkafka produces {} B, {} partitions, acks=all, compression {}, for {} s after {} s",
            self.size,
            self.partitions,
            self.codec(),
            self.seconds,
            self.warm_up
        )
    }

    pub(super) fn bars(&self) -> Vec<Held> {
        let (rate, cpu) = match (self.compression, self.size) {
            (Compression::Lz4, _) => (1.0, 1.0 / 3.0),
            (Compression::None, ..512) => (1.5, 0.25),
            (Compression::None, _) => (1.1, 0.5),
        };
        vec![
            held("records_per_second", Kind::Kafka, Bar::AtLeast(rate)),
            held("records_per_second", Kind::Null, Bar::AtLeast(0.7)),
            held("cpu_seconds_per_gb", Kind::Kafka, Bar::AtMost(cpu)),
            held("broker_peak_rss", Kind::Kafka, Bar::AtMost(1.0 / 6.0)),
        ]
    }

    pub(super) fn cluster_bars(&self) -> Vec<Held> {
        let rate = if self.size < 512 { 2.0 } else { 1.3 };
        vec![
            held("records_per_second", Kind::Kafka, Bar::AtLeast(rate)),
            held("cpu_seconds_per_gb", Kind::Kafka, Bar::AtMost(0.2)),
            held("broker_peak_rss", Kind::Kafka, Bar::AtMost(1.0 / 6.0)),
        ]
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        setup::create_topic(&peer.address(), self.partitions).await?;
        let mut properties = vec![format!("compression.codec={}", self.codec())];
        properties.extend(self.properties.iter().cloned());
        let arguments = produce(
            &peer.address(),
            setup::TOPIC.as_str(),
            (self.partitions, self.size),
            (self.seconds, self.warm_up, 0),
            &properties,
        );
        let load = &home.programs().load;
        let run = tokio::task::block_in_place(|| Run::of(load, &arguments, &peer))?;
        let mut measured = Vec::from(run.rates());
        measured.extend(run.usage());
        measured.extend(run.delivery());
        peer.stop().await?;
        Ok(measured)
    }
}
