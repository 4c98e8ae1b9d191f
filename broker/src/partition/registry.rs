//! The partitions that are open on this node.

use std::collections::HashMap;
use std::sync::Arc;

use klamm_records::TopicId;
use parking_lot::RwLock;

use super::Partition;

/// Open partitions by topic id and index. Filled and emptied by the reconciler only.
#[derive(Default)]
pub struct Partitions {
    open: RwLock<HashMap<TopicId, Vec<Option<Arc<Partition>>>>>,
}

impl Partitions {
    /// The partition, if this node has it open.
    pub fn get(&self, topic: TopicId, index: i32) -> Option<Arc<Partition>> {
        let at = usize::try_from(index).ok()?;
        self.open.read().get(&topic)?.get(at)?.clone()
    }

    /// All open partitions, in no particular order.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.open
            .read()
            .values()
            .flatten()
            .flatten()
            .cloned()
            .collect()
    }

    /// Open partitions of a topic.
    pub fn of_topic(&self, topic: TopicId) -> Vec<Arc<Partition>> {
        self.open
            .read()
            .get(&topic)
            .into_iter()
            .flatten()
            .flatten()
            .cloned()
            .collect()
    }

    /// Adds an opened partition.
    pub fn insert(&self, partition: Arc<Partition>) {
        let at = usize::try_from(partition.index()).expect("partition numbers are not negative");
        let mut open = self.open.write();
        let slots = open.entry(partition.topic_id()).or_default();
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        if let Some(slot) = slots.get_mut(at) {
            *slot = Some(partition);
        }
    }

    /// Takes a partition out.
    pub fn remove(&self, topic: TopicId, index: i32) -> Option<Arc<Partition>> {
        let at = usize::try_from(index).ok()?;
        self.open.write().get_mut(&topic)?.get_mut(at)?.take()
    }

    /// Takes a topic's partitions out.
    pub fn remove_topic(&self, topic: TopicId) -> Vec<Arc<Partition>> {
        self.open
            .write()
            .remove(&topic)
            .into_iter()
            .flatten()
            .flatten()
            .collect()
    }
}
