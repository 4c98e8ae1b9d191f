//! Reads the journal back, block by block, and says how it ends.
//!
//! A block is written only after its predecessor is durable. So a bad block with a later valid
//! one behind it was once good: damage (R8). A bad block with nothing behind it is the torn end of
//! a write that nobody was told about, and is cut.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use klamm_records::GroupId;

use super::files::{JournalPlace, list_journal, path_of};
use super::format::{BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, Frame, VERSION};
use super::frames::{FrameError, FrameReader};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::OpenError;

const CHUNK: u64 = 1024 * 1024;
/// Why a file may be missing. RocksDB takes a damaged end of its MANIFEST for one that was never
/// written, and goes back to an earlier checkpoint.
const MISSING: &str = "it was removed, or the folder \"index\" lost its newest state";

/// A damaged place of the journal.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) file: PathBuf,
    pub(crate) position: u64,
    pub(crate) what: String,
    /// Whose operation was lost, if that can be told.
    pub(crate) group: Option<GroupId>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage {
            file,
            position,
            what,
            ..
        } = self;
        write!(f, "{} at {position}: {what}", file.display())
    }
}

/// How the journal ended.
pub(crate) struct Scan {
    /// Where the journal goes on: its last file if nothing is in it, else a new one.
    pub(crate) resume: JournalPlace,
    next_block_seq: u64,
    /// The last block: (file, position, length).
    last_block: Option<(Arc<dyn DiskFile>, u64, u64)>,
    /// Blocks in the file read last.
    last_file_blocks: u64,
    pub(crate) bytes: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) damage: Vec<Damage>,
}

/// Receives the frames in order.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(Frame) -> Result<(), OpenError>;

/// Reads every frame from `place` on.
pub(crate) fn scan(
    disk: &dyn Disk,
    dir: &Path,
    salt: u64,
    place: JournalPlace,
    visit: Visit<'_>,
) -> Result<Scan, OpenError> {
    let failed = |e: io::Error| OpenError::failed("reading the journal", e);
    let all = list_journal(disk, dir).map_err(failed)?;
    let wanted: Vec<u64> = all
        .iter()
        .copied()
        .filter(|seq| *seq >= place.file_seq)
        .collect();
    let mut scan = Scan {
        resume: place,
        next_block_seq: place.block_seq,
        last_block: None,
        last_file_blocks: 0,
        bytes: 0,
        torn_bytes: 0,
        damage: Vec::new(),
    };
    let mut files = Vec::new();
    for (file_seq, expected) in wanted.iter().zip(place.file_seq..) {
        if *file_seq != expected {
            return Err(OpenError::failed(
                "reading the journal",
                format!(
                    "file {} is missing: {MISSING}",
                    path_of(dir, expected).display()
                ),
            ));
        }
        let path = path_of(dir, *file_seq);
        let file = disk.open(&path, OpenMode::ReadWrite).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        files.push(JournalFile {
            path,
            file,
            len,
            file_seq: *file_seq,
            salt,
        });
    }
    if files.is_empty() {
        let missing = path_of(dir, place.file_seq);
        let cause = format!("file {} is missing: {MISSING}", missing.display());
        return Err(OpenError::failed("reading the journal", cause));
    }
    for (number, file) in files.iter().enumerate() {
        let later = files.get(number + 1..).unwrap_or_default();
        scan.read_file(file, later, visit).map_err(|e| match e {
            ScanError::Io(e) => failed(e),
            ScanError::Open(e) => e,
        })?;
    }
    let last = files.last().map_or(place.file_seq, |file| file.file_seq);
    let empty = scan.last_file_blocks == 0 && scan.torn_bytes == 0 && scan.damage.is_empty();
    let file_seq = if empty { last } else { last + 1 };
    scan.resume = JournalPlace {
        file_seq,
        block_seq: scan.next_block_seq,
    };
    Ok(scan)
}

enum ScanError {
    Io(io::Error),
    Open(OpenError),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> ScanError {
        ScanError::Io(error)
    }
}

impl From<OpenError> for ScanError {
    fn from(error: OpenError) -> ScanError {
        ScanError::Open(error)
    }
}

struct JournalFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    file_seq: u64,
    salt: u64,
}

impl JournalFile {
    /// The block header in `bytes` if it is one of this file and store.
    fn own_header(&self, bytes: &[u8]) -> Option<BlockHeader> {
        BlockHeader::parse(bytes).filter(|h| h.salt == self.salt && h.file_seq == self.file_seq)
    }

    fn header_at(&self, position: u64) -> io::Result<Option<BlockHeader>> {
        if position + BLOCK_HEADER_LEN as u64 > self.len {
            return Ok(None);
        }
        let mut bytes = [0; BLOCK_HEADER_LEN];
        self.file.read_exact_at(&mut bytes, position)?;
        Ok(self.own_header(&bytes))
    }

    /// The first valid header at or behind `position` whose block is `block_seq` or later.
    fn next_header(&self, position: u64, block_seq: u64) -> io::Result<Option<(u64, BlockHeader)>> {
        let mut chunk_at = position;
        let mut chunk = Vec::new();
        while chunk_at < self.len {
            chunk.resize(CHUNK.min(self.len - chunk_at) as usize, 0);
            self.file.read_exact_at(&mut chunk, chunk_at)?;
            for (page, at) in chunk
                .chunks(BLOCK_ALIGN as usize)
                .zip((chunk_at..).step_by(4096))
            {
                if let Some(header) = self.own_header(page).filter(|h| h.block_seq >= block_seq) {
                    return Ok(Some((at, header)));
                }
            }
            chunk_at += CHUNK;
        }
        Ok(None)
    }

    fn frames(
        &self,
        position: u64,
        header: &BlockHeader,
    ) -> io::Result<Vec<Result<Frame, FrameError>>> {
        let start = position + BLOCK_HEADER_LEN as u64;
        if start + u64::from(header.payload_len) > self.len {
            return Ok(vec![Err(FrameError::Header)]);
        }
        let mut payload = vec![0; header.payload_len as usize];
        self.file.read_exact_at(&mut payload, start)?;
        let mut reader = FrameReader::new(Bytes::from(payload));
        let mut frames: Vec<_> = std::iter::from_fn(|| reader.next_frame()).collect();
        if frames.len() != header.frame_count as usize {
            frames.push(Err(FrameError::Header));
        }
        Ok(frames)
    }
}

/// Whether a block behind the one that should be `block_seq` shows that it had been durable.
fn was_durable(
    file: &JournalFile,
    behind: u64,
    later: &[JournalFile],
    block_seq: u64,
) -> io::Result<bool> {
    if file.next_header(behind, block_seq + 1)?.is_some() {
        return Ok(true);
    }
    for file in later {
        if let Some((_, header)) = file.next_header(0, block_seq)? {
            // A start cuts a torn block and gives its number to the first block of a new file.
            return Ok(header.block_seq > block_seq);
        }
    }
    Ok(false)
}

impl Scan {
    fn damaged(&mut self, file: &JournalFile, position: u64, group: Option<GroupId>, what: String) {
        self.damage.push(Damage {
            file: file.path.clone(),
            position,
            what,
            group,
        });
    }

    fn read_file(
        &mut self,
        file: &JournalFile,
        later: &[JournalFile],
        visit: Visit<'_>,
    ) -> Result<(), ScanError> {
        let mut position = 0;
        self.last_file_blocks = 0;
        loop {
            let header = file
                .header_at(position)?
                .filter(|h| h.block_seq >= self.next_block_seq);
            let Some(header) = header else {
                let expected = self.next_block_seq;
                let Some((at, header)) = file.next_header(position, expected)? else {
                    return Ok(self.count_torn(file, position)?);
                };
                self.damaged(file, position, None, format!("{} bytes", at - position));
                (position, self.next_block_seq) = (at, header.block_seq);
                continue;
            };
            if header.version > VERSION {
                let cause = format!(
                    "block version {} is newer than this program",
                    header.version
                );
                return Err(OpenError::failed("reading the journal", cause).into());
            }
            if header.block_seq > self.next_block_seq {
                let missing = header.block_seq - self.next_block_seq;
                self.damaged(
                    file,
                    position,
                    None,
                    format!("{missing} blocks before it are gone"),
                );
                self.next_block_seq = header.block_seq;
            }
            let behind = position + header.disk_len();
            let frames = file.frames(position, &header)?;
            let whole = frames.iter().all(Result::is_ok);
            if !whole && !was_durable(file, behind, later, header.block_seq)? {
                self.torn_bytes += header.disk_len();
                return Ok(());
            }
            self.bytes += header.disk_len();
            self.last_file_blocks += 1;
            self.last_block = Some((Arc::clone(&file.file), position, header.disk_len()));
            for frame in frames {
                match frame {
                    Ok(frame) => visit(frame)?,
                    Err(error @ FrameError::Unknown { .. }) => {
                        return Err(OpenError::failed("reading the journal", error).into());
                    }
                    Err(error @ FrameError::Payload { group, .. }) => {
                        self.damaged(file, position, Some(group), error.to_string());
                    }
                    Err(error @ FrameError::Header) => {
                        self.damaged(file, position, None, error.to_string());
                    }
                }
            }
            self.next_block_seq += 1;
            position = behind;
        }
    }

    /// Makes the last block durable before anything follows it. All others are: something follows
    /// them. It is written again, because after a failed sync the kernel shows bytes that are not
    /// on the disk and takes them for synced.
    pub(crate) fn secure_last_block(&self) -> io::Result<()> {
        let Some((file, position, len)) = &self.last_block else {
            return Ok(());
        };
        let within = file.len()?.saturating_sub(*position).min(*len);
        let mut block = vec![0; usize::try_from(within).map_err(io::Error::other)?];
        file.read_exact_at(&mut block, *position)?;
        file.write_at(&[io::IoSlice::new(&block)], *position)?;
        file.sync_data()
    }

    /// No block follows in this file. What is there instead: nothing, an old block of a recycled
    /// file, or the first page of a torn one?
    fn count_torn(&mut self, file: &JournalFile, position: u64) -> io::Result<()> {
        let len = BLOCK_ALIGN.min(file.len.saturating_sub(position));
        let mut page = vec![0; len as usize];
        file.file.read_exact_at(&mut page, position)?;
        if page.iter().any(|byte| *byte != 0) && BlockHeader::parse(&page).is_none() {
            self.torn_bytes += len;
        }
        Ok(())
    }
}
