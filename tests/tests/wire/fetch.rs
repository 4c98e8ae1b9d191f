//! Fetch without sessions: behaviours 70 to 76 and 78 to 81.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_client::Connection;
use klamm_protocol::messages::fetch_request::{FetchTopic, ReplicaState};
use klamm_protocol::messages::fetch_response::{FetchResponse, PartitionData};
use klamm_protocol::messages::{BrokerId, FetchRequest};
use klamm_protocol::{ErrorCode, StrBytes};
use klamm_records::BatchBuilder;
use uuid::Uuid;

use crate::batches::{batch, fill, headers, records, sized};
use crate::calls::{
    Topic, code, connect_and_create, create, delete, describe, fetch, fetch_answer,
    fetch_partition, fetch_request, name, produce, text, try_create, values, wait_for,
};
use crate::offsets::delete_records;
use crate::rig::{connect, connect_to, eventually, ours, unique};

/// Time for an answer that must come at once, on a busy machine.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(1500);
/// Wait of a Fetch that must not be waited for.
pub(crate) const LONG_MS: i32 = 8_000;

pub(crate) async fn timed(
    connection: &Connection,
    version: i16,
    request: &FetchRequest,
) -> Result<(FetchResponse, Duration)> {
    let began = Instant::now();
    let response = connection.send_version(version, request).await?;
    Ok((response, began.elapsed()))
}

pub(crate) fn bytes(partition: &PartitionData) -> Result<Bytes> {
    partition.records.clone().context("records are not null")
}

pub(crate) fn waiting(topic: &Topic, offset: i64, min_bytes: i32) -> FetchRequest {
    fetch_request(topic, vec![fetch_partition(0, offset)])
        .with_max_wait_ms(LONG_MS)
        .with_min_bytes(min_bytes)
}

#[tokio::test]
async fn every_version_returns_the_records() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a", "b"])).await?;
    for version in 4..=18 {
        let request = fetch_request(&topic, vec![fetch_partition(0, 0)]);
        let response = connection.send_version(version, &request).await?;
        assert_eq!(response.throttle_time_ms, 0);
        assert_eq!(
            (code(response.error_code), response.session_id),
            (ErrorCode::NONE, 0)
        );
        ensure!(response.node_endpoints.is_empty());
        let of = &response.responses[0];
        if version >= 13 {
            assert_eq!(of.topic_id, topic.id);
        } else {
            assert_eq!(of.topic, name(&topic.name));
        }
        let answer = fetch_answer(response.clone())?;
        let seen = records(&bytes(&answer)?)?;
        assert_eq!(
            seen.iter().map(|seen| seen.text()).collect::<Vec<_>>(),
            ["a", "b"],
            "version {version}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_71_the_first_batch_comes_whole_whatever_the_limits() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 3, &[]).await?;
    for partition in [1, 2] {
        for _ in 0..2 {
            produce(&connection, &topic, partition, sized(20_000)).await?;
        }
    }
    let limits = [(1, 1), (0, 0), (1, 1 << 20), (50 << 20, 1), (1000, 1000)];
    for version in [4, 10, 12, 16] {
        for (max_bytes, partition_max_bytes) in limits {
            let partitions = (0..3).map(|partition| {
                fetch_partition(partition, 0).with_partition_max_bytes(partition_max_bytes)
            });
            let request = fetch_request(&topic, partitions.collect()).with_max_bytes(max_bytes);
            let response = connection.send_version(version, &request).await?;
            let counts: Vec<usize> = response.responses[0]
                .partitions
                .iter()
                .map(|answer| Ok(headers(&bytes(answer)?)?.len()))
                .collect::<Result<_>>()?;
            // Partition 0 is empty and does not count as the first.
            let what =
                format!("max {max_bytes}, per partition {partition_max_bytes}, version {version}");
            assert_eq!(counts, [0, 1, 0], "{what}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_71_limits_hold_for_what_follows() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let batch = sized(10_000);
    let len = i32::try_from(batch.len())?;
    for partition in 0..2 {
        for _ in 0..10 {
            produce(&connection, &topic, partition, batch.clone()).await?;
        }
    }
    for (max_bytes, partition_max_bytes, expected) in [
        (50 << 20, 3 * len, [3, 3]),
        (50 << 20, 3 * len + 5, [3, 3]),
        (5 * len, 3 * len, [3, 2]),
        (3 * len, 50 << 20, [3, 0]),
        (50 << 20, 50 << 20, [10, 10]),
    ] {
        let partitions = (0..2).map(|partition| {
            fetch_partition(partition, 0).with_partition_max_bytes(partition_max_bytes)
        });
        let request = fetch_request(&topic, partitions.collect()).with_max_bytes(max_bytes);
        let response = connection.send(&request).await?;
        let mut total = 0;
        let mut counts = Vec::new();
        for answer in &response.responses[0].partitions {
            let bytes = bytes(answer)?;
            total += bytes.len();
            ensure!(bytes.len() <= usize::try_from(partition_max_bytes)?);
            counts.push(headers(&bytes)?.len());
        }
        assert_eq!(
            counts, expected,
            "max {max_bytes}, per partition {partition_max_bytes}"
        );
        ensure!(total <= usize::try_from(max_bytes)?);
    }
    Ok(())
}

/// Wherever the broker keeps what was just written, limits are all that ends an answer.
#[tokio::test]
async fn an_answer_has_all_that_is_there() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for count in 1..=40 {
        produce(&connection, &topic, 0, sized(500)).await?;
        let answer = fetch(&connection, &topic, 0, 0).await?;
        assert_eq!(answer.high_watermark, count);
        assert_eq!(
            i64::try_from(headers(&bytes(&answer)?)?.len())?,
            count,
            "batches up to the high watermark"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_72_partitions_are_filled_in_the_order_of_the_request() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 3, &[]).await?;
    for partition in 0..3 {
        produce(&connection, &topic, partition, sized(1000)).await?;
    }
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let partitions = order
            .map(|partition| fetch_partition(partition, 0))
            .to_vec();
        let request = fetch_request(&topic, partitions).with_max_bytes(1);
        let response = connection.send(&request).await?;
        let filled: Vec<i32> = response.responses[0]
            .partitions
            .iter()
            .filter(|answer| {
                answer
                    .records
                    .as_ref()
                    .is_some_and(|records| !records.is_empty())
            })
            .map(|answer| answer.partition_index)
            .collect();
        assert_eq!(filled, [order[0]], "{order:?}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviours_73_and_74_batches_are_never_taken_apart() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let mut sent = Vec::new();
    for round in 0..4 {
        let values: Vec<String> = (0..5)
            .map(|number| format!("{round}-{number}-{}", "x".repeat(200)))
            .collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let batch = fill(BatchBuilder::new(), &values);
        produce(&connection, &topic, 0, batch.clone()).await?;
        sent.push(batch);
    }
    let len = sent[0].len();
    for offset in 0..20 {
        let answer = fetch(&connection, &topic, 0, offset).await?;
        let found = headers(&bytes(&answer)?)?;
        let first = usize::try_from(offset / 5)?;
        assert_eq!(found[0].0.base_offset, offset / 5 * 5, "from {offset}");
        assert_eq!(found.len(), 4 - first);
        for ((_, found), sent) in found.iter().zip(&sent[first..]) {
            assert_eq!(found[16..], sent[16..], "stored as sent");
        }
    }
    for max in [len + 1, 2 * len - 1, 2 * len, 3 * len - 10] {
        let partition = fetch_partition(0, 0).with_partition_max_bytes(i32::try_from(max)?);
        let answer = fetch_answer(
            connection
                .send(&fetch_request(&topic, vec![partition]))
                .await?,
        )?;
        let found = bytes(&answer)?;
        assert_eq!(headers(&found)?.len(), max / len);
        if ours() {
            assert_eq!(found.len() % len, 0, "cut at a batch");
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_75_offsets_outside_the_log_are_out_of_range() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a", "b", "c"])).await?;
    delete_records(&connection, &topic, 0, 1).await?;
    let at_end = fetch(&connection, &topic, 0, 3).await?;
    assert_eq!(
        (code(at_end.error_code), bytes(&at_end)?.len()),
        (ErrorCode::NONE, 0)
    );
    for version in [4, 5, 12, 18] {
        for offset in [4, i64::MAX, 0, -1, i64::MIN] {
            let request = fetch_request(&topic, vec![fetch_partition(0, offset)]);
            let answer = fetch_answer(connection.send_version(version, &request).await?)?;
            assert_eq!(
                code(answer.error_code),
                ErrorCode::OFFSET_OUT_OF_RANGE,
                "offset {offset}"
            );
            let told = (
                answer.high_watermark,
                answer.last_stable_offset,
                answer.log_start_offset,
            );
            assert_eq!(told, (-1, -1, -1), "offset {offset} in version {version}");
            ensure!(answer.records.is_none_or(|records| records.is_empty()));
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_76_watermarks_are_told() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let told = async |version: i16, isolation: i8| -> Result<(i64, i64, i64)> {
        let offset = crate::calls::list_offset(&connection, &topic, 0, -2)
            .await?
            .offset;
        let request =
            fetch_request(&topic, vec![fetch_partition(0, offset)]).with_isolation_level(isolation);
        let answer = fetch_answer(connection.send_version(version, &request).await?)?;
        ensure!(
            answer
                .aborted_transactions
                .is_none_or(|aborted| aborted.is_empty())
        );
        Ok((
            answer.high_watermark,
            answer.last_stable_offset,
            answer.log_start_offset,
        ))
    };
    assert_eq!(told(18, 0).await?, (0, 0, 0));
    produce(&connection, &topic, 0, batch(&["a", "b", "c"])).await?;
    for isolation in [0, 1] {
        assert_eq!(told(18, isolation).await?, (3, 3, 0));
        assert_eq!(
            told(4, isolation).await?,
            (3, 3, -1),
            "no log start before version 5"
        );
    }
    delete_records(&connection, &topic, 0, 2).await?;
    assert_eq!(told(12, 0).await?, (3, 3, 2));
    Ok(())
}

#[tokio::test]
async fn behaviour_78_a_fetch_is_fenced_by_the_leader_epoch() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a"])).await?;
    let epoch = describe(&connection, &topic.name).await?.partitions[0].leader_epoch;
    for version in [9, 11, 12, 18] {
        for (asked, expected) in [
            (-1, ErrorCode::NONE),
            (epoch, ErrorCode::NONE),
            (epoch + 1, ErrorCode::UNKNOWN_LEADER_EPOCH),
            (epoch - 1, ErrorCode::FENCED_LEADER_EPOCH),
        ] {
            if asked == epoch - 1 && asked < 0 {
                continue;
            }
            let partition = fetch_partition(0, 0).with_current_leader_epoch(asked);
            let request = fetch_request(&topic, vec![partition]);
            let answer = fetch_answer(connection.send_version(version, &request).await?)?;
            assert_eq!(
                code(answer.error_code),
                expected,
                "asked {asked}, is {epoch}, version {version}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_78_a_log_that_went_another_way_is_told_where() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a", "b", "c"])).await?;
    let epoch = describe(&connection, &topic.name).await?.partitions[0].leader_epoch;
    let ask = async |offset: i64, last_fetched_epoch: i32| -> Result<PartitionData> {
        let partition = fetch_partition(0, offset).with_last_fetched_epoch(last_fetched_epoch);
        let mut request = fetch_request(&topic, vec![partition]);
        request.max_wait_ms = LONG_MS;
        request.min_bytes = 1;
        let (response, took) = timed(&connection, 12, &request).await?;
        ensure!(took < AT_ONCE, "{took:?}");
        fetch_answer(response)
    };
    // Agreed: the records come.
    let answer = ask(1, epoch).await?;
    assert_eq!(
        (code(answer.error_code), answer.diverging_epoch.epoch),
        (ErrorCode::NONE, -1)
    );
    ensure!(!bytes(&answer)?.is_empty());
    // The client has more of this epoch than there is.
    let answer = ask(5, epoch).await?;
    assert_eq!(code(answer.error_code), ErrorCode::NONE);
    assert_eq!(
        (
            answer.diverging_epoch.epoch,
            answer.diverging_epoch.end_offset
        ),
        (epoch, 3)
    );
    ensure!(bytes(&answer)?.is_empty());
    Ok(())
}

#[tokio::test]
async fn behaviour_79_there_is_no_preferred_read_replica() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a"])).await?;
    for version in 11..=18 {
        let request =
            fetch_request(&topic, vec![fetch_partition(0, 0)]).with_rack_id(text("rack-1"));
        let answer = fetch_answer(connection.send_version(version, &request).await?)?;
        assert_eq!(answer.preferred_read_replica, BrokerId(-1));
        ensure!(!bytes(&answer)?.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_80_each_topic_and_partition_is_answered_once() -> Result<()> {
    let connection = connect().await?;
    let mut topics = Vec::new();
    for _ in 0..2 {
        let topic = create(&connection, 3, &[]).await?;
        for partition in 0..3 {
            produce(&connection, &topic, partition, batch(&["a"])).await?;
        }
        topics.push(topic);
    }
    for version in [4, 12, 13] {
        let mut request = fetch_request(
            &topics[0],
            (0..3)
                .map(|partition| fetch_partition(partition, 0))
                .collect(),
        );
        let second = fetch_request(
            &topics[1],
            (0..3)
                .map(|partition| fetch_partition(partition, 0))
                .collect(),
        );
        request.topics.extend(second.topics);
        let response = connection.send_version(version, &request).await?;
        assert_eq!(response.responses.len(), 2, "version {version}");
        for answer in &response.responses {
            let partitions: Vec<i32> = answer
                .partitions
                .iter()
                .map(|answer| answer.partition_index)
                .collect();
            assert_eq!(partitions, [0, 1, 2]);
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_81_fields_that_a_consumer_may_fill() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a"])).await?;
    for version in [12, 15, 18] {
        let mut request = fetch_request(&topic, vec![fetch_partition(0, 0)])
            .with_isolation_level(1)
            .with_rack_id(text("r"))
            .with_cluster_id(Some(StrBytes::from_static_str("whatever")));
        if version >= 15 {
            request.replica_id = BrokerId(-1);
            request.replica_state = ReplicaState::default()
                .with_replica_id(BrokerId(-1))
                .with_replica_epoch(-1);
        }
        let answer = fetch_answer(connection.send_version(version, &request).await?)?;
        assert_eq!(code(answer.error_code), ErrorCode::NONE);
        ensure!(!bytes(&answer)?.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn unknown_topics_and_partitions_of_fetch() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let missing = Topic {
        name: unique("missing"),
        id: Uuid::new_v4(),
    };
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    for version in [4, 12, 13, 18] {
        for (topic, partition, expected) in [
            (&topic, 9, unknown),
            (&topic, -1, unknown),
            (
                &missing,
                0,
                if version >= 13 {
                    ErrorCode::UNKNOWN_TOPIC_ID
                } else {
                    unknown
                },
            ),
        ] {
            let request = fetch_request(topic, vec![fetch_partition(partition, 0)]);
            let answer = fetch_answer(connection.send_version(version, &request).await?)?;
            assert_eq!(
                code(answer.error_code),
                expected,
                "partition {partition}, version {version}"
            );
            assert_eq!(
                (answer.partition_index, answer.high_watermark),
                (partition, -1)
            );
        }
    }
    Ok(())
}

/// Any other code ends the poll loop of Java's consumer with an exception.
#[tokio::test]
async fn behaviour_13_errors_are_those_that_consumers_know() -> Result<()> {
    let known = [
        ErrorCode::NONE,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::REPLICA_NOT_AVAILABLE,
        ErrorCode::KAFKA_STORAGE_ERROR,
        ErrorCode::FENCED_LEADER_EPOCH,
        ErrorCode::UNKNOWN_LEADER_EPOCH,
        ErrorCode::OFFSET_NOT_AVAILABLE,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::UNKNOWN_TOPIC_ID,
        ErrorCode::INCONSISTENT_TOPIC_ID,
        ErrorCode::OFFSET_OUT_OF_RANGE,
    ];
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a"])).await?;
    for version in [4, 9, 12, 13, 18] {
        for partition in [-1, 0, 1, i32::MAX] {
            for offset in [-1, 0, 1, 2, i64::MAX] {
                for epoch in [-1, 0, 5, i32::MAX] {
                    let asked = fetch_partition(partition, offset)
                        .with_current_leader_epoch(epoch)
                        .with_partition_max_bytes(0);
                    let asked = if version >= 12 {
                        asked.with_last_fetched_epoch(epoch)
                    } else {
                        asked
                    };
                    let request = fetch_request(&topic, vec![asked])
                        .with_isolation_level(1)
                        .with_max_bytes(0);
                    let answer = fetch_answer(connection.send_version(version, &request).await?)?;
                    let found = code(answer.error_code);
                    ensure!(
                        known.contains(&found),
                        "{found}: {partition} {offset} {epoch} in {version}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// A consumer that knows a topic by id must not read its successor of the same name.
#[tokio::test]
async fn behaviour_19_the_id_of_a_topic_recreated_is_unknown_to_fetch_and_produce() -> Result<()> {
    let (connection, old) = connect_and_create().await?;
    produce(&connection, &old, 0, batch(&["old"])).await?;
    delete(&connection, &old).await?;
    // Kafka frees the name only some time after it is gone from Metadata.
    eventually("the name is free", || async {
        let created = try_create(&connection, crate::calls::creatable(&old.name, 1, &[])).await?;
        Ok((code(created.error_code) != ErrorCode::TOPIC_ALREADY_EXISTS).then_some(()))
    })
    .await?;
    let new = wait_for(&connection, &old.name, 1).await?;
    assert_ne!(new.id, old.id);
    assert_eq!(values(&connection, &new, 0).await?, Vec::<String>::new());
    for version in 13..=18 {
        let request = fetch_request(&old, vec![fetch_partition(0, 0)]);
        let answer = fetch_answer(connection.send_version(version, &request).await?)?;
        let stale = [
            ErrorCode::UNKNOWN_TOPIC_ID,
            ErrorCode::INCONSISTENT_TOPIC_ID,
        ];
        ensure!(
            stale.contains(&code(answer.error_code)),
            "{}",
            code(answer.error_code)
        );
    }
    let answer = crate::calls::try_produce(&connection, &old, 0, batch(&["late"])).await?;
    assert_eq!(code(answer.error_code), ErrorCode::UNKNOWN_TOPIC_ID);
    assert_eq!(produce(&connection, &new, 0, batch(&["new"])).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_topic_without_partitions_is_no_error() -> Result<()> {
    let connection = connect_to(crate::rig::bootstrap()).await?;
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_session_epoch(-1)
        .with_topics(vec![
            FetchTopic::default()
                .with_topic(name(""))
                .with_partitions(Vec::new()),
        ]);
    let response = connection.send_version(12, &request).await?;
    ensure!(
        response
            .responses
            .iter()
            .all(|topic| topic.partitions.is_empty()),
        "{response:?}"
    );
    Ok(())
}
