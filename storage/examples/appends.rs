//! How many appends a second a real disk makes durable, by what is outstanding.
//!
//! `cargo run --release -p klamm-storage --example appends -- DIR [GROUPS OUTSTANDING SIZE SECONDS]`

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use klamm_records::{BatchBuilder, BatchHeader, EntryId, GroupId, NewRecord};
use klamm_storage::{
    Batch, Entry, GroupLog, LogSettings, Payload, RealDisk, Store, StoreOptions, SystemClock,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("which directory?")?;
    let numbers: Vec<u64> = arguments.map(|a| a.parse()).collect::<Result<_, _>>()?;
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (groups, outstanding) = (number(0, 10), number(1, 256));
    let (size, seconds) = (number(2, 1024), number(3, 5));

    let disk = Arc::new(RealDisk);
    let options = StoreOptions::new(Path::new(&dir));
    let (store, report) = Store::open(options, disk, Arc::new(SystemClock::new()))?;
    println!(
        "opened in {:?}, {} frames replayed",
        report.took, report.frames_replayed
    );
    let logs: Vec<GroupLog> = (0..groups)
        .map(|n| store.create_group(GroupId(n), &format!("bench-{n}"), LogSettings::default()))
        .collect::<Result<_, _>>()?;

    let value = vec![7; usize::try_from(size)?];
    let mut builder = BatchBuilder::new();
    builder.push(&NewRecord {
        timestamp: 1,
        value: Some(&value),
        ..NewRecord::default()
    })?;
    let bytes = builder.build()?;
    let header = BatchHeader::parse(&bytes).ok_or("a batch has a header")?;

    let (permit, permits) = sync_channel(usize::try_from(outstanding)?);
    (0..outstanding).try_for_each(|_| permit.send(()))?;
    let (began, mut appended) = (Instant::now(), 0_u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        for log in &logs {
            permits.recv()?;
            let index = log.raft_state().last.map_or(1, |last| last.index + 1);
            let batch = Batch {
                header,
                bytes: bytes.clone(),
            };
            let entry = Entry {
                id: EntryId { term: 1, index },
                payload: Payload::Batch(batch),
            };
            let permit = permit.clone();
            log.append(
                vec![entry],
                Box::new(move |result| {
                    result.expect("the disk works");
                    permit.send(()).unwrap_or_default();
                }),
            )?;
            appended += 1;
        }
    }
    let took = began.elapsed().as_secs_f64();
    let stats = store.stats();
    println!(
        "{groups} groups, {outstanding} outstanding, {size} bytes: {:.0} appends/s, {:.1} MB/s, {:.0} syncs/s of {:.2} ms",
        appended as f64 / took,
        appended as f64 * bytes.len() as f64 / took / 1e6,
        stats.syncs as f64 / took,
        1000.0 * stats.sync_seconds_sum
            / stats.sync_seconds.iter().map(|b| b.1).sum::<u64>().max(1) as f64,
    );
    let closing = Instant::now();
    store.close()?;
    println!("closed in {:?}", closing.elapsed());
    Ok(())
}
