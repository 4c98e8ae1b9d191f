//! What every assignor promises, whatever the group, and what each promises besides.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use klamm_records::TopicId;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Assignor, GroupSpec, MemberSpec, TopicSpec};
use crate::records::TopicPartitions;

/// A group that owns its parts.
#[derive(Clone, Debug)]
struct Group {
    members: BTreeMap<String, Member>,
    /// Racks of each partition's replicas.
    topics: BTreeMap<TopicId, Vec<Vec<&'static str>>>,
}

#[derive(Clone, Debug, Default)]
struct Member {
    instance: Option<String>,
    rack: Option<&'static str>,
    topics: BTreeSet<TopicId>,
    assigned: TopicPartitions,
}

fn topic(number: u128) -> TopicId {
    TopicId(Uuid::from_u128(number))
}

impl Group {
    fn new(members: usize, topics: &[usize]) -> Group {
        let topics: BTreeMap<_, _> = (1..)
            .map(topic)
            .zip(
                topics
                    .iter()
                    .map(|partitions| vec![Vec::new(); *partitions]),
            )
            .collect();
        let member = Member {
            topics: topics.keys().copied().collect(),
            ..Member::default()
        };
        let members = (0..members).map(|it| (format!("m{it:04}"), member.clone()));
        Group {
            members: members.collect(),
            topics,
        }
    }

    fn assign(&self, assignor: Assignor) -> BTreeMap<String, TopicPartitions> {
        let indexes: BTreeMap<_, _> = self.topics.keys().copied().zip(0..).collect();
        let mut shared: BTreeMap<&BTreeSet<TopicId>, Arc<[usize]>> = BTreeMap::new();
        let members = self.members.iter().map(|(id, member)| MemberSpec {
            id,
            instance: member.instance.as_deref(),
            rack: member.rack,
            topics: Arc::clone(shared.entry(&member.topics).or_insert_with(|| {
                let known = member
                    .topics
                    .iter()
                    .filter_map(|it| indexes.get(it).copied());
                known.collect()
            })),
            assigned: &member.assigned,
        });
        let members = members.collect();
        let topics = self.topics.iter().map(|(id, racks)| TopicSpec {
            id: *id,
            racks: racks.clone(),
        });
        let spec = GroupSpec {
            members,
            topics: topics.collect(),
        };
        let targets = assignor.assign(&spec);
        assert_eq!(targets, assignor.assign(&spec), "equal input, equal output");
        self.members.keys().cloned().zip(targets).collect()
    }

    /// Assigns and takes the result as what everybody has.
    fn settle(&mut self, assignor: Assignor) {
        for (id, target) in self.assign(assignor) {
            if let Some(member) = self.members.get_mut(&id) {
                member.assigned = target;
            }
        }
    }

    fn partition_count(&self) -> usize {
        self.topics.values().map(Vec::len).sum()
    }

    fn loads(&self) -> Vec<usize> {
        let members = self.members.values();
        members.map(|member| load(&member.assigned)).collect()
    }

    /// Every partition that somebody subscribes to has one owner, who does.
    fn check(&self, targets: &BTreeMap<String, TopicPartitions>) {
        let mut owned = BTreeSet::new();
        for (id, target) in targets {
            for (topic, partitions) in target {
                assert!(self.members[id].topics.contains(topic), "{id} subscribes");
                assert!(partitions.is_sorted_by(|left, right| left < right));
                for partition in partitions {
                    assert!(owned.insert((*topic, *partition)), "one owner");
                }
            }
        }
        let mut wanted = BTreeSet::new();
        for member in self.members.values() {
            for topic in &member.topics {
                let partitions = self.topics.get(topic).map_or(0, Vec::len);
                wanted.extend((0..).take(partitions).map(|it| (*topic, it)));
            }
        }
        assert_eq!(owned, wanted, "all partitions of subscribed topics");
    }
}

fn load(partitions: &TopicPartitions) -> usize {
    partitions.values().map(Vec::len).sum()
}

/// How many partitions that are still there changed their owner.
fn moves(before: &Group, after: &Group) -> usize {
    let owners = |group: &Group| -> BTreeMap<(TopicId, i32), String> {
        let mut owners = BTreeMap::new();
        for (id, member) in &group.members {
            for (topic, partitions) in &member.assigned {
                owners.extend(partitions.iter().map(|it| ((*topic, *it), id.clone())));
            }
        }
        owners
    };
    let after = owners(after);
    let moved = owners(before)
        .into_iter()
        .filter(|(partition, owner)| after.get(partition).is_some_and(|now| now != owner));
    moved.count()
}

fn any_group() -> impl Strategy<Value = Group> {
    let topics = prop::collection::vec(1_usize..12, 1..6);
    let member = (
        any::<u8>(),
        prop::option::of(prop::sample::select(vec!["r1", "r2", "r3"])),
        any::<bool>(),
    );
    let members = prop::collection::vec(member, 1..9);
    (topics, members, any::<bool>(), any::<bool>()).prop_map(|(topics, members, alike, racks)| {
        let mut group = Group::new(members.len(), &topics);
        if racks {
            for partitions in group.topics.values_mut() {
                for (number, racks) in partitions.iter_mut().enumerate() {
                    *racks = vec![["r1", "r2", "r3"][number % 3]];
                }
            }
        }
        for ((number, member), (mask, rack, is_static)) in
            group.members.values_mut().enumerate().zip(members)
        {
            member.rack = rack;
            member.instance = is_static.then(|| format!("i{}", 9 - number));
            if !alike {
                let mut bit = 0;
                member.topics.retain(|_| {
                    bit += 1;
                    mask & (1 << (bit % 8)) != 0
                });
            }
        }
        group
    })
}

fn any_assignor() -> impl Strategy<Value = Assignor> {
    prop::sample::select(vec![Assignor::Uniform, Assignor::Range])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_partition_has_one_subscribed_owner(mut group in any_group(), assignor in any_assignor()) {
        group.check(&group.assign(assignor));
        group.settle(assignor);
        // Then a member goes, topics grow, one is deleted.
        group.members.pop_first();
        if let Some(mut topic) = group.topics.first_entry() {
            topic.get_mut().push(Vec::new());
        }
        if group.topics.len() > 1 {
            let (gone, _) = group.topics.pop_last().unwrap();
            for member in group.members.values_mut() {
                member.topics.remove(&gone);
            }
        }
        group.check(&group.assign(assignor));
    }

    #[test]
    fn nothing_moves_when_nothing_changed(mut group in any_group(), assignor in any_assignor()) {
        group.settle(assignor);
        let before = group.clone();
        group.settle(assignor);
        prop_assert_eq!(moves(&before, &group), 0);
        prop_assert_eq!(before.loads(), group.loads());
    }

    #[test]
    fn uniform_differs_by_one_at_most(members in 1_usize..20, topics in prop::collection::vec(1_usize..20, 1..5)) {
        let mut group = Group::new(members, &topics);
        group.settle(Assignor::Uniform);
        let loads = group.loads();
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
    }

    /// No partition could go from a member to a subscriber with two less.
    #[test]
    fn uniform_of_different_subscriptions_has_no_better_neighbour(mut group in any_group()) {
        group.settle(Assignor::Uniform);
        for member in group.members.values() {
            for topic in member.assigned.keys() {
                for other in group.members.values().filter(|it| it.topics.contains(topic)) {
                    prop_assert!(load(&member.assigned) < load(&other.assigned) + 2);
                }
            }
        }
    }

    /// A leave moves only what the member had, a join only what it gets.
    #[test]
    fn uniform_moves_only_what_it_must(members in 2_usize..20, topics in prop::collection::vec(1_usize..20, 1..5), leaver in any::<prop::sample::Index>()) {
        let mut group = Group::new(members, &topics);
        group.settle(Assignor::Uniform);
        let mut left = group.clone();
        let ids: Vec<String> = left.members.keys().cloned().collect();
        left.members.remove(leaver.get(&ids));
        left.settle(Assignor::Uniform);
        let before_without = Group { members: group.members.iter().filter(|(id, _)| left.members.contains_key(*id)).map(|(id, it)| (id.clone(), it.clone())).collect(), topics: group.topics.clone() };
        prop_assert_eq!(moves(&before_without, &left), 0);
        let before = left.clone();
        let newcomer = Member { assigned: TopicPartitions::new(), ..left.members.values().next().unwrap().clone() };
        left.members.insert("newcomer".to_owned(), newcomer);
        left.settle(Assignor::Uniform);
        let got = load(&left.members["newcomer"].assigned);
        prop_assert_eq!(moves(&before, &left), got);
        prop_assert!(got <= left.partition_count() / left.members.len() + 1);
    }

    /// Topics of the same size are read by the same members partition by partition.
    #[test]
    fn range_assigns_joined_topics_alike(members in 1_usize..12, partitions in 1_usize..20) {
        let group = Group::new(members, &[partitions, partitions, partitions]);
        for target in group.assign(Assignor::Range).values() {
            let distinct: BTreeSet<&Vec<i32>> = target.values().collect();
            prop_assert!(distinct.len() <= 1);
            for range in distinct {
                prop_assert!(range.windows(2).all(|it| it[0] + 1 == it[1]), "contiguous");
            }
        }
    }
}

#[test]
fn range_follows_static_members_through_new_ids() {
    let mut group = Group::new(3, &[7]);
    for (number, member) in group.members.values_mut().enumerate() {
        member.instance = Some(format!("i{number}"));
    }
    let before: Vec<_> = group.assign(Assignor::Range).into_values().collect();
    let renamed = group.members.into_values().zip(["z", "y", "x"]);
    group.members = renamed
        .map(|(member, id)| (id.to_owned(), member))
        .collect();
    let after: Vec<_> = group.assign(Assignor::Range).into_values().rev().collect();
    assert_eq!(before, after);
}

#[test]
fn uniform_spreads_each_topic() {
    let mut group = Group::new(1, &[10, 10]);
    group.settle(Assignor::Uniform);
    let newcomer = Member {
        assigned: TopicPartitions::new(),
        ..group.members["m0000"].clone()
    };
    group.members.insert("m0001".to_owned(), newcomer);
    for target in group.assign(Assignor::Uniform).values() {
        assert!(target.values().all(|partitions| partitions.len() == 5));
    }
}

#[test]
fn uniform_prefers_racks_but_never_to_balance() {
    let mut group = Group::new(4, &[8]);
    let racks = ["r1", "r2"];
    for (number, partition) in group.topics.values_mut().flatten().enumerate() {
        *partition = vec![racks[number / 4]];
    }
    for (number, member) in group.members.values_mut().enumerate() {
        member.rack = Some(racks[number % 2]);
    }
    let near = |group: &Group| {
        let members = group.members.values();
        let far = members.flat_map(|member| {
            let partitions = member.assigned[&topic(1)].iter();
            partitions.filter(|it| Some(racks[usize::from(**it >= 4)]) != member.rack)
        });
        far.count() == 0
    };
    group.settle(Assignor::Uniform);
    assert_eq!(group.loads(), [2, 2, 2, 2]);
    assert!(near(&group), "{group:?}");
    // Everybody in one rack: balance stays.
    for member in group.members.values_mut() {
        *member = Member {
            rack: Some("r1"),
            assigned: TopicPartitions::new(),
            ..member.clone()
        };
    }
    group.settle(Assignor::Uniform);
    assert_eq!(group.loads(), [2, 2, 2, 2]);
}

#[test]
fn a_thousand_members_and_five_thousand_partitions_take_less_than_a_second() {
    let mut alike = Group::new(1_000, &[1_000; 5]);
    let mut different = Group::new(1_000, &[50; 100]);
    for (number, member) in different.members.values_mut().enumerate() {
        let mut bit = 0;
        member.topics.retain(|_| {
            bit += 1;
            (number + bit) % 3 != 0
        });
    }
    let mut worst = Group::new(1_000, &[1; 5_000]);
    let first: TopicPartitions = worst.topics.keys().map(|it| (*it, vec![0])).collect();
    if let Some(member) = worst.members.get_mut("m0000") {
        member.assigned = first;
    }
    worst
        .members
        .values_mut()
        .last()
        .unwrap()
        .topics
        .pop_first();
    for (name, group) in [
        ("alike", &mut alike),
        ("different", &mut different),
        ("worst", &mut worst),
    ] {
        for assignor in [Assignor::Uniform, Assignor::Range] {
            let began = Instant::now();
            let targets = group.assign(assignor);
            // Twice, for `assign` compares two runs; a busy machine has twice as long.
            assert!(
                began.elapsed() < Duration::from_secs(4),
                "{name} {:?}",
                began.elapsed()
            );
            println!("{name} {} {:?}", assignor.name(), began.elapsed() / 2);
            let count: usize = targets.values().map(load).sum();
            assert_eq!(count, group.partition_count());
        }
    }
}
