//! The purge that leans on openraft's snapshots: a snapshot far below what is applied, and a log that goes on.

use klamm_records::EntryId;

use crate::fixture::*;
use crate::nodes::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_below_applied_and_goes_on() {
    let store = Computer::new().open();
    let log = create_log(&store, 1);
    let (first, fatal) = groups();
    let machine = Recorder::new(false);
    let group = first
        .open(log.clone(), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    let mut last = EntryId { term, index: 0 };
    for _ in 0..1_050 {
        last = append_one(&group, term).await;
    }
    eventually("apply", || machine.batches().len() == 1_050).await;

    for index in [600, 600, 400, 700] {
        group.purge(index).await.unwrap();
        assert!(log.raft_state().purged.unwrap().index >= index);
    }
    assert_eq!(log.raft_state().purged.unwrap().index, 700);
    assert_eq!(log.raft_state().last, Some(last), "nothing above is lost");
    assert_eq!(group.members().0, alone().unwrap());
    assert_eq!(log.start_offset(), 0, "records outlive their entries");
    assert!(
        log.read(0, 10, 100, true)
            .is_ok_and(|read| !read.is_empty())
    );
    let next = append_one(&group, term).await;
    assert_eq!(next.index, last.index + 1);
    eventually("apply", || machine.batches().len() == 1_051).await;
    first.shutdown().await;
    assert!(fatal.lock().is_empty());

    for wants_data in [false, true] {
        let (groups, fatal) = groups();
        let machine = Recorder::new(wants_data);
        let group = groups
            .open(log.clone(), alone(), machine.clone())
            .await
            .unwrap();
        let term = machine.serving().await;
        assert_eq!(machine.committed(), log.end_offset());
        assert_eq!(
            group.members().0,
            alone().unwrap(),
            "the membership outlives its entry"
        );
        append_one(&group, term).await;
        let state = log.raft_state();
        group.purge(state.last.unwrap().index).await.unwrap();
        groups.shutdown().await;
        assert!(fatal.lock().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_everything_applied_at_most() {
    let store = Computer::new().open();
    let log = create_log(&store, 1);
    let (first, _) = groups();
    let machine = Recorder::new(false);
    let group = first
        .open(log.clone(), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    let last = append_one(&group, term).await;
    eventually("metrics", || group.progress().committed_index == last.index).await;
    eventually("apply", || machine.batches().len() == 1).await;
    group.purge(u64::MAX).await.unwrap();
    let purged = log.raft_state().purged.unwrap();
    assert!(purged.index <= last.index);
    append_one(&group, term).await;
    first.shutdown().await;

    let (second, fatal) = groups();
    let machine = Recorder::new(false);
    let group = second.open(log, None, machine.clone()).await.unwrap();
    let term = machine.serving().await;
    append_one(&group, term).await;
    second.shutdown().await;
    assert!(fatal.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_purged_last_is_named_with_its_own_term() {
    let store = Computer::new().open();
    let log = create_log(&store, 1);
    let mut appended = Vec::new();
    for round in 0..2 {
        let (groups, fatal) = groups();
        let machine = Recorder::new(false);
        let group = groups
            .open(log.clone(), alone(), machine.clone())
            .await
            .unwrap();
        let term = machine.serving().await;
        for _ in 0..10 {
            appended.push(append_one(&group, term).await);
        }
        eventually("apply", || machine.batches().len() == 10).await;
        if round == 1 {
            let earlier = appended[9];
            assert!(earlier.term < term);
            group.purge(earlier.index).await.unwrap();
            assert_eq!(log.raft_state().purged, Some(earlier));
        }
        groups.shutdown().await;
        assert!(fatal.lock().is_empty());
    }
    let (groups, fatal) = groups();
    let machine = Recorder::new(false);
    let group = groups.open(log, None, machine.clone()).await.unwrap();
    append_one(&group, machine.serving().await).await;
    groups.shutdown().await;
    assert!(fatal.lock().is_empty());
}

/// What a voter lacks is kept. A learner without a log is filled from the segments, so nothing is kept for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_purged_that_a_voter_lacks() {
    let mut cluster = Cluster::start(4, 1).await;
    for _ in 0..5 {
        cluster.append(1, None, 100).await;
    }
    cluster.isolate(3, true);
    let (leader, _) = cluster.leader(1, None).await;
    let absent = (0..3).find(|at| *at != leader).unwrap();
    cluster.kill(absent).await;
    for _ in 0..5 {
        cluster.append(1, None, 100).await;
    }
    let (leader, _) = cluster.leader(1, None).await;
    let group = cluster.run(leader).group(1);
    group.add_learner(cluster.nodes[3].id).await.unwrap();
    eventually("the learner is counted", || {
        let matched = group.progress().matched;
        matched.iter().any(|(node, _)| *node == cluster.nodes[3].id)
    })
    .await;
    let held = group.held_by_all().unwrap();
    let last = group.log().raft_state().last.unwrap();
    assert!(held < last.index, "{held} of {last:?}");
    group.purge(u64::MAX).await.unwrap();
    let purged = group.log().raft_state().purged;
    assert_eq!(purged.map_or(0, |id| id.index + 1), held);
    cluster.boot(absent).await;
    cluster.isolate(3, false);
    assert_eq!(cluster.agree(1).await, 10);
    cluster.stop_and_compare(1).await;
}
