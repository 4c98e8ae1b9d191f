#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::*;

const SEEDS: u64 = 200;

fn disk_with_dir() -> FaultDisk {
    let disk = FaultDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn write(disk: &FaultDisk, path: &str, bytes: &[u8], position: u64) -> io::Result<()> {
    disk.open(Path::new(path), OpenMode::Create)?
        .write_at(&[IoSlice::new(bytes)], position)
}

fn sync(disk: &FaultDisk, path: &str) -> io::Result<()> {
    disk.open(Path::new(path), OpenMode::ReadWrite)?.sync_data()
}

fn names(disk: &FaultDisk, dir: &str) -> Vec<String> {
    disk.list(Path::new(dir))
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect()
}

/// A durable file /d/f of `len` bytes of value 1.
fn durable_file(len: usize) -> FaultDisk {
    let disk = disk_with_dir();
    write(&disk, "/d/f", &vec![1; len], 0).unwrap();
    sync(&disk, "/d/f").unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk
}

fn bytes(disk: &FaultDisk) -> Vec<u8> {
    disk.contents(Path::new("/d/f")).unwrap()
}

#[test]
fn synced_bytes_survive_every_crash() {
    for seed in 0..SEEDS {
        let disk = durable_file(2_000);
        write(&disk, "/d/f", &[2; 100], 2_000).unwrap();
        sync(&disk, "/d/f").unwrap();
        let found = bytes(&disk.crash(seed));
        assert_eq!(
            found,
            [vec![1; 2_000], vec![2; 100]].concat(),
            "seed {seed}"
        );
    }
}

#[test]
fn unsynced_bytes_are_kept_torn_or_lost_by_sector() {
    let (mut kept, mut torn, mut lost) = (0, 0, 0);
    for seed in 0..SEEDS {
        let disk = durable_file(2_048);
        write(&disk, "/d/f", &[2; 1_024], 512).unwrap();
        let found = bytes(&disk.crash(seed));
        assert_eq!(found.len(), 2_048);
        assert!(
            found[..512]
                .iter()
                .chain(&found[1_536..])
                .all(|&byte| byte == 1)
        );
        for sector in [&found[512..1_024], &found[1_024..1_536]] {
            assert!(
                sector.iter().all(|&byte| byte == sector[0]),
                "a sector is never torn"
            );
        }
        match [found[512], found[1_024]] {
            [2, 2] => kept += 1,
            [1, 1] => lost += 1,
            _ => torn += 1,
        }
    }
    assert!(
        kept > 20 && torn > 20 && lost > 20,
        "kept {kept}, torn {torn}, lost {lost}"
    );
}

#[test]
fn an_appended_tail_may_have_any_length_and_holes() {
    let mut lengths = BTreeSet::new();
    let mut holes = 0;
    for seed in 0..SEEDS {
        let disk = durable_file(100);
        write(&disk, "/d/f", &[2; 3_000], 100).unwrap();
        let found = bytes(&disk.crash(seed));
        assert!((100..=3_100).contains(&found.len()));
        assert!(found[..100].iter().all(|&byte| byte == 1));
        let first_zero = found.iter().position(|&byte| byte == 0);
        let last_written = found.iter().rposition(|&byte| byte == 2);
        holes += usize::from(first_zero.is_some() && first_zero < last_written);
        lengths.insert(found.len());
    }
    assert!(
        lengths.len() > 10 && holes > 10,
        "{} lengths, {holes} holes",
        lengths.len()
    );
    assert!(lengths.contains(&100) && lengths.contains(&3_100));
}

#[test]
fn of_two_unsynced_writes_the_first_may_be_what_the_disk_has() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = durable_file(512);
        write(&disk, "/d/f", &[2; 512], 0).unwrap();
        write(&disk, "/d/f", &[3; 512], 0).unwrap();
        let found: BTreeSet<u8> = bytes(&disk.crash(seed)).into_iter().collect();
        assert_eq!(found.len(), 1);
        seen.extend(found);
    }
    assert_eq!(seen, BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_cut_is_durable_only_after_a_sync() {
    let mut lengths = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = durable_file(1_000);
        let file = disk.open(Path::new("/d/f"), OpenMode::ReadWrite).unwrap();
        file.set_len(10).unwrap();
        lengths.insert(bytes(&disk.kill().crash(seed)).len());
        let disk = durable_file(1_000);
        let file = disk.open(Path::new("/d/f"), OpenMode::ReadWrite).unwrap();
        file.set_len(10).unwrap();
        file.sync_data().unwrap();
        assert_eq!(bytes(&disk.crash(seed)), [1; 10]);
    }
    assert!(lengths.contains(&10) && lengths.contains(&1_000));
}

#[test]
fn an_entry_is_durable_only_after_its_directory_is_synced() {
    let mut there = 0;
    for seed in 0..SEEDS {
        let disk = disk_with_dir();
        write(&disk, "/d/f", b"synced", 0).unwrap();
        sync(&disk, "/d/f").unwrap();
        let crashed = disk.kill().crash(seed);
        there += names(&crashed, "/d").len();

        disk_is_dead(&disk);
        let disk = durable_file(6);
        disk.remove_file(Path::new("/d/f")).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        assert_eq!(names(&disk.crash(seed), "/d"), Vec::<String>::new());
    }
    assert!(there > 20 && there < 180, "{there}");
}

fn disk_is_dead(disk: &FaultDisk) {
    assert!(disk.list(Path::new("/d")).is_err());
}

#[test]
fn a_directory_whose_own_entry_is_not_durable_takes_its_files_along() {
    let outcomes: BTreeSet<bool> = (0..SEEDS)
        .map(|seed| {
            let disk = FaultDisk::new();
            disk.create_dir_all(Path::new("/d")).unwrap();
            write(&disk, "/d/f", b"x", 0).unwrap();
            sync(&disk, "/d/f").unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            disk.crash(seed).exists(Path::new("/d/f")).unwrap()
        })
        .collect();
    assert_eq!(outcomes, BTreeSet::from([false, true]));
}

#[test]
fn a_rename_happens_whole_or_not_at_all() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = durable_file(3);
        disk.create_dir_all(Path::new("/e")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.rename(Path::new("/d/f"), Path::new("/e/g")).unwrap();
        let crashed = disk.kill().crash(seed);
        outcomes.insert((names(&crashed, "/d"), names(&crashed, "/e")));
    }
    let before = (vec!["f".to_owned()], vec![]);
    let after = (vec![], vec!["g".to_owned()]);
    assert_eq!(outcomes, BTreeSet::from([before, after]));
}

#[test]
fn syncing_one_directory_of_a_rename_makes_it_durable_in_both_and_in_order() {
    for seed in 0..SEEDS {
        let disk = durable_file(3);
        disk.create_dir_all(Path::new("/e")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        write(&disk, "/e/g", b"replaced", 0).unwrap();
        disk.rename(Path::new("/d/f"), Path::new("/e/g")).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/e")).unwrap();
        let crashed = disk.crash(seed);
        assert_eq!(crashed.contents(Path::new("/e/g")).unwrap(), [1; 3]);
        assert_eq!(names(&crashed, "/d"), Vec::<String>::new());
    }
}

#[test]
fn removing_a_directory_may_leave_some_of_it() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = durable_file(1);
        write(&disk, "/d/g", b"x", 0).unwrap();
        sync(&disk, "/d/g").unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.remove_dir_all(Path::new("/d")).unwrap();
        let crashed = disk.crash(seed);
        outcomes.insert(
            crashed
                .list(Path::new("/d"))
                .map_or(9, |entries| entries.len()),
        );
    }
    assert_eq!(outcomes, BTreeSet::from([0, 1, 2, 9]));
}

#[test]
fn a_failed_sync_loses_the_bytes_though_the_next_one_succeeds() {
    let disk = durable_file(512);
    write(&disk, "/d/f", &[2; 512], 0).unwrap();
    disk.inject(FaultRule::new(Fault::Eio).on(Operation::Sync));
    assert!(sync(&disk, "/d/f").is_err());
    sync(&disk, "/d/f").unwrap();
    assert_eq!(bytes(&disk), [2; 512], "the page cache still has them");
    for seed in 0..SEEDS {
        assert_eq!(bytes(&disk.kill_copy().crash(seed)), [1; 512]);
    }
    // Written anew, the page is dirty again.
    write(&disk, "/d/f", &[3], 0).unwrap();
    sync(&disk, "/d/f").unwrap();
    let found = bytes(&disk.crash(0));
    assert_eq!((found[0], found[1]), (3, 2));
}

impl FaultDisk {
    /// Like `kill`, but this one lives on.
    fn kill_copy(&self) -> FaultDisk {
        let machine = self.machine.lock();
        FaultDisk::with(machine.tree.duplicate(), machine.capacity)
    }
}

#[test]
fn a_killed_process_leaves_everything_but_nothing_more_durable() {
    let disk = disk_with_dir();
    write(&disk, "/d/f", &[7; 600], 0).unwrap();
    let old_file = disk.open(Path::new("/d/f"), OpenMode::ReadWrite).unwrap();
    let held = disk.lock(Path::new("/d/lock"), "first").unwrap();
    let next = disk.kill();
    assert_eq!(bytes(&next), [7; 600]);
    let lock = next.lock(Path::new("/d/lock"), "second").unwrap();
    drop(held);
    assert!(
        next.lock(Path::new("/d/lock"), "third").is_err(),
        "the dead hold no locks"
    );
    drop(lock);

    assert!(old_file.write_at(&[IoSlice::new(b"zombie")], 0).is_err());
    assert!(old_file.sync_data().is_err());
    disk_is_dead(&disk);
    assert_eq!(bytes(&next), [7; 600]);
    let survivals = (0..SEEDS).filter(|&s| {
        next.kill_copy()
            .crash(s)
            .contents(Path::new("/d/f"))
            .is_ok()
    });
    assert!(survivals.count() < 180);
}

#[test]
fn the_same_seed_gives_the_same_crash() {
    let crash = |seed| {
        let disk = durable_file(700);
        write(&disk, "/d/f", &[2; 9_000], 300).unwrap();
        write(&disk, "/d/g", &[3; 9_000], 0).unwrap();
        let crashed = disk.crash(seed);
        (names(&crashed, "/d"), bytes(&crashed))
    };
    for seed in 0..20 {
        assert_eq!(crash(seed), crash(seed));
    }
}

#[test]
fn rules_pick_the_operation() {
    let disk = durable_file(1);
    disk.inject(
        FaultRule::new(Fault::Eio)
            .on(Operation::Write)
            .path("/d/f")
            .after(1),
    );
    write(&disk, "/d/f", b"a", 0).unwrap();
    write(&disk, "/d/other", b"b", 0).unwrap();
    sync(&disk, "/d/f").unwrap();
    assert!(write(&disk, "/d/f", b"c", 0).is_err());
    write(&disk, "/d/f", b"d", 0).unwrap();
    assert_eq!(bytes(&disk), b"d");

    disk.inject(
        FaultRule::new(Fault::Enospc)
            .on(Operation::Directory)
            .repeated(),
    );
    for _ in 0..3 {
        let error = disk.create_dir_all(Path::new("/x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
    assert!(!disk.exists(Path::new("/x")).unwrap());
    disk.heal();
    disk.create_dir_all(Path::new("/x")).unwrap();

    disk.inject(FaultRule::new(Fault::Eio).on(Operation::Read));
    assert!(disk.open(Path::new("/d/f"), OpenMode::Read).is_err());
    assert_eq!(bytes(&disk), b"d");
}

#[test]
fn a_short_write_leaves_its_first_half() {
    let disk = durable_file(4);
    disk.inject(FaultRule::new(Fault::ShortWrite).on(Operation::Write));
    assert!(write(&disk, "/d/f", &[2, 3, 4, 5], 0).is_err());
    assert_eq!(bytes(&disk), [2, 3, 1, 1]);
}

#[test]
fn after_power_off_nothing_works_and_nothing_became_durable() {
    let disk = durable_file(512);
    let before = disk.operations();
    disk.inject(FaultRule::new(Fault::PowerOff).after(1));
    write(&disk, "/d/f", &[2; 512], 0).unwrap();
    assert!(sync(&disk, "/d/f").is_err());
    assert_eq!(disk.operations(), before + 2);
    assert!(write(&disk, "/d/f", &[3; 512], 0).is_err());
    assert!(disk.space(Path::new("/d")).is_err());
    let seen: BTreeSet<u8> = (0..SEEDS)
        .flat_map(|seed| bytes(&disk.crash(seed)))
        .collect();
    assert_eq!(seen, BTreeSet::from([1, 2]), "unsynced, so kept or lost");
}

#[test]
fn a_full_disk_refuses_growth_and_takes_it_again_when_space_is_freed() {
    let disk = durable_file(1_000);
    write(&disk, "/d/g", &[9; 500], 0).unwrap();
    disk.set_free(100);
    assert_eq!(
        disk.space(Path::new("/d")).unwrap(),
        Space {
            free: 100,
            total: 1_600
        }
    );
    write(&disk, "/d/f", &[2; 100], 1_000).unwrap();
    let error = write(&disk, "/d/f", &[2; 1], 1_100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    write(&disk, "/d/f", &[3; 1_100], 0).unwrap();
    let file = disk.open(Path::new("/d/f"), OpenMode::ReadWrite).unwrap();
    assert_eq!(
        file.allocate(2_000).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    disk.remove_file(Path::new("/d/g")).unwrap();
    file.allocate(1_600).unwrap();
}

#[test]
fn rot_survives_crashes() {
    let disk = durable_file(1_000);
    write(&disk, "/d/f", &[1; 10], 700).unwrap();
    disk.rot(Path::new("/d/f"), 705, 0x80).unwrap();
    assert!(disk.rot(Path::new("/d/f"), 1_000, 1).is_err());
    for seed in 0..20 {
        let found = bytes(&disk.kill_copy().crash(seed));
        assert_eq!((found[704], found[705]), (1, 0x81));
    }
}
