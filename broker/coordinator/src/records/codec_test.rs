#![expect(clippy::unwrap_used, reason = "tests")]
//! Bytes that Kafka wrote, round trips, and bytes that nobody wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::TopicId;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// Records whose bytes Kafka reads but does not write like this: older versions, fields that are skipped.
const READ_ONLY: [&str; 8] = [
    "offset-legacy-key",
    "offset-v0",
    "offset-v2",
    "offset-v3",
    "classic-v0",
    "classic-v1",
    "classic-v2",
    "classic-v4",
];

type Fixture = (String, Vec<u8>, Option<Vec<u8>>);

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn fixtures() -> Vec<Fixture> {
    include_str!("fixtures/kafka-4.3.1.txt")
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            let value = (parts[2] != "-").then(|| unhex(parts[2]));
            (parts[0].to_owned(), unhex(parts[1]), value)
        })
        .collect()
}

fn decoded(name: &str) -> GroupRecord {
    let (_, key, value) = fixtures()
        .into_iter()
        .find(|(of, ..)| of == name)
        .unwrap_or_else(|| panic!("no fixture {name}"));
    GroupRecord::decode(&key, value.as_deref())
        .unwrap()
        .unwrap()
}

#[test]
fn what_kafka_wrote_is_written_the_same() {
    let mut same = 0;
    for (name, key, value) in fixtures() {
        let record = GroupRecord::decode(&key, value.as_deref()).unwrap();
        if name.starts_with("unknown-") {
            assert_eq!(record, None, "{name}");
            continue;
        }
        let record = record.unwrap_or_else(|| panic!("{name} is not known"));
        let (encoded_key, encoded_value) = record.encode();
        let read_only = READ_ONLY.contains(&name.as_str())
            || name == "consumer-partitions"
            || name == "current-assignment-epochs";
        if read_only {
            let again = GroupRecord::decode(&encoded_key, encoded_value.as_deref()).unwrap();
            assert_eq!(again, Some(record), "{name}");
        } else {
            assert_eq!(encoded_key, key, "{name}");
            assert_eq!(encoded_value.as_deref(), value.as_deref(), "{name}");
            same += 1;
        }
    }
    assert!(same >= 24, "only {same} fixtures were compared");
}

fn name(text: &str) -> Arc<str> {
    Arc::from(text)
}

const TOPIC_A: TopicId = TopicId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
const TOPIC_B: TopicId = TopicId(Uuid::from_u128(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20));

#[test]
fn offsets_of_every_version_are_read() {
    let commit = |leader_epoch, expire_timestamp, topic_id| GroupRecord::OffsetCommit {
        group: name("g"),
        topic: name("orders"),
        partition: 3,
        value: Some(OffsetCommitValue {
            offset: 4242,
            leader_epoch,
            metadata: name("nöte"),
            commit_timestamp: 1_700_000_000_000,
            expire_timestamp,
            topic_id,
        }),
    };
    for version in ["legacy-key", "v0", "v2"] {
        assert_eq!(
            decoded(&format!("offset-{version}")),
            commit(-1, -1, TopicId::ZERO)
        );
    }
    assert_eq!(
        decoded("offset-v1"),
        commit(-1, 1_700_000_600_000, TopicId::ZERO)
    );
    assert_eq!(decoded("offset-v3"), commit(7, -1, TopicId::ZERO));
    assert_eq!(decoded("offset-v4"), commit(7, -1, TopicId::ZERO));
    assert_eq!(decoded("offset-v4-topic-id"), commit(7, -1, TOPIC_A));
}

#[test]
fn classic_groups_of_every_version_are_read() {
    for version in 0..=4 {
        let GroupRecord::GroupMetadata {
            value: Some(group), ..
        } = decoded(&format!("classic-v{version}"))
        else {
            panic!("another record");
        };
        let since = if version >= 2 { 1_700_000_000_001 } else { -1 };
        assert_eq!(group.current_state_timestamp, since);
        assert_eq!(group.leader.as_deref(), Some("m-1"));
        let first = &group.members[0];
        let instance = (version >= 3).then(|| name("i-1"));
        assert_eq!(first.group_instance_id, instance);
        let rebalance_timeout_ms = if version >= 1 { 300_000 } else { 45_000 };
        assert_eq!(first.rebalance_timeout_ms, rebalance_timeout_ms);
        assert_eq!(&first.subscription[..], b"sub");
        assert_eq!(group.members[1].session_timeout_ms, 6_000);
    }
}

#[test]
fn consumer_groups_are_read() {
    let GroupRecord::ConsumerGroupMemberMetadata {
        value: Some(member),
        ..
    } = decoded("consumer-member-classic")
    else {
        panic!("another record");
    };
    let classic = member.classic.unwrap();
    assert_eq!(classic.session_timeout_ms, 45_000);
    assert_eq!(classic.supported_protocols[1].1.len(), 200);
    assert_eq!(
        decoded("current-assignment-epochs"),
        decoded("current-assignment")
    );
    let GroupRecord::ConsumerGroupCurrentMemberAssignment {
        value: Some(current),
        ..
    } = decoded("current-assignment")
    else {
        panic!("another record");
    };
    assert_eq!(current.state, MemberState::UnrevokedPartitions);
    assert_eq!(
        current.assigned_partitions,
        BTreeMap::from([(TOPIC_A, vec![0, 2])])
    );
    assert_eq!(
        current.partitions_pending_revocation,
        BTreeMap::from([(TOPIC_B, vec![1])])
    );
}

#[test]
fn strings_too_long_for_version_3_are_kept() {
    let mut group = GroupMetadataValue {
        protocol_type: name("consumer"),
        generation: 1,
        protocol: None,
        leader: None,
        current_state_timestamp: 5,
        members: Vec::new(),
    };
    group.protocol = Some("x".repeat(40_000).into());
    let record = GroupRecord::GroupMetadata {
        group: name("g"),
        value: Some(group),
    };
    let (key, value) = record.encode();
    assert_eq!(
        GroupRecord::decode(&key, value.as_deref()),
        Ok(Some(record))
    );
}

#[test]
fn a_claimed_length_costs_nothing() {
    let key = [0, 7, 0, 1, b'g', 0, 1, b'm'];
    let value = [0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(GroupRecord::decode(&key, Some(&value)).is_err());
    let value = [
        0, 3, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff,
        0xff,
    ];
    assert!(GroupRecord::decode(&[0, 2, 0, 1, b'g'], Some(&value)).is_err());
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zäß.]{0,12}".prop_map(Arc::from)
}

fn names() -> impl Strategy<Value = Vec<Arc<str>>> {
    btree_set(text(), 0..4).prop_map(|names| names.into_iter().collect())
}

fn blob() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn topic_id() -> impl Strategy<Value = TopicId> {
    any::<u128>().prop_map(|id| TopicId(Uuid::from_u128(id)))
}

fn partitions() -> impl Strategy<Value = TopicPartitions> {
    let of_topic =
        btree_set(any::<i32>(), 0..5).prop_map(|of| of.into_iter().collect::<Vec<i32>>());
    btree_map(topic_id(), of_topic, 0..4)
}

fn offset_commit() -> impl Strategy<Value = OffsetCommitValue> {
    let kept = (any::<i32>(), topic_id()).prop_map(|(epoch, topic)| (epoch, -1, topic));
    let expires = any::<i64>().prop_map(|at| (-1, at, TopicId::ZERO));
    (
        any::<i64>(),
        text(),
        any::<i64>(),
        prop_oneof![kept, expires],
    )
        .prop_map(
            |(offset, metadata, commit_timestamp, rest)| OffsetCommitValue {
                offset,
                leader_epoch: rest.0,
                metadata,
                commit_timestamp,
                expire_timestamp: rest.1,
                topic_id: rest.2,
            },
        )
}

fn group_member() -> impl Strategy<Value = GroupMember> {
    (
        text(),
        option::of(text()),
        text(),
        text(),
        any::<(i32, i32)>(),
        blob(),
        blob(),
    )
        .prop_map(
            |(member_id, group_instance_id, client_id, client_host, timeouts, sub, asg)| {
                GroupMember {
                    member_id,
                    group_instance_id,
                    client_id,
                    client_host,
                    rebalance_timeout_ms: timeouts.0,
                    session_timeout_ms: timeouts.1,
                    subscription: sub,
                    assignment: asg,
                }
            },
        )
}

fn group_metadata() -> impl Strategy<Value = GroupMetadataValue> {
    (
        text(),
        any::<i32>(),
        option::of(text()),
        option::of(text()),
        any::<i64>(),
        vec(group_member(), 0..4),
    )
        .prop_map(
            |(protocol_type, generation, protocol, leader, since, members)| GroupMetadataValue {
                protocol_type,
                generation,
                protocol,
                leader,
                current_state_timestamp: since,
                members,
            },
        )
}

fn member_metadata() -> impl Strategy<Value = ConsumerGroupMemberMetadataValue> {
    let classic = (any::<i32>(), vec((text(), blob()), 0..3)).prop_map(|(timeout, protocols)| {
        ClassicMemberMetadata {
            session_timeout_ms: timeout,
            supported_protocols: protocols,
        }
    });
    (
        (option::of(text()), option::of(text()), text(), text()),
        names(),
        option::of(text()),
        any::<i32>(),
        option::of(text()),
        option::of(classic),
    )
        .prop_map(|(client, topics, regex, timeout, assignor, classic)| {
            ConsumerGroupMemberMetadataValue {
                instance_id: client.0,
                rack_id: client.1,
                client_id: client.2,
                client_host: client.3,
                subscribed_topic_names: topics,
                subscribed_topic_regex: regex,
                rebalance_timeout_ms: timeout,
                server_assignor: assignor,
                classic,
            }
        })
}

fn current_assignment() -> impl Strategy<Value = CurrentMemberAssignmentValue> {
    let state = prop_oneof![
        Just(MemberState::Stable),
        Just(MemberState::UnrevokedPartitions),
        Just(MemberState::UnreleasedPartitions),
        Just(MemberState::Unknown),
    ];
    (any::<(i32, i32)>(), state, partitions(), partitions()).prop_map(
        |(epochs, state, assigned, pending)| CurrentMemberAssignmentValue {
            member_epoch: epochs.0,
            previous_member_epoch: epochs.1,
            state,
            assigned_partitions: assigned,
            partitions_pending_revocation: pending,
        },
    )
}

fn consumer_record() -> impl Strategy<Value = GroupRecord> {
    prop_oneof![
        (text(), option::of(any::<(i32, i64)>())).prop_map(|(group, value)| {
            GroupRecord::ConsumerGroupMetadata {
                group,
                value: value.map(|(epoch, metadata_hash)| ConsumerGroupMetadataValue {
                    epoch,
                    metadata_hash,
                }),
            }
        }),
        text().prop_map(|group| GroupRecord::ConsumerGroupPartitionMetadata { group }),
        (text(), text(), option::of(member_metadata())).prop_map(|(group, member, value)| {
            GroupRecord::ConsumerGroupMemberMetadata {
                group,
                member,
                value,
            }
        }),
        (text(), option::of(any::<(i32, i64)>())).prop_map(|(group, value)| {
            GroupRecord::ConsumerGroupTargetAssignmentMetadata {
                group,
                value: value.map(|(epoch, at)| TargetAssignmentMetadataValue {
                    assignment_epoch: epoch,
                    assignment_timestamp: at,
                }),
            }
        }),
        (text(), text(), option::of(partitions())).prop_map(|(group, member, value)| {
            GroupRecord::ConsumerGroupTargetAssignmentMember {
                group,
                member,
                value,
            }
        }),
        (text(), text(), option::of(current_assignment())).prop_map(|(group, member, value)| {
            GroupRecord::ConsumerGroupCurrentMemberAssignment {
                group,
                member,
                value,
            }
        }),
        (text(), text(), option::of((names(), any::<(i64, i64)>()))).prop_map(
            |(group, expression, value)| GroupRecord::ConsumerGroupRegularExpression {
                group,
                expression,
                value: value.map(|(topics, (version, timestamp))| RegularExpressionValue {
                    topics,
                    version,
                    timestamp,
                }),
            }
        ),
    ]
}

fn record() -> impl Strategy<Value = GroupRecord> {
    prop_oneof![
        (text(), text(), any::<i32>(), option::of(offset_commit())).prop_map(
            |(group, topic, partition, value)| GroupRecord::OffsetCommit {
                group,
                topic,
                partition,
                value,
            }
        ),
        (text(), option::of(group_metadata()))
            .prop_map(|(group, value)| GroupRecord::GroupMetadata { group, value }),
        consumer_record(),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(record in record()) {
        let (key, value) = record.encode();
        prop_assert_eq!(GroupRecord::decode(&key, value.as_deref()), Ok(Some(record)));
    }

    #[test]
    fn a_cut_or_changed_record_is_read_or_refused(
        record in record(),
        cut in any::<prop::sample::Index>(),
        change in any::<(prop::sample::Index, u8)>(),
    ) {
        let (key, value) = record.encode();
        if let Some(value) = value {
            let _ = GroupRecord::decode(&key, Some(&value[..cut.index(value.len())]));
            let mut changed = value.to_vec();
            let at = change.0.index(changed.len());
            changed[at] = change.1;
            let _ = GroupRecord::decode(&key, Some(&changed));
        }
        prop_assert!(GroupRecord::decode(&key[..cut.index(key.len())], None).is_err());
    }

    #[test]
    fn bytes_that_nobody_wrote(kind in 0u8..20, key in vec(any::<u8>(), 0..40), value in vec(any::<u8>(), 0..200)) {
        let key = [&[0, kind][..], &key].concat();
        let _ = GroupRecord::decode(&key, Some(&value));
    }
}
