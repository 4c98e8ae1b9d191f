//! Batches of idempotent producers that this node refused for the moment, so that those behind them in the
//! pipeline are refused as well.
//!
//! A client sends up to five batches of a partition without waiting. Where the first is refused because the node
//! does not lead yet, and the second comes when it does, the second would be OUT_OF_ORDER_SEQUENCE_NUMBER, or, of
//! a producer that the log does not know, be appended (behaviour 48), and the first one, when it is sent again,
//! could only follow it. To librdkafka such an error behind a failed batch means that it goes on in a new epoch,
//! on all its partitions, where the log then takes again what it had, not acknowledged. So what follows a refused
//! batch gets the same answer until that batch is in the log, and is sent again behind it.
//!
//! Invariant: nothing is refused because of a batch that the log holds. What is noted is bounded in number and
//! time; without a note, the answer is Kafka's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use klamm_protocol::ErrorCode;
use klamm_records::{BatchHeader, TopicId, sequence_is_before};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a refusal is remembered: longer than an answer is under way, and not so long that a client that gave
/// the batch up, and went on in the same epoch, would wait much for the error that tells it.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Refusals that are remembered, one for each producer and partition.
const MOST: usize = 10_000;

/// A producer's partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub index: i32,
    /// The producer.
    pub producer_id: i64,
}

/// The first batch of a lane that was refused.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    epoch: i16,
    sequence: i32,
    code: ErrorCode,
    at: Instant,
}

impl Refusal {
    /// Whether it is remembered, and of the batch's epoch.
    fn concerns(&self, header: &BatchHeader, now: Instant) -> bool {
        self.epoch == header.producer_epoch && now < self.at + REMEMBERED
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Whether any is noted: for nearly all batches nothing else is looked at.
    any: AtomicBool,
    lanes: Mutex<HashMap<Lane, Refusal>>,
}

/// Refusals after which a client sends the same batch again.
fn is_for_the_moment(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::NOT_ENOUGH_REPLICAS
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode::UNKNOWN_TOPIC_ID
    )
}

impl Refusals {
    /// Notes a batch that is refused, if it is one that is to be sent again.
    pub fn note(&self, lane: Lane, header: &BatchHeader, code: ErrorCode, now: Instant) {
        if header.producer_id < 0 || header.base_sequence < 0 || !is_for_the_moment(code) {
            return;
        }
        let mut lanes = self.lanes.lock();
        if let Some(noted) = lanes.get_mut(&lane)
            && noted.concerns(header, now)
            && sequence_is_before(noted.sequence, header.base_sequence)
        {
            noted.at = now;
            return;
        }
        if lanes.len() >= MOST && !lanes.contains_key(&lane) {
            lanes.retain(|_, noted| now < noted.at + REMEMBERED);
            if lanes.len() >= MOST {
                return;
            }
        }
        let refusal = Refusal {
            epoch: header.producer_epoch,
            sequence: header.base_sequence,
            code,
            at: now,
        };
        lanes.insert(lane, refusal);
        self.any.store(true, Ordering::Release);
    }

    /// The answer to a batch that follows a refused one which is not in the log; `next` is the sequence that the
    /// log awaits, `None` if it knows nothing of the producer.
    pub fn stands_before(
        &self,
        lane: Lane,
        header: &BatchHeader,
        now: Instant,
        next: impl FnOnce() -> Option<i32>,
    ) -> Option<ErrorCode> {
        if !self.any.load(Ordering::Acquire) || header.producer_id < 0 {
            return None;
        }
        let mut lanes = self.lanes.lock();
        let noted = *lanes.get(&lane)?;
        let follows =
            noted.concerns(header, now) && sequence_is_before(noted.sequence, header.base_sequence);
        let is_in_log = || next().is_some_and(|next| sequence_is_before(noted.sequence, next));
        if follows && !is_in_log() {
            return Some(noted.code);
        }
        // What comes now is the refused batch again, or nobody waits for that any more.
        lanes.remove(&lane);
        self.any.store(!lanes.is_empty(), Ordering::Release);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane {
        topic: TopicId::ZERO,
        index: 0,
        producer_id: 7,
    };
    const REFUSED: Option<ErrorCode> = Some(ErrorCode::NOT_LEADER_OR_FOLLOWER);

    fn batch(epoch: i16, sequence: i32) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            batch_length: 100,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: 2,
        }
    }

    /// With the batches of these sequences refused.
    fn refused(sequences: &[i32], now: Instant) -> Refusals {
        let refusals = Refusals::default();
        for sequence in sequences {
            let code = ErrorCode::NOT_LEADER_OR_FOLLOWER;
            refusals.note(LANE, &batch(0, *sequence), code, now);
        }
        refusals
    }

    #[test]
    fn what_follows_a_refused_batch_is_refused_until_that_is_in_the_log() {
        let now = Instant::now();
        for next in [Some(10), Some(4), None] {
            let refusals = refused(&[10, 12], now);
            let ask = |sequence| refusals.stands_before(LANE, &batch(0, sequence), now, || next);
            assert_eq!(ask(14), REFUSED, "the log awaits {next:?}");
            assert_eq!(ask(12), REFUSED, "the log awaits {next:?}");
            assert_eq!(ask(10), None, "it comes again: the log awaits {next:?}");
            assert_eq!(ask(12), None, "and the next one behind it");
            let refusals = refused(&[10, 12], now);
            let before = refusals.stands_before(LANE, &batch(0, 8), now, || next);
            assert_eq!(before, None);
        }
        let refusals = refused(&[10, 12], now);
        let ask = |next| refusals.stands_before(LANE, &batch(0, 14), now, || next);
        assert_eq!(ask(Some(12)), None, "the first is in the log");
        assert_eq!(ask(Some(4)), None, "and no longer noted");
    }

    #[test]
    fn another_epoch_lane_or_time_is_not_concerned() {
        let now = Instant::now();
        let next = || Some(10);
        let other = Lane { index: 1, ..LANE };
        let refusals = refused(&[10], now);
        assert_eq!(
            refusals.stands_before(other, &batch(0, 12), now, next),
            None
        );
        assert_eq!(refusals.stands_before(LANE, &batch(1, 12), now, next), None);
        let refusals = refused(&[10], now);
        let just_before = now + REMEMBERED - Duration::from_millis(1);
        let after = |at| refusals.stands_before(LANE, &batch(0, 12), at, next);
        assert_eq!(after(just_before), REFUSED);
        assert_eq!(after(now + REMEMBERED), None);
        assert!(!refusals.any.load(Ordering::Acquire));
    }

    #[test]
    fn sequences_go_round() {
        let now = Instant::now();
        let refusals = refused(&[i32::MAX, 1], now);
        let ask = |sequence, next| refusals.stands_before(LANE, &batch(0, sequence), now, || next);
        assert_eq!(ask(3, Some(i32::MAX)), REFUSED);
        assert_eq!(ask(3, Some(1)), None);
    }

    #[test]
    fn only_what_is_sent_again_is_noted_and_no_more_than_there_is_room_for() {
        let now = Instant::now();
        let refusals = Refusals::default();
        let invalid = ErrorCode::CORRUPT_MESSAGE;
        refusals.note(LANE, &batch(0, 10), invalid, now);
        let without_producer = BatchHeader {
            producer_id: -1,
            ..batch(-1, -1)
        };
        let not_leader = ErrorCode::NOT_LEADER_OR_FOLLOWER;
        refusals.note(LANE, &without_producer, not_leader, now);
        assert!(!refusals.any.load(Ordering::Acquire));
        let lane = |producer_id| Lane {
            producer_id,
            ..LANE
        };
        let all = i64::try_from(MOST).expect("it fits");
        for producer_id in 0..=all {
            refusals.note(lane(producer_id), &batch(0, 10), not_leader, now);
        }
        assert_eq!(refusals.lanes.lock().len(), MOST);
        refusals.note(lane(all), &batch(0, 10), not_leader, now + REMEMBERED);
        assert_eq!(refusals.lanes.lock().len(), 1);
    }
}
