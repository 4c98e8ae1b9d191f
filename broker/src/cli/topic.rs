//! `klamm topic`: create, list, describe, alter, delete.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use klamm_client::{
    Client, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, NewTopic, OffsetSpec, Topic,
    TopicPartition,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::error::{Failures, UserError};
use super::output::{self, Cluster, Format, Table, confirm_deletion};

/// How long `create` waits for leaders before it says that the topic has none yet.
const LEADER_WAIT: Duration = Duration::from_secs(5);

/// What to do with topics.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum TopicCommand {
    /// Create topics
    Create(CreateArgs),
    /// List topics
    List(ListArgs),
    /// Show partitions, leaders, offsets and configuration of topics
    Describe(DescribeArgs),
    /// Change the configuration of a topic, or add partitions
    Alter(AlterArgs),
    /// Delete topics with everything in them
    Delete(DeleteArgs),
}

/// Arguments of `topic create`.
#[derive(Args, Clone, Debug)]
pub(super) struct CreateArgs {
    /// Topics to create
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Number of partitions [default: the broker's num.partitions]
    #[arg(short, long, value_name = "N")]
    partitions: Option<i32>,
    /// Replicas of each partition [default: the broker's default.replication.factor]
    #[arg(short, long, value_name = "N")]
    replicas: Option<i16>,
    /// Topic configuration, such as retention.ms=3600000
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

/// Arguments of `topic list`.
#[derive(Args, Clone, Debug)]
pub(super) struct ListArgs {
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

/// Arguments of `topic describe`.
#[derive(Args, Clone, Debug)]
pub(super) struct DescribeArgs {
    /// Topics to describe
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// How to print the description
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: Cluster,
}

/// Arguments of `topic alter`.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
pub(super) struct AlterArgs {
    /// Topic to change
    name: String,
    /// New number of partitions, larger than the present one
    #[arg(short, long, value_name = "N", group = "change")]
    partitions: Option<i32>,
    /// Configuration to set
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value, group = "change")]
    config: Vec<(String, String)>,
    /// Configuration to return to its default
    #[arg(long, value_name = "KEY", group = "change")]
    unset: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

/// Arguments of `topic delete`.
#[derive(Args, Clone, Debug)]
pub(super) struct DeleteArgs {
    /// Topics to delete
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// `KEY=VALUE`; the value may be empty and may hold further equals signs.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Runs a `topic` command.
///
/// # Errors
/// What failed, why, and what to try. Of several topics, those that succeeded stay done.
pub(super) async fn run(command: TopicCommand) -> Result<(), UserError> {
    match command {
        TopicCommand::Create(args) => create(args).await,
        TopicCommand::List(args) => list(args).await,
        TopicCommand::Describe(args) => describe(args).await,
        TopicCommand::Alter(args) => alter(args).await,
        TopicCommand::Delete(args) => delete(args).await,
    }
}

#[derive(Serialize)]
struct CreatedJson {
    name: String,
    id: String,
    partitions: usize,
    replication_factor: usize,
}

async fn create(args: CreateArgs) -> Result<(), UserError> {
    let client = args.cluster.connect("topics were not created").await?;
    let topics: Vec<NewTopic> = args
        .names
        .iter()
        .map(|name| NewTopic {
            name: name.clone(),
            partitions: args.partitions,
            replication_factor: args.replicas,
            configs: args.config.clone(),
        })
        .collect();
    let results = client.create_topics(&topics, false).await;
    let results =
        results.map_err(|error| UserError::from_client("topics were not created", None, &error))?;
    let mut created = Vec::new();
    let mut failures = Failures::default();
    for (topic, result) in topics.iter().zip(results) {
        let what = format!("topic {} was not created", topic.name);
        match result {
            Ok(_) => created.push(settled(&client, &topic.name).await?),
            Err(error) => failures.add(UserError::refused(what, Some(&topic.name), &error)),
        }
    }
    let json = created.iter().map(|topic| CreatedJson {
        name: topic.name.clone(),
        id: topic.id.to_string(),
        partitions: topic.partitions.len(),
        replication_factor: replication_factor(topic),
    });
    match args.output {
        Format::Json => output::print_json(&json.collect::<Vec<_>>())?,
        Format::Table => {
            for topic in json {
                let CreatedJson {
                    name,
                    partitions,
                    replication_factor,
                    ..
                } = topic;
                eprintln!("created {name}: partitions {partitions}, replicas {replication_factor}");
            }
        }
    }
    failures.end()
}

/// Waits until every partition has a leader, so that what follows `create` finds them.
async fn settled(client: &Client, name: &str) -> Result<Arc<Topic>, UserError> {
    let started = Instant::now();
    loop {
        let what = format!("topic {name} was created, but brokers do not know it yet");
        match client.refresh_topic(name).await {
            Ok(topic) if topic.has_all_leaders() || started.elapsed() > LEADER_WAIT => {
                return Ok(topic);
            }
            Err(error) if !error.is_retriable() || started.elapsed() > LEADER_WAIT => {
                return Err(UserError::from_client(what, Some(name), &error));
            }
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}

fn replication_factor(topic: &Topic) -> usize {
    topic
        .partitions
        .iter()
        .map(|partition| partition.replicas.len())
        .max()
        .unwrap_or(0)
}

#[derive(Serialize)]
struct ListedJson {
    name: String,
    id: String,
    internal: bool,
    partitions: usize,
    replication_factor: usize,
}

async fn list(args: ListArgs) -> Result<(), UserError> {
    let client = args.cluster.connect("topics were not listed").await?;
    let cluster = client.refresh_all_topics().await;
    let cluster =
        cluster.map_err(|error| UserError::from_client("topics were not listed", None, &error))?;
    let topics = cluster.topics.values().map(|topic| ListedJson {
        name: topic.name.clone(),
        id: topic.id.to_string(),
        internal: topic.internal,
        partitions: topic.partitions.len(),
        replication_factor: replication_factor(topic),
    });
    if args.output == Format::Json {
        return output::print_json(&topics.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["NAME", "PARTITIONS", "REPLICAS", "INTERNAL"]);
    for topic in topics {
        let internal = if topic.internal { "yes" } else { "no" };
        table.row(vec![
            topic.name,
            topic.partitions.to_string(),
            topic.replication_factor.to_string(),
            internal.to_owned(),
        ]);
    }
    output::print(&table.render())
}

#[derive(Serialize)]
struct TopicJson {
    name: String,
    id: String,
    internal: bool,
    replication_factor: usize,
    partitions: Vec<PartitionJson>,
    configs: Vec<ConfigJson>,
}

#[derive(Serialize)]
struct PartitionJson {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    in_sync_replicas: Vec<i32>,
    offline_replicas: Vec<i32>,
    /// First offset that is kept; null when the leader did not answer.
    start_offset: Option<i64>,
    /// Offset of the next record; likewise.
    end_offset: Option<i64>,
}

#[derive(Serialize)]
struct ConfigJson {
    name: String,
    value: Option<String>,
    source: &'static str,
}

async fn describe(args: DescribeArgs) -> Result<(), UserError> {
    let client = args.cluster.connect("topics were not described").await?;
    let mut failures = Failures::default();
    let mut described = Vec::new();
    for name in &args.names {
        match describe_one(&client, name).await {
            Ok(topic) => described.push(topic),
            Err(error) => failures.add(error),
        }
    }
    match args.output {
        Format::Json => output::print_json(&described)?,
        Format::Table => {
            let texts: Vec<String> = described.iter().map(describe_text).collect();
            output::print(&texts.join("\n"))?;
        }
    }
    failures.end()
}

async fn describe_one(client: &Client, name: &str) -> Result<TopicJson, UserError> {
    let what = || format!("topic {name} was not described");
    let failed = |error| UserError::from_client(what(), Some(name), &error);
    let topic = client.refresh_topic(name).await.map_err(failed)?;
    let resource = ConfigResource::Topic(name.to_owned());
    let configs = client
        .describe_configs(&[resource], None)
        .await
        .map_err(failed)?;
    let configs = configs.into_iter().next().unwrap_or(Ok(Vec::new()));
    let configs = configs.map_err(|error| UserError::refused(what(), Some(name), &error))?;
    let starts = offsets(client, &topic, OffsetSpec::Earliest).await;
    let ends = offsets(client, &topic, OffsetSpec::Latest).await;
    let partitions = topic.partitions.iter().map(|partition| PartitionJson {
        partition: partition.index,
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        replicas: partition.replicas.clone(),
        in_sync_replicas: partition.in_sync.clone(),
        offline_replicas: partition.offline.clone(),
        start_offset: starts.get(&partition.index).copied(),
        end_offset: ends.get(&partition.index).copied(),
    });
    let config = |entry: ConfigEntry| ConfigJson {
        name: entry.name,
        value: entry.value,
        source: entry.source.name(),
    };
    Ok(TopicJson {
        name: topic.name.clone(),
        id: topic.id.to_string(),
        internal: topic.internal,
        replication_factor: replication_factor(&topic),
        partitions: partitions.collect(),
        configs: configs.into_iter().map(config).collect(),
    })
}

/// Offsets by partition, of the partitions whose leader tells.
pub(super) async fn offsets(client: &Client, topic: &Topic, spec: OffsetSpec) -> HashMap<i32, i64> {
    let led = topic
        .partitions
        .iter()
        .filter(|partition| partition.leader.is_some());
    let wanted: Vec<(TopicPartition, OffsetSpec)> = led
        .map(|partition| {
            let topic = topic.name.clone();
            (
                TopicPartition {
                    topic,
                    partition: partition.index,
                },
                spec,
            )
        })
        .collect();
    match client.list_offsets(&wanted).await {
        Ok(listed) => {
            let found = wanted.iter().zip(listed);
            found
                .filter_map(|((at, _), listed)| Some((at.partition, listed.offset?)))
                .collect()
        }
        Err(error) => {
            eprintln!("note: offsets of {} are not known: {error}", topic.name);
            HashMap::new()
        }
    }
}

fn describe_text(topic: &TopicJson) -> String {
    let mut text = format!(
        "{}  id {}  partitions {}  replicas {}\n\n",
        topic.name,
        topic.id,
        topic.partitions.len(),
        topic.replication_factor
    );
    let mut partitions = Table::new(&[
        "PARTITION",
        "LEADER",
        "EPOCH",
        "REPLICAS",
        "IN SYNC",
        "START",
        "END",
    ]);
    let ids = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let offset = |offset: Option<i64>| offset.map_or("-".to_owned(), |offset| offset.to_string());
    for partition in &topic.partitions {
        partitions.row(vec![
            partition.partition.to_string(),
            partition
                .leader
                .map_or("none".to_owned(), |leader| leader.to_string()),
            partition.leader_epoch.to_string(),
            ids(&partition.replicas),
            ids(&partition.in_sync_replicas),
            offset(partition.start_offset),
            offset(partition.end_offset),
        ]);
    }
    text.push_str(&partitions.render());
    let own = ConfigSource::Topic.name();
    let set: Vec<&ConfigJson> = topic
        .configs
        .iter()
        .filter(|config| config.source == own)
        .collect();
    if !set.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["CONFIG", "VALUE"]);
        for config in set {
            let value = config
                .value
                .clone()
                .unwrap_or_else(|| "(secret)".to_owned());
            table.row(vec![config.name.clone(), value]);
        }
        text.push_str(&table.render());
    }
    text
}

async fn alter(args: AlterArgs) -> Result<(), UserError> {
    let AlterArgs {
        name,
        partitions,
        config,
        unset,
        cluster,
    } = args;
    let what = format!("topic {name} was not changed");
    let client = cluster.connect(&what).await?;
    let set = config
        .into_iter()
        .map(|(key, value)| ConfigChange::Set(key, value));
    let changes: Vec<ConfigChange> = set
        .chain(unset.into_iter().map(ConfigChange::Unset))
        .collect();
    if !changes.is_empty() {
        let resource = ConfigResource::Topic(name.clone());
        let altered = client.alter_configs(&resource, &changes).await;
        altered.map_err(|error| UserError::from_client(&what, Some(&name), &error))?;
        let keys = changes.iter().map(|change| match change {
            ConfigChange::Set(key, _) | ConfigChange::Unset(key) => key.as_str(),
        });
        eprintln!("changed {} of {name}", keys.collect::<Vec<_>>().join(", "));
    }
    if let Some(count) = partitions {
        let created = client.create_partitions(&name, count).await;
        created.map_err(|error| UserError::from_client(&what, Some(&name), &error))?;
        eprintln!("{name} has {count} partitions now");
    }
    Ok(())
}

async fn delete(args: DeleteArgs) -> Result<(), UserError> {
    let DeleteArgs {
        names,
        yes,
        cluster,
    } = args;
    let client = cluster.connect("topics were not deleted").await?;
    let mut failures = Failures::default();
    let mut doomed = Vec::new();
    for name in &names {
        match client.refresh_topic(name).await {
            Ok(topic) => doomed.push(topic),
            Err(error) => {
                let what = format!("topic {name} was not deleted");
                failures.add(UserError::from_client(what, Some(name), &error));
            }
        }
    }
    if !yes && !doomed.is_empty() {
        confirm(&client, &doomed).await?;
    }
    let doomed: Vec<&str> = doomed.iter().map(|topic| topic.name.as_str()).collect();
    if !doomed.is_empty() {
        let results = client.delete_topics(&doomed).await;
        let results = results
            .map_err(|error| UserError::from_client("topics were not deleted", None, &error))?;
        for (name, result) in doomed.iter().zip(results) {
            match result {
                Ok(()) => eprintln!("deleted {name}"),
                Err(error) => {
                    failures.add(UserError::refused(
                        format!("topic {name} was not deleted"),
                        Some(name),
                        &error,
                    ));
                }
            }
        }
    }
    failures.end()
}

/// Names what would be lost and asks. Without a terminal there is nobody to ask.
async fn confirm(client: &Client, topics: &[Arc<Topic>]) -> Result<(), UserError> {
    for topic in topics {
        let starts = offsets(client, topic, OffsetSpec::Earliest).await;
        let ends = offsets(client, topic, OffsetSpec::Latest).await;
        let kept = ends
            .iter()
            .filter_map(|(partition, end)| Some(end - starts.get(partition)?));
        let kept: i64 = kept.sum();
        eprintln!(
            "{}: {} partitions, about {kept} records",
            topic.name,
            topic.partitions.len()
        );
    }
    confirm_deletion()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_the_first_equals_sign() {
        assert_eq!(key_value("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(key_value("a="), Ok(("a".to_owned(), String::new())));
        assert!(key_value("=a").is_err());
        assert!(key_value("a").is_err());
    }
}
