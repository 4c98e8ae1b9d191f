//! Filling a replica whose next entries its leader has purged, from the leader's segments. It is what openraft
//! calls a snapshot, see the README.
//!
//! ```text
//!   leader                                                  follower
//!   begin: vote, manifest                ---------------->  files of an earlier try that are of use
//!                                        <----------------  the place to go on at
//!   data: whole batches of one segment   ---------------->  checked, written, synced
//!                                        <----------------  the next place
//!   end                                  ---------------->  openraft: install_snapshot, the log is the new one
//! ```
//! - `send.rs`: the leader's end; `receive.rs`: the follower's.
//!
//! Bounds: [`MAX_FILLS`] that a node sends at a time, and as many that are held back, others wait; [`WINDOW`] frames of [`CHUNK_BYTES`] (or one
//! batch) each. All of it goes over a connection of its own (lane `Fill`), and no group waits for it.

mod receive;
mod send;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use klamm_storage::FillPlace;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::NodeId;
use crate::pace::Pace;
use crate::types::RaftVote;

pub(crate) use receive::{Incoming, answer};
pub(crate) use send::send;

/// Replicas that a node fills at a time; and of those that are held back, besides.
const MAX_FILLS: usize = 4;
/// Bytes of batches in one frame, but at least one batch.
const CHUNK_BYTES: usize = 1 << 20;
/// Frames of one fill under way.
const WINDOW: usize = 4;

/// How far the filling of one replica has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillProgress {
    /// The node at the other end.
    pub peer: NodeId,
    /// This node is being filled, or else it fills the other one.
    pub incoming: bool,
    /// Bytes of segments that are there.
    pub bytes_done: u64,
    /// Bytes of segments in all.
    pub bytes_total: u64,
}

/// What the leader says to a replica that it fills.
#[derive(Debug)]
pub(crate) enum FillRequest {
    /// A new try.
    Begin { vote: RaftVote, manifest: Bytes },
    /// Batches of the try with that number.
    Data {
        number: u64,
        at: FillPlace,
        bytes: Bytes,
    },
    /// All is there.
    End { vote: RaftVote, number: u64 },
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum FillAnswer {
    /// The log is there, or its replica follows another leader: its vote tells.
    Over(RaftVote),
    /// What the try with that number lacks next, nothing if all is there; and how much there is.
    Wanted {
        number: u64,
        place: Option<FillPlace>,
        there: u64,
    },
}

/// What all fills of a node share.
pub(crate) struct Fills {
    sending: Semaphore,
    /// Those that an operator holds back: the others are not to wait for them.
    sending_slowly: Semaphore,
    /// The rate that they share.
    pub(crate) pace: Pace,
}

impl Fills {
    pub(crate) fn new() -> Fills {
        Fills {
            sending: Semaphore::new(MAX_FILLS),
            sending_slowly: Semaphore::new(MAX_FILLS),
            pace: Pace::default(),
        }
    }
}

/// The fills of one group.
#[derive(Default)]
pub(crate) struct GroupFills {
    /// From here to others.
    outgoing: Mutex<BTreeMap<NodeId, Outgoing>>,
    /// Held while a call is answered: they are, in the order in which they came.
    incoming: Arc<tokio::sync::Mutex<Incoming>>,
    progress: Arc<Mutex<Option<FillProgress>>>,
}

struct Outgoing {
    /// The last entry that is not sent as one.
    purged: u64,
    progress: FillProgress,
}

impl GroupFills {
    pub(crate) fn progress(&self) -> Vec<FillProgress> {
        let outgoing = self.outgoing.lock();
        let outgoing = outgoing.values().map(|fill| fill.progress);
        outgoing.chain(*self.progress.lock()).collect()
    }

    /// Index below which replicas that are being filled will have the log.
    pub(crate) fn held(&self) -> Option<u64> {
        let outgoing = self.outgoing.lock();
        outgoing.values().map(|fill| fill.purged + 1).min()
    }

    /// Lets go of what is there of a fill.
    pub(crate) async fn give_up(&self) {
        let mut incoming = Arc::clone(&self.incoming).lock_owned().await;
        *self.progress.lock() = None;
        // Removes files.
        let dropped = crate::blocking::spawn_blocking(move || incoming.give_up()).await;
        if let Err(error) = dropped {
            tracing::warn!(%error, "what there was of a fill was not removed");
        }
    }
}
