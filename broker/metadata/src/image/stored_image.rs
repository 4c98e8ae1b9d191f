//! The stored form of an image: a snapshot of the metadata group.
//!
//! Same envelope and same rules of growth as commands. Only what cannot be derived is stored; the
//! indexes are rebuilt, and [`Image::check`] judges the whole before it is used.

use std::collections::BTreeMap;
use std::sync::Arc;

use klamm_records::TopicId;
use serde::{Deserialize, Serialize};

use super::{Broker, Image, Partition, Topic};
use crate::command::DecodeError;
use crate::resource::ConfigResource;
use crate::stored;

/// Newest stored version of an image that this program writes and reads.
const VERSION: u16 = 1;
const WHAT: &str = "a metadata image";

#[derive(Serialize, Deserialize)]
struct StoredImage {
    cluster_id: Option<String>,
    topics: Vec<StoredTopic>,
    brokers: Vec<Broker>,
    #[serde(default)]
    retired: Vec<(i32, u32)>,
    configs: Vec<(ConfigResource, BTreeMap<String, String>)>,
    features: BTreeMap<String, i16>,
    features_epoch: i64,
    next_group: u64,
    next_producer_id: i64,
    last_offset: i64,
}

#[derive(Serialize, Deserialize)]
struct StoredTopic {
    #[serde(with = "stored::topic_id")]
    id: TopicId,
    name: String,
    partitions: Vec<Partition>,
    configs: BTreeMap<String, String>,
}

impl Image {
    /// The stored form, versioned.
    pub fn encode(&self) -> Vec<u8> {
        let topics = self.topics().map(|topic| StoredTopic {
            id: topic.id,
            name: topic.name.to_string(),
            partitions: topic.partitions.to_vec(),
            configs: topic.configs.clone(),
        });
        let image = StoredImage {
            cluster_id: self.cluster_id().map(str::to_owned),
            topics: topics.collect(),
            brokers: self.brokers().map(|broker| (**broker).clone()).collect(),
            retired: self.retired.iter().map(|(id, next)| (*id, *next)).collect(),
            configs: self
                .configs
                .iter()
                .map(|(resource, configs)| (resource.clone(), (**configs).clone()))
                .collect(),
            features: self
                .features
                .iter()
                .map(|(name, level)| (name.clone(), *level))
                .collect(),
            features_epoch: self.features_epoch,
            next_group: self.next_group,
            next_producer_id: self.next_producer_id,
            last_offset: self.last_offset,
        };
        stored::encode(VERSION, &image)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] for a newer version, bytes that are no image, or an image that breaks an
    /// invariant.
    pub fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
        let stored: StoredImage = stored::decode(WHAT, VERSION, bytes)?;
        let mut image = Image::new();
        image.cluster_id = stored.cluster_id.map(Arc::from);
        image.brokers = stored
            .brokers
            .into_iter()
            .map(|broker| (broker.id, Arc::new(broker)))
            .collect();
        image.retired = stored.retired.into_iter().collect();
        image.configs = stored
            .configs
            .into_iter()
            .map(|(resource, configs)| (resource, Arc::new(configs)))
            .collect();
        image.features = stored.features.into_iter().collect();
        image.features_epoch = stored.features_epoch;
        image.next_group = stored.next_group;
        image.next_producer_id = stored.next_producer_id;
        image.last_offset = stored.last_offset;
        for StoredTopic {
            id,
            name,
            partitions,
            configs,
        } in stored.topics
        {
            image.enter_topic(Arc::new(Topic {
                id,
                name: name.into(),
                partitions: partitions.into(),
                configs,
            }));
        }
        image
            .check()
            .map_err(|cause| DecodeError::Malformed { what: WHAT, cause })?;
        Ok(image)
    }
}
