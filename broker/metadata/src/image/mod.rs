//! The state of the cluster at one point of the metadata log.
//!
//! An [`Image`] never changes; [`Image::apply`] makes the next one and shares what stayed the same,
//! so a clone is cheap and readers hold one as long as they like.
//!
//! Invariants, checked by [`Image::check`] in tests and on reading a stored image:
//! - **names**: every topic is found by its name and by its id, and no two names collide by `.`/`_`.
//! - **groups**: a Raft group serves exactly one partition; `next_group` is above all of them.
//! - **partitions**: indexes of a topic are 0.. without a gap, replicas are not empty nor repeated.
//! - **moves**: who goes is at the end of the replicas; who comes is before; somebody stays or comes.
//! - **load**: the replica counts per broker are what the topics say.
//!
//! Deliberately absent: leaders, epochs, high watermarks. Each partition's Raft group knows them.

mod apply;
mod stored_image;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use klamm_records::{GroupId, TopicId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use apply::Outcome;
pub(crate) use apply::{check_replaceable, given_up, not_registered};

use crate::names;
use crate::resource::ConfigResource;

/// The setting of a broker that is to be drained.
pub const DRAINING: &str = "klamm.node.draining";

/// Cluster state as a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    cluster_id: Option<Arc<str>>,
    topics: OrdMap<Arc<str>, Arc<Topic>>,
    names: OrdMap<TopicId, Arc<str>>,
    collisions: OrdMap<String, Arc<str>>,
    groups: OrdMap<GroupId, (TopicId, i32)>,
    moving: OrdSet<GroupId>,
    brokers: OrdMap<i32, Arc<Broker>>,
    /// Ids that were unregistered: the number that their next data directory gets.
    retired: OrdMap<i32, u32>,
    configs: OrdMap<ConfigResource, Arc<BTreeMap<String, String>>>,
    features: OrdMap<String, i16>,
    features_epoch: i64,
    load: OrdMap<i32, Load>,
    next_group: u64,
    next_producer_id: i64,
    last_offset: i64,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Identity; new after delete and recreate (behaviour 19).
    pub id: TopicId,
    /// Name.
    pub name: Arc<str>,
    /// All partitions; the index in the slice is the partition's index.
    pub partitions: Arc<[Partition]>,
    /// Explicit overrides only (behaviour 107).
    pub configs: BTreeMap<String, String>,
}

/// A partition: which Raft group it is and who takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Index in the topic.
    pub index: i32,
    /// Its Raft group.
    #[serde(with = "crate::stored::group_id")]
    pub group: GroupId,
    /// Broker ids, preferred leader first. Never empty, never repeated. While replicas move, those that
    /// come and, at the end, those that go are among them.
    pub replicas: Vec<i32>,
    /// Whether its group was surely founded: a move was finished, a replica was replaced, or one of its brokers was
    /// unregistered.
    #[serde(default, skip_serializing_if = "is_false")]
    pub moved: bool,
    /// The move under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Move>,
    /// How many replicas a broker had before the one it has, or will have: [`Partition::number`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<i32, u32>,
}

/// A change of a partition's replicas that is under way (KIP-455).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Offset of the command that asked for it: what a later one asked for is another move.
    pub since: i64,
    /// The replicas before, preferred leader first: where it goes back to when it is cancelled.
    pub from: Vec<i32>,
    /// Replicas that come; ascending.
    pub adding: Vec<i32>,
    /// Replicas that go; ascending.
    pub removing: Vec<i32>,
    /// Brokers that gave up a damaged replica and get the next one instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewing: Vec<i32>,
}

impl Move {
    /// Whether other brokers are to have the replicas; else one gets a new replica, or the order is another.
    pub fn is_reassignment(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// `node.id`.
    pub id: i32,
    /// Identity of its data directory.
    pub incarnation: Uuid,
    /// Number of that directory among those the id had, from 0.
    #[serde(default, skip_serializing_if = "crate::command::is_first")]
    pub replica: u32,
    /// Offset of its registration in the metadata log: larger for every later one (Kafka's broker epoch).
    pub epoch: i64,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Advertised address by listener name.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Out of the set of live brokers: not listed to clients, no new replicas.
    pub fenced: bool,
}

/// An advertised address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Host name or address, never empty.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How much a broker carries by assignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Partitions whose preferred leader it is.
    pub preferred: u32,
    /// Partitions it has a replica of.
    pub replicas: u32,
}

impl Partition {
    /// A partition whose replicas have not moved.
    pub fn new(index: i32, group: GroupId, replicas: Vec<i32>) -> Partition {
        Partition {
            index,
            group,
            replicas,
            moved: false,
            moving: None,
            numbers: BTreeMap::new(),
        }
    }

    /// Which of its replicas of the partition a broker has now, or will have next, counted from 0. One that left with
    /// its log, or lost it, is never the same again: it would not know what it promised (R10).
    pub fn number(&self, broker: i32) -> u32 {
        self.numbers.get(&broker).copied().unwrap_or(0)
    }

    /// The replica that `broker` has is gone: what it may have some day is the next.
    pub(crate) fn lose(&mut self, broker: i32) {
        *self.numbers.entry(broker).or_default() += 1;
    }

    /// Whether a broker gave up a damaged replica, and the one that replaces it is not a member of the group yet.
    pub fn is_renewing(&self, broker: i32) -> bool {
        let moving = self.moving.as_ref();
        moving.is_some_and(|moving| moving.renewing.contains(&broker))
    }

    /// The replicas it is to have when no move is under way any more, preferred leader first.
    pub fn target(&self) -> &[i32] {
        let going = self
            .moving
            .as_ref()
            .map_or(0, |moving| moving.removing.len());
        &self.replicas[..self.replicas.len().saturating_sub(going)]
    }

    /// The replicas it had before the move under way.
    pub fn settled(&self) -> &[i32] {
        match &self.moving {
            Some(moving) => &moving.from,
            None => &self.replicas,
        }
    }

    /// Replicas that may found its group, in the order of their turns. Nobody once it has
    /// [moved](Partition::moved): such a group was founded, and a replica that comes back empty must not found a
    /// second one.
    pub fn founders(&self) -> &[i32] {
        match self.moved {
            true => &[],
            false => self.settled(),
        }
    }
}

impl Topic {
    /// The folder of a replica's log, below the store's directory: `<topic id>-<index>`, with `.<number>` behind it
    /// where the broker had others before ([`Partition::number`]). Never text a client chose.
    pub fn directory(&self, partition: i32, number: u32) -> String {
        match number {
            0 => format!("{}-{partition}", self.id),
            _ => format!("{}-{partition}.{number}", self.id),
        }
    }

    /// A partition by index.
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// Replicas that the first partition is to have: what tools call the topic's replication factor.
    pub fn replication_factor(&self) -> i16 {
        let replicas = self
            .partitions
            .first()
            .map_or(0, |partition| partition.target().len());
        i16::try_from(replicas)
            .expect("replicas are distinct live brokers, checked to fit on creation")
    }

    /// Whether clients must treat the topic as the cluster's own (behaviour 24).
    pub fn is_internal(&self) -> bool {
        names::is_internal(&self.name)
    }
}

impl Default for Image {
    fn default() -> Self {
        Image::new()
    }
}

impl Image {
    /// The state before the first command.
    pub fn new() -> Image {
        Image {
            cluster_id: None,
            topics: OrdMap::new(),
            names: OrdMap::new(),
            collisions: OrdMap::new(),
            groups: OrdMap::new(),
            moving: OrdSet::new(),
            brokers: OrdMap::new(),
            retired: OrdMap::new(),
            configs: OrdMap::new(),
            features: OrdMap::new(),
            features_epoch: 0,
            load: OrdMap::new(),
            next_group: GroupId::METADATA.0 + 1,
            next_producer_id: 0,
            last_offset: -1,
        }
    }

    /// The cluster's id; `None` before it was founded (behaviour 22: never null to clients).
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// Offset of the last record of the metadata log that it knows; -1 before the first. Grows with every
    /// command, so it is also the image's version.
    pub fn last_offset(&self) -> i64 {
        self.last_offset
    }

    /// At `offset` lies a record of the metadata log that changes nothing.
    pub(crate) fn pass(&mut self, offset: i64) {
        self.last_offset = offset;
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// The topic and partition index a Raft group serves.
    pub fn partition_of_group(&self, group: GroupId) -> Option<(&Arc<Topic>, i32)> {
        let (id, index) = self.groups.get(&group)?;
        Some((self.topic_by_id(*id)?, *index))
    }

    /// Groups of the partitions whose replicas are being moved.
    pub fn moving(&self) -> impl Iterator<Item = GroupId> {
        self.moving.iter().copied()
    }

    /// All topics, by name in ascending order.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Topics whose name is `name` or comes after it, in ascending order (behaviour 26: cursors).
    pub fn topics_from<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Arc<Topic>> + use<'a> {
        self.topics
            .range::<_, str>((Bound::Included(name), Bound::Unbounded))
            .map(|(_, topic)| topic)
    }

    /// Number of topics.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.groups.len()
    }

    /// The existing topic that `name` is, or collides with by `.` and `_`.
    pub fn colliding_topic(&self, name: &str) -> Option<&str> {
        self.collisions
            .get(&names::collision_key(name)?)
            .map(|existing| &**existing)
    }

    /// A registered broker.
    pub fn broker(&self, id: i32) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// Which data directory of a broker's id takes part in Raft groups: the registered one, or the next that comes.
    /// A directory that was given up never counts again, for what it promised is not known any more (R10).
    pub fn replica_number(&self, id: i32) -> u32 {
        let registered = self.broker(id).map(|broker| broker.replica);
        registered.unwrap_or_else(|| self.retired.get(&id).copied().unwrap_or(0))
    }

    /// All registered brokers, fenced ones too, by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// The brokers clients may be sent to, by id (behaviour 23).
    pub fn live_brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    /// Whether clients may be sent to a broker.
    pub fn is_live(&self, id: i32) -> bool {
        self.broker(id).is_some_and(|broker| !broker.fenced)
    }

    /// Whether a broker is to give its replicas to others, and to get no new ones ([`DRAINING`]).
    pub fn is_draining(&self, id: i32) -> bool {
        let configs = self.configs.get(&ConfigResource::Broker(Some(id)));
        let set = configs.and_then(|configs| configs.get(DRAINING));
        set.is_some_and(|value| value == "true")
    }

    /// What a broker carries by assignment.
    pub fn load(&self, broker: i32) -> Load {
        self.load.get(&broker).copied().unwrap_or_default()
    }

    /// The explicit overrides of a resource; `None` when it has none or does not exist.
    pub fn configs(&self, resource: &ConfigResource) -> Option<&BTreeMap<String, String>> {
        match resource {
            ConfigResource::Topic(name) => self
                .topic(name)
                .map(|topic| &topic.configs)
                .filter(|configs| !configs.is_empty()),
            other => self.configs.get(other).map(|configs| &**configs),
        }
    }

    /// Resources other than topics that have overrides, in order.
    pub fn configured_resources(&self) -> impl Iterator<Item = &ConfigResource> {
        self.configs.keys()
    }

    /// The finalized level of a feature; 0 when it is not finalized.
    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// All finalized features and their levels.
    pub fn features(&self) -> impl Iterator<Item = (&str, i16)> {
        self.features
            .iter()
            .filter(|(_, level)| **level > 0)
            .map(|(name, level)| (name.as_str(), *level))
    }

    /// Whether a level of the feature was ever decided on, and be it that it is not finalized. False
    /// for a feature that is newer than the cluster.
    pub fn knows_feature(&self, name: &str) -> bool {
        self.features.contains_key(name)
    }

    /// `finalized_features_epoch` of ApiVersions: grows with each change of a feature, never negative.
    pub fn features_epoch(&self) -> i64 {
        self.features_epoch
    }

    /// The first producer id that no block holds.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// The group the next partition will get.
    pub fn next_group(&self) -> GroupId {
        GroupId(self.next_group)
    }

    /// Checks the invariants of the module head; the error names the first one broken.
    ///
    /// # Errors
    /// A sentence about what is inconsistent. Never for an image that `apply` made.
    pub fn check(&self) -> Result<(), String> {
        if self.names.len() != self.topics.len() {
            return Err("topics by name and by id differ in number".to_owned());
        }
        let mut rebuilt = Image::new();
        for (name, topic) in &self.topics {
            if *name != topic.name || self.names.get(&topic.id) != Some(name) || topic.id.is_zero()
            {
                return Err(format!("topic {name} is not found under its id"));
            }
            if self
                .colliding_topic(name)
                .is_some_and(|other| other != &**name)
            {
                return Err(format!("topic {name} collides with another"));
            }
            for (position, partition) in topic.partitions.iter().enumerate() {
                let distinct: BTreeSet<i32> = partition.replicas.iter().copied().collect();
                if usize::try_from(partition.index) != Ok(position)
                    || distinct.is_empty()
                    || distinct.len() != partition.replicas.len()
                {
                    return Err(format!("partition {position} of topic {name} is malformed"));
                }
                if !moves_well(partition, &distinct) {
                    return Err(format!(
                        "partition {position} of topic {name} moves from or to nowhere"
                    ));
                }
                if partition.group.0 == 0 || partition.group.0 >= self.next_group {
                    return Err(format!(
                        "group {} of topic {name} was never given out",
                        partition.group
                    ));
                }
            }
            rebuilt.enter_topic(Arc::clone(topic));
        }
        if self.groups.len()
            != self
                .topics()
                .map(|topic| topic.partitions.len())
                .sum::<usize>()
        {
            return Err("a group serves more than one partition".to_owned());
        }
        if rebuilt.groups != self.groups
            || rebuilt.moving != self.moving
            || rebuilt.collisions != self.collisions
            || rebuilt.load != self.load
        {
            return Err(
                "groups, moves, collisions or load do not follow from the topics".to_owned(),
            );
        }
        Ok(())
    }
}

fn moves_well(partition: &Partition, replicas: &BTreeSet<i32>) -> bool {
    partition.moving.as_ref().is_none_or(|moving| {
        let target = partition.target();
        partition.replicas.ends_with(&moving.removing)
            && !target.is_empty()
            && moving.adding.iter().all(|id| target.contains(id))
            && !moving.from.is_empty()
            && moving.from.iter().all(|id| replicas.contains(id))
    })
}

#[cfg(test)]
mod tests;
