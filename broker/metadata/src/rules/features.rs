//! Features (KIP-584) and UpdateFeatures (behaviour 121): a truthful answer to what can be finalized.

use super::{Context, Planned, Verdict};
use crate::command::Command;
use crate::image::Image;
use crate::problem::{ErrorCode, Problem};

/// A feature this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Name.
    pub name: &'static str,
    /// Lowest level that can be finalized. Responses of ApiVersions up to version 3 must leave out a
    /// feature whose lowest level is 0.
    pub min: i16,
    /// Highest level that can be finalized.
    pub max: i16,
    /// Level a new cluster begins with.
    pub initial: i16,
}

/// Whether groups may use the consumer protocol (KIP-848): level 1.
pub const GROUP_VERSION: &str = "group.version";

/// What can be finalized. `metadata.version` says which Kafka this resembles (30 is 4.3); the features
/// of transactions enter with them.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "metadata.version",
        min: 7,
        max: 30,
        initial: 30,
    },
    Feature {
        name: GROUP_VERSION,
        min: 0,
        max: 1,
        initial: 1,
    },
];

/// How a level may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeType {
    /// Up only.
    Upgrade,
    /// Down where nothing is lost.
    SafeDowngrade,
    /// Down even if something is lost.
    UnsafeDowngrade,
}

impl UpgradeType {
    /// Reads the number on the wire.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for another number.
    pub fn parse(number: i8) -> Result<UpgradeType, Problem> {
        match number {
            1 => Ok(UpgradeType::Upgrade),
            2 => Ok(UpgradeType::SafeDowngrade),
            3 => Ok(UpgradeType::UnsafeDowngrade),
            other => Err(Problem::invalid_request(format!(
                "Unknown upgrade type {other}."
            ))),
        }
    }
}

/// A level that is to be finalized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureUpdate {
    /// Feature name.
    pub name: String,
    /// New level; below 1 removes the feature.
    pub level: i16,
    /// What is allowed.
    pub upgrade_type: UpgradeType,
}

/// The commands that finalize features the cluster has not decided on: all of a new one's, and those
/// that a newer program brings to an old one. One that was taken back stays so.
pub fn initial_features(image: &Image) -> Vec<Command> {
    let unknown = FEATURES
        .iter()
        .filter(|feature| !image.knows_feature(feature.name));
    let commands = unknown.map(|feature| Command::SetFeature {
        name: feature.name.to_owned(),
        level: feature.initial,
    });
    commands.collect()
}

/// Checks the updates of a request; one verdict per item, in order.
pub fn update_features(
    context: Context<'_>,
    updates: &[FeatureUpdate],
    validate_only: bool,
) -> Vec<(String, Verdict<()>)> {
    let verdicts = updates.iter().map(|update| {
        let verdict = check(context, update).map(|()| {
            let command = Command::SetFeature {
                name: update.name.clone(),
                level: update.level,
            };
            let changes = context.image.feature(&update.name) != update.level;
            Planned::new(command, validate_only || !changes, ())
        });
        (update.name.clone(), verdict)
    });
    verdicts.collect()
}

fn check(context: Context<'_>, update: &FeatureUpdate) -> Result<(), Problem> {
    let FeatureUpdate {
        name,
        level,
        upgrade_type,
    } = update;
    let invalid = |why: String| {
        Err(Problem::new(
            ErrorCode::InvalidUpdateVersion,
            format!("Invalid update version {level} for feature {name}. {why}"),
        ))
    };
    let Some(feature) = FEATURES.iter().find(|feature| feature.name == name) else {
        return invalid("This cluster does not know the feature.".to_owned());
    };
    if *level < feature.min || *level > feature.max {
        return invalid(format!(
            "Local controller supports versions {}-{}.",
            feature.min, feature.max
        ));
    }
    let current = context.image.feature(name);
    match upgrade_type {
        UpgradeType::Upgrade if *level < current => {
            invalid("Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade.".to_owned())
        }
        UpgradeType::SafeDowngrade | UpgradeType::UnsafeDowngrade if *level > current => {
            invalid("Can't downgrade to a newer version.".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    #[test]
    fn behaviour_121_levels_move_within_what_is_supported() {
        let mut cluster = Cluster::single();
        for command in initial_features(&cluster.image) {
            cluster.apply(&command);
        }
        assert_eq!(initial_features(&cluster.image), []);
        let ask = |name: &str, level, upgrade_type| {
            let update = FeatureUpdate {
                name: name.into(),
                level,
                upgrade_type,
            };
            update_features(cluster.context(), &[update], false)
                .remove(0)
                .1
        };
        for (name, level, upgrade_type) in [
            ("no.such.feature", 1, UpgradeType::Upgrade),
            ("metadata.version", 31, UpgradeType::Upgrade),
            ("metadata.version", 6, UpgradeType::UnsafeDowngrade),
            ("metadata.version", 29, UpgradeType::Upgrade),
        ] {
            let problem = ask(name, level, upgrade_type).expect_err("refused");
            assert_eq!(
                problem.code,
                ErrorCode::InvalidUpdateVersion,
                "{name} {level}"
            );
        }
        assert_eq!(
            ask("metadata.version", 30, UpgradeType::Upgrade)
                .expect("allowed")
                .command,
            None
        );
        assert!(
            ask("metadata.version", 29, UpgradeType::SafeDowngrade)
                .expect("allowed")
                .command
                .is_some()
        );
        assert!(UpgradeType::parse(0).is_err() && UpgradeType::parse(3).is_ok());
    }

    #[test]
    fn a_cluster_from_before_a_feature_gets_it_and_one_that_took_it_back_does_not() {
        let mut cluster = Cluster::single();
        let set = |level| Command::SetFeature {
            name: GROUP_VERSION.to_owned(),
            level,
        };
        assert!(initial_features(&cluster.image).contains(&set(1)));
        cluster.apply(&set(0));
        assert_eq!(cluster.image.feature(GROUP_VERSION), 0);
        assert!(!initial_features(&cluster.image).contains(&set(1)));
        assert!(
            cluster
                .image
                .features()
                .all(|(name, _)| name != GROUP_VERSION)
        );
    }
}
