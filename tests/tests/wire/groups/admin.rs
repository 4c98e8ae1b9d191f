//! Describing and deleting groups: behaviours 98 and 99.

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use klamm_protocol::messages::{DescribeGroupsRequest, OffsetDeleteRequest};

use crate::calls::{Topic, code, connect_and_create, create, name};
use crate::rig::{connect, connect_as, eventually, unique};

use super::calls::{
    Age, commit_alone, delete_groups, describe_group, group_id, listed, new_group, offset_of, state,
};
use super::member::{Member, form, grow_unsettled, rejoin, settle, share_of, stable, subscription};

#[tokio::test]
async fn behaviour_98_members_are_told_in_full_when_stable() -> Result<()> {
    let group = new_group().await?;
    let one = Member::over(connect_as("first-client").await?, &group).with_instance("shelf");
    let two = Member::over(connect_as("second-client").await?, &group);
    let members = form(vec![one, two]).await?;
    for version in 0..=6 {
        let described = describe_group(&members[0].connection, version, &group).await?;
        assert_eq!(code(described.error_code), ErrorCode::NONE);
        assert_eq!(*described.group_id, *group);
        assert_eq!(&*described.group_state, "Stable");
        assert_eq!(
            (&*described.protocol_type, &*described.protocol_data),
            ("consumer", "range")
        );
        assert_eq!(described.authorized_operations, i32::MIN, "not asked for");
        assert_eq!(described.members.len(), 2);
        for (member, client) in members.iter().zip(["first-client", "second-client"]) {
            let told = described
                .members
                .iter()
                .find(|told| *told.member_id == *member.id);
            let told = told.context("a member")?;
            assert_eq!(&*told.client_id, client);
            assert_eq!(&*told.client_host, "/127.0.0.1");
            assert_eq!(told.member_metadata, subscription(&["some-topic"]));
            assert_eq!(told.member_assignment, share_of(&member.id));
            let instance = member.instance.as_deref().filter(|_| version >= 4);
            assert_eq!(
                told.group_instance_id.as_deref(),
                instance,
                "version {version}"
            );
        }
        if version >= 3 {
            let request = DescribeGroupsRequest::default()
                .with_groups(vec![group_id(&group), group_id(&unique("group"))])
                .with_include_authorized_operations(true);
            let told = members[0]
                .connection
                .send_version(version, &request)
                .await?
                .groups;
            let of = told
                .iter()
                .find(|told| *told.group_id == *group)
                .context("the group")?;
            // READ, DELETE and DESCRIBE.
            let wanted = 1 << 3 | 1 << 6 | 1 << 8;
            ensure!(
                of.authorized_operations & wanted == wanted,
                "{:b}",
                of.authorized_operations
            );
            assert_eq!(told.len(), 2);
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_98_groups_go_through_states() -> Result<()> {
    let group = new_group().await?;
    let mut members = stable(&group, Age::New, 1).await?;
    let observer = connect().await?;
    let seen = async |expected: &str, count: usize| -> Result<()> {
        for version in [0, 3, 6] {
            let described = describe_group(&observer, version, &group).await?;
            assert_eq!(&*described.group_state, expected, "version {version}");
            assert_eq!(&*described.protocol_type, "consumer");
            let chosen = if expected == "Stable" { "range" } else { "" };
            assert_eq!(&*described.protocol_data, chosen);
            assert_eq!(described.members.len(), count);
            let told = described
                .members
                .iter()
                .all(|told| !told.member_metadata.is_empty());
            assert_eq!(
                told && count > 0,
                expected == "Stable",
                "metadata is told when it counts"
            );
        }
        for (state, shown) in [(expected, true), ("Dead", false)] {
            let row = listed(&observer, 4, &group, &[state], &[]).await?;
            assert_eq!(row.is_some(), shown, "filtered by {state}");
        }
        Ok(())
    };
    seen("Stable", 1).await?;
    let joining = Member::new(&group).await?.joining();
    members[0]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    seen("PreparingRebalance", 2).await?;
    let answers = rejoin(&mut members).await?;
    members.push(joining.await??.0);
    seen("CompletingRebalance", 2).await?;
    settle(&members, &answers[0].leader).await?;
    seen("Stable", 2).await?;
    let (_, topic) = connect_and_create().await?;
    // An empty group without offsets is forgotten at the next look.
    assert_eq!(members[0].commit(&topic, 1).await?, ErrorCode::NONE);
    for member in &members {
        assert_eq!(member.leave().await?, ErrorCode::NONE);
    }
    seen("Empty", 0).await
}

#[tokio::test]
async fn behaviour_98_unknown_groups_are_dead_or_not_found() -> Result<()> {
    let connection = connect().await?;
    let group = new_group().await?;
    for version in 0..=6 {
        let described = describe_group(&connection, version, &group).await?;
        let expected = if version < 6 {
            ErrorCode::NONE
        } else {
            ErrorCode::GROUP_ID_NOT_FOUND
        };
        assert_eq!(code(described.error_code), expected, "version {version}");
        assert_eq!(
            (&*described.group_state, described.members.len()),
            ("Dead", 0)
        );
        ensure!(described.protocol_type.is_empty() && described.protocol_data.is_empty());
        ensure!(
            version < 6 || described.error_message.is_some(),
            "{described:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_99_groups_with_members_are_not_deleted() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in 0..=2 {
        let [live, empty, simple] = [new_group().await?, new_group().await?, new_group().await?];
        let members = stable(&live, Age::New, 1).await?;
        let gone = stable(&empty, Age::New, 1).await?;
        assert_eq!(gone[0].commit(&topic, 1).await?, ErrorCode::NONE);
        assert_eq!(gone[0].leave().await?, ErrorCode::NONE);
        assert_eq!(
            commit_alone(&connection, 8, &simple, &topic, 1).await?,
            ErrorCode::NONE
        );
        let unknown = unique("group");
        let asked = [live.as_str(), &empty, &simple, &unknown];
        let told = delete_groups(&connection, version, &asked).await?;
        assert_eq!(told.len(), 4);
        for (group, expected) in [
            (&live, ErrorCode::NON_EMPTY_GROUP),
            (&empty, ErrorCode::NONE),
            (&simple, ErrorCode::NONE),
            (&unknown, ErrorCode::GROUP_ID_NOT_FOUND),
        ] {
            let found = told
                .iter()
                .find(|(of, _)| of == group)
                .map(|(_, found)| *found);
            assert_eq!(found, Some(expected), "version {version}");
        }
        assert_eq!(members[0].heartbeat().await?, ErrorCode::NONE);
        for group in [&empty, &simple] {
            assert_eq!(state(&connection, group).await?, "Dead");
            assert_eq!(
                offset_of(&connection, group, &topic).await?,
                -1,
                "its offsets are gone"
            );
            ensure!(listed(&connection, 5, group, &[], &[]).await?.is_none());
            let again = delete_groups(&connection, version, &[group]).await?;
            assert_eq!(again[0].1, ErrorCode::GROUP_ID_NOT_FOUND);
        }
        // The name is free.
        let next = stable(&empty, Age::New, 1).await?;
        assert_eq!(next[0].generation, 1);
    }
    Ok(())
}

async fn offset_delete(
    connection: &Connection,
    group: &str,
    topics: &[(&Topic, &[i32])],
) -> Result<(ErrorCode, Vec<(String, i32, ErrorCode)>)> {
    let topic = |(topic, partitions): &(&Topic, &[i32])| {
        let partition =
            |index: &i32| OffsetDeleteRequestPartition::default().with_partition_index(*index);
        OffsetDeleteRequestTopic::default()
            .with_name(name(&topic.name))
            .with_partitions(partitions.iter().map(partition).collect())
    };
    let request = OffsetDeleteRequest::default()
        .with_group_id(group_id(group))
        .with_topics(topics.iter().map(topic).collect());
    let response = connection.send_version(0, &request).await?;
    let mut codes = Vec::new();
    for topic in &response.topics {
        for told in &topic.partitions {
            codes.push((
                topic.name.to_string(),
                told.partition_index,
                code(told.error_code),
            ));
        }
    }
    codes.sort();
    Ok((code(response.error_code), codes))
}

#[tokio::test]
async fn behaviour_99_offsets_of_subscribed_topics_are_not_deleted() -> Result<()> {
    let (connection, subscribed) = connect_and_create().await?;
    let other = create(&connection, 1, &[]).await?;
    let group = new_group().await?;
    let member = Member::new(&group).await?.subscribed(&[&subscribed.name]);
    let members = form(vec![member]).await?;
    for topic in [&subscribed, &other] {
        assert_eq!(members[0].commit(topic, 1).await?, ErrorCode::NONE);
    }
    let both: [(&Topic, &[i32]); 2] = [(&subscribed, &[0]), (&other, &[0])];
    let (error, codes) = offset_delete(&connection, &group, &both).await?;
    assert_eq!(error, ErrorCode::NONE);
    let code_of = |codes: &[(String, i32, ErrorCode)], topic: &Topic| {
        codes
            .iter()
            .find(|(name, _, _)| *name == topic.name)
            .map(|(_, _, code)| *code)
    };
    assert_eq!(
        code_of(&codes, &subscribed),
        Some(ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC)
    );
    assert_eq!(code_of(&codes, &other), Some(ErrorCode::NONE));
    assert_eq!(offset_of(&connection, &group, &subscribed).await?, 1);
    assert_eq!(offset_of(&connection, &group, &other).await?, -1);
    assert_eq!(members[0].leave().await?, ErrorCode::NONE);
    let (error, codes) = offset_delete(&connection, &group, &both).await?;
    assert_eq!(error, ErrorCode::NONE);
    ensure!(codes.iter().all(|(_, _, code)| code.is_none()), "{codes:?}");
    assert_eq!(offset_of(&connection, &group, &subscribed).await?, -1);
    Ok(())
}

#[tokio::test]
async fn behaviour_99_what_cannot_be_deleted_is_said() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let (error, codes) = offset_delete(&connection, &group, &[(&topic, &[0])]).await?;
    assert_eq!((error, codes.len()), (ErrorCode::GROUP_ID_NOT_FOUND, 0));
    assert_eq!(
        commit_alone(&connection, 8, &group, &topic, 1).await?,
        ErrorCode::NONE
    );
    let missing = Topic {
        name: unique("missing"),
        id: uuid::Uuid::nil(),
    };
    let asked: [(&Topic, &[i32]); 2] = [(&topic, &[0, 1]), (&missing, &[0])];
    let (error, codes) = offset_delete(&connection, &group, &asked).await?;
    assert_eq!(error, ErrorCode::NONE);
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let mut expected = vec![
        (topic.name.clone(), 0, ErrorCode::NONE),
        (topic.name.clone(), 1, unknown),
        (missing.name.clone(), 0, unknown),
    ];
    expected.sort();
    assert_eq!(codes, expected);
    // Of who is no consumer it is not known what it subscribes to.
    let group = new_group().await?;
    let mut member = Member::new(&group).await?;
    member.protocol_type = "connect".to_owned();
    let members = form(vec![member]).await?;
    assert_eq!(members[0].commit(&topic, 1).await?, ErrorCode::NONE);
    let (error, codes) = offset_delete(&connection, &group, &[(&topic, &[0])]).await?;
    assert_eq!((error, codes.len()), (ErrorCode::NON_EMPTY_GROUP, 0));
    assert_eq!(offset_of(&connection, &group, &topic).await?, 1);
    Ok(())
}

/// Removal by an administrator is a rebalance for who stays.
#[tokio::test]
async fn behaviours_93_and_98_removed_members_are_described_no_more() -> Result<()> {
    let group = new_group().await?;
    let mut members = form(vec![
        Member::new(&group).await?,
        Member::new(&group).await?.with_instance("shelf"),
    ])
    .await?;
    let mut removed = members.remove(1);
    removed.id = String::new();
    let admin = connect().await?;
    let told = super::member::leave(&admin, 5, &group, vec![removed.identity()]).await?;
    assert_eq!(told.members[0].error_code, 0);
    eventually("one is left", || async {
        Ok((describe_group(&admin, 6, &group).await?.members.len() == 1).then_some(()))
    })
    .await?;
    members[0]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    let answers = rejoin(&mut members).await?;
    settle(&members, &answers[0].leader).await?;
    let newcomer = Member::new(&group).await?;
    grow_unsettled(&mut members, newcomer).await?;
    Ok(())
}
