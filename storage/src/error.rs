//! What can go wrong: while a store runs ([`StorageError`]) and while it opens ([`OpenError`]).

use std::path::PathBuf;
use std::sync::Arc;

use klamm_records::GroupId;

/// Called exactly once, usually from the journal thread, when the operation is durable or has
/// failed. Must not block, and must not wait for another operation of the store.
pub type Completion = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// Failure of an operation on a running store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The store met a failed write or sync and takes nothing more (R1).
    #[error("the store failed and stopped: {0}")]
    Poisoned(Arc<str>),
    /// CRC or structure of stored bytes is wrong; the range is quarantined.
    #[error("corrupt data in {file} at {position}: {what}")]
    Corrupt {
        /// The file that holds the bytes.
        file: PathBuf,
        /// Where in it, in bytes.
        position: u64,
        /// What is wrong with them.
        what: Arc<str>,
    },
    /// The log does not hold that offset.
    #[error("offset {offset} is outside {start}..={end}")]
    OutOfRange {
        /// The offset asked for.
        offset: i64,
        /// Log start offset.
        start: i64,
        /// Log end offset.
        end: i64,
    },
    /// The group was deleted.
    #[error("group {0} is gone")]
    GroupGone(GroupId),
    /// A read failed, or a request makes no sense.
    #[error("i/o: {0}")]
    Io(Arc<str>),
}

impl StorageError {
    /// Whether it is this place that cannot be read, for its bytes are wrong or its sector is lost: others may be whole.
    pub fn is_damage(&self) -> bool {
        match self {
            StorageError::Corrupt { .. } => true,
            // EIO.
            StorageError::Io(what) => what.contains("(os error 5)"),
            _ => false,
        }
    }
}

impl From<std::io::Error> for StorageError {
    fn from(error: std::io::Error) -> StorageError {
        StorageError::Io(error.to_string().into())
    }
}

/// Why a store could not be opened. Nothing was changed on disk unless recovery had begun, and
/// recovery may be begun again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory {dir} is locked by {owner}")]
    Locked {
        /// The store's directory.
        dir: PathBuf,
        /// Who holds it, in words.
        owner: String,
    },
    /// A newer program wrote it.
    #[error("data directory {dir} has format {found}, this program knows up to {known}")]
    NewerFormat {
        /// The store's directory.
        dir: PathBuf,
        /// Version of the format on disk.
        found: u32,
        /// Newest version this program reads.
        known: u32,
    },
    /// Anything else: a failed read or write, or damage that cannot be contained.
    #[error("{what}: {cause}")]
    Failed {
        /// What was being done.
        what: String,
        /// Why it failed.
        cause: String,
    },
}

impl OpenError {
    /// Names what was being done when `cause` came.
    pub(crate) fn failed(what: impl Into<String>, cause: impl std::fmt::Display) -> OpenError {
        OpenError::Failed {
            what: what.into(),
            cause: cause.to_string(),
        }
    }
}
