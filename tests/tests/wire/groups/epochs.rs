//! Identity and epochs of members of the new protocol: behaviours 101 and 102.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::{
    ConsumerGroupHeartbeatRequest, OffsetCommitRequest, OffsetFetchRequest,
};

use crate::calls::{Topic, code, connect_and_create, create, name, text};
use crate::rig::{connect, connect_as, unique};

use super::calls::{
    commit, commit_alone, commit_request, committed, found_offsets, new_group, offset_of,
    offsets_request, versions,
};
use super::consumer::{
    Consumer, Partitions, all_of, describe_consumers, listed, reconcile, wait_for_share,
};

async fn settled(group: &str, topic: &Topic, partitions: i32) -> Result<Consumer> {
    let mut consumer = Consumer::new(group, &[topic]).await?;
    consumer.join().await?;
    reconcile(&mut [&mut consumer], &all_of(topic, partitions)).await?;
    Ok(consumer)
}

#[tokio::test]
async fn behaviour_101_strangers_and_wrong_epochs_are_fenced() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let mut consumer = settled(&group, &topic, 1).await?;
    // A change of mind makes another epoch, so that there are older ones.
    for (subscription, share) in [(unique("nothing"), 0), (topic.name.clone(), 1)] {
        let request = consumer.beat_request();
        let request = request.with_subscribed_topic_names(Some(vec![name(&subscription)]));
        let told = consumer.send(&request).await?;
        consumer.adopt(&told)?;
        reconcile(&mut [&mut consumer], &all_of(&topic, share)).await?;
    }
    ensure!(consumer.epoch > 2, "{}", consumer.epoch);
    for epoch in [consumer.epoch + 1, i32::MAX, 1] {
        let found = consumer
            .code_of(&consumer.beat_request().with_member_epoch(epoch))
            .await?;
        assert_eq!(found, ErrorCode::FENCED_MEMBER_EPOCH, "epoch {epoch}");
    }
    let mut stranger = consumer.clone();
    stranger.id = "stranger".to_owned();
    assert_eq!(
        stranger.code_of(&stranger.beat_request()).await?,
        ErrorCode::UNKNOWN_MEMBER_ID
    );
    assert_eq!(
        code(stranger.leave(-1).await?.error_code),
        ErrorCode::UNKNOWN_MEMBER_ID
    );
    stranger.group = unique("group");
    assert_eq!(
        stranger.code_of(&stranger.beat_request()).await?,
        ErrorCode::GROUP_ID_NOT_FOUND
    );
    assert_eq!(
        consumer.code_of(&consumer.beat_request()).await?,
        ErrorCode::NONE
    );
    // Who is fenced joins again, with the same id.
    consumer.join().await?;
    reconcile(&mut [&mut consumer], &all_of(&topic, 1)).await
}

/// An answer that got lost leaves a member one epoch behind.
#[tokio::test]
async fn behaviour_101_the_epoch_before_is_good_for_a_retry() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let group = new_group().await?;
    let mut first = settled(&group, &topic, 2).await?;
    let mut second = Consumer::new(&group, &[&topic]).await?;
    second.join().await?;
    wait_for_share(&mut first, 1).await?;
    let request = first
        .beat_request()
        .with_rebalance_timeout_ms(first.rebalance_ms)
        .with_topic_partitions(Some(listed(&first.assigned)));
    let lost = first.send(&request).await?;
    ensure!(lost.member_epoch > first.epoch, "{lost:?}");
    let again = first.send(&request).await?;
    assert_eq!(
        (code(again.error_code), again.member_epoch),
        (ErrorCode::NONE, lost.member_epoch)
    );
    // Not with partitions it does not own, though.
    let more = request.with_topic_partitions(Some(listed(&all_of(&topic, 2))));
    assert_eq!(first.code_of(&more).await?, ErrorCode::FENCED_MEMBER_EPOCH);
    Ok(())
}

fn requests(consumer: &Consumer) -> Vec<(&'static str, ConsumerGroupHeartbeatRequest, ErrorCode)> {
    let join = consumer.join_request();
    let invalid = ErrorCode::INVALID_REQUEST;
    vec![
        (
            "no group",
            join.clone().with_group_id(super::calls::group_id("")),
            invalid,
        ),
        (
            "no member id",
            join.clone().with_member_id(text("")),
            invalid,
        ),
        (
            "no rebalance timeout",
            join.clone().with_rebalance_timeout_ms(-1),
            invalid,
        ),
        (
            "no owned partitions",
            join.clone().with_topic_partitions(None),
            invalid,
        ),
        (
            "owned partitions",
            join.clone()
                .with_topic_partitions(Some(listed(&Partitions::from([(
                    uuid::Uuid::new_v4(),
                    0,
                )])))),
            invalid,
        ),
        (
            "no subscription",
            join.clone().with_subscribed_topic_names(None),
            invalid,
        ),
        (
            "an empty instance id",
            join.clone().with_instance_id(Some(text(""))),
            invalid,
        ),
        (
            "an empty rack",
            join.clone().with_rack_id(Some(text(""))),
            invalid,
        ),
        (
            "an unknown assignor",
            join.clone().with_server_assignor(Some(text("mine"))),
            ErrorCode::UNSUPPORTED_ASSIGNOR,
        ),
        (
            "a broken pattern",
            join.clone().with_subscribed_topic_regex(Some(text("a(b"))),
            ErrorCode::INVALID_REGULAR_EXPRESSION,
        ),
        (
            "a pattern that looks ahead",
            join.clone()
                .with_subscribed_topic_regex(Some(text("(?=a)b"))),
            ErrorCode::INVALID_REGULAR_EXPRESSION,
        ),
        (
            "a static leave without instance",
            consumer.beat_request().with_member_epoch(-2),
            invalid,
        ),
        (
            "an epoch below all",
            consumer.beat_request().with_member_epoch(-3),
            invalid,
        ),
    ]
}

#[tokio::test]
async fn behaviour_101_joining_needs_everything_to_be_said() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let settled = settled(&group, &topic, 1).await?;
    let newcomer = Consumer::new(&group, &[&topic]).await?;
    for (what, request, expected) in requests(&newcomer) {
        let answer = newcomer.send(&request).await?;
        assert_eq!(code(answer.error_code), expected, "{what}");
        ensure!(answer.error_message.is_some(), "{what}");
    }
    assert_eq!(
        settled.code_of(&settled.beat_request()).await?,
        ErrorCode::NONE
    );
    assert_eq!(
        describe_consumers(&settled.connection, 1, &group)
            .await?
            .members
            .len(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_101_static_members_keep_their_place_while_away() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 4, &[]).await?;
    let all = all_of(&topic, 4);
    let group = new_group().await?;
    let mut fixed = Consumer::new(&group, &[&topic])
        .await?
        .with_instance("shelf");
    let mut other = Consumer::new(&group, &[&topic]).await?;
    fixed.join().await?;
    other.join().await?;
    reconcile(&mut [&mut fixed, &mut other], &all).await?;
    let rival = Consumer::new(&group, &[&topic])
        .await?
        .with_instance("shelf");
    let taken = rival.code_of(&rival.join_request()).await?;
    assert_eq!(taken, ErrorCode::UNRELEASED_INSTANCE_ID, "it is here");
    let away = fixed.leave(-2).await?;
    assert_eq!(
        (code(away.error_code), away.member_epoch),
        (ErrorCode::NONE, -2)
    );
    let epoch = other.epoch;
    other.beat().await?;
    assert_eq!(
        (other.epoch, other.owned.len()),
        (epoch, 2),
        "nothing moves"
    );
    // Its next incarnation takes over.
    let mut next = Consumer::new(&group, &[&topic])
        .await?
        .with_instance("shelf");
    next.join().await?;
    assert_eq!(next.assigned, fixed.owned);
    reconcile(&mut [&mut next, &mut other], &all).await?;
    assert_eq!(next.owned, fixed.owned);
    // The one before is fenced.
    let fenced = fixed.code_of(&fixed.beat_request()).await?;
    assert_eq!(fenced, ErrorCode::FENCED_INSTANCE_ID);
    // For good.
    assert_eq!(next.leave(-1).await?.error_code, 0);
    reconcile(&mut [&mut other], &all).await
}

#[tokio::test]
async fn behaviour_102_commits_carry_the_member_epoch() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let consumer = settled(&group, &topic, 1).await?;
    let request = commit_request(&group, &topic, vec![committed(0, 5)])
        .with_member_id(text(&consumer.id))
        .with_generation_id_or_member_epoch(consumer.epoch);
    for version in versions::<OffsetCommitRequest>() {
        let found = commit(&connection, version, &request).await?;
        let expected = if version < 9 {
            ErrorCode::UNSUPPORTED_VERSION
        } else {
            ErrorCode::NONE
        };
        assert_eq!(found, expected, "version {version}");
        if version < 9 {
            continue;
        }
        let ahead = request
            .clone()
            .with_generation_id_or_member_epoch(consumer.epoch + 1);
        let found = commit(&connection, version, &ahead).await?;
        assert_eq!(found, ErrorCode::STALE_MEMBER_EPOCH, "version {version}");
        let stranger = request.clone().with_member_id(text("stranger"));
        let found = commit(&connection, version, &stranger).await?;
        assert_eq!(found, ErrorCode::UNKNOWN_MEMBER_ID, "version {version}");
        let alone = commit_alone(&connection, version, &group, &topic, 9).await?;
        assert_eq!(alone, ErrorCode::UNKNOWN_MEMBER_ID, "version {version}");
    }
    assert_eq!(offset_of(&connection, &group, &topic).await?, 5);
    assert_eq!(consumer.leave(-1).await?.error_code, 0);
    let alone = commit_alone(&connection, 9, &group, &topic, 2).await?;
    assert_eq!(alone, ErrorCode::NONE, "nobody is there");
    assert_eq!(offset_of(&connection, &group, &topic).await?, 2);
    Ok(())
}

#[tokio::test]
async fn behaviour_102_reads_may_carry_the_member_epoch() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let consumer = settled(&group, &topic, 1).await?;
    for version in versions::<OffsetFetchRequest>().filter(|version| *version >= 9) {
        for (id, epoch, expected) in [
            (None, -1, ErrorCode::NONE),
            (Some(consumer.id.as_str()), consumer.epoch, ErrorCode::NONE),
            (
                Some(&consumer.id),
                consumer.epoch + 1,
                ErrorCode::STALE_MEMBER_EPOCH,
            ),
            (
                Some(&consumer.id),
                consumer.epoch - 1,
                ErrorCode::STALE_MEMBER_EPOCH,
            ),
            (
                Some("stranger"),
                consumer.epoch,
                ErrorCode::UNKNOWN_MEMBER_ID,
            ),
        ] {
            for topics in [None, Some(&[(&topic, &[0][..])][..])] {
                let mut request = offsets_request(version, &group, topics);
                request.groups[0].member_id = id.map(text);
                request.groups[0].member_epoch = epoch;
                let response = connection.send_version(version, &request).await?;
                let (found, offsets) = found_offsets(version, &response)?;
                assert_eq!(found, expected, "{id:?} {epoch}, version {version}");
                ensure!(found.is_none() || offsets.is_empty(), "{offsets:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_101_groups_are_described_member_by_member() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let mut consumer = Consumer::over(connect_as("told-client").await?, &group, &[&topic]);
    consumer.instance = Some("shelf".to_owned());
    let request = consumer.join_request().with_rack_id(Some(text("rack-1")));
    let joined = consumer.send(&request).await?;
    consumer.adopt(&joined)?;
    reconcile(&mut [&mut consumer], &all_of(&topic, 1)).await?;
    for version in [0, 1] {
        let described = describe_consumers(&consumer.connection, version, &group).await?;
        assert_eq!(code(described.error_code), ErrorCode::NONE);
        assert_eq!(
            (&*described.group_state, &*described.assignor_name),
            ("Stable", "uniform")
        );
        assert_eq!(
            (described.group_epoch, described.assignment_epoch),
            (consumer.epoch, consumer.epoch)
        );
        assert_eq!(described.members.len(), 1);
        let told = &described.members[0];
        assert_eq!(*told.member_id, *consumer.id);
        assert_eq!(
            (told.instance_id.as_deref(), told.rack_id.as_deref()),
            (Some("shelf"), Some("rack-1"))
        );
        assert_eq!(
            (&*told.client_id, &*told.client_host),
            ("told-client", "/127.0.0.1")
        );
        assert_eq!(told.member_epoch, consumer.epoch);
        assert_eq!(told.subscribed_topic_names, [name(&topic.name)]);
        ensure!(
            told.subscribed_topic_regex
                .as_deref()
                .unwrap_or_default()
                .is_empty()
        );
        assert_eq!(told.member_type, if version == 0 { -1 } else { 1 });
        for assignment in [&told.assignment, &told.target_assignment] {
            assert_eq!(assignment.topic_partitions.len(), 1);
            let of = &assignment.topic_partitions[0];
            assert_eq!((of.topic_id, &of.partitions[..]), (topic.id, &[0][..]));
            assert_eq!(of.topic_name, name(&topic.name));
        }
        let unknown = describe_consumers(&consumer.connection, version, &unique("group")).await?;
        assert_eq!(code(unknown.error_code), ErrorCode::GROUP_ID_NOT_FOUND);
    }
    Ok(())
}
