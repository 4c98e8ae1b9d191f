//! Tests by behaviour number.

use super::*;
use crate::ErrorCode;
use crate::testing::{Cluster, code, map};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn change(resource_type: i8, name: &str, configs: &[(&str, i8, Option<&str>)]) -> ResourceChange {
    let configs = configs.iter().map(|(name, operation, value)| ConfigChange {
        name: (*name).into(),
        operation: *operation,
        value: value.map(str::to_owned),
    });
    ResourceChange {
        resource_type,
        resource_name: name.into(),
        configs: configs.collect(),
    }
}

fn topic(configs: &[(&str, i8, Option<&str>)]) -> ResourceChange {
    change(2, "t", configs)
}

fn one(cluster: &Cluster, item: ResourceChange) -> Verdict<ConfigResource> {
    incremental_alter_configs(cluster.context(), &[item], false).remove(0)
}

fn overrides(cluster: &Cluster) -> BTreeMap<String, String> {
    cluster.image.topic("t").expect("exists").configs.clone()
}

#[test]
fn behaviour_111_refusals() {
    let cluster = Cluster::single().with_topic("t", 1, &[]);
    for (item, expected) in [
        (
            topic(&[("retention.ms", SET, None)]),
            ErrorCode::InvalidRequest,
        ),
        (
            topic(&[("retention.ms", SET, Some("x"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("retention.ms", APPEND, Some("1"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("retention.ms", SUBTRACT, Some("1"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("no.such.key", SET, Some("1"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("no.such.key", APPEND, Some("1"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("retention.ms", 9, Some("1"))]),
            ErrorCode::InvalidRequest,
        ),
        (
            topic(&[
                ("retention.ms", SET, Some("1")),
                ("retention.ms", DELETE, None),
            ]),
            ErrorCode::InvalidRequest,
        ),
        (
            topic(&[("cleanup.policy", SET, Some("compacted"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("cleanup.policy", APPEND, Some("compacted"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("unclean.leader.election.enable", SET, Some("true"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("remote.storage.enable", SET, Some("true"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("message.format.version", SET, Some("2.8"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[("segment.bytes", SET, Some("1000"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            topic(&[
                ("max.compaction.lag.ms", SET, Some("5")),
                ("min.compaction.lag.ms", SET, Some("6")),
            ]),
            ErrorCode::InvalidConfig,
        ),
    ] {
        assert_eq!(code(&one(&cluster, item.clone())), expected, "{item:?}");
    }
}

#[test]
fn behaviour_111_refusals_by_resource() {
    let cluster = Cluster::single().with_topic("t", 1, &[]);
    for (item, expected) in [
        (
            change(2, "gone", &[("retention.ms", SET, Some("1"))]),
            ErrorCode::UnknownTopicOrPartition,
        ),
        (change(2, "", &[]), ErrorCode::InvalidRequest),
        (change(4, "2", &[]), ErrorCode::InvalidRequest),
        (
            change(4, "", &[("num.partitions", SET, Some("2"))]),
            ErrorCode::InvalidRequest,
        ),
        (
            change(4, "", &[("ssl.keystore.location", SET, Some("f"))]),
            ErrorCode::InvalidRequest,
        ),
        (
            change(4, "1", &[("message.max.bytes", SET, Some("x"))]),
            ErrorCode::InvalidRequest,
        ),
        (
            change(4, "1", &[("no.such.key", SET, Some("x"))]),
            ErrorCode::InvalidConfig,
        ),
        (
            change(16, "m", &[("interval.ms", SET, Some("1"))]),
            ErrorCode::InvalidConfig,
        ),
        (change(8, "1", &[]), ErrorCode::InvalidRequest),
    ] {
        assert_eq!(code(&one(&cluster, item.clone())), expected, "{item:?}");
    }
}

#[test]
fn behaviour_111_operations() {
    let mut cluster = Cluster::single().with_topic("t", 1, &[("segment.ms", "5")]);
    for (operations, expected) in [
        (
            vec![("retention.ms", SET, Some("604800000"))],
            map(&[("retention.ms", "604800000"), ("segment.ms", "5")]),
        ),
        (
            vec![
                ("retention.ms", DELETE, None),
                ("segment.ms", DELETE, Some("ignored")),
            ],
            map(&[]),
        ),
        (
            vec![(
                "follower.replication.throttled.replicas",
                APPEND,
                Some("0:1,1:1"),
            )],
            map(&[("follower.replication.throttled.replicas", "0:1,1:1")]),
        ),
        (
            vec![(
                "follower.replication.throttled.replicas",
                APPEND,
                Some("1:1,2:1"),
            )],
            map(&[("follower.replication.throttled.replicas", "0:1,1:1,2:1")]),
        ),
        (
            vec![(
                "follower.replication.throttled.replicas",
                SUBTRACT,
                Some("1:1,9:9"),
            )],
            map(&[("follower.replication.throttled.replicas", "0:1,2:1")]),
        ),
        (
            vec![
                ("follower.replication.throttled.replicas", DELETE, None),
                ("cleanup.policy", SUBTRACT, Some("delete")),
            ],
            map(&[("cleanup.policy", "")]),
        ),
        (
            vec![("cleanup.policy", APPEND, Some("delete"))],
            map(&[("cleanup.policy", "delete")]),
        ),
        (
            vec![("not.set.and.unknown", DELETE, None)],
            map(&[("cleanup.policy", "delete")]),
        ),
    ] {
        let verdict = one(&cluster, topic(&operations));
        cluster.carry_out(verdict);
        assert_eq!(overrides(&cluster), expected, "{operations:?}");
    }
}

#[test]
fn behaviour_111_atomic_per_resource_independent_between_them() {
    let mut cluster = Cluster::single()
        .with_topic("t", 1, &[])
        .with_topic("u", 1, &[]);
    let half_bad = topic(&[
        ("retention.ms", SET, Some("1")),
        ("segment.ms", SET, Some("x")),
    ]);
    let good = change(2, "u", &[("retention.ms", SET, Some("1"))]);
    let mut verdicts =
        incremental_alter_configs(cluster.context(), &[half_bad, good.clone()], false);
    assert_eq!(code(&verdicts[0]), ErrorCode::InvalidConfig);
    cluster.carry_out(verdicts.remove(1));
    assert_eq!(overrides(&cluster), map(&[]));
    let twice = incremental_alter_configs(cluster.context(), &[good.clone(), good.clone()], false);
    assert!(
        twice
            .iter()
            .all(|verdict| code(verdict) == ErrorCode::InvalidRequest)
    );
    let again = incremental_alter_configs(cluster.context(), &[good], false).remove(0);
    assert_eq!(again.expect("allowed").command, None, "nothing changes");
}

#[test]
fn validate_only_plans_nothing() {
    let cluster = Cluster::single().with_topic("t", 1, &[]);
    let item = topic(&[("retention.ms", SET, Some("1"))]);
    let verdict = incremental_alter_configs(cluster.context(), &[item], true).remove(0);
    assert_eq!(verdict.expect("allowed").command, None);
}

#[test]
fn an_override_of_a_newer_program_does_not_stand_in_the_way() {
    let mut cluster = Cluster::single().with_topic(
        "t",
        1,
        &[("key.of.the.future", "1"), ("cleanup.policy", "forget")],
    );
    let verdict = one(&cluster, topic(&[("retention.ms", SET, Some("1"))]));
    cluster.carry_out(verdict);
    assert_eq!(overrides(&cluster).len(), 3);
}

#[test]
fn behaviour_112_the_older_request_replaces_all() {
    let mut cluster =
        Cluster::single().with_topic("t", 1, &[("segment.ms", "5"), ("retention.ms", "5")]);
    let replace = |configs: &[(&str, Option<&str>)]| ResourceReplacement {
        resource_type: 2,
        resource_name: "t".into(),
        configs: configs
            .iter()
            .map(|(name, value)| ((*name).into(), value.map(str::to_owned)))
            .collect(),
    };
    for (configs, expected) in [
        (&[("retention.ms", None)][..], ErrorCode::InvalidRequest),
        (
            &[("retention.ms", Some("1")), ("retention.ms", Some("2"))],
            ErrorCode::InvalidRequest,
        ),
        (&[("no.such.key", Some("1"))], ErrorCode::InvalidConfig),
    ] {
        assert_eq!(
            code(&alter_configs(cluster.context(), &[replace(configs)], false)[0]),
            expected
        );
    }
    let verdict = alter_configs(
        cluster.context(),
        &[replace(&[("retention.ms", Some("6"))])],
        false,
    )
    .remove(0);
    cluster.carry_out(verdict);
    assert_eq!(overrides(&cluster), map(&[("retention.ms", "6")]));
    let verdict = alter_configs(cluster.context(), &[replace(&[])], false).remove(0);
    cluster.carry_out(verdict);
    assert_eq!(overrides(&cluster), map(&[]));
}

#[test]
fn broker_settings_change_at_run_time() {
    let mut cluster = Cluster::single();
    for (name, value) in [("", "7"), ("1", "8")] {
        let verdict = one(
            &cluster,
            change(4, name, &[("message.max.bytes", SET, Some(value))]),
        );
        cluster.carry_out(verdict);
        let settings = cluster.settings.with_dynamic(&cluster.image, 1);
        assert_eq!(settings.int("message.max.bytes").to_string(), value);
    }
    assert_eq!(
        cluster
            .settings
            .with_dynamic(&cluster.image, 2)
            .int("message.max.bytes"),
        7
    );
}
