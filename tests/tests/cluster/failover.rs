//! A node dies: others lead, nothing acknowledged is lost, and it catches up when it is back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_client::{Client, Connection, NewMessage, Producer, ProducerOptions};
use klamm_protocol::StrBytes;
use klamm_protocol::messages::TopicName;
use klamm_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use klamm_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, Load, TOPIC};

use crate::nearest::{self, NOT_LEADER_OR_FOLLOWER};
use crate::rig::{client, client_of, create, eventually, leader, produce_request, topic, topic_is};

const SETTINGS: [&str; 2] = ["min.insync.replicas=2", "default.replication.factor=3"];

/// Longest wait for more acknowledgements, failover included.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn new_partitions_of_a_founder_that_is_away_are_led_while_more_are_created() -> Result<()> {
    let mut cluster = Cluster::start(3, &SETTINGS)?;
    let admin = client(&cluster).await?;
    let away = match admin.metadata_quorum().await?.leader {
        1 => 2,
        _ => 1,
    };
    cluster.kill(away)?;
    create(&admin, topic("first", 6, 3)).await?;
    let began = Instant::now();
    for more in 0.. {
        let first = admin.refresh_topic("first").await?;
        let founded_by_it = |p: &&klamm_client::Partition| p.replicas.first() == Some(&away);
        ensure!(
            first.partitions.iter().any(|p| founded_by_it(&p)),
            "{first:?}"
        );
        if first.partitions.iter().all(|p| p.leader.is_some()) {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(10), "{first:?}");
        create(&admin, topic(&format!("more-{more}"), 1, 3)).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_a_leader_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(3, &SETTINGS)?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let mut load = Load::start(&bootstrap, 3);
    load.more(300, SOON).await?;
    let watcher = client(&cluster).await?;
    for partition in 0..2 {
        let before = topic_is(&watcher, TOPIC, |partition| partition.leader.is_some()).await?;
        let victim = leader(&before, partition)?;
        cluster.kill(victim)?;
        let killed = Instant::now();
        let after = topic_is(&watcher, TOPIC, |partition| {
            partition.leader.is_some_and(|leader| leader != victim)
        })
        .await?;
        println!("led again by others after {:?}", killed.elapsed());
        let epoch =
            |topic: &klamm_client::Topic| topic.partition(partition).map(|p| p.leader_epoch);
        ensure!(epoch(&after) > epoch(&before), "{before:?} {after:?}");
        load.more(300, SOON).await?;
        cluster.boot(victim)?;
        topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    }
    let history = load.finish().await?;
    let records = load::check_all(&bootstrap, &history).await?;
    // Each node alone with one other has all of it: whoever was away has caught up.
    for away in 1..=3 {
        cluster.stop(away)?;
        topic_is(&watcher, TOPIC, |partition| {
            partition.leader.is_some_and(|leader| leader != away)
        })
        .await?;
        let found = load::check(&bootstrap, &history).await?;
        ensure!(
            found == records,
            "{found} without node {away}, {records} with all"
        );
        cluster.boot(away)?;
        topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_lose_nothing_that_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(3, &SETTINGS)?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let mut load = Load::start(&bootstrap, 2);
    for _ in 0..2 {
        load.more(200, SOON).await?;
        for id in 1..=3 {
            cluster.kill(id)?;
        }
        for id in 1..=3 {
            cluster.launch(id)?;
        }
        cluster.wait_ready()?;
    }
    load.more(100, SOON).await?;
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_takes_nothing_says_so_and_goes_on_with_the_others() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    let all = client(&cluster).await?;
    create(&all, topic("t", 3, 3)).await?;
    cluster.kill(1)?;
    cluster.kill(2)?;
    let third = client_of(&cluster, 3).await?;
    nobody_leads(&third, "t").await?;
    let connection = third.any().await?;
    no_leader_is_hinted_at(&connection).await?;
    let request = CreateTopicsRequest::default()
        .with_topics(vec![
            CreatableTopic::default()
                .with_name(TopicName(StrBytes::from_static_str("u")))
                .with_num_partitions(1)
                .with_replication_factor(1),
        ])
        .with_timeout_ms(1000);
    let refused = connection.send(&request).await?;
    ensure!(
        refused.topics[0].error_code == 41,
        "not NOT_CONTROLLER: {refused:?}"
    );
    cluster.boot(1)?;
    let created = eventually(async || {
        let created = connection.send(&request).await?;
        ensure!(
            [0, 36].contains(&created.topics[0].error_code),
            "{created:?}"
        );
        Ok(created)
    });
    created.await?;
    let options = ProducerOptions::default();
    let producer = Producer::new(all, options);
    let message = NewMessage {
        value: Some("x".into()),
        ..NewMessage::default()
    };
    producer.send("t", Some(0), message).await?.await?;
    Ok(())
}

/// Answers say that another leads, and nothing of who: librdkafka crashes over a hint that names nobody.
async fn no_leader_is_hinted_at(connection: &Connection) -> Result<()> {
    let fetched = nearest::fetch(connection, nearest::VERSION, "", 0, Duration::ZERO).await?;
    ensure!(fetched.error_code == NOT_LEADER_OR_FOLLOWER, "{fetched:?}");
    ensure!(fetched.current_leader == Default::default(), "{fetched:?}");
    let produce = produce_request("t", -1)?;
    let produced = connection.send_version(nearest::VERSION, &produce).await?;
    let partition = &produced.responses[0].partition_responses[0];
    ensure!(
        partition.error_code == NOT_LEADER_OR_FOLLOWER,
        "{produced:?}"
    );
    ensure!(
        partition.current_leader == Default::default() && produced.node_endpoints.is_empty(),
        "{produced:?}"
    );
    Ok(())
}

/// Waits until a node says that none of a topic's partitions has a leader.
async fn nobody_leads(client: &Client, name: &str) -> Result<()> {
    eventually(async || {
        let connection = client.any().await?;
        let asked = MetadataRequestTopic::default()
            .with_name(Some(TopicName(StrBytes::from_string(name.to_owned()))));
        let request = MetadataRequest::default().with_topics(Some(vec![asked]));
        let answer = connection.send(&request).await?;
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        ensure!(
            partitions.clone().count() == 3 && partitions.clone().all(|p| p.leader_id.0 == -1),
            "{answer:?}"
        );
        Ok(())
    })
    .await
}
