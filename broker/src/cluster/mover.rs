//! Carries out moves of partitions: the leader of each changes who is in its group, step by step, until that is who the
//! image wants; then the image is told, and who went drops what it holds (the reconciler).
//!
//! Invariants
//! - Nobody gets a vote before it has the log: a majority always has what is acknowledged.
//! - One change of a group at a time, decided from what is committed: after a change of leaders, or a crash, the next
//!   leader goes on from there.
//! - A replica that is to go stays one in the image until the group has let it go, so that no member ever loses its log.
//!
//! A replica that is replaced by another of its broker is a move, too: its members are told apart by their numbers.
//!
//! How the log gets to new replicas is klamm-raft's. Not here: which moves are wanted (AlterPartitionReassignments,
//! `drainer.rs`, `repairer.rs`).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use klamm_metadata::rules::finish_reassignments;
use klamm_metadata::{Image, Partition as Assigned};
use klamm_raft::{Group, MembershipError, NodeId};
use klamm_records::GroupId;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::node::{Shared, stopped};
use crate::partition::replica_of;

/// While something moves, groups are looked at so often.
const LOOK: Duration = Duration::from_millis(200);
/// While nothing moves, those that a broker with a new disk is in are looked at so often.
const LOOK_AT_REPLACED: Duration = Duration::from_secs(1);
/// Groups whose members are changed at the same time.
const AT_ONCE: usize = 64;
/// A change that is not committed by then is looked at again.
const CHANGE_WAIT: Duration = Duration::from_secs(10);

/// A group at one moment, as its leader sees it.
pub(super) struct Sight<'a> {
    pub(super) me: NodeId,
    pub(super) voters: &'a BTreeSet<NodeId>,
    pub(super) learners: &'a BTreeSet<NodeId>,
    /// Who is to be a voter, the preferred leader first.
    pub(super) target: &'a [NodeId],
    /// Learners that stay without being a voter.
    pub(super) spared: &'a BTreeSet<NodeId>,
    /// A change is not committed, or a joint membership was left behind.
    pub(super) is_changing: bool,
    /// Who has all that the log held a moment ago.
    pub(super) caught_up: &'a dyn Fn(NodeId) -> bool,
    pub(super) hears: &'a dyn Fn(NodeId) -> bool,
}

/// What is to be done next with a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Somebody has to catch up, or to come back.
    Wait,
    AddLearner(NodeId),
    ChangeVoters(BTreeSet<NodeId>),
    RemoveLearners(BTreeSet<NodeId>),
    /// This node is to go: somebody who stays has to lead.
    HandOver(NodeId),
    Finish,
}

/// The next step towards the target.
pub(super) fn next(sight: &Sight<'_>) -> Step {
    let target: BTreeSet<NodeId> = sight.target.iter().copied().collect();
    let is_member = |node: &NodeId| sight.voters.contains(node) || sight.learners.contains(node);
    if let Some(new) = target.iter().find(|node| !is_member(node)) {
        return match (sight.hears)(*new) {
            true => Step::AddLearner(*new),
            false => Step::Wait,
        };
    }
    let mut coming = target.difference(sight.voters);
    let is_there = |node: NodeId| node == sight.me || (sight.hears)(node);
    let heard = target.iter().filter(|node| is_there(**node)).count();
    if !coming.all(|node| (sight.caught_up)(*node)) || heard * 2 <= target.len() {
        return Step::Wait;
    }
    let mut wanted = target.clone();
    if !target.contains(&sight.me) {
        // The last step but one: whoever leads next lets this node go.
        wanted.insert(sight.me);
    }
    if *sight.voters != wanted || sight.is_changing {
        return Step::ChangeVoters(wanted);
    }
    let stays = |node: &&NodeId| target.contains(node) || sight.spared.contains(node);
    let learners = sight.learners.iter();
    let strangers: BTreeSet<NodeId> = learners.filter(|node| !stays(node)).copied().collect();
    if !strangers.is_empty() {
        return Step::RemoveLearners(strangers);
    }
    if wanted == target {
        return Step::Finish;
    }
    let mut stay = sight.target.iter().copied();
    match stay.find(|node| (sight.caught_up)(*node) && (sight.hears)(*node)) {
        Some(next) => Step::HandOver(next),
        None => Step::Wait,
    }
}

/// Moves partitions until the node stops.
pub(super) async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut changed = shared.controller.watch();
    // The end of each group's log at the look before.
    let mut before = HashMap::new();
    loop {
        changed.borrow_and_update();
        let image = shared.controller.image();
        let moves = image.moving().next().is_some();
        let replaced = image.brokers().any(|broker| broker.replica > 0);
        if moves || replaced {
            before = look(&shared, &image, &before).await;
        }
        let news = async {
            match (moves, replaced) {
                (false, false) => return changed.changed().await.is_ok(),
                (true, _) => tokio::time::sleep(LOOK).await,
                (false, true) => tokio::time::sleep(LOOK_AT_REPLACED).await,
            }
            true
        };
        tokio::select! {
            () = stopped(&mut stopping) => return,
            goes_on = news => if !goes_on { return },
        }
    }
}

/// Makes the next step of all moves of partitions that this node leads.
async fn look(
    shared: &Shared,
    image: &Image,
    before: &HashMap<GroupId, u64>,
) -> HashMap<GroupId, u64> {
    let mut ends = HashMap::new();
    let mut steps = Vec::new();
    let mut finished = Vec::new();
    for id in image.moving().chain(of_replaced(image)) {
        let Some(group) = shared.groups.get(id) else {
            continue;
        };
        // Who has lost its majority knows no more who is in the group.
        let leads = group.leadership().serving && group.hears_quorum();
        if !leads || shared.is_draining() {
            continue;
        }
        let assigned = image.partition_of_group(id);
        let Some(assigned) = assigned.and_then(|(topic, index)| topic.partition(index)) else {
            continue;
        };
        ends.insert(id, group.progress().last_index);
        match step(shared, &group, assigned, before.get(&id).copied()) {
            Step::Wait => {}
            Step::Finish => {
                finished.extend(assigned.moving.as_ref().map(|moving| (id, moving.since)));
            }
            step => steps.push((group, step)),
        }
    }
    let mut steps = stream::iter(steps.into_iter().map(take)).buffer_unordered(AT_ONCE);
    while steps.next().await.is_some() {}
    if !finished.is_empty() {
        finish(shared, finished).await;
    }
    ends
}

/// Groups in which a broker with a new disk has, or had, a replica. Their leaders put the new one in the place of the one
/// that was lost, without being asked to.
fn of_replaced(image: &Image) -> impl Iterator<Item = GroupId> {
    let brokers = image.brokers().filter(|broker| broker.replica > 0);
    let replaced: BTreeSet<i32> = brokers.map(|broker| broker.id).collect();
    let topics = image.topics().filter(|_| !replaced.is_empty());
    let topics: Vec<_> = topics.cloned().collect();
    topics.into_iter().flat_map(move |topic| {
        let partitions = topic.partitions.iter();
        let has = |id: &i32| replaced.contains(id);
        let concerned = partitions
            .filter(|partition| partition.moving.is_none() && partition.replicas.iter().any(has));
        concerned
            .map(|partition| partition.group)
            .collect::<Vec<_>>()
    })
}

fn step(shared: &Shared, group: &Group, assigned: &Assigned, before: Option<u64>) -> Step {
    let (voters, learners) = group.members();
    let target = assigned.target().iter();
    let target: Vec<NodeId> = target.map(|&broker| replica_of(assigned, broker)).collect();
    let matched: HashMap<NodeId, u64> = group.progress().matched.into_iter().collect();
    let caught_up = |node: NodeId| {
        let index = matched.get(&node);
        index.is_some_and(|index| before.is_some_and(|before| *index >= before))
    };
    next(&Sight {
        me: group.node(),
        voters: &voters,
        learners: &learners,
        target: &target,
        spared: &BTreeSet::new(),
        is_changing: group.is_changing(),
        caught_up: &caught_up,
        hears: &|node| shared.cluster.hears(node),
    })
}

/// Makes the step; one that fails is decided anew at the next look.
pub(super) async fn take((group, step): (Group, Step)) {
    let id = group.id();
    let change = async {
        match &step {
            Step::AddLearner(node) => group.add_learner(*node).await,
            Step::ChangeVoters(voters) => group.change_voters(voters).await,
            Step::RemoveLearners(learners) => group.remove_learners(learners).await,
            Step::HandOver(to) => {
                // Who leads next goes on; a group that is closed has nothing to hand over.
                let _ = group.transfer_leader(*to).await;
                Ok::<(), MembershipError>(())
            }
            Step::Wait | Step::Finish => Ok(()),
        }
    };
    match timeout(CHANGE_WAIT, change).await {
        Ok(Ok(())) => debug!(group = %id, ?step, "a step of a move"),
        Ok(Err(cause)) => debug!(group = %id, ?step, %cause, "a step of a move is tried again"),
        Err(_) => info!(group = %id, ?step, "a step of a move is not committed yet"),
    }
}

/// Tells the image that the groups consist of whom it wants.
async fn finish(shared: &Shared, finished: Vec<(GroupId, i64)>) {
    let partitions = finished.len();
    let changed = shared
        .controller
        .change(move |image| (finish_reassignments(image, &finished), ()));
    // What could not be told now is told at the next look.
    if changed.await.is_ok() {
        info!(partitions, "moved");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: i32) -> NodeId {
        NodeId::new(id, 0)
    }

    fn nodes(ids: &[i32]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| node(*id)).collect()
    }

    /// The next step of a group led by 1; `ready` have caught up, `gone` are not heard.
    fn step(
        voters: &[i32],
        learners: &[i32],
        target: &[i32],
        ready: &[i32],
        gone: &[i32],
        is_changing: bool,
    ) -> Step {
        let target: Vec<NodeId> = target.iter().map(|id| node(*id)).collect();
        let (ready, gone) = (nodes(ready), nodes(gone));
        next(&Sight {
            me: node(1),
            voters: &nodes(voters),
            learners: &nodes(learners),
            target: &target,
            spared: &BTreeSet::new(),
            is_changing,
            caught_up: &|node| ready.contains(&node),
            hears: &|node| !gone.contains(&node),
        })
    }

    #[test]
    fn replicas_come_before_others_go() {
        let (all, target) = (&[1, 2, 3, 4][..], &[1, 2, 4][..]);
        let add = step(&[1, 2, 3], &[], target, &[1, 2, 3], &[], false);
        assert_eq!(add, Step::AddLearner(node(4)));
        let wait = step(&[1, 2, 3], &[4], target, &[1, 2, 3], &[], false);
        assert_eq!(wait, Step::Wait, "4 has not caught up");
        let change = step(&[1, 2, 3], &[4], target, all, &[], false);
        assert_eq!(change, Step::ChangeVoters(nodes(target)));
        assert_eq!(step(target, &[], target, all, &[], false), Step::Finish);
    }

    #[test]
    fn who_is_away_is_waited_for_or_replaced() {
        let away = step(&[1, 2, 3], &[], &[1, 2, 4], &[1, 2, 3], &[4], false);
        assert_eq!(away, Step::Wait, "4 cannot be asked");
        let replaced = step(&[1, 2, 3], &[4], &[1, 2, 4], &[1, 2, 4], &[3], false);
        assert_eq!(replaced, Step::ChangeVoters(nodes(&[1, 2, 4])));
        let minority = step(&[1, 2, 3], &[], &[1, 2], &[1, 2, 3], &[2], false);
        assert_eq!(
            minority,
            Step::Wait,
            "2 is needed for a majority of the new ones"
        );
    }

    /// The lost one of 2 stays a voter until the next has the log, and goes in the same step.
    #[test]
    fn a_replica_is_replaced_by_the_next_of_its_broker() {
        let (lost, new) = (node(2), NodeId::new(2, 1));
        let [one, three] = [1, 3].map(node);
        let step = |voters: &[NodeId], learners: &[NodeId], ready: &[NodeId]| {
            next(&Sight {
                me: one,
                voters: &voters.iter().copied().collect(),
                learners: &learners.iter().copied().collect(),
                target: &[one, new, three],
                spared: &BTreeSet::new(),
                is_changing: false,
                caught_up: &|node| ready.contains(&node),
                hears: &|_| true,
            })
        };
        let before = [one, lost, three];
        assert_eq!(step(&before, &[], &before), Step::AddLearner(new));
        assert_eq!(step(&before, &[new], &before), Step::Wait);
        let all = [one, new, three];
        let change = Step::ChangeVoters(all.into());
        assert_eq!(step(&before, &[new], &all), change);
        assert_eq!(step(&all, &[], &all), Step::Finish);
    }

    #[test]
    fn a_leader_that_is_to_go_hands_over_first() {
        let join = step(&[1], &[2], &[2], &[1, 2], &[], false);
        assert_eq!(join, Step::ChangeVoters(nodes(&[1, 2])));
        let hand_over = step(&[1, 2], &[], &[2], &[1, 2], &[], false);
        assert_eq!(hand_over, Step::HandOver(node(2)));
        let behind = step(&[1, 2], &[], &[2], &[1], &[], false);
        assert_eq!(behind, Step::Wait);
    }

    #[test]
    fn what_was_left_behind_is_cleared_up() {
        let joint = step(&[1, 2], &[], &[1, 2], &[1, 2], &[], true);
        assert_eq!(joint, Step::ChangeVoters(nodes(&[1, 2])));
        let cancelled = step(&[1, 2], &[3], &[1, 2], &[1, 2], &[], false);
        assert_eq!(cancelled, Step::RemoveLearners(nodes(&[3])));
    }
}
