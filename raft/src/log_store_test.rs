//! The log store against openraft's own suite, and what the suite does not know of.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use klamm_records::{BatchBuilder, BatchHeader, NewRecord, STAMP_LEN};
use klamm_storage::{Batch, Store};
use openraft::alias::LogIdOf;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{RaftLogReader, StorageError};

use super::*;
use crate::leadership::Leadership;
use crate::machine::{Applied, Machine, StateMachine};
use crate::network::NoPeers;
use crate::proposal::Proposal;
use crate::shared::Timing;
use crate::store_test::{Computer, create_log};
use crate::{NodeId, ProposeError};

struct Nothing;

impl StateMachine for Nothing {
    fn wants_data(&self) -> bool {
        true
    }
    fn committed(&self, _: i64) {}
    fn apply(&self, _: Applied) {}
    fn leadership(&self, _: Leadership) {}
}

fn shared(store: &Store, group: u64) -> Arc<Shared> {
    let timing = Timing {
        fills: Arc::new(crate::fill::Fills::new()),
        rates: Arc::default(),
        heartbeat_interval: Duration::from_millis(50),
        lease: Duration::from_millis(200),
    };
    let runtime = tokio::runtime::Handle::current();
    let log = create_log(store, group);
    Arc::new(Shared::new(
        NodeId(0),
        log,
        Arc::new(Nothing),
        runtime,
        Arc::new(NoPeers),
        &timing,
    ))
}

/// Builds stores for the suite, each over a log of its own.
struct Builder {
    store: Store,
    groups: AtomicU64,
}

impl StoreBuilder<TypeConfig, LogStore, Machine> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let shared = shared(&self.store, self.groups.fetch_add(1, Ordering::Relaxed));
        let machine = Machine::resume(Arc::clone(&shared)).unwrap();
        Ok(((), LogStore::new(shared), machine))
    }
}

/// All of openraft's suite but `transfer_snapshot`: a snapshot here is a place in the log and has
/// nothing to transfer. `test_all` would run it, so the tests are named one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_openrafts_suite() {
    type Tests = Suite<TypeConfig, LogStore, Machine, Builder, ()>;
    let builder = Builder {
        store: Computer::new().open(),
        groups: AtomicU64::new(1),
    };
    macro_rules! run {
        ($($name:ident)*) => {
            // Several of them sleep for a second.
            futures::join!($(async {
                let ((), store, machine) = builder.build().await.unwrap();
                Tests::$name(store, machine).await.expect(stringify!($name));
            }),*)
        };
    }
    run! {
        last_membership_in_log_initial last_membership_in_log last_membership_in_log_multi_step
        get_membership_initial get_membership_from_log_and_empty_sm get_membership_from_empty_log_and_sm
        get_membership_from_log_le_sm_last_applied get_membership_from_log_gt_sm_last_applied_1
        get_membership_from_log_gt_sm_last_applied_2 get_initial_state_without_init
        get_initial_state_membership_from_empty_log_and_sm get_initial_state_membership_from_sm_inlog_is_smaller
        get_initial_state_membership_from_log_insm_is_smaller get_initial_state_with_state
        get_initial_state_last_log_gt_sm get_initial_state_last_log_lt_sm get_initial_state_inverted_log_order
        get_initial_state_conflict_at_same_index get_initial_state_log_ids get_initial_state_re_apply_committed
        save_vote get_log_entries limited_get_log_entries leader_bounded_stream entries_stream try_get_log_entry
        log_reader_reads_new_entries initial_logs get_log_state get_log_id last_id_in_log last_applied_state
        purge_logs_upto_0 purge_logs_upto_5 purge_logs_upto_20 delete_logs_after_11 delete_logs_after_5
        delete_logs_after_0 delete_logs_after_none append_to_log snapshot_meta snapshot_meta_optional
        apply_single apply_multiple
    };
}

fn batch(records: i32) -> Batch {
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder
            .push(&NewRecord {
                value: Some(b"value"),
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

fn id(term: u64, index: u64) -> LogIdOf<TypeConfig> {
    LogIdOf::<TypeConfig>::new(term.into(), index)
}

/// Enters the lane as `propose` does, but hands the proposal back instead of sending it.
fn enter(shared: &Shared, proposal: Proposal) -> Arc<Pending> {
    let mut sent = None;
    let done = Box::new(|result: Result<_, ProposeError>| panic!("answered: {result:?}"));
    assert!(
        shared
            .lane
            .enter(1, proposal, done, |pending, _| sent = Some(pending))
            .is_ok()
    );
    sent.unwrap()
}

async fn append(store: &mut LogStore, entries: Vec<LogEntry>) {
    let (sender, flushed) = TypeConfig::oneshot();
    store
        .append(entries, IOFlushed::signal(sender))
        .await
        .unwrap();
    flushed.await.unwrap().unwrap();
}

#[tokio::test]
async fn stamps_proposals_and_reads_them_back() {
    let store = Computer::new().open();
    let shared = shared(&store, 1);
    let mut log_store = LogStore::new(Arc::clone(&shared));
    let proposals = [
        Proposal::Batch {
            batch: batch(3),
            expected_offset: 0,
        },
        Proposal::Command(Bytes::from_static(b"order")),
        Proposal::Batch {
            batch: batch(2),
            expected_offset: 3,
        },
    ];
    let entries = (0..).zip(proposals).map(|(index, proposal)| {
        LogEntry::new(id(7, index), Payload::Proposed(enter(&shared, proposal)))
    });
    append(&mut log_store, entries.collect()).await;
    assert_eq!(shared.log.end_offset(), 5);

    let mut reader = log_store.get_log_reader().await;
    let read = reader.try_get_log_entries(..).await.unwrap();
    let Payload::Batch(last) = &read[2].payload else {
        panic!("{}", read[2])
    };
    assert_eq!(
        (last.header.base_offset, last.header.partition_leader_epoch),
        (3, 7)
    );
    // Until it is written its first bytes are the proposer's: the header is what counts.
    assert_eq!(last.bytes[STAMP_LEN..], batch(2).bytes[STAMP_LEN..]);
    assert!(matches!(&read[1].payload, Payload::Command(data) if data == "order"));
    let few = reader.limited_get_log_entries(1, 3).await.unwrap();
    assert_eq!(
        few.iter().map(|entry| entry.id.index).collect::<Vec<_>>(),
        [1, 2]
    );
}

#[tokio::test]
async fn what_is_committed_is_not_cut_off() {
    let store = Computer::new().open();
    let shared = shared(&store, 1);
    let mut log_store = LogStore::new(Arc::clone(&shared));
    let entries = (0..3_u64).map(|index| {
        let proposal = Proposal::Batch {
            batch: batch(2),
            expected_offset: i64::try_from(index).unwrap() * 2,
        };
        LogEntry::new(id(7, index), Payload::Proposed(enter(&shared, proposal)))
    });
    append(&mut log_store, entries.collect()).await;
    shared.committed(4);
    let refused = log_store.truncate_after(Some(id(7, 0))).await.unwrap_err();
    assert!(
        refused.to_string().contains("committed up to 4"),
        "{refused}"
    );
    assert_eq!(shared.log.end_offset(), 6);
    log_store.truncate_after(Some(id(7, 1))).await.unwrap();
    assert_eq!(shared.log.end_offset(), 4);
}

#[tokio::test]
async fn a_proposal_overtaken_by_a_lost_lease_becomes_blank() {
    let store = Computer::new().open();
    let shared = shared(&store, 1);
    let mut log_store = LogStore::new(Arc::clone(&shared));
    let refused = enter(
        &shared,
        Proposal::Batch {
            batch: batch(1),
            expected_offset: 0,
        },
    );
    let queued = enter(
        &shared,
        Proposal::Batch {
            batch: batch(1),
            expected_offset: 1,
        },
    );
    assert!(shared.lane.park(refused), "the first of its generation");
    append(
        &mut log_store,
        vec![LogEntry::new(
            id(1, 0),
            Payload::Proposed(Arc::clone(&queued)),
        )],
    )
    .await;

    assert_eq!(shared.log.end_offset(), 0, "it took no offset");
    let mut reader = log_store.get_log_reader().await;
    let read = reader.try_get_log_entries(..).await.unwrap();
    assert!(matches!(read[0].payload, Payload::Blank), "{}", read[0]);
    assert!(
        !queued.is_of(0),
        "its first sending does not count any more"
    );
}

#[tokio::test]
#[should_panic(expected = "expects another base offset")]
async fn a_wrong_expectation_panics() {
    let store = Computer::new().open();
    let shared = shared(&store, 1);
    let wrong = enter(
        &shared,
        Proposal::Batch {
            batch: batch(1),
            expected_offset: 1,
        },
    );
    append(
        &mut LogStore::new(shared),
        vec![LogEntry::new(id(1, 0), Payload::Proposed(wrong))],
    )
    .await;
}

/// openraft asks for one as soon as it has resolved to purge, and ends the group if there is none.
#[tokio::test]
async fn there_is_a_snapshot_of_nothing_before_the_first_purge() {
    use openraft::storage::RaftStateMachine;
    let shared = shared(&Computer::new().open(), 1);
    let mut machine = Machine::resume(Arc::clone(&shared)).unwrap();
    assert!(machine.get_current_snapshot().await.unwrap().is_none());
    shared.opening.store(false, Ordering::Release);
    let snapshot = machine.get_current_snapshot().await.unwrap();
    assert_eq!(snapshot.unwrap().meta.last_log_id, None);
}
