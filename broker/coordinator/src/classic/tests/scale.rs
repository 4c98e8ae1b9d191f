//! Large groups, and clients that come and die.

use std::time::{Duration, Instant};

use super::*;

/// Founds a group, rebalances it, and has it heartbeat for a minute: the time that took.
fn life_of_a_group(members: usize) -> Duration {
    let started = Instant::now();
    let mut bench = Bench::new();
    bench.checked = false;
    let ids = bench.stabilise(&vec![Join::new(); members]);
    let leader = bench.leader();
    bench.join(&Join::new().member(&leader));
    for id in ids.iter().filter(|id| **id != leader) {
        bench.join(&Join::new().member(id));
    }
    bench.sync_all();
    for _ in 0..20 {
        bench.advance(3_000);
        for id in &ids {
            assert_eq!(bench.heartbeat(id, 2), ErrorCode::NONE);
        }
    }
    bench.leave(&[(&ids[0], None)]);
    for id in &ids[1..] {
        bench.leave(&[(id, None)]);
    }
    assert_eq!(bench.state(), ClassicState::Empty);
    started.elapsed()
}

#[test]
fn a_thousand_members_rebalance() {
    let took = life_of_a_group(1_000);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn no_step_looks_at_all_members_for_each_member() {
    let fastest = |members| (0..3).map(|_| life_of_a_group(members)).min().unwrap();
    let (small, large) = (fastest(500), fastest(4_000));
    // Eight times the members: about ten times the work, and 64 times if a step were quadratic.
    assert!(large < small * 30, "{small:?}, {large:?}");
}

#[test]
fn members_that_join_and_die_leave_nothing_behind() {
    let mut bench = Bench::new();
    let mut most = 0;
    for turn in 0..100_000 {
        let ticket = bench.join(&Join::new().session(6_000));
        bench.answers.remove(&ticket);
        bench.advance(turn % 2);
        most = most.max(bench.group.pending.len());
    }
    assert!(most <= 10_000, "{most} ids at once");
    bench.advance(6_000);
    assert!(bench.group.is_forgettable());
    assert_eq!(bench.group.deadline(), None);
}

#[test]
fn heartbeats_do_not_move_the_queue() {
    let (mut bench, ids) = Bench::stable(&vec![Join::new(); 100]);
    let queued = bench.group.sessions.next();
    for _ in 0..10 {
        bench.now += 900;
        for id in &ids {
            bench.heartbeat(id, 1);
        }
        assert_eq!(bench.group.sessions.next(), queued, "amortised");
    }
    assert!(bench.group.deadline().unwrap() <= bench.now + 10_000);
    bench.advance(9_999);
    assert_eq!(bench.group.member_count(), 100, "early is not too early");
    bench.advance(1);
    assert_eq!(bench.group.member_count(), 0, "nor late");
}
