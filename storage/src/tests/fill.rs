//! Filling a log from another one's segments: it then is what the other one was at its purged
//! entry, and goes on like any log.

use super::compact::{check_files, compact, rules};
use super::model::Model;
use super::*;
use crate::{Fill, FillError, FillPlace, FillSource, Manifest, Vote};

/// Node whose files are copied.
pub(super) const SOURCE: u64 = 7;
/// Small, so that a segment takes several.
pub(super) const CHUNK: usize = 700;

/// Brings what a fill wants, until it wants nothing more or `pieces` were brought.
pub(super) fn bring(source: &FillSource, fill: &mut Fill, pieces: usize) -> Result<(), FillError> {
    for _ in 0..pieces {
        let Some(place) = fill.wanted() else { break };
        let chunk = source.read(place, CHUNK)?;
        let manifest = Manifest::decode(&source.manifest().encode()).unwrap();
        assert_eq!(&manifest, source.manifest());
        fill.write(place, &chunk.bytes)?;
    }
    Ok(())
}

/// Fills `to` from what `from` has purged.
pub(super) fn fill(from: &GroupLog, to: &GroupLog, done: Completion) -> Result<(), FillError> {
    let source = from.fill_source()?.expect("something is purged");
    let mut fill = to.begin_fill(SOURCE, source.manifest().clone(), None)?;
    bring(&source, &mut fill, usize::MAX)?;
    let (there, total) = fill.progress();
    assert_eq!(there, total);
    to.install(fill, done);
    Ok(())
}

/// What a log becomes that is filled from one which looks like `from`.
pub(super) fn filled(to: &Model, from: &Model) -> Model {
    Model {
        vote: to.vote,
        ..from.at_purged()
    }
}

/// A source of 30 batches in several segments, from two producers, purged up to `purged`.
fn source_log(store: &Store, purged: u64) -> GroupLog {
    let log = group(store, 1);
    for n in 1..=30 {
        let mut builder = BatchBuilder::new();
        if n % 3 == 0 {
            builder = builder.producer(n as i64 % 2, 0, (n as i32 - 1) / 6);
        }
        let value = vec![n as u8; 400];
        let record = NewRecord {
            timestamp: 1_000 + n as i64,
            value: Some(&value),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
        let entry = batch_entry(id(1 + n / 10, 2 * n), builder.build().unwrap());
        let plain = match n {
            5 => Payload::Membership(Bytes::from_static(b"members")),
            _ => Payload::Blank,
        };
        let plain = Entry {
            id: id(1 + n / 10, 2 * n - 1),
            payload: plain,
        };
        append(&log, vec![plain, entry]);
    }
    let upto = log.entry_id(purged).unwrap().unwrap();
    wait(|done| log.purge(upto, done)).unwrap();
    settle(&log);
    log
}

/// The filled log, group 2, is `expected` at a start after a power cut.
fn assert_survives_a_crash(machine: &Machine, seed: u64, expected: &Model) {
    let next = machine.crashed(seed);
    let (store, report) = next.open();
    assert!(report.corrupt.is_empty(), "{:?}", report.corrupt);
    assert_eq!(Model::of(&store.group(GroupId(2)).unwrap()), *expected);
}

#[test]
fn a_filled_log_is_the_source_at_its_purged_entry_whatever_happens_next() {
    for (purged, start) in [(2, 0), (21, 0), (40, 3), (45, 22), (60, 0), (60, 30)] {
        let machine = Machine::new();
        let (store, _) = machine.open();
        let source = source_log(&store, purged);
        wait(|done| source.set_start_offset(start, done)).unwrap();
        let log = group(&store, 2);
        append(&log, vec![batch_entry(id(1, 1), batch_of(2, 50, 1))]);
        let vote = Vote {
            term: 4,
            node: 9,
            committed: false,
        };
        wait(|done| log.save_vote(vote, done)).unwrap();
        wait(|done| fill(&source, &log, done).unwrap()).unwrap();
        let expected = filled(&Model::of(&log), &Model::of(&source));
        let check = |store: &Store| {
            let log = store.group(GroupId(2)).unwrap();
            assert_eq!(Model::of(&log), expected);
            assert_eq!(log.entries_start_offset(), expected.end);
            assert_eq!(log.raft_state().committed, log.raft_state().purged);
        };
        check(&store);
        // What was replaced goes behind the completion.
        settle(&log);
        check_files(&machine, &log);
        for seed in [None, Some(3)] {
            let next = seed.map_or_else(|| machine.killed(), |seed| machine.crashed(seed));
            let (store, report) = next.open();
            assert!(report.corrupt.is_empty(), "{:?}", report.corrupt);
            check(&store);
            store.checkpoint().unwrap();
            let next = next.crashed(5);
            drop(store);
            let (store, _) = next.open();
            check(&store);
            let log = store.group(GroupId(2)).unwrap();
            check_files(&next, &log);
            // It is a log like any other, and may be filled from in turn.
            let last = log.raft_state().last.unwrap();
            append(
                &log,
                vec![batch_entry(id(9, last.index + 1), batch_of(3, 900, 2))],
            );
            let third = group(&store, 3);
            wait(|done| fill(&log, &third, done).unwrap()).unwrap();
            let third = Model::of(&third);
            assert_eq!(
                third,
                Model {
                    vote: None,
                    ..expected.clone()
                }
            );
        }
    }
}

#[test]
fn lookups_find_what_was_brought_before_and_after_the_checkpoint() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let source = source_log(&store, 60);
    let log = group(&store, 2);
    // Rows of the index that must not be believed any more.
    for n in 1..=12 {
        append(&log, vec![batch_entry(id(1, n), batch_of(1, 300, 1))]);
    }
    store.checkpoint().unwrap();
    wait(|done| fill(&source, &log, done).unwrap()).unwrap();
    for round in 0..3 {
        for offset in 0..30 {
            let of = |log: &GroupLog| log.read(offset, 30, 1, true).unwrap();
            assert_eq!(of(&log), of(&source), "offset {offset}, round {round}");
            let at = |log: &GroupLog| log.offset_for_timestamp(1_000 + offset, i64::MAX);
            assert_eq!(at(&log).unwrap(), at(&source).unwrap());
        }
        if round == 0 {
            let last = log.raft_state().last.unwrap();
            append(
                &log,
                vec![batch_entry(id(5, last.index + 1), batch_of(1, 10, 1))],
            );
            wait(|done| log.truncate_after(Some(last), done)).unwrap();
            assert_eq!(
                log.producers().len(),
                2,
                "what a fill brought is not forgotten"
            );
        } else {
            store.checkpoint().unwrap();
        }
    }
}

#[test]
fn a_compacted_log_is_copied_as_it_is() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let source = group(&store, 1);
    for n in 1..=60 {
        let bytes = super::sweep::keyed(n, 200);
        append(&source, vec![batch_entry(id(1, n), bytes)]);
    }
    super::compact::seal(&source);
    compact(&source, &rules(&source, 5_000)).unwrap();
    let before = read_all(&source);
    let log = group(&store, 2);
    let copying = source.fill_source().unwrap().unwrap();
    assert!(
        compact(&source, &rules(&source, 5_000)).is_err(),
        "not while it is copied"
    );
    drop(copying);
    wait(|done| fill(&source, &log, done).unwrap()).unwrap();
    assert_eq!(read_all(&log), before);
    assert_eq!(log.compacted_offset(), source.compacted_offset());
    // And it is compacted in turn.
    append(
        &log,
        vec![batch_entry(id(2, 61), super::sweep::keyed(3, 100))],
    );
    super::compact::seal(&log);
    compact(&log, &rules(&log, 5_000)).unwrap();
    let live = Model::of(&log);
    assert_survives_a_crash(&machine, 4, &live);
}

#[test]
fn an_interrupted_fill_goes_on_and_one_that_is_given_up_leaves_nothing() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let (from, log) = (source_log(&store, 45), group(&store, 2));
    let files = |machine: &Machine| {
        let dir = machine.path("g-2");
        crate::Disk::list(&machine.disk, &dir).map_or(0, |entries| entries.len())
    };
    let source = from.fill_source().unwrap().unwrap();
    let mut fill = log
        .begin_fill(SOURCE, source.manifest().clone(), None)
        .unwrap();
    bring(&source, &mut fill, 11).unwrap();
    let (there, total) = fill.progress();
    assert!(0 < there && there < total);
    drop(source);
    // The source has purged more by then, and its active segment is longer.
    wait(|done| from.purge(from.entry_id(50).unwrap().unwrap(), done)).unwrap();
    let source = from.fill_source().unwrap().unwrap();
    let mut fill = log
        .begin_fill(SOURCE, source.manifest().clone(), Some(fill))
        .unwrap();
    assert_eq!(fill.progress().0, there, "all of it is of use");
    bring(&source, &mut fill, 3).unwrap();
    // Another node's files, which were never compacted, are the same.
    let there = fill.progress().0;
    let fill = log
        .begin_fill(SOURCE + 1, source.manifest().clone(), Some(fill))
        .unwrap();
    assert_eq!(fill.progress().0, there);
    assert!(files(&machine) > 0);

    // A crash leaves files that nothing refers to.
    let machine = machine.killed();
    drop((source, fill, from, log, store));
    assert!(files(&machine) > 0);
    let (store, _) = machine.open();
    assert_eq!(files(&machine), 0, "after a crash");

    let (from, log) = (
        store.group(GroupId(1)).unwrap(),
        store.group(GroupId(2)).unwrap(),
    );
    let source = from.fill_source().unwrap().unwrap();
    let manifest = source.manifest();
    let mut fill = log.begin_fill(SOURCE, manifest.clone(), None).unwrap();
    bring(&source, &mut fill, 5).unwrap();
    assert!(files(&machine) > 0);
    drop(fill);
    assert_eq!(files(&machine), 0, "given up");

    let mut fill = log.begin_fill(SOURCE, manifest.clone(), None).unwrap();
    bring(&source, &mut fill, 5).unwrap();
    store.close().unwrap();
    let machine = machine.killed();
    drop((source, fill, from, log, store));
    assert!(files(&machine) > 0);
    let _opened = machine.open();
    assert_eq!(files(&machine), 0, "closed with a fill under way");
}

#[test]
fn fills_share_the_space_that_is_free_and_leave_the_reserve() {
    const RESERVE: u64 = 1 << 20;
    let mut machine = Machine::new();
    machine.options.reserve_bytes = RESERVE;
    let (store, _) = machine.open();
    let (from, first, second) = (source_log(&store, 45), group(&store, 2), group(&store, 3));
    settle(&second);
    let source = from.fill_source().unwrap().unwrap();
    let manifest = source.manifest();
    let total = manifest.total_bytes();
    machine.disk.set_free(RESERVE + total + total / 2);
    let mut fill = first.begin_fill(SOURCE, manifest.clone(), None).unwrap();
    let refused = |log: &GroupLog| match log.begin_fill(SOURCE, manifest.clone(), None) {
        Err(FillError::NoSpace { needed, .. }) => needed == total,
        Ok(_) | Err(_) => false,
    };
    assert!(refused(&second), "the first one needs it");
    bring(&source, &mut fill, 5).unwrap();
    let there = fill.progress().0;
    assert!(refused(&second), "half of it is written, half to come");

    // Somebody else takes what was to be left.
    machine.disk.set_free(RESERVE / 2);
    machine.clock.advance(Duration::from_secs(2));
    match bring(&source, &mut fill, 1) {
        Err(FillError::NoSpace { needed, .. }) => assert_eq!(needed, total - there),
        other => panic!("{other:?}"),
    }
    // Nor is what was begun given up when it is begun again.
    let mut fill = first
        .begin_fill(SOURCE, manifest.clone(), Some(fill))
        .unwrap();
    assert_eq!(fill.progress().0, there);
    machine.disk.set_free(RESERVE * 2);
    machine.clock.advance(Duration::from_secs(2));
    bring(&source, &mut fill, 1).unwrap();
    machine.disk.set_free(RESERVE + total + total / 2);
    drop(fill);
    let mut fill = second.begin_fill(SOURCE, manifest.clone(), None).unwrap();
    bring(&source, &mut fill, usize::MAX).unwrap();
    wait(|done| second.install(fill, done)).unwrap();
    let nothing_is_booked = first.begin_fill(SOURCE, manifest.clone(), None);
    assert!(nothing_is_booked.is_err(), "less than that is free now");
    machine.disk.set_free(RESERVE + total);
    first.begin_fill(SOURCE, manifest.clone(), None).unwrap();
}

#[test]
fn nothing_wrong_is_taken() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let (from, log) = (source_log(&store, 60), group(&store, 2));
    let source = from.fill_source().unwrap().unwrap();
    let mut fill = log
        .begin_fill(SOURCE, source.manifest().clone(), None)
        .unwrap();
    let place = fill.wanted().unwrap();
    let chunk = source.read(place, CHUNK).unwrap().bytes;
    let refused = |fill: &mut Fill, place, bytes: &[u8]| {
        let taken = fill.write(place, bytes);
        assert!(matches!(taken, Err(FillError::Refused(_))), "{taken:?}");
    };
    for at in 0..chunk.len() {
        let mut flipped = chunk.to_vec();
        flipped[at] ^= 1 << (at % 8);
        refused(&mut fill, place, &flipped);
    }
    refused(&mut fill, place, &chunk[..chunk.len() - 1]);
    refused(&mut fill, place, &[]);
    let next = source.read(place, CHUNK).unwrap().next.unwrap();
    let other = source.read(next, CHUNK).unwrap().bytes;
    refused(&mut fill, place, &other);
    refused(&mut fill, next, &other);
    fill.write(place, &chunk).unwrap();
    refused(&mut fill, place, &chunk);
    // Half of it is not to be installed, and nowhere is a place to read from.
    let incomplete = wait(|done| log.install(fill, done));
    assert!(matches!(incomplete, Err(StorageError::Io(_))));
    let nowhere = FillPlace {
        segment: 99,
        ..place
    };
    assert!(matches!(
        source.read(nowhere, CHUNK),
        Err(FillError::Refused(_))
    ));
    assert_eq!(Model::of(&log), Model::default());
}

#[test]
fn a_log_that_holds_more_is_left_as_it_is() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let (from, log) = (source_log(&store, 21), group(&store, 2));
    assert!(log.fill_source().unwrap().is_none(), "nothing is purged");
    let source = from.fill_source().unwrap().unwrap();
    let mut fill = log
        .begin_fill(SOURCE, source.manifest().clone(), None)
        .unwrap();
    bring(&source, &mut fill, usize::MAX).unwrap();
    // Its leader has sent entries meanwhile.
    append(&log, vec![batch_entry(id(3, 21), batch_of(1, 10, 1))]);
    let live = Model::of(&log);
    let installed = wait(|done| log.install(fill, done));
    assert!(
        matches!(installed, Err(StorageError::Io(_))),
        "{installed:?}"
    );
    assert_eq!(Model::of(&log), live);
    settle(&log);
    check_files(&machine, &log);
    // Entries that contradict the source's are truncated, and then it is filled.
    let mut fill = log
        .begin_fill(SOURCE, source.manifest().clone(), None)
        .unwrap();
    bring(&source, &mut fill, usize::MAX).unwrap();
    wait(|done| log.truncate_after(None, done)).unwrap();
    wait(|done| log.install(fill, done)).unwrap();
    assert_eq!(Model::of(&log), filled(&live, &Model::of(&from)));
    let late = log.begin_fill(SOURCE, source.manifest().clone(), None);
    assert!(matches!(late, Err(FillError::Refused(_))));
    let expected = filled(&live, &Model::of(&from));
    assert_survives_a_crash(&machine, 8, &expected);
}

#[test]
fn retention_ends_a_copy_and_the_next_one_has_fewer_files() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let (from, log) = (source_log(&store, 60), group(&store, 2));
    let source = from.fill_source().unwrap().unwrap();
    let mut fill = log
        .begin_fill(SOURCE, source.manifest().clone(), None)
        .unwrap();
    bring(&source, &mut fill, 2).unwrap();
    wait(|done| from.set_start_offset(20, done)).unwrap();
    settle(&from);
    let ended = bring(&source, &mut fill, usize::MAX);
    assert!(matches!(ended, Err(FillError::Changed)), "{ended:?}");
    let again = from.fill_source().unwrap().unwrap();
    let mut fill = log
        .begin_fill(SOURCE, again.manifest().clone(), Some(fill))
        .unwrap();
    bring(&again, &mut fill, usize::MAX).unwrap();
    wait(|done| log.install(fill, done)).unwrap();
    assert_eq!(
        Model::of(&log),
        filled(&Model::default(), &Model::of(&from))
    );
    assert_eq!(store.stats().corruptions, 0);
    check_files(&machine, &log);
}
