//! Behaviours 95, 96, 99 and 102: commit, fetch and delete.

use super::*;

fn commit_by(group: &str, member: &str, generation: i32) -> OffsetCommitRequest {
    World::commit_request(group, 7)
        .with_member_id(text(member))
        .with_generation_id_or_member_epoch(generation)
}

#[test]
fn b95_a_commit_outside_of_a_group_creates_a_simple_one() {
    let mut world = World::new();
    assert_eq!(world.commit(World::commit_request("g", 5)), ErrorCode::NONE);
    assert_eq!(world.fetch("g"), 5);
    assert_eq!(world.list(), [["g", "", "Empty", "classic"]]);
    assert_eq!(world.describe("g"), (ErrorCode::NONE, "Empty".to_owned()));
    world.restart();
    assert_eq!(world.fetch("g"), 5);
    // A member of no generation may not.
    assert_eq!(
        world.commit(commit_by("g", "m", 3)),
        ErrorCode::UNKNOWN_MEMBER_ID
    );
}

#[test]
fn b95_an_unknown_group_with_a_generation() {
    let mut world = World::new();
    assert_eq!(
        world.commit(commit_by("g", "m", 3)),
        ErrorCode::GROUP_ID_NOT_FOUND
    );
    world.version = 8;
    assert_eq!(
        world.commit(commit_by("g", "m", 3)),
        ErrorCode::ILLEGAL_GENERATION
    );
    assert!(world.log.is_empty() && world.list().is_empty());
}

#[test]
fn b95_commits_to_a_classic_group_with_members() {
    let mut world = World::new();
    let (member, generation) = world.classic_group("g");
    let outside = World::commit_request("g", 5);
    assert_eq!(world.commit(outside), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(
        world.commit(commit_by("g", &member, generation + 1)),
        ErrorCode::ILLEGAL_GENERATION
    );
    // A commit extends the session of ten seconds.
    for _ in 0..3 {
        world.pass(8_000);
        assert_eq!(
            world.commit(commit_by("g", &member, generation)),
            ErrorCode::NONE
        );
    }
    assert_eq!(world.fetch("g"), 7);
    let (_, state) = world.describe("g");
    assert_eq!(state, "Stable");
}

#[test]
fn b95_metadata_is_limited_for_each_partition() {
    let mut world = World::new();
    let mut request = World::commit_request("g", 5);
    let partitions = &mut request.topics[0].partitions;
    let fits = "é".repeat(4_096);
    partitions[0].committed_metadata = Some(text(&fits));
    partitions.push(
        OffsetCommitRequestPartition::default()
            .with_partition_index(1)
            .with_committed_metadata(Some(text(&"x".repeat(4_097)))),
    );
    let Answer::OffsetCommit(answer) = world.ask(Request::OffsetCommit(request)) else {
        panic!("another answer");
    };
    let codes: Vec<i16> = answer.topics[0]
        .partitions
        .iter()
        .map(|partition| partition.error_code)
        .collect();
    assert_eq!(codes, [0, ErrorCode::OFFSET_METADATA_TOO_LARGE.0]);
    assert_eq!(world.log.len(), 1);
}

#[test]
fn a_commit_of_100_000_partitions_is_refused_as_a_whole() {
    let mut world = World::new();
    let mut request = World::commit_request("g", 5);
    request.topics[0].partitions = (0..100_000)
        .map(|index| OffsetCommitRequestPartition::default().with_partition_index(index))
        .collect();
    assert_eq!(world.commit(request), ErrorCode::INVALID_COMMIT_OFFSET_SIZE);
    assert!(world.log.is_empty());
}

#[test]
fn strange_offsets_are_kept_as_they_are() {
    let mut world = World::new();
    for offset in [-2, i64::MAX, i64::MIN] {
        assert_eq!(
            world.commit(World::commit_request("g", offset)),
            ErrorCode::NONE
        );
        assert_eq!(world.fetch("g"), offset);
    }
}

#[test]
fn b96_what_is_not_there_is_no_error() {
    let mut world = World::new();
    assert_eq!(world.fetch("nobody"), -1);
    let all = OffsetFetchRequestGroup::default()
        .with_group_id(group_id("nobody"))
        .with_topics(None);
    let Answer::OffsetFetch(answer) = world.ask(Request::OffsetFetch(all)) else {
        panic!("another answer");
    };
    assert_eq!((answer.error_code, answer.topics.len()), (0, 0));
}

#[test]
fn b96_no_list_of_topics_means_everything() {
    let mut world = World::new();
    world.commit(World::commit_request("g", 5));
    let mut other = World::commit_request("g", 6);
    other.topics[0].name = topic_name("b");
    other.topics[0].partitions[0].partition_index = 3;
    other.topics[0].partitions[0].committed_leader_epoch = 9;
    world.commit(other);
    let all = OffsetFetchRequestGroup::default()
        .with_group_id(group_id("g"))
        .with_topics(None);
    let Answer::OffsetFetch(answer) = world.ask(Request::OffsetFetch(all)) else {
        panic!("another answer");
    };
    let found: Vec<_> = answer
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(move |found| (topic, found)))
        .map(|(topic, found)| {
            assert_eq!(found.metadata.as_deref(), Some("note"));
            (
                topic.name.to_string(),
                found.partition_index,
                found.committed_offset,
                found.committed_leader_epoch,
            )
        })
        .collect();
    assert_eq!(
        found,
        [("a".to_owned(), 0, 5, -1), ("b".to_owned(), 3, 6, 9)]
    );
}

#[test]
fn the_offset_of_a_topic_that_was_created_again_is_not_given() {
    let mut world = World::new();
    let (old, new) = (Uuid::from_u128(1), Uuid::from_u128(9));
    let mut request = World::commit_request("g", 5);
    request.topics[0].topic_id = old;
    world.commit(request);
    let mut fetch = |topic_id| {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(topic_name("a"))
            .with_topic_id(topic_id)
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequestGroup::default()
            .with_group_id(group_id("g"))
            .with_topics(Some(vec![topic]));
        match world.ask(Request::OffsetFetch(request)) {
            Answer::OffsetFetch(answer) => answer.topics[0].partitions[0].committed_offset,
            answer => panic!("{answer:?}"),
        }
    };
    assert_eq!(fetch(old), 5);
    assert_eq!(fetch(Uuid::nil()), 5);
    assert_eq!(fetch(new), -1);
}

#[test]
fn b99_groups_are_deleted_when_nobody_is_in_them() {
    let mut world = World::new();
    assert_eq!(world.delete_group("g"), ErrorCode::GROUP_ID_NOT_FOUND);
    let (member, generation) = world.classic_group("g");
    world.commit(commit_by("g", &member, generation));
    assert_eq!(world.delete_group("g"), ErrorCode::NON_EMPTY_GROUP);
    world.leave("g", &member);
    assert_eq!(world.delete_group("g"), ErrorCode::NONE);
    assert_eq!(world.fetch("g"), -1);
    assert!(world.list().is_empty());
    world.restart();
    assert!(world.list().is_empty());

    world.beat("c", "m", 0);
    assert_eq!(world.delete_group("c"), ErrorCode::NON_EMPTY_GROUP);
    world.beat("c", "m", -1);
    assert_eq!(world.delete_group("c"), ErrorCode::NONE);
    world.restart();
    assert!(world.list().is_empty());
}

#[test]
fn b99_offsets_of_topics_that_are_read_stay() {
    let mut world = World::new();
    assert_eq!(
        world.delete_offsets("g", &["a"]).0,
        ErrorCode::GROUP_ID_NOT_FOUND
    );
    let (member, generation) = world.classic_group("g");
    world.commit(commit_by("g", &member, generation));
    let (code, codes) = world.delete_offsets("g", &["a", "b"]);
    assert_eq!(code, ErrorCode::NONE);
    assert_eq!(
        codes,
        [ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC, ErrorCode::NONE]
    );
    assert_eq!(world.fetch("g"), 7);
    world.leave("g", &member);
    let (_, codes) = world.delete_offsets("g", &["a"]);
    assert_eq!(codes, [ErrorCode::NONE]);
    assert_eq!(world.fetch("g"), -1);
}

#[test]
fn b99_offsets_of_a_group_of_another_protocol_type_stay() {
    let mut world = World::new();
    let connect =
        |member: &str| World::join_request("g", member, &["a"]).with_protocol_type(text("connect"));
    let id = world.join(connect("")).member_id;
    world.join(connect(&id));
    assert_eq!(
        world.delete_offsets("g", &["b"]).0,
        ErrorCode::NON_EMPTY_GROUP
    );
}

#[test]
fn b102_commits_and_fetches_carry_the_member_epoch() {
    let mut world = World::new();
    let epoch = world.beat("c", "m", 0).member_epoch;
    assert_eq!(world.commit(commit_by("c", "m", epoch)), ErrorCode::NONE);
    assert_eq!(
        world.commit(commit_by("c", "m", epoch + 1)),
        ErrorCode::STALE_MEMBER_EPOCH
    );
    assert_eq!(
        world.commit(commit_by("c", "x", epoch)),
        ErrorCode::UNKNOWN_MEMBER_ID
    );
    let fetch = |member: Option<&str>, epoch| {
        let request = OffsetFetchRequestGroup::default()
            .with_group_id(group_id("c"))
            .with_member_id(member.map(text))
            .with_member_epoch(epoch)
            .with_topics(None);
        Request::OffsetFetch(request)
    };
    for (member, epoch, expected) in [
        (None, -1, ErrorCode::NONE),
        (Some("m"), epoch, ErrorCode::NONE),
        (Some("m"), epoch + 1, ErrorCode::STALE_MEMBER_EPOCH),
        (Some("x"), epoch, ErrorCode::UNKNOWN_MEMBER_ID),
    ] {
        let Answer::OffsetFetch(answer) = world.ask(fetch(member, epoch)) else {
            panic!("another answer");
        };
        assert_eq!(ErrorCode(answer.error_code), expected, "{member:?} {epoch}");
        let found = answer.topics.len();
        assert_eq!(found, usize::from(expected == ErrorCode::NONE));
    }
}
