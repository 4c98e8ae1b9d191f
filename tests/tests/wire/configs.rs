//! DescribeConfigs: behaviours 107, 113 and 114.

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::describe_configs_request::DescribeConfigsResource;
use klamm_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use klamm_protocol::messages::{DescribeClusterRequest, DescribeConfigsRequest};

use crate::calls::{code, connect_and_create, create, text};
use crate::rig::{connect, eventually, unique};

pub(crate) const TOPIC: i8 = 2;
pub(crate) const BROKER: i8 = 4;
/// Sources of a value.
pub(crate) const OF_TOPIC: i8 = 1;
pub(crate) const OF_BROKER: i8 = 2;
pub(crate) const OF_CLUSTER: i8 = 3;
pub(crate) const STATIC: i8 = 4;
pub(crate) const DEFAULT: i8 = 5;

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
pub(crate) async fn expect(
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

pub(crate) async fn broker(connection: &Connection) -> Result<String> {
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

/// Connect and Streams start only if the topics they made have what they asked for.
#[tokio::test]
async fn behaviour_114_what_was_given_is_read_back_word_for_word() -> Result<()> {
    let connection = connect().await?;
    let given = [
        ("cleanup.policy", "delete"),
        ("min.insync.replicas", "1"),
        ("retention.ms", "-1"),
        ("retention.bytes", "123456789"),
        ("segment.bytes", "52428800"),
        ("message.timestamp.type", "CreateTime"),
    ];
    let topic = create(&connection, 1, &given).await?;
    for (key, value) in given {
        expect(&connection, &topic.name, key, value, OF_TOPIC).await?;
    }
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
