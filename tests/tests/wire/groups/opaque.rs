//! What members say to each other is theirs: behaviour 94.

use anyhow::{Result, ensure};
use klamm_protocol::ErrorCode;

use crate::rig::ours;

use super::calls::{Age, describe_group, new_group};
use super::member::{Member, form, grow};

const BLOBS: [&[u8]; 4] = [b"", b"\0", b"\xff\xfe not a subscription", &[0x7f; 5000]];

#[tokio::test]
async fn behaviour_94_any_protocol_type_works_and_any_bytes_come_through() -> Result<()> {
    for age in Age::ALL {
        for protocol_type in ["connect", "sr", "consumer", "\u{1d11e}"] {
            let group = new_group().await?;
            let mut members = Vec::new();
            // Kafka does not get over some that it takes for subscriptions.
            let is_safe = ours() || protocol_type != "consumer";
            for blob in &BLOBS[..if is_safe { 4 } else { 2 }] {
                let mut newcomer = Member::new(&group).await?.aged(age);
                newcomer = newcomer.with_protocols(&[("v0", blob)]);
                newcomer.protocol_type = protocol_type.to_owned();
                let answers = grow(&mut members, newcomer).await?;
                let own = |blob: &&[u8]| answers[0].members.iter().any(|m| m.metadata == **blob);
                ensure!(
                    BLOBS[..members.len()].iter().all(own),
                    "{:?}",
                    answers[0].members
                );
            }
            let described = describe_group(&members[0].connection, 5, &group).await?;
            assert_eq!(&*described.group_state, "Stable");
            assert_eq!(&*described.protocol_type, protocol_type);
            assert_eq!(&*described.protocol_data, "v0");
        }
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_94_assignments_come_through_as_they_are() -> Result<()> {
    for age in Age::ALL {
        let group = new_group().await?;
        let mut member = Member::new(&group).await?.aged(age);
        member.protocol_type = "sr".to_owned();
        let members = form(vec![member]).await?;
        for blob in BLOBS {
            let mut leader = members[0].clone();
            leader.join().await?;
            let told = leader.sync(&[(&leader.id, blob)]).await?;
            assert_eq!(told.assignment, blob, "{age:?}");
            assert_eq!(leader.assignment().await?, blob);
            assert_eq!(leader.heartbeat().await?, ErrorCode::NONE);
        }
    }
    Ok(())
}
