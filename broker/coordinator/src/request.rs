//! What a shard is asked, and what it answers.

use std::net::IpAddr;
use std::sync::Arc;

use klamm_metadata::Image;
use klamm_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use klamm_protocol::messages::describe_groups_response::DescribedGroup;
use klamm_protocol::messages::list_groups_response::ListedGroup;
use klamm_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use klamm_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use klamm_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use klamm_protocol::{ErrorCode, StrBytes};
use uuid::Uuid;

use crate::offsets;
use crate::settings::Settings;

/// The runtime's name for a request that waits for its answer; unique in the life of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Everything outside a shard that its rules may look at.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Wall clock in ms.
    pub now_ms: i64,
    /// Topics, partitions and racks as of now.
    pub image: &'a Image,
    /// Settings as of now.
    pub settings: &'a Settings,
    /// A random id nobody else has been given, should the rules need one (member ids).
    pub fresh_id: Uuid,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `client.id`, empty when there is none.
    pub client_id: Arc<str>,
    /// Address the connection comes from; shown as `/1.2.3.4`.
    pub host: IpAddr,
    /// Version of the request.
    pub version: i16,
}

/// A request to one group (or, for `ListGroups`, to all of a shard). Topics are named, never given by
/// id alone: the handler resolves ids before.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is the API of its name")]
pub enum Request {
    JoinGroup(JoinGroupRequest),
    SyncGroup(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    LeaveGroup(LeaveGroupRequest),
    OffsetCommit(OffsetCommitRequest),
    OffsetFetch(OffsetFetchRequestGroup),
    OffsetDelete(OffsetDeleteRequest),
    DescribeGroup { group: Arc<str> },
    DeleteGroup { group: Arc<str> },
    ListGroups,
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatRequest),
    ConsumerGroupDescribe { group: Arc<str> },
}

/// The answer to a [`Request`] of the same name.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is the API of its name")]
pub enum Answer {
    JoinGroup(JoinGroupResponse),
    SyncGroup(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    LeaveGroup(LeaveGroupResponse),
    OffsetCommit(OffsetCommitResponse),
    OffsetFetch(OffsetFetchResponseGroup),
    OffsetDelete(OffsetDeleteResponse),
    DescribeGroup(DescribedGroup),
    DeleteGroup(ErrorCode),
    ListGroups(Vec<ListedGroup>),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse),
    ConsumerGroupDescribe(DescribedConsumerGroup),
}

impl Request {
    /// The id of the group that is asked; none for a request to all of them.
    pub fn group(&self) -> Option<&str> {
        Some(match self {
            Request::JoinGroup(request) => &request.group_id,
            Request::SyncGroup(request) => &request.group_id,
            Request::Heartbeat(request) => &request.group_id,
            Request::LeaveGroup(request) => &request.group_id,
            Request::OffsetCommit(request) => &request.group_id,
            Request::OffsetFetch(request) => &request.group_id,
            Request::OffsetDelete(request) => &request.group_id,
            Request::ConsumerGroupHeartbeat(request) => &request.group_id,
            Request::DescribeGroup { group }
            | Request::DeleteGroup { group }
            | Request::ConsumerGroupDescribe { group } => group,
            Request::ListGroups => return None,
        })
    }

    /// The answer that says nothing but an error, in the shape that Kafka gives it.
    ///
    /// A heartbeat while the coordinator loads is an exception: members are told that all is well, since
    /// their sessions begin only when it has loaded. `ListGroups` has no room for an error here and
    /// answers without groups.
    pub fn refused(&self, code: ErrorCode) -> Answer {
        match self {
            Request::JoinGroup(request) => Answer::JoinGroup(
                JoinGroupResponse::default()
                    .with_error_code(code.0)
                    .with_member_id(request.member_id.clone()),
            ),
            Request::SyncGroup(_) => {
                Answer::SyncGroup(SyncGroupResponse::default().with_error_code(code.0))
            }
            Request::Heartbeat(_) => {
                let code = match code {
                    ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => ErrorCode::NONE,
                    code => code,
                };
                Answer::Heartbeat(HeartbeatResponse::default().with_error_code(code.0))
            }
            Request::LeaveGroup(_) => {
                Answer::LeaveGroup(LeaveGroupResponse::default().with_error_code(code.0))
            }
            Request::OffsetCommit(request) => {
                Answer::OffsetCommit(offsets::refused_commit(request, code))
            }
            Request::OffsetFetch(request) => Answer::OffsetFetch(
                OffsetFetchResponseGroup::default()
                    .with_group_id(request.group_id.clone())
                    .with_error_code(code.0),
            ),
            Request::OffsetDelete(_) => {
                Answer::OffsetDelete(OffsetDeleteResponse::default().with_error_code(code.0))
            }
            Request::DescribeGroup { group } => Answer::DescribeGroup(
                DescribedGroup::default()
                    .with_group_id(GroupId(StrBytes::from_string(group.to_string())))
                    .with_error_code(code.0),
            ),
            Request::DeleteGroup { .. } => Answer::DeleteGroup(code),
            Request::ListGroups => Answer::ListGroups(Vec::new()),
            Request::ConsumerGroupHeartbeat(_) => Answer::ConsumerGroupHeartbeat(
                ConsumerGroupHeartbeatResponse::default().with_error_code(code.0),
            ),
            Request::ConsumerGroupDescribe { group } => Answer::ConsumerGroupDescribe(
                DescribedConsumerGroup::default()
                    .with_group_id(GroupId(StrBytes::from_string(group.to_string())))
                    .with_error_code(code.0),
            ),
        }
    }
}
