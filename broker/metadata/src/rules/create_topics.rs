//! CreateTopics (behaviours 18, 19, 106, 107).

use std::collections::{BTreeMap, BTreeSet};

use klamm_records::TopicId;

use super::describe_configs::{ConfigEntry, topic_entries};
use super::placement::{candidates, check_manual, place};
use super::topic_configs::check_topic_configs;
use super::{Context, Planned, Verdict, occurrences};
use crate::command::Command;
use crate::names;
use crate::problem::{ErrorCode, Problem};

/// Most partitions that one request may create, over all its topics; as in Kafka, where a larger
/// one is refused with `POLICY_VIOLATION`.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// A topic that is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Name.
    pub name: String,
    /// Number of partitions; -1 for `num.partitions`, or with assignments.
    pub partitions: i32,
    /// Replicas of each; -1 for `default.replication.factor`, or with assignments.
    pub replication_factor: i16,
    /// Partition index and its replicas, where the client chooses; else empty.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Overrides. A null value is refused.
    pub configs: Vec<(String, Option<String>)>,
}

/// What CreateTopics answers for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id.
    pub id: TopicId,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each.
    pub replication_factor: i16,
    /// Effective configuration, for version 5 and later.
    pub configs: Vec<ConfigEntry>,
}

/// Checks the topics of a request; one verdict per distinct name, in the order of first mention.
/// `seed` varies the placement; `new_id` makes random ids. `validate_only` checks all and plans nothing.
pub fn create_topics(
    context: Context<'_>,
    topics: &[NewTopic],
    validate_only: bool,
    seed: u64,
    new_id: &mut dyn FnMut() -> TopicId,
) -> Vec<(String, Verdict<CreatedTopic>)> {
    let counts = occurrences(topics.iter().map(|topic| &topic.name));
    let mut answered = BTreeSet::new();
    let mut collisions: BTreeMap<String, &str> = BTreeMap::new();
    let mut budget = MAX_PARTITIONS_PER_REQUEST;
    let mut verdicts = Vec::new();
    for (topic, position) in topics.iter().zip(0_u64..) {
        if !answered.insert(&topic.name) {
            continue;
        }
        let verdict = if counts.get(&topic.name).is_some_and(|count| *count > 1) {
            Err(Problem::invalid_request("Duplicate topic name."))
        } else {
            check_name(context, &topic.name, &collisions)
                .and_then(|()| {
                    check_topic(context, topic, seed.wrapping_add(position), &mut budget)
                })
                .map(|(partitions, configs)| {
                    plan(context, topic, partitions, configs, new_id(), validate_only)
                })
        };
        if let (Ok(_), Some(key)) = (&verdict, names::collision_key(&topic.name)) {
            collisions.insert(key, &topic.name);
        }
        verdicts.push((topic.name.clone(), verdict));
    }
    verdicts
}

fn check_name(
    context: Context<'_>,
    name: &str,
    in_request: &BTreeMap<String, &str>,
) -> Result<(), Problem> {
    names::check_topic_name(name)?;
    if name == names::CLUSTER_METADATA_TOPIC {
        return Err(Problem::invalid_request(format!(
            "Creation of internal topic {name} is prohibited."
        )));
    }
    if context.image.topic(name).is_some() {
        return Err(Problem::new(
            ErrorCode::TopicAlreadyExists,
            format!("Topic '{name}' already exists."),
        ));
    }
    let key = names::collision_key(name);
    let other = context
        .image
        .colliding_topic(name)
        .or_else(|| in_request.get(key.as_ref()?).copied());
    match other {
        Some(other) => Err(Problem::new(
            ErrorCode::InvalidTopic,
            format!("Topic '{name}' collides with existing topic: {other}"),
        )),
        None => Ok(()),
    }
}

type CheckedTopic = (Vec<Vec<i32>>, BTreeMap<String, String>);

fn check_topic(
    context: Context<'_>,
    topic: &NewTopic,
    seed: u64,
    budget: &mut usize,
) -> Result<CheckedTopic, Problem> {
    let nulls: Vec<&str> = topic
        .configs
        .iter()
        .filter(|(_, value)| value.is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    if !nulls.is_empty() {
        return Err(Problem::invalid_config(format!(
            "Null value not supported for topic configs: {}",
            nulls.join(",")
        )));
    }
    let given = topic
        .configs
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
    let configs: BTreeMap<String, String> = given.collect();
    check_topic_configs(&configs)?;
    let partitions = if topic.assignments.is_empty() {
        assign(context, topic, seed, budget)?
    } else {
        assigned(context, topic, budget)?
    };
    Ok((partitions, configs))
}

/// Replicas as the client chose them.
fn assigned(
    context: Context<'_>,
    topic: &NewTopic,
    budget: &mut usize,
) -> Result<Vec<Vec<i32>>, Problem> {
    if topic.replication_factor != -1 {
        return Err(Problem::invalid_request(
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ));
    }
    if topic.partitions != -1 {
        return Err(Problem::invalid_request(
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ));
    }
    let invalid = |message: String| Err(Problem::new(ErrorCode::InvalidReplicaAssignment, message));
    charge(budget, topic.assignments.len())?;
    let mut by_index = BTreeMap::new();
    let mut replication_factor = None;
    for (index, replicas) in &topic.assignments {
        if by_index.insert(*index, replicas.clone()).is_some() {
            return invalid(format!(
                "Found multiple manual partition assignments for partition {index}"
            ));
        }
        check_manual(context.image, *index, replicas, replication_factor)?;
        replication_factor = Some(replicas.len());
    }
    if by_index
        .keys()
        .zip(0..)
        .any(|(index, expected)| *index != expected)
    {
        return invalid("partitions should be a consecutive 0-based integer sequence".to_owned());
    }
    Ok(by_index.into_values().collect())
}

/// Replicas as the cluster chooses them.
fn assign(
    context: Context<'_>,
    topic: &NewTopic,
    seed: u64,
    budget: &mut usize,
) -> Result<Vec<Vec<i32>>, Problem> {
    let replication_factor = match topic.replication_factor {
        -1 => context.settings.int("default.replication.factor"),
        given => i32::from(given),
    };
    let Some(replication_factor) = usize::try_from(replication_factor)
        .ok()
        .filter(|factor| *factor > 0)
    else {
        return Err(Problem::new(
            ErrorCode::InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ));
    };
    let partitions = match topic.partitions {
        -1 => context.settings.int("num.partitions"),
        given => given,
    };
    let Some(partitions) = usize::try_from(partitions).ok().filter(|count| *count > 0) else {
        return Err(Problem::new(
            ErrorCode::InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ));
    };
    charge(budget, partitions)?;
    place(
        &candidates(context.image),
        partitions,
        replication_factor,
        seed,
    )
}

/// Takes partitions off what the request may still create.
pub(super) fn charge(budget: &mut usize, partitions: usize) -> Result<(), Problem> {
    match budget.checked_sub(partitions) {
        Some(rest) => {
            *budget = rest;
            Ok(())
        }
        None => Err(Problem::new(
            ErrorCode::PolicyViolation,
            format!(
                "Unable to perform excessively large batch operation: at most {MAX_PARTITIONS_PER_REQUEST} partitions in one request."
            ),
        )),
    }
}

fn plan(
    context: Context<'_>,
    topic: &NewTopic,
    partitions: Vec<Vec<i32>>,
    configs: BTreeMap<String, String>,
    id: TopicId,
    validate_only: bool,
) -> Planned<CreatedTopic> {
    let replicas = partitions.first().map_or(0, Vec::len);
    let answer = CreatedTopic {
        id,
        partitions: i32::try_from(partitions.len())
            .expect("bounded by the partitions of a request"),
        replication_factor: i16::try_from(replicas).unwrap_or(i16::MAX),
        configs: topic_entries(context.settings, &configs),
    };
    Planned::new(
        Command::CreateTopic {
            name: topic.name.clone(),
            id,
            partitions,
            configs,
        },
        validate_only,
        answer,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Source;
    use crate::testing::{Cluster, code, map, settings, topic_id};

    fn new(name: &str, partitions: i32, replication_factor: i16) -> NewTopic {
        NewTopic {
            name: name.into(),
            partitions,
            replication_factor,
            assignments: vec![],
            configs: vec![],
        }
    }

    fn manual(assignments: &[(i32, &[i32])]) -> NewTopic {
        let assignments = assignments
            .iter()
            .map(|(index, replicas)| (*index, replicas.to_vec()))
            .collect();
        NewTopic {
            assignments,
            ..new("m", -1, -1)
        }
    }

    fn configured(configs: &[(&str, Option<&str>)]) -> NewTopic {
        let configs = configs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
            .collect();
        NewTopic {
            configs,
            ..new("c", 1, 1)
        }
    }

    fn ask(
        cluster: &Cluster,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Vec<(String, Verdict<CreatedTopic>)> {
        let mut next = 100;
        create_topics(cluster.context(), topics, validate_only, 5, &mut || {
            next += 1;
            topic_id(next)
        })
    }

    fn one(cluster: &Cluster, topic: NewTopic) -> Verdict<CreatedTopic> {
        ask(cluster, &[topic], false).remove(0).1
    }

    #[test]
    fn behaviour_106_refusals() {
        let cluster = Cluster::new(&[None, None]).with_topic("exists.x", 1, &[]);
        for (topic, expected) in [
            (new("t", 0, 1), ErrorCode::InvalidPartitions),
            (new("t", -2, 1), ErrorCode::InvalidPartitions),
            (new("t", 1, 0), ErrorCode::InvalidReplicationFactor),
            (new("t", 1, -2), ErrorCode::InvalidReplicationFactor),
            (new("t", 1, 3), ErrorCode::InvalidReplicationFactor),
            (new("t", i32::MAX, 1), ErrorCode::PolicyViolation),
            (new("a b", 1, 1), ErrorCode::InvalidTopic),
            (new("", 1, 1), ErrorCode::InvalidTopic),
            (new("exists.x", 1, 1), ErrorCode::TopicAlreadyExists),
            (new("exists_x", 1, 1), ErrorCode::InvalidTopic),
            (new("__cluster_metadata", 1, 1), ErrorCode::InvalidRequest),
            (
                NewTopic {
                    partitions: 1,
                    ..manual(&[(0, &[1])])
                },
                ErrorCode::InvalidRequest,
            ),
            (
                NewTopic {
                    replication_factor: 1,
                    ..manual(&[(0, &[1])])
                },
                ErrorCode::InvalidRequest,
            ),
            (manual(&[(1, &[1])]), ErrorCode::InvalidReplicaAssignment),
            (
                manual(&[(0, &[1]), (2, &[1])]),
                ErrorCode::InvalidReplicaAssignment,
            ),
            (
                manual(&[(0, &[1]), (0, &[2])]),
                ErrorCode::InvalidReplicaAssignment,
            ),
            (
                manual(&[(-1, &[1]), (0, &[1])]),
                ErrorCode::InvalidReplicaAssignment,
            ),
            (
                manual(&[(0, &[1]), (1, &[1, 2])]),
                ErrorCode::InvalidReplicaAssignment,
            ),
            (manual(&[(0, &[1, 1])]), ErrorCode::InvalidReplicaAssignment),
            (manual(&[(0, &[9])]), ErrorCode::InvalidReplicaAssignment),
            (manual(&[(0, &[])]), ErrorCode::InvalidReplicaAssignment),
            (
                configured(&[("no.such.key", Some("1"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                configured(&[("retention.ms", Some("x"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                configured(&[("retention.ms", None)]),
                ErrorCode::InvalidConfig,
            ),
            (
                configured(&[("cleanup.policy", Some("compacted"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                configured(&[
                    ("min.compaction.lag.ms", Some("5")),
                    ("max.compaction.lag.ms", Some("4")),
                ]),
                ErrorCode::InvalidConfig,
            ),
        ] {
            assert_eq!(code(&one(&cluster, topic.clone())), expected, "{topic:?}");
        }
    }

    #[test]
    fn behaviour_106_a_topic_twice_in_a_request_is_created_not_at_all() {
        let verdicts = ask(
            &Cluster::single(),
            &[new("t", 1, 1), new("u", 1, 1), new("t", 2, 1)],
            false,
        );
        assert_eq!(verdicts.len(), 2);
        assert_eq!(code(&verdicts[0].1), ErrorCode::InvalidRequest);
        assert!(verdicts[1].1.is_ok());
    }

    #[test]
    fn behaviour_18_names_collide_within_a_request_too() {
        let verdicts = ask(
            &Cluster::single(),
            &[new("a.b", 1, 1), new("a_b", 1, 1)],
            false,
        );
        assert!(verdicts[0].1.is_ok());
        assert_eq!(code(&verdicts[1].1), ErrorCode::InvalidTopic);
    }

    #[test]
    fn partitions_of_a_request_are_bounded_together() {
        let verdicts = ask(
            &Cluster::single(),
            &[new("a", 9_999, 1), new("b", 2, 1), new("c", 1, 1)],
            true,
        );
        assert_eq!(code(&verdicts[1].1), ErrorCode::PolicyViolation);
        assert!(verdicts[0].1.is_ok() && verdicts[2].1.is_ok());
    }

    #[test]
    fn behaviour_106_defaults_and_effective_configs() {
        let mut cluster = Cluster::new(&[None, None, None]);
        cluster.settings = settings(&[
            ("num.partitions", "4"),
            ("default.replication.factor", "2"),
            ("log.retention.hours", "1"),
        ]);
        let topic = NewTopic {
            configs: vec![("segment.ms".into(), Some("5".into()))],
            ..new("t", -1, -1)
        };
        let planned = one(&cluster, topic).expect("allowed");
        assert_eq!(
            (planned.answer.partitions, planned.answer.replication_factor),
            (4, 2)
        );
        let config = |name: &str| {
            planned
                .answer
                .configs
                .iter()
                .find(|entry| entry.name == name)
                .expect(name)
        };
        assert_eq!(
            (
                config("segment.ms").value.as_deref(),
                config("segment.ms").source
            ),
            (Some("5"), Source::Topic)
        );
        assert_eq!(config("retention.ms").value.as_deref(), Some("3600000"));
        assert_eq!(config("retention.ms").source, Source::StaticBroker);
        let Some(Command::CreateTopic {
            configs,
            partitions,
            ..
        }) = &planned.command
        else {
            panic!("a command")
        };
        assert_eq!(
            configs,
            &map(&[("segment.ms", "5")]),
            "behaviour 107: only what was given is stored"
        );
        assert_eq!(partitions.iter().map(Vec::len).collect::<Vec<_>>(), [2; 4]);
    }

    #[test]
    fn behaviour_106_validate_only_checks_all_and_changes_nothing() {
        let verdicts = ask(&Cluster::single(), &[new("t", 3, 1), new("u", 0, 1)], true);
        let planned = verdicts[0].1.as_ref().expect("allowed");
        assert_eq!(
            (planned.command.as_ref(), planned.answer.partitions),
            (None, 3)
        );
        assert_eq!(code(&verdicts[1].1), ErrorCode::InvalidPartitions);
    }

    #[test]
    fn manual_assignments_are_kept_in_order_of_index() {
        let cluster = Cluster::new(&[None, None]);
        let planned = one(&cluster, manual(&[(1, &[2, 1]), (0, &[1, 2])])).expect("allowed");
        let Some(Command::CreateTopic { partitions, .. }) = planned.command else {
            panic!("a command")
        };
        assert_eq!(partitions, [[1, 2], [2, 1]]);
    }
}
