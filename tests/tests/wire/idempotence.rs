//! Sequences and epochs of producers: behaviours 45 to 51.

use anyhow::Result;
use bytes::Bytes;
use klamm_client::Connection;
use klamm_protocol::messages::ProduceRequest;
use klamm_protocol::{ErrorCode, decode_response, encode_request};
use klamm_records::BatchBuilder;

use crate::batches::{dated, fill, now_ms, numbered, patched};
use crate::calls::{
    Topic, code, connect_and_create, create, end_offset, init_producer, produce, produce_request,
    try_produce, values,
};
use crate::producer_ids::producers;
use crate::rig::{Raw, connect, connect_to, eventually, ours_only, start};

/// A batch of several records.
pub(crate) fn several(producer: (i64, i16), sequence: i32, count: usize) -> Bytes {
    let values: Vec<String> = (0..count)
        .map(|number| format!("{sequence}+{number}"))
        .collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    fill(
        BatchBuilder::new().producer(producer.0, producer.1, sequence),
        &values,
    )
}

async fn expect(
    connection: &Connection,
    topic: &Topic,
    batch: &Bytes,
    expected: ErrorCode,
    base_offset: i64,
    what: &str,
) -> Result<()> {
    let answer = try_produce(connection, topic, 0, batch.clone()).await?;
    let found = (code(answer.error_code), answer.base_offset);
    assert_eq!(found, (expected, base_offset), "{what}");
    Ok(())
}

#[tokio::test]
async fn behaviour_45_a_retry_within_five_batches_gets_its_first_answer() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let producer = init_producer(&connection).await?;
    let batches: Vec<Bytes> = (0..5)
        .map(|number| several(producer, number * 3, 3))
        .collect();
    for (number, batch) in (0..).zip(&batches) {
        expect(
            &connection,
            &topic,
            batch,
            ErrorCode::NONE,
            number * 3,
            "first time",
        )
        .await?;
    }
    for number in [4, 3, 2, 1, 0] {
        let offset = i64::try_from(number * 3)?;
        expect(
            &connection,
            &topic,
            &batches[number],
            ErrorCode::NONE,
            offset,
            "again",
        )
        .await?;
    }
    assert_eq!(
        end_offset(&connection, &topic, 0).await?,
        15,
        "nothing was appended"
    );
    // A sixth batch pushes the first one out.
    expect(
        &connection,
        &topic,
        &several(producer, 15, 3),
        ErrorCode::NONE,
        15,
        "sixth",
    )
    .await?;
    let out_of_order = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    expect(
        &connection,
        &topic,
        &batches[0],
        out_of_order,
        -1,
        "the sixth last",
    )
    .await?;
    expect(
        &connection,
        &topic,
        &batches[1],
        ErrorCode::NONE,
        3,
        "the fifth last",
    )
    .await?;
    assert_eq!(end_offset(&connection, &topic, 0).await?, 18);
    Ok(())
}

#[tokio::test]
async fn behaviour_45_a_retry_is_told_the_first_append_time() -> Result<()> {
    let connection = connect().await?;
    let topic = create(
        &connection,
        1,
        &[("message.timestamp.type", "LogAppendTime")],
    )
    .await?;
    let producer = init_producer(&connection).await?;
    let batch = numbered(producer, 0);
    let first = try_produce(&connection, &topic, 0, batch.clone()).await?;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let again = try_produce(&connection, &topic, 0, batch).await?;
    assert_eq!(code(again.error_code), ErrorCode::NONE);
    assert_eq!(again.base_offset, first.base_offset);
    assert_eq!(again.log_append_time_ms, first.log_append_time_ms);
    assert_eq!(end_offset(&connection, &topic, 0).await?, 1);
    Ok(())
}

/// Equal means the same first and last sequence.
#[tokio::test]
async fn behaviour_45_a_batch_that_overlaps_is_no_retry() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let producer = init_producer(&connection).await?;
    produce(&connection, &topic, 0, several(producer, 0, 3)).await?;
    let out_of_order = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    for (sequence, count) in [(0, 2), (0, 4), (1, 2), (2, 1), (1, 5)] {
        let overlapping = several(producer, sequence, count);
        expect(
            &connection,
            &topic,
            &overlapping,
            out_of_order,
            -1,
            &format!("{sequence}, {count}"),
        )
        .await?;
    }
    expect(
        &connection,
        &topic,
        &several(producer, 3, 1),
        ErrorCode::NONE,
        3,
        "the next one",
    )
    .await
}

#[tokio::test]
async fn behaviour_45_five_batches_in_flight_and_all_of_them_again() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let producer = init_producer(&connection).await?;
    let mut segment = Vec::new();
    for id in 0..5 {
        let request = produce_request(&topic, 0, -1, Some(numbered(producer, id)));
        segment.extend_from_slice(&encode_request(11, id, Some("raw"), &request)?);
    }
    for _ in 0..2 {
        let mut raw = Raw::connect().await?;
        raw.write(&segment).await?;
        for id in 0..5 {
            let response = decode_response::<ProduceRequest>(raw.answer(id).await?, 11)?;
            let answer = &response.responses[0].partition_responses[0];
            assert_eq!(
                (code(answer.error_code), answer.base_offset),
                (ErrorCode::NONE, i64::from(id))
            );
        }
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 5);
    Ok(())
}

/// The same request twice in one segment: the second comes while the first is being written.
#[tokio::test]
async fn behaviour_45_a_retry_of_a_batch_still_in_flight_waits_for_it() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let producer = init_producer(&connection).await?;
    let request = produce_request(&topic, 0, -1, Some(numbered(producer, 0)));
    let mut segment = Vec::new();
    for id in 0..4 {
        segment.extend_from_slice(&encode_request(11, id, Some("raw"), &request)?);
    }
    let mut raw = Raw::connect().await?;
    raw.write(&segment).await?;
    for id in 0..4 {
        let response = decode_response::<ProduceRequest>(raw.answer(id).await?, 11)?;
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!(
            (code(answer.error_code), answer.base_offset),
            (ErrorCode::NONE, 0),
            "request {id}"
        );
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 1);
    Ok(())
}

#[tokio::test]
async fn behaviour_46_a_gap_is_out_of_order() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let producer = init_producer(&connection).await?;
    produce(&connection, &topic, 0, numbered(producer, 0)).await?;
    let out_of_order = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    for gap in [2, 3, 1000, i32::MAX] {
        expect(
            &connection,
            &topic,
            &numbered(producer, gap),
            out_of_order,
            -1,
            &format!("sequence {gap}"),
        )
        .await?;
    }
    expect(
        &connection,
        &topic,
        &numbered(producer, 1),
        ErrorCode::NONE,
        1,
        "the next one",
    )
    .await
}

#[tokio::test]
async fn behaviour_46_after_the_largest_sequence_comes_0() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let producer = init_producer(&connection).await?;
    let none = ErrorCode::NONE;
    expect(
        &connection,
        &topic,
        &numbered(producer, i32::MAX - 1),
        none,
        0,
        "near the end",
    )
    .await?;
    expect(
        &connection,
        &topic,
        &numbered(producer, i32::MAX),
        none,
        1,
        "the end",
    )
    .await?;
    let out_of_order = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    expect(
        &connection,
        &topic,
        &numbered(producer, 1),
        out_of_order,
        -1,
        "not 0",
    )
    .await?;
    expect(&connection, &topic, &numbered(producer, 0), none, 2, "0").await?;
    expect(
        &connection,
        &topic,
        &numbered(producer, i32::MAX),
        none,
        1,
        "a retry across",
    )
    .await?;
    // A batch that itself reaches across.
    let across = init_producer(&connection).await?;
    let batch = several(across, i32::MAX - 1, 4);
    expect(&connection, &topic, &batch, none, 3, "across").await?;
    expect(&connection, &topic, &batch, none, 3, "across, again").await?;
    expect(
        &connection,
        &topic,
        &numbered(across, 2),
        none,
        7,
        "behind it",
    )
    .await
}

#[tokio::test]
async fn behaviour_47_a_new_epoch_begins_at_0_and_an_old_one_is_refused() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let (id, _) = init_producer(&connection).await?;
    let none = ErrorCode::NONE;
    expect(
        &connection,
        &topic,
        &numbered((id, 3), 0),
        none,
        0,
        "epoch 3",
    )
    .await?;
    let out_of_order = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    expect(
        &connection,
        &topic,
        &numbered((id, 4), 1),
        out_of_order,
        -1,
        "epoch 4 from 1",
    )
    .await?;
    expect(
        &connection,
        &topic,
        &numbered((id, 3), 1),
        none,
        1,
        "epoch 3 goes on",
    )
    .await?;
    expect(
        &connection,
        &topic,
        &numbered((id, 4), 0),
        none,
        2,
        "epoch 4 from 0",
    )
    .await?;
    let old = ErrorCode::INVALID_PRODUCER_EPOCH;
    expect(
        &connection,
        &topic,
        &numbered((id, 3), 2),
        old,
        -1,
        "epoch 3",
    )
    .await?;
    expect(
        &connection,
        &topic,
        &numbered((id, 3), 0),
        old,
        -1,
        "epoch 3, what was a retry",
    )
    .await?;
    expect(
        &connection,
        &topic,
        &numbered((id, 4), 1),
        none,
        3,
        "epoch 4 goes on",
    )
    .await
}

#[tokio::test]
async fn behaviour_48_an_unknown_producer_may_begin_anywhere() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for (offset, sequence) in [(0, 42), (2, 0), (4, i32::MAX)] {
        let producer = init_producer(&connection).await?;
        expect(
            &connection,
            &topic,
            &numbered(producer, sequence),
            ErrorCode::NONE,
            offset,
            "first",
        )
        .await?;
        let next = if sequence == i32::MAX {
            0
        } else {
            sequence + 1
        };
        expect(
            &connection,
            &topic,
            &numbered(producer, next),
            ErrorCode::NONE,
            offset + 1,
            "second",
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_49_silent_producers_are_forgotten() -> Result<()> {
    ours_only!();
    let own = start(&[
        "producer.id.expiration.ms=1000",
        "producer.id.expiration.check.interval.ms=100",
    ])?;
    let connection = connect_to(&own.broker.address).await?;
    let topic = create(&connection, 1, &[]).await?;
    let producer = init_producer(&connection).await?;
    produce(&connection, &topic, 0, numbered(producer, 0)).await?;
    assert_eq!(
        producers(&connection, &topic.name, 0)
            .await?
            .active_producers
            .len(),
        1
    );
    eventually("the producer is forgotten", || async {
        Ok(producers(&connection, &topic.name, 0)
            .await?
            .active_producers
            .is_empty()
            .then_some(()))
    })
    .await?;
    expect(
        &connection,
        &topic,
        &numbered(producer, 77),
        ErrorCode::NONE,
        1,
        "as if new",
    )
    .await
}

#[tokio::test]
async fn behaviour_50_a_refused_batch_does_not_count() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("max.message.bytes", "500")]).await?;
    let producer = init_producer(&connection).await?;
    let builder = |sequence| BatchBuilder::new().producer(producer.0, producer.1, sequence);
    produce(&connection, &topic, 0, numbered(producer, 0)).await?;
    let late = dated(builder(1), &[(now_ms() + 10_000_000, "late")]);
    expect(
        &connection,
        &topic,
        &late,
        ErrorCode::INVALID_TIMESTAMP,
        -1,
        "late",
    )
    .await?;
    let large = fill(builder(1), &[&"x".repeat(1000)]);
    expect(
        &connection,
        &topic,
        &large,
        ErrorCode::MESSAGE_TOO_LARGE,
        -1,
        "large",
    )
    .await?;
    let miscounted = patched(&numbered(producer, 1), 57, &2_i32.to_be_bytes());
    expect(
        &connection,
        &topic,
        &miscounted,
        ErrorCode::INVALID_RECORD,
        -1,
        "miscounted",
    )
    .await?;
    expect(
        &connection,
        &topic,
        &numbered(producer, 1),
        ErrorCode::NONE,
        1,
        "the next one",
    )
    .await?;
    assert_eq!(
        values(&connection, &topic, 0).await?,
        ["sequence 0", "sequence 1"]
    );
    Ok(())
}

/// What is known of a producer outlives its records.
#[tokio::test]
async fn behaviour_51_a_producer_whose_records_are_deleted_is_not_unknown() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let producer = init_producer(&connection).await?;
    for sequence in 0..3 {
        produce(&connection, &topic, 0, numbered(producer, sequence)).await?;
    }
    let (answer, low) = crate::offsets::delete_records(&connection, &topic, 0, -1).await?;
    assert_eq!((answer, low), (ErrorCode::NONE, 3));
    expect(
        &connection,
        &topic,
        &numbered(producer, 3),
        ErrorCode::NONE,
        3,
        "the next one",
    )
    .await?;
    let out_of_order = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    expect(
        &connection,
        &topic,
        &numbered(producer, 9),
        out_of_order,
        -1,
        "a gap",
    )
    .await
}

#[tokio::test]
async fn producers_of_different_partitions_do_not_meet() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let producer = init_producer(&connection).await?;
    for partition in 0..2 {
        for sequence in 0..2 {
            let offset =
                produce(&connection, &topic, partition, numbered(producer, sequence)).await?;
            assert_eq!(offset, i64::from(sequence));
        }
    }
    Ok(())
}
