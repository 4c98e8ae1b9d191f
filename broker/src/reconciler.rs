//! Makes this node's open partitions what the metadata image says they should be.
//!
//! Owns opening and closing of partitions. One task; every step may be repeated after a crash:
//! a group that was created and not founded is founded, files of a deleted topic are deleted.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use klamm_metadata as metadata;
use klamm_metadata::Image;
use klamm_metadata::settings::TopicSettings;
use klamm_records::{GroupId, TopicId};
use klamm_storage::StorageError;
use tracing::{debug, error, info};

use crate::node::Shared;
use crate::partition::{Partition, log_settings};

/// Groups that are opened at the same time: they share syncs, so more is faster, within reason.
const OPENING: usize = 256;

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
    let mut first = true;
    loop {
        changed.borrow_and_update();
        let image = shared.controller.image();
        shared.refresh_settings(&image);
        close_deleted(&shared, &image, &mut open).await;
        if std::mem::take(&mut first) {
            delete_leftovers(&shared, &image);
        }
        open_missing(&shared, &image, &mut open).await;
        shared.reconciled(image.last_offset());
        if changed.changed().await.is_err() {
            return;
        }
    }
}

async fn close_deleted(shared: &Shared, image: &Image, open: &mut HashSet<TopicId>) {
    let gone: Vec<TopicId> = open
        .iter()
        .copied()
        .filter(|id| image.topic_by_id(*id).is_none())
        .collect();
    for id in gone {
        open.remove(&id);
        for partition in shared.partitions.remove_topic(id) {
            let (topic, index) = (partition.topic().clone(), partition.index());
            let group = partition.group().id();
            shared.groups.close(group).await;
            delete_group(shared, group);
            info!(%topic, index, %group, "partition deleted");
        }
    }
}

fn delete_group(shared: &Shared, group: GroupId) {
    shared.store.delete_group(
        group,
        Box::new(move |done| {
            if let Err(cause) = done {
                error!(%group, %cause, "failed to delete a partition's files");
            }
        }),
    );
}

/// Groups on disk that no topic has any more: their deletion was interrupted.
fn delete_leftovers(shared: &Shared, image: &Image) {
    let wanted: HashSet<GroupId> = image
        .topics()
        .flat_map(|topic| topic.partitions.iter().map(|partition| partition.group))
        .collect();
    for group in shared.store.groups() {
        if group != GroupId::METADATA && !wanted.contains(&group) {
            info!(%group, "deleting what is left of a deleted topic");
            delete_group(shared, group);
        }
    }
}

async fn open_missing(shared: &Arc<Shared>, image: &Image, open: &mut HashSet<TopicId>) {
    let mut opening = FuturesUnordered::new();
    for topic in image.topics() {
        open.insert(topic.id);
        let settings = Arc::new(shared.topic_settings(topic));
        for partition in topic.partitions.iter() {
            if let Some(open) = shared.partitions.get(topic.id, partition.index) {
                if *open.settings() != *settings {
                    open.set_settings(settings.clone());
                }
                continue;
            }
            if !partition.replicas.contains(&shared.node_id) {
                continue;
            }
            opening.push(open_partition(shared, topic, partition, settings.clone()));
            if opening.len() >= OPENING {
                opening.next().await;
            }
        }
    }
    while opening.next().await.is_some() {}
}

async fn open_partition(
    shared: &Arc<Shared>,
    topic: &metadata::Topic,
    partition: &metadata::Partition,
    settings: Arc<TopicSettings>,
) {
    let group = partition.group;
    match try_open(shared, topic, partition, settings).await {
        Ok(opened) => {
            shared.partitions.insert(Arc::new(opened));
            debug!(topic = %topic.name, index = partition.index, %group, "partition open");
        }
        // The partition stays closed: clients see it without a leader, the rest is served.
        Err(cause) => {
            error!(topic = %topic.name, index = partition.index, %group, %cause, "failed to open a partition");
        }
    }
}

async fn try_open(
    shared: &Arc<Shared>,
    topic: &metadata::Topic,
    partition: &metadata::Partition,
    settings: Arc<TopicSettings>,
) -> Result<Partition, OpenError> {
    let log = match shared.store.group(partition.group) {
        Some(log) => {
            log.set_settings(log_settings(&settings, partition.group));
            log
        }
        None => shared.store.create_group(
            partition.group,
            &topic.directory(partition.index),
            log_settings(&settings, partition.group),
        )?,
    };
    let replica = Partition::replica(log.clone());
    let voters = partition
        .replicas
        .iter()
        .map(|&broker| shared.replica_id(broker))
        .collect();
    let group = shared
        .groups
        .open(log, Some(voters), replica.clone())
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
