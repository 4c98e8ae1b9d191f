//! openraft's log store over a [`klamm_storage::GroupLog`].
//!
//! Appends return at once and report through the journal's completion. Votes, truncations and purges are durable when
//! they return; waiting for that suspends only this group's main task. All of them enter the journal's queue in the
//! order of the calls.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use klamm_records::EntryId;
use klamm_records::plant::{self, Bug};
use klamm_storage::{Completion, Entry, GroupLog, StorageError};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use crate::lane;
use crate::machine::{end_offset_at, reads_data};
use crate::membership;
use crate::proposal::{Pending, Proposal};
use crate::shared::Shared;
use crate::types::{
    LogEntry, LogId, Payload, RaftVote, TypeConfig, entry_id, io_error, log_id, raft_vote,
    stored_vote,
};

/// Bytes of payload in one replication request. openraft itself only counts entries.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Bytes of payload read at a time for apply.
pub(crate) const MAX_APPLY_BYTES: usize = 4 << 20;
/// Entries read at a time for apply; without data their bytes do not bound them.
pub(crate) const MAX_APPLY_ENTRIES: u64 = 1024;

/// The log of one group, as openraft writes it.
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

/// The log of one group, as openraft reads it.
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

impl LogStore {
    pub(crate) fn new(shared: Arc<Shared>) -> LogStore {
        LogStore { shared }
    }

    /// What to store for a proposal; `end` is the log end offset before it.
    fn stored_proposal(&self, pending: Arc<Pending>, end: i64) -> klamm_storage::Payload {
        if self.shared.lane.is_stale(&pending) {
            // Overtaken by a lost lease: its place is behind those that were refused. Nobody has
            // seen this entry yet, so it may as well be blank.
            if self.shared.lane.park(pending) {
                self.shared
                    .runtime
                    .spawn(lane::renew(Arc::clone(&self.shared)));
            }
            return klamm_storage::Payload::Blank;
        }
        match &pending.proposal {
            Proposal::Command(data) => klamm_storage::Payload::Command(data.clone()),
            Proposal::Batch {
                batch,
                expected_offset,
            } => {
                assert_eq!(
                    *expected_offset, end,
                    "group {}: proposal {pending} expects another base offset than the log's end",
                    self.shared.group
                );
                klamm_storage::Payload::Batch(batch.clone())
            }
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.shared.log.raft_state();
        let last = state.last.or(state.purged);
        Ok(LogState {
            last_purged_log_id: state.purged.map(log_id),
            last_log_id: last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            shared: Arc::clone(&self.shared),
        }
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        if plant::is(Bug::VoteAfterEntries) {
            let (shared, vote) = (Arc::clone(&self.shared), stored_vote(vote));
            self.shared.runtime.spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                durable(|done| shared.log.save_vote(vote, done)).await
            });
            return Ok(());
        }
        durable(|done| self.shared.log.save_vote(stored_vote(vote), done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.shared.log.set_committed(entry_id(committed));
        }
        Ok(())
    }

    /// May be behind what is applied (it is stored lazily), never beyond the log's end.
    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let state = self.shared.log.raft_state();
        let committed = state
            .committed
            .filter(|committed| state.last.is_some_and(|last| committed.index <= last.index));
        Ok(committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let log = &self.shared.log;
        self.shared.stirred.store(true, Ordering::Relaxed);
        let mut end = log.end_offset();
        let mut diverged = false;
        let mut hasty = Vec::new();
        let stored: Vec<Entry> = entries
            .into_iter()
            .map(|entry| {
                let payload = match entry.payload {
                    Payload::Blank => klamm_storage::Payload::Blank,
                    Payload::Membership(membership) => {
                        klamm_storage::Payload::Membership(membership::encode(&membership))
                    }
                    Payload::Command(data) => klamm_storage::Payload::Command(data),
                    Payload::Batch(batch) => {
                        // From the leader, stamped there: both logs assign the same offsets.
                        diverged |= batch.header.base_offset != end;
                        klamm_storage::Payload::Batch(batch)
                    }
                    Payload::Proposed(pending) => {
                        if plant::is(Bug::AckBeforeQuorum) {
                            hasty.push((Arc::clone(&pending), entry_id(entry.id)));
                        }
                        self.stored_proposal(pending, end)
                    }
                };
                if let klamm_storage::Payload::Batch(batch) = &payload {
                    end += i64::from(batch.header.last_offset_delta) + 1;
                }
                Entry {
                    id: entry_id(entry.id),
                    payload,
                }
            })
            .collect();
        if diverged {
            return Err(io::Error::other(
                "the leader's log assigned other offsets to a batch than this one would",
            ));
        }
        let done: Completion = Box::new(move |result| {
            for (pending, id) in hasty {
                pending.finish(Ok(id));
            }
            callback.io_completed(result.map_err(io_error));
        });
        let appended_end = log.append(stored, done).map_err(io_error)?;
        assert_eq!(
            appended_end, end,
            "group {}: the log assigned other offsets than counted",
            self.shared.group
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.check_cut(last)?;
        durable(|done| self.shared.log.truncate_after(last.map(entry_id), done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        durable(|done| self.shared.log.purge(entry_id(upto), done)).await?;
        self.shared.purged.notify_waiters();
        Ok(())
    }
}

impl LogStore {
    /// What is committed is never cut off. It cannot come to that; should it, the process ends before anything is lost.
    fn check_cut(&self, last: Option<LogId>) -> io::Result<()> {
        let shared = &self.shared;
        let committed = shared.committed_end();
        // Of a log that cannot be read there is nothing to compare.
        let Ok(end) = end_offset_at(&shared.log, last.map(|id| id.index)) else {
            return Ok(());
        };
        if end >= committed {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "group {} was to be cut to offset {end}, and is committed up to {committed}",
            shared.group
        )))
    }
}

/// Starts an operation of the store and waits for its completion.
pub(crate) async fn durable(start: impl FnOnce(Completion)) -> io::Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    start(Box::new(move |result| {
        // The receiver is gone only if the group was stopped meanwhile.
        let _ = sender.send(result);
    }));
    match receiver.await {
        Ok(result) => result.map_err(io_error),
        Err(_) => Err(io::Error::other(
            "the store stopped before the operation was durable",
        )),
    }
}

impl LogReader {
    fn log(&self) -> &GroupLog {
        &self.shared.log
    }

    /// The part of `range` that the log holds, as `start..end`.
    fn held(&self, range: &impl RangeBounds<u64>) -> std::ops::Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        let state = self.log().raft_state();
        let first = state.purged.map_or(0, |purged| purged.index + 1);
        let after_last = state.last.map_or(0, |last| last.index + 1);
        start.max(first)..end.min(after_last)
    }

    fn read(
        &self,
        range: std::ops::Range<u64>,
        max_bytes: usize,
        with_data: bool,
    ) -> io::Result<Vec<LogEntry>> {
        let stored = self.stored(range, max_bytes, with_data);
        from_stored(stored.map_err(io_error)?)
    }

    fn stored(
        &self,
        range: std::ops::Range<u64>,
        max_bytes: usize,
        with_data: bool,
    ) -> Result<Vec<Entry>, StorageError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.log().entries(range, max_bytes, with_data)
    }
}

fn from_stored(entries: Vec<Entry>) -> io::Result<Vec<LogEntry>> {
    entries.into_iter().map(LogEntry::from_stored).collect()
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<LogEntry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(self.held(&range), usize::MAX, reads_data(&self.shared))
    }

    /// For replication: bounded in bytes. Of what cannot be read that which lies before it is sent, and then nothing:
    /// openraft takes no entries for a heartbeat, and an error would end the process with all its groups, at every start
    /// anew.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        let range = self.held(&(start..end));
        let first = range.start..range.end.min(range.start + 1);
        let mut stored = self.stored(range, MAX_REQUEST_BYTES, true);
        if matches!(&stored, Err(error) if error.is_damage()) {
            stored = self.stored(first, MAX_REQUEST_BYTES, true);
        }
        match stored {
            Err(error) if error.is_damage() => {
                self.shared.cannot_send(&error);
                tokio::time::sleep(self.shared.heartbeat_interval).await;
                Ok(Vec::new())
            }
            stored => from_stored(stored.map_err(io_error)?),
        }
    }

    /// For apply: in bounded steps, with data only if the state machine wants it.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = io::Result<LogEntry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let held = self.held(&range);
        let reader = &*self;
        stream::try_unfold(held, move |rest| async move {
            if rest.is_empty() {
                return Ok(None);
            }
            let step = rest.start..rest.end.min(rest.start + MAX_APPLY_ENTRIES);
            let entries = reader.read(step, MAX_APPLY_BYTES, reader.shared.wants_data)?;
            let Some(last) = entries.last() else {
                return Err(io::Error::other(format!(
                    "the log has no entry {}",
                    rest.start
                )));
            };
            let rest = last.id.index + 1..rest.end;
            Ok(Some((stream::iter(entries).map(Ok), rest)))
        })
        .try_flatten()
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.log().raft_state().vote.map(raft_vote))
    }

    /// The last entry of each term in `range`, without reading the log.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        let (first, last) = (range.start().index, range.end().index);
        let terms = self.log().terms();
        let ends = terms.iter().skip(1).map(|(_, next)| next - 1).chain([last]);
        let within = terms
            .iter()
            .zip(ends)
            .filter(|((_, begin), end)| *begin <= last && *end >= first);
        Ok(within
            .map(|(&(term, _), end)| {
                log_id(EntryId {
                    term,
                    index: end.min(last),
                })
            })
            .collect())
    }
}

#[cfg(test)]
#[path = "log_store_test.rs"]
mod tests;
