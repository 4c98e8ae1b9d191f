//! The producer's connection to one broker: opens it when needed, encodes and writes requests in
//! the order they come, and hands answers back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use klamm_protocol::StrBytes;
use klamm_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use klamm_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use klamm_records::Codec;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::cluster::Topic;
use crate::connection::{Connection, Reply};
use crate::error::Error;
use crate::record::encode_batch;

use super::queue::Batch;
use super::{Acks, ProducerOptions};

/// First version of Produce that names topics by id (KIP-516).
const PRODUCE_BY_TOPIC_ID: i16 = 13;

/// A batch under way.
pub(super) struct Shipment {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: i32,
    pub(super) batch: Batch,
}

/// What came of a request.
pub(super) enum Outcome {
    /// Written; nobody answers (acks 0).
    Written,
    /// The broker's answer.
    Answered(ProduceResponse),
    /// The request never left.
    NotSent(Error),
    /// The request left, or may have, and the answer is lost.
    Lost(Error),
}

/// One request's batches and what came of it.
pub(super) struct Answer {
    /// Broker asked.
    pub(super) node: i32,
    pub(super) shipments: Vec<Shipment>,
    pub(super) outcome: Outcome,
}

pub(super) struct Link {
    client: Client,
    node: i32,
    acks: Acks,
    codec: Codec,
    ack_timeout: Duration,
    connection: Option<Connection>,
    answers: mpsc::Sender<Answer>,
}

enum Started {
    Unanswered,
    Awaited(Reply<ProduceRequest>),
}

impl Link {
    pub(super) fn new(
        client: Client,
        node: i32,
        options: &ProducerOptions,
        answers: mpsc::Sender<Answer>,
    ) -> Link {
        let &ProducerOptions {
            acks,
            codec,
            ack_timeout,
            ..
        } = options;
        Link {
            client,
            node,
            acks,
            codec,
            ack_timeout,
            connection: None,
            answers,
        }
    }

    /// Runs until the sender drops its end.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Vec<Shipment>>) {
        while let Some(shipments) = requests.recv().await {
            let started = self.start(&shipments).await;
            let node = self.node;
            let answers = self.answers.clone();
            // A send fails only when the sender is gone, and with it everybody who waits.
            match started {
                Ok(Started::Awaited(reply)) => {
                    tokio::spawn(async move {
                        let outcome = match reply.wait().await {
                            Ok(response) => Outcome::Answered(response),
                            Err(error) => Outcome::Lost(error),
                        };
                        drop(
                            answers
                                .send(Answer {
                                    node,
                                    shipments,
                                    outcome,
                                })
                                .await,
                        );
                    });
                }
                Ok(Started::Unanswered) => {
                    drop(
                        answers
                            .send(Answer {
                                node,
                                shipments,
                                outcome: Outcome::Written,
                            })
                            .await,
                    );
                }
                Err(error) => {
                    let outcome = Outcome::NotSent(error);
                    drop(
                        answers
                            .send(Answer {
                                node,
                                shipments,
                                outcome,
                            })
                            .await,
                    );
                }
            }
        }
    }

    async fn start(&mut self, shipments: &[Shipment]) -> Result<Started, Error> {
        let connection = match self
            .connection
            .take()
            .filter(|open| open.closed().is_none())
        {
            Some(connection) => connection,
            None => self.client.connect_to(self.node).await?,
        };
        let connection = self.connection.insert(connection);
        let version = connection.version_of::<ProduceRequest>()?;
        let by_id = shipments
            .iter()
            .all(|shipment| !shipment.topic.id.is_zero());
        let version = if by_id {
            version
        } else {
            version.min(PRODUCE_BY_TOPIC_ID - 1)
        };
        let mut topics: Vec<TopicProduceData> = Vec::new();
        for Shipment {
            topic,
            partition,
            batch,
        } in shipments
        {
            let records = batch.records.iter().map(|record| &record.message);
            let records: Bytes = encode_batch(records, self.codec, batch.sequence)?;
            let data = PartitionProduceData::default()
                .with_index(*partition)
                .with_records(Some(records));
            match topics.last_mut().filter(|last| last.name.0 == *topic.name) {
                Some(last) => last.partition_data.push(data),
                None => topics.push(
                    TopicProduceData::default()
                        .with_name(TopicName(StrBytes::from_string(topic.name.clone())))
                        .with_topic_id(topic.id.0)
                        .with_partition_data(vec![data]),
                ),
            }
        }
        let request = ProduceRequest::default()
            .with_acks(self.acks.wire())
            .with_timeout_ms(i32::try_from(self.ack_timeout.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(topics);
        if self.acks == Acks::None {
            connection.send_unanswered(version, &request).await?;
            return Ok(Started::Unanswered);
        }
        Ok(Started::Awaited(connection.start(version, &request).await?))
    }
}
