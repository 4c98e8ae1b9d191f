//! Groups outlive the broker: behaviour 100.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_tests::broker::{Broker, free_port};

use crate::calls::{Topic, code, create, wait_for};
use crate::rig::{SETTINGS, connect_to, ours_only};

use super::calls::{
    Age, commit_alone, coordinated, describe_group, is_not_yet, listed, offset_of, offsets,
};
use super::consumer::{Consumer, all_of, reconcile};
use super::member::{Member, form, grow, share_of};

/// Groups that the tests here make.
const GROUPS: [&str; 5] = ["live", "simple", "empty", "deleted", "modern"];

/// A broker whose address stays.
struct Place {
    dir: tempfile::TempDir,
    port: u16,
}

impl Place {
    fn new() -> Result<Place> {
        Ok(Place {
            dir: tempfile::tempdir()?,
            port: free_port()?,
        })
    }

    fn start(&self) -> Result<Broker> {
        start_at(self.dir.path(), self.port)
    }

    async fn restart(&self, broker: Broker, clean: bool) -> Result<(Broker, Connection)> {
        if clean {
            broker.stop()?;
        } else {
            broker.kill()?;
        }
        let broker = self.start()?;
        let connection = connect_to(&broker.address).await?;
        // Heartbeats are answered while groups are still read.
        for group in GROUPS {
            let found =
                first_answer(async || Ok(offsets(&connection, 9, group, Some(&[])).await?.0))
                    .await?;
            ensure!(found.is_none(), "group {group} is read: {found}");
        }
        Ok((broker, connection))
    }
}

fn start_at(dir: &Path, port: u16) -> Result<Broker> {
    Broker::start(dir, port, &SETTINGS)
}

/// Asks until the answer is no longer "not yet": nothing else may come before it.
async fn first_answer(mut ask: impl AsyncFnMut() -> Result<ErrorCode>) -> Result<ErrorCode> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        let found = ask().await?;
        if !is_not_yet(found) || Instant::now() > until {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn behaviour_100_members_go_on_where_they_were() -> Result<()> {
    ours_only!();
    let place = Place::new()?;
    let mut broker = place.start()?;
    let connection = connect_to(&broker.address).await?;
    let topic = create(&connection, 1, &[]).await?;
    let group = "live";
    coordinated(&connection, group).await?;
    let first = Member::at(&broker.address, group)
        .await?
        .with_instance("shelf");
    let second = Member::at(&broker.address, group).await?.aged(Age::Middle);
    let mut members = form(vec![first, second]).await?;
    for (round, clean) in (1..).zip([true, false, true]) {
        assert_eq!(members[1].commit(&topic, round).await?, ErrorCode::NONE);
        let connection;
        (broker, connection) = place.restart(broker, clean).await?;
        for member in &mut members {
            member.connection = connect_to(&broker.address).await?;
            let found = first_answer(async || member.heartbeat().await).await?;
            assert_eq!(
                found,
                ErrorCode::NONE,
                "round {round}: the same id and generation"
            );
            assert_eq!(member.assignment().await?, share_of(&member.id));
        }
        assert_eq!(offset_of(&connection, group, &topic).await?, round);
        let described = describe_group(&connection, 6, group).await?;
        assert_eq!(
            (&*described.group_state, described.members.len()),
            ("Stable", 2)
        );
        assert_eq!(
            (&*described.protocol_type, &*described.protocol_data),
            ("consumer", "range")
        );
        for told in &described.members {
            assert_eq!(told.member_assignment, share_of(&told.member_id));
            assert_eq!(
                (&*told.client_id, &*told.client_host),
                ("klamm-client", "/127.0.0.1")
            );
        }
    }
    // A rebalance after it goes on from the same generation, led by the same member.
    let generation = members[0].generation;
    let newcomer = Member::at(&broker.address, group).await?;
    let answers = grow(&mut members, newcomer).await?;
    assert_eq!(answers[0].generation_id, generation + 1);
    assert_eq!(*answers[0].leader, *members[0].id);
    Ok(())
}

#[tokio::test]
async fn behaviour_100_every_kind_of_group_is_there_again() -> Result<()> {
    ours_only!();
    let place = Place::new()?;
    let mut broker = place.start()?;
    let connection = connect_to(&broker.address).await?;
    let topic = create(&connection, 2, &[]).await?;
    for group in ["simple", "empty", "deleted", "modern"] {
        coordinated(&connection, group).await?;
    }
    for (group, offset) in [("simple", 7), ("deleted", 8)] {
        let found = commit_alone(&connection, 8, group, &topic, offset).await?;
        assert_eq!(found, ErrorCode::NONE);
    }
    super::calls::delete_groups(&connection, 2, &["deleted"]).await?;
    let members = form(vec![Member::at(&broker.address, "empty").await?]).await?;
    assert_eq!(members[0].commit(&topic, 9).await?, ErrorCode::NONE);
    assert_eq!(members[0].leave().await?, ErrorCode::NONE);
    let mut one = Consumer::at(&broker.address, "modern", &[&topic]).await?;
    let mut two = Consumer::at(&broker.address, "modern", &[&topic]).await?;
    one.join().await?;
    two.join().await?;
    let all = all_of(&topic, 2);
    reconcile(&mut [&mut one, &mut two], &all).await?;
    let epoch = one.epoch;
    for clean in [false, true, false] {
        let connection;
        (broker, connection) = place.restart(broker, clean).await?;
        for consumer in [&mut one, &mut two] {
            consumer.connection = connect_to(&broker.address).await?;
            let request = consumer.beat_request();
            let found = first_answer(async || consumer.code_of(&request).await).await?;
            assert_eq!((found, consumer.epoch), (ErrorCode::NONE, epoch));
        }
        reconcile(&mut [&mut one, &mut two], &all).await?;
        assert_eq!(one.epoch, epoch, "no rebalance");
        assert_eq!(offset_of(&connection, "simple", &topic).await?, 7);
        assert_eq!(offset_of(&connection, "empty", &topic).await?, 9);
        assert_eq!(offset_of(&connection, "deleted", &topic).await?, -1);
        for (group, kind) in [
            ("simple", "classic"),
            ("empty", "classic"),
            ("modern", "consumer"),
        ] {
            let row = listed(&connection, 5, group, &[], &[]).await?;
            assert_eq!(
                row.map(|row| row.group_type.to_string()).as_deref(),
                Some(kind)
            );
        }
        ensure!(listed(&connection, 5, "deleted", &[], &[]).await?.is_none());
    }
    Ok(())
}

/// Whoever asks a coordinator that is not ready is told to come again, and nothing else.
#[tokio::test]
async fn behaviour_100_until_groups_are_loaded_clients_are_told_to_wait() -> Result<()> {
    ours_only!();
    let place = Place::new()?;
    let broker = place.start()?;
    let connection = connect_to(&broker.address).await?;
    let topic: Topic = create(&connection, 1, &[]).await?;
    coordinated(&connection, "live").await?;
    let mut member = form(vec![Member::at(&broker.address, "live").await?])
        .await?
        .remove(0);
    let mut committed = 0;
    for _ in 0..2000 {
        committed += 1;
        assert_eq!(member.commit(&topic, committed).await?, ErrorCode::NONE);
    }
    broker.kill()?;
    let (dir, port) = (place.dir.path().to_owned(), place.port);
    let starting = tokio::task::spawn_blocking(move || start_at(&dir, port));
    let address = format!("127.0.0.1:{port}");
    let until = Instant::now() + Duration::from_secs(20);
    member.connection = loop {
        ensure!(Instant::now() < until, "the port does not open");
        if let Ok(connection) = connect_to(&address).await {
            break connection;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let found = first_answer(async || member.heartbeat().await).await?;
    assert_eq!(found, ErrorCode::NONE);
    let found = first_answer(async || {
        Ok(code(
            super::calls::find(&member.connection, 6, "live")
                .await?
                .error_code,
        ))
    })
    .await?;
    assert_eq!(found, ErrorCode::NONE);
    let found = first_answer(async || {
        let asked = Some(&[(&topic, &[0][..])][..]);
        Ok(offsets(&member.connection, 9, "live", asked).await?.0)
    })
    .await?;
    assert_eq!(found, ErrorCode::NONE);
    assert_eq!(
        offset_of(&member.connection, "live", &topic).await?,
        committed
    );
    let broker = starting.await??;
    wait_for(&connect_to(&broker.address).await?, &topic.name, 1).await?;
    assert_eq!(member.commit(&topic, committed + 1).await?, ErrorCode::NONE);
    Ok(())
}

/// A rebalance that a crash interrupted is begun again.
#[tokio::test]
async fn behaviour_100_a_rebalance_survives_a_crash() -> Result<()> {
    ours_only!();
    let place = Place::new()?;
    let mut broker = place.start()?;
    coordinated(&connect_to(&broker.address).await?, "live").await?;
    let members = vec![Member::at(&broker.address, "live").await?];
    let mut members = form(members).await?;
    let newcomer = Member::at(&broker.address, "live").await?;
    let joining = newcomer.joining();
    members[0]
        .wait_for_heartbeat(ErrorCode::REBALANCE_IN_PROGRESS)
        .await?;
    (broker, _) = place.restart(broker, false).await?;
    ensure!(joining.await?.is_err(), "its connection is gone");
    members[0].connection = connect_to(&broker.address).await?;
    let found = first_answer(async || members[0].heartbeat().await).await?;
    assert_eq!(found, ErrorCode::NONE, "back to the last generation");
    let newcomer = Member::at(&broker.address, "live").await?;
    let answers = grow(&mut members, newcomer).await?;
    assert_eq!(answers[0].members.len(), 2);
    Ok(())
}
