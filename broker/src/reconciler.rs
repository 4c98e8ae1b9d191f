//! Makes this node's open partitions what the metadata image says they should be.
//!
//! Owns opening and closing of partitions. One task; every step may be repeated after a crash:
//! a group that was created and not founded is founded, files of a deleted topic are deleted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use klamm_metadata as metadata;
use klamm_metadata::Image;
use klamm_metadata::settings::TopicSettings;
use klamm_raft::NodeId;
use klamm_records::{GroupId, TopicId};
use klamm_storage::StorageError;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info};

use crate::node::Shared;
use crate::partition::{Partition, log_settings, replica_of};
use crate::start::{found_if_empty, founding_pause};

/// Groups that are opened at the same time: they share syncs, so more is faster, within reason.
const OPENING: usize = 256;
/// Groups whose founder may have gone away are looked at so often.
const LOOK: Duration = Duration::from_millis(500);

/// Partitions that did not open are tried again after so long.
const OPEN_AGAIN: Duration = Duration::from_secs(60);

/// New groups that another replica is to found, with their voters and this node's turn, should it not.
type Unfounded = HashMap<GroupId, (BTreeSet<NodeId>, Instant)>;

/// Why a partition could not be opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Raft(#[from] klamm_raft::OpenGroupError),
}

/// Follows the image until the node stops.
pub async fn run(shared: Arc<Shared>) {
    let mut changed = shared.controller.watch();
    let mut open = HashSet::new();
    let mut unfounded = Unfounded::new();
    let mut first = true;
    // However often the image changes.
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        changed.borrow_and_update();
        let image = shared.controller.image();
        shared.refresh_settings(&image);
        close_deleted(&shared, &image, &mut open, &mut unfounded).await;
        if std::mem::take(&mut first) {
            delete_leftovers(&shared, &image);
        }
        let all_open = open_missing(&shared, &image, &mut open, &mut unfounded).await;
        shared.reconciled(image.last_offset());
        let again = tokio::time::sleep(OPEN_AGAIN);
        tokio::pin!(again);
        loop {
            tokio::select! {
                biased;
                _ = look.tick(), if !unfounded.is_empty() => found_by_turn(&shared, &mut unfounded).await,
                changed = changed.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = &mut again, if !all_open => break,
            }
        }
    }
}

/// Founds groups whose turn it is here, because nobody before has.
async fn found_by_turn(shared: &Shared, unfounded: &mut Unfounded) {
    unfounded.retain(|group, _| {
        let open = shared.groups.get(*group);
        open.is_some_and(|open| !open.is_written() && open.leadership().leader.is_none())
    });
    for (group, (voters, turn)) in &*unfounded {
        if let Some(open) = shared
            .groups
            .get(*group)
            .filter(|_| *turn <= Instant::now())
        {
            found_if_empty(&open, voters).await;
        }
    }
}

async fn close_deleted(
    shared: &Shared,
    image: &Image,
    open: &mut HashSet<TopicId>,
    unfounded: &mut Unfounded,
) {
    let gone: Vec<TopicId> = open
        .iter()
        .copied()
        .filter(|id| image.topic_by_id(*id).is_none())
        .collect();
    for id in gone {
        open.remove(&id);
        for partition in shared.partitions.remove_topic(id) {
            unfounded.remove(&partition.group().id());
            close(shared, &partition).await;
            info!(topic = %partition.topic(), index = partition.index(), "partition deleted");
        }
    }
}

/// A replica that is not the one of this node any more: the partition has moved away, and its group has let it go, or
/// it would still be one in the image; or it was given up for another.
async fn close_moved(shared: &Shared, partition: &Partition, is_replaced: bool) {
    let (topic, index) = (partition.topic_id(), partition.index());
    shared.partitions.remove(topic, index);
    let deleted = close(shared, partition).await;
    // It may come back, and then begins with nothing.
    let _ = deleted.await;
    let (topic, index) = (partition.topic(), partition.index());
    match is_replaced {
        true => {
            info!(%topic, index, "the replica was given up and deleted, another takes its place")
        }
        false => info!(%topic, index, "partition moved away, its replica deleted"),
    }
}

/// Closes a partition and has its files deleted; what is answered tells of their end.
async fn close(shared: &Shared, partition: &Partition) -> oneshot::Receiver<()> {
    let group = partition.group().id();
    partition.retire();
    shared.groups.close(group).await;
    delete_group(shared, group)
}

fn delete_group(shared: &Shared, group: GroupId) -> oneshot::Receiver<()> {
    let (done, deleted) = oneshot::channel();
    shared.store.delete_group(
        group,
        Box::new(move |result| {
            if let Err(cause) = result {
                error!(%group, %cause, "failed to delete a partition's files");
            }
            // Few wait for it.
            let _ = done.send(());
        }),
    );
    deleted
}

/// Groups on disk that no topic has any more, or of which this node has no replica any more: their deletion was
/// interrupted, or this node was away. The image has this node's registration, so nothing is newer than it
/// that is on this disk.
fn delete_leftovers(shared: &Shared, image: &Image) {
    let partitions = image.topics().flat_map(|topic| topic.partitions.iter());
    let here = partitions.filter(|partition| partition.replicas.contains(&shared.node_id));
    let wanted: HashSet<GroupId> = here.map(|partition| partition.group).collect();
    for group in shared.store.groups() {
        if group != GroupId::METADATA && !wanted.contains(&group) {
            info!(%group, "deleting what is left of a partition that is not here any more");
            delete_group(shared, group);
        }
    }
}

/// Opens what is to be here and is not; whether all of it is open then.
async fn open_missing(
    shared: &Arc<Shared>,
    image: &Image,
    open: &mut HashSet<TopicId>,
    unfounded: &mut Unfounded,
) -> bool {
    let mut opening = FuturesUnordered::new();
    let mut all_open = true;
    for topic in image.topics() {
        open.insert(topic.id);
        let settings = Arc::new(shared.topic_settings(topic));
        for partition in topic.partitions.iter() {
            let is_replica = partition.replicas.contains(&shared.node_id);
            if let Some(open) = shared.partitions.get(topic.id, partition.index) {
                let here = replica_of(partition, shared.node_id);
                if is_replica && open.group().node() == here {
                    if *open.settings() != *settings {
                        open.set_settings(settings.clone());
                    }
                    continue;
                }
                // It may be back already, as another replica.
                unfounded.remove(&partition.group);
                close_moved(shared, &open, is_replica).await;
            }
            if !is_replica {
                continue;
            }
            let mut founders = partition.founders().iter();
            let place = founders.position(|id| *id == shared.node_id);
            if let Some(place) = place.filter(|place| *place > 0) {
                let due = Instant::now() + founding_pause(place);
                unfounded.insert(partition.group, (voters(partition), due));
            }
            opening.push(open_partition(shared, topic, partition, settings.clone()));
            if opening.len() >= OPENING {
                all_open &= opening.next().await.unwrap_or(true);
            }
        }
    }
    while let Some(opened) = opening.next().await {
        all_open &= opened;
    }
    all_open
}

/// Whether the partition is open.
async fn open_partition(
    shared: &Arc<Shared>,
    topic: &metadata::Topic,
    partition: &metadata::Partition,
    settings: Arc<TopicSettings>,
) -> bool {
    let group = partition.group;
    match try_open(shared, topic, partition, settings).await {
        Ok(opened) => {
            shared.partitions.insert(Arc::new(opened));
            debug!(topic = %topic.name, index = partition.index, %group, "partition open");
            true
        }
        // The partition stays closed for now: clients see it without a leader, the rest is served.
        Err(cause) => {
            error!(topic = %topic.name, index = partition.index, %group, %cause, "failed to open a partition");
            false
        }
    }
}

/// The replicas that a partition's Raft group is founded with.
fn voters(partition: &metadata::Partition) -> BTreeSet<NodeId> {
    let founders = partition.founders().iter();
    founders
        .map(|&broker| replica_of(partition, broker))
        .collect()
}

/// A replica that went may come back: what is left of the one before goes first.
async fn release_id(shared: &Shared, group: GroupId) -> Result<(), StorageError> {
    if !shared.store.is_retired(group) {
        return Ok(());
    }
    let store = shared.store.clone();
    let released = klamm_raft::blocking::spawn_blocking(move || store.release_id(group)).await;
    released.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

async fn try_open(
    shared: &Arc<Shared>,
    topic: &metadata::Topic,
    partition: &metadata::Partition,
    settings: Arc<TopicSettings>,
) -> Result<Partition, OpenError> {
    let number = partition.number(shared.node_id);
    let directory = topic.directory(partition.index, number);
    let known = shared.store.group(partition.group);
    let log = match known.filter(|log| log.dir().ends_with(&directory)) {
        Some(log) => {
            log.set_settings(log_settings(&settings, partition.group));
            log
        }
        None => {
            if shared.store.group(partition.group).is_some() {
                // Of a replica that has left; this node was away then.
                let _ = delete_group(shared, partition.group).await;
            }
            release_id(shared, partition.group).await?;
            shared.store.create_group(
                partition.group,
                &directory,
                log_settings(&settings, partition.group),
            )?
        }
    };
    // It cannot take what it lacks, so it is nobody's to vote or lead with: it is replaced, or stays closed.
    if let Some(damage) = log.quarantine() {
        return Err(damage.into());
    }
    let replica = Partition::replica(log.clone(), shared.limits.reads_nearest);
    // The first replica founds the group, and leads it at first: all at once would vote for themselves.
    let is_founder = partition.founders().first() == Some(&shared.node_id);
    let voters = is_founder.then(|| voters(partition));
    let here = replica_of(partition, shared.node_id);
    let group = shared
        .groups
        .open_replica(here, log, voters, replica.clone())
        .await?;
    Ok(Partition::new(
        topic.name.clone(),
        topic.id,
        partition.index,
        replica,
        group,
        shared.store.clone(),
        settings,
    ))
}
