//! A process that runs out of file descriptors, and directories in which nothing can be made: what was
//! acknowledged stays, and who behaves is served again as soon as there is something to serve with.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::Client;
use klamm_tests::broker::{Broker, free_port};
use klamm_tests::load::{self, Load};
use klamm_tests::volume::Volume;

const PRODUCERS: u32 = 3;
/// Connections that nobody can accept.
const KNOCKING: usize = 200;
const SETTINGS: [&str; 2] = ["--set", "klamm.disk.reserve.bytes=33554432"];
/// Many checkpoints, which open files.
const SMALL_CHECKPOINTS: [&str; 4] = [
    "--set",
    "klamm.disk.reserve.bytes=33554432",
    "--set",
    "klamm.checkpoint.bytes=4194304",
];

/// Waits until so many more records are acknowledged.
async fn acknowledge(load: &mut Load, count: u64) -> Result<()> {
    let (before, began) = (load.acknowledged(), Instant::now());
    while load.acknowledged() < before + count {
        load.check_alive().await?;
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "only {} of {count} were acknowledged",
            load.acknowledged() - before
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_newcomers_are_turned_away_and_clients_are_served() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let port = free_port()?;
    let broker = Broker::start(&data, port, &SETTINGS)?;
    let address = broker.address.clone();
    load::create_topic(&address).await?;
    let mut load = Load::start(&address, PRODUCERS);
    acknowledge(&mut load, 500).await?;
    let turned_away = |broker: &Broker| {
        let refused = broker.metric("klamm_protocol_rejects_total{kind=\"descriptors\"}")?;
        anyhow::Ok(refused + broker.metric("klamm_accept_failures_total")?)
    };
    let before = turned_away(&broker)?;
    let limit = broker.limit_descriptors(broker.descriptors()? + 2)?;
    let knocking: Vec<_> = (0..KNOCKING)
        .map(|_| TcpStream::connect(&address))
        .collect::<Result<_, _>>()?;
    // Segments roll meanwhile: files that are kept open make room for new ones.
    acknowledge(&mut load, 3_000).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(knocking);
    broker.limit_descriptors(limit)?;
    let began = Instant::now();
    Client::connect(&address, load::patient())
        .await?
        .refresh_topic(load::TOPIC)
        .await?;
    ensure!(
        began.elapsed() < Duration::from_secs(5),
        "a new client waited for {:?}",
        began.elapsed()
    );
    let turned_away = turned_away(&broker)? - before;
    ensure!(
        (1.0..=KNOCKING as f64 + 100.0).contains(&turned_away),
        "{turned_away} were turned away, or tried again without a pause"
    );
    acknowledge(&mut load, 500).await?;
    let history = load.finish().await?;
    load::check(&address, &history).await?;
    broker.kill()?;
    let broker = Broker::start(&data, port, &SETTINGS)?;
    let records = load::check(&address, &history).await?;
    ensure!(records == history.len(), "{records} of {}", history.len());
    let (_, clean) = broker.stop()?;
    ensure!(clean, "the stop was not clean");
    Ok(())
}

/// Waits until the process ends by itself, or has gone on for so long that it will not.
fn end(broker: Broker, within: Duration) -> Result<bool> {
    let until = Instant::now() + within;
    let pid = broker.pid();
    while Instant::now() < until {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with('Z'))
        {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    broker.kill()?;
    Ok(false)
}

/// Breaks something under load, lets the process end or ends it, mends, starts again and judges.
async fn broken(
    data: &Path,
    breaking: impl FnOnce(&Broker) -> Result<()>,
    mending: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let port = free_port()?;
    let broker = Broker::start(data, port, &SMALL_CHECKPOINTS)?;
    let address = broker.address.clone();
    load::create_topic(&address).await?;
    let mut load = Load::start(&address, PRODUCERS);
    acknowledge(&mut load, 500).await?;
    breaking(&broker)?;
    let by_itself = tokio::task::spawn_blocking(|| end(broker, Duration::from_secs(20))).await??;
    println!("the process ended by itself: {by_itself}");
    mending()?;
    let broker = Broker::start(data, port, &SMALL_CHECKPOINTS)?;
    acknowledge(&mut load, 500).await?;
    let history = load.finish().await?;
    let records = load::check(&address, &history).await?;
    ensure!(records == history.len(), "{records} of {}", history.len());
    let (_, clean) = broker.stop()?;
    ensure!(clean, "the stop was not clean");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_can_open_nothing_for_long_loses_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let breaking = |broker: &Broker| broker.limit_descriptors(3).map(drop);
    broken(&dir.path().join("data"), breaking, || Ok(())).await
}

/// Directories below `dir`, itself included.
fn directories(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![dir.to_owned()];
    let mut at = 0;
    while let Some(dir) = found.get(at).cloned() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        at += 1;
    }
    Ok(found)
}

/// Makes directories such that nobody, not even root, can make or remove anything in them, or undoes
/// it.
fn chattr(change: &str, dirs: &[PathBuf]) -> Result<()> {
    let output = Command::new("chattr").arg(change).args(dirs).output();
    let output = output.context("chattr is not installed")?;
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "chattr: {why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_became_read_only_lose_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(volume) = Volume::or_skip(dir.path(), 2 << 10) else {
        return Ok(());
    };
    let data = volume.path().join("data");
    let breaking = |_: &Broker| chattr("+i", &directories(&data)?);
    let mending = || chattr("-i", &directories(&data)?);
    broken(&data, breaking, mending).await
}
