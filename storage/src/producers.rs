//! Producer state of one log (KIP-98): what makes a retried batch a duplicate and a lost one an
//! error. Pure: a function of the appended batches and of the times they were appended at.
//!
//! Per producer id: its epoch and its last five batches, because five requests may be in flight.
//! A batch that equals one of the five is a duplicate; otherwise it has to continue the sequence.
//! That it is older than those five, and in the log, is known as long as the sequence has no gap.
//!
//! [`ProducerStates::check`] judges and changes nothing; [`ProducerStates::appended`] follows the
//! log and judges nothing: a replica takes what the leader accepted.
//!
//! Deliberately absent: truncation. Who cuts the log starts from an earlier state and appends the
//! headers that remain.

use std::collections::BTreeMap;

use klamm_records::plant::{self, Bug};
use klamm_records::{BatchHeader, sequence_after, sequence_steps};

/// Batches remembered per producer: as many as a client may have in flight.
pub const BATCHES_PER_PRODUCER: usize = 5;

/// Version of [`ProducerStates::encode`]; version 1 had no [`Run`]s.
const FORMAT: u8 = 2;

/// Producers that one log remembers: about 20 MB. Fresh ids are cheap to ask for, so a client
/// could otherwise fill memory and checkpoints.
pub(crate) const MAX_PRODUCERS: usize = 65_536;

/// Producers of one log, by producer id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerStates {
    producers: BTreeMap<i64, ProducerState>,
}

/// What is known of one producer, as DescribeProducers shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerInfo {
    /// Producer id.
    pub producer_id: i64,
    /// Its newest epoch.
    pub producer_epoch: i16,
    /// Sequence of its last record; -1 if it wrote none in this epoch.
    pub last_sequence: i32,
    /// Offset of its last record; -1 if it wrote none in this epoch.
    pub last_offset: i64,
    /// Largest timestamp of its last batch, in ms.
    pub last_timestamp: i64,
    /// When it appended last, in ms by this broker's clock.
    pub last_activity_ms: i64,
}

/// What becomes of a batch on the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// It may be appended.
    Append,
    /// It is in the log already; the answer is the first append's. It is not to be acknowledged
    /// before `last_offset` is committed.
    Duplicate {
        /// Offset of the first record.
        base_offset: i64,
        /// Offset of the last record.
        last_offset: i64,
        /// Largest timestamp of the batch, in ms.
        timestamp: i64,
    },
    /// It is in the log already, an earlier leader wrote it, and where is not remembered
    /// (DUPLICATE_SEQUENCE_NUMBER). Not to be said before everything up to `end_offset` is committed.
    ///
    /// Kafka says `OutOfOrder` here, too. A client whose batch an old leader kept without an answer,
    /// while it went on with the new one, then tries it again until it expires, although it was
    /// written, and everything behind it waits.
    WrittenBefore {
        /// Offset behind which it does not lie.
        end_offset: i64,
    },
    /// A batch before it is missing, or it is older than the window
    /// (OUT_OF_ORDER_SEQUENCE_NUMBER).
    OutOfOrder {
        /// Sequence that would continue.
        expected: i32,
        /// Sequence of the batch.
        found: i32,
    },
    /// The producer was fenced by a newer epoch (INVALID_PRODUCER_EPOCH).
    InvalidEpoch {
        /// Newest epoch.
        current: i16,
        /// Epoch of the batch.
        found: i16,
    },
}

/// Why stored producer state could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducersError {
    /// A later version wrote it.
    #[error("producer state has version {0}, this program knows up to {FORMAT}")]
    NewerVersion(u8),
    /// It does not have the form of its version.
    #[error("producer state is corrupt: {0}")]
    Corrupt(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ProducerState {
    epoch: i16,
    last_timestamp: i64,
    last_activity_ms: i64,
    /// Oldest first; the first `len` count.
    batches: [SequencedBatch; BATCHES_PER_PRODUCER],
    len: usize,
    run: Option<Run>,
}

/// What is known of a producer's batches before those that are remembered. `None` of what a version
/// 1 has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// From this sequence to the last one all are in the log, without gap: at most 2^30.
    first: i32,
    /// Leader epoch of the last batch.
    leader_epoch: i32,
    /// Last sequence that was written in another leader epoch.
    inherited: Option<i32>,
}

impl Run {
    const MAX_STEPS: i32 = 1 << 30;

    /// Steps from its begin to a sequence; those before it are further than any in it.
    fn steps_to(&self, sequence: i32) -> i64 {
        sequence_steps(self.first, sequence)
    }

    fn goes_on_to(&mut self, last: i32) {
        if self.steps_to(last) > i64::from(Run::MAX_STEPS) {
            self.first = sequence_after(last, -Run::MAX_STEPS);
        }
    }
}

/// Sequences and offsets of one batch, bounds included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SequencedBatch {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
    timestamp: i64,
}

/// First and last sequence of a batch. The last follows from the offsets rather than the record
/// count: both agree when a batch is produced, but compaction removes records and not sequences.
fn sequences(header: &BatchHeader) -> (i32, i32) {
    let first = header.base_sequence;
    (
        first,
        sequence_after(first, header.last_offset_delta.max(0)),
    )
}

impl ProducerState {
    fn new(epoch: i16) -> ProducerState {
        ProducerState {
            epoch,
            last_timestamp: -1,
            last_activity_ms: i64::MIN,
            batches: Default::default(),
            len: 0,
            run: None,
        }
    }

    fn batches(&self) -> &[SequencedBatch] {
        &self.batches[..self.len]
    }

    fn last(&self) -> Option<&SequencedBatch> {
        self.batches().last()
    }

    fn push(&mut self, batch: SequencedBatch) {
        if self.len == BATCHES_PER_PRODUCER {
            self.batches.rotate_left(1);
            self.len -= 1;
        }
        self.batches[self.len] = batch;
        self.len += 1;
    }

    /// Forgets the batches that end behind `end`. False if nothing is left of what there was.
    fn keep_before(&mut self, end: i64) -> bool {
        let had = self.len;
        self.len = self
            .batches()
            .partition_point(|batch| batch.last_offset < end);
        for batch in self.batches.iter_mut().skip(self.len) {
            *batch = SequencedBatch::default();
        }
        had == 0 || self.len > 0
    }

    fn enter_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch && !plant::is(Bug::EpochIgnored) {
            self.epoch = epoch;
            self.batches = Default::default();
            self.len = 0;
            self.run = None;
        }
    }

    /// Counts a batch that is about to be pushed.
    fn run_to(&mut self, batch: &SequencedBatch, leader_epoch: i32) {
        let last = self.last().map(|last| last.last_sequence);
        match (&mut self.run, last) {
            (Some(run), Some(last)) if sequence_after(last, 1) == batch.first_sequence => {
                if run.leader_epoch != leader_epoch {
                    run.leader_epoch = leader_epoch;
                    run.inherited = Some(last);
                }
                run.goes_on_to(batch.last_sequence);
            }
            // It goes on from what an older version stored.
            (None, Some(last)) if sequence_after(last, 1) == batch.first_sequence => {}
            _ => {
                self.run = Some(Run {
                    first: batch.first_sequence,
                    leader_epoch,
                    inherited: None,
                });
            }
        }
    }

    /// Offset behind which a batch does not lie that an earlier leader wrote and that is not
    /// remembered.
    fn written_before(&self, header: &BatchHeader) -> Option<i64> {
        let run = self.run?;
        let oldest = self.batches().first()?;
        let (first, last) = sequences(header);
        let inherited = run.steps_to(run.inherited?);
        let is_it = run.steps_to(first) <= run.steps_to(last)
            && run.steps_to(last) <= inherited
            && run.steps_to(last) < run.steps_to(oldest.first_sequence);
        is_it.then_some(oldest.base_offset)
    }

    fn duplicate_of(&self, header: &BatchHeader) -> Option<&SequencedBatch> {
        let wanted = sequences(header);
        self.batches()
            .iter()
            .find(|batch| (batch.first_sequence, batch.last_sequence) == wanted)
    }

    fn next_sequence(&self, epoch: i16) -> i32 {
        match self.last().filter(|_| epoch == self.epoch) {
            Some(last) => sequence_after(last.last_sequence, 1),
            // A new epoch, or one that so far only a transaction marker has named.
            None => 0,
        }
    }

    fn check(&self, header: &BatchHeader) -> SequenceCheck {
        let (current, mut found) = (self.epoch, header.producer_epoch);
        if plant::is(Bug::EpochIgnored) {
            found = current;
        }
        if found < current {
            return SequenceCheck::InvalidEpoch { current, found };
        }
        if !has_sequence(header) {
            return SequenceCheck::Append;
        }
        let expected = self.next_sequence(found);
        if found == current
            && let Some(batch) = self.duplicate_of(header)
        {
            return SequenceCheck::Duplicate {
                base_offset: batch.base_offset,
                last_offset: batch.last_offset,
                timestamp: batch.timestamp,
            };
        }
        if header.base_sequence == expected {
            SequenceCheck::Append
        } else if found == current
            && let Some(end_offset) = self.written_before(header)
        {
            SequenceCheck::WrittenBefore { end_offset }
        } else {
            SequenceCheck::OutOfOrder {
                expected,
                found: header.base_sequence,
            }
        }
    }
}

/// Markers and what a coordinator writes for a producer carry its id and epoch but no sequence.
fn has_sequence(header: &BatchHeader) -> bool {
    !header.is_control() && header.base_sequence >= 0
}

impl ProducerStates {
    /// No producers.
    pub fn new() -> ProducerStates {
        ProducerStates::default()
    }

    /// Number of producers.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The sequence that a producer's next batch has to begin with, `None` if any may be its first
    /// (behaviour 48).
    pub fn next_sequence(&self, producer_id: i64, producer_epoch: i16) -> Option<i32> {
        let producer = self.producers.get(&producer_id)?;
        Some(producer.next_sequence(producer_epoch))
    }

    /// Leader epoch in which a producer's last batch was written; `None` if that is not known.
    pub fn last_written_in(&self, producer_id: i64) -> Option<i32> {
        let run = self.producers.get(&producer_id)?.run?;
        Some(run.leader_epoch)
    }

    /// What becomes of a batch that a client sent. A batch without producer id is appended, and
    /// so is any first sequence of an unknown producer: its state may have expired.
    pub fn check(&self, header: &BatchHeader) -> SequenceCheck {
        match self.producers.get(&header.producer_id) {
            Some(producer) if header.producer_id >= 0 => producer.check(header),
            _ => SequenceCheck::Append,
        }
    }

    /// Takes a batch that is in the log; `header` is stamped, `now_ms` is the time of the append
    /// (on replay, the best guess at it: the batch's largest timestamp or the present).
    pub fn appended(&mut self, header: &BatchHeader, now_ms: i64) {
        if header.producer_id < 0 {
            return;
        }
        if self.producers.len() >= MAX_PRODUCERS
            && !self.producers.contains_key(&header.producer_id)
        {
            self.forget_oldest();
        }
        let producer = self
            .producers
            .entry(header.producer_id)
            .or_insert_with(|| ProducerState::new(header.producer_epoch));
        producer.enter_epoch(header.producer_epoch);
        producer.last_timestamp = header.max_timestamp;
        producer.last_activity_ms = producer.last_activity_ms.max(now_ms);
        if has_sequence(header) {
            let (first_sequence, last_sequence) = sequences(header);
            let batch = SequencedBatch {
                first_sequence,
                last_sequence,
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                timestamp: header.max_timestamp,
            };
            producer.run_to(&batch, header.partition_leader_epoch);
            producer.push(batch);
        }
    }

    /// Of each producer the last offset of its last batch below `committed`: what compaction must
    /// leave for the sequence to go on from. `None` where that batch is not remembered any more.
    pub(crate) fn last_batches(
        &self,
        committed: i64,
    ) -> impl Iterator<Item = (i64, Option<i64>)> + '_ {
        self.producers.iter().map(move |(&producer_id, producer)| {
            let below = |batch: &&SequencedBatch| batch.last_offset < committed;
            let last = producer.batches().iter().rfind(below);
            (producer_id, last.map(|batch| batch.last_offset))
        })
    }

    /// The state at log end offset `end`, as far as it is remembered: a producer all of whose batches
    /// lie behind is not known then, and comes back when those are appended.
    pub(crate) fn before(&self, end: i64) -> ProducerStates {
        let mut before = self.clone();
        before
            .producers
            .retain(|_, producer| producer.keep_before(end));
        before
    }

    /// Makes room: an eighth of the producers, those that were silent longest, are forgotten as if
    /// they had expired. Of equals the smaller ids, so that every replica forgets the same.
    fn forget_oldest(&mut self) {
        let mut by_age: Vec<(i64, i64)> = self
            .producers
            .iter()
            .map(|(&id, producer)| (producer.last_activity_ms, id))
            .collect();
        by_age.sort_unstable();
        for (_, id) in by_age.into_iter().take(MAX_PRODUCERS / 8) {
            self.producers.remove(&id);
        }
    }

    /// Forgets producers that were silent for `ttl_ms` or longer; returns how many.
    pub fn expire(&mut self, now_ms: i64, ttl_ms: u64) -> usize {
        let before = self.producers.len();
        let ttl_ms = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
        self.producers
            .retain(|_, p| now_ms.saturating_sub(p.last_activity_ms) < ttl_ms);
        before - self.producers.len()
    }

    /// All producers by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = ProducerInfo> + '_ {
        self.producers
            .iter()
            .map(|(&producer_id, producer)| ProducerInfo {
                producer_id,
                producer_epoch: producer.epoch,
                last_sequence: producer.last().map_or(-1, |batch| batch.last_sequence),
                last_offset: producer.last().map_or(-1, |batch| batch.last_offset),
                last_timestamp: producer.last_timestamp,
                last_activity_ms: producer.last_activity_ms,
            })
    }

    /// The state as bytes. Version 2, all numbers little-endian: version u8, producers u32; per
    /// producer id i64, epoch i16, last timestamp i64, last activity i64, run of batches as first
    /// sequence i32 (-1: not known), leader epoch i32 and last inherited sequence i32 (-1: none),
    /// batches u8; per batch, oldest first, first sequence i32, last sequence i32, base offset i64,
    /// last offset i64, timestamp i64. Version 1 lacks the run.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        let count = u32::try_from(self.producers.len()).expect("2^32 producers do not fit memory");
        out.extend_from_slice(&count.to_le_bytes());
        for (id, producer) in &self.producers {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&producer.epoch.to_le_bytes());
            out.extend_from_slice(&producer.last_timestamp.to_le_bytes());
            out.extend_from_slice(&producer.last_activity_ms.to_le_bytes());
            let run = producer.run;
            for number in [
                run.map_or(-1, |run| run.first),
                run.map_or(-1, |run| run.leader_epoch),
                run.and_then(|run| run.inherited).unwrap_or(-1),
            ] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.push(u8::try_from(producer.len).expect("at most five"));
            for batch in producer.batches() {
                out.extend_from_slice(&batch.first_sequence.to_le_bytes());
                out.extend_from_slice(&batch.last_sequence.to_le_bytes());
                out.extend_from_slice(&batch.base_offset.to_le_bytes());
                out.extend_from_slice(&batch.last_offset.to_le_bytes());
                out.extend_from_slice(&batch.timestamp.to_le_bytes());
            }
        }
        out
    }

    /// Reads what [`ProducerStates::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<ProducerStates, ProducersError> {
        let mut input = Input(bytes);
        let version = u8::from_le_bytes(input.take()?);
        match version {
            1..=FORMAT => {}
            0 => return Err(ProducersError::Corrupt("version 0")),
            newer => return Err(ProducersError::NewerVersion(newer)),
        }
        let mut states = ProducerStates::new();
        for _ in 0..u32::from_le_bytes(input.take()?) {
            let id = i64::from_le_bytes(input.take()?);
            let producer = input.producer(version)?;
            // Ascending and never negative, as written; anything else is not what we wrote.
            if id < 0
                || states
                    .producers
                    .last_key_value()
                    .is_some_and(|(&last, _)| last >= id)
            {
                return Err(ProducersError::Corrupt("producer ids do not ascend"));
            }
            states.producers.insert(id, producer);
        }
        if input.0.is_empty() {
            Ok(states)
        } else {
            Err(ProducersError::Corrupt("bytes behind the last producer"))
        }
    }
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ProducersError> {
        let (head, rest) = self
            .0
            .split_first_chunk()
            .ok_or(ProducersError::Corrupt("ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn run(&mut self) -> Result<Option<Run>, ProducersError> {
        let first = i32::from_le_bytes(self.take()?);
        let leader_epoch = i32::from_le_bytes(self.take()?);
        let inherited = i32::from_le_bytes(self.take()?);
        if first == -1 && (leader_epoch, inherited) == (-1, -1) {
            return Ok(None);
        }
        if first < 0 || inherited < -1 {
            return Err(ProducersError::Corrupt("negative sequence"));
        }
        Ok(Some(Run {
            first,
            leader_epoch,
            inherited: (inherited >= 0).then_some(inherited),
        }))
    }

    fn producer(&mut self, version: u8) -> Result<ProducerState, ProducersError> {
        let mut producer = ProducerState::new(i16::from_le_bytes(self.take()?));
        producer.last_timestamp = i64::from_le_bytes(self.take()?);
        producer.last_activity_ms = i64::from_le_bytes(self.take()?);
        if version > 1 {
            producer.run = self.run()?;
        }
        let count = usize::from(u8::from_le_bytes(self.take()?));
        if count > BATCHES_PER_PRODUCER {
            return Err(ProducersError::Corrupt("more batches than are kept"));
        }
        for _ in 0..count {
            let batch = SequencedBatch {
                first_sequence: i32::from_le_bytes(self.take()?),
                last_sequence: i32::from_le_bytes(self.take()?),
                base_offset: i64::from_le_bytes(self.take()?),
                last_offset: i64::from_le_bytes(self.take()?),
                timestamp: i64::from_le_bytes(self.take()?),
            };
            if batch.first_sequence < 0 || batch.last_sequence < 0 {
                return Err(ProducersError::Corrupt("negative sequence"));
            }
            producer.push(batch);
        }
        Ok(producer)
    }
}

#[cfg(test)]
#[path = "producers_test.rs"]
mod tests;
