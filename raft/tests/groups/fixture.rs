//! A node to test on: store, groups, and a state machine that remembers what it was told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use klamm_raft::{
    Applied, Group, Groups, GroupsOptions, Leadership, NodeId, Proposal, ProposeError, StateMachine,
};
use klamm_records::{BatchBuilder, BatchHeader, EntryId, GroupId, NewRecord};
use klamm_storage::{Batch, GroupLog, StorageError};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub(crate) use crate::store::{Computer, create_log};

pub(crate) const NODE: NodeId = NodeId(1 << 32);
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn options(node: NodeId) -> GroupsOptions {
    GroupsOptions {
        node,
        heartbeat_interval: Duration::from_millis(50),
        election_timeout: Duration::from_millis(200),
    }
}

/// A command that makes a [`Recorder`] panic.
pub(crate) const PANIC: &str = "panic";

/// What the fatal hook was called with.
pub(crate) type FatalCalls = Arc<Mutex<Vec<(GroupId, String)>>>;

/// Groups whose fatal errors are collected.
pub(crate) fn groups() -> (Groups, FatalCalls) {
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&fatal);
    let groups = Groups::new(
        options(NODE),
        tokio::runtime::Handle::current(),
        Arc::new(move |group, cause| hook.lock().push((group, cause))),
    );
    (groups, fatal)
}

pub(crate) fn alone() -> Option<BTreeSet<NodeId>> {
    Some(BTreeSet::from([NODE]))
}

/// What a [`Recorder`] was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: EntryId,
    /// Base and next offset of a batch.
    pub(crate) offsets: Option<(i64, i64)>,
    pub(crate) data: Bytes,
}

/// A state machine that remembers.
pub(crate) struct Recorder {
    wants_data: bool,
    pub(crate) applied: Mutex<Vec<Seen>>,
    pub(crate) committed: AtomicI64,
    /// Where its log's entries began when it was told to read what lies before.
    pub(crate) restored: Mutex<Vec<i64>>,
    pub(crate) keeps_for_absent: AtomicBool,
    leadership: watch::Sender<Leadership>,
}

impl Recorder {
    pub(crate) fn new(wants_data: bool) -> Arc<Recorder> {
        let nobody = Leadership {
            term: 0,
            leader: None,
            serving: false,
        };
        Arc::new(Recorder {
            wants_data,
            applied: Mutex::default(),
            committed: AtomicI64::new(0),
            restored: Mutex::default(),
            keeps_for_absent: AtomicBool::new(true),
            leadership: watch::Sender::new(nobody),
        })
    }

    /// Waits until the node serves; its term.
    pub(crate) async fn serving(&self) -> u64 {
        let mut leadership = self.leadership.subscribe();
        let serving = leadership.wait_for(|now| now.serving);
        tokio::time::timeout(PATIENCE, serving)
            .await
            .unwrap()
            .unwrap()
            .term
    }

    pub(crate) fn committed(&self) -> i64 {
        self.committed.load(Ordering::SeqCst)
    }

    /// Offsets of the applied batches, in the order of apply.
    pub(crate) fn batches(&self) -> Vec<(i64, i64)> {
        self.applied
            .lock()
            .iter()
            .filter_map(|seen| seen.offsets)
            .collect()
    }
}

impl StateMachine for Recorder {
    fn wants_data(&self) -> bool {
        self.wants_data
    }

    fn committed(&self, end_offset: i64) {
        let before = self.committed.swap(end_offset, Ordering::SeqCst);
        assert!(
            before < end_offset,
            "the committed offset went from {before} to {end_offset}"
        );
    }

    fn apply(&self, entry: Applied) {
        if let Applied::Command { data, .. } = &entry {
            assert!(*data != PANIC, "as it was told to");
        }
        let seen = match entry {
            Applied::Batch { id, batch } => {
                assert_eq!(
                    i64::try_from(id.term).unwrap(),
                    i64::from(batch.header.partition_leader_epoch)
                );
                assert_eq!(batch.bytes.is_empty(), !self.wants_data);
                assert!(self.committed() >= batch.header.next_offset());
                let offsets = Some((batch.header.base_offset, batch.header.next_offset()));
                Seen {
                    id,
                    offsets,
                    data: batch.bytes,
                }
            }
            Applied::Command { id, data } => Seen {
                id,
                offsets: None,
                data,
            },
            Applied::Other { id } => Seen {
                id,
                offsets: None,
                data: Bytes::new(),
            },
        };
        let mut applied = self.applied.lock();
        if let Some(last) = applied.last() {
            assert_eq!(
                seen.id.index,
                last.id.index + 1,
                "entries are applied without gaps"
            );
        }
        applied.push(seen);
    }

    fn keeps_for_absent_voters(&self) -> bool {
        self.keeps_for_absent.load(Ordering::SeqCst)
    }

    fn restore(&self, log: &GroupLog, end_offset: i64) -> Result<(), StorageError> {
        assert!(end_offset >= log.entries_start_offset());
        self.applied.lock().clear();
        self.restored.lock().push(end_offset);
        Ok(())
    }

    fn leadership(&self, now: Leadership) {
        self.leadership.send_replace(now);
    }
}

/// A batch of `records` records whose values hold `bytes` bytes together.
pub(crate) fn batch(records: i32, bytes: usize) -> Batch {
    let value = vec![b'x'; bytes / usize::try_from(records).unwrap()];
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder
            .push(&NewRecord {
                value: Some(&value),
                ..NewRecord::default()
            })
            .unwrap();
    }
    let bytes = builder.build().unwrap();
    Batch {
        header: BatchHeader::parse(&bytes).unwrap(),
        bytes,
    }
}

pub(crate) type Answer = oneshot::Receiver<Result<EntryId, ProposeError>>;

/// Proposes and hands back where the answer will be.
pub(crate) fn propose(group: &Group, term: u64, proposal: Proposal) -> Answer {
    let (sender, receiver) = oneshot::channel();
    group.propose(
        term,
        proposal,
        Box::new(move |result| drop(sender.send(result))),
    );
    receiver
}

/// Proposes one batch of one record at the log's end; waits until it is committed.
pub(crate) async fn append_one(group: &Group, term: u64) -> EntryId {
    let proposal = Proposal::Batch {
        batch: batch(1, 100),
        expected_offset: group.log().end_offset(),
    };
    answer(propose(group, term, proposal)).await.unwrap()
}

pub(crate) async fn answer(answer: Answer) -> Result<EntryId, ProposeError> {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("an answer in time")
        .unwrap()
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = tokio::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
