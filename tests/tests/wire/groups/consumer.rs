//! A member of a group of the new protocol (KIP-848), heartbeat by heartbeat.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use klamm_client::Connection;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::consumer_group_describe_response::DescribedGroup;
use klamm_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use klamm_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};
use uuid::Uuid;

use crate::calls::{Topic, code, name, text};
use crate::rig::{connect, connect_to, eventually};

use super::calls::group_id;

/// Partitions by topic id.
pub(crate) type Partitions = BTreeSet<(Uuid, i32)>;

/// All partitions of a topic.
pub(crate) fn all_of(topic: &Topic, partitions: i32) -> Partitions {
    (0..partitions).map(|index| (topic.id, index)).collect()
}

/// Partitions as a heartbeat lists them.
pub(crate) fn listed(partitions: &Partitions) -> Vec<TopicPartitions> {
    let mut topics: Vec<TopicPartitions> = Vec::new();
    for (topic, index) in partitions {
        match topics.last_mut() {
            Some(last) if last.topic_id == *topic => last.partitions.push(*index),
            _ => topics.push(
                TopicPartitions::default()
                    .with_topic_id(*topic)
                    .with_partitions(vec![*index]),
            ),
        }
    }
    topics
}

/// A member of a consumer group.
#[derive(Clone)]
pub(crate) struct Consumer {
    pub(crate) connection: Connection,
    pub(crate) group: String,
    pub(crate) id: String,
    pub(crate) instance: Option<String>,
    pub(crate) epoch: i32,
    pub(crate) topics: Vec<String>,
    pub(crate) rebalance_ms: i32,
    /// What it was told to own.
    pub(crate) assigned: Partitions,
    /// What it has said to own.
    pub(crate) owned: Partitions,
}

impl Consumer {
    /// One that has not joined yet.
    pub(crate) async fn new(group: &str, topics: &[&Topic]) -> Result<Consumer> {
        Ok(Consumer::over(connect().await?, group, topics))
    }

    /// One at a broker of the test's own.
    pub(crate) async fn at(address: &str, group: &str, topics: &[&Topic]) -> Result<Consumer> {
        Ok(Consumer::over(connect_to(address).await?, group, topics))
    }

    /// One that uses this connection.
    pub(crate) fn over(connection: Connection, group: &str, topics: &[&Topic]) -> Consumer {
        Consumer {
            connection,
            group: group.to_owned(),
            id: Uuid::new_v4().to_string(),
            instance: None,
            epoch: 0,
            topics: topics.iter().map(|topic| topic.name.clone()).collect(),
            rebalance_ms: 30_000,
            assigned: Partitions::new(),
            owned: Partitions::new(),
        }
    }

    pub(crate) fn with_instance(mut self, instance: &str) -> Consumer {
        self.instance = Some(instance.to_owned());
        self
    }

    /// A heartbeat that says nothing new.
    pub(crate) fn beat_request(&self) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(&self.group))
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_instance_id(self.instance.as_deref().map(text))
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_topic_partitions(None)
    }

    /// The heartbeat with which it joins.
    pub(crate) fn join_request(&self) -> ConsumerGroupHeartbeatRequest {
        self.beat_request()
            .with_member_epoch(0)
            .with_rebalance_timeout_ms(self.rebalance_ms)
            .with_subscribed_topic_names(Some(
                self.topics.iter().map(|topic| name(topic)).collect(),
            ))
            .with_topic_partitions(Some(Vec::new()))
    }

    /// Sends a heartbeat of the newest version.
    pub(crate) async fn send(
        &self,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<ConsumerGroupHeartbeatResponse> {
        Ok(self.connection.send_version(1, request).await?)
    }

    /// Sends a heartbeat: its code.
    pub(crate) async fn code_of(
        &self,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<ErrorCode> {
        Ok(code(self.send(request).await?.error_code))
    }

    /// Takes over what an answer says, which must be without error.
    pub(crate) fn adopt(&mut self, answer: &ConsumerGroupHeartbeatResponse) -> Result<()> {
        let found = code(answer.error_code);
        ensure!(
            found.is_none(),
            "heartbeat: {found} {:?}",
            answer.error_message
        );
        self.epoch = answer.member_epoch;
        if let Some(id) = &answer.member_id {
            self.id = id.to_string();
        }
        if let Some(assignment) = &answer.assignment {
            let partitions = assignment.topic_partitions.iter();
            self.assigned = partitions
                .flat_map(|of| of.partitions.iter().map(|index| (of.topic_id, *index)))
                .collect();
        }
        Ok(())
    }

    /// Joins or joins again.
    pub(crate) async fn join(&mut self) -> Result<ConsumerGroupHeartbeatResponse> {
        let answer = self.send(&self.join_request()).await?;
        self.owned.clear();
        self.adopt(&answer)?;
        Ok(answer)
    }

    /// A heartbeat that says nothing new.
    pub(crate) async fn beat(&mut self) -> Result<ConsumerGroupHeartbeatResponse> {
        let answer = self.send(&self.beat_request()).await?;
        self.adopt(&answer)?;
        Ok(answer)
    }

    /// Says to own what it was told to.
    pub(crate) async fn settle(&mut self) -> Result<ConsumerGroupHeartbeatResponse> {
        let request = self.beat_request();
        let request = request
            .with_rebalance_timeout_ms(self.rebalance_ms)
            .with_topic_partitions(Some(listed(&self.assigned)));
        self.owned = self.assigned.clone();
        let answer = self.send(&request).await?;
        self.adopt(&answer)?;
        Ok(answer)
    }

    /// Leaves for good (-1) or for a while (-2).
    pub(crate) async fn leave(&self, epoch: i32) -> Result<ConsumerGroupHeartbeatResponse> {
        self.send(&self.beat_request().with_member_epoch(epoch))
            .await
    }
}

/// Goes on until everybody owns what it should, and nobody ever what another owns.
pub(crate) async fn reconcile(consumers: &mut [&mut Consumer], all: &Partitions) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        ensure!(Instant::now() < until, "the group does not settle");
        for consumer in consumers.iter_mut() {
            if consumer.assigned == consumer.owned {
                consumer.beat().await?;
            } else {
                consumer.settle().await?;
            }
        }
        let mut owned = Partitions::new();
        for consumer in consumers.iter() {
            for partition in &consumer.owned {
                ensure!(owned.insert(*partition), "{partition:?} has two owners");
            }
        }
        let told = consumers
            .iter()
            .all(|consumer| consumer.assigned == consumer.owned);
        if told && owned == *all && is_settled(consumers).await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the broker, too, thinks that these have arrived. It may leave an assignment for later.
async fn is_settled(consumers: &[&mut Consumer]) -> Result<bool> {
    let first = consumers.first().context("someone")?;
    let described = describe_consumers(&first.connection, 1, &first.group).await?;
    let epoch = described.group_epoch;
    Ok(&*described.group_state == "Stable"
        && described.assignment_epoch == epoch
        && consumers.iter().all(|consumer| consumer.epoch == epoch))
}

/// Heartbeats until the consumer is told to own so many partitions.
pub(crate) async fn wait_for_share(consumer: &mut Consumer, count: usize) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while consumer.assigned.len() != count {
        ensure!(
            Instant::now() < until,
            "its share does not become {count}: {:?}",
            consumer.assigned
        );
        consumer.beat().await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Describes one group by the API of the new protocol.
pub(crate) async fn describe_consumers(
    connection: &Connection,
    version: i16,
    group: &str,
) -> Result<DescribedGroup> {
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(group)]);
    let mut groups = connection.send_version(version, &request).await?.groups;
    ensure!(groups.len() == 1, "{groups:?}");
    Ok(groups.remove(0))
}

/// Waits until a group of the new protocol is in a state.
pub(crate) async fn wait_for_consumers(
    connection: &Connection,
    group: &str,
    expected: &str,
) -> Result<DescribedGroup> {
    eventually(&format!("state {expected}"), || async {
        let described = describe_consumers(connection, 1, group).await?;
        ensure!(described.error_code == 0, "{described:?}");
        Ok((&*described.group_state == expected).then_some(described))
    })
    .await
}
