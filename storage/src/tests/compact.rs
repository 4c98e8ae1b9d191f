//! Compaction: what a consumer of the newest value of each key sees never changes, whatever
//! happens to the machine, and what stays is byte for byte readable by everyone.

use std::collections::{BTreeMap, BTreeSet};

use klamm_records::{Codec, RecordSet, batch_crc_ok};

use super::model::split;
use super::*;
use crate::disk::Chance;
use crate::{Compaction, CompactionError, CompactionRules, ProducerStates, SequenceCheck};

const BUDGET: usize = 1 << 20;
pub(super) const DAY_MS: u64 = 24 * 3600 * 1000;

pub(super) fn rules(log: &GroupLog, now_ms: i64) -> CompactionRules {
    CompactionRules {
        upto_offset: i64::MAX,
        committed_offset: log.end_offset(),
        now_ms,
        delete_retention_ms: DAY_MS,
        map_bytes: 1 << 20,
        map_load_factor: 0.9,
        io_buffer_bytes: 4096,
        decompress_budget: BUDGET,
    }
}

pub(super) fn compact(
    log: &GroupLog,
    rules: &CompactionRules,
) -> Result<Compaction, CompactionError> {
    log.compact(rules, &mut |_| true)
}

/// Seals the active segment and lets Raft forget everything.
pub(super) fn seal(log: &GroupLog) {
    wait(|done| log.roll(done)).unwrap();
    let last = log.raft_state().last.unwrap();
    wait(|done| log.purge(last, done)).unwrap();
    settle(log);
}

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) offset: i64,
    pub(super) timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

pub(super) fn records_of(batch: &Bytes) -> Vec<Seen> {
    let header = BatchHeader::parse(batch).unwrap();
    assert!(batch_crc_ok(batch));
    let set = RecordSet::open(batch, &header, BUDGET).unwrap();
    let seen: Vec<Seen> = set
        .iter()
        .map(|record| {
            let record = record.unwrap();
            let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            let headers = record.headers.map(|(k, v)| (k.to_vec(), own(v)));
            Seen {
                offset: record.offset(&header),
                timestamp: record.timestamp(&header),
                key: own(record.key),
                value: own(record.value),
                headers: headers.collect(),
            }
        })
        .collect();
    let max = seen.iter().map(|record| record.timestamp).max();
    if let Some(max) = max {
        assert_eq!(header.max_timestamp, max);
    }
    seen
}

fn all_records(log: &GroupLog) -> Vec<Seen> {
    let batches = split(&read_all(log));
    let start = log.start_offset();
    let records = batches.iter().flat_map(records_of);
    records.filter(|record| record.offset >= start).collect()
}

type Latest = BTreeMap<Vec<u8>, Seen>;

/// The newest value of each key; a tombstone leaves none.
fn latest<'a>(records: impl IntoIterator<Item = &'a Seen>) -> Latest {
    let mut latest = BTreeMap::new();
    for record in records {
        let Some(key) = record.key.clone() else {
            continue;
        };
        match record.value {
            Some(_) => latest.insert(key, record.clone()),
            None => latest.remove(&key),
        };
    }
    latest
}

/// What was written to a log, plainly.
pub(super) struct Written {
    records: BTreeMap<i64, Seen>,
    sequences: BTreeMap<i64, i32>,
    pub(super) chance: Chance,
    time: i64,
    last: u64,
}

impl Written {
    pub(super) fn new(seed: u64) -> Written {
        Written {
            records: BTreeMap::new(),
            sequences: BTreeMap::new(),
            chance: Chance(seed),
            time: 1_000,
            last: 0,
        }
    }

    fn batch(&mut self) -> Bytes {
        let codec = Codec::ALL[self.chance.below(5) as usize];
        let mut builder = BatchBuilder::new().compression(codec, None);
        let records = 1 + self.chance.below(4) as i32;
        let producer = self.chance.below(6) as i64;
        if producer < 3 {
            let sequence = self.sequences.entry(producer).or_insert(0);
            builder = builder.producer(producer, 0, *sequence);
            *sequence += records;
        }
        if self.chance.one_in(8) {
            builder = builder.log_append_time(self.time + 50);
        }
        for _ in 0..records {
            self.time += self.chance.below(9) as i64;
            let key = vec![b'k', self.chance.below(12) as u8];
            let value = vec![7; self.chance.below(120) as usize];
            let headers: &[(&[u8], Option<&[u8]>)] = &[(b"h", Some(b"1")), (b"n", None)];
            let record = NewRecord {
                timestamp: self.time - self.chance.below(5) as i64,
                key: Some(&key)
                    .filter(|_| !self.chance.one_in(30))
                    .map(Vec::as_slice),
                value: Some(&value)
                    .filter(|_| !self.chance.one_in(4))
                    .map(Vec::as_slice),
                headers: if self.chance.one_in(2) { headers } else { &[] },
            };
            builder.push(&record).unwrap();
        }
        builder.build().unwrap()
    }

    /// Appends a batch and notes what it holds.
    pub(super) fn append(&mut self, log: &GroupLog) {
        let bytes = self.batch();
        self.last += 1;
        let end = log.end_offset();
        for mut record in records_of(&bytes) {
            record.offset += end;
            self.records.insert(record.offset, record);
        }
        append(log, vec![batch_entry(id(1, self.last), bytes)]);
    }

    pub(super) fn check(&self, log: &GroupLog) {
        let start = log.start_offset();
        let found = all_records(log);
        for record in &found {
            assert_eq!(
                self.records.get(&record.offset),
                Some(record),
                "nothing is made up"
            );
        }
        let offsets: Vec<i64> = found.iter().map(|record| record.offset).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b));
        let expected: Latest = latest(self.records.values())
            .into_iter()
            .filter(|(_, record)| record.offset >= start)
            .collect();
        assert_eq!(latest(&found), expected);
        self.check_producers(log);
    }

    /// Every producer can go on, with the state in memory and with one rebuilt from the log, if
    /// nothing of it was deleted.
    fn check_producers(&self, log: &GroupLog) {
        let mut rebuilt = ProducerStates::new();
        for batch in split(&read_all(log)) {
            rebuilt.appended(&BatchHeader::parse(&batch).unwrap(), 0);
        }
        for (&producer, &sequence) in self.sequences.iter().filter(|(_, s)| **s > 0) {
            let mut next = BatchBuilder::new().producer(producer, 0, sequence);
            next.push(&NewRecord::default()).unwrap();
            let header = BatchHeader::parse(&next.build().unwrap()).unwrap();
            let whole = (log.start_offset() == 0).then_some(&rebuilt);
            for states in [Some(&log.producers()), whole].into_iter().flatten() {
                assert_eq!(states.check(&header), SequenceCheck::Append, "{producer}");
                let known = states.iter().find(|info| info.producer_id == producer);
                assert_eq!(known.unwrap().last_sequence, sequence - 1);
            }
        }
    }
}

/// Reads and lookups from everywhere agree with a scan of the whole.
pub(super) fn check_lookups(log: &GroupLog) {
    let batches = split(&read_all(log));
    let end = log.end_offset();
    for from in log.start_offset()..end {
        let read = log.read(from, end, 1, true).unwrap();
        let first = batches
            .iter()
            .find(|b| BatchHeader::parse(b).unwrap().last_offset() >= from);
        assert_eq!(Some(&read), first, "from {from}");
    }
    let records = all_records(log);
    for timestamp in records.iter().map(|record| record.timestamp).step_by(3) {
        let found = log.offset_for_timestamp(timestamp, end).unwrap();
        let first = records.iter().find(|record| record.timestamp >= timestamp);
        assert_eq!(found.map(|f| f.offset), first.map(|record| record.offset));
    }
    let newest = records.iter().map(|record| record.timestamp).max();
    let first = records
        .iter()
        .find(|record| Some(record.timestamp) == newest);
    let found = log.max_timestamp(end).unwrap();
    assert_eq!(found.map(|f| f.offset), first.map(|record| record.offset));
}

/// The directory holds the segments' files and nothing else.
pub(super) fn check_files(machine: &Machine, log: &GroupLog) {
    let used = log.segments().into_iter().filter(|s| s.size_bytes > 0);
    let used: BTreeMap<PathBuf, u64> = used.map(|s| (s.path, s.size_bytes)).collect();
    let disk: &dyn crate::Disk = &machine.disk;
    let listed = disk.list(&log.dir()).unwrap_or_default();
    let there: BTreeSet<PathBuf> = listed
        .iter()
        .map(|entry| log.dir().join(&entry.name))
        .collect();
    assert_eq!(there, used.keys().cloned().collect());
    for (path, size) in used {
        assert_eq!(machine.disk.contents(&path).unwrap().len() as u64, size);
    }
}

#[test]
fn the_newest_record_of_each_key_stays_and_files_shrink() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut written = Written::new(1);
    (0..400).for_each(|_| written.append(&log));
    seal(&log);
    let segments = log.segments().len();
    let done = compact(&log, &rules(&log, 5_000)).unwrap();
    assert!(done.bytes_after < done.bytes_before / 5, "{done:?}");
    assert_eq!(done.segments_before, segments - 1);
    assert_eq!(log.compacted_offset(), log.end_offset());
    assert_eq!(
        (log.start_offset(), log.entries_start_offset()),
        (0, log.end_offset())
    );
    settle(&log);
    written.check(&log);
    check_lookups(&log);
    check_files(&machine, &log);
    let once = read_all(&log);
    assert_eq!(
        compact(&log, &rules(&log, 5_000)).unwrap().segments_before,
        0,
        "clean"
    );
    // More to compact, in the files of the first pass and in new ones.
    (0..100).for_each(|_| written.append(&log));
    store.checkpoint().unwrap();
    check_lookups(&log);
    seal(&log);
    let done = compact(&log, &rules(&log, 5_000)).unwrap();
    assert!(done.segments_after < done.segments_before / 2, "{done:?}");
    written.check(&log);
    settle(&log);
    check_files(&machine, &log);
    assert_ne!(read_all(&log), once);
    store.close().unwrap();
    drop((store, log));
    let (store, report) = machine.open();
    assert!(report.corrupt.is_empty());
    let log = store.group(GroupId(1)).unwrap();
    written.check(&log);
    check_lookups(&log);
    let compacted = log.compacted_offset();
    assert_eq!(compacted, log.end_offset(), "the checkpoint survives");
}

#[test]
fn behaviour_123_tombstones_stay_until_their_horizon() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let put = |index: u64, key: &[u8], value: Option<&[u8]>| {
        let mut builder = BatchBuilder::new();
        let timestamp = 1_000 + index as i64;
        let record = NewRecord {
            timestamp,
            key: Some(key),
            value,
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
        append(
            &log,
            vec![batch_entry(id(1, index), builder.build().unwrap())],
        );
    };
    put(1, b"gone", Some(b"1"));
    put(2, b"gone", None);
    put(3, b"stays", Some(b"1"));
    seal(&log);
    compact(&log, &rules(&log, 10_000)).unwrap();
    let horizon = 10_000 + DAY_MS as i64;
    // In front of it one that stands for what went.
    let first = split(&read_all(&log)).remove(1);
    let header = BatchHeader::parse(&first).unwrap();
    assert_eq!(header.delete_horizon_ms(), Some(horizon));
    assert_eq!(records_of(&first)[0].timestamp, 1_002);
    let mut offsets = Vec::new();
    for (index, now) in [(4, horizon - 1), (5, horizon)] {
        put(index, b"stays", Some(b"2"));
        seal(&log);
        compact(&log, &rules(&log, now)).unwrap();
        let seen = all_records(&log);
        offsets.push(seen.iter().map(|record| record.offset).collect::<Vec<_>>());
    }
    assert_eq!(offsets, [vec![1, 3], vec![4]]);
}

#[test]
fn a_map_that_is_full_takes_several_passes() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut written = Written::new(3);
    (0..200).for_each(|_| written.append(&log));
    seal(&log);
    let rules = CompactionRules {
        map_bytes: 24 * 6,
        ..rules(&log, 5_000)
    };
    let mut passes = 0;
    while log.compacted_offset() < log.end_offset() {
        let before = log.compacted_offset();
        let done = compact(&log, &rules).unwrap();
        assert!(done.keys <= 5 && log.compacted_offset() > before);
        written.check(&log);
        passes += 1;
    }
    assert!(passes > 5, "{passes}");
    check_lookups(&log);
}

#[test]
fn what_raft_has_or_is_active_or_held_back_is_not_touched() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut written = Written::new(4);
    (0..200).for_each(|_| written.append(&log));
    settle(&log);
    let before = read_all(&log);
    assert_eq!(
        compact(&log, &rules(&log, 1)).unwrap().segments_before,
        0,
        "not purged"
    );
    seal(&log);
    let third = log.segments()[3].base_offset;
    for (upto_offset, committed_offset) in [(third + 1, i64::MAX), (i64::MAX, third)] {
        let rules = CompactionRules {
            upto_offset,
            committed_offset,
            ..rules(&log, 1)
        };
        compact(&log, &rules).unwrap();
        assert_eq!(log.compacted_offset(), third);
        written.check(&log);
    }
    let tail: usize = log
        .segments()
        .iter()
        .filter(|s| s.base_offset >= third)
        .map(|s| s.size_bytes as usize)
        .sum();
    let after = read_all(&log);
    assert!(before[before.len() - tail..] == after[after.len() - tail..]);
    let stopped = log.compact(&rules(&log, 1), &mut |_| false);
    assert!(matches!(stopped, Err(CompactionError::Stopped)));
    settle(&log);
    check_files(&machine, &log);
}

#[test]
fn markers_and_transactions_stay_as_they_are() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut batches = Vec::new();
    for index in 1..=3 {
        let mut builder = BatchBuilder::new()
            .producer(5, 0, index - 1)
            .transactional();
        let (key, value) = (Some(&b"k"[..]), Some(&b"v"[..]));
        let record = NewRecord {
            key,
            value,
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
        batches.push(builder.build().unwrap());
        batches.push(klamm_records::end_transaction_marker(5, 0, index != 2, 0, 9).unwrap());
    }
    for (at, bytes) in batches.into_iter().enumerate() {
        append(&log, vec![batch_entry(id(1, at as u64 + 1), bytes)]);
    }
    let mut written = Written::new(5);
    written.last = 6;
    (0..20).for_each(|_| written.append(&log));
    let before = split(&read_all(&log));
    seal(&log);
    compact(&log, &rules(&log, 1)).unwrap();
    assert!(split(&read_all(&log))[..6] == before[..6]);
}

#[test]
fn a_damaged_batch_is_named_and_nothing_is_lost() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut written = Written::new(6);
    (0..100).for_each(|_| written.append(&log));
    seal(&log);
    let victim = log.segments()[1].path.clone();
    let file = crate::Disk::open(&machine.disk, &victim, crate::OpenMode::ReadWrite).unwrap();
    file.write_at(&[std::io::IoSlice::new(b"rot")], 70).unwrap();
    let before = log.segments().len();
    let result = compact(&log, &rules(&log, 1));
    let Err(CompactionError::Storage(StorageError::Corrupt { file, .. })) = result else {
        panic!("{result:?}")
    };
    assert_eq!(file, victim);
    assert_eq!(log.segments().len(), before);
    assert_eq!(log.compacted_offset(), 0);
}

/// Retention takes compacted segments, too.
#[test]
fn the_log_start_passes_compacted_segments() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut written = Written::new(8);
    (0..300).for_each(|_| written.append(&log));
    seal(&log);
    let rules = CompactionRules {
        upto_offset: 400,
        ..rules(&log, 1)
    };
    compact(&log, &rules).unwrap();
    let segments = log.segments();
    let second = segments[1].base_offset;
    wait(|done| log.set_start_offset(second + 3, done)).unwrap();
    settle(&log);
    assert_eq!(log.segments()[0].base_offset, second);
    check_files(&machine, &log);
    store.checkpoint().unwrap();
    check_lookups(&log);
    wait(|done| log.set_start_offset(log.end_offset(), done)).unwrap();
    settle(&log);
    assert_eq!(log.size_bytes(), 0);
    check_files(&machine, &log);
}
