//! Bits that flip in files of a broker that does not run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use klamm_records::{BATCH_HEADER_LEN, BatchHeader};

/// The first, sealed segment of a partition's folder.
pub fn first_segment(folder: &Path) -> Result<PathBuf> {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    ensure!(segments.len() > 2, "nothing was rolled: {segments:?}");
    segments.into_iter().next().context("a first segment")
}

/// Flips a bit in the middle of a segment; answers which offset it hits.
pub fn rot(segment: &Path) -> Result<i64> {
    let mut bytes = std::fs::read(segment)?;
    let middle = bytes.len() / 2;
    let mut position = 0;
    let hit = loop {
        let header = bytes
            .get(position..position + BATCH_HEADER_LEN)
            .and_then(BatchHeader::parse)
            .context("a batch header")?;
        let next = position + header.total_len().context("a length")?;
        if next > middle {
            ensure!(position + BATCH_HEADER_LEN < middle, "within the records");
            break header.base_offset;
        }
        position = next;
    };
    bytes[middle] ^= 0x10;
    std::fs::write(segment, &bytes)?;
    Ok(hit)
}

/// Flips a bit of a file.
pub fn flip(path: &Path, position: usize) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    *bytes.get_mut(position).context("a byte there")? ^= 0x04;
    Ok(std::fs::write(path, bytes)?)
}

/// Blocks of a node's journal that hold one batch of some more than `len` bytes: (file, position of its frame).
pub fn large_frames(data: &Path, len: usize) -> Result<Vec<(PathBuf, usize)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data.join("journal"))? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        for at in (0..bytes.len()).step_by(4096) {
            let length = bytes.get(at + 52..at + 56).context("whole pages")?;
            let block = u32::from_le_bytes(length.try_into()?) as usize;
            if bytes.get(at..at + 4) == Some(b"KLMJ") && block > len && block < 2 * len {
                found.push((path.clone(), at + 48));
            }
        }
    }
    Ok(found)
}
