//! What each form of the index adds to the contract, stored formats, and both forms side by side.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::contract_tests::{G, entry, fill_two_segments, offsets};
use super::*;
use crate::disk::{Fault, FaultDisk, FaultRule, Operation};

#[test]
fn rocks_refuses_a_newer_format() {
    let temp = tempfile::tempdir().unwrap();
    let index = RocksIndexStore.open(temp.path()).unwrap();
    let newer = 2_u32.to_le_bytes().to_vec();
    let change = Change::Put {
        table: Table::Meta,
        key: keys::format_key(),
        value: newer,
    };
    index.rows.commit(&[&[change]]).unwrap();
    drop(index);
    match RocksIndexStore.open(temp.path()) {
        Err(IndexError::NewerFormat { found: 2, known: 1 }) => {}
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn rocks_says_why_it_does_not_open() {
    let temp = tempfile::tempdir().unwrap();
    let held = RocksIndexStore.open(temp.path()).unwrap();
    assert!(RocksIndexStore.open(temp.path()).is_err(), "two writers");
    drop(held);
    std::fs::write(temp.path().join("CURRENT"), b"MANIFEST-999999\n").unwrap();
    let Err(error) = RocksIndexStore.open(temp.path()) else {
        panic!("opened without manifest")
    };
    assert!(
        error.to_string().starts_with("index open found damage: "),
        "{error}"
    );
}

#[test]
fn rocks_keeps_commits_that_were_never_closed() {
    let temp = tempfile::tempdir().unwrap();
    let index = RocksIndexStore.open(&temp.path().join("a")).unwrap();
    let mut batch = IndexBatch::new();
    fill_two_segments(&mut batch, G);
    batch.set_marker(b"1".to_vec());
    index.commit(batch).unwrap();
    // What the disk holds at this moment, as a crash would leave it: the index is still open.
    std::fs::create_dir(temp.path().join("b")).unwrap();
    for file in std::fs::read_dir(temp.path().join("a")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), temp.path().join("b").join(file.file_name())).unwrap();
    }
    let copy = RocksIndexStore.open(&temp.path().join("b")).unwrap();
    assert_eq!(copy.marker().unwrap().unwrap(), "1");
    assert_eq!(offsets(&copy, G, 100).len(), 10);
    assert_eq!(copy.segments(G).unwrap().len(), 2);
}

#[test]
fn memory_survives_the_machine_and_shuts_the_dead_out() {
    let disk = FaultDisk::new();
    let store = MemoryIndexStore::on(disk.clone());
    let marker = |text: &str| {
        let mut batch = IndexBatch::new();
        batch.set_marker(text.as_bytes().to_vec());
        batch
    };
    let index = store.open(Path::new("index")).unwrap();
    index.commit(marker("1")).unwrap();
    disk.inject(FaultRule::new(Fault::Eio).on(Operation::Sync).path("index"));
    assert!(index.commit(marker("2")).is_err());
    assert_eq!(
        index.marker().unwrap().unwrap(),
        "1",
        "nothing of a failed commit is there"
    );

    let disk = disk.crash(1);
    let next = store.after_crash(disk.clone());
    assert!(index.commit(marker("zombie")).is_err());
    let index = next.open(Path::new("index")).unwrap();
    assert_eq!(index.marker().unwrap().unwrap(), "1");
    disk.inject(FaultRule::new(Fault::PowerOff));
    assert!(index.commit(marker("3")).is_err());
    let last = next
        .after_crash(disk.crash(2))
        .open(Path::new("index"))
        .unwrap();
    assert_eq!(last.marker().unwrap().unwrap(), "1");
}

/// What version 1 looks like, for as long as it has to be read.
#[test]
fn sparse_entry_version_1_is_fixed() {
    let entry = SparseEntry {
        segment_base: 1,
        base_offset: 0x0203,
        position: 4,
        raft_index: 5,
        max_timestamp: -1,
    };
    let mut row = vec![1];
    for number in [1, 0x0203, 4, 5, -1_i64] {
        row.extend(number.to_le_bytes());
    }
    assert_eq!(keys::encode_sparse(&entry), row);
    assert_eq!(keys::decode_sparse(&row).unwrap(), entry);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn sparse_entries_round_trip(
        bases in (0..=i64::MAX, 0..=i64::MAX),
        position: u64,
        raft_index: u64,
        max_timestamp: i64,
    ) {
        let (segment_base, base_offset) = (bases.0.min(bases.1), bases.0.max(bases.1));
        let entry = SparseEntry { segment_base, base_offset, position, raft_index, max_timestamp };
        prop_assert_eq!(keys::decode_sparse(&keys::encode_sparse(&entry)).unwrap(), entry);
    }

    #[test]
    fn decoding_anything_does_not_panic(row in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(entry) = keys::decode_sparse(&row) {
            prop_assert_eq!(keys::encode_sparse(&entry), row);
        }
    }

    #[test]
    fn keys_sort_as_their_numbers(a in any::<(u64, i64, i64)>(), b in any::<(u64, i64, i64)>()) {
        let clean = |(group, segment, offset): (u64, i64, i64)| {
            (group % 3, segment & 0xff, offset & i64::MAX)
        };
        let (a, b) = (clean(a), clean(b));
        let key = |(group, segment, offset)| offset_key(GroupId(group), segment, offset);
        prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        prop_assert!(key(a) < segment_end(GroupId(a.0), a.1));
        prop_assert!(segment_end(GroupId(a.0), a.1) < group_end(GroupId(a.0)));
        prop_assert!(group_end(GroupId(a.0)) < group_key(GroupId(a.0 + 1)));
        prop_assert!(group_end(GroupId(u64::MAX)).as_slice() < keys::TABLE_END.as_slice());
    }

    #[test]
    fn timestamps_are_found_as_a_scan_would(
        steps in prop::collection::vec((1..50_i64, 0..3_i64), 0..60),
        asked in -1..130_i64,
    ) {
        let index = MemoryIndexStore::new().open(Path::new("")).unwrap();
        let mut batch = IndexBatch::new();
        let (mut offset, mut timestamp) = (100, 0);
        let mut entries = Vec::new();
        for (by, later) in steps {
            let entry = SparseEntry { max_timestamp: timestamp, ..entry(100, offset, 1) };
            batch.put_sparse(G, &entry);
            entries.push(entry);
            offset += by;
            timestamp += later;
        }
        index.commit(batch).unwrap();
        let expect = entries.into_iter().rfind(|entry| entry.max_timestamp < asked);
        prop_assert_eq!(index.before_timestamp(G, 100, asked).unwrap(), expect);
    }
}

/// One random change, in small ranges so that changes meet.
#[derive(Clone, Debug)]
enum Step {
    Sparse(u64, i64, i64),
    Entry(u64, u64),
    Segment(u64, i64),
    DeleteSegment(u64, i64),
    Truncate(u64, i64, i64, u64),
    Purge(u64, u64),
    DeleteGroup(u64),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let group = 0..3_u64;
    let step = prop_oneof![
        6 => (group.clone(), 0..4_i64, 0..10_i64).prop_map(|(g, s, o)| Step::Sparse(g, s * 10, o)),
        3 => (group.clone(), 0..40_u64).prop_map(|(g, i)| Step::Entry(g, i)),
        2 => (group.clone(), 0..4_i64).prop_map(|(g, s)| Step::Segment(g, s * 10)),
        1 => (group.clone(), 0..4_i64).prop_map(|(g, s)| Step::DeleteSegment(g, s * 10)),
        1 => (group.clone(), 0..4_i64, 0..10_i64, 0..40_u64)
            .prop_map(|(g, s, o, i)| Step::Truncate(g, s * 10, s * 10 + o, i)),
        1 => (group.clone(), 0..40_u64).prop_map(|(g, i)| Step::Purge(g, i)),
        1 => group.prop_map(Step::DeleteGroup),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..60), 1..5)
}

fn apply(step: &Step, batch: &mut IndexBatch) {
    match *step {
        Step::Sparse(group, segment, by) => {
            let offset = segment + by;
            batch.put_sparse(
                GroupId(group),
                &entry(segment, offset, offset.unsigned_abs()),
            );
        }
        Step::Entry(group, index) => batch.put_raft_entry(GroupId(group), index, vec![1]),
        Step::Segment(group, base) => batch.put_segment(GroupId(group), base, vec![2]),
        Step::DeleteSegment(group, base) => batch.delete_segment(GroupId(group), base),
        Step::Truncate(group, segment, offset, index) => {
            batch.truncate_offsets(GroupId(group), segment, offset);
            batch.truncate_raft(GroupId(group), index);
        }
        Step::Purge(group, index) => batch.purge_raft(GroupId(group), index),
        Step::DeleteGroup(group) => batch.delete_group(GroupId(group)),
    }
}

fn all_rows(index: &Index) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for table in Table::ALL.into_iter().filter(|&table| table != Table::Meta) {
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push((table, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        index
            .rows
            .scan(table, &[], &keys::TABLE_END, visit)
            .unwrap();
    }
    rows
}

proptest! {
    // Each case opens a database and syncs it a few times.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn both_forms_hold_the_same_rows(batches in steps()) {
        let temp = tempfile::tempdir().unwrap();
        let rocks = RocksIndexStore.open(temp.path()).unwrap();
        let memory = MemoryIndexStore::new().open(Path::new("")).unwrap();
        for steps in &batches {
            for index in [&rocks, &memory] {
                let mut batch = IndexBatch::new();
                steps.iter().for_each(|step| apply(step, &mut batch));
                index.commit(batch).unwrap();
            }
            prop_assert_eq!(all_rows(&rocks), all_rows(&memory));
        }
        drop(rocks);
        let reopened = RocksIndexStore.open(temp.path()).unwrap();
        prop_assert_eq!(all_rows(&reopened), all_rows(&memory));
    }
}
