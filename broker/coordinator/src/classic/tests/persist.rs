//! Behaviours 94, 95, 98 and 100: what the group knows, shows and remembers.

use super::*;
use crate::classic::{Member, Protocol};

/// ConsumerProtocolSubscription, version 0.
fn subscription(topics: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    bytes
}

fn topics(bench: &Bench) -> Option<Vec<&str>> {
    let topics = bench.group.subscribed_topics()?;
    Some(topics.iter().map(|topic| &**topic).collect())
}

#[test]
fn b94_any_protocol_type_works_and_blobs_are_opaque() {
    for protocol_type in ["connect", "sr", "consumer", "☃"] {
        let join = Join::new()
            .protocol_type(protocol_type)
            .metadata(b"\xff\x00\xfe");
        let (mut bench, ids) = Bench::stable(&[join.clone(), join.clone()]);
        assert_eq!(bench.group.protocol_type(), Some(protocol_type));
        assert_eq!(topics(&bench), None, "{protocol_type}");
        let maybe = bench.group.has_subscription_to("t");
        assert_eq!(maybe, protocol_type == "consumer", "unknown is not no");
        let mixed = bench.join(&Join::new().protocol_type("other"));
        let code = bench.join_refused(mixed);
        assert_eq!(code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        bench.leave(&[(&ids[0], None), (&ids[1], None)]);
        let other = bench.join_new(&Join::new().protocol_type("other"));
        bench.advance(3_000);
        bench.joined(other);
        assert_eq!(bench.group.protocol_type(), Some("other"));
    }
}

#[test]
fn b94_subscriptions_of_consumers_are_known() {
    let mut bench = Bench::new();
    assert_eq!(topics(&bench), None);
    let a = Join::new().metadata(&subscription(&["a", "b"]));
    let b = Join::new().metadata(&subscription(&["b", "c"]));
    let first = bench.join_new(&a);
    bench.join_new(&b);
    assert_eq!(topics(&bench), None, "no protocol has been chosen");
    assert!(bench.group.has_subscription_to("x"));
    bench.advance(6_000);
    assert_eq!(topics(&bench), Some(vec!["a", "b", "c"]));
    bench.sync_all();
    assert!(bench.group.has_subscription_to("c") && !bench.group.has_subscription_to("x"));
    bench.restart();
    assert_eq!(topics(&bench), Some(vec!["a", "b", "c"]));
    let member = bench.joined(first).member_id;
    bench.leave(&[(&member, None)]);
    let last = bench.leader();
    bench.join(&b.member(&last));
    assert_eq!(topics(&bench), Some(vec!["b", "c"]));
    bench.leave(&[(&last, None)]);
    assert_eq!(topics(&bench), Some(vec![]));
}

#[test]
fn b95_who_may_commit_when() {
    let (mut bench, ids) = Bench::stable(&[Join::new()]);
    let id = &*ids[0];
    let unknown = Err(ErrorCode::UNKNOWN_MEMBER_ID);
    let illegal = Err(ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(bench.commit(id, 1), Ok(()));
    assert_eq!(bench.commit(id, 2), illegal);
    assert_eq!(bench.commit(id, -1), illegal);
    assert_eq!(bench.commit("nobody", 1), unknown);
    assert_eq!(bench.commit("", -1), unknown, "there are members");
    let transactional = bench.run(|group, env, _| group.check_commit(env, "", None, -1, true));
    assert_eq!(transactional, Ok(()));

    bench.join(&Join::new().member(id));
    assert_eq!(bench.state(), ClassicState::CompletingRebalance);
    assert_eq!(bench.commit(id, 2), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    let transactional = bench.run(|group, env, _| group.check_commit(env, id, None, 2, true));
    assert_eq!(transactional, Ok(()));

    bench.leave(&[(id, None)]);
    assert_eq!(bench.state(), ClassicState::Empty);
    assert_eq!(bench.commit("", -1), Ok(()));
    assert_eq!(bench.commit(id, 1), unknown);
    assert_eq!(Bench::new().commit("", -1), Ok(()), "a simple group");
}

#[test]
fn b95_a_commit_keeps_the_session() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new()]);
    for _ in 0..5 {
        bench.advance(9_999);
        assert_eq!(bench.commit(&ids[0], 1), Ok(()));
        bench.heartbeat(&ids[1], 1);
    }
    bench.join(&Join::new().member(&ids[1]).metadata(b"other"));
    bench.advance(9_999);
    assert_eq!(bench.commit(&ids[0], 1), Ok(()), "while others join");
    bench.advance(9_999);
    assert_eq!(bench.group.member_count(), 2);
    bench.advance(1);
    assert_eq!(bench.group.member_count(), 1);
}

#[test]
fn b98_states_and_members_as_described() {
    let mut bench = Bench::new();
    let describe = |bench: &Bench| {
        let described = bench.group.describe();
        assert_eq!((described.error_code, &**described.group_id), (0, "g"));
        assert_eq!(&*described.group_state, bench.state().as_str());
        described
    };
    assert_eq!(&*describe(&bench).group_state, "Empty");
    assert_eq!(&*describe(&bench).protocol_type, "");

    let ticket = bench.join_new(&Join::new().instance("i").metadata(b"blob"));
    let described = describe(&bench);
    assert_eq!(&*described.group_state, "PreparingRebalance");
    assert_eq!(&*described.protocol_data, "");
    assert_eq!(described.members[0].member_metadata, Bytes::new());
    bench.advance(3_000);
    assert_eq!(&*describe(&bench).group_state, "CompletingRebalance");
    bench.sync_all();

    let described = describe(&bench);
    assert_eq!(&*described.group_state, "Stable");
    assert_eq!(&*described.protocol_type, "consumer");
    assert_eq!(&*described.protocol_data, "range");
    let member = &described.members[0];
    let id = bench.joined(ticket).member_id;
    assert_eq!(member.member_id, id);
    assert_eq!(member.group_instance_id.as_deref(), Some("i"));
    assert_eq!(&*member.client_id, "client");
    assert_eq!(&*member.client_host, "/10.1.2.3");
    assert_eq!(member.member_metadata, Bytes::from_static(b"blob"));
    assert_eq!(
        member.member_assignment,
        Bytes::copy_from_slice(id.as_bytes())
    );
    assert_eq!(ClassicState::Dead.as_str(), "Dead");
}

#[test]
fn b100_a_restart_keeps_members_and_generation() {
    let fixed = Join::new().instance("i").session(20_000);
    let (mut bench, ids) = Bench::stable(&[fixed, Join::new()]);
    let before = bench.group.record();
    bench.advance(9_000);
    bench.restart();
    assert_eq!(bench.group.record(), before);
    assert_eq!(bench.state(), ClassicState::Stable);
    bench.advance(9_999);
    for id in &ids {
        assert_eq!(bench.heartbeat(id, 1), ErrorCode::NONE, "a fresh session");
        let sync = bench.sync(id, 1, &[]);
        let assignment = bench.sync_answer(sync).unwrap().assignment;
        assert_eq!(assignment, Bytes::copy_from_slice(id.as_bytes()));
    }
    bench.advance(10_000);
    assert_eq!(bench.group.member_count(), 1, "but not an endless one");
}

#[test]
fn b100_a_rebalance_that_a_restart_interrupts_is_forgotten() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new()]);
    bench.join_new(&Join::new());
    bench.restart();
    assert_eq!(bench.state(), ClassicState::Stable);
    assert_eq!(bench.member_ids(), ids.iter().cloned().collect());
    assert_eq!(bench.heartbeat(&ids[0], 1), ErrorCode::NONE);
}

#[test]
fn b100_an_empty_group_stays_empty_and_remembers_since_when() {
    let (mut bench, ids) = Bench::stable(&[Join::new()]);
    bench.leave(&[(&ids[0], None)]);
    let since = bench.group.state_since_ms();
    bench.advance(1_000_000);
    bench.restart();
    assert_eq!(bench.state(), ClassicState::Empty);
    assert_eq!(bench.group.state_since_ms(), since);
    assert_eq!(bench.group.generation(), 2);
    assert!(!bench.group.is_forgettable(), "it is in the log");
}

#[test]
fn b100_damaged_records_make_a_group_that_works() {
    let (bench, _) = Bench::stable(&[Join::new().instance("i"), Join::new()]);
    let good = bench.log.last().unwrap().clone();
    let mut twice = good.clone();
    twice.members.extend(good.members.clone());
    twice.leader = Some(arc("nobody"));
    twice.current_state_timestamp = -1;
    for member in &mut twice.members {
        member.rebalance_timeout_ms = -1;
    }
    let mut nameless = good.clone();
    nameless.protocol = None;
    for value in [twice, nameless] {
        let mut bench = Bench::new();
        bench.log.push(value);
        bench.restart();
        assert_eq!(bench.group.member_count(), 2);
        assert!(
            bench
                .group
                .members()
                .all(|member| member.rebalance_timeout_ms() > 0)
        );
        bench.advance(10_000_000);
        assert_eq!(bench.state(), ClassicState::Empty);
    }
}

#[test]
fn a_group_of_the_other_protocol_becomes_classic() {
    let mut bench = Bench::new();
    let member = |id: &str| {
        let protocol = Protocol {
            name: arc("range"),
            metadata: subscription(&["t"]).into(),
        };
        let client = (arc("client"), arc("/10.1.2.3"));
        Member::new(arc(id), None, client, 60_000, 10_000, vec![protocol])
            .with_assignment(Bytes::from_static(b"p"))
    };
    bench.group = bench.run(|_, env, _| {
        let members = vec![member("b"), member("a")];
        ClassicGroup::from_members(env, arc("g"), 7, "consumer", members)
    });
    assert_eq!(
        (bench.state(), bench.group.generation()),
        (ClassicState::Stable, 7)
    );
    assert_eq!(bench.group.leader(), Some("b"));
    assert_eq!(bench.group.protocol_name(), Some("range"));
    assert!(bench.group.has_subscription_to("t"));
    assert_eq!(bench.heartbeat("a", 7), ErrorCode::NONE);
    bench.run(|group, env, out| group.start_rebalance(env, "downgrade", out));
    assert_eq!(bench.heartbeat("a", 7), ErrorCode::REBALANCE_IN_PROGRESS);
    bench.advance(10_000);
    assert_eq!(
        bench.state(),
        ClassicState::Empty,
        "their sessions had begun"
    );
}

#[test]
fn an_abandoned_group_answers_all_and_takes_nothing() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new()]);
    let (id, gone) = (&*ids[0], ErrorCode::COORDINATOR_NOT_AVAILABLE);
    let parked = bench.join(&Join::new().member(&bench.leader()));
    let mut parked_sync = Bench::stable(&[Join::new(), Join::new()]).0;
    for id in parked_sync.member_ids() {
        parked_sync.join(&Join::new().member(&id).metadata(b"new"));
    }
    let sync = parked_sync.sync(&parked_sync.follower(), 2, &[]);
    for bench in [&mut bench, &mut parked_sync] {
        bench.run(|group, _, out| group.abandon(ErrorCode::NOT_COORDINATOR, out));
    }
    assert_eq!(bench.join_refused(parked), ErrorCode::NOT_COORDINATOR);
    assert_eq!(parked_sync.sync_code(sync), ErrorCode::NOT_COORDINATOR);
    assert_eq!(bench.heartbeat(id, 1), gone);
    assert_eq!(bench.commit(id, 1), Err(gone));
    let join = bench.join(&Join::new());
    assert_eq!(bench.join_refused(join), gone);
    let sync = bench.sync(id, 1, &[]);
    assert_eq!(bench.sync_code(sync), gone);
    let left = bench.leave_with(5, LeaveGroupRequest::default());
    assert_eq!(ErrorCode(left.error_code), gone);
    bench.advance(1_000_000);
    assert_eq!(bench.state(), ClassicState::Dead);
}
