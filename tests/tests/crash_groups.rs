//! Consumer groups outlast crashes: no acknowledged commit is lost or goes back, members keep
//! their ids and generation, and reading goes on at once. kill -9 and power cuts at random moments
//! under a group that reads and commits.
//!
//! `KLAMM_CRASH_ROUNDS=200` runs the campaign; the default is a short slice.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_tests::broker::{Broker, free_port};
use klamm_tests::group::{Consumers, Standing, committed};
use klamm_tests::load;
use klamm_tests::volume::Volume;
use rand::Rng;

const MEMBERS: usize = 3;
/// From readiness to the first commit of every member.
const RESUME: Duration = Duration::from_secs(2);
/// How long a group that runs may take for some commits.
const PATIENCE: Duration = Duration::from_secs(30);
/// Small checkpoints, so that crashes meet them; a small reserve, since volumes are small.
const SETTINGS: [&str; 6] = [
    "--set",
    "klamm.checkpoint.bytes=4194304",
    "--set",
    "klamm.disk.reserve.bytes=33554432",
    "--set",
    "group.initial.rebalance.delay.ms=200",
];

fn rounds(default: u32) -> u32 {
    std::env::var("KLAMM_CRASH_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(default)
}

/// Whether every member has committed so much more often than before.
fn all_went_on(before: &[Standing], now: &[Standing], by: u64) -> bool {
    let pairs = before.iter().zip(now);
    pairs
        .into_iter()
        .all(|(before, now)| now.commits >= before.commits + by)
}

/// Crashes the broker `rounds` times under a group at work.
async fn campaign(data: &Path, rounds: u32, crash: impl Fn(Broker) -> Result<()>) -> Result<()> {
    let port = free_port()?;
    let mut broker = Broker::start(data, port, &SETTINGS)?;
    let address = broker.address.clone();
    load::create_topic(&address).await?;
    let mut group = Consumers::start(&address, MEMBERS).await?;
    let formed = group.standings();
    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        let before = group.standings();
        group
            .until(PATIENCE, |now| all_went_on(&before, now, 3))
            .await?;
        let moment = rand::rng().random_range(0..400);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        let floor = group.ledger(|ledger| ledger.floor());
        crash(broker)?;
        broker = Broker::start(data, port, &SETTINGS)?;
        let back = group.standings();
        let found = committed(&address).await?;
        group
            .ledger(|ledger| ledger.check(&floor, &found))
            .with_context(|| format!("round {round}"))?;
        let took = group
            .until(RESUME, |now| all_went_on(&back, now, 1))
            .await
            .with_context(|| format!("round {round}: reading goes on"))?;
        slowest = slowest.max(took);
        for (first, now) in formed.iter().zip(group.standings()) {
            ensure!(
                (&first.id, first.generation, &first.partitions)
                    == (&now.id, now.generation, &now.partitions),
                "round {round}: {first:?} has become {now:?}"
            );
        }
    }
    let commits: u64 = group
        .standings()
        .iter()
        .map(|standing| standing.commits)
        .sum();
    let ledger = group.finish().await?;
    let found = committed(&address).await?;
    ledger.check(&ledger.floor(), &found)?;
    println!("{rounds} crashes, {commits} commits acknowledged, slowest return {slowest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_no_commit_and_moves_nobody() -> Result<()> {
    let dir = tempfile::tempdir()?;
    campaign(&dir.path().join("data"), rounds(6), Broker::kill).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_loses_no_commit_and_moves_nobody() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(volume) = Volume::or_skip(dir.path(), 16 << 10) else {
        return Ok(());
    };
    campaign(&volume.path().join("data"), rounds(3), |broker| {
        // The process stops first, as it would with the power: see `Broker::freeze`.
        broker.freeze()?;
        volume.cut()?;
        broker.kill()?;
        volume.restore()
    })
    .await
}
