//! What groups at rest cost on three nodes. The figures, by hand:
//! `cargo test --release -p klamm-raft --test groups idle -- --ignored --nocapture --test-threads 1`

use std::time::{Duration, Instant};

use crate::cost::cpu;
use crate::fixture::*;
use crate::nodes::{Cluster, PING};

async fn all_led(cluster: &Cluster, groups: u64) -> Duration {
    let start = Instant::now();
    for group in 1..=groups {
        cluster.leader(group, None).await;
    }
    start.elapsed()
}

fn frames(cluster: &Cluster) -> u64 {
    let sent = |(_, running): (usize, &crate::nodes::Running)| running.peers.counters().frames_sent;
    cluster.running().map(sent).sum()
}

/// Frames per second of a cluster whose groups have come to rest, and how much CPU it takes.
async fn at_rest(cluster: &Cluster, seconds: u64) -> (f64, f64) {
    let (start, spent, sent) = (Instant::now(), cpu(), frames(cluster));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let took = start.elapsed().as_secs_f64();
    let used = (cpu() - spent).as_secs_f64();
    ((frames(cluster) - sent) as f64 / took, used / took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_at_rest_send_nothing_but_the_nodes_pings() {
    const GROUPS: u64 = 50;
    let cluster = Cluster::start(3, GROUPS).await;
    all_led(&cluster, GROUPS).await;
    for group in 1..=GROUPS {
        cluster.append(group, None, 100).await;
    }
    for group in 1..=GROUPS {
        cluster.agree(group).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (frames, _) = at_rest(&cluster, 2).await;
    // Six directions, a ping and its answer each; and a heartbeat of a group now and then.
    let pings = 6.0 * 2.0 / PING.as_secs_f64();
    assert!(
        frames < pings + 60.0,
        "{frames} frames/s, of which {pings} are pings"
    );
    // And a write after the rest goes through.
    cluster.append(1, None, 100).await;
    cluster.agree(1).await;
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_groups_at_rest_and_one_node_killed() {
    const GROUPS: u64 = 1_000;
    let mut cluster = Cluster::start_with(3, GROUPS, Duration::from_millis(100)).await;
    println!(
        "{GROUPS} groups led after {:?}",
        all_led(&cluster, GROUPS).await
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (frames, cores) = at_rest(&cluster, 20).await;
    println!(
        "at rest: {frames:.0} frames/s, {:.2} % of a core, three nodes",
        cores * 100.0
    );
    let mut led = 0;
    for group in 1..=GROUPS {
        led += usize::from(cluster.leader(group, None).await.0 == 0);
    }
    let running = cluster.run(0);
    running.peers.stop();
    let killed = Instant::now();
    let mut times = Vec::new();
    let mut waiting: Vec<u64> = (1..=GROUPS).collect();
    while !waiting.is_empty() && killed.elapsed() < Duration::from_secs(60) {
        let before = waiting.len();
        waiting.retain(|group| {
            let leads = |at: usize| cluster.run(at).group(*group).leadership().serving;
            !(leads(1) || leads(2))
        });
        times.resize(times.len() + before - waiting.len(), killed.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let lost = &times[times.len() - led..];
    println!(
        "{led} groups lost their leader; led again after p50 {:?}, p99 {:?}, all {:?}",
        lost[led / 2],
        lost[led * 99 / 100],
        lost.last()
    );
    cluster.kill(0).await;
}

#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_of_one_group_on_three_nodes() {
    for (bytes, outstanding) in [(1_000, 1), (1_000, 256), (100_000, 64)] {
        let cluster = Cluster::start_direct(3, 1).await;
        let (at, term) = cluster.leader(1, None).await;
        let group = cluster.run(at).group(1);
        let batch = batch(1, bytes);
        let (start, spent) = (Instant::now(), cpu());
        let mut pending = std::collections::VecDeque::new();
        let mut offset = 1;
        while start.elapsed() < Duration::from_secs(3) {
            if pending.len() >= outstanding {
                answer(pending.pop_front().unwrap()).await.unwrap();
            }
            let proposal = klamm_raft::Proposal::Batch {
                batch: batch.clone(),
                expected_offset: offset,
            };
            pending.push_back(propose(&group, term, proposal));
            offset += 1;
        }
        for pending in pending {
            answer(pending).await.unwrap();
        }
        let (took, used) = (start.elapsed().as_secs_f64(), (cpu() - spent).as_secs_f64());
        println!(
            "{bytes} B, {outstanding} outstanding: {:.0}/s, {:.1} MB/s, {:.1} us of CPU each, three nodes",
            offset as f64 / took,
            (offset as f64 * bytes as f64) / took / 1e6,
            used * 1e6 / offset as f64,
        );
        cluster.stop_and_compare(1).await;
    }
}
