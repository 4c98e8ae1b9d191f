//! Three replicas of a group in one process: replication, lost leases, lost leadership.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use klamm_raft::{Group, Groups, NodeId, Proposal, ProposeError};
use klamm_storage::{GroupLog, Store};

use crate::fixture::*;
use crate::peers::{Wire, Wires};

struct Replica {
    node: NodeId,
    groups: Groups,
    group: Group,
    log: GroupLog,
    machine: Arc<Recorder>,
    _store: Store,
}

struct Cluster {
    wires: Arc<Wires>,
    replicas: Vec<Replica>,
}

impl Cluster {
    async fn start() -> Cluster {
        let wires = Arc::new(Wires::default());
        let nodes: BTreeSet<NodeId> = (1..=3).map(|broker| NodeId::new(broker, 1)).collect();
        let mut replicas = Vec::new();
        for &node in &nodes {
            let store = Computer::new().open();
            let transport = Wire {
                from: node,
                wires: Arc::downgrade(&wires),
            };
            let groups = Groups::with_transport(
                options(node),
                tokio::runtime::Handle::current(),
                Arc::new(|group, cause| panic!("group {group} failed: {cause}")),
                Arc::new(transport),
            );
            wires.attach(node, groups.clone());
            let machine = Recorder::new(false);
            let log = create_log(&store, 1);
            let group = groups
                .open(log.clone(), Some(nodes.clone()), machine.clone())
                .await
                .unwrap();
            replicas.push(Replica {
                node,
                groups,
                group,
                log,
                machine,
                _store: store,
            });
        }
        Cluster { wires, replicas }
    }

    /// Waits for a leader other than `not`; which one and its term.
    async fn leader(&self, not: Option<usize>) -> (usize, u64) {
        let serving = || {
            (0..self.replicas.len())
                .find(|&at| Some(at) != not && self.replicas[at].group.leadership().serving)
        };
        eventually("a leader", || serving().is_some()).await;
        let at = serving().unwrap();
        (at, self.replicas[at].group.leadership().term)
    }

    async fn stop(self) {
        for replica in &self.replicas {
            replica.groups.shutdown().await;
        }
        self.wires.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicates_and_survives_its_leader() {
    let cluster = Cluster::start().await;
    let (at, term) = cluster.leader(None).await;
    for _ in 0..20 {
        append_one(&cluster.replicas[at].group, term).await;
    }
    for replica in &cluster.replicas {
        eventually("replication", || replica.machine.committed() == 20).await;
        assert_eq!(replica.log.end_offset(), 20);
        eventually("the leader's name", || {
            replica.group.leadership().leader == Some(cluster.replicas[at].node)
        })
        .await;
    }
    eventually("progress", || {
        let progress = cluster.replicas[at].group.progress();
        progress.matched.len() == 3
            && progress
                .matched
                .iter()
                .all(|(_, index)| *index == progress.last_index)
    })
    .await;

    cluster.wires.cut_off(cluster.replicas[at].node);
    let (next, next_term) = cluster.leader(Some(at)).await;
    assert!(next_term > term);
    append_one(&cluster.replicas[next].group, next_term).await;

    // What the old leader appends alone is discarded when it hears of the new one.
    let orphan = Proposal::Batch {
        batch: batch(2, 20),
        expected_offset: 20,
    };
    let orphan = propose(&cluster.replicas[at].group, term, orphan);
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.wires.heal();
    let refused = answer(orphan).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    for replica in &cluster.replicas {
        eventually("replication", || replica.machine.committed() == 21).await;
        eventually("the same log", || replica.log.end_offset() == 21).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_is_renewed_with_the_order_kept() {
    const ROUNDS: usize = 12;
    const BURST: i64 = 40;
    let cluster = Cluster::start().await;
    let (mut at, mut term) = cluster.leader(None).await;
    for _ in 0..ROUNDS {
        // Cut off the followers from each other and from the leader: nobody can be elected, and the
        // lease runs out.
        for replica in &cluster.replicas {
            cluster.wires.cut_off(replica.node);
        }
        tokio::time::sleep(Duration::from_millis(350)).await;
        let leader = &cluster.replicas[at];
        if leader.group.leadership().term != term || !leader.group.leadership().serving {
            cluster.wires.heal();
            (at, term) = cluster.leader(None).await;
            continue;
        }
        let start = leader.log.end_offset();
        let mut answers = Vec::new();
        for n in 0..BURST {
            if n == BURST / 2 {
                cluster.wires.heal();
            }
            let proposal = Proposal::Batch {
                batch: batch(1, 10),
                expected_offset: start + n,
            };
            answers.push(propose(&leader.group, term, proposal));
            if n % 4 == 0 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        let mut results = Vec::new();
        for pending in answers {
            results.push(answer(pending).await);
        }
        match results.iter().position(Result::is_err) {
            None => {
                assert!(results.is_sorted_by_key(|result| result.as_ref().unwrap().index));
                assert_eq!(leader.machine.committed(), start + BURST);
            }
            // Another node was elected as the wires healed: then all later ones failed, too.
            Some(first) => assert!(results[first..].iter().all(Result::is_err), "{results:?}"),
        }
        (at, term) = cluster.leader(None).await;
    }
    let end = cluster.replicas[at].log.end_offset();
    for replica in &cluster.replicas {
        eventually("replication", || replica.machine.committed() == end).await;
    }
    cluster.stop().await;
}
