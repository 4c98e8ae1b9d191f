//! All loads in one go, and the slice of them that finds gross regressions in a few minutes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser};
use klamm_tests::network::Network;
use serde_json::{Value, json};

use crate::html;
use crate::loads::{CLUSTER, CLUSTER_SLICE, LOADS, Load, SLICE};
use crate::peer::{Home, Kind, Programs};
use crate::place::Ground;
use crate::report::{Report, columns};
use crate::scenarios::{Held, Scenario};

/// Nodes of a cluster, and replicas of each partition there.
pub const NODES: u16 = 3;
/// What all brokers are set to where they are a cluster.
const REPLICATED: [(&str, &str); 2] = [
    ("default.replication.factor", "3"),
    ("min.insync.replicas", "2"),
];

/// Arguments of `all` and `cluster`.
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

fn scenario(load: &Load) -> Result<Scenario> {
    let arguments = ["load"].iter().chain(load.arguments);
    Ok(One::try_parse_from(arguments)?.scenario)
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
    /// Nodes of each broker.
    pub nodes: u16,
    /// The network for loads that cut one, where it may be made.
    pub network: Option<Arc<Network>>,
}

impl Runner {
    /// Runs a scenario in turn against brokers. A broker other than Klamm that fails is left out of
    /// that round: what Klamm does is still of use.
    pub async fn run(
        &self,
        name: &str,
        scenario: &Scenario,
        limits: Option<&[Held]>,
        peers: &[Kind],
    ) -> Result<Report> {
        ensure!(
            scenario.suits_nodes(self.nodes),
            "{} is not made for --nodes {}",
            scenario.name(),
            self.nodes
        );
        let ground = self.ground(scenario)?;
        let settings = self.settings(scenario);
        let bars = match limits {
            Some(limits) => {
                // Without those against brokers that nobody asked for.
                let limits = limits.iter().filter(|held| peers.contains(&held.against));
                limits.copied().collect()
            }
            None if self.nodes > 1 => scenario.cluster_bars(),
            None => scenario.bars(),
        };
        let mut report = Report::new(name, scenario.name(), scenario.summary(), bars);
        for round in 1..=usize::from(self.rounds) {
            let suited = peers
                .iter()
                .filter(|kind| scenario.suits(**kind) && (self.nodes == 1 || **kind != Kind::Null));
            let mut peers: Vec<Kind> = suited.copied().collect();
            // Whoever runs second finds a warmer machine: that is not always the same one.
            if round % 2 == 0 {
                peers.reverse();
            }
            for kind in peers {
                let began = Instant::now();
                let home = Home::new(
                    kind,
                    &self.programs,
                    &self.dir,
                    &settings,
                    &ground,
                    scenario.volume_mib(),
                )?;
                let done = scenario.run(&home).await;
                match done.with_context(|| format!("{name}, round {round}, {}", kind.name())) {
                    Ok(measured) => report.add(round, kind, &measured),
                    Err(error) if kind == Kind::Klamm => return Err(error),
                    Err(error) => eprintln!("{error:#}"),
                }
                let took = began.elapsed().as_secs_f64();
                eprintln!("round {round}: {name} {} in {took:.0} s", kind.name());
            }
        }
        Ok(report)
    }

    fn settings(&self, scenario: &Scenario) -> Vec<(String, String)> {
        let cluster = if self.nodes > 1 { &REPLICATED[..] } else { &[] };
        let own = cluster.iter().chain(scenario.settings());
        let own = own.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        own.chain(self.settings.iter().cloned()).collect()
    }

    fn ground(&self, scenario: &Scenario) -> Result<Ground> {
        match &self.network {
            _ if !scenario.needs_network() => Ok(Ground::Here(self.nodes)),
            Some(network) => Ok(Ground::Network(network.clone())),
            None => bail!("it needs a network that can be cut"),
        }
    }
}

impl All {
    /// Whether a load that is chosen has to cut a network.
    pub fn needs_network(&self, nodes: u16) -> Result<bool> {
        if self.list {
            return Ok(false);
        }
        for (load, _) in self.chosen(nodes) {
            if scenario(load)?.needs_network() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn chosen(&self, nodes: u16) -> Vec<(&'static Load, Option<&'static [Held]>)> {
        let (loads, slice) = if nodes > 1 {
            (CLUSTER, CLUSTER_SLICE)
        } else {
            (LOADS, SLICE)
        };
        let mut chosen: Vec<(&Load, Option<&'static [Held]>)> = if self.slice {
            let samples = slice.iter();
            samples
                .map(|sample| (&sample.load, Some(sample.limits)))
                .collect()
        } else {
            loads.iter().map(|load| (load, None)).collect()
        };
        chosen.retain(|(load, _)| {
            self.only.is_empty()
                || self
                    .only
                    .iter()
                    .any(|text| load.name.contains(text.as_str()))
        });
        chosen
    }

    /// Runs the loads. The text or JSON of the results, and whether nothing failed.
    pub async fn run(
        &self,
        runner: &Runner,
        peers: &[Kind],
        as_json: bool,
    ) -> Result<(String, bool)> {
        let chosen = self.chosen(runner.nodes).into_iter();
        if self.list {
            let lines =
                chosen.map(|(load, _)| format!("{:<24}{}\n", load.name, load.arguments.join(" ")));
            return Ok((lines.collect(), true));
        }
        let mut reports = Vec::new();
        let mut fine = true;
        for (load, limits) in chosen {
            let scenario = scenario(load)?;
            if scenario.needs_network() && runner.network.is_none() {
                eprintln!("{}: left out, no network can be made here", load.name);
                continue;
            }
            let peers: Vec<Kind> = load
                .peers
                .iter()
                .copied()
                .filter(|kind| peers.contains(kind))
                .collect();
            match runner.run(load.name, &scenario, limits, &peers).await {
                Ok(report) => {
                    eprint!("\n{}\n", report.table());
                    fine &= !self.slice || report.holds();
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
                    verdict.found,
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
        for (nodes, loads, slice) in [(1, LOADS, SLICE), (NODES, CLUSTER, CLUSTER_SLICE)] {
            let samples = slice.iter().map(|sample| &sample.load);
            for load in loads.iter().chain(samples) {
                let parsed = scenario(load);
                let suits = parsed.as_ref().map(|one| one.suits_nodes(nodes));
                assert!(suits.is_ok_and(|suits| suits), "{}: {parsed:?}", load.name);
            }
            for sample in slice {
                for held in sample.limits {
                    assert!(sample.load.peers.contains(&held.against), "{held:?}");
                }
            }
        }
    }
}
