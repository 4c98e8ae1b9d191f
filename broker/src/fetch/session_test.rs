//! Behaviour 77 and hostile input 82.

use std::sync::Arc;

use klamm_protocol::ErrorCode;

use super::{FetchSessions, Outcome, PartitionKey, SessionRequest, Told, TopicKey, Wanted};

fn key(index: i32) -> PartitionKey {
    (TopicKey::Name(Arc::from("t")), index)
}

fn wanted(fetch_offset: i64) -> Wanted {
    Wanted {
        fetch_offset,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        max_bytes: 1024,
    }
}

fn request(session_id: i32, epoch: i32, partitions: &[(i32, i64)]) -> SessionRequest {
    SessionRequest {
        session_id,
        epoch,
        uses_ids: false,
        partitions: partitions
            .iter()
            .map(|&(index, offset)| (key(index), wanted(offset)))
            .collect(),
        forgotten: Vec::new(),
    }
}

fn outcome(has_records: bool, high_watermark: i64) -> Outcome {
    Outcome {
        has_records,
        must_tell: false,
        told: Told {
            high_watermark,
            log_start_offset: 0,
        },
    }
}

fn order(partitions: &[(PartitionKey, Wanted)]) -> Vec<(i32, i64)> {
    partitions
        .iter()
        .map(|((_, index), wanted)| (*index, wanted.fetch_offset))
        .collect()
}

#[test]
fn an_incremental_request_reads_what_the_session_knows() {
    let sessions = FetchSessions::new(10);
    let full = sessions
        .place(request(0, 0, &[(0, 5), (1, 6)]), 0, || 7)
        .expect("new");
    assert_eq!(full.session_id(), 7);
    let told = sessions.answered(
        &full,
        &[(key(0), outcome(true, 9)), (key(1), outcome(false, 6))],
    );
    assert_eq!(told, [true, true]);

    let next = sessions
        .place(request(7, 1, &[(0, 9)]), 1, || 0)
        .expect("incremental");
    // Partition 0 had records, so it goes last.
    assert_eq!(order(&next.partitions), [(1, 6), (0, 9)]);
    let told = sessions.answered(
        &next,
        &[(key(1), outcome(false, 6)), (key(0), outcome(false, 9))],
    );
    assert_eq!(told, [false, false]);

    let next = sessions
        .place(request(7, 2, &[]), 2, || 0)
        .expect("incremental");
    let told = sessions.answered(
        &next,
        &[(key(1), outcome(false, 8)), (key(0), outcome(false, 9))],
    );
    assert_eq!(told, [true, false], "a moved watermark is told");
}

#[test]
fn an_error_is_told_and_the_state_after_it_again() {
    let sessions = FetchSessions::new(10);
    let full = sessions
        .place(request(0, 0, &[(0, 0)]), 0, || 7)
        .expect("new");
    sessions.answered(&full, &[(key(0), outcome(false, 3))]);
    for (epoch, must_tell, expect) in [
        (1, true, true),
        (2, true, true),
        (3, false, true),
        (4, false, false),
    ] {
        let next = sessions
            .place(request(7, epoch, &[]), 0, || 0)
            .expect("incremental");
        let outcome = Outcome {
            must_tell,
            ..outcome(false, 3)
        };
        assert_eq!(
            sessions.answered(&next, &[(key(0), outcome)]),
            [expect],
            "epoch {epoch}"
        );
    }
}

#[test]
fn bogus_ids_and_epochs_are_refused() {
    let sessions = FetchSessions::new(10);
    sessions
        .place(request(0, 0, &[(0, 0)]), 0, || 7)
        .expect("new");
    let refused = |request| sessions.place(request, 0, || 0).expect_err("refused");
    assert_eq!(
        refused(request(8, 1, &[])),
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND
    );
    assert_eq!(
        refused(request(7, 2, &[])),
        ErrorCode::INVALID_FETCH_SESSION_EPOCH
    );
    let by_id = SessionRequest {
        uses_ids: true,
        ..request(7, 1, &[])
    };
    assert_eq!(refused(by_id), ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
}

#[test]
fn the_final_epoch_and_an_emptied_session_close_it() {
    let sessions = FetchSessions::new(10);
    sessions
        .place(request(0, 0, &[(0, 0)]), 0, || 7)
        .expect("new");
    let last = sessions
        .place(request(7, -1, &[(0, 0)]), 0, || 0)
        .expect("final");
    assert_eq!((last.session_id(), sessions.len()), (0, 0));

    sessions
        .place(request(0, 0, &[(0, 0)]), 0, || 7)
        .expect("new");
    let forget = SessionRequest {
        forgotten: vec![key(0)],
        ..request(7, 1, &[])
    };
    assert_eq!(
        sessions
            .place(forget, 0, || 0)
            .expect("emptied")
            .session_id(),
        0
    );
    assert!(sessions.is_empty());
}

#[test]
fn slots_are_capped_and_only_the_stale_are_evicted() {
    let sessions = FetchSessions::new(2);
    let mut ids = 1..;
    let mut open = |now_ms| {
        let placed = sessions.place(request(0, 0, &[(0, 0)]), now_ms, || {
            ids.next().expect("endless")
        });
        placed.expect("placed").session_id()
    };
    assert_eq!(
        [open(0), open(1_000), open(2_000)],
        [1, 2, 0],
        "the third finds no slot"
    );
    assert_eq!(open(120_500), 3, "session 1 is stale by now");
    assert_eq!(sessions.len(), 2);
    assert_eq!(
        sessions
            .place(request(1, 1, &[]), 0, || 0)
            .expect_err("evicted"),
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND
    );
}

#[test]
fn the_epoch_wraps_to_one() {
    let sessions = FetchSessions::new(1);
    sessions
        .place(request(0, 0, &[(0, 0)]), 0, || 7)
        .expect("new");
    sessions
        .inner
        .lock()
        .sessions
        .get_mut(&7)
        .expect("there")
        .epoch = i32::MAX;
    sessions
        .place(request(7, i32::MAX, &[]), 0, || 0)
        .expect("last epoch");
    sessions
        .place(request(7, 1, &[]), 0, || 0)
        .expect("wrapped");
}
