//! Jumps of the wall clock.

use super::*;

const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

/// Appends a batch of producer 7.
fn produce(log: &GroupLog, index: u64) {
    let mut builder = BatchBuilder::new().producer(7, 0, index as i32 - 1);
    builder.push(&NewRecord::default()).unwrap();
    append(
        log,
        vec![batch_entry(id(1, index), builder.build().unwrap())],
    );
}

#[test]
fn no_producer_is_forgotten_because_the_wall_clock_jumped() {
    let machine = Machine::new();
    machine.clock.set_wall(50 * YEAR_MS);
    let (store, _) = machine.open();
    let log = group(&store, 1);
    for (index, jump) in [(1, 5 * YEAR_MS), (2, -5 * YEAR_MS), (3, 0)] {
        produce(&log, index);
        machine.clock.set_wall(50 * YEAR_MS + jump);
        store.checkpoint().unwrap();
        assert_eq!(log.producers().len(), 1, "jump {jump}");
    }
    // Time that passed does it.
    machine.clock.advance(Duration::from_secs(25 * 3600));
    log.save_vote(
        crate::Vote {
            term: 1,
            node: 1,
            committed: true,
        },
        Box::new(|_| {}),
    );
    store.checkpoint().unwrap();
    assert_eq!(log.producers().len(), 0);
}
