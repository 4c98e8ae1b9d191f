//! Connections and frames: behaviours 1 to 8, and order under pipelining.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_protocol::messages::metadata_request::MetadataRequestTopic;
use klamm_protocol::messages::{
    ApiVersionsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest,
};
use klamm_protocol::{ApiRequest, ErrorCode, decode_response, encode_request};

use crate::batches::batch;
use crate::calls::{
    code, connect_and_create, end_offset, fetch_partition, fetch_request, list_request, name,
    produce_request, text, values,
};
use crate::rig::{Raw, connect, eventually, framed, head, ours_only};

fn encoded<R: ApiRequest>(version: i16, correlation_id: i32, request: &R) -> Result<Bytes> {
    Ok(encode_request(
        version,
        correlation_id,
        Some("raw"),
        request,
    )?)
}

fn api_versions(version: i16, correlation_id: i32) -> Result<Bytes> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("raw"))
        .with_client_software_version(text("1.0"));
    encoded(version, correlation_id, &request)
}

#[tokio::test]
async fn behaviour_1_a_negative_frame_length_closes_the_connection() -> Result<()> {
    for length in [-1, i32::MIN] {
        let mut raw = Raw::connect().await?;
        raw.write(&length.to_be_bytes()).await?;
        raw.expect_closed().await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_1_a_frame_above_the_limit_closes_the_connection_before_it_is_sent() -> Result<()>
{
    for length in [100 * 1024 * 1024 + 1, i32::MAX] {
        let mut raw = Raw::connect().await?;
        raw.write(&length.to_be_bytes()).await?;
        raw.expect_closed().await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_1_a_frame_too_short_for_a_head_closes_the_connection() -> Result<()> {
    for length in [0_usize, 1, 7, 9] {
        let mut raw = Raw::connect().await?;
        raw.write(&framed(&api_versions(0, 1)?[4..4 + length]))
            .await?;
        raw.expect_closed()
            .await
            .with_context(|| format!("frame of {length} bytes"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_frame_may_arrive_byte_by_byte() -> Result<()> {
    let mut raw = Raw::connect().await?;
    for byte in api_versions(3, 7)? {
        raw.write(&[byte]).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    decode_response::<ApiVersionsRequest>(raw.answer(7).await?, 3)?;
    Ok(())
}

#[tokio::test]
async fn behaviour_2_a_segment_full_of_requests_is_answered_in_order() -> Result<()> {
    let (_connection, topic) = connect_and_create().await?;
    let mut segment = Vec::new();
    let mut ids = Vec::new();
    for round in 0..12 {
        // Ids that neither rise nor are distinct from the sign's side: they are the client's affair.
        let id = |number: i32| 1_000_000 - 7 * (round * 5 + number) - 900_000 * (number % 2) * 2;
        let produce = produce_request(&topic, 0, -1, Some(batch(&["in a segment"])));
        let fetch = fetch_request(&topic, vec![fetch_partition(0, 0)]);
        segment.extend(api_versions(3, id(0))?);
        segment.extend(encoded(9, id(1), &produce)?);
        segment.extend(encoded(11, id(2), &fetch)?);
        segment.extend(encoded(5, id(3), &list_request(&topic, 0, -2))?);
        segment.extend(encoded(
            12,
            id(4),
            &MetadataRequest::default().with_topics(Some(Vec::new())),
        )?);
        ids.extend((0..5).map(id));
    }
    let mut raw = Raw::connect().await?;
    raw.write(&segment).await?;
    for (position, id) in ids.into_iter().enumerate() {
        let frame = raw.answer(id).await?;
        match position % 5 {
            1 => {
                let response = decode_response::<ProduceRequest>(frame, 9)?;
                let partition = &response.responses[0].partition_responses[0];
                assert_eq!(
                    (partition.error_code, partition.base_offset),
                    (0, i64::try_from(position / 5)?)
                );
            }
            2 => {
                let response = decode_response::<FetchRequest>(frame, 11)?;
                ensure!(response.responses[0].partitions[0].error_code == 0);
            }
            3 => ensure!(
                decode_response::<ListOffsetsRequest>(frame, 5)?
                    .topics
                    .len()
                    == 1
            ),
            _ => {}
        }
    }
    Ok(())
}

/// A broker takes only so many at a time; it must take the others when there is room again.
#[tokio::test]
async fn behaviour_2_more_requests_than_are_taken_at_once_are_all_answered() -> Result<()> {
    const REQUESTS: i32 = 2000;
    let mut raw = Raw::connect().await?;
    let mut segment = Vec::new();
    for id in 0..REQUESTS {
        segment.extend(framed(&head(18, 0, id, false)));
    }
    raw.write(&segment).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for id in 0..REQUESTS {
        raw.answer(id).await?;
    }
    Ok(())
}

/// kafka-python 2 asks two things at once and does not wait for the first answer.
#[tokio::test]
async fn behaviour_2_the_probe_of_old_python_clients() -> Result<()> {
    let mut raw = Raw::connect().await?;
    let mut probe = framed(&head(18, 0, 1, false));
    probe.extend(framed(&[head(3, 0, 2, false), vec![0, 0, 0, 0]].concat()));
    raw.write(&probe).await?;
    let versions = decode_response::<ApiVersionsRequest>(raw.answer(1).await?, 0)?;
    assert_eq!(code(versions.error_code), ErrorCode::NONE);
    let metadata = decode_response::<MetadataRequest>(raw.answer(2).await?, 0)?;
    ensure!(!metadata.brokers.is_empty());
    Ok(())
}

#[tokio::test]
async fn behaviour_2_a_parked_fetch_keeps_its_place() -> Result<()> {
    const WAIT: Duration = Duration::from_millis(400);
    let (_connection, topic) = connect_and_create().await?;
    let fetch = fetch_request(&topic, vec![fetch_partition(0, 0)])
        .with_max_wait_ms(i32::try_from(WAIT.as_millis())?)
        .with_min_bytes(1);
    let mut raw = Raw::connect().await?;
    let began = Instant::now();
    raw.write(&[encoded(11, 1, &fetch)?, api_versions(0, 2)?].concat())
        .await?;
    raw.answer(1).await?;
    ensure!(
        began.elapsed() >= WAIT - Duration::from_millis(50),
        "{:?}",
        began.elapsed()
    );
    raw.answer(2).await?;
    Ok(())
}

/// Kafka handles one request of a connection after the other; Klamm starts the next one.
#[tokio::test]
async fn a_parked_fetch_does_not_hold_back_the_produce_behind_it() -> Result<()> {
    ours_only!();
    let (connection, topic) = connect_and_create().await?;
    let other = crate::calls::create(&connection, 1, &[]).await?;
    let fetch = fetch_request(&topic, vec![fetch_partition(0, 0)])
        .with_max_wait_ms(8_000)
        .with_min_bytes(1);
    let mut raw = Raw::connect().await?;
    let began = Instant::now();
    let behind = encoded(
        9,
        2,
        &produce_request(&other, 0, -1, Some(batch(&["behind"]))),
    )?;
    raw.write(&[encoded(11, 1, &fetch)?, behind].concat())
        .await?;
    eventually("the record is there", || async {
        Ok((end_offset(&connection, &other, 0).await? == 1).then_some(()))
    })
    .await?;
    assert_eq!(values(&connection, &other, 0).await?, ["behind"]);
    ensure!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    // And a Produce to what the Fetch waits for, behind it on the same connection, wakes it.
    raw.write(&encoded(
        9,
        3,
        &produce_request(&topic, 0, -1, Some(batch(&["wake"]))),
    )?)
    .await?;
    raw.answer(1).await?;
    ensure!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
    raw.answer(2).await?;
    raw.answer(3).await?;
    Ok(())
}

#[tokio::test]
async fn behaviour_3_acks_0_is_not_answered() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let mut raw = Raw::connect().await?;
    let silent = encoded(
        9,
        1,
        &produce_request(&topic, 0, 0, Some(batch(&["silent"]))),
    )?;
    raw.write(&[silent, api_versions(0, 2)?].concat()).await?;
    raw.answer(2).await?;
    eventually("the record is there", || async {
        Ok((values(&connection, &topic, 0).await? == ["silent"]).then_some(()))
    })
    .await
}

#[tokio::test]
async fn behaviour_3_acks_0_that_fails_closes_the_connection() -> Result<()> {
    let (_connection, topic) = connect_and_create().await?;
    let mut raw = Raw::connect().await?;
    raw.write(&encoded(
        9,
        1,
        &produce_request(&topic, 99, 0, Some(batch(&["nowhere"]))),
    )?)
    .await?;
    raw.expect_closed().await
}

#[tokio::test]
async fn behaviour_4_a_too_new_api_versions_is_answered_in_version_0_with_the_range() -> Result<()>
{
    for version in [5, 6, 99, i16::MAX, -1] {
        let mut raw = Raw::connect().await?;
        // Whatever a future client sends behind the head is not looked at.
        let request = [
            head(18, version, 77, version >= 3),
            b"\x05kl\xffamm\x04".to_vec(),
        ]
        .concat();
        raw.write(&framed(&request)).await?;
        let frame = raw.answer(77).await?;
        let response = klamm_protocol::decode::<klamm_protocol::messages::ApiVersionsResponse>(
            frame.slice(4..),
            0,
        )?;
        assert_eq!(code(response.error_code), ErrorCode::UNSUPPORTED_VERSION);
        let own = response
            .api_keys
            .iter()
            .find(|api| api.api_key == 18)
            .context("names itself")?;
        assert_eq!((own.min_version, own.max_version), (0, 4));
        // The connection lives, and the retry is answered.
        raw.write(&api_versions(own.max_version, 78)?).await?;
        let response =
            decode_response::<ApiVersionsRequest>(raw.answer(78).await?, own.max_version)?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_5_the_header_of_an_api_versions_answer_has_no_tags() -> Result<()> {
    for version in 0..=4 {
        let mut raw = Raw::connect().await?;
        raw.write(&api_versions(version, 5)?).await?;
        let frame = raw.answer(5).await?;
        // Straight behind the correlation id: error code 0, then a list that is not empty.
        assert_eq!(frame[4..6], [0, 0], "version {version}");
        let listed = if version >= 3 {
            u32::from(frame[6])
        } else {
            u32::from_be_bytes(frame[6..10].try_into()?)
        };
        ensure!(listed > 20, "version {version}: {listed} APIs");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_5_the_client_id_is_not_compact_and_may_be_null() -> Result<()> {
    let mut raw = Raw::connect().await?;
    let body = [b"\x04raw\x041.0".to_vec(), vec![0]].concat();
    let mut null_client = head(18, 3, 9, false);
    null_client.truncate(8);
    null_client.extend_from_slice(&[0xff, 0xff, 0]);
    raw.write(&framed(&[null_client, body].concat())).await?;
    let response = decode_response::<ApiVersionsRequest>(raw.answer(9).await?, 3)?;
    assert_eq!(code(response.error_code), ErrorCode::NONE);
    Ok(())
}

#[tokio::test]
async fn behaviour_6_software_names_are_checked() -> Result<()> {
    let connection = connect().await?;
    let ask = async |version, software: &str, release: &str| -> Result<ErrorCode> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text(software))
            .with_client_software_version(text(release));
        Ok(code(
            connection.send_version(version, &request).await?.error_code,
        ))
    };
    for version in [3, 4] {
        for good in ["librdkafka", "apache-kafka-java", "x.9"] {
            assert_eq!(
                ask(version, good, "2.15.1-rc1").await?,
                ErrorCode::NONE,
                "{good:?}"
            );
        }
        for bad in ["", "-a", "a-", ".a", "a b", "a$b", "a_b", "\u{e4}"] {
            assert_eq!(
                ask(version, bad, "1").await?,
                ErrorCode::INVALID_REQUEST,
                "{bad:?}"
            );
            assert_eq!(
                ask(version, "a", bad).await?,
                ErrorCode::INVALID_REQUEST,
                "release {bad:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_7_an_unknown_key_closes_the_connection() -> Result<()> {
    for key in [9999, -1, i16::MIN, 4, 5, 6, 7] {
        let mut raw = Raw::connect().await?;
        raw.write(&framed(&head(key, 0, 1, false))).await?;
        raw.expect_closed()
            .await
            .with_context(|| format!("key {key}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_7_a_version_outside_the_range_closes_the_connection() -> Result<()> {
    let connection = connect().await?;
    for &api in klamm_protocol::Api::ALL {
        if api == klamm_protocol::Api::ApiVersions {
            continue;
        }
        let (min, max) = connection
            .ranges()
            .get(api.key())
            .with_context(|| api.name())?;
        for version in [min - 1, max + 1, i16::MAX] {
            let mut raw = Raw::connect().await?;
            raw.write(&framed(&head(api.key(), version, 1, version > 8)))
                .await?;
            raw.expect_closed()
                .await
                .with_context(|| format!("{api} {version}"))?;
        }
    }
    Ok(())
}

/// Advertised from 0 for old librdkafka's sake (KAFKA-18659), served from 3.
#[tokio::test]
async fn produce_0_to_2_are_advertised_and_refused() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    assert_eq!(connection.ranges().get(0), Some((0, 13)));
    for version in 0..=2 {
        // Layout of these versions: no transactional id.
        let frame = encoded(3, 1, &produce_request(&topic, 0, -1, Some(batch(&["old"]))))?;
        let body_at = 4 + head(0, 3, 1, false).len();
        let request = [&head(0, version, 1, false)[..], &frame[body_at + 2..]].concat();
        let mut raw = Raw::connect().await?;
        raw.write(&framed(&request)).await?;
        raw.expect_closed()
            .await
            .with_context(|| format!("Produce {version}"))?;
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_body_that_ends_too_early_closes_the_connection() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let metadata = MetadataRequest::default().with_topics(Some(vec![
        MetadataRequestTopic::default().with_name(Some(name(&topic.name))),
    ]));
    let produce = produce_request(&topic, 0, -1, Some(batch(&["cut"])));
    let whole = [
        encoded(1, 1, &metadata)?,
        encoded(12, 1, &metadata)?,
        encoded(3, 1, &produce)?,
        encoded(9, 1, &produce)?,
        encoded(4, 1, &fetch_request(&topic, vec![fetch_partition(0, 0)]))?,
    ];
    for frame in whole {
        let mut raw = Raw::connect().await?;
        raw.write(&framed(&frame[4..frame.len() - 3])).await?;
        raw.expect_closed().await?;
    }
    assert_eq!(end_offset(&connection, &topic, 0).await?, 0);
    Ok(())
}

/// An array that claims more elements than the frame has bytes is refused, not allocated.
#[tokio::test]
async fn an_array_that_lies_about_its_length_closes_the_connection() -> Result<()> {
    for (version, body) in [
        (1_i16, vec![0x7f, 0xff, 0xff, 0xff]),
        (9, vec![0xff, 0xff, 0xff, 0xff, 0x07]),
    ] {
        let mut raw = Raw::connect().await?;
        raw.write(&framed(&[head(3, version, 1, version >= 9), body].concat()))
            .await?;
        raw.expect_closed()
            .await
            .with_context(|| format!("Metadata {version}"))?;
    }
    connect().await?;
    Ok(())
}

#[tokio::test]
async fn behaviour_8_unknown_tagged_fields_are_skipped_at_every_level() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let tags = || {
        BTreeMap::from([
            (100, Bytes::from_static(b"of the future")),
            (9000, Bytes::new()),
        ])
    };
    // In the head.
    let mut raw = Raw::connect().await?;
    let mut request = head(3, 9, 4, false);
    request.extend_from_slice(&[2, 50, 3, b'a', b'b', b'c', 60, 0]);
    request.extend_from_slice(&[1, 0, 0, 0, 0]);
    raw.write(&framed(&request)).await?;
    ensure!(
        !decode_response::<MetadataRequest>(raw.answer(4).await?, 9)?
            .brokers
            .is_empty()
    );
    // In the body and in what is nested in it.
    let mut produce = produce_request(&topic, 0, -1, Some(batch(&["tagged"])));
    produce.unknown_tagged_fields = tags();
    produce.topic_data[0].unknown_tagged_fields = tags();
    produce.topic_data[0].partition_data[0].unknown_tagged_fields = tags();
    let response = connection.send_version(9, &produce).await?;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    let mut fetch = fetch_request(&topic, vec![fetch_partition(0, 0)]);
    fetch.unknown_tagged_fields = tags();
    fetch.topics[0].unknown_tagged_fields = tags();
    fetch.topics[0].partitions[0].unknown_tagged_fields = tags();
    for version in [12, 13, 16] {
        let response = connection.send_version(version, &fetch).await?;
        let records = response.responses[0].partitions[0]
            .records
            .clone()
            .context("records")?;
        assert_eq!(
            crate::batches::records(&records)?[0].text(),
            "tagged",
            "Fetch {version}"
        );
    }
    let mut metadata = MetadataRequest::default().with_topics(Some(vec![
        MetadataRequestTopic::default().with_name(Some(name(&topic.name))),
    ]));
    metadata.unknown_tagged_fields = tags();
    if let Some(topics) = &mut metadata.topics {
        topics[0].unknown_tagged_fields = tags();
    }
    let response = connection.send_version(12, &metadata).await?;
    assert_eq!(response.topics[0].error_code, 0);
    Ok(())
}
