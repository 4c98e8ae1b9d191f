//! The loads. Each is one file: its arguments, the settings it wants of the broker, one run
//! against an empty broker, and what Klamm is held to.

mod commit;
mod consume;
mod faults;
mod groups;
mod join;
mod latency;
mod partitions;
mod produce;
mod rebuild;
mod reload;
mod start;
mod sync;
mod tools;

use anyhow::Result;
use clap::Subcommand;

use crate::measure::Measured;
use crate::peer::{Home, Kind};

/// A load with its arguments.
#[derive(Subcommand, Clone, Debug)]
pub enum Scenario {
    /// librdkafka produces at full speed
    Produce(produce::Produce),
    /// Connections that send one record at a time
    Sync(sync::Sync),
    /// End-to-end latency under an open load
    Latency(latency::Latency),
    /// librdkafka consumes at full speed
    Consume(consume::Consume),
    /// Many partitions: create, write, idle, kill -9, restart
    Partitions(partitions::Partitions),
    /// From the start of the process to the first acknowledged record
    Start(start::Start),
    /// Kafka's own producer-perf-test and consumer-perf-test
    Tools(tools::Tools),
    /// Consumers that commit one offset after the other, each waiting for the answer
    Commit(commit::Commit),
    /// From the first JoinGroup of a group to the last assignment
    Join(join::Join),
    /// Restart after kill -9 until the coordinator answers for all committed offsets
    Reload(reload::Reload),
    /// Many groups that do nothing but keep their sessions alive
    Groups(groups::Groups),
    /// Three nodes: what a fault of one silences, and for how long
    Faults(faults::Faults),
    /// Three nodes: one loses its disk, and gets all of it back from the others
    Rebuild(rebuild::Rebuild),
}

/// What a value is held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// Klamm has at least so many times what the other has.
    AtLeast(f64),
    /// Klamm has at most so many times what the other has.
    AtMost(f64),
    /// Klamm's own value is zero, in every round.
    Zero,
    /// Klamm's own value is at most so much, in every round.
    Within(f64),
}

/// A bar, the value it is for, and the broker that Klamm is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Name of the value.
    pub value: &'static str,
    /// The other broker; of no account for [`Bar::Zero`] and [`Bar::Within`].
    pub against: Kind,
    /// What the ratio is held to.
    pub bar: Bar,
}

fn held(value: &'static str, against: Kind, bar: Bar) -> Held {
    Held {
        value,
        against,
        bar,
    }
}

/// Does something with whatever scenario it is.
macro_rules! with_each {
    ($scenario:expr, $one:ident => $what:expr) => {
        match $scenario {
            Scenario::Produce($one) => $what,
            Scenario::Sync($one) => $what,
            Scenario::Latency($one) => $what,
            Scenario::Consume($one) => $what,
            Scenario::Partitions($one) => $what,
            Scenario::Start($one) => $what,
            Scenario::Tools($one) => $what,
            Scenario::Commit($one) => $what,
            Scenario::Join($one) => $what,
            Scenario::Reload($one) => $what,
            Scenario::Groups($one) => $what,
            Scenario::Faults($one) => $what,
            Scenario::Rebuild($one) => $what,
        }
    };
}

impl Scenario {
    /// Its name on the command line and in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Scenario::Produce(_) => "produce",
            Scenario::Sync(_) => "sync",
            Scenario::Latency(_) => "latency",
            Scenario::Consume(_) => "consume",
            Scenario::Partitions(_) => "partitions",
            Scenario::Start(_) => "start",
            Scenario::Tools(_) => "tools",
            Scenario::Commit(_) => "commit",
            Scenario::Join(_) => "join",
            Scenario::Reload(_) => "reload",
            Scenario::Groups(_) => "groups",
            Scenario::Faults(_) => "faults",
            Scenario::Rebuild(_) => "rebuild",
        }
    }

    /// What it was asked to do, in one line.
    pub fn summary(&self) -> String {
        with_each!(self, one => one.summary())
    }

    /// Whether this broker can take the load.
    pub fn suits(&self, kind: Kind) -> bool {
        match self {
            Scenario::Produce(_) | Scenario::Sync(_) | Scenario::Tools(_) => true,
            Scenario::Commit(one) => one.suits(kind),
            // Nothing can be read from it, and it has no members of groups.
            _ => kind != Kind::Null,
        }
    }

    /// Whether it can be run against so many nodes.
    pub fn suits_nodes(&self, nodes: u16) -> bool {
        match self {
            Scenario::Faults(_) | Scenario::Rebuild(_) => nodes > 1,
            Scenario::Produce(_)
            | Scenario::Sync(_)
            | Scenario::Latency(_)
            | Scenario::Consume(_)
            | Scenario::Partitions(_)
            | Scenario::Tools(_) => true,
            _ => nodes == 1,
        }
    }

    /// Whether its nodes have to be in a network that can be cut.
    pub fn needs_network(&self) -> bool {
        matches!(self, Scenario::Faults(one) if one.needs_network())
    }

    /// MiB of a volume for each node whose power can be cut, if it wants such.
    pub fn volume_mib(&self) -> Option<u64> {
        match self {
            Scenario::Faults(one) => one.volume_mib(),
            _ => None,
        }
    }

    /// Settings of the broker, by Kafka's names, that the scenario is defined with.
    pub fn settings(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Scenario::Join(_) | Scenario::Groups(_) => &[("group.initial.rebalance.delay.ms", "0")],
            _ => &[],
        }
    }

    /// What Klamm is held to where it is several nodes.
    pub fn cluster_bars(&self) -> Vec<Held> {
        match self {
            Scenario::Produce(one) => one.cluster_bars(),
            Scenario::Sync(one) => one.cluster_bars(),
            Scenario::Latency(one) => one.cluster_bars(),
            Scenario::Partitions(one) => one.cluster_bars(),
            Scenario::Faults(one) => one.cluster_bars(),
            Scenario::Rebuild(one) => one.cluster_bars(),
            _ => Vec::new(),
        }
    }

    /// What Klamm is held to as a single node.
    pub fn bars(&self) -> Vec<Held> {
        let at_most = |name, bar| held(name, Kind::Kafka, Bar::AtMost(bar));
        match self {
            Scenario::Produce(one) => one.bars(),
            Scenario::Sync(one) => one.bars(),
            Scenario::Latency(one) => one.bars(),
            Scenario::Consume(one) => one.bars(),
            Scenario::Partitions(one) => one.bars(),
            Scenario::Start(one) => one.bars(),
            Scenario::Tools(one) => one.bars(),
            Scenario::Commit(_) => {
                vec![held("commits_per_second", Kind::Kafka, Bar::AtLeast(3.0))]
            }
            Scenario::Join(_) => vec![at_most("join_to_assigned_p50", 0.5)],
            Scenario::Reload(_) => vec![at_most("load_seconds", 0.25)],
            Scenario::Groups(_) => vec![
                held("missed_sessions", Kind::Klamm, Bar::Zero),
                at_most("broker_rss", 1.0 / 3.0),
            ],
            Scenario::Faults(_) | Scenario::Rebuild(_) => Vec::new(),
        }
    }

    /// One run against a broker with an empty folder.
    pub async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        with_each!(self, one => one.run(home).await)
    }
}
