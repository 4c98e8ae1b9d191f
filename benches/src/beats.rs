//! One record after the other into each of many partitions, and when each was acknowledged: whom a fault silences, and
//! for how long.
//!
//! A record is due at a constant rate in each partition, the partitions evenly spread over the time between two. Each has
//! one record outstanding: while it waits none is due, and the next one is due as soon as it has come. So the wait of
//! the longest record is the silence of the partition, but for what of it fell before the record was due: the time
//! between two acknowledgements is that longer by less than the time between two records, and is told, too.
//!
//! Partitions share a few producers, which put what is due for one broker within [`LINGER`] into one request: a
//! request for each record would be more than brokers of this machine can take, and no client does so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use klamm_client::{
    Acks, Client, ClientOptions, NewMessage, OffsetSpec, Producer, ProducerOptions, TopicPartition,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::setup;

/// Producers that share the partitions.
const PRODUCERS: usize = 4;
/// What is due for a broker within this time goes in one request.
const LINGER: Duration = Duration::from_millis(10);
/// As Java's and librdkafka's `retry.backoff.ms`.
pub const RETRY_BACKOFF: Duration = Duration::from_millis(100);
/// As Java's `delivery.timeout.ms`: what has not come by then is an error of the application.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a record's value.
const VALUE: &[u8] = &[b'x'; 100];
const PAUSE: Duration = Duration::from_millis(10);

/// What is known of a partition. Times count from the start of the load.
#[derive(Debug, Default)]
struct Track {
    /// When records were due and when acknowledged, in order.
    acknowledged: Vec<(Duration, Duration)>,
    /// When the record was due that waits.
    waiting: Option<Duration>,
    failed: u64,
}

/// The longest times of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Silence {
    /// That a record waited.
    pub waited: Duration,
    /// Between two acknowledgements.
    pub between: Duration,
}

impl Track {
    /// The longest times that touch the time from `from` until `until`.
    fn silence(&self, from: Duration, until: Duration) -> Silence {
        let first = self.acknowledged.partition_point(|(_, at)| *at < from);
        let mut before = first
            .checked_sub(1)
            .and_then(|last| self.acknowledged.get(last))
            .map_or(from, |(_, at)| *at);
        let mut longest = Silence::default();
        let mut ended = false;
        for (due, at) in self.acknowledged.iter().skip(first) {
            if ended {
                break;
            }
            // One that came later was waited for until then.
            let at = (*at).min(until);
            ended = at == until;
            longest.waited = longest.waited.max(at.saturating_sub(*due));
            longest.between = longest.between.max(at.saturating_sub(before));
            before = at;
        }
        if !ended {
            let waited = self.waiting.map(|due| until.saturating_sub(due));
            longest.waited = longest.waited.max(waited.unwrap_or_default());
            longest.between = longest.between.max(until.saturating_sub(before));
        }
        longest
    }
}

/// The load while it runs.
pub struct Beats {
    began: Instant,
    over: Arc<AtomicBool>,
    /// By partition.
    tracks: Vec<Arc<Mutex<Track>>>,
    words: Arc<Mutex<BTreeMap<String, u64>>>,
    tasks: JoinSet<()>,
}

/// What became of the records.
pub struct Fate {
    /// Acknowledged, all partitions together.
    pub acknowledged: u64,
    /// That were acknowledged and are not there.
    pub lost: u64,
    /// That are there more than once; one whose fate the client was not told counts when it is there.
    pub extra: u64,
    /// That failed, after all retries.
    pub failed: u64,
    /// What was said of those, and how often.
    pub words: BTreeMap<String, u64>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client with the time limits of the load.
async fn client(address: &str, request_timeout: Duration) -> Result<Client> {
    let mut connection = setup::connection_options();
    connection.request_timeout = request_timeout;
    connection.connect_timeout = request_timeout;
    let options = ClientOptions {
        connection,
        retry_timeout: DELIVERY_TIMEOUT,
        unknown_topic_timeout: DELIVERY_TIMEOUT,
        retry_backoff: RETRY_BACKOFF,
        ..ClientOptions::default()
    };
    Ok(Client::connect(address, options).await?)
}

impl Beats {
    /// Begins: `rate` records a second into each partition of the topic, by clients that give up a broker that has
    /// not answered after `request_timeout`.
    pub async fn begin(
        address: &str,
        partitions: i32,
        rate: f64,
        request_timeout: Duration,
    ) -> Result<Beats> {
        let mut producers = Vec::new();
        let mut bootstrap: Vec<&str> = address.split(',').collect();
        for _ in 0..PRODUCERS {
            let options = ProducerOptions {
                acks: Acks::All,
                idempotent: true,
                linger: LINGER,
                retry_backoff: RETRY_BACKOFF,
                delivery_timeout: DELIVERY_TIMEOUT,
                ..ProducerOptions::default()
            };
            producers.push(Producer::new(
                client(&bootstrap.join(","), request_timeout).await?,
                options,
            ));
            // A client asks the first that answers, as long as it does: not all of them the same one.
            bootstrap.rotate_left(1);
        }
        let mut beats = Beats {
            began: Instant::now(),
            over: Arc::default(),
            tracks: (0..partitions).map(|_| Arc::default()).collect(),
            words: Arc::default(),
            tasks: JoinSet::new(),
        };
        let period = Duration::from_secs_f64(1.0 / rate);
        for (partition, (track, producer)) in
            (0..).zip(beats.tracks.iter().zip(producers.iter().cycle()))
        {
            let writer = Writer {
                partition,
                producer: producer.clone(),
                began: beats.began,
                period,
                over: beats.over.clone(),
                track: track.clone(),
                words: beats.words.clone(),
            };
            let phase = period.mul_f64(f64::from(partition) / f64::from(partitions));
            beats.tasks.spawn(writer.write(phase));
        }
        Ok(beats)
    }

    /// The time now, as the load counts.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until each partition has had an acknowledgement of a record that was due since `from`; how many have not
    /// when the time is up.
    pub async fn heard(&self, from: Duration, within: Duration) -> usize {
        let until = Instant::now() + within;
        loop {
            let silent = self.tracks.iter().filter(|track| {
                let last = lock(track).acknowledged.last().copied();
                last.is_none_or(|(due, _)| due < from)
            });
            let silent = silent.count();
            if silent == 0 || Instant::now() > until {
                return silent;
            }
            sleep(PAUSE).await;
        }
    }

    /// The longest silences from one time until another, by partition.
    pub fn silences(&self, from: Duration, until: Duration) -> Vec<Silence> {
        let tracks = self.tracks.iter();
        tracks
            .map(|track| lock(track).silence(from, until))
            .collect()
    }

    /// What records waited from one time until another, all of them.
    pub fn waits(&self, from: Duration, until: Duration) -> crate::measure::Latencies {
        let mut waits = crate::measure::Latencies::default();
        for track in &self.tracks {
            let track = lock(track);
            let within = track.acknowledged.iter();
            for (due, at) in within.filter(|(_, at)| (from..until).contains(at)) {
                waits.record(at.saturating_sub(*due));
            }
        }
        waits
    }

    /// Ends the load and counts what is there, over an address that is whole again.
    pub async fn end(mut self, address: &str) -> Result<Fate> {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a writer")?;
        }
        let client = setup::client(address).await?;
        let topic = setup::TOPIC.to_string();
        let wanted: Vec<_> = (0..)
            .zip(&self.tracks)
            .map(|(partition, _)| {
                let topic = topic.clone();
                (TopicPartition { topic, partition }, OffsetSpec::Latest)
            })
            .collect();
        let ends = client.list_offsets(&wanted).await?;
        ensure!(ends.len() == self.tracks.len(), "an end for each partition");
        let mut fate = Fate {
            acknowledged: 0,
            lost: 0,
            extra: 0,
            failed: 0,
            words: std::mem::take(&mut *lock(&self.words)),
        };
        for (track, end) in self.tracks.iter().zip(ends) {
            let track = lock(track);
            let there = u64::try_from(end.offset.unwrap_or(0))?;
            let told = track.acknowledged.len() as u64;
            fate.acknowledged += told;
            fate.failed += track.failed;
            fate.lost += told.saturating_sub(there);
            fate.extra += there.saturating_sub(told);
        }
        Ok(fate)
    }
}

struct Writer {
    partition: i32,
    producer: Producer,
    began: Instant,
    period: Duration,
    over: Arc<AtomicBool>,
    track: Arc<Mutex<Track>>,
    words: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Writer {
    async fn write(self, phase: Duration) {
        let mut due = phase;
        loop {
            sleep_until(self.began + due).await;
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            lock(&self.track).waiting = Some(due);
            let sent = self.send().await;
            let now = self.began.elapsed();
            let mut track = lock(&self.track);
            track.waiting = None;
            match sent {
                Ok(()) => track.acknowledged.push((due, now)),
                Err(error) => {
                    track.failed += 1;
                    // A fault says the same of many partitions.
                    let said = error.to_string();
                    *lock(&self.words).entry(said).or_default() += 1;
                }
            }
            due = (due + self.period).max(now);
        }
    }

    async fn send(&self) -> Result<(), klamm_client::Error> {
        let message = NewMessage {
            value: Some(bytes::Bytes::from_static(VALUE)),
            ..NewMessage::default()
        };
        let topic = setup::TOPIC;
        let delivery = self
            .producer
            .send(topic.as_str(), Some(self.partition), message)
            .await?;
        delivery.await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    fn check(
        acknowledged: &[(f64, f64)],
        waiting: Option<f64>,
        (from, until): (f64, f64),
        expected: (f64, f64),
    ) {
        let track = Track {
            acknowledged: acknowledged
                .iter()
                .map(|(due, at)| (seconds(*due), seconds(*at)))
                .collect(),
            waiting: waiting.map(seconds),
            failed: 0,
        };
        let (waited, between) = expected;
        let expected = Silence {
            waited: seconds(waited),
            between: seconds(between),
        };
        assert_eq!(track.silence(seconds(from), seconds(until)), expected);
    }

    #[test]
    fn the_longest_silence_is_found_wherever_it_lies() {
        let beats = [(1.0, 1.5), (2.0, 2.25), (3.0, 6.0), (6.0, 6.5)];
        check(&beats, None, (0.0, 6.5), (3.0, 3.75));
        // One that began before counts in full.
        check(&beats, None, (4.0, 6.5), (3.0, 3.75));
        // One that lasts counts as far as it has come.
        check(&beats[..2], Some(3.0), (2.0, 5.0), (2.0, 2.75));
        check(&beats, None, (2.0, 5.0), (2.0, 2.75));
        // What came before, or after, does not count.
        check(&beats, None, (1.75, 2.5), (0.25, 0.75));
        check(&[], None, (1.0, 3.0), (0.0, 2.0));
    }
}
