//! Many partitions: made, written to once, left alone; on a single node also killed, and there again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use klamm_protocol::messages::ProduceRequest;
use klamm_protocol::{ErrorCode, decode_response};
use tokio::time::sleep;

use super::{Bar, Held, held};
use crate::measure::{Measured, Unit};
use crate::peer::{Home, Kind, Peer};
use crate::setup::{self, PRODUCE};
use crate::wire::Wire;

/// Pause before those that could not take a record are tried again.
const PAUSE: Duration = Duration::from_millis(5);
/// Partitions of one request.
const AT_ONCE: usize = 1000;
/// For background work that follows the writes.
const SETTLE: Duration = Duration::from_secs(5);

/// Arguments of `partitions`.
#[derive(Args, Clone, Debug)]
pub struct Partitions {
    /// Partitions of the one topic
    #[arg(long, default_value_t = 1000)]
    count: i32,
    /// Seconds of idleness that are measured
    #[arg(long, default_value_t = 10)]
    idle: u64,
}

impl Partitions {
    pub(super) fn summary(&self) -> String {
        format!(
            "a topic of {} partitions: create, one record each, idle for {} s; a single node: kill -9, restart",
            self.count, self.idle
        )
    }

    pub(super) fn bars(&self) -> Vec<Held> {
        let (create, idle, memory) = match self.count {
            ..5000 => (1.0, 0.2, 1.0 / 3.0),
            _ => (2.0, 1.0 / 3.0, 1.0),
        };
        let at_most = |name, bar| held(name, Kind::Kafka, Bar::AtMost(bar));
        vec![
            at_most("create_seconds", create),
            at_most("idle_cpu", idle),
            at_most("broker_peak_rss", memory),
            at_most("restart_seconds", 0.2),
        ]
    }

    pub(super) fn cluster_bars(&self) -> Vec<Held> {
        match self.count {
            ..5000 => {
                let at_most = |name, bar| held(name, Kind::Kafka, Bar::AtMost(bar));
                vec![
                    at_most("create_seconds", 1.0),
                    at_most("idle_cpu", 0.2),
                    at_most("broker_peak_rss", 1.0 / 3.0),
                ]
            }
            _ => {
                let within = |name, bar| held(name, Kind::Klamm, Bar::Within(bar));
                vec![
                    within("create_seconds", 60.0),
                    within("idle_cpu", 15.0),
                    within("node_peak_rss", 1.2e9),
                ]
            }
        }
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let peer = home.start().await?;
        let began = Instant::now();
        setup::create_topic(&peer.address(), self.count).await?;
        let created = began.elapsed();
        let began = Instant::now();
        write(&peer.address(), self.count).await?;
        let written = began.elapsed();
        sleep(SETTLE).await;
        let idle = idle_cpu(&peer, self.idle).await?;
        let usage = peer.usage()?;
        let mut measured = vec![
            Measured::seconds("create_seconds", created),
            Measured::seconds("first_records_seconds", written),
            Measured::new("idle_cpu", Unit::Percent, idle),
        ];
        measured.extend(usage.memory());
        peer.kill()?;
        if home.is_cluster() {
            return Ok(measured);
        }
        let peer = home.start().await?;
        let ready = peer.ready_in;
        let client = setup::client(&peer.address()).await?;
        setup::led(&client, setup::TOPIC.as_str(), self.count).await?;
        write(&peer.address(), self.count).await?;
        let restarted = peer.age();
        peer.stop().await?;
        measured.extend([
            Measured::seconds("ready_seconds", ready),
            Measured::seconds("restart_seconds", restarted),
        ]);
        Ok(measured)
    }
}

/// One record to each partition of the topic, by way of its leader, until all are acknowledged.
pub(super) async fn write(address: &str, count: i32) -> Result<()> {
    let client = setup::client(address).await?;
    let mut wires: BTreeMap<String, Wire> = BTreeMap::new();
    let mut missing: Vec<i32> = (0..count).collect();
    while !missing.is_empty() {
        let leaders = setup::leaders(&client, setup::TOPIC.as_str()).await?;
        let mut by_leader: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        let mut left = Vec::new();
        for partition in missing {
            match leaders.get(usize::try_from(partition)?) {
                Some(Some(leader)) => by_leader.entry(leader.clone()).or_default().push(partition),
                _ => left.push(partition),
            }
        }
        for (leader, partitions) in by_leader {
            let wire = match wires.entry(leader) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let wire = Wire::connect(new.key())?;
                    new.insert(wire)
                }
            };
            for some in partitions.chunks(AT_ONCE) {
                left.extend(write_to(wire, some)?);
            }
        }
        missing = left;
        if !missing.is_empty() {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// One record to each; those that could not take it yet.
fn write_to(wire: &mut Wire, partitions: &[i32]) -> Result<Vec<i32>> {
    let batch = setup::batch_of(&[b"one record"])?;
    let batches = partitions.iter().map(|one| (*one, batch.clone()));
    wire.send(&setup::produce_frame(0, batches)?)?;
    let answer = wire.receive()?.context("the broker closed a connection")?;
    let answer = decode_response::<ProduceRequest>(answer, PRODUCE)?;
    let parts = answer.responses.iter().flat_map(|t| &t.partition_responses);
    let failed = parts.filter(|part| part.error_code != 0);
    failed
        .map(|part| match ErrorCode(part.error_code) {
            code if code.is_retriable() => Ok(part.index),
            code => anyhow::bail!("partition {}: {code}", part.index),
        })
        .collect()
}

/// Per cent of one processor that the broker uses while nobody asks anything of it.
pub(super) async fn idle_cpu(peer: &Peer<'_>, seconds: u64) -> Result<f64> {
    let before = peer.usage()?;
    sleep(Duration::from_secs(seconds)).await;
    let used = peer.usage()?.cpu_seconds - before.cpu_seconds;
    Ok(used / seconds as f64 * 100.0)
}
