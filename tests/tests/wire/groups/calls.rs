//! Requests about groups that many tests make.

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::messages::describe_configs_request::DescribeConfigsResource;
use klamm_protocol::messages::describe_groups_response::DescribedGroup;
use klamm_protocol::messages::find_coordinator_response::Coordinator;
use klamm_protocol::messages::list_groups_response::ListedGroup;
use klamm_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::{
    DeleteGroupsRequest, DescribeConfigsRequest, DescribeGroupsRequest, FindCoordinatorRequest,
    GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse,
};
use klamm_protocol::{ApiRequest, ErrorCode};
use uuid::Uuid;

use crate::calls::{Topic, code, name, text};
use crate::rig::{connect, eventually, unique};

/// How old a client is: which versions it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// The oldest versions that scenarios can do with.
    Old,
    /// Static members, flexible versions not yet.
    Middle,
    /// The newest versions.
    New,
}

impl Age {
    pub(crate) const ALL: [Age; 3] = [Age::Old, Age::Middle, Age::New];

    fn of(self, versions: [i16; 3]) -> i16 {
        let [old, middle, new] = versions;
        match self {
            Age::Old => old,
            Age::Middle => middle,
            Age::New => new,
        }
    }

    pub(crate) fn join(self) -> i16 {
        self.of([1, 5, 9])
    }

    pub(crate) fn sync(self) -> i16 {
        self.of([0, 3, 5])
    }

    pub(crate) fn heartbeat(self) -> i16 {
        self.of([0, 3, 4])
    }

    pub(crate) fn leave(self) -> i16 {
        self.of([0, 3, 5])
    }

    pub(crate) fn commit(self) -> i16 {
        self.of([2, 7, newest::<OffsetCommitRequest>()])
    }
}

/// The versions of a request.
pub(crate) fn versions<R: ApiRequest>() -> std::ops::RangeInclusive<i16> {
    R::API.versions()
}

/// The newest version of a request.
pub(crate) fn newest<R: ApiRequest>() -> i16 {
    *versions::<R>().end()
}

/// The id of a group.
pub(crate) fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// A FindCoordinator request for one group in the layout of a version.
pub(crate) fn find_request(version: i16, group: &str) -> FindCoordinatorRequest {
    if version < 4 {
        return FindCoordinatorRequest::default().with_key(text(group));
    }
    FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)])
}

/// The coordinator of a group, asked for in a version.
pub(crate) async fn find(
    connection: &Connection,
    version: i16,
    group: &str,
) -> Result<Coordinator> {
    let response = connection
        .send_version(version, &find_request(version, group))
        .await?;
    if version >= 4 {
        ensure!(response.coordinators.len() == 1, "{response:?}");
        return Ok(response.coordinators[0].clone());
    }
    Ok(Coordinator::default()
        .with_key(text(group))
        .with_node_id(response.node_id)
        .with_host(response.host)
        .with_port(response.port)
        .with_error_code(response.error_code)
        .with_error_message(response.error_message))
}

/// Whether a client asks the coordinator again later after this.
pub(crate) fn is_not_yet(found: ErrorCode) -> bool {
    [
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::NOT_COORDINATOR,
    ]
    .contains(&found)
}

/// Waits until a group has a coordinator that serves it.
pub(crate) async fn coordinated(connection: &Connection, group: &str) -> Result<()> {
    eventually("the group has a coordinator", || async {
        let found = code(find(connection, 6, group).await?.error_code);
        ensure!(found.is_none() || is_not_yet(found), "{found}");
        if found.is_none() {
            let (loaded, _) = offsets(connection, 8, group, None).await?;
            ensure!(loaded.is_none() || is_not_yet(loaded), "{loaded}");
            return Ok(loaded.is_none().then_some(()));
        }
        Ok(None)
    })
    .await
}

/// A group id not used before, and its coordinator is there.
pub(crate) async fn new_group() -> Result<String> {
    let group = unique("group");
    coordinated(&connect().await?, &group).await?;
    Ok(group)
}

/// A setting of the broker under test.
pub(crate) async fn setting(connection: &Connection, key: &str) -> Result<String> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(text(&crate::configs::broker(connection).await?))
        .with_configuration_keys(Some(vec![text(key)]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = connection.send(&request).await?;
    let configs = &response.results[0].configs;
    let config = configs.first().with_context(|| format!("no {key}"))?;
    Ok(config.value.as_deref().context("a value")?.to_owned())
}

/// A partition to commit.
pub(crate) fn committed(partition: i32, offset: i64) -> OffsetCommitRequestPartition {
    OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("")))
}

/// Partitions of a topic to commit, by name and by id.
pub(crate) fn commit_topic(
    topic: &Topic,
    partitions: Vec<OffsetCommitRequestPartition>,
) -> OffsetCommitRequestTopic {
    OffsetCommitRequestTopic::default()
        .with_name(name(&topic.name))
        .with_topic_id(topic.id)
        .with_partitions(partitions)
}

/// An OffsetCommit request of no member.
pub(crate) fn commit_request(
    group: &str,
    topic: &Topic,
    partitions: Vec<OffsetCommitRequestPartition>,
) -> OffsetCommitRequest {
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_retention_time_ms(-1)
        .with_topics(vec![commit_topic(topic, partitions)])
}

/// The codes of all partitions, in the order of the answer.
pub(crate) fn commit_codes(response: &OffsetCommitResponse) -> Vec<ErrorCode> {
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|partition| code(partition.error_code))
        .collect()
}

/// Commits; the code that all partitions have.
pub(crate) async fn commit(
    connection: &Connection,
    version: i16,
    request: &OffsetCommitRequest,
) -> Result<ErrorCode> {
    let response = connection.send_version(version, request).await?;
    let codes = commit_codes(&response);
    ensure!(!codes.is_empty(), "{response:?}");
    ensure!(codes.iter().all(|found| *found == codes[0]), "{codes:?}");
    Ok(codes[0])
}

/// Commits one offset as nobody in particular.
pub(crate) async fn commit_alone(
    connection: &Connection,
    version: i16,
    group: &str,
    topic: &Topic,
    offset: i64,
) -> Result<ErrorCode> {
    let request = commit_request(group, topic, vec![committed(0, offset)]);
    commit(connection, version, &request).await
}

/// A committed offset as OffsetFetch tells it, whatever the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) topic: String,
    pub(crate) topic_id: Uuid,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) epoch: i32,
    pub(crate) metadata: Option<String>,
    pub(crate) error: ErrorCode,
}

/// An OffsetFetch request for one group in the layout of a version; no topics mean all.
pub(crate) fn offsets_request(
    version: i16,
    group: &str,
    topics: Option<&[(&Topic, &[i32])]>,
) -> OffsetFetchRequest {
    if version < 8 {
        let topic = |(topic, partitions): &(&Topic, &[i32])| {
            OffsetFetchRequestTopic::default()
                .with_name(name(&topic.name))
                .with_partition_indexes(partitions.to_vec())
        };
        return OffsetFetchRequest::default()
            .with_group_id(group_id(group))
            .with_topics(topics.map(|topics| topics.iter().map(topic).collect()));
    }
    OffsetFetchRequest::default().with_groups(vec![group_offsets(group, topics)])
}

/// One group of an OffsetFetch request.
pub(crate) fn group_offsets(
    group: &str,
    topics: Option<&[(&Topic, &[i32])]>,
) -> OffsetFetchRequestGroup {
    let topic = |(topic, partitions): &(&Topic, &[i32])| {
        OffsetFetchRequestTopics::default()
            .with_name(name(&topic.name))
            .with_topic_id(topic.id)
            .with_partition_indexes(partitions.to_vec())
    };
    OffsetFetchRequestGroup::default()
        .with_group_id(group_id(group))
        .with_member_id(None)
        .with_member_epoch(-1)
        .with_topics(topics.map(|topics| topics.iter().map(topic).collect()))
}

/// What an answer for one group says: its code and its offsets.
pub(crate) fn found_offsets(
    version: i16,
    response: &OffsetFetchResponse,
) -> Result<(ErrorCode, Vec<Found>)> {
    let owned =
        |metadata: &Option<klamm_protocol::StrBytes>| metadata.as_deref().map(str::to_owned);
    let mut found = Vec::new();
    if version < 8 {
        for topic in &response.topics {
            found.extend(topic.partitions.iter().map(|partition| Found {
                topic: topic.name.to_string(),
                topic_id: Uuid::nil(),
                partition: partition.partition_index,
                offset: partition.committed_offset,
                epoch: partition.committed_leader_epoch,
                metadata: owned(&partition.metadata),
                error: code(partition.error_code),
            }));
        }
        return Ok((code(response.error_code), found));
    }
    ensure!(response.groups.len() == 1, "{response:?}");
    let group = &response.groups[0];
    for topic in &group.topics {
        found.extend(topic.partitions.iter().map(|partition| Found {
            topic: topic.name.to_string(),
            topic_id: topic.topic_id,
            partition: partition.partition_index,
            offset: partition.committed_offset,
            epoch: partition.committed_leader_epoch,
            metadata: owned(&partition.metadata),
            error: code(partition.error_code),
        }));
    }
    Ok((code(group.error_code), found))
}

/// Offsets of a group; no topics mean all.
pub(crate) async fn offsets(
    connection: &Connection,
    version: i16,
    group: &str,
    topics: Option<&[(&Topic, &[i32])]>,
) -> Result<(ErrorCode, Vec<Found>)> {
    let request = offsets_request(version, group, topics);
    found_offsets(version, &connection.send_version(version, &request).await?)
}

/// The committed offset of partition 0, without errors; -1 when there is none.
pub(crate) async fn offset_of(connection: &Connection, group: &str, topic: &Topic) -> Result<i64> {
    let (error, found) = offsets(connection, 9, group, Some(&[(topic, &[0])])).await?;
    ensure!(error.is_none(), "{error}");
    ensure!(found.len() == 1 && found[0].error.is_none(), "{found:?}");
    Ok(found[0].offset)
}

/// Describes one group by the classic API.
pub(crate) async fn describe_group(
    connection: &Connection,
    version: i16,
    group: &str,
) -> Result<DescribedGroup> {
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
    let mut groups = connection.send_version(version, &request).await?.groups;
    ensure!(groups.len() == 1, "{groups:?}");
    Ok(groups.remove(0))
}

/// State of a group by the classic API.
pub(crate) async fn state(connection: &Connection, group: &str) -> Result<String> {
    let described = describe_group(connection, 5, group).await?;
    ensure!(described.error_code == 0, "{described:?}");
    Ok(described.group_state.to_string())
}

/// The row of a group in ListGroups under filters, if it is listed.
pub(crate) async fn listed(
    connection: &Connection,
    version: i16,
    group: &str,
    states: &[&str],
    types: &[&str],
) -> Result<Option<ListedGroup>> {
    let texts = |names: &[&str]| names.iter().map(|name| text(name)).collect();
    let request = ListGroupsRequest::default()
        .with_states_filter(texts(states))
        .with_types_filter(texts(types));
    let response = connection.send_version(version, &request).await?;
    ensure!(response.error_code == 0, "{response:?}");
    let mut rows = response.groups.into_iter();
    Ok(rows.find(|row| *row.group_id == *group))
}

/// Deletes groups; their codes.
pub(crate) async fn delete_groups(
    connection: &Connection,
    version: i16,
    groups: &[&str],
) -> Result<Vec<(String, ErrorCode)>> {
    let names = groups.iter().map(|group| group_id(group)).collect();
    let request = DeleteGroupsRequest::default().with_groups_names(names);
    let response = connection.send_version(version, &request).await?;
    let result =
        |result: &klamm_protocol::messages::delete_groups_response::DeletableGroupResult| {
            (result.group_id.to_string(), code(result.error_code))
        };
    Ok(response.results.iter().map(result).collect())
}
