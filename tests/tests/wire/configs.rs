//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs: behaviours 107 and 111 to 114.

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::describe_configs_request::DescribeConfigsResource;
use klamm_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use klamm_protocol::messages::{
    AlterConfigsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest, alter_configs_request, incremental_alter_configs_request,
};

use crate::batches::sized;
use crate::calls::{code, connect_and_create, create, produce, text, try_produce};
use crate::rig::{connect, connect_to, eventually, ours, ours_only, start, unique};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;
/// Sources of a value.
const OF_TOPIC: i8 = 1;
const OF_BROKER: i8 = 2;
const OF_CLUSTER: i8 = 3;
const STATIC: i8 = 4;
const DEFAULT: i8 = 5;

async fn ask(
    connection: &Connection,
    version: i16,
    kind: i8,
    resource: &str,
    keys: Option<&[&str]>,
) -> Result<DescribeConfigsResult> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true)
        .with_include_documentation(version >= 3);
    let mut response = connection.send_version(version, &request).await?;
    ensure!(response.results.len() == 1, "{response:?}");
    Ok(response.results.remove(0))
}

/// One key of a resource.
async fn config(
    connection: &Connection,
    kind: i8,
    resource: &str,
    key: &str,
) -> Result<DescribeConfigsResourceResult> {
    let mut result = ask(connection, 4, kind, resource, Some(&[key])).await?;
    ensure!(result.error_code == 0, "{result:?}");
    ensure!(result.configs.len() == 1, "{key}: {result:?}");
    Ok(result.configs.remove(0))
}

/// Waits until a key of a topic has a value from a source.
async fn expect(
    connection: &Connection,
    topic: &str,
    key: &str,
    value: &str,
    source: i8,
) -> Result<()> {
    eventually(&format!("{key}={value} from {source}"), || async {
        let found = config(connection, TOPIC, topic, key).await?;
        Ok((found.value.as_deref() == Some(value) && found.config_source == source).then_some(()))
    })
    .await
}

type Change<'a> = (&'a str, i8, Option<&'a str>);

fn incremental(
    kind: i8,
    resource: &str,
    changes: &[Change<'_>],
) -> incremental_alter_configs_request::AlterConfigsResource {
    let configs = changes.iter().map(|(key, operation, value)| {
        incremental_alter_configs_request::AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    });
    incremental_alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configs(configs.collect())
}

async fn alter(connection: &Connection, topic: &str, changes: &[Change<'_>]) -> Result<ErrorCode> {
    let request = IncrementalAlterConfigsRequest::default()
        .with_resources(vec![incremental(TOPIC, topic, changes)]);
    let response = connection.send(&request).await?;
    ensure!(response.responses.len() == 1, "{response:?}");
    let answer = &response.responses[0];
    let told = answer
        .error_message
        .as_ref()
        .is_some_and(|words| !words.is_empty());
    ensure!(told || [0, -1].contains(&answer.error_code), "{answer:?}");
    Ok(code(answer.error_code))
}

async fn replace(
    connection: &Connection,
    topic: &str,
    configs: &[(&str, &str)],
    validate_only: bool,
) -> Result<ErrorCode> {
    let configs = configs.iter().map(|(key, value)| {
        alter_configs_request::AlterableConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    });
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configs(configs.collect());
    let request = AlterConfigsRequest::default()
        .with_resources(vec![resource])
        .with_validate_only(validate_only);
    Ok(code(
        connection.send(&request).await?.responses[0].error_code,
    ))
}

async fn broker(connection: &Connection) -> Result<String> {
    let response = connection
        .send(&DescribeClusterRequest::default().with_endpoint_type(1))
        .await?;
    Ok(response.controller_id.0.to_string())
}

#[tokio::test]
async fn behaviour_107_only_what_was_given_is_the_topics_own() -> Result<()> {
    let connection = connect().await?;
    let topic = create(
        &connection,
        1,
        &[("retention.ms", "604800000"), ("segment.bytes", "2097152")],
    )
    .await?;
    let all = ask(&connection, 4, TOPIC, &topic.name, None).await?;
    let own: Vec<String> = all
        .configs
        .iter()
        .filter(|config| config.config_source == OF_TOPIC)
        .map(|config| config.name.to_string())
        .collect();
    ensure!(
        own.len() == 2
            && own.contains(&"retention.ms".to_owned())
            && own.contains(&"segment.bytes".to_owned()),
        "equal to the default is given, too: {own:?}"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_113_null_and_empty_keys_mean_all() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in 1..=4 {
        let all = ask(&connection, version, TOPIC, &topic.name, None).await?;
        assert_eq!(code(all.error_code), ErrorCode::NONE);
        ensure!(all.configs.len() >= 25, "{} keys", all.configs.len());
        let empty = ask(&connection, version, TOPIC, &topic.name, Some(&[])).await?;
        assert_eq!(empty.configs.len(), all.configs.len(), "version {version}");
        let some = ask(
            &connection,
            version,
            TOPIC,
            &topic.name,
            Some(&["retention.ms", "no.such.key", "cleanup.policy"]),
        )
        .await?;
        let mut names: Vec<String> = some
            .configs
            .iter()
            .map(|config| config.name.to_string())
            .collect();
        names.sort();
        assert_eq!(names, ["cleanup.policy", "retention.ms"]);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_113_every_topic_key_of_kafka_is_told_with_its_default() -> Result<()> {
    const MAX: &str = "9223372036854775807";
    let (connection, topic) = connect_and_create().await?;
    for (key, value, kind) in [
        ("cleanup.policy", "delete", 7),
        ("compression.type", "producer", 2),
        ("compression.gzip.level", "-1", 3),
        ("compression.lz4.level", "9", 3),
        ("compression.zstd.level", "3", 3),
        ("delete.retention.ms", "86400000", 5),
        ("file.delete.delay.ms", "60000", 5),
        ("flush.messages", MAX, 5),
        ("flush.ms", MAX, 5),
        ("index.interval.bytes", "4096", 3),
        ("max.compaction.lag.ms", MAX, 5),
        ("max.message.bytes", "1048588", 3),
        ("message.timestamp.type", "CreateTime", 2),
        ("message.timestamp.before.max.ms", MAX, 5),
        ("message.timestamp.after.max.ms", "3600000", 5),
        ("min.cleanable.dirty.ratio", "0.5", 6),
        ("min.compaction.lag.ms", "0", 5),
        ("min.insync.replicas", "1", 3),
        ("preallocate", "false", 1),
        ("retention.bytes", "-1", 5),
        ("retention.ms", "604800000", 5),
        ("segment.bytes", "1073741824", 3),
        ("segment.index.bytes", "10485760", 3),
        ("segment.jitter.ms", "0", 5),
        ("segment.ms", "604800000", 5),
        ("unclean.leader.election.enable", "false", 1),
        ("leader.replication.throttled.replicas", "", 7),
        ("follower.replication.throttled.replicas", "", 7),
    ] {
        let found = config(&connection, TOPIC, &topic.name, key).await?;
        assert_eq!(
            (found.value.as_deref(), found.config_type),
            (Some(value), kind),
            "{key}"
        );
        // Kafka sets min.insync.replicas for the cluster when eligible leader replicas are on.
        let set = [DEFAULT, STATIC, OF_CLUSTER].contains(&found.config_source);
        ensure!(set, "{key}: {}", found.config_source);
        ensure!(!found.read_only && !found.is_sensitive, "{key}");
        ensure!(
            found.documentation.is_some_and(|words| words.len() > 10),
            "{key} is not documented"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_113_synonyms_come_in_order_of_precedence() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("max.message.bytes", "5000")]).await?;
    for version in 1..=4 {
        let found = ask(
            &connection,
            version,
            TOPIC,
            &topic.name,
            Some(&["max.message.bytes"]),
        )
        .await?;
        let synonyms: Vec<_> = found.configs[0]
            .synonyms
            .iter()
            .map(|synonym| {
                (
                    synonym.name.to_string(),
                    synonym.value.as_ref().map(ToString::to_string),
                    synonym.source,
                )
            })
            .collect();
        let expected = [
            (
                "max.message.bytes".to_owned(),
                Some("5000".to_owned()),
                OF_TOPIC,
            ),
            (
                "message.max.bytes".to_owned(),
                Some("1048588".to_owned()),
                DEFAULT,
            ),
        ];
        assert_eq!(synonyms, expected, "version {version}");
        let kind = if version >= 3 { 3 } else { 0 };
        assert_eq!(found.configs[0].config_type, kind, "version {version}");
        let documented = found.configs[0]
            .documentation
            .as_ref()
            .is_some_and(|words| !words.is_empty());
        assert_eq!(documented, version >= 3, "version {version}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_113_brokers_are_described() -> Result<()> {
    let connection = connect().await?;
    let here = broker(&connection).await?;
    let all = ask(&connection, 4, BROKER, &here, None).await?;
    assert_eq!(code(all.error_code), ErrorCode::NONE);
    for key in [
        "listeners",
        "advertised.listeners",
        "log.dirs",
        "num.partitions",
        "default.replication.factor",
        "min.insync.replicas",
        "auto.create.topics.enable",
        "delete.topic.enable",
        "message.max.bytes",
        "log.retention.ms",
        "log.retention.minutes",
        "log.retention.hours",
        "log.retention.bytes",
        "log.segment.bytes",
        "offsets.topic.num.partitions",
        "offsets.topic.replication.factor",
        "transaction.state.log.num.partitions",
        "transaction.state.log.replication.factor",
        "transaction.state.log.min.isr",
        "compression.type",
        "unclean.leader.election.enable",
        "node.id",
    ] {
        let found = all.configs.iter().find(|config| &*config.name == key);
        let found = found.with_context(|| format!("{key} is not told"))?;
        let fixed = [
            "node.id",
            "num.partitions",
            "log.dirs",
            "delete.topic.enable",
            "log.retention.hours",
        ];
        if fixed.contains(&key) {
            ensure!(found.read_only, "{key} cannot be changed at run time");
        }
        if ["message.max.bytes", "log.retention.ms", "compression.type"].contains(&key) {
            ensure!(!found.read_only, "{key} can be changed at run time");
        }
    }
    let id = all
        .configs
        .iter()
        .find(|config| &*config.name == "node.id")
        .context("node.id")?;
    assert_eq!(
        (id.value.as_deref(), id.config_source),
        (Some(&*here), STATIC)
    );
    let passwords = all.configs.iter().filter(|config| config.config_type == 9);
    for password in passwords {
        ensure!(
            password.is_sensitive && password.value.is_none(),
            "{}",
            &*password.name
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_113_resources_that_are_not_here() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let missing = ask(&connection, 4, TOPIC, &unique("missing"), None).await?;
    assert_eq!(
        code(missing.error_code),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    let invalid = ask(&connection, 4, TOPIC, "a b", None).await?;
    assert_eq!(code(invalid.error_code), ErrorCode::INVALID_TOPIC_EXCEPTION);
    for wrong in ["4711", "-5", "one"] {
        let found = ask(&connection, 4, BROKER, wrong, None).await?;
        assert_eq!(
            code(found.error_code),
            ErrorCode::INVALID_REQUEST,
            "{wrong}"
        );
    }
    let unknown = ask(&connection, 4, 77, &topic.name, None).await?;
    assert_eq!(code(unknown.error_code), ErrorCode::INVALID_REQUEST);
    let cluster = ask(&connection, 4, BROKER, "", None).await?;
    assert_eq!(code(cluster.error_code), ErrorCode::NONE);
    ensure!(
        cluster
            .configs
            .iter()
            .all(|config| config.config_source == OF_CLUSTER),
        "only what was set: {cluster:?}"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_111_values_are_set_and_deleted() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let topic = &topic.name;
    assert_eq!(
        alter(
            &connection,
            topic,
            &[("retention.ms", SET, Some("1000000"))]
        )
        .await?,
        ErrorCode::NONE
    );
    expect(&connection, topic, "retention.ms", "1000000", OF_TOPIC).await?;
    let changes = [("retention.ms", DELETE, None), ("flush.ms", SET, Some("5"))];
    assert_eq!(alter(&connection, topic, &changes).await?, ErrorCode::NONE);
    expect(&connection, topic, "retention.ms", "604800000", DEFAULT).await?;
    expect(&connection, topic, "flush.ms", "5", OF_TOPIC).await?;
    // Deleting what is not there is fine, whatever value comes with it.
    assert_eq!(
        alter(&connection, topic, &[("retention.ms", DELETE, Some("7"))]).await?,
        ErrorCode::NONE
    );
    // A value like the default is still the topic's own.
    assert_eq!(
        alter(
            &connection,
            topic,
            &[("retention.ms", SET, Some("604800000"))]
        )
        .await?,
        ErrorCode::NONE
    );
    expect(&connection, topic, "retention.ms", "604800000", OF_TOPIC).await
}

#[tokio::test]
async fn behaviour_111_lists_are_appended_to_and_subtracted_from() -> Result<()> {
    const KEY: &str = "leader.replication.throttled.replicas";
    let (connection, topic) = connect_and_create().await?;
    let topic = &topic.name;
    for (operation, value, expected) in [
        (SET, "0:1", "0:1"),
        (APPEND, "0:2,0:3", "0:1,0:2,0:3"),
        (APPEND, "0:2", "0:1,0:2,0:3"),
        (SUBTRACT, "0:1,9:9", "0:2,0:3"),
    ] {
        assert_eq!(
            alter(&connection, topic, &[(KEY, operation, Some(value))]).await?,
            ErrorCode::NONE
        );
        expect(&connection, topic, KEY, expected, OF_TOPIC).await?;
    }
    for operation in [APPEND, SUBTRACT] {
        let answer = alter(
            &connection,
            topic,
            &[("retention.ms", operation, Some("5"))],
        )
        .await?;
        assert_eq!(
            answer,
            ErrorCode::INVALID_CONFIG,
            "operation {operation} on a number"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_111_what_cannot_be_is_refused() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let topic = &topic.name;
    let (config, request) = (ErrorCode::INVALID_CONFIG, ErrorCode::INVALID_REQUEST);
    let cases: [(&str, &[Change<'_>], ErrorCode); 8] = [
        ("null", &[("retention.ms", SET, None)], request),
        ("unknown key", &[("no.such.key", SET, Some("1"))], config),
        (
            "deleting an unknown key",
            &[("no.such.key", DELETE, None)],
            ErrorCode::NONE,
        ),
        ("no number", &[("retention.ms", SET, Some("soon"))], config),
        ("too small", &[("segment.bytes", SET, Some("14"))], config),
        (
            "a key twice",
            &[
                ("retention.ms", SET, Some("1")),
                ("retention.ms", DELETE, None),
            ],
            request,
        ),
        (
            "unknown operation",
            &[("retention.ms", 9, Some("1"))],
            request,
        ),
        ("empty key", &[("", SET, Some("1"))], config),
    ];
    for (what, changes, expected) in cases {
        let found = alter(&connection, topic, changes).await?;
        if found != ErrorCode::UNKNOWN_SERVER_ERROR || ours() {
            // Kafka fails inside over an operation it does not know.
            assert_eq!(found, expected, "{what}");
        }
    }
    // All or nothing in one resource.
    let changes = [
        ("flush.ms", SET, Some("7")),
        ("retention.ms", SET, Some("soon")),
    ];
    assert_eq!(alter(&connection, topic, &changes).await?, config);
    expect(
        &connection,
        topic,
        "flush.ms",
        "9223372036854775807",
        DEFAULT,
    )
    .await?;
    assert_eq!(
        alter(&connection, &unique("missing"), &[]).await?,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_111_resources_do_not_depend_on_each_other() -> Result<()> {
    let connection = connect().await?;
    let (good, bad) = (
        create(&connection, 1, &[]).await?,
        create(&connection, 1, &[]).await?,
    );
    for version in 0..=1 {
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![
            incremental(TOPIC, &bad.name, &[("retention.ms", SET, Some("soon"))]),
            incremental(
                TOPIC,
                &good.name,
                &[("retention.ms", SET, Some(&format!("{version}00000")))],
            ),
        ]);
        let response = connection.send_version(version, &request).await?;
        let found = |topic: &str| {
            let answer = response
                .responses
                .iter()
                .find(|answer| &*answer.resource_name == topic);
            answer.map(|answer| code(answer.error_code))
        };
        assert_eq!(found(&bad.name), Some(ErrorCode::INVALID_CONFIG));
        assert_eq!(found(&good.name), Some(ErrorCode::NONE));
    }
    expect(&connection, &good.name, "retention.ms", "100000", OF_TOPIC).await
}

#[tokio::test]
async fn behaviour_111_validate_only_changes_nothing() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for (value, expected) in [
        ("1000000", ErrorCode::NONE),
        ("soon", ErrorCode::INVALID_CONFIG),
    ] {
        let resource = incremental(TOPIC, &topic.name, &[("retention.ms", SET, Some(value))]);
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(vec![resource])
            .with_validate_only(true);
        let response = connection.send(&request).await?;
        assert_eq!(code(response.responses[0].error_code), expected);
        assert_eq!(
            replace(&connection, &topic.name, &[("retention.ms", value)], true).await?,
            expected
        );
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    expect(
        &connection,
        &topic.name,
        "retention.ms",
        "604800000",
        DEFAULT,
    )
    .await
}

#[tokio::test]
async fn behaviour_112_alter_configs_replaces_everything() -> Result<()> {
    let connection = connect().await?;
    let topic = create(
        &connection,
        1,
        &[("retention.ms", "1000000"), ("flush.ms", "5")],
    )
    .await?;
    let topic = &topic.name;
    assert_eq!(
        replace(
            &connection,
            topic,
            &[("flush.ms", "6"), ("segment.ms", "7")],
            false
        )
        .await?,
        ErrorCode::NONE
    );
    expect(&connection, topic, "flush.ms", "6", OF_TOPIC).await?;
    expect(&connection, topic, "segment.ms", "7", OF_TOPIC).await?;
    expect(&connection, topic, "retention.ms", "604800000", DEFAULT).await?;
    assert_eq!(
        replace(&connection, topic, &[("flush.ms", "soon")], false).await?,
        ErrorCode::INVALID_CONFIG
    );
    expect(&connection, topic, "segment.ms", "7", OF_TOPIC).await?;
    assert_eq!(
        replace(&connection, topic, &[], false).await?,
        ErrorCode::NONE
    );
    expect(&connection, topic, "segment.ms", "604800000", DEFAULT).await?;
    let missing = replace(&connection, &unique("missing"), &[("flush.ms", "1")], false).await?;
    assert_eq!(missing, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    Ok(())
}

#[tokio::test]
async fn changes_take_effect_at_once() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, sized(2000)).await?;
    alter(
        &connection,
        &topic.name,
        &[("max.message.bytes", SET, Some("1000"))],
    )
    .await?;
    eventually("the limit holds", || async {
        let answer = try_produce(&connection, &topic, 0, sized(2000)).await?;
        Ok((code(answer.error_code) == ErrorCode::MESSAGE_TOO_LARGE).then_some(()))
    })
    .await?;
    alter(
        &connection,
        &topic.name,
        &[("max.message.bytes", DELETE, None)],
    )
    .await?;
    eventually("the limit is gone", || async {
        let answer = try_produce(&connection, &topic, 0, sized(2000)).await?;
        Ok((code(answer.error_code) == ErrorCode::NONE).then_some(()))
    })
    .await
}

/// Defaults of the cluster and of a broker reach the topics that have no value of their own.
#[tokio::test]
async fn behaviour_113_dynamic_broker_values_are_defaults_of_topics() -> Result<()> {
    ours_only!();
    let own = start(&["log.retention.ms=5000000"])?;
    let connection = connect_to(&own.broker.address).await?;
    let here = broker(&connection).await?;
    let topic = create(&connection, 1, &[]).await?;
    expect(&connection, &topic.name, "retention.ms", "5000000", STATIC).await?;
    for (resource, value, source) in [("", "6000000", OF_CLUSTER), (&*here, "7000000", OF_BROKER)] {
        let change = incremental(BROKER, resource, &[("log.retention.ms", SET, Some(value))]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![change]);
        let response = connection.send(&request).await?;
        let answer = &response.responses[0];
        if resource == here && code(answer.error_code) == ErrorCode::INVALID_CONFIG {
            // Cluster-wide keys may be refused for one broker.
            continue;
        }
        assert_eq!(
            code(answer.error_code),
            ErrorCode::NONE,
            "{:?}",
            answer.error_message
        );
        expect(&connection, &topic.name, "retention.ms", value, source).await?;
    }
    let change = incremental(BROKER, &here, &[("node.id", SET, Some("9"))]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![change]);
    let response = connection.send(&request).await?;
    assert_ne!(
        code(response.responses[0].error_code),
        ErrorCode::NONE,
        "node.id cannot change"
    );
    Ok(())
}
