//! Bits that flip on a disk.

use std::path::{Path, PathBuf};

use klamm_storage::{Disk, FaultDisk};

use crate::rng::Rng;

/// Segments rot where a follower that was away for a moment reads them.
const NEAR_END: u64 = 24 << 10;
/// Blocks of the journal begin at multiples of this.
const BLOCK_ALIGN: usize = 4096;
/// Of a block's header.
const MAGIC: &[u8] = b"KLMJ";
/// Offset and length of the file's and the block's number in a block's header.
const FILE_SEQ: std::ops::Range<usize> = 16..24;
const BLOCK_SEQ: std::ops::Range<usize> = 24..32;
/// Bytes of a header.
const HEADER: usize = 48;
/// The last blocks, which are as good as surely behind the last checkpoint.
const LAST: usize = 12;

fn files(disk: &FaultDisk, dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut names: Vec<String> = disk.list(dir).map_or(Vec::new(), |entries| {
        let names = entries.into_iter().map(|entry| entry.name);
        names.filter(|name| name.ends_with(extension)).collect()
    });
    names.sort_unstable();
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// Flips a bit near the end of a log. False: nothing is there.
pub(crate) fn segment(disk: &FaultDisk, dir: &Path, rng: &mut Rng) -> bool {
    let Some(file) = files(disk, dir, ".log").pop() else {
        return false;
    };
    let len = disk.contents(&file).map_or(0, |bytes| bytes.len() as u64);
    let position = rng.between(len.saturating_sub(NEAR_END), len);
    len > 0 && disk.rot(&file, position, 1 << rng.between(0, 8)).is_ok()
}

/// Flips a bit in a block of the journal that others follow. False: there is none.
///
/// In what a crash may have torn, which is the last block, nobody could tell rot from that.
pub(crate) fn journal(disk: &FaultDisk, dir: &Path, rng: &mut Rng) -> bool {
    let mut blocks = Vec::new();
    for path in files(disk, &dir.join("journal"), ".wal") {
        let bytes = disk.contents(&path).unwrap_or_default();
        let own = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        let number = |page: &[u8], at: std::ops::Range<usize>| {
            let number = page.get(at).and_then(|bytes| bytes.try_into().ok());
            number.map_or(0, u64::from_le_bytes)
        };
        for (at, page) in bytes.chunks(BLOCK_ALIGN).enumerate() {
            if page.starts_with(MAGIC) && Some(number(page, FILE_SEQ)) == own {
                blocks.push((number(page, BLOCK_SEQ), path.clone(), at * BLOCK_ALIGN));
            }
        }
    }
    blocks.sort_unstable();
    // Two blocks behind it were durable, whatever became of the last.
    blocks.truncate(blocks.len().saturating_sub(2));
    let from = blocks.len().saturating_sub(LAST);
    let Some(late) = blocks.get(from..).filter(|late| !late.is_empty()) else {
        return false;
    };
    let (_, path, at) = rng.pick(late);
    // In the head of its first frame, or a little behind that.
    let position = at + HEADER + usize::try_from(rng.between(0, 64)).unwrap_or(0);
    disk.rot(path, position as u64, 1 << rng.between(0, 8))
        .is_ok()
}
