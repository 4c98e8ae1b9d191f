//! IncrementalAlterConfigs and the older AlterConfigs (behaviours 107, 111, 112).
//!
//! Each resource is changed as a whole or not at all, and independently of the others.

use std::collections::BTreeMap;

use super::topic_configs::{check_together, check_values};
use super::{Context, Planned, Verdict, occurrences};
use crate::command::Command;
use crate::problem::Problem;
use crate::resource::ConfigResource;
use crate::settings::{Dynamic, Key, Kind, Scope, find, unknown_key};

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterOperation {
    /// Set the value.
    Set,
    /// Remove the override.
    Delete,
    /// Add elements to a list.
    Append,
    /// Take elements out of a list.
    Subtract,
}

impl AlterOperation {
    /// Reads the number on the wire.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for another number.
    pub fn parse(number: i8) -> Result<AlterOperation, Problem> {
        match number {
            0 => Ok(AlterOperation::Set),
            1 => Ok(AlterOperation::Delete),
            2 => Ok(AlterOperation::Append),
            3 => Ok(AlterOperation::Subtract),
            other => Err(Problem::invalid_request(format!(
                "Unknown operations type {other}"
            ))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            AlterOperation::Set => "SET",
            AlterOperation::Delete => "DELETE",
            AlterOperation::Append => "APPEND",
            AlterOperation::Subtract => "SUBTRACT",
        }
    }
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// Key.
    pub name: String,
    /// Operation, as on the wire.
    pub operation: i8,
    /// Value; ignored by DELETE.
    pub value: Option<String>,
}

/// Changes of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceChange {
    /// Type, as on the wire.
    pub resource_type: i8,
    /// Name, as on the wire.
    pub resource_name: String,
    /// The changes.
    pub configs: Vec<ConfigChange>,
}

/// The whole new set of overrides of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceReplacement {
    /// Type, as on the wire.
    pub resource_type: i8,
    /// Name, as on the wire.
    pub resource_name: String,
    /// Keys and values; a null value is refused.
    pub configs: Vec<(String, Option<String>)>,
}

/// Checks an IncrementalAlterConfigs request; one verdict per item, in order. `BROKER_LOGGER` is the
/// broker's own to change.
pub fn incremental_alter_configs(
    context: Context<'_>,
    resources: &[ResourceChange],
    validate_only: bool,
) -> Vec<Verdict<ConfigResource>> {
    let counts = occurrences(
        resources
            .iter()
            .map(|item| (item.resource_type, item.resource_name.as_str())),
    );
    let verdicts = resources.iter().map(|item| {
        check_once(&counts, item.resource_type, &item.resource_name)?;
        check_keys(item.configs.iter().map(|change| change.name.as_str()))?;
        let resource = resource(context, item.resource_type, &item.resource_name)?;
        let current = context
            .image
            .configs(&resource)
            .cloned()
            .unwrap_or_default();
        let mut next = current.clone();
        for change in &item.configs {
            apply(context, &resource, change, &mut next)?;
        }
        plan(resource, &current, next, validate_only)
    });
    verdicts.collect()
}

/// Checks an AlterConfigs request, which replaces all overrides (behaviour 112); one verdict per
/// item, in order.
pub fn alter_configs(
    context: Context<'_>,
    resources: &[ResourceReplacement],
    validate_only: bool,
) -> Vec<Verdict<ConfigResource>> {
    let counts = occurrences(
        resources
            .iter()
            .map(|item| (item.resource_type, item.resource_name.as_str())),
    );
    let verdicts = resources.iter().map(|item| {
        check_once(&counts, item.resource_type, &item.resource_name)?;
        check_keys(item.configs.iter().map(|(name, _)| name.as_str()))?;
        let resource = resource(context, item.resource_type, &item.resource_name)?;
        let current = context
            .image
            .configs(&resource)
            .cloned()
            .unwrap_or_default();
        let given = item.configs.iter().map(|(name, value)| {
            let value = value.clone().ok_or_else(|| null_value(name))?;
            Ok((name.clone(), value))
        });
        plan(
            resource,
            &current,
            given.collect::<Result<_, Problem>>()?,
            validate_only,
        )
    });
    verdicts.collect()
}

fn check_once(
    counts: &BTreeMap<(i8, &str), usize>,
    resource_type: i8,
    name: &str,
) -> Result<(), Problem> {
    match counts.get(&(resource_type, name)) {
        Some(count) if *count > 1 => Err(Problem::invalid_request(
            "Each resource must appear at most once.",
        )),
        _ => Ok(()),
    }
}

fn check_keys<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Problem> {
    match occurrences(names).into_iter().find(|(_, count)| *count > 1) {
        Some(_) => Err(Problem::invalid_request(
            "Error due to duplicate config keys",
        )),
        None => Ok(()),
    }
}

fn resource(
    context: Context<'_>,
    resource_type: i8,
    name: &str,
) -> Result<ConfigResource, Problem> {
    let resource = ConfigResource::parse(resource_type, name)?;
    match &resource {
        ConfigResource::Topic(topic) => {
            crate::names::check_topic_name(topic)?;
            context
                .image
                .topic(topic)
                .ok_or_else(Problem::unknown_topic)?;
        }
        ConfigResource::Broker(Some(id)) if *id != context.node_id => {
            return Err(Problem::invalid_request(format!(
                "Unexpected broker id, expected {}, but received {name}",
                context.node_id
            )));
        }
        _ => {}
    }
    Ok(resource)
}

fn null_value(name: &str) -> Problem {
    Problem::invalid_request(format!("Null value not supported for : {name}"))
}

fn scope(resource: &ConfigResource) -> Scope {
    match resource {
        ConfigResource::Topic(_) => Scope::Topic,
        ConfigResource::Broker(_) => Scope::Broker,
        ConfigResource::ClientMetrics(_) => Scope::ClientMetrics,
        ConfigResource::Group(_) => Scope::Group,
    }
}

/// Carries one change over to the overrides.
fn apply(
    context: Context<'_>,
    resource: &ConfigResource,
    change: &ConfigChange,
    configs: &mut BTreeMap<String, String>,
) -> Result<(), Problem> {
    let operation = AlterOperation::parse(change.operation)?;
    let name = &change.name;
    if operation == AlterOperation::Delete {
        configs.remove(name);
        return Ok(());
    }
    let value = change.value.as_deref().ok_or_else(|| null_value(name))?;
    let new_value = match operation {
        AlterOperation::Append | AlterOperation::Subtract => {
            let scope = scope(resource);
            let key = find(scope, name)
                .ok_or_else(|| Problem::invalid_config(unknown_key(scope, name)))?;
            if key.kind != Kind::List {
                return Err(Problem::invalid_config(format!(
                    "Can't {} to key {name} because its type is not LIST.",
                    operation.name()
                )));
            }
            let current = configs
                .get(name)
                .cloned()
                .or_else(|| unset_value(context, resource, key))
                .unwrap_or_default();
            combine(operation, &current, value)
        }
        AlterOperation::Set | AlterOperation::Delete => value.to_owned(),
    };
    configs.insert(name.clone(), new_value);
    Ok(())
}

/// The value that holds as long as the resource has none of its own.
fn unset_value(context: Context<'_>, resource: &ConfigResource, key: &Key) -> Option<String> {
    match resource {
        ConfigResource::Broker(_) => context.settings.resolve(key.name)?.value,
        _ => context.settings.inherited(key).value,
    }
}

fn combine(operation: AlterOperation, current: &str, value: &str) -> String {
    let elements = |text: &str| -> Vec<String> {
        text.split(',')
            .map(str::trim)
            .filter(|element| !element.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut list = elements(current);
    for element in elements(value) {
        if operation == AlterOperation::Subtract {
            list.retain(|present| *present != element);
        } else if !list.contains(&element) {
            list.push(element);
        }
    }
    list.join(",")
}

/// The command that leads from the current overrides to the next ones, if they are allowed. Keys
/// that stay as they are were judged when they were set.
fn plan(
    resource: ConfigResource,
    current: &BTreeMap<String, String>,
    next: BTreeMap<String, String>,
    validate_only: bool,
) -> Verdict<ConfigResource> {
    let sets: BTreeMap<String, String> = next
        .iter()
        .filter(|(name, value)| current.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let removes: Vec<String> = current
        .keys()
        .filter(|name| !next.contains_key(*name))
        .cloned()
        .collect();
    match &resource {
        ConfigResource::Topic(_) => {
            check_values(Scope::Topic, &sets)?;
            check_together(&next)?;
        }
        ConfigResource::Broker(id) => check_broker_values(*id, &sets)?,
        other => check_values(scope(other), &sets)?,
    }
    let nothing_changes = sets.is_empty() && removes.is_empty();
    let command = Command::AlterConfigs {
        resource: resource.clone(),
        sets,
        removes,
    };
    Ok(Planned::new(
        command,
        validate_only || nothing_changes,
        resource,
    ))
}

/// Kafka answers `INVALID_REQUEST`, not `INVALID_CONFIG`, for a broker setting that cannot be changed
/// or has a bad value (KAFKA-13609); an unknown one, which Kafka lets pass, is `INVALID_CONFIG`.
fn check_broker_values(id: Option<i32>, sets: &BTreeMap<String, String>) -> Result<(), Problem> {
    for (name, value) in sets {
        let key = find(Scope::Broker, name)
            .ok_or_else(|| Problem::invalid_config(unknown_key(Scope::Broker, name)))?;
        match key.dynamic {
            Dynamic::Static => {
                return Err(Problem::invalid_request(format!(
                    "Cannot update these configs dynamically: {name}"
                )));
            }
            Dynamic::PerBroker if id.is_none() => {
                return Err(Problem::invalid_request(format!(
                    "Cannot update these configs at default cluster level, broker id must be specified: {name}"
                )));
            }
            Dynamic::PerBroker | Dynamic::Cluster => {
                key.check(value).map_err(Problem::invalid_request)?
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;
    use crate::testing::{Cluster, code, map};

    const SET: i8 = 0;
    const DELETE: i8 = 1;
    const APPEND: i8 = 2;
    const SUBTRACT: i8 = 3;

    fn change(
        resource_type: i8,
        name: &str,
        configs: &[(&str, i8, Option<&str>)],
    ) -> ResourceChange {
        let configs = configs.iter().map(|(name, operation, value)| ConfigChange {
            name: (*name).into(),
            operation: *operation,
            value: value.map(str::to_owned),
        });
        ResourceChange {
            resource_type,
            resource_name: name.into(),
            configs: configs.collect(),
        }
    }

    fn topic(configs: &[(&str, i8, Option<&str>)]) -> ResourceChange {
        change(2, "t", configs)
    }

    fn one(cluster: &Cluster, item: ResourceChange) -> Verdict<ConfigResource> {
        incremental_alter_configs(cluster.context(), &[item], false).remove(0)
    }

    fn overrides(cluster: &Cluster) -> BTreeMap<String, String> {
        cluster.image.topic("t").expect("exists").configs.clone()
    }

    #[test]
    fn behaviour_111_refusals() {
        let cluster = Cluster::single().with_topic("t", 1, &[]);
        for (item, expected) in [
            (
                topic(&[("retention.ms", SET, None)]),
                ErrorCode::InvalidRequest,
            ),
            (
                topic(&[("retention.ms", SET, Some("x"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("retention.ms", APPEND, Some("1"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("retention.ms", SUBTRACT, Some("1"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("no.such.key", SET, Some("1"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("no.such.key", APPEND, Some("1"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("retention.ms", 9, Some("1"))]),
                ErrorCode::InvalidRequest,
            ),
            (
                topic(&[
                    ("retention.ms", SET, Some("1")),
                    ("retention.ms", DELETE, None),
                ]),
                ErrorCode::InvalidRequest,
            ),
            (
                topic(&[("cleanup.policy", SET, Some("compact"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("cleanup.policy", APPEND, Some("compact"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("unclean.leader.election.enable", SET, Some("true"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("remote.storage.enable", SET, Some("true"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("message.format.version", SET, Some("2.8"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[("segment.bytes", SET, Some("1000"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                topic(&[
                    ("max.compaction.lag.ms", SET, Some("5")),
                    ("min.compaction.lag.ms", SET, Some("6")),
                ]),
                ErrorCode::InvalidConfig,
            ),
            (
                change(2, "gone", &[("retention.ms", SET, Some("1"))]),
                ErrorCode::UnknownTopicOrPartition,
            ),
            (change(2, "", &[]), ErrorCode::InvalidRequest),
            (change(4, "2", &[]), ErrorCode::InvalidRequest),
            (
                change(4, "", &[("num.partitions", SET, Some("2"))]),
                ErrorCode::InvalidRequest,
            ),
            (
                change(4, "", &[("ssl.keystore.location", SET, Some("f"))]),
                ErrorCode::InvalidRequest,
            ),
            (
                change(4, "1", &[("message.max.bytes", SET, Some("x"))]),
                ErrorCode::InvalidRequest,
            ),
            (
                change(4, "1", &[("no.such.key", SET, Some("x"))]),
                ErrorCode::InvalidConfig,
            ),
            (
                change(16, "m", &[("interval.ms", SET, Some("1"))]),
                ErrorCode::InvalidConfig,
            ),
            (change(8, "1", &[]), ErrorCode::InvalidRequest),
        ] {
            assert_eq!(code(&one(&cluster, item.clone())), expected, "{item:?}");
        }
    }

    #[test]
    fn behaviour_111_operations() {
        let mut cluster = Cluster::single().with_topic("t", 1, &[("segment.ms", "5")]);
        for (operations, expected) in [
            (
                vec![("retention.ms", SET, Some("604800000"))],
                map(&[("retention.ms", "604800000"), ("segment.ms", "5")]),
            ),
            (
                vec![
                    ("retention.ms", DELETE, None),
                    ("segment.ms", DELETE, Some("ignored")),
                ],
                map(&[]),
            ),
            (
                vec![(
                    "follower.replication.throttled.replicas",
                    APPEND,
                    Some("0:1,1:1"),
                )],
                map(&[("follower.replication.throttled.replicas", "0:1,1:1")]),
            ),
            (
                vec![(
                    "follower.replication.throttled.replicas",
                    APPEND,
                    Some("1:1,2:1"),
                )],
                map(&[("follower.replication.throttled.replicas", "0:1,1:1,2:1")]),
            ),
            (
                vec![(
                    "follower.replication.throttled.replicas",
                    SUBTRACT,
                    Some("1:1,9:9"),
                )],
                map(&[("follower.replication.throttled.replicas", "0:1,2:1")]),
            ),
            (
                vec![
                    ("follower.replication.throttled.replicas", DELETE, None),
                    ("cleanup.policy", SUBTRACT, Some("delete")),
                ],
                map(&[("cleanup.policy", "")]),
            ),
            (
                vec![("cleanup.policy", APPEND, Some("delete"))],
                map(&[("cleanup.policy", "delete")]),
            ),
            (
                vec![("not.set.and.unknown", DELETE, None)],
                map(&[("cleanup.policy", "delete")]),
            ),
        ] {
            let verdict = one(&cluster, topic(&operations));
            cluster.carry_out(verdict);
            assert_eq!(overrides(&cluster), expected, "{operations:?}");
        }
    }

    #[test]
    fn behaviour_111_atomic_per_resource_independent_between_them() {
        let mut cluster = Cluster::single()
            .with_topic("t", 1, &[])
            .with_topic("u", 1, &[]);
        let half_bad = topic(&[
            ("retention.ms", SET, Some("1")),
            ("segment.ms", SET, Some("x")),
        ]);
        let good = change(2, "u", &[("retention.ms", SET, Some("1"))]);
        let mut verdicts =
            incremental_alter_configs(cluster.context(), &[half_bad, good.clone()], false);
        assert_eq!(code(&verdicts[0]), ErrorCode::InvalidConfig);
        cluster.carry_out(verdicts.remove(1));
        assert_eq!(overrides(&cluster), map(&[]));
        let twice =
            incremental_alter_configs(cluster.context(), &[good.clone(), good.clone()], false);
        assert!(
            twice
                .iter()
                .all(|verdict| code(verdict) == ErrorCode::InvalidRequest)
        );
        let again = incremental_alter_configs(cluster.context(), &[good], false).remove(0);
        assert_eq!(again.expect("allowed").command, None, "nothing changes");
    }

    #[test]
    fn validate_only_plans_nothing() {
        let cluster = Cluster::single().with_topic("t", 1, &[]);
        let item = topic(&[("retention.ms", SET, Some("1"))]);
        let verdict = incremental_alter_configs(cluster.context(), &[item], true).remove(0);
        assert_eq!(verdict.expect("allowed").command, None);
    }

    #[test]
    fn an_override_of_a_newer_program_does_not_stand_in_the_way() {
        let mut cluster = Cluster::single().with_topic(
            "t",
            1,
            &[("key.of.the.future", "1"), ("cleanup.policy", "compact")],
        );
        let verdict = one(&cluster, topic(&[("retention.ms", SET, Some("1"))]));
        cluster.carry_out(verdict);
        assert_eq!(overrides(&cluster).len(), 3);
    }

    #[test]
    fn behaviour_112_the_older_request_replaces_all() {
        let mut cluster =
            Cluster::single().with_topic("t", 1, &[("segment.ms", "5"), ("retention.ms", "5")]);
        let replace = |configs: &[(&str, Option<&str>)]| ResourceReplacement {
            resource_type: 2,
            resource_name: "t".into(),
            configs: configs
                .iter()
                .map(|(name, value)| ((*name).into(), value.map(str::to_owned)))
                .collect(),
        };
        for (configs, expected) in [
            (&[("retention.ms", None)][..], ErrorCode::InvalidRequest),
            (
                &[("retention.ms", Some("1")), ("retention.ms", Some("2"))],
                ErrorCode::InvalidRequest,
            ),
            (&[("no.such.key", Some("1"))], ErrorCode::InvalidConfig),
        ] {
            assert_eq!(
                code(&alter_configs(cluster.context(), &[replace(configs)], false)[0]),
                expected
            );
        }
        let verdict = alter_configs(
            cluster.context(),
            &[replace(&[("retention.ms", Some("6"))])],
            false,
        )
        .remove(0);
        cluster.carry_out(verdict);
        assert_eq!(overrides(&cluster), map(&[("retention.ms", "6")]));
        let verdict = alter_configs(cluster.context(), &[replace(&[])], false).remove(0);
        cluster.carry_out(verdict);
        assert_eq!(overrides(&cluster), map(&[]));
    }

    #[test]
    fn broker_settings_change_at_run_time() {
        let mut cluster = Cluster::single();
        for (name, value) in [("", "7"), ("1", "8")] {
            let verdict = one(
                &cluster,
                change(4, name, &[("message.max.bytes", SET, Some(value))]),
            );
            cluster.carry_out(verdict);
            let settings = cluster.settings.with_dynamic(&cluster.image, 1);
            assert_eq!(settings.int("message.max.bytes").to_string(), value);
        }
        assert_eq!(
            cluster
                .settings
                .with_dynamic(&cluster.image, 2)
                .int("message.max.bytes"),
            7
        );
    }
}
