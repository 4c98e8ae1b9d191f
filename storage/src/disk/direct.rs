//! A file whose writes go past the page cache (O_DIRECT), which is for what is read back only after a crash.
//!
//! The page cache would cost a page for each written one, the kernel's search for it when it is synced, and
//! memory that readers could use. What is written is copied into aligned memory instead, which stays in the
//! processor's cache. The caller syncs as ever: the disk has a cache of its own.
//!
//! Measured on ext4 and a virtual disk, processor time of write and sync: 4 KiB 27 for 33 us, 64 KiB 26 for
//! 46, 1 MiB 130 for 300.

use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::real::RealFile;
use super::{DIRECT_ALIGN, DiskFile, is_whole_blocks};

const ALIGN: usize = DIRECT_ALIGN as usize;
/// Written at a time.
const PIECE: usize = 1024 * 1024;

/// See the module.
pub(super) struct DirectFile {
    file: RealFile,
    piece: Mutex<Piece>,
}

/// Aligned memory; what was never used of it is none.
struct Piece {
    bytes: Vec<u8>,
    start: usize,
}

impl Piece {
    fn new() -> Piece {
        let bytes = vec![0; PIECE + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Piece { bytes, start }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + PIECE]
    }
}

impl DirectFile {
    /// `file` was opened with O_DIRECT.
    pub(super) fn new(file: RealFile) -> DirectFile {
        DirectFile {
            file,
            piece: Mutex::new(Piece::new()),
        }
    }

    fn write(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        match self.file.file.write_all_at(bytes, position) {
            // The disk wants larger blocks, or the file system no such writes: nothing was written.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => {
                let flags = rustix::fs::fcntl_getfl(&self.file.file)?;
                rustix::fs::fcntl_setfl(&self.file.file, flags - OFlags::DIRECT)?;
                self.file.file.write_all_at(bytes, position)
            }
            result => result,
        }
    }

    fn write_pieces(&self, slices: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
        if !is_whole_blocks(slices, position) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut piece = self.piece.lock();
        let piece = piece.get();
        let mut len = 0;
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                let (copied, behind) = rest.split_at(rest.len().min(PIECE - len));
                piece[len..len + copied.len()].copy_from_slice(copied);
                len += copied.len();
                rest = behind;
                if len == PIECE {
                    self.write(piece, position)?;
                    position += PIECE as u64;
                    len = 0;
                }
            }
        }
        self.write(&piece[..len], position)
    }
}

impl DiskFile for DirectFile {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        let error = io::ErrorKind::Unsupported.into();
        Err(self.file.failed("read", &error))
    }

    fn write_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.write_pieces(slices, position)
            .map_err(|e| self.file.failed("write", &e))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
}
