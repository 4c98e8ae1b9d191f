//! Groups that change the protocol while they work: behaviour 102.

use anyhow::{Result, ensure};
use bytes::Bytes;
use klamm_protocol::ErrorCode;

use crate::calls::{Topic, code, connect_and_create, create};
use crate::rig::{connect, eventually};

use super::calls::{Age, describe_group, listed, new_group, offset_of, state};
use super::consumer::{Consumer, all_of, describe_consumers};
use super::member::{Member, stable};

/// An assignment in the layout of version 0 of the consumer protocol.
fn assignment(topic: &Topic, partitions: &[i32]) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1];
    let len = i16::try_from(topic.name.len()).expect("short");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(topic.name.as_bytes());
    bytes.extend_from_slice(&i32::try_from(partitions.len()).expect("few").to_be_bytes());
    for partition in partitions {
        bytes.extend_from_slice(&partition.to_be_bytes());
    }
    bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    bytes.into()
}

/// Partitions of an assignment of one topic or none, whatever its version.
fn partitions_of(bytes: &[u8], topic: &Topic) -> Result<Vec<i32>> {
    let number = |at: usize| -> Result<i32> {
        let bytes = bytes
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        Ok(i32::from_be_bytes(
            bytes.ok_or_else(|| anyhow::anyhow!("cut off"))?,
        ))
    };
    if number(2)? == 0 {
        return Ok(Vec::new());
    }
    let at = 8 + topic.name.len();
    ensure!(
        bytes.get(8..at) == Some(topic.name.as_bytes()),
        "another topic: {bytes:?}"
    );
    let count = usize::try_from(number(at)?)?;
    let mut partitions = Vec::new();
    for index in 0..count {
        partitions.push(number(at + 4 + 4 * index)?);
    }
    partitions.sort_unstable();
    Ok(partitions)
}

async fn lone_member(group: &str, topic: &Topic, partitions: &[i32]) -> Result<Member> {
    let mut member = Member::new(group).await?.subscribed(&[&topic.name]);
    member.join().await?;
    let share = assignment(topic, partitions);
    let told = member.sync(&[(&member.id, &share[..])]).await?;
    assert_eq!(told.assignment, share);
    Ok(member)
}

/// Does what a classic consumer does: heartbeats, and joins and syncs when told to.
async fn follow(member: &mut Member, topic: &Topic) -> Result<Option<Vec<i32>>> {
    if member.heartbeat().await? != ErrorCode::REBALANCE_IN_PROGRESS {
        return Ok(None);
    }
    member.join().await?;
    let told = member.sync(&[]).await?;
    if code(told.error_code) == ErrorCode::REBALANCE_IN_PROGRESS {
        return Ok(None);
    }
    ensure!(told.error_code == 0, "{}", code(told.error_code));
    Ok(Some(partitions_of(&told.assignment, topic)?))
}

#[tokio::test]
async fn behaviour_102_a_group_is_upgraded_and_downgraded_online() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    let group = new_group().await?;
    let mut classic = lone_member(&group, &topic, &[0, 1]).await?;
    assert_eq!(classic.commit(&topic, 10).await?, ErrorCode::NONE);
    let mut modern = Consumer::new(&group, &[&topic]).await?;
    modern.join().await?;
    let row = listed(&connection, 5, &group, &[], &[]).await?;
    assert_eq!(
        row.map(|row| row.group_type.to_string()).as_deref(),
        Some("consumer")
    );
    // Both settle, the old member by rebalances, and share.
    let mut share = vec![0, 1];
    for _ in 0..200 {
        if let Some(told) = follow(&mut classic, &topic).await? {
            share = told;
        }
        if modern.assigned == modern.owned {
            modern.beat().await?;
        } else {
            modern.settle().await?;
        }
        if share.len() == 1 && modern.owned.len() == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!((share.len(), modern.owned.len()), (1, 1));
    ensure!(
        !modern.owned.contains(&(topic.id, share[0])),
        "each has its own"
    );
    let described = describe_consumers(&connection, 1, &group).await?;
    let mut kinds: Vec<i8> = described
        .members
        .iter()
        .map(|told| told.member_type)
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [0, 1], "a classic member and a new one");
    assert_eq!(classic.heartbeat().await?, ErrorCode::NONE);
    assert_eq!(
        classic.commit(&topic, 11).await?,
        ErrorCode::NONE,
        "by its generation"
    );
    assert_eq!(offset_of(&connection, &group, &topic).await?, 11);
    // The last of the new protocol leaves: back to the classic protocol.
    assert_eq!(modern.leave(-1).await?.error_code, 0);
    eventually("the group is classic again", || async {
        let row = listed(&connection, 5, &group, &[], &["classic"]).await?;
        Ok(row.map(drop))
    })
    .await?;
    classic
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    let before = classic.generation;
    let joined = classic.join().await?;
    ensure!(classic.generation > before, "{joined:?}");
    assert_eq!((&*joined.leader, joined.members.len()), (&*classic.id, 1));
    let share = assignment(&topic, &[0, 1]);
    let told = classic.sync(&[(&classic.id, &share[..])]).await?;
    assert_eq!(told.assignment, share);
    assert_eq!(state(&connection, &group).await?, "Stable");
    assert_eq!(
        offset_of(&connection, &group, &topic).await?,
        11,
        "offsets stay"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_102_a_classic_consumer_may_join_a_group_of_the_new_protocol() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    for age in [Age::Old, Age::Middle, Age::New] {
        let group = new_group().await?;
        let mut modern = Consumer::new(&group, &[&topic]).await?;
        modern.join().await?;
        super::consumer::reconcile(&mut [&mut modern], &all_of(&topic, 2)).await?;
        let mut classic = Member::new(&group)
            .await?
            .aged(age)
            .subscribed(&[&topic.name]);
        let joined = classic.join().await?;
        assert_eq!(joined.protocol_name.as_deref(), Some("range"));
        let mut share = Vec::new();
        for _ in 0..200 {
            let told = classic.sync(&[]).await?;
            if code(told.error_code) == ErrorCode::REBALANCE_IN_PROGRESS {
                classic.join().await?;
                continue;
            }
            ensure!(told.error_code == 0, "{}", code(told.error_code));
            share = partitions_of(&told.assignment, &topic)?;
            modern.beat().await?;
            if modern.assigned != modern.owned {
                modern.settle().await?;
            }
            if share.len() == 1 && modern.owned.len() == 1 {
                break;
            }
            if let Some(told) = follow(&mut classic, &topic).await? {
                share = told;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!((share.len(), modern.owned.len()), (1, 1), "{age:?}");
        assert_eq!(classic.leave().await?, ErrorCode::NONE);
        super::consumer::reconcile(&mut [&mut modern], &all_of(&topic, 2)).await?;
    }
    Ok(())
}

/// An empty group has no protocol to keep.
#[tokio::test]
async fn behaviour_102_an_empty_group_changes_with_its_first_member() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let members = stable(&group, Age::New, 1).await?;
    assert_eq!(members[0].commit(&topic, 3).await?, ErrorCode::NONE);
    assert_eq!(members[0].leave().await?, ErrorCode::NONE);
    let mut modern = Consumer::new(&group, &[&topic]).await?;
    modern.join().await?;
    super::consumer::reconcile(&mut [&mut modern], &all_of(&topic, 1)).await?;
    assert_eq!(offset_of(&connection, &group, &topic).await?, 3);
    assert_eq!(modern.leave(-1).await?.error_code, 0);
    let classic = stable(&group, Age::New, 1).await?;
    assert_eq!(classic[0].heartbeat().await?, ErrorCode::NONE);
    assert_eq!(
        &*describe_group(&connection, 6, &group).await?.group_state,
        "Stable"
    );
    assert_eq!(offset_of(&connection, &group, &topic).await?, 3);
    Ok(())
}
