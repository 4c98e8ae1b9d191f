//! Apache Kafka's own tools: `kafka-producer-perf-test.sh`, then `kafka-consumer-perf-test.sh` on
//! what the first one wrote.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{Bar, Held, held};
use crate::measure::{Measured, Unit, Usage};
use crate::peer::{Home, Kind, Peer};
use crate::setup;

/// Arguments of `tools`.
#[derive(Args, Clone, Debug)]
pub struct Tools {
    /// Records
    #[arg(long, default_value_t = 3_000_000)]
    records: u64,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100)]
    size: u64,
    /// Partitions
    #[arg(long, default_value_t = 12)]
    partitions: i32,
}

impl Tools {
    pub(super) fn summary(&self) -> String {
        format!(
            "Kafka's producer-perf-test and consumer-perf-test, {} records of {} B, {} partitions, acks=all",
            self.records, self.size, self.partitions
        )
    }

    pub(super) fn bars(&self) -> Vec<Held> {
        vec![
            held("produced_per_second", Kind::Kafka, Bar::AtLeast(1.0)),
            held("consumed_per_second", Kind::Kafka, Bar::AtLeast(1.0)),
        ]
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        setup::create_topic(&peer.address(), self.partitions).await?;
        let measured = tokio::task::block_in_place(|| self.measure(home, &peer))?;
        peer.stop().await?;
        Ok(measured)
    }

    fn measure(&self, home: &Home, peer: &Peer<'_>) -> Result<Vec<Measured>> {
        let (records, size) = (self.records.to_string(), self.size.to_string());
        let server = format!("bootstrap.servers={}", peer.address());
        let before = peer.usage()?;
        let produced = tool(home)
            .arg("org.apache.kafka.tools.ProducerPerformance")
            .args(["--topic", setup::TOPIC.as_str(), "--throughput", "-1"])
            .args(["--num-records", &records, "--record-size", &size])
            .args(["--producer-props", &server, "acks=all"])
            .output()?;
        let [rate, p99] = produced_rate(&printed(&produced)?)?;
        let between = peer.usage()?;
        let mut measured = vec![
            Measured::new("produced_per_second", Unit::PerSecond, rate),
            Measured::new("produced_p99", Unit::Milliseconds, p99),
            self.per_gigabyte("produce_cpu_seconds_per_gb", &before, &between),
        ];
        // The null broker keeps nothing that could be read.
        if home.kind() != Kind::Null {
            let consumed = tool(home)
                .arg("org.apache.kafka.tools.ConsumerPerformance")
                .args(["--bootstrap-server", &peer.address()])
                .args(["--topic", setup::TOPIC.as_str(), "--num-records", &records])
                .output()?;
            let after = peer.usage()?;
            let rate = consumed_rate(&printed(&consumed)?)?;
            measured.extend([
                Measured::new("consumed_per_second", Unit::PerSecond, rate),
                self.per_gigabyte("consume_cpu_seconds_per_gb", &between, &after),
            ]);
        }
        measured.extend(peer.usage()?.since(&before));
        Ok(measured)
    }

    fn per_gigabyte(&self, name: &'static str, before: &Usage, after: &Usage) -> Measured {
        let gigabytes = (self.records * self.size) as f64 / 1e9;
        let cpu = after.cpu_seconds - before.cpu_seconds;
        Measured::new(name, Unit::SecondsPerGigabyte, cpu / gigabytes)
    }
}

fn tool(home: &Home) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xmx512M", "-cp"])
        .arg(home.programs().kafka_jars.join("*"));
    java
}

fn printed(output: &std::process::Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{text}{errors}");
    Ok(text)
}

/// Records per second and the 99th percentile in milliseconds, from the last line of the producer:
/// `3000000 records sent, 612244.9 records/sec (58.39 MB/sec), 4.1 ms avg latency, .. 37 ms 99th, ..`
fn produced_rate(text: &str) -> Result<[f64; 2]> {
    let line = text.lines().rfind(|line| line.contains("99th"));
    let line = line.with_context(|| format!("no result in {text}"))?;
    let before = |unit: &str| {
        let part = line.split(", ").find_map(|part| part.split_once(unit));
        let (number, _) = part.with_context(|| format!("no {unit} in {line}"))?;
        Ok::<f64, anyhow::Error>(number.trim().parse()?)
    };
    Ok([before(" records/sec")?, before(" ms 99th")?])
}

/// Records per second of fetching, the last column of the last line of the consumer.
fn consumed_rate(text: &str) -> Result<f64> {
    let line = text.lines().rfind(|line| line.split(", ").count() >= 10);
    let line = line.with_context(|| format!("no result in {text}"))?;
    let last = line.rsplit(", ").next().context("a column")?;
    Ok(last.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_results_are_read() {
        let line = "9 records sent, 612244.9 records/sec (58.39 MB/sec), 4.10 ms avg latency, 50.00 ms max latency, \
                    3 ms 50th, 9 ms 95th, 37 ms 99th, 49 ms 99.9th.";
        let read = produced_rate(line).expect("the line is as the tool prints it");
        assert_eq!(read, [612_244.9, 37.0]);
        let text = "start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec\n\
                    2026-01-01 00:00:00:000, 2026-01-01 00:00:01:000, 95.3674, 95.3, 1000000, 1000000.0, 300, 700, 136.2, 1428571.5\n";
        let read = consumed_rate(text).expect("the lines are as the tool prints them");
        assert!((read - 1_428_571.5).abs() < 1e-6);
    }
}
