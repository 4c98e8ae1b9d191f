//! Many threads at once: appends, reads, truncations, purges and checkpoints of shared logs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

/// The value a batch at `index` of `term` has: readers can tell whether they got the right one.
fn value_of(term: u64, index: u64) -> i64 {
    (term * 1_000_000 + index) as i64
}

fn tagged(term: u64, index: u64) -> Entry {
    let size = if index % 40 == 7 { 20_000 } else { 150 };
    batch_entry(id(term, index), batch_of(1, size, value_of(term, index)))
}

/// One writer that also truncates and purges, two readers and a checkpointer per log. Readers may
/// be told that a range is gone, but never see another batch or be told of corruption.
#[test]
fn readers_see_whole_batches_while_the_log_is_rearranged() {
    let mut machine = Machine::new();
    machine.options.checkpoint_bytes = 256 * 1024;
    let (store, _) = machine.open();
    let stop = Arc::new(AtomicBool::new(false));
    let logs: Vec<GroupLog> = (1..=2).map(|n| group(&store, n)).collect();
    let mut readers = Vec::new();
    for log in &logs {
        for by_offset in [true, false] {
            let (log, stop) = (log.clone(), Arc::clone(&stop));
            readers.push(thread::spawn(move || {
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    seen += if by_offset {
                        read_by_offset(&log)
                    } else {
                        read_by_index(&log)
                    };
                }
                assert!(seen > 100, "{seen}");
            }));
        }
    }
    let checkpoints = {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                store.checkpoint().unwrap();
            }
        })
    };
    let writers: Vec<_> = logs
        .iter()
        .cloned()
        .map(|log| thread::spawn(move || write(&log)))
        .collect();
    writers
        .into_iter()
        .for_each(|writer| writer.join().unwrap());
    stop.store(true, Ordering::Relaxed);
    readers
        .into_iter()
        .for_each(|reader| reader.join().unwrap());
    checkpoints.join().unwrap();
    assert_eq!(store.stats().corruptions, 0);
    let before: Vec<_> = logs.iter().map(super::model::Model::of).collect();
    drop((store, logs));
    let machine = machine.killed();
    let (store, report) = machine.open();
    assert!(report.corrupt.is_empty(), "{report:?}");
    for (number, before) in (1..=2).zip(before) {
        let after = super::model::Model::of(&store.group(GroupId(number)).unwrap());
        assert_eq!(after, before);
    }
}

fn write(log: &GroupLog) {
    let mut term = 1;
    let mut last = 0;
    for round in 0..400_u64 {
        for _ in 0..5 {
            last += 1;
            let (done, _) = waiter();
            log.append(vec![tagged(term, last)], done).unwrap();
        }
        if round % 7 == 3 {
            last -= 3;
            term += 1;
            let (done, _) = waiter();
            log.truncate_after(log.entry_id(last).unwrap(), done);
        }
        if round % 11 == 5 {
            let upto = log.entry_id(last - 4).unwrap().unwrap();
            wait(|done| log.purge(upto, done)).unwrap();
            if round % 3 == 0 {
                let passed = log.entries_start_offset();
                wait(|done| log.set_start_offset(passed, done)).unwrap();
            }
        }
        if round % 13 == 0 {
            wait(|done| log.roll(done)).unwrap();
        }
    }
}

fn check(header: &BatchHeader, bytes: &Bytes) {
    let index = header.max_timestamp % 1_000_000;
    let term = header.max_timestamp / 1_000_000;
    assert_eq!(
        i64::from(header.partition_leader_epoch),
        term,
        "index {index}"
    );
    assert!(klamm_records::batch_crc_ok(bytes));
}

fn read_by_offset(log: &GroupLog) -> usize {
    let (from, end) = (log.start_offset(), log.end_offset());
    match log.read(from, end, 5_000, true) {
        Ok(bytes) => {
            let mut at = 0;
            let mut count = 0;
            while let Some(header) = BatchHeader::parse(&bytes[at..]) {
                let len = header.total_len().unwrap();
                check(&header, &bytes.slice(at..at + len));
                at += len;
                count += 1;
            }
            count
        }
        Err(StorageError::OutOfRange { .. }) => 0,
        Err(error) => panic!("{error}"),
    }
}

fn read_by_index(log: &GroupLog) -> usize {
    let entries = log.entries(0..u64::MAX, 100_000, true).unwrap();
    for pair in entries.windows(2) {
        assert_eq!(pair[1].id.index, pair[0].id.index + 1);
    }
    for entry in &entries {
        let Payload::Batch(batch) = &entry.payload else {
            panic!("{entry:?}")
        };
        let index = (batch.header.max_timestamp % 1_000_000) as u64;
        assert_eq!(index, entry.id.index);
        assert_eq!(batch.header.partition_leader_epoch as u64, entry.id.term);
        assert!(klamm_records::batch_crc_ok(&batch.bytes));
    }
    entries.len()
}

/// Groups come and go while checkpoints are made: the journal keeps frames of groups that the
/// index has forgotten, and a start must know them from groups whose creation is lost.
#[test]
fn groups_deleted_during_a_checkpoint_stay_deleted() {
    let mut machine = Machine::new();
    let mut next = 1;
    for _ in 0..15 {
        let (store, report) = machine.open();
        assert!(report.corrupt.is_empty());
        assert!(store.groups().is_empty(), "{:?}", store.groups());
        let stop = Arc::new(AtomicBool::new(false));
        let checkpoints = {
            let (store, stop) = (store.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    store.checkpoint().unwrap();
                }
            })
        };
        for _ in 0..40 {
            let log = group(&store, next);
            append(&log, vec![tagged(1, 1)]);
            wait(|done| store.delete_group(GroupId(next), done)).unwrap();
            next += 1;
        }
        stop.store(true, Ordering::Relaxed);
        checkpoints.join().unwrap();
        drop(store);
        machine = machine.killed();
    }
}
