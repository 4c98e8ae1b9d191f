//! Starts and ends the tasks of shards, and tells them what changed around them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use klamm_metadata::Image;
use klamm_metadata::names::GROUP_METADATA_TOPIC;
use klamm_records::TopicId;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::shard::Task;
use super::{Phase, Slot, settings};
use crate::node::{Shared, stopped};
use crate::partition::Partition;

/// Logs that are read at the same time, each on a thread of its own.
const LOADING: usize = 4;

struct Running {
    /// What it coordinates from. A replica that went and came back, or took the place of a damaged one, is another.
    partition: Arc<Partition>,
    slot: Arc<Slot>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Follows the image until the node stops; then shards answer what is in flight and end.
pub async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut supervisor = Supervisor {
        reconciled: shared.watch_reconciled(),
        shared,
        running: BTreeMap::new(),
        topics: HashMap::new(),
        loading: Arc::new(Semaphore::new(LOADING)),
    };
    loop {
        supervisor.reconciled.borrow_and_update();
        supervisor.follow();
        tokio::select! {
            () = stopped(&mut stopping) => break,
            changed = supervisor.reconciled.changed() => {
                if changed.is_err() {
                    break;
                }
            }
        }
    }
    supervisor.stop().await;
}

struct Supervisor {
    shared: Arc<Shared>,
    /// Partitions are open by then.
    reconciled: watch::Receiver<i64>,
    running: BTreeMap<i32, Running>,
    /// Topics as shards know them: name and number of partitions.
    topics: HashMap<TopicId, (Arc<str>, usize)>,
    loading: Arc<Semaphore>,
}

impl Supervisor {
    fn follow(&mut self) {
        let image = self.shared.controller.image();
        let current = settings::of(&self.shared.settings(), &image);
        self.shared.coordinators.settings.store(Arc::new(current));
        self.tell_topics(&image);
        let topic = image.topic(GROUP_METADATA_TOPIC).map(|topic| topic.id);
        let open = topic.map_or_else(Vec::new, |id| self.shared.partitions.of_topic(id));
        let gone: Vec<i32> = self
            .running
            .iter()
            .filter(|(_, running)| {
                !open
                    .iter()
                    .any(|open| Arc::ptr_eq(open, &running.partition))
            })
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            self.shared.coordinators.slots.write().remove(&index);
            if let Some(running) = self.running.remove(&index) {
                running.slot.set(Phase::NotLeading);
                running.stop.send_replace(true);
            }
        }
        for partition in open {
            let index = partition.index();
            if self.running.contains_key(&index) {
                continue;
            }
            let slot = Arc::new(Slot::new());
            let stop = watch::Sender::new(false);
            let (shared, loading) = (self.shared.clone(), self.loading.clone());
            let task = Task::new(shared, partition.clone(), slot.clone(), loading);
            let task = tokio::spawn(task.run(stop.subscribe()));
            self.shared
                .coordinators
                .slots
                .write()
                .insert(index, slot.clone());
            let running = Running {
                partition,
                slot,
                stop,
                task,
            };
            self.running.insert(index, running);
        }
    }

    /// Tells shards if topics came, went or grew; other changes of the image are none of theirs.
    fn tell_topics(&mut self, image: &Image) {
        let now: HashMap<TopicId, (Arc<str>, usize)> = image
            .topics()
            .map(|topic| (topic.id, (topic.name.clone(), topic.partitions.len())))
            .collect();
        if now == self.topics {
            return;
        }
        let deleted: Vec<Arc<str>> = self
            .topics
            .iter()
            .filter(|(id, _)| !now.contains_key(id))
            .map(|(_, (name, _))| name.clone())
            .collect();
        self.topics = now;
        for running in self.running.values() {
            let mut changes = running.slot.topics.lock();
            changes.any = true;
            changes.deleted.extend(deleted.iter().cloned());
            drop(changes);
            running.slot.topics_changed.notify_one();
        }
    }

    async fn stop(self) {
        for running in self.running.values() {
            running.stop.send_replace(true);
        }
        for (_, running) in self.running {
            // A task that panicked has said so itself.
            let _ = running.task.await;
        }
    }
}
