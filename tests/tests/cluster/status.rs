//! `klamm cluster status` against three nodes.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use klamm_client::{NewMessage, Producer, ProducerOptions};
use klamm_tests::broker::binary;
use klamm_tests::cluster::Cluster;
use serde_json::Value;

use crate::rig::{client, create, eventually, topic, topic_is};

const PARTITIONS: i32 = 6;

pub(crate) fn status(cluster: &Cluster, format: &str) -> Result<String> {
    let ended = Command::new(binary()?)
        .args(["cluster", "status", "-o", format, "--bootstrap"])
        .arg(cluster.bootstrap())
        .output()?;
    ensure!(ended.status.success(), "{ended:?}");
    Ok(String::from_utf8(ended.stdout)?)
}

pub(crate) fn json(cluster: &Cluster) -> Result<Value> {
    Ok(serde_json::from_str(&status(cluster, "json")?)?)
}

fn numbers(of: &Value, key: &str) -> Result<Vec<i64>> {
    let nodes = of["nodes"].as_array().context("nodes")?;
    let numbers = nodes
        .iter()
        .map(|node| node[key].as_i64().context("a number"));
    numbers.collect()
}

/// All is well: everybody is up and nothing lags.
async fn healthy(cluster: &Cluster) -> Result<Value> {
    eventually(async || {
        let status = json(cluster)?;
        ensure!(
            status["without_leader"] == 0
                && status["under_replicated"] == 0
                && status["partitions"] == PARTITIONS
                && status["troubled"].as_array().is_some_and(Vec::is_empty)
                && numbers(&status, "leads")?.iter().sum::<i64>() == i64::from(PARTITIONS)
                && numbers(&status, "replicas")? == [i64::from(PARTITIONS); 3]
                && numbers(&status, "lag")? == [0; 3],
            "{status:#}"
        );
        Ok(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_who_leads_who_is_gone_and_who_lags() -> Result<()> {
    let mut cluster = Cluster::start(3, &["auto.leader.rebalance.enable=false"])?;
    let client = client(&cluster).await?;
    let new = topic("t", PARTITIONS, 3);
    create(&client, new).await?;
    let status_before = healthy(&cluster).await?;
    ensure!(
        numbers(&status_before, "leads")? == [2; 3],
        "{status_before:#}"
    );
    let metadata = status_before["metadata"]["leader"].as_i64();
    ensure!(metadata.is_some_and(|leader| (1..=3).contains(&leader)));
    let voters = status_before["metadata"]["voters"].as_array();
    ensure!(voters.is_some_and(|voters| voters.len() == 3));
    let table = status(&cluster, "table")?;
    ensure!(
        table.contains("0 without a leader, 0 under-replicated"),
        "{table}"
    );
    ensure!(!table.contains("TOPIC"), "{table}");

    cluster.kill(3)?;
    topic_is(&client, "t", |partition| {
        partition.leader.is_some_and(|leader| leader != 3)
    })
    .await?;
    let producer = Producer::new(client.clone(), ProducerOptions::default());
    for number in 0..10 * PARTITIONS {
        let message = NewMessage {
            value: Some("x".into()),
            ..NewMessage::default()
        };
        let delivery = producer
            .send("t", Some(number % PARTITIONS), message)
            .await?;
        delivery.await?;
    }
    let troubled = eventually(async || {
        let status = json(&cluster)?;
        ensure!(
            status["under_replicated"] == PARTITIONS && status["without_leader"] == 0,
            "{status:#}"
        );
        Ok(status)
    })
    .await?;
    ensure!(troubled["nodes"][2]["up"] == false, "{troubled:#}");
    ensure!(numbers(&troubled, "out_of_sync")? == [0, 0, i64::from(PARTITIONS)]);
    ensure!(numbers(&troubled, "leads")?[2] == 0, "{troubled:#}");
    let partitions = troubled["troubled"].as_array().context("partitions")?;
    let lags = partitions.iter().map(|at| &at["behind"][0]);
    // Leaders that the node followed know where it stood; the others have not heard of it.
    let known: Vec<&Value> = lags
        .map(|behind| &behind["lag"])
        .filter(|lag| !lag.is_null())
        .collect();
    ensure!(
        known.len() >= 4 && known.iter().all(|lag| **lag == 10),
        "{troubled:#}"
    );
    let table = status(&cluster, "table")?;
    for words in ["gone", "3 by 10", "0 without a leader, 6 under-replicated"] {
        ensure!(table.contains(words), "no {words:?}: {table}");
    }

    cluster.boot(3)?;
    healthy(&cluster).await?;
    Ok(())
}
