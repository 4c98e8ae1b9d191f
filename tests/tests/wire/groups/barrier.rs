//! When the join phase ends: behaviours 85 and 86.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;

use crate::rig::connect;

use super::calls::{Age, new_group, setting, state};
use super::member::{Member, form, leave, rejoin, settle, stable};

/// That a rebalance is not over yet is seen by waiting so long.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn behaviour_85_all_known_members_are_waited_for() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = stable(&group, age, 2).await?;
        let joining = Member::new(&group).await?.aged(age).joining();
        for member in &members {
            member
                .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
                .await?;
        }
        let second = members[1].joining();
        tokio::time::sleep(A_WHILE).await;
        ensure!(
            !joining.is_finished() && !second.is_finished(),
            "the first is waited for"
        );
        assert_eq!(
            state(&members[0].connection, &group).await?,
            "PreparingRebalance"
        );
        let answer = members[0].join().await?;
        assert_eq!(answer.members.len(), 3);
        members[1] = second.await??.0;
        members.push(joining.await??.0);
        ensure!(members.iter().all(|member| member.generation == 3));
        settle(&members, &answer.leader).await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_85_the_largest_rebalance_timeout_ends_the_wait() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let short = Member::new(&group)
            .await?
            .aged(age)
            .with_timeouts(30_000, 500);
        let long = Member::new(&group)
            .await?
            .aged(age)
            .with_timeouts(30_000, 2000);
        let members = form(vec![short, long]).await?;
        let newcomer = Member::new(&group)
            .await?
            .aged(age)
            .with_timeouts(30_000, 500);
        let joining = newcomer.joining();
        members[1]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        let began = Instant::now();
        let second = members[1].joining();
        let (newcomer, answer) = joining.await??;
        let took = began.elapsed();
        ensure!(
            took > Duration::from_millis(1700) && took < Duration::from_millis(3500),
            "{took:?}"
        );
        let second = second.await??.0;
        ensure!(
            [&*second.id, &*newcomer.id].contains(&&*answer.leader),
            "the leader was dropped"
        );
        assert_eq!(
            members[0].heartbeat().await?,
            ErrorCode::UNKNOWN_MEMBER_ID,
            "dropped"
        );
        settle(&[second, newcomer], &answer.leader).await?;
    }
    Ok(())
}

/// Version 0 has no rebalance timeout: the session's counts.
#[tokio::test]
async fn behaviour_85_old_clients_have_one_timeout_for_both() -> Result<()> {
    let group = new_group().await?;
    let mut first = Member::new(&group)
        .await?
        .aged(Age::Old)
        .with_timeouts(6000, 500);
    let answer = first
        .connection
        .send_version(0, &first.join_request())
        .await?;
    (first.id, first.generation) = (answer.member_id.to_string(), answer.generation_id);
    settle(std::slice::from_ref(&first), &answer.leader).await?;
    let newcomer = Member::new(&group)
        .await?
        .aged(Age::Old)
        .with_timeouts(6000, 500);
    let began = Instant::now();
    let joining = newcomer.joining();
    while !joining.is_finished() {
        // Stays alive but does not join.
        first.heartbeat().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = began.elapsed();
    ensure!(
        took > Duration::from_secs(5) && took < Duration::from_secs(8),
        "{took:?}"
    );
    assert_eq!(joining.await??.1.members.len(), 1);
    Ok(())
}

#[tokio::test]
async fn behaviour_85_the_first_rebalance_waits_for_more_members() -> Result<()> {
    let group = new_group().await?;
    let mut first = Member::new(&group).await?;
    let delay = setting(&first.connection, "group.initial.rebalance.delay.ms").await?;
    let delay = Duration::from_millis(delay.parse()?);
    if delay < A_WHILE / 2 {
        crate::rig::skip!("group.initial.rebalance.delay.ms is too short to be seen");
    }
    let mut second = Member::new(&group).await?;
    first.introduce().await?;
    second.introduce().await?;
    let began = Instant::now();
    let joining = first.joining();
    tokio::time::sleep(delay / 2).await;
    ensure!(!joining.is_finished());
    // The newcomer prolongs the wait by a whole delay.
    second.join().await?;
    let took = began.elapsed();
    ensure!(
        took >= delay * 2 && took < delay * 2 + Duration::from_secs(2),
        "{took:?}"
    );
    let (first, answer) = joining.await??;
    assert_eq!((first.generation, second.generation), (1, 1));
    // Who leads is the first that joined.
    assert_eq!((&*answer.leader, answer.members.len()), (&*first.id, 2));
    Ok(())
}

#[tokio::test]
async fn behaviour_85_the_first_rebalance_waits_no_longer_than_members_do() -> Result<()> {
    let group = new_group().await?;
    let mut member = Member::new(&group).await?.with_timeouts(30_000, 1);
    let began = Instant::now();
    assert_eq!(member.join().await?.generation_id, 1);
    let took = began.elapsed();
    ensure!(
        took < Duration::from_secs(2),
        "{took:?} whatever the initial delay"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_86_pending_members_are_waited_for_until_their_session_ends() -> Result<()> {
    let group = new_group().await?;
    let mut members = stable(&group, Age::New, 1).await?;
    let mut pending = Member::new(&group).await?.with_timeouts(6000, 20_000);
    let began = Instant::now();
    pending.introduce().await?;
    assert_eq!(
        members[0].heartbeat().await?,
        ErrorCode::NONE,
        "an id is no rebalance yet"
    );
    let joining = Member::new(&group).await?.joining();
    members[0]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    let answer = members[0].join().await?;
    let took = began.elapsed();
    ensure!(
        took > Duration::from_secs(5) && took < Duration::from_secs(8),
        "{took:?}"
    );
    assert_eq!(answer.members.len(), 2, "the pending one is not among them");
    joining.await??;
    assert_eq!(
        pending.join_code().await?,
        ErrorCode::UNKNOWN_MEMBER_ID,
        "its id is void"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_86_pending_members_may_go_and_come() -> Result<()> {
    let group = new_group().await?;
    let mut members = stable(&group, Age::New, 1).await?;
    let mut comes = Member::new(&group).await?;
    let mut goes = Member::new(&group).await?;
    comes.introduce().await?;
    goes.introduce().await?;
    assert_eq!(
        goes.heartbeat().await?,
        ErrorCode::UNKNOWN_MEMBER_ID,
        "no member yet"
    );
    let joining = comes.joining();
    members[0]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    let first = members[0].joining();
    tokio::time::sleep(A_WHILE).await;
    ensure!(!joining.is_finished(), "who has an id is waited for");
    let left = leave(&members[0].connection, 5, &group, vec![goes.identity()]).await?;
    assert_eq!(left.members[0].error_code, 0);
    members[0] = first.await??.0;
    members.push(joining.await??.0);
    assert_eq!(goes.join_code().await?, ErrorCode::UNKNOWN_MEMBER_ID);
    Ok(())
}

#[tokio::test]
async fn behaviour_85_who_comes_during_the_join_phase_takes_part() -> Result<()> {
    let group = new_group().await?;
    let mut members = stable(&group, Age::New, 2).await?;
    let joining = [
        Member::new(&group).await?.joining(),
        Member::new(&group).await?.joining(),
    ];
    members[0]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    members[1]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    let mut impatient = members[0].clone();
    impatient.connection = connect().await?;
    let begun = impatient.joining();
    let late = Member::new(&group).await?.joining();
    tokio::time::sleep(A_WHILE).await;
    // A second request of the same member replaces the first.
    let answers = rejoin(&mut members).await?;
    assert_eq!(answers[0].members.len(), 5);
    for joining in joining.into_iter().chain([late]) {
        members.push(joining.await??.0);
    }
    ensure!(
        members
            .iter()
            .all(|member| member.generation == members[0].generation)
    );
    begun.abort();
    Ok(())
}
