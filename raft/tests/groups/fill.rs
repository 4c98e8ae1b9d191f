//! Replicas that are filled from their leader's segments, over loopback and on real disks. That it works at all leans
//! on openraft (checked for 0.10.0-alpha.37): it asks for a snapshot where its log is purged, installs what it gets
//! before it purges up to there, and appends nothing until then. A group for which any of that does not hold fails,
//! which ends these tests.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use klamm_raft::{FillProgress, Group, Proposal};
use klamm_records::{BatchBuilder, BatchHeader, NewRecord};
use klamm_storage::{Batch, CompactionRules, GroupLog};

use crate::fixture::*;
use crate::nodes::{Cluster, SILENCE};

/// The node that joins.
const NEW: usize = 3;

/// A leader that has purged `batches` batches of `bytes` bytes, and a few more entries.
async fn purged_cluster(groups: u64, batches: usize, bytes: usize) -> (Cluster, usize) {
    let cluster = Cluster::start(4, groups).await;
    for _ in 0..batches {
        cluster.append(1, None, bytes).await;
    }
    let leader = purge(&cluster).await;
    for _ in 0..3 {
        cluster.append(1, None, bytes).await;
    }
    (cluster, leader)
}

/// Has the leader of group 1 forget all entries; which node it is.
async fn purge(cluster: &Cluster) -> usize {
    loop {
        let (leader, _) = cluster.leader(1, None).await;
        let group = cluster.run(leader).group(1);
        let last = group.log().raft_state().last.unwrap();
        let held = || group.held_by_all().is_none_or(|end| end > last.index);
        eventually("all voters have it", held).await;
        group.purge(last.index).await.unwrap();
        if group.log().raft_state().purged == Some(last) {
            return leader;
        }
    }
}

fn incoming(group: &Group) -> Option<FillProgress> {
    group.fills().into_iter().find(|fill| fill.incoming)
}

/// Waits until about a third of the new node's log is there.
async fn until_a_third(cluster: &Cluster) -> u64 {
    let group = cluster.run(NEW).group(1);
    eventually("a third of the fill", || {
        incoming(&group).is_some_and(|fill| fill.bytes_done * 3 > fill.bytes_total)
    })
    .await;
    incoming(&group).unwrap().bytes_done
}

/// Batches of a log from its start, as a consumer reads them.
fn read_all(log: &GroupLog, end: i64) -> Vec<u8> {
    let (mut out, mut from) = (Vec::new(), log.start_offset());
    while from < end {
        let bytes = log.read(from, end, 1 << 20, true).unwrap();
        let mut rest = &bytes[..];
        while let Some(header) = BatchHeader::parse(rest) {
            from = header.next_offset();
            rest = &rest[header.total_len().unwrap()..];
        }
        out.extend_from_slice(&bytes);
    }
    out
}

/// Waits until the folder of group 1 holds the segments and nothing else: what a fill replaced is deleted behind its
/// completion.
async fn no_leftovers(cluster: &Cluster, at: usize) {
    let log = cluster.run(at).log(1);
    let leftovers = || {
        let segments = log.segments();
        let named: BTreeSet<_> = segments.iter().map(|s| s.path.clone()).collect();
        let files = std::fs::read_dir(log.dir()).unwrap();
        let mut paths = files.map(|entry| entry.unwrap().path());
        paths.any(|path| !named.contains(&path))
    };
    eventually("the segments alone", || !leftovers()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_of_a_purged_log_is_filled_promoted_and_leads() {
    let (cluster, leader) = purged_cluster(1, 60, 5_000).await;
    let group = cluster.run(leader).group(1);
    let purged = group.log().raft_state().purged;
    group.add_learner(cluster.nodes[NEW].id).await.unwrap();
    assert_eq!(cluster.agree(1).await, 63);
    let new = cluster.run(NEW);
    assert_eq!(new.log(1).raft_state().purged, purged);
    assert_eq!(*new.machine(1).restored.lock(), [60]);
    assert_eq!(new.machine(1).batches().len(), 3, "all else came as files");
    assert_eq!(new.log(1).epochs(), group.log().epochs());
    no_leftovers(&cluster, NEW).await;
    assert!(group.fills().is_empty() && new.group(1).fills().is_empty());

    let all: BTreeSet<_> = cluster.nodes.iter().map(|node| node.id).collect();
    group.change_voters(&all).await.unwrap();
    let leads = || new.group(1).leadership().serving;
    while !leads() {
        let (leader, _) = cluster.leader(1, None).await;
        let leader = cluster.run(leader).group(1);
        leader.transfer_leader(cluster.nodes[NEW].id).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    cluster.append(1, None, 500).await;
    assert_eq!(cluster.agree(1).await, 64);
    cluster.stop_and_compare(1).await;
}

/// A batch of one record with a key.
fn keyed(n: usize) -> Batch {
    let value = vec![b'v'; 3_000];
    let key = [b'k', (n % 7) as u8];
    let mut builder = BatchBuilder::new();
    let record = NewRecord {
        key: Some(&key),
        value: Some(&value),
        ..NewRecord::default()
    };
    builder.push(&record).unwrap();
    let bytes = builder.build().unwrap();
    let header = BatchHeader::parse(&bytes).unwrap();
    Batch { header, bytes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_log_is_filled_as_it_is() {
    let cluster = Cluster::start(4, 1).await;
    for n in 0..90 {
        let (leader, term) = cluster.leader(1, None).await;
        let group = cluster.run(leader).group(1);
        let proposal = Proposal::Batch {
            batch: keyed(n),
            expected_offset: group.log().end_offset(),
        };
        answer(propose(&group, term, proposal)).await.unwrap();
    }
    let leader = purge(&cluster).await;
    let log = cluster.run(leader).log(1);
    // The last records are in their file once they are written behind the journal.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let rules = CompactionRules {
        upto_offset: i64::MAX,
        committed_offset: log.end_offset(),
        now_ms: 1_000,
        delete_retention_ms: 1_000,
        map_bytes: 1 << 20,
        map_load_factor: 0.9,
        io_buffer_bytes: 1 << 16,
        decompress_budget: 1 << 20,
    };
    let before = log.size_bytes();
    log.compact(&rules, &mut |_| true).unwrap();
    assert!(log.size_bytes() < before / 2);
    let group = cluster.run(leader).group(1);
    group.add_learner(cluster.nodes[NEW].id).await.unwrap();
    let end = cluster.agree(1).await;
    let new = cluster.run(NEW).log(1);
    assert!(
        read_all(&new, end) == read_all(&log, end),
        "the same batches"
    );
    assert_eq!(new.compacted_offset(), log.compacted_offset());
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_which_retention_left_nothing_is_filled_with_nothing() {
    let cluster = Cluster::start(4, 1).await;
    for _ in 0..20 {
        cluster.append(1, None, 5_000).await;
    }
    let leader = purge(&cluster).await;
    let group = cluster.run(leader).group(1);
    let (moved, done) = tokio::sync::oneshot::channel();
    let moved = Box::new(move |result| drop(moved.send(result)));
    group.log().set_start_offset(20, moved);
    done.await.unwrap().unwrap();
    group.add_learner(cluster.nodes[NEW].id).await.unwrap();
    cluster.append(1, None, 100).await;
    assert_eq!(cluster.agree(1).await, 21);
    let new = cluster.run(NEW).log(1);
    assert_eq!((new.start_offset(), new.segments().len()), (20, 1));
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_goes_on_after_a_lost_connection() {
    let (cluster, leader) = purged_cluster(1, 60, 10_000).await;
    cluster.run(leader).groups.set_fill_rate(150_000);
    let group = cluster.run(leader).group(1);
    group.add_learner(cluster.nodes[NEW].id).await.unwrap();
    let there = until_a_third(&cluster).await;
    cluster.cut(leader, NEW, true);
    tokio::time::sleep(SILENCE * 4).await;
    cluster.cut(leader, NEW, false);
    let new = cluster.run(NEW).group(1);
    let kept = || incoming(&new).is_none_or(|fill| fill.bytes_done >= there);
    eventually("more of it", || {
        assert!(kept(), "{:?} of {there}", incoming(&new));
        incoming(&new).is_none_or(|fill| fill.bytes_done > there + 100_000)
    })
    .await;
    cluster.run(leader).groups.set_fill_rate(0);
    assert_eq!(cluster.agree(1).await, 63);
    no_leftovers(&cluster, NEW).await;
    cluster.stop_and_compare(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_begins_anew_after_a_restart_of_either_end() {
    for restarts_leader in [false, true] {
        let (mut cluster, leader) = purged_cluster(1, 60, 10_000).await;
        cluster.run(leader).groups.set_fill_rate(150_000);
        let group = cluster.run(leader).group(1);
        group.add_learner(cluster.nodes[NEW].id).await.unwrap();
        drop(group);
        until_a_third(&cluster).await;
        let restarted = if restarts_leader { leader } else { NEW };
        cluster.kill(restarted).await;
        cluster.boot(restarted).await;
        for (_, running) in cluster.running() {
            running.groups.set_fill_rate(0);
        }
        cluster.append(1, None, 100).await;
        assert_eq!(cluster.agree(1).await, 64);
        if !restarts_leader {
            no_leftovers(&cluster, NEW).await;
        }
        cluster.stop_and_compare(1).await;
    }
}

/// Fills the new node with `batches` batches while records are appended to this group and to another one; how long the
/// fill took and how many bytes came, and how long an append to the other group took before and meanwhile.
async fn fill_under_load(
    rate: u64,
    batches: usize,
    bytes: usize,
) -> (Duration, u64, [Duration; 3]) {
    let (cluster, leader) = purged_cluster(2, batches, bytes).await;
    let mut waits = Vec::new();
    for _ in 0..50 {
        waits.push(append_to_another(&cluster).await);
    }
    let calm = median(&mut waits);
    cluster.run(leader).groups.set_fill_rate(rate);
    let group = cluster.run(leader).group(1);
    let new = cluster.run(NEW).group(1);
    let (begun, total) = (Instant::now(), group.log().size_bytes());
    group.add_learner(cluster.nodes[NEW].id).await.unwrap();
    let mut waits = Vec::new();
    while new.log().raft_state().purged.is_none() {
        waits.push(append_to_another(&cluster).await);
        cluster.append(1, None, 1_000).await;
    }
    let took = begun.elapsed();
    cluster.agree(1).await;
    cluster.stop_and_compare(1).await;
    let worst = waits.iter().max().copied().unwrap_or_default();
    (took, total, [calm, median(&mut waits), worst])
}

async fn append_to_another(cluster: &Cluster) -> Duration {
    let begun = Instant::now();
    cluster.append(2, None, 1_000).await;
    begun.elapsed()
}

fn median(waits: &mut [Duration]) -> Duration {
    waits.sort();
    waits.get(waits.len() / 2).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_holds_its_rate() {
    const RATE: u64 = 400_000;
    let (took, total, waits) = fill_under_load(RATE, 120, 10_000).await;
    let rate = total as f64 / took.as_secs_f64();
    println!("{total} bytes at {rate:.0}/s; an append before, meanwhile, at most: {waits:?}");
    assert!(rate < RATE as f64 * 1.2, "{rate} B/s");
    assert!(rate > RATE as f64 * 0.3, "{rate} B/s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_without_a_rate_holds_nobody_up() {
    let (took, total, waits) = fill_under_load(0, 400, 100_000).await;
    println!("{total} bytes in {took:?}; an append before, meanwhile, at most: {waits:?}");
    let [calm, meanwhile, _] = waits;
    assert!(
        meanwhile < calm * 5 + Duration::from_millis(50),
        "{waits:?}"
    );
}

/// openraft asks for a snapshot, too, where a leader whose log is purged to its end does not know yet what its
/// followers have. Nothing is copied then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_has_the_log_is_not_filled() {
    let mut cluster = Cluster::start(3, 1).await;
    for _ in 0..10 {
        cluster.append(1, None, 5_000).await;
    }
    cluster.agree(1).await;
    for (_, running) in cluster.running() {
        let group = running.group(1);
        let last = group.log().raft_state().last.unwrap();
        group.purge(last.index).await.unwrap();
    }
    for at in (0..3).rev() {
        cluster.kill(at).await;
    }
    for at in 0..3 {
        cluster.boot(at).await;
    }
    cluster.append(1, None, 100).await;
    assert_eq!(cluster.agree(1).await, 11);
    for (at, running) in cluster.running() {
        assert!(running.machine(1).restored.lock().is_empty(), "node {at}");
    }
    cluster.stop_and_compare(1).await;
}

/// What a learner lacks that is gone for long is not kept; it is filled again when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_was_gone_is_filled_again() {
    let (mut cluster, leader) = purged_cluster(1, 20, 5_000).await;
    let group = cluster.run(leader).group(1);
    group.add_learner(cluster.nodes[NEW].id).await.unwrap();
    drop(group);
    cluster.agree(1).await;
    cluster.kill(NEW).await;
    for _ in 0..20 {
        cluster.append(1, None, 5_000).await;
    }
    purge(&cluster).await;
    cluster.boot(NEW).await;
    assert_eq!(cluster.agree(1).await, 43);
    assert_eq!(*cluster.run(NEW).machine(1).restored.lock(), [43]);
    no_leftovers(&cluster, NEW).await;
    cluster.stop_and_compare(1).await;
}

/// A group that does not wait for voters that are gone: they are filled, too, and may lead afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_was_gone_is_filled_where_nothing_is_kept_for_it() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 5_000).await;
    cluster.agree(1).await;
    let (leader, _) = cluster.leader(1, None).await;
    let away = (leader + 1) % 3;
    cluster.kill(away).await;
    for _ in 0..20 {
        cluster.append(1, Some(away), 5_000).await;
    }
    for (_, running) in cluster.running() {
        running
            .machine(1)
            .keeps_for_absent
            .store(false, Ordering::SeqCst);
    }
    let (leader, _) = cluster.leader(1, Some(away)).await;
    let group = cluster.run(leader).group(1);
    let last = group.log().raft_state().last.unwrap();
    eventually("the node is missed", || {
        group.held_by_all().is_some_and(|end| end > last.index)
    })
    .await;
    group.purge(last.index).await.unwrap();
    assert_eq!(group.log().raft_state().purged, Some(last));
    drop(group);
    cluster.append(1, Some(away), 5_000).await;
    cluster.boot(away).await;
    assert_eq!(cluster.agree(1).await, 22);
    assert_eq!(*cluster.run(away).machine(1).restored.lock(), [21]);
    // It has what it takes to lead.
    let group = cluster.run(leader).group(1);
    let to = cluster.nodes[away].id;
    let led = || cluster.run(away).group(1).leadership().serving;
    group.transfer_leader(to).await.unwrap();
    eventually("it leads", led).await;
    drop(group);
    cluster.append(1, None, 5_000).await;
    cluster.stop_and_compare(1).await;
}
