//! What a shard is asked, and what it answers.

use std::net::IpAddr;
use std::sync::Arc;

use klamm_metadata::Image;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use klamm_protocol::messages::describe_groups_response::DescribedGroup;
use klamm_protocol::messages::list_groups_response::ListedGroup;
use klamm_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use klamm_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use klamm_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use uuid::Uuid;

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
