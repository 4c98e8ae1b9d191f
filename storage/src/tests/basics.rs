//! What a store promises when nothing fails.

use std::time::Instant;

use super::*;
use crate::Vote;

#[test]
fn an_empty_directory_is_founded_and_found_again() {
    let machine = Machine::new();
    let (store, report) = machine.open();
    assert_eq!(report.frames_replayed, 0);
    assert!(store.groups().is_empty());
    store.close().unwrap();
    drop(store);
    let (store, report) = machine.open();
    assert_eq!((report.frames_replayed, report.corrupt.len()), (0, 0));
    assert!(store.groups().is_empty());
}

#[test]
fn batches_are_stamped_and_read_back_byte_for_byte() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut expected = Vec::new();
    append(&log, vec![blank(id(3, 1))]);
    for n in 0..50 {
        let bytes = batch_of(3, 100, 5_000 + n);
        let header = BatchHeader::parse(&bytes).unwrap();
        expected.extend_from_slice(&header.stamp(n * 3, 3));
        expected.extend_from_slice(&bytes[16..]);
        let end = append(&log, vec![batch_entry(id(3, 2 + n as u64), bytes)]);
        assert_eq!(end, n * 3 + 3);
    }
    assert!(read_all(&log) == expected, "from memory and files");
    settle(&log);
    assert!(read_all(&log) == expected, "from files");
    let mut files = Vec::new();
    assert!(log.segments().len() > 3);
    for segment in log.segments() {
        files.extend_from_slice(&machine.disk.contents(&segment.path).unwrap());
    }
    assert!(
        files == expected,
        "segments are the stamped batches, nothing else"
    );
    store.close().unwrap();
    drop((store, log));
    let (store, report) = machine.open();
    assert_eq!(report.frames_replayed, 0, "a clean start replays nothing");
    let log = store.group(GroupId(1)).unwrap();
    assert!(read_all(&log) == expected, "after a restart");
    assert_eq!(log.epochs(), vec![(3, 0)]);
    let entries = log.entries(0..1000, usize::MAX, true).unwrap();
    assert_eq!(entries.len(), 51);
    assert_eq!(
        entries.iter().map(|e| e.id.index).collect::<Vec<_>>(),
        (1..=51).collect::<Vec<_>>()
    );
}

#[test]
fn the_disk_works_ahead_of_whoever_reads_on_where_a_read_ended() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    for n in 0..6 {
        append(&log, vec![batch_entry(id(1, n), batch_of(1, 200, 1_000))]);
    }
    settle(&log);
    let read = |from, max_bytes| log.read(from, 6, max_bytes, true).unwrap().len();
    let batch = read(0, 1);
    let segment = log.segments().remove(0);
    assert_eq!(segment.size_bytes, 6 * batch as u64);
    assert_eq!(machine.disk.take_read_ahead(), None, "perhaps it was all");
    let two = 2 * batch as u64;
    assert_eq!(read(1, 2 * batch), 2 * batch);
    let next = |from: u64| Some((segment.path.clone(), from..from + two));
    assert_eq!(machine.disk.take_read_ahead(), next(3 * batch as u64));
    assert_eq!(read(3, 2 * batch), 2 * batch);
    let (_, last) = machine.disk.take_read_ahead().unwrap();
    assert_eq!(
        last,
        5 * batch as u64..segment.size_bytes,
        "no further than there is"
    );
    assert_eq!(read(0, 2 * batch), 2 * batch);
    assert_eq!(machine.disk.take_read_ahead(), None, "it jumped back");
}

#[test]
fn entries_come_by_index_bounded_by_bytes() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let membership = Entry {
        id: id(1, 0),
        payload: Payload::Membership(Bytes::from_static(b"m")),
    };
    append(&log, vec![membership]);
    for index in 1..200 {
        let entry = match index % 5 {
            0 => blank(id(1, index)),
            1 => Entry {
                id: id(1, index),
                payload: Payload::Command(Bytes::from_static(b"cmd")),
            },
            _ => batch_entry(id(1, index), batch_of(1, 50, 1_000)),
        };
        append(&log, vec![entry]);
    }
    store.checkpoint().unwrap();
    for (range, count) in [
        (0..200, 200),
        (7..8, 1),
        (100..120, 20),
        (190..900, 10),
        (300..400, 0),
    ] {
        let with = log.entries(range.clone(), usize::MAX, true).unwrap();
        let without = log.entries(range.clone(), usize::MAX, false).unwrap();
        assert_eq!((with.len(), without.len()), (count, count), "{range:?}");
        for (a, b) in with.iter().zip(&without) {
            assert_eq!(a.id, b.id);
            if let (Payload::Batch(a), Payload::Batch(b)) = (&a.payload, &b.payload) {
                assert_eq!(a.header, b.header);
                assert_eq!(Some(a.header), BatchHeader::parse(&a.bytes));
                assert!(b.bytes.is_empty());
            }
        }
    }
    let one = log.entries(2..200, 1, true).unwrap();
    assert_eq!(one.len(), 1, "at least one");
    let some = log.entries(2..200, 500, true).unwrap();
    assert!(some.len() > 2 && some.len() < 20, "{}", some.len());
    assert_eq!(log.entry_id(200).unwrap(), None);
    assert_eq!(log.entry_id(199).unwrap(), Some(id(1, 199)));
    assert_eq!(log.membership_at(150).unwrap().unwrap().id, id(1, 0));
}

#[test]
fn truncation_takes_back_offsets_epochs_and_votes_stay() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let vote = Vote {
        term: 2,
        node: 7,
        committed: true,
    };
    wait(|done| log.save_vote(vote, done)).unwrap();
    for index in 1..=40 {
        append(
            &log,
            vec![batch_entry(
                id(1 + index / 20, index),
                batch_of(2, 200, 1_000),
            )],
        );
    }
    let before = read_all(&log);
    let segments = log.segments().len();
    wait(|done| log.truncate_after(Some(id(1, 10)), done)).unwrap();
    assert_eq!((log.end_offset(), log.epochs()), (20, vec![(1, 0)]));
    assert!(log.segments().len() < segments);
    assert!(read_all(&log) == before[..before.len() / 4]);
    append(&log, vec![batch_entry(id(9, 11), batch_of(1, 30, 2_000))]);
    assert_eq!(log.epochs(), vec![(1, 0), (9, 20)]);
    store.checkpoint().unwrap();
    wait(|done| log.truncate_after(None, done)).unwrap();
    assert_eq!((log.end_offset(), log.raft_state().last), (0, None));
    append(&log, vec![batch_entry(id(10, 1), batch_of(1, 30, 2_000))]);
    let expected = read_all(&log);
    drop((store, log));
    let machine = machine.killed();
    let (store, _) = machine.open();
    let log = store.group(GroupId(1)).unwrap();
    assert!(read_all(&log) == expected);
    assert_eq!(log.raft_state().vote, Some(vote));
    assert_eq!(log.segments().len(), 1);
}

#[test]
fn what_is_purged_and_below_the_start_is_unlinked() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    for index in 1..=60 {
        append(
            &log,
            vec![batch_entry(id(1, index), batch_of(2, 200, 1_000))],
        );
    }
    let segments = log.segments();
    let third = segments[2].base_offset;
    let last = log.last_entry_below(third).unwrap().unwrap();
    assert_eq!(last, id(1, third as u64 / 2));
    let middle = id(1, last.index + 1);
    let before = read_all(&log);
    wait(|done| log.purge(middle, done)).unwrap();
    assert_eq!(
        (log.start_offset(), log.entries_start_offset()),
        (0, third + 2)
    );
    assert!(read_all(&log) == before, "records outlive their entries");
    wait(|done| log.set_start_offset(third + 2, done)).unwrap();
    assert_eq!(log.start_offset(), third + 2);
    assert_eq!(log.segments().first().unwrap().base_offset, third);
    settle(&log);
    assert!(!machine.disk.contents(&segments[1].path).is_ok_and(|_| true));
    assert_eq!(log.raft_state().purged, Some(middle));
    assert!(log.entries(0..100, usize::MAX, true).unwrap()[0].id == id(1, middle.index + 1));
    assert!(matches!(
        log.read(third, 200, 100, true),
        Err(StorageError::OutOfRange { .. })
    ));
    wait(|done| log.set_start_offset(120, done)).unwrap();
    assert_eq!(
        log.segments().first().unwrap().base_offset,
        third,
        "Raft needs it"
    );
    wait(|done| log.purge(id(1, 60), done)).unwrap();
    assert_eq!(
        (log.start_offset(), log.end_offset(), log.size_bytes()),
        (120, 120, 0)
    );
    assert_eq!(log.raft_state().last, Some(id(1, 60)));
    append(&log, vec![batch_entry(id(2, 61), batch_of(2, 200, 1_000))]);
    store.close().unwrap();
    drop((store, log));
    let (store, _) = machine.open();
    let log = store.group(GroupId(1)).unwrap();
    assert_eq!((log.start_offset(), log.end_offset()), (120, 122));
    assert_eq!(log.entry_id(60).unwrap(), Some(id(1, 60)));
    assert_eq!(log.entry_id(59).unwrap(), None);
    wait(|done| log.purge(id(7, 1_000), done)).unwrap();
    assert_eq!(log.raft_state().last, Some(id(7, 1_000)));
    append(
        &log,
        vec![batch_entry(id(8, 1_001), batch_of(2, 200, 1_000))],
    );
    assert_eq!(log.end_offset(), 124);
}

#[test]
fn timestamps_are_found_to_the_record() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    // Ten records per batch, one ms apart, batches 100 ms apart; the 20th is the latest.
    for n in 0..40_u64 {
        let time = if n == 20 {
            900_000
        } else {
            10_000 + 100 * n as i64
        };
        append(&log, vec![batch_entry(id(4, n), batch_of(10, 20, time))]);
        if n == 30 {
            store.checkpoint().unwrap();
        }
    }
    let end = log.end_offset();
    let find = |timestamp, end| {
        log.offset_for_timestamp(timestamp, end)
            .unwrap()
            .map(|t| t.offset)
    };
    assert_eq!(find(0, end), Some(0));
    assert_eq!(find(10_005, end), Some(5));
    assert_eq!(find(10_010, end), Some(10));
    assert_eq!(find(11_903, end), Some(193));
    assert_eq!(
        find(12_100, end),
        Some(200),
        "the first in log order, not the nearest in time"
    );
    assert_eq!(find(900_009, end), Some(209));
    assert_eq!(find(900_010, end), None);
    assert_eq!(find(12_000, 200), None, "not beyond the bound");
    let max = log.max_timestamp(end).unwrap().unwrap();
    assert_eq!(
        (max.offset, max.timestamp, max.leader_epoch),
        (209, 900_009, 4)
    );
    assert_eq!(log.max_timestamp(200).unwrap().unwrap().offset, 199);
    assert_eq!(log.max_timestamp(0).unwrap(), None);
    wait(|done| log.set_start_offset(208, done)).unwrap();
    assert_eq!(log.max_timestamp(end).unwrap().unwrap().offset, 209);
    wait(|done| log.set_start_offset(210, done)).unwrap();
    assert_eq!(log.max_timestamp(end).unwrap().unwrap().offset, 399);
    assert_eq!(find(0, end), Some(210));
}

#[test]
fn bulk_goes_to_the_segment_and_survives_a_crash() {
    let mut machine = Machine::new();
    machine.options.checkpoint_bytes = 1 << 30;
    let (store, _) = machine.open();
    let log = group(&store, 1);
    for index in 1..=20 {
        append(
            &log,
            vec![batch_entry(id(1, index), batch_of(1, 30_000, index as i64))],
        );
        append(&log, vec![]);
    }
    let expected = read_all(&log);
    assert!(
        store.stats().journal_bytes < 200_000,
        "{}",
        store.stats().journal_bytes
    );
    drop((store, log));
    let machine = machine.crashed(3);
    let (store, report) = machine.open();
    assert!(report.corrupt.is_empty(), "{:?}", report.corrupt);
    assert!(read_all(&store.group(GroupId(1)).unwrap()) == expected);
}

#[test]
fn a_second_store_on_the_directory_is_refused() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    assert!(matches!(
        machine.try_open(),
        Err(crate::OpenError::Locked { .. })
    ));
    drop(store);
    machine.open();
}

#[test]
fn the_reserve_makes_the_store_unwritable_until_space_is_back() {
    let mut machine = Machine::new();
    machine.options.reserve_bytes = 10_000_000;
    let (store, _) = machine.open();
    assert!(store.writable());
    machine.disk.set_free(9_000_000);
    machine.clock.advance(Duration::from_secs(2));
    assert!(!store.writable());
    machine.disk.set_free(10_050_000);
    machine.clock.advance(Duration::from_secs(2));
    assert!(store.writable());
    let log = group(&store, 1);
    for index in 1..=10 {
        append(
            &log,
            vec![batch_entry(id(1, index), batch_of(1, 10_000, 1))],
        );
    }
    assert!(!store.writable(), "counted down before the next look");
}

#[test]
fn closing_refuses_what_comes_after() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    append(&log, vec![blank(id(1, 1))]);
    store.close().unwrap();
    let (done, result) = waiter();
    assert!(log.append(vec![blank(id(1, 2))], done).is_err());
    assert!(matches!(
        result.recv().unwrap(),
        Err(StorageError::Poisoned(_))
    ));
    assert!(store.create_group(GroupId(2), "g-2", settings()).is_err());
    store.close().unwrap();
}

#[test]
fn segments_roll_by_size_time_and_request() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let by_time = LogSettings {
        segment_ms: 1_000,
        ..LogSettings::default()
    };
    let log = store.create_group(GroupId(1), "t-1", by_time).unwrap();
    for (index, time) in [(1, 5_000), (2, 6_000), (3, 6_001), (4, 5_500)] {
        append(&log, vec![batch_entry(id(1, index), batch_of(1, 10, time))]);
    }
    let bases =
        |log: &GroupLog| -> Vec<i64> { log.segments().iter().map(|s| s.base_offset).collect() };
    assert_eq!(
        bases(&log),
        vec![0, 2],
        "more than a second after the first record"
    );
    wait(|done| log.roll(done)).unwrap();
    wait(|done| log.roll(done)).unwrap();
    assert_eq!(
        bases(&log),
        vec![0, 2, 4],
        "an empty segment is not rolled again"
    );
    log.set_settings(LogSettings {
        segment_bytes: 1_000,
        ..LogSettings::default()
    });
    for index in 5..=7 {
        append(
            &log,
            vec![batch_entry(id(1, index), batch_of(1, 600, 1_000))],
        );
    }
    assert_eq!(bases(&log), vec![0, 2, 4, 5, 6]);
    append(&log, vec![batch_entry(id(1, 8), batch_of(1, 5_000, 1_000))]);
    assert_eq!(
        bases(&log).last(),
        Some(&7),
        "one batch may be larger than a segment"
    );
    store.close().unwrap();
    drop((store, log));
    let (store, _) = machine.open();
    let log = store.group(GroupId(1)).unwrap();
    assert_eq!(bases(&log), vec![0, 2, 4, 5, 6, 7]);
    assert_eq!(log.settings().segment_bytes, 1_000);
}

#[test]
fn the_end_of_a_log_is_hot_and_its_past_is_not() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    for index in 1..=2_000 {
        let (done, _) = waiter();
        log.append(vec![batch_entry(id(1, index), batch_of(1, 100, 1))], done)
            .unwrap();
    }
    settle(&log);
    assert!(log.is_hot(2_000) && log.is_hot(1_990));
    assert!(!log.is_hot(0));
}

#[test]
fn a_checkpoint_comes_by_bytes_and_bounds_the_next_start() {
    let mut machine = Machine::new();
    machine.options.checkpoint_bytes = 100_000;
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let mut index = 0;
    for checkpoints in 1..=4 {
        // A block takes a page: a checkpoint is due after 25 of them.
        for _ in 0..30 {
            index += 1;
            append(&log, vec![batch_entry(id(1, index), batch_of(1, 100, 1))]);
        }
        while store.stats().checkpoints < checkpoints {
            std::thread::yield_now();
        }
    }
    let journal = crate::Disk::list(&machine.disk, &machine.path("journal")).unwrap();
    assert!(journal.len() <= 9, "files are used again: {journal:?}");
    let expected = read_all(&log);
    drop((store, log));
    let machine = machine.killed();
    let (store, report) = machine.open();
    assert!(report.frames_replayed < 100, "{report:?}");
    assert!(read_all(&store.group(GroupId(1)).unwrap()) == expected);
}

/// None of them lasts until a checkpoint is due by time, and each begins a file.
#[test]
fn starts_that_end_early_do_not_fill_the_disk_with_journal() {
    let mut machine = Machine::new();
    let files = |machine: &Machine| {
        let journal = machine.path("journal");
        crate::Disk::list(&machine.disk, &journal).unwrap().len()
    };
    for start in 1..=20 {
        let (store, _) = machine.open();
        let log = store.group(GroupId(1)).unwrap_or_else(|| group(&store, 1));
        append(&log, vec![batch_entry(id(1, start), batch_of(1, 100, 1))]);
        let (many, until) = (files(&machine) > 5, Instant::now() + Duration::from_secs(5));
        while many && store.stats().checkpoints == 0 && Instant::now() < until {
            std::thread::yield_now();
        }
        drop((store, log));
        machine = machine.killed();
    }
    let left = files(&machine);
    // Those that are replayed, and those that are kept to be used again.
    assert!(left <= 10, "{left} files");
    let (store, report) = machine.open();
    assert!(report.corrupt.is_empty(), "{report:?}");
    assert_eq!(store.group(GroupId(1)).unwrap().end_offset(), 20);
}

#[test]
fn a_completion_may_hold_the_last_handle() {
    let machine = Machine::new();
    for _ in 0..20 {
        let (store, _) = machine.open();
        let log = group(&store, 1);
        let last = log.raft_state().last.map_or(0, |last| last.index);
        let (told, heard) = channel();
        let handle = log.clone();
        let done = Box::new(move |result: Result<(), StorageError>| {
            drop(handle);
            told.send(result).unwrap();
        });
        drop(store);
        log.append(vec![blank(id(1, last + 1))], done).unwrap();
        drop(log);
        // Done, or not because the store went first: but told, and the directory is free again.
        let _ = heard.recv_timeout(Duration::from_secs(20)).unwrap();
        while matches!(machine.try_open(), Err(crate::OpenError::Locked { .. })) {}
    }
}

#[test]
fn small_batches_reach_their_segment_in_one_write() {
    let mut machine = Machine::new();
    machine.options.segment_delay = Duration::from_secs(3600);
    let (store, _) = machine.open();
    let log = group(&store, 1);
    settle(&log);
    let mut expected = Vec::new();
    for n in 0..20 {
        let bytes = batch_of(1, 50, 5_000 + n);
        let header = BatchHeader::parse(&bytes).unwrap();
        expected.extend_from_slice(&header.stamp(n, 3));
        expected.extend_from_slice(&bytes[16..]);
        append(&log, vec![batch_entry(id(3, 1 + n as u64), bytes)]);
    }
    let segment = log.segments()[0].path.clone();
    assert!(
        machine
            .disk
            .contents(&segment)
            .unwrap_or_default()
            .is_empty(),
        "nothing is in the segment yet"
    );
    assert!(read_all(&log) == expected, "from memory");
    let killed = machine.killed();
    let (found, report) = killed.open();
    assert!(report.corrupt.is_empty());
    let log = found.group(GroupId(1)).unwrap();
    assert!(read_all(&log) == expected, "from the journal");
    assert!(killed.disk.contents(&segment).unwrap() == expected);
}

/// Waits until the first segment's file is as long as wanted.
fn wait_for_segment(machine: &Machine, log: &GroupLog, is_long: impl Fn(usize) -> bool) {
    let segment = log.segments()[0].path.clone();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !is_long(machine.disk.contents(&segment).unwrap_or_default().len()) {
        assert!(std::time::Instant::now() < until, "still not written");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn small_batches_do_not_wait_for_more_forever() {
    let mut machine = Machine::new();
    machine.options.segment_delay = Duration::from_millis(5);
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let bytes = batch_of(1, 50, 5_000);
    append(&log, vec![batch_entry(id(3, 1), bytes.clone())]);
    wait_for_segment(&machine, &log, |written| written == bytes.len());
    // And at once when there is enough of them.
    let mut machine = Machine::new();
    machine.options.segment_delay = Duration::from_secs(3600);
    let (store, _) = machine.open();
    let log = group(&store, 1);
    let bytes = batch_of(1, 3000, 5_000);
    for n in 0..100 {
        append(&log, vec![batch_entry(id(3, 1 + n), bytes.clone())]);
    }
    wait_for_segment(&machine, &log, |written| written > 0);
}
