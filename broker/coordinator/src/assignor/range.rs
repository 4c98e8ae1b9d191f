//! `range`: each topic is cut into contiguous ranges, one for each subscriber.

use super::plan::Plan;

/// Static members come first, by instance id, so that a restart with new member ids changes
/// nothing; then the others by member id. The order is the same for every topic, so topics with the
/// same subscribers and partition count are cut alike (co-partitioning).
pub(super) fn assign(plan: &mut Plan<'_>) {
    let members = &plan.spec.members;
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|index| {
        let member = &members[*index];
        (member.instance.is_none(), member.instance, member.id)
    });
    let mut subscribers: Vec<Vec<usize>> = vec![Vec::new(); plan.spec.topics.len()];
    for index in order {
        for topic in members[index].topics.iter() {
            subscribers[*topic].push(index);
        }
    }
    for (topic, subscribers) in subscribers.iter().enumerate() {
        cut(plan, topic, subscribers);
    }
}

fn cut(plan: &mut Plan<'_>, topic: usize, subscribers: &[usize]) {
    if subscribers.is_empty() {
        return;
    }
    let partitions = plan.partitions(topic);
    let share = partitions.len() / subscribers.len();
    let larger = partitions.len() % subscribers.len();
    let mut next = partitions.start;
    for (position, member) in subscribers.iter().enumerate() {
        let end = next + share + usize::from(position < larger);
        for partition in next..end {
            plan.give(partition, *member);
        }
        next = end;
    }
}
