//! The follower's end.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use klamm_storage::{Fill, FillError, FillPlace, GroupLog, Manifest, StorageError};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::{FillAnswer, FillProgress, FillRequest};
use crate::NodeId;
use crate::group::Group;
use crate::machine::Brought;
use crate::membership;
use crate::proposal::ProposeError;
use crate::shared::Shared;
use crate::types::{RaftVote, TypeConfig, log_id, raft_vote};

/// What there is of a fill is kept for so long for its leader to come back. Then it is given up: perhaps another
/// leader still has the entries.
const KEPT: Duration = Duration::from_secs(600);

/// What there is of a fill.
#[derive(Default)]
pub(crate) struct Incoming {
    /// Of the last try. Of an earlier one there may still be calls under way.
    number: u64,
    fill: Option<Fill>,
    /// When the last call of it came.
    heard: Option<Instant>,
}

impl Incoming {
    pub(super) fn give_up(&mut self) {
        self.fill = None;
    }

    fn wanted(&self) -> Result<FillAnswer, StorageError> {
        let fill = self
            .fill
            .as_ref()
            .ok_or_else(|| refusal("no fill is under way"))?;
        Ok(FillAnswer::Wanted {
            number: self.number,
            place: fill.wanted(),
            there: fill.progress().0,
        })
    }
}

fn refusal(words: &str) -> StorageError {
    StorageError::Io(words.into())
}

fn storage(error: FillError) -> StorageError {
    match error {
        FillError::Storage(error) => error,
        other => refusal(&other.to_string()),
    }
}

/// Answers a leader's call. Calls are answered in the order in which they are polled first, and go on to their end
/// if the answer is not waited for any more: what is there stays.
///
/// # Errors
/// What it refuses, in words; [`ProposeError::Stopped`] when the group is closed.
pub(crate) async fn answer(
    group: &Group,
    from: NodeId,
    request: FillRequest,
) -> Result<FillAnswer, ProposeError> {
    let shared = &group.shared;
    let mut incoming = Arc::clone(&shared.fills.incoming).lock_owned().await;
    incoming.heard = Some(Instant::now());
    match request {
        FillRequest::Begin { vote, manifest } => {
            if incoming.fill.is_none() {
                shared.runtime.spawn(expire(Arc::downgrade(shared)));
            }
            begin(group, from, vote, manifest, incoming).await
        }
        FillRequest::Data { number, at, bytes } => {
            let progress = Arc::clone(&shared.fills.progress);
            blocking(move || {
                let answer = write(&mut incoming, number, at, &bytes);
                *progress.lock() = incoming.fill.as_ref().map(|fill| seen(from, fill));
                answer
            })
            .await
        }
        FillRequest::End { vote, number } => {
            let complete = |fill: &mut Fill| fill.wanted().is_none();
            let fill = match incoming.number == number {
                true => incoming.fill.take_if(complete),
                false => None,
            };
            let fill = fill.ok_or_else(|| refusal("no such fill is complete"))?;
            let group = group.clone();
            let installing = shared.runtime.spawn(async move {
                // Nothing else is answered meanwhile.
                let _incoming = incoming;
                let installed = install(&group, vote, fill).await;
                *group.shared.fills.progress.lock() = None;
                installed
            });
            installing.await.map_err(|_| ProposeError::Stopped)?
        }
    }
}

/// Gives up what nobody brings the rest of.
async fn expire(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(KEPT / 10).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let is_forgotten = {
            let incoming = shared.fills.incoming.lock().await;
            if incoming.fill.is_none() {
                return;
            }
            incoming.heard.is_none_or(|heard| heard.elapsed() > KEPT)
        };
        if is_forgotten {
            tracing::info!(
                group = shared.group.0,
                "a fill is given up, its leader does not come back"
            );
            return shared.fills.give_up().await;
        }
    }
}

fn seen(from: NodeId, fill: &Fill) -> FillProgress {
    let (bytes_done, bytes_total) = fill.progress();
    FillProgress {
        peer: from,
        incoming: true,
        bytes_done,
        bytes_total,
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<FillAnswer, StorageError> + Send + 'static,
) -> Result<FillAnswer, ProposeError> {
    let done = crate::blocking::spawn_blocking(work).await;
    Ok(done.map_err(|_| ProposeError::Stopped)??)
}

async fn begin(
    group: &Group,
    from: NodeId,
    vote: RaftVote,
    manifest: Bytes,
    mut incoming: OwnedMutexGuard<Incoming>,
) -> Result<FillAnswer, ProposeError> {
    let log = group.log().clone();
    let progress = Arc::clone(&group.shared.fills.progress);
    blocking(move || {
        let own = log.raft_state().vote.map_or(vote, raft_vote);
        if own > vote {
            return Ok(FillAnswer::Over(own));
        }
        let manifest = Manifest::decode(&manifest).map_err(|e| refusal(&e.to_string()))?;
        let purged = manifest.purged();
        if purged.term > vote.leader_id.term {
            return Err(refusal("a leader that purged entries of a later term"));
        }
        if holds(&log, &manifest)? {
            incoming.give_up();
            *progress.lock() = None;
            return Ok(FillAnswer::Over(own));
        }
        let earlier = incoming.fill.take();
        incoming.number += 1;
        let fill = log.begin_fill(from.0, manifest, earlier).map_err(storage)?;
        *progress.lock() = Some(seen(from, &fill));
        incoming.fill = Some(fill);
        incoming.wanted()
    })
    .await
}

/// Whether the log goes as far as the manifest: its leader only did not know. What was purged by a leader is
/// committed, so the log below is the same.
fn holds(log: &GroupLog, manifest: &Manifest) -> Result<bool, StorageError> {
    let purged = manifest.purged();
    let here = log.raft_state().purged;
    Ok(here.is_some_and(|here| here.index >= purged.index)
        || log.entry_id(purged.index)? == Some(purged))
}

fn write(
    incoming: &mut Incoming,
    number: u64,
    at: FillPlace,
    bytes: &Bytes,
) -> Result<FillAnswer, StorageError> {
    let fill = incoming.fill.as_mut().filter(|_| incoming.number == number);
    let fill = fill.ok_or_else(|| refusal("this fill was begun anew"))?;
    if let Err(error) = fill.write(at, bytes) {
        // A part that does not fit is of no harm to what is there, nor is one for which there is no room yet.
        if !matches!(error, FillError::Refused(_) | FillError::NoSpace { .. }) {
            incoming.give_up();
        }
        return Err(storage(error));
    }
    incoming.wanted()
}

async fn install(group: &Group, vote: RaftVote, fill: Fill) -> Result<FillAnswer, ProposeError> {
    let purged = fill.manifest().purged();
    let last_membership = match fill.manifest().membership() {
        Some((id, data)) => {
            let membership = membership::decode(&data).map_err(|e| refusal(&e.to_string()))?;
            StoredMembershipOf::<TypeConfig>::new(Some(log_id(id)), membership)
        }
        None => StoredMembershipOf::<TypeConfig>::default(),
    };
    let meta = SnapshotMetaOf::<TypeConfig> {
        last_log_id: Some(log_id(purged)),
        last_membership,
    };
    let bytes = fill.progress().1;
    let snapshot = SnapshotOf::<TypeConfig, Brought> {
        meta,
        snapshot: Some(Box::new(fill)),
    };
    let raft = group.raft().ok_or(ProposeError::Stopped)?;
    let answer = raft.install_full_snapshot(vote, snapshot).await;
    let answer = answer.map_err(|_| ProposeError::Stopped)?;
    let group = group.id();
    tracing::info!(
        group = group.0,
        bytes,
        upto = purged.index,
        "the replica was filled"
    );
    Ok(FillAnswer::Over(answer.vote))
}
