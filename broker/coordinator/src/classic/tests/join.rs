//! Behaviours 85 to 89: who joins, as whom, and when the generation is complete.

use super::*;

#[test]
fn b85_the_first_rebalance_waits_and_is_put_off_while_members_come() {
    let mut bench = Bench::new();
    let first = bench.join_new(&Join::new().rebalance(7_000));
    bench.advance(2_999);
    assert!(bench.waits(first));
    let second = bench.join_new(&Join::new().rebalance(7_000));
    // The second wait of 3 s begins when the first ends; the third is cut at 7 s in all.
    bench.advance(3_000);
    let third = bench.join_new(&Join::new().rebalance(7_000));
    assert!(bench.waits(first) && bench.waits(second));
    bench.advance(1_000);
    assert!(bench.waits(third));
    bench.advance(1);
    assert_eq!(bench.joined(first).generation_id, 1);
    assert_eq!(bench.joined(third).generation_id, 1);
    assert_eq!(bench.state(), ClassicState::CompletingRebalance);
}

#[test]
fn b85_the_first_rebalance_ends_after_one_delay_when_nobody_else_comes() {
    for delay in [0, 3_000] {
        let mut bench = Bench::new();
        bench.settings.initial_rebalance_delay_ms = delay;
        let ticket = bench.join_new(&Join::new());
        assert!(bench.waits(ticket));
        bench.advance(delay);
        assert_eq!(bench.joined(ticket).generation_id, 1);
    }
}

#[test]
fn b85_a_rebalance_ends_when_all_have_joined() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new()]);
    let new = bench.join_new(&Join::new());
    let first = bench.join(&Join::new().member(&ids[0]));
    assert!(bench.waits(new) && bench.waits(first));
    let second = bench.join(&Join::new().member(&ids[1]));
    for ticket in [new, first, second] {
        assert_eq!(bench.joined(ticket).generation_id, 2);
    }
}

#[test]
fn b85_who_does_not_join_within_the_largest_rebalance_timeout_is_dropped() {
    let long = Join::new().rebalance(20_000);
    let short = Join::new().rebalance(5_000);
    let fixed = Join::new().instance("i").session(100_000);
    let (mut bench, ids) = Bench::stable(&[long, short, fixed.rebalance(20_000)]);
    let (absent, joins, fixed) = (&ids[0], &ids[1], &ids[2]);
    let ticket = bench.join_new(&Join::new().rebalance(1_000));
    let rejoin = bench.join(&Join::new().member(joins).rebalance(1_000));
    for _ in 0..19 {
        bench.advance(1_000);
        assert_eq!(bench.heartbeat(absent, 1), ErrorCode::REBALANCE_IN_PROGRESS);
        assert!(bench.waits(ticket) && bench.waits(rejoin));
    }
    bench.advance(1_000);
    assert_eq!(bench.joined(ticket).generation_id, 2);
    assert_eq!(bench.heartbeat(absent, 1), ErrorCode::UNKNOWN_MEMBER_ID);
    assert!(bench.member_ids().contains(fixed), "static members stay");
    assert_ne!(bench.leader(), *fixed, "but do not lead unheard");
}

#[test]
fn b85_static_members_alone_and_silent_are_gone_with_their_sessions() {
    let (mut bench, ids) = Bench::stable(&[
        Join::new().instance("i").rebalance(1),
        Join::new().rebalance(1),
    ]);
    bench.leave(&[(&ids[1], None)]);
    bench.advance(9_999);
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
    bench.advance(1);
    assert_eq!(bench.state(), ClassicState::Empty);
    assert_eq!(bench.log.last().unwrap().members, []);
}

#[test]
fn b86_a_new_client_is_sent_back_once_for_its_id() {
    for (version, sent_back) in [(0, false), (3, false), (4, true), (9, true)] {
        let mut bench = Bench::new();
        let ticket = bench.join(&Join::new().version(version));
        assert_eq!(!bench.waits(ticket), sent_back, "version {version}");
        if sent_back {
            let answer = bench.join_answer(ticket).unwrap();
            let null_name = answer.protocol_name.is_none();
            assert_eq!(null_name, version >= 7, "null only where it may be");
            assert_eq!(bench.group.member_count(), 0);
            let member = answer.member_id;
            assert!(member.starts_with("client-"), "{member}");
            let ticket = bench.join(&Join::new().version(version).member(&member));
            assert!(bench.waits(ticket));
            assert_eq!(bench.member_ids(), BTreeSet::from([member.to_string()]));
        }
    }
}

#[test]
fn b86_a_static_member_needs_no_second_step_and_is_named_after_its_instance() {
    let mut bench = Bench::new();
    bench.join(&Join::new().instance("rack-7"));
    assert!(bench.leader().starts_with("rack-7-"));
}

#[test]
fn b86_ids_given_out_hold_the_barrier_until_they_expire() {
    let (mut bench, ids) = Bench::stable(&[Join::new().session(30_000)]);
    let pending = bench.join(&Join::new().session(8_000));
    let required = bench.join_answer(pending).unwrap();
    let ticket = bench.join(&Join::new().session(30_000).member(&ids[0]));
    assert!(bench.waits(ticket), "the id may still come back");
    bench.advance(7_999);
    assert!(bench.waits(ticket));
    bench.advance(1);
    assert_eq!(bench.joined(ticket).generation_id, 2);
    let late = bench.join(&Join::new().member(&required.member_id));
    assert_eq!(bench.join_refused(late), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn b86_an_id_given_out_is_not_a_member() {
    let mut bench = Bench::new();
    let ticket = bench.join(&Join::new());
    let id = bench.join_answer(ticket).unwrap().member_id;
    assert_eq!(bench.heartbeat(&id, 0), ErrorCode::UNKNOWN_MEMBER_ID);
    let sync = bench.sync(&id, 0, &[]);
    assert_eq!(bench.sync_code(sync), ErrorCode::UNKNOWN_MEMBER_ID);
    let with_instance = bench.join(&Join::new().member(&id).instance("i"));
    let refused = bench.join_refused(with_instance);
    assert_eq!(refused, ErrorCode::UNKNOWN_MEMBER_ID);
    assert!(!bench.group.is_forgettable());
    bench.advance(10_000);
    assert!(bench.group.is_forgettable(), "nobody came, nothing is left");
}

#[test]
fn b87_the_first_joiner_leads_and_only_it_sees_the_members() {
    let mut bench = Bench::new();
    let first = bench.join_new(&Join::new().metadata(b"one"));
    let second = bench.join_new(&Join::new().metadata(b"two"));
    bench.advance(6_000);
    let (leader, follower) = (bench.joined(first), bench.joined(second));
    assert_eq!(leader.leader, leader.member_id);
    assert_eq!(follower.leader, leader.member_id);
    assert_eq!(follower.members, []);
    let seen: BTreeMap<_, _> = leader
        .members
        .iter()
        .map(|member| (member.member_id.clone(), member.metadata.clone()))
        .collect();
    assert_eq!(seen[&leader.member_id], Bytes::from_static(b"one"));
    assert_eq!(seen[&follower.member_id], Bytes::from_static(b"two"));
    assert_eq!(seen.len(), 2);
    assert_eq!(leader.protocol_type.as_deref(), Some("consumer"));
}

#[test]
fn b87_the_protocol_is_the_one_most_prefer_among_those_all_share() {
    let cases: &[(&[&[&str]], &str)] = &[
        (&[&["a", "b"], &["b", "a"], &["b", "a"]], "b"),
        (&[&["x", "a", "b"], &["b", "a"], &["a", "b"]], "a"),
        (&[&["b", "a"], &["a", "b"]], "b"),
        (&[&["b", "b", "a"], &["a"], &["a"]], "a"),
    ];
    for (members, chosen) in cases {
        let joins: Vec<Join> = members
            .iter()
            .map(|protocols| Join::new().protocols(protocols))
            .collect();
        let (bench, _) = Bench::stable(&joins);
        assert_eq!(bench.group.protocol_name(), Some(*chosen), "{members:?}");
    }
}

#[test]
fn b87_a_join_that_shares_nothing_is_refused() {
    let (mut bench, ids) = Bench::stable(&[Join::new().protocols(&["a", "b"])]);
    let new = Join::new();
    let known = Join::new().member(&ids[0]);
    for join in [&new, &known] {
        for refused in [
            join.clone().protocols(&["c"]),
            join.clone().protocols(&[]),
            join.clone().protocols(&["a"]).protocol_type("connect"),
        ] {
            let ticket = bench.join(&refused);
            let code = bench.join_refused(ticket);
            assert_eq!(code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL, "{refused:?}");
        }
    }
    let mut empty = Bench::new();
    for join in [new.clone().protocols(&[]), new.protocol_type("")] {
        let ticket = empty.join(&join);
        let code = empty.join_refused(ticket);
        assert_eq!(code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
    assert!(empty.group.is_forgettable());
}

#[test]
fn b87_another_leader_is_found_when_the_leader_goes() {
    let (mut bench, _) = Bench::stable(&[Join::new(), Join::new(), Join::new()]);
    let old = bench.leader();
    bench.leave(&[(&old, None)]);
    let ids = bench.member_ids();
    let last = ids.last().unwrap();
    let ticket = bench.join(&Join::new().member(last));
    bench.advance(60_000);
    let answer = bench.joined(ticket);
    assert_eq!(&*answer.leader, last, "the only one who joined");
    assert_eq!(answer.members.len(), 1);
}

#[test]
fn b88_session_timeouts_have_bounds() {
    for (session_ms, accepted) in [
        (5_999, false),
        (6_000, true),
        (1_800_000, true),
        (1_800_001, false),
        (-1, false),
    ] {
        let mut bench = Bench::new();
        let ticket = bench.join(&Join::new().session(session_ms));
        let expected = if accepted {
            ErrorCode::MEMBER_ID_REQUIRED
        } else {
            ErrorCode::INVALID_SESSION_TIMEOUT
        };
        assert_eq!(bench.join_refused(ticket), expected, "{session_ms}");
    }
}

#[test]
fn b88_an_empty_group_id_is_refused() {
    let mut bench = Bench::new();
    let request = JoinGroupRequest::default().with_session_timeout_ms(10_000);
    let code = bench.run(|_, env, _| ClassicGroup::check_join(env, &request));
    assert_eq!(code, Err(ErrorCode::INVALID_GROUP_ID));
}

#[test]
fn b88_an_id_the_group_has_not_given_out_is_unknown() {
    let (mut bench, _) = Bench::stable(&[Join::new()]);
    let ticket = bench.join(&Join::new().member("nobody"));
    assert_eq!(bench.join_refused(ticket), ErrorCode::UNKNOWN_MEMBER_ID);
    let answer = bench.join_answer(ticket).unwrap();
    assert_eq!(&*answer.member_id, "nobody");
    assert_eq!(bench.state(), ClassicState::Stable);
}

#[test]
fn b88_the_size_of_a_group_counts_members_and_not_ids_given_out() {
    let (mut bench, ids) = Bench::stable(&[Join::new()]);
    bench.settings.max_size = 2;
    let pending = [bench.join(&Join::new()), bench.join(&Join::new())];
    let [required, late] = pending.map(|ticket| bench.join_answer(ticket).unwrap());
    let ticket = bench.join(&Join::new().member(&required.member_id));
    let rejoin = bench.join(&Join::new().member(&ids[0]));
    assert!(bench.waits(rejoin), "for the second id");
    let late = bench.join(&Join::new().member(&late.member_id));
    assert_eq!(bench.join_refused(late), ErrorCode::GROUP_MAX_SIZE_REACHED);
    assert_eq!(bench.joined(ticket).generation_id, 2);
    bench.joined(rejoin);
    for join in [
        Join::new(),
        Join::new().version(3),
        Join::new().instance("i"),
    ] {
        let ticket = bench.join(&join);
        let code = bench.join_refused(ticket);
        assert_eq!(code, ErrorCode::GROUP_MAX_SIZE_REACHED);
    }
    assert_eq!(bench.group.member_count(), 2);
}

#[test]
fn b88_a_group_above_its_size_loses_those_who_join_last() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new(), Join::new()]);
    bench.settings.max_size = 2;
    bench.restart();
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
    let first = bench.join(&Join::new().member(&ids[0]));
    let second = bench.join(&Join::new().member(&ids[1]));
    assert!(bench.waits(first) && bench.waits(second));
    let third = bench.join(&Join::new().member(&ids[2]));
    let code = bench.join_refused(third);
    assert_eq!(code, ErrorCode::GROUP_MAX_SIZE_REACHED);
    assert_eq!(bench.joined(first).generation_id, 2);
    assert_eq!(bench.joined(second).generation_id, 2);
}

#[test]
fn what_members_say_of_themselves_has_bounds() {
    let mut bench = Bench::new();
    let large = vec![0; super::super::MAX_MEMBER_BYTES - "range".len()];
    let mut larger = large.clone();
    larger.push(0);
    let refused = bench.join(&Join::new().metadata(&larger));
    assert_eq!(bench.join_refused(refused), ErrorCode::MESSAGE_TOO_LARGE);
    let hoard = Join::new().version(3).metadata(&large);
    let mut accepted = 0;
    let refused = loop {
        let ticket = bench.join(&hoard);
        if !bench.waits(ticket) {
            break ticket;
        }
        accepted += 1;
    };
    let code = bench.join_refused(refused);
    assert_eq!((code, accepted), (ErrorCode::GROUP_MAX_SIZE_REACHED, 64));
    bench.advance(3_000_000);
    assert_eq!(bench.state(), ClassicState::Empty);
    assert_eq!(bench.group.members.protocol_bytes(), 0);
}

#[test]
fn b89_a_follower_that_joins_unchanged_gets_the_generation_there_is() {
    let (mut bench, _) = Bench::stable(&[Join::new(), Join::new()]);
    let follower = bench.follower();
    let ticket = bench.join(&Join::new().member(&follower));
    let answer = bench.joined(ticket);
    assert_eq!((answer.generation_id, answer.members.len()), (1, 0));
    assert_eq!(*answer.leader, *bench.leader());
    assert_eq!(bench.state(), ClassicState::Stable);
    let changed = bench.join(&Join::new().member(&follower).metadata(b"other"));
    assert!(bench.waits(changed));
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
}

#[test]
fn b89_a_leader_that_joins_starts_a_rebalance() {
    let (mut bench, _) = Bench::stable(&[Join::new(), Join::new()]);
    let leader = bench.leader();
    let ticket = bench.join(&Join::new().member(&leader));
    assert!(bench.waits(ticket));
    let follower = bench.follower();
    bench.join(&Join::new().member(&follower));
    assert_eq!(bench.joined(ticket).generation_id, 2);
    assert_eq!(bench.leader(), leader);
}

#[test]
fn b89_a_member_that_lost_the_answer_gets_it_again() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new()]);
    let leader = bench.leader();
    for id in &ids {
        bench.join(&Join::new().member(id));
    }
    assert_eq!(bench.state(), ClassicState::CompletingRebalance);
    for id in &ids {
        let ticket = bench.join(&Join::new().member(id));
        let answer = bench.joined(ticket);
        assert_eq!(answer.generation_id, 2);
        let seen = if *id == leader { 2 } else { 0 };
        assert_eq!(answer.members.len(), seen);
    }
    let changed = bench.join(&Join::new().member(&ids[0]).metadata(b"other"));
    assert!(bench.waits(changed));
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
}

#[test]
fn a_newer_join_of_a_member_takes_the_place_of_the_older() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new()]);
    let leader = bench.leader();
    let older = bench.join(&Join::new().member(&leader));
    let newer = bench.join(&Join::new().member(&leader));
    let code = bench.join_refused(older);
    assert_eq!(code, ErrorCode::REBALANCE_IN_PROGRESS);
    for id in ids.iter().filter(|id| **id != leader) {
        bench.join(&Join::new().member(id));
    }
    assert_eq!(bench.joined(newer).generation_id, 2);
}

#[test]
fn a_new_member_whose_client_is_gone_does_not_wait_for_ever() {
    let (mut bench, ids) = Bench::stable(&[Join::new()]);
    let ticket = bench.join_new(&Join::new().rebalance(i32::MAX));
    for _ in 0..299 {
        bench.advance(1_000);
        bench.heartbeat(&ids[0], 1);
        assert!(bench.waits(ticket));
    }
    bench.advance(1_000);
    let answer = bench.join_answer(ticket).unwrap();
    assert_eq!(answer.error_code, ErrorCode::UNKNOWN_MEMBER_ID.code());
    assert_eq!(&*answer.member_id, "", "it is to start over");
}

#[test]
fn version_0_uses_the_session_timeout_for_both() {
    let mut bench = Bench::new();
    bench.join(&Join::new().version(0).rebalance(-1).session(8_000));
    let member = bench.group.members().next().unwrap();
    assert_eq!(member.rebalance_timeout_ms(), 8_000);
}

#[test]
fn a_long_client_id_is_cut_in_member_ids() {
    let mut bench = Bench::new();
    let caller = Caller {
        client_id: "ä".repeat(10_000).into(),
        ..Bench::caller(3)
    };
    let ticket = bench.ticket();
    let request = Join::new().request();
    bench.run(|group, env, out| group.join(env, ticket, &caller, request, out));
    let member = bench.group.members().next().unwrap();
    assert!(member.id().len() < 300 && member.id().starts_with("ää"));
    assert_eq!(member.client_id().len(), 20_000);
}
