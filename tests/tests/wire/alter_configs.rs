//! IncrementalAlterConfigs and AlterConfigs: behaviours 111 to 113.

use anyhow::{Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::{
    AlterConfigsRequest, IncrementalAlterConfigsRequest, alter_configs_request,
    incremental_alter_configs_request,
};

use crate::batches::sized;
use crate::calls::{code, connect_and_create, create, produce, text, try_produce};
use crate::configs::{
    BROKER, DEFAULT, OF_BROKER, OF_CLUSTER, OF_TOPIC, STATIC, TOPIC, broker, expect,
};
use crate::rig::{connect, connect_to, eventually, ours, ours_only, start, unique};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

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
