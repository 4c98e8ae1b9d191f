//! A node loses its disk: how long it takes until it has everything again from the others, and what records wait meanwhile.
//!
//! The plain copy it is compared with is `cp -r` of the folder that is lost, then `sync`, before, on the same disk, with
//! nothing else to do.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use klamm_client::Client;
use tokio::time::sleep;

use super::{Bar, Held, faults, held};
use crate::beats::Beats;
use crate::librdkafka::{self, Run};
use crate::measure::{Measured, Unit};
use crate::peer::{Home, Kind, Peer};
use crate::setup;

/// The topic with what has to be copied.
const BALLAST: &str = "ballast";
const BALLAST_PARTITIONS: i32 = 12;
const BALLAST_RECORD: usize = 1024;
/// Live load with nothing else, measured.
const QUIET: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that all of it may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Until the others know that a node is gone.
const GONE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// Arguments of `rebuild`.
#[derive(Args, Clone, Debug)]
pub struct Rebuild {
    /// MiB that the disk holds
    #[arg(long, default_value_t = 10_240)]
    mib: u64,
    /// Partitions under load meanwhile
    #[arg(long, default_value_t = 100)]
    partitions: i32,
    /// Records due in a second in each of them
    #[arg(long, default_value_t = 4.0)]
    rate: f64,
}

impl Rebuild {
    pub(super) fn summary(&self) -> String {
        format!(
            "a node with {} MiB loses its disk and gets it back from the others; meanwhile {} partitions with {} records/s each",
            self.mib, self.partitions, self.rate
        )
    }

    pub(super) fn cluster_bars(&self) -> Vec<Held> {
        let within = |name, bar| held(name, Kind::Klamm, Bar::Within(bar));
        vec![
            within("wait_p99_times_quiet", 2.0),
            within("rebuild_times_copy", 2.0),
            held("lost", Kind::Klamm, Bar::Zero),
        ]
    }

    pub(super) async fn run(&self, home: &Home) -> Result<Vec<Measured>> {
        let mut peer = home.start().await?;
        let address = peer.address();
        let client = setup::client(&address).await?;
        setup::create(&client, BALLAST, BALLAST_PARTITIONS).await?;
        setup::create_topic(&address, self.partitions).await?;
        tokio::task::block_in_place(|| self.preload(home, &peer))?;
        all_in_sync(&client).await?;
        let victim = home.ids().last().context("a node")?;
        let copied = tokio::task::block_in_place(|| copy(&home.data(victim)?))?;

        let beats = Beats::begin(&address, self.partitions, self.rate, REQUEST_TIMEOUT).await?;
        beats.heard(Duration::ZERO, PATIENCE).await;
        let from = beats.now();
        sleep(QUIET).await;
        let mut quiet = beats.waits(from, beats.now());

        peer.kill_node(victim)?;
        home.lose_disk(victim)?;
        if home.kind() == Kind::Klamm {
            forget(home, &address, victim).await?;
        }
        // What its end silenced is another load's matter.
        beats.heard(beats.now(), PATIENCE).await;
        let (began, from) = (Instant::now(), beats.now());
        peer.start_node(victim)?;
        peer.ready(victim).await?;
        all_in_sync(&client).await?;
        let rebuilt = began.elapsed();
        let mut waits = beats.waits(from, beats.now());
        let fate = beats.end(&address).await?;
        let (before, meanwhile) = (quiet.percentile(0.99), waits.percentile(0.99));
        let times = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
        Ok(vec![
            Measured::seconds("copy_seconds", copied),
            Measured::seconds("rebuild_seconds", rebuilt),
            Measured::new("rebuild_times_copy", Unit::Ratio, times(rebuilt, copied)),
            Measured::milliseconds("quiet_wait_p99", before),
            Measured::milliseconds("wait_p50", waits.percentile(0.5)),
            Measured::milliseconds("wait_p99", meanwhile),
            Measured::milliseconds("wait_max", waits.percentile(1.0)),
            Measured::new(
                "wait_p99_times_quiet",
                Unit::Ratio,
                times(meanwhile, before),
            ),
            Measured::new("client_errors", Unit::Count, fate.failed as f64),
            Measured::new("lost", Unit::Count, fate.lost as f64),
        ])
    }

    fn preload(&self, home: &Home, peer: &Peer<'_>) -> Result<()> {
        let records = self.mib * 1024 * 1024 / BALLAST_RECORD as u64;
        let arguments = librdkafka::produce(
            &peer.address(),
            BALLAST,
            (BALLAST_PARTITIONS, BALLAST_RECORD),
            (0, 0, records),
            &[],
        );
        Run::of(&home.programs().load, &arguments, peer)?;
        Ok(())
    }
}

/// Tells the cluster that a node's disk is lost, which it takes once it knows that the node is gone.
async fn forget(home: &Home, address: &str, node: i32) -> Result<()> {
    let began = Instant::now();
    loop {
        let output = Command::new(&home.programs().klamm)
            .args(["node", "remove", &node.to_string(), "--lost"])
            .args(["--bootstrap", address])
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(began.elapsed() < GONE, "node {node} is not removed: {said}");
        sleep(PAUSE).await;
    }
}

/// How long a plain copy takes, until it is on the disk.
fn copy(folder: &Path) -> Result<Duration> {
    // What the page cache holds would not be read.
    if let Err(error) = super::consume::drop_page_cache() {
        eprintln!("the plain copy may come from the page cache: {error:#}");
    }
    let to = folder.with_extension("copy");
    let began = Instant::now();
    let copied = Command::new("cp").arg("-r").arg(folder).arg(&to).status()?;
    let synced = Command::new("sync").arg("-f").arg(&to).status()?;
    let took = began.elapsed();
    std::fs::remove_dir_all(&to)?;
    ensure!(copied.success() && synced.success(), "cp: {copied}");
    Ok(took)
}

/// Waits until both topics have all their replicas in sync.
async fn all_in_sync(client: &Client) -> Result<()> {
    let began = Instant::now();
    loop {
        let ballast = client.refresh_topic(BALLAST).await?;
        let behind = ballast.partitions.iter();
        let behind = behind.filter(|one| one.in_sync.len() < one.replicas.len());
        let behind = behind.count();
        if behind == 0 {
            return faults::in_sync(client).await;
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "{behind} partitions of {BALLAST} are not in sync"
        );
        sleep(PAUSE).await;
    }
}
