//! The newest offset of each key, in a table of fixed size.
//!
//! As in Kafka a key is represented by 128 bits of a hash, so an entry takes 24 bytes however long
//! the key is. The hash is SipHash under random numbers of this process: two keys with one hash
//! would make one delete the other, and nobody who chooses keys can find such a pair.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Bytes of an entry: two halves of the hash and the offset.
const ENTRY_BYTES: usize = 24;
/// No offset.
const EMPTY: i64 = -1;

#[derive(Clone, Copy)]
struct Slot {
    hash: (u64, u64),
    offset: i64,
}

/// Open addressing with linear probing; entries are never removed.
pub(super) struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
    /// Entries taken before the map counts as full; always leaves a free slot.
    max_used: usize,
    hashers: (RandomState, RandomState),
}

impl OffsetMap {
    /// A map within `bytes` of memory, filled up to `load_factor`; never larger than `records`
    /// need. Holds one key at least.
    pub(super) fn new(bytes: usize, load_factor: f64, records: usize) -> OffsetMap {
        let load_factor = load_factor.clamp(0.05, 0.99);
        let needed = (records as f64 / load_factor) as usize + 2;
        let slots = (bytes / ENTRY_BYTES).min(needed).max(2);
        let max_used = ((slots as f64 * load_factor) as usize).clamp(1, slots - 1);
        let empty = Slot {
            hash: (0, 0),
            offset: EMPTY,
        };
        OffsetMap {
            slots: vec![empty; slots],
            used: 0,
            max_used,
            hashers: (RandomState::new(), RandomState::new()),
        }
    }

    /// Keys in the map.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Keys it takes.
    pub(super) fn capacity(&self) -> usize {
        self.max_used
    }

    /// Notes that `key` has a record at `offset`, which is above all before. False: the map is
    /// full and does not have it.
    pub(super) fn put(&mut self, key: &[u8], offset: i64) -> bool {
        if self.used >= self.max_used {
            return false;
        }
        let hash = self.hash(key);
        let at = self.find(hash);
        if let Some(slot) = self.slots.get_mut(at) {
            self.used += usize::from(slot.offset == EMPTY);
            *slot = Slot { hash, offset };
        }
        true
    }

    /// The offset of the newest record of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<i64> {
        let slot = self.slots.get(self.find(self.hash(key)))?;
        (slot.offset != EMPTY).then_some(slot.offset)
    }

    fn hash(&self, key: &[u8]) -> (u64, u64) {
        (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key))
    }

    /// Number of the slot with that hash, or of the free one where it belongs.
    fn find(&self, hash: (u64, u64)) -> usize {
        let first = usize::try_from(hash.0 % self.slots.len() as u64).unwrap_or(0);
        let fits = |at: &usize| {
            let slot = self.slots.get(*at);
            slot.is_none_or(|slot| slot.offset == EMPTY || slot.hash == hash)
        };
        let found = (first..self.slots.len()).chain(0..first).find(fits);
        found.expect("there always is a free slot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_and_the_newest_offset_counts() {
        let mut map = OffsetMap::new(24 * 1000, 0.9, usize::MAX / 2);
        for offset in 0..1_500_i64 {
            let key = (offset % 700).to_be_bytes();
            assert!(map.put(&key, offset));
        }
        assert_eq!(map.len(), 700);
        for key in 0..700_i64 {
            let newest = if key < 100 { key + 1_400 } else { key + 700 };
            assert_eq!(map.get(&key.to_be_bytes()), Some(newest));
        }
        assert_eq!(map.get(b"no such key"), None);
    }

    #[test]
    fn a_full_map_takes_nothing_and_still_answers() {
        let mut map = OffsetMap::new(24 * 10, 0.5, 1_000);
        let taken = (0..100_i64).take_while(|n| map.put(&n.to_be_bytes(), *n));
        assert_eq!(taken.count(), 5);
        assert_eq!(map.capacity(), 5);
        assert!(!map.put(&0_i64.to_be_bytes(), 100), "not even a known key");
        assert_eq!(map.get(&4_i64.to_be_bytes()), Some(4));
        assert_eq!(map.get(&5_i64.to_be_bytes()), None);
    }

    #[test]
    fn the_smallest_map_holds_one_key() {
        let mut map = OffsetMap::new(0, 0.9, 0);
        assert!(map.put(b"a", 7));
        assert!(!map.put(b"b", 8));
        assert_eq!((map.get(b"a"), map.get(b"b")), (Some(7), None));
    }
}
