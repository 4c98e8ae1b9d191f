//! Partitions that are being moved (KIP-455).

use klamm_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use klamm_protocol::messages::{
    BrokerId, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

use crate::admin::check;
use crate::client::Client;
use crate::error::Error;
use crate::offsets::TopicPartition;

/// A partition whose replicas are being exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// Which.
    pub at: TopicPartition,
    /// Brokers with a replica now, those that are added and removed among them.
    pub replicas: Vec<i32>,
    /// Brokers that get one.
    pub adding: Vec<i32>,
    /// Brokers whose replica goes.
    pub removing: Vec<i32>,
}

impl Reassignment {
    fn new(topic: &str, partition: &OngoingPartitionReassignment) -> Reassignment {
        let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect();
        Reassignment {
            at: TopicPartition {
                topic: topic.to_owned(),
                partition: partition.partition_index,
            },
            replicas: ids(&partition.replicas),
            adding: ids(&partition.adding_replicas),
            removing: ids(&partition.removing_replicas),
        }
    }
}

impl Client {
    /// All partitions that are being moved.
    ///
    /// # Errors
    /// What the broker refuses, as [`Error::Server`], or that it could not be asked; not tried again.
    pub async fn reassignments(&self) -> Result<Vec<Reassignment>, Error> {
        let request = ListPartitionReassignmentsRequest::default().with_topics(None);
        let answer: ListPartitionReassignmentsResponse = self.any().await?.send(&request).await?;
        check(answer.error_code, &answer.error_message)
            .map_err(|error| Error::server("partitions that are being moved", error))?;
        let of = |topic: &OngoingTopicReassignment| -> Vec<Reassignment> {
            let partitions = topic.partitions.iter();
            partitions
                .map(|partition| Reassignment::new(&topic.name, partition))
                .collect()
        };
        Ok(answer.topics.iter().flat_map(of).collect())
    }
}
