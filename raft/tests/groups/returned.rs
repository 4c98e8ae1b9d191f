//! A replica that was deleted and comes back is another one: what its log says of the one before, of its vote above all,
//! does not hold for it.

use klamm_raft::NodeId;

use crate::fixture::*;
use crate::nodes::{Cluster, SILENCE};

const HERE: usize = 0;
const THERE: usize = 1;

/// Waits until `node` has all of the log of group 1, as its leader sees it.
async fn caught_up(cluster: &Cluster, leader: usize, node: NodeId) {
    let group = cluster.run(leader).group(1);
    eventually("it catches up", || {
        let progress = group.progress();
        let mut matched = progress.matched.iter();
        matched.any(|(id, index)| *id == node && *index == progress.last_index)
    })
    .await;
}

/// The only replica moves away and back, and is killed before it has come to the entry by which it had left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_comes_back_is_not_elected_by_its_old_membership() {
    let mut cluster = Cluster::start_single().await;
    let old = cluster.nodes[HERE].id;
    let other = cluster.nodes[THERE].id;
    for _ in 0..40 {
        cluster.append(1, None, 250_000).await;
    }
    let here = cluster.run(HERE).group(1);
    here.add_learner(other).await.unwrap();
    caught_up(&cluster, HERE, other).await;
    here.change_voters(&[old, other].into()).await.unwrap();
    caught_up(&cluster, HERE, other).await;
    here.transfer_leader(other).await.unwrap();
    cluster.leader(1, Some(HERE)).await;
    let there = cluster.run(THERE).group(1);
    there.change_voters(&[other].into()).await.unwrap();
    drop(here);
    for _ in 0..10 {
        cluster.append(1, Some(HERE), 1_000).await;
    }

    cluster.begin_anew(HERE).await;
    let new = cluster.nodes[HERE].replica;
    there.add_learner(new).await.unwrap();
    let log = cluster.run(HERE).log(1);
    let there_is =
        |log: &klamm_storage::GroupLog| log.raft_state().last.map_or(0, |last| last.index);
    eventually("some of it", || there_is(&log) > 0).await;
    cluster.cut(THERE, HERE, true);
    cluster.cut(HERE, THERE, true);
    drop(log);
    cluster.kill(HERE).await;
    cluster.boot(HERE).await;
    let begun = there_is(&cluster.run(HERE).log(1));
    assert!(begun < 40, "the rest of {begun} entries was to be missing");
    tokio::time::sleep(SILENCE * 10).await;
    assert!(
        !cluster.run(HERE).group(1).leads(),
        "by a membership that is past"
    );

    cluster.cut(THERE, HERE, false);
    cluster.cut(HERE, THERE, false);
    caught_up(&cluster, THERE, new).await;
    there.change_voters(&[other, new].into()).await.unwrap();
    cluster.append(1, None, 1_000).await;
    cluster.agree(1).await;
    cluster.stop_and_compare(1).await;
}

/// While the old replica is still there, nothing that is meant for the new one reaches it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_does_not_answer_for_the_next() {
    let cluster = Cluster::start_single().await;
    let (old, other) = (cluster.nodes[HERE].id, cluster.nodes[THERE].id);
    let here = cluster.run(HERE).group(1);
    let next = NodeId::new(other.broker(), other.incarnation() + 1);
    here.add_learner(other).await.unwrap();
    caught_up(&cluster, HERE, other).await;
    here.add_learner(next).await.unwrap();
    for _ in 0..5 {
        cluster.append(1, None, 100).await;
    }
    caught_up(&cluster, HERE, other).await;
    let matched = here.progress().matched;
    let next = matched.iter().find(|(id, _)| *id == next);
    assert_eq!(next.map(|(_, index)| *index), Some(0), "{matched:?}");
    assert_eq!(here.members().0, [old].into());
}

/// A voter whose log was given up is replaced by the next replica of the same node, which then counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_the_place_of_the_one_before() {
    let mut cluster = Cluster::start(3, 1).await;
    for _ in 0..20 {
        cluster.append(1, None, 10_000).await;
    }
    cluster.agree(1).await;
    let (leader, _) = cluster.leader(1, None).await;
    let [replaced, third] = [1, 2].map(|n| (leader + n) % 3);
    cluster.begin_anew(replaced).await;
    cluster.append(1, None, 1_000).await;
    let (old, new) = (cluster.nodes[replaced].id, cluster.nodes[replaced].replica);
    let here = cluster.run(leader).group(1);
    let (mut voters, _) = here.members();
    assert!(voters.remove(&old) && voters.insert(new));
    here.add_learner(new).await.unwrap();
    caught_up(&cluster, leader, new).await;
    here.change_voters(&voters).await.unwrap();
    assert_eq!(here.members(), (voters, [].into()));
    drop(here);
    cluster.kill(third).await;
    cluster.append(1, None, 1_000).await;
    cluster.boot(third).await;
    cluster.agree(1).await;
    cluster.stop_and_compare(1).await;
}
