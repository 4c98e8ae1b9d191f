//! Log compaction as clients see it: behaviours 122 to 124.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_records::{BatchBuilder, Codec, NewRecord};

use crate::batches::{Seen, headers, now_ms, records};
use crate::calls::{Topic, code, create, end_offset, fetch, init_producer, list_offset, produce};
use crate::offsets::delete_records;
use crate::rig::{Own, connect_to, eventually, ours_only, start, start_over};

/// Settings of a broker that compacts at once.
const EAGER: [&str; 1] = ["log.cleaner.backoff.ms=100"];
/// Those of a topic: every batch has a segment of its own, by the times that [`put`] gives.
const COMPACT: [(&str, &str); 3] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "5"),
    ("min.cleanable.dirty.ratio", "0.01"),
];

/// One batch of (key, value); no value is a tombstone.
async fn put(
    connection: &Connection,
    topic: &Topic,
    builder: BatchBuilder,
    records: &[(&str, Option<&str>)],
) -> Result<i64> {
    static PUTS: AtomicI64 = AtomicI64::new(0);
    let timestamp = now_ms() + 10 * PUTS.fetch_add(1, Ordering::Relaxed);
    let mut builder = builder;
    for (key, value) in records {
        builder.push(&NewRecord {
            timestamp,
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            ..NewRecord::default()
        })?;
    }
    produce(connection, topic, 0, builder.build()?).await
}

/// (offset, key, value) of what a consumer reads from the start.
type Rows = Vec<(i64, String, Option<String>)>;

async fn rows(connection: &Connection, topic: &Topic) -> Result<Rows> {
    let own = |bytes: Option<Vec<u8>>| bytes.map(|b| String::from_utf8_lossy(&b).into_owned());
    let row = |seen: Seen| {
        (
            seen.offset,
            own(seen.key).unwrap_or_default(),
            own(seen.value),
        )
    };
    let mut offset = list_offset(connection, topic, 0, -2).await?.offset;
    let mut rows = Vec::new();
    loop {
        let answer = fetch(connection, topic, 0, offset).await?;
        ensure!(answer.error_code == 0, "{}", code(answer.error_code));
        let batches = answer.records.clone().context("records are not null")?;
        rows.extend(records(&batches)?.into_iter().map(row));
        // Batches may be empty; offsets may be missing between them.
        let Some((last, _)) = headers(&batches)?.pop() else {
            return Ok(rows);
        };
        ensure!(last.next_offset() > offset, "no progress at {offset}");
        offset = last.next_offset();
    }
}

fn row(offset: i64, key: &str, value: Option<&str>) -> (i64, String, Option<String>) {
    (offset, key.to_owned(), value.map(str::to_owned))
}

async fn becomes(connection: &Connection, topic: &Topic, expected: &Rows) -> Result<()> {
    eventually(&format!("the log is {expected:?}"), || async {
        Ok((rows(connection, topic).await? == *expected).then_some(()))
    })
    .await
}

async fn begin(more: &[(&str, &str)]) -> Result<(Own, Connection, Topic)> {
    let own = start(&EAGER)?;
    let connection = connect_to(&own.broker.address).await?;
    let configs: Vec<(&str, &str)> = COMPACT.iter().chain(more).copied().collect();
    let topic = create(&connection, 1, &configs).await?;
    Ok((own, connection, topic))
}

#[tokio::test]
async fn behaviour_122_the_newest_record_of_each_key_stays_at_its_offset() -> Result<()> {
    ours_only!();
    let (own, connection, topic) = begin(&[]).await?;
    for (at, codec) in Codec::ALL.into_iter().enumerate() {
        let value = format!("value {at}");
        let own_key = format!("only {at}");
        let records = [("same", Some(&*value)), (&*own_key, Some("x"))];
        let builder = BatchBuilder::new().compression(codec, None);
        put(&connection, &topic, builder, &records).await?;
    }
    // The active segment is not touched, so that is where the newest value stays a duplicate.
    put(
        &connection,
        &topic,
        BatchBuilder::new(),
        &[("same", Some("active"))],
    )
    .await?;
    let mut expected: Rows = (0..4)
        .map(|at| row(2 * at + 1, &format!("only {at}"), Some("x")))
        .collect();
    expected.extend([
        row(8, "same", Some("value 4")),
        row(9, "only 4", Some("x")),
        row(10, "same", Some("active")),
    ]);
    becomes(&connection, &topic, &expected).await?;
    assert_eq!(list_offset(&connection, &topic, 0, -2).await?.offset, 0);
    assert_eq!(end_offset(&connection, &topic, 0).await?, 11);
    // All of it again after a crash, and the log goes on.
    drop(connection);
    let Own { broker, dir } = own;
    broker.kill()?;
    let broker = start_over(dir.path(), &EAGER)?;
    let connection = connect_to(&broker.address).await?;
    becomes(&connection, &topic, &expected).await?;
    assert_eq!(end_offset(&connection, &topic, 0).await?, 11);
    let offset = put(
        &connection,
        &topic,
        BatchBuilder::new(),
        &[("more", Some("y"))],
    )
    .await?;
    assert_eq!(offset, 11);
    expected.retain(|(offset, _, _)| *offset != 8);
    expected.push(row(11, "more", Some("y")));
    becomes(&connection, &topic, &expected).await
}

#[tokio::test]
async fn behaviour_122_a_producer_goes_on_after_its_records_are_gone() -> Result<()> {
    ours_only!();
    let (own, connection, topic) = begin(&[]).await?;
    let (id, epoch) = init_producer(&connection).await?;
    for sequence in 0..3 {
        let builder = BatchBuilder::new().producer(id, epoch, sequence);
        put(
            &connection,
            &topic,
            builder,
            &[("k", Some("of the producer"))],
        )
        .await?;
    }
    for value in ["later", "last"] {
        put(
            &connection,
            &topic,
            BatchBuilder::new(),
            &[("k", Some(value))],
        )
        .await?;
    }
    let expected = vec![row(3, "k", Some("later")), row(4, "k", Some("last"))];
    becomes(&connection, &topic, &expected).await?;
    drop(connection);
    let Own { broker, dir } = own;
    broker.kill()?;
    let broker = start_over(dir.path(), &EAGER)?;
    let connection = connect_to(&broker.address).await?;
    let again = BatchBuilder::new().producer(id, epoch, 2);
    let offset = put(
        &connection,
        &topic,
        again,
        &[("k", Some("of the producer"))],
    )
    .await?;
    assert_eq!(offset, 2, "a duplicate is still known as one");
    let next = BatchBuilder::new().producer(id, epoch, 3);
    let offset = put(&connection, &topic, next, &[("k", Some("next"))]).await?;
    assert_eq!(offset, 5);
    Ok(())
}

#[tokio::test]
async fn behaviour_123_tombstones_go_after_delete_retention_ms() -> Result<()> {
    ours_only!();
    let (_own, connection, topic) = begin(&[("delete.retention.ms", "1500")]).await?;
    let plain = BatchBuilder::new;
    put(&connection, &topic, plain(), &[("gone", Some("1"))]).await?;
    put(&connection, &topic, plain(), &[("gone", None)]).await?;
    put(&connection, &topic, plain(), &[("kept", Some("1"))]).await?;
    let first = vec![row(1, "gone", None), row(2, "kept", Some("1"))];
    becomes(&connection, &topic, &first).await?;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    // A pass needs something that is dirty.
    put(&connection, &topic, plain(), &[("kept", Some("2"))]).await?;
    put(&connection, &topic, plain(), &[("kept", Some("3"))]).await?;
    let later = vec![row(3, "kept", Some("2")), row(4, "kept", Some("3"))];
    becomes(&connection, &topic, &later).await
}

#[tokio::test]
async fn behaviour_124_the_lags_hold_compaction_back_and_bring_it_about() -> Result<()> {
    ours_only!();
    let (_own, connection, held) = begin(&[("min.compaction.lag.ms", "3600000")]).await?;
    let lag = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "1"),
        ("max.compaction.lag.ms", "800"),
    ];
    let overdue = create(&connection, 1, &lag).await?;
    for value in ["1", "2", "3"] {
        for topic in [&held, &overdue] {
            put(
                &connection,
                topic,
                BatchBuilder::new(),
                &[("k", Some(value))],
            )
            .await?;
        }
    }
    // Its only segment is closed for it.
    becomes(&connection, &overdue, &vec![row(2, "k", Some("3"))]).await?;
    assert_eq!(rows(&connection, &held).await?.len(), 3);
    Ok(())
}

#[tokio::test]
async fn behaviour_124_compact_and_delete_go_together() -> Result<()> {
    ours_only!();
    let (_own, connection, topic) = begin(&[]).await?;
    drop(topic);
    let configs = [
        ("cleanup.policy", "compact,delete"),
        ("segment.ms", "5"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("retention.ms", "5000"),
    ];
    let topic = create(&connection, 1, &configs).await?;
    for value in ["1", "2", "3"] {
        put(
            &connection,
            &topic,
            BatchBuilder::new(),
            &[("k", Some(value))],
        )
        .await?;
    }
    let compacted = vec![row(1, "k", Some("2")), row(2, "k", Some("3"))];
    becomes(&connection, &topic, &compacted).await?;
    becomes(&connection, &topic, &Vec::new()).await?;
    assert_eq!(list_offset(&connection, &topic, 0, -2).await?.offset, 3);
    let done = delete_records(&connection, &topic, 0, 3).await?;
    assert_eq!(done, (ErrorCode::NONE, 3));
    Ok(())
}
