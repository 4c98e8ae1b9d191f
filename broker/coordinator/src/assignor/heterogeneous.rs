//! `uniform` when members subscribe to different topics.
//!
//! Members keep what they have; what nobody has goes to the subscriber with least; then single
//! partitions move from members to subscribers that have at least two less, until there is no such
//! pair. Each move lowers the sum of the squared loads, so this ends; it is a local optimum, as in
//! Kafka: a balance that needs two moves at once is not looked for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::plan::Plan;

/// More rounds than any sensible group needs. A bound on the work, not on correctness: what is
/// reached then is an assignment like any other.
const MAX_ROUNDS: usize = 64;

/// How many equally good choices are looked at for one that is near.
const MAX_TIES: usize = 16;

pub(super) fn assign(plan: &mut Plan<'_>) {
    plan.keep_assigned();
    let mut subscribers: Vec<Vec<usize>> = vec![Vec::new(); plan.spec.topics.len()];
    for (index, member) in plan.spec.members.iter().enumerate() {
        for topic in member.topics.iter() {
            subscribers[*topic].push(index);
        }
    }
    // Those with the least choice first.
    let mut order: Vec<usize> = (0..subscribers.len()).collect();
    order.sort_by_key(|topic| subscribers[*topic].len());
    for topic in &order {
        place(plan, *topic, &subscribers[*topic]);
    }
    for _ in 0..MAX_ROUNDS {
        let mut moved = false;
        for topic in &order {
            moved |= balance(plan, *topic, &subscribers[*topic]);
        }
        if !moved {
            break;
        }
    }
}

/// Gives a topic's unowned partitions to its subscribers with the least load.
fn place(plan: &mut Plan<'_>, topic: usize, subscribers: &[usize]) {
    let mut least: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
    for partition in plan.partitions(topic) {
        if plan.owner(partition).is_some() {
            continue;
        }
        if least.is_empty() {
            let loads = subscribers.iter().map(|it| Reverse((plan.load(*it), *it)));
            least.extend(loads);
        }
        if let Some(member) = take_least(plan, &mut least, partition) {
            plan.give(partition, member);
            least.push(Reverse((plan.load(member), member)));
        }
    }
}

/// Takes the least loaded member off the heap, of several a near one.
fn take_least(
    plan: &Plan<'_>,
    least: &mut BinaryHeap<Reverse<(usize, usize)>>,
    partition: usize,
) -> Option<usize> {
    let Reverse((load, first)) = least.pop()?;
    let mut chosen = first;
    let mut ties = Vec::new();
    if !plan.racks(partition).is_empty() {
        while !plan.is_near(partition, chosen) && ties.len() < MAX_TIES {
            match least.peek() {
                Some(Reverse((other, _))) if *other == load => {}
                _ => break,
            }
            ties.push(chosen);
            let Some(Reverse((_, member))) = least.pop() else {
                break;
            };
            chosen = member;
        }
        // None of them is near: the first, as without racks.
        if !ties.is_empty() && !plan.is_near(partition, chosen) {
            ties.push(chosen);
            chosen = ties.remove(0);
        }
    }
    least.extend(ties.into_iter().map(|member| Reverse((load, member))));
    Some(chosen)
}

/// Moves partitions of a topic from its most loaded owners to its least loaded subscribers. Tells
/// whether anything moved.
fn balance(plan: &mut Plan<'_>, topic: usize, subscribers: &[usize]) -> bool {
    let Some(least) = subscribers.iter().map(|it| plan.load(*it)).min() else {
        return false;
    };
    let owners = plan.partitions(topic).filter_map(|it| plan.owner(it));
    let most = owners.map(|owner| plan.load(owner)).max();
    if most.is_none_or(|most| most < least + 2) {
        return false;
    }
    let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for partition in plan.partitions(topic) {
        if let Some(owner) = plan.owner(partition) {
            owned.entry(owner).or_default().push(partition);
        }
    }
    let mut receivers: BTreeSet<(usize, usize)> =
        subscribers.iter().map(|it| (plan.load(*it), *it)).collect();
    let mut givers: BTreeSet<(usize, usize)> =
        owned.keys().map(|it| (plan.load(*it), *it)).collect();
    let mut moved = false;
    while let (Some(&(most, from)), Some(&(least, to))) = (givers.last(), receivers.first()) {
        if most < least + 2 {
            break;
        }
        givers.remove(&(most, from));
        receivers.remove(&(most, from));
        givers.remove(&(least, to));
        receivers.remove(&(least, to));
        let given = owned.entry(from).or_default();
        if let Some(partition) = choose(plan, given, to) {
            plan.give(partition, to);
            owned.entry(to).or_default().push(partition);
            moved = true;
        }
        if owned.get(&from).is_some_and(|rest| !rest.is_empty()) {
            givers.insert((plan.load(from), from));
        }
        receivers.insert((plan.load(from), from));
        givers.insert((plan.load(to), to));
        receivers.insert((plan.load(to), to));
    }
    moved
}

/// The partition to move: one that is near its new owner, else the last.
fn choose(plan: &Plan<'_>, partitions: &mut Vec<usize>, to: usize) -> Option<usize> {
    let last = partitions.len().checked_sub(1)?;
    let mut latest = (0..=last).rev().take(MAX_TIES);
    let near = latest.find(|position| plan.is_near(partitions[*position], to));
    Some(partitions.swap_remove(near.unwrap_or(last)))
}
