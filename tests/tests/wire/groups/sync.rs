//! How assignments get to members: behaviour 90.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;

use crate::calls::{code, text};

use super::calls::{Age, new_group, state};
use super::member::{Member, grow_unsettled, share_of, stable};

async fn unsettled(group: &str, age: Age, count: usize) -> Result<Vec<Member>> {
    let mut members = stable(group, age, count - 1).await?;
    let newcomer = Member::new(group).await?.aged(age);
    grow_unsettled(&mut members, newcomer).await?;
    Ok(members)
}

#[tokio::test]
async fn behaviour_90_followers_wait_for_the_leader() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let members = unsettled(&group, age, 3).await?;
        let syncing = [members[1].syncing(), members[2].syncing()];
        tokio::time::sleep(Duration::from_millis(200)).await;
        ensure!(
            syncing.iter().all(|syncing| !syncing.is_finished()),
            "the leader is waited for"
        );
        assert_eq!(
            state(&members[0].connection, &group).await?,
            "CompletingRebalance"
        );
        // The third is not assigned anything.
        let shares = [&*members[0].id, &*members[1].id].map(|id| (id, share_of(id)));
        let shares = shares.each_ref().map(|(id, share)| (*id, &share[..]));
        let leader = members[0].sync(&shares).await?;
        let expected = [Some(shares[0].1), Some(shares[1].1), None];
        let mut answers = vec![leader];
        for syncing in syncing {
            answers.push(syncing.await??);
        }
        for (answer, expected) in answers.iter().zip(expected) {
            assert_eq!(code(answer.error_code), ErrorCode::NONE);
            assert_eq!(answer.assignment, expected.unwrap_or_default(), "{age:?}");
            let echo = (age == Age::New).then_some(("consumer", "range"));
            assert_eq!(
                answer
                    .protocol_type
                    .as_deref()
                    .zip(answer.protocol_name.as_deref()),
                echo
            );
        }
        assert_eq!(state(&members[0].connection, &group).await?, "Stable");
        // Whoever asks again is told again, and what the leader says now is too late.
        let again = members[0].sync(&[(&members[1].id, b"late")]).await?;
        assert_eq!(again.assignment, share_of(&members[0].id));
        assert_eq!(members[1].assignment().await?, share_of(&members[1].id));
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_90_during_the_join_phase_there_is_nothing_to_sync() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 2).await?;
        let joining = Member::new(&group).await?.aged(age).joining();
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        for member in &members {
            let answer = member.sync(&[]).await?;
            assert_eq!(code(answer.error_code), ErrorCode::REBALANCE_IN_PROGRESS);
            ensure!(answer.assignment.is_empty());
        }
        super::member::rejoin(&mut members).await?;
        joining.await??;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_90_a_leader_that_never_syncs_is_removed() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let fast = |member: Member| member.aged(age).with_timeouts(30_000, 1000);
        let first = fast(Member::new(&group).await?);
        let second = fast(Member::new(&group).await?);
        let mut members = super::member::form(vec![first]).await?;
        let answers = grow_unsettled(&mut members, second).await?;
        assert_eq!(*answers[0].leader, *members[0].id);
        let began = Instant::now();
        let told = members[1].sync(&[]).await?;
        let took = began.elapsed();
        assert_eq!(code(told.error_code), ErrorCode::REBALANCE_IN_PROGRESS);
        ensure!(
            took > Duration::from_millis(700) && took < Duration::from_secs(3),
            "{took:?}"
        );
        assert_eq!(members[0].heartbeat().await?, ErrorCode::UNKNOWN_MEMBER_ID);
        let answer = members[1].join().await?;
        assert_eq!(
            (&*answer.leader, answer.members.len()),
            (&*members[1].id, 1)
        );
        assert_eq!(answer.generation_id, 3);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_90_a_follower_that_never_syncs_is_removed() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let fast = |member: Member| member.aged(age).with_timeouts(30_000, 1000);
        let first = fast(Member::new(&group).await?);
        let second = fast(Member::new(&group).await?);
        let mut members = super::member::form(vec![first]).await?;
        grow_unsettled(&mut members, second).await?;
        let shares = [(&*members[0].id, &b"0"[..]), (&*members[1].id, &b"1"[..])];
        let synced = members[0].sync(&shares).await?;
        assert_eq!(synced.assignment, &b"0"[..]);
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        let answer = members[0].join().await?;
        assert_eq!(answer.members.len(), 1);
        assert_eq!(members[1].heartbeat().await?, ErrorCode::UNKNOWN_MEMBER_ID);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_90_the_newest_version_says_which_protocol_is_meant() -> Result<()> {
    let group = new_group().await?;
    let members = stable(&group, Age::New, 1).await?;
    let member = &members[0];
    let request = member.sync_request(&[]);
    for (protocol_type, protocol_name, expected) in [
        (Some("consumer"), Some("range"), ErrorCode::NONE),
        (None, None, ErrorCode::INCONSISTENT_GROUP_PROTOCOL),
        (
            Some("consumer"),
            None,
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        ),
        (None, Some("range"), ErrorCode::INCONSISTENT_GROUP_PROTOCOL),
        (
            Some("connect"),
            Some("range"),
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        ),
        (
            Some("consumer"),
            Some("roundrobin"),
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        ),
        (
            Some(""),
            Some("range"),
            ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        ),
    ] {
        let request = request
            .clone()
            .with_protocol_type(protocol_type.map(text))
            .with_protocol_name(protocol_name.map(text));
        for version in [0, 4, 5] {
            let found = code(
                member
                    .connection
                    .send_version(version, &request)
                    .await?
                    .error_code,
            );
            let expected = if version < 5 {
                ErrorCode::NONE
            } else {
                expected
            };
            assert_eq!(
                found, expected,
                "{protocol_type:?} {protocol_name:?}, version {version}"
            );
        }
    }
    assert_eq!(member.heartbeat().await?, ErrorCode::NONE);
    Ok(())
}
