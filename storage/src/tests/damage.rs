//! Damage is told from a torn tail, named, and never cut off (R7, R8).

use super::*;
use crate::OpenError;
use crate::disk::{Fault, FaultRule, Operation};

/// A log with twenty small batches, one journal block each.
fn machine_with_blocks() -> (Machine, Vec<u8>) {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    settle(&log);
    for index in 1..=20 {
        append(
            &log,
            vec![batch_entry(id(1, index), batch_of(1, 100, 1_000))],
        );
    }
    let expected = read_all(&log);
    drop((store, log));
    (machine.killed(), expected)
}

fn journal(machine: &Machine) -> PathBuf {
    machine.path("journal/00000000000000000001.wal")
}

#[test]
fn a_torn_last_block_is_cut_and_said() {
    let (machine, expected) = machine_with_blocks();
    // Blocks take a page each: creation, then twenty appends.
    machine
        .disk
        .rot(&journal(&machine), 20 * 4096 + 200, 0xff)
        .unwrap();
    let (store, report) = machine.open();
    assert!(
        report.torn_tail_bytes > 0 && report.corrupt.is_empty(),
        "{report:?}"
    );
    let log = store.group(GroupId(1)).unwrap();
    assert_eq!(log.end_offset(), 19);
    assert!(read_all(&log)[..] == expected[..expected.len() * 19 / 20]);
    append(&log, vec![batch_entry(id(2, 20), batch_of(1, 100, 1_000))]);
    drop((store, log));
    // The torn block is still there, with its number taken by the block after it.
    let machine = machine.killed();
    let (store, report) = machine.open();
    assert!(report.corrupt.is_empty(), "{report:?}");
    assert_eq!(store.group(GroupId(1)).unwrap().end_offset(), 20);
}

#[test]
fn a_frame_that_is_damaged_twice_quarantines_its_group_and_no_other() {
    // In the payload, and in the header, where only the block's table knows whose it was.
    for within in [48 + 90, 9] {
        frame_damaged_twice(within);
    }
}

fn frame_damaged_twice(within: usize) {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let (a, b) = (group(&store, 1), group(&store, 2));
    for index in 1..=5 {
        append(&a, vec![batch_entry(id(1, index), batch_of(1, 100, 1_000))]);
        append(&b, vec![batch_entry(id(1, index), batch_of(1, 100, 1_000))]);
    }
    let expected = read_all(&b);
    drop((store, a, b));
    let machine = machine.killed();
    // The sixth block or so holds the third batch of the first group, twice. A bit flips in each.
    let contents = machine.disk.contents(&journal(&machine)).unwrap();
    let blocks = contents.len() / 4096;
    let holds = |block: &usize| {
        let frame = &contents[block * 4096 + 48..][..48];
        frame[0] == 1 && frame[8] == 1 && frame[24] == 3
    };
    let first = (0..blocks).find(holds).unwrap() * 4096 + 48;
    let len = u32::from_le_bytes(contents[first + 4..first + 8].try_into().unwrap());
    let second = first + 48 + len as usize;
    for at in [first + within, second + within] {
        machine.disk.rot(&journal(&machine), at as u64, 4).unwrap();
    }
    for _ in 0..2 {
        let (store, report) = machine.open();
        let log = store.group(GroupId(1)).unwrap();
        assert!(
            matches!(log.quarantine(), Some(StorageError::Corrupt { .. })),
            "{report:?}"
        );
        assert!(wait(|done| log.truncate_after(None, done)).is_err());
        let other = store.group(GroupId(2)).unwrap();
        assert!(other.quarantine().is_none());
        assert!(read_all(&other) == expected);
        // The quarantine outlives the journal that tells of it.
        store.close().unwrap();
    }
    let (store, _) = machine.open();
    let known: Vec<GroupId> = store.damaged().into_iter().map(|known| known.0).collect();
    assert_eq!(known, [GroupId(1)]);
    wait(|done| store.delete_group(GroupId(1), done)).unwrap();
    assert!(store.damaged().is_empty());
    drop(store);
    let machine = machine.killed();
    let (store, _) = machine.open();
    assert_eq!(store.groups(), vec![GroupId(2)]);
    // Another log may have its id, and is whole.
    store.release_id(GroupId(1)).unwrap();
    let anew = store.create_group(GroupId(1), "g-1.1", settings()).unwrap();
    append(&anew, vec![batch_entry(id(2, 1), batch_of(1, 100, 1_000))]);
    drop((store, anew));
    let machine = machine.crashed(1);
    let (store, report) = machine.open();
    assert!(report.corrupt.is_empty(), "{report:?}");
    assert_eq!(store.group(GroupId(1)).unwrap().end_offset(), 1);
    assert!(store.damaged().is_empty());
}

#[test]
fn damage_that_could_have_hit_anyone_keeps_the_store_shut() {
    let (machine, _) = machine_with_blocks();
    // The header of a block, and the trailer that has the same.
    let places = [7 * 4096 + 3, 8 * 4096 - 48 + 3];
    let flip = |at| machine.disk.rot(&journal(&machine), at, 1).unwrap();
    places.into_iter().for_each(flip);
    let Err(OpenError::Failed { what, cause }) = machine.try_open() else {
        panic!("opened")
    };
    assert!(
        what.contains("damaged") && cause.contains("28672"),
        "{what}: {cause}"
    );
    places.into_iter().for_each(flip);
    assert_eq!(
        machine.open().0.group(GroupId(1)).unwrap().end_offset(),
        20,
        "nothing was cut"
    );
}

#[test]
fn a_flipped_bit_in_a_block_with_room_costs_nothing() {
    let (machine, expected) = machine_with_blocks();
    let block = 7 * 4096;
    for at in [3, 40, 48 + 3, 48 + 9, 96 + 20, 96 + 80] {
        let machine = machine.killed();
        machine.disk.rot(&journal(&machine), block + at, 1).unwrap();
        let (store, report) = machine.open();
        assert_eq!(
            (report.corrupt.len(), report.torn_tail_bytes),
            (1, 0),
            "{report:?}"
        );
        let text = &report.corrupt[0];
        assert!(text.contains("1.wal") && text.contains("28672"), "{text}");
        assert_eq!(store.stats().corruptions, 1);
        assert!(read_all(&store.group(GroupId(1)).unwrap()) == expected);
    }
}

#[test]
fn a_lost_index_or_format_is_never_taken_for_an_empty_store() {
    let (mut machine, expected) = machine_with_blocks();
    let index = machine.indexes.clone();
    machine.indexes = MemoryIndexStore::on(machine.disk.clone());
    let Err(error) = machine.try_open() else {
        panic!("opened")
    };
    assert!(error.to_string().contains("index"), "{error}");
    machine.indexes = index;
    assert!(read_all(&machine.open().0.group(GroupId(1)).unwrap()) == expected);
    crate::Disk::remove_file(&machine.disk, &machine.path("klamm.format")).unwrap();
    let Err(error) = machine.try_open() else {
        panic!("opened")
    };
    assert!(error.to_string().contains("klamm.format"), "{error}");
}

/// One file of a newer program is enough, for it may have ended between the two; a version that only looks newer, since
/// its file is rotten, is not.
#[test]
fn a_newer_format_is_left_alone() {
    for (name, other) in [
        ("klamm.format", "klamm.format.copy"),
        ("klamm.format.copy", "klamm.format"),
    ] {
        let (machine, expected) = machine_with_blocks();
        let [path, other] = [name, other].map(|name| machine.path(name));
        let text = String::from_utf8(machine.disk.contents(&path).unwrap()).unwrap();
        assert_eq!(machine.disk.contents(&other).unwrap(), text.as_bytes());
        let (before, _) = text.split_once("crc=").unwrap();
        let before = before.replace("version=1", "version=7");
        let newer = format!("{before}crc={:08x}\n", crc32c::crc32c(before.as_bytes()));
        let file = crate::Disk::open(&machine.disk, &path, crate::OpenMode::ReadWrite).unwrap();
        file.write_at(&[std::io::IoSlice::new(newer.as_bytes())], 0)
            .unwrap();
        let error = machine.try_open().map(drop).unwrap_err();
        let as_told = matches!(
            error,
            OpenError::NewerFormat {
                found: 7,
                known: 1,
                ..
            }
        );
        assert!(as_told, "{name}: {error}");
        assert_eq!(machine.disk.contents(&path).unwrap(), newer.as_bytes());

        file.write_at(&[std::io::IoSlice::new(text.as_bytes())], 0)
            .unwrap();
        machine.disk.rot(&path, 8, b'1' ^ b'7').unwrap();
        assert!(read_all(&machine.open().0.group(GroupId(1)).unwrap()) == expected);
        assert_eq!(machine.disk.contents(&path).unwrap(), text.as_bytes());
    }
}

#[test]
fn a_rotten_segment_is_quarantined_by_range() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    for index in 1..=60 {
        append(
            &log,
            vec![batch_entry(id(1, index), batch_of(1, 200, 1_000))],
        );
    }
    store.checkpoint().unwrap();
    let segments = log.segments();
    let (before, rotten) = (segments[0].clone(), segments[1].clone());
    machine.disk.rot(&rotten.path, 100, 1).unwrap();
    for _ in 0..3 {
        let error = log.read(rotten.base_offset, 60, 10_000, true).unwrap_err();
        assert!(
            matches!(&error, StorageError::Corrupt { file, position: 0, .. } if *file == rotten.path),
            "{error}"
        );
    }
    assert_eq!(store.stats().corruptions, 1, "one place, counted once");
    assert!(
        !log.read(before.base_offset, 60, 10_000, true)
            .unwrap()
            .is_empty()
    );
    assert!(
        !log.read(rotten.base_offset + 1, 60, 10_000, true)
            .unwrap()
            .is_empty()
    );
    assert!(log.entries(1..61, usize::MAX, true).is_err());
    assert_eq!(
        log.entries(1..61, usize::MAX, false).unwrap().len(),
        60,
        "headers are whole"
    );
    // Damage behind whole batches ends a read before it.
    machine.disk.rot(&rotten.path, 100, 1).unwrap();
    let second = BatchHeader::parse(&log.read(rotten.base_offset, 60, 1, true).unwrap()).unwrap();
    let len = second.total_len().unwrap() as u64;
    machine.disk.rot(&rotten.path, len + 100, 1).unwrap();
    let some = log.read(rotten.base_offset, 60, 10_000, true).unwrap();
    assert_eq!(some.len() as u64, len);
    // What is known of it is forgotten with the segment.
    let known = store.damaged();
    assert!(
        known.len() == 1 && known[0].1.contains(&*rotten.path.to_string_lossy()),
        "{known:?}"
    );
    wait(|done| log.purge(id(1, 60), done)).unwrap();
    wait(|done| log.set_start_offset(60, done)).unwrap();
    assert!(store.damaged().is_empty());
}

#[test]
fn a_segment_that_lost_its_end_is_reported_and_kept() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    for index in 1..=5 {
        append(
            &log,
            vec![batch_entry(id(1, index), batch_of(1, 200, 1_000))],
        );
    }
    store.checkpoint().unwrap();
    let path = log.segments()[0].path.clone();
    drop((store, log));
    let machine = machine.killed();
    let file = crate::Disk::open(&machine.disk, &path, crate::OpenMode::ReadWrite).unwrap();
    file.set_len(300).unwrap();
    let (store, report) = machine.open();
    assert_eq!(report.corrupt.len(), 1, "{report:?}");
    let log = store.group(GroupId(1)).unwrap();
    assert_eq!(log.end_offset(), 5);
    assert!(!log.read(0, 5, 100, true).unwrap().is_empty());
    assert!(matches!(
        log.read(3, 5, 100, true),
        Err(StorageError::Corrupt { .. })
    ));
}

#[test]
fn the_first_failed_sync_stops_the_store_and_is_told_once() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    let log = group(&store, 1);
    append(&log, vec![blank(id(1, 1))]);
    let (told, heard) = channel();
    store.on_failure(Box::new(move |error| told.send(error.clone()).unwrap()));
    machine
        .disk
        .inject(FaultRule::new(Fault::Eio).on(Operation::Sync));
    let (done, result) = waiter();
    let _ = log.append(vec![blank(id(1, 2))], done);
    assert!(matches!(
        result.recv().unwrap(),
        Err(StorageError::Poisoned(_))
    ));
    assert!(matches!(heard.recv().unwrap(), StorageError::Poisoned(_)));
    // The disk works again, but nothing is retried.
    let (done, result) = waiter();
    assert!(log.append(vec![blank(id(1, 3))], done).is_err());
    assert!(matches!(
        result.recv().unwrap(),
        Err(StorageError::Poisoned(_))
    ));
    assert!(store.checkpoint().is_err());
    assert!(store.failure().is_some() && store.close().is_err());
    assert!(heard.try_recv().is_err());
    let (told, heard) = channel();
    store.on_failure(Box::new(move |error| told.send(error.clone()).unwrap()));
    assert!(heard.recv().is_ok(), "a late listener hears it at once");
    drop((store, log));
    let machine = machine.killed();
    let (store, _) = machine.open();
    assert_eq!(
        store.group(GroupId(1)).unwrap().entry_id(1).unwrap(),
        Some(id(1, 1))
    );
}
