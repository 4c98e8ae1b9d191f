//! Behaviours 98 and 103: groups of two kinds in one name space; and requests that no group can serve.

use super::*;
use crate::settings::MigrationPolicy;

#[test]
fn b98_a_group_that_does_not_exist() {
    let mut world = World::new();
    world.version = 5;
    assert_eq!(world.describe("g"), (ErrorCode::NONE, "Dead".to_owned()));
    world.version = 6;
    assert_eq!(
        world.describe("g"),
        (ErrorCode::GROUP_ID_NOT_FOUND, "Dead".to_owned())
    );
    let group = Arc::from("g");
    let Answer::ConsumerGroupDescribe(described) =
        world.ask(Request::ConsumerGroupDescribe { group })
    else {
        panic!("another answer");
    };
    assert_eq!(described.error_code, ErrorCode::GROUP_ID_NOT_FOUND.0);
}

#[test]
fn b103_each_describe_knows_its_kind() {
    let mut world = World::new();
    world.classic_group("g");
    world.beat("c", "m", 0);
    assert_eq!(
        world.list(),
        [
            ["c", "consumer", "Stable", "consumer"],
            ["g", "consumer", "Stable", "classic"]
        ]
    );
    world.version = 6;
    assert_eq!(world.describe("c").0, ErrorCode::GROUP_ID_NOT_FOUND);
    for (group, code) in [("c", ErrorCode::NONE), ("g", ErrorCode::GROUP_ID_NOT_FOUND)] {
        let group = Arc::from(group);
        let Answer::ConsumerGroupDescribe(described) =
            world.ask(Request::ConsumerGroupDescribe { group })
        else {
            panic!("another answer");
        };
        assert_eq!(ErrorCode(described.error_code), code);
    }
}

#[test]
fn b103_the_new_protocol_on_a_classic_group_that_may_not_change() {
    let mut world = World::new();
    world.settings.migration_policy = MigrationPolicy::Disabled;
    let (member, generation) = world.classic_group("g");
    let written = world.log.len();
    assert_eq!(
        ErrorCode(world.beat("g", "m", 0).error_code),
        ErrorCode::GROUP_ID_NOT_FOUND
    );
    assert_eq!(
        ErrorCode(world.beat("g", "m", 4).error_code),
        ErrorCode::GROUP_ID_NOT_FOUND
    );
    assert_eq!(world.log.len(), written);
    assert_eq!(
        world.classic_heartbeat("g", &member, generation),
        ErrorCode::NONE
    );
}

#[test]
fn b103_the_classic_protocol_on_a_consumer_group_that_may_not_change() {
    let mut world = World::new();
    world.settings.migration_policy = MigrationPolicy::Disabled;
    world.beat("c", "m", 0);
    let joined = world.join(World::join_request("c", "", &["a"]));
    assert_eq!(
        ErrorCode(joined.error_code),
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL
    );
    assert_eq!(
        world.classic_heartbeat("c", "x", 1),
        ErrorCode::UNKNOWN_MEMBER_ID
    );
}

#[test]
fn empty_groups_become_what_is_asked_for() {
    let mut world = World::new();
    world.settings.migration_policy = MigrationPolicy::Disabled;
    let (member, _) = world.classic_group("g");
    world.leave("g", &member);
    world.commit(World::commit_request("g", 5));
    assert_eq!(
        ErrorCode(world.beat("g", "m", 0).error_code),
        ErrorCode::NONE
    );
    assert_eq!(world.list()[0][3], "consumer");
    world.restart();
    assert_eq!(world.list()[0][3], "consumer");
    assert_eq!(world.fetch("g"), 5);
    world.beat("g", "m", -1);
    world.classic_group("g");
    assert_eq!(world.list()[0][3], "classic");
    world.restart();
    assert_eq!(world.list(), [["g", "consumer", "Stable", "classic"]]);
    assert_eq!(world.fetch("g"), 5);
}

#[test]
fn a_live_group_goes_over_to_the_new_protocol_and_back() {
    let mut world = World::new();
    let (classic, generation) = world.classic_group("g");
    let joined = world.beat("g", "new", 0);
    assert_eq!(ErrorCode(joined.error_code), ErrorCode::NONE);
    assert_eq!(world.list()[0][3], "consumer");
    world.restart();
    assert_eq!(world.list()[0][3], "consumer");
    // The classic member is still one, and is told to join again.
    let code = world.classic_heartbeat("g", &classic, generation);
    assert_eq!(code, ErrorCode::REBALANCE_IN_PROGRESS);
    // The only member of the new protocol leaves: the group is classic again, and rebalances.
    let left = world.beat("g", "new", -1);
    assert_eq!(ErrorCode(left.error_code), ErrorCode::NONE);
    assert_eq!(
        world.list(),
        [["g", "consumer", "PreparingRebalance", "classic"]]
    );
    let joined = world.join(World::join_request("g", &classic, &["a"]));
    assert_eq!(ErrorCode(joined.error_code), ErrorCode::NONE);
    world.restart();
    assert_eq!(world.list()[0][3], "classic");
}

#[test]
fn a_refused_member_does_not_change_the_kind() {
    let mut world = World::new();
    let (member, generation) = world.classic_group("g");
    world.settings.consumer_max_size = 1;
    let written = world.log.len();
    let refused = world.beat("g", "m", 0);
    assert_ne!(ErrorCode(refused.error_code), ErrorCode::NONE);
    assert_eq!(world.log.len(), written);
    assert_eq!(world.list()[0][3], "classic");
    assert_eq!(
        world.classic_heartbeat("g", &member, generation),
        ErrorCode::NONE
    );
}

#[test]
fn members_that_wait_are_sent_to_the_new_group() {
    let mut world = World::new();
    world.classic_group("g");
    let id = world.join(World::join_request("g", "", &["a"])).member_id;
    let waits = world.send(Request::JoinGroup(World::join_request("g", &id, &["a"])));
    assert!(!world.answers.contains_key(&waits));
    world.beat("g", "new", 0);
    let Answer::JoinGroup(answer) = world.answer(waits) else {
        panic!("another answer");
    };
    assert_eq!(
        ErrorCode(answer.error_code),
        ErrorCode::REBALANCE_IN_PROGRESS
    );
}

#[test]
fn nothing_is_kept_of_members_that_never_came_back() {
    let mut world = World::new();
    for group in 0..50 {
        let group = format!("g{group}");
        let joined = world.join(World::join_request(&group, "", &["a"]));
        assert_eq!(ErrorCode(joined.error_code), ErrorCode::MEMBER_ID_REQUIRED);
    }
    assert_eq!(world.shard.groups.len(), 50);
    world.pass(60_000);
    assert!(world.shard.groups.is_empty() && world.log.is_empty());
    // Nothing but the next pass over the offsets is left to do.
    assert!(world.shard.deadline().unwrap() > world.now_ms + 60_000);
}

#[test]
fn refused_requests_create_nothing() {
    let mut world = World::new();
    world.beat("g", "m", 5);
    world.beat("g", "", 0);
    world.classic_heartbeat("g", "m", 1);
    world.leave("g", "m");
    world.join(World::join_request("g", "m", &["a"]));
    world.join(World::join_request("g", "", &["a"]).with_session_timeout_ms(1));
    assert!(world.shard.groups.is_empty() && world.log.is_empty());
}

#[test]
fn b88_no_group_id() {
    let mut world = World::new();
    let joined = world.join(World::join_request("", "", &["a"]));
    assert_eq!(ErrorCode(joined.error_code), ErrorCode::INVALID_GROUP_ID);
    assert_eq!(
        world.classic_heartbeat("", "m", 1),
        ErrorCode::INVALID_GROUP_ID
    );
    assert_eq!(
        world.delete_offsets("", &["a"]).0,
        ErrorCode::INVALID_GROUP_ID
    );
    assert_eq!(
        ErrorCode(world.beat("", "m", 0).error_code),
        ErrorCode::INVALID_REQUEST
    );
    // Offsets may be kept under the empty id.
    assert_eq!(world.commit(World::commit_request("", 5)), ErrorCode::NONE);
    assert_eq!(world.fetch(""), 5);
}

#[test]
fn names_too_long_for_a_key_are_refused() {
    let mut world = World::new();
    let long = "x".repeat(40_000);
    assert_eq!(
        world.commit(World::commit_request(&long, 5)),
        ErrorCode::INVALID_GROUP_ID
    );
    let mut request = World::commit_request("g", 5);
    request.topics[0].name = topic_name(&long);
    assert_eq!(world.commit(request), ErrorCode::INVALID_REQUEST);
    assert_eq!(
        ErrorCode(world.beat("g", &long, 0).error_code),
        ErrorCode::INVALID_REQUEST
    );
    let instance = World::join_request("g", "", &["a"]).with_group_instance_id(Some(text(&long)));
    let joined = world.join(instance);
    assert_eq!(ErrorCode(joined.error_code), ErrorCode::INVALID_REQUEST);
    assert!(world.log.is_empty());
}

#[test]
fn the_consumer_protocol_can_be_off() {
    let mut world = World::new();
    world.settings.consumer_protocol = false;
    assert_eq!(
        ErrorCode(world.beat("c", "m", 0).error_code),
        ErrorCode::UNSUPPORTED_VERSION
    );
}

#[test]
fn a_refusal_has_the_shape_of_its_api() {
    let code = ErrorCode::NOT_COORDINATOR;
    let commit = Request::OffsetCommit(World::commit_request("g", 5));
    let Answer::OffsetCommit(answer) = commit.refused(code) else {
        panic!("another answer");
    };
    assert_eq!(answer.topics[0].partitions[0].error_code, code.0);
    let join = Request::JoinGroup(World::join_request("g", "m", &[]));
    let Answer::JoinGroup(answer) = join.refused(code) else {
        panic!("another answer");
    };
    assert_eq!((&*answer.member_id, answer.error_code), ("m", code.0));
    let beat = Request::Heartbeat(HeartbeatRequest::default());
    for (code, told) in [
        (code, code),
        (ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, ErrorCode::NONE),
    ] {
        let Answer::Heartbeat(answer) = beat.refused(code) else {
            panic!("another answer");
        };
        assert_eq!(answer.error_code, told.0);
    }
}
