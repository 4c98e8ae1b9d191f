//! Leaving and being removed: behaviour 93.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::LeaveGroupRequest;
use klamm_protocol::messages::leave_group_request::MemberIdentity;

use crate::calls::{code, connect_and_create, text};
use crate::rig::unique;

use super::calls::{Age, group_id, new_group, state};
use super::member::{Member, form, leave, stable};

fn identity(member: &str, instance: Option<&str>) -> MemberIdentity {
    MemberIdentity::default()
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text))
}

#[tokio::test]
async fn behaviour_93_one_member_leaves_in_every_version() -> Result<()> {
    let group = new_group().await?;
    let members = stable(&group, Age::New, 6).await?;
    let (_, topic) = connect_and_create().await?;
    // An empty group without offsets is forgotten at the next look.
    assert_eq!(members[0].commit(&topic, 1).await?, ErrorCode::NONE);
    for (version, member) in (0..=5).zip(&members) {
        if version < 3 {
            let request = LeaveGroupRequest::default()
                .with_group_id(group_id(&group))
                .with_member_id(text(&member.id));
            let answer = member.connection.send_version(version, &request).await?;
            assert_eq!(
                (answer.error_code, answer.members.len()),
                (0, 0),
                "version {version}"
            );
        } else {
            let answer =
                leave(&member.connection, version, &group, vec![member.identity()]).await?;
            assert_eq!(
                (answer.error_code, answer.members.len()),
                (0, 1),
                "version {version}"
            );
            assert_eq!(answer.members[0].error_code, 0);
            assert_eq!(*answer.members[0].member_id, *member.id);
        }
        assert_eq!(member.heartbeat().await?, ErrorCode::UNKNOWN_MEMBER_ID);
    }
    assert_eq!(state(&members[0].connection, &group).await?, "Empty");
    Ok(())
}

#[tokio::test]
async fn behaviour_93_each_of_many_has_its_own_code() -> Result<()> {
    for version in [3, 4, 5] {
        let group = new_group().await?;
        let mut newcomers = Vec::new();
        for instance in ["one", "two", "three"] {
            newcomers.push(Member::new(&group).await?.with_instance(instance));
        }
        newcomers.push(Member::new(&group).await?);
        let members = form(newcomers).await?;
        let leaving = [
            (identity("", Some("one")), ErrorCode::NONE),
            (identity("", Some("one")), ErrorCode::UNKNOWN_MEMBER_ID),
            (
                identity(&members[3].id, Some("two")),
                ErrorCode::FENCED_INSTANCE_ID,
            ),
            (identity(&members[1].id, Some("two")), ErrorCode::NONE),
            (identity("", Some("nobody")), ErrorCode::UNKNOWN_MEMBER_ID),
            (
                identity(&members[3].id, Some("nobody")),
                ErrorCode::UNKNOWN_MEMBER_ID,
            ),
            (identity("nobody", None), ErrorCode::UNKNOWN_MEMBER_ID),
            (identity("", None), ErrorCode::UNKNOWN_MEMBER_ID),
            (identity(&members[2].id, None), ErrorCode::NONE),
        ];
        let identities = leaving
            .iter()
            .map(|(identity, _)| identity.clone())
            .collect();
        let answer = leave(&members[0].connection, version, &group, identities).await?;
        assert_eq!(code(answer.error_code), ErrorCode::NONE);
        assert_eq!(answer.members.len(), leaving.len());
        for (told, (asked, expected)) in answer.members.iter().zip(&leaving) {
            assert_eq!(code(told.error_code), *expected, "{asked:?}");
            assert_eq!(told.group_instance_id, asked.group_instance_id);
            let id = &*told.member_id;
            ensure!(
                asked.member_id.is_empty() || id == &*asked.member_id,
                "{told:?}"
            );
        }
        let rest = &members[3];
        assert_eq!(rest.heartbeat().await?, ErrorCode::REBALANCE_IN_PROGRESS);
        for gone in &members[..3] {
            assert_eq!(gone.heartbeat().await?, ErrorCode::UNKNOWN_MEMBER_ID);
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_93_nobody_leaves_what_is_not_there() -> Result<()> {
    let connection = crate::rig::connect().await?;
    let group = new_group().await?;
    for group in [unique("group"), group] {
        let answer = leave(
            &connection,
            5,
            &group,
            vec![identity("a", None), identity("", Some("b"))],
        )
        .await?;
        let codes: Vec<_> = answer
            .members
            .iter()
            .map(|told| code(told.error_code))
            .collect();
        ensure!(
            code(answer.error_code) == ErrorCode::UNKNOWN_MEMBER_ID
                || codes == [ErrorCode::UNKNOWN_MEMBER_ID; 2],
            "{answer:?}"
        );
        let request = LeaveGroupRequest::default()
            .with_group_id(group_id(&group))
            .with_member_id(text("a"));
        let answer = connection.send_version(2, &request).await?;
        assert_eq!(code(answer.error_code), ErrorCode::UNKNOWN_MEMBER_ID);
    }
    Ok(())
}
