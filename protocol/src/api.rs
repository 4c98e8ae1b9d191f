//! The one table of the APIs that are served: everything that depends on which APIs and versions
//! exist (request heads, ApiVersions, the codec, metric labels) reads it from here.
//!
//! Invariant: what is advertised is served, with one exception: Produce is advertised from
//! version 0, because librdkafka up to 2.10 takes that as the sign that compression works
//! (KAFKA-18659), and refused below 3.
//!
//! [`Api`] is exhaustive, so a dispatch by `match` stops compiling when an API is added here and
//! not there.

use std::fmt;
use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages;
use kafka_protocol::protocol::{Decodable, Encodable, Message};

use crate::shape::Shape;
use crate::shapes::{admin_responses, group_requests, group_responses, requests, responses};
use crate::topic_id_requests;

/// The body of a request or response of some [`Api`]; implemented for the message types of the
/// table and no others.
pub trait ApiMessage: Message + Encodable + Decodable {
    /// The API it belongs to.
    const API: Api;
    /// Its layout on the wire, checked before it is decoded.
    #[doc(hidden)]
    const SHAPE: &'static Shape;
    /// The newest layout that the codec knows.
    #[doc(hidden)]
    const CODEC_MAX: i16;

    /// Decodes a body that its layout admits. Not generic over the buffer, so that the codec of
    /// each message is compiled once, here, and not again in every crate that uses it.
    #[doc(hidden)]
    fn read(body: &mut Bytes, version: i16) -> Result<Self, String>;

    /// Size of the body in bytes.
    #[doc(hidden)]
    fn body_len(&self, version: i16) -> Result<usize, String>;

    /// Encodes the body; compiled once, as [`ApiMessage::read`].
    #[doc(hidden)]
    fn write(&self, frame: &mut BytesMut, version: i16) -> Result<(), String>;
}

/// The codec of one message, by way of kafka-protocol; for what it lacks, our own.
macro_rules! codec {
    (OffsetCommitRequest) => {
        codec!(by_topic_id read_offset_commit, write_offset_commit);
    };
    (OffsetFetchRequest) => {
        codec!(by_topic_id read_offset_fetch, write_offset_fetch);
    };
    (by_topic_id $read:ident, $write:ident) => {
        const CODEC_MAX: i16 = topic_id_requests::FIRST;

        fn read(body: &mut Bytes, version: i16) -> Result<Self, String> {
            if version >= topic_id_requests::FIRST {
                return topic_id_requests::$read(body);
            }
            Self::decode(body, version).map_err(|error| error.to_string())
        }

        fn body_len(&self, version: i16) -> Result<usize, String> {
            if version >= topic_id_requests::FIRST {
                let mut body = BytesMut::new();
                topic_id_requests::$write(self, &mut body)?;
                return Ok(body.len());
            }
            self.compute_size(version)
                .map_err(|error| error.to_string())
        }

        fn write(&self, frame: &mut BytesMut, version: i16) -> Result<(), String> {
            if version >= topic_id_requests::FIRST {
                return topic_id_requests::$write(self, frame);
            }
            self.encode(frame, version)
                .map_err(|error| error.to_string())
        }
    };
    ($message:ident) => {
        const CODEC_MAX: i16 = <messages::$message as Message>::VERSIONS.max;

        fn read(body: &mut Bytes, version: i16) -> Result<Self, String> {
            Self::decode(body, version).map_err(|error| error.to_string())
        }

        fn body_len(&self, version: i16) -> Result<usize, String> {
            self.compute_size(version)
                .map_err(|error| error.to_string())
        }

        fn write(&self, frame: &mut BytesMut, version: i16) -> Result<(), String> {
            self.encode(frame, version)
                .map_err(|error| error.to_string())
        }
    };
}

/// The body of a request.
pub trait ApiRequest: ApiMessage {
    /// The body of the response to it.
    type Response: ApiResponse;
}

/// The body of a response.
pub trait ApiResponse: ApiMessage {}

/// What the table says about one API.
struct ApiRow {
    name: &'static str,
    min: i16,
    max: i16,
    advertised_min: i16,
    first_flexible: i16,
}

macro_rules! api_table {
    ($(
        $(#[doc = $doc:literal])*
        $api:ident = $key:literal, serves $min:literal to $max:literal,
        advertises from $advertised:literal, flexible from $flexible:literal,
        $request:ident ($($request_shape:ident)::+) => $response:ident ($($response_shape:ident)::+);
    )*) => {
        /// An API that is served, by Kafka's name and with Kafka's key as discriminant.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum Api {
            $($(#[doc = $doc])* $api = $key,)*
        }

        impl Api {
            /// Every API of the table, by ascending key.
            pub const ALL: &'static [Api] = &[$(Api::$api),*];

            /// The API with this key, if it is served.
            pub const fn from_key(key: i16) -> Option<Api> {
                match key {
                    $($key => Some(Api::$api),)*
                    _ => None,
                }
            }

            const fn row(self) -> ApiRow {
                match self {
                    $(Api::$api => ApiRow {
                        name: stringify!($api),
                        min: $min,
                        max: $max,
                        advertised_min: $advertised,
                        first_flexible: $flexible,
                    },)*
                }
            }
        }

        $(
            impl ApiMessage for messages::$request {
                const API: Api = Api::$api;
                const SHAPE: &'static Shape = &$($request_shape)::+;
                codec!($request);
            }
            impl ApiRequest for messages::$request {
                type Response = messages::$response;
            }
            impl ApiMessage for messages::$response {
                const API: Api = Api::$api;
                const SHAPE: &'static Shape = &$($response_shape)::+;
                codec!($response);
            }
            impl ApiResponse for messages::$response {}
        )*

        /// Calls a generic `fn check<R: ApiRequest>(..)` for every API of the table.
        #[cfg(test)]
        macro_rules! for_each_api {
            ($check:ident($argument:expr)) => {
                $($check::<kafka_protocol::messages::$request>($argument);)*
            };
            ($check:ident()) => {
                $($check::<kafka_protocol::messages::$request>();)*
            };
        }
        #[cfg(test)]
        pub(crate) use for_each_api;
    };
}
api_table! {
    /// Appends record batches to partitions.
    Produce = 0, serves 3 to 13, advertises from 0, flexible from 9,
        ProduceRequest (requests::PRODUCE) => ProduceResponse (responses::PRODUCE);
    /// Reads record batches from partitions, by long poll and within sessions (KIP-227).
    Fetch = 1, serves 4 to 18, advertises from 4, flexible from 12,
        FetchRequest (requests::FETCH) => FetchResponse (responses::FETCH);
    /// Finds offsets by timestamp, and the first and last of a partition.
    ListOffsets = 2, serves 1 to 11, advertises from 1, flexible from 6,
        ListOffsetsRequest (requests::LIST_OFFSETS) => ListOffsetsResponse (responses::LIST_OFFSETS);
    /// Brokers, topics and partition leaders.
    Metadata = 3, serves 0 to 13, advertises from 0, flexible from 9,
        MetadataRequest (requests::METADATA) => MetadataResponse (responses::METADATA);
    /// Commits offsets of a group.
    OffsetCommit = 8, serves 2 to 10, advertises from 2, flexible from 8,
        OffsetCommitRequest (group_requests::OFFSET_COMMIT) => OffsetCommitResponse (group_responses::OFFSET_COMMIT);
    /// Reads committed offsets of groups.
    OffsetFetch = 9, serves 1 to 10, advertises from 1, flexible from 6,
        OffsetFetchRequest (group_requests::OFFSET_FETCH) => OffsetFetchResponse (group_responses::OFFSET_FETCH);
    /// Names the broker that coordinates a group.
    FindCoordinator = 10, serves 0 to 6, advertises from 0, flexible from 3,
        FindCoordinatorRequest (group_requests::FIND_COORDINATOR) => FindCoordinatorResponse (group_responses::FIND_COORDINATOR);
    /// Joins a group of the classic protocol; answered when everybody is there.
    JoinGroup = 11, serves 0 to 9, advertises from 0, flexible from 6,
        JoinGroupRequest (group_requests::JOIN_GROUP) => JoinGroupResponse (group_responses::JOIN_GROUP);
    /// Says that a member of a classic group is alive.
    Heartbeat = 12, serves 0 to 4, advertises from 0, flexible from 4,
        HeartbeatRequest (group_requests::HEARTBEAT) => HeartbeatResponse (group_responses::HEARTBEAT);
    /// Leaves a group, or removes members (KIP-345).
    LeaveGroup = 13, serves 0 to 5, advertises from 0, flexible from 4,
        LeaveGroupRequest (group_requests::LEAVE_GROUP) => LeaveGroupResponse (group_responses::LEAVE_GROUP);
    /// Hands out the assignment of a classic group.
    SyncGroup = 14, serves 0 to 5, advertises from 0, flexible from 4,
        SyncGroupRequest (group_requests::SYNC_GROUP) => SyncGroupResponse (group_responses::SYNC_GROUP);
    /// State and members of classic groups.
    DescribeGroups = 15, serves 0 to 6, advertises from 0, flexible from 5,
        DescribeGroupsRequest (group_requests::DESCRIBE_GROUPS) => DescribeGroupsResponse (group_responses::DESCRIBE_GROUPS);
    /// Groups of a coordinator, by state and type.
    ListGroups = 16, serves 0 to 5, advertises from 0, flexible from 3,
        ListGroupsRequest (group_requests::LIST_GROUPS) => ListGroupsResponse (group_responses::LIST_GROUPS);
    /// This table, and the features of the cluster (KIP-511, KIP-584).
    ApiVersions = 18, serves 0 to 4, advertises from 0, flexible from 3,
        ApiVersionsRequest (requests::API_VERSIONS) => ApiVersionsResponse (responses::API_VERSIONS);
    /// Creates topics.
    CreateTopics = 19, serves 2 to 7, advertises from 2, flexible from 5,
        CreateTopicsRequest (requests::CREATE_TOPICS) => CreateTopicsResponse (admin_responses::CREATE_TOPICS);
    /// Deletes topics, by name or id.
    DeleteTopics = 20, serves 1 to 6, advertises from 1, flexible from 4,
        DeleteTopicsRequest (requests::DELETE_TOPICS) => DeleteTopicsResponse (admin_responses::DELETE_TOPICS);
    /// Moves the log start of partitions (KIP-107).
    DeleteRecords = 21, serves 0 to 2, advertises from 0, flexible from 2,
        DeleteRecordsRequest (requests::DELETE_RECORDS) => DeleteRecordsResponse (admin_responses::DELETE_RECORDS);
    /// Gives out producer ids (KIP-98).
    InitProducerId = 22, serves 0 to 5, advertises from 0, flexible from 2,
        InitProducerIdRequest (requests::INIT_PRODUCER_ID) => InitProducerIdResponse (responses::INIT_PRODUCER_ID);
    /// End offset of a leader epoch (KIP-320).
    OffsetForLeaderEpoch = 23, serves 2 to 4, advertises from 2, flexible from 4,
        OffsetForLeaderEpochRequest (requests::OFFSET_FOR_LEADER_EPOCH) => OffsetForLeaderEpochResponse (responses::OFFSET_FOR_LEADER_EPOCH);
    /// Lists access control entries.
    DescribeAcls = 29, serves 1 to 3, advertises from 1, flexible from 2,
        DescribeAclsRequest (requests::DESCRIBE_ACLS) => DescribeAclsResponse (admin_responses::DESCRIBE_ACLS);
    /// Adds access control entries.
    CreateAcls = 30, serves 1 to 3, advertises from 1, flexible from 2,
        CreateAclsRequest (requests::CREATE_ACLS) => CreateAclsResponse (admin_responses::CREATE_ACLS);
    /// Removes access control entries.
    DeleteAcls = 31, serves 1 to 3, advertises from 1, flexible from 2,
        DeleteAclsRequest (requests::DELETE_ACLS) => DeleteAclsResponse (admin_responses::DELETE_ACLS);
    /// Reads configuration with sources, synonyms and documentation.
    DescribeConfigs = 32, serves 1 to 4, advertises from 1, flexible from 4,
        DescribeConfigsRequest (requests::DESCRIBE_CONFIGS) => DescribeConfigsResponse (admin_responses::DESCRIBE_CONFIGS);
    /// Replaces configuration as a whole.
    AlterConfigs = 33, serves 0 to 2, advertises from 0, flexible from 2,
        AlterConfigsRequest (requests::ALTER_CONFIGS) => AlterConfigsResponse (admin_responses::ALTER_CONFIGS);
    /// Sizes of logs on disk.
    DescribeLogDirs = 35, serves 1 to 4, advertises from 1, flexible from 2,
        DescribeLogDirsRequest (requests::DESCRIBE_LOG_DIRS) => DescribeLogDirsResponse (admin_responses::DESCRIBE_LOG_DIRS);
    /// Adds partitions to topics (KIP-195).
    CreatePartitions = 37, serves 0 to 3, advertises from 0, flexible from 2,
        CreatePartitionsRequest (requests::CREATE_PARTITIONS) => CreatePartitionsResponse (admin_responses::CREATE_PARTITIONS);
    /// Deletes groups without members (KIP-229).
    DeleteGroups = 42, serves 0 to 2, advertises from 0, flexible from 2,
        DeleteGroupsRequest (group_requests::DELETE_GROUPS) => DeleteGroupsResponse (group_responses::DELETE_GROUPS);
    /// Moves leadership to preferred replicas (KIP-183, KIP-460).
    ElectLeaders = 43, serves 0 to 2, advertises from 0, flexible from 2,
        ElectLeadersRequest (requests::ELECT_LEADERS) => ElectLeadersResponse (admin_responses::ELECT_LEADERS);
    /// Sets, deletes, appends to and subtracts from configuration (KIP-339).
    IncrementalAlterConfigs = 44, serves 0 to 1, advertises from 0, flexible from 1,
        IncrementalAlterConfigsRequest (requests::INCREMENTAL_ALTER_CONFIGS) => IncrementalAlterConfigsResponse (admin_responses::INCREMENTAL_ALTER_CONFIGS);
    /// Moves replicas (KIP-455).
    AlterPartitionReassignments = 45, serves 0 to 1, advertises from 0, flexible from 0,
        AlterPartitionReassignmentsRequest (requests::ALTER_PARTITION_REASSIGNMENTS) => AlterPartitionReassignmentsResponse (admin_responses::ALTER_PARTITION_REASSIGNMENTS);
    /// Replicas on the move (KIP-455).
    ListPartitionReassignments = 46, serves 0 to 0, advertises from 0, flexible from 0,
        ListPartitionReassignmentsRequest (requests::LIST_PARTITION_REASSIGNMENTS) => ListPartitionReassignmentsResponse (admin_responses::LIST_PARTITION_REASSIGNMENTS);
    /// Deletes committed offsets of a group (KIP-496).
    OffsetDelete = 47, serves 0 to 0, advertises from 0, flexible from 32767,
        OffsetDeleteRequest (group_requests::OFFSET_DELETE) => OffsetDeleteResponse (group_responses::OFFSET_DELETE);
    /// Lists client quotas (KIP-546).
    DescribeClientQuotas = 48, serves 0 to 1, advertises from 0, flexible from 1,
        DescribeClientQuotasRequest (requests::DESCRIBE_CLIENT_QUOTAS) => DescribeClientQuotasResponse (admin_responses::DESCRIBE_CLIENT_QUOTAS);
    /// The metadata quorum (KIP-595, KIP-836).
    DescribeQuorum = 55, serves 0 to 2, advertises from 0, flexible from 0,
        DescribeQuorumRequest (requests::DESCRIBE_QUORUM) => DescribeQuorumResponse (admin_responses::DESCRIBE_QUORUM);
    /// Finalizes feature levels (KIP-584).
    UpdateFeatures = 57, serves 0 to 2, advertises from 0, flexible from 0,
        UpdateFeaturesRequest (requests::UPDATE_FEATURES) => UpdateFeaturesResponse (admin_responses::UPDATE_FEATURES);
    /// Brokers and controller without topics (KIP-700).
    DescribeCluster = 60, serves 0 to 2, advertises from 0, flexible from 0,
        DescribeClusterRequest (requests::DESCRIBE_CLUSTER) => DescribeClusterResponse (responses::DESCRIBE_CLUSTER);
    /// Producer state of partitions (KIP-664).
    DescribeProducers = 61, serves 0 to 0, advertises from 0, flexible from 0,
        DescribeProducersRequest (requests::DESCRIBE_PRODUCERS) => DescribeProducersResponse (responses::DESCRIBE_PRODUCERS);
    /// Forgets a broker (KIP-500).
    UnregisterBroker = 64, serves 0 to 0, advertises from 0, flexible from 0,
        UnregisterBrokerRequest (requests::UNREGISTER_BROKER) => UnregisterBrokerResponse (admin_responses::UNREGISTER_BROKER);
    /// Joins, stays in and leaves a consumer group (KIP-848).
    ConsumerGroupHeartbeat = 68, serves 0 to 1, advertises from 0, flexible from 0,
        ConsumerGroupHeartbeatRequest (group_requests::CONSUMER_GROUP_HEARTBEAT) => ConsumerGroupHeartbeatResponse (group_responses::CONSUMER_GROUP_HEARTBEAT);
    /// State and members of consumer groups (KIP-848).
    ConsumerGroupDescribe = 69, serves 0 to 1, advertises from 0, flexible from 0,
        ConsumerGroupDescribeRequest (group_requests::CONSUMER_GROUP_DESCRIBE) => ConsumerGroupDescribeResponse (group_responses::CONSUMER_GROUP_DESCRIBE);
    /// Names of resources that have configuration (KIP-1142).
    ListConfigResources = 74, serves 0 to 1, advertises from 0, flexible from 0,
        ListConfigResourcesRequest (requests::LIST_CONFIG_RESOURCES) => ListConfigResourcesResponse (admin_responses::LIST_CONFIG_RESOURCES);
    /// Topics and partitions, page by page (KIP-966).
    DescribeTopicPartitions = 75, serves 0 to 0, advertises from 0, flexible from 0,
        DescribeTopicPartitionsRequest (requests::DESCRIBE_TOPIC_PARTITIONS) => DescribeTopicPartitionsResponse (responses::DESCRIBE_TOPIC_PARTITIONS);
}

impl Api {
    /// The key on the wire.
    pub const fn key(self) -> i16 {
        self as i16
    }

    /// Kafka's name, fit for metric labels and messages.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Versions that are served.
    pub const fn versions(self) -> RangeInclusive<i16> {
        let row = self.row();
        row.min..=row.max
    }

    /// Versions that ApiVersions claims; wider than [`Api::versions`] for Produce only.
    pub const fn advertised_versions(self) -> RangeInclusive<i16> {
        let row = self.row();
        row.advertised_min..=row.max
    }

    /// Whether this version is served.
    pub const fn serves(self, version: i16) -> bool {
        let row = self.row();
        row.min <= version && version <= row.max
    }

    /// Whether this version uses compact lengths and tagged fields (KIP-482).
    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.row().first_flexible
    }

    /// Version of the header before a request of this version: 1, or 2 with tagged fields.
    pub const fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the header before a response of this version: 0, or 1 with tagged fields.
    /// Always 0 for ApiVersions, whose client cannot know yet what the broker speaks (behaviour 5).
    pub const fn response_header_version(self, version: i16) -> i16 {
        match self {
            Api::ApiVersions => 0,
            _ if self.is_flexible(version) => 1,
            _ => 0,
        }
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::protocol::{HeaderVersion, Request};

    use super::*;

    #[test]
    fn the_table_agrees_with_the_codec_crate() {
        fn check<R>()
        where
            R: ApiRequest + Request,
            <R as ApiRequest>::Response: HeaderVersion,
        {
            let api = R::API;
            assert_eq!(api.key(), R::KEY);
            for version in api.versions() {
                let request_header = R::header_version(version);
                assert_eq!(
                    api.request_header_version(version),
                    request_header,
                    "{api} {version}"
                );
                let response_header = <R as ApiRequest>::Response::header_version(version);
                assert_eq!(
                    api.response_header_version(version),
                    response_header,
                    "{api} {version}"
                );
            }
            assert!(R::VERSIONS.min <= *api.versions().start());
            // Exactly one API is ahead of the codec: see `codec_version`.
            let ahead = *api.versions().end() - R::CODEC_MAX;
            let expected_max = if api == Api::ListOffsets { 1 } else { 0 };
            assert!(
                ahead <= expected_max,
                "{api} is {ahead} versions ahead of the codec"
            );
        }
        for_each_api!(check());
    }

    #[test]
    fn keys_ascend_and_name_their_api() {
        assert!(Api::ALL.is_sorted_by_key(|api| api.key()));
        for &api in Api::ALL {
            assert_eq!(Api::from_key(api.key()), Some(api));
        }
        for unknown in [-1, 4, 9999, i16::MIN, i16::MAX] {
            assert_eq!(Api::from_key(unknown), None);
        }
    }

    /// KAFKA-18659: only Produce claims more than is served.
    #[test]
    fn what_is_advertised_is_served_but_for_produce() {
        for &api in Api::ALL {
            let differs = api.advertised_versions() != api.versions();
            assert_eq!(differs, api == Api::Produce, "{api}");
        }
        assert_eq!(Api::Produce.advertised_versions(), 0..=13);
        assert!(!Api::Produce.serves(2));
    }
}
