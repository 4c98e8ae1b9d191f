//! The journal: one write-ahead log for everything of this node that must survive.
//!
//! One thread owns it. It takes all that is queued, writes it as one block, syncs once and then
//! runs every completion in order (group commit). A block is only written after the one before it
//! is durable; hence a valid block proves that all before it were durable, and an invalid one
//! with a valid one behind it is damage, not the torn end of a crash (R8).
//!
//! - `format.rs`, `block.rs`: bytes of blocks and frames; `frames.rs`: frames out of them;
//! - `files.rs`: the current file, its successor, recycling;
//! - `thread.rs`: rounds; `segments.rs`: what they do to segment files;
//! - `reader.rs`: replay, and telling a torn tail from rot.

mod block;
mod files;
mod format;
mod frames;
mod reader;
mod segments;
mod thread;

#[cfg(test)]
mod format_test;

use std::sync::Arc;

use crossbeam::channel::Sender;

use crate::error::{Completion, StorageError};
use crate::log::{FileAction, Log};

pub(crate) use files::{JournalFiles, JournalPlace, Spares, list_journal, path_of, recycle};
pub(crate) use format::{Anchor, BatchFrame, CompactedEntry, Cut, Frame, FrameBody, Replacement};
pub(crate) use reader::{Damage, Loss, Visit, scan};
pub(crate) use segments::{SegmentWriter, act};
pub(crate) use thread::{Rounds, RoundsContext};

/// Operations that may wait for the journal thread; who comes when it is full waits.
pub(crate) const QUEUE_LEN: usize = 8 * 1024;

/// A completion that is called exactly once, whatever becomes of its operation.
pub(crate) struct Done(Option<Completion>);

impl Done {
    pub(crate) fn new(completion: Completion) -> Done {
        Done(Some(completion))
    }

    /// For operations nobody waits for.
    pub(crate) fn nobody() -> Done {
        Done(None)
    }

    pub(crate) fn call(mut self, result: Result<(), StorageError>) {
        if let Some(completion) = self.0.take() {
            completion(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(completion) = self.0.take() {
            completion(Err(StorageError::Poisoned("the store was closed".into())));
        }
    }
}

/// One operation of one log, all of it in one block.
pub(crate) struct Op {
    pub(crate) log: Arc<Log>,
    pub(crate) frames: Vec<Frame>,
    /// What to do to the group's files once the frames are durable.
    pub(crate) actions: Vec<FileAction>,
    pub(crate) done: Done,
    /// Bytes of batches, for the bound on queued bytes.
    pub(crate) bytes: u64,
}

/// What the journal thread is told.
pub(crate) enum Message {
    Op(Op),
    /// Begin a new file; answers with its place. Frames before it are in older files, written
    /// to the segments.
    Rotate(Sender<Result<JournalPlace, StorageError>>),
    /// Answers when everything queued before it is durable and written to the segments.
    Barrier(Sender<Result<(), StorageError>>),
    /// End the thread.
    Stop,
}
