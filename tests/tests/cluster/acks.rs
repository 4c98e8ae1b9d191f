//! What `acks` mean among three nodes.

use std::time::Duration;

use anyhow::{Result, ensure};
use klamm_protocol::messages::ApiVersionsRequest;
use klamm_tests::cluster::Cluster;
use rustix::process::Signal;

use crate::rig::{client, create, leader, produce_request, topic, topic_is};

/// The last version that names topics.
const VERSION: i16 = 12;
/// Well below the silence after which a leader knows that it is alone.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_with_before_a_majority_has_it() -> Result<()> {
    let cluster = Cluster::start(3, &[])?;
    let client = client(&cluster).await?;
    create(&client, topic("t", 1, 3)).await?;
    let found = topic_is(&client, "t", |partition| partition.in_sync.len() == 3).await?;
    let leader = leader(&found, 0)?;
    let connection = client.connect_to(leader).await?;
    let others = || (1..=3).filter(|id| *id != leader);
    let pause = || others().try_for_each(|id| cluster.pause(id));
    let go_on = || others().try_for_each(|id| cluster.signal(id, Signal::CONT));

    pause()?;
    let produced = connection
        .start(VERSION, &produce_request("t", 1)?)
        .await?
        .wait();
    tokio::pin!(produced);
    let early = tokio::time::timeout(A_WHILE, &mut produced).await;
    go_on()?;
    ensure!(early.is_err(), "acks=1: {early:?}");
    let answer = produced.await?;
    let partition = &answer.responses[0].partition_responses[0];
    ensure!(
        (partition.error_code, partition.base_offset) == (0, 0),
        "{answer:?}"
    );

    // Not answered, but in progress: what comes behind it waits.
    pause()?;
    connection
        .send_unanswered(VERSION, &produce_request("t", 0)?)
        .await?;
    let behind = connection
        .start(3, &ApiVersionsRequest::default())
        .await?
        .wait();
    tokio::pin!(behind);
    let early = tokio::time::timeout(A_WHILE, &mut behind).await;
    go_on()?;
    ensure!(early.is_err(), "acks=0: {early:?}");
    behind.await?;
    let answer = connection
        .send_version(VERSION, &produce_request("t", 1)?)
        .await?;
    let partition = &answer.responses[0].partition_responses[0];
    ensure!(
        (partition.error_code, partition.base_offset) == (0, 2),
        "{answer:?}"
    );
    Ok(())
}
