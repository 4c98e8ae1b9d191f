//! Who may join, and what each is told: behaviours 86 to 88.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::calls::{code, text};
use crate::rig::{connect_as, unique};

use super::calls::{Age, new_group, setting};
use super::member::{Member, form, grow, grow_unsettled, settle, stable};

/// Whether an id is `prefix-UUID`.
fn is_id(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|rest| rest.len() == 36 && Uuid::parse_str(rest).is_ok())
}

#[tokio::test]
async fn behaviour_86_ids_are_given_in_one_step_or_two() -> Result<()> {
    let mut versions = JoinSet::new();
    for version in 0..=9_i16 {
        versions.spawn(async move {
            let group = new_group().await?;
            let connection = connect_as("my-client").await?;
            let mut member = Member::over(connection.clone(), &group);
            let first = connection
                .send_version(version, &member.join_request())
                .await?;
            let id = first.member_id.to_string();
            ensure!(is_id(&id, "my-client"), "version {version}: {id}");
            if version < 4 {
                assert_eq!(code(first.error_code), ErrorCode::NONE, "version {version}");
                assert_eq!((first.generation_id, &*first.leader), (1, &*id));
                return Ok(());
            }
            assert_eq!(code(first.error_code), ErrorCode::MEMBER_ID_REQUIRED);
            assert_eq!((first.generation_id, &*first.leader), (-1, ""));
            ensure!(first.members.is_empty() && !first.skip_assignment);
            member.id = id;
            let second = connection
                .send_version(version, &member.join_request())
                .await?;
            assert_eq!(
                code(second.error_code),
                ErrorCode::NONE,
                "version {version}"
            );
            assert_eq!(second.generation_id, 1);
            assert_eq!(
                (&*second.member_id, &*second.leader),
                (&*member.id, &*member.id)
            );
            assert_eq!(second.protocol_name.as_deref(), Some("range"));
            let echoed = (version >= 7).then_some("consumer");
            assert_eq!(second.protocol_type.as_deref(), echoed);
            anyhow::Ok(())
        });
    }
    while let Some(done) = versions.join_next().await {
        done??;
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_86_static_members_need_one_step_and_are_named_after_their_instance() -> Result<()>
{
    for age in [Age::Middle, Age::New] {
        let group = new_group().await?;
        let member = Member::new(&group)
            .await?
            .aged(age)
            .with_instance("shelf-7");
        let answer = member.ask_join().await?;
        assert_eq!(code(answer.error_code), ErrorCode::NONE);
        ensure!(is_id(&answer.member_id, "shelf-7"), "{}", answer.member_id);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_87_only_the_leader_gets_the_members() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut members = Vec::new();
        for number in 1..=3_u8 {
            let mut newcomer = Member::new(&group).await?.aged(age);
            newcomer = newcomer.with_protocols(&[("range", &[number]), ("other", b"not this")]);
            if age != Age::Old && number == 2 {
                newcomer = newcomer.with_instance("second");
            }
            let answers = grow(&mut members, newcomer).await?;
            for (at, answer) in answers.iter().enumerate() {
                assert_eq!(
                    answer.generation_id,
                    i32::from(number),
                    "one generation a join"
                );
                assert_eq!(*answer.leader, *members[0].id, "the first joiner leads");
                assert_eq!(*answer.member_id, *members[at].id);
                assert_eq!(answer.protocol_name.as_deref(), Some("range"));
                ensure!(
                    at == 0 || answer.members.is_empty(),
                    "followers get no list"
                );
            }
            let mut listed: Vec<_> = answers[0]
                .members
                .iter()
                .map(|listed| {
                    (
                        listed.metadata.to_vec(),
                        listed.member_id.to_string(),
                        listed.group_instance_id.as_deref().map(str::to_owned),
                    )
                })
                .collect();
            listed.sort();
            let known = (1..=number).zip(&members);
            let expected: Vec<_> = known
                .map(|(number, member)| (vec![number], member.id.clone(), member.instance.clone()))
                .collect();
            assert_eq!(listed, expected, "{age:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_87_the_protocol_is_voted_for() -> Result<()> {
    let group = new_group().await?;
    let wishes: [&[(&str, &[u8])]; 3] = [
        &[("a", b"1a"), ("b", b"1b"), ("only-mine", b"1o")],
        &[("c", b"2c"), ("b", b"2b"), ("a", b"2a")],
        &[("b", b"3b"), ("a", b"3a"), ("c", b"3c")],
    ];
    let mut members = Vec::new();
    let mut chosen = Vec::new();
    for wishes in wishes {
        let newcomer = Member::new(&group).await?.with_protocols(wishes);
        let answers = grow(&mut members, newcomer).await?;
        let name = answers[0].protocol_name.as_deref().map(str::to_owned);
        ensure!(
            answers
                .iter()
                .all(|answer| answer.protocol_name.as_deref() == name.as_deref())
        );
        let name = name.unwrap_or_default();
        for listed in &answers[0].members {
            ensure!(
                listed.metadata.ends_with(name.as_bytes()),
                "metadata of {name}: {listed:?}"
            );
        }
        chosen.push(name);
    }
    assert_eq!(chosen[0], "a", "its first wish");
    // Of a and b, which both know, each is wished for by one. With the third the vote is for b,
    // since not everyone knows c.
    ensure!(["a", "b"].contains(&&*chosen[1]), "{chosen:?}");
    assert_eq!(chosen[2], "b");
    Ok(())
}

#[tokio::test]
async fn behaviour_87_who_shares_no_protocol_is_refused() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let members = stable(&group, age, 1).await?;
        let stranger = Member::new(&group).await?.aged(age);
        let mut other_type = stranger.clone();
        other_type.protocol_type = "connect".to_owned();
        let mut no_type = stranger.clone();
        no_type.protocol_type = String::new();
        let none = stranger.clone().with_protocols(&[]);
        let unshared = stranger.with_protocols(&[("cooperative", b"x")]);
        for stranger in [other_type, no_type, none, unshared] {
            let answer = stranger.ask_join().await?;
            let found = code(answer.error_code);
            assert_eq!(
                found,
                ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
                "{:?}",
                stranger.protocols
            );
            assert_eq!(answer.generation_id, -1);
        }
        assert_eq!(
            members[0].heartbeat().await?,
            ErrorCode::NONE,
            "nobody was disturbed"
        );
        // The first of a group is held to the same.
        for (protocol_type, protocols) in [("", &[("range", &b"x"[..])][..]), ("consumer", &[])] {
            let mut first = Member::new(&unique("group"))
                .await?
                .aged(age)
                .with_protocols(protocols);
            first.protocol_type = protocol_type.to_owned();
            assert_eq!(
                first.join_code().await?,
                ErrorCode::INCONSISTENT_GROUP_PROTOCOL
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_88_sessions_have_bounds() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let connection = crate::rig::connect().await?;
        let min: i32 = setting(&connection, "group.min.session.timeout.ms")
            .await?
            .parse()?;
        let max: i32 = setting(&connection, "group.max.session.timeout.ms")
            .await?
            .parse()?;
        for session_ms in [i32::MIN, -1, 0, min - 1, max + 1, i32::MAX] {
            let member = Member::new(&group)
                .await?
                .aged(age)
                .with_timeouts(session_ms, 1000);
            let found = member.join_code().await?;
            assert_eq!(
                found,
                ErrorCode::INVALID_SESSION_TIMEOUT,
                "{session_ms} ms, {age:?}"
            );
        }
        for session_ms in [min, max] {
            let member = Member::new(&group).await?.with_timeouts(session_ms, 1000);
            assert_eq!(member.join_code().await?, ErrorCode::MEMBER_ID_REQUIRED);
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_88_a_group_without_name_is_refused() -> Result<()> {
    for age in Age::ALL {
        let mut nameless = Member::new("").await?.aged(age);
        assert_eq!(nameless.join_code().await?, ErrorCode::INVALID_GROUP_ID);
        nameless.id = "someone".to_owned();
        nameless.generation = 1;
        nameless.chosen = Some("range".to_owned());
        let synced = code(nameless.sync(&[]).await?.error_code);
        assert_eq!(synced, ErrorCode::INVALID_GROUP_ID);
        assert_eq!(nameless.heartbeat().await?, ErrorCode::INVALID_GROUP_ID);
        let request =
            klamm_protocol::messages::LeaveGroupRequest::default().with_member_id(text("someone"));
        let left = nameless.connection.send_version(2, &request).await?;
        assert_eq!(code(left.error_code), ErrorCode::INVALID_GROUP_ID);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_88_strangers_and_old_generations_are_refused() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let members = stable(&group, age, 1).await?;
        let known = &members[0];
        for group in [&group, &unique("group")] {
            let mut stranger = known.clone();
            stranger.group = group.clone();
            stranger.id = "stranger".to_owned();
            assert_eq!(
                stranger.join_code().await?,
                ErrorCode::UNKNOWN_MEMBER_ID,
                "join"
            );
            assert_eq!(
                stranger.heartbeat().await?,
                ErrorCode::UNKNOWN_MEMBER_ID,
                "heartbeat"
            );
            assert_eq!(
                stranger.leave().await?,
                ErrorCode::UNKNOWN_MEMBER_ID,
                "leave"
            );
            let synced = code(stranger.sync(&[]).await?.error_code);
            assert_eq!(synced, ErrorCode::UNKNOWN_MEMBER_ID, "sync");
        }
        for generation in [known.generation - 1, known.generation + 1, -1, i32::MAX] {
            let mut strayed = known.clone();
            strayed.generation = generation;
            assert_eq!(strayed.heartbeat().await?, ErrorCode::ILLEGAL_GENERATION);
            let synced = code(strayed.sync(&[]).await?.error_code);
            assert_eq!(synced, ErrorCode::ILLEGAL_GENERATION);
        }
        assert_eq!(known.heartbeat().await?, ErrorCode::NONE);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_88_a_group_can_be_full() -> Result<()> {
    let group = new_group().await?;
    let first = Member::new(&group).await?;
    let max: usize = setting(&first.connection, "group.max.size")
        .await?
        .parse()?;
    if max > 50 {
        crate::rig::skip!("group.max.size is too large to be reached");
    }
    let mut members = form(vec![first]).await?;
    // All others at once, so that it takes one rebalance.
    let mut joining = Vec::new();
    for _ in 1..max {
        let mut newcomer = Member::new(&group).await?;
        newcomer.introduce().await?;
        joining.push(newcomer.joining());
    }
    members[0]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    let leader = members[0].join().await?;
    assert_eq!(leader.members.len(), max);
    for joining in joining {
        members.push(joining.await??.0);
    }
    settle(&members, &leader.leader).await?;
    let newcomer = Member::new(&group).await?;
    assert_eq!(
        newcomer.join_code().await?,
        ErrorCode::GROUP_MAX_SIZE_REACHED
    );
    assert_eq!(
        members[0].heartbeat().await?,
        ErrorCode::NONE,
        "nobody was disturbed"
    );
    // Room is made by who leaves.
    let gone = members.pop();
    assert_eq!(
        gone.expect("there are many").leave().await?,
        ErrorCode::NONE
    );
    let answers = grow_unsettled(&mut members, newcomer).await?;
    assert_eq!(answers[0].members.len(), max);
    Ok(())
}
