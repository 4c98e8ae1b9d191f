//! Two indexes in step: what a crash between their commits leaves, and which of them is believed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::Arc;

use super::contract_tests::{G, entry};
use super::*;
use crate::disk::{Fault, FaultDisk, FaultRule, Operation};

const DIR: &str = "/data/index";
const COPY: &str = "/data/index.copy";

fn open(store: &MemoryIndexStore) -> (Arc<Pair>, Index) {
    let pair = Pair::open(Box::new(store.clone()), Path::new(DIR), founded(store)).unwrap();
    let pair = Arc::new(pair);
    let index = Index::of_pair(&pair);
    (pair, index)
}

/// A store is founded once its marker is there.
fn founded(store: &MemoryIndexStore) -> bool {
    ["", ".copy"].iter().any(|suffix| {
        let dir = PathBuf::from(format!("{DIR}{suffix}"));
        store.exists(&dir) && store.open(&dir).unwrap().marker().unwrap().is_some()
    })
}

fn make_copy(pair: &Pair) {
    while pair.copy_piece().unwrap() {}
}

fn commit(index: &Index, number: u8) -> Result<(), IndexError> {
    let mut batch = IndexBatch::new();
    batch.set_marker(vec![number]);
    batch.put_group(G, vec![number]);
    let at = i64::from(number);
    batch.put_sparse(G, &entry(0, at, at as u64));
    index.commit(batch)
}

fn marker(index: &Index) -> u8 {
    index.marker().unwrap().unwrap()[0]
}

/// What one of the two holds.
fn side(store: &MemoryIndexStore, suffix: &str) -> u8 {
    marker(&store.open(Path::new(&format!("{DIR}{suffix}"))).unwrap())
}

#[test]
fn a_commit_is_in_both() {
    let store = MemoryIndexStore::new();
    let (pair, index) = open(&store);
    assert!(!pair.lacks_copy());
    for number in 1..=3 {
        commit(&index, number).unwrap();
        assert_eq!((side(&store, ""), side(&store, ".copy")), (number, number));
    }
    let (pair, index) = open(&store);
    assert!(!pair.lacks_copy() && pair.findings().is_empty());
    assert_eq!(marker(&index), 3);
}

/// Each commit, renaming and removal of a life fails or finds the power cut, once.
#[test]
fn a_crash_at_any_change_leaves_what_was_committed() {
    for fault in [Fault::Eio, Fault::EioDone, Fault::PowerOff] {
        for n in 0..24 {
            let disk = FaultDisk::new();
            let store = MemoryIndexStore::on(disk.clone());
            disk.inject(FaultRule::new(fault).on(Operation::Sync).after(n));
            let mut acknowledged = 0;
            let mut begun = 0;
            let mut live = || -> Result<(), Box<dyn std::error::Error>> {
                for life in 0..3_u8 {
                    let founded = acknowledged > 0;
                    let pair = Pair::open(Box::new(store.clone()), Path::new(DIR), founded)?;
                    let pair = Arc::new(pair);
                    let index = Index::of_pair(&pair);
                    if pair.lacks_copy() {
                        while pair.copy_piece()? {}
                    }
                    for number in 1..=2 {
                        begun = life * 2 + number;
                        commit(&index, begun)?;
                        acknowledged = begun;
                    }
                    drop((pair, index));
                    match life {
                        0 => store.condemn(Path::new(DIR), "rotten")?,
                        _ => store.destroy(Path::new(&format!("{DIR}.copy")))?,
                    }
                }
                Ok(())
            };
            let ended = live();
            if acknowledged == 0 {
                continue;
            }
            // Whether the fault was met or not.
            assert!(ended.is_err() || n > 10, "{fault:?} at {n}");
            let store = store.after_crash(disk.crash(n));
            let (pair, index) = open(&store);
            let found = marker(&index);
            assert!((acknowledged..=begun).contains(&found), "{fault:?} at {n}");
            if pair.lacks_copy() {
                make_copy(&pair);
            }
            commit(&index, 99).unwrap();
            assert_eq!((side(&store, ""), side(&store, ".copy")), (99, 99));
            let (pair, _) = open(&store);
            assert!(!pair.lacks_copy() && pair.findings().is_empty());
        }
    }
}

#[test]
fn a_copy_that_is_behind_is_made_anew_and_never_believed() {
    let disk = FaultDisk::new();
    let store = MemoryIndexStore::on(disk.clone());
    let (_, index) = open(&store);
    commit(&index, 1).unwrap();
    let rule = FaultRule::new(Fault::PowerOff).on(Operation::Sync);
    disk.inject(rule.path("index.copy"));
    assert!(commit(&index, 2).is_err());
    let store = store.after_crash(disk.crash(1));
    let (pair, index) = open(&store);
    assert!(pair.lacks_copy() && pair.findings().is_empty());
    assert_eq!(marker(&index), 2);
    drop((pair, index));
    store.destroy(Path::new(DIR)).unwrap();
    let error = Pair::open(Box::new(store.clone()), Path::new(DIR), true).err();
    let text = error.unwrap().to_string();
    assert!(text.contains("missing") && text.contains("none"), "{text}");
}

#[test]
fn the_copy_takes_the_place_of_what_is_missing_empty_condemned_or_behind() {
    for way in 0..4 {
        let store = MemoryIndexStore::new();
        let (pair, index) = open(&store);
        commit(&index, 1).unwrap();
        drop((pair, index));
        let dir = Path::new(DIR);
        match way {
            0 => store.destroy(dir).unwrap(),
            1 => {
                store.destroy(dir).unwrap();
                let index = store.open(dir).unwrap();
                index.rows.commit(&[]).unwrap();
            }
            2 => store.condemn(dir, "a rotten block").unwrap(),
            _ => {
                let old = store.after_crash(FaultDisk::new());
                let (_, index) = open(&store);
                commit(&index, 2).unwrap();
                store.destroy(dir).unwrap();
                let (to, from) = (store.open(dir).unwrap(), old.open(dir).unwrap());
                for table in Table::ALL {
                    let visit = &mut |key: &[u8], value: &[u8]| {
                        let (key, value) = (key.to_vec(), value.to_vec());
                        let change = Change::Put { table, key, value };
                        to.rows.commit(&[&[change]]).unwrap();
                        ControlFlow::Continue(())
                    };
                    from.rows.scan(table, &[], &keys::TABLE_END, visit).unwrap();
                }
            }
        }
        let (pair, index) = open(&store);
        let findings = pair.findings();
        assert!(
            findings.len() == 1 && findings[0].contains(DIR),
            "{way}: {findings:?}"
        );
        assert_eq!(pair.damages(), 1);
        assert_eq!(marker(&index), if way == 3 { 2 } else { 1 });
        assert!(pair.lacks_copy());
        make_copy(&pair);
        commit(&index, 7).unwrap();
        let (pair, _) = open(&store);
        assert!(!pair.lacks_copy() && pair.findings().is_empty(), "{way}");
    }
}

/// Rows by table, all of them.
fn rows(index: &Index) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push((table, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        let scanned = index.rows.scan(table, &[], &keys::TABLE_END, visit);
        scanned.unwrap();
    }
    rows
}

/// A store with more rows than fit into one piece, without a copy.
fn large_without_copy(store: &MemoryIndexStore) -> (Arc<Pair>, Index) {
    let (_, index) = open(store);
    let mut batch = IndexBatch::new();
    batch.set_marker(vec![1]);
    (0..20).for_each(|n| batch.put_raft_entry(G, n, vec![0; 1 << 20]));
    index.commit(batch).unwrap();
    store.destroy(Path::new(COPY)).unwrap();
    open(store)
}

#[test]
fn commits_go_on_while_a_copy_is_made() {
    let store = MemoryIndexStore::new();
    let (pair, index) = large_without_copy(&store);
    let mut pieces = 0_u8;
    while pair.copy_piece().unwrap() {
        pieces += 1;
        assert!(pair.lacks_copy() && !store.exists(Path::new(COPY)));
        let mut batch = IndexBatch::new();
        batch.set_marker(vec![10 + pieces]);
        // In front of where the copy is, and behind it.
        let at = u64::from(pieces);
        batch.put_raft_entry(G, at - 1, vec![pieces; 10]);
        batch.put_raft_entry(G, 20 - at, vec![pieces; 10]);
        batch.put_raft_entry(G, 100 + at, vec![pieces; 10]);
        batch.put_group(G, vec![pieces]);
        index.commit(batch).unwrap();
        let mut batch = IndexBatch::new();
        batch.truncate_raft(G, 100 + at);
        index.commit(batch).unwrap();
    }
    assert!(pieces > 2, "{pieces}");
    assert!(!pair.lacks_copy());
    let made = store.open(Path::new(COPY)).unwrap();
    assert!(rows(&made) == rows(&store.open(Path::new(DIR)).unwrap()));
    drop((pair, index));
    let (pair, _) = open(&store);
    assert!(!pair.lacks_copy() && pair.findings().is_empty());
}

#[test]
fn a_copy_that_fails_in_the_making_costs_nothing() {
    let disk = FaultDisk::new();
    let store = MemoryIndexStore::on(disk.clone());
    let (pair, index) = large_without_copy(&store);
    assert!(pair.copy_piece().unwrap());
    let rule = FaultRule::new(Fault::Enospc).on(Operation::Sync);
    disk.inject(rule.path("index.copy"));
    commit(&index, 2).unwrap();
    assert!(pair.copy_piece().is_err() && pair.lacks_copy());
    commit(&index, 3).unwrap();
    assert_eq!(marker(&index), 3);
    drop((pair, index));
    let (pair, index) = open(&store);
    make_copy(&pair);
    assert_eq!((marker(&index), side(&store, ".copy")), (3, 3));
}

/// A bit flips in each table file of RocksDB while it is open: the copy answers.
#[test]
fn a_row_that_rots_is_read_from_the_copy() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("index");
    let fill = || {
        let pair = Arc::new(Pair::open(Box::new(RocksIndexStore), &dir, dir.exists()).unwrap());
        let index = Index::of_pair(&pair);
        commit(&index, 1).unwrap();
        (pair, index)
    };
    drop(fill());
    for file in std::fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[3] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let open = || Pair::open(Box::new(RocksIndexStore), &dir, true).unwrap();
    let (pair, index) = {
        let pair = Arc::new(open());
        let index = Index::of_pair(&pair);
        (pair, index)
    };
    // `meta` is among them, and is read to open it: the copy has taken its place.
    assert_eq!(pair.damages(), 1, "{:?}", pair.findings());
    assert!(pair.findings()[0].contains(".sst"), "{:?}", pair.findings());
    assert_eq!(index.groups().unwrap().len(), 1);
    assert!(index.at_or_below_offset(G, 0, 9).unwrap().is_some());
    assert!(temp.path().join("index.damaged").exists());
    make_copy(&pair);
    drop((pair, index));
    assert!(!open().lacks_copy());
}
