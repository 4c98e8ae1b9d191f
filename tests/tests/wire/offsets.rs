//! ListOffsets, OffsetForLeaderEpoch and DeleteRecords: behaviours 78, 82 to 84 and 110.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use klamm_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use klamm_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use klamm_protocol::messages::offset_for_leader_epoch_response::EpochEndOffset;
use klamm_protocol::messages::{BrokerId, DeleteRecordsRequest, OffsetForLeaderEpochRequest};
use klamm_records::{BatchBuilder, Codec};

use crate::batches::{batch, dated, now_ms};
use crate::calls::{
    TIMEOUT_MS, Topic, code, connect_and_create, create, describe, end_offset, fetch, list_offset,
    list_request, list_version, name, produce, values,
};
use crate::rig::{connect, unique};

const NEWEST: i16 = 11;

/// DeleteRecords on one partition: its error and low watermark.
pub(crate) async fn delete_records(
    connection: &Connection,
    topic: &Topic,
    partition: i32,
    offset: i64,
) -> Result<(ErrorCode, i64)> {
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(partition)
        .with_offset(offset);
    let asked = DeleteRecordsTopic::default()
        .with_name(name(&topic.name))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![asked])
        .with_timeout_ms(TIMEOUT_MS);
    let response = connection.send(&request).await?;
    ensure!(
        response.topics.len() == 1 && response.topics[0].partitions.len() == 1,
        "{response:?}"
    );
    let answer = &response.topics[0].partitions[0];
    Ok((code(answer.error_code), answer.low_watermark))
}

fn brief(answer: &ListOffsetsPartitionResponse) -> (ErrorCode, i64, i64) {
    (code(answer.error_code), answer.timestamp, answer.offset)
}

#[tokio::test]
async fn behaviour_82_special_timestamps() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let now = now_ms();
    for (number, time) in [now - 100, now - 50, now - 75].into_iter().enumerate() {
        let records = [(time, "first"), (time - 5, "second")];
        assert_eq!(
            produce(&connection, &topic, 0, dated(BatchBuilder::new(), &records)).await?,
            2 * i64::try_from(number)?
        );
    }
    delete_records(&connection, &topic, 0, 1).await?;
    let none = ErrorCode::NONE;
    let expected = [
        (-1, 1, (none, -1, 6)),
        (-2, 1, (none, -1, 1)),
        (-3, 7, (none, now - 50, 2)),
        (-4, 8, (none, -1, 1)),
        (-5, 9, (none, -1, -1)),
        (-6, 11, (none, -1, -1)),
    ];
    for version in 1..=NEWEST {
        for (special, since, expected) in expected {
            if version >= since {
                let answer = list_version(&connection, version, &topic, 0, special).await?;
                assert_eq!(brief(&answer), expected, "{special} in version {version}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_82_special_timestamps_of_an_empty_partition() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for (special, expected) in [(-1, 0), (-2, 0), (-3, -1), (-4, 0), (-5, -1), (-6, -1)] {
        let answer = list_offset(&connection, &topic, 0, special).await?;
        assert_eq!(brief(&answer), (ErrorCode::NONE, -1, expected), "{special}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_82_a_special_timestamp_above_the_version_is_unsupported() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["x"])).await?;
    for (special, since) in [
        (-3, 7),
        (-4, 8),
        (-5, 9),
        (-6, 11),
        (-7, 99),
        (i64::MIN, 99),
    ] {
        for version in 1..=NEWEST.min(since - 1) {
            let answer = list_version(&connection, version, &topic, 0, special).await?;
            let found = (code(answer.error_code), answer.offset);
            assert_eq!(
                found,
                (ErrorCode::UNSUPPORTED_VERSION, -1),
                "{special} in version {version}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_83_the_first_record_at_or_after_a_time() -> Result<()> {
    let connection = connect().await?;
    let start = now_ms() - 1_000_000;
    for codec in [Codec::None, Codec::Zstd] {
        let topic = create(&connection, 1, &[]).await?;
        // Times go back within and between batches.
        for times in [[10, 20, 15], [40, 30, 50], [35, 60, 60]] {
            let records = times.map(|time| (start + time, "x"));
            let builder = BatchBuilder::new().compression(codec, None);
            produce(&connection, &topic, 0, dated(builder, &records)).await?;
        }
        let none = ErrorCode::NONE;
        for (asked, offset, time) in [
            (0, 0, 10),
            (10, 0, 10),
            (11, 1, 20),
            (20, 1, 20),
            (21, 3, 40),
            (41, 5, 50),
            (51, 7, 60),
            (60, 7, 60),
        ] {
            for version in [1, 4, 7, NEWEST] {
                let answer = list_version(&connection, version, &topic, 0, start + asked).await?;
                assert_eq!(
                    brief(&answer),
                    (none, start + time, offset),
                    "{codec:?}: {asked} in version {version}"
                );
            }
        }
        for version in 1..=NEWEST {
            let answer = list_version(&connection, version, &topic, 0, start + 61).await?;
            assert_eq!(
                brief(&answer),
                (none, -1, -1),
                "behind the last, version {version}"
            );
        }
        let answer = list_offset(&connection, &topic, 0, 0).await?;
        assert_eq!(brief(&answer), (none, start + 10, 0));
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_83_records_before_the_log_start_are_not_found() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let start = now_ms() - 1_000_000;
    let records = [(start + 10, "a"), (start + 20, "b"), (start + 30, "c")];
    produce(&connection, &topic, 0, dated(BatchBuilder::new(), &records)).await?;
    assert_eq!(
        delete_records(&connection, &topic, 0, 2).await?,
        (ErrorCode::NONE, 2)
    );
    let answer = list_offset(&connection, &topic, 0, start).await?;
    assert_eq!(brief(&answer), (ErrorCode::NONE, start + 30, 2));
    Ok(())
}

#[tokio::test]
async fn behaviour_83_with_log_append_time_all_records_of_a_batch_have_its_time() -> Result<()> {
    let connection = connect().await?;
    let topic = create(
        &connection,
        1,
        &[("message.timestamp.type", "LogAppendTime")],
    )
    .await?;
    let answer = crate::calls::try_produce(&connection, &topic, 0, batch(&["a", "b"])).await?;
    let first = answer.log_append_time_ms;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = crate::calls::try_produce(&connection, &topic, 0, batch(&["c", "d"]))
        .await?
        .log_append_time_ms;
    for (asked, expected) in [
        (first, (first, 0)),
        (first + 1, (second, 2)),
        (second, (second, 2)),
    ] {
        let answer = list_offset(&connection, &topic, 0, asked).await?;
        assert_eq!((answer.timestamp, answer.offset), expected);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_84_leader_epochs_come_with_version_4() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let epoch = describe(&connection, &topic.name).await?.partitions[0].leader_epoch;
    produce(&connection, &topic, 0, batch(&["x"])).await?;
    for version in 1..=NEWEST {
        for timestamp in [-1, -2, 0] {
            let answer = list_version(&connection, version, &topic, 0, timestamp).await?;
            assert_eq!(
                answer.leader_epoch,
                if version >= 4 { epoch } else { -1 },
                "{timestamp} in {version}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_84_the_same_partition_twice_is_invalid() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let mut request = list_request(&topic, 0, -1);
    let mut other = request.topics[0].partitions[0].clone();
    request.topics[0].partitions.push(other.clone());
    other.partition_index = 1;
    request.topics[0].partitions.push(other);
    let response = connection.send(&request).await?;
    let mut found: Vec<(i32, ErrorCode)> = Vec::new();
    for topic in &response.topics {
        found.extend(
            topic
                .partitions
                .iter()
                .map(|answer| (answer.partition_index, code(answer.error_code))),
        );
    }
    ensure!(
        found.contains(&(0, ErrorCode::INVALID_REQUEST)),
        "{found:?}"
    );
    ensure!(found.contains(&(1, ErrorCode::NONE)), "{found:?}");
    ensure!(!found.contains(&(0, ErrorCode::NONE)), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn behaviour_78_list_offsets_is_fenced_by_the_leader_epoch() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let epoch = describe(&connection, &topic.name).await?.partitions[0].leader_epoch;
    for (asked, expected) in [
        (epoch, ErrorCode::NONE),
        (epoch + 1, ErrorCode::UNKNOWN_LEADER_EPOCH),
        (epoch - 1, ErrorCode::FENCED_LEADER_EPOCH),
    ] {
        if asked < 0 {
            continue;
        }
        let mut request = list_request(&topic, 0, -1);
        request.topics[0].partitions[0].current_leader_epoch = asked;
        let response = connection.send(&request).await?;
        let answer = &response.topics[0].partitions[0];
        assert_eq!(
            code(answer.error_code),
            expected,
            "asked {asked}, is {epoch}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn unknown_topics_and_partitions_of_list_offsets() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let missing = Topic {
        name: unique("missing"),
        id: topic.id,
    };
    for (topic, partition) in [(&topic, 1), (&topic, -1), (&missing, 0)] {
        for timestamp in [-1, -2, 0] {
            let answer = list_offset(&connection, topic, partition, timestamp).await?;
            assert_eq!(
                brief(&answer),
                (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1, -1)
            );
        }
    }
    Ok(())
}

async fn epoch_end(
    connection: &Connection,
    version: i16,
    topic: &Topic,
    (current, asked): (i32, i32),
) -> Result<EpochEndOffset> {
    let partition = OffsetForLeaderPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(current)
        .with_leader_epoch(asked);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(name(&topic.name))
        .with_partitions(vec![partition]);
    // A consumer; version 2 has no such field.
    let replica = BrokerId(if version >= 3 { -1 } else { -2 });
    let request = OffsetForLeaderEpochRequest::default()
        .with_replica_id(replica)
        .with_topics(vec![topic]);
    let response = connection.send_version(version, &request).await?;
    ensure!(
        response.topics.len() == 1 && response.topics[0].partitions.len() == 1,
        "{response:?}"
    );
    Ok(response.topics[0].partitions[0].clone())
}

#[tokio::test]
async fn behaviour_78_the_end_offset_of_a_leader_epoch() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a", "b", "c"])).await?;
    let epoch = describe(&connection, &topic.name).await?.partitions[0].leader_epoch;
    for version in 2..=4 {
        for current in [-1, epoch] {
            let answer = epoch_end(&connection, version, &topic, (current, epoch)).await?;
            let found = (
                code(answer.error_code),
                answer.leader_epoch,
                answer.end_offset,
            );
            assert_eq!(found, (ErrorCode::NONE, epoch, 3), "version {version}");
            // An epoch that is yet to come is not known, and the leader says so.
            let answer = epoch_end(&connection, version, &topic, (current, epoch + 1)).await?;
            let found = (
                code(answer.error_code),
                answer.leader_epoch,
                answer.end_offset,
            );
            assert_eq!(found, (ErrorCode::NONE, -1, -1), "version {version}");
        }
        let answer = epoch_end(&connection, version, &topic, (epoch + 1, epoch)).await?;
        assert_eq!(code(answer.error_code), ErrorCode::UNKNOWN_LEADER_EPOCH);
        if epoch > 0 {
            let answer = epoch_end(&connection, version, &topic, (epoch - 1, epoch)).await?;
            assert_eq!(code(answer.error_code), ErrorCode::FENCED_LEADER_EPOCH);
        }
    }
    let missing = Topic {
        name: unique("missing"),
        id: topic.id,
    };
    let answer = epoch_end(&connection, 4, &missing, (-1, 0)).await?;
    assert_eq!(
        code(answer.error_code),
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_110_delete_records_moves_the_log_start() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for _ in 0..3 {
        produce(&connection, &topic, 0, batch(&["a", "b"])).await?;
    }
    let none = ErrorCode::NONE;
    // Into the middle of a batch.
    assert_eq!(delete_records(&connection, &topic, 0, 3).await?, (none, 3));
    assert_eq!(list_offset(&connection, &topic, 0, -2).await?.offset, 3);
    assert_eq!(values(&connection, &topic, 0).await?, ["b", "a", "b"]);
    let answer = fetch(&connection, &topic, 0, 3).await?;
    assert_eq!(answer.log_start_offset, 3);
    let first = crate::batches::records(&answer.records.context("records")?)?.remove(0);
    assert_eq!(first.offset, 2, "the batch comes as a whole");
    let answer = fetch(&connection, &topic, 0, 2).await?;
    assert_eq!(code(answer.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
    // Back is no way, and no error.
    assert_eq!(delete_records(&connection, &topic, 0, 1).await?, (none, 3));
    let out_of_range = ErrorCode::OFFSET_OUT_OF_RANGE;
    assert_eq!(
        delete_records(&connection, &topic, 0, 7).await?,
        (out_of_range, -1)
    );
    assert_eq!(
        delete_records(&connection, &topic, 0, -2).await?,
        (out_of_range, -1)
    );
    assert_eq!(delete_records(&connection, &topic, 0, -1).await?, (none, 6));
    assert_eq!(end_offset(&connection, &topic, 0).await?, 6);
    assert_eq!(produce(&connection, &topic, 0, batch(&["c"])).await?, 6);
    assert_eq!(values(&connection, &topic, 0).await?, ["c"]);
    Ok(())
}

#[tokio::test]
async fn behaviour_110_delete_records_in_every_version_and_where_there_is_nothing() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a", "b", "c"])).await?;
    for version in 0..=2_i16 {
        let partition = DeleteRecordsPartition::default().with_offset(i64::from(version) + 1);
        let asked = DeleteRecordsTopic::default()
            .with_name(name(&topic.name))
            .with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default()
            .with_topics(vec![asked])
            .with_timeout_ms(TIMEOUT_MS);
        let response = connection.send_version(version, &request).await?;
        let answer = &response.topics[0].partitions[0];
        assert_eq!(
            (answer.error_code, answer.low_watermark),
            (0, i64::from(version) + 1)
        );
    }
    let unknown = (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1);
    assert_eq!(delete_records(&connection, &topic, 5, 0).await?, unknown);
    let missing = Topic {
        name: unique("missing"),
        id: topic.id,
    };
    assert_eq!(delete_records(&connection, &missing, 0, 0).await?, unknown);
    Ok(())
}

#[tokio::test]
async fn behaviour_110_records_of_a_compacted_topic_are_not_deleted() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("cleanup.policy", "compact")]).await?;
    let (answer, low) = delete_records(&connection, &topic, 0, -1).await?;
    assert_eq!((answer, low), (ErrorCode::POLICY_VIOLATION, -1));
    Ok(())
}
