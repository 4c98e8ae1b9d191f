//! Listing groups: behaviours 98 and 103.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;

use crate::calls::connect_and_create;
use crate::rig::connect;

use super::calls::{Age, commit_alone, listed, new_group};
use super::consumer::Consumer;
use super::member::{Member, form, stable};

#[tokio::test]
async fn behaviour_98_every_version_lists_what_it_can_say() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let stable_one = new_group().await?;
    let _members = stable(&stable_one, Age::New, 1).await?;
    let simple = new_group().await?;
    assert_eq!(
        commit_alone(&connection, 8, &simple, &topic, 1).await?,
        ErrorCode::NONE
    );
    let connector = new_group().await?;
    let mut member = Member::new(&connector).await?;
    member.protocol_type = "connect".to_owned();
    let _connectors = form(vec![member]).await?;
    let modern = new_group().await?;
    let mut consumer = Consumer::new(&modern, &[&topic]).await?;
    consumer.join().await?;
    for version in 0..=5 {
        for (group, protocol_type, state, kind) in [
            (&stable_one, "consumer", "Stable", "classic"),
            (&simple, "", "Empty", "classic"),
            (&connector, "connect", "Stable", "classic"),
            (&modern, "consumer", "Stable", "consumer"),
        ] {
            let row = listed(&connection, version, group, &[], &[]).await?;
            let Some(row) = row else {
                anyhow::bail!("{kind} {group} is not listed by version {version}");
            };
            assert_eq!(&*row.protocol_type, protocol_type, "version {version}");
            let state = if version >= 4 { state } else { "" };
            ensure!(*row.group_state == *state || group == &modern, "{row:?}");
            assert_eq!(&*row.group_type, if version >= 5 { kind } else { "" });
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviours_98_and_103_lists_are_filtered_by_state_and_type() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let classic = new_group().await?;
    let _members = stable(&classic, Age::New, 1).await?;
    let empty = new_group().await?;
    assert_eq!(
        commit_alone(&connection, 8, &empty, &topic, 1).await?,
        ErrorCode::NONE
    );
    let modern = new_group().await?;
    let mut consumer = Consumer::new(&modern, &[&topic]).await?;
    consumer.join().await?;
    consumer.settle().await?;
    let [c, e, m] = [&classic, &empty, &modern];
    let cases: &[(&[&str], &[&str], &[&String])] = &[
        (&["Stable"], &[], &[c, m]),
        (&["stable"], &[], &[c, m]),
        (&["Empty"], &[], &[e]),
        (&["Empty", "Stable"], &[], &[c, e, m]),
        (&["PreparingRebalance"], &[], &[]),
        (&["no-such-state"], &[], &[]),
        (&[], &["classic"], &[c, e]),
        (&[], &["Consumer"], &[m]),
        (&[], &["classic", "consumer"], &[c, e, m]),
        (&["Empty"], &["consumer"], &[]),
        (&["Stable"], &["classic"], &[c]),
    ];
    let observer = connect().await?;
    for (states, types, expected) in cases {
        for group in [c, e, m] {
            let version = if types.is_empty() { 4 } else { 5 };
            for version in version..=5 {
                let found = listed(&observer, version, group, states, types)
                    .await?
                    .is_some();
                assert_eq!(
                    found,
                    expected.contains(&group),
                    "{states:?} {types:?}: {group}"
                );
            }
        }
    }
    Ok(())
}
