//! The loads. Each is one file: its arguments, the settings it wants of the broker, one run
//! against an empty broker, and what Klamm is held to.

mod commit;
mod groups;
mod join;
mod reload;

use anyhow::Result;
use clap::Subcommand;

use crate::measure::Measured;
use crate::peer::Home;

/// A load with its arguments.
#[derive(Subcommand, Clone, Debug)]
pub enum Scenario {
    /// Consumers that commit one offset after the other, each waiting for the answer
    Commit(commit::Commit),
    /// From the first JoinGroup of a group to the last assignment
    Join(join::Join),
    /// Restart after kill -9 until the coordinator answers for all committed offsets
    Reload(reload::Reload),
    /// Many groups that do nothing but keep their sessions alive
    Groups(groups::Groups),
}

/// What the ratio Klamm : Kafka of a value is held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// At least so many times Kafka's.
    AtLeast(f64),
    /// At most so many times Kafka's.
    AtMost(f64),
    /// Klamm's own value is zero.
    Zero,
}

impl Scenario {
    /// Its name on the command line and in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Scenario::Commit(_) => "commit",
            Scenario::Join(_) => "join",
            Scenario::Reload(_) => "reload",
            Scenario::Groups(_) => "groups",
        }
    }

    /// What it was asked to do, in one line.
    pub fn summary(&self) -> String {
        match self {
            Scenario::Commit(commit) => commit.summary(),
            Scenario::Join(join) => join.summary(),
            Scenario::Reload(reload) => reload.summary(),
            Scenario::Groups(groups) => groups.summary(),
        }
    }

    /// Settings of the broker, by Kafka's names, that the scenario is defined with.
    pub fn settings(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Scenario::Commit(_) | Scenario::Reload(_) => &[],
            Scenario::Join(_) | Scenario::Groups(_) => &[("group.initial.rebalance.delay.ms", "0")],
        }
    }

    /// What Klamm is held to, by the name of the value.
    pub fn bars(&self) -> &'static [(&'static str, Bar)] {
        match self {
            Scenario::Commit(_) => &[("commits_per_second", Bar::AtLeast(3.0))],
            Scenario::Join(_) => &[("join_to_assigned_p50", Bar::AtMost(0.5))],
            Scenario::Reload(_) => &[("load_seconds", Bar::AtMost(0.25))],
            Scenario::Groups(_) => &[
                ("missed_sessions", Bar::Zero),
                ("broker_rss", Bar::AtMost(1.0 / 3.0)),
            ],
        }
    }

    /// One run against a broker with an empty folder.
    pub async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        match self {
            Scenario::Commit(commit) => commit.run(home).await,
            Scenario::Join(join) => join.run(home).await,
            Scenario::Reload(reload) => reload.run(home).await,
            Scenario::Groups(groups) => groups.run(home).await,
        }
    }
}
