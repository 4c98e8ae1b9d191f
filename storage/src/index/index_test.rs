//! One contract for both forms of the index, and what each form adds.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::disk::{Fault, FaultDisk, FaultRule, Operation};

const G: GroupId = GroupId(7);
/// Neighbours of `G` in key order, and the last group there can be.
const OTHERS: [GroupId; 3] = [GroupId(6), GroupId(8), GroupId(u64::MAX)];

/// An index that can be closed and opened again.
struct Reopening<'a> {
    store: &'a dyn IndexStore,
    dir: PathBuf,
    index: Option<Index>,
}

impl Reopening<'_> {
    fn index(&self) -> &Index {
        self.index.as_ref().unwrap()
    }

    fn commit(&self, fill: impl FnOnce(&mut IndexBatch)) {
        let mut batch = IndexBatch::new();
        fill(&mut batch);
        self.index().commit(batch).unwrap();
    }

    fn reopen(&mut self) {
        self.index = None;
        self.index = Some(self.store.open(&self.dir).unwrap());
    }
}

fn on_both(check: impl Fn(&mut Reopening<'_>)) {
    let temp = tempfile::tempdir().unwrap();
    let stores: [&dyn IndexStore; 2] = [&MemoryIndexStore::new(), &RocksIndexStore];
    for store in stores {
        let dir = temp.path().join("index");
        assert!(!store.exists(&dir));
        let index = Some(store.open(&dir).unwrap());
        check(&mut Reopening { store, dir, index });
    }
}

fn entry(segment_base: i64, base_offset: i64, raft_index: u64) -> SparseEntry {
    let position = base_offset.unsigned_abs() * 100;
    let max_timestamp = 1_000 + base_offset * 10;
    SparseEntry {
        segment_base,
        base_offset,
        position,
        raft_index,
        max_timestamp,
    }
}

/// Segment 0 with batches at 0, 10 .. 90, segment 100 with batches at 100, 110 .. 190; Raft index
/// is offset / 10 + 1. The last batch of a segment has index 10 and 20.
fn fill_two_segments(batch: &mut IndexBatch, group: GroupId) {
    for segment_base in [0, 100] {
        batch.put_segment(
            group,
            segment_base,
            format!("segment {segment_base}").into_bytes(),
        );
        for step in 0..10 {
            let offset = segment_base + step * 10;
            batch.put_sparse(
                group,
                &entry(segment_base, offset, offset.unsigned_abs() / 10 + 1),
            );
        }
    }
}

fn offsets(index: &Index, group: GroupId, segment_base: i64) -> Vec<i64> {
    let mut found = Vec::new();
    let mut from = segment_base;
    while let Some(entry) = index.at_or_above_offset(group, segment_base, from).unwrap() {
        found.push(entry.base_offset);
        from = entry.base_offset + 1;
    }
    found
}

#[test]
fn an_empty_index_answers_nothing() {
    on_both(|it| {
        let index = it.index();
        assert_eq!(index.marker().unwrap(), None);
        assert_eq!(index.groups().unwrap(), []);
        assert_eq!(index.group(G).unwrap(), None);
        assert_eq!(index.segments(G).unwrap(), []);
        assert_eq!(index.producers(G).unwrap(), None);
        assert_eq!(index.at_or_below_offset(G, 0, i64::MAX).unwrap(), None);
        assert_eq!(index.at_or_above_offset(G, 0, 0).unwrap(), None);
        assert_eq!(index.before_timestamp(G, 0, i64::MAX).unwrap(), None);
        assert_eq!(index.at_or_below_raft_index(G, u64::MAX).unwrap(), None);
        assert_eq!(index.raft_entry(G, 1).unwrap(), None);
        assert_eq!(index.raft_entries(G, 0..u64::MAX, 9).unwrap(), []);
        assert_eq!(index.raft_entry_at_or_below(G, u64::MAX).unwrap(), None);
        index.commit(IndexBatch::new()).unwrap();
    });
}

#[test]
fn rows_come_back_after_reopening() {
    on_both(|it| {
        it.commit(|batch| {
            assert!(batch.is_empty());
            batch.set_marker(b"journal 12".to_vec());
            for group in [GroupId(u64::MAX), GroupId(0), G] {
                batch.put_group(group, group.0.to_le_bytes().to_vec());
            }
            batch.put_segment(G, 0, b"first".to_vec());
            batch.put_segment(G, i64::MAX, b"last".to_vec());
            batch.put_producers(G, b"producers".to_vec());
            assert_eq!(batch.len(), 7);
        });
        for _ in 0..2 {
            let index = it.index();
            assert_eq!(index.marker().unwrap().unwrap(), "journal 12");
            let groups = index.groups().unwrap();
            let ids: Vec<u64> = groups.iter().map(|(group, _)| group.0).collect();
            assert_eq!(ids, [0, 7, u64::MAX]);
            assert_eq!(groups[1].1, 7_u64.to_le_bytes()[..]);
            assert_eq!(index.group(G).unwrap().unwrap(), 7_u64.to_le_bytes()[..]);
            let segments = index.segments(G).unwrap();
            assert_eq!(
                segments,
                [(0, Bytes::from("first")), (i64::MAX, Bytes::from("last"))]
            );
            assert_eq!(index.producers(G).unwrap().unwrap(), "producers");
            assert!(it.store.exists(&it.dir));
            it.reopen();
        }
        it.commit(|batch| batch.set_marker(b"journal 13".to_vec()));
        it.reopen();
        assert_eq!(it.index().marker().unwrap().unwrap(), "journal 13");
    });
}

#[test]
fn lookups_by_offset_stay_in_their_segment_and_group() {
    on_both(|it| {
        it.commit(|batch| {
            fill_two_segments(batch, G);
            fill_two_segments(batch, GroupId(u64::MAX));
        });
        let below = |segment, offset| {
            it.index()
                .at_or_below_offset(G, segment, offset)
                .unwrap()
                .map(|e| e.base_offset)
        };
        assert_eq!(below(0, -1), None);
        assert_eq!(below(0, 0), Some(0));
        assert_eq!(below(0, 9), Some(0));
        assert_eq!(below(0, 55), Some(50));
        assert_eq!(below(0, i64::MAX), Some(90), "not the next segment's");
        assert_eq!(below(100, 99), None, "not the last segment's");
        assert_eq!(below(100, 100), Some(100));
        assert_eq!(below(50, 60), None, "no such segment");
        let above = |segment, offset| {
            it.index()
                .at_or_above_offset(G, segment, offset)
                .unwrap()
                .map(|e| e.base_offset)
        };
        assert_eq!(above(0, i64::MIN), Some(0));
        assert_eq!(above(0, 51), Some(60));
        assert_eq!(above(0, 91), None);
        assert_eq!(above(100, 191), None);
        assert_eq!(
            it.index().at_or_below_offset(GroupId(8), 0, 50).unwrap(),
            None
        );
        let last = it
            .index()
            .at_or_below_offset(GroupId(u64::MAX), 100, i64::MAX)
            .unwrap();
        assert_eq!(last, Some(entry(100, 190, 20)));
    });
}

#[test]
fn lookups_by_raft_index_cross_segments() {
    on_both(|it| {
        it.commit(|batch| {
            fill_two_segments(batch, G);
            batch.put_raft_entry(G, 3, b"blank".to_vec());
        });
        let below = |index| it.index().at_or_below_raft_index(G, index).unwrap();
        assert_eq!(below(0), None);
        assert_eq!(below(1), Some(entry(0, 0, 1)));
        assert_eq!(below(11), Some(entry(100, 100, 11)));
        assert_eq!(below(u64::MAX), Some(entry(100, 190, 20)));
        assert_eq!(
            it.index().at_or_below_raft_index(GroupId(8), 5).unwrap(),
            None
        );
    });
}

#[test]
fn lookups_by_timestamp() {
    on_both(|it| {
        it.commit(|batch| fill_two_segments(batch, G));
        let before = |segment, timestamp| {
            it.index()
                .before_timestamp(G, segment, timestamp)
                .unwrap()
                .map(|e| e.base_offset)
        };
        assert_eq!(before(0, i64::MIN), None);
        assert_eq!(before(0, 1_000), None, "the first batch may be the one");
        assert_eq!(before(0, 1_001), Some(0));
        assert_eq!(before(0, 1_500), Some(40));
        assert_eq!(before(0, 1_501), Some(50));
        assert_eq!(before(0, i64::MAX), Some(90));
        assert_eq!(before(100, 2_000), None);
        assert_eq!(before(100, 2_899), Some(180));
    });
}

#[test]
fn raft_entries_that_are_no_batches() {
    on_both(|it| {
        it.commit(|batch| {
            for index in [1, 5, 6, 9, u64::MAX] {
                batch.put_raft_entry(G, index, format!("entry {index}").into_bytes());
            }
            for other in OTHERS {
                batch.put_raft_entry(other, 7, b"other".to_vec());
            }
        });
        let index = it.index();
        assert_eq!(index.raft_entry(G, 5).unwrap().unwrap(), "entry 5");
        assert_eq!(index.raft_entry(G, 7).unwrap(), None);
        let range = |range, limit| -> Vec<u64> {
            index
                .raft_entries(G, range, limit)
                .unwrap()
                .into_iter()
                .map(|(n, _)| n)
                .collect()
        };
        assert_eq!(range(0..u64::MAX, 9), [1, 5, 6, 9]);
        assert_eq!(range(5..9, 9), [5, 6]);
        assert_eq!(range(5..100, 1), [5]);
        assert_eq!(range(5..100, 0), [0_u64; 0]);
        let reversed = std::ops::Range { start: 9, end: 5 };
        assert_eq!(range(reversed, 9), [0_u64; 0]);
        let below = |n| {
            index
                .raft_entry_at_or_below(G, n)
                .unwrap()
                .map(|(found, _)| found)
        };
        assert_eq!(below(0), None);
        assert_eq!(below(4), Some(1));
        assert_eq!(below(6), Some(6));
        assert_eq!(below(u64::MAX - 1), Some(9));
        assert_eq!(below(u64::MAX), Some(u64::MAX));
    });
}

#[test]
fn truncation_by_offset_and_by_raft_index() {
    on_both(|it| {
        it.commit(|batch| {
            for group in [G, OTHERS[0], OTHERS[1], OTHERS[2]] {
                fill_two_segments(batch, group);
                batch.put_segment(group, 200, b"empty".to_vec());
                batch.put_raft_entry(group, 4, b"a".to_vec());
                batch.put_raft_entry(group, 14, b"b".to_vec());
            }
        });
        it.commit(|batch| {
            batch.truncate_offsets(G, 100, 150);
            batch.truncate_raft(G, 16);
        });
        assert_eq!(offsets(it.index(), G, 0).len(), 10);
        assert_eq!(offsets(it.index(), G, 100), [100, 110, 120, 130, 140]);
        assert_eq!(
            it.index().at_or_below_raft_index(G, 99).unwrap(),
            Some(entry(100, 140, 15))
        );
        assert_eq!(it.index().segments(G).unwrap().len(), 2);
        it.commit(|batch| {
            batch.truncate_offsets(G, 0, 0);
            batch.truncate_raft(G, 1);
        });
        it.reopen();
        assert_eq!(offsets(it.index(), G, 0), [0_i64; 0]);
        assert_eq!(offsets(it.index(), G, 100), [0_i64; 0]);
        assert_eq!(
            it.index().at_or_below_raft_index(G, u64::MAX).unwrap(),
            None
        );
        assert_eq!(
            it.index().raft_entry_at_or_below(G, u64::MAX).unwrap(),
            None
        );
        assert_eq!(
            it.index().segments(G).unwrap().len(),
            1,
            "the cut segment itself stays"
        );
        for other in OTHERS {
            assert_eq!(offsets(it.index(), other, 100).len(), 10);
            assert_eq!(it.index().segments(other).unwrap().len(), 3);
            assert_eq!(it.index().raft_entries(other, 0..99, 9).unwrap().len(), 2);
        }
    });
}

#[test]
fn purge_drops_segments_and_raft_entries_from_the_front() {
    on_both(|it| {
        it.commit(|batch| {
            for group in [G, OTHERS[0], OTHERS[2]] {
                fill_two_segments(batch, group);
                batch.put_raft_entry(group, 0, b"membership".to_vec());
                batch.put_raft_entry(group, 21, b"blank".to_vec());
            }
        });
        it.commit(|batch| {
            batch.delete_segment(G, 0);
            batch.purge_raft(G, 10);
        });
        it.reopen();
        assert_eq!(
            it.index().segments(G).unwrap(),
            [(100, Bytes::from("segment 100"))]
        );
        assert_eq!(offsets(it.index(), G, 0), [0_i64; 0]);
        assert_eq!(offsets(it.index(), G, 100).len(), 10);
        assert_eq!(it.index().at_or_below_raft_index(G, 10).unwrap(), None);
        assert_eq!(
            it.index().at_or_below_raft_index(G, 11).unwrap(),
            Some(entry(100, 100, 11))
        );
        let left = it.index().raft_entries(G, 0..99, 9).unwrap();
        assert_eq!(left, [(21, Bytes::from("blank"))]);
        for other in [OTHERS[0], OTHERS[2]] {
            assert_eq!(offsets(it.index(), other, 0).len(), 10);
            assert_eq!(it.index().raft_entries(other, 0..99, 9).unwrap().len(), 2);
        }
        it.commit(|batch| batch.purge_raft(G, u64::MAX));
        assert_eq!(
            it.index().raft_entry_at_or_below(G, u64::MAX).unwrap(),
            None
        );
    });
}

#[test]
fn a_deleted_group_leaves_no_row() {
    on_both(|it| {
        let fill = |batch: &mut IndexBatch, group| {
            fill_two_segments(batch, group);
            batch.put_group(group, b"row".to_vec());
            batch.put_producers(group, b"producers".to_vec());
            batch.put_raft_entry(group, 1, b"blank".to_vec());
        };
        it.commit(|batch| {
            for group in [G, OTHERS[0], OTHERS[1], OTHERS[2]] {
                fill(batch, group);
            }
        });
        it.commit(|batch| {
            batch.delete_group(G);
            batch.delete_group(GroupId(u64::MAX));
        });
        it.reopen();
        for gone in [G, GroupId(u64::MAX)] {
            assert_eq!(it.index().group(gone).unwrap(), None);
            assert_eq!(it.index().producers(gone).unwrap(), None);
            assert_eq!(it.index().segments(gone).unwrap(), []);
            assert_eq!(offsets(it.index(), gone, 0), [0_i64; 0]);
            assert_eq!(
                it.index().at_or_below_raft_index(gone, u64::MAX).unwrap(),
                None
            );
            assert_eq!(it.index().raft_entry(gone, 1).unwrap(), None);
        }
        let left: Vec<GroupId> = it
            .index()
            .groups()
            .unwrap()
            .into_iter()
            .map(|(group, _)| group)
            .collect();
        assert_eq!(left, OTHERS[..2]);
        for other in &OTHERS[..2] {
            assert_eq!(offsets(it.index(), *other, 100).len(), 10);
        }
    });
}

#[test]
fn changes_of_a_batch_take_effect_in_order() {
    on_both(|it| {
        it.commit(|batch| {
            fill_two_segments(batch, G);
            batch.truncate_offsets(G, 100, 130);
            batch.truncate_raft(G, 14);
            batch.put_sparse(G, &entry(100, 135, 14));
            batch.put_group(OTHERS[0], b"short-lived".to_vec());
            batch.put_raft_entry(OTHERS[0], 1, b"blank".to_vec());
            batch.delete_group(OTHERS[0]);
        });
        assert_eq!(offsets(it.index(), G, 100), [100, 110, 120, 135]);
        assert_eq!(
            it.index().at_or_below_raft_index(G, 99).unwrap(),
            Some(entry(100, 135, 14))
        );
        assert_eq!(it.index().group(OTHERS[0]).unwrap(), None);
        assert_eq!(it.index().raft_entry(OTHERS[0], 1).unwrap(), None);
    });
}

#[test]
fn a_segment_of_many_entries() {
    on_both(|it| {
        let every = |n: i64| SparseEntry {
            max_timestamp: n / 100,
            ..entry(0, n * 3, n as u64)
        };
        it.commit(|batch| (0..5_000).for_each(|n| batch.put_sparse(G, &every(n))));
        for n in [0, 1, 99, 100, 2_499, 4_999] {
            let found = it.index().at_or_below_offset(G, 0, n * 3 + 2).unwrap();
            assert_eq!(found, Some(every(n)));
            assert_eq!(
                it.index().at_or_below_raft_index(G, n as u64).unwrap(),
                found
            );
        }
        for timestamp in 1..50 {
            let found = it.index().before_timestamp(G, 0, timestamp).unwrap();
            assert_eq!(found, Some(every(timestamp * 100 - 1)));
        }
        // More rows than are deleted one by one.
        it.commit(|batch| batch.truncate_offsets(G, 0, 30));
        it.reopen();
        assert_eq!(
            offsets(it.index(), G, 0),
            [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
        );
        it.commit(|batch| batch.put_sparse(G, &every(10)));
        assert_eq!(
            offsets(it.index(), G, 0).last(),
            Some(&30),
            "after the delete, so it stays"
        );
    });
}

#[test]
fn a_destroyed_index_is_empty() {
    on_both(|it| {
        it.commit(|batch| batch.set_marker(b"x".to_vec()));
        it.index = None;
        it.store.destroy(&it.dir).unwrap();
        assert!(!it.store.exists(&it.dir));
        it.store.destroy(&it.dir).unwrap();
        it.index = Some(it.store.open(&it.dir).unwrap());
        assert_eq!(it.index().marker().unwrap(), None);
    });
}

#[test]
fn a_row_that_is_not_ours_is_corrupt_not_a_panic() {
    on_both(|it| {
        let put = |table, key: &[u8], value: &[u8]| {
            let change = Change::Put {
                table,
                key: key.to_vec(),
                value: value.to_vec(),
            };
            it.index().rows.commit(vec![change]).unwrap();
        };
        put(Table::Groups, b"short", b"");
        put(Table::Segments, &[&[0; 7][..], &[7, 1]].concat(), b"");
        put(
            Table::Offsets,
            &offset_key(G, 0, 5),
            b"\x01not a sparse entry",
        );
        put(Table::RaftPositions, &numbered_key(G, 5), b"\x02");
        let corrupt = |result: Result<bool, IndexError>| {
            assert!(
                matches!(result, Err(IndexError::Corrupt { .. })),
                "{result:?}"
            );
        };
        let index = it.index();
        corrupt(index.groups().map(|_| true));
        corrupt(index.segments(G).map(|_| true));
        corrupt(index.at_or_below_offset(G, 0, 9).map(|_| true));
        corrupt(index.at_or_above_offset(G, 0, 0).map(|_| true));
        corrupt(index.before_timestamp(G, 0, 0).map(|_| true));
        corrupt(index.at_or_below_raft_index(G, 9).map(|_| true));
    });
}

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
    index.rows.commit(vec![change]).unwrap();
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
        error.to_string().starts_with("index open failed: "),
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
