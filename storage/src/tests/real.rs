//! The same store on a real disk, with RocksDB.

use super::*;
use crate::{RealDisk, SystemClock};

fn open(dir: &Path) -> (Store, RecoveryReport) {
    let options = StoreOptions {
        reserve_bytes: 0,
        ..StoreOptions::new(dir)
    };
    Store::open(options, Arc::new(RealDisk), Arc::new(SystemClock::new())).unwrap()
}

#[test]
fn a_store_on_disk_survives_being_dropped_and_being_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for life in 0..4_u64 {
        let (store, report) = open(dir.path());
        assert!(report.corrupt.is_empty());
        // Every other life ends without care.
        assert_eq!(report.frames_replayed > 0, life % 2 == 1, "{report:?}");
        let log = group(&store, 1);
        assert!(read_all(&log) == expected, "life {life}");
        for n in 1..=20 {
            let index = life * 20 + n;
            let size = if n == 7 { 200_000 } else { 100 };
            append(
                &log,
                vec![batch_entry(
                    id(1 + life, index),
                    batch_of(2, size, n as i64),
                )],
            );
        }
        expected = read_all(&log);
        assert_eq!(log.epochs().len() as u64, life + 1);
        if life % 2 == 1 {
            store.close().unwrap();
        }
    }
    let (store, _) = open(dir.path());
    let log = store.group(GroupId(1)).unwrap();
    let mut files = Vec::new();
    for segment in log.segments() {
        files.extend_from_slice(&std::fs::read(&segment.path).unwrap());
    }
    assert!(files == expected);
}

#[test]
fn a_directory_in_use_names_its_user() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = open(dir.path());
    let options = StoreOptions::new(dir.path());
    let error = Store::open(options, Arc::new(RealDisk), Arc::new(SystemClock::new()));
    let Err(crate::OpenError::Locked { owner, .. }) = error else {
        panic!("opened twice")
    };
    assert!(owner.contains(&std::process::id().to_string()), "{owner}");
}
