//! What a group's entries do, and the adapter that drives it from openraft.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use klamm_records::EntryId;
use klamm_records::plant::{self, Bug};
use klamm_storage::{Batch, Fill, GroupLog, StorageError};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::leadership::Leadership;
use crate::log_store::durable;
use crate::membership;
use crate::shared::Shared;
use crate::types::{LogId, Payload, TypeConfig, entry_id, io_error, log_id};

/// What a group's entries do on this node. Called from the group's tasks, or the journal's thread: must not block, and not
/// wait for the store.
pub trait StateMachine: Send + Sync + 'static {
    /// Whether `apply` wants the bytes of batches (metadata, coordinators) or only their headers.
    /// Also decides what comes again after a restart: with data, all that is left in the log and
    /// committed; without, what was committed after the last checkpoint. Records whose entries were
    /// purged (compaction does that) do not come: see [`StateMachine::restore`].
    fn wants_data(&self) -> bool;
    /// Whether followers hear of every commit at once, instead of with the next entries or heartbeat: when what is
    /// committed is read on them, too.
    fn is_read_on_followers(&self) -> bool {
        self.wants_data()
    }
    /// Everything below Kafka offset `end_offset` is committed. On the leader this comes at
    /// commit, before apply; on followers with apply; and once at open. Never goes back.
    fn committed(&self, end_offset: i64);
    /// A committed entry, in order.
    fn apply(&self, entry: Applied);
    /// Whether a leader keeps entries for a voter whose node is gone, as long as that takes. If not, the voter is filled
    /// when it comes back: for logs that are made short, and so are filled quickly.
    fn keeps_for_absent_voters(&self) -> bool {
        true
    }
    /// What lies below `end_offset` is committed and comes as no entry: a machine that keeps what
    /// records say reads them here, from the log start on. Called before the first
    /// entry when the group opens and entries are purged, if it wants data; and, whatever it wants, when the
    /// replica was filled with another one's log because its own ended before what that one still had as
    /// entries: then in the middle of its life. The log start may have moved, too. On a thread that may block.
    ///
    /// # Errors
    /// When the log cannot be read. The group then does not open, or fails.
    fn restore(&self, log: &GroupLog, end_offset: i64) -> Result<(), StorageError> {
        let _ = (log, end_offset);
        Ok(())
    }
    /// Leadership of the group changed (called in order, from one task).
    fn leadership(&self, now: Leadership);
}

/// A committed entry handed to the state machine.
#[derive(Clone, Debug)]
pub enum Applied {
    /// A record batch; `batch.bytes` is empty unless the machine wants data. Offset and epoch are
    /// those of `batch.header`: the first bytes of a batch just appended may still be unstamped.
    Batch {
        /// The entry.
        id: EntryId,
        /// The batch, its header as stamped.
        batch: Batch,
    },
    /// An order that takes no offset.
    Command {
        /// The entry.
        id: EntryId,
        /// What was proposed.
        data: Bytes,
    },
    /// Blank or membership.
    Other {
        /// The entry.
        id: EntryId,
    },
}

/// The files of a fill that is complete.
pub(crate) type Brought = Option<Box<Fill>>;

type StoredMembership = StoredMembershipOf<TypeConfig>;

impl Applied {
    /// The entry.
    pub fn id(&self) -> EntryId {
        match self {
            Applied::Batch { id, .. } | Applied::Command { id, .. } | Applied::Other { id } => *id,
        }
    }
}

/// openraft's state machine over a [`StateMachine`].
pub(crate) struct Machine {
    shared: Arc<Shared>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Machine {
    /// The machine at the place where it resumes; reads the log's index, not its data.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) fn resume(shared: Arc<Shared>) -> io::Result<Machine> {
        let applied = applied_at_open(&shared)?;
        let membership = membership_at(&shared.log, applied)?;
        Ok(Machine {
            shared,
            applied: applied.map(log_id),
            membership,
        })
    }

    async fn install(&self, fill: Fill) -> io::Result<()> {
        let log = self.shared.log.clone();
        durable(move |done| {
            // Waits for the disk.
            crate::blocking::spawn_blocking(move || log.install(fill, done));
        })
        .await
    }

    async fn move_start(&self, offset: i64) -> io::Result<()> {
        let log = &self.shared.log;
        let offset = offset.min(log.end_offset());
        durable(|done| log.set_start_offset(offset, done)).await
    }

    fn apply_one(&mut self, id: LogId, payload: Payload) -> io::Result<()> {
        let machine = &self.shared.machine;
        match payload {
            Payload::Batch(batch) => {
                self.shared.committed(batch.header.next_offset());
                machine.apply(Applied::Batch {
                    id: entry_id(id),
                    batch,
                });
            }
            Payload::Command(data) => machine.apply(Applied::Command {
                id: entry_id(id),
                data,
            }),
            Payload::Blank => machine.apply(Applied::Other { id: entry_id(id) }),
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                machine.apply(Applied::Other { id: entry_id(id) });
            }
            Payload::Proposed(pending) => {
                return Err(io::Error::other(format!(
                    "entry {id} came back from the log as proposal {pending}"
                )));
            }
        }
        self.applied = Some(id);
        self.shared.applied(id.leader_id.term);
        Ok(())
    }
}

/// Where a group's machine resumes, which is told what is committed there. Reads the log's index, not its data.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn applied_at_open(shared: &Shared) -> io::Result<Option<EntryId>> {
    let log = &shared.log;
    let state = log.raft_state();
    // `committed` is durable lazily: it may be behind what was purged, never beyond the end.
    let committed = state
        .committed
        .max_by_index(state.purged)
        .min_by_index(state.last);
    let applied = match shared.wants_data {
        true => state.purged,
        false => committed,
    };
    if !plant::is(Bug::HighWatermarkForgotten) {
        shared.committed(committed_end(log, applied)?);
    }
    Ok(applied)
}

/// Has the machine read what comes as no entry.
pub(crate) async fn restore(shared: &Arc<Shared>, end_offset: i64) -> Result<(), StorageError> {
    let work = Arc::clone(shared);
    let restore = move || work.machine.restore(&work.log, end_offset);
    let restored = crate::blocking::spawn_blocking(restore).await;
    restored.map_err(|error| StorageError::Io(error.to_string().into()))?
}

/// Comparison of optional entry ids by index; `None` is before everything.
trait ByIndex {
    fn max_by_index(self, other: Self) -> Self;
    fn min_by_index(self, other: Self) -> Self;
}

impl ByIndex for Option<EntryId> {
    fn max_by_index(self, other: Self) -> Self {
        if self.map(|id| id.index) < other.map(|id| id.index) {
            other
        } else {
            self
        }
    }

    fn min_by_index(self, other: Self) -> Self {
        if self.map(|id| id.index) > other.map(|id| id.index) {
            other
        } else {
            self
        }
    }
}

/// The membership in force at `at`.
pub(crate) fn membership_at(log: &GroupLog, at: Option<EntryId>) -> io::Result<StoredMembership> {
    let Some(at) = at else {
        return Ok(StoredMembership::default());
    };
    let Some(entry) = log.membership_at(at.index).map_err(io_error)? else {
        return Ok(StoredMembership::default());
    };
    match entry.payload {
        klamm_storage::Payload::Membership(bytes) => Ok(StoredMembership::new(
            Some(log_id(entry.id)),
            membership::decode(&bytes)?,
        )),
        _ => Err(io::Error::other(format!(
            "entry {:?} is indexed as a membership and is none",
            entry.id
        ))),
    }
}

/// Kafka offset below which all is committed when the log is committed up to `applied`: the end of
/// the last batch at or before it. Blank entries lie in between, one per term.
fn committed_end(log: &GroupLog, applied: Option<EntryId>) -> io::Result<i64> {
    end_offset_at(log, applied.map(|id| id.index)).map_err(io_error)
}

/// Kafka offset after the last batch at or before an entry.
pub(crate) fn end_offset_at(log: &GroupLog, index: Option<u64>) -> Result<i64, StorageError> {
    const STEP: u64 = 32;
    let first = log.raft_state().purged.map_or(0, |purged| purged.index + 1);
    let mut end = index.map_or(0, |index| index + 1);
    while end > first {
        let start = first.max(end.saturating_sub(STEP));
        let entries = log.entries(start..end, usize::MAX, false)?;
        let last_batch = entries.iter().rev().find_map(|entry| match &entry.payload {
            klamm_storage::Payload::Batch(batch) => Some(batch.header.next_offset()),
            _ => None,
        });
        if let Some(end_offset) = last_batch {
            return Ok(end_offset);
        }
        end = start;
    }
    Ok(log.entries_start_offset())
}

impl RaftStateMachine<TypeConfig> for Machine {
    /// A snapshot is a place in the log; the one that fills a replica has the files, already beside its log.
    type SnapshotData = Brought;
    type SnapshotBuilder = LogStart;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let changes_members = matches!(entry.payload, Payload::Membership(_));
            let id = entry.id;
            // openraft's task would end without a word, and the group stand still for ever.
            let applied = catch_unwind(AssertUnwindSafe(|| self.apply_one(id, entry.payload)));
            applied.unwrap_or_else(|_| {
                let cause = format!("the state machine panicked at {:?}", entry_id(id));
                Err(io::Error::other(cause))
            })?;
            // Who changes members waits for this. A proposal was answered at commit; dropping its
            // responder is all that is left to do.
            if let Some(responder) = responder.filter(|_| changes_members) {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<LogStart> {
        let wanted = self.shared.snapshot_at.lock().map(log_id);
        let at = wanted.or_else(|| self.applied.filter(|_| force))?;
        let membership = if Some(at) == self.applied {
            Ok(self.membership.clone())
        } else {
            membership_at(&self.shared.log, Some(entry_id(at)))
        };
        Some(LogStart {
            at,
            membership: Some(membership),
        })
    }

    async fn get_snapshot_builder(&mut self) -> LogStart {
        unreachable!("openraft asks only for try_create_snapshot_builder")
    }

    /// Makes what a fill brought the log. openraft has truncated what contradicts it, appends nothing until this
    /// returns, and then begins behind it.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        brought: Brought,
    ) -> io::Result<()> {
        let Some(upto) = meta.last_log_id else {
            return Ok(());
        };
        let held = self.shared.log.entry_id(upto.index).map_err(io_error)?;
        match brought {
            Some(fill) if held != Some(entry_id(upto)) => self.install(*fill).await?,
            // The entries came in another way meanwhile; they are not applied one by one any more.
            Some(fill) => self.move_start(fill.manifest().start_offset()).await?,
            None if held == Some(entry_id(upto)) => {}
            None => {
                let cause = format!("group {}: no segments for {meta}", self.shared.group);
                return Err(io::Error::new(io::ErrorKind::Unsupported, cause));
            }
        }
        if self.applied < Some(upto) {
            let end = committed_end(&self.shared.log, Some(entry_id(upto)))?;
            restore(&self.shared, end).await.map_err(io_error)?;
            self.applied = Some(upto);
            self.membership = meta.last_membership.clone();
            self.shared.committed(end);
            self.shared.applied(upto.leader_id.term);
        }
        self.shared.purged.notify_waiters();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, Brought>>> {
        let purged = self.shared.log.raft_state().purged;
        // openraft sends snapshots as soon as it has resolved to purge, and takes it for fatal if there is none. The
        // purge may wait long yet: until then there is one of nothing, which is not sent.
        if purged.is_none() && self.shared.opening.load(Ordering::Acquire) {
            return Ok(None);
        }
        let last_membership = membership_at(&self.shared.log, purged)?;
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: purged.map(log_id),
            last_membership,
        };
        Ok(Some(SnapshotOf::<TypeConfig, Brought> {
            meta,
            snapshot: None,
        }))
    }
}

/// Builds the "snapshot" that lets openraft purge the log up to an entry.
pub(crate) struct LogStart {
    at: LogId,
    membership: Option<io::Result<StoredMembership>>,
}

impl RaftSnapshotBuilder<TypeConfig> for LogStart {
    type SnapshotData = Brought;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, Brought>> {
        let last_membership = self
            .membership
            .take()
            .ok_or_else(|| io::Error::other("built twice"))??;
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: Some(self.at),
            last_membership,
        };
        Ok(SnapshotOf::<TypeConfig, Brought> {
            meta,
            snapshot: None,
        })
    }
}

/// Whether data is wanted when openraft reads entries: always for replication, and while a group
/// opens only if its machine applies data.
pub(crate) fn reads_data(shared: &Shared) -> bool {
    !shared.opening.load(Ordering::Acquire) || shared.wants_data
}
