//! One node, one voter per group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use klamm_raft::{Proposal, ProposeError};
use klamm_records::GroupId;
use parking_lot::Mutex;

use crate::fixture::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_in_order_and_tells_the_machine() {
    let store = Computer::new().open();
    let (groups, fatal) = groups();
    let machine = Recorder::new(false);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    assert_eq!(group.leadership().leader, Some(NODE));
    assert_eq!(group.members().0, alone().unwrap());

    let mut expected_offset = 0;
    let mut answers = Vec::new();
    for records in [1, 5, 3] {
        let proposal = Proposal::Batch {
            batch: batch(records, 300),
            expected_offset,
        };
        answers.push(propose(&group, term, proposal));
        expected_offset += i64::from(records);
    }
    answers.push(propose(
        &group,
        term,
        Proposal::Command(Bytes::from_static(b"move")),
    ));
    let mut indexes = Vec::new();
    for pending in answers {
        indexes.push(answer(pending).await.unwrap().index);
    }
    let first = indexes[0];
    assert_eq!(indexes, [first, first + 1, first + 2, first + 3]);
    assert_eq!(machine.committed(), 9);
    eventually("apply", || {
        machine
            .applied
            .lock()
            .last()
            .is_some_and(|seen| seen.data == "move")
    })
    .await;
    assert_eq!(machine.batches(), [(0, 1), (1, 6), (6, 9)]);
    assert_eq!(group.log().end_offset(), 9);
    eventually("metrics", || group.progress().committed_index == first + 3).await;
    groups.shutdown().await;
    assert!(fatal.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_at_what_was_committed() {
    let store = Computer::new().open();
    let log = create_log(&store, 1);
    let (first, _) = groups();
    let machine = Recorder::new(false);
    let group = first
        .open(log.clone(), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    for _ in 0..5 {
        append_one(&group, term).await;
    }
    eventually("apply", || machine.batches().len() == 5).await;
    first.shutdown().await;

    let (second, fatal) = groups();
    let machine = Recorder::new(false);
    let opened = Instant::now();
    let group = second
        .open(log.clone(), alone(), machine.clone())
        .await
        .unwrap();
    assert_eq!(machine.committed(), 5, "known at open");
    let next_term = machine.serving().await;
    assert!(
        opened.elapsed() < Duration::from_millis(150),
        "serving after {:?}",
        opened.elapsed()
    );
    assert!(next_term > term);
    append_one(&group, next_term).await;
    eventually("apply", || machine.batches() == [(5, 6)]).await;
    second.shutdown().await;
    assert!(fatal.lock().is_empty());

    let (third, _) = groups();
    let machine = Recorder::new(true);
    third.open(log, alone(), machine.clone()).await.unwrap();
    assert_eq!(
        machine.batches().len(),
        6,
        "a machine that lives in memory sees everything again"
    );
    machine.serving().await;
    third.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_order_of_ten_thousand_concurrent_proposals() {
    const CALLERS: usize = 4;
    const PROPOSALS: usize = 2_500;
    let store = Computer::new().open();
    let (groups, fatal) = groups();
    let machine = Recorder::new(false);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;

    // The lock stands for a partition's: what is proposed under it is appended in that order.
    let next_offset = Arc::new(Mutex::new(0i64));
    let order = Arc::new(Mutex::new(Vec::new()));
    let callers = (0..CALLERS).map(|_| {
        let (group, next_offset, order) = (group.clone(), next_offset.clone(), order.clone());
        tokio::task::spawn_blocking(move || {
            for n in 0..PROPOSALS {
                let records = 1 + i32::try_from(n % 3).unwrap();
                let batch = batch(records, 64);
                let mut next = next_offset.lock();
                let (expected_offset, order) = (*next, Arc::clone(&order));
                *next += i64::from(records);
                let done = Box::new(move |result: Result<_, ProposeError>| {
                    order.lock().push((result.unwrap(), expected_offset));
                });
                group.propose(
                    term,
                    Proposal::Batch {
                        batch,
                        expected_offset,
                    },
                    done,
                );
            }
        })
    });
    futures::future::join_all(callers).await;
    let end = *next_offset.lock();
    eventually("apply", || {
        machine.batches().last().is_some_and(|last| last.1 == end)
    })
    .await;
    let order = std::mem::take(&mut *order.lock());
    assert_eq!(order.len(), CALLERS * PROPOSALS);
    assert!(order.is_sorted_by(|a, b| a.0.index + 1 == b.0.index && a.1 < b.1));
    assert_eq!(machine.committed(), end);
    assert!(fatal.lock().is_empty());
    groups.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_another_term_and_a_closed_group() {
    let store = Computer::new().open();
    let (groups, fatal) = groups();
    let machine = Recorder::new(false);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;

    for wrong in [term - 1, term + 1] {
        let refused = answer(propose(&group, wrong, Proposal::Command(Bytes::new()))).await;
        assert!(
            matches!(
                refused,
                Err(ProposeError::NotLeader {
                    maybe_appended: false,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
    groups.close(GroupId(1)).await;
    assert!(groups.get(GroupId(1)).is_none());
    let refused = answer(propose(&group, term, Proposal::Command(Bytes::new()))).await;
    assert!(matches!(refused, Err(ProposeError::Stopped)), "{refused:?}");
    assert!(matches!(group.purge(1).await, Err(ProposeError::Stopped)));
    assert!(fatal.lock().is_empty(), "a closed group has not failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_answers_inside_propose() {
    let store = Computer::new().open();
    let (groups, _) = groups();
    let machine = Recorder::new(false);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    let caller = Arc::new(Mutex::new(()));
    for n in 0..200 {
        if n == 100 {
            groups.close(GroupId(1)).await;
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let lock = Arc::clone(&caller);
        let held = caller.lock();
        let done = Box::new(move |_| {
            // Would deadlock, if called by the one who holds it.
            drop(lock.lock());
            sender.send(()).unwrap();
        });
        group.propose(term, Proposal::Command(Bytes::new()), done);
        drop(held);
        tokio::time::timeout(PATIENCE, receiver)
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_a_group_once() {
    let store = Computer::new().open();
    let (groups, _) = groups();
    let log = create_log(&store, 1);
    groups
        .open(log.clone(), alone(), Recorder::new(false))
        .await
        .unwrap();
    let error = groups
        .open(log, alone(), Recorder::new(false))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("open already"));
    groups.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_expected_offset_is_fatal_to_the_group() {
    let store = Computer::new().open();
    let (groups, fatal) = groups();
    let machine = Recorder::new(false);
    let group = groups
        .open(create_log(&store, 1), alone(), machine.clone())
        .await
        .unwrap();
    let term = machine.serving().await;
    let wrong = Proposal::Batch {
        batch: batch(1, 10),
        expected_offset: 7,
    };
    let refused = answer(propose(&group, term, wrong)).await;
    assert!(matches!(refused, Err(ProposeError::Stopped)), "{refused:?}");
    eventually("the fatal hook", || !fatal.lock().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(fatal.lock().len(), 1);
    assert_eq!(fatal.lock()[0].0, GroupId(1));
}
