//! How long a Fetch waits: behaviour 70.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_protocol::ErrorCode;

use crate::batches::{batch, records, sized};
use crate::calls::{
    code, connect_and_create, create, delete, fetch_answer, fetch_partition, fetch_request, produce,
};
use crate::fetch::{AT_ONCE, LONG_MS, bytes, timed, waiting};
use crate::rig::connect;

#[tokio::test]
async fn behaviour_70_enough_bytes_are_answered_at_once() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let batch = sized(1000);
    let len = i32::try_from(batch.len())?;
    produce(&connection, &topic, 0, batch).await?;
    let (response, took) = timed(&connection, 13, &waiting(&topic, 0, len)).await?;
    ensure!(took < AT_ONCE, "{took:?}");
    assert_eq!(records(&bytes(&fetch_answer(response)?)?)?.len(), 1);
    // More is wanted than may be sent: that is enough.
    let bounded = waiting(&topic, 0, i32::MAX).with_max_bytes(len);
    let (response, took) = timed(&connection, 13, &bounded).await?;
    ensure!(took < AT_ONCE, "{took:?}");
    assert_eq!(records(&bytes(&fetch_answer(response)?)?)?.len(), 1);
    // One byte more is waited for.
    let request = waiting(&topic, 0, len + 1).with_max_wait_ms(300);
    let (response, took) = timed(&connection, 13, &request).await?;
    ensure!(took >= Duration::from_millis(280), "{took:?}");
    assert_eq!(
        records(&bytes(&fetch_answer(response)?)?)?.len(),
        1,
        "then what there is"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_70_what_cannot_be_waited_for_is_answered_at_once() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let nothing = waiting(&topic, 0, 1).with_topics(Vec::new());
    let no_wait = waiting(&topic, 0, 1).with_max_wait_ms(0);
    let nothing_wanted = waiting(&topic, 0, 0);
    for (what, request) in [
        ("no partition", nothing),
        ("no wait", no_wait),
        ("no bytes", nothing_wanted),
    ] {
        let (response, took) = timed(&connection, 13, &request).await?;
        ensure!(took < AT_ONCE, "{what}: {took:?}");
        assert_eq!(code(response.error_code), ErrorCode::NONE);
    }
    let out_of_range = waiting(&topic, 99, 1);
    let mut unknown_partition = waiting(&topic, 0, 1);
    unknown_partition.topics[0].partitions[0].partition = 7;
    let mut unknown_epoch = waiting(&topic, 0, 1);
    unknown_epoch.topics[0].partitions[0].current_leader_epoch = 1000;
    for (what, request, expected) in [
        ("offset", out_of_range, ErrorCode::OFFSET_OUT_OF_RANGE),
        (
            "partition",
            unknown_partition,
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ),
        ("epoch", unknown_epoch, ErrorCode::UNKNOWN_LEADER_EPOCH),
    ] {
        let (response, took) = timed(&connection, 13, &request).await?;
        ensure!(took < AT_ONCE, "{what}: {took:?}");
        let mut codes = response.responses[0]
            .partitions
            .iter()
            .map(|answer| code(answer.error_code));
        ensure!(codes.any(|found| found == expected), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_70_an_append_wakes_who_waits() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let request = fetch_request(&topic, vec![fetch_partition(0, 0), fetch_partition(1, 0)])
        .with_max_wait_ms(LONG_MS)
        .with_min_bytes(1);
    let reader = connect().await?;
    let began = Instant::now();
    let parked = reader.start(13, &request).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    produce(&connection, &topic, 1, batch(&["wake"])).await?;
    let response = parked.wait().await?;
    ensure!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let partitions = &response.responses[0].partitions;
    let woken = partitions
        .iter()
        .find(|answer| answer.partition_index == 1)
        .context("partition 1")?;
    assert_eq!(records(&bytes(woken)?)?[0].text(), "wake");
    assert_eq!(woken.high_watermark, 1);
    Ok(())
}

#[tokio::test]
async fn behaviour_70_too_few_bytes_do_not_wake() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let reader = connect().await?;
    let began = Instant::now();
    let parked = reader.start(13, &waiting(&topic, 0, 5000)).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    produce(&connection, &topic, 0, sized(2000)).await?;
    tokio::time::sleep(Duration::from_millis(250)).await;
    produce(&connection, &topic, 0, sized(4000)).await?;
    let seen = records(&bytes(&fetch_answer(parked.wait().await?)?)?)?;
    assert_eq!(seen.len(), 2, "woken by the second");
    ensure!(
        (Duration::from_millis(290)..AT_ONCE * 2).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_70_after_max_wait_the_answer_is_what_there_is() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in [4, 11, 12, 18] {
        let request = waiting(&topic, 0, 1).with_max_wait_ms(200);
        let (response, took) = timed(&connection, version, &request).await?;
        ensure!(
            (Duration::from_millis(190)..AT_ONCE).contains(&took),
            "{took:?}"
        );
        let answer = fetch_answer(response)?;
        assert_eq!(
            (code(answer.error_code), bytes(&answer)?.len()),
            (ErrorCode::NONE, 0)
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_70_deleting_the_topic_wakes_who_waits() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let reader = connect().await?;
    let began = Instant::now();
    let parked = reader.start(12, &waiting(&topic, 0, 1)).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    delete(&connection, &topic).await?;
    let answer = fetch_answer(parked.wait().await?)?;
    let gone = [
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ];
    ensure!(
        gone.contains(&code(answer.error_code)),
        "{}",
        code(answer.error_code)
    );
    ensure!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

/// What lies in later segments counts: a reader near the end of one must not wait at its border.
#[tokio::test]
async fn behaviour_70_the_end_of_a_segment_is_not_waited_at() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("segment.bytes", "1048576")]).await?;
    for _ in 0..12 {
        produce(&connection, &topic, 0, sized(200_000)).await?;
    }
    for offset in 0..10 {
        let (response, took) = timed(&connection, 13, &waiting(&topic, offset, 350_000)).await?;
        ensure!(took < AT_ONCE, "from offset {offset}: {took:?}");
        ensure!(!bytes(&fetch_answer(response)?)?.is_empty());
    }
    Ok(())
}
