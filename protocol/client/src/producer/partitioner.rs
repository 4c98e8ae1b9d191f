//! Which partition a record goes to, as Java's default partitioner decides: by key where there is
//! one, else a batch's worth to one partition after the other (KIP-480).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::cluster::Topic;

/// MurmurHash2, 32 bit, with Kafka's seed: equal keys land where every other client puts them.
pub fn murmur2(key: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Kafka mixes in the low 32 bits of the length: keys are shorter than 2 GiB.
    let mut hash = SEED ^ (key.len() as u32);
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let tail = rest
            .iter()
            .rev()
            .fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ hash >> 15
}

/// The partition of a key among `count` partitions, `count` above 0.
pub fn partition_for_key(key: &[u8], count: usize) -> i32 {
    assert!(count > 0, "a topic has partitions");
    let positive = (murmur2(key) & 0x7fff_ffff) as usize;
    i32::try_from(positive % count).expect("below a positive 32-bit hash")
}

/// Where records without a key go: to one partition until a batch is full.
#[derive(Debug, Default)]
pub(crate) struct Partitioner {
    sticky: HashMap<String, Sticky>,
}

#[derive(Debug)]
struct Sticky {
    turn: usize,
    bytes: usize,
}

impl Partitioner {
    /// Partition for a record of `len` bytes. Without a key, partitions without leader are passed
    /// over as long as others have one.
    pub(crate) fn choose(
        &mut self,
        topic: &Topic,
        key: Option<&[u8]>,
        len: usize,
        batch_bytes: usize,
    ) -> i32 {
        if let Some(key) = key {
            return partition_for_key(key, topic.partitions.len());
        }
        if !self.sticky.contains_key(&topic.name) {
            // Producers start at different partitions, or the first would get all first batches.
            let turn = RandomState::new().hash_one(&topic.name) as usize;
            self.sticky
                .insert(topic.name.clone(), Sticky { turn, bytes: 0 });
        }
        let sticky = self.sticky.get_mut(&topic.name).expect("inserted above");
        if sticky.bytes + len > batch_bytes && sticky.bytes > 0 {
            *sticky = Sticky {
                turn: sticky.turn.wrapping_add(1),
                bytes: 0,
            };
        }
        sticky.bytes += len;
        let led = topic
            .partitions
            .iter()
            .filter(|partition| partition.leader.is_some());
        let count = led.clone().count();
        if count == 0 {
            return topic
                .partitions
                .first()
                .map_or(0, |partition| partition.index);
        }
        let chosen = led.clone().nth(sticky.turn % count);
        chosen.map_or(0, |partition| partition.index)
    }
}

#[cfg(test)]
mod tests {
    use klamm_records::TopicId;

    use super::*;
    use crate::cluster::Partition;

    #[test]
    fn hashes_like_java() {
        // From Kafka's UtilsTest.
        let cases: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
        ];
        for (key, expected) in cases {
            assert_eq!(murmur2(key) as i32, expected, "{key:?}");
        }
    }

    fn topic(leaders: &[Option<i32>]) -> Topic {
        let partition = |(index, &leader): (i32, &Option<i32>)| Partition {
            index,
            leader,
            leader_epoch: 0,
            replicas: Vec::new(),
            in_sync: Vec::new(),
            offline: Vec::new(),
        };
        Topic {
            name: "t".to_owned(),
            id: TopicId::ZERO,
            internal: false,
            partitions: (0..).zip(leaders).map(partition).collect(),
        }
    }

    #[test]
    fn records_without_key_fill_one_batch_after_the_other() {
        let topic = topic(&[Some(1), None, Some(1)]);
        let mut partitioner = Partitioner::default();
        let chosen: Vec<i32> = (0..8)
            .map(|_| partitioner.choose(&topic, None, 50, 100))
            .collect();
        let first = chosen.first().copied().unwrap_or_default();
        let other = 2 - first;
        assert_eq!(
            chosen,
            [first, first, other, other, first, first, other, other]
        );
        assert!(!chosen.contains(&1), "nobody leads it");
    }

    #[test]
    fn a_key_stays_with_its_partition_when_that_has_no_leader() {
        let mut partitioner = Partitioner::default();
        let led = partitioner.choose(&topic(&[Some(1), Some(1)]), Some(b"abc"), 50, 100);
        let not_led = partitioner.choose(&topic(&[None, None]), Some(b"abc"), 50, 100);
        assert_eq!(led, not_led);
    }
}
