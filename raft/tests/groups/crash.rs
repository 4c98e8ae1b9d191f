//! Power cuts, disks that fail, processes that end.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use klamm_raft::{Proposal, ProposeError};
use klamm_records::GroupId;
use klamm_storage::disk::{Fault, FaultRule, Operation};

use crate::fixture::*;

/// The machine as it comes back.
fn cut_power(computer: &Computer, seed: u64) -> Computer {
    let disk = computer.disk.crash(seed);
    Computer {
        indexes: computer.indexes.after_crash(disk.clone()),
        disk,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_what_was_acknowledged_through_power_cuts() {
    let mut computer = Computer::new();
    let mut acknowledged = 0;
    for seed in 0..24 {
        let store = computer.open();
        let log = match store.group(GroupId(1)) {
            Some(log) => log,
            None => create_log(&store, 1),
        };
        assert!(
            log.end_offset() >= acknowledged,
            "seed {seed}: {} < {acknowledged}",
            log.end_offset()
        );
        let (groups, fatal) = groups();
        let machine = Recorder::new(seed % 2 == 0);
        let group = groups
            .open(log.clone(), alone(), machine.clone())
            .await
            .unwrap();
        let term = machine.serving().await;
        assert_eq!(
            machine.committed(),
            log.end_offset(),
            "a new leader commits what it finds"
        );

        let known = Arc::new(AtomicI64::new(acknowledged));
        let mut expected_offset = log.end_offset();
        for n in 0..200 {
            let records = 1 + n % 4;
            let end = expected_offset + i64::from(records);
            let proposal = Proposal::Batch {
                batch: batch(records, 200),
                expected_offset,
            };
            expected_offset = end;
            let known = Arc::clone(&known);
            let done = move |result: Result<_, ProposeError>| {
                if result.is_ok() {
                    known.fetch_max(end, Ordering::SeqCst);
                }
            };
            group.propose(term, proposal, Box::new(done));
            if n % 20 == 0 {
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            if n == 150 && seed % 3 == 0 {
                store.checkpoint().unwrap();
            }
        }
        // The power goes at once: whatever was said to be committed before must be there.
        acknowledged = known.load(Ordering::SeqCst);
        let after = cut_power(&computer, seed);
        groups.shutdown().await;
        drop(fatal);
        computer = after;
    }
    assert!(acknowledged > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_machine_that_panics_is_fatal() {
    let computer = Computer::new();
    let store = computer.open();
    let (groups, fatal) = groups();
    let machine = Recorder::new(true);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    let _ = answer(propose(&group, term, Proposal::Command(PANIC.into()))).await;
    eventually("the fatal hook", || fatal.lock().len() == 1).await;
    groups.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_fatal_and_acknowledges_nothing() {
    let computer = Computer::new();
    let store = computer.open();
    let (groups, fatal) = groups();
    let machine = Recorder::new(false);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    append_one(&group, term).await;

    computer
        .disk
        .inject(FaultRule::new(Fault::Eio).on(Operation::Sync).repeated());
    let proposal = Proposal::Batch {
        batch: batch(1, 100),
        expected_offset: 1,
    };
    let refused = answer(propose(&group, term, proposal)).await;
    assert!(matches!(refused, Err(ProposeError::Stopped)), "{refused:?}");
    eventually("the fatal hook", || fatal.lock().len() == 1).await;
    let refused = answer(propose(
        &group,
        term,
        Proposal::Command(bytes::Bytes::new()),
    ))
    .await;
    assert!(matches!(refused, Err(ProposeError::Stopped)), "{refused:?}");
    assert_eq!(machine.committed(), 1);
    assert_eq!(fatal.lock().len(), 1);
    groups.shutdown().await;
}
