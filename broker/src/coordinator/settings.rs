//! The coordinator's settings from the broker's and the cluster's.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_coordinator::{GroupSettings, MigrationPolicy, Settings};
use klamm_metadata::rules::GROUP_VERSION;
use klamm_metadata::settings::Settings as BrokerSettings;
use klamm_metadata::{ConfigResource, Image};

/// Settings in force: the broker's, with overrides of groups in `image`.
pub fn of(broker: &BrokerSettings, image: &Image) -> Settings {
    let size = |name| usize::try_from(broker.int(name)).unwrap_or(0);
    let speaks_consumer = broker
        .list("group.coordinator.rebalance.protocols")
        .iter()
        .any(|protocol| protocol == "consumer");
    let group_default = group(broker, None);
    let groups = image
        .configured_resources()
        .filter_map(|resource| match resource {
            ConfigResource::Group(name) => {
                let configs = image.configs(resource)?;
                Some((Arc::from(name.as_str()), group(broker, Some(configs))))
            }
            _ => None,
        })
        .collect();
    Settings {
        initial_rebalance_delay_ms: broker.long("group.initial.rebalance.delay.ms"),
        min_session_timeout_ms: broker.int("group.min.session.timeout.ms"),
        max_session_timeout_ms: broker.int("group.max.session.timeout.ms"),
        max_size: size("group.max.size"),
        consumer_max_size: size("group.consumer.max.size"),
        consumer_assignors: broker.list("group.consumer.assignors"),
        migration_policy: migration_policy(broker),
        regex_refresh_interval_ms: broker.long("group.consumer.regex.refresh.interval.ms"),
        offsets_retention_ms: broker
            .long("offsets.retention.minutes")
            .saturating_mul(60_000),
        offsets_retention_check_interval_ms: broker.long("offsets.retention.check.interval.ms"),
        offset_metadata_max_bytes: size("offset.metadata.max.bytes"),
        consumer_protocol: speaks_consumer && image.feature(GROUP_VERSION) >= 1,
        group_default,
        groups,
    }
}

fn migration_policy(broker: &BrokerSettings) -> MigrationPolicy {
    let policy = broker.text("group.consumer.migration.policy");
    match policy.unwrap_or_default().to_ascii_lowercase().as_str() {
        "upgrade" => MigrationPolicy::Upgrade,
        "downgrade" => MigrationPolicy::Downgrade,
        "disabled" => MigrationPolicy::Disabled,
        _ => MigrationPolicy::Bidirectional,
    }
}

/// A group's settings within the broker's bounds, which may have moved since they were set.
fn group(broker: &BrokerSettings, overrides: Option<&BTreeMap<String, String>>) -> GroupSettings {
    let value = |what: &str, default: &'static str, least: &'static str, most: &'static str| {
        let own = overrides
            .and_then(|overrides| overrides.get(what))
            .and_then(|value| value.trim().parse::<i32>().ok());
        let (least, most) = (broker.int(least), broker.int(most));
        match own {
            Some(own) => own.clamp(least, most.max(least)),
            None => broker.int(default),
        }
    };
    GroupSettings {
        session_timeout_ms: value(
            "consumer.session.timeout.ms",
            "group.consumer.session.timeout.ms",
            "group.consumer.min.session.timeout.ms",
            "group.consumer.max.session.timeout.ms",
        ),
        heartbeat_interval_ms: value(
            "consumer.heartbeat.interval.ms",
            "group.consumer.heartbeat.interval.ms",
            "group.consumer.min.heartbeat.interval.ms",
            "group.consumer.max.heartbeat.interval.ms",
        ),
        assignment_interval_ms: value(
            "consumer.assignment.interval.ms",
            "group.consumer.assignment.interval.ms",
            "group.consumer.min.assignment.interval.ms",
            "group.consumer.max.assignment.interval.ms",
        ),
    }
}

#[cfg(test)]
mod tests {
    use klamm_metadata::Command;

    use super::*;

    fn image(commands: &[Command]) -> Image {
        commands.iter().fold(Image::default(), |image, command| {
            image.apply(image.last_offset() + 1, command).0
        })
    }

    fn alter(group: &str, name: &str, value: &str) -> Command {
        Command::AlterConfigs {
            resource: ConfigResource::Group(group.to_owned()),
            sets: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            removes: Vec::new(),
        }
    }

    #[test]
    fn the_defaults_are_the_coordinators_own() {
        let settings = of(&BrokerSettings::default(), &image(&[]));
        let expected = Settings {
            consumer_protocol: false,
            max_size: i32::MAX as usize,
            consumer_max_size: i32::MAX as usize,
            ..Settings::default()
        };
        assert_eq!(format!("{settings:?}"), format!("{expected:?}"));
    }

    #[test]
    fn groups_override_within_the_bounds_of_the_broker() {
        let image = image(&[
            alter("a", "consumer.session.timeout.ms", "50000"),
            alter("b", "consumer.session.timeout.ms", "1"),
            Command::SetFeature {
                name: GROUP_VERSION.to_owned(),
                level: 1,
            },
        ]);
        let settings = of(&BrokerSettings::default(), &image);
        assert_eq!(settings.group("a").session_timeout_ms, 50_000);
        assert_eq!(settings.group("a").heartbeat_interval_ms, 5_000);
        assert_eq!(settings.group("b").session_timeout_ms, 45_000);
        assert_eq!(settings.group("c"), &settings.group_default);
        assert!(settings.consumer_protocol);
    }
}
