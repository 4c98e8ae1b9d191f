//! When offsets are forgotten: behaviour 97.

use std::time::Duration;

use anyhow::Result;
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::OffsetCommitRequest;

use crate::calls::{Topic, connect_and_create, create};
use crate::rig::{eventually, skip};

use super::calls::{
    Age, commit, commit_request, committed, listed, new_group, offset_of, setting, state,
};
use super::member::{Member, form};

/// Retention that tests ask for, in ms.
const SHORT: i64 = 300;

async fn checks_often(connection: &Connection) -> Result<bool> {
    let interval = setting(connection, "offsets.retention.check.interval.ms").await?;
    Ok(interval.parse::<u64>()? <= 1000)
}

async fn commit_for(
    connection: &Connection,
    request: OffsetCommitRequest,
    version: i16,
    retention_ms: i64,
) -> Result<()> {
    let request = request.with_retention_time_ms(retention_ms);
    assert_eq!(
        commit(connection, version, &request).await?,
        ErrorCode::NONE
    );
    Ok(())
}

async fn expect_gone(connection: &Connection, group: &str, topic: &Topic) -> Result<()> {
    eventually("the offset is forgotten", || async {
        Ok((offset_of(connection, group, topic).await? == -1).then_some(()))
    })
    .await
}

#[tokio::test]
async fn behaviour_97_old_clients_say_how_long_an_offset_is_kept() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    if !checks_often(&connection).await? {
        skip!("offsets.retention.check.interval.ms is too long");
    }
    let long = create(&connection, 1, &[]).await?;
    for version in [2, 3, 4] {
        let group = new_group().await?;
        let request = commit_request(&group, &long, vec![committed(0, 1)]);
        commit_for(&connection, request, version, -1).await?;
        let request = commit_request(&group, &topic, vec![committed(0, 1)]);
        commit_for(&connection, request, version, SHORT).await?;
        assert_eq!(offset_of(&connection, &group, &topic).await?, 1);
        expect_gone(&connection, &group, &topic).await?;
        assert_eq!(
            offset_of(&connection, &group, &long).await?,
            1,
            "kept by default"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_97_a_group_without_offsets_and_members_is_forgotten() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    if !checks_often(&connection).await? {
        skip!("offsets.retention.check.interval.ms is too long");
    }
    let group = new_group().await?;
    let request = commit_request(&group, &topic, vec![committed(0, 1)]);
    commit_for(&connection, request, 4, SHORT).await?;
    assert_eq!(state(&connection, &group).await?, "Empty");
    eventually("the group is forgotten", || async {
        let gone = listed(&connection, 5, &group, &[], &[]).await?.is_none();
        Ok((gone && state(&connection, &group).await? == "Dead").then_some(()))
    })
    .await
}

#[tokio::test]
async fn behaviour_97_live_consumers_keep_what_they_subscribe_to() -> Result<()> {
    let (connection, subscribed) = connect_and_create().await?;
    if !checks_often(&connection).await? {
        skip!("offsets.retention.check.interval.ms is too long");
    }
    let other = create(&connection, 1, &[]).await?;
    let group = new_group().await?;
    let member = Member::new(&group)
        .await?
        .aged(Age::New)
        .subscribed(&[&subscribed.name]);
    let members = form(vec![member]).await?;
    for topic in [&subscribed, &other] {
        commit_for(&connection, members[0].commit_request(topic, 1), 4, SHORT).await?;
    }
    expect_gone(&connection, &group, &other).await?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(offset_of(&connection, &group, &subscribed).await?, 1);
    // Its time has come as soon as nobody is there any more.
    assert_eq!(members[0].leave().await?, ErrorCode::NONE);
    expect_gone(&connection, &group, &subscribed).await
}
