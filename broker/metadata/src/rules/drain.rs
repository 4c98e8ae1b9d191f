//! Draining: the replicas of brokers that are to give them up (`klamm.node.draining`) move to others, a few at a time.

use std::collections::BTreeMap;

use klamm_records::{GroupId, TopicId};

use super::placement::{candidates, replacement};
use crate::command::Command;
use crate::image::Image;

/// The next moves off draining brokers, so many that `most` partitions are being moved in all; those that wait for a
/// broker which is gone do not count, and get another one. Nothing where all other brokers have a replica already: with
/// three nodes, a partition with three replicas stays.
pub fn drain_brokers(image: &Image, most: usize, seed: u64) -> Vec<Command> {
    let draining: Vec<i32> = image
        .brokers()
        .map(|broker| broker.id)
        .filter(|id| image.is_draining(*id) && image.load(*id).replicas > 0)
        .collect();
    let is_gone = |id: &i32| !image.is_live(*id);
    let arrives = |group: &GroupId| {
        let found = image.partition_of_group(*group);
        let partition = found.and_then(|(topic, index)| topic.partition(index));
        let moving = partition.and_then(|partition| partition.moving.as_ref());
        moving.is_some_and(|moving| !moving.adding.iter().any(is_gone))
    };
    let mut room = most.saturating_sub(image.moving().filter(arrives).count());
    if draining.is_empty() || room == 0 {
        return Vec::new();
    }
    let candidates = candidates(image);
    let mut given: BTreeMap<i32, u32> = BTreeMap::new();
    let mut wanted: BTreeMap<TopicId, BTreeMap<i32, Vec<i32>>> = BTreeMap::new();
    for topic in image.topics() {
        for partition in topic.partitions.iter() {
            if room == 0 {
                break;
            }
            let adding: Vec<i32> = match &partition.moving {
                None => Vec::new(),
                Some(moving) => {
                    let is_drained = moving.removing.iter().any(|id| draining.contains(id));
                    if !is_drained || !moving.adding.iter().any(is_gone) {
                        continue;
                    }
                    moving.adding.clone()
                }
            };
            let mut replicas = partition.target().to_vec();
            for at in 0..replicas.len() {
                let id = replicas[at];
                let never_comes = adding.contains(&id) && is_gone(&id);
                if !draining.contains(&id) && !never_comes {
                    continue;
                }
                let load = |candidate: &super::Candidate| {
                    candidate.load.replicas + given.get(&candidate.id).copied().unwrap_or(0)
                };
                let seed = seed ^ partition.group.0;
                if let Some(new) = replacement(&candidates, &replicas, load, seed) {
                    *given.entry(new).or_default() += 1;
                    replicas[at] = new;
                }
            }
            if replicas != partition.target() {
                let partitions = wanted.entry(topic.id).or_default();
                partitions.insert(partition.index, replicas);
                room -= 1;
            }
        }
    }
    let commands = wanted.into_iter();
    let commands = commands.map(|(id, partitions)| Command::Reassign { id, partitions });
    commands.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConfigResource;
    use crate::rules::{GroupMove, finish_reassignments};
    use crate::testing::{Cluster, map};

    /// Four brokers, in racks if given, and six partitions with replicas on 1 and 2.
    fn cluster(racks: &[Option<&str>]) -> Cluster {
        let mut cluster = Cluster::new(racks);
        cluster.apply(&Command::CreateTopic {
            name: "t".into(),
            id: crate::testing::topic_id(1),
            partitions: vec![vec![1, 2]; 6],
            configs: BTreeMap::new(),
        });
        cluster
    }

    fn drain(cluster: &mut Cluster, id: i32) {
        cluster.apply(&Command::AlterConfigs {
            resource: ConfigResource::Broker(Some(id)),
            sets: map(&[("klamm.node.draining", "true")]),
            removes: vec![],
        });
    }

    fn carry_out(cluster: &mut Cluster, commands: &[Command]) {
        for command in commands {
            cluster.apply(command);
        }
    }

    fn finish(cluster: &mut Cluster) {
        let image = &cluster.image;
        let moves: Vec<GroupMove> = image
            .moving()
            .filter_map(|group| {
                let (topic, index) = image.partition_of_group(group)?;
                let moving = topic.partition(index)?.moving.as_ref()?;
                Some((group, moving.since))
            })
            .collect();
        let commands = finish_reassignments(image, &moves);
        carry_out(cluster, &commands);
    }

    #[test]
    fn replicas_go_to_those_with_less_a_few_at_a_time() {
        let mut cluster = cluster(&[None; 4]);
        assert!(drain_brokers(&cluster.image, 4, 1).is_empty());
        drain(&mut cluster, 1);
        let first = drain_brokers(&cluster.image, 4, 1);
        carry_out(&mut cluster, &first);
        assert_eq!(cluster.image.moving().count(), 4);
        assert!(
            drain_brokers(&cluster.image, 4, 1).is_empty(),
            "four at a time"
        );
        finish(&mut cluster);
        let rest = drain_brokers(&cluster.image, 4, 1);
        carry_out(&mut cluster, &rest);
        finish(&mut cluster);
        let replicas = |id| cluster.image.load(id).replicas;
        assert_eq!([1, 2, 3, 4].map(replicas), [0, 6, 3, 3]);
        let topic = cluster.image.topic("t").expect("exists");
        let in_place = |partition: &crate::Partition| partition.replicas[1] == 2;
        assert!(
            topic.partitions.iter().all(in_place),
            "the others stay as they are"
        );
    }

    #[test]
    fn racks_count_before_load() {
        let mut cluster = cluster(&[Some("a"), Some("b"), Some("a"), Some("b")]);
        drain(&mut cluster, 1);
        let moves = drain_brokers(&cluster.image, 9, 1);
        carry_out(&mut cluster, &moves);
        finish(&mut cluster);
        assert_eq!(cluster.image.load(3).replicas, 6);
    }

    #[test]
    fn where_nobody_can_take_over_replicas_stay() {
        let mut cluster = cluster(&[None; 2]);
        drain(&mut cluster, 1);
        assert!(drain_brokers(&cluster.image, 9, 1).is_empty());
        let placed = super::candidates(&cluster.image);
        assert_eq!(placed.len(), 1, "and it gets no new ones");
    }

    #[test]
    fn a_broker_that_is_gone_lets_no_more_begin_than_are_wanted() {
        let mut cluster = Cluster::new(&[None; 5]);
        cluster.apply(&Command::CreateTopic {
            name: "t".into(),
            id: crate::testing::topic_id(1),
            partitions: vec![vec![1, 2, 3]; 6],
            configs: BTreeMap::new(),
        });
        let fence = crate::rules::fence_broker(cluster.context(), 3, true);
        cluster.apply(&fence.expect("registered").expect("a change"));
        drain(&mut cluster, 1);
        let begun = drain_brokers(&cluster.image, 2, 1);
        carry_out(&mut cluster, &begun);
        assert_eq!(cluster.image.moving().count(), 2);
        assert!(drain_brokers(&cluster.image, 2, 1).is_empty());
    }

    #[test]
    fn who_dies_on_the_way_is_replaced_and_holds_nobody_up() {
        let mut cluster = cluster(&[None; 4]);
        drain(&mut cluster, 1);
        let begun = drain_brokers(&cluster.image, 9, 1);
        carry_out(&mut cluster, &begun);
        let dead = if cluster.image.load(3).replicas > 0 {
            3
        } else {
            4
        };
        let fence = crate::rules::fence_broker(cluster.context(), dead, true);
        cluster.apply(&fence.expect("registered").expect("a change"));
        let waiting = cluster.image.load(dead).replicas;
        assert!(waiting > 0);
        let instead = drain_brokers(&cluster.image, 9, 1);
        carry_out(&mut cluster, &instead);
        finish(&mut cluster);
        let replicas = |id| cluster.image.load(id).replicas;
        assert_eq!([1, 2, 7 - dead, dead].map(replicas), [0, 6, 6, 0]);
    }
}
