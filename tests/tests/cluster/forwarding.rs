//! Any node accepts changes, and any node answers for all partitions.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use klamm_client::{NewMessage, Producer, ProducerOptions};
use klamm_protocol::StrBytes;
use klamm_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use klamm_protocol::messages::{CreateTopicsResponse, TopicName};
use klamm_tests::cluster::Cluster;

use crate::rig::{client, client_of, eventually, leader, topic, topic_is};

fn create(name: String) -> CreateTopicsRequest {
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(name)))
        .with_num_partitions(3)
        .with_replication_factor(3);
    CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(20_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_creates_topics_that_all_nodes_show() -> Result<()> {
    let cluster = Cluster::start(3, &[])?;
    let all = client(&cluster).await?;
    eventually(async || {
        let cluster = all.refresh_all_topics().await?;
        ensure!(cluster.nodes.len() == 3, "{cluster:?}");
        Ok(())
    })
    .await?;
    // At the same time, several from each: all decide on an image that the others change.
    let mut creating = Vec::new();
    for id in 1..=3 {
        for number in 0..5 {
            let all = all.clone();
            creating.push(tokio::spawn(async move {
                let connection = all.connect_to(id).await?;
                let request = create(format!("from-{id}-{number}"));
                let response: CreateTopicsResponse = connection.send(&request).await?;
                anyhow::Ok(response)
            }));
        }
    }
    for created in creating {
        let response = created.await??;
        ensure!(
            response.topics.iter().all(|topic| topic.error_code == 0),
            "{response:?}"
        );
    }
    for id in 1..=3 {
        let client = client_of(&cluster, id).await?;
        let mut leaders = BTreeSet::new();
        for from in 1..=3 {
            let name = format!("from-{from}-4");
            let found = topic_is(&client, &name, |partition| {
                partition.leader == partition.replicas.first().copied()
                    && partition.in_sync.len() == 3
                    && partition.offline.is_empty()
            })
            .await?;
            for partition in 0..3 {
                leaders.insert(leader(&found, partition)?);
            }
        }
        ensure!(leaders.len() == 3, "leadership is spread: {leaders:?}");
    }
    // The second to create a topic is told so, wherever it asks.
    for id in 1..=3 {
        let connection = all.connect_to(id).await?;
        let response = connection.send(&create("from-1-0".to_owned())).await?;
        ensure!(response.topics[0].error_code == 36, "{response:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_without_a_replica_here_are_found_all_the_same() -> Result<()> {
    let cluster = Cluster::start(3, &[])?;
    let all = client(&cluster).await?;
    for created in all.create_topics(&[topic("single", 6, 1)], false).await? {
        created?;
    }
    let mut shown = Vec::new();
    for id in 1..=3 {
        let client = client_of(&cluster, id).await?;
        let found = topic_is(&client, "single", |partition| {
            partition.leader == Some(partition.replicas[0])
        });
        shown.push(found.await?);
    }
    ensure!(shown.iter().all(|topic| *topic == shown[0]), "{shown:?}");
    let leaders: BTreeSet<_> = shown[0].partitions.iter().map(|p| p.leader).collect();
    ensure!(leaders.len() == 3, "{leaders:?}");
    let producer = Producer::new(client_of(&cluster, 2).await?, ProducerOptions::default());
    for partition in 0..6 {
        let message = NewMessage {
            value: Some("x".into()),
            ..NewMessage::default()
        };
        let told = producer
            .send("single", Some(partition), message)
            .await?
            .await?;
        ensure!(told.offset == 0, "{told:?}");
    }
    Ok(())
}
