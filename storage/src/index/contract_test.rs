//! The contract that both forms of the index keep.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use super::*;

pub(super) const G: GroupId = GroupId(7);
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

pub(super) fn entry(segment_base: i64, base_offset: i64, raft_index: u64) -> SparseEntry {
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
pub(super) fn fill_two_segments(batch: &mut IndexBatch, group: GroupId) {
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

pub(super) fn offsets(index: &Index, group: GroupId, segment_base: i64) -> Vec<i64> {
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
fn an_index_can_be_renamed_and_condemned() {
    on_both(|it| {
        it.commit(|batch| batch.set_marker(b"x".to_vec()));
        assert_eq!(it.store.condemned(&it.dir), None);
        it.store.condemn(&it.dir, "rotten").unwrap();
        it.reopen();
        assert_eq!(it.index().marker().unwrap().unwrap(), "x");
        it.index = None;
        let to = it.dir.with_extension("aside");
        it.store.rename(&it.dir, &to).unwrap();
        assert_eq!(it.store.condemned(&it.dir), None);
        assert!(!it.store.exists(&it.dir) && it.store.exists(&to));
        assert_eq!(it.store.condemned(&to).unwrap(), "rotten");
        it.store
            .rename(&it.dir, &to.with_extension("none"))
            .unwrap();
        it.dir = to;
        it.reopen();
        assert_eq!(it.index().marker().unwrap().unwrap(), "x");
        it.index = None;
        it.store.destroy(&it.dir).unwrap();
        assert_eq!(it.store.condemned(&it.dir), None);
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
            it.index().rows.commit(&[&[change]]).unwrap();
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
