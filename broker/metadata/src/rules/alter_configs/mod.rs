//! IncrementalAlterConfigs and the older AlterConfigs (behaviours 107, 111, 112).
//!
//! Each resource is changed as a whole or not at all, and independently of the others.

use std::collections::BTreeMap;

use crate::command::Command;
use crate::image::DRAINING;
use crate::problem::Problem;
use crate::resource::ConfigResource;
use crate::rules::topic_configs::{check_group_bounds, check_together, check_values};
use crate::rules::{Context, Planned, Verdict, occurrences};
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
        let mut names = item.configs.iter().map(|change| change.name.as_str());
        // That a node is to be drained is for all nodes to know, and it may be away.
        let by_any = !item.configs.is_empty() && names.all(|name| name == DRAINING);
        let resource = resource(context, item.resource_type, &item.resource_name, by_any)?;
        let current = context
            .image
            .configs(&resource)
            .cloned()
            .unwrap_or_default();
        let mut next = current.clone();
        for change in &item.configs {
            apply(context, &resource, change, &mut next)?;
        }
        plan(context, resource, &current, next, validate_only)
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
        let resource = resource(context, item.resource_type, &item.resource_name, false)?;
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
            context,
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
    by_any: bool,
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
        ConfigResource::Broker(Some(id)) if by_any && context.image.broker(*id).is_some() => {}
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
    context: Context<'_>,
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
        ConfigResource::Group(_) => {
            check_values(Scope::Group, &sets)?;
            check_group_bounds(context.settings, &next)?;
        }
        ConfigResource::ClientMetrics(_) => check_values(Scope::ClientMetrics, &sets)?,
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
        if is_for_the_start_file(key) {
            return Err(Problem::invalid_request(format!(
                "Cannot update {name} dynamically: it names a file, an address or code, which only the node's own settings may."
            )));
        }
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

/// What could make a broker read files, reach addresses or run code by a request (CVE-2025-27817 to
/// -27819, CVE-2024-31141), whether the key has an effect here or not.
fn is_for_the_start_file(key: &Key) -> bool {
    const PARTS: [&str; 6] = [
        "jaas",
        ".location",
        ".url",
        "reporters",
        "providers",
        ".class",
    ];
    key.kind == Kind::Class || PARTS.iter().any(|part| key.name.contains(part))
}

#[cfg(test)]
mod tests;
