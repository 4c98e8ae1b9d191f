//! An operator: moves partitions, changes how many replicas they have, makes topics and deletes them.

use std::time::Duration;

use klamm_client::{Acks, Client, NewMessage, NewTopic, Producer, ProducerOptions};
use klamm_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use klamm_protocol::messages::{
    BrokerId, ListPartitionReassignmentsRequest, TopicName, UnregisterBrokerRequest,
};
use klamm_protocol::{ErrorCode, StrBytes};
use klamm_tests::checker::Place;

use super::{Desk, name_of};
use crate::rng::Rng;

const TIMEOUT_MS: i32 = 5_000;

/// Moves partitions now and then; in the end waits until all have come where they were to go.
pub(super) async fn moves(
    desk: Desk,
    places: Vec<Place>,
    nodes: usize,
    (pause, fewest): (u64, usize),
) {
    let mut rng = desk.rng(400);
    while !desk.is_over() {
        desk.rest(Duration::from_millis(rng.between(pause / 2, pause * 2)))
            .await;
        if desk.is_over() {
            break;
        }
        let place = *rng.pick(&places);
        let many = *rng.pick(&[3, 3, 3, fewest, nodes.min(4)]);
        let replicas = some(&mut rng, nodes, many);
        let client = desk.client(Duration::from_secs(5)).await;
        if reassign(&client, place, &replicas).await == Some(0) {
            desk.count("moves begun");
        }
    }
    loop {
        desk.does("moves", "in the end");
        let client = desk.client(Duration::from_secs(5)).await;
        if is_moving(&client).await == Some(false) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    desk.doing.lock().remove("moves");
}

/// So many different brokers, the first of which is to lead.
fn some(rng: &mut Rng, nodes: usize, many: usize) -> Vec<i32> {
    let mut all: Vec<i32> = (1..).take(nodes).collect();
    while all.len() > many {
        let at = rng.between(0, all.len() as u64);
        all.remove(usize::try_from(at).unwrap_or(0));
    }
    let first = rng.between(0, all.len() as u64);
    all.rotate_left(usize::try_from(first).unwrap_or(0));
    all
}

async fn reassign(client: &Client, place: Place, replicas: &[i32]) -> Option<i16> {
    let partition = ReassignablePartition::default()
        .with_partition_index(place.1)
        .with_replicas(Some(replicas.iter().copied().map(BrokerId).collect()));
    let topic = ReassignableTopic::default()
        .with_name(TopicName(StrBytes::from_string(name_of(place.0))))
        .with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topics(vec![topic]);
    let connection = client.controller().await.ok()?;
    let answer = connection.send(&request).await.ok()?;
    if answer.error_code != 0 {
        return Some(answer.error_code);
    }
    Some(answer.responses.first()?.partitions.first()?.error_code)
}

async fn is_moving(client: &Client) -> Option<bool> {
    let request = ListPartitionReassignmentsRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topics(None);
    let connection = client.controller().await.ok()?;
    let answer = connection.send(&request).await.ok()?;
    (answer.error_code == 0).then_some(!answer.topics.is_empty())
}

/// Tells the cluster of a node whose disk is gone, until it believes it.
pub(super) async fn replace(desk: Desk) {
    let mut lost = desk.lost.subscribe();
    loop {
        let over = desk.is_over();
        let (lost, _) = *lost.borrow_and_update();
        let host = match lost {
            Some(host) => host,
            None if over => break,
            None => {
                desk.rest(Duration::from_millis(500)).await;
                continue;
            }
        };
        desk.does("replace", &format!("host {host}"));
        let client = desk.client(Duration::from_secs(5)).await;
        let broker = BrokerId(i32::try_from(host).unwrap_or(0) + 1);
        let request = UnregisterBrokerRequest::default().with_broker_id(broker);
        let asked = async { client.controller().await?.send(&request).await };
        match asked.await {
            // It may have been done, and the answer lost.
            Ok(answer) if answer.error_code == 0 || is_not_registered(answer.error_code) => {
                desk.lost.send_modify(|(_, told)| *told = true);
                break;
            }
            other => desk.does("replace", &format!("host {host}: {other:?}")),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    desk.doing.lock().remove("replace");
}

fn is_not_registered(code: i16) -> bool {
    code == ErrorCode::BROKER_ID_NOT_REGISTERED.code()
}

/// Topics come, are written to, and go, some under a name that was there before.
pub(super) async fn churn(desk: Desk, pause: u64) {
    let mut rng = desk.rng(401);
    while !desk.is_over() {
        desk.rest(Duration::from_millis(rng.between(pause / 2, pause * 2)))
            .await;
        let client = desk.client(Duration::from_secs(5)).await;
        let name = format!("passing-{}", rng.between(0, 3));
        if rng.chance(500) {
            let _ = client.delete_topics(&[&name]).await;
            desk.count("topics deleted");
            continue;
        }
        let topic = NewTopic {
            name: name.clone(),
            partitions: Some(2),
            replication_factor: Some(3),
            configs: Vec::new(),
        };
        let _ = client.create_topics(&[topic], false).await;
        desk.count("topics made");
        let options = ProducerOptions {
            acks: Acks::All,
            delivery_timeout: Duration::from_secs(5),
            ..ProducerOptions::default()
        };
        let producer = Producer::new(client, options);
        for _ in 0..5 {
            let message = NewMessage {
                value: Some(vec![7; 100].into()),
                ..NewMessage::default()
            };
            let _ = producer.send(&name, None, message).await;
        }
        let _ = producer.flush().await;
    }
}
