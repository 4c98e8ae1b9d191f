//! Groups of both kinds share one name space: behaviour 103.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;

use crate::calls::{code, connect_and_create};
use crate::rig::ours;

use super::calls::{Age, delete_groups, describe_group, new_group, offset_of};
use super::consumer::{Consumer, all_of, describe_consumers, reconcile};
use super::member::{Member, form, stable};

#[tokio::test]
async fn behaviour_103_classic_requests_about_a_consumer_group() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let mut modern = Consumer::new(&group, &[&topic]).await?;
    modern.join().await?;
    reconcile(&mut [&mut modern], &all_of(&topic, 1)).await?;
    for version in 0..=6 {
        let described = describe_group(&connection, version, &group).await?;
        let expected = if version < 6 {
            ErrorCode::NONE
        } else {
            ErrorCode::GROUP_ID_NOT_FOUND
        };
        assert_eq!(code(described.error_code), expected, "version {version}");
        assert_eq!(&*described.group_state, "Dead");
    }
    for age in Age::ALL {
        let mut member = Member::new(&group).await?.aged(age);
        member.protocol_type = "connect".to_owned();
        assert_eq!(
            member.join_code().await?,
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL
        );
        // One of the new protocol is no member to the old requests.
        member.id = modern.id.clone();
        member.generation = modern.epoch;
        member.chosen = Some("range".to_owned());
        assert_eq!(member.heartbeat().await?, ErrorCode::UNKNOWN_MEMBER_ID);
        assert_eq!(
            code(member.sync(&[]).await?.error_code),
            ErrorCode::UNKNOWN_MEMBER_ID
        );
    }
    let deleted = delete_groups(&connection, 2, &[&group]).await?;
    assert_eq!(deleted[0].1, ErrorCode::NON_EMPTY_GROUP);
    modern.beat().await?;
    assert_eq!(modern.leave(-1).await?.error_code, 0);
    let deleted = delete_groups(&connection, 2, &[&group]).await?;
    assert_eq!(deleted[0].1, ErrorCode::NONE);
    let described = describe_consumers(&connection, 1, &group).await?;
    assert_eq!(code(described.error_code), ErrorCode::GROUP_ID_NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn behaviour_103_new_requests_about_a_classic_group() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let mut member = Member::new(&group).await?;
    member.protocol_type = "connect".to_owned();
    let members = form(vec![member]).await?;
    let modern = Consumer::new(&group, &[&topic]).await?;
    let found = modern.code_of(&modern.join_request()).await?;
    assert_eq!(
        found,
        ErrorCode::GROUP_ID_NOT_FOUND,
        "no group of consumers"
    );
    let later = modern.beat_request().with_member_epoch(1);
    assert_eq!(modern.code_of(&later).await?, ErrorCode::GROUP_ID_NOT_FOUND);
    for version in [0, 1] {
        let described = describe_consumers(&connection, version, &group).await?;
        let found = code(described.error_code);
        assert_eq!(
            found,
            ErrorCode::GROUP_ID_NOT_FOUND,
            "so that clients ask by the old API"
        );
    }
    assert_eq!(members[0].heartbeat().await?, ErrorCode::NONE);
    // Of consumers whose words cannot be read no group of the new protocol is made.
    let group = new_group().await?;
    let garbled = Member::new(&group)
        .await?
        .with_protocols(&[("range", b"\xff")]);
    let members = form(vec![garbled]).await?;
    let modern = Consumer::new(&group, &[&topic]).await?;
    let found = modern.code_of(&modern.join_request()).await?;
    // Kafka stumbles over them.
    let theirs = !ours() && found == ErrorCode::UNKNOWN_SERVER_ERROR;
    ensure!(theirs || found == ErrorCode::GROUP_ID_NOT_FOUND, "{found}");
    assert_eq!(members[0].heartbeat().await?, ErrorCode::NONE);
    Ok(())
}

#[tokio::test]
async fn behaviour_103_offsets_are_of_the_name_not_of_the_kind() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let members = stable(&group, Age::New, 1).await?;
    assert_eq!(members[0].commit(&topic, 8).await?, ErrorCode::NONE);
    assert_eq!(members[0].leave().await?, ErrorCode::NONE);
    let mut modern = Consumer::new(&group, &[&topic]).await?;
    modern.join().await?;
    assert_eq!(offset_of(&connection, &group, &topic).await?, 8);
    Ok(())
}
