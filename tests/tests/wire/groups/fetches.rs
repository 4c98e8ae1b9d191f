//! Reading committed offsets: behaviour 96.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::OffsetFetchRequest;
use uuid::Uuid;

use crate::calls::{Topic, code, connect_and_create, create, text};
use crate::rig::{connect, unique};

use super::calls::{
    Age, commit, commit_request, committed, found_offsets, group_offsets, new_group, offsets,
    offsets_request, versions,
};
use super::member::stable;

#[tokio::test]
async fn behaviour_96_what_was_never_committed_is_no_error() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let known = new_group().await?;
    let request = commit_request(&known, &topic, vec![committed(0, 1)]);
    assert_eq!(commit(&connection, 8, &request).await?, ErrorCode::NONE);
    let missing = Topic {
        name: unique("missing"),
        id: Uuid::new_v4(),
    };
    for version in versions::<OffsetFetchRequest>() {
        for group in [&known, &unique("group")] {
            let mut asked: Vec<(&Topic, &[i32])> = vec![(&topic, &[1, 7])];
            if version < 10 {
                asked.push((&missing, &[0]));
            }
            let (error, found) = offsets(&connection, version, group, Some(&asked)).await?;
            assert_eq!(error, ErrorCode::NONE, "version {version}");
            assert_eq!(found.len(), asked.len() + 1);
            for found in found {
                assert_eq!(
                    (found.offset, found.epoch, found.error),
                    (-1, -1, ErrorCode::NONE)
                );
                assert_eq!(found.metadata.as_deref(), Some(""), "version {version}");
            }
            if version >= 2 {
                let (error, found) = offsets(&connection, version, group, None).await?;
                let count = usize::from(group == &known);
                assert_eq!(
                    (error, found.len()),
                    (ErrorCode::NONE, count),
                    "version {version}"
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_96_no_topics_named_are_all_that_have_offsets() -> Result<()> {
    let connection = connect().await?;
    let first = create(&connection, 3, &[]).await?;
    let second = create(&connection, 1, &[]).await?;
    let group = new_group().await?;
    for (topic, partitions) in [
        (&first, vec![committed(0, 1), committed(2, 3)]),
        (&second, vec![committed(0, 9)]),
    ] {
        let request = commit_request(&group, topic, partitions);
        assert_eq!(commit(&connection, 8, &request).await?, ErrorCode::NONE);
    }
    let mut expected = vec![
        (first.name.clone(), 0, 1),
        (first.name.clone(), 2, 3),
        (second.name.clone(), 0, 9),
    ];
    expected.sort();
    for version in versions::<OffsetFetchRequest>() {
        if version >= 2 {
            let (error, found) = offsets(&connection, version, &group, None).await?;
            assert_eq!(error, ErrorCode::NONE);
            let named = |id: Uuid, name: &str| {
                let topics = [&first, &second];
                let by_id = topics.into_iter().find(|topic| topic.id == id);
                by_id.map_or(name.to_owned(), |topic| topic.name.clone())
            };
            let mut found: Vec<_> = found
                .into_iter()
                .map(|found| {
                    (
                        named(found.topic_id, &found.topic),
                        found.partition,
                        found.offset,
                    )
                })
                .collect();
            found.sort();
            assert_eq!(found, expected, "version {version}");
        }
        let (_, found) = offsets(&connection, version, &group, Some(&[])).await?;
        assert_eq!(found, [], "none asked for, none told");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_96_several_groups_are_read_at_once() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let mut groups = Vec::new();
    for offset in 0..5 {
        let group = new_group().await?;
        let request = commit_request(&group, &topic, vec![committed(0, offset)]);
        assert_eq!(commit(&connection, 8, &request).await?, ErrorCode::NONE);
        groups.push(group);
    }
    let unknown = unique("group");
    for version in versions::<OffsetFetchRequest>().filter(|version| *version >= 8) {
        let mut asked: Vec<_> = groups
            .iter()
            .map(|group| group_offsets(group, None))
            .collect();
        asked[1] = group_offsets(&groups[1], Some(&[(&topic, &[0, 1])]));
        asked.push(group_offsets(&unknown, Some(&[(&topic, &[0])])));
        let request = OffsetFetchRequest::default().with_groups(asked);
        for require_stable in [false, true] {
            let request = request.clone().with_require_stable(require_stable);
            let response = connection.send_version(version, &request).await?;
            assert_eq!(response.groups.len(), 6, "version {version}");
            for told in response.groups {
                ensure!(told.error_code == 0, "{told:?}");
                let at = groups
                    .iter()
                    .position(|group| group.as_str() == &**told.group_id);
                let single = klamm_protocol::messages::OffsetFetchResponse::default()
                    .with_groups(vec![told]);
                let (_, found) = found_offsets(version, &single)?;
                let read: Vec<_> = found
                    .iter()
                    .map(|found| (found.partition, found.offset))
                    .collect();
                match at {
                    Some(1) => assert_eq!(read, [(0, 1), (1, -1)]),
                    Some(at) => assert_eq!(read, [(0, i64::try_from(at)?)]),
                    None => assert_eq!(read, [(0, -1)]),
                }
            }
        }
    }
    Ok(())
}

/// A classic group has no member epochs: who names itself is not checked by one, but must be there.
#[tokio::test]
async fn behaviour_96_members_of_classic_groups_need_no_epoch_to_read() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let members = stable(&group, Age::New, 1).await?;
    assert_eq!(members[0].commit(&topic, 4).await?, ErrorCode::NONE);
    for version in versions::<OffsetFetchRequest>() {
        let mut request = offsets_request(version, &group, Some(&[(&topic, &[0])]));
        if version >= 9 {
            request.groups[0].member_id = Some(text(&members[0].id));
            request.groups[0].member_epoch = members[0].generation;
        }
        if version >= 7 {
            request.require_stable = true;
        }
        let response = connection.send_version(version, &request).await?;
        let (error, found) = found_offsets(version, &response)?;
        assert_eq!(
            (error, found[0].offset),
            (ErrorCode::NONE, 4),
            "version {version}"
        );
        ensure!(code(response.error_code).is_none());
    }
    Ok(())
}
