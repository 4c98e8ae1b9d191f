//! A producer that raises its epoch, as clients do after a failure, and what it sent before comes after that: it must be
//! refused, and the new epoch's sequence begins anew.

use std::time::Duration;

use klamm_client::Client;
use klamm_protocol::ErrorCode;
use klamm_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use klamm_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProducerId, TopicName};
use klamm_records::{BatchBuilder, NewRecord};
use klamm_storage::{Clock, SystemClock};
use klamm_tests::checker::{Event, Place};
use klamm_tests::history::value;

use super::commits::text;
use super::{Desk, name_of, now};
use crate::rng::Rng;

/// Behind all other producers.
const FIRST: u32 = 1_000_000;
/// The last whose layout names topics, but one.
const VERSION: i16 = 9;
const TRIES: u32 = 20;

/// What became of a batch.
enum Fate {
    Acked(i64),
    /// Its epoch is over.
    Fenced,
    Unknown,
}

struct Fenced<'a> {
    desk: &'a Desk,
    client: Client,
    producer: u32,
    id: i64,
    place: Place,
    /// Of the next value.
    number: u64,
}

pub(super) async fn run(desk: Desk, place: Place) {
    let mut rng = desk.rng(330);
    for producer in FIRST.. {
        if desk.is_over() {
            return;
        }
        let client = desk.client(Duration::from_secs(10)).await;
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(i32::MAX)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let asked = async { client.any().await?.send(&request).await };
        let id = match asked.await {
            Ok(given) if given.error_code == 0 => given.producer_id.0,
            _ => {
                desk.rest(Duration::from_millis(300)).await;
                continue;
            }
        };
        let mut fenced = Fenced {
            desk: &desk,
            client,
            producer,
            id,
            place,
            number: 0,
        };
        fenced.live(&mut rng).await;
    }
}

impl Fenced<'_> {
    /// Some epochs, until something is not known.
    async fn live(&mut self, rng: &mut Rng) {
        let mut before = 0;
        for epoch in 0..i16::MAX {
            let batches = i32::try_from(rng.between(1, 5)).unwrap_or(1);
            for sequence in 0..batches {
                let pause = rng.between(1, 3_000);
                self.desk.rest(Duration::from_millis(pause)).await;
                if self.desk.is_over() || !self.sends(epoch, sequence).await {
                    return;
                }
                if sequence == 0 && epoch > 0 && !self.comes_late(epoch - 1, before).await {
                    return;
                }
            }
            before = batches;
        }
    }

    fn next(&mut self) -> (u32, u64) {
        let value = (self.producer, self.number);
        self.number += 1;
        let (at, place) = (now(), self.place);
        self.desk.tell(Event::Sent { at, place, value });
        value
    }

    /// False where nobody knows what became of it.
    async fn sends(&mut self, epoch: i16, sequence: i32) -> bool {
        let value = self.next();
        let fate = self.send(value, epoch, sequence).await;
        let (at, place) = (now(), self.place);
        match fate {
            Fate::Acked(offset) => {
                self.desk.tell(Event::Acked {
                    at,
                    place,
                    value,
                    offset,
                });
                true
            }
            Fate::Fenced | Fate::Unknown => {
                self.desk.tell(Event::Failed {
                    at,
                    place,
                    value,
                    surely: false,
                });
                false
            }
        }
    }

    /// A batch of an epoch that is over.
    async fn comes_late(&mut self, epoch: i16, sequence: i32) -> bool {
        let value = self.next();
        let fate = self.send(value, epoch, sequence).await;
        let (at, place) = (now(), self.place);
        let surely = matches!(fate, Fate::Fenced);
        if surely {
            self.desk.count("fenced");
        }
        if matches!(fate, Fate::Acked(_)) {
            self.desk.tell(Event::Zombie { at, place, value });
        }
        self.desk.tell(Event::Failed {
            at,
            place,
            value,
            surely,
        });
        surely
    }

    /// Sends a batch until its fate is known, or for long enough.
    async fn send(&mut self, named: (u32, u64), epoch: i16, sequence: i32) -> Fate {
        let bytes = value(named.0, named.1, 60);
        let record = NewRecord {
            // A time that is long over would let retention take the record.
            timestamp: SystemClock::default().now_ms(),
            key: None,
            value: Some(&bytes),
            headers: &[],
        };
        let mut batch = BatchBuilder::new().producer(self.id, epoch, sequence);
        let batch = batch.push(&record).and_then(|()| batch.build());
        let Ok(batch) = batch else {
            return Fate::Unknown;
        };
        let data = PartitionProduceData::default()
            .with_index(self.place.1)
            .with_records(Some(batch));
        let topic = TopicProduceData::default()
            .with_name(TopicName(text(&name_of(self.place.0))))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(5_000)
            .with_topic_data(vec![topic]);
        for _ in 0..TRIES {
            match self.try_to_send(&request).await {
                Some((ErrorCode::NONE, offset)) => return Fate::Acked(offset),
                Some((ErrorCode::DUPLICATE_SEQUENCE_NUMBER, _)) => return Fate::Acked(-1),
                Some((ErrorCode::INVALID_PRODUCER_EPOCH, _)) => return Fate::Fenced,
                Some((ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, _)) => return Fate::Unknown,
                _ => {}
            }
            self.desk.rest(Duration::from_millis(500)).await;
            let topic = name_of(self.place.0);
            if self.client.refresh_topic(&topic).await.is_err() {
                self.client = self.desk.client(Duration::from_secs(5)).await;
            }
        }
        Fate::Unknown
    }

    async fn try_to_send(&self, request: &ProduceRequest) -> Option<(ErrorCode, i64)> {
        let topic = name_of(self.place.0);
        let leader = self.client.leader(&topic, self.place.1).await.ok()?;
        let connection = self.client.node(leader).await.ok()?;
        let answer = connection.send_version(VERSION, request).await.ok()?;
        let told = answer.responses.first()?.partition_responses.first()?;
        Some((ErrorCode(told.error_code), told.base_offset))
    }
}
