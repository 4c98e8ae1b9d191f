//! CreatePartitions (behaviour 108).

use super::create_topics::{MAX_PARTITIONS_PER_REQUEST, charge};
use super::placement::{candidates, check_manual, place};
use super::{Context, Planned, Verdict, occurrences};
use crate::command::Command;
use crate::problem::{ErrorCode, Problem};

/// A topic that is to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartitions {
    /// Name.
    pub topic: String,
    /// Number of partitions it is to have, the present ones included.
    pub count: i32,
    /// Replicas of each new partition, where the client chooses. Null and empty both occur and both
    /// leave the choice to the cluster.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// Checks the topics of a request; one verdict per item, in order. `seed` varies the placement.
pub fn create_partitions(
    context: Context<'_>,
    topics: &[NewPartitions],
    validate_only: bool,
    seed: u64,
) -> Vec<(String, Verdict<()>)> {
    let counts = occurrences(topics.iter().map(|topic| &topic.topic));
    let mut budget = MAX_PARTITIONS_PER_REQUEST;
    let verdicts = topics.iter().zip(0_u64..).map(|(topic, position)| {
        let verdict = if counts.get(&topic.topic).is_some_and(|count| *count > 1) {
            Err(Problem::invalid_request("Duplicate topic name."))
        } else {
            check(context, topic, seed.wrapping_add(position), &mut budget)
                .map(|command| Planned::new(command, validate_only, ()))
        };
        (topic.topic.clone(), verdict)
    });
    verdicts.collect()
}

fn check(
    context: Context<'_>,
    request: &NewPartitions,
    seed: u64,
    budget: &mut usize,
) -> Result<Command, Problem> {
    let topic = context
        .image
        .topic(&request.topic)
        .ok_or_else(Problem::unknown_topic)?;
    let present = i32::try_from(topic.partitions.len()).expect("indexes are 32-bit numbers");
    let invalid = |message: String| Err(Problem::new(ErrorCode::InvalidPartitions, message));
    if request.count == present {
        return invalid(format!("Topic already has {present} partition(s)."));
    }
    if request.count < present {
        return invalid(format!(
            "The topic {} currently has {present} partition(s); {} would not be an increase.",
            request.topic, request.count
        ));
    }
    let additional =
        usize::try_from(request.count - present).expect("count is larger than present");
    charge(budget, additional)?;
    let replication_factor = usize::try_from(topic.replication_factor()).unwrap_or(0);
    let partitions = match request
        .assignments
        .as_ref()
        .filter(|assignments| !assignments.is_empty())
    {
        Some(assignments) if assignments.len() != additional => {
            return Err(Problem::new(
                ErrorCode::InvalidReplicaAssignment,
                format!(
                    "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                    assignments.len()
                ),
            ));
        }
        Some(assignments) => {
            for (replicas, index) in assignments.iter().zip(present..) {
                check_manual(context.image, index, replicas, Some(replication_factor))?;
            }
            assignments.clone()
        }
        None => place(
            &candidates(context.image),
            additional,
            replication_factor,
            seed,
        )?,
    };
    Ok(Command::AddPartitions {
        id: topic.id,
        from: present,
        partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, code};

    fn grow(topic: &str, count: i32, assignments: Option<Vec<Vec<i32>>>) -> NewPartitions {
        NewPartitions {
            topic: topic.into(),
            count,
            assignments,
        }
    }

    #[test]
    fn behaviour_108_the_count_is_the_total_and_must_grow() {
        let mut cluster = Cluster::single().with_topic("t", 3, &[]);
        for (request, expected) in [
            (grow("t", 3, None), ErrorCode::InvalidPartitions),
            (grow("t", 2, None), ErrorCode::InvalidPartitions),
            (grow("t", -1, None), ErrorCode::InvalidPartitions),
            (grow("gone", 5, None), ErrorCode::UnknownTopicOrPartition),
            (grow("t", i32::MAX, None), ErrorCode::PolicyViolation),
            (
                grow("t", 5, Some(vec![vec![1]])),
                ErrorCode::InvalidReplicaAssignment,
            ),
            (
                grow("t", 4, Some(vec![vec![9]])),
                ErrorCode::InvalidReplicaAssignment,
            ),
            (
                grow("t", 4, Some(vec![vec![1, 1]])),
                ErrorCode::InvalidReplicaAssignment,
            ),
        ] {
            let verdicts =
                create_partitions(cluster.context(), std::slice::from_ref(&request), false, 0);
            assert_eq!(code(&verdicts[0].1), expected, "{request:?}");
        }
        for (request, count) in [
            (grow("t", 4, None), 4),
            (grow("t", 5, Some(vec![])), 5),
            (grow("t", 6, Some(vec![vec![1]])), 6),
        ] {
            let verdict = create_partitions(cluster.context(), &[request], false, 0)
                .remove(0)
                .1;
            cluster.carry_out(verdict);
            assert_eq!(
                cluster.image.topic("t").expect("exists").partitions.len(),
                count
            );
        }
    }

    #[test]
    fn validate_only_and_duplicates() {
        let cluster = Cluster::single().with_topic("t", 1, &[]);
        let verdicts = create_partitions(cluster.context(), &[grow("t", 2, None)], true, 0);
        assert_eq!(verdicts[0].1.as_ref().expect("allowed").command, None);
        let verdicts = create_partitions(
            cluster.context(),
            &[grow("t", 2, None), grow("t", 3, None)],
            false,
            0,
        );
        assert!(
            verdicts
                .iter()
                .all(|(_, verdict)| code(verdict) == ErrorCode::InvalidRequest)
        );
    }
}
