//! Load by librdkafka, in a process of its own: `librdkafka/load.c`, which says how it is called.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::measure::{Measured, Unit, Usage};
use crate::peer::Peer;

/// What a run of the load did in the time that was measured, and what the broker used meanwhile.
pub struct Run {
    seconds: f64,
    records: f64,
    bytes: f64,
    failed: f64,
    micros: [f64; 2],
    before: Usage,
    after: Usage,
}

impl Run {
    /// Runs the load to its end. Blocks.
    pub fn of(program: &Path, arguments: &[String], peer: &Peer<'_>) -> Result<Run> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                let program = program.display();
                format!("{program} cannot be run: benches/run builds it")
            })?;
        let output = child.stdout.take().context("its output is not there")?;
        let mut before = peer.usage()?;
        let mut found = None;
        for line in BufReader::new(output).lines() {
            match line?.as_str() {
                "begin" => before = peer.usage()?,
                line => found = Some((serde_json::from_str::<Value>(line)?, peer.usage()?)),
            }
        }
        let status = child.wait()?;
        let (result, after) = found.with_context(|| format!("the load ended: {status}"))?;
        let number = |key: &str| {
            let value = result.get(key).and_then(Value::as_f64);
            value.with_context(|| format!("no {key} in {result}"))
        };
        let run = Run {
            seconds: number("seconds")?,
            records: number("records")?,
            bytes: number("bytes")?,
            failed: number("failed")?,
            micros: [number("p50")?, number("p99")?],
            before,
            after,
        };
        ensure!(
            status.success() && run.failed == 0.0,
            "{} records failed",
            run.failed
        );
        ensure!(run.records > 0.0, "no record passed");
        Ok(run)
    }

    /// Records and bytes in a second.
    pub fn rates(&self) -> [Measured; 2] {
        [
            Measured::new(
                "records_per_second",
                Unit::PerSecond,
                self.records / self.seconds,
            ),
            Measured::new(
                "megabytes_per_second",
                Unit::MegabytesPerSecond,
                self.bytes / self.seconds / 1e6,
            ),
        ]
    }

    /// What the broker used, in all and for each gigabyte.
    pub fn usage(&self) -> Vec<Measured> {
        let cpu = self.after.cpu_seconds - self.before.cpu_seconds;
        let mut measured = vec![Measured::new(
            "cpu_seconds_per_gb",
            Unit::SecondsPerGigabyte,
            cpu / (self.bytes / 1e9),
        )];
        measured.extend(self.after.since(&self.before));
        measured
    }

    /// From the call that takes a record to its delivery report: mostly time in the full queue.
    pub fn delivery(&self) -> [Measured; 2] {
        let [p50, p99] = self.micros;
        [
            Measured::new("delivery_p50", Unit::Milliseconds, p50 / 1e3),
            Measured::new("delivery_p99", Unit::Milliseconds, p99 / 1e3),
        ]
    }
}

/// The arguments for a run that produces for some time, or `count` records if that is not 0.
pub fn produce(
    address: &str,
    topic: &str,
    (partitions, size): (i32, usize),
    (seconds, warm_up, count): (u64, u64, u64),
    properties: &[String],
) -> Vec<String> {
    let mut arguments = vec![
        "produce".to_owned(),
        address.to_owned(),
        topic.to_owned(),
        partitions.to_string(),
        size.to_string(),
        seconds.to_string(),
        warm_up.to_string(),
        count.to_string(),
        "acks=all".to_owned(),
    ];
    arguments.extend(properties.iter().cloned());
    arguments
}

/// The arguments for a run that consumes for some time, or `count` records if that is not 0.
pub fn consume(
    address: &str,
    topic: &str,
    partitions: i32,
    (seconds, warm_up, count): (u64, u64, u64),
) -> Vec<String> {
    vec![
        "consume".to_owned(),
        address.to_owned(),
        topic.to_owned(),
        partitions.to_string(),
        seconds.to_string(),
        warm_up.to_string(),
        count.to_string(),
    ]
}
