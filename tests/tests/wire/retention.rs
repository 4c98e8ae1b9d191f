//! What goes away and when: behaviours 110, 125 and 126. Needs a broker that looks often.

use anyhow::{Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use klamm_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use klamm_protocol::messages::{DescribeLogDirsRequest, IncrementalAlterConfigsRequest};
use klamm_records::BatchBuilder;

use crate::batches::{batch, dated, now_ms, sized};
use crate::calls::{
    Topic, code, create, end_offset, fetch, list_offset, name, produce, text, values,
};
use crate::offsets::delete_records;
use crate::rig::{connect, eventually};

const HOUR: i64 = 3_600_000;
/// Time in which a broker that was told to looks for segments to remove, several times over.
const SEVERAL_LOOKS: std::time::Duration = std::time::Duration::from_millis(1500);

async fn start_offset(connection: &Connection, topic: &Topic) -> Result<i64> {
    Ok(list_offset(connection, topic, 0, -2).await?.offset)
}

async fn log_start_becomes(connection: &Connection, topic: &Topic, offset: i64) -> Result<()> {
    eventually(&format!("the log starts at {offset}"), || async {
        let found = start_offset(connection, topic).await?;
        ensure!(
            found <= offset,
            "the log starts at {found}, {offset} is due"
        );
        Ok((found == offset).then_some(()))
    })
    .await
}

async fn set(connection: &Connection, topic: &Topic, key: &str, value: &str) -> Result<()> {
    let config = AlterableConfig::default()
        .with_name(text(key))
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(&topic.name))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let response = connection.send(&request).await?;
    ensure!(response.responses[0].error_code == 0, "{response:?}");
    Ok(())
}

/// Bytes of partition 0 in all log directories.
async fn size(connection: &Connection, topic: &Topic) -> Result<i64> {
    let asked = DescribableLogDirTopic::default()
        .with_topic(name(&topic.name))
        .with_partitions(vec![0]);
    let response = connection
        .send(&DescribeLogDirsRequest::default().with_topics(Some(vec![asked])))
        .await?;
    let topics = response.results.iter().flat_map(|dir| &dir.topics);
    Ok(topics
        .flat_map(|topic| &topic.partitions)
        .map(|partition| partition.partition_size)
        .sum())
}

#[tokio::test]
async fn behaviour_125_time_is_that_of_the_records() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("retention.ms", "3600000")]).await?;
    let old = dated(
        BatchBuilder::new(),
        &[(now_ms() - 2 * HOUR, "old"), (now_ms() - 3 * HOUR, "older")],
    );
    produce(&connection, &topic, 0, old).await?;
    // All of it has expired, so the segment is closed and goes although nothing follows it.
    log_start_becomes(&connection, &topic, 2).await?;
    assert_eq!(end_offset(&connection, &topic, 0).await?, 2);
    let answer = fetch(&connection, &topic, 0, 0).await?;
    assert_eq!(code(answer.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(produce(&connection, &topic, 0, batch(&["new"])).await?, 2);
    assert_eq!(values(&connection, &topic, 0).await?, ["new"]);
    Ok(())
}

#[tokio::test]
async fn behaviour_125_the_newest_record_keeps_its_segment() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("retention.ms", "3600000")]).await?;
    for (time, value) in [
        (now_ms() - 2 * HOUR, "old"),
        (now_ms(), "new"),
        (now_ms() - 5 * HOUR, "older"),
    ] {
        produce(
            &connection,
            &topic,
            0,
            dated(BatchBuilder::new(), &[(time, value)]),
        )
        .await?;
    }
    tokio::time::sleep(SEVERAL_LOOKS).await;
    assert_eq!(
        values(&connection, &topic, 0).await?,
        ["old", "new", "older"]
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_125_without_limits_everything_stays() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("retention.ms", "-1")]).await?;
    produce(
        &connection,
        &topic,
        0,
        dated(BatchBuilder::new(), &[(1, "from 1970")]),
    )
    .await?;
    tokio::time::sleep(SEVERAL_LOOKS).await;
    assert_eq!(values(&connection, &topic, 0).await?, ["from 1970"]);
    Ok(())
}

#[tokio::test]
async fn behaviour_125_size_moves_the_log_start_to_a_segment_border() -> Result<()> {
    let connection = connect().await?;
    let configs = [("segment.bytes", "1048576"), ("retention.bytes", "2097152")];
    let topic = create(&connection, 1, &configs).await?;
    // Five fit into a segment. Of four segments the first can go: without it the size is still
    // not below the limit. The second cannot.
    for _ in 0..20 {
        produce(&connection, &topic, 0, sized(200_000)).await?;
    }
    log_start_becomes(&connection, &topic, 5).await?;
    tokio::time::sleep(SEVERAL_LOOKS).await;
    assert_eq!(start_offset(&connection, &topic).await?, 5);
    let answer = fetch(&connection, &topic, 0, 4).await?;
    assert_eq!(code(answer.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
    let answer = fetch(&connection, &topic, 0, 5).await?;
    assert_eq!(
        (code(answer.error_code), answer.log_start_offset),
        (ErrorCode::NONE, 5)
    );
    eventually("the space comes back", || async {
        let size = size(&connection, &topic).await?;
        Ok((2_097_152..15 * 201_000).contains(&size).then_some(()))
    })
    .await?;
    assert_eq!(end_offset(&connection, &topic, 0).await?, 20);
    Ok(())
}

#[tokio::test]
async fn behaviour_125_a_limit_set_later_holds_for_what_is_there() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("segment.bytes", "1048576")]).await?;
    for _ in 0..16 {
        produce(&connection, &topic, 0, sized(200_000)).await?;
    }
    set(&connection, &topic, "retention.bytes", "1").await?;
    // Only the segment being written stays.
    eventually("the closed segments go", || async {
        Ok((start_offset(&connection, &topic).await? >= 15).then_some(()))
    })
    .await?;
    assert_eq!(end_offset(&connection, &topic, 0).await?, 16);
    Ok(())
}

#[tokio::test]
async fn behaviour_110_deleted_records_give_their_space_back() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("segment.bytes", "1048576")]).await?;
    for _ in 0..12 {
        produce(&connection, &topic, 0, sized(200_000)).await?;
    }
    ensure!(size(&connection, &topic).await? > 12 * 200_000);
    assert_eq!(
        delete_records(&connection, &topic, 0, 11).await?,
        (ErrorCode::NONE, 11)
    );
    eventually("the segments before it go", || async {
        Ok((size(&connection, &topic).await? < 3 * 200_000).then_some(()))
    })
    .await?;
    assert_eq!(values(&connection, &topic, 0).await?.len(), 1);
    Ok(())
}

/// Two records further apart than segment.ms, by their own clock, do not share a segment: what
/// is too old goes without what is not.
#[tokio::test]
async fn behaviour_126_segment_ms_rolls_by_the_time_of_records() -> Result<()> {
    let connection = connect().await?;
    let topic = create(
        &connection,
        1,
        &[("retention.ms", "-1"), ("segment.ms", "600000")],
    )
    .await?;
    for (ago, value) in [
        (3 * HOUR, "a"),
        (3 * HOUR - 300_000, "b"),
        (2 * HOUR, "c"),
        (0, "d"),
    ] {
        produce(
            &connection,
            &topic,
            0,
            dated(BatchBuilder::new(), &[(now_ms() - ago, value)]),
        )
        .await?;
    }
    set(&connection, &topic, "retention.ms", "9000000").await?;
    log_start_becomes(&connection, &topic, 2).await?;
    set(&connection, &topic, "retention.ms", "3600000").await?;
    log_start_becomes(&connection, &topic, 3).await?;
    assert_eq!(values(&connection, &topic, 0).await?, ["d"]);
    Ok(())
}

/// A reader in the way of retention gets whole batches or is told that it is out of range.
#[tokio::test]
async fn a_reader_overtaken_by_retention_is_told_so() -> Result<()> {
    let connection = connect().await?;
    let configs = [("segment.bytes", "1048576"), ("retention.bytes", "1048576")];
    let topic = create(&connection, 1, &configs).await?;
    let writer = tokio::spawn({
        let topic = topic.clone();
        async move {
            let connection = connect().await?;
            for _ in 0..60 {
                produce(&connection, &topic, 0, sized(150_000)).await?;
            }
            anyhow::Ok(())
        }
    });
    let (mut offset, mut overtaken) = (0, 0);
    while offset < 60 {
        let answer = fetch(&connection, &topic, 0, offset).await?;
        match code(answer.error_code) {
            ErrorCode::NONE => {
                let found = crate::batches::records(&answer.records.unwrap_or_default())?;
                for record in &found {
                    assert_eq!(record.offset, offset);
                    offset += 1;
                }
            }
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                let start = start_offset(&connection, &topic).await?;
                ensure!(
                    start > offset,
                    "out of range at {offset}, although the log starts at {start}"
                );
                offset = start;
                overtaken += 1;
            }
            other => anyhow::bail!("{other} at {offset}"),
        }
        // Slower than the writer now and then.
        tokio::time::sleep(std::time::Duration::from_millis(if overtaken < 1 {
            40
        } else {
            1
        }))
        .await;
    }
    writer.await??;
    Ok(())
}
