//! Behaviours 90 and 91: who gets what, and who is alive.

use super::*;

/// Members have joined generation 2 of a group of `count`; nobody has synced.
fn completing(count: usize) -> (Bench, Vec<String>) {
    let (mut bench, ids) = Bench::stable(&vec![Join::new(); count]);
    let leader = bench.leader();
    bench.join(&Join::new().member(&leader));
    for id in ids.iter().filter(|id| **id != leader) {
        bench.join(&Join::new().member(id));
    }
    assert_eq!(bench.state(), ClassicState::CompletingRebalance);
    (bench, ids)
}

#[test]
fn b90_followers_wait_for_the_leader() {
    let (mut bench, _) = completing(3);
    let (leader, follower) = (bench.leader(), bench.follower());
    let waiting = bench.sync(&follower, 2, &[]);
    assert!(bench.waits(waiting));
    let parts = [(&*follower, "p1"), ("nobody", "p2")];
    let leading = bench.sync(&leader, 2, &parts);
    assert_eq!(bench.state(), ClassicState::Stable);
    let answer = bench.sync_answer(waiting).unwrap();
    assert_eq!(answer.error_code, 0);
    assert_eq!(answer.assignment, Bytes::from_static(b"p1"));
    assert_eq!(answer.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(answer.protocol_name.as_deref(), Some("range"));
    let forgotten = bench.sync_answer(leading).unwrap();
    assert_eq!((forgotten.error_code, forgotten.assignment.len()), (0, 0));
    let again = bench.sync(&follower, 2, &[]);
    let answer = bench.sync_answer(again).unwrap();
    assert_eq!(answer.assignment, Bytes::from_static(b"p1"));
}

#[test]
fn b90_a_sync_while_others_join_is_told_so() {
    let (mut bench, _) = Bench::stable(&[Join::new(), Join::new()]);
    let (leader, follower) = (bench.leader(), bench.follower());
    bench.join(&Join::new().member(&leader));
    let ticket = bench.sync(&follower, 1, &[]);
    assert_eq!(bench.sync_code(ticket), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn b90_syncs_that_wait_are_called_back_when_a_member_comes() {
    let (mut bench, _) = completing(2);
    let follower = bench.follower();
    let ticket = bench.sync(&follower, 2, &[]);
    bench.advance(9_000);
    bench.join_new(&Join::new());
    assert_eq!(bench.sync_code(ticket), ErrorCode::REBALANCE_IN_PROGRESS);
    bench.advance(9_999);
    let code = bench.heartbeat(&follower, 2);
    assert_eq!(code, ErrorCode::REBALANCE_IN_PROGRESS, "a fresh session");
}

#[test]
fn b90_who_never_syncs_is_removed_after_the_rebalance_timeout() {
    for leader_syncs in [false, true] {
        let (mut bench, _) = completing(3);
        let (leader, follower) = (bench.leader(), bench.follower());
        let parked = bench.sync(&follower, 2, &[]);
        let mut alive = BTreeSet::from([follower.clone()]);
        if leader_syncs {
            bench.sync(&leader, 2, &[]);
            alive.insert(leader);
        }
        for _ in 0..60 {
            assert_eq!(bench.group.member_count(), 3);
            bench.advance(999);
            for id in bench.member_ids() {
                bench.heartbeat(&id, 2);
            }
            bench.advance(1);
        }
        assert_eq!(bench.member_ids(), alive);
        assert_eq!(bench.state(), ClassicState::PreparingRebalance);
        let code = bench.sync_code(parked);
        let expected = if leader_syncs {
            ErrorCode::NONE
        } else {
            ErrorCode::REBALANCE_IN_PROGRESS
        };
        assert_eq!(code, expected);
    }
}

#[test]
fn b90_all_synced_means_no_more_waiting() {
    let (mut bench, ids) = completing(2);
    bench.sync_all();
    for _ in 0..100 {
        bench.advance(1_000);
        for id in &ids {
            assert_eq!(bench.heartbeat(id, 2), ErrorCode::NONE);
        }
    }
}

#[test]
fn b90_version_5_says_what_it_takes_the_protocol_for() {
    let (mut bench, _) = completing(1);
    let leader = bench.leader();
    let cases = [
        (5, None, None, false),
        (5, Some("consumer"), None, false),
        (5, Some("consumer"), Some("sticky"), false),
        (5, Some("connect"), Some("range"), false),
        (4, None, None, true),
        (5, Some("consumer"), Some("range"), true),
    ];
    for (version, protocol_type, protocol, accepted) in cases {
        let request = sync_request(&leader, 2, &[])
            .with_protocol_type(protocol_type.map(text))
            .with_protocol_name(protocol.map(text));
        let ticket = bench.sync_with(version, request);
        let expected = if accepted {
            ErrorCode::NONE
        } else {
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL
        };
        assert_eq!(bench.sync_code(ticket), expected);
    }
}

#[test]
fn b90_syncs_of_strangers_and_of_the_past_are_refused() {
    let (mut bench, _) = completing(1);
    let leader = bench.leader();
    for (member, generation, code) in [
        ("nobody", 2, ErrorCode::UNKNOWN_MEMBER_ID),
        (&leader, 1, ErrorCode::ILLEGAL_GENERATION),
        (&leader, 3, ErrorCode::ILLEGAL_GENERATION),
    ] {
        let ticket = bench.sync(member, generation, &[]);
        assert_eq!(bench.sync_code(ticket), code);
    }
}

#[test]
fn a_newer_sync_of_a_member_takes_the_place_of_the_older() {
    let (mut bench, _) = completing(2);
    let (leader, follower) = (bench.leader(), bench.follower());
    let older = bench.sync(&follower, 2, &[]);
    let newer = bench.sync(&follower, 2, &[]);
    assert_eq!(bench.sync_code(older), ErrorCode::REBALANCE_IN_PROGRESS);
    bench.sync(&leader, 2, &[(&follower, "p")]);
    assert_eq!(bench.sync_code(newer), ErrorCode::NONE);
}

#[test]
fn a_member_that_leaves_while_it_waits_is_answered() {
    let (mut bench, _) = completing(2);
    let follower = bench.follower();
    let ticket = bench.sync(&follower, 2, &[]);
    bench.leave(&[(&follower, None)]);
    assert_eq!(bench.sync_code(ticket), ErrorCode::UNKNOWN_MEMBER_ID);
    let leader = bench.leader();
    let ticket = bench.join(&Join::new().member(&leader));
    assert_eq!(bench.joined(ticket).generation_id, 3);
}

#[test]
fn an_assignment_too_large_for_a_record_is_refused() {
    let (mut bench, _) = completing(2);
    let (leader, follower) = (bench.leader(), bench.follower());
    let waiting = bench.sync(&follower, 2, &[]);
    let written = bench.log.len();
    let huge = "x".repeat(super::super::MAX_RECORD_BYTES);
    let leading = bench.sync(&leader, 2, &[(&follower, &huge)]);
    for ticket in [waiting, leading] {
        assert_eq!(bench.sync_code(ticket), ErrorCode::UNKNOWN_SERVER_ERROR);
    }
    assert_eq!(bench.log.len(), written);
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
    let held = bench
        .group
        .members()
        .map(|member| member.assignment().len());
    assert_eq!(held.sum::<usize>(), 0);
}

#[test]
fn b91_heartbeats_say_what_the_group_does() {
    let (mut bench, _) = completing(2);
    let (leader, follower) = (bench.leader(), bench.follower());
    assert_eq!(bench.heartbeat(&follower, 2), ErrorCode::NONE);
    assert_eq!(bench.heartbeat(&follower, 1), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(bench.heartbeat("nobody", 2), ErrorCode::UNKNOWN_MEMBER_ID);
    bench.sync_all();
    assert_eq!(bench.heartbeat(&follower, 2), ErrorCode::NONE);
    bench.join(&Join::new().member(&leader));
    assert_eq!(
        bench.heartbeat(&follower, 2),
        ErrorCode::REBALANCE_IN_PROGRESS
    );
    let code = Bench::new().heartbeat("nobody", 0);
    assert_eq!(code, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn b91_a_heartbeat_keeps_the_session_in_every_state() {
    let (mut bench, _) = completing(2);
    let follower = bench.follower();
    let leader = bench.leader();
    bench.sync(&leader, 2, &[]);
    bench.sync(&follower, 2, &[]);
    for _ in 0..5 {
        bench.advance(9_999);
        assert_eq!(bench.heartbeat(&leader, 2), ErrorCode::NONE);
        assert_eq!(bench.heartbeat(&follower, 2), ErrorCode::NONE);
    }
    bench.join(&Join::new().member(&leader));
    for _ in 0..5 {
        bench.advance(9_999);
        let code = bench.heartbeat(&follower, 2);
        assert_eq!(code, ErrorCode::REBALANCE_IN_PROGRESS);
    }
}

#[test]
fn b91_silence_ends_a_session_and_rebalances_the_rest() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new().session(30_000)]);
    bench.advance(9_999);
    assert_eq!(bench.state(), ClassicState::Stable);
    bench.advance(1);
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
    assert_eq!(bench.member_ids(), BTreeSet::from([ids[1].clone()]));
    let ticket = bench.join(&Join::new().member(&ids[1]));
    let answer = bench.joined(ticket);
    assert_eq!(*answer.leader, *ids[1]);
}

#[test]
fn b91_sessions_do_not_end_while_a_member_waits() {
    let join = Join::new().rebalance(100_000);
    let (mut bench, ids) = Bench::stable(&[join.clone(), join.clone(), join.clone()]);
    let leader = bench.leader();
    let waiting = bench.join(&join.clone().member(&leader));
    let others: Vec<&String> = ids.iter().filter(|id| **id != leader).collect();
    let keep_alive = |bench: &mut Bench, ids: &[&String], generation| {
        for _ in 0..6 {
            bench.advance(9_000);
            for id in ids {
                bench.heartbeat(id, generation);
            }
        }
    };
    keep_alive(&mut bench, &others, 1);
    assert!(bench.waits(waiting), "54 s in a join, session 10 s");
    for id in &others {
        bench.join(&join.clone().member(id));
    }
    assert_eq!(bench.joined(waiting).generation_id, 2);
    let parked = bench.sync(others[0], 2, &[]);
    keep_alive(&mut bench, &[&leader, others[1]], 2);
    assert!(bench.waits(parked), "54 s in a sync");
    bench.sync(&leader, 2, &[]);
    assert_eq!(bench.sync_code(parked), ErrorCode::NONE);
    bench.advance(9_000);
    bench.heartbeat(&leader, 2);
    bench.heartbeat(others[1], 2);
    bench.advance(999);
    assert_eq!(bench.group.member_count(), 3, "a fresh session");
    bench.advance(1);
    assert_eq!(bench.group.member_count(), 2, "that ends");
}
