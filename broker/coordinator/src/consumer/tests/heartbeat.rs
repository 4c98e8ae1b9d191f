//! Behaviour 101, one test for each of its rules.

use super::*;
use crate::consumer::ConsumerState;
use crate::settings::GroupSettings;

#[test]
fn a_member_alone_gets_everything_at_once() {
    let mut bench = Bench::new(&[("t", 3)]);
    assert_eq!(bench.group.state(), ConsumerState::Dead);
    assert_eq!(
        bench.join("a", &["t", "missing"]),
        (1, vec!["t-0".into(), "t-1".into(), "t-2".into()])
    );
    assert_eq!(bench.group.state(), ConsumerState::Stable);
    assert!(bench.group.is_subscribed("t") && bench.group.is_subscribed("missing"));
    assert!(!bench.group.is_subscribed("other"));
}

#[test]
fn a_heartbeat_that_changes_nothing_writes_nothing() {
    let mut bench = Bench::new(&[("t", 3)]);
    bench.join("a", &["t"]);
    for request in [
        beat("a", 1),
        beat("a", 1).with_subscribed_topic_names(topics(&["t", "t"])),
    ] {
        let response = bench.beat(request);
        assert_eq!((response.member_epoch, response.assignment), (1, None));
        assert_eq!(bench.written, 0);
        assert_eq!(response.heartbeat_interval_ms, 5_000);
    }
}

#[test]
fn a_full_request_is_answered_in_full() {
    let mut bench = Bench::new(&[("t", 1)]);
    bench.join("a", &["t"]);
    let owned = bench.owned(&["t-0"]);
    let full = join("a", &["t"])
        .with_member_epoch(1)
        .with_topic_partitions(Some(owned));
    let response = bench.beat(full);
    assert_eq!(bench.names(&response), Some(vec!["t-0".into()]));
    assert_eq!(bench.written, 0);
}

/// The new member gets a partition only when the old one says that it gave it up.
#[test]
fn a_partition_goes_to_its_new_owner_after_the_old_one_dropped_it() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    assert_eq!(bench.join("b", &["t"]), (2, vec![]));
    assert_eq!(bench.group.state(), ConsumerState::Reconciling);
    let (epoch, kept) = bench.own("a", 1, &["t-0", "t-1"]);
    let kept = kept.unwrap();
    assert_eq!((epoch, kept.len()), (1, 1));
    // Not confirmed: a heartbeat without partitions says nothing.
    assert_eq!(bench.beat(beat("b", 2)).assignment, None);
    assert_eq!(bench.beat(beat("a", 1)).member_epoch, 1);
    assert_eq!(bench.beat(beat("b", 2)).assignment, None);
    assert_eq!(bench.own("a", 1, &[&kept[0]]).0, 2);
    let response = bench.beat(beat("b", 2));
    let got = bench.names(&response).unwrap();
    assert_eq!(got.len(), 1);
    assert_ne!(got, kept);
    assert_eq!(bench.group.state(), ConsumerState::Stable);
}

#[test]
fn leaving_frees_the_partitions_and_begins_an_epoch() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    let response = bench.beat(beat("a", -1));
    assert_eq!((response.error_code, response.member_epoch), (0, -1));
    assert_eq!(
        (bench.group.state(), bench.epoch()),
        (ConsumerState::Empty, 2)
    );
    assert_eq!(bench.group.emptied_ms(), Some(bench.now_ms));
    assert_eq!(bench.join("b", &["t"]).1.len(), 2);
    assert_eq!(bench.group.emptied_ms(), None);
}

#[test]
fn wrong_epochs_are_fenced_and_unknown_members_are_told() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    bench.join("b", &["t"]);
    bench.own("a", 1, &["t-0"]);
    assert_eq!(bench.error(beat("a", 9)), ErrorCode::FENCED_MEMBER_EPOCH);
    assert_eq!(bench.error(beat("a", 1)), ErrorCode::FENCED_MEMBER_EPOCH);
    assert_eq!(bench.error(beat("nobody", 1)), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(
        bench.error(beat("nobody", -1)),
        ErrorCode::UNKNOWN_MEMBER_ID
    );
}

/// The answer with the new epoch was lost: the member repeats itself.
#[test]
fn the_previous_epoch_is_taken_from_a_member_that_owns_no_more_than_it_may() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    bench.join("b", &["t"]);
    let (_, kept) = bench.own("a", 1, &["t-0", "t-1"]);
    let kept = kept.unwrap();
    for _ in 0..3 {
        let (epoch, assignment) = bench.own("a", 1, &[&kept[0]]);
        assert_eq!(epoch, 2);
        assert!(assignment.is_none_or(|it| it == kept));
    }
    let owned = bench.owned(&["t-0", "t-1"]);
    let too_much = beat("a", 1).with_topic_partitions(Some(owned));
    assert_eq!(bench.error(too_much), ErrorCode::FENCED_MEMBER_EPOCH);
    // Fenced, it begins again and has what it had.
    assert_eq!(bench.join("a", &["t"]), (2, kept));
}

#[test]
fn what_a_request_must_say() {
    let mut bench = Bench::new(&[("t", 1)]);
    let invalid = [
        join("", &["t"]),
        join("a", &["t"]).with_group_id(GroupId(text(""))),
        join("a", &["t"]).with_instance_id(Some(text(""))),
        join("a", &["t"]).with_rack_id(Some(text(""))),
        join("a", &["t"]).with_rebalance_timeout_ms(-1),
        join("a", &["t"]).with_topic_partitions(None),
        join("a", &["t"]).with_subscribed_topic_names(None),
        beat("a", -2),
        beat("a", -3),
        beat("", 1),
    ];
    for request in invalid {
        assert_eq!(
            bench.error(request.clone()),
            ErrorCode::INVALID_REQUEST,
            "{request:?}"
        );
    }
    let owning = bench.owned(&["t-0"]);
    let owning = join("a", &["t"]).with_topic_partitions(Some(owning));
    assert_eq!(bench.error(owning), ErrorCode::INVALID_REQUEST);
    let assignor = join("a", &["t"]).with_server_assignor(Some(text("sticky")));
    assert_eq!(bench.error(assignor), ErrorCode::UNSUPPORTED_ASSIGNOR);
    assert!(bench.group.is_blank());
}

#[test]
fn version_0_gets_an_id_from_the_group() {
    let mut bench = Bench::new(&[("t", 1)]);
    let response = bench.beat_as(&caller(0), join("", &["t"]));
    assert_eq!(response.error_code, 0);
    let id = response.member_id.unwrap();
    assert!(bench.group.state.members.contains_key(&*id));
}

#[test]
fn a_full_group_takes_nobody_else() {
    let mut bench = Bench::new(&[("t", 1)]);
    bench.settings.consumer_max_size = 1;
    bench.join("a", &["t"]);
    assert_eq!(
        bench.error(join("b", &["t"])),
        ErrorCode::GROUP_MAX_SIZE_REACHED
    );
    bench.join("a", &["t"]);
}

#[test]
fn members_vote_for_the_assignor() {
    let mut bench = Bench::new(&[("t", 1)]);
    bench.join("a", &["t"]);
    let name = |bench: &mut Bench| {
        let (described, _) = bench.act(|group, env, _| group.describe(env));
        described.assignor_name.to_string()
    };
    assert_eq!(name(&mut bench), "uniform");
    for member in ["b", "c"] {
        bench.beat(join(member, &["t"]).with_server_assignor(Some(text("range"))));
    }
    assert_eq!(name(&mut bench), "range");
}

#[test]
fn a_session_that_ends_removes_the_member() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    bench.now_ms += 40_000;
    bench.join("b", &["t"]);
    bench.tick();
    assert_eq!(bench.group.member_count(), 2);
    assert!(bench.group.deadline().unwrap() <= bench.now_ms + 5_000);
    bench.now_ms += 5_000;
    bench.tick();
    assert_eq!(bench.error(beat("a", 1)), ErrorCode::UNKNOWN_MEMBER_ID);
    let response = bench.beat(beat("b", 2));
    assert_eq!(bench.names(&response).unwrap().len(), 2);
}

#[test]
fn a_member_that_does_not_revoke_in_time_is_removed() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.join("a", &["t"]);
    bench.join("b", &["t"]);
    bench.own("a", 1, &["t-0", "t-1"]);
    bench.now_ms += 29_999;
    bench.beat(beat("a", 1));
    bench.beat(beat("b", 2));
    bench.tick();
    assert_eq!(bench.group.member_count(), 2);
    bench.now_ms += 1;
    bench.tick();
    assert_eq!(bench.error(beat("a", 1)), ErrorCode::UNKNOWN_MEMBER_ID);
    // A member that revoked has no such deadline.
    bench.beat(beat("b", 2));
    bench.now_ms += 31_000;
    bench.tick();
    assert_eq!(bench.group.member_count(), 1);
}

#[test]
fn assignments_are_computed_once_in_an_interval() {
    let mut bench = Bench::new(&[("t", 4)]);
    bench.settings.group_default = GroupSettings {
        assignment_interval_ms: 1_000,
        ..bench.settings.group_default.clone()
    };
    bench.join("a", &["t"]);
    bench.now_ms += 1;
    for member in ["b", "c"] {
        assert_eq!(bench.join(member, &["t"]), (1, vec![]));
    }
    assert_eq!(
        (bench.epoch(), bench.group.state()),
        (3, ConsumerState::Assigning)
    );
    bench.now_ms += 999;
    assert_eq!(bench.beat(beat("b", 1)).member_epoch, 3);
    assert_eq!(bench.group.state(), ConsumerState::Reconciling);
}

#[test]
fn a_static_member_leaves_for_a_while_and_comes_back_with_another_id() {
    let mut bench = Bench::new(&[("t", 2)]);
    let fixed = |request: ConsumerGroupHeartbeatRequest| request.with_instance_id(Some(text("i")));
    bench.beat(fixed(join("a", &["t"])));
    bench.join("b", &["t"]);
    bench.own("a", 1, &["t-0"]);
    let had = bench.assigned("a");
    let epoch = bench.epoch();
    assert_eq!(
        bench.error(fixed(join("a2", &["t"]))),
        ErrorCode::UNRELEASED_INSTANCE_ID
    );
    let left = bench.beat(fixed(beat("a", -2)));
    assert_eq!((left.error_code, left.member_epoch), (0, -2));
    assert_eq!(bench.assigned("a"), had, "kept for it");
    assert_eq!(
        bench.error(fixed(beat("a", 2))),
        ErrorCode::FENCED_MEMBER_EPOCH
    );
    let back = bench.beat(fixed(join("a2", &["t"])));
    assert_eq!((back.error_code, back.member_epoch), (0, 2));
    assert_eq!(bench.names(&back), Some(had));
    assert_eq!(bench.epoch(), epoch, "nobody else notices");
    assert_eq!(
        bench.error(fixed(beat("a", 2))),
        ErrorCode::FENCED_INSTANCE_ID
    );
    let unknown = beat("a2", 2).with_instance_id(Some(text("other")));
    assert_eq!(bench.error(unknown), ErrorCode::UNKNOWN_MEMBER_ID);
    // Not back in time: removed like anybody.
    bench.beat(fixed(beat("a2", -2)));
    bench.now_ms += 45_000;
    bench.tick();
    assert!(!bench.group.state.statics.contains_key("i"));
}

/// Behaviour 102.
#[test]
fn commits_and_fetches_are_for_members_at_their_epoch() {
    let mut bench = Bench::new(&[("t", 1)]);
    let commit = |bench: &mut Bench, member: &str, epoch, version| {
        bench
            .act(|group, env, _| group.check_commit(env, member, None, epoch, version))
            .0
    };
    assert_eq!(
        commit(&mut bench, "", -1, 8),
        Ok(()),
        "nobody there: a simple consumer"
    );
    bench.join("a", &["t"]);
    assert_eq!(commit(&mut bench, "a", 1, 9), Ok(()));
    assert_eq!(
        commit(&mut bench, "a", 1, 8),
        Err(ErrorCode::UNSUPPORTED_VERSION)
    );
    assert_eq!(
        commit(&mut bench, "a", 0, 9),
        Err(ErrorCode::STALE_MEMBER_EPOCH)
    );
    assert_eq!(
        commit(&mut bench, "a", 2, 9),
        Err(ErrorCode::STALE_MEMBER_EPOCH)
    );
    assert_eq!(
        commit(&mut bench, "", -1, 9),
        Err(ErrorCode::UNKNOWN_MEMBER_ID)
    );
    let group = &bench.group;
    assert_eq!(group.check_fetch(None, -1), Ok(()));
    assert_eq!(group.check_fetch(Some("a"), 1), Ok(()));
    assert_eq!(
        group.check_fetch(Some("a"), 2),
        Err(ErrorCode::STALE_MEMBER_EPOCH)
    );
    assert_eq!(
        group.check_fetch(Some("b"), 1),
        Err(ErrorCode::UNKNOWN_MEMBER_ID)
    );
}

#[test]
fn describe_shows_members_with_assignment_and_target() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.beat(join("a", &["t"]).with_rack_id(Some(text("r1"))));
    bench.join("b", &["t"]);
    let (described, _) = bench.act(|group, env, _| group.describe(env));
    assert_eq!(
        (&*described.group_state, described.group_epoch),
        ("Reconciling", 2)
    );
    assert_eq!(described.assignment_epoch, 2);
    let member = &described.members[0];
    assert_eq!(
        (&*member.client_host, member.member_type),
        ("/127.0.0.1", 1)
    );
    assert_eq!(member.assignment.topic_partitions[0].partitions, [0, 1]);
    assert_eq!(
        member.target_assignment.topic_partitions[0]
            .partitions
            .len(),
        1
    );
    assert_eq!(
        &**member.target_assignment.topic_partitions[0].topic_name,
        "t"
    );
}

#[test]
fn tombstones_leave_nothing() {
    let mut bench = Bench::new(&[("t", 2)]);
    bench.beat(join("a", &[]).with_subscribed_topic_regex(Some(text("t.*"))));
    bench.join("b", &["t"]);
    let mut tombstones = Vec::new();
    bench.group.tombstones(&mut tombstones);
    for record in &tombstones {
        bench.group.replay(record);
    }
    assert_eq!(bench.group.state, ConsumerGroup::new(Arc::from("g")).state);
}

#[test]
fn ten_thousand_heartbeats_write_nothing_and_take_no_time() {
    let mut bench = Bench::new(&[("t", 100)]);
    for number in 0..100 {
        bench.join(&format!("m{number}"), &["t"]);
    }
    for _ in 0..3 {
        for number in 0..100 {
            let member = format!("m{number}");
            let owned = bench.group.state.members[&*member]
                .current
                .assigned_partitions
                .clone();
            let owned = owned.iter().map(|(id, it)| {
                Owned::default()
                    .with_topic_id(id.0)
                    .with_partitions(it.clone())
            });
            let epoch = bench.group.state.members[&*member].current.member_epoch;
            bench.beat(beat(&member, epoch).with_topic_partitions(Some(owned.collect())));
        }
    }
    assert_eq!(bench.group.state(), ConsumerState::Stable);
    let epoch = bench.epoch();
    let mut out = Outcome::new();
    let began = std::time::Instant::now();
    for number in 0..10_000 {
        let request = beat(&format!("m{}", number % 100), epoch);
        let (group, env) = bench.parts();
        group.heartbeat(&env, Ticket(1), &caller(1), request, &mut out);
    }
    assert!(began.elapsed().as_millis() < 500, "{:?}", began.elapsed());
    assert_eq!((out.records.len(), out.answers.len()), (0, 10_000));
}
