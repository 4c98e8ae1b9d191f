//! An assignment in the making: partitions numbered through all topics, and who has each.

use klamm_records::TopicId;

use super::GroupSpec;
use crate::records::TopicPartitions;

/// Owners by partition number, and how many each member has.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) spec: &'a GroupSpec<'a>,
    /// The number of each topic's partition 0; one more at the end is the count of all.
    first: Vec<usize>,
    owners: Vec<Option<usize>>,
    loads: Vec<usize>,
}

impl<'a> Plan<'a> {
    /// Nobody has anything.
    pub(super) fn new(spec: &'a GroupSpec<'a>) -> Plan<'a> {
        let mut first = Vec::with_capacity(spec.topics.len() + 1);
        let mut total = 0;
        for topic in &spec.topics {
            first.push(total);
            total += topic.racks.len();
        }
        first.push(total);
        Plan {
            spec,
            first,
            owners: vec![None; total],
            loads: vec![0; spec.members.len()],
        }
    }

    /// How many partitions there are.
    pub(super) fn partition_count(&self) -> usize {
        self.owners.len()
    }

    /// The numbers of a topic's partitions.
    pub(super) fn partitions(&self, topic: usize) -> std::ops::Range<usize> {
        self.first[topic]..self.first[topic + 1]
    }

    /// The topic a partition is of.
    pub(super) fn topic_of(&self, partition: usize) -> usize {
        self.first.partition_point(|first| *first <= partition) - 1
    }

    /// Who has a partition.
    pub(super) fn owner(&self, partition: usize) -> Option<usize> {
        self.owners[partition]
    }

    /// How many partitions a member has.
    pub(super) fn load(&self, member: usize) -> usize {
        self.loads[member]
    }

    /// Gives a partition to a member, from whoever had it.
    pub(super) fn give(&mut self, partition: usize, member: usize) {
        self.take(partition);
        self.owners[partition] = Some(member);
        self.loads[member] += 1;
    }

    /// Takes a partition from whoever has it.
    pub(super) fn take(&mut self, partition: usize) {
        if let Some(owner) = self.owners[partition].take() {
            self.loads[owner] -= 1;
        }
    }

    /// Whether a member is in the rack of one of a partition's replicas.
    pub(super) fn is_near(&self, partition: usize, member: usize) -> bool {
        self.spec.members[member]
            .rack
            .is_some_and(|rack| self.racks(partition).contains(&rack))
    }

    /// The racks of a partition's replicas.
    pub(super) fn racks(&self, partition: usize) -> &'a [&'a str] {
        let topic = self.topic_of(partition);
        &self.spec.topics[topic].racks[partition - self.first[topic]]
    }

    /// Leaves to the members what they have and may keep: partitions that exist, of topics they
    /// subscribe to, that no member before them has.
    pub(super) fn keep_assigned(&mut self) {
        for (index, member) in self.spec.members.iter().enumerate() {
            for (id, partitions) in member.assigned {
                let Some(topic) = self.find_topic(*id) else {
                    continue;
                };
                if member.topics.binary_search(&topic).is_err() {
                    continue;
                }
                for partition in partitions {
                    if let Some(number) = self.number(topic, *partition)
                        && self.owners[number].is_none()
                    {
                        self.give(number, index);
                    }
                }
            }
        }
    }

    /// The partitions that nobody has, ascending.
    pub(super) fn unowned(&self) -> Vec<usize> {
        let numbers = 0..self.owners.len();
        numbers
            .filter(|number| self.owners[*number].is_none())
            .collect()
    }

    /// What each member has, as records have it.
    pub(super) fn into_targets(self) -> Vec<TopicPartitions> {
        let mut targets = vec![TopicPartitions::new(); self.spec.members.len()];
        for (topic, spec) in self.spec.topics.iter().enumerate() {
            for (index, number) in (0..).zip(self.partitions(topic)) {
                if let Some(owner) = self.owners[number] {
                    targets[owner].entry(spec.id).or_default().push(index);
                }
            }
        }
        targets
    }

    fn find_topic(&self, id: TopicId) -> Option<usize> {
        let topics = &self.spec.topics;
        topics.binary_search_by_key(&id, |topic| topic.id).ok()
    }

    fn number(&self, topic: usize, partition: i32) -> Option<usize> {
        let range = self.partitions(topic);
        let number = range.start.checked_add(usize::try_from(partition).ok()?)?;
        range.contains(&number).then_some(number)
    }
}
