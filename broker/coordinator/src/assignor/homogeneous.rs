//! `uniform` when all members subscribe to the same topics.
//!
//! Everybody gets the same number of partitions or one more. Whoever has more than the share keeps
//! one more as far as there are any, the rest is taken away and goes to those who have less: no
//! partition moves that balance does not require.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use super::plan::Plan;

pub(super) fn assign(plan: &mut Plan<'_>) {
    plan.keep_assigned();
    let quotas = quotas(plan);
    release_excess(plan, &quotas);
    let mut places: Vec<usize> = (0..quotas.len())
        .map(|member| quotas[member] - plan.load(member))
        .collect();
    let rest = place_near(plan, &mut places);
    place(plan, &mut places, rest);
}

/// How many partitions each member gets. One more than the others get those that have most already.
fn quotas(plan: &Plan<'_>) -> Vec<usize> {
    let members = plan.spec.members.len();
    let share = plan.partition_count() / members;
    let larger = plan.partition_count() % members;
    let mut order: Vec<usize> = (0..members).collect();
    order.sort_by_key(|member| Reverse(plan.load(*member)));
    let mut quotas = vec![share; members];
    for member in order.into_iter().take(larger) {
        quotas[member] += 1;
    }
    quotas
}

fn release_excess(plan: &mut Plan<'_>, quotas: &[usize]) {
    let mut excess: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = (0..quotas.len())
        .filter(|member| plan.load(*member) > quotas[*member])
        .map(|member| (member, BTreeMap::new()))
        .collect();
    if excess.is_empty() {
        return;
    }
    for partition in 0..plan.partition_count() {
        if let Some(topics) = plan.owner(partition).and_then(|it| excess.get_mut(&it)) {
            let topic = plan.topic_of(partition);
            topics.entry(topic).or_default().push(partition);
        }
    }
    for (member, topics) in excess {
        let count = plan.load(member) - quotas[member];
        release(plan, member, topics, count);
    }
}

/// Takes partitions from a member: each from the topic that it has most of, so that no topic ends
/// up with one member, and there first those that are not near.
fn release(
    plan: &mut Plan<'_>,
    member: usize,
    mut topics: BTreeMap<usize, Vec<usize>>,
    count: usize,
) {
    for partitions in topics.values_mut() {
        partitions.sort_by_key(|partition| (!plan.is_near(*partition, member), *partition));
    }
    let mut largest: BinaryHeap<(usize, usize)> = topics
        .iter()
        .map(|(topic, partitions)| (partitions.len(), *topic))
        .collect();
    for _ in 0..count {
        let Some((len, topic)) = largest.pop() else {
            return;
        };
        if let Some(partition) = topics.get_mut(&topic).and_then(Vec::pop) {
            plan.take(partition);
            largest.push((len - 1, topic));
        }
    }
}

/// Gives unowned partitions to members near a replica, in turns; returns those that are left.
fn place_near(plan: &mut Plan<'_>, places: &mut [usize]) -> Vec<usize> {
    let unowned = plan.unowned();
    let mut queues: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (index, member) in plan.spec.members.iter().enumerate() {
        if let Some(rack) = member.rack
            && places[index] > 0
        {
            queues.entry(rack).or_default().push_back(index);
        }
    }
    if queues.is_empty() {
        return unowned;
    }
    let mut rest = Vec::new();
    for partition in unowned {
        let mut racks = plan.racks(partition).iter();
        let member = racks.find_map(|rack| next(queues.get_mut(rack)?, places));
        match member {
            Some(member) => plan.give(partition, member),
            None => rest.push(partition),
        }
    }
    rest
}

fn place(plan: &mut Plan<'_>, places: &mut [usize], partitions: Vec<usize>) {
    let mut queue: VecDeque<usize> = (0..places.len())
        .filter(|member| places[*member] > 0)
        .collect();
    for partition in partitions {
        let member = next(&mut queue, places).expect("the quotas add up to all partitions");
        plan.give(partition, member);
    }
}

/// The next member in turn that has a place.
fn next(queue: &mut VecDeque<usize>, places: &mut [usize]) -> Option<usize> {
    while let Some(member) = queue.pop_front() {
        if places[member] > 0 {
            places[member] -= 1;
            queue.push_back(member);
            return Some(member);
        }
    }
    None
}
