//! Where a partition begins and ends, and which record a time falls on (ListOffsets).

use std::collections::BTreeMap;

use klamm_protocol::StrBytes;
use klamm_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use klamm_protocol::messages::{BrokerId, ListOffsetsRequest, TopicName};

use crate::client::{Client, leader_of};
use crate::error::{Error, ServerError};

/// A partition by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Topic.
    pub topic: String,
    /// Number within the topic.
    pub partition: i32,
}

/// Which offset of a partition is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first that is kept.
    Earliest,
    /// The one the next record will get (the high watermark).
    Latest,
    /// That of the record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// That of the first record at or after a time in ms since 1970.
    AtOrAfter(i64),
}

impl OffsetSpec {
    fn timestamp(self) -> i64 {
        match self {
            OffsetSpec::Latest => -1,
            OffsetSpec::Earliest => -2,
            OffsetSpec::MaxTimestamp => -3,
            OffsetSpec::AtOrAfter(timestamp) => timestamp,
        }
    }
}

/// An offset as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; `None` when no record is at or after the time asked for.
    pub offset: Option<i64>,
    /// Timestamp of the record at the offset, where the question was about time; else -1.
    pub timestamp: i64,
    /// Leader epoch of the record; -1 if unknown.
    pub leader_epoch: i32,
}

impl Client {
    /// Asks the leaders of several partitions, each named once. Answers come in the order of the
    /// questions.
    ///
    /// # Errors
    /// The first partition that stays unanswered until the retry timeout, or whose leader
    /// refuses for good, fails the call.
    pub async fn list_offsets(
        &self,
        wanted: &[(TopicPartition, OffsetSpec)],
    ) -> Result<Vec<ListedOffset>, Error> {
        let mut answers: Vec<Option<ListedOffset>> = vec![None; wanted.len()];
        let mut retry = self.retry();
        while let Err(error) = self.list_offsets_once(wanted, &mut answers).await {
            retry.after(error).await?;
            for (_, (at, _)) in answers
                .iter()
                .zip(wanted)
                .filter(|(answer, _)| answer.is_none())
            {
                self.doubt();
                self.refresh_topic(&at.topic).await?;
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Asks for what is unanswered; an error unless everything is answered afterwards.
    async fn list_offsets_once(
        &self,
        wanted: &[(TopicPartition, OffsetSpec)],
        answers: &mut [Option<ListedOffset>],
    ) -> Result<(), Error> {
        let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        let mut failure = None;
        for (index, (at, _)) in wanted.iter().enumerate() {
            if answers.get(index).is_some_and(Option::is_some) {
                continue;
            }
            let topic = self.topic(&at.topic).await?;
            match leader_of(&topic, at.partition) {
                Ok(leader) => by_leader.entry(leader).or_default().push(index),
                Err(error) => failure = Some(error),
            }
        }
        for (leader, indices) in by_leader {
            if let Err(error) = self.ask_leader(leader, &indices, wanted, answers).await {
                failure = Some(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn ask_leader(
        &self,
        leader: i32,
        indices: &[usize],
        wanted: &[(TopicPartition, OffsetSpec)],
        answers: &mut [Option<ListedOffset>],
    ) -> Result<(), Error> {
        let questions = || {
            indices
                .iter()
                .filter_map(|&index| Some((index, wanted.get(index)?)))
        };
        let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for (_, (at, spec)) in questions() {
            let partition = ListOffsetsPartition::default()
                .with_partition_index(at.partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(spec.timestamp());
            topics.entry(&at.topic).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            let name = TopicName(StrBytes::from_string(name.to_owned()));
            ListOffsetsTopic::default()
                .with_name(name)
                .with_partitions(partitions)
        });
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(topics.collect());
        let response = self.node(leader).await?.send(&request).await?;

        let mut failure = None;
        for (index, (at, _)) in questions() {
            let topic = response
                .topics
                .iter()
                .filter(|topic| topic.name.0 == *at.topic);
            let mut partitions = topic.flat_map(|topic| &topic.partitions);
            let answer = partitions.find(|partition| partition.partition_index == at.partition);
            let context = || format!("offsets of topic {} partition {}", at.topic, at.partition);
            let Some(answer) = answer else {
                failure = Some(Error::Malformed {
                    address: format!("broker {leader}"),
                    what: "ListOffsets",
                    reason: format!("no answer about {}", context()),
                });
                continue;
            };
            match ServerError::check(answer.error_code, None) {
                Ok(()) => {
                    if let Some(slot) = answers.get_mut(index) {
                        *slot = Some(ListedOffset {
                            offset: (answer.offset >= 0).then_some(answer.offset),
                            timestamp: answer.timestamp,
                            leader_epoch: answer.leader_epoch,
                        });
                    }
                }
                Err(error) => failure = Some(Error::server(context(), error)),
            }
        }
        failure.map_or(Ok(()), Err)
    }
}
