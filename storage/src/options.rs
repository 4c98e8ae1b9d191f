//! Settings of a store and of one log, with their defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BufMut, TryGetError};

const MIB: u64 = 1024 * 1024;

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Where everything lies.
    pub dir: PathBuf,
    /// Checkpoint after so many journal bytes. Bounds what a restart replays, and the disk space
    /// of the journal.
    pub checkpoint_bytes: u64,
    /// ... or when the oldest un-checkpointed frame is so old.
    pub checkpoint_interval: Duration,
    /// Batches of one group in one round from this size on go to the segment directly.
    pub bypass_bytes: usize,
    /// Small batches that are durable in the journal reach their segments after so long, so that
    /// many of a log become one write. Readers are served from memory until then.
    pub segment_delay: Duration,
    /// Free bytes on the file system below which `writable()` is false (R11).
    pub reserve_bytes: u64,
    /// File descriptors of segments kept open.
    pub max_open_files: usize,
    /// false: no fdatasync (dev --ephemeral tests only); the caller says so to the user.
    pub sync: bool,
}

impl StoreOptions {
    /// Defaults, for a store under `dir`.
    pub fn new(dir: impl AsRef<Path>) -> StoreOptions {
        StoreOptions {
            dir: dir.as_ref().to_path_buf(),
            checkpoint_bytes: 256 * MIB,
            checkpoint_interval: Duration::from_secs(300),
            bypass_bytes: 64 * 1024,
            segment_delay: Duration::from_millis(50),
            reserve_bytes: 1024 * MIB,
            max_open_files: 4096,
            sync: true,
        }
    }
}

/// Settings of one log, changeable at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `segment.bytes`: a segment is closed before it grows beyond this.
    pub segment_bytes: u64,
    /// `segment.ms`: a segment is closed when its records span more than this.
    pub segment_ms: u64,
    /// `index.interval.bytes`: distance of two index entries.
    pub index_interval_bytes: u32,
    /// `producer.id.expiration.ms`: idle producers are forgotten after this.
    pub producer_id_expiration_ms: u64,
}

impl Default for LogSettings {
    /// Kafka's defaults.
    fn default() -> LogSettings {
        LogSettings {
            segment_bytes: 1024 * MIB,
            segment_ms: 7 * 24 * 3600 * 1000,
            index_interval_bytes: 4096,
            producer_id_expiration_ms: 24 * 3600 * 1000,
        }
    }
}

impl LogSettings {
    /// Encoded length in bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.segment_bytes);
        out.put_u64_le(self.segment_ms);
        out.put_u32_le(self.index_interval_bytes);
        out.put_u64_le(self.producer_id_expiration_ms);
    }

    pub(crate) fn decode(bytes: &mut &[u8]) -> Result<LogSettings, TryGetError> {
        Ok(LogSettings {
            segment_bytes: bytes.try_get_u64_le()?,
            segment_ms: bytes.try_get_u64_le()?,
            index_interval_bytes: bytes.try_get_u32_le()?,
            producer_id_expiration_ms: bytes.try_get_u64_le()?,
        })
    }
}
