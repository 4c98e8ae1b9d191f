//! Group G: administration, as far as it needs no authorisation.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use klamm_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use klamm_protocol::messages::describe_configs_request::DescribeConfigsResource;
use klamm_protocol::messages::describe_producers_request::TopicRequest;
use klamm_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use klamm_protocol::messages::metadata_request::MetadataRequestTopic;
use klamm_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use klamm_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DescribeConfigsRequest,
    DescribeGroupsRequest, DescribeProducersRequest, GroupId, IncrementalAlterConfigsRequest,
    MetadataRequest, OffsetFetchRequest,
};

use crate::calls::{Topic, creatable, create, name, text};
use crate::rig::{self, CANARY, Target, after, ask, connect, framed, head, unique};
use crate::{Case, Expect, Found, case};

type Codes = &'static [ErrorCode];

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;

fn created(
    number: u16,
    what: &'static str,
    codes: Codes,
    change: fn(CreatableTopic) -> CreatableTopic,
) -> Case {
    Case::codes(number, what, codes, move || {
        let topic = change(creatable(&unique("refused"), 1, &[]));
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(2000);
        async move {
            Ok(ask(5, &request)
                .await?
                .map(|answer| answer.topics[0].error_code))
        }
    })
}

fn topics() -> Vec<Case> {
    const PARTITIONS: Codes = &[ErrorCode::INVALID_PARTITIONS, ErrorCode::POLICY_VIOLATION];
    const FACTOR: Codes = &[ErrorCode::INVALID_REPLICATION_FACTOR];
    const ASSIGNMENT: Codes = &[ErrorCode::INVALID_REPLICA_ASSIGNMENT];
    fn assigned(topic: CreatableTopic, brokers: &[i32]) -> CreatableTopic {
        let assignment = CreatableReplicaAssignment::default()
            .with_partition_index(0)
            .with_broker_ids(brokers.iter().map(|&id| BrokerId(id)).collect());
        topic
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(vec![assignment])
    }
    vec![
        created(122, "0 partitions", PARTITIONS, |topic| {
            topic.with_num_partitions(0)
        }),
        created(122, "-5 partitions", PARTITIONS, |topic| {
            topic.with_num_partitions(-5)
        }),
        created(122, "2^31-1 partitions", PARTITIONS, |topic| {
            topic.with_num_partitions(i32::MAX)
        }),
        created(123, "0 replicas", FACTOR, |topic| {
            topic.with_replication_factor(0)
        }),
        created(123, "4 replicas", FACTOR, |topic| {
            topic.with_replication_factor(4)
        }),
        created(123, "32,767 replicas", FACTOR, |topic| {
            topic.with_replication_factor(i16::MAX)
        }),
        created(124, "a broker twice", ASSIGNMENT, |topic| {
            assigned(topic, &[1, 1])
        }),
        created(124, "a broker that is not there", ASSIGNMENT, |topic| {
            assigned(topic, &[77])
        }),
        created(124, "a broker below 0", ASSIGNMENT, |topic| {
            assigned(topic, &[i32::MIN])
        }),
        created(124, "no broker", ASSIGNMENT, |topic| assigned(topic, &[])),
    ]
}

async fn altered(
    kind: i8,
    resource: String,
    configs: Vec<(String, String)>,
) -> Result<Option<i16>> {
    let configs = configs.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(SET)
            .with_value(Some(text(value)))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(&resource))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    Ok(ask(0, &request)
        .await?
        .map(|answer| answer.responses[0].error_code))
}

fn configs(topic: &Arc<Topic>) -> Vec<Case> {
    const CONFIG: Codes = &[ErrorCode::INVALID_CONFIG, ErrorCode::INVALID_REQUEST];
    let line = |number, what, codes, kind, configs: Vec<(&'static str, String)>| {
        let topic = topic.clone();
        Case::codes(number, what, codes, move || {
            let resource = if kind == TOPIC {
                topic.name.clone()
            } else {
                "1".to_owned()
            };
            let configs = configs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()));
            altered(kind, resource, configs.collect())
        })
    };
    let one = |key: &'static str, value: &str| vec![(key, value.to_owned())];
    let mut cases = vec![
        line(
            125,
            "an unknown key",
            CONFIG,
            TOPIC,
            one("no.such.key", CANARY),
        ),
        line(
            125,
            "a value that is no number",
            CONFIG,
            TOPIC,
            one("retention.ms", CANARY),
        ),
        line(
            125,
            "a value with a line feed",
            CONFIG,
            TOPIC,
            one("cleanup.policy", "delete\ncompact"),
        ),
        line(
            125,
            "a number beyond 64 bits",
            CONFIG,
            TOPIC,
            one("retention.ms", "99999999999999999999"),
        ),
        line(
            125,
            "a value of 32 KiB",
            CONFIG,
            TOPIC,
            one("cleanup.policy", &"x".repeat(32_000)),
        ),
        line(
            126,
            "a key twice",
            &[ErrorCode::INVALID_REQUEST],
            TOPIC,
            vec![
                ("retention.ms", "1000".to_owned()),
                ("retention.ms", "2000".to_owned()),
            ],
        ),
    ];
    for (key, value) in [
        ("log.dirs", "/etc"),
        (
            "sasl.jaas.config",
            "com.sun.security.auth.module.JndiLoginModule required;",
        ),
        ("sasl.oauthbearer.jwks.endpoint.url", "file:///etc/passwd"),
        (
            "sasl.oauthbearer.token.endpoint.url",
            "http://169.254.169.254/",
        ),
        ("ssl.keystore.location", "/etc/passwd"),
        ("metric.reporters", "java.lang.Runtime"),
        ("config.providers", "file"),
    ] {
        cases.push(line(127, key, CONFIG, BROKER, one(key, value)));
    }
    // A value that does not fit a string of the protocol is refused before it is looked at.
    cases.push(case(125, "a value of 10 MiB", Expect::Closed, {
        let topic = topic.clone();
        move || {
            let huge = vec![("cleanup.policy".to_owned(), "x".repeat(10 << 20))];
            let resource = topic.name.clone();
            async move {
                let request = altered_flexible(resource, huge)?;
                after(request).await
            }
        }
    }));
    cases
}

fn altered_flexible(resource: String, configs: Vec<(String, String)>) -> Result<Vec<u8>> {
    let configs = configs.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(&resource))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    Ok(klamm_protocol::encode_request(1, 1, Some("hostile"), &request)?.to_vec())
}

async fn secrets() -> Result<Found> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(text("1"))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = ask(4, &request).await?.context("closed")?;
    let configs = &answer.results[0].configs;
    let told = configs
        .iter()
        .find(|config| config.is_sensitive && config.value.is_some());
    ensure!(told.is_none(), "{told:?}");
    let sensitive = configs.iter().filter(|config| config.is_sensitive).count();
    ensure!(sensitive > 0, "no key is sensitive");
    Ok(Found::Served)
}

/// More topics in a second than anybody needs.
async fn flood_of_topics() -> Result<Found> {
    let topics = (0..10_000).map(|_| creatable(&unique("flood"), 1, &[]));
    let request = CreateTopicsRequest::default()
        .with_topics(topics.collect())
        .with_timeout_ms(2000);
    let answer = ask(6, &request).await?.context("closed")?;
    let throttled = ErrorCode::THROTTLING_QUOTA_EXCEEDED.code();
    let refused = answer
        .topics
        .iter()
        .filter(|topic| topic.error_code == throttled)
        .count();
    ensure!(refused >= 9_000, "{refused} of 10,000 topics were refused");
    ensure!(answer.throttle_time_ms > 0, "when to try again is not told");
    // Nothing is left of the rate, and what makes no topic needs nothing of it.
    let twice = CreateTopicsRequest::default().with_topics(vec![creatable("twice", 1, &[]); 2]);
    let answer = ask(6, &twice).await?.context("closed")?;
    let refused = ErrorCode(answer.topics[0].error_code);
    ensure!(
        refused == ErrorCode::INVALID_REQUEST,
        "a name twice: {refused}"
    );
    Ok(Found::Code(ErrorCode(throttled)))
}

/// A name is repeated; how many answers there are.
type Repeated = fn(Arc<Topic>) -> Pin<Box<dyn Future<Output = Result<Option<usize>>> + Send>>;

/// Names that are repeated in one request: the answer must not grow with them.
fn repeated(topic: &Arc<Topic>) -> Vec<Case> {
    const TIMES: usize = 20_000;
    fn times<T: Clone>(one: T) -> Vec<T> {
        vec![one; TIMES]
    }
    let kinds: [(&'static str, Repeated); 5] = [
        ("metadata of a topic, 20,000 times", |topic| {
            let asked = MetadataRequestTopic::default().with_name(Some(name(&topic.name)));
            let request = MetadataRequest::default().with_topics(Some(times(asked)));
            Box::pin(async move { Ok(ask(9, &request).await?.map(|found| found.topics.len())) })
        }),
        ("settings of a broker, 20,000 times", |_| {
            let asked = DescribeConfigsResource::default()
                .with_resource_type(BROKER)
                .with_resource_name(text("1"))
                .with_configuration_keys(None);
            let request = DescribeConfigsRequest::default()
                .with_resources(times(asked))
                .with_include_documentation(true);
            Box::pin(async move { Ok(ask(4, &request).await?.map(|found| found.results.len())) })
        }),
        ("a group, 20,000 times", |_| {
            let request = DescribeGroupsRequest::default().with_groups(times(GroupId(text("g"))));
            Box::pin(async move { Ok(ask(5, &request).await?.map(|found| found.groups.len())) })
        }),
        ("offsets of a group, 20,000 times", |_| {
            let asked = OffsetFetchRequestGroup::default()
                .with_group_id(GroupId(text("g")))
                .with_topics(None);
            let request = OffsetFetchRequest::default().with_groups(times(asked));
            Box::pin(async move { Ok(ask(8, &request).await?.map(|found| found.groups.len())) })
        }),
        ("producers of a partition, 20,000 times", |topic| {
            let asked = TopicRequest::default()
                .with_name(name(&topic.name))
                .with_partition_indexes(times(0));
            let request = DescribeProducersRequest::default().with_topics(vec![asked]);
            Box::pin(async move {
                let answer = ask(0, &request).await?;
                Ok(answer.map(|found| found.topics[0].partitions.len()))
            })
        }),
    ];
    let line = |(what, request): (&'static str, Repeated)| {
        let topic = topic.clone();
        case(172, what, Expect::Served, move || {
            let answers = request(topic.clone());
            async move {
                let answers = answers.await?.context("closed")?;
                ensure!(answers == 1, "{answers} answers to one name");
                Ok(Found::Served)
            }
        })
    };
    kinds.into_iter().map(line).collect()
}

pub(crate) async fn cases(_target: &'static Target) -> Result<Vec<Case>> {
    let connection = connect().await?;
    let topic = Arc::new(create(&connection, 3, &[]).await?);
    let mut cases = topics();
    cases.extend(configs(&topic));
    cases.extend(repeated(&topic));
    cases.push(case(
        128,
        "sensitive values are not told",
        Expect::Served,
        secrets,
    ));
    for (what, count) in [
        ("fewer partitions", 1),
        ("as many partitions", 3),
        ("-1 partitions", -1),
        ("2^31-1 partitions", i32::MAX),
    ] {
        let topic = topic.clone();
        cases.push(Case::codes(
            135,
            what,
            &[ErrorCode::INVALID_PARTITIONS, ErrorCode::POLICY_VIOLATION],
            move || {
                let of_topic = CreatePartitionsTopic::default()
                    .with_name(name(&topic.name))
                    .with_count(count);
                let request = CreatePartitionsRequest::default()
                    .with_topics(vec![of_topic])
                    .with_timeout_ms(2000);
                async move {
                    Ok(ask(2, &request)
                        .await?
                        .map(|answer| answer.results[0].error_code))
                }
            },
        ));
    }
    // LeaderAndIsr, StopReplica, UpdateMetadata, ControlledShutdown, WriteTxnMarkers is F's, Vote,
    // BeginQuorumEpoch, EndQuorumEpoch, Envelope, FetchSnapshot, BrokerRegistration, BrokerHeartbeat,
    // AllocateProducerIds.
    for (what, key) in [
        ("LeaderAndIsr", 4),
        ("StopReplica", 5),
        ("UpdateMetadata", 6),
        ("ControlledShutdown", 7),
        ("Vote", 52),
        ("BeginQuorumEpoch", 53),
        ("EndQuorumEpoch", 54),
        ("AlterPartition", 56),
        ("Envelope", 58),
        ("FetchSnapshot", 59),
        ("BrokerRegistration", 62),
        ("BrokerHeartbeat", 63),
        ("AllocateProducerIds", 67),
    ] {
        cases.push(case(138, what, Expect::Closed, move || {
            after(framed(&[&head(key, 0, false)[..], &[0; 40]].concat()))
        }));
    }
    cases.push(
        case(
            139,
            "10,000 topics at once",
            Expect::Codes(&[ErrorCode::THROTTLING_QUOTA_EXCEEDED]),
            flood_of_topics,
        )
        .within(Duration::from_secs(8))
        .costs(rig::TOPICS_AT_ONCE),
    );
    Ok(cases)
}
