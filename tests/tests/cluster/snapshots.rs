//! The metadata log is short: who was away for long, or is new, gets it from a snapshot on, and may lead then.

use anyhow::{Result, ensure};
use klamm_client::{Client, ConfigChange, ConfigResource};
use klamm_protocol::StrBytes;
use klamm_protocol::messages::describe_configs_request::DescribeConfigsResource;
use klamm_protocol::messages::{DescribeConfigsRequest, MetadataRequest};
use klamm_tests::cluster::Cluster;

use crate::rig::{client, client_of, create, eventually, topic, topic_is};

/// A snapshot after a few dozen commands.
const SETTINGS: [&str; 2] = [
    "metadata.log.max.record.bytes.between.snapshots=6000",
    "min.insync.replicas=1",
];
const STEADY: &str = "steady";

/// Writes some snapshots' worth of commands, the last of which sets this.
async fn churn(client: &Client, last: u32) -> Result<()> {
    let resource = ConfigResource::Topic(STEADY.to_owned());
    for value in last - 80..=last {
        let change = ConfigChange::Set("retention.ms".to_owned(), value.to_string());
        client.alter_configs(&resource, &[change]).await?;
    }
    Ok(())
}

/// Waits until a node's metadata log begins at a snapshot, its first segment gone.
async fn begins_at_a_snapshot(cluster: &Cluster, id: i32) -> Result<()> {
    let log = cluster.node(id).dir.join("data").join("metadata-0");
    let first = log.join(format!("{:020}.log", 0));
    eventually(async || {
        let newest = cluster.node(id).metric("klamm_metadata_snapshot_offset")?;
        ensure!(newest > 0.0 && !first.exists(), "node {id}: {newest}");
        Ok(())
    })
    .await
}

/// Waits until a node that is asked itself shows these topics, and the setting.
async fn shows(cluster: &Cluster, id: i32, topics: &[&str], setting: u32) -> Result<()> {
    let client = client_of(cluster, id).await?;
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_static_str(STEADY))
        .with_configuration_keys(Some(vec![StrBytes::from_static_str("retention.ms")]));
    let configs = DescribeConfigsRequest::default().with_resources(vec![resource]);
    eventually(async || {
        let connection = client.connect_to(id).await?;
        let all = MetadataRequest::default().with_topics(None);
        let found = connection.send(&all).await?;
        let names = found.topics.iter().filter_map(|topic| topic.name.as_ref());
        let mut names: Vec<&str> = names.map(|name| &***name).collect();
        names.sort_unstable();
        ensure!(names == topics, "node {id}: {names:?}");
        let found = connection.send(&configs).await?;
        let values = found.results.iter().flat_map(|result| &result.configs);
        let values = values.filter_map(|config| config.value.as_ref());
        let values: Vec<String> = values.map(|value| (**value).to_owned()).collect();
        ensure!(*values == [setting.to_string()], "node {id}: {values:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_or_is_new_gets_the_metadata_from_a_snapshot() -> Result<()> {
    let mut cluster = Cluster::start(3, &SETTINGS)?;
    let admin = client(&cluster).await?;
    for name in ["gone", STEADY] {
        create(&admin, topic(name, 3, 3)).await?;
    }
    let away = admin.metadata_quorum().await?.leader % 3 + 1;
    let others: Vec<i32> = (1..=3).filter(|id| *id != away).collect();
    cluster.kill(away)?;
    for deleted in admin.delete_topics(&["gone"]).await? {
        deleted?;
    }
    create(&admin, topic("while-away", 3, 3)).await?;
    churn(&admin, 1_000_000).await?;
    churn(&admin, 2_000_000).await?;
    for id in &others {
        begins_at_a_snapshot(&cluster, *id).await?;
    }

    cluster.boot(away)?;
    shows(&cluster, away, &[STEADY, "while-away"], 2_000_000).await?;
    begins_at_a_snapshot(&cluster, away).await?;
    let whole = |p: &klamm_client::Partition| p.in_sync.len() == 3;
    topic_is(&admin, "while-away", whole).await?;

    // Whoever leads goes, until it is the one that was away.
    for _ in 0..10 {
        let leader = admin.metadata_quorum().await?.leader;
        if leader == away {
            break;
        }
        cluster.kill(leader)?;
        eventually(async || {
            let now = admin.metadata_quorum().await?.leader;
            ensure!(now != leader, "{now} still leads");
            Ok(())
        })
        .await?;
        cluster.boot(leader)?;
    }
    ensure!(admin.metadata_quorum().await?.leader == away);
    create(&admin, topic("led-by-it", 3, 3)).await?;
    churn(&admin, 3_000_000).await?;
    let all = ["led-by-it", STEADY, "while-away"];
    for id in 1..=3 {
        shows(&cluster, id, &all, 3_000_000).await?;
    }

    let fourth = cluster.add()?;
    cluster.boot(fourth)?;
    shows(&cluster, fourth, &all, 3_000_000).await?;
    begins_at_a_snapshot(&cluster, fourth).await
}
