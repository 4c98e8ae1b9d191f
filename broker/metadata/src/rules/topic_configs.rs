//! Checks of a topic's overrides, shared by creation and alteration.

use std::collections::BTreeMap;

use crate::problem::Problem;
use crate::settings::{Scope, Settings, find, unknown_key};

/// Group keys with the broker keys that bound them.
const GROUP_BOUNDS: &[(&str, &str, &str)] = &[
    (
        "consumer.session.timeout.ms",
        "group.consumer.min.session.timeout.ms",
        "group.consumer.max.session.timeout.ms",
    ),
    (
        "consumer.heartbeat.interval.ms",
        "group.consumer.min.heartbeat.interval.ms",
        "group.consumer.max.heartbeat.interval.ms",
    ),
    (
        "consumer.assignment.interval.ms",
        "group.consumer.min.assignment.interval.ms",
        "group.consumer.max.assignment.interval.ms",
    ),
];

/// Checks overrides of a topic, each and together.
///
/// # Errors
/// `INVALID_CONFIG`: unknown key (with the nearest), a value that is not accepted, a contradiction.
pub fn check_topic_configs(configs: &BTreeMap<String, String>) -> Result<(), Problem> {
    check_values(Scope::Topic, configs)?;
    check_together(configs)
}

/// Checks that overrides do not contradict each other.
pub(super) fn check_together(configs: &BTreeMap<String, String>) -> Result<(), Problem> {
    let lag = |name| {
        find(Scope::Topic, name).and_then(|key| {
            configs
                .get(name)
                .map(String::as_str)
                .or(key.default)?
                .trim()
                .parse::<i64>()
                .ok()
        })
    };
    match (lag("min.compaction.lag.ms"), lag("max.compaction.lag.ms")) {
        (Some(least), Some(most)) if least > most => Err(Problem::invalid_config(format!(
            "conflict topic config setting min.compaction.lag.ms ({least}) > max.compaction.lag.ms ({most})"
        ))),
        _ => Ok(()),
    }
}

/// Checks a group's overrides of the consumer protocol against the broker's bounds, as Kafka does: when
/// they are set, with what is not set at its default.
pub(super) fn check_group_bounds(
    settings: &Settings,
    configs: &BTreeMap<String, String>,
) -> Result<(), Problem> {
    let value = |name: &str| -> Option<i64> {
        let key = find(Scope::Group, name)?;
        match configs.get(name) {
            Some(value) => value.trim().parse().ok(),
            None => settings.inherited(key).value?.trim().parse().ok(),
        }
    };
    for (name, least, most) in GROUP_BOUNDS {
        let Some(value) = value(name).filter(|_| configs.contains_key(*name)) else {
            continue;
        };
        if value < settings.long(least) {
            return Err(Problem::invalid_config(format!(
                "{name} must be greater than or equal to {least}"
            )));
        }
        if value > settings.long(most) {
            return Err(Problem::invalid_config(format!(
                "{name} must be less than or equal to {most}"
            )));
        }
    }
    let [session, heartbeat] = [
        "consumer.session.timeout.ms",
        "consumer.heartbeat.interval.ms",
    ];
    if value(session) <= value(heartbeat) {
        return Err(Problem::invalid_config(format!(
            "{session} must be greater than {heartbeat}"
        )));
    }
    Ok(())
}

/// Checks keys and values of one scope.
pub(super) fn check_values(
    scope: Scope,
    configs: &BTreeMap<String, String>,
) -> Result<(), Problem> {
    for (name, value) in configs {
        let key =
            find(scope, name).ok_or_else(|| Problem::invalid_config(unknown_key(scope, name)))?;
        key.check(value).map_err(Problem::invalid_config)?;
    }
    Ok(())
}
