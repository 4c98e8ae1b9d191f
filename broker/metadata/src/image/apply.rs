//! Command in, next image out: deterministic and total.
//!
//! The rules checked a command against an image that may be older than the one it meets, so what
//! can have changed in between (a name taken, a topic gone) is checked again, and then the command
//! changes nothing and the outcome says why. Every replica decides the same, since only the image
//! and the command are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use klamm_records::{GroupId, TopicId};

use super::{Broker, Image, Load, Move, Partition, Topic};
use crate::command::{BrokerRegistration, Command};
use crate::names;
use crate::problem::{ErrorCode, Problem};
use crate::resource::ConfigResource;

/// What became of an applied command. The proposer answers its client by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds now.
    Done,
    /// It holds now, and these producer ids are the broker's: `count` ids from `first`.
    ProducerIds {
        /// First id of the block.
        first: i64,
        /// Number of ids.
        count: u32,
    },
    /// It came too late or was never valid, and changed nothing.
    Refused(Problem),
}

impl Image {
    /// The image after `command`, which lies at `offset` of the metadata log, and what became of it.
    ///
    /// # Panics
    /// If `offset` does not lie after [`Image::last_offset`]: a command would be applied twice.
    pub fn apply(&self, offset: i64, command: &Command) -> (Image, Outcome) {
        assert!(
            offset > self.last_offset,
            "command at {offset} applied after {}",
            self.last_offset
        );
        let mut next = self.clone();
        next.last_offset = offset;
        match next.change(offset, command) {
            Ok(outcome) => (next, outcome),
            Err(problem) => {
                let mut unchanged = self.clone();
                unchanged.last_offset = offset;
                (unchanged, Outcome::Refused(problem))
            }
        }
    }

    fn change(&mut self, offset: i64, command: &Command) -> Result<Outcome, Problem> {
        match command {
            Command::Found { cluster_id } => self.found(cluster_id),
            Command::RegisterBroker(registration) => self.register_broker(offset, registration),
            Command::FenceBroker { id, epoch, fenced } => self.fence_broker(*id, *epoch, *fenced),
            Command::UnregisterBroker { id } => self.unregister_broker(*id),
            Command::CreateTopic {
                name,
                id,
                partitions,
                configs,
            } => self.create_topic(name, *id, partitions, configs),
            Command::DeleteTopic { id } => self.delete_topic(*id),
            Command::AddPartitions {
                id,
                from,
                partitions,
            } => self.add_partitions(*id, *from, partitions),
            Command::Reassign { id, partitions } => self.reassign(offset, *id, partitions),
            Command::FinishReassignment { id, partitions } => {
                self.finish_reassignment(*id, partitions)
            }
            Command::ReplaceReplica {
                id,
                partition,
                broker,
                number,
            } => self.replace_replica(offset, *id, *partition, *broker, *number),
            Command::AlterConfigs {
                resource,
                sets,
                removes,
            } => self.alter_configs(resource, sets, removes),
            Command::AllocateProducerIds { count, .. } => self.allocate_producer_ids(*count),
            Command::SetFeature { name, level } => self.set_feature(offset, name, *level),
        }?;
        match command {
            Command::AllocateProducerIds { count, .. } => Ok(Outcome::ProducerIds {
                first: self.next_producer_id - i64::from(*count),
                count: *count,
            }),
            _ => Ok(Outcome::Done),
        }
    }

    fn found(&mut self, cluster_id: &str) -> Result<(), Problem> {
        match self.cluster_id() {
            Some(existing) if existing != cluster_id => Err(Problem::new(
                ErrorCode::InconsistentClusterId,
                format!("The cluster was founded as {existing}; it cannot become {cluster_id}."),
            )),
            _ => {
                self.cluster_id = Some(cluster_id.into());
                Ok(())
            }
        }
    }

    fn register_broker(
        &mut self,
        offset: i64,
        registration: &BrokerRegistration,
    ) -> Result<(), Problem> {
        let BrokerRegistration {
            id,
            incarnation,
            replica,
            rack,
            endpoints,
            fenced,
        } = registration.clone();
        if replica != self.replica_number(id) {
            return Err(given_up(id));
        }
        self.retired.remove(&id);
        self.brokers.insert(
            id,
            Arc::new(Broker {
                id,
                incarnation,
                replica,
                epoch: offset,
                rack,
                endpoints,
                fenced,
            }),
        );
        Ok(())
    }

    fn fence_broker(&mut self, id: i32, epoch: i64, fenced: bool) -> Result<(), Problem> {
        let broker = self.brokers.get(&id).ok_or_else(|| not_registered(id))?;
        if broker.epoch != epoch {
            return Err(Problem::new(
                ErrorCode::StaleBrokerEpoch,
                format!(
                    "Broker {id} registered at epoch {}, not {epoch}.",
                    broker.epoch
                ),
            ));
        }
        self.brokers.insert(
            id,
            Arc::new(Broker {
                fenced,
                ..(**broker).clone()
            }),
        );
        Ok(())
    }

    fn unregister_broker(&mut self, id: i32) -> Result<(), Problem> {
        let broker = self.brokers.remove(&id).ok_or_else(|| not_registered(id))?;
        self.configs.remove(&ConfigResource::Broker(Some(id)));
        self.retired.insert(id, broker.replica + 1);
        let with_replica = |partition: &Partition| partition.replicas.contains(&id);
        let topics = self
            .topics()
            .filter(|t| t.partitions.iter().any(with_replica));
        let topics: Vec<Arc<Topic>> = topics.cloned().collect();
        for topic in topics {
            let partitions = topic.partitions.iter().cloned();
            let partitions = partitions.map(|mut partition| {
                if with_replica(&partition) {
                    partition.moved = true;
                    partition.lose(id);
                }
                partition
            });
            let partitions: Vec<Partition> = partitions.collect();
            let topic = Topic {
                partitions: partitions.into(),
                ..(*topic).clone()
            };
            self.topics.insert(Arc::clone(&topic.name), Arc::new(topic));
        }
        Ok(())
    }

    fn create_topic(
        &mut self,
        name: &str,
        id: TopicId,
        partitions: &[Vec<i32>],
        configs: &BTreeMap<String, String>,
    ) -> Result<(), Problem> {
        names::check_topic_name(name)?;
        if self.topics.contains_key(name) {
            return Err(Problem::new(
                ErrorCode::TopicAlreadyExists,
                format!("Topic '{name}' already exists."),
            ));
        }
        if let Some(existing) = self.colliding_topic(name) {
            return Err(Problem::new(
                ErrorCode::InvalidTopic,
                format!("Topic '{name}' collides with existing topic: {existing}"),
            ));
        }
        if id.is_zero() || self.names.contains_key(&id) {
            return Err(Problem::invalid_request(format!(
                "Topic id {id} is not new."
            )));
        }
        let partitions = self.assign_groups(0, partitions)?;
        self.enter_topic(Arc::new(Topic {
            id,
            name: name.into(),
            partitions: partitions.into(),
            configs: configs.clone(),
        }));
        Ok(())
    }

    fn delete_topic(&mut self, id: TopicId) -> Result<(), Problem> {
        let topic = self
            .topic_by_id(id)
            .cloned()
            .ok_or_else(Problem::unknown_topic_id)?;
        self.remove_topic(&topic);
        Ok(())
    }

    fn add_partitions(
        &mut self,
        id: TopicId,
        from: i32,
        partitions: &[Vec<i32>],
    ) -> Result<(), Problem> {
        let topic = self
            .topic_by_id(id)
            .cloned()
            .ok_or_else(Problem::unknown_topic_id)?;
        if usize::try_from(from) != Ok(topic.partitions.len()) {
            return Err(Problem::new(
                ErrorCode::InvalidPartitions,
                format!(
                    "Topic has {} partition(s) by now, not {from}.",
                    topic.partitions.len()
                ),
            ));
        }
        let added = self.assign_groups(from, partitions)?;
        let all: Vec<Partition> = topic.partitions.iter().cloned().chain(added).collect();
        self.remove_topic(&topic);
        self.enter_topic(Arc::new(Topic {
            partitions: all.into(),
            ..(*topic).clone()
        }));
        Ok(())
    }

    /// Gives the partitions their groups. A group is never given out twice, not even after a delete.
    fn assign_groups(
        &mut self,
        from: i32,
        partitions: &[Vec<i32>],
    ) -> Result<Vec<Partition>, Problem> {
        if partitions.is_empty() {
            return Err(Problem::new(
                ErrorCode::InvalidPartitions,
                "A topic needs at least one partition.",
            ));
        }
        let first = self.next_group;
        let assigned =
            partitions
                .iter()
                .zip(from..)
                .zip(first..)
                .map(|((replicas, index), group)| {
                    check_replicas(index, replicas)?;
                    Ok(Partition::new(index, GroupId(group), replicas.clone()))
                });
        let assigned = assigned.collect::<Result<Vec<_>, _>>()?;
        self.next_group = first + partitions.len() as u64;
        Ok(assigned)
    }

    fn reassign(
        &mut self,
        offset: i64,
        id: TopicId,
        wanted: &BTreeMap<i32, Vec<i32>>,
    ) -> Result<(), Problem> {
        for (index, replicas) in wanted {
            check_replicas(*index, replicas)?;
        }
        self.change_partitions(id, wanted, |partition, replicas| {
            moved(partition, offset, replicas)
        })
    }

    fn finish_reassignment(
        &mut self,
        id: TopicId,
        finished: &BTreeMap<i32, i64>,
    ) -> Result<(), Problem> {
        self.change_partitions(id, finished, |partition, since| {
            let moving = partition.moving.as_ref();
            if moving.is_none_or(|moving| moving.since != *since) {
                return partition.clone();
            }
            let target = partition.target();
            let mut finished = partition.clone();
            for left in partition.replicas.iter().filter(|id| !target.contains(id)) {
                finished.lose(*left);
            }
            Partition {
                replicas: target.to_vec(),
                moved: true,
                moving: None,
                ..finished
            }
        })
    }

    fn replace_replica(
        &mut self,
        offset: i64,
        id: TopicId,
        index: i32,
        broker: i32,
        number: u32,
    ) -> Result<(), Problem> {
        let topic = self.topic_by_id(id).ok_or_else(Problem::unknown_topic_id)?;
        let partition = topic.partition(index).ok_or_else(Problem::unknown_topic)?;
        check_replaceable(partition, broker, number)?;
        self.change_partitions(id, &BTreeMap::from([(index, ())]), |partition, ()| {
            let mut replaced = partition.clone();
            replaced.lose(broker);
            Partition {
                moved: true,
                moving: Some(Move {
                    since: offset,
                    from: partition.replicas.clone(),
                    adding: Vec::new(),
                    removing: Vec::new(),
                    renewing: vec![broker],
                }),
                ..replaced
            }
        })
    }

    /// Changes the partitions of a topic for which there is something in `changes`.
    fn change_partitions<T>(
        &mut self,
        id: TopicId,
        changes: &BTreeMap<i32, T>,
        change: impl Fn(&Partition, &T) -> Partition,
    ) -> Result<(), Problem> {
        let topic = self
            .topic_by_id(id)
            .cloned()
            .ok_or_else(Problem::unknown_topic_id)?;
        if changes
            .keys()
            .any(|index| topic.partition(*index).is_none())
        {
            return Err(Problem::unknown_topic());
        }
        let partitions = topic.partitions.iter();
        let partitions = partitions.map(|partition| match changes.get(&partition.index) {
            Some(wanted) => change(partition, wanted),
            None => partition.clone(),
        });
        let partitions: Vec<Partition> = partitions.collect();
        self.remove_topic(&topic);
        self.enter_topic(Arc::new(Topic {
            partitions: partitions.into(),
            ..(*topic).clone()
        }));
        Ok(())
    }

    fn alter_configs(
        &mut self,
        resource: &ConfigResource,
        sets: &BTreeMap<String, String>,
        removes: &[String],
    ) -> Result<(), Problem> {
        let mut configs = self.configs(resource).cloned().unwrap_or_default();
        for key in removes {
            configs.remove(key);
        }
        configs.extend(sets.iter().map(|(key, value)| (key.clone(), value.clone())));
        match resource {
            ConfigResource::Topic(name) => {
                let topic = self
                    .topics
                    .get(name.as_str())
                    .ok_or_else(Problem::unknown_topic)?;
                let altered = Topic {
                    configs,
                    ..(**topic).clone()
                };
                self.topics
                    .insert(Arc::clone(&altered.name), Arc::new(altered));
            }
            other if configs.is_empty() => {
                self.configs.remove(other);
            }
            other => {
                self.configs.insert(other.clone(), Arc::new(configs));
            }
        }
        Ok(())
    }

    fn allocate_producer_ids(&mut self, count: u32) -> Result<(), Problem> {
        let next = self.next_producer_id.checked_add(i64::from(count));
        self.next_producer_id =
            next.ok_or_else(|| Problem::invalid_request("All producer ids are used up."))?;
        Ok(())
    }

    fn set_feature(&mut self, offset: i64, name: &str, level: i16) -> Result<(), Problem> {
        // A removed one stays as 0: it differs from one that nobody has decided on.
        self.features.insert(name.to_owned(), level.max(0));
        self.features_epoch = offset;
        Ok(())
    }

    /// Enters a topic under all its indexes.
    pub(super) fn enter_topic(&mut self, topic: Arc<Topic>) {
        self.names.insert(topic.id, Arc::clone(&topic.name));
        if let Some(key) = names::collision_key(&topic.name) {
            self.collisions.insert(key, Arc::clone(&topic.name));
        }
        for partition in topic.partitions.iter() {
            self.groups
                .insert(partition.group, (topic.id, partition.index));
            if partition.moving.is_some() {
                self.moving.insert(partition.group);
            }
            for (position, broker) in partition.replicas.iter().enumerate() {
                let load = self.load.entry(*broker).or_default();
                load.replicas += 1;
                load.preferred += u32::from(position == 0);
            }
        }
        self.topics.insert(Arc::clone(&topic.name), topic);
    }

    fn remove_topic(&mut self, topic: &Topic) {
        self.topics.remove(&topic.name);
        self.names.remove(&topic.id);
        if let Some(key) = names::collision_key(&topic.name) {
            self.collisions.remove(&key);
        }
        for partition in topic.partitions.iter() {
            self.groups.remove(&partition.group);
            self.moving.remove(&partition.group);
            for (position, broker) in partition.replicas.iter().enumerate() {
                let mut load = self.load(*broker);
                load.replicas -= 1;
                load.preferred -= u32::from(position == 0);
                if load == Load::default() {
                    self.load.remove(broker);
                } else {
                    self.load.insert(*broker, load);
                }
            }
        }
    }
}

fn check_replicas(index: i32, replicas: &[i32]) -> Result<(), Problem> {
    let distinct: BTreeSet<i32> = replicas.iter().copied().collect();
    if replicas.is_empty()
        || distinct.len() != replicas.len()
        || i16::try_from(replicas.len()).is_err()
    {
        return Err(Problem::new(
            ErrorCode::InvalidReplicaAssignment,
            format!("Partition {index} needs one or more replicas on distinct brokers."),
        ));
    }
    Ok(())
}

/// `partition`, to be moved to the replicas of `target`.
fn moved(partition: &Partition, since: i64, target: &[i32]) -> Partition {
    let difference = |all: &[i32], but: &[i32]| -> Vec<i32> {
        let all: BTreeSet<i32> = all.iter().copied().collect();
        all.into_iter().filter(|id| !but.contains(id)).collect()
    };
    let adding = difference(target, partition.settled());
    // Who was about to come and shall not goes, too: it may have a vote already.
    let removing = difference(&partition.replicas, target);
    // Whose replica is being replaced is not through with it because others are to come, or in another order.
    let moving = partition.moving.as_ref();
    let renewing = moving.map_or_else(Vec::new, |moving| moving.renewing.clone());
    // What was asked for before may be done in part: that a move is taken back is carried out as any other.
    let is_move =
        moving.is_some() || !adding.is_empty() || !removing.is_empty() || !renewing.is_empty();
    Partition {
        replicas: [target, &removing].concat(),
        moving: is_move.then_some(Move {
            since,
            from: partition.settled().to_vec(),
            adding,
            removing,
            renewing,
        }),
        ..partition.clone()
    }
}

/// Whether a replica is the one that its broker has of the partition, and nothing else changes there.
pub(crate) fn check_replaceable(
    partition: &Partition,
    broker: i32,
    number: u32,
) -> Result<(), Problem> {
    if !partition.replicas.contains(&broker) || partition.number(broker) != number {
        return Err(Problem::invalid_request(format!(
            "Replica {number} of broker {broker} is not one of the partition any more."
        )));
    }
    match partition.moving {
        None => Ok(()),
        Some(_) => Err(Problem::throttled(
            "The replicas of the partition are changing already.",
        )),
    }
}

/// Of a data directory that an id has no more, or not yet.
pub(crate) fn given_up(id: i32) -> Problem {
    Problem::new(
        ErrorCode::DuplicateBrokerRegistration,
        format!(
            "Broker {id} was unregistered, and this data directory with it; start it with an empty one."
        ),
    )
}

pub(crate) fn not_registered(id: i32) -> Problem {
    Problem::new(
        ErrorCode::BrokerIdNotRegistered,
        format!("Broker ID {id} is not currently registered."),
    )
}
