//! A leader whose log has rotted where another replica needs it: somebody else leads, and nobody's process ends.

use std::path::PathBuf;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use klamm_raft::Proposal;

use crate::fixture::*;
use crate::nodes::Cluster;

/// More than a start looks at.
const ENTRIES: usize = 240;
/// The damaged segment.
const ROTTEN: usize = 1;

/// Flips a bit in the middle of a segment far from the log's end.
fn rot(segments: &[(i64, PathBuf, u64)]) {
    assert!(segments.len() > 4, "{segments:?}");
    let (_, path, size) = &segments[ROTTEN];
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(*size).unwrap() / 2] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn segments(cluster: &Cluster, at: usize) -> Vec<(i64, PathBuf, u64)> {
    let segments = cluster.run(at).log(1).segments();
    let parts = segments.into_iter();
    parts
        .map(|s| (s.base_offset, s.path, s.size_bytes))
        .collect()
}

/// Many proposals at a time, until one is refused.
async fn write_while_it_leads(cluster: &Cluster, leader: usize) {
    let group = cluster.run(leader).group(1);
    let term = group.leadership().term;
    let mut expected_offset = cluster.run(leader).log(1).end_offset();
    let mut under_way = FuturesOrdered::new();
    loop {
        while under_way.len() < 16 {
            let batch = batch(1, 100);
            let proposal = Proposal::Batch {
                batch,
                expected_offset,
            };
            expected_offset += 1;
            under_way.push_back(answer(propose(&group, term, proposal)));
        }
        if let Some(Err(_)) = under_way.next().await {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_send_what_a_follower_needs_hands_on() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    cluster.agree(1).await;
    let (leader, _) = cluster.leader(1, None).await;
    let [behind, whole] = [1, 2].map(|n| (leader + n) % 3);
    cluster.kill(behind).await;
    for _ in 0..ENTRIES {
        cluster.append(1, None, 2_000).await;
    }
    cluster.agree(1).await;
    // Nothing of it stays in memory.
    let files = segments(&cluster, leader);
    cluster.kill(leader).await;
    rot(&files);
    cluster.boot(leader).await;
    let damaged = cluster.nodes[leader].id;
    let (leads, _) = cluster.leader(1, None).await;
    if leads != leader {
        let there = cluster.run(leads).group(1);
        there.transfer_leader(damaged).await.unwrap();
    }
    eventually("the damaged one leads", || {
        cluster.run(leader).group(1).leads()
    })
    .await;
    cluster.boot(behind).await;
    // Under load nobody has all of the log at any moment.
    let another_leads = eventually("another one leads", || cluster.run(whole).group(1).leads());
    tokio::join!(another_leads, write_while_it_leads(&cluster, leader));
    cluster.append(1, None, 100).await;
    cluster.agree(1).await;
    cluster.shut_down().await;
}

/// What it alone has was acknowledged to nobody. The others agree on a log without it, as soon as both are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_send_what_nobody_else_has_gives_way() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    cluster.agree(1).await;
    let (leader, term) = cluster.leader(1, None).await;
    let others = [1, 2].map(|n| (leader + n) % 3);
    cluster.isolate(leader, true);
    let group = cluster.run(leader).group(1);
    let before = cluster.run(leader).log(1).end_offset();
    let upto = before + i64::try_from(ENTRIES).unwrap();
    for expected_offset in before..upto {
        let batch = batch(1, 2_000);
        let proposal = Proposal::Batch {
            batch,
            expected_offset,
        };
        // Who asked is not told: it is not decided.
        drop(propose(&group, term, proposal));
    }
    eventually("it is in the log", || {
        cluster.run(leader).log(1).end_offset() == upto
    })
    .await;
    let files = segments(&cluster, leader);
    drop(group);
    for at in 0..3 {
        cluster.kill(at).await;
    }
    rot(&files);
    cluster.isolate(leader, false);
    cluster.boot(leader).await;
    cluster.boot(others[0]).await;
    eventually("the damaged one leads", || {
        cluster.run(leader).group(1).leads()
    })
    .await;
    cluster.boot(others[1]).await;
    cluster.append(1, None, 100).await;
    cluster.agree(1).await;
    cluster.shut_down().await;
}

/// With nobody to hand on to, the replica that needs the rest waits, and what is whole is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_goes_on_with_what_is_whole() {
    const HERE: usize = 0;
    const THERE: usize = 1;
    let mut cluster = Cluster::start_single().await;
    for _ in 0..ENTRIES {
        cluster.append(1, None, 2_000).await;
    }
    let files = segments(&cluster, HERE);
    cluster.kill(HERE).await;
    rot(&files);
    cluster.boot(HERE).await;
    cluster.leader(1, None).await;
    let here = cluster.run(HERE).group(1);
    here.add_learner(cluster.nodes[THERE].id).await.unwrap();
    let there = || cluster.run(THERE).log(1).end_offset();
    let rotten = files[ROTTEN].0;
    eventually("what lies before the damage", || there() >= rotten).await;
    for _ in 0..3 {
        cluster.append(1, None, 100).await;
    }
    assert!(there() < files[ROTTEN + 1].0, "{}", there());
    assert!(here.leads());
    cluster.shut_down().await;
}
