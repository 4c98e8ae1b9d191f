//! Producers: idempotent, with patience of several lengths. A record is sent once; one whose fate is not
//! known makes a new producer, since the old one's sequence is broken.

use std::time::Duration;

use klamm_client::{Acks, Codec, NewMessage, Producer, ProducerOptions};
use klamm_tests::checker::{COMPACTED, Event, Place, key_of};
use klamm_tests::history::value;
use tokio::sync::mpsc;

use super::{Desk, name_of, now};
use crate::rng::Rng;

/// Producers that one after another stand in for a client.
const LIVES: u32 = 10_000;

pub(super) async fn run(desk: Desk, client: u32, places: Vec<Place>) {
    let mut rng = desk.rng(100 + u64::from(client));
    for life in 0..LIVES {
        if desk.is_over() {
            return;
        }
        live(&desk, client * LIVES + life, &mut rng, &places).await;
    }
}

fn size(rng: &mut Rng) -> usize {
    let size = match rng.between(0, 40) {
        0 => rng.between(9_000, 40_000),
        1..4 => rng.between(1_000, 4_000),
        _ => rng.between(20, 300),
    };
    usize::try_from(size).unwrap_or(20)
}

async fn live(desk: &Desk, producer: u32, rng: &mut Rng, places: &[Place]) {
    let who = format!("producer {producer}");
    let options = ProducerOptions {
        acks: Acks::All,
        idempotent: true,
        codec: *rng.pick(&[Codec::None, Codec::None, Codec::Lz4]),
        linger: Duration::from_millis(rng.between(0, 10)),
        delivery_timeout: Duration::from_secs(*rng.pick(&[3, 20, 60])),
        ack_timeout: Duration::from_secs(10),
        retry_backoff: Duration::from_millis(50),
        batch_bytes: 16 * 1024,
        ..ProducerOptions::default()
    };
    let client = desk.client(Duration::from_secs(20)).await;
    let sender = Producer::new(client, options);
    let (deliveries, mut delivered) = mpsc::channel::<(Place, u64, klamm_client::Delivery)>(1000);
    let (failed, mut failure) = mpsc::channel::<()>(1);
    let told = desk.clone();
    let name = who.clone();
    let fates = tokio::spawn(async move {
        while let Some((place, number, delivery)) = delivered.recv().await {
            let value = (producer, number);
            told.does(&name, &format!("fate of {number}"));
            let event = match delivery.await {
                Ok(fate) => Event::Acked {
                    at: now(),
                    place,
                    value,
                    offset: fate.offset,
                },
                Err(_) => {
                    let _ = failed.try_send(());
                    Event::Failed {
                        at: now(),
                        place,
                        value,
                        surely: false,
                    }
                }
            };
            told.tell(event);
        }
        told.doing.lock().remove(&name);
    });
    let mut number = 0;
    'life: while !desk.is_over() && failure.try_recv().is_err() {
        let place = *rng.pick(places);
        for _ in 0..rng.between(1, 8) {
            let bytes = value(producer, number, size(rng));
            let message = NewMessage {
                key: (place.0 == COMPACTED)
                    .then(|| format!("key-{}", key_of((producer, number))).into()),
                value: Some(bytes.into()),
                ..NewMessage::default()
            };
            desk.tell(Event::Sent {
                at: now(),
                place,
                value: (producer, number),
            });
            let sent = sender.send(&name_of(place.0), Some(place.1), message).await;
            match sent {
                Ok(delivery) => {
                    let _ = deliveries.send((place, number, delivery)).await;
                }
                Err(_) => {
                    desk.tell(Event::Failed {
                        at: now(),
                        place,
                        value: (producer, number),
                        surely: false,
                    });
                    break 'life;
                }
            }
            number += 1;
        }
        let most = *rng.pick(&[100, 2_000, 8_000]);
        desk.rest(Duration::from_millis(rng.between(1, most))).await;
    }
    drop(deliveries);
    let _ = sender.flush().await;
    let _ = fates.await;
}
