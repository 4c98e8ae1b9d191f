//! Begins to write a range of a file from the page cache to the disk: `sync_file_range(2)`.
//!
//! Without it dirty pages wait for the next sync of their file, which then writes megabytes at once, and whatever else
//! is written to the disk meanwhile waits behind them. Deliberately absent: durability. Nothing is waited for, no
//! metadata is written, the disk's own cache is not flushed; an error of the writing is for the next sync to report.

use std::fs::File;
use std::io;

/// Begins to write the dirty pages of `len` bytes from `position` on. Returns before they are written, though it may
/// wait for a place in the disk's queue.
///
/// # Errors
/// Those of the system call; a range beyond `i64::MAX` is `InvalidInput`.
#[cfg(target_os = "linux")]
pub fn begin(file: &File, position: u64, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let offset = |bytes: u64| i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    let (position, len) = (offset(position)?, offset(len)?);
    if len == 0 {
        // To the system it would mean: up to the end.
        return Ok(());
    }
    let fd = file.as_raw_fd();
    #[expect(unsafe_code, reason = "the one call this crate is for")]
    // SAFETY: no memory is passed; `file` keeps the descriptor open during the call.
    let done = unsafe { libc::sync_file_range(fd, position, len, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Some sandboxes have no such call. It is a hint: the next sync writes them.
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// Elsewhere the next sync writes them.
#[cfg(not(target_os = "linux"))]
pub fn begin(_: &File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{ErrorKind, Write};

    use super::*;

    #[test]
    fn ranges_of_files_are_taken() -> io::Result<()> {
        let mut file = tempfile::tempfile()?;
        file.write_all(&[7; 10_000])?;
        begin(&file, 0, 10_000)?;
        begin(&file, 4096, 0)?;
        begin(&file, 8192, 1 << 20)
    }

    #[test]
    fn what_cannot_be_is_refused() -> io::Result<()> {
        let file = tempfile::tempfile()?;
        let refused = begin(&file, u64::MAX, 1).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::InvalidInput));
        let refused = begin(&File::open("/dev/null")?, 0, 1);
        assert!(refused.is_err(), "{refused:?}");
        Ok(())
    }
}
