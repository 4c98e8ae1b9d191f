//! A group whose only member is this replica, led without openraft.
//!
//! With one voter an entry is committed once it is durable, and there is nobody to elect, to send to or to wait for. What is
//! proposed goes straight to the log, in the order of the lane, and the journal's completion answers it. On disk all is as
//! openraft writes it (a vote and an entry without content for each term, the voters as first entry), so that either can take up what the
//! other left: [`begin`] does when a group opens, [`share`] hands over as soon as another replica is to come. A group that was handed over
//! stays with openraft until it is opened again.
//!
//! Invariants
//! - Entries get their index under the lane's lock, and are queued for the journal under it.
//! - What the journal says is durable is committed, in the order of the log: its completions come in that order.
//! - A machine that wants data is none for this: its entries would have to be read again when openraft takes over.
//!
//! Not here: what may be purged (`Group::purge`), the order of proposals (`lane.rs`).

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use klamm_records::EntryId;
use klamm_storage::{Completion, Entry, GroupLog, Payload, StorageError, Vote};
use openraft::Config;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::NodeId;
use crate::leadership::{Leadership, OnFatal};
use crate::log_store::{MAX_APPLY_BYTES, MAX_APPLY_ENTRIES, durable};
use crate::machine::{Applied, applied_at_open, membership_at};
use crate::membership::{self, GroupMembership};
use crate::proposal::{Pending, Proposal, ProposeError};
use crate::shared::Shared;
use crate::types::io_error;

/// How often it is looked whether openraft leads.
const LOOK: Duration = Duration::from_millis(2);

/// See the module.
pub(crate) struct Solo {
    /// The term that this replica leads.
    term: u64,
    /// Index of the next entry. Changes under the lane's lock only.
    next_index: AtomicU64,
    /// Index up to which all is committed.
    committed: AtomicU64,
    work: Mutex<Work>,
    /// Nothing is left to apply.
    rested: Notify,
    /// Takes no more proposals: it has failed.
    has_failed: AtomicBool,
    /// One at a time hands over to openraft, purges, or closes the group.
    pub(crate) handover: tokio::sync::Mutex<()>,
    config: Arc<Config>,
    on_fatal: OnFatal,
}

/// What is committed and waits to be applied.
struct Work {
    queue: VecDeque<Applied>,
    /// A task is at it: whatever comes queues behind.
    is_applying: bool,
    /// Index up to which all is applied.
    applied: u64,
}

/// Whether a replica is the only member its group has, or is to be founded with.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn is_alone(
    log: &GroupLog,
    node: NodeId,
    voters: Option<&BTreeSet<NodeId>>,
) -> io::Result<bool> {
    let state = log.raft_state();
    // A replica in doubt of its log does not lead (R9).
    if log.quarantine().is_some() {
        return Ok(false);
    }
    if !state.is_written() {
        return Ok(voters.is_some_and(|voters| *voters == BTreeSet::from([node])));
    }
    let newest = membership_at(log, state.last.or(state.purged))?;
    Ok(*newest.membership() == only(node))
}

fn only(node: NodeId) -> GroupMembership {
    let voters = BTreeSet::from([node.0]);
    GroupMembership::new_with_defaults(vec![voters], [])
}

/// Begins a term of a group of which [`is_alone`] holds. Serves as soon as that is durable, and what was committed
/// before is applied.
///
/// # Errors
/// When the log cannot be read or written.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    config: Arc<Config>,
    on_fatal: OnFatal,
) -> io::Result<()> {
    let log = &shared.log;
    let applied = applied_at_open(shared)?;
    let state = log.raft_state();
    let last = state.last.or(state.purged);
    let voted = state.vote.map_or(0, |vote| vote.term);
    let term = voted.max(last.map_or(0, |last| last.term)) + 1;
    let mut index = last.map_or(0, |last| last.index + 1);
    // Files and entries that were there before: durable, and with the first entry of the term committed.
    let end_offset = log.end_offset();
    if last.is_none() {
        let id = EntryId { term: 0, index };
        let payload = Payload::Membership(membership::encode(&only(shared.node)));
        let ignored: Completion = Box::new(|_| {});
        log.append(vec![Entry { id, payload }], ignored)
            .map_err(io_error)?;
        index += 1;
    }
    let vote = Vote {
        term,
        node: shared.node.0,
        committed: true,
    };
    log.save_vote(vote, Box::new(|_| {}));
    let first = EntryId { term, index };
    let solo = Solo {
        term,
        next_index: AtomicU64::new(index + 1),
        committed: AtomicU64::new(applied.map_or(0, |id| id.index)),
        work: Mutex::new(Work {
            queue: VecDeque::new(),
            is_applying: true,
            applied: applied.map_or(0, |id| id.index),
        }),
        rested: Notify::new(),
        has_failed: AtomicBool::new(false),
        handover: tokio::sync::Mutex::default(),
        config,
        on_fatal,
    };
    shared.set_solo(solo);
    // What went before is in the same queue: when this is durable, so are they.
    let (done, is_durable) = oneshot::channel();
    let blank = Entry {
        id: first,
        payload: Payload::Blank,
    };
    let done: Completion = Box::new(move |result| {
        // The receiver is gone only when the runtime is.
        let _ = done.send(result);
    });
    log.append(vec![blank], done).map_err(io_error)?;
    let next = applied.map_or(0, |id| id.index + 1);
    let begun = Arc::clone(shared);
    shared.runtime.spawn(async move {
        let Some(solo) = begun.solo() else { return };
        match is_durable.await {
            Ok(Ok(())) => solo.serve(&begun, first, next, end_offset),
            Ok(Err(error)) => solo.fail(&begun, &error.to_string()),
            Err(_) => {}
        }
    });
    Ok(())
}

impl Solo {
    /// Index up to which the log is committed.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Index up to which the log is applied.
    pub(crate) fn applied(&self) -> u64 {
        self.work.lock().applied
    }

    /// The first entry of the term is durable: all before it is committed, from entry `next` on not applied.
    fn serve(&self, shared: &Arc<Shared>, first: EntryId, next: u64, end_offset: i64) {
        self.commit(shared, first, Some(end_offset));
        let replayed = catch_unwind(AssertUnwindSafe(|| {
            self.replay(shared, next..first.index + 1)
        }));
        match replayed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return self.fail(shared, &error.to_string()),
            Err(_) => return self.fail(shared, "the state machine panicked"),
        }
        shared.applied(self.term);
        let now = Leadership {
            term: self.term,
            leader: Some(shared.node),
            serving: true,
        };
        shared.set_leadership(now);
        shared.machine.leadership(now);
        self.apply_queued(shared);
    }

    fn replay(&self, shared: &Shared, range: std::ops::Range<u64>) -> Result<(), StorageError> {
        let mut next = range.start;
        while next < range.end {
            let step = next..range.end.min(next + MAX_APPLY_ENTRIES);
            let entries = shared.log.entries(step, MAX_APPLY_BYTES, false)?;
            let Some(last) = entries.last() else {
                return Err(StorageError::Io(
                    format!("the log has no entry {next}").into(),
                ));
            };
            next = last.id.index + 1;
            for entry in entries {
                shared.machine.apply(match entry.payload {
                    Payload::Batch(batch) => Applied::Batch {
                        id: entry.id,
                        batch,
                    },
                    Payload::Command(data) => Applied::Command { id: entry.id, data },
                    Payload::Blank | Payload::Membership(_) => Applied::Other { id: entry.id },
                });
            }
            self.work.lock().applied = next - 1;
        }
        Ok(())
    }

    /// Puts a proposal into the log. Called under the lane's lock.
    pub(crate) fn append(&self, shared: &Arc<Shared>, pending: Arc<Pending>) {
        if pending.term != self.term {
            let refused = ProposeError::NotLeader {
                leader: Some(shared.node),
                maybe_appended: false,
            };
            return answer_later(shared, pending, refused);
        }
        if self.has_failed.load(Ordering::Acquire) {
            return answer_later(shared, pending, ProposeError::Stopped);
        }
        let payload = match &pending.proposal {
            Proposal::Command(data) => Payload::Command(data.clone()),
            Proposal::Batch {
                batch,
                expected_offset,
            } => {
                let end = shared.log.end_offset();
                if *expected_offset != end {
                    let cause = format!(
                        "proposal {pending} expects base offset {expected_offset}, the log ends at {end}"
                    );
                    answer_later(shared, pending, ProposeError::Stopped);
                    return self.fail_later(shared, cause);
                }
                Payload::Batch(batch.clone())
            }
        };
        let id = EntryId {
            term: self.term,
            index: self.next_index.fetch_add(1, Ordering::Relaxed),
        };
        let appended = Arc::clone(shared);
        let done: Completion = Box::new(move |result| {
            let Some(solo) = appended.solo() else { return };
            match result {
                Ok(()) => solo.appended(&appended, id, &pending),
                // It may have been called by the append itself, under the proposer's lock.
                Err(error) => {
                    answer_later(&appended, pending, ProposeError::Stopped);
                    solo.fail_later(&appended, error.to_string());
                }
            }
        });
        // An error the completion tells. A panic would leave a group that takes nothing any more.
        let entry = vec![Entry { id, payload }];
        let append = || shared.log.append(entry, done);
        if catch_unwind(AssertUnwindSafe(append)).is_err() {
            self.fail_later(shared, format!("the log panicked at {id:?}"));
        }
    }

    /// An entry is durable, and so committed. On the journal's thread.
    fn appended(&self, shared: &Arc<Shared>, id: EntryId, pending: &Pending) {
        self.commit(shared, id, pending.proposal.end_offset());
        pending.finish(Ok(id));
        let applied = match &pending.proposal {
            Proposal::Command(data) => Applied::Command {
                id,
                data: data.clone(),
            },
            Proposal::Batch {
                batch,
                expected_offset,
            } => {
                let mut batch = klamm_storage::Batch {
                    header: batch.header,
                    bytes: bytes::Bytes::new(),
                };
                batch.header.base_offset = *expected_offset;
                batch.header.partition_leader_epoch = epoch(id.term);
                Applied::Batch { id, batch }
            }
        };
        let mut work = self.work.lock();
        if work.is_applying {
            work.queue.push_back(applied);
        } else if let Applied::Batch { .. } = applied {
            // Nothing to wait for, and nothing that a machine does with a header alone takes long.
            let run = catch_unwind(AssertUnwindSafe(|| shared.machine.apply(applied)));
            work.applied = id.index;
            drop(work);
            if run.is_err() {
                self.fail_later(shared, panicked(id));
            }
        } else {
            work.queue.push_back(applied);
            work.is_applying = true;
            drop(work);
            let shared = Arc::clone(shared);
            let runtime = shared.runtime.clone();
            runtime.spawn(async move {
                if let Some(solo) = shared.solo() {
                    solo.apply_queued(&shared);
                }
            });
        }
    }

    fn commit(&self, shared: &Shared, id: EntryId, end_offset: Option<i64>) {
        shared.log.set_committed(id);
        self.committed.store(id.index, Ordering::Release);
        if let Some(end_offset) = end_offset {
            shared.committed(end_offset);
        }
    }

    /// Applies what has queued, until nothing is left.
    fn apply_queued(&self, shared: &Arc<Shared>) {
        loop {
            let mut work = self.work.lock();
            let Some(next) = work.queue.pop_front() else {
                work.is_applying = false;
                drop(work);
                return self.rested.notify_waiters();
            };
            drop(work);
            let id = next.id();
            if catch_unwind(AssertUnwindSafe(|| shared.machine.apply(next))).is_err() {
                return self.fail(shared, &panicked(id));
            }
            self.work.lock().applied = id.index;
        }
    }

    /// Returns when all that is committed is applied.
    async fn rest(&self) {
        loop {
            let rested = self.rested.notified();
            tokio::pin!(rested);
            rested.as_mut().enable();
            if !self.work.lock().is_applying {
                return;
            }
            rested.await;
        }
    }

    fn fail_later(&self, shared: &Arc<Shared>, cause: String) {
        let shared = Arc::clone(shared);
        let runtime = shared.runtime.clone();
        runtime.spawn(async move {
            if let Some(solo) = shared.solo() {
                solo.fail(&shared, &cause);
            }
        });
    }

    /// The group has failed: says so, once. Not from inside `propose`.
    fn fail(&self, shared: &Shared, cause: &str) {
        let before = self.has_failed.swap(true, Ordering::AcqRel);
        shared.lane.close();
        if before || shared.closing.load(Ordering::Acquire) {
            return;
        }
        tracing::error!(group = shared.group.0, cause, "raft group failed");
        (self.on_fatal)(shared.group, cause.to_owned());
    }
}

fn panicked(id: EntryId) -> String {
    format!("the state machine panicked at {id:?}")
}

/// Kafka's leader epoch of a term, as storage stamps it.
fn epoch(term: u64) -> i32 {
    i32::try_from(term).expect("terms are small: every election is one")
}

/// Tells the proposer from a task of its own: it may hold what its answer takes.
fn answer_later(shared: &Shared, pending: Arc<Pending>, error: ProposeError) {
    shared
        .runtime
        .spawn(async move { pending.finish(Err(error)) });
}

/// Hands a group over to openraft, so that it can have other members. Returns when openraft leads in a term of its own; at once
/// where it does already. What is proposed meanwhile waits.
///
/// # Errors
/// When the group is closed or has failed; in the latter case it is stopped.
pub(crate) async fn share(shared: &Arc<Shared>) -> io::Result<()> {
    let Some(solo) = shared.solo() else {
        return Ok(());
    };
    if shared.raft().is_some() {
        return Ok(());
    }
    let _one = solo.handover.lock().await;
    if shared.raft().is_some() {
        return Ok(());
    }
    shared.lane.hold();
    let handed = hand_over(shared, solo).await;
    if let Err(error) = &handed {
        solo.fail(shared, &error.to_string());
    }
    handed
}

async fn hand_over(shared: &Arc<Shared>, solo: &Solo) -> io::Result<()> {
    if shared.closing.load(Ordering::Acquire) {
        return Err(io::Error::other("the group is closed"));
    }
    let vote = Vote {
        term: solo.term,
        node: shared.node.0,
        committed: true,
    };
    // It is the vote already; when it is durable, all that was proposed before is, and has been answered.
    durable(|done| shared.log.save_vote(vote, done)).await?;
    if solo.has_failed.load(Ordering::Acquire) {
        return Err(io::Error::other("the group has failed"));
    }
    solo.rest().await;
    let raft = crate::groups::run(shared, Arc::clone(&solo.config)).await?;
    let watch =
        crate::leadership::watch(Arc::clone(shared), raft.clone(), Arc::clone(&solo.on_fatal));
    shared.runtime.spawn(watch);
    raft.trigger()
        .elect(false)
        .await
        .map_err(io::Error::other)?;
    loop {
        let now = shared.leadership();
        if now.serving && now.term > solo.term {
            shared.resume_lane();
            return Ok(());
        }
        if shared.closing.load(Ordering::Acquire) || raft.is_initialized().await.is_err() {
            return Err(io::Error::other("the group was stopped"));
        }
        tokio::time::sleep(LOOK).await;
    }
}
