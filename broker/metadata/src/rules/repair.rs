//! Giving up a damaged replica for a new one of the same broker, which the other replicas fill.
//!
//! What is given up is gone: so the others must be able to go on without it, and have what it had. Which of them keep
//! up with the leader no image knows; the asker says.

use klamm_records::GroupId;

use crate::command::Command;
use crate::image::{Image, check_replaceable};
use crate::problem::Problem;

/// A replica whose log is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its group.
    pub group: GroupId,
    /// Its broker.
    pub broker: i32,
    /// Which replica of that broker: [`crate::Partition::number`].
    pub number: u32,
    /// Brokers whose replicas keep up with the leader, as that says.
    pub in_sync: Vec<i32>,
}

/// Has a damaged replica replaced, one at a time in each partition. Never the only one, and none without which
/// those that are live and keep up are no majority: with two replicas, neither.
///
/// # Errors
/// Why not, or not now: it is another replica by now, the replicas change already, or too few others are there.
pub fn replace_damaged(image: &Image, damaged: &Damaged) -> Result<Command, Problem> {
    let found = image.partition_of_group(damaged.group);
    let (topic, index) = found.ok_or_else(Problem::unknown_topic)?;
    let partition = topic.partition(index).ok_or_else(Problem::unknown_topic)?;
    check_replaceable(partition, damaged.broker, damaged.number)?;
    let others = partition
        .replicas
        .iter()
        .filter(|id| **id != damaged.broker && damaged.in_sync.contains(id) && image.is_live(**id));
    let (others, all) = (others.count(), partition.replicas.len());
    if others * 2 <= all {
        return Err(Problem::throttled(format!(
            "{others} other replicas of {all} are live and in sync, which is no majority."
        )));
    }
    Ok(Command::ReplaceReplica {
        id: topic.id,
        partition: index,
        broker: damaged.broker,
        number: damaged.number,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rules::{
        Reassignment, alter_partition_reassignments, fence_broker, finish_reassignments,
    };
    use crate::testing::{Cluster, topic_id};
    use crate::{ErrorCode, Outcome, Partition};

    /// Four brokers and a partition with these replicas.
    fn cluster(replicas: &[i32]) -> Cluster {
        let mut cluster = Cluster::new(&[None; 4]);
        cluster.apply(&Command::CreateTopic {
            name: "t".into(),
            id: topic_id(1),
            partitions: vec![replicas.to_vec()],
            configs: BTreeMap::new(),
        });
        cluster
    }

    fn partition(cluster: &Cluster) -> Partition {
        let topic = cluster.image.topic("t").expect("exists");
        topic.partition(0).expect("exists").clone()
    }

    fn replace(
        cluster: &Cluster,
        broker: i32,
        number: u32,
        in_sync: &[i32],
    ) -> Result<Command, ErrorCode> {
        let damaged = Damaged {
            group: partition(cluster).group,
            broker,
            number,
            in_sync: in_sync.to_vec(),
        };
        replace_damaged(&cluster.image, &damaged).map_err(|problem| problem.code)
    }

    fn carry_out(cluster: &mut Cluster, command: Result<Command, ErrorCode>) {
        assert_eq!(cluster.apply(&command.expect("allowed")), Outcome::Done);
    }

    fn finish(cluster: &mut Cluster) {
        let partition = partition(cluster);
        let since = partition.moving.expect("under way").since;
        for command in finish_reassignments(&cluster.image, &[(partition.group, since)]) {
            cluster.apply(&command);
        }
    }

    fn reassign(cluster: &mut Cluster, replicas: &[i32]) {
        let request = Reassignment {
            topic: "t".into(),
            partition: 0,
            replicas: Some(replicas.to_vec()),
        };
        let (commands, _) = alter_partition_reassignments(cluster.context(), &[request], true);
        assert_eq!(commands.len(), 1);
        cluster.apply(&commands[0]);
    }

    #[test]
    fn the_broker_gets_another_replica_in_the_same_place() {
        let mut cluster = cluster(&[1, 2, 3]);
        let command = replace(&cluster, 2, 0, &[1, 2, 3]);
        carry_out(&mut cluster, command.clone());
        let renewing = partition(&cluster);
        assert_eq!(renewing.replicas, [1, 2, 3]);
        assert_eq!(renewing.target(), [1, 2, 3]);
        assert_eq!(
            [1, 2, 3].map(|id| (renewing.number(id), renewing.is_renewing(id))),
            [(0, false), (1, true), (0, false)]
        );
        assert!(renewing.founders().is_empty(), "it is not to be founded");
        assert_eq!(cluster.image.moving().count(), 1);
        assert_eq!(
            crate::Image::decode(&cluster.image.encode()),
            Ok(cluster.image.clone())
        );
        // The same once more came too late.
        let again = cluster.apply(&command.expect("allowed"));
        assert!(matches!(again, Outcome::Refused(_)), "{again:?}");
        finish(&mut cluster);
        let renewed = partition(&cluster);
        assert_eq!((renewed.number(2), renewed.moving), (1, None));
        assert_eq!(cluster.image.moving().count(), 0);
        assert_eq!(
            replace(&cluster, 2, 0, &[1, 3]),
            Err(ErrorCode::InvalidRequest),
            "it has another by now"
        );
        let next = replace(&cluster, 2, 1, &[1, 3]);
        carry_out(&mut cluster, next);
    }

    #[test]
    fn never_without_a_majority_of_others_that_keep_up() {
        let later = Err(ErrorCode::ThrottlingQuotaExceeded);
        let mut cluster = cluster(&[1, 2, 3]);
        assert_eq!(replace(&cluster, 2, 0, &[1, 2]), later);
        assert_eq!(replace(&cluster, 2, 0, &[]), later);
        assert_eq!(
            replace(&cluster, 4, 0, &[1, 2, 3]),
            Err(ErrorCode::InvalidRequest)
        );
        let fence = fence_broker(cluster.context(), 3, true);
        cluster.apply(&fence.expect("registered").expect("a change"));
        assert_eq!(replace(&cluster, 2, 0, &[1, 2, 3]), later, "3 is gone");
        for replicas in [&[2][..], &[2, 1]] {
            let few = super::tests::cluster(replicas);
            assert_eq!(replace(&few, 2, 0, &[1, 2]), later, "{replicas:?}");
        }
    }

    #[test]
    fn one_at_a_time_in_a_partition() {
        let later = Err(ErrorCode::ThrottlingQuotaExceeded);
        let mut cluster = cluster(&[1, 2, 3]);
        let command = replace(&cluster, 2, 0, &[1, 3]);
        carry_out(&mut cluster, command);
        assert_eq!(replace(&cluster, 3, 0, &[1, 2]), later);
        finish(&mut cluster);
        assert!(replace(&cluster, 3, 0, &[1, 2]).is_ok());
        reassign(&mut cluster, &[1, 2, 4]);
        assert_eq!(replace(&cluster, 3, 0, &[1, 2]), later, "it moves");
    }

    #[test]
    fn another_order_or_a_move_meanwhile_does_not_end_it() {
        let mut cluster = cluster(&[1, 2, 3]);
        let command = replace(&cluster, 2, 0, &[1, 3]);
        carry_out(&mut cluster, command);
        for wanted in [&[3, 2, 1][..], &[1, 3], &[1, 2, 4], &[1, 2, 3]] {
            reassign(&mut cluster, wanted);
            assert!(partition(&cluster).is_renewing(2), "{wanted:?}");
            assert_eq!(partition(&cluster).target(), wanted);
        }
        finish(&mut cluster);
        assert_eq!(partition(&cluster).moving, None);
    }
}
