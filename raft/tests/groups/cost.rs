//! What groups cost. Run by hand:
//! `cargo test --release -p klamm-raft --test groups cost -- --ignored --nocapture --test-threads 1`

use std::sync::Arc;
use std::time::{Duration, Instant};

use klamm_raft::{Groups, Proposal, ProposeError};
use klamm_records::{EntryId, GroupId};
use klamm_storage::{GroupLog, LogSettings, RealDisk, Store, StoreOptions, SystemClock};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::fixture::*;

fn open_real(dir: &std::path::Path) -> Store {
    let options = StoreOptions {
        reserve_bytes: 0,
        ..StoreOptions::new(dir)
    };
    Store::open(
        options,
        Arc::new(RealDisk),
        Arc::new(SystemClock::default()),
    )
    .unwrap()
    .0
}

/// A log with Kafka's default settings.
fn create_default_log(store: &Store, group: u64) -> GroupLog {
    store
        .create_group(
            GroupId(group),
            &format!("group-{group}"),
            LogSettings::default(),
        )
        .unwrap()
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU time of this process so far.
pub(crate) fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_idle_cpu_of_groups() {
    const GROUPS: u64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open_real(dir.path());
    let logs: Vec<_> = (1..=GROUPS)
        .map(|group| create_default_log(&store, group))
        .collect();
    let (groups, _) = groups();
    let before = resident_kib();
    for log in &logs {
        let machine = Recorder::new(false);
        groups
            .open(log.clone(), alone(), machine.clone())
            .await
            .unwrap();
        machine.serving().await;
    }
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    println!(
        "per idle group: {} KiB resident, {} tasks",
        (resident_kib() - before) / GROUPS,
        tasks as u64 / GROUPS
    );
    let (start, spent) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("idle: {:?} of CPU in {:?}", cpu() - spent, start.elapsed());
    for log in &logs {
        let group = groups.get(log.group()).unwrap();
        let term = group.leadership().term;
        for first in (0..5_000).step_by(100) {
            let proposals = (first..first + 100).map(|expected_offset| {
                propose(
                    &group,
                    term,
                    Proposal::Batch {
                        batch: batch(1, 10),
                        expected_offset,
                    },
                )
            });
            for pending in proposals.collect::<Vec<_>>() {
                answer(pending).await.unwrap();
            }
        }
        if log.group().0 == 50 {
            break;
        }
    }
    println!(
        "50 of them used: {} KiB resident in all",
        resident_kib() - before
    );
    groups.shutdown().await;
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_of_proposals() {
    for outstanding in [1, 16, 256] {
        let dir = tempfile::tempdir().unwrap();
        let store = open_real(dir.path());
        let (groups, _) = groups();
        measure(&groups, create_default_log(&store, 1), outstanding).await;
        groups.shutdown().await;
    }
}

async fn measure(groups: &Groups, log: GroupLog, outstanding: usize) {
    let machine = Recorder::new(false);
    let group = groups.open(log, alone(), machine.clone()).await.unwrap();
    let term = machine.serving().await;
    let batch = batch(1, 1_000);
    let permits = Arc::new(Semaphore::new(outstanding));
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let (start, spent, mut offset) = (Instant::now(), cpu(), 0);
    while start.elapsed() < Duration::from_secs(2) {
        let permit = permits.clone().acquire_owned().await.unwrap();
        let proposal = Proposal::Batch {
            batch: batch.clone(),
            expected_offset: offset,
        };
        let (latencies, proposed) = (latencies.clone(), Instant::now());
        let done = Box::new(move |result: Result<EntryId, ProposeError>| {
            latencies.lock().push(proposed.elapsed());
            drop((result.unwrap(), permit));
        });
        group.propose(term, proposal, done);
        offset += 1;
    }
    let _all = permits
        .acquire_many(u32::try_from(outstanding).unwrap())
        .await
        .unwrap();
    let (took, spent) = (start.elapsed().as_secs_f64(), (cpu() - spent).as_secs_f64());
    let mut latencies = std::mem::take(&mut *latencies.lock());
    latencies.sort();
    let (p50, p99) = (
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    let count = offset as f64;
    println!(
        "{outstanding} outstanding: {:.0}/s, p50 {p50:?}, p99 {p99:?}, {:.2} us of CPU each",
        count / took,
        spent * 1e6 / count
    );
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_of_many_groups_with_one_proposal_each() {
    const GROUPS: u64 = 500;
    let dir = tempfile::tempdir().unwrap();
    let store = open_real(dir.path());
    let (groups, _) = groups();
    let mut opened = Vec::new();
    for id in 1..=GROUPS {
        let machine = Recorder::new(false);
        let log = create_default_log(&store, id);
        let group = groups.open(log, alone(), machine.clone()).await.unwrap();
        opened.push((group, machine.serving().await));
    }
    let (start, spent, mut count) = (Instant::now(), cpu(), 0);
    while start.elapsed() < Duration::from_secs(3) {
        let proposals = opened.iter().map(|(group, term)| {
            let expected_offset = group.log().end_offset();
            propose(
                group,
                *term,
                Proposal::Batch {
                    batch: batch(1, 1_000),
                    expected_offset,
                },
            )
        });
        for pending in proposals.collect::<Vec<_>>() {
            answer(pending).await.unwrap();
            count += 1;
        }
    }
    let (took, spent) = (start.elapsed().as_secs_f64(), (cpu() - spent).as_secs_f64());
    let count = f64::from(count);
    println!(
        "{GROUPS} groups, one each: {:.0}/s, {:.2} us of CPU each",
        count / took,
        spent * 1e6 / count
    );
    groups.shutdown().await;
}
