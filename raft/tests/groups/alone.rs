//! A group with one member, which is led without openraft: what it leaves, and how it gets others.

use std::collections::BTreeSet;

use bytes::Bytes;
use klamm_raft::{Proposal, ProposeError};

use crate::fixture::*;
use crate::nodes::Cluster;

/// A machine that wants data is always run by openraft, one that does not by nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_takes_up_the_log_that_the_other_left() {
    let store = Computer::new().open();
    let log = create_log(&store, 1);
    let mut terms = Vec::new();
    let mut batches = 0;
    for wants_data in [false, true, true, false, false, true] {
        let (groups, fatal) = groups();
        let machine = Recorder::new(wants_data);
        let group = groups
            .open(log.clone(), alone(), machine.clone())
            .await
            .unwrap();
        let term = machine.serving().await;
        assert_eq!(
            machine.committed(),
            batches,
            "all that was there is committed"
        );
        terms.push(term);
        for _ in 0..3 {
            assert_eq!(append_one(&group, term).await.term, term);
            batches += 1;
        }
        let seen = if wants_data { batches } else { 3 };
        eventually("apply", || machine.batches().len() as i64 == seen).await;
        let vote = log.raft_state().vote.unwrap();
        assert_eq!((vote.term, vote.node, vote.committed), (term, NODE.0, true));
        assert_eq!(group.members().0, alone().unwrap());
        groups.shutdown().await;
        assert!(fatal.lock().is_empty());
    }
    assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    // The voters, an entry for each term, and the batches.
    let last = log.raft_state().last.unwrap();
    assert_eq!(last.index + 1, 1 + 6 + 18);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_batches_are_applied_in_the_order_of_the_log() {
    let store = Computer::new().open();
    let (groups, fatal) = groups();
    let machine = Recorder::new(false);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    let mut answers = Vec::new();
    for n in 0..400_i64 {
        let proposal = match n % 4 {
            0 => Proposal::Command(Bytes::from(n.to_string())),
            _ => Proposal::Batch {
                batch: batch(1, 10),
                expected_offset: group.log().end_offset(),
            },
        };
        answers.push(propose(&group, term, proposal));
    }
    for pending in answers {
        answer(pending).await.unwrap();
    }
    eventually("apply", || machine.applied.lock().len() == 402).await;
    let applied = machine.applied.lock().clone();
    assert!(applied.is_sorted_by(|a, b| a.id.index + 1 == b.id.index));
    assert_eq!(machine.batches().len(), 300);
    let last = applied.last().unwrap().id.index;
    eventually("progress", || group.progress().committed_index == last).await;

    group.purge(last - 10).await.unwrap();
    let purged = group.log().raft_state().purged.unwrap();
    assert_eq!(purged.index, last - 10);
    groups.shutdown().await;
    assert!(fatal.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_panics_ends_the_group() {
    let store = Computer::new().open();
    let (groups, fatal) = groups();
    let machine = Recorder::new(false);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    let command = Proposal::Command(Bytes::from(PANIC));
    // Committed before it is applied.
    answer(propose(&group, term, command)).await.unwrap();
    eventually("the fatal hook", || !fatal.lock().is_empty()).await;
    let refused = answer(propose(&group, term, Proposal::Command(Bytes::new()))).await;
    assert!(matches!(refused, Err(ProposeError::Stopped)), "{refused:?}");
    assert_eq!(fatal.lock().len(), 1);
    groups.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_gets_another_member_while_it_is_written_to() {
    let cluster = Cluster::start_single().await;
    let (_, alone_in) = cluster.leader(1, None).await;
    let group = cluster.run(0).group(1);
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id).collect();
    let written = async {
        let mut ids = Vec::new();
        while group.members().0.len() < 2 || ids.len() < 50 {
            ids.push(cluster.append(1, None, 500).await);
        }
        ids
    };
    let grown = async {
        while group.log().end_offset() < 10 {
            tokio::task::yield_now().await;
        }
        group.add_learner(ids[1]).await.unwrap();
        let voters: BTreeSet<_> = ids.iter().copied().collect();
        group.change_voters(&voters).await.unwrap();
        assert_eq!(group.members().0, voters);
    };
    let (acknowledged, ()) = futures::join!(written, grown);
    let (_, together_in) = cluster.leader(1, None).await;
    assert!(together_in > alone_in);
    assert!(acknowledged.is_sorted_by(|a, b| a.index < b.index));
    assert!(acknowledged.iter().any(|id| id.term == alone_in));
    assert!(acknowledged.iter().any(|id| id.term == together_in));
    assert_eq!(
        cluster.agree(1).await,
        i64::try_from(acknowledged.len()).unwrap()
    );
    cluster.stop_and_compare(1).await;
}

/// Two wishes at once, and nobody who waits for the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_nobody_waits_for_leaves_a_group_that_serves() {
    let cluster = Cluster::start_single().await;
    cluster.append(1, None, 10).await;
    let group = cluster.run(0).group(1);
    let second = cluster.nodes[1].id;
    let given_up = futures::FutureExt::now_or_never(group.add_learner(second));
    assert!(given_up.is_none(), "it waits");
    group.add_learner(second).await.unwrap();
    cluster.append(1, None, 10).await;
    assert_eq!(group.members().1, BTreeSet::from([second]));
    cluster.agree(1).await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_closed_while_it_is_handed_over_is_closed() {
    let cluster = Cluster::start_single().await;
    cluster.append(1, None, 10).await;
    let group = cluster.run(0).group(1);
    let second = cluster.nodes[1].id;
    let (_, ()) = futures::join!(
        tokio::time::timeout(PATIENCE, group.add_learner(second)),
        cluster.shut_down()
    );
    let proposal = Proposal::Command(Bytes::new());
    let refused = answer(propose(&group, group.leadership().term, proposal)).await;
    assert!(matches!(refused, Err(ProposeError::Stopped)), "{refused:?}");
}
