//! A log as plainly as it can be written down, to compare the real one with.

use std::collections::BTreeMap;

use super::*;
use crate::{SequenceCheck, Vote};

/// A payload as the log keeps it: batches stamped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Blank,
    Membership(Bytes),
    Command(Bytes),
    Batch(Bytes),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<EntryId>,
    pub(super) last: Option<EntryId>,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) entries: BTreeMap<u64, (u64, Kept)>,
    /// Batches that end behind the log start, whether or not their entries are purged.
    pub(super) readable: Vec<Bytes>,
    pub(super) epochs: Vec<(i32, i64)>,
    /// The last membership, purged or not.
    pub(super) membership: Option<(EntryId, Bytes)>,
    /// The last purged membership.
    pub(super) purged_membership: Option<(EntryId, Bytes)>,
}

fn header(bytes: &Bytes) -> BatchHeader {
    BatchHeader::parse(bytes).unwrap()
}

fn membership_at(log: &GroupLog, index: u64) -> Option<(EntryId, Bytes)> {
    let entry = log.membership_at(index).unwrap()?;
    let Payload::Membership(data) = entry.payload else {
        panic!("{entry:?}")
    };
    Some((entry.id, data))
}

/// Batches one by one.
pub(super) fn split(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut batches = Vec::new();
    while let Some(header) = BatchHeader::parse(bytes) {
        let (batch, rest) = bytes.split_at(header.total_len().unwrap());
        batches.push(Bytes::copy_from_slice(batch));
        bytes = rest;
    }
    batches
}

impl Model {
    pub(super) fn append(&mut self, entry: &Entry) {
        let kept = match &entry.payload {
            Payload::Blank => Kept::Blank,
            Payload::Membership(data) => {
                self.membership = Some((entry.id, data.clone()));
                Kept::Membership(data.clone())
            }
            Payload::Command(data) => Kept::Command(data.clone()),
            Payload::Batch(batch) => {
                let epoch = entry.id.term as i32;
                let mut bytes = batch.header.stamp(self.end, epoch).to_vec();
                bytes.extend_from_slice(&batch.bytes[16..]);
                if self.epochs.last().is_none_or(|(last, _)| *last != epoch) {
                    self.epochs.retain(|(_, first)| *first < self.end);
                    self.epochs.push((epoch, self.end));
                }
                self.end += i64::from(batch.header.last_offset_delta) + 1;
                self.readable.push(Bytes::from(bytes.clone()));
                Kept::Batch(Bytes::from(bytes))
            }
        };
        self.entries.insert(entry.id.index, (entry.id.term, kept));
        self.last = Some(entry.id);
    }

    pub(super) fn truncate_after(&mut self, last: Option<EntryId>) {
        let gone = self
            .entries
            .split_off(&last.map_or(0, |last| last.index + 1));
        if gone.is_empty() {
            return;
        }
        let batches = gone.values().filter_map(|(_, kept)| match kept {
            Kept::Batch(bytes) => Some(header(bytes).base_offset),
            _ => None,
        });
        if let Some(cut) = batches.min() {
            self.end = cut;
            self.start = self.start.min(cut);
            self.epochs.retain(|(_, first)| *first < cut);
            self.readable.retain(|b| header(b).base_offset < cut);
        }
        self.last = last.or(self.purged);
        if gone
            .values()
            .any(|(_, kept)| matches!(kept, Kept::Membership(_)))
        {
            let left = self
                .entries
                .iter()
                .rev()
                .find_map(|(index, (term, kept))| match kept {
                    Kept::Membership(data) => Some((id(*term, *index), data.clone())),
                    _ => None,
                });
            self.membership = left.or(self.purged_membership.clone());
        }
    }

    pub(super) fn purge(&mut self, upto: EntryId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        let kept = self.entries.split_off(&(upto.index + 1));
        let gone = std::mem::replace(&mut self.entries, kept);
        for (index, (term, kept)) in gone {
            if let Kept::Membership(data) = kept {
                self.purged_membership = Some((id(term, index), data));
            }
        }
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }

    /// What of it is left when all entries that are not purged go, and with them their records.
    pub(super) fn at_purged(&self) -> Model {
        let kept = self.batches().next();
        let end = kept.map_or(self.end, |first| header(first).base_offset);
        let start = self.start.min(end);
        let held = |b: &&Bytes| header(b).next_offset() <= end && header(b).next_offset() > start;
        let before = |(_, first): &&(i32, i64)| *first < end;
        Model {
            vote: None,
            purged: self.purged,
            last: self.purged,
            start,
            end,
            entries: BTreeMap::new(),
            readable: self.readable.iter().filter(held).cloned().collect(),
            epochs: self.epochs.iter().filter(before).copied().collect(),
            membership: self.purged_membership.clone(),
            purged_membership: self.purged_membership.clone(),
        }
    }

    pub(super) fn advance(&mut self, offset: i64) {
        self.start = self.start.max(offset);
        self.readable.retain(|b| header(b).last_offset() >= offset);
        let obsolete = self
            .epochs
            .partition_point(|(_, first)| *first <= self.start);
        self.epochs.drain(..obsolete.saturating_sub(1));
        if let Some((_, first)) = self.epochs.first_mut() {
            *first = (*first).max(self.start);
        }
    }

    pub(super) fn batches(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.values().filter_map(|(_, kept)| match kept {
            Kept::Batch(bytes) => Some(bytes),
            _ => None,
        })
    }

    /// The same, read from a real log, which must agree with itself.
    pub(super) fn of(log: &GroupLog) -> Model {
        let state = log.raft_state();
        let mut model = Model {
            vote: state.vote,
            purged: state.purged,
            last: state.last,
            start: log.start_offset(),
            end: log.end_offset(),
            epochs: log.epochs(),
            ..Model::default()
        };
        model.membership = membership_at(log, u64::MAX);
        model.purged_membership = state.purged.and_then(|id| membership_at(log, id.index));
        for entry in log.entries(0..u64::MAX, usize::MAX, true).unwrap() {
            let kept = match entry.payload {
                Payload::Blank => Kept::Blank,
                Payload::Membership(data) => Kept::Membership(data),
                Payload::Command(data) => Kept::Command(data),
                Payload::Batch(batch) => {
                    let h = batch.header;
                    let mut bytes = h.stamp(h.base_offset, h.partition_leader_epoch).to_vec();
                    bytes.extend_from_slice(&batch.bytes[16..]);
                    Kept::Batch(Bytes::from(bytes))
                }
            };
            assert_eq!(log.entry_id(entry.id.index).unwrap(), Some(entry.id));
            model.entries.insert(entry.id.index, (entry.id.term, kept));
        }
        model.readable = split(&read_all(log));
        let entries = model.batches();
        let both: Vec<&Bytes> = entries
            .filter(|bytes| header(bytes).last_offset() >= model.start)
            .collect();
        assert!(
            model.readable.iter().rev().take(both.len()).rev().eq(both),
            "reads by offset and by index agree"
        );
        model.check_producers(log);
        model
    }

    /// The last batch of each producer that is still in the log is known.
    fn check_producers(&self, log: &GroupLog) {
        let producers = log.producers();
        let mut last = BTreeMap::new();
        let known = self.batches().chain(&self.readable).map(header);
        for h in known.filter(|h| h.producer_id >= 0) {
            last.insert(h.producer_id, h);
        }
        for h in last.values() {
            let known = producers.iter().any(|p| p.producer_id == h.producer_id);
            if !known && h.next_offset() <= log.entries_start_offset() {
                // A fill brought it, and all that its source remembered lay behind.
                continue;
            }
            let check = producers.check(h);
            assert!(
                matches!(check, SequenceCheck::Duplicate { base_offset, .. } if base_offset == h.base_offset),
                "{h:?}: {check:?}"
            );
        }
    }
}
