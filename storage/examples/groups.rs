//! What a checkpoint and a start cost with many logs.
//!
//! `cargo run --release -p klamm-storage --example groups -- DIR [GROUPS]`, DIR empty or new

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use klamm_records::{BatchBuilder, BatchHeader, EntryId, GroupId, NewRecord};
use klamm_storage::{
    Batch, Entry, LogSettings, Payload, RealDisk, Store, StoreOptions, SystemClock,
};

type Failure = Box<dyn std::error::Error>;

fn open(dir: &str) -> Result<Store, Failure> {
    let options = StoreOptions {
        checkpoint_bytes: 1 << 40,
        checkpoint_interval: Duration::from_secs(3600),
        ..StoreOptions::new(Path::new(dir))
    };
    let began = Instant::now();
    let (store, report) = Store::open(options, Arc::new(RealDisk), Arc::new(SystemClock::new()))?;
    let (took, frames) = (began.elapsed(), report.frames_replayed);
    println!("open: {took:?}, {frames} frames replayed");
    Ok(store)
}

/// Appends a batch to each of the first `groups` logs.
fn append(store: &Store, groups: u64) -> Result<(), Failure> {
    let mut builder = BatchBuilder::new();
    builder.push(&NewRecord {
        timestamp: 1,
        value: Some(&[7; 100]),
        ..NewRecord::default()
    })?;
    let bytes = builder.build()?;
    let header = BatchHeader::parse(&bytes).ok_or("a batch has a header")?;
    let (done, results) = channel();
    for number in 1..=groups {
        let log = store.group(GroupId(number)).ok_or("created before")?;
        let index = log.raft_state().last.map_or(1, |last| last.index + 1);
        let batch = Batch {
            header,
            bytes: bytes.clone(),
        };
        let entry = Entry {
            id: EntryId { term: 1, index },
            payload: Payload::Batch(batch),
        };
        let done = done.clone();
        log.append(
            vec![entry],
            Box::new(move |result| done.send(result).unwrap_or_default()),
        )?;
    }
    drop(done);
    results.iter().try_for_each(|result| Ok(result?))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("which directory?")?;
    let groups = arguments.next().map_or(Ok(10_000), |n| n.parse())?;
    let store = open(&dir)?;
    for number in 1..=groups {
        let name = format!("bench-{number}");
        store.create_group(GroupId(number), &name, LogSettings::default())?;
    }
    for changed in [groups, groups, 100, 1, 0] {
        append(&store, changed)?;
        let began = Instant::now();
        store.checkpoint()?;
        println!("checkpoint of {changed} logs: {:?}", began.elapsed());
    }
    for _ in 0..5 {
        append(&store, groups.min(100))?;
        store.checkpoint()?;
    }
    store.close()?;
    drop(store);
    for _ in 0..5 {
        drop(open(&dir)?);
    }
    Ok(())
}
