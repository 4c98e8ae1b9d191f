//! A bit flips in a file of RocksDB: the other index has the row, and nothing is lost.

use std::collections::BTreeMap;

use super::rot::{At, Known, Outcome, files, fill, known, serves_all, tell};
use super::*;
use crate::disk::Chance;
use crate::disk::RealDisk;
use crate::index::Check;
use crate::{OpenError, SystemClock};

fn open_real(dir: &Path) -> Result<(Store, RecoveryReport), OpenError> {
    let options = StoreOptions {
        reserve_bytes: 0,
        bypass_bytes: 16 * 1024,
        checkpoint_bytes: 1024 * 1024,
        ..StoreOptions::new(dir)
    };
    Store::open(options, Arc::new(RealDisk), Arc::new(SystemClock::new()))
}

fn copy(from: &Path, to: &Path) {
    for path in files(&RealDisk, from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&path, target).unwrap();
    }
}

/// Which part of the places of a sweep is done, of how many: `KLAMM_PART=0/2` for instance, so that several processes
/// can share one. All of it by default.
fn part() -> (usize, usize) {
    let Ok(part) = std::env::var("KLAMM_PART") else {
        return (0, 1);
    };
    let numbers = part.split_once('/').and_then(|(part, of)| {
        let (part, of): (usize, usize) = (part.parse().ok()?, of.parse().ok()?);
        (part < of).then_some((part, of))
    });
    numbers.unwrap_or_else(|| panic!("KLAMM_PART={part}: wanted is part/parts, such as 0/2"))
}

/// Flips one bit in `most(name)` places of each file, on a real disk, and starts over it. Returns the
/// number of flips.
fn sweep(stride: usize, most: fn(&str) -> usize) -> u32 {
    let origin = tempfile::tempdir().unwrap();
    let base = tempfile::tempdir().unwrap();
    // One path for all lives: errors name it.
    let dir = base.path().join("data");
    let (store, _) = open_real(&dir).unwrap();
    fill(&store);
    store.close().unwrap();
    drop(store);
    copy(&dir, origin.path());
    let (store, _) = open_real(&dir).unwrap();
    let known = known(&store, &|path| std::fs::read(path).unwrap());
    drop(store);
    let mut chance = Chance(7);
    let mut outcomes = BTreeMap::new();
    let mut count = 0_u32;
    let sides = ["index", "index.copy"].map(|side| files(&RealDisk, &origin.path().join(side)));
    for file in sides.into_iter().flatten() {
        let below = file.strip_prefix(origin.path()).unwrap();
        let name = below.file_name().unwrap().to_string_lossy().into_owned();
        let meaningless = name.starts_with("LOG") || name == "LOCK" || name == "IDENTITY";
        let most = most(&name);
        if meaningless || most == 0 {
            continue;
        }
        let content = std::fs::read(&file).unwrap();
        let stride = stride.max(content.len() / most + 1);
        let (part, of) = part();
        for position in (part * stride..content.len()).step_by(stride * of) {
            if count.is_multiple_of(100) {
                eprintln!(
                    "{count} flips; {name}: byte {position} of {}",
                    content.len()
                );
            }
            std::fs::remove_dir_all(&dir).unwrap();
            copy(origin.path(), &dir);
            let (path, bit) = (dir.join(below), 1 << chance.below(8));
            let mut rotten = content.clone();
            rotten[position] ^= bit;
            std::fs::write(&path, rotten).unwrap();
            let _at = At(&path, position as u64, bit);
            let starts = if count.is_multiple_of(8) { 3 } else { 1 };
            let outcome = judge(&known, &dir, &path, starts);
            let class = name.split_once(['-', '.']).map_or(&*name, |(a, b)| {
                if a.starts_with(|c: char| c.is_ascii_digit()) {
                    b
                } else {
                    a
                }
            });
            *outcomes.entry((class.to_owned(), outcome)).or_default() += 1;
            count += 1;
        }
    }
    tell(&outcomes);
    let seen = |class: &str| outcomes.contains_key(&(class.to_owned(), Outcome::Healed));
    for class in ["sst", "MANIFEST", "CURRENT"] {
        assert!(most(class) == 0 || seen(class), "{class}");
    }
    count
}

/// All is served as it was, also at the `starts` that follow.
fn judge(known: &BTreeMap<u64, Known>, dir: &Path, rotten: &Path, starts: usize) -> Outcome {
    let mut outcome = Outcome::Unseen;
    for start in 1..=starts {
        let (store, report) =
            open_real(dir).unwrap_or_else(|error| panic!("start {start}: {error}"));
        assert_eq!(report.torn_tail_bytes, 0, "{report:?}");
        let any = store.group(GroupId(1)).unwrap();
        let pair = &any.store.shared.pair;
        serves_all(known, &store);
        let mut check = Some(Check::new());
        while let Some(left) = check {
            check = pair.check(left);
        }
        let findings = pair.findings();
        assert!(findings.starts_with(&report.corrupt), "{report:?}");
        assert_eq!(store.stats().corruptions, findings.len() as u64);
        let index = rotten.parent().unwrap().to_string_lossy();
        assert!(
            findings.iter().all(|text| text.contains(&*index)),
            "{findings:?}"
        );
        if !findings.is_empty() {
            assert!(start < 3, "still at the third start: {findings:?}");
            outcome = Outcome::Healed;
        }
        // Nobody starts over the last one.
        if start < starts {
            store.close().unwrap();
        }
    }
    outcome
}

#[test]
fn a_flipped_bit_in_the_index_costs_nothing() {
    assert!(sweep(61, |_| 2) > 20);
}

#[test]
#[ignore = "takes minutes: thousands of places"]
fn a_flipped_bit_in_the_index_costs_nothing_wherever_it_is() {
    println!("{} flips", sweep(3, |_| 150));
}

#[test]
#[ignore = "takes an hour or more: every byte"]
fn a_flipped_bit_in_a_manifest_costs_nothing_wherever_it_is() {
    let every = |name: &str| usize::from(name.starts_with("MANIFEST")) * 10_000;
    println!("{} flips", sweep(1, every));
}
