//! Frames, request heads and bodies.

use bytes::{Bytes, BytesMut};
use klamm_protocol::messages;
use klamm_protocol::{
    Api, ApiRequest, RequestHead, decode, encode_request, encode_response, next_frame, sniff,
};

use crate::Input;

/// Bytes that arrive in pieces: size of a piece, largest frame, the bytes.
pub(crate) fn frames(input: &[u8]) {
    let mut input = Input(input);
    let piece = usize::from(input.byte()).max(1);
    let max = input.word().max(1) * 16;
    let bytes = input.rest();
    sniff(bytes, max);
    let mut buffer = BytesMut::new();
    let mut taken = 0;
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match next_frame(&mut buffer, max) {
                Ok(Some(frame)) => {
                    assert!(!frame.is_empty() && frame.len() <= max);
                    taken += frame.len() + 4;
                    // Whatever it is, it is told apart from what it is not.
                    if let Ok((head, body)) = RequestHead::parse(frame.clone()) {
                        assert!(head.api.serves(head.version));
                        assert!(body.len() <= frame.len());
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(buffer.capacity() <= 2 * bytes.len() + (128 << 10));
    }
    assert_eq!(taken + buffer.len(), bytes.len(), "nothing is lost");
}

/// A request of one API and version: its body, or changes to a default one.
pub(crate) fn requests(input: &[u8]) {
    let mut input = Input(input);
    let api = Api::ALL[usize::from(input.byte()) % Api::ALL.len()];
    let versions = api.versions();
    let count = versions.end() - versions.start() + 1;
    let version = versions.start() + i16::from(input.byte()) % count;
    let changed = input.byte() % 2 == 1;
    with_api(
        api,
        Work::Run {
            version,
            changed,
            input,
        },
    );
}

enum Work<'a> {
    Run {
        version: i16,
        changed: bool,
        input: Input<'a>,
    },
    /// Default request bodies, as inputs.
    Seed(&'a mut Vec<Vec<u8>>),
}

/// Where the body begins in a frame of [`encode_request`] without a client id.
fn body_at(api: Api, version: i16) -> usize {
    4 + 10 + usize::from(api.request_header_version(version) > 1)
}

fn default_body<R: ApiRequest + Default>(version: i16) -> Vec<u8> {
    match encode_request(version, 1, None, &R::default()) {
        Ok(frame) => frame.slice(body_at(R::API, version)..).to_vec(),
        // Some fields have no default that a version can carry.
        Err(_) => vec![0; 16],
    }
}

fn work<R>(work: Work<'_>)
where
    R: ApiRequest + Default + PartialEq + std::fmt::Debug,
    R::Response: PartialEq + std::fmt::Debug,
{
    let (version, changed, input) = match work {
        Work::Run {
            version,
            changed,
            input,
        } => (version, changed, input),
        Work::Seed(seeds) => {
            let index = Api::ALL
                .iter()
                .position(|api| *api == R::API)
                .expect("it is in the table");
            let index = u8::try_from(index).expect("fewer than 256 APIs");
            for (step, version) in (0..).zip(R::API.versions()) {
                seeds.push([&[index, step, 0][..], &default_body::<R>(version)].concat());
            }
            return;
        }
    };
    let body = if changed {
        let mut body = default_body::<R>(version);
        input.damage(&mut body);
        body
    } else {
        input.rest().to_vec()
    };
    let body = Bytes::from(body);
    if let Ok(request) = decode::<R>(body.clone(), version) {
        // What was decoded has a form on the wire that means the same.
        if let Ok(frame) = encode_request(version, 1, None, &request) {
            let again = decode::<R>(frame.slice(body_at(R::API, version)..), version);
            assert_eq!(again.as_ref(), Ok(&request));
        }
    }
    if let Ok(response) = decode::<R::Response>(body, version)
        && let Ok(frame) = encode_response(version, 1, &response)
    {
        let at = 4 + 4 + usize::from(R::API.response_header_version(version) > 0);
        let again = decode::<R::Response>(frame.slice(at..), version);
        assert_eq!(again.as_ref(), Ok(&response));
    }
}

macro_rules! apis {
    ($($api:ident => $request:ident,)*) => {
        fn with_api(api: Api, what: Work<'_>) {
            match api {
                $(Api::$api => work::<messages::$request>(what),)*
            }
        }
    };
}

apis! {
    Produce => ProduceRequest,
    Fetch => FetchRequest,
    ListOffsets => ListOffsetsRequest,
    Metadata => MetadataRequest,
    OffsetCommit => OffsetCommitRequest,
    OffsetFetch => OffsetFetchRequest,
    FindCoordinator => FindCoordinatorRequest,
    JoinGroup => JoinGroupRequest,
    Heartbeat => HeartbeatRequest,
    LeaveGroup => LeaveGroupRequest,
    SyncGroup => SyncGroupRequest,
    DescribeGroups => DescribeGroupsRequest,
    ListGroups => ListGroupsRequest,
    ApiVersions => ApiVersionsRequest,
    CreateTopics => CreateTopicsRequest,
    DeleteTopics => DeleteTopicsRequest,
    DeleteRecords => DeleteRecordsRequest,
    InitProducerId => InitProducerIdRequest,
    OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
    DescribeAcls => DescribeAclsRequest,
    CreateAcls => CreateAclsRequest,
    DeleteAcls => DeleteAclsRequest,
    DescribeConfigs => DescribeConfigsRequest,
    AlterConfigs => AlterConfigsRequest,
    DescribeLogDirs => DescribeLogDirsRequest,
    CreatePartitions => CreatePartitionsRequest,
    DeleteGroups => DeleteGroupsRequest,
    ElectLeaders => ElectLeadersRequest,
    IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
    AlterPartitionReassignments => AlterPartitionReassignmentsRequest,
    ListPartitionReassignments => ListPartitionReassignmentsRequest,
    OffsetDelete => OffsetDeleteRequest,
    DescribeClientQuotas => DescribeClientQuotasRequest,
    DescribeQuorum => DescribeQuorumRequest,
    UnregisterBroker => UnregisterBrokerRequest,
    UpdateFeatures => UpdateFeaturesRequest,
    DescribeCluster => DescribeClusterRequest,
    DescribeProducers => DescribeProducersRequest,
    ConsumerGroupHeartbeat => ConsumerGroupHeartbeatRequest,
    ConsumerGroupDescribe => ConsumerGroupDescribeRequest,
    ListConfigResources => ListConfigResourcesRequest,
    DescribeTopicPartitions => DescribeTopicPartitionsRequest,
}

/// One input per API and version.
pub(crate) fn request_seeds() -> Vec<(String, Vec<u8>)> {
    let mut named = Vec::new();
    for api in Api::ALL {
        let mut seeds = Vec::new();
        with_api(*api, Work::Seed(&mut seeds));
        let versions = api
            .versions()
            .map(|version| format!("{}-{version}", api.name()));
        named.extend(versions.zip(seeds));
    }
    // Metadata for 54 million topics in five bytes: made kafka-protocol 0.18 take 3.7 GiB.
    named.push((
        "54-million-topics".to_owned(),
        vec![3, 0, 0, 0x03, 0x3c, 0x0c, 0x00, 0xb6],
    ));
    named
}

/// A few frames behind each other, whole and in pieces.
pub(crate) fn frame_seeds() -> Vec<(String, Vec<u8>)> {
    let request = messages::MetadataRequest::default();
    let frame = encode_request(12, 1, Some("seed"), &request).expect("encodes");
    let two = [&frame[..], &frame[..]].concat();
    let of = |piece: u8, max: [u8; 2], bytes: &[u8]| [&[piece][..], &max, bytes].concat();
    vec![
        ("two-frames".to_owned(), of(255, [1, 0], &two)),
        ("byte-by-byte".to_owned(), of(1, [1, 0], &two)),
        ("above-the-limit".to_owned(), of(7, [0, 1], &two)),
        ("negative".to_owned(), of(7, [0, 1], &[0xff; 8])),
        ("http".to_owned(), of(7, [0, 1], b"GET / HTTP/1.1\r\n\r\n")),
    ]
}
