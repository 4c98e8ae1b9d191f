//! AlterPartitionReassignments and ListPartitionReassignments (KIP-455, behaviour 118).
//!
//! A request begins a move, and answers; the group's leader carries it out (the broker's `cluster/mover.rs`).
//! To cancel is to move back: who was about to come may have a vote already, so it stays among the replicas
//! until the group has let it go.

use std::collections::BTreeMap;

use klamm_records::{GroupId, TopicId};

use super::Context;
use super::placement::check_manual;
use crate::command::Command;
use crate::image::{Image, Partition};
use crate::problem::{ErrorCode, Problem};

/// A partition whose replicas are to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// Topic.
    pub topic: String,
    /// Partition index.
    pub partition: i32,
    /// New replicas; null to cancel a reassignment in progress.
    pub replicas: Option<Vec<i32>>,
}

/// A partition's group, and since when it is moved.
pub type GroupMove = (GroupId, i64);

/// Checks the partitions of a request: what to propose, and an answer per partition, in order. `may_resize`:
/// the number of replicas may change, too (KIP-860). Of a partition that is named twice the last counts.
///
/// Answers are `UNKNOWN_TOPIC_OR_PARTITION`, `NO_REASSIGNMENT_IN_PROGRESS`, `INVALID_REPLICA_ASSIGNMENT` and
/// `INVALID_REPLICATION_FACTOR`.
pub fn alter_partition_reassignments(
    context: Context<'_>,
    requests: &[Reassignment],
    may_resize: bool,
) -> (Vec<Command>, Vec<Result<(), Problem>>) {
    let mut wanted: BTreeMap<TopicId, BTreeMap<i32, Vec<i32>>> = BTreeMap::new();
    let answers = requests.iter().map(|request| {
        let (topic, replicas) = check(context, request, may_resize)?;
        if let Some(replicas) = replicas {
            let partitions = wanted.entry(topic).or_default();
            partitions.insert(request.partition, replicas);
        }
        Ok(())
    });
    let answers = answers.collect();
    let commands = wanted.into_iter();
    let commands = commands.map(|(id, partitions)| Command::Reassign { id, partitions });
    (commands.collect(), answers)
}

/// The replicas that a partition is to have; `None` when it has them, or is moving to them.
fn check(
    context: Context<'_>,
    request: &Reassignment,
    may_resize: bool,
) -> Result<(TopicId, Option<Vec<i32>>), Problem> {
    let topic = context
        .image
        .topic(&request.topic)
        .ok_or_else(Problem::unknown_topic)?;
    let partition = topic
        .partition(request.partition)
        .ok_or_else(Problem::unknown_topic)?;
    let replicas = match &request.replicas {
        None => cancelled(partition)?,
        Some(replicas) => {
            check_manual(context.image, request.partition, replicas, None)?;
            check_size(partition, replicas.len(), may_resize)?;
            replicas.clone()
        }
    };
    let is_new = *replicas != *partition.target();
    Ok((topic.id, is_new.then_some(replicas)))
}

/// Which of these moves are still to be finished.
pub fn finish_reassignments(image: &Image, finished: &[GroupMove]) -> Vec<Command> {
    let mut partitions: BTreeMap<TopicId, BTreeMap<i32, i64>> = BTreeMap::new();
    for (group, since) in finished {
        let Some((topic, index)) = image.partition_of_group(*group) else {
            continue;
        };
        let moving = topic.partition(index).and_then(|at| at.moving.as_ref());
        if moving.is_some_and(|moving| moving.since == *since) {
            let finished = partitions.entry(topic.id).or_default();
            finished.insert(index, *since);
        }
    }
    let commands = partitions.into_iter();
    let command = |(id, partitions)| Command::FinishReassignment { id, partitions };
    commands.map(command).collect()
}

/// The replicas before the move under way; one that is cancelled already counts as none.
fn cancelled(partition: &Partition) -> Result<Vec<i32>, Problem> {
    let before = partition.moving.as_ref().map(|moving| &moving.from);
    match before.filter(|before| partition.target() != **before) {
        Some(before) => Ok(before.clone()),
        None => Err(Problem::new(
            ErrorCode::NoReassignmentInProgress,
            "No partition reassignment is in progress.",
        )),
    }
}

fn check_size(partition: &Partition, wanted: usize, may_resize: bool) -> Result<(), Problem> {
    let present = partition.target().len();
    if may_resize || wanted == present {
        return Ok(());
    }
    Err(Problem::new(
        ErrorCode::InvalidReplicationFactor,
        format!("The replication factor is changed from {present} to {wanted}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    fn ask(
        cluster: &Cluster,
        topic: &str,
        partition: i32,
        replicas: Option<&[i32]>,
    ) -> (Vec<Command>, Result<(), ErrorCode>) {
        let request = Reassignment {
            topic: topic.into(),
            partition,
            replicas: replicas.map(<[i32]>::to_vec),
        };
        let (commands, answers) =
            alter_partition_reassignments(cluster.context(), &[request], true);
        let answer = answers.into_iter().next().expect("an answer each");
        (commands, answer.map_err(|problem| problem.code))
    }

    /// Asks for a move of the one partition, and has it begin.
    fn reassign(cluster: &mut Cluster, replicas: Option<&[i32]>) {
        let (commands, answer) = ask(cluster, "t", 0, replicas);
        assert_eq!((commands.len(), answer), (1, Ok(())));
        assert_eq!(cluster.apply(&commands[0]), crate::Outcome::Done);
    }

    fn partition(cluster: &Cluster) -> Partition {
        let topic = cluster.image.topic("t").expect("exists");
        topic.partition(0).expect("exists").clone()
    }

    /// Replicas, those that come, those that go.
    fn state(cluster: &Cluster) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
        let partition = partition(cluster);
        let moving = partition.moving;
        let (adding, removing) =
            moving.map_or_else(Default::default, |moving| (moving.adding, moving.removing));
        (partition.replicas, adding, removing)
    }

    fn finish(cluster: &mut Cluster, since: i64) -> bool {
        let group = partition(cluster).group;
        let commands = finish_reassignments(&cluster.image, &[(group, since), (GroupId(99), 1)]);
        for command in &commands {
            cluster.apply(command);
        }
        !commands.is_empty()
    }

    fn since(cluster: &Cluster) -> i64 {
        partition(cluster).moving.expect("a move").since
    }

    #[test]
    fn behaviour_118_what_is_refused() {
        let cluster = Cluster::new(&[None, None]).with_topic("t", 1, &[]);
        for (topic, partition, replicas, expected) in [
            (
                "gone",
                0,
                Some(&[1][..]),
                ErrorCode::UnknownTopicOrPartition,
            ),
            ("t", 1, Some(&[1]), ErrorCode::UnknownTopicOrPartition),
            ("t", 0, None, ErrorCode::NoReassignmentInProgress),
            ("t", 0, Some(&[]), ErrorCode::InvalidReplicaAssignment),
            ("t", 0, Some(&[9]), ErrorCode::InvalidReplicaAssignment),
            ("t", 0, Some(&[1, 1]), ErrorCode::InvalidReplicaAssignment),
        ] {
            let (commands, answer) = ask(&cluster, topic, partition, replicas);
            assert!(commands.is_empty());
            assert_eq!(answer, Err(expected), "{topic} {replicas:?}");
        }
        let request = Reassignment {
            topic: "t".into(),
            partition: 0,
            replicas: Some(vec![1, 2]),
        };
        let (_, answers) = alter_partition_reassignments(cluster.context(), &[request], false);
        let problem = answers[0].clone().expect_err("resized");
        assert_eq!(problem.code, ErrorCode::InvalidReplicationFactor);
    }

    #[test]
    fn a_move_is_asked_for_and_finished() {
        let mut cluster = Cluster::new(&[None, None, None]).with_topic("t", 1, &[]);
        assert_eq!(ask(&cluster, "t", 0, Some(&[1])), (vec![], Ok(())));
        reassign(&mut cluster, Some(&[3, 2]));
        assert_eq!(state(&cluster), (vec![3, 2, 1], vec![2, 3], vec![1]));
        assert_eq!(partition(&cluster).founders(), [1]);
        assert_eq!(cluster.image.moving().count(), 1);
        let since = since(&cluster);
        assert!(!finish(&mut cluster, since + 1), "another move");
        assert!(finish(&mut cluster, since));
        assert!(!finish(&mut cluster, since), "finished already");
        assert_eq!(state(&cluster), (vec![3, 2], vec![], vec![]));
        assert_eq!(partition(&cluster).founders(), [0; 0]);
        assert_eq!(cluster.image.moving().count(), 0);
    }

    #[test]
    fn another_order_is_there_at_once() {
        let mut cluster = Cluster::new(&[None, None]).with_topic("t", 1, &[]);
        reassign(&mut cluster, Some(&[1, 2]));
        let since = since(&cluster);
        assert!(finish(&mut cluster, since));
        reassign(&mut cluster, Some(&[2, 1]));
        assert_eq!(state(&cluster), (vec![2, 1], vec![], vec![]));
    }

    #[test]
    fn to_cancel_is_to_move_back() {
        let mut cluster = Cluster::new(&[None, None, None]).with_topic("t", 1, &[]);
        reassign(&mut cluster, Some(&[2, 3]));
        let overtaken = since(&cluster);
        reassign(&mut cluster, None);
        // Those that were to come may have a vote: they are replicas until the group let them go.
        assert_eq!(state(&cluster), (vec![1, 2, 3], vec![], vec![2, 3]));
        assert_eq!(partition(&cluster).founders(), [1]);
        let again = ask(&cluster, "t", 0, None);
        assert_eq!(again.1, Err(ErrorCode::NoReassignmentInProgress));
        assert!(!finish(&mut cluster, overtaken));
        let late = Command::FinishReassignment {
            id: cluster.image.topic("t").expect("exists").id,
            partitions: BTreeMap::from([(0, overtaken)]),
        };
        cluster.apply(&late);
        assert_eq!(state(&cluster), (vec![1, 2, 3], vec![], vec![2, 3]));
        let since = since(&cluster);
        assert!(finish(&mut cluster, since));
        assert_eq!(state(&cluster), (vec![1], vec![], vec![]));
    }

    /// The group may have let it go already.
    #[test]
    fn a_replica_that_was_to_go_and_stays_after_all_is_a_move_until_it_is_surely_there() {
        let mut cluster = Cluster::new(&[None, None, None]).with_topic("t", 1, &[]);
        reassign(&mut cluster, Some(&[1, 2, 3]));
        let begun = since(&cluster);
        finish(&mut cluster, begun);
        for back in [None, Some(&[1, 2, 3][..])] {
            reassign(&mut cluster, Some(&[1, 2]));
            reassign(&mut cluster, back);
            assert_eq!(state(&cluster), (vec![1, 2, 3], vec![], vec![]));
            assert_eq!(cluster.image.moving().count(), 1);
            let again = ask(&cluster, "t", 0, None);
            assert_eq!(again.1, Err(ErrorCode::NoReassignmentInProgress));
            let back = since(&cluster);
            assert!(finish(&mut cluster, back));
            assert_eq!(cluster.image.moving().count(), 0);
        }
    }

    #[test]
    fn a_move_may_be_asked_for_anew() {
        let mut cluster = Cluster::new(&[None, None, None]).with_topic("t", 1, &[]);
        reassign(&mut cluster, Some(&[2]));
        reassign(&mut cluster, Some(&[1, 3]));
        assert_eq!(state(&cluster), (vec![1, 3, 2], vec![3], vec![2]));
        reassign(&mut cluster, None);
        assert_eq!(state(&cluster), (vec![1, 2, 3], vec![], vec![2, 3]));
    }

    /// Whoever left begins anew when it comes back; whoever was to leave, and stays after all, goes on.
    #[test]
    fn a_replica_that_left_is_another_when_it_comes_back() {
        let mut cluster = Cluster::new(&[None, None, None]).with_topic("t", 1, &[]);
        let number = |cluster: &Cluster, id| partition(cluster).number(id);
        reassign(&mut cluster, Some(&[2, 3]));
        reassign(&mut cluster, Some(&[1, 3]));
        reassign(&mut cluster, Some(&[2, 3]));
        assert_eq!([1, 2, 3].map(|id| number(&cluster, id)), [0, 0, 0]);
        let first = since(&cluster);
        finish(&mut cluster, first);
        assert_eq!([1, 2, 3].map(|id| number(&cluster, id)), [1, 0, 0]);
        reassign(&mut cluster, Some(&[1]));
        let second = since(&cluster);
        finish(&mut cluster, second);
        assert_eq!([1, 2, 3].map(|id| number(&cluster, id)), [1, 1, 1]);
        assert_eq!(
            crate::Image::decode(&cluster.image.encode()),
            Ok(cluster.image.clone())
        );
    }
}
