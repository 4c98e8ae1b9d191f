//! The records of one partition that are not yet acknowledged, in batches and in order.
//!
//! Invariants:
//! - Batches are sent in the order of their ordinals. A batch that failed goes back to its place,
//!   and from then on the partition sends one batch at a time until nothing that failed is left:
//!   so a retry does not overtake what was sent before it.
//! - The first batch of a sequence travels alone until it is acknowledged: a leader that does not know the producer takes any
//!   first sequence (as Kafka does), so a later batch must not reach one that has not the first.
//! - A batch keeps the sequence number it was first sent with (KIP-98), so that the broker
//!   recognises it when only the answer was lost.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Error;
use crate::record::{NewMessage, Sequence};

use super::Acknowledged;
use super::identity::Identity;

/// A record and whoever waits for its fate.
pub(super) struct Pending {
    pub(super) message: NewMessage,
    pub(super) size: usize,
    pub(super) reply: oneshot::Sender<Result<Acknowledged, Error>>,
}

/// Records of one partition that travel together.
pub(super) struct Batch {
    /// Grows with age over all partitions of the producer.
    pub(super) ordinal: u64,
    pub(super) records: Vec<Pending>,
    pub(super) bytes: usize,
    pub(super) created: Instant,
    pub(super) sequence: Option<Sequence>,
    pub(super) attempts: u32,
    /// Whether a broker may have appended it without this producer knowing.
    pub(super) maybe_appended: bool,
    pub(super) last_error: Option<Error>,
}

impl Batch {
    pub(super) fn new(ordinal: u64) -> Batch {
        Batch {
            ordinal,
            records: Vec::new(),
            bytes: 0,
            created: Instant::now(),
            sequence: None,
            attempts: 0,
            maybe_appended: false,
            last_error: None,
        }
    }

    fn push(&mut self, record: Pending) {
        self.bytes += record.size;
        self.records.push(record);
    }

    /// Tells every waiter the offset of its record; -1 stands for an unknown one.
    pub(super) fn succeed(self, partition: i32, base_offset: i64, append_time: i64) -> usize {
        for (index, record) in self.records.into_iter().enumerate() {
            let index = i64::try_from(index).expect("a batch is counted in 32 bits");
            let created = record.message.timestamp.unwrap_or(-1);
            let acknowledged = Acknowledged {
                partition,
                offset: if base_offset < 0 {
                    -1
                } else {
                    base_offset + index
                },
                timestamp: if append_time < 0 {
                    created
                } else {
                    append_time
                },
            };
            // The receiver may be gone: not everybody wants to know.
            drop(record.reply.send(Ok(acknowledged)));
        }
        self.bytes
    }

    /// Tells every waiter that its record is lost.
    pub(super) fn fail(self, error: &Error) -> usize {
        for record in self.records {
            drop(record.reply.send(Err(error.clone())));
        }
        self.bytes
    }

    /// Cuts a batch that is too large for the broker in two; sequence numbers stay contiguous.
    /// `ordinal` is the second half's and must lie between this one's and the next batch's.
    fn split(mut self) -> (Batch, Batch) {
        let second = self.records.split_off(self.records.len() / 2);
        let size = |records: &[Pending]| records.iter().map(|record| record.size).sum();
        let half = Batch {
            ordinal: self.ordinal,
            bytes: size(&second),
            records: second,
            created: self.created,
            sequence: self
                .sequence
                .map(|sequence| sequence.after(self.records.len())),
            attempts: self.attempts,
            maybe_appended: self.maybe_appended,
            last_error: self.last_error.clone(),
        };
        self.bytes = size(&self.records);
        (self, half)
    }
}

/// When a batch is worth sending.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) batch_bytes: usize,
    pub(super) linger: Duration,
}

/// Whether a partition has something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Nothing, until a record or an answer comes.
    Blocked,
    /// Not before that time.
    At(Instant),
    /// Yes.
    Now,
}

/// Unacknowledged batches of one partition.
#[derive(Default)]
pub(super) struct PartitionQueue {
    /// Waiting to be sent, oldest first; the last may still be filling.
    waiting: VecDeque<Batch>,
    in_flight: usize,
    next_sequence: i32,
    /// A batch of this sequence was acknowledged: whoever leads the partition knows the producer.
    is_known: bool,
    /// Not sent before that time: the last try failed.
    pub(super) paused_until: Option<Instant>,
}

impl PartitionQueue {
    /// Adds a record to the newest batch, or to a new one if it is full or was sent before. `true`
    /// if a batch was opened, which then uses up `ordinal`.
    pub(super) fn push(&mut self, record: Pending, batch_bytes: usize, ordinal: u64) -> bool {
        if let Some(last) = self.waiting.back_mut()
            && last.attempts == 0
            && last.bytes + record.size <= batch_bytes
        {
            last.push(record);
            return false;
        }
        let mut batch = Batch::new(ordinal);
        batch.push(record);
        self.waiting.push_back(batch);
        true
    }

    /// When the oldest waiting batch may be sent: at once if it is full or was sent before or is
    /// asked for (`flush_below`), else when it has lingered.
    pub(super) fn readiness(&self, now: Instant, limits: &Limits, flush_below: u64) -> Readiness {
        let Some(oldest) = self.waiting.front() else {
            return Readiness::Blocked;
        };
        let retried = oldest.attempts > 0;
        let goes_alone = retried || (self.next_sequence > 0 && !self.is_known);
        if goes_alone && self.in_flight > 0 {
            return Readiness::Blocked;
        }
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Readiness::At(until);
        }
        let full = self.waiting.len() > 1 || oldest.bytes >= limits.batch_bytes;
        let lingered = oldest.created + limits.linger;
        if full || retried || oldest.ordinal < flush_below || lingered <= now {
            Readiness::Now
        } else {
            Readiness::At(lingered)
        }
    }

    /// Bytes of the oldest waiting batch.
    pub(super) fn next_bytes(&self) -> usize {
        self.waiting.front().map_or(0, |batch| batch.bytes)
    }

    /// Takes the oldest batch to be sent, with a sequence number if the producer is idempotent.
    pub(super) fn take(&mut self, identity: Option<Identity>) -> Option<Batch> {
        let mut batch = self.waiting.pop_front()?;
        if let Some(Identity {
            producer_id,
            producer_epoch,
        }) = identity
            && batch.sequence.is_none()
        {
            let sequence = Sequence {
                producer_id,
                producer_epoch,
                base: self.next_sequence,
            };
            self.next_sequence = sequence.after(batch.records.len()).base;
            batch.sequence = Some(sequence);
        }
        batch.attempts += 1;
        self.in_flight += 1;
        Some(batch)
    }

    /// A batch that was taken is answered, for good or ill.
    pub(super) fn answered(&mut self) {
        self.in_flight = self
            .in_flight
            .checked_sub(1)
            .expect("only what was taken is answered");
    }

    /// A batch was acknowledged.
    pub(super) fn is_written(&mut self) {
        self.is_known = true;
    }

    /// Puts a batch that failed back to its place.
    pub(super) fn put_back(&mut self, batch: Batch) {
        let at = self
            .waiting
            .partition_point(|waiting| waiting.ordinal < batch.ordinal);
        self.waiting.insert(at, batch);
    }

    /// Puts a batch back as two halves.
    pub(super) fn put_back_split(&mut self, batch: Batch) {
        let (first, second) = batch.split();
        self.put_back(second);
        self.put_back(first);
    }

    /// Takes out a batch that nobody should wait for any longer.
    pub(super) fn take_expired(
        &mut self,
        now: Instant,
        delivery_timeout: Duration,
    ) -> Option<Batch> {
        self.waiting
            .pop_front_if(|oldest| oldest.created + delivery_timeout <= now)
    }

    /// When the oldest waiting batch expires.
    pub(super) fn expiry(&self, delivery_timeout: Duration) -> Option<Instant> {
        Some(self.waiting.front()?.created + delivery_timeout)
    }

    /// Whether a batch older than `ordinal` waits, or any batch is in flight.
    pub(super) fn has_others_before(&self, ordinal: u64) -> bool {
        self.in_flight > 0
            || self
                .waiting
                .front()
                .is_some_and(|oldest| oldest.ordinal < ordinal)
    }

    /// Takes out everything that waits.
    pub(super) fn take_all(&mut self) -> VecDeque<Batch> {
        std::mem::take(&mut self.waiting)
    }

    /// Starts the sequence anew, for a new producer identity. Takes out the batches that the old
    /// identity may have appended: nobody could tell a duplicate any more.
    pub(super) fn restart_sequence(&mut self) -> Vec<Batch> {
        assert_eq!(
            self.in_flight, 0,
            "an identity changes when nothing is in flight"
        );
        self.next_sequence = 0;
        self.is_known = false;
        let (doubtful, mut kept): (Vec<Batch>, Vec<Batch>) = self
            .waiting
            .drain(..)
            .partition(|batch| batch.maybe_appended);
        for batch in &mut kept {
            batch.sequence = None;
        }
        self.waiting = kept.into();
        doubtful
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const LIMITS: Limits = Limits {
        batch_bytes: 100,
        linger: Duration::from_secs(1),
    };
    const WHO: Identity = Identity {
        producer_id: 1,
        producer_epoch: 0,
    };

    fn record(size: usize) -> Pending {
        let (reply, _) = oneshot::channel();
        Pending {
            message: NewMessage::default(),
            size,
            reply,
        }
    }

    /// A queue with one batch for each of `counts`, of so many records.
    fn queue(counts: &[usize]) -> PartitionQueue {
        let mut queue = PartitionQueue::default();
        for (ordinal, &count) in (0..).zip(counts) {
            for _ in 0..count {
                queue.push(record(100 / count), LIMITS.batch_bytes, ordinal);
            }
        }
        queue
    }

    fn bases(queue: &PartitionQueue) -> Vec<(u64, Option<i32>)> {
        let waiting = queue.waiting.iter();
        waiting
            .map(|batch| (batch.ordinal, batch.sequence.map(|sequence| sequence.base)))
            .collect()
    }

    #[test]
    fn records_share_a_batch_until_it_is_full() {
        let mut queue = PartitionQueue::default();
        assert!(queue.push(record(60), 100, 0));
        assert!(!queue.push(record(40), 100, 1));
        assert!(queue.push(record(1), 100, 1));
        assert!(
            queue.push(record(1000), 100, 2),
            "a large record goes alone"
        );
        assert_eq!(bases(&queue), [(0, None), (1, None), (2, None)]);
    }

    #[test]
    fn a_batch_lingers_unless_it_is_full_or_asked_for() {
        let now = Instant::now();
        let mut queue = PartitionQueue::default();
        assert_eq!(queue.readiness(now, &LIMITS, 0), Readiness::Blocked);
        queue.push(record(10), 100, 5);
        let created = queue.waiting.front().unwrap().created;
        assert_eq!(
            queue.readiness(now, &LIMITS, 5),
            Readiness::At(created + LIMITS.linger)
        );
        assert_eq!(queue.readiness(now, &LIMITS, 6), Readiness::Now, "flushed");
        assert_eq!(
            queue.readiness(created + LIMITS.linger, &LIMITS, 0),
            Readiness::Now
        );
        queue.push(record(90), 100, 6);
        assert_eq!(queue.readiness(now, &LIMITS, 0), Readiness::Now, "full");
    }

    #[test]
    fn what_failed_goes_first_alone_and_with_its_sequence() {
        let mut queue = queue(&[2, 3, 4]);
        let first = queue.take(Some(WHO)).unwrap();
        let second = queue.take(Some(WHO)).unwrap();
        queue.answered();
        queue.put_back(second);
        assert_eq!(
            queue.readiness(Instant::now(), &LIMITS, 0),
            Readiness::Blocked,
            "the first may come back"
        );
        queue.answered();
        queue.put_back(first);
        assert_eq!(bases(&queue), [(0, Some(0)), (1, Some(2)), (2, None)]);
        let first = queue.take(Some(WHO)).unwrap();
        assert_eq!(first.sequence.unwrap().base, 0);
        assert_eq!(
            queue.readiness(Instant::now(), &LIMITS, 0),
            Readiness::Blocked,
            "one at a time"
        );
        queue.answered();
        assert_eq!(queue.take(Some(WHO)).unwrap().sequence.unwrap().base, 2);
        queue.answered();
        assert_eq!(queue.take(Some(WHO)).unwrap().sequence.unwrap().base, 5);
    }

    #[test]
    fn the_halves_of_a_batch_continue_its_sequence() {
        let mut queue = queue(&[1, 5, 1]);
        queue.take(Some(WHO)).unwrap();
        let large = queue.take(Some(WHO)).unwrap();
        queue.answered();
        queue.put_back_split(large);
        assert_eq!(bases(&queue), [(1, Some(1)), (1, Some(3)), (2, None)]);
        let sizes: Vec<usize> = queue
            .waiting
            .iter()
            .map(|batch| batch.records.len())
            .collect();
        assert_eq!(sizes, [2, 3, 1]);
    }

    #[test]
    fn the_first_batch_of_a_sequence_goes_alone() {
        let ready = |queue: &PartitionQueue| queue.readiness(Instant::now(), &LIMITS, u64::MAX);
        let mut unnumbered = queue(&[1, 1]);
        unnumbered.take(None).unwrap();
        assert_eq!(ready(&unnumbered), Readiness::Now);

        let mut queue = queue(&[1, 1, 1, 1, 1]);
        let first = queue.take(Some(WHO)).unwrap();
        assert_eq!(ready(&queue), Readiness::Blocked);
        queue.answered();
        queue.put_back(first);
        assert_eq!(queue.take(Some(WHO)).unwrap().sequence.unwrap().base, 0);
        assert_eq!(
            ready(&queue),
            Readiness::Blocked,
            "not before it is written"
        );
        queue.answered();
        queue.is_written();
        queue.take(Some(WHO)).unwrap();
        assert_eq!(ready(&queue), Readiness::Now);
        queue.take(Some(WHO)).unwrap();
        queue.answered();
        queue.answered();
        queue.restart_sequence();
        queue.take(Some(WHO)).unwrap();
        assert_eq!(ready(&queue), Readiness::Blocked, "another sequence");
    }

    #[test]
    fn a_new_identity_drops_what_may_be_a_duplicate() {
        let mut queue = queue(&[1, 1]);
        let mut doubtful = queue.take(Some(WHO)).unwrap();
        doubtful.maybe_appended = true;
        let refused = queue.take(Some(WHO)).unwrap();
        for batch in [doubtful, refused] {
            queue.answered();
            queue.put_back(batch);
        }
        let doubtful = queue.restart_sequence();
        assert_eq!(doubtful.len(), 1);
        assert_eq!(bases(&queue), [(1, None)]);
        assert_eq!(queue.take(Some(WHO)).unwrap().sequence.unwrap().base, 0);
    }

    #[test]
    fn expires_from_the_front() {
        let mut queue = queue(&[1, 1]);
        let timeout = Duration::from_secs(60);
        assert!(queue.take_expired(Instant::now(), timeout).is_none());
        let late = Instant::now() + timeout;
        assert_eq!(queue.take_expired(late, timeout).unwrap().ordinal, 0);
        assert_eq!(queue.take_expired(late, timeout).unwrap().ordinal, 1);
        assert!(queue.take_expired(late, timeout).is_none());
    }
}
