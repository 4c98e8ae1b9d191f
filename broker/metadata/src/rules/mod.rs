//! The checks behind the admin requests: what was asked and the state it meets in, commands and an
//! answer per item out. Pure: ids and random numbers are arguments, and nothing changes here; the
//! caller proposes the commands and answers when they are applied.
//!
//! Between check and apply another command may come first. [`crate::Image::apply`] decides then,
//! and its [`crate::Outcome`] replaces the planned answer.

mod alter_configs;
mod brokers;
mod create_partitions;
mod create_topics;
mod delete_topics;
mod describe_configs;
mod drain;
mod features;
mod placement;
mod producer_ids;
mod reassignments;
mod repair;
mod topic_configs;

use std::collections::BTreeMap;

pub use alter_configs::{
    AlterOperation, ConfigChange, ResourceChange, ResourceReplacement, alter_configs,
    incremental_alter_configs,
};
pub use brokers::{fence_broker, register_broker, unregister_broker};
pub use create_partitions::{NewPartitions, create_partitions};
pub use create_topics::{CreatedTopic, MAX_PARTITIONS_PER_REQUEST, NewTopic, create_topics};
pub use delete_topics::{DeletedTopic, TopicRef, delete_topics};
pub use describe_configs::{
    ConfigEntry, DescribeConfigs, describe_configs, list_config_resources, topic_entries,
};
pub use drain::drain_brokers;
pub use features::{
    FEATURES, Feature, FeatureUpdate, GROUP_VERSION, UpgradeType, initial_features, update_features,
};
pub use placement::{Candidate, place};
pub use producer_ids::{PRODUCER_ID_BLOCK, allocate_producer_ids};
pub use reassignments::{
    GroupMove, Reassignment, alter_partition_reassignments, finish_reassignments,
};
pub use repair::{Damaged, replace_damaged};
pub use topic_configs::check_topic_configs;

use crate::command::Command;
use crate::image::Image;
use crate::problem::Problem;
use crate::settings::Settings;

/// The state a request meets.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Cluster state.
    pub image: &'a Image,
    /// Settings of this broker, dynamic ones included.
    pub settings: &'a Settings,
    /// This broker.
    pub node_id: i32,
}

/// A positive verdict: what to propose, and what to answer once it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned<T> {
    /// `None` when there is nothing to change: only validated, or already so.
    pub command: Option<Command>,
    /// The answer.
    pub answer: T,
}

/// The verdict on one item of a request. Items are independent: one that fails stops no other.
pub type Verdict<T> = Result<Planned<T>, Problem>;

impl<T> Planned<T> {
    fn new(command: Command, validate_only: bool, answer: T) -> Planned<T> {
        Planned {
            command: Some(command).filter(|_| !validate_only),
            answer,
        }
    }
}

/// How often each item occurs.
fn occurrences<K: Ord>(items: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}
