//! What groups cost. Run by hand:
//! `cargo test --release -p klamm-raft --test groups cost -- --ignored --nocapture --test-threads 1`

use std::time::{Duration, Instant};

use klamm_raft::{Groups, Proposal};

use crate::fixture::*;

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
fn cpu() -> Duration {
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
    let store = open_store(false);
    let logs: Vec<_> = (1..=GROUPS)
        .map(|group| create_log(&store, group))
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
    groups.shutdown().await;
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_of_proposals() {
    for outstanding in [1, 16, 256] {
        let store = open_store(false);
        let (groups, _) = groups();
        measure(&groups, create_log(&store, 1), outstanding).await;
        groups.shutdown().await;
    }
}

async fn measure(groups: &Groups, log: klamm_storage::GroupLog, outstanding: usize) {
    let machine = Recorder::new(false);
    let group = groups.open(log, alone(), machine.clone()).await.unwrap();
    let term = machine.serving().await;
    let batch = batch(1, 1_000);
    let (permits, mut offset) = (
        std::sync::Arc::new(tokio::sync::Semaphore::new(outstanding)),
        0,
    );
    let (start, spent) = (Instant::now(), cpu());
    while start.elapsed() < Duration::from_secs(2) {
        let permit = permits.clone().acquire_owned().await.unwrap();
        let proposal = Proposal::Batch {
            batch: batch.clone(),
            expected_offset: offset,
        };
        group.propose(
            term,
            proposal,
            Box::new(move |result| drop((result.unwrap(), permit))),
        );
        offset += 1;
    }
    let _all = permits
        .acquire_many(u32::try_from(outstanding).unwrap())
        .await
        .unwrap();
    let (took, spent) = (start.elapsed().as_secs_f64(), (cpu() - spent).as_secs_f64());
    let count = offset as f64;
    println!(
        "{outstanding} outstanding: {:.0}/s, {:.2} us of CPU each",
        count / took,
        spent * 1e6 / count
    );
}
