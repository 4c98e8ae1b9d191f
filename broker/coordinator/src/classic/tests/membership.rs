//! Behaviours 92 and 93: static members, and leaving.

use super::*;

fn fixed() -> Join {
    Join::new().instance("i")
}

#[test]
fn b92_a_static_member_comes_back_without_a_rebalance() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), fixed()]);
    let old = &ids[1];
    assert_ne!(bench.leader(), *old);
    let written = bench.log.len();
    let ticket = bench.join(&fixed());
    let answer = bench.joined(ticket);
    assert_eq!((answer.generation_id, answer.skip_assignment), (1, false));
    assert_eq!(*answer.leader, *bench.leader());
    assert_eq!(bench.state(), ClassicState::Stable);
    let new = answer.member_id.to_string();
    assert_ne!(new, *old);

    let record = &bench.log[written];
    assert_eq!(bench.log.len(), written + 1);
    let found = record
        .members
        .iter()
        .find(|member| *member.member_id == *new);
    let found = found.unwrap();
    assert_eq!(found.assignment, Bytes::copy_from_slice(old.as_bytes()));

    let sync = bench.sync(&new, 1, &[]);
    let kept = bench.sync_answer(sync).unwrap().assignment;
    assert_eq!(kept, Bytes::copy_from_slice(old.as_bytes()));
    assert_eq!(bench.heartbeat_as(&new, Some("i"), 1), ErrorCode::NONE);
}

#[test]
fn b92_the_replaced_member_is_fenced_everywhere() {
    let (mut bench, ids) = Bench::stable(&[fixed(), Join::new()]);
    let old = &*ids[0];
    bench.join(&fixed());
    let fenced = ErrorCode::FENCED_INSTANCE_ID;
    assert_eq!(bench.heartbeat_as(old, Some("i"), 1), fenced);
    let join = bench.join(&fixed().member(old));
    assert_eq!(bench.join_refused(join), fenced);
    let request = sync_request(old, 1, &[]).with_group_instance_id(Some(text("i")));
    let sync = bench.sync_with(
        5,
        request.clone().with_protocol_type(Some(text("consumer"))),
    );
    assert_eq!(
        bench.sync_code(sync),
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        "version 5 without a name"
    );
    let sync = bench.sync_with(4, request);
    assert_eq!(bench.sync_code(sync), fenced);
    assert_eq!(bench.leave(&[(old, Some("i"))]), [fenced]);
    let commit = bench.run(|group, env, _| group.check_commit(env, old, Some("i"), 1, false));
    assert_eq!(commit, Err(fenced));
    assert_eq!(bench.heartbeat(old, 1), ErrorCode::UNKNOWN_MEMBER_ID);
    let unknown = bench.heartbeat_as(old, Some("j"), 1);
    assert_eq!(unknown, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(bench.state(), ClassicState::Stable);
}

#[test]
fn b92_a_replaced_leader_is_told_not_to_assign() {
    for version in [8, 9] {
        let (mut bench, ids) = Bench::stable(&[fixed(), Join::new()]);
        assert_eq!(bench.leader(), ids[0]);
        let ticket = bench.join(&fixed().version(version));
        let answer = bench.joined(ticket);
        assert_eq!(bench.leader(), *answer.member_id);
        if version == 9 {
            assert!(answer.skip_assignment);
            assert_eq!(answer.leader, answer.member_id);
            assert_eq!(answer.members.len(), 2);
        } else {
            assert!(!answer.skip_assignment);
            assert_eq!(*answer.leader, *ids[0], "it must not take itself for it");
            assert_eq!(answer.members.len(), 0);
        }
    }
}

#[test]
fn b92_a_replacement_that_changes_the_vote_rebalances() {
    let both = Join::new().protocols(&["a", "b"]);
    let (mut bench, _) = Bench::stable(&[both.clone(), both.instance("i")]);
    assert_eq!(bench.group.protocol_name(), Some("a"));
    let ticket = bench.join(&fixed().protocols(&["b"]));
    assert!(bench.waits(ticket));
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
    let leader = bench.leader();
    bench.join(&Join::new().protocols(&["a", "b"]).member(&leader));
    assert_eq!(bench.joined(ticket).generation_id, 2);
    assert_eq!(bench.group.protocol_name(), Some("b"));
}

#[test]
fn b92_a_replacement_answers_the_old_members_join() {
    let (mut bench, ids) = Bench::stable(&[fixed(), Join::new()]);
    let parked = bench.join(&fixed().member(&ids[0]));
    assert!(bench.waits(parked));
    let ticket = bench.join(&fixed());
    assert_eq!(bench.join_refused(parked), ErrorCode::FENCED_INSTANCE_ID);
    assert!(bench.waits(ticket));
    bench.join(&Join::new().member(&ids[1]));
    assert_eq!(bench.joined(ticket).generation_id, 2);
}

#[test]
fn b92_a_replacement_before_the_assignment_starts_over() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), fixed()]);
    for id in &ids {
        let instance = bench.group.member(id).unwrap().instance_id().cloned();
        let join = Join::new().member(id);
        bench.join(&match instance {
            Some(instance) => join.instance(&instance),
            None => join,
        });
    }
    assert_eq!(bench.state(), ClassicState::CompletingRebalance);
    let parked = bench.sync(&ids[1], 2, &[]);
    let ticket = bench.join(&fixed());
    assert_eq!(bench.sync_code(parked), ErrorCode::FENCED_INSTANCE_ID);
    assert!(bench.waits(ticket));
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
}

#[test]
fn b92_a_replacement_does_not_count_as_one_more() {
    let (mut bench, _) = Bench::stable(&[fixed(), Join::new()]);
    bench.settings.max_size = 2;
    let ticket = bench.join(&fixed());
    assert_eq!(bench.joined(ticket).generation_id, 1);
}

#[test]
fn b92_a_static_member_outlives_its_absence_until_its_session_ends() {
    let (mut bench, ids) = Bench::stable(&[Join::new().session(60_000), fixed()]);
    bench.advance(9_999);
    assert_eq!(bench.member_ids().len(), 2);
    bench.advance(1);
    assert_eq!(bench.member_ids(), BTreeSet::from([ids[0].clone()]));
    let ticket = bench.join(&fixed());
    bench.join(&Join::new().member(&ids[0]));
    assert_eq!(bench.joined(ticket).generation_id, 2);
}

#[test]
fn b93_each_leaving_member_has_its_own_error() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), fixed(), Join::new()]);
    let pending = bench.join(&Join::new());
    let pending = bench.join_answer(pending).unwrap().member_id;
    let codes = bench.leave(&[
        (&ids[0], None),
        ("nobody", None),
        ("", Some("i")),
        ("", Some("j")),
        ("", None),
        (&pending, None),
        (&ids[0], None),
    ]);
    let (none, unknown) = (ErrorCode::NONE, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(
        codes,
        [none, unknown, none, unknown, unknown, none, unknown]
    );
    assert_eq!(bench.member_ids(), BTreeSet::from([ids[2].clone()]));
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
}

#[test]
fn b93_versions_below_3_name_one_member_and_have_one_error() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new()]);
    for (member, code) in [
        (&*ids[0], ErrorCode::NONE),
        (&*ids[0], ErrorCode::UNKNOWN_MEMBER_ID),
    ] {
        let request = LeaveGroupRequest::default().with_member_id(text(member));
        let answer = bench.leave_with(2, request);
        assert_eq!(ErrorCode(answer.error_code), code);
        assert_eq!(answer.members, []);
    }
    assert_eq!(bench.state(), ClassicState::PreparingRebalance);
}

#[test]
fn b93_the_last_member_leaves_an_empty_group_behind() {
    let (mut bench, ids) = Bench::stable(&[Join::new()]);
    bench.advance(500);
    assert_eq!(bench.leave(&[(&ids[0], None)]), [ErrorCode::NONE]);
    assert_eq!(bench.state(), ClassicState::Empty);
    let record = bench.log.last().unwrap();
    assert_eq!((record.generation, record.members.len()), (2, 0));
    assert_eq!((&record.protocol, &record.leader), (&None, &None));
    assert_eq!(&*record.protocol_type, "consumer");
    assert_eq!(record.current_state_timestamp, bench.now);
    assert_eq!(bench.group.state_since_ms(), Some(bench.now));
    assert_eq!(bench.group.deadline(), None);
}

#[test]
fn b93_an_id_given_out_may_be_given_back_without_a_rebalance() {
    let (mut bench, _) = Bench::stable(&[Join::new()]);
    let ticket = bench.join(&Join::new());
    let pending = bench.join_answer(ticket).unwrap().member_id;
    assert_eq!(bench.leave(&[(&pending, None)]), [ErrorCode::NONE]);
    assert_eq!(bench.state(), ClassicState::Stable);
    let leader = bench.leader();
    let ticket = bench.join(&Join::new().member(&leader));
    assert_eq!(bench.joined(ticket).generation_id, 2, "nobody is missing");
}

#[test]
fn b93_who_leaves_while_it_joins_is_answered() {
    let (mut bench, ids) = Bench::stable(&[Join::new(), Join::new()]);
    let ticket = bench.join_new(&Join::new());
    let member = bench.member_ids().into_iter().find(|id| !ids.contains(id));
    bench.leave(&[(&member.unwrap(), None)]);
    assert_eq!(bench.join_refused(ticket), ErrorCode::UNKNOWN_MEMBER_ID);
}
