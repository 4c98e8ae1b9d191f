//! SIGTERM: leadership goes to others first, and clients go on without an error.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_client::Connection;
use klamm_tests::cluster::Cluster;
use klamm_tests::load::{self, Load, TOPIC};

use crate::nearest::{NONE, NOT_LEADER_OR_FOLLOWER, VERSION};
use crate::rig::{client, create, leader, produce_request, topic, topic_is};

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_is_not_noticed_by_producers() -> Result<()> {
    let mut cluster = Cluster::start(3, &["min.insync.replicas=2"])?;
    let bootstrap = cluster.bootstrap();
    load::create_replicated_topic(&bootstrap, 3).await?;
    let watcher = client(&cluster).await?;
    let mut load = Load::start(&bootstrap, 2);
    for id in 1..=3 {
        load.more(100, Duration::from_secs(30)).await?;
        let began = Instant::now();
        let took = cluster.stop(id)?;
        ensure!(took < Duration::from_secs(10), "the stop took {took:?}");
        // Handed over, not elected: no longer than it takes to ask.
        let after = topic_is(&watcher, TOPIC, |partition| {
            partition.leader.is_some_and(|leader| leader != id)
        })
        .await?;
        println!(
            "stopped in {took:?}, led by others {:?} after SIGTERM",
            began.elapsed()
        );
        ensure!(after.has_all_leaders());
        let log = cluster.node(id).log();
        ensure!(!log.contains("without another replica"), "{log}");
        cluster.boot(id)?;
        topic_is(&watcher, TOPIC, |partition| partition.in_sync.len() == 3).await?;
    }
    let history = load.finish().await?;
    load::check_all(&bootstrap, &history).await?;
    Ok(())
}

/// A client that waits for its metadata to age may be silent for seconds; one that is told goes there at once (KIP-951).
#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_to_a_leader_that_goes_is_told_who_leads_now() -> Result<()> {
    const TOPICS: usize = 12;
    let mut cluster = Cluster::start(3, &["min.insync.replicas=2"])?;
    let client = client(&cluster).await?;
    let names: Vec<String> = (0..TOPICS).map(|n| format!("t{n}")).collect();
    for name in &names {
        create(&client, topic(name, 1, 3)).await?;
    }
    let mut led = Vec::new();
    for name in names {
        let topic = topic_is(&client, &name, |partition| partition.in_sync.len() == 3).await?;
        led.push((name, leader(&topic, 0)?));
    }
    let victim = led[0].1;
    let mut writers = Vec::new();
    for (name, _) in led.iter().filter(|(_, leader)| *leader == victim) {
        let connection = client.connect_to(victim).await?;
        writers.push(tokio::spawn(until_sent_on(connection, name.clone())));
    }
    ensure!(writers.len() >= 2, "{led:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.stop(victim)?;
    for writer in writers {
        let (name, node) = writer.await??;
        ensure!(node >= 0 && node != victim, "{name}: {node}");
    }
    Ok(())
}

/// Writes one record after another until the broker says that it does not lead; the leader it names.
async fn until_sent_on(connection: Connection, name: String) -> Result<(String, i32)> {
    let request = produce_request(&name, -1)?;
    loop {
        let answer = connection.send_version(VERSION, &request).await?;
        let partition = &answer.responses[0].partition_responses[0];
        if partition.error_code == NOT_LEADER_OR_FOLLOWER {
            let named = partition.current_leader.leader_id;
            let endpoints = &answer.node_endpoints;
            let reachable = endpoints.iter().any(|node| node.node_id == named);
            ensure!(reachable, "{answer:?}");
            return Ok((name, named.0));
        }
        ensure!(partition.error_code == NONE, "{answer:?}");
    }
}
