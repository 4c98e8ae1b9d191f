//! The committed offsets of a group: read, set by an administrator, forget.

use std::collections::BTreeMap;

use klamm_protocol::StrBytes;
use klamm_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use klamm_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, TopicName,
};

use crate::admin::unanswered;
use crate::client::Client;
use crate::coordinator::is_about_coordinator;
use crate::error::{Error, ServerError};
use crate::offsets::TopicPartition;

use super::group_id;

/// Last version of OffsetCommit and OffsetFetch that names topics. A topic's id would have to be
/// known, and offsets outlive topics.
const LAST_BY_NAME: i16 = 9;
/// First version of OffsetFetch that asks for several groups (KIP-709).
const FETCH_SEVERAL: i16 = 8;

/// Where a group goes on in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Offset of the next record to be read.
    pub offset: i64,
    /// Leader epoch of the record read last; -1 if unknown.
    pub leader_epoch: i32,
    /// The committer's own words.
    pub metadata: String,
}

/// An offset to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// Partition.
    pub at: TopicPartition,
    /// Offset of the record that the group shall read next.
    pub offset: i64,
}

impl Client {
    /// The committed offsets of some partitions, or with `None` of all that have one. Partitions
    /// without a committed offset are left out; so a group that does not exist has none.
    ///
    /// # Errors
    /// What the coordinator refuses of the group or of any partition, or that it could not be
    /// asked.
    pub async fn committed_offsets(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>, Error> {
        let request = |version| fetch_request(group, partitions, version);
        let response = self
            .ask_coordinator(group, LAST_BY_NAME, request, fetch_refused)
            .await?;
        Ok(committed(&response))
    }

    /// Sets offsets as an administrator: the group must have no members, or not exist yet.
    /// Results are in the order of `offsets`.
    ///
    /// # Errors
    /// When the coordinator could not be asked; the fate of each partition is in its own result:
    /// UNKNOWN_MEMBER_ID when the group has members.
    pub async fn commit_offsets(
        &self,
        group: &str,
        offsets: &[OffsetToCommit],
    ) -> Result<Vec<Result<(), ServerError>>, Error> {
        let request = |_| {
            let topics = by_topic(offsets.iter().map(|one| (&one.at, one)));
            let topics = topics.into_iter().map(|(topic, offsets)| {
                let partitions = offsets.into_iter().map(|one| {
                    OffsetCommitRequestPartition::default()
                        .with_partition_index(one.at.partition)
                        .with_committed_offset(one.offset)
                        .with_committed_leader_epoch(-1)
                        .with_committed_metadata(Some(StrBytes::default()))
                });
                OffsetCommitRequestTopic::default()
                    .with_name(topic)
                    .with_partitions(partitions.collect())
            });
            OffsetCommitRequest::default()
                .with_group_id(group_id(group))
                .with_generation_id_or_member_epoch(-1)
                .with_retention_time_ms(-1)
                .with_topics(topics.collect())
        };
        let response = self
            .ask_coordinator(group, LAST_BY_NAME, request, commit_refused)
            .await?;
        let codes: BTreeMap<(&str, i32), i16> = commit_codes(&response).collect();
        let asked = offsets.iter().map(|one| &one.at);
        Ok(asked.map(|at| result_of(&codes, at)).collect())
    }

    /// Forgets the offsets of some partitions. Results are in the order of `partitions`.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND, what else the coordinator refuses of the group, or that it could not
    /// be asked. The fate of each partition is in its own result: GROUP_SUBSCRIBED_TO_TOPIC while
    /// a member reads the topic.
    pub async fn delete_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Result<(), ServerError>>, Error> {
        let request = |_| {
            let topics = by_topic(partitions.iter().map(|at| (at, at.partition)));
            let topics = topics.into_iter().map(|(topic, partitions)| {
                let partitions = partitions.into_iter().map(|partition| {
                    OffsetDeleteRequestPartition::default().with_partition_index(partition)
                });
                OffsetDeleteRequestTopic::default()
                    .with_name(topic)
                    .with_partitions(partitions.collect())
            });
            OffsetDeleteRequest::default()
                .with_group_id(group_id(group))
                .with_topics(topics.collect())
        };
        let refused =
            |response: &OffsetDeleteResponse| ServerError::check(response.error_code, None).err();
        let response = self
            .ask_coordinator(group, i16::MAX, request, refused)
            .await?;
        let topics = response.topics.iter();
        let codes: BTreeMap<(&str, i32), i16> = topics
            .flat_map(|topic| {
                let partitions = topic.partitions.iter();
                partitions.map(|one| ((&*topic.name.0, one.partition_index), one.error_code))
            })
            .collect();
        Ok(partitions.iter().map(|at| result_of(&codes, at)).collect())
    }
}

fn by_topic<'a, T>(
    items: impl Iterator<Item = (&'a TopicPartition, T)>,
) -> BTreeMap<TopicName, Vec<T>> {
    let mut topics: BTreeMap<TopicName, Vec<T>> = BTreeMap::new();
    for (at, item) in items {
        let name = TopicName(StrBytes::from_string(at.topic.clone()));
        topics.entry(name).or_default().push(item);
    }
    topics
}

fn result_of(codes: &BTreeMap<(&str, i32), i16>, at: &TopicPartition) -> Result<(), ServerError> {
    match codes.get(&(at.topic.as_str(), at.partition)) {
        Some(&code) => ServerError::check(code, None),
        None => Err(unanswered()),
    }
}

fn fetch_request(
    group: &str,
    partitions: Option<&[TopicPartition]>,
    version: i16,
) -> OffsetFetchRequest {
    let topics =
        partitions.map(|partitions| by_topic(partitions.iter().map(|at| (at, at.partition))));
    if version < FETCH_SEVERAL {
        let topics = topics.map(|topics| {
            let topic = |(name, partitions)| {
                OffsetFetchRequestTopic::default()
                    .with_name(name)
                    .with_partition_indexes(partitions)
            };
            topics.into_iter().map(topic).collect()
        });
        return OffsetFetchRequest::default()
            .with_group_id(group_id(group))
            .with_topics(topics);
    }
    let topics = topics.map(|topics| {
        let topic = |(name, partitions)| {
            OffsetFetchRequestTopics::default()
                .with_name(name)
                .with_partition_indexes(partitions)
        };
        topics.into_iter().map(topic).collect()
    });
    let wanted = OffsetFetchRequestGroup::default()
        .with_group_id(group_id(group))
        .with_member_epoch(-1)
        .with_topics(topics);
    // The list of older versions has to be there, and empty.
    OffsetFetchRequest::default()
        .with_topics(Some(Vec::new()))
        .with_groups(vec![wanted])
}

/// Topic, partition, offset, leader epoch, metadata and error of every answer, in any version.
type FetchedOffset<'a> = (&'a str, i32, i64, i32, Option<&'a StrBytes>, i16);

fn fetched(response: &OffsetFetchResponse) -> impl Iterator<Item = FetchedOffset<'_>> {
    let single = response.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|one| {
            let (offset, epoch) = (one.committed_offset, one.committed_leader_epoch);
            let metadata = one.metadata.as_ref();
            (
                &*topic.name.0,
                one.partition_index,
                offset,
                epoch,
                metadata,
                one.error_code,
            )
        })
    });
    let several = response.groups.iter().flat_map(|group| &group.topics);
    single.chain(several.flat_map(|topic| {
        topic.partitions.iter().map(|one| {
            let (offset, epoch) = (one.committed_offset, one.committed_leader_epoch);
            let metadata = one.metadata.as_ref();
            (
                &*topic.name.0,
                one.partition_index,
                offset,
                epoch,
                metadata,
                one.error_code,
            )
        })
    }))
}

fn fetch_refused(response: &OffsetFetchResponse) -> Option<ServerError> {
    let of_groups = response.groups.iter().map(|group| group.error_code);
    let codes = std::iter::once(response.error_code)
        .chain(of_groups)
        .chain(fetched(response).map(|(.., code)| code));
    codes
        .map(|code| ServerError::check(code, None))
        .find_map(Result::err)
}

fn committed(response: &OffsetFetchResponse) -> BTreeMap<TopicPartition, CommittedOffset> {
    // -1 is how a coordinator says that there is none.
    let there = fetched(response).filter(|(_, _, offset, ..)| *offset >= 0);
    there
        .map(|(topic, partition, offset, leader_epoch, metadata, _)| {
            let at = TopicPartition {
                topic: topic.to_owned(),
                partition,
            };
            let committed = CommittedOffset {
                offset,
                leader_epoch,
                metadata: metadata.map(|text| text.to_string()).unwrap_or_default(),
            };
            (at, committed)
        })
        .collect()
}

fn commit_codes(response: &OffsetCommitResponse) -> impl Iterator<Item = ((&str, i32), i16)> {
    response.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|one| ((&*topic.name.0, one.partition_index), one.error_code))
    })
}

/// Setting an offset twice does no harm, so what a coordinator on the move left undone is asked
/// for again as a whole.
fn commit_refused(response: &OffsetCommitResponse) -> Option<ServerError> {
    let mut codes = commit_codes(response).map(|(_, code)| code);
    let code = codes.find(|&code| is_about_coordinator(code))?;
    ServerError::check(code, None).err()
}

#[cfg(test)]
mod tests {
    use klamm_protocol::messages::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
        OffsetFetchResponseTopic, OffsetFetchResponseTopics,
    };

    use super::*;

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition {
            topic: topic.to_owned(),
            partition,
        }
    }

    #[test]
    fn asks_in_the_form_of_each_version() {
        let some = [at("b", 1), at("a", 0), at("b", 0)];
        let old = fetch_request("g", Some(&some), 7);
        assert!(old.groups.is_empty());
        let topics = old.topics.unwrap_or_default();
        let asked: Vec<_> = topics
            .iter()
            .map(|topic| (topic.name.to_string(), topic.partition_indexes.clone()))
            .collect();
        assert_eq!(
            asked,
            [("a".to_owned(), vec![0]), ("b".to_owned(), vec![1, 0])]
        );

        let new = fetch_request("g", None, 9);
        assert_eq!(new.topics, Some(Vec::new()));
        assert!(new.group_id.is_empty());
        assert_eq!(
            new.groups.first().map(|group| group.topics.clone()),
            Some(None)
        );
    }

    #[test]
    fn both_forms_of_the_answer_say_the_same() {
        let name = || TopicName(StrBytes::from_static_str("t"));
        let old = OffsetFetchResponse::default().with_topics(vec![
            OffsetFetchResponseTopic::default()
                .with_name(name())
                .with_partitions(vec![
                    OffsetFetchResponsePartition::default().with_committed_offset(5),
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(1)
                        .with_committed_offset(-1),
                ]),
        ]);
        let new = OffsetFetchResponse::default().with_groups(vec![
            OffsetFetchResponseGroup::default().with_topics(vec![
                OffsetFetchResponseTopics::default()
                    .with_name(name())
                    .with_partitions(vec![
                        OffsetFetchResponsePartitions::default().with_committed_offset(5),
                    ]),
            ]),
        ]);
        let found: Vec<_> = committed(&old).into_iter().collect();
        assert_eq!(found.len(), 1, "-1 is no offset");
        assert_eq!(found, committed(&new).into_iter().collect::<Vec<_>>());
        assert_eq!(
            found.first().map(|(at, one)| (at.partition, one.offset)),
            Some((0, 5))
        );
    }

    #[test]
    fn an_error_anywhere_in_the_answer_counts() {
        let fine = OffsetFetchResponse::default();
        assert_eq!(fetch_refused(&fine), None);
        let of_group = fine.clone().with_groups(vec![
            OffsetFetchResponseGroup::default().with_error_code(16),
        ]);
        let of_partition =
            fine.clone()
                .with_topics(vec![OffsetFetchResponseTopic::default().with_partitions(
                    vec![OffsetFetchResponsePartition::default().with_error_code(29)],
                )]);
        for response in [fine.with_error_code(14), of_group, of_partition] {
            assert!(fetch_refused(&response).is_some(), "{response:?}");
        }
    }
}
