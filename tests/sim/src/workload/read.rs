//! Readers: some follow the end, some browse, one reads all in the end.

use std::time::Duration;

use klamm_client::{
    Fetched, OffsetSpec, PartitionReader, ReaderOptions, TopicPartition, is_offset_out_of_range,
};
use klamm_tests::checker::{Event, Place, Value};
use klamm_tests::history::parse;

use super::{Desk, name_of, now};

fn options() -> ReaderOptions {
    ReaderOptions {
        max_wait: Duration::from_millis(5_000),
        partition_max_bytes: 16 << 10,
        ..ReaderOptions::default()
    }
}

fn records(fetched: &Fetched) -> Vec<(i64, Option<Value>)> {
    let of = |message: &klamm_client::Message| {
        let value = message.value.as_deref().unwrap_or_default();
        (message.offset, parse(value))
    };
    fetched.messages.iter().map(of).collect()
}

/// Reads what comes.
pub(super) async fn follow(desk: Desk, reader: u32, place: Place) {
    let mut position = 0;
    while !desk.is_over() {
        let client = desk.client(Duration::from_secs(20)).await;
        let mut lines =
            PartitionReader::new(client, &name_of(place.0), place.1, position, options());
        while !desk.is_over() {
            let from = lines.position();
            let asked = now();
            let poll = tokio::time::timeout(Duration::from_secs(30), lines.poll());
            let Ok(Ok(fetched)) = poll.await else { break };
            tell(&desk, (reader, place), (asked, from), &fetched);
            position = lines.position();
        }
        desk.rest(Duration::from_millis(200)).await;
    }
}

fn tell(desk: &Desk, (reader, place): (u32, Place), (asked, from): (u64, i64), fetched: &Fetched) {
    desk.tell(Event::Read {
        asked,
        at: now(),
        reader,
        place,
        from,
        records: records(fetched),
        next: fetched.next_offset,
        high_watermark: fetched.high_watermark,
    });
}

/// Reads here and there.
pub(super) async fn browse(desk: Desk, reader: u32, places: Vec<Place>) {
    let mut rng = desk.rng(200);
    let client = desk.client(Duration::from_secs(10)).await;
    let mut visits = 0;
    while !desk.is_over() {
        desk.rest(Duration::from_millis(rng.between(500, 20_000)))
            .await;
        let place = *rng.pick(&places);
        let at = TopicPartition {
            topic: name_of(place.0),
            partition: place.1,
        };
        let listed = client.list_offsets(&[(at, OffsetSpec::Latest)]).await;
        let Some(end) = listed.ok().and_then(|listed| listed.first()?.offset) else {
            continue;
        };
        let from = rng.between(0, u64::try_from(end).unwrap_or(0));
        let from = i64::try_from(from).unwrap_or(0);
        let mut lines =
            PartitionReader::new(client.clone(), &name_of(place.0), place.1, from, options());
        visits += 1;
        for _ in 0..3 {
            let (asked, from) = (now(), lines.position());
            let poll = tokio::time::timeout(Duration::from_secs(20), lines.poll());
            match poll.await {
                Ok(Ok(fetched)) => tell(&desk, (reader + visits, place), (asked, from), &fetched),
                Ok(Err(error)) if is_offset_out_of_range(&error) => {
                    // What was told to be committed is not there.
                    desk.tell(Event::Read {
                        asked,
                        at: now(),
                        reader: reader + visits,
                        place,
                        from,
                        records: vec![(from, None)],
                        next: from,
                        high_watermark: end,
                    });
                    break;
                }
                _ => break,
            }
        }
    }
}

/// All that a partition holds.
pub(super) async fn all(desk: &Desk, place: Place) -> Vec<(i64, Option<Value>)> {
    let client = desk.client(Duration::from_secs(120)).await;
    let at = TopicPartition {
        topic: name_of(place.0),
        partition: place.1,
    };
    let bound = async |spec| loop {
        let listed = client.list_offsets(&[(at.clone(), spec)]).await;
        match listed.map(|listed| listed.first().and_then(|listed| listed.offset)) {
            Ok(Some(offset)) => break offset,
            other => desk.does("end", &format!("bounds of {place:?}: {other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let (start, end) = (
        bound(OffsetSpec::Earliest).await,
        bound(OffsetSpec::Latest).await,
    );
    let mut lines = PartitionReader::new(client.clone(), &at.topic, place.1, start, options());
    let mut found = Vec::new();
    while lines.position() < end {
        let from = lines.position();
        match lines.poll().await {
            Ok(fetched) => found.extend(records(&fetched)),
            Err(error) => {
                desk.does("end", &format!("{place:?} at {from} of {end}: {error}"));
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    found
}
