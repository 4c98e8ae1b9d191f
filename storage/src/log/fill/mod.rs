//! Filling a log from another replica's segments: for one whose next entries that replica has
//! forgotten ([`super::GroupLog::purge`]).
//!
//! ```text
//! source: purged ──► Manifest ──────────────► begin_fill           files of a generation of their
//!         segments ─ whole batches, checked ► Fill::write, checked ── own, beside the log's files
//!                                             synced ──► install: one journal frame, old files go
//! ```
//!
//! Invariants:
//! - the log's state changes in one step, whose frame says all that replay needs. A crash before it
//!   leaves files that nothing refers to, which the next start removes; one after it is replayed;
//! - a file gets a generation that none of the log's had (in this journal), so no file ever holds
//!   two contents, and no replayed removal hits it;
//! - a batch counts when its CRC is right, it follows the one before it, and its epoch is the one
//!   the manifest says;
//! - the filled log has no entries: Raft goes on behind the purged one. Vote and operation count
//!   stay.
//!
//! Deliberately absent: the way between the nodes, and the pace.

mod install;
mod manifest;
mod receive;
mod source;

use crate::error::StorageError;

pub(crate) use install::{Install, InstalledFile, InstalledProducers};
pub(crate) use manifest::ManifestSegment;
#[cfg(test)]
pub(crate) use manifest::tests::any_manifest;
pub use manifest::{Manifest, ManifestError};
pub use receive::Fill;
pub use source::{Chunk, FillSource};

/// A place in a manifest's segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillPlace {
    /// Number of the segment.
    pub segment: u32,
    /// Bytes of it before this place.
    pub position: u64,
    /// Offset behind the batches before this place.
    pub offset: i64,
}

/// Why a log could not be read for a fill, or not be filled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    /// The source's files are others now, or not written yet: a new manifest is needed.
    #[error("the log changed while it was copied")]
    Changed,
    /// What was brought is not what the manifest says.
    #[error("a fill brought {0}")]
    Refused(&'static str),
    /// Too little space is free for what is still to come.
    #[error("too little free disk space for a fill: {free} bytes, {needed} are needed")]
    NoSpace {
        /// Bytes free.
        free: u64,
        /// Bytes wanted.
        needed: u64,
    },
    /// The store, or a file of it, failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<std::io::Error> for FillError {
    fn from(error: std::io::Error) -> FillError {
        FillError::Storage(error.into())
    }
}
