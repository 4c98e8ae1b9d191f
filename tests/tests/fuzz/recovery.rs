//! A store that is opened over files that anything may have happened to: it says what is wrong or
//! serves what is right, and never answers a batch whose CRC does not match.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use klamm_records::{
    BatchBuilder, BatchHeader, EntryId, GroupId, NewRecord, batch_crc_ok, split_batches,
};
use klamm_storage::{
    Batch, Completion, Disk, Entry, FaultDisk, GroupLog, LogSettings, ManualClock,
    MemoryIndexStore, OpenMode, Payload, Store, StoreOptions,
};

use crate::Input;

const DIR: &str = "/data";

fn options() -> StoreOptions {
    StoreOptions {
        checkpoint_bytes: 1 << 20,
        checkpoint_interval: Duration::from_secs(3600),
        bypass_bytes: 16 << 10,
        reserve_bytes: 0,
        max_open_files: 4,
        ..StoreOptions::new(DIR)
    }
}

fn open(disk: &FaultDisk, indexes: &MemoryIndexStore) -> Option<Store> {
    let clock = Arc::new(ManualClock::at(1_000));
    let opened = Store::open_with(options(), Arc::new(disk.clone()), indexes, clock);
    opened.ok().map(|(store, _)| store)
}

fn batch(number: u64) -> Bytes {
    let value = [number as u8; 100];
    let mut builder = BatchBuilder::new().producer(7, 0, number as i32);
    let record = NewRecord {
        timestamp: 1_000 + number as i64,
        value: Some(&value),
        ..NewRecord::default()
    };
    builder.push(&record).expect("small");
    builder.build().expect("not empty")
}

fn append(log: &GroupLog, first: u64, count: u64) {
    let entries = (first..first + count).map(|index| {
        let bytes = batch(index);
        let header = BatchHeader::parse(&bytes).expect("whole");
        Entry {
            id: EntryId { term: 1, index },
            payload: Payload::Batch(Batch { header, bytes }),
        }
    });
    let (done, result) = std::sync::mpsc::channel();
    log.append(
        entries.collect(),
        Box::new(move |appended| done.send(appended).unwrap_or_default()),
    )
    .expect("appends");
    let durable = result.recv_timeout(Duration::from_secs(20));
    durable.expect("in time").expect("durable");
}

fn wait(operation: impl FnOnce(Completion)) {
    let (done, result) = std::sync::mpsc::channel();
    operation(Box::new(move |ended| done.send(ended).unwrap_or_default()));
    let durable = result.recv_timeout(Duration::from_secs(20));
    durable.expect("in time").expect("durable");
}

/// Has a log forget some entries, and another one begin behind them.
fn fill(from: &GroupLog, to: &GroupLog) {
    let upto = EntryId { term: 1, index: 30 };
    wait(|done| from.purge(upto, done));
    // All of it was in the segments at the checkpoint.
    let source = from.fill_source().expect("readable").expect("purged");
    let mut fill = (to.begin_fill(1, source.manifest().clone(), None)).expect("empty");
    while let Some(place) = fill.wanted() {
        let chunk = source.read(place, 1000).expect("readable");
        fill.write(place, &chunk.bytes).expect("right");
    }
    wait(|done| to.install(fill, done));
}

/// A disk after some work: part in segments behind a checkpoint, part in the journal only.
fn prepared() -> &'static (FaultDisk, MemoryIndexStore) {
    static PREPARED: OnceLock<(FaultDisk, MemoryIndexStore)> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let disk = FaultDisk::new();
        let indexes = MemoryIndexStore::on(disk.clone());
        let store = open(&disk, &indexes).expect("a fresh disk");
        let settings = LogSettings {
            segment_bytes: 4096,
            index_interval_bytes: 256,
            ..LogSettings::default()
        };
        for group in 1..3 {
            let log = store
                .create_group(GroupId(group), &format!("g-{group}"), settings.clone())
                .expect("created");
            append(&log, 1, 40);
        }
        store.checkpoint().expect("a checkpoint");
        for group in 1..3 {
            append(&store.group(GroupId(group)).expect("there"), 41, 10);
        }
        let filled = store.create_group(GroupId(3), "g-3", settings);
        let filled = filled.expect("created");
        fill(&store.group(GroupId(1)).expect("there"), &filled);
        append(&filled, 31, 5);
        let killed = disk.kill();
        let after = indexes.after_crash(killed.clone());
        (killed, after)
    })
}

/// All files below a directory, in order.
fn files(disk: &FaultDisk, dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in disk.list(dir).unwrap_or_default() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            files(disk, &path, found);
        } else if entry.name != "lock" {
            found.push(path);
        }
    }
}

/// For some files: which one, what happens to it.
pub(crate) fn store(input: &[u8]) {
    let (disk, indexes) = prepared();
    let disk = disk.kill();
    let indexes = indexes.after_crash(disk.clone());
    let mut paths = Vec::new();
    files(&disk, Path::new(DIR), &mut paths);
    let mut input = Input(input);
    while !input.is_empty() {
        let (which, how) = (usize::from(input.byte()) % paths.len(), input.byte());
        let Some(path) = paths.get(which) else { return };
        let file = match disk.open(path, OpenMode::ReadWrite) {
            Ok(file) => file,
            // Removed by a change before.
            Err(_) => continue,
        };
        let len = usize::try_from(file.len().expect("open")).expect("small");
        let at = input.word() % len.max(1);
        match how % 6 {
            0 | 1 => {
                let mut byte = [0];
                if file
                    .read_at(&mut byte, at as u64)
                    .is_ok_and(|read| read == 1)
                {
                    byte[0] ^= input.byte().max(1);
                    file.write_at(&[IoSlice::new(&byte)], at as u64)
                        .expect("writes");
                }
            }
            2 => file.set_len(at as u64).expect("cuts"),
            3 => {
                let new = [input.byte(); 64];
                file.write_at(&[IoSlice::new(&new)], at as u64)
                    .expect("writes");
            }
            // Arbitrary bytes to the end.
            4 => {
                file.set_len(at as u64).expect("cuts");
                file.write_at(&[IoSlice::new(input.rest())], at as u64)
                    .expect("writes");
                break;
            }
            _ => disk.remove_file(path).expect("removes"),
        }
    }
    if let Some(store) = open(&disk, &indexes) {
        for group in store.groups() {
            if let Some(log) = store.group(group) {
                check(&log);
            }
        }
        // It refuses or it ends; it does not hang or panic.
        store.close().unwrap_or_default();
    }
}

/// Whatever a log returns is a batch that was written, at the offset where it was.
fn check(log: &GroupLog) {
    let (mut from, end) = (log.start_offset(), log.end_offset());
    while from < end {
        let Ok(bytes) = log.read(from, end, 2000, true) else {
            return;
        };
        let before = from;
        for found in split_batches(&bytes) {
            let Ok((header, batch)) = found else { break };
            assert!(
                batch_crc_ok(&batch),
                "a batch with a wrong CRC was returned"
            );
            assert!(header.next_offset() > from, "offsets go on");
            from = header.next_offset();
        }
        if from == before {
            return;
        }
    }
}

pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![("untouched".to_owned(), Vec::new())];
    for file in 0..24_u8 {
        for how in 0..6_u8 {
            seeds.push((
                format!("file-{file}-{how}"),
                vec![file, how, 0, 77, 0x40, 1, 2, 3],
            ));
        }
    }
    seeds
}
