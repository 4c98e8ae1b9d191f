//! A bit flips in any file: never a wrong byte to a reader, never a log that ends early without a
//! word. What is damaged is named with file and position, and all else is served.
//!
//! One flip is found wherever it is, but for two: in the journal's last block it looks like a write
//! that was under way when the machine stopped, and is cut and reported as such; and bytes that
//! mean nothing (padding, old blocks of a recycled journal file) or that only repeat what is whole
//! are not looked at. None keeps the store shut.

use std::collections::BTreeMap;

use super::compact::{compact, rules, seal};
use super::model::split;
use super::*;
use crate::disk::Chance;
use crate::disk::Disk;

/// A batch as it was written, and where.
struct Kept {
    path: PathBuf,
    position: u64,
    bytes: Bytes,
}

impl Kept {
    fn base_offset(&self) -> i64 {
        BatchHeader::parse(&self.bytes).unwrap().base_offset
    }

    fn holds(&self, path: &Path, position: u64) -> bool {
        self.path == path
            && (self.position..self.position + self.bytes.len() as u64).contains(&position)
    }
}

/// A log as it was before.
pub(super) struct Known {
    start: i64,
    end: i64,
    batches: Vec<Kept>,
    entries: Vec<Entry>,
}

impl Known {
    fn of(log: &GroupLog, contents: &dyn Fn(&Path) -> Vec<u8>) -> Known {
        settle(log);
        let mut batches = Vec::new();
        for segment in log.segments().iter().filter(|s| s.size_bytes > 0) {
            let mut position = 0;
            for bytes in split(&contents(&segment.path)) {
                let (path, len) = (segment.path.clone(), bytes.len() as u64);
                batches.push(Kept {
                    path,
                    position,
                    bytes,
                });
                position += len;
            }
        }
        Known {
            start: log.start_offset(),
            end: log.end_offset(),
            batches,
            entries: log.entries(0..u64::MAX, usize::MAX, true).unwrap(),
        }
    }
}

fn parts(entry: &Entry) -> (EntryId, Option<&Bytes>) {
    let bytes = match &entry.payload {
        Payload::Blank => None,
        Payload::Membership(bytes) | Payload::Command(bytes) => Some(bytes),
        Payload::Batch(batch) => Some(&batch.bytes),
    };
    (entry.id, bytes)
}

/// What one flip did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Nothing that anyone could see.
    Unseen,
    /// All is served, and the damage is named.
    Healed,
    /// One batch is not served; the rest is.
    BatchNamed,
    /// One group is not served; the others are.
    GroupNamed,
    /// The last block of the journal counts as torn, and the report says so.
    Torn,
}

/// A flipped place.
struct Flip<'a> {
    path: &'a Path,
    position: u64,
}

impl Flip<'_> {
    /// Looks at all groups of a store that opened over the flip.
    fn judge(
        &self,
        known: &BTreeMap<u64, Known>,
        store: &Store,
        report: &RecoveryReport,
    ) -> Outcome {
        let mut outcome = Outcome::Unseen;
        for (number, known) in known {
            let log = store
                .group(GroupId(*number))
                .expect("no group is forgotten");
            let found = self.judge_group(known, &log, report);
            assert!(
                outcome == Outcome::Unseen || found == Outcome::Unseen,
                "one flip, one victim"
            );
            outcome = outcome.max(found);
        }
        let named = matches!(outcome, Outcome::BatchNamed | Outcome::GroupNamed);
        if outcome == Outcome::Unseen && store.stats().corruptions > 0 {
            let file = self.path.to_string_lossy();
            assert!(
                report.corrupt.iter().any(|text| text.contains(&*file)),
                "{report:?}"
            );
            return Outcome::Healed;
        }
        assert_eq!(
            named,
            store.stats().corruptions > 0,
            "{outcome:?}: {report:?}"
        );
        outcome
    }

    fn judge_group(&self, known: &Known, log: &GroupLog, report: &RecoveryReport) -> Outcome {
        if log.quarantine().is_some() {
            assert!(
                report
                    .corrupt
                    .iter()
                    .any(|text| text.contains(&*log.dir().to_string_lossy()))
            );
            return Outcome::GroupNamed;
        }
        let mut outcome = Outcome::Unseen;
        let (start, end) = (log.start_offset(), log.end_offset());
        if (start, end) != (known.start, known.end) {
            assert!(
                report.torn_tail_bytes > 0,
                "ends at {end} instead of {} without a word",
                known.end
            );
            outcome = Outcome::Torn;
        }
        for kept in known.batches.iter().filter(|kept| kept.base_offset() < end) {
            let header = BatchHeader::parse(&kept.bytes).unwrap();
            for from in [header.base_offset, header.last_offset()] {
                if from < start {
                    continue;
                }
                match log.read(from, end, 1, true) {
                    Ok(read) => assert!(read == kept.bytes, "a wrong byte at offset {from}"),
                    Err(StorageError::Corrupt { file, position, .. }) => {
                        assert!(
                            kept.holds(self.path, self.position),
                            "offset {from} is whole, {position}"
                        );
                        assert_eq!((&*file, position), (self.path, kept.position));
                        outcome = outcome.max(Outcome::BatchNamed);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        self.judge_long_reads(known, log);
        match log.entries(0..u64::MAX, usize::MAX, true) {
            Ok(entries) => {
                assert!(
                    entries.iter().map(parts).eq(known
                        .entries
                        .iter()
                        .take(entries.len())
                        .map(parts))
                );
            }
            Err(error) => assert!(matches!(error, StorageError::Corrupt { .. }), "{error}"),
        }
        outcome
    }

    /// Reads as consumers do, from where the last read ended.
    fn judge_long_reads(&self, known: &Known, log: &GroupLog) {
        let expected = |from: i64| {
            let batches = known.batches.iter().map(|kept| &kept.bytes);
            batches.skip_while(move |bytes| BatchHeader::parse(bytes).unwrap().last_offset() < from)
        };
        let mut from = log.start_offset();
        while from < log.end_offset() {
            let read = log.read(from, log.end_offset(), 1_500, true);
            let batches = split(&read.unwrap_or_default());
            assert!(
                batches
                    .iter()
                    .zip(expected(from))
                    .all(|(read, kept)| read == kept)
            );
            let next = batches
                .last()
                .map(|last| BatchHeader::parse(last).unwrap().next_offset());
            // Over the damaged one.
            let skipped = || {
                BatchHeader::parse(expected(from).next().unwrap())
                    .unwrap()
                    .next_offset()
            };
            from = next.unwrap_or_else(skipped);
        }
    }
}

/// Every log is what it was.
pub(super) fn serves_all(known: &BTreeMap<u64, Known>, store: &Store) {
    for (number, known) in known {
        let log = store
            .group(GroupId(*number))
            .expect("no group is forgotten");
        assert_eq!(
            (log.start_offset(), log.end_offset()),
            (known.start, known.end)
        );
        for kept in known
            .batches
            .iter()
            .filter(|kept| kept.base_offset() >= known.start)
        {
            let read = log.read(kept.base_offset(), known.end, 1, true);
            assert!(read.unwrap() == kept.bytes);
        }
    }
}

fn keyed(index: u64) -> Bytes {
    // Every other batch is of an idempotent producer, which has to keep its sequences.
    let mut builder = BatchBuilder::new();
    if index.is_multiple_of(2) {
        builder = builder.producer(5, 0, index as i32);
    }
    let key = [b'k', (index % 7) as u8];
    let record = NewRecord {
        timestamp: 1_000 + index as i64,
        key: Some(&key),
        value: Some(&[index as u8; 90]),
        ..NewRecord::default()
    };
    builder.push(&record).unwrap();
    builder.build().unwrap()
}

/// Logs of every kind: plain with two epochs, compacted, bulk-written, and some since the last
/// checkpoint.
pub(super) fn fill(store: &Store) {
    let plain = group(store, 1);
    for index in 1..=40 {
        let size = 20 + index as usize * 7 % 160;
        let entry = batch_entry(
            id(1 + index / 15, index),
            batch_of(1 + index as usize % 3, size, 1_000),
        );
        append(&plain, vec![entry]);
    }
    let compacted = group(store, 2);
    for index in 1..=90 {
        append(
            &compacted,
            vec![batch_entry(id(1 + index / 40, index), keyed(index))],
        );
    }
    seal(&compacted);
    compact(&compacted, &rules(&compacted, 5_000)).unwrap();
    (91..=100).for_each(|index| {
        append(&compacted, vec![batch_entry(id(4, index), keyed(index))]);
    });
    let bulk = group(store, 3);
    append(
        &bulk,
        vec![
            batch_entry(id(1, 1), batch_of(3, 9_000, 1_000)),
            blank(id(1, 2)),
        ],
    );
    store.checkpoint().unwrap();
    for index in 3..=5 {
        append(
            &bulk,
            vec![batch_entry(id(1, index), batch_of(2, 300, 1_000))],
        );
        append(
            &plain,
            vec![batch_entry(id(4, 38 + index), batch_of(1, 80, 1_000))],
        );
    }
    append(
        &bulk,
        vec![batch_entry(id(1, 6), batch_of(3, 8_000, 1_000))],
    );
    // Too large to be in its block twice, unlike most.
    append(
        &plain,
        vec![batch_entry(id(4, 44), batch_of(2, 1_300, 1_000))],
    );
    append(&plain, vec![batch_entry(id(4, 45), batch_of(1, 80, 1_000))]);
}

pub(super) fn known(store: &Store, contents: &dyn Fn(&Path) -> Vec<u8>) -> BTreeMap<u64, Known> {
    let log = |number| Known::of(&store.group(GroupId(number)).unwrap(), contents);
    (1..=3).map(|number| (number, log(number))).collect()
}

/// Every file below `dir`.
pub(super) fn files(disk: &dyn Disk, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        match entry.is_dir {
            true => found.extend(files(disk, &path)),
            false => found.push(path),
        }
    }
    found
}

/// Where to flip in a file of this content: in all that is in front of a batch's CRC, in all of a
/// block's first frame, in each `stride`-th byte of the rest. Not in padding.
fn places(path: &Path, content: &[u8], stride: usize) -> Vec<u64> {
    let mut places = Vec::new();
    match path.extension().and_then(|e| e.to_str()) {
        Some("wal") => {
            for (page, at) in content.chunks(4096).zip((0..).step_by(4096)) {
                let used = page.iter().rposition(|byte| *byte != 0);
                let used = used.map_or(0, |last| last as u64 + 1);
                places.extend((at..at + used).step_by(stride));
                places.extend(at..at + used.min(100));
            }
        }
        Some("log") => {
            places.extend((0..content.len() as u64).step_by(stride));
            let mut at = 0;
            for batch in split(content) {
                places.extend(at..at + 24);
                at += batch.len() as u64;
            }
        }
        _ => places.extend(0..content.len() as u64),
    }
    places.sort_unstable();
    places.dedup();
    places
}

pub(super) fn tell(outcomes: &BTreeMap<(String, Outcome), u32>) {
    for ((class, outcome), count) in outcomes {
        println!("{class:>8} {outcome:?}: {count}");
    }
}

/// Flips one bit at each `stride`-th of all places in files of a store on a disk in memory, and
/// starts over it. Returns the number of flips.
fn sweep(stride: usize) -> u32 {
    let origin = Machine::new();
    let (store, _) = origin.open();
    fill(&store);
    let known = known(&store, &|path| origin.disk.contents(path).unwrap());
    let origin = origin.killed();
    drop(store);
    let mut chance = Chance(99);
    let mut outcomes = BTreeMap::new();
    let mut count = 0;
    let mut found = files(&origin.disk, Path::new(DIR));
    // What a checkpoint covers is not read again.
    let old = found
        .iter()
        .position(|path| path.ends_with("00000000000000000001.wal"));
    found.remove(old.expect("the first file of the journal"));
    for path in found {
        let content = origin.disk.contents(&path).unwrap();
        for position in places(&path, &content, 37).into_iter().step_by(stride) {
            let bit = 1 << chance.below(8);
            let machine = origin.killed();
            machine.disk.rot(&path, position, bit).unwrap();
            let flip = Flip {
                path: &path,
                position,
            };
            let _at = At(&path, position, bit);
            let outcome = match machine.try_open() {
                Ok((store, report)) => flip.judge(&known, &store, &report),
                Err(error) => panic!("{error}"),
            };
            let class = path
                .extension()
                .map_or_else(String::new, |e| e.to_string_lossy().into());
            *outcomes.entry((class, outcome)).or_default() += 1;
            count += 1;
        }
    }
    tell(&outcomes);
    let seen = |class: &str, outcome| outcomes.contains_key(&(class.to_owned(), outcome));
    assert!(seen("log", Outcome::BatchNamed) && seen("wal", Outcome::Healed));
    assert!(seen("copy", Outcome::Healed) && seen("format", Outcome::Healed));
    assert!(stride > 1 || seen("wal", Outcome::GroupNamed));
    count
}

/// Says where a sweep failed.
pub(super) struct At<'a>(pub(super) &'a Path, pub(super) u64, pub(super) u8);

impl Drop for At<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("bit {:#x} at {} of {}", self.2, self.1, self.0.display());
        }
    }
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    assert!(sweep(17) > 100);
}

#[test]
#[ignore = "takes a minute: every place"]
fn a_flipped_bit_is_found_and_named_wherever_it_is() {
    println!("{} flips", sweep(1));
}

/// A bit flips in what a consumer is about to read, while the store runs.
#[test]
fn a_bit_that_flips_under_a_reader_is_found() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    fill(&store);
    store.checkpoint().unwrap();
    let known = known(&store, &|path| machine.disk.contents(path).unwrap());
    let mut flips = 0;
    for (number, known) in &known {
        let log = store.group(GroupId(*number)).unwrap();
        for (before, kept) in known.batches.iter().zip(known.batches.iter().skip(1)) {
            let (from, end) = (before.base_offset(), log.end_offset());
            for (byte, mask) in (0..24).flat_map(|byte| [(byte, 1), (byte, 4), (byte, 64)]) {
                if before.path != kept.path {
                    continue;
                }
                // The next read goes on where this one ends.
                assert_eq!(log.read(from, end, 1, true).unwrap(), before.bytes);
                machine
                    .disk
                    .rot(&kept.path, kept.position + byte, mask)
                    .unwrap();
                let read = log.read(kept.base_offset(), end, 1, true);
                assert!(
                    matches!(read, Err(StorageError::Corrupt { .. })),
                    "byte {byte}: {read:?}"
                );
                machine
                    .disk
                    .rot(&kept.path, kept.position + byte, mask)
                    .unwrap();
                flips += 1;
            }
        }
    }
    assert!(flips > 1_000, "{flips}");
}
