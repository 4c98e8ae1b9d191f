//! The metadata log does not grow for ever: snapshots in it let go of what lies before, and a node starts from them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use klamm_client::{Client, ClientOptions, ConfigChange, ConfigResource, NewTopic};
use klamm_tests::broker::Broker;

use crate::rig::{eventually, ours_only, start, start_over};

/// Bytes of a few dozen commands.
const OFTEN: &str = "metadata.log.max.record.bytes.between.snapshots=6000";
const KEPT: [&str; 3] = ["kept-1", "kept-2", "kept-3"];

async fn connect(broker: &Broker) -> Result<Client> {
    Ok(Client::connect(&broker.address, ClientOptions::default()).await?)
}

async fn create(client: &Client, names: &[&str]) -> Result<()> {
    let topic = |name: &&str| NewTopic {
        name: (*name).to_owned(),
        partitions: Some(1),
        replication_factor: Some(1),
        configs: vec![("max.message.bytes".to_owned(), "5000".to_owned())],
    };
    let topics: Vec<NewTopic> = names.iter().map(topic).collect();
    for created in client.create_topics(&topics, false).await? {
        created?;
    }
    Ok(())
}

/// Writes commands: topics that come and go, and a setting that changes, and ends with this value.
async fn churn(client: &Client, last: u32) -> Result<()> {
    for round in 0..3 {
        let names: Vec<String> = (0..8).map(|n| format!("gone-{round}-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        create(client, &names).await?;
        for deleted in client.delete_topics(&names).await? {
            deleted?;
        }
    }
    let topic = ConfigResource::Topic(KEPT[0].to_owned());
    for value in last - 60..=last {
        let change = ConfigChange::Set("retention.ms".to_owned(), value.to_string());
        client.alter_configs(&topic, &[change]).await?;
    }
    Ok(())
}

/// Names and ids of all topics, and what is set on each.
async fn all(client: &Client) -> Result<Vec<String>> {
    let cluster = client.refresh_all_topics().await?;
    let mut found = Vec::new();
    for topic in cluster.topics.values() {
        let resource = ConfigResource::Topic(topic.name.clone());
        for configs in client.describe_configs(&[resource], None).await? {
            let set: Vec<_> = configs?
                .into_iter()
                .filter(|entry| entry.source == klamm_client::ConfigSource::Topic)
                .map(|entry| (entry.name, entry.value))
                .collect();
            found.push(format!("{} {:?} {set:?}", topic.name, topic.id));
        }
    }
    found.sort();
    Ok(found)
}

/// The segments of the metadata log.
fn segments(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir.join("metadata-0"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes of the segments; one that has gone since they were listed has none.
fn size(segments: &[PathBuf]) -> Result<u64> {
    let mut bytes = 0;
    for segment in segments {
        bytes += match segment.metadata() {
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(bytes)
}

#[tokio::test]
async fn the_metadata_log_shrinks_and_nothing_is_missing_after_a_restart() -> Result<()> {
    ours_only!();
    let dir = tempfile::tempdir()?;
    let mut broker = start_over(dir.path(), &[OFTEN])?;
    let mut client = connect(&broker).await?;
    create(&client, &KEPT).await?;
    for (round, last) in [(1, 1_000_000), (2, 2_000_000)] {
        churn(&client, last).await?;
        let met = broker.metric("klamm_metadata_snapshots_total")?;
        ensure!(met >= 2.0, "round {round}: {met} snapshots");
        // A segment goes with the next checkpoint or before.
        eventually("the beginning of the log goes", || async {
            let segments = segments(dir.path())?;
            let is_gone = segments
                .iter()
                .all(|path| !path.ends_with(format!("{:020}.log", 0)));
            Ok((is_gone && size(&segments)? < 25_000).then_some(()))
        })
        .await?;
        let start = broker.metric("klamm_metadata_snapshot_offset")?;
        ensure!(start > 50.0 * f64::from(round), "it begins at {start}");
        let bytes = broker.metric("klamm_metadata_log_bytes")?;
        ensure!(bytes < 25_000.0, "{bytes} bytes");
        let before = all(&client).await?;
        ensure!(before.len() == KEPT.len(), "{before:?}");
        ensure!(before[0].contains(&last.to_string()), "{before:?}");
        match round {
            1 => broker.kill()?,
            _ => {
                let (_, well) = broker.stop()?;
                ensure!(well, "not a clean end");
            }
        }
        broker = start_over(dir.path(), &[OFTEN])?;
        client = connect(&broker).await?;
        ensure!(all(&client).await? == before, "round {round}");
        ensure!(broker.metric("klamm_metadata_snapshots_total")? >= 1.0);
    }
    create(&client, &["one-more"]).await?;
    ensure!(all(&client).await?.len() == KEPT.len() + 1);
    Ok(())
}

#[tokio::test]
async fn a_snapshot_by_time_is_written_only_if_there_is_something_new() -> Result<()> {
    ours_only!();
    let own = start(&["metadata.log.max.snapshot.interval.ms=300"])?;
    let met = async |wanted: f64| {
        eventually("a snapshot", || async {
            let met = own.broker.metric("klamm_metadata_snapshots_total")?;
            ensure!(met <= wanted, "{met} snapshots, {wanted} wanted");
            Ok((met == wanted).then_some(()))
        })
        .await
    };
    met(1.0).await?;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    met(1.0).await?;
    create(&connect(&own.broker).await?, &KEPT).await?;
    met(2.0).await
}
