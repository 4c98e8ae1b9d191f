//! Incremental fetch sessions (KIP-227): behaviour 77.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::fetch_request::{FetchPartition, ForgottenTopic};
use klamm_protocol::messages::{FetchRequest, FetchResponse};

use crate::batches::{batch, records, sized};
use crate::calls::{
    Topic, code, connect_and_create, create, fetch_partition, fetch_request, name, produce,
};
use crate::offsets::delete_records;
use crate::rig::{connect, connect_to, ours_only, start};

/// A session as a client keeps it.
struct Session {
    connection: Connection,
    version: i16,
    topic: Topic,
    id: i32,
    epoch: i32,
}

impl Session {
    /// Opens one with these partitions, from offset 0.
    async fn open(
        version: i16,
        topic: &Topic,
        partitions: &[i32],
    ) -> Result<(Session, FetchResponse)> {
        let connection = connect().await?;
        let mut session = Session {
            connection,
            version,
            topic: topic.clone(),
            id: 0,
            epoch: 0,
        };
        let wanted = partitions
            .iter()
            .map(|partition| fetch_partition(*partition, 0))
            .collect();
        let response = session.ask(wanted, &[]).await?;
        assert_eq!(code(response.error_code), ErrorCode::NONE);
        ensure!(response.session_id != 0, "no session was granted");
        session.id = response.session_id;
        Ok((session, response))
    }

    fn request(&self, changed: Vec<FetchPartition>, forgotten: &[i32]) -> FetchRequest {
        let mut request = fetch_request(&self.topic, changed);
        request.session_id = self.id;
        request.session_epoch = self.epoch;
        if request.topics[0].partitions.is_empty() {
            request.topics.clear();
        }
        if !forgotten.is_empty() {
            request.forgotten_topics_data = vec![
                ForgottenTopic::default()
                    .with_topic(name(&self.topic.name))
                    .with_topic_id(self.topic.id)
                    .with_partitions(forgotten.to_vec()),
            ];
        }
        request
    }

    /// The next request of the session.
    async fn ask(
        &mut self,
        changed: Vec<FetchPartition>,
        forgotten: &[i32],
    ) -> Result<FetchResponse> {
        let request = self.request(changed, forgotten);
        let response = self.connection.send_version(self.version, &request).await?;
        self.epoch += 1;
        Ok(response)
    }
}

/// Partitions in an answer with the number of records in each.
fn told(response: &FetchResponse) -> Result<Vec<(i32, usize)>> {
    let mut told = Vec::new();
    for partition in response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions)
    {
        let bytes = partition.records.clone().context("records are not null")?;
        told.push((partition.partition_index, records(&bytes)?.len()));
    }
    told.sort_unstable();
    Ok(told)
}

#[tokio::test]
async fn behaviour_77_answers_of_a_session_tell_what_is_new() -> Result<()> {
    let connection = connect().await?;
    for version in [7, 11, 12, 13, 18] {
        let topic = create(&connection, 3, &[]).await?;
        produce(&connection, &topic, 1, batch(&["a"])).await?;
        let (mut session, first) = Session::open(version, &topic, &[0, 1, 2]).await?;
        assert_eq!(
            told(&first)?,
            [(0, 0), (1, 1), (2, 0)],
            "the first answer tells all, version {version}"
        );
        // Nothing but the position has changed.
        let response = session.ask(vec![fetch_partition(1, 1)], &[]).await?;
        assert_eq!(
            (code(response.error_code), response.session_id),
            (ErrorCode::NONE, session.id)
        );
        assert_eq!(told(&response)?, [], "version {version}");
        produce(&connection, &topic, 2, batch(&["b", "c"])).await?;
        let response = session.ask(Vec::new(), &[]).await?;
        assert_eq!(told(&response)?, [(2, 2)]);
        // Told once, the records stay until the client asks from behind them.
        let response = session.ask(Vec::new(), &[]).await?;
        assert_eq!(told(&response)?, [(2, 2)]);
        let response = session.ask(vec![fetch_partition(2, 2)], &[]).await?;
        assert_eq!(told(&response)?, []);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_77_watermarks_that_move_are_told() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 2, &[]).await?;
    for partition in 0..2 {
        produce(&connection, &topic, partition, batch(&["a", "b", "c"])).await?;
    }
    let (mut session, _) = Session::open(12, &topic, &[0, 1]).await?;
    let at_end = vec![fetch_partition(0, 3), fetch_partition(1, 3)];
    assert_eq!(told(&session.ask(at_end, &[]).await?)?, []);
    delete_records(&connection, &topic, 1, 2).await?;
    let response = session.ask(Vec::new(), &[]).await?;
    assert_eq!(told(&response)?, [(1, 0)]);
    assert_eq!(response.responses[0].partitions[0].log_start_offset, 2);
    assert_eq!(told(&session.ask(Vec::new(), &[]).await?)?, [], "once");
    Ok(())
}

#[tokio::test]
async fn behaviour_77_errors_are_told_again_and_again() -> Result<()> {
    let (_connection, topic) = connect_and_create().await?;
    let (mut session, _) = Session::open(12, &topic, &[0]).await?;
    for round in 0..3 {
        let changed = if round == 0 {
            vec![fetch_partition(0, 99)]
        } else {
            Vec::new()
        };
        let response = session.ask(changed, &[]).await?;
        let answer = &response.responses[0].partitions[0];
        assert_eq!(
            code(answer.error_code),
            ErrorCode::OFFSET_OUT_OF_RANGE,
            "round {round}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_77_partitions_are_added_and_forgotten() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 3, &[]).await?;
    for version in [7, 12, 13] {
        let (mut session, _) = Session::open(version, &topic, &[0, 1]).await?;
        for partition in 0..3 {
            produce(&connection, &topic, partition, batch(&["a"])).await?;
        }
        let response = session.ask(Vec::new(), &[0]).await?;
        let [(1, _)] = told(&response)?[..] else {
            anyhow::bail!("version {version}: {response:?}")
        };
        let response = session.ask(vec![fetch_partition(2, 0)], &[1]).await?;
        let [(2, _)] = told(&response)?[..] else {
            anyhow::bail!("version {version}: {response:?}")
        };
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_77_epochs_and_ids_that_do_not_fit_are_refused() -> Result<()> {
    let (_connection, topic) = connect_and_create().await?;
    for version in [7, 13] {
        let (mut session, _) = Session::open(version, &topic, &[0]).await?;
        for wrong in [session.epoch + 1, session.epoch - 1 + 7] {
            let mut request = session.request(Vec::new(), &[]);
            request.session_epoch = wrong;
            let response = session.connection.send_version(version, &request).await?;
            assert_eq!(
                code(response.error_code),
                ErrorCode::INVALID_FETCH_SESSION_EPOCH,
                "epoch {wrong}"
            );
            ensure!(response.responses.is_empty() && response.session_id == 0);
        }
        // The session is as it was.
        assert_eq!(
            code(session.ask(Vec::new(), &[]).await?.error_code),
            ErrorCode::NONE
        );
        session.id ^= 0x5555;
        let response = session.ask(Vec::new(), &[]).await?;
        assert_eq!(
            code(response.error_code),
            ErrorCode::FETCH_SESSION_ID_NOT_FOUND
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_77_epoch_minus_1_closes_a_session() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    produce(&connection, &topic, 0, batch(&["a"])).await?;
    let (mut session, _) = Session::open(12, &topic, &[0]).await?;
    let mut request = session.request(vec![fetch_partition(0, 0)], &[]);
    request.session_epoch = -1;
    let response = session.connection.send_version(12, &request).await?;
    assert_eq!(
        (code(response.error_code), response.session_id),
        (ErrorCode::NONE, 0)
    );
    assert_eq!(told(&response)?, [(0, 1)], "a full fetch without session");
    let response = session.ask(Vec::new(), &[]).await?;
    assert_eq!(
        code(response.error_code),
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND
    );
    Ok(())
}

/// A client that starts over gives up its session.
#[tokio::test]
async fn behaviour_77_epoch_0_replaces_the_session() -> Result<()> {
    let (_connection, topic) = connect_and_create().await?;
    let (mut session, _) = Session::open(12, &topic, &[0]).await?;
    let old = session.id;
    session.epoch = 0;
    let response = session.ask(vec![fetch_partition(0, 0)], &[]).await?;
    assert_eq!(code(response.error_code), ErrorCode::NONE);
    ensure!(response.session_id != 0 && response.session_id != old);
    let response = session.ask(Vec::new(), &[]).await?;
    assert_eq!(
        code(response.error_code),
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
        "the old one"
    );
    Ok(())
}

#[tokio::test]
async fn behaviour_77_versions_with_and_without_ids_do_not_mix() -> Result<()> {
    let (_connection, topic) = connect_and_create().await?;
    for (first, second) in [(12, 13), (13, 12)] {
        let (mut session, _) = Session::open(first, &topic, &[0]).await?;
        session.version = second;
        let response = session.ask(vec![fetch_partition(0, 0)], &[]).await?;
        assert_eq!(
            code(response.error_code),
            ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR,
            "{first}, then {second}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_77_versions_below_7_have_no_sessions() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    for version in 4..7 {
        let mut request = fetch_request(&topic, vec![fetch_partition(0, 0)]);
        request.session_epoch = -1;
        let response = connection.send_version(version, &request).await?;
        assert_eq!(response.session_id, 0);
        assert_eq!(told(&response)?, [(0, 0)]);
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_77_a_session_waits_for_records_too() -> Result<()> {
    let (connection, topic) = connect_and_create().await?;
    let (session, _) = Session::open(12, &topic, &[0]).await?;
    let mut request = session.request(Vec::new(), &[]);
    request.max_wait_ms = 8_000;
    request.min_bytes = 1;
    let began = Instant::now();
    let parked = session.connection.start(12, &request).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    produce(&connection, &topic, 0, batch(&["wake"])).await?;
    assert_eq!(told(&parked.wait().await?)?, [(0, 1)]);
    ensure!((Duration::from_millis(90)..Duration::from_secs(2)).contains(&began.elapsed()));
    Ok(())
}

/// Whoever was served goes to the end, so that nobody starves behind a busy partition.
#[tokio::test]
async fn behaviour_72_in_a_session_partitions_take_turns() -> Result<()> {
    let connection = connect().await?;
    let topic = create(&connection, 3, &[]).await?;
    for partition in 0..3 {
        for _ in 0..10 {
            produce(&connection, &topic, partition, sized(1000)).await?;
        }
    }
    let connection = connect().await?;
    let mut session = Session {
        connection,
        version: 12,
        topic: topic.clone(),
        id: 0,
        epoch: 0,
    };
    let mut positions = [0_i64; 3];
    let mut served = Vec::new();
    for round in 0..7 {
        let wanted: Vec<i32> = if round == 0 {
            vec![0, 1, 2]
        } else {
            served.last().copied().into_iter().collect()
        };
        let mut changed = Vec::new();
        for partition in wanted {
            changed.push(fetch_partition(
                partition,
                positions[usize::try_from(partition)?],
            ));
        }
        let request = session.request(changed, &[]).with_max_bytes(1);
        let response = session.connection.send_version(12, &request).await?;
        session.id = response.session_id;
        session.epoch += 1;
        let filled: Vec<_> = told(&response)?
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        let [(partition, 1)] = filled[..] else {
            anyhow::bail!("round {round}: {response:?}")
        };
        positions[usize::try_from(partition)?] += 1;
        served.push(partition);
    }
    // The request that opens a session sets the order; from then on it turns.
    for turn in served[1..].windows(3) {
        let mut turn = turn.to_vec();
        turn.sort_unstable();
        assert_eq!(turn, [0, 1, 2], "{served:?}");
    }
    Ok(())
}

#[tokio::test]
async fn behaviour_77_with_no_room_for_sessions_clients_go_on_without() -> Result<()> {
    ours_only!();
    let own = start(&["max.incremental.fetch.session.cache.slots=0"])?;
    let connection = connect_to(&own.broker.address).await?;
    let topic = create(&connection, 1, &[]).await?;
    produce(&connection, &topic, 0, batch(&["a"])).await?;
    let mut request = fetch_request(&topic, vec![fetch_partition(0, 0)]);
    request.session_epoch = 0;
    let response = connection.send_version(12, &request).await?;
    assert_eq!(
        (code(response.error_code), response.session_id),
        (ErrorCode::NONE, 0)
    );
    assert_eq!(told(&response)?, [(0, 1)]);
    Ok(())
}
