#![doc = include_str!("../README.md")]

mod beats;
mod exchange;
mod html;
mod kafka;
mod librdkafka;
mod loads;
mod measure;
mod member;
mod null;
mod peer;
mod place;
mod report;
mod scenarios;
mod setup;
mod suite;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use klamm_tests::network::Network;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use peer::{Kind, Programs};
use scenarios::Scenario;
use suite::Runner;

/// Drives Klamm, Apache Kafka and a broker that stores nothing with the same load, in turn, and
/// compares them
#[derive(Parser)]
#[command(name = "klamm-bench", version)]
struct Arguments {
    /// Rounds; in each every broker runs once, in alternating order
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Brokers to run
    #[arg(
        long,
        global = true,
        value_enum,
        value_delimiter = ',',
        default_value = "klamm,kafka,kafka-flush,null"
    )]
    peers: Vec<Kind>,
    /// How the result is printed
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
    /// Nodes of each broker, for a single load: three replicas of all there is when they are more than one
    #[arg(long, global = true, default_value_t = 1, value_parser = nodes)]
    nodes: u16,
    /// A setting for all brokers, by Kafka's name; may be given often
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// The program klamm; by default the one built next to this one
    #[arg(long, global = true, value_name = "FILE", env = "KLAMM")]
    klamm: Option<PathBuf>,
    /// Folder with the jars of Apache Kafka
    #[arg(long, global = true, value_name = "DIR", env = "KAFKA_JARS")]
    kafka_jars: Option<PathBuf>,
    /// Where the brokers' folders are made; on the disk that is to be measured
    #[arg(long, global = true, value_name = "DIR", env = "KLAMM_BENCH_DIR")]
    dir: Option<PathBuf>,
    /// The program of librdkafka/load.c
    #[arg(long, global = true, value_name = "FILE", env = "KLAMM_RDKAFKA_LOAD")]
    rdkafka_load: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// What is to be done.
#[derive(Subcommand, Clone, Debug)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// All loads, or a short slice of them
    All(suite::All),
    /// The same for three nodes: loads, then faults of a node
    Cluster(suite::All),
    /// Serves as the null broker
    Null(null::Null),
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn nodes(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(nodes) if nodes == 1 || nodes == suite::NODES => Ok(nodes),
        _ => Err(format!("1 or {}", suite::NODES)),
    }
}

impl Arguments {
    fn nodes(&self) -> u16 {
        match self.command {
            Command::Cluster(_) => suite::NODES,
            Command::Scenario(Scenario::Faults(_) | Scenario::Rebuild(_)) => suite::NODES,
            _ => self.nodes,
        }
    }

    /// The network for loads that cut one; where it may not be made, says so.
    fn network(&self) -> Result<Option<Arc<Network>>> {
        let needed = match &self.command {
            Command::All(all) | Command::Cluster(all) => all.needs_network(self.nodes())?,
            Command::Scenario(scenario) => scenario.needs_network(),
            Command::Null(_) => false,
        };
        if !needed {
            return Ok(None);
        }
        match place::network() {
            Ok(network) => Ok(Some(network)),
            Err(error) => {
                eprintln!("no network can be made here, so none can be cut: {error:#}");
                Ok(None)
            }
        }
    }
}

fn programs(arguments: &Arguments) -> Result<Programs> {
    let klamm = match &arguments.klamm {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("klamm"),
    };
    let cached = |path: &str| {
        let home = std::env::var_os("HOME").context("HOME is not set")?;
        Ok::<PathBuf, anyhow::Error>(PathBuf::from(home).join(".cache/klamm-compat").join(path))
    };
    let kafka_jars = match &arguments.kafka_jars {
        Some(path) => path.clone(),
        None => cached("java/4.3.1/jars")?,
    };
    let load = match &arguments.rdkafka_load {
        Some(path) => path.clone(),
        None => cached("benches/load")?,
    };
    Ok(Programs {
        klamm,
        kafka_jars,
        load,
    })
}

/// As many open files as may be: for thousands of connections, here and in the brokers.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // With fewer the loads of few connections still run.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    raise_open_files();
    if let Command::Null(null) = &arguments.command {
        null.run().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let programs = programs(&arguments)?;
    for kind in &arguments.peers {
        programs.check(*kind)?;
    }
    let runner = Runner {
        programs,
        dir: arguments.dir.clone().unwrap_or_else(std::env::temp_dir),
        rounds: arguments.rounds,
        settings: arguments.settings.clone(),
        nodes: arguments.nodes(),
        network: arguments.network()?,
    };
    // Whoever ends us has the brokers ended, too: they go with what runs them.
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(&arguments, &runner) => done,
        _ = end.recv() => bail!("told to end"),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

/// Runs what was asked for and prints what was found.
async fn run(arguments: &Arguments, runner: &Runner) -> Result<ExitCode> {
    let as_json = arguments.output == Output::Json;
    let (text, fine) = match &arguments.command {
        Command::All(all) | Command::Cluster(all) => {
            all.run(runner, &arguments.peers, as_json).await?
        }
        Command::Scenario(scenario) => {
            let report = runner
                .run(scenario.name(), scenario, None, &arguments.peers)
                .await?;
            let text = if as_json {
                format!("{:#}\n", report.json())
            } else {
                report.table()
            };
            (text, true)
        }
        Command::Null(_) => unreachable!("served above"),
    };
    print!("{text}");
    Ok(if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
