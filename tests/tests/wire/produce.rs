//! Where a batch goes and what its producer is told: behaviours 35 to 43.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use klamm_protocol::messages::produce_response::PartitionProduceResponse;
use klamm_protocol::messages::{BrokerId, ProduceRequest};
use klamm_records::{BatchBuilder, BatchHeader, Codec, NewRecord};
use uuid::Uuid;

use crate::batches::{batch, dated, fill, headers, now_ms, of_total, patched, sized};
use crate::calls::{
    Topic, code, connect_and_create, creatable, create, describe, end_offset, fetch, init_producer,
    name, produce, produce_answer, produce_request, produce_version, read_all, try_create,
    try_produce, values,
};
use crate::rig::{connect, connect_as, unique};

/// The batch that lies at an offset.
async fn stored(
    connection: &Connection,
    topic: &Topic,
    offset: i64,
) -> Result<(BatchHeader, Bytes)> {
    let answer = fetch(connection, topic, 0, offset).await?;
    headers(&answer.records.context("records")?)?
        .into_iter()
        .next()
        .context("a batch")
}

/// Behaviour 43: a leader is only hinted at by who is not it.
#[tokio::test]
async fn every_version_and_acks_appends_and_answers_the_base_offset() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let mut next = 0;
    for version in 3..=13 {
        for acks in [1, -1] {
            let request = produce_request(&topic, 0, acks, Some(batch(&["one", "two"])));
            let response = connection.send_version(version, &request).await?;
            assert_eq!(response.throttle_time_ms, 0);
            ensure!(response.node_endpoints.is_empty());
            let of = &response.responses[0];
            if version >= 13 {
                assert_eq!(of.topic_id, topic.id);
            } else {
                assert_eq!(of.name, name(&topic.name));
            }
            let answer = produce_answer(response)?;
            assert_eq!(
                (answer.index, code(answer.error_code)),
                (0, ErrorCode::NONE),
                "version {version}"
            );
            assert_eq!(
                (answer.base_offset, answer.log_append_time_ms),
                (next, -1),
                "version {version}"
            );
            assert_eq!(
                answer.log_start_offset,
                if version >= 5 { 0 } else { -1 },
                "version {version}"
            );
            assert_eq!(
                (answer.error_message, answer.record_errors.len()),
                (None, 0)
            );
            assert_eq!(answer.current_leader.leader_id, BrokerId(-1));
            next += 2;
        }
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, next);
    Ok(())
}

#[tokio::test]
async fn records_come_back_as_they_were_sent() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let now = now_ms();
    let mut builder = BatchBuilder::new();
    let headers: [(&[u8], Option<&[u8]>); 4] = [
        (b"h", Some(b"1")),
        (b"h", None),
        (b"", Some(b"")),
        (b"\xff", Some(b"\x00")),
    ];
    builder.push(&NewRecord {
        timestamp: now,
        key: Some(b"k"),
        value: Some(b"v"),
        headers: &headers,
    })?;
    builder.push(&NewRecord {
        timestamp: now - 5,
        key: None,
        value: None,
        headers: &[],
    })?;
    builder.push(&NewRecord {
        timestamp: now + 5,
        key: Some(b""),
        value: Some(b""),
        headers: &[],
    })?;
    produce(&connection, &topic, 0, builder.build()?).await?;
    let seen = read_all(&connection, &topic, 0).await?;
    assert_eq!(seen.len(), 3);
    let owned = headers.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
    assert_eq!(seen[0].headers, owned);
    assert_eq!(
        (seen[0].key.as_deref(), seen[0].value.as_deref()),
        (Some(&b"k"[..]), Some(&b"v"[..]))
    );
    assert_eq!(
        (seen[1].key.as_deref(), seen[1].value.as_deref()),
        (None, None)
    );
    assert_eq!(
        (seen[2].key.as_deref(), seen[2].value.as_deref()),
        (Some(&b""[..]), Some(&b""[..]))
    );
    assert_eq!(
        seen.iter()
            .map(|seen| seen.timestamp - now)
            .collect::<Vec<_>>(),
        [0, -5, 5]
    );
    assert_eq!(
        seen.iter().map(|seen| seen.offset).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_35_log_append_time_is_the_brokers_and_told() -> Result<()> {
    let connection = connect().await?;
    let topic = create(
        &connection,
        1,
        &[("message.timestamp.type", "LogAppendTime")],
    )
    .await?;
    for codec in [Codec::None, Codec::Gzip] {
        let builder = BatchBuilder::new().compression(codec, None);
        // Limits of time do not apply to a time that is not the client's.
        let sent = dated(
            builder,
            &[(1000, "a"), (5, "b"), (now_ms() + 10_000_000_000, "c")],
        );
        let before = now_ms();
        let answer = try_produce(&connection, &topic, 0, sent.clone()).await?;
        let after = now_ms();
        assert_eq!(code(answer.error_code), ErrorCode::NONE);
        let at = answer.log_append_time_ms;
        ensure!(
            (before..=after).contains(&at),
            "{before} <= {at} <= {after}"
        );
        let (header, bytes) = stored(&connection, &topic, answer.base_offset).await?;
        ensure!(header.is_log_append_time());
        assert_eq!(header.max_timestamp, at);
        // The records themselves are let be.
        assert_eq!(bytes[61..], sent[61..]);
        let seen = read_all(&connection, &topic, 0).await?;
        let last = &seen[seen.len() - 3..];
        ensure!(last.iter().all(|record| record.timestamp == at), "{last:?}");
    }
    Ok(())
}

/// It is the broker's to claim. Where the client's time counts, the claim is ignored.
#[tokio::test]
async fn behaviour_34_a_client_cannot_claim_log_append_time() -> Result<()> {
    let connection = connect().await?;
    let topic = create(
        &connection,
        1,
        &[("message.timestamp.type", "LogAppendTime")],
    )
    .await?;
    let claiming = || fill(BatchBuilder::new().log_append_time(now_ms()), &["claims"]);
    let answer = try_produce(&connection, &topic, 0, claiming()).await?;
    assert_eq!(code(answer.error_code), ErrorCode::INVALID_TIMESTAMP);
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    let topic = create(&connection, 1, &[]).await?;
    produce(&connection, &topic, 0, claiming()).await?;
    let (header, _) = stored(&connection, &topic, 0).await?;
    ensure!(
        !header.is_log_append_time(),
        "stored as what the topic says"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_36_a_wrong_max_timestamp_is_put_right() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let now = now_ms();
    let good = dated(
        BatchBuilder::new(),
        &[(now - 10, "a"), (now, "b"), (now - 20, "c")],
    );
    for wrong in [now + 1000, now - 500, -1] {
        let sent = patched(&good, 35, &wrong.to_be_bytes());
        let offset = produce(&connection, &topic, 0, sent).await?;
        let (header, _) = stored(&connection, &topic, offset).await?;
        assert_eq!(header.max_timestamp, now, "claimed {wrong}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_37_compression_type_decides_how_batches_are_stored() -> Result<()> {
    let connection = connect().await?;
    let targets = [
        ("producer", None),
        ("uncompressed", Some(Codec::None)),
        ("gzip", Some(Codec::Gzip)),
        ("snappy", Some(Codec::Snappy)),
        ("lz4", Some(Codec::Lz4)),
        ("zstd", Some(Codec::Zstd)),
    ];
    let now = now_ms();
    let (id, epoch) = init_producer(&connection).await?;
    for (target, becomes) in targets {
        let topic = create(&connection, 1, &[("compression.type", target)]).await?;
        for (number, codec) in (0_i32..).zip(Codec::ALL) {
            let mut builder =
                BatchBuilder::new()
                    .compression(codec, None)
                    .producer(id, epoch, number * 2);
            let headers: [(&[u8], Option<&[u8]>); 3] =
                [(b"h", Some(b"1")), (b"h", None), (b"h", Some(b"1"))];
            let long = "compressible ".repeat(50);
            builder.push(&NewRecord {
                timestamp: now,
                key: Some(b"k"),
                value: None,
                headers: &headers,
            })?;
            let value = Some(long.as_bytes());
            builder.push(&NewRecord {
                timestamp: now - 9,
                key: None,
                value,
                headers: &headers,
            })?;
            let offset = produce(&connection, &topic, 0, builder.build()?).await?;
            let (header, _) = stored(&connection, &topic, offset).await?;
            assert_eq!(
                header.codec()?,
                becomes.unwrap_or(codec),
                "{codec:?} to {target}"
            );
            assert_eq!((header.producer_id, header.producer_epoch), (id, epoch));
            assert_eq!((header.base_sequence, header.record_count), (number * 2, 2));
            assert_eq!((header.base_timestamp, header.max_timestamp), (now, now));
            let seen = read_all(&connection, &topic, 0).await?;
            let [first, second] = &seen[seen.len() - 2..] else {
                unreachable!()
            };
            let owned = headers.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
            assert_eq!(
                (&first.headers, &second.headers),
                (&owned.to_vec(), &owned.to_vec())
            );
            assert_eq!(
                (first.value.as_deref(), second.value.as_deref()),
                (None, value)
            );
            assert_eq!((first.timestamp, second.timestamp), (now, now - 9));
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_38_a_batch_may_be_as_large_as_max_message_bytes() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("max.message.bytes", "1000")]).await?;
    produce(&connection, &topic, 0, of_total(1000)).await?;
    for version in [3, 8, 13] {
        let answer = produce_version(&connection, version, &topic, 0, of_total(1001)).await?;
        assert_eq!(code(answer.error_code), ErrorCode::MESSAGE_TOO_LARGE);
        assert_eq!((answer.base_offset, answer.log_append_time_ms), (-1, -1));
    }
    assert_eq!(
        end_offset(&connection, &topic, 0).await?,
        2,
        "two records of one batch"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_38_the_default_limit_is_1048588_bytes() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, of_total(1_048_588)).await?;
    let answer = try_produce(&connection, &topic, 0, of_total(1_048_589)).await?;
    assert_eq!(code(answer.error_code), ErrorCode::MESSAGE_TOO_LARGE);
    Ok(())
}

#[tokio::test]
async fn behaviour_38_the_size_is_checked_as_sent_and_as_stored() -> Result<()> {
    let connection = connect().await?;
    for (target, codec) in [("gzip", Codec::None), ("uncompressed", Codec::Gzip)] {
        let configs = [("max.message.bytes", "1000"), ("compression.type", target)];
        let topic = create(&connection, 1, &configs).await?;
        let sent = fill(
            BatchBuilder::new().compression(codec, None),
            &[&"x".repeat(5000)],
        );
        assert_eq!(sent.len() < 1000, codec == Codec::Gzip);
        let answer = try_produce(&connection, &topic, 0, sent).await?;
        assert_eq!(
            code(answer.error_code),
            ErrorCode::MESSAGE_TOO_LARGE,
            "{codec:?} to {target}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_38_a_batch_larger_than_a_segment_is_refused() -> Result<()> {
    let connection = connect().await?;
    let configs = [
        ("max.message.bytes", "3000000"),
        ("segment.bytes", "1048576"),
    ];
    let topic = create(&connection, 1, &configs).await?;
    let answer = try_produce(&connection, &topic, 0, sized(1_500_000)).await?;
    assert_eq!(code(answer.error_code), ErrorCode::RECORD_LIST_TOO_LARGE);
    produce(&connection, &topic, 0, of_total(1_048_576)).await?;
    Ok(())
}

#[tokio::test]
async fn behaviour_39_acks_are_minus_one_zero_or_one() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for acks in [2, -2, i16::MAX, i16::MIN] {
        for version in [3, 9, 13] {
            let request = produce_request(&topic, 0, acks, Some(batch(&["acks"])));
            let answer = produce_answer(connection.send_version(version, &request).await?)?;
            assert_eq!(
                code(answer.error_code),
                ErrorCode::INVALID_REQUIRED_ACKS,
                "acks {acks}"
            );
        }
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

/// More replicas in sync than there are replicas are not asked for (since Kafka 4.0).
#[tokio::test]
async fn behaviour_39_min_insync_replicas_is_bounded_by_the_replicas() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 1, &[("min.insync.replicas", "2")]).await?;
    for acks in [-1, 1] {
        let request = produce_request(&topic, 0, acks, Some(batch(&["in sync"])));
        let answer = produce_answer(connection.send(&request).await?)?;
        assert_eq!(code(answer.error_code), ErrorCode::NONE, "acks {acks}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_40_a_bad_partition_does_not_fail_the_others() -> Result<()> {
    let connection = connect().await?;
    let good = create(&connection, 3, &[]).await?;
    let small = create(&connection, 1, &[("max.message.bytes", "500")]).await?;
    produce(&connection, &good, 1, batch(&["before"])).await?;
    let missing = Topic {
        name: unique("missing"),
        id: Uuid::new_v4(),
    };
    let of = |topic: &Topic, partitions: Vec<(i32, Bytes)>| {
        let data = partitions.into_iter().map(|(index, records)| {
            PartitionProduceData::default()
                .with_index(index)
                .with_records(Some(records))
        });
        TopicProduceData::default()
            .with_name(name(&topic.name))
            .with_topic_id(topic.id)
            .with_partition_data(data.collect())
    };
    let corrupt = {
        let mut bytes = batch(&["corrupt"]).to_vec();
        bytes[70] ^= 1;
        Bytes::from(bytes)
    };
    for (version, unknown) in [
        (9, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (13, ErrorCode::UNKNOWN_TOPIC_ID),
    ] {
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![
                of(
                    &good,
                    vec![
                        (0, batch(&["a", "b"])),
                        (1, batch(&["c"])),
                        (2, corrupt.clone()),
                        (3, batch(&["d"])),
                    ],
                ),
                of(&small, vec![(0, sized(1000))]),
                of(&missing, vec![(0, batch(&["e"]))]),
            ]);
        let response = connection.send_version(version, &request).await?;
        let answer = |topic: &Topic, index: i32| -> Result<PartitionProduceResponse> {
            let mut of_topic = response.responses.iter().filter(|found| {
                found.topic_id == topic.id || (version < 13 && found.name == name(&topic.name))
            });
            let found = of_topic.next().context("the topic is answered")?;
            ensure!(of_topic.next().is_none(), "answered twice");
            let mut partitions = found.partition_responses.iter();
            partitions
                .find(|partition| partition.index == index)
                .cloned()
                .context("the partition is answered")
        };
        let round = i64::from(version > 9);
        assert_eq!(answer(&good, 0)?.base_offset, 2 * round);
        assert_eq!(answer(&good, 1)?.base_offset, 1 + round);
        assert_eq!(
            code(answer(&good, 2)?.error_code),
            ErrorCode::CORRUPT_MESSAGE
        );
        assert_eq!(
            code(answer(&good, 3)?.error_code),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        );
        assert_eq!(
            code(answer(&small, 0)?.error_code),
            ErrorCode::MESSAGE_TOO_LARGE
        );
        assert_eq!(code(answer(&missing, 0)?.error_code), unknown);
        ensure!(answer(&missing, 0)?.base_offset == -1);
    }
    assert_eq!(values(&connection, &good, 0).await?, ["a", "b", "a", "b"]);
    assert_eq!(end_offset(&connection, &good, 2).await?, 0);
    Ok(())
}

#[tokio::test]
async fn behaviour_41_producing_never_creates_a_topic() -> Result<()> {
    let connection = connect().await?;
    for version in 3..=12 {
        let topic = Topic {
            name: unique("unborn"),
            id: Uuid::nil(),
        };
        let answer = produce_version(&connection, version, &topic, 0, batch(&["x"])).await?;
        assert_eq!(
            code(answer.error_code),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        );
        let found = describe(&connection, &topic.name).await?;
        assert_eq!(
            code(found.error_code),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        );
    }
    for id in [Uuid::new_v4(), Uuid::nil()] {
        let topic = Topic {
            name: unique("unborn"),
            id,
        };
        let answer = produce_version(&connection, 13, &topic, 0, batch(&["x"])).await?;
        assert_eq!(code(answer.error_code), ErrorCode::UNKNOWN_TOPIC_ID, "{id}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviours_24_and_42_internal_topics_are_not_for_clients() -> Result<()> {
    let connection = connect().await?;
    for internal in ["__consumer_offsets", "__transaction_state"] {
        let created = try_create(&connection, creatable(internal, 1, &[])).await?;
        ensure!(
            [ErrorCode::NONE, ErrorCode::TOPIC_ALREADY_EXISTS].contains(&code(created.error_code)),
            "{created:?}"
        );
        let described = describe(&connection, internal).await?;
        ensure!(described.is_internal);
        let topic = crate::calls::wait_for(
            &connection,
            internal,
            i32::try_from(described.partitions.len())?,
        )
        .await?;
        for version in [3, 13] {
            let answer = produce_version(&connection, version, &topic, 0, batch(&["x"])).await?;
            assert_eq!(
                code(answer.error_code),
                ErrorCode::INVALID_TOPIC_EXCEPTION,
                "{internal} {version}"
            );
        }
        let admin = connect_as("__admin_client").await?;
        let keyed = {
            let mut builder = BatchBuilder::new();
            builder.push(&NewRecord {
                timestamp: now_ms(),
                key: Some(b"key"),
                ..NewRecord::default()
            })?;
            builder.build()?
        };
        let answer = try_produce(&admin, &topic, 0, keyed).await?;
        assert_eq!(
            code(answer.error_code),
            ErrorCode::NONE,
            "{internal} by the admin client"
        );
    }
    Ok(())
}
