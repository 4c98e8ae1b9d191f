//! What starts a rebalance and what does not: behaviour 89.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;

use crate::calls::connect_and_create;

use super::calls::{Age, new_group, state};
use super::member::{Member, grow_unsettled, rejoin, settle, stable, subscription};

#[tokio::test]
async fn behaviour_89_a_follower_that_repeats_itself_disturbs_nobody() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 3).await?;
        let leader = members[0].id.clone();
        for follower in &mut members[1..] {
            let before = follower.generation;
            let answer = follower.join().await?;
            assert_eq!((answer.generation_id, &*answer.leader), (before, &*leader));
            ensure!(answer.members.is_empty(), "a follower gets no list");
        }
        assert_eq!(state(&members[0].connection, &group).await?, "Stable");
        settle(&members[1..], &members[1].id).await?;
        for member in &members {
            assert_eq!(member.heartbeat().await?, ErrorCode::NONE);
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_89_a_follower_with_other_metadata_starts_a_rebalance() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 2).await?;
        members[1] = members[1].clone().subscribed(&["some-topic", "another"]);
        let joining = members[1].joining();
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        let answer = members[0].join().await?;
        members[1] = joining.await??.0;
        assert_eq!((members[0].generation, members[1].generation), (3, 3));
        let told = answer
            .members
            .iter()
            .find(|listed| *listed.member_id == *members[1].id);
        let metadata = told.map(|listed| listed.metadata.clone());
        assert_eq!(metadata, Some(subscription(&["some-topic", "another"])));
        settle(&members, &answer.leader).await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_89_a_leader_that_repeats_itself_starts_a_rebalance() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 2).await?;
        let joining = members[0].joining();
        members[1]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        members[1].join().await?;
        let (leader, answer) = joining.await??;
        members[0] = leader;
        assert_eq!(answer.generation_id, 3);
        assert_eq!(
            (&*answer.leader, answer.members.len()),
            (&*members[0].id, 2)
        );
        settle(&members, &answer.leader).await?;
    }
    Ok(())
}

/// A member whose answer got lost asks again before anyone has synced.
#[tokio::test]
async fn behaviour_89_joining_again_before_the_sync_repeats_the_answer() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 1).await?;
        let newcomer = Member::new(&group).await?.aged(age);
        grow_unsettled(&mut members, newcomer).await?;
        let leader = members[0].id.clone();
        for member in &mut members {
            let answer = member.join().await?;
            assert_eq!((answer.generation_id, &*answer.leader), (2, &*leader));
            let expected = if member.id == leader { 2 } else { 0 };
            assert_eq!(answer.members.len(), expected, "{age:?}");
        }
        settle(&members, &leader).await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_89_other_metadata_before_the_sync_starts_over() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 1).await?;
        let newcomer = Member::new(&group).await?.aged(age);
        grow_unsettled(&mut members, newcomer).await?;
        let syncing = members[1].clone();
        let joining = members[0].clone().subscribed(&["changed"]).joining();
        members[1]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        let told = crate::calls::code(syncing.sync(&[]).await?.error_code);
        assert_eq!(told, ErrorCode::REBALANCE_IN_PROGRESS);
        rejoin(&mut members[1..]).await?;
        let (leader, answer) = joining.await??;
        members[0] = leader;
        assert_eq!((answer.generation_id, members[1].generation), (3, 3));
        settle(&members, &answer.leader).await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_89_who_leaves_starts_a_rebalance() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 2).await?;
        // An empty group without offsets is forgotten at the next look.
        assert_eq!(members[0].commit(&topic, 1).await?, ErrorCode::NONE);
        let leader = members.remove(0);
        assert_eq!(leader.leave().await?, ErrorCode::NONE);
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        let answer = members[0].join().await?;
        assert_eq!(
            (answer.generation_id, &*answer.leader),
            (3, &*members[0].id)
        );
        settle(&members, &answer.leader).await?;
        assert_eq!(leader.heartbeat().await?, ErrorCode::UNKNOWN_MEMBER_ID);
        assert_eq!(members[0].leave().await?, ErrorCode::NONE);
        assert_eq!(state(&leader.connection, &group).await?, "Empty");
        // An empty group goes on where it was.
        let mut next = Member::new(&group).await?.aged(age);
        assert_eq!(
            next.join().await?.generation_id,
            5,
            "becoming empty is a generation too"
        );
    }
    Ok(())
}
