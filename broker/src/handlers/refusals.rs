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
/// Producers' partitions of which refusals are remembered.
const MOST: usize = 10_000;
/// Refused batches remembered of each: as many as a client may have in flight. The last ones are: of those before them, one that is
/// not in the log has its retry under way.
const REMEMBERED_BATCHES: usize = 5;

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

/// What was refused of a lane.
#[derive(Clone, Debug)]
struct Refused {
    epoch: i16,
    /// First sequences of the batches, the last refused at the end.
    sequences: Vec<i32>,
    /// Of the last one.
    code: ErrorCode,
    /// Likewise.
    at: Instant,
}

impl Refused {
    /// Whether it is remembered, and of the batch's epoch.
    fn concerns(&self, header: &BatchHeader, now: Instant) -> bool {
        self.epoch == header.producer_epoch && now < self.at + REMEMBERED
    }

    /// Adds a batch, as the last one.
    fn add(&mut self, sequence: i32, code: ErrorCode, now: Instant) {
        self.forget(sequence);
        if self.sequences.len() == REMEMBERED_BATCHES {
            self.sequences.remove(0);
        }
        self.sequences.push(sequence);
        (self.code, self.at) = (code, now);
    }

    fn forget(&mut self, sequence: i32) {
        self.sequences.retain(|refused| *refused != sequence);
    }

    /// Whether one of them comes before `sequence`.
    fn comes_before(&self, sequence: i32) -> bool {
        let mut refused = self.sequences.iter();
        refused.any(|refused| sequence_is_before(*refused, sequence))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Whether any is noted: for nearly all batches nothing else is looked at.
    any: AtomicBool,
    lanes: Mutex<HashMap<Lane, Refused>>,
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
        if lanes.len() >= MOST && !lanes.contains_key(&lane) {
            lanes.retain(|_, refused| now < refused.at + REMEMBERED);
            if lanes.len() >= MOST {
                return;
            }
        }
        let none = || Refused {
            epoch: header.producer_epoch,
            sequences: Vec::with_capacity(REMEMBERED_BATCHES),
            code,
            at: now,
        };
        let refused = lanes.entry(lane).or_insert_with(none);
        if !refused.concerns(header, now) {
            *refused = none();
        }
        refused.add(header.base_sequence, code, now);
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
        let refused = lanes.get_mut(&lane)?;
        if !refused.concerns(header, now) {
            refused.sequences.clear();
        } else if refused.comes_before(header.base_sequence) {
            if let Some(next) = next() {
                refused
                    .sequences
                    .retain(|refused| !sequence_is_before(*refused, next));
            }
            if refused.comes_before(header.base_sequence) {
                return Some(refused.code);
            }
        }
        // It comes again.
        refused.forget(header.base_sequence);
        if refused.sequences.is_empty() {
            lanes.remove(&lane);
            self.any.store(!lanes.is_empty(), Ordering::Release);
        }
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
            let refusals = refused(&[10, 12], now);
            let ask = |sequence| refusals.stands_before(LANE, &batch(0, sequence), now, || next);
            assert_eq!(ask(10), None);
            assert_eq!(ask(14), REFUSED, "12 was not sent again");
        }
        let refusals = refused(&[10, 12], now);
        let ask = |next| refusals.stands_before(LANE, &batch(0, 14), now, || next);
        assert_eq!(ask(Some(12)), REFUSED, "the first is in the log");
        assert_eq!(ask(Some(14)), None, "both are");
        assert_eq!(ask(Some(4)), None, "and no longer noted");
    }

    #[test]
    fn what_was_refused_and_written_elsewhere_hides_no_later_refusal() {
        let now = Instant::now();
        // Refused here, written by another leader; then this node is to lead again.
        let refusals = refused(&[10, 12], now);
        let code = ErrorCode::NOT_LEADER_OR_FOLLOWER;
        refusals.note(LANE, &batch(0, 40), code, now);
        let ask = |sequence| refusals.stands_before(LANE, &batch(0, sequence), now, || Some(40));
        assert_eq!(ask(42), REFUSED);
        assert_eq!(ask(40), None);
        assert_eq!(ask(42), None);
    }

    #[test]
    fn of_many_refused_batches_the_last_are_remembered() {
        let now = Instant::now();
        let sequences: Vec<i32> = (0..40).map(|n| n * 2).collect();
        let refusals = refused(&sequences, now);
        let ask = |sequence| refusals.stands_before(LANE, &batch(0, sequence), now, || Some(0));
        assert_eq!(ask(80), REFUSED);
        for sequence in &sequences {
            assert_eq!(ask(*sequence), None);
        }
        assert!(!refusals.any.load(Ordering::Acquire));
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
        assert_eq!(ask(3, Some(1)), REFUSED);
        assert_eq!(ask(3, Some(3)), None);
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
