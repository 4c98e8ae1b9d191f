//! Logs that are deleted, and their ids.

use super::*;

#[test]
fn the_id_of_a_deleted_group_is_used_again_once_released() {
    for restart in [false, true] {
        let mut machine = Machine::new();
        let (mut store, _) = machine.open();
        let mut written = Vec::new();
        for life in 1..=3_u64 {
            let log = group(&store, 7);
            assert_eq!(
                (log.start_offset(), log.end_offset()),
                (0, 0),
                "life {life}"
            );
            for index in 1..=life {
                let timestamp = (life * 100 + index) as i64;
                let entry = batch_entry(id(life, index), batch_of(2, 300, timestamp));
                append(&log, vec![entry]);
            }
            written = read_all(&log);
            drop((store, log));
            machine = machine.crashed(life);
            (store, _) = machine.open();
            assert!(read_all(&store.group(GroupId(7)).unwrap()) == written);
            if life == 3 {
                break;
            }
            wait(|done| store.delete_group(GroupId(7), done)).unwrap();
            if restart {
                drop(store);
                machine = machine.killed();
                (store, _) = machine.open();
            }
            assert!(store.create_group(GroupId(7), "g-7", settings()).is_err());
            store.release_id(GroupId(7)).unwrap();
        }
        let begun = store.stats().checkpoints;
        store.release_id(GroupId(7)).unwrap();
        store.release_id(GroupId(8)).unwrap();
        assert_eq!(store.stats().checkpoints, begun, "nothing to release");
        assert!(!written.is_empty());
    }
}

#[test]
fn a_deleted_group_is_gone_for_good() {
    let machine = Machine::new();
    let (store, _) = machine.open();
    for n in 1..=3 {
        let log = group(&store, n);
        append(&log, vec![batch_entry(id(1, 1), batch_of(1, 10, 1))]);
    }
    store.checkpoint().unwrap();
    let log = store.group(GroupId(2)).unwrap();
    wait(|done| store.delete_group(GroupId(2), done)).unwrap();
    assert!(store.group(GroupId(2)).is_none());
    let again = store.create_group(GroupId(2), "g-2", settings());
    assert!(again.is_err(), "its id was not released");
    assert!(matches!(
        log.read(0, 1, 1, true),
        Err(StorageError::GroupGone(_))
    ));
    let refused = wait(|done| {
        log.save_vote(
            crate::Vote {
                term: 9,
                node: 1,
                committed: false,
            },
            done,
        )
    });
    assert!(matches!(refused, Err(StorageError::GroupGone(_))));
    drop((store, log));
    let machine = machine.killed();
    let (store, _) = machine.open();
    assert_eq!(store.groups(), vec![GroupId(1), GroupId(3)]);
    wait(|done| store.delete_group(GroupId(3), done)).unwrap();
    store.checkpoint().unwrap();
    drop(store);
    let machine = machine.crashed(1);
    let (store, report) = machine.open();
    assert!(report.corrupt.is_empty());
    assert_eq!(store.groups(), vec![GroupId(1)]);
    assert!(
        !machine
            .disk
            .contents(&machine.path("g-3/00000000000000000000.log"))
            .is_ok_and(|_| true)
    );
}
