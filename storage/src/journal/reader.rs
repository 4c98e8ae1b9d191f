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
use klamm_records::plant::{self, Bug};

use super::block::{BLOCK_ALIGN, BLOCK_HEADER_LEN, BLOCK_VERSION, BlockHeader};
use super::files::{JournalPlace, list_journal, path_of};
use super::format::Frame;
use super::frames::{Found, FrameError, read_frames};
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
    pub(crate) loss: Loss,
}

/// What is lost with a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing: it was there a second time.
    Nothing,
    /// An operation of this group.
    Of(GroupId),
    /// That cannot be told.
    Unknown,
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

    /// The first block at or behind `position` that is `block_seq` or later, by its header or, where
    /// that is damaged, by its trailer.
    fn next_block(&self, position: u64, block_seq: u64) -> io::Result<Option<(u64, BlockHeader)>> {
        let mut chunk_at = position;
        let mut chunk = Vec::new();
        while chunk_at < self.len {
            chunk.resize(CHUNK.min(self.len - chunk_at) as usize, 0);
            self.file.read_exact_at(&mut chunk, chunk_at)?;
            for (page, at) in chunk
                .chunks(BLOCK_ALIGN as usize)
                .zip((chunk_at..).step_by(4096))
            {
                let own = |header: Option<BlockHeader>| {
                    header.filter(|h| {
                        h.salt == self.salt
                            && h.file_seq == self.file_seq
                            && h.block_seq >= block_seq
                    })
                };
                if let Some(header) = own(BlockHeader::parse(page)) {
                    return Ok(Some((at, header)));
                }
                if let Some(header) = own(BlockHeader::parse_trailer(page))
                    && let Some(begin) = (at + BLOCK_ALIGN).checked_sub(header.disk_len())
                    && begin >= position
                {
                    return Ok(Some((begin, header)));
                }
            }
            chunk_at += CHUNK;
        }
        Ok(None)
    }

    fn frames(&self, position: u64, header: &BlockHeader) -> io::Result<Vec<Found>> {
        let start = position + BLOCK_HEADER_LEN as u64;
        let payload_end = start + u64::from(header.payload_len);
        // The file may end with the last block's payload, if an earlier version wrote it.
        let end = (position + header.disk_len()).min(self.len);
        if payload_end > end {
            return Ok(vec![Found::Lost(FrameError::Header)]);
        }
        let mut rest = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut rest, start)?;
        Ok(read_frames(header, Bytes::from(rest)))
    }
}

/// Whether a block behind the one that should be `block_seq` shows that it had been durable.
fn was_durable(
    file: &JournalFile,
    behind: u64,
    later: &[JournalFile],
    block_seq: u64,
) -> io::Result<bool> {
    if file.next_block(behind, block_seq + 1)?.is_some() {
        return Ok(true);
    }
    for file in later {
        if let Some((_, header)) = file.next_block(0, block_seq)? {
            // A start cuts a torn block and gives its number to the first block of a new file.
            return Ok(header.block_seq > block_seq);
        }
    }
    Ok(false)
}

impl Scan {
    fn damaged(&mut self, file: &JournalFile, position: u64, loss: Loss, what: String) {
        self.damage.push(Damage {
            file: file.path.clone(),
            position,
            what,
            loss,
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
            let expected = self.next_block_seq;
            let header = file
                .header_at(position)?
                .filter(|h| h.block_seq >= expected);
            let has_header = header.is_some();
            let found = match header {
                Some(header) => Some((position, header)),
                None => file.next_block(position, expected)?,
            };
            let Some((at, header)) = found else {
                return Ok(self.count_torn(file, position)?);
            };
            if at > position {
                let what = format!("{} bytes", at - position);
                self.damaged(file, position, Loss::Unknown, what);
                (position, self.next_block_seq) = (at, header.block_seq);
                continue;
            }
            if header.version > BLOCK_VERSION {
                let cause = format!(
                    "block version {} is newer than this program",
                    header.version
                );
                return Err(OpenError::failed("reading the journal", cause).into());
            }
            if header.block_seq > expected {
                let what = format!("{} blocks before it are gone", header.block_seq - expected);
                self.damaged(file, position, Loss::Unknown, what);
                self.next_block_seq = header.block_seq;
            }
            let behind = position + header.disk_len();
            let frames = file.frames(position, &header)?;
            let frames_whole = frames.iter().all(|found| matches!(found, Found::Whole(_)));
            let whole = has_header && frames_whole;
            let is_torn = plant::is(Bug::CutAtBadBlock);
            if !whole && (is_torn || !was_durable(file, behind, later, header.block_seq)?) {
                self.torn_bytes += header.disk_len();
                return Ok(());
            }
            if !has_header {
                let what = "block header is damaged; its second copy was read".to_owned();
                self.damaged(file, position, Loss::Nothing, what);
            }
            self.bytes += header.disk_len();
            self.last_file_blocks += 1;
            self.last_block = Some((Arc::clone(&file.file), position, header.disk_len()));
            for found in frames {
                self.take(file, position, found, visit)?;
            }
            self.next_block_seq += 1;
            position = behind;
        }
    }

    /// Hands a frame on, or notes why not.
    fn take(
        &mut self,
        file: &JournalFile,
        position: u64,
        found: Found,
        visit: Visit<'_>,
    ) -> Result<(), OpenError> {
        let error = match found {
            Found::Whole(frame) => return visit(frame),
            Found::Repeated(frame, error) => {
                let what = format!("{error}; its second copy was read");
                self.damaged(file, position, Loss::Nothing, what);
                return visit(frame);
            }
            Found::Lost(error) => error,
        };
        let loss = match error {
            FrameError::Unknown { .. } => {
                return Err(OpenError::failed("reading the journal", error));
            }
            FrameError::Payload { group, .. } | FrameError::Named { group, .. } => Loss::Of(group),
            FrameError::Header => Loss::Unknown,
        };
        self.damaged(file, position, loss, error.to_string());
        Ok(())
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
