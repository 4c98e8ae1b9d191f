//! How far the replicas of a Raft group are, as its leader sees them: of the metadata group, and of partitions
//! where brokers tell it of those, too.

use std::collections::BTreeMap;

use klamm_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use klamm_protocol::messages::describe_quorum_response;
use klamm_protocol::messages::{DescribeQuorumRequest, TopicName};
use klamm_protocol::{ErrorCode, StrBytes};

use crate::admin::unanswered;
use crate::client::Client;
use crate::error::{Error, ServerError};
use crate::offsets::TopicPartition;

/// The log of the cluster's metadata.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// A replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumReplica {
    /// The broker that has it.
    pub node: i32,
    /// Offset after its last record; `None` when the leader does not know.
    pub end_offset: Option<i64>,
    /// When it last had all that the leader had, in ms since 1970; `None` when that is not known.
    pub caught_up_ms: Option<i64>,
}

/// A group of replicas as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The leader.
    pub leader: i32,
    /// Its epoch.
    pub epoch: i32,
    /// Replicas that vote, the leader among them.
    pub voters: Vec<QuorumReplica>,
    /// Replicas that do not.
    pub observers: Vec<QuorumReplica>,
}

impl Quorum {
    /// By how many records a replica is behind the leader.
    pub fn lag(&self, replica: &QuorumReplica) -> Option<i64> {
        let all = || self.voters.iter().chain(&self.observers);
        let leader = all().find(|replica| replica.node == self.leader)?;
        Some((leader.end_offset? - replica.end_offset?).max(0))
    }
}

impl Client {
    /// The group that keeps the cluster's metadata.
    ///
    /// # Errors
    /// When it has no leader, or no broker could be asked.
    pub async fn metadata_quorum(&self) -> Result<Quorum, Error> {
        let at = TopicPartition {
            topic: METADATA_TOPIC.to_owned(),
            partition: 0,
        };
        let mut retry = self.retry();
        loop {
            let asked = async {
                let answers = self.any().await?.send(&request([&at])).await?;
                found(&answers, &at).map_err(|error| Error::server("the metadata quorum", error))
            };
            match asked.await {
                Ok(quorum) => return Ok(quorum),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// The groups of partitions that `leader` leads, each named once, in the order asked. A broker that
    /// does not tell it of partitions answers UNKNOWN_TOPIC_OR_PARTITION for each.
    ///
    /// # Errors
    /// When the broker could not be asked; not tried again.
    pub async fn quorums(
        &self,
        leader: i32,
        at: &[TopicPartition],
    ) -> Result<Vec<Result<Quorum, ServerError>>, Error> {
        let answers = self.node(leader).await?.send(&request(at)).await?;
        ServerError::check(answers.error_code, answers.error_message.as_deref())
            .map_err(|error| Error::server("describing replicas", error))?;
        let mut by_place = BTreeMap::new();
        for topic in &answers.topics {
            for partition in &topic.partitions {
                by_place.insert((&**topic.topic_name, partition.partition_index), partition);
            }
        }
        let answer = |at: &TopicPartition| match by_place.get(&(&*at.topic, at.partition)) {
            Some(partition) => read(partition),
            None => Err(unanswered()),
        };
        Ok(at.iter().map(answer).collect())
    }
}

fn request<'a>(at: impl IntoIterator<Item = &'a TopicPartition>) -> DescribeQuorumRequest {
    let mut topics: BTreeMap<&str, Vec<PartitionData>> = BTreeMap::new();
    for at in at {
        let partition = PartitionData::default().with_partition_index(at.partition);
        topics.entry(&at.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        TopicData::default()
            .with_topic_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_partitions(partitions)
    });
    DescribeQuorumRequest::default().with_topics(topics.collect())
}

fn found(
    answer: &describe_quorum_response::DescribeQuorumResponse,
    at: &TopicPartition,
) -> Result<Quorum, ServerError> {
    ServerError::check(answer.error_code, answer.error_message.as_deref())?;
    let topic = answer
        .topics
        .iter()
        .find(|topic| *topic.topic_name.0 == *at.topic);
    let mut partitions = topic.into_iter().flat_map(|topic| &topic.partitions);
    let partition = partitions.find(|partition| partition.partition_index == at.partition);
    read(partition.ok_or_else(unanswered)?)
}

fn read(partition: &describe_quorum_response::PartitionData) -> Result<Quorum, ServerError> {
    ServerError::check(partition.error_code, partition.error_message.as_deref())?;
    if partition.leader_id.0 < 0 {
        return Err(ServerError {
            code: ErrorCode::LEADER_NOT_AVAILABLE,
            message: None,
        });
    }
    let known = |number: i64| (number >= 0).then_some(number);
    let replica = |state: &describe_quorum_response::ReplicaState| QuorumReplica {
        node: state.replica_id.0,
        end_offset: known(state.log_end_offset),
        caught_up_ms: known(state.last_caught_up_timestamp),
    };
    Ok(Quorum {
        leader: partition.leader_id.0,
        epoch: partition.leader_epoch,
        voters: partition.current_voters.iter().map(replica).collect(),
        observers: partition.observers.iter().map(replica).collect(),
    })
}
