//! AlterPartitionReassignments (behaviour 118). Replicas do not move yet: asking for what is there
//! is granted, everything else is refused with the reason. No reassignment is ever in progress, so
//! ListPartitionReassignments is an empty list.

use super::Context;
use super::placement::check_manual;
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

/// Checks one partition of a request. There is nothing to propose.
///
/// # Errors
/// `UNKNOWN_TOPIC_OR_PARTITION`, `NO_REASSIGNMENT_IN_PROGRESS`, `INVALID_REPLICA_ASSIGNMENT`.
pub fn alter_partition_reassignments(
    context: Context<'_>,
    request: &Reassignment,
) -> Result<(), Problem> {
    let topic = context
        .image
        .topic(&request.topic)
        .ok_or_else(Problem::unknown_topic)?;
    let partition = topic
        .partition(request.partition)
        .ok_or_else(Problem::unknown_topic)?;
    let Some(replicas) = &request.replicas else {
        return Err(Problem::new(
            ErrorCode::NoReassignmentInProgress,
            "No partition reassignment is in progress.",
        ));
    };
    check_manual(context.image, request.partition, replicas, None)?;
    if *replicas == partition.replicas {
        return Ok(());
    }
    Err(Problem::new(
        ErrorCode::InvalidReplicaAssignment,
        format!(
            "Replicas cannot be moved yet; the partition stays on {:?}.",
            partition.replicas
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    #[test]
    fn behaviour_118() {
        let cluster = Cluster::new(&[None, None]).with_topic("t", 1, &[]);
        let ask = |topic: &str, partition, replicas: Option<&[i32]>| {
            let replicas = replicas.map(<[i32]>::to_vec);
            alter_partition_reassignments(
                cluster.context(),
                &Reassignment {
                    topic: topic.into(),
                    partition,
                    replicas,
                },
            )
        };
        assert_eq!(ask("t", 0, Some(&[1])), Ok(()));
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
            ("t", 0, Some(&[2]), ErrorCode::InvalidReplicaAssignment),
        ] {
            assert_eq!(
                ask(topic, partition, replicas).expect_err("refused").code,
                expected,
                "{topic} {replicas:?}"
            );
        }
    }
}
