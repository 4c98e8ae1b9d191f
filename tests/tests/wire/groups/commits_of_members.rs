//! Offsets committed by members of a classic group: behaviour 95.

use anyhow::Result;
use klamm_protocol::ErrorCode;

use crate::calls::{connect_and_create, text};

use super::calls::{Age, commit, new_group, offset_of};
use super::member::{Member, grow_unsettled, rejoin, settle, stable};

#[tokio::test]
async fn behaviour_95_members_commit_with_their_generation() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for age in Age::ALL {
        let group = new_group().await?;
        let members = stable(&group, age, 2).await?;
        for (offset, member) in (10..).zip(&members) {
            assert_eq!(member.commit(&topic, offset).await?, ErrorCode::NONE);
            assert_eq!(offset_of(&connection, &group, &topic).await?, offset);
        }
        let known = &members[0];
        for generation in [known.generation - 1, known.generation + 1, i32::MAX, -1] {
            let request = known
                .commit_request(&topic, 99)
                .with_generation_id_or_member_epoch(generation);
            let found = commit(&connection, age.commit(), &request).await?;
            assert_eq!(
                found,
                ErrorCode::ILLEGAL_GENERATION,
                "{generation}, {age:?}"
            );
        }
        for stranger in ["stranger", ""] {
            let request = known
                .commit_request(&topic, 99)
                .with_member_id(text(stranger));
            let found = commit(&connection, age.commit(), &request).await?;
            assert_eq!(found, ErrorCode::UNKNOWN_MEMBER_ID, "{stranger:?}, {age:?}");
        }
        assert_eq!(offset_of(&connection, &group, &topic).await?, 11);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_95_the_phase_decides_whether_members_may_commit() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 1).await?;
        let joining = Member::new(&group).await?.aged(age).joining();
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        // What was consumed up to now may be committed before joining.
        assert_eq!(
            members[0].commit(&topic, 1).await?,
            ErrorCode::NONE,
            "join phase"
        );
        let answers = rejoin(&mut members).await?;
        members.push(joining.await??.0);
        for member in &members {
            assert_eq!(
                member.commit(&topic, 2).await?,
                ErrorCode::REBALANCE_IN_PROGRESS
            );
        }
        settle(&members, &answers[0].leader).await?;
        assert_eq!(offset_of(&connection, &group, &topic).await?, 1);
        assert_eq!(
            members[1].commit(&topic, 3).await?,
            ErrorCode::NONE,
            "stable"
        );
        assert_eq!(offset_of(&connection, &group, &topic).await?, 3);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_95_what_the_old_generation_commits_too_late_is_refused() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 1).await?;
        let old = members[0].clone();
        assert_eq!(old.commit(&topic, 5).await?, ErrorCode::NONE);
        let newcomer = Member::new(&group).await?.aged(age);
        let answers = grow_unsettled(&mut members, newcomer).await?;
        settle(&members, &answers[0].leader).await?;
        assert_eq!(members[1].commit(&topic, 6).await?, ErrorCode::NONE);
        assert_eq!(old.commit(&topic, 2).await?, ErrorCode::ILLEGAL_GENERATION);
        assert_eq!(offset_of(&connection, &group, &topic).await?, 6);
    }
    Ok(())
}
