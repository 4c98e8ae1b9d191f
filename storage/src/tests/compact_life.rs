//! Compaction in the life of a log: cut off at any step, among all else that happens to it, and
//! beside readers and writers.

use proptest::prelude::*;

use super::compact::{
    DAY_MS, Written, check_files, check_lookups, compact, records_of, rules, seal,
};
use super::model::split;
use super::*;
use crate::CompactionRules;
use crate::disk::{Fault, FaultRule, Operation};
use crate::segment::SegmentFile;

/// A store with a log that may be compacted, all but its empty last segment.
fn sealed(machine: &Machine, seed: u64) -> (Store, GroupLog, Written) {
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut written = Written::new(seed);
    (0..120).for_each(|_| written.append(&log));
    seal(&log);
    (store, log, written)
}

/// Stops the machine at every operation of a pass and of the checkpoint after it, and at some of
/// the recovery.
#[test]
fn a_pass_may_be_cut_off_anywhere() {
    let mut steps = 0;
    for seed in 0.. {
        let machine = Machine::new();
        let (store, log, mut written) = sealed(&machine, 9);
        if seed % 2 == 0 {
            store.checkpoint().unwrap();
        }
        machine
            .disk
            .inject(FaultRule::new(Fault::PowerOff).after(seed / 2));
        let rules = rules(&log, 5_000);
        let done = compact(&log, &rules).is_ok() && store.checkpoint().is_ok();
        let mut after = machine.crashed(seed);
        drop((store, log));
        if seed % 3 == 0 {
            after
                .disk
                .inject(FaultRule::new(Fault::PowerOff).after(seed % 29));
            drop(after.try_open());
            after = after.crashed(seed + 1);
        }
        let (store, report) = after.open();
        assert!(
            report.corrupt.is_empty(),
            "step {seed}: {:?}",
            report.corrupt
        );
        let log = store.group(GroupId(1)).unwrap();
        written.check(&log);
        check_lookups(&log);
        check_files(&after, &log);
        compact(&log, &rules).unwrap();
        (0..5).for_each(|_| written.append(&log));
        written.check(&log);
        steps += 1;
        if done {
            break;
        }
    }
    assert!(steps > 20, "{steps} steps");
}

/// The sync of the journal fails, and the frame that puts the new file in place is there all the
/// same: the next start follows it, so the file has to be there too.
#[test]
fn a_frame_of_unknown_outcome_keeps_its_file() {
    for (seed, syncs) in [(0, 0), (1, 0), (2, 1), (3, 2)] {
        let machine = Machine::new();
        let (store, log, written) = sealed(&machine, 9);
        let fault = FaultRule::new(Fault::EioDone)
            .on(Operation::Sync)
            .path("journal");
        machine.disk.inject(fault.after(syncs));
        let rules = rules(&log, 5_000);
        assert!((0..5).any(|_| compact(&log, &rules).is_err()));
        drop(compact(&log, &rules));
        drop((store, log));
        let after = match seed % 2 {
            0 => machine.killed(),
            _ => machine.crashed(seed),
        };
        let (store, report) = after.open();
        assert!(report.corrupt.is_empty(), "{seed}: {:?}", report.corrupt);
        let log = store.group(GroupId(1)).unwrap();
        written.check(&log);
        check_files(&after, &log);
        compact(&log, &rules).unwrap();
        written.check(&log);
    }
}

/// The compacted file is lost before its sources were removed: that is said, and the sources stay.
#[test]
fn sources_outlive_a_compacted_file_that_is_lost() {
    let machine = Machine::new();
    let (store, log, _) = sealed(&machine, 9);
    let fault = FaultRule::new(Fault::EioDone).on(Operation::Sync);
    machine.disk.inject(fault.path("journal"));
    let _failed = compact(&log, &rules(&log, 5_000));
    drop((store, log.clone()));
    let after = machine.killed();
    let names = || -> Vec<String> {
        let listed = crate::Disk::list(&after.disk, &log.dir()).unwrap();
        listed.into_iter().map(|entry| entry.name).collect()
    };
    let before = names();
    let is_compacted =
        |name: &String| SegmentFile::of_name(name).is_some_and(|file| file.is_compacted());
    let (made, sources): (Vec<_>, Vec<_>) = before.iter().partition(|name| is_compacted(name));
    assert_eq!(made.len(), 1, "{before:?}");
    crate::Disk::remove_file(&after.disk, &log.dir().join(made[0])).unwrap();
    let (store, report) = after.open();
    assert_eq!(report.corrupt.len(), 1, "{:?}", report.corrupt);
    drop(store);
    let left = names();
    assert!(sources.iter().all(|name| left.contains(name)), "{left:?}");
}

/// A lookup by time chose its segments, and they are merged before it reads them.
#[test]
fn a_merge_does_not_hide_records_from_a_lookup_by_time() {
    let machine = Machine::new();
    let (_store, log, mut written) = sealed(&machine, 11);
    compact(&log, &rules(&log, 5_000)).unwrap();
    (0..80).for_each(|_| written.append(&log));
    seal(&log);
    let end = log.end_offset();
    let chosen = log.log.candidates(end);
    let segments = log.segments().len();
    compact(&log, &rules(&log, 5_000)).unwrap();
    assert!(log.segments().len() < segments, "nothing was merged");
    let records: Vec<_> = split(&read_all(&log)).iter().flat_map(records_of).collect();
    for record in records.iter().filter(|record| record.offset < end) {
        let by_time = |segment| {
            let found = log
                .log
                .first_in(log.shared(), segment, record.timestamp, 0, end);
            found.ok().flatten().map(|found| found.offset)
        };
        let found = chosen.iter().find_map(by_time);
        assert!(
            found.is_some_and(|offset| offset <= record.offset),
            "{found:?} for {}",
            record.offset
        );
    }
}

fn any_life(seed: u64) {
    let mut machine = Machine::new();
    machine.options.checkpoint_bytes = 64 * 1024;
    let (mut store, _) = machine.open();
    let mut log = group(&store, 1);
    let mut written = Written::new(seed);
    let mut now = 5_000;
    for _ in 0..60 {
        match written.chance.below(14) {
            0 if log.raft_state().last.is_some() => seal(&log),
            1 | 2 if log.raft_state().last.is_some() => {
                seal(&log);
                now += written.chance.below(2 * DAY_MS) as i64;
                let rules = CompactionRules {
                    map_bytes: 24 * (3 + written.chance.below(40) as usize),
                    upto_offset: log.end_offset() - written.chance.below(50) as i64,
                    io_buffer_bytes: 64 << written.chance.below(12),
                    ..rules(&log, now)
                };
                compact(&log, &rules).unwrap();
                written.check(&log);
            }
            3 => store.checkpoint().unwrap(),
            4 => {
                drop((store, log));
                machine = match written.chance.below(3) {
                    0 => machine.killed(),
                    n => machine.crashed(n),
                };
                let (opened, report) = machine.open();
                assert!(report.corrupt.is_empty(), "{:?}", report.corrupt);
                store = opened;
                log = store.group(GroupId(1)).unwrap_or_else(|| group(&store, 1));
                written.check(&log);
                check_files(&machine, &log);
            }
            5 if written.chance.one_in(3) => {
                let (start, end) = (log.start_offset(), log.end_offset());
                let to = start + written.chance.below((end - start) as u64 / 2 + 1) as i64;
                wait(|done| log.set_start_offset(to, done)).unwrap();
            }
            _ => (0..written.chance.below(9)).for_each(|_| written.append(&log)),
        }
    }
    written.check(&log);
    settle(&log);
    check_lookups(&log);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_the_newest_values_stay(seed in any::<u64>()) {
        any_life(seed);
    }
}

/// Appends and reads go on during passes, and always see a log that is whole.
#[test]
fn appends_and_reads_go_on_during_passes() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut written = Written::new(11);
    (0..100).for_each(|_| written.append(&log));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (reader, stop) = (log.clone(), &stop);
        scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                // Whatever a reader misses was superseded while it read.
                let mut from = 0;
                while from < reader.end_offset() {
                    let read = reader.read(from, i64::MAX, 2_000, true).unwrap();
                    for batch in split(&read) {
                        records_of(&batch);
                        let header = BatchHeader::parse(&batch).unwrap();
                        assert!(header.last_offset() >= from);
                        from = header.next_offset();
                    }
                }
                reader.max_timestamp(reader.end_offset()).unwrap();
            }
        });
        let cleaner = log.clone();
        let shared = store.clone();
        scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let sealed = cleaner
                    .segments()
                    .iter()
                    .rev()
                    .nth(1)
                    .map(|s| s.next_offset);
                let upto = sealed.and_then(|end| cleaner.last_entry_below(end).unwrap());
                if let Some(upto) = upto {
                    wait(|done| cleaner.purge(upto, done)).unwrap();
                }
                cleaner
                    .compact(&rules(&cleaner, 5_000), &mut |_| true)
                    .unwrap();
                shared.checkpoint().unwrap();
            }
        });
        (0..1_500).for_each(|_| written.append(&log));
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    written.check(&log);
    check_lookups(&log);
    assert!(log.compacted_offset() > 0);
}
