//! Tests of images: what commands do, invariants under any commands, the stored forms.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing::{Cluster, any_command, map, registration, topic_id};
use crate::{Command, DecodeError, ErrorCode};

fn refused(outcome: &Outcome) -> ErrorCode {
    match outcome {
        Outcome::Refused(problem) => problem.code,
        other => panic!("must be refused, was {other:?}"),
    }
}

fn create(name: &str, id: u128) -> Command {
    Command::CreateTopic {
        name: name.into(),
        id: topic_id(id),
        partitions: vec![vec![1], vec![1]],
        configs: map(&[("retention.ms", "1")]),
    }
}

#[test]
fn a_cluster_is_founded_once() {
    let mut cluster = Cluster::single();
    assert_eq!(cluster.image.cluster_id(), Some("test"));
    assert_eq!(
        cluster.apply(&Command::Found {
            cluster_id: "test".into()
        }),
        Outcome::Done
    );
    let other = cluster.apply(&Command::Found {
        cluster_id: "other".into(),
    });
    assert_eq!(refused(&other), ErrorCode::InconsistentClusterId);
}

#[test]
fn topics_are_found_by_name_id_and_group() {
    let mut cluster = Cluster::single();
    assert_eq!(cluster.apply(&create("t", 7)), Outcome::Done);
    let topic = cluster.image.topic("t").expect("created");
    assert_eq!(cluster.image.topic_by_id(topic_id(7)), Some(topic));
    assert_eq!(topic.replication_factor(), 1);
    let id = "00000000-0000-0000-0000-000000000007";
    assert_eq!(topic.directory(1, 0), format!("{id}-1"));
    assert_eq!(topic.directory(1, 2), format!("{id}-1.2"));
    for partition in topic.partitions.iter() {
        assert_eq!(
            cluster.image.partition_of_group(partition.group),
            Some((topic, partition.index))
        );
    }
    assert_eq!(topic.partition(1).map(|p| p.group), Some(GroupId(2)));
    assert_eq!(topic.partition(2), None);
    assert_eq!(topic.partition(-1), None);
    assert_eq!(
        cluster.image.load(1),
        Load {
            preferred: 2,
            replicas: 2
        }
    );
}

#[test]
fn a_command_that_comes_too_late_changes_nothing() {
    let mut cluster = Cluster::single();
    cluster.apply(&create("a.b", 7));
    let before = cluster.image.clone();
    for (command, expected) in [
        (create("a.b", 8), ErrorCode::TopicAlreadyExists),
        (create("a_b", 8), ErrorCode::InvalidTopic),
        (create("c", 7), ErrorCode::InvalidRequest),
        (create("c", 0), ErrorCode::InvalidRequest),
        (
            Command::DeleteTopic { id: topic_id(8) },
            ErrorCode::UnknownTopicId,
        ),
        (
            Command::AddPartitions {
                id: topic_id(7),
                from: 1,
                partitions: vec![vec![1]],
            },
            ErrorCode::InvalidPartitions,
        ),
        (
            Command::AddPartitions {
                id: topic_id(8),
                from: 2,
                partitions: vec![vec![1]],
            },
            ErrorCode::UnknownTopicId,
        ),
        (
            Command::AddPartitions {
                id: topic_id(7),
                from: 2,
                partitions: vec![vec![1, 1]],
            },
            ErrorCode::InvalidReplicaAssignment,
        ),
        (
            Command::AlterConfigs {
                resource: ConfigResource::Topic("gone".into()),
                sets: map(&[("retention.ms", "1")]),
                removes: vec![],
            },
            ErrorCode::UnknownTopicOrPartition,
        ),
        (
            Command::FenceBroker {
                id: 9,
                epoch: 0,
                fenced: true,
            },
            ErrorCode::BrokerIdNotRegistered,
        ),
        (
            Command::FenceBroker {
                id: 1,
                epoch: 0,
                fenced: true,
            },
            ErrorCode::StaleBrokerEpoch,
        ),
        (
            Command::UnregisterBroker { id: 9 },
            ErrorCode::BrokerIdNotRegistered,
        ),
    ] {
        assert_eq!(refused(&cluster.apply(&command)), expected, "{command:?}");
    }
    let expected = Image {
        last_offset: cluster.image.last_offset,
        ..before
    };
    assert_eq!(cluster.image, expected);
}

#[test]
fn behaviour_19_a_recreated_topic_has_new_id_and_groups() {
    let mut cluster = Cluster::single();
    cluster.apply(&create("t", 7));
    cluster.apply(&Command::DeleteTopic { id: topic_id(7) });
    assert_eq!(cluster.image.topic("t"), None);
    assert_eq!(cluster.image.partition_of_group(GroupId(1)), None);
    assert_eq!(cluster.image.load(1), Load::default());
    cluster.apply(&create("t", 8));
    let groups: Vec<GroupId> = cluster
        .image
        .topic("t")
        .expect("created")
        .partitions
        .iter()
        .map(|p| p.group)
        .collect();
    assert_eq!(groups, [GroupId(3), GroupId(4)]);
}

#[test]
fn partitions_are_added_at_the_end() {
    let mut cluster = Cluster::single();
    cluster.apply(&create("t", 7));
    let outcome = cluster.apply(&Command::AddPartitions {
        id: topic_id(7),
        from: 2,
        partitions: vec![vec![1]],
    });
    assert_eq!(outcome, Outcome::Done);
    let topic = cluster.image.topic("t").expect("exists");
    assert_eq!(
        topic
            .partitions
            .iter()
            .map(|p| (p.index, p.group.0))
            .collect::<Vec<_>>(),
        [(0, 1), (1, 2), (2, 3)]
    );
    assert_eq!(topic.configs, map(&[("retention.ms", "1")]));
}

#[test]
fn overrides_of_a_topic_go_with_it() {
    let mut cluster = Cluster::single();
    cluster.apply(&create("t", 7));
    cluster.apply(&Command::DeleteTopic { id: topic_id(7) });
    cluster.apply(&Command::CreateTopic {
        name: "t".into(),
        id: topic_id(8),
        partitions: vec![vec![1]],
        configs: map(&[]),
    });
    assert_eq!(
        cluster.image.configs(&ConfigResource::Topic("t".into())),
        None
    );
}

#[test]
fn producer_id_blocks_never_overlap() {
    let mut cluster = Cluster::single();
    let allocate = Command::AllocateProducerIds {
        broker: 1,
        count: 1000,
    };
    assert_eq!(
        cluster.apply(&allocate),
        Outcome::ProducerIds {
            first: 0,
            count: 1000
        }
    );
    assert_eq!(
        cluster.apply(&allocate),
        Outcome::ProducerIds {
            first: 1000,
            count: 1000
        }
    );
}

#[test]
fn brokers_come_back_and_are_fenced_by_their_epoch() {
    let mut cluster = Cluster::new(&[None, Some("r")]);
    let epoch = cluster.image.broker(2).expect("registered").epoch;
    cluster.apply(&Command::FenceBroker {
        id: 2,
        epoch,
        fenced: true,
    });
    assert_eq!(
        cluster
            .image
            .live_brokers()
            .map(|b| b.id)
            .collect::<Vec<_>>(),
        [1]
    );
    cluster.apply(&Command::RegisterBroker(registration(2, Some("r"))));
    assert_eq!(cluster.image.live_brokers().count(), 2);
    let stale = cluster.apply(&Command::FenceBroker {
        id: 2,
        epoch,
        fenced: true,
    });
    assert_eq!(refused(&stale), ErrorCode::StaleBrokerEpoch);
}

#[test]
fn the_features_epoch_grows() {
    let mut cluster = Cluster::single();
    let before = cluster.image.features_epoch();
    cluster.apply(&Command::SetFeature {
        name: "f".into(),
        level: 2,
    });
    assert!(cluster.image.features_epoch() > before && before >= 0);
    assert_eq!(cluster.image.features().collect::<Vec<_>>(), [("f", 2)]);
    cluster.apply(&Command::SetFeature {
        name: "f".into(),
        level: 0,
    });
    assert_eq!(cluster.image.feature("f"), 0);
}

#[test]
fn behaviour_26_topics_are_paged_in_order() {
    let cluster = Cluster::single()
        .with_topic("b", 1, &[])
        .with_topic("a", 1, &[])
        .with_topic("d", 1, &[]);
    let from = |name| {
        cluster
            .image
            .topics_from(name)
            .map(|topic| &*topic.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(from(""), ["a", "b", "d"]);
    assert_eq!(from("b"), ["b", "d"]);
    assert_eq!(from("c"), ["d"]);
    assert!(from("e").is_empty());
}

#[test]
#[should_panic(expected = "applied after")]
fn a_command_is_never_applied_twice() {
    let image = Image::new();
    let (image, _) = image.apply(
        0,
        &Command::Found {
            cluster_id: "x".into(),
        },
    );
    let _ = image.apply(
        0,
        &Command::Found {
            cluster_id: "x".into(),
        },
    );
}

#[test]
fn many_topics_are_cheap() {
    let mut image = Image::new();
    for number in 0..10_000_u32 {
        let (next, outcome) = image.apply(
            i64::from(number),
            &create(&format!("topic-{number}"), u128::from(number) + 1),
        );
        assert_eq!(outcome, Outcome::Done);
        image = next;
    }
    assert_eq!(
        (image.topic_count(), image.partition_count()),
        (10_000, 20_000)
    );
    assert_eq!(image.check(), Ok(()));
}

#[test]
fn the_stored_form_of_version_1_is_read() {
    let stored = br#"{"version":1,"value":{"cluster_id":"c","topics":[{"id":"00000000-0000-0000-0000-000000000007",
        "name":"t","partitions":[{"index":0,"group":3,"replicas":[1]}],"configs":{"retention.ms":"1"}}],
        "brokers":[{"id":1,"incarnation":"00000000-0000-0000-0000-000000000001","epoch":4,"rack":null,
        "endpoints":{"PLAINTEXT":{"host":"h","port":9092}},"fenced":false}],
        "configs":[[{"broker":null},{"log.retention.ms":"5"}],[{"topic":"x"},{}]],"features":{"metadata.version":30},
        "features_epoch":2,"next_group":4,"next_producer_id":1000,"last_offset":9}}"#;
    let image = Image::decode(stored).expect("version 1");
    assert_eq!(
        image.topic("t").expect("stored").partitions[0].group,
        GroupId(3)
    );
    assert_eq!(
        image.broker(1).expect("stored").endpoints["PLAINTEXT"].port,
        9092
    );
    assert_eq!(
        image.configs(&ConfigResource::Broker(None)),
        Some(&map(&[("log.retention.ms", "5")]))
    );
    assert_eq!(
        (
            image.last_offset(),
            image.next_group(),
            image.next_producer_id()
        ),
        (9, GroupId(4), 1000)
    );
}

#[test]
fn inconsistent_images_are_not_read() {
    let cluster = Cluster::single().with_topic("a.b", 2, &[]);
    let good = String::from_utf8(cluster.image.encode()).expect("JSON");
    for (from, to) in [
        ("\"next_group\":3", "\"next_group\":2"),
        ("\"group\":2", "\"group\":1"),
        ("\"index\":1", "\"index\":5"),
        ("\"replicas\":[1]", "\"replicas\":[]"),
        ("\"replicas\":[1]", "\"replicas\":[1,1]"),
        ("-000000000001\",\"name\"", "-000000000000\",\"name\""),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        let bad = good.replacen(from, to, 1);
        assert!(
            matches!(
                Image::decode(bad.as_bytes()),
                Err(DecodeError::Malformed { .. })
            ),
            "{to}"
        );
    }
    let newer = good.replace("\"version\":1", "\"version\":2");
    assert!(matches!(
        Image::decode(newer.as_bytes()),
        Err(DecodeError::NewerVersion { found: 2, .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_commands_keep_the_invariants_and_apply_alike(commands in vec(any_command(), 0..40)) {
        let mut image = Image::new();
        let mut replica = Image::new();
        for (offset, command) in (0..).zip(&commands) {
            let (next, outcome) = image.apply(offset, command);
            prop_assert_eq!(next.check(), Ok(()), "after {:?}", command);
            let stored = Command::decode(&command.encode()).expect("what was encoded");
            let (replicated, same) = replica.apply(offset, &stored);
            prop_assert_eq!(&outcome, &same);
            prop_assert_eq!(&next, &replicated);
            prop_assert!(next.next_group() >= image.next_group() && next.next_producer_id() >= image.next_producer_id());
            image = next;
            // A replica that starts from a snapshot goes on the same.
            replica = Image::decode(&image.encode()).expect("what was encoded");
            prop_assert_eq!(&image, &replica);
        }
    }
}
