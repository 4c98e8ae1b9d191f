//! `klamm config`, and command lines that make no sense.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::program::{Cluster, alone};

#[test]
fn settings_are_listed_for_scripts() -> Result<()> {
    let listed = alone(&[
        "config",
        "list",
        "-o",
        "json",
        "--set",
        "log.retention.hours=5",
    ])?
    .json()?;
    let settings = listed.as_array().context("a list")?;
    ensure!(settings.len() > 100, "only {} settings", settings.len());
    for setting in settings {
        let documented = setting["documentation"]
            .as_str()
            .is_some_and(|text| text.len() > 10);
        ensure!(documented && setting["type"].is_string(), "{setting}");
    }
    let find = |name: &str, scope: &str| -> Result<&Value> {
        let found = settings
            .iter()
            .find(|one| one["name"] == name && one["scope"] == scope);
        found.with_context(|| format!("no {scope} setting {name}"))
    };
    let set = find("log.retention.hours", "broker")?;
    ensure!(
        set["value"] == "5" && set["source"] == "set" && set["default"] == "168",
        "{set}"
    );
    let inherited = find("retention.ms", "topic")?;
    ensure!(inherited["value"] == "18000000", "{inherited}");
    let untouched = find("num.partitions", "broker")?;
    ensure!(untouched["source"] == "default" && untouched["value"] == untouched["default"]);
    Ok(())
}

#[test]
fn settings_are_found_by_a_part_of_their_name() -> Result<()> {
    let table = alone(&["config", "list", "cleanup.policy"])?;
    let names: Vec<&str> = table
        .text()?
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    ensure!(
        names == ["NAME", "log.cleanup.policy", "cleanup.policy"],
        "{names:?}"
    );
    alone(&["config", "list", "--set", "log.segment.byte=1"])?
        .refused(2, &["log.segment.byte", "log.segment.bytes"])?;
    Ok(())
}

#[test]
fn a_command_line_that_makes_no_sense_is_exit_2() -> Result<()> {
    for (args, word) in [
        (&["topics"][..], "topic"),
        (&["topic", "create"], "<NAME>"),
        (&["topic", "list", "-o", "yaml"], "table"),
        (&["produce", "t", "-z", "rar"], "zstd"),
        (&["produce", "t", "-H", "novalue"], "KEY=VALUE"),
        (&["consume", "t", "--from", "middle"], "beginning"),
        (&["consume", "t", "-p", "-1"], "-1"),
    ] {
        let ended = alone(args)?;
        ensure!(
            ended.code == 2 && ended.stdout.is_empty(),
            "{args:?}: {ended:?}"
        );
        ensure!(ended.stderr.contains(word), "{args:?}: {}", ended.stderr);
    }
    Ok(())
}

#[test]
fn the_broker_is_named_by_the_environment_too() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.topic("t", 1)?;
    let output = std::process::Command::new(klamm_tests::broker::binary()?)
        .args(["topic", "list", "-o", "json"])
        .env("KLAMM_BOOTSTRAP", &cluster.address)
        .output()?;
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(listed[0]["name"] == "t", "{listed}");
    let version = alone(&["version"])?;
    ensure!(
        version.text()? == alone(&["--version"])?.text()?,
        "{version:?}"
    );
    Ok(())
}
