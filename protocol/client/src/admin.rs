//! Administration: topics, partitions, configuration, the log start, the cluster.
//!
//! Calls on several things return one result for each, in the order asked, because brokers decide
//! each on its own. A call as a whole fails only when no broker could be asked.

use std::collections::BTreeMap;

use klamm_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use klamm_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use klamm_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use klamm_protocol::messages::delete_topics_request::DeleteTopicState;
use klamm_protocol::messages::describe_configs_request::DescribeConfigsResource;
use klamm_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use klamm_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use klamm_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, TopicName,
};
use klamm_protocol::{ApiRequest, ErrorCode, StrBytes};
use klamm_records::TopicId;

use crate::client::Client;
use crate::cluster::Node;
use crate::error::{Error, ServerError};
use crate::offsets::TopicPartition;

/// How long a broker may take to carry out an administrative request, in ms.
const OPERATION_TIMEOUT_MS: i32 = 30_000;

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Partitions; `None` is the broker's `num.partitions`.
    pub partitions: Option<i32>,
    /// Replicas of each; `None` is the broker's `default.replication.factor`.
    pub replication_factor: Option<i16>,
    /// Topic configuration.
    pub configs: Vec<(String, String)>,
}

/// A topic that was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its identity; zero from a broker that has none.
    pub id: TopicId,
    /// Its partitions; `None` from a broker that does not say.
    pub partitions: Option<i32>,
    /// Its replication factor; `None` from a broker that does not say.
    pub replication_factor: Option<i16>,
}

/// What a configuration belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic by name.
    Topic(String),
    /// A broker by id, or the defaults of all brokers.
    Broker(Option<i32>),
}

impl ConfigResource {
    fn kind(&self) -> i8 {
        match self {
            ConfigResource::Topic(_) => 2,
            ConfigResource::Broker(_) => 4,
        }
    }

    fn name(&self) -> StrBytes {
        StrBytes::from_string(match self {
            ConfigResource::Topic(name) => name.clone(),
            ConfigResource::Broker(id) => id.map(|id| id.to_string()).unwrap_or_default(),
        })
    }
}

/// Where the value of a configuration key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on this broker while it runs.
    DynamicBroker,
    /// Set on all brokers while they run.
    DynamicDefaultBroker,
    /// The broker's file.
    StaticBroker,
    /// Not set anywhere.
    Default,
    /// A source this client does not know, by its number.
    Other(i8),
}

impl ConfigSource {
    fn new(code: i8) -> ConfigSource {
        match code {
            1 => ConfigSource::Topic,
            2 => ConfigSource::DynamicBroker,
            3 => ConfigSource::DynamicDefaultBroker,
            4 => ConfigSource::StaticBroker,
            5 => ConfigSource::Default,
            other => ConfigSource::Other(other),
        }
    }

    /// Kafka's name of the source, as `kafka-configs.sh` prints it.
    pub fn name(self) -> &'static str {
        match self {
            ConfigSource::Topic => "DYNAMIC_TOPIC_CONFIG",
            ConfigSource::DynamicBroker => "DYNAMIC_BROKER_CONFIG",
            ConfigSource::DynamicDefaultBroker => "DYNAMIC_DEFAULT_BROKER_CONFIG",
            ConfigSource::StaticBroker => "STATIC_BROKER_CONFIG",
            ConfigSource::Default => "DEFAULT_CONFIG",
            ConfigSource::Other(_) => "UNKNOWN",
        }
    }
}

/// One configuration key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Key.
    pub name: String,
    /// Value; `None` when it is secret or not set.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it can only be changed in the broker's file.
    pub read_only: bool,
    /// Whether its value is secret.
    pub sensitive: bool,
}

/// A change of one configuration key (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Gives the key a value.
    Set(String, String),
    /// Takes the value away, so that the default counts.
    Unset(String),
}

/// The cluster as DescribeCluster tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    /// The cluster's id.
    pub id: String,
    /// Broker to send administrative requests to.
    pub controller: Option<i32>,
    /// Live brokers by ascending id.
    pub nodes: Vec<Node>,
    /// Brokers that are registered and not there, likewise; none from a broker before 4.0.
    pub fenced: Vec<Node>,
}

impl Client {
    /// Creates topics, or with `validate_only` says whether it could.
    ///
    /// # Errors
    /// When no broker could be asked; the fate of each topic is in its own result.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<Vec<Result<CreatedTopic, ServerError>>, Error> {
        let creatable = topics.iter().map(|topic| {
            let configs = topic.configs.iter().map(|(key, value)| {
                CreatableTopicConfig::default()
                    .with_name(text(key))
                    .with_value(Some(text(value)))
            });
            CreatableTopic::default()
                .with_name(topic_name(&topic.name))
                .with_num_partitions(topic.partitions.unwrap_or(-1))
                .with_replication_factor(topic.replication_factor.unwrap_or(-1))
                .with_configs(configs.collect())
        });
        let request = CreateTopicsRequest::default()
            .with_topics(creatable.collect())
            .with_timeout_ms(OPERATION_TIMEOUT_MS)
            .with_validate_only(validate_only);
        let codes = |response: &<CreateTopicsRequest as ApiRequest>::Response| {
            all_not_controller(response.topics.iter().map(|topic| topic.error_code))
        };
        let response = self.ask_controller(&request, codes).await?;
        let results = topics.iter().map(|topic| {
            let mut answers = response.topics.iter();
            let Some(answer) = answers.find(|answer| answer.name.0 == *topic.name) else {
                return Err(unanswered());
            };
            check(answer.error_code, &answer.error_message)?;
            Ok(CreatedTopic {
                id: TopicId(answer.topic_id),
                partitions: Some(answer.num_partitions).filter(|&count| count > 0),
                replication_factor: Some(answer.replication_factor).filter(|&factor| factor > 0),
            })
        });
        Ok(results.collect())
    }

    /// Deletes topics with everything in them.
    ///
    /// # Errors
    /// When no broker could be asked; the fate of each topic is in its own result.
    pub async fn delete_topics(
        &self,
        names: &[&str],
    ) -> Result<Vec<Result<(), ServerError>>, Error> {
        let version = self
            .controller()
            .await?
            .version_of::<DeleteTopicsRequest>()?;
        let request = DeleteTopicsRequest::default().with_timeout_ms(OPERATION_TIMEOUT_MS);
        let request = if version >= 6 {
            let states = names
                .iter()
                .map(|name| DeleteTopicState::default().with_name(Some(topic_name(name))));
            request.with_topics(states.collect())
        } else {
            request.with_topic_names(names.iter().map(|name| topic_name(name)).collect())
        };
        let codes = |response: &<DeleteTopicsRequest as ApiRequest>::Response| {
            all_not_controller(response.responses.iter().map(|topic| topic.error_code))
        };
        let response = self.ask_controller(&request, codes).await?;
        let results = names.iter().map(|name| {
            let mut answers = response.responses.iter();
            let named = |answer: &&klamm_protocol::messages::delete_topics_response::DeletableTopicResult| {
                answer.name.as_ref().is_some_and(|answered| answered.0 == **name)
            };
            let answer = answers.find(named).ok_or_else(unanswered)?;
            check(answer.error_code, &answer.error_message)
        });
        Ok(results.collect())
    }

    /// Raises the number of partitions of a topic to `count`.
    ///
    /// # Errors
    /// What the broker refuses, as [`Error::Server`], or that none could be asked.
    pub async fn create_partitions(&self, topic: &str, count: i32) -> Result<(), Error> {
        let wanted = CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(OPERATION_TIMEOUT_MS);
        let codes = |response: &<CreatePartitionsRequest as ApiRequest>::Response| {
            all_not_controller(response.results.iter().map(|topic| topic.error_code))
        };
        let response = self.ask_controller(&request, codes).await?;
        let answer = response
            .results
            .iter()
            .find(|answer| answer.name.0 == *topic);
        let result = match answer {
            Some(answer) => check(answer.error_code, &answer.error_message),
            None => Err(unanswered()),
        };
        result.map_err(|error| Error::server(format!("partitions of topic {topic}"), error))
    }

    /// The configuration of several resources. `keys` limits it to some keys.
    ///
    /// # Errors
    /// When no broker could be asked; what is wrong with a resource is in its own result.
    pub async fn describe_configs(
        &self,
        resources: &[ConfigResource],
        keys: Option<&[&str]>,
    ) -> Result<Vec<Result<Vec<ConfigEntry>, ServerError>>, Error> {
        let wanted = resources.iter().map(|resource| {
            DescribeConfigsResource::default()
                .with_resource_type(resource.kind())
                .with_resource_name(resource.name())
                .with_configuration_keys(
                    keys.map(|keys| keys.iter().map(|key| text(key)).collect()),
                )
        });
        let request = DescribeConfigsRequest::default().with_resources(wanted.collect());
        let mut retry = self.retry();
        let response = loop {
            let asked = async {
                // A broker's own configuration is only known to itself.
                let connection = match resources {
                    [ConfigResource::Broker(Some(id))] => self.node(*id).await?,
                    _ => self.any().await?,
                };
                connection.send(&request).await
            };
            match asked.await {
                Ok(response) => break response,
                Err(error) => retry.after(error).await?,
            }
        };
        let results = resources.iter().map(|resource| {
            let mut answers = response.results.iter();
            let answer = answers.find(|answer| {
                answer.resource_type == resource.kind() && answer.resource_name == resource.name()
            });
            let answer = answer.ok_or_else(unanswered)?;
            check(answer.error_code, &answer.error_message)?;
            Ok(answer.configs.iter().map(config_entry).collect())
        });
        Ok(results.collect())
    }

    /// Changes some keys of a resource's configuration and leaves the others (KIP-339).
    ///
    /// # Errors
    /// What the broker refuses, as [`Error::Server`], or that none could be asked.
    pub async fn alter_configs(
        &self,
        resource: &ConfigResource,
        changes: &[ConfigChange],
    ) -> Result<(), Error> {
        let configs = changes.iter().map(|change| match change {
            ConfigChange::Set(key, value) => AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(0)
                .with_value(Some(text(value))),
            ConfigChange::Unset(key) => AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(1)
                .with_value(None),
        });
        let wanted = AlterConfigsResource::default()
            .with_resource_type(resource.kind())
            .with_resource_name(resource.name())
            .with_configs(configs.collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![wanted]);
        let codes = |response: &<IncrementalAlterConfigsRequest as ApiRequest>::Response| {
            all_not_controller(
                response
                    .responses
                    .iter()
                    .map(|resource| resource.error_code),
            )
        };
        // Others refuse most of a broker's own, as Kafka's do; but it may be away.
        let its_own = if let ConfigResource::Broker(Some(id)) = resource
            && let Ok(connection) = self.node(*id).await
        {
            connection.send(&request).await.ok()
        } else {
            None
        };
        let response = match its_own {
            Some(response) => response,
            None => self.ask_controller(&request, codes).await?,
        };
        let result = match response.responses.first() {
            Some(answer) => check(answer.error_code, &answer.error_message),
            None => Err(unanswered()),
        };
        result
            .map_err(|error| Error::server(format!("configuration of {}", resource.name()), error))
    }

    /// Deletes the records before an offset (-1: before the high watermark) and returns the
    /// partition's new start.
    ///
    /// # Errors
    /// What the leader refuses, as [`Error::Server`], or that it could not be asked.
    pub async fn delete_records(&self, at: &TopicPartition, before: i64) -> Result<i64, Error> {
        let partition = DeleteRecordsPartition::default()
            .with_partition_index(at.partition)
            .with_offset(before);
        let topic = DeleteRecordsTopic::default()
            .with_name(topic_name(&at.topic))
            .with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(OPERATION_TIMEOUT_MS);
        let mut retry = self.retry();
        loop {
            match self.delete_records_once(at, &request).await {
                Ok(start) => return Ok(start),
                Err(error) => retry.after(error).await?,
            }
            self.doubt();
            self.refresh_topic(&at.topic).await?;
        }
    }

    async fn delete_records_once(
        &self,
        at: &TopicPartition,
        request: &DeleteRecordsRequest,
    ) -> Result<i64, Error> {
        let leader = self.leader(&at.topic, at.partition).await?;
        let response = self.node(leader).await?.send(request).await?;
        let answer = response
            .topics
            .first()
            .and_then(|topic| topic.partitions.first());
        let result = match answer {
            Some(answer) => {
                ServerError::check(answer.error_code, None).map(|()| answer.low_watermark)
            }
            None => Err(unanswered()),
        };
        result.map_err(|error| {
            Error::server(
                format!("records of topic {} partition {}", at.topic, at.partition),
                error,
            )
        })
    }

    /// The cluster's id, controller and live brokers.
    ///
    /// # Errors
    /// When no broker could be asked.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, Error> {
        let asked = async || {
            let connection = self.any().await?;
            let version = connection.version_of::<DescribeClusterRequest>()?;
            let request = DescribeClusterRequest::default()
                .with_endpoint_type(1)
                .with_include_fenced_brokers(version >= 2);
            connection.send_version(version, &request).await
        };
        let mut retry = self.retry();
        let response = loop {
            match asked().await {
                Ok(response) => break response,
                Err(error) => retry.after(error).await?,
            }
        };
        check(response.error_code, &response.error_message)
            .map_err(|error| Error::server("describing the cluster", error))?;
        let nodes = |is_fenced: bool| {
            let brokers = response.brokers.iter();
            let those = brokers.filter(|broker| broker.is_fenced == is_fenced);
            let nodes = those.filter_map(|broker| {
                let node = Node {
                    id: broker.broker_id.0,
                    host: broker.host.to_string(),
                    port: u16::try_from(broker.port).ok()?,
                    rack: broker.rack.as_ref().map(|rack| rack.to_string()),
                };
                Some((node.id, node))
            });
            nodes.collect::<BTreeMap<_, _>>().into_values().collect()
        };
        Ok(ClusterDescription {
            id: response.cluster_id.to_string(),
            controller: Some(response.controller_id.0).filter(|&id| id >= 0),
            nodes: nodes(false),
            fenced: nodes(true),
        })
    }
}

fn config_entry(config: &DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: config.name.to_string(),
        value: config.value.as_ref().map(|value| value.to_string()),
        source: ConfigSource::new(config.config_source),
        read_only: config.read_only,
        sensitive: config.is_sensitive,
    }
}

/// A broker that is not the controller says so of everything it was asked.
fn all_not_controller(codes: impl Iterator<Item = i16>) -> Option<ServerError> {
    let mut codes = codes.peekable();
    let first = *codes.peek()?;
    let refused = ErrorCode(first) == ErrorCode::NOT_CONTROLLER && codes.all(|code| code == first);
    refused.then_some(ServerError {
        code: ErrorCode(first),
        message: None,
    })
}

pub(crate) fn check(code: i16, message: &Option<StrBytes>) -> Result<(), ServerError> {
    ServerError::check(code, message.as_deref())
}

pub(crate) fn unanswered() -> ServerError {
    ServerError {
        code: ErrorCode::UNKNOWN_SERVER_ERROR,
        message: Some("the broker's answer leaves it out".to_owned()),
    }
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}
