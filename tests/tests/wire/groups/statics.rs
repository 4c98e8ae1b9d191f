//! Members that have a name of their own: behaviour 92 (KIP-345).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;

use crate::calls::{code, connect_and_create};
use crate::rig::{connect, unique};

use super::calls::{Age, commit, describe_group, new_group};
use super::member::{Member, form, rejoin, settle, share_of, subscription};

const AGES: [Age; 2] = [Age::Middle, Age::New];

async fn pair(group: &str, age: Age) -> Result<Vec<Member>> {
    let first = Member::new(group).await?.aged(age).with_instance("one");
    let second = Member::new(group).await?.aged(age).with_instance("two");
    form(vec![first, second]).await
}

/// The same instance after a restart: no id.
async fn reborn(member: &Member) -> Result<Member> {
    let mut next = Member::new(&member.group).await?;
    next.age = member.age;
    next.instance = member.instance.clone();
    Ok(next)
}

/// Whatever the old incarnation does is refused.
async fn expect_fenced(old: &Member, topic: &crate::calls::Topic) -> Result<()> {
    let fenced = ErrorCode::FENCED_INSTANCE_ID;
    assert_eq!(old.heartbeat().await?, fenced, "heartbeat");
    assert_eq!(code(old.sync(&[]).await?.error_code), fenced, "sync");
    assert_eq!(old.commit(topic, 1).await?, fenced, "commit");
    assert_eq!(old.join_code().await?, fenced, "join");
    assert_eq!(old.leave().await?, fenced, "leave");
    Ok(())
}

#[tokio::test]
async fn behaviour_92_a_restarted_follower_takes_its_own_place() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    for age in AGES {
        let group = new_group().await?;
        let members = pair(&group, age).await?;
        let mut next = reborn(&members[1]).await?;
        let answer = next.join().await?;
        ensure!(next.id != members[1].id, "a new id");
        assert_eq!(
            answer.generation_id, members[1].generation,
            "the same generation"
        );
        assert_eq!(*answer.leader, *members[0].id);
        ensure!(answer.members.is_empty() && !answer.skip_assignment);
        assert_eq!(
            members[0].heartbeat().await?,
            ErrorCode::NONE,
            "no rebalance"
        );
        assert_eq!(
            next.assignment().await?,
            share_of(&members[1].id),
            "the old one's share"
        );
        expect_fenced(&members[1], &topic).await?;
        assert_eq!(next.commit(&topic, 1).await?, ErrorCode::NONE);
        assert_eq!(next.heartbeat().await?, ErrorCode::NONE);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_92_a_restarted_leader_is_told_not_to_assign() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    for age in AGES {
        let group = new_group().await?;
        let members = pair(&group, age).await?;
        let mut next = reborn(&members[0]).await?;
        let answer = next.join().await?;
        assert_eq!(answer.generation_id, members[0].generation);
        if age == Age::New {
            assert_eq!((&*answer.leader, answer.members.len()), (&*next.id, 2));
            ensure!(answer.skip_assignment);
        } else {
            // One that cannot be told to skip it is not told that it leads.
            assert_eq!(
                (&*answer.leader, answer.members.len()),
                (&*members[0].id, 0)
            );
        }
        assert_eq!(next.assignment().await?, share_of(&members[0].id));
        assert_eq!(members[1].heartbeat().await?, ErrorCode::NONE);
        expect_fenced(&members[0], &topic).await?;
    }
    Ok(())
}

/// Only what decides the protocol is looked at: a consumer with another subscription asks for a
/// rebalance by joining once more.
#[tokio::test]
async fn behaviour_92_other_metadata_after_a_restart_is_stored() -> Result<()> {
    for age in AGES {
        let group = new_group().await?;
        let members = pair(&group, age).await?;
        let mut next = reborn(&members[1]).await?.subscribed(&["another"]);
        let answer = next.join().await?;
        assert_eq!(answer.generation_id, 2);
        assert_eq!(members[0].heartbeat().await?, ErrorCode::NONE);
        assert_eq!(next.assignment().await?, share_of(&members[1].id));
        let described = describe_group(&next.connection, 5, &group).await?;
        let own = described
            .members
            .iter()
            .find(|listed| *listed.member_id == *next.id);
        let metadata = own.map(|listed| listed.member_metadata.clone());
        assert_eq!(metadata, Some(subscription(&["another"])));
    }
    Ok(())
}

/// A pair that could speak two protocols and speaks the first.
async fn choosy_pair(group: &str, age: Age) -> Result<Vec<Member>> {
    let mut newcomers = Vec::new();
    for instance in ["one", "two"] {
        let member = Member::new(group).await?.aged(age).with_instance(instance);
        newcomers.push(member.with_protocols(&[("a", b"1"), ("b", b"2")]));
    }
    form(newcomers).await
}

#[tokio::test]
async fn behaviour_92_another_protocol_after_a_restart_is_a_rebalance() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    for age in AGES {
        let group = new_group().await?;
        let mut members = choosy_pair(&group, age).await?;
        let next = reborn(&members[1]).await?.with_protocols(&[("b", b"2")]);
        let joining = next.joining();
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        expect_fenced(&members[1], &topic).await?;
        let answer = members[0].join().await?;
        assert_eq!(
            (answer.members.len(), answer.protocol_name.as_deref()),
            (2, Some("b"))
        );
        members[1] = joining.await??.0;
        assert_eq!(members[1].generation, 3);
        settle(&members, &answer.leader).await?;
    }
    Ok(())
}

/// The old incarnation may still wait for its own join.
#[tokio::test]
async fn behaviour_92_of_two_incarnations_that_join_the_later_wins() -> Result<()> {
    for age in AGES {
        let group = new_group().await?;
        let mut members = choosy_pair(&group, age).await?;
        let changed = reborn(&members[1]).await?.with_protocols(&[("b", b"2")]);
        let first = changed.clone();
        let first = tokio::spawn(async move { first.ask_join().await });
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        let mut second = changed;
        second.connection = connect().await?;
        let second = second.joining();
        let told = first.await??;
        assert_eq!(code(told.error_code), ErrorCode::FENCED_INSTANCE_ID);
        let answer = rejoin(&mut members[..1]).await?;
        members[1] = second.await??.0;
        assert_eq!(answer[0].members.len(), 2);
        settle(&members, &answer[0].leader).await?;
    }
    Ok(())
}

#[tokio::test]
async fn behaviours_85_and_92_who_is_away_keeps_its_place_for_a_session() -> Result<()> {
    for age in AGES {
        let group = new_group().await?;
        let fast = |member: Member| member.aged(age).with_timeouts(30_000, 1000);
        let away = fast(Member::new(&group).await?).with_instance("away");
        let here = fast(Member::new(&group).await?);
        let mut members = form(vec![here, away]).await?;
        let joining = fast(Member::new(&group).await?).joining();
        members[0]
            .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
            .await?;
        let began = Instant::now();
        let answer = members[0].join().await?;
        let took = began.elapsed();
        ensure!(
            took > Duration::from_millis(500),
            "{took:?}: it is waited for"
        );
        let newcomer = joining.await??.0;
        let listed: Vec<&str> = answer
            .members
            .iter()
            .map(|listed| &*listed.member_id)
            .collect();
        ensure!(
            listed.len() == 3 && listed.contains(&&*members[1].id),
            "{listed:?}"
        );
        let away = members[1].clone();
        let present = [members.swap_remove(0), newcomer];
        settle(&present, &answer.leader).await?;
        assert_eq!(
            away.heartbeat().await?,
            ErrorCode::ILLEGAL_GENERATION,
            "still a member"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_92_an_unknown_instance_is_a_stranger() -> Result<()> {
    let (_, topic) = connect_and_create().await?;
    for age in AGES {
        let group = new_group().await?;
        let members = pair(&group, age).await?;
        let stranger = members[0].clone().with_instance(&unique("nobody"));
        let unknown = ErrorCode::UNKNOWN_MEMBER_ID;
        assert_eq!(stranger.heartbeat().await?, unknown);
        assert_eq!(code(stranger.sync(&[]).await?.error_code), unknown);
        assert_eq!(stranger.join_code().await?, unknown);
        assert_eq!(stranger.commit(&topic, 1).await?, unknown);
        // Another's instance with one's own id.
        let thief = members[0].clone().with_instance("two");
        assert_eq!(thief.heartbeat().await?, ErrorCode::FENCED_INSTANCE_ID);
        let request = thief.commit_request(&topic, 1);
        let found = commit(&thief.connection, age.commit(), &request).await?;
        assert_eq!(found, ErrorCode::FENCED_INSTANCE_ID);
        for member in &members {
            assert_eq!(member.heartbeat().await?, ErrorCode::NONE);
        }
    }
    Ok(())
}
