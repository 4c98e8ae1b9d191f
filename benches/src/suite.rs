//! All loads in one go, and the slice of them that finds gross regressions in five minutes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser};
use serde_json::{Value, json};

use crate::html;
use crate::peer::{Home, Kind, Programs};
use crate::report::{Report, columns, printed_ratio};
use crate::scenarios::{Bar, Held, Scenario};

use Kind::{Kafka, KafkaFlush, Klamm, Null};

/// A load as it is written on the command line, and the brokers it tells something about.
struct Load {
    name: &'static str,
    arguments: &'static [&'static str],
    peers: &'static [Kind],
}

const fn load(
    name: &'static str,
    arguments: &'static [&'static str],
    peers: &'static [Kind],
) -> Load {
    Load {
        name,
        arguments,
        peers,
    }
}

const STORING: &[Kind] = &[Klamm, Kafka];
const ANSWERING: &[Kind] = &[Klamm, Kafka, Null];
const FLUSHING: &[Kind] = &[Klamm, Kafka, KafkaFlush];
const ALL: &[Kind] = &[Klamm, Kafka, KafkaFlush, Null];

/// Everything.
const LOADS: &[Load] = &[
    load("produce-100B-12p", &["produce"], ALL),
    load("produce-100B-1p", &["produce", "--partitions=1"], ANSWERING),
    load("produce-1KiB-12p", &["produce", "--size=1024"], ANSWERING),
    load(
        "produce-1KiB-1p",
        &["produce", "--size=1024", "--partitions=1"],
        ANSWERING,
    ),
    load(
        "produce-1KiB-12p-lz4",
        &["produce", "--size=1024", "--compression=lz4"],
        ANSWERING,
    ),
    load(
        "produce-100B-12p-lz4",
        &["produce", "--compression=lz4"],
        ANSWERING,
    ),
    load("sync-1-100p", &["sync", "--connections=1"], ALL),
    load("sync-100-100p", &["sync"], ANSWERING),
    load("sync-2000-100p", &["sync", "--connections=2000"], ANSWERING),
    load(
        "sync-1-1p",
        &["sync", "--connections=1", "--partitions=1"],
        ALL,
    ),
    load("sync-100-1p", &["sync", "--partitions=1"], ANSWERING),
    load(
        "sync-2000-1p",
        &["sync", "--connections=2000", "--partitions=1"],
        ANSWERING,
    ),
    load("latency-1k-1KiB", &["latency"], FLUSHING),
    load(
        "latency-10k-100B",
        &["latency", "--rate=10000", "--size=100"],
        FLUSHING,
    ),
    load(
        "latency-250k-100B",
        &["latency", "--rate=250000", "--size=100"],
        STORING,
    ),
    load("consume-tail-100B", &["consume", "--from=tail"], STORING),
    load(
        "consume-tail-1KiB",
        &["consume", "--from=tail", "--size=1024"],
        STORING,
    ),
    load("consume-cache-100B", &["consume"], STORING),
    load(
        "consume-cache-1KiB",
        &["consume", "--size=1024", "--mib=2048"],
        STORING,
    ),
    load(
        "consume-disk-1KiB",
        &["consume", "--from=disk", "--size=1024", "--mib=2048"],
        STORING,
    ),
    load("drain-beside-tail", &["latency", "--backlog=2048"], STORING),
    load("partitions-1000", &["partitions"], STORING),
    load(
        "partitions-10000",
        &["partitions", "--count=10000"],
        STORING,
    ),
    load("start", &["start"], STORING),
    load("tools-100B-12p", &["tools"], ANSWERING),
];

/// A load of the slice, and what would be a gross regression: about half of what is reached.
struct Sample {
    load: Load,
    limits: &'static [Held],
}

const fn limit(value: &'static str, against: Kind, bar: Bar) -> Held {
    Held {
        value,
        against,
        bar,
    }
}

const SLICE: &[Sample] = &[
    Sample {
        load: load(
            "produce-100B-12p",
            &["produce", "--seconds=4", "--warm-up=2"],
            ANSWERING,
        ),
        limits: &[
            limit("records_per_second", Kafka, Bar::AtLeast(0.5)),
            limit("records_per_second", Null, Bar::AtLeast(0.25)),
            limit("cpu_seconds_per_gb", Kafka, Bar::AtMost(1.0)),
        ],
    },
    Sample {
        load: load(
            "sync-100-100p",
            &["sync", "--seconds=4", "--warm-up=2"],
            ANSWERING,
        ),
        limits: &[
            limit("requests_per_second", Kafka, Bar::AtLeast(0.3)),
            limit("cpu_ms_per_request", Kafka, Bar::AtMost(1.5)),
        ],
    },
    Sample {
        load: load(
            "latency-10k-100B",
            &[
                "latency",
                "--rate=10000",
                "--size=100",
                "--seconds=5",
                "--warm-up=6",
            ],
            STORING,
        ),
        limits: &[
            limit("missed", Klamm, Bar::Zero),
            limit("e2e_p50", Kafka, Bar::AtMost(2.0)),
            limit("e2e_p99", Kafka, Bar::AtMost(3.0)),
        ],
    },
    Sample {
        load: load("consume-cache-100B", &["consume", "--mib=256"], STORING),
        limits: &[limit("records_per_second", Kafka, Bar::AtLeast(0.3))],
    },
    Sample {
        load: load("start", &["start", "--settle=2", "--idle=4"], STORING),
        limits: &[
            limit("start_seconds", Kafka, Bar::AtMost(0.25)),
            limit("broker_rss", Kafka, Bar::AtMost(0.5)),
        ],
    },
];

/// Arguments of `all`.
#[derive(Args, Clone, Debug)]
pub struct All {
    /// Only a few loads, short, and the exit code says whether one of them got grossly worse
    #[arg(long)]
    slice: bool,
    /// Only loads whose name contains this; may be given often
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Lists the loads
    #[arg(long)]
    list: bool,
    /// Also writes a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// A scenario by its arguments alone.
#[derive(Parser)]
struct One {
    #[command(subcommand)]
    scenario: Scenario,
}

/// What a run needs beside the scenario.
pub struct Runner {
    /// The brokers' programs.
    pub programs: Programs,
    /// Where their folders are made.
    pub dir: PathBuf,
    /// Rounds.
    pub rounds: u16,
    /// Settings for every broker.
    pub settings: Vec<(String, String)>,
}

impl Runner {
    /// Runs a scenario in turn against brokers. A broker other than Klamm that fails is left out of
    /// that round: what Klamm does is still of use.
    pub async fn run(
        &self,
        name: &str,
        scenario: &Scenario,
        bars: Vec<Held>,
        peers: &[Kind],
    ) -> Result<Report> {
        let own = scenario.settings().iter();
        let mut settings: Vec<(String, String)> = own
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        settings.extend(self.settings.iter().cloned());
        let mut report = Report::new(name, scenario.name(), scenario.summary(), bars);
        for round in 1..=usize::from(self.rounds) {
            let suited = peers.iter().filter(|kind| scenario.suits(**kind));
            let mut peers: Vec<Kind> = suited.copied().collect();
            // Whoever runs second finds a warmer machine: that is not always the same one.
            if round % 2 == 0 {
                peers.reverse();
            }
            for kind in peers {
                let began = Instant::now();
                let home = Home::new(kind, &self.programs, &self.dir, &settings)?;
                let done = scenario.run(&home).await;
                match done.with_context(|| format!("{name}, round {round}, {}", kind.name())) {
                    Ok(measured) => report.add(round, kind, &measured),
                    Err(error) if kind == Klamm => return Err(error),
                    Err(error) => eprintln!("{error:#}"),
                }
                let took = began.elapsed().as_secs_f64();
                eprintln!("round {round}: {name} {} in {took:.0} s", kind.name());
            }
        }
        Ok(report)
    }
}

impl All {
    /// Runs the loads. The text or JSON of the results, and whether nothing failed.
    pub async fn run(
        &self,
        runner: &Runner,
        peers: &[Kind],
        as_json: bool,
    ) -> Result<(String, bool)> {
        let chosen: Vec<(&Load, Option<&'static [Held]>)> = if self.slice {
            let samples = SLICE.iter();
            samples
                .map(|sample| (&sample.load, Some(sample.limits)))
                .collect()
        } else {
            LOADS.iter().map(|load| (load, None)).collect()
        };
        let wanted = |name: &str| {
            self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str()))
        };
        let chosen = chosen.into_iter().filter(|(load, _)| wanted(load.name));
        if self.list {
            let lines =
                chosen.map(|(load, _)| format!("{:<24}{}\n", load.name, load.arguments.join(" ")));
            return Ok((lines.collect(), true));
        }
        let mut reports = Vec::new();
        let mut fine = true;
        for (load, limits) in chosen {
            let arguments = ["load"].iter().chain(load.arguments);
            let One { scenario } = One::try_parse_from(arguments)?;
            let bars = limits.map_or_else(|| scenario.bars(), <[Held]>::to_vec);
            let peers: Vec<Kind> = load
                .peers
                .iter()
                .copied()
                .filter(|kind| peers.contains(kind))
                .collect();
            match runner.run(load.name, &scenario, bars, &peers).await {
                Ok(report) => {
                    eprint!("\n{}\n", report.table());
                    fine &= !self.slice || all_met(&report);
                    reports.push(report);
                }
                // The other loads are still worth their time.
                Err(error) => {
                    eprintln!("{error:#}");
                    fine = false;
                }
            }
            if let Some(file) = &self.html {
                write(file, &html::page(&reports))?;
            }
        }
        let text = if as_json {
            let all: Vec<Value> = reports.iter().map(Report::json).collect();
            format!("{:#}\n", json!({ "loads": all }))
        } else {
            let tables: Vec<String> = reports.iter().map(Report::table).collect();
            format!("{}\n{}", tables.join("\n"), summary(&reports))
        };
        Ok((text, fine))
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

fn all_met(report: &Report) -> bool {
    let mut rows = report.rows().iter();
    rows.all(|row| report.verdicts(row).iter().all(|verdict| verdict.met))
}

/// One line for each bar.
fn summary(reports: &[Report]) -> String {
    let head = ["load", "value", "bar", "found", ""].map(str::to_owned);
    let mut lines = vec![Vec::from(head)];
    for report in reports {
        for row in report.rows() {
            for verdict in report.verdicts(row) {
                lines.push(vec![
                    report.name().to_owned(),
                    row.name.to_owned(),
                    verdict.wanted,
                    printed_ratio(verdict.ratio),
                    if verdict.met { "met" } else { "MISSED" }.to_owned(),
                ]);
            }
        }
    }
    let met = lines
        .iter()
        .filter(|line| line.last().is_some_and(|last| last == "met"));
    let (met, all) = (met.count(), lines.len() - 1);
    format!("{}{met} of {all} bars met\n", columns(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_can_be_parsed_and_every_limit_has_its_broker() {
        let slice = SLICE.iter().map(|sample| &sample.load);
        for load in LOADS.iter().chain(slice) {
            let arguments = ["load"].iter().chain(load.arguments);
            let parsed = One::try_parse_from(arguments);
            assert!(parsed.is_ok(), "{}: {:?}", load.name, parsed.err());
        }
        for sample in SLICE {
            for held in sample.limits {
                assert!(sample.load.peers.contains(&held.against), "{held:?}");
            }
        }
    }
}
