//! Checks of a topic's overrides, shared by creation and alteration.

use std::collections::BTreeMap;

use crate::problem::Problem;
use crate::settings::{Scope, find, unknown_key};

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
