//! One record at a time: every connection sends a record, waits for its acknowledgement, sends the
//! next.
//!
//! The request is encoded once per connection and only its correlation id changes.

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::Args;
use klamm_protocol::messages::ProduceRequest;
use klamm_protocol::{ErrorCode, decode_response};

use super::{Bar, Held, held};
use crate::exchange::{self, Asker, Exchange};
use crate::measure::{Latencies, Measured, Unit};
use crate::peer::{Home, Kind, Peer};
use crate::setup::{self, PRODUCE};

/// Where the correlation id is in a request: after length, key and version.
const CORRELATION_ID: std::ops::Range<usize> = 8..12;

/// Arguments of `sync`.
#[derive(Args, Clone, Debug)]
pub struct Sync {
    /// Connections, each with one record outstanding
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Partitions; connection n writes to partition n modulo this
    #[arg(long, default_value_t = 100)]
    partitions: i32,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds of the same load before that
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
}

impl Sync {
    pub(super) fn summary(&self) -> String {
        format!(
            "{} connections, each one record of {} B at a time, {} partitions, for {} s after {} s",
            self.connections, self.size, self.partitions, self.seconds, self.warm_up
        )
    }

    pub(super) fn bars(&self) -> Vec<Held> {
        let mut bars = vec![held(
            "cpu_ms_per_request",
            Kind::Kafka,
            Bar::AtMost(1.0 / 3.0),
        )];
        let rate = |kind, bar| held("requests_per_second", kind, Bar::AtLeast(bar));
        match self.connections {
            ..10 => bars.extend([rate(Kind::Kafka, 0.7), rate(Kind::KafkaFlush, 2.0)]),
            10..1000 => bars.extend([
                rate(Kind::Kafka, 1.5),
                held("latency_p99", Kind::Kafka, Bar::AtMost(1.0)),
                held("broker_peak_rss", Kind::Kafka, Bar::AtMost(1.0 / 8.0)),
            ]),
            _ => bars.extend([
                rate(Kind::Kafka, 1.5),
                held("latency_p99", Kind::Kafka, Bar::AtMost(0.5)),
                held("broker_peak_rss", Kind::Kafka, Bar::AtMost(0.25)),
            ]),
        }
        bars
    }

    pub(super) fn cluster_bars(&self) -> Vec<Held> {
        let at_most = |name, bar| held(name, Kind::Kafka, Bar::AtMost(bar));
        vec![
            held("requests_per_second", Kind::Kafka, Bar::AtLeast(4.0)),
            at_most("cpu_ms_per_request", 0.25),
            at_most("broker_peak_rss", 1.0 / 6.0),
            at_most("latency_p99", 0.25),
        ]
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        setup::create_topic(&peer.address(), self.partitions).await?;
        // Kafka names a partition's leader some time before that one serves it.
        super::partitions::write(&peer.address(), self.partitions).await?;
        let leaders = setup::settled_leaders(&peer.address()).await?;
        let (mut latencies, usage) = exchange::on_one_thread(self.load(&peer, &leaders))?;
        let requests = latencies.count() as f64;
        let cpu = usage.first().context("processor time")?.value;
        let mut measured = vec![
            Measured::new(
                "requests_per_second",
                Unit::PerSecond,
                requests / self.seconds as f64,
            ),
            Measured::milliseconds("latency_p50", latencies.percentile(0.5)),
            Measured::milliseconds("latency_p99", latencies.percentile(0.99)),
            Measured::milliseconds("latency_max", latencies.percentile(1.0)),
            Measured::new(
                "cpu_ms_per_request",
                Unit::Milliseconds,
                cpu * 1e3 / requests,
            ),
        ];
        measured.extend(usage);
        peer.stop().await?;
        Ok(measured)
    }

    async fn load(
        &self,
        peer: &Peer<'_>,
        leaders: &[String],
    ) -> Result<(Latencies, Vec<Measured>)> {
        let value = vec![b'x'; self.size];
        let mut writers = Vec::with_capacity(self.connections);
        for index in 0..self.connections {
            let partition = i32::try_from(index)? % self.partitions;
            let batch = setup::batch_of(std::slice::from_ref(&value))?;
            let leader = leaders.get(usize::try_from(partition)?);
            writers.push(Writer {
                connection: Exchange::connect(leader.context("a leader")?).await?,
                request: BytesMut::from(&setup::produce_frame(0, [(partition, batch)])?[..]),
            });
        }
        exchange::measure(writers, self.warm_up, self.seconds, peer).await
    }
}

struct Writer {
    connection: Exchange,
    request: BytesMut,
}

impl Asker for Writer {
    async fn ask(&mut self, number: i32) -> Result<()> {
        let id = self.request.get_mut(CORRELATION_ID);
        id.context("a request has a correlation id")?
            .copy_from_slice(&number.to_be_bytes());
        acknowledged(self.connection.ask(&self.request).await?)
    }
}

/// That each batch of a Produce request was stored.
pub(super) fn acknowledged(answer: Bytes) -> Result<()> {
    let answer = decode_response::<ProduceRequest>(answer, PRODUCE)?;
    for part in answer.responses.iter().flat_map(|t| &t.partition_responses) {
        let code = ErrorCode(part.error_code);
        ensure!(code == ErrorCode::NONE, "partition {}: {code}", part.index);
    }
    Ok(())
}
