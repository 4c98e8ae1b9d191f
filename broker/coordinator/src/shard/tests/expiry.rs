//! Behaviour 97, and the offsets of deleted topics.

use super::*;

const DAY: i64 = 24 * 3_600_000;

#[test]
fn b97_offsets_of_nobody_expire_after_their_commit() {
    let mut world = World::new();
    world.commit(World::commit_request("g", 5));
    world.pass(7 * DAY - 3_600_000);
    assert_eq!(world.fetch("g"), 5);
    world.pass(2 * 3_600_000);
    assert_eq!(world.fetch("g"), -1);
    assert!(world.list().is_empty());
    assert!(world.rebuilt().groups.is_empty());
}

#[test]
fn b97_a_group_keeps_its_offsets_until_it_was_empty_for_long() {
    let mut world = World::new();
    let (member, generation) = world.classic_group("g");
    world.commit(
        World::commit_request("g", 5)
            .with_member_id(text(&member))
            .with_generation_id_or_member_epoch(generation),
    );
    // Ten days in the group.
    for _ in 0..10 * DAY / 9_000 {
        world.pass(9_000);
        let code = world.classic_heartbeat("g", &member, generation);
        assert_eq!(code, ErrorCode::NONE);
    }
    assert_eq!(world.fetch("g"), 5);
    world.leave("g", &member);
    world.restart();
    world.pass(6 * DAY);
    assert_eq!(world.fetch("g"), 5);
    world.pass(DAY + 3_600_000);
    assert_eq!(world.fetch("g"), -1);
    assert!(world.list().is_empty(), "the empty group went with them");
    world.restart();
    assert!(world.list().is_empty());
}

#[test]
fn b97_a_live_group_loses_the_offsets_of_topics_it_no_longer_reads() {
    let mut world = World::new();
    let mut of_b = World::commit_request("g", 6);
    of_b.topics[0].name = topic_name("b");
    world.commit(of_b);
    world.commit(World::commit_request("g", 5));
    let (member, generation) = world.classic_group("g");
    for _ in 0..8 * DAY / 9_000 {
        world.pass(9_000);
        world.classic_heartbeat("g", &member, generation);
    }
    assert_eq!(world.fetch("g"), 5);
    let left: Vec<_> = world
        .shard
        .committed()
        .map(|(_, topic, ..)| &**topic)
        .collect();
    assert_eq!(left, ["a"]);
}

#[test]
fn b97_a_retention_of_the_clients_own() {
    let mut world = World::new();
    world.version = 4;
    world.commit(World::commit_request("g", 5).with_retention_time_ms(3_600_000));
    world.restart();
    world.pass(3_000_000);
    assert_eq!(world.fetch("g"), 5);
    world.pass(1_800_000);
    assert_eq!(world.fetch("g"), -1);
}

#[test]
fn b85_a_pass_leaves_a_group_whose_first_member_fetches_its_id() {
    let mut world = World::new();
    world.version = 9;
    world.settings.offsets_retention_check_interval_ms = 100;
    world.restart();
    let first = world.join(World::join_request("g", "", &["a"]));
    assert_eq!(ErrorCode(first.error_code), ErrorCode::MEMBER_ID_REQUIRED);
    world.pass(1_000);
    let ticket = world.send(Request::JoinGroup(World::join_request(
        "g",
        &first.member_id,
        &["a"],
    )));
    world.pass(10_000);
    match world.answer(ticket) {
        Answer::JoinGroup(answer) => assert_eq!(answer.error_code, 0),
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn b97_an_empty_consumer_group_goes_with_its_offsets() {
    let mut world = World::new();
    let epoch = world.beat("c", "m", 0).member_epoch;
    world.commit(
        World::commit_request("c", 5)
            .with_member_id(text("m"))
            .with_generation_id_or_member_epoch(epoch),
    );
    world.beat("c", "m", -1);
    world.pass(6 * DAY);
    assert_eq!(world.list(), [["c", "consumer", "Empty", "consumer"]]);
    world.pass(2 * DAY);
    assert!(world.list().is_empty());
    world.restart();
    assert!(world.list().is_empty());
}

#[test]
fn an_offset_that_is_reset_in_a_long_empty_group_is_kept() {
    let mut world = World::new();
    let (member, _) = world.classic_group("g");
    world.leave("g", &member);
    world.pass(60_000);
    world.commit(World::commit_request("g", 5));
    world.pass(6 * DAY);
    world.commit(World::commit_request("g", 8));
    world.pass(6 * DAY);
    assert_eq!(world.fetch("g"), 8);
}

#[test]
fn a_pass_is_made_in_slices() {
    let mut world = World::new();
    for group in 0..1_300 {
        world.commit(World::commit_request(&format!("g{group}"), 5));
    }
    world.now_ms += 8 * DAY;
    let mut slices = 0;
    while !world.shard.groups.is_empty() {
        let outcome = world.with(Shard::tick);
        assert!(outcome.records.len() <= 500, "{}", outcome.records.len());
        world.take(outcome);
        slices += 1;
    }
    assert_eq!(slices, 3);
    world.pass(0);
    assert!(world.shard.deadline().unwrap() > world.now_ms);
}

#[test]
fn offsets_of_deleted_topics_are_dropped() {
    let mut world = World::new();
    for group in 0..600 {
        let name = format!("g{group:03}");
        world.commit(World::commit_request(&name, 5));
        let mut of_b = World::commit_request(&name, 6);
        of_b.topics[0].name = topic_name("b");
        world.commit(of_b);
    }
    let deleted = [Arc::from("a")];
    let outcome = world.with(|shard, env| shard.topics_changed(env, &deleted));
    assert!(outcome.records.len() <= 500);
    world.take(outcome);
    world.pass(1);
    let left: BTreeSet<_> = world
        .shard
        .committed()
        .map(|(_, topic, ..)| &**topic)
        .collect();
    assert_eq!(left, BTreeSet::from(["b"]));
    assert_eq!(world.shard.committed().count(), 600);
    assert_eq!(world.rebuilt().committed().count(), 600);
}
