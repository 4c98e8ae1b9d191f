#![doc = include_str!("../README.md")]

mod measure;
mod member;
mod peer;
mod report;
mod scenarios;
mod setup;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use peer::{Home, Kind, Programs};
use report::Report;
use scenarios::Scenario;

/// Drives Klamm and Apache Kafka with the same load, in turn, and compares them
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
        default_value = "klamm,kafka"
    )]
    peers: Vec<Kind>,
    /// How the result is printed
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
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
    #[command(subcommand)]
    scenario: Scenario,
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

fn programs(arguments: &Arguments) -> Result<Programs> {
    let klamm = match &arguments.klamm {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("klamm"),
    };
    let kafka_jars = match &arguments.kafka_jars {
        Some(path) => path.clone(),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set: use --kafka-jars")?;
            PathBuf::from(home).join(".cache/klamm-compat/java/4.3.1/jars")
        }
    };
    Ok(Programs { klamm, kafka_jars })
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let scenario = &arguments.scenario;
    let programs = programs(&arguments)?;
    for kind in &arguments.peers {
        programs.check(*kind)?;
    }
    let own = scenario.settings().iter();
    let mut settings: Vec<(String, String)> = own
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    settings.extend(arguments.settings.iter().cloned());
    let dir = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut report = Report::new(scenario.name(), scenario.summary(), scenario.bars());
    for round in 1..=usize::from(arguments.rounds) {
        let mut peers = arguments.peers.clone();
        // Whoever runs second finds a warmer machine: that is not always the same one.
        if round % 2 == 0 {
            peers.reverse();
        }
        for kind in peers {
            let began = Instant::now();
            let home = Home::new(kind, &programs, &dir, &settings)?;
            let measured = scenario.run(&home).await;
            let measured = measured.with_context(|| format!("round {round}, {}", kind.name()))?;
            report.add(round, kind, &measured);
            eprintln!(
                "round {round}: {} {} in {:.0} s",
                scenario.name(),
                kind.name(),
                began.elapsed().as_secs_f64()
            );
        }
    }
    match arguments.output {
        Output::Table => print!("{}", report.table()),
        Output::Json => println!("{:#}", report.json()),
    }
    Ok(())
}
