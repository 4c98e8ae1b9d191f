//! Offsets committed by nobody in particular: behaviours 95 and 96.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::{OffsetCommitRequest, OffsetFetchRequest};
use uuid::Uuid;

use crate::calls::{Topic, connect_and_create, create, delete, text};
use crate::rig::{connect, eventually, unique};

use super::calls::{
    Age, commit, commit_alone, commit_codes, commit_request, commit_topic, committed, new_group,
    newest, offset_of, offsets, state, versions,
};
use super::member::stable;

#[tokio::test]
async fn behaviour_95_a_simple_group_commits_and_reads_in_every_version() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let group = new_group().await?;
    for version in versions::<OffsetCommitRequest>() {
        let offset = 100 + i64::from(version);
        let partition = |index: i32| {
            committed(index, offset + i64::from(index))
                .with_committed_metadata(Some(text("what I noted: \u{e9}")))
                .with_committed_leader_epoch(if version >= 6 { 0 } else { -1 })
        };
        let request = commit_request(&group, &topic, vec![partition(1), partition(0)]);
        let response = connection.send_version(version, &request).await?;
        assert_eq!(
            commit_codes(&response),
            [ErrorCode::NONE; 2],
            "version {version}"
        );
        let indexes: Vec<i32> = response.topics[0]
            .partitions
            .iter()
            .map(|p| p.partition_index)
            .collect();
        assert_eq!(indexes, [1, 0]);
        for fetch in versions::<OffsetFetchRequest>() {
            let (error, found) =
                offsets(&connection, fetch, &group, Some(&[(&topic, &[0, 1])])).await?;
            assert_eq!(error, ErrorCode::NONE);
            assert_eq!(found.len(), 2, "{found:?}");
            for found in found {
                ensure!(
                    found.topic == topic.name || found.topic_id == topic.id,
                    "{found:?}"
                );
                assert_eq!(found.offset, offset + i64::from(found.partition));
                assert_eq!(found.metadata.as_deref(), Some("what I noted: \u{e9}"));
                let epoch = if version >= 6 && fetch >= 5 { 0 } else { -1 };
                assert_eq!(
                    (found.epoch, found.error),
                    (epoch, ErrorCode::NONE),
                    "{version} {fetch}"
                );
            }
        }
    }
    assert_eq!(
        state(&connection, &group).await?,
        "Empty",
        "it is a group now"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_95_anyone_may_commit_while_the_group_is_empty_and_nobody_else_later()
-> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in [2, 5, 8, newest::<OffsetCommitRequest>()] {
        let group = new_group().await?;
        assert_eq!(
            commit_alone(&connection, version, &group, &topic, 1).await?,
            ErrorCode::NONE
        );
        let members = stable(&group, Age::New, 1).await?;
        let refused = commit_alone(&connection, version, &group, &topic, 2).await?;
        assert_eq!(
            refused,
            ErrorCode::UNKNOWN_MEMBER_ID,
            "version {version}: there is a member"
        );
        assert_eq!(offset_of(&connection, &group, &topic).await?, 1);
        assert_eq!(members[0].leave().await?, ErrorCode::NONE);
        assert_eq!(
            commit_alone(&connection, version, &group, &topic, 3).await?,
            ErrorCode::NONE
        );
        assert_eq!(offset_of(&connection, &group, &topic).await?, 3);
        // Who was a member is one no more.
        let late = members[0].commit_request(&topic, 4);
        let refused = commit(&connection, version, &late).await?;
        assert_eq!(refused, ErrorCode::UNKNOWN_MEMBER_ID);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_95_a_generation_of_an_unknown_group_is_refused() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    for version in versions::<OffsetCommitRequest>() {
        let expected = if version < 9 {
            ErrorCode::ILLEGAL_GENERATION
        } else {
            ErrorCode::GROUP_ID_NOT_FOUND
        };
        for generation in [0, 7] {
            let request = commit_request(&group, &topic, vec![committed(0, 1)])
                .with_generation_id_or_member_epoch(generation)
                .with_member_id(text("someone"));
            assert_eq!(
                commit(&connection, version, &request).await?,
                expected,
                "version {version}"
            );
        }
    }
    assert_eq!(offset_of(&connection, &group, &topic).await?, -1);
    Ok(())
}

#[tokio::test]
async fn behaviour_95_metadata_has_a_limit_of_its_own() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 3, &[]).await?;
    for version in [2, 7, 8, newest::<OffsetCommitRequest>()] {
        let group = new_group().await?;
        let metadata = |partition, len| {
            committed(partition, 5).with_committed_metadata(Some(text(&"m".repeat(len))))
        };
        let partitions = vec![metadata(0, 4096), metadata(1, 4097), metadata(2, 0)];
        let request = commit_request(&group, &topic, partitions);
        let response = connection.send_version(version, &request).await?;
        let too_large = ErrorCode::OFFSET_METADATA_TOO_LARGE;
        assert_eq!(
            commit_codes(&response),
            [ErrorCode::NONE, too_large, ErrorCode::NONE]
        );
        let (_, mut found) = offsets(&connection, 9, &group, None).await?;
        found.sort_by_key(|found| found.partition);
        let found: Vec<_> = found
            .iter()
            .map(|found| {
                (
                    found.partition,
                    found.offset,
                    found.metadata.as_deref().map(str::len),
                )
            })
            .collect();
        assert_eq!(
            found,
            [(0, 5, Some(4096)), (2, 5, Some(0))],
            "the others are stored"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_95_unknown_partitions_are_refused_one_by_one() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in versions::<OffsetCommitRequest>() {
        let group = new_group().await?;
        let missing = Topic {
            name: unique("missing"),
            id: Uuid::new_v4(),
        };
        let mut request = commit_request(
            &group,
            &topic,
            vec![committed(0, 1), committed(1, 1), committed(-1, 1)],
        );
        request
            .topics
            .push(commit_topic(&missing, vec![committed(0, 1)]));
        let response = connection.send_version(version, &request).await?;
        let known = response
            .topics
            .iter()
            .find(|told| *told.name == *topic.name || told.topic_id == topic.id);
        let mut codes: Vec<_> = known
            .iter()
            .flat_map(|told| &told.partitions)
            .map(|told| (told.partition_index, crate::calls::code(told.error_code)))
            .collect();
        codes.sort();
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        assert_eq!(codes, [(-1, unknown), (0, ErrorCode::NONE), (1, unknown)]);
        let all = commit_codes(&response);
        assert_eq!(all.len(), 4);
        let unknown_topic = if version < 10 {
            unknown
        } else {
            ErrorCode::UNKNOWN_TOPIC_ID
        };
        ensure!(all.contains(&unknown_topic), "{all:?}");
        assert_eq!(offset_of(&connection, &group, &topic).await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_95_offsets_may_go_back_and_metadata_may_be_null() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in [2, 6, newest::<OffsetCommitRequest>()] {
        let group = new_group().await?;
        for offset in [1000, 0, i64::MAX, 7] {
            let partition = committed(0, offset).with_committed_metadata(None);
            let request = commit_request(&group, &topic, vec![partition]);
            assert_eq!(
                commit(&connection, version, &request).await?,
                ErrorCode::NONE
            );
            let (_, found) = offsets(&connection, 9, &group, None).await?;
            assert_eq!(
                (found[0].offset, found[0].metadata.as_deref()),
                (offset, Some(""))
            );
        }
        let empty = commit_request(&group, &topic, Vec::new()).with_topics(Vec::new());
        let response = connection.send_version(version, &empty).await?;
        assert_eq!(response.topics, []);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_95_a_group_may_be_nameless_for_its_offsets() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    super::calls::coordinated(&connection, "").await?;
    for version in [2, newest::<OffsetCommitRequest>()] {
        let found = commit_alone(&connection, version, "", &topic, 3).await?;
        assert_eq!(found, ErrorCode::NONE, "as old simple consumers do");
        assert_eq!(offset_of(&connection, "", &topic).await?, 3);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_96_offsets_go_with_their_topic() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let stays = create(&connection, 1, &[]).await?;
    let group = new_group().await?;
    for topic in [&topic, &stays] {
        assert_eq!(
            commit_alone(&connection, 9, &group, topic, 5).await?,
            ErrorCode::NONE
        );
    }
    delete(&connection, &topic).await?;
    eventually("the offset is gone", || async {
        let (_, found) = offsets(&connection, 9, &group, None).await?;
        Ok((found.len() == 1 && found[0].topic == stays.name).then_some(()))
    })
    .await
}
