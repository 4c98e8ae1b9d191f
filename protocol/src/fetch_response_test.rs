//! The encoder against kafka-protocol, byte for byte.

use kafka_protocol::messages::fetch_response as codec;
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::encode::encode_response;
use crate::{decode_response, messages};

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn any_partition() -> impl Strategy<Value = FetchPartition> {
    let epoch =
        (0..9_i32, 0..99_i64).prop_map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset });
    let leader = (0..9_i32, 0..99_i32).prop_map(|(leader_id, leader_epoch)| LeaderIdAndEpoch {
        leader_id,
        leader_epoch,
    });
    let aborted =
        (any::<i64>(), any::<i64>()).prop_map(|(producer_id, first_offset)| AbortedTransaction {
            producer_id,
            first_offset,
        });
    let records = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4);
    (
        (
            any::<i32>(),
            -1..134_i16,
            any::<i64>(),
            any::<i64>(),
            any::<i64>(),
        ),
        prop::option::of(epoch),
        prop::option::of(leader),
        prop::option::of(prop::collection::vec(aborted, 0..3)),
        -1..3_i32,
        records,
    )
        .prop_map(
            |(numbers, diverging_epoch, current_leader, aborted, replica, records)| {
                FetchPartition {
                    partition: numbers.0,
                    error: ErrorCode(numbers.1),
                    high_watermark: numbers.2,
                    last_stable_offset: numbers.3,
                    log_start_offset: numbers.4,
                    diverging_epoch,
                    current_leader,
                    aborted_transactions: aborted,
                    preferred_read_replica: replica,
                    records: records.into_iter().map(Bytes::from).collect(),
                }
            },
        )
}

fn any_response() -> impl Strategy<Value = FetchResponse> {
    let endpoint = (
        0..9_i32,
        "[a-z.]{0,12}",
        0..65_536_i32,
        prop::option::of("[a-z]{0,4}"),
    )
        .prop_map(|(node_id, host, port, rack)| NodeEndpoint {
            node_id,
            host: text(&host),
            port,
            rack: rack.as_deref().map(text),
        });
    // Few topics, so that they come again after others.
    let partitions = prop::collection::vec((0..3_u128, any_partition()), 0..8);
    (
        any::<i32>(),
        -1..134_i16,
        any::<i32>(),
        prop::collection::vec(endpoint, 0..3),
        partitions,
    )
        .prop_map(
            |(throttle_time_ms, error, session_id, node_endpoints, partitions)| {
                let mut response = FetchResponse {
                    throttle_time_ms,
                    error: ErrorCode(error),
                    session_id,
                    node_endpoints,
                    ..FetchResponse::default()
                };
                for (topic, partition) in partitions {
                    let id = TopicId(Uuid::from_u128(topic + 1));
                    response.push(&text(&format!("topic-{topic}")), id, partition);
                }
                response
            },
        )
}

/// The same values as kafka-protocol's type, without those that the version cannot carry.
fn as_codec(response: &FetchResponse, version: i16) -> messages::FetchResponse {
    let partition = |from: &FetchPartition| {
        let mut to = codec::PartitionData::default()
            .with_partition_index(from.partition)
            .with_error_code(from.error.code())
            .with_high_watermark(from.high_watermark)
            .with_last_stable_offset(from.last_stable_offset)
            .with_log_start_offset(from.log_start_offset)
            .with_records(Some(from.records.concat().into()))
            .with_aborted_transactions(from.aborted_transactions.as_ref().map(|aborted| {
                let transaction = |from: &AbortedTransaction| {
                    codec::AbortedTransaction::default()
                        .with_producer_id(from.producer_id.into())
                        .with_first_offset(from.first_offset)
                };
                aborted.iter().map(transaction).collect()
            }));
        if version >= PREFERRED_REPLICA {
            to = to.with_preferred_read_replica(BrokerId(from.preferred_read_replica));
        }
        if let Some(from) = from.diverging_epoch.filter(|_| version >= 12) {
            let epoch = codec::EpochEndOffset::default()
                .with_epoch(from.epoch)
                .with_end_offset(from.end_offset);
            to = to.with_diverging_epoch(epoch);
        }
        if let Some(from) = from.current_leader.filter(|_| version >= 12) {
            let leader = codec::LeaderIdAndEpoch::default()
                .with_leader_id(BrokerId(from.leader_id))
                .with_leader_epoch(from.leader_epoch);
            to = to.with_current_leader(leader);
        }
        to
    };
    let topic = |from: &FetchTopic| {
        codec::FetchableTopicResponse::default()
            .with_topic(TopicName(from.name.clone()))
            .with_topic_id(from.id.0)
            .with_partitions(from.partitions.iter().map(partition).collect())
    };
    let endpoint = |from: &NodeEndpoint| {
        codec::NodeEndpoint::default()
            .with_node_id(BrokerId(from.node_id))
            .with_host(from.host.clone())
            .with_port(from.port)
            .with_rack(from.rack.clone())
    };
    let mut to = messages::FetchResponse::default()
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_responses(response.topics().iter().map(topic).collect());
    if version >= SESSIONS {
        to = to
            .with_error_code(response.error.code())
            .with_session_id(response.session_id);
    }
    if version >= NODE_ENDPOINTS {
        to = to.with_node_endpoints(response.node_endpoints.iter().map(endpoint).collect());
    }
    to
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn chunks_are_what_the_codec_makes_of_the_same_values(response in any_response()) {
        for version in Api::Fetch.versions() {
            let expect = encode_response(version, 9, &as_codec(&response, version));
            let chunks = response.clone().encode(version, 9).expect("encodes");
            prop_assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
            prop_assert_eq!(Ok(Bytes::from(chunks.concat())), expect, "version {}", version);
        }
    }
}

fn one_partition(records: Vec<Bytes>) -> FetchResponse {
    let mut response = FetchResponse::default();
    let mut partition = FetchPartition::of_error(0, ErrorCode::NONE);
    partition.records = records;
    response.push(&text("t"), TopicId(Uuid::from_u128(1)), partition);
    response
}

#[test]
fn records_are_not_copied() {
    let records = vec![Bytes::from(vec![1; 1000]), Bytes::from(vec![2; 10])];
    let chunks = one_partition(records.clone())
        .encode(17, 1)
        .expect("encodes");
    assert_eq!(chunks.len(), 4, "layout, two batches, layout");
    assert_eq!(chunks[1].as_ptr(), records[0].as_ptr());
    assert_eq!(chunks[2].as_ptr(), records[1].as_ptr());
}

#[test]
fn records_of_every_length_class_are_framed_right() {
    for len in [0, 1, 126, 127, 128, 16_382, 16_383, 2_097_151, 2_097_152] {
        for version in [4, 11, 12, 18] {
            let records = Bytes::from(vec![7; len]);
            let chunks = one_partition(vec![records.clone()])
                .encode(version, 1)
                .expect("encodes");
            let frame = Bytes::from(chunks.concat());
            let response = decode_response::<FetchRequest>(frame.slice(4..), version);
            let response = response.expect("decodes");
            let read = response.responses[0].partitions[0].records.as_ref();
            assert_eq!(read, Some(&records), "{len} bytes in version {version}");
        }
    }
}

/// Behaviour 80.
#[test]
fn a_topic_has_one_entry_whatever_the_order() {
    let mut response = FetchResponse::default();
    for (topic, partition) in [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1)] {
        let id = TopicId(Uuid::from_u128(u128::from(topic.as_bytes()[0])));
        response.push(
            &text(topic),
            id,
            FetchPartition::of_error(partition, ErrorCode::NONE),
        );
    }
    let entries: Vec<(String, Vec<i32>)> = response
        .topics()
        .iter()
        .map(|topic| {
            (
                topic.name.to_string(),
                topic.partitions.iter().map(|p| p.partition).collect(),
            )
        })
        .collect();
    assert_eq!(
        entries,
        [
            ("a".to_owned(), vec![0, 1, 2]),
            ("b".to_owned(), vec![0, 1])
        ]
    );
}

#[test]
fn what_has_no_form_on_the_wire_is_an_error() {
    let unsupported = EncodeError::UnsupportedVersion {
        api: Api::Fetch,
        version: 3,
    };
    assert_eq!(FetchResponse::default().encode(3, 1), Err(unsupported));
    let mut response = FetchResponse::default();
    let partition = FetchPartition::of_error(0, ErrorCode::NONE);
    response.push(&text(&"x".repeat(0x8000)), TopicId::ZERO, partition);
    let refused = response.encode(4, 1);
    assert!(
        matches!(refused, Err(EncodeError::TooLarge { .. })),
        "{refused:?}"
    );
}

/// A frame that would pass 2 GiB is refused; the slices share one allocation.
#[test]
fn frames_of_more_than_two_gibibytes_are_refused() {
    let batch = Bytes::from(vec![0; 64 << 20]);
    let refused = one_partition(vec![batch.clone(); 33]).encode(12, 1);
    assert!(matches!(refused, Err(EncodeError::TooLarge { .. })));
    let mut response = one_partition(vec![batch.clone(); 20]);
    let mut second = FetchPartition::of_error(1, ErrorCode::NONE);
    second.records = vec![batch; 20];
    response.push(&text("u"), TopicId(Uuid::from_u128(2)), second);
    assert!(matches!(
        response.encode(12, 1),
        Err(EncodeError::TooLarge { .. })
    ));
}
