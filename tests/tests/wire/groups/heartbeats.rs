//! What keeps a member in its group: behaviour 91.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;

use crate::calls::connect_and_create;

use super::calls::{Age, new_group};
use super::member::{Member, form, grow_unsettled, rejoin, settle, stable};

/// The shortest session that is allowed.
const SESSION_MS: i32 = 6000;

#[tokio::test]
async fn behaviour_91_heartbeats_tell_the_phase() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 1).await?;
        assert_eq!(members[0].heartbeat().await?, ErrorCode::NONE, "stable");
        let joining = Member::new(&group).await?.aged(age).joining();
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        let answers = rejoin(&mut members).await?;
        members.push(joining.await??.0);
        for member in &members {
            assert_eq!(member.heartbeat().await?, ErrorCode::NONE, "awaiting sync");
        }
        settle(&members, &answers[0].leader).await?;
        for member in &members {
            assert_eq!(member.heartbeat().await?, ErrorCode::NONE, "stable again");
        }
        let mut old = members[0].clone();
        old.generation -= 1;
        assert_eq!(old.heartbeat().await?, ErrorCode::ILLEGAL_GENERATION);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_91_who_is_silent_is_removed_and_a_commit_is_a_sign_of_life() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    let group = new_group().await?;
    let mut newcomers = Vec::new();
    for age in [Age::New, Age::Middle, Age::New] {
        let member = Member::new(&group).await?.aged(age);
        newcomers.push(member.with_timeouts(SESSION_MS, 20_000));
    }
    let members = form(newcomers).await?;
    let (beats, commits, silent) = (&members[0], &members[1], &members[2]);
    let began = Instant::now();
    while beats.heartbeat().await? == ErrorCode::NONE {
        assert_eq!(commits.commit(&topic, 1).await?, ErrorCode::NONE);
        tokio::time::sleep(Duration::from_millis(100)).await;
        ensure!(
            began.elapsed() < Duration::from_secs(10),
            "the silent one stays"
        );
    }
    let took = began.elapsed();
    ensure!(took > Duration::from_millis(5000), "{took:?}");
    assert_eq!(beats.heartbeat().await?, ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(
        commits.heartbeat().await?,
        ErrorCode::REBALANCE_IN_PROGRESS,
        "not removed"
    );
    assert_eq!(silent.heartbeat().await?, ErrorCode::UNKNOWN_MEMBER_ID);
    Ok(())
}

/// The join phase here is longer than a session.
#[tokio::test]
async fn behaviour_91_waiting_in_a_join_is_no_silence() -> Result<()> {
    let group = new_group().await?;
    let member = async || anyhow::Ok(Member::new(&group).await?.with_timeouts(SESSION_MS, 8000));
    let members = form(vec![member().await?, member().await?]).await?;
    let newcomer = member().await?.joining();
    members[0]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    let began = Instant::now();
    let waits = members[0].joining();
    while !waits.is_finished() {
        let told = members[1].heartbeat().await?;
        ensure!(
            told == ErrorCode::REBALANCE_IN_PROGRESS || began.elapsed() > Duration::from_secs(7),
            "{told} after {:?}: a heartbeat in the join phase counts",
            began.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = began.elapsed();
    ensure!(
        took > Duration::from_secs(7) && took < Duration::from_secs(11),
        "{took:?}"
    );
    let (_, answer) = waits.await??;
    assert_eq!(
        answer.members.len(),
        2,
        "who waited is in, who did not join is out"
    );
    newcomer.await??;
    assert_eq!(members[1].heartbeat().await?, ErrorCode::UNKNOWN_MEMBER_ID);
    Ok(())
}

/// So is the wait for the leader's assignment.
#[tokio::test]
async fn behaviour_91_waiting_in_a_sync_is_no_silence() -> Result<()> {
    let group = new_group().await?;
    let member = async || anyhow::Ok(Member::new(&group).await?.with_timeouts(SESSION_MS, 15_000));
    let mut members = form(vec![member().await?]).await?;
    grow_unsettled(&mut members, member().await?).await?;
    let waits = members[1].syncing();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        assert_eq!(members[0].heartbeat().await?, ErrorCode::NONE);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    ensure!(!waits.is_finished());
    let synced = members[0].sync(&[(&members[1].id, b"at last")]).await?;
    assert_eq!(synced.error_code, 0);
    let told = waits.await??;
    assert_eq!(
        (told.error_code, &told.assignment[..]),
        (0, &b"at last"[..])
    );
    Ok(())
}
