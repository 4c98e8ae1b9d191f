//! Three nodes over loopback, on real disks: what is acknowledged survives what happens to nodes and wires.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use klamm_raft::{Proposal, ProposeError};
use klamm_records::EntryId;
use klamm_storage::Payload;

use crate::fixture::*;
use crate::nodes::{Cluster, ELECTION, SILENCE};

/// Every acknowledged entry is in the log of every node that runs.
fn assert_held(cluster: &Cluster, acknowledged: &[EntryId]) {
    for (at, running) in cluster.running() {
        let log = running.log(1);
        for id in acknowledged {
            let entries = log.entries(id.index..id.index + 1, 1 << 20, true).unwrap();
            let held = entries.first().is_some_and(|entry| {
                entry.id == *id && matches!(&entry.payload, Payload::Batch(_))
            });
            assert!(held, "node {at} lost {id:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_replicas_get_the_same_bytes_and_epochs() {
    let cluster = Cluster::start(3, 1).await;
    let mut acknowledged = Vec::new();
    for size in [1, 100, 5_000, 70_000, 300_000].repeat(8) {
        acknowledged.push(cluster.append(1, None, size).await);
    }
    assert_eq!(cluster.agree(1).await, 40);
    assert_held(&cluster, &acknowledged);
    let (leader, _) = cluster.leader(1, None).await;
    let epochs = cluster.run(leader).log(1).epochs();
    for (_, running) in cluster.running() {
        assert_eq!(running.log(1).epochs(), epochs);
    }
    let status = cluster.run(leader).peers.status();
    assert!(
        status
            .iter()
            .all(|peer| peer.alive && peer.trouble.is_none()),
        "{status:?}"
    );
    assert!(
        status.iter().all(|peer| peer.in_flight_bytes == 0),
        "{status:?}"
    );
    cluster.stop_and_compare(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_killed_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3, 1).await;
    let mut acknowledged = Vec::new();
    for _ in 0..4 {
        for _ in 0..10 {
            acknowledged.push(cluster.append(1, None, 200).await);
        }
        let (victim, term) = cluster.leader(1, None).await;
        cluster.kill(victim).await;
        let killed = Instant::now();
        let (_, next) = cluster.leader(1, None).await;
        let silent = killed.elapsed();
        assert!(next > term);
        // Noticed after a silence, elected within an election timeout or two.
        assert!(silent < SILENCE + ELECTION * 4, "no leader for {silent:?}");
        for _ in 0..10 {
            acknowledged.push(cluster.append(1, None, 200).await);
        }
        cluster.boot(victim).await;
        cluster.agree(1).await;
        assert_held(&cluster, &acknowledged);
    }
    cluster.stop_and_compare(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_acknowledges_nothing_and_gives_way() {
    let cluster = Cluster::start(3, 1).await;
    let before = cluster.append(1, None, 100).await;
    let (old, term) = cluster.leader(1, None).await;
    cluster.isolate(old, true);
    let orphan = Proposal::Batch {
        batch: batch(3, 300),
        expected_offset: 1,
    };
    let orphan = propose(&cluster.run(old).group(1), term, orphan);
    let after = cluster.append(1, Some(old), 100).await;
    assert!(after.term > term);
    eventually("that it notices", || {
        !cluster.run(old).group(1).hears_quorum()
    })
    .await;
    assert_eq!(
        cluster.run(old).machine(1).committed(),
        1,
        "nothing more committed there"
    );
    cluster.isolate(old, false);
    let refused = answer(orphan).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    assert_eq!(cluster.agree(1).await, 2);
    assert_held(&cluster, &[before, after]);
    cluster.stop_and_compare(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_cut_off_one_way_does_not_disturb_the_leader() {
    let cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    let (leader, term) = cluster.leader(1, None).await;
    let deaf = (leader + 1) % 3;
    // It hears nobody, but everybody hears it.
    for other in (0..3).filter(|other| *other != deaf) {
        cluster.cut(other, deaf, true);
    }
    let until = Instant::now() + SILENCE * 3;
    while Instant::now() < until {
        cluster.append(1, None, 100).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cluster.leader(1, None).await, (leader, term));
    for other in (0..3).filter(|other| *other != deaf) {
        cluster.cut(other, deaf, false);
    }
    cluster.agree(1).await;
    assert_eq!(cluster.leader(1, None).await, (leader, term));
    cluster.stop_and_compare(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_be_heard_gives_way_although_it_hears() {
    let cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    let (mute, term) = cluster.leader(1, None).await;
    for other in (0..3).filter(|other| *other != mute) {
        cluster.cut(mute, other, true);
    }
    let (_, next) = cluster.leader(1, Some(mute)).await;
    assert!(next > term);
    cluster.append(1, Some(mute), 100).await;
    for other in (0..3).filter(|other| *other != mute) {
        cluster.cut(mute, other, false);
    }
    assert_eq!(cluster.agree(1).await, 2);
    cluster.stop_and_compare(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_back_after_long_catches_up_without_an_election() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    let (leader, _) = cluster.leader(1, None).await;
    let away = (leader + 1) % 3;
    cluster.kill(away).await;
    // Far more than is under way at a time, and than the tail in memory.
    let (at, term) = cluster.leader(1, None).await;
    let mut answers = Vec::new();
    for n in 0..600 {
        let proposal = Proposal::Batch {
            batch: batch(1, 30_000),
            expected_offset: 1 + n,
        };
        answers.push(propose(&cluster.run(at).group(1), term, proposal));
    }
    for pending in answers {
        answer(pending).await.unwrap();
    }
    cluster.boot(away).await;
    assert_eq!(cluster.agree(1).await, 601);
    assert_eq!(cluster.leader(1, None).await, (at, term));
    cluster.stop_and_compare(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_and_agree() {
    let mut cluster = Cluster::start(3, 1).await;
    let mut acknowledged = Vec::new();
    for _ in 0..5 {
        acknowledged.push(cluster.append(1, None, 100).await);
    }
    for at in 0..3 {
        cluster.kill(at).await;
    }
    for at in 0..3 {
        cluster.boot(at).await;
    }
    acknowledged.push(cluster.append(1, None, 100).await);
    assert_eq!(cluster.agree(1).await, 6);
    assert_held(&cluster, &acknowledged);
    cluster.stop_and_compare(1).await;
}

/// The logs of all name a leader whose process is there, and which leads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_of_before_a_restart_of_all_is_not_waited_for() {
    let mut cluster = Cluster::start(3, 10).await;
    let mut leaders = BTreeSet::new();
    for group in 1..=10 {
        cluster.append(group, None, 100).await;
        cluster.agree(group).await;
        leaders.insert(cluster.leader(group, None).await.0);
    }
    let first = *leaders.first().unwrap();
    for at in 0..3 {
        cluster.kill(at).await;
    }
    for at in [first, (first + 1) % 3, (first + 2) % 3] {
        cluster.boot(at).await;
        let group = cluster.run(at).group(1);
        let loaded = group.leadership().leader;
        assert!(loaded.is_none(), "nobody has said that {loaded:?} leads");
    }
    for group in 1..=10 {
        cluster.append(group, None, 100).await;
        assert_eq!(cluster.agree(group).await, 2);
    }
    cluster.stop_and_compare(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_without_a_pause() {
    let cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    cluster.agree(1).await;
    let (leader, _) = cluster.leader(1, None).await;
    let to = (leader + 1) % 3;
    let begun = Instant::now();
    let group = cluster.run(leader).group(1);
    group.transfer_leader(cluster.nodes[to].id).await.unwrap();
    let (next, _) = cluster.leader(1, Some(leader)).await;
    assert_eq!(next, to);
    assert!(begun.elapsed() < SILENCE, "took {:?}", begun.elapsed());
    cluster.append(1, Some(leader), 100).await;
    cluster.stop_and_compare(1).await;
}

/// openraft never takes a hand-over back: until another leads, nothing would be taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_to_a_node_that_has_gone_ends_with_another_leader() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    cluster.agree(1).await;
    let (leader, _) = cluster.leader(1, None).await;
    let [to, other] = [1, 2].map(|n| (leader + n) % 3);
    let group = cluster.run(leader).group(1);
    cluster.kill(to).await;
    group.transfer_leader(cluster.nodes[to].id).await.unwrap();
    eventually("the third one leads", || {
        cluster.run(other).group(1).leads()
    })
    .await;
    cluster.append(1, Some(leader), 100).await;
    cluster.boot(to).await;
    cluster.stop_and_compare(1).await;
}

/// It knows of no leader then, and a leader that hands over sends no heartbeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_to_a_node_that_starts_again_ends_with_a_leader() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.append(1, None, 100).await;
    cluster.agree(1).await;
    let (leader, _) = cluster.leader(1, None).await;
    let to = (leader + 1) % 3;
    let group = cluster.run(leader).group(1);
    let term = group.leadership().term;
    cluster.kill(to).await;
    group.transfer_leader(cluster.nodes[to].id).await.unwrap();
    cluster.boot(to).await;
    eventually("somebody leads in a later term", || {
        let serving = cluster
            .running()
            .map(|(_, node)| node.group(1).leadership());
        serving
            .into_iter()
            .any(|now| now.serving && now.term > term)
    })
    .await;
    cluster.append(1, None, 100).await;
    cluster.stop_and_compare(1).await;
}

/// A leader at rest has no lease, without which openraft refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_in_a_group_at_rest() {
    let cluster = Cluster::start(4, 1).await;
    cluster.append(1, None, 100).await;
    let (leader, _) = cluster.leader(1, None).await;
    tokio::time::sleep(ELECTION * 5).await;
    let group = cluster.run(leader).group(1);
    let fourth = cluster.nodes[3].id;
    group.add_learner(fourth).await.unwrap();
    eventually("the learner is one", || group.members().1.contains(&fourth)).await;
    tokio::time::sleep(ELECTION * 5).await;
    group.remove_learners(&[fourth].into()).await.unwrap();
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_takes_the_place_of_one() {
    let cluster = Cluster::start(4, 1).await;
    for _ in 0..20 {
        cluster.append(1, None, 1_000).await;
    }
    let (leader, _) = cluster.leader(1, None).await;
    let leaving = (leader + 1) % 3;
    let group = cluster.run(leader).group(1);
    group.add_learner(cluster.nodes[3].id).await.unwrap();
    let newcomer = cluster.nodes[3].id;
    eventually("the log on the fourth", || {
        let progress = group.progress();
        let behind = |(node, index): &(_, u64)| *node == newcomer && *index < progress.last_index;
        let known = progress.matched.iter().any(|(node, _)| *node == newcomer);
        known && !progress.matched.iter().any(behind)
    })
    .await;
    let voters = [0, 1, 2, 3].into_iter().filter(|at| *at != leaving);
    let voters = voters.map(|at| cluster.nodes[at].id).collect();
    group.change_voters(&voters).await.unwrap();
    assert_eq!(group.members().0, voters);
    cluster.isolate(leaving, true);
    for _ in 0..5 {
        cluster.append(1, Some(leaving), 1_000).await;
    }
    let end = cluster.run(leader).log(1).end_offset();
    eventually("the fourth keeps up", || {
        cluster.run(3).machine(1).committed() == end
    })
    .await;
    cluster.isolate(leaving, false);
}
