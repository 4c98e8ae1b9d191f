//! A store without threads: its work is done when its opener does it, and only then.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Hands;

fn driven(machine: &Machine) -> (Store, Hands, Arc<AtomicUsize>) {
    let woken = Arc::new(AtomicUsize::new(0));
    let wakes = Arc::clone(&woken);
    let (store, _, hands) = Store::open_driven(
        machine.options.clone(),
        Arc::new(machine.disk.clone()),
        &machine.indexes,
        machine.clock.clone(),
        Box::new(move || {
            wakes.fetch_add(1, Ordering::SeqCst);
        }),
    )
    .unwrap();
    (store, hands, woken)
}

#[test]
fn nothing_is_durable_before_the_hands_make_it() {
    let machine = Machine::new();
    let (store, hands, woken) = driven(&machine);
    let log = group(&store, 1);
    let (done, result) = waiter();
    let before = (machine.disk.operations(), woken.load(Ordering::SeqCst));
    log.append(vec![batch_entry(id(1, 1), batch_of(2, 50, 1_000))], done)
        .unwrap();
    assert_eq!(machine.disk.operations(), before.0, "nothing is written");
    assert_eq!(woken.load(Ordering::SeqCst), before.1 + 1);
    assert!(result.try_recv().is_err());
    assert!(hands.journal(), "there is a round to do");
    assert!(result.try_recv().unwrap().is_ok());
    assert!(!hands.journal(), "it is done");
    // What is durable is found after a crash, whether or not the segments have it.
    let after = machine.crashed(7);
    let (store, ..) = driven(&after);
    assert_eq!(store.group(GroupId(1)).unwrap().end_offset(), 2);
}

#[test]
fn calls_that_wait_for_threads_do_their_work() {
    let machine = Machine::new();
    let (store, hands, _) = driven(&machine);
    let log = group(&store, 1);
    for n in 0..100 {
        let (done, _) = waiter();
        // Some of them are large groups' rounds, which wait for the segment writer.
        let size = if n % 9 == 0 { 20_000 } else { 50 };
        let entry = batch_entry(id(1, n + 1), batch_of(1, size, 1_000));
        log.append(vec![entry], done).unwrap();
        if n % 7 == 0 {
            while hands.journal() {}
            hands.segments();
        }
    }
    store.checkpoint().unwrap();
    let expected = read_all(&log);
    store.close().unwrap();
    drop((store, log, hands));
    let (store, report) = machine.open();
    assert_eq!(report.frames_replayed, 0, "it was closed in order");
    let log = store.group(GroupId(1)).unwrap();
    assert!(read_all(&log) == expected);
}

/// The operations of the disk, and what it holds after a crash, are a function of the calls.
#[test]
fn the_same_calls_do_the_same() {
    let life = || {
        let machine = Machine::new();
        let (store, hands, _) = driven(&machine);
        let log = group(&store, 1);
        for n in 0..300 {
            let (done, _) = waiter();
            let entry = batch_entry(id(1, n + 1), batch_of(1, 100, 1_000));
            log.append(vec![entry], done).unwrap();
            if n % 5 == 0 {
                hands.journal();
            }
            if n % 11 == 0 {
                hands.segments();
            }
            if n % 100 == 0 {
                while hands.checkpoints() {}
            }
        }
        let operations = machine.disk.operations();
        let after = machine.crashed(3);
        let (store, ..) = driven(&after);
        (operations, store.group(GroupId(1)).unwrap().end_offset())
    };
    assert_eq!(life(), life());
}
