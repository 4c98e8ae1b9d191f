//! State of one log as a value: frames in, state out. No I/O and no clock, so that what `append`
//! does and what replay does is the same code ([`LogState::apply`]).
//!
//! Invariants:
//! - entries are contiguous: `purged.index < first <= ... <= last.index`, terms never fall;
//! - offsets are contiguous: the segments' `[base_offset, next_offset)` join, the last one ends at
//!   `end_offset`, and there always is a last one; inside a compacted segment offsets are missing;
//! - a segment that was compacted, or that a fill brought, holds purged entries only, and is never
//!   the last one;
//! - a file goes when its entries are purged and the log start has passed its records: Raft's
//!   prefix and Kafka's prefix are forgotten each on its own;
//! - operations count up by one; a frame with any other number is refused (something was lost).

mod shrink;

use std::collections::BTreeMap;

use bytes::Bytes;
use klamm_records::{BatchHeader, EntryId, GroupId};

use super::fill::InstalledProducers;
use super::tail::{BatchPlace, Tail};
use crate::entry::{Entry, Payload, Vote};
use crate::index::SparseEntry;
use crate::journal::{Anchor, BatchFrame, Frame, FrameBody};
use crate::options::LogSettings;
use crate::producers::ProducerStates;
use crate::segment::{NO_TIMESTAMP, Segment, SegmentFile};

/// Kafka's tools read positions in a segment as 32-bit numbers.
const MAX_SEGMENT_BYTES: u64 = i32::MAX as u64;

/// What an operation does to the group's files once its frame is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileAction {
    /// Cut the segment to this length.
    Cut { segment_base: i64, len: u64 },
    /// Remove a segment's file.
    Unlink(SegmentFile),
    /// Remove the whole directory.
    RemoveGroup,
}

/// An entry without records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlainEntry {
    pub(crate) term: u64,
    pub(crate) kind: PlainKind,
    pub(crate) data: Bytes,
    /// Whether a checkpoint has it.
    pub(crate) saved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlainKind {
    Blank,
    Membership,
    Command,
}

impl PlainEntry {
    pub(crate) fn payload(&self) -> Payload {
        match self.kind {
            PlainKind::Blank => Payload::Blank,
            PlainKind::Membership => Payload::Membership(self.data.clone()),
            PlainKind::Command => Payload::Command(self.data.clone()),
        }
    }
}

/// What the index still holds although the log has moved on: deleted by the next checkpoint, and
/// not to be looked at until then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stale {
    /// Segment and offset of the lowest cut.
    pub(crate) cut: Option<(i64, i64)>,
    /// Lowest Raft index that was truncated.
    pub(crate) truncated_from: Option<u64>,
    pub(crate) purged_upto: Option<u64>,
    /// Segments that were dropped or compacted.
    pub(crate) dropped: Vec<i64>,
}

/// State of one log. Fields are read by the other files of this folder; only [`LogState::apply`]
/// and the named methods change them.
#[derive(Debug)]
pub(crate) struct LogState {
    pub(crate) settings: LogSettings,
    /// Number of the last operation.
    pub(crate) op: u64,
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<EntryId>,
    /// Offset after the records of `purged` and before.
    pub(crate) purged_end: i64,
    pub(crate) last: Option<EntryId>,
    pub(crate) committed: Option<EntryId>,
    pub(crate) start_offset: i64,
    pub(crate) end_offset: i64,
    /// Compaction has seen the records below; durable lazily, for doing it again changes nothing.
    pub(crate) compacted_upto: i64,
    /// (term, index of its first entry), ascending; covers every entry behind `purged`.
    pub(crate) terms: Vec<(u64, u64)>,
    /// (leader epoch, its first offset), ascending.
    pub(crate) epochs: Vec<(i32, i64)>,
    /// Entries without records behind `purged`.
    pub(crate) plain: BTreeMap<u64, PlainEntry>,
    /// The last membership at or before `purged`.
    pub(crate) base_membership: Option<(EntryId, Bytes)>,
    pub(crate) segments: Vec<Segment>,
    /// The first batch behind `purged`, be it there or still to come. Batches before it may be in
    /// the same segment, but which of their indexes had records is not known any more: counting
    /// begins here.
    pub(crate) first_kept: Option<Anchor>,
    pub(crate) producers: ProducerStates,
    /// Replay met a truncation: `producers` is to be rebuilt from the log.
    pub(crate) producers_stale: bool,
    /// What a fill brought, until a checkpoint has it.
    pub(crate) installed_producers: Option<InstalledProducers>,
    /// Highest generation that a frame, or a fill under way, gave to a file.
    pub(crate) generation: u32,
    pub(crate) tail: Tail,
    /// Not yet in a checkpoint.
    pub(crate) stale: Stale,
    /// In a checkpoint that is being committed.
    pub(crate) stale_committing: Stale,
    /// Changed since the last checkpoint.
    pub(crate) dirty: bool,
    pub(crate) deleted: bool,
    /// Counts truncations, purges and segments dropped or compacted: a read that fails looks whether one came between.
    pub(crate) rearranged: u64,
    /// Why this log takes nothing more: the journal lost operations of it.
    pub(crate) quarantine: Option<String>,
}

impl LogState {
    /// A log without entries; its first operation is its creation.
    pub(crate) fn new(settings: LogSettings) -> LogState {
        LogState {
            settings,
            op: 0,
            vote: None,
            purged: None,
            purged_end: 0,
            last: None,
            committed: None,
            start_offset: 0,
            end_offset: 0,
            compacted_upto: 0,
            terms: Vec::new(),
            epochs: Vec::new(),
            plain: BTreeMap::new(),
            base_membership: None,
            segments: vec![Segment::empty(0)],
            first_kept: None,
            producers: ProducerStates::default(),
            producers_stale: false,
            installed_producers: None,
            generation: 0,
            tail: Tail::default(),
            stale: Stale::default(),
            stale_committing: Stale::default(),
            dirty: true,
            deleted: false,
            rearranged: 0,
            quarantine: None,
        }
    }

    pub(crate) fn active(&self) -> &Segment {
        self.segments
            .last()
            .expect("a log always has an active segment")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments
            .last_mut()
            .expect("a log always has an active segment")
    }

    /// The segment that holds `offset` (the first one if it is before all).
    pub(crate) fn segment_of(&self, offset: i64) -> &Segment {
        let after = self.segments.partition_point(|s| s.base_offset <= offset);
        self.segments
            .get(after.saturating_sub(1))
            .expect("a log always has an active segment")
    }

    /// Number of the first segment that has a batch with Raft index `index` or above; of none,
    /// the number of segments.
    pub(crate) fn segment_from_index(&self, index: u64) -> usize {
        self.segments
            .partition_point(|s| s.size > 0 && s.last_index < index)
    }

    /// Where the next batch goes unless it begins a segment; its index is at least `raft_index`.
    pub(crate) fn end_anchor(&self, raft_index: u64) -> Anchor {
        let active = self.active();
        Anchor {
            segment_base: active.base_offset,
            position: active.size,
            base_offset: self.end_offset,
            raft_index,
        }
    }

    /// Term of an entry that is in the log.
    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        let after = self.terms.partition_point(|(_, first)| *first <= index);
        let (term, _) = self.terms.get(after.checked_sub(1)?)?;
        self.last.filter(|last| index <= last.index).map(|_| *term)
    }

    /// The first index that may be in the log.
    pub(crate) fn first_index(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    /// Leader epochs of the offsets `from..to`, as far as they are known, each with its first.
    pub(crate) fn epochs_in(&self, from: i64, to: i64) -> Vec<(i32, i64)> {
        let first = self.epochs.partition_point(|(_, first)| *first <= from);
        let epochs = self.epochs.iter().skip(first.saturating_sub(1));
        epochs
            .take_while(|(_, first)| *first < to)
            .copied()
            .collect()
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.size).sum()
    }

    /// Offsets and Raft indexes from which the index must not be believed.
    pub(crate) fn index_bounds(&self) -> (i64, u64) {
        let both = [&self.stale, &self.stale_committing];
        let offset = both
            .iter()
            .filter_map(|s| s.cut.map(|(_, offset)| offset))
            .min();
        let index = both.iter().filter_map(|s| s.truncated_from).min();
        (offset.unwrap_or(i64::MAX), index.unwrap_or(u64::MAX))
    }

    /// Turns an entry into the frame that appends it: assigns offset, epoch and place.
    pub(crate) fn frame_for(&self, group: GroupId, entry: Entry) -> Frame {
        let body = match entry.payload {
            Payload::Blank => FrameBody::Blank(entry.id),
            Payload::Membership(data) => FrameBody::Membership(entry.id, data),
            Payload::Command(data) => FrameBody::Command(entry.id, data),
            Payload::Batch(batch) => {
                let mut header = batch.header;
                header.base_offset = self.end_offset;
                header.partition_leader_epoch =
                    i32::try_from(entry.id.term).expect("terms are small: every election is one");
                assert_eq!(
                    header.total_len(),
                    Some(batch.bytes.len()),
                    "a batch is as long as its header says"
                );
                assert!(
                    header.last_offset_delta >= 0,
                    "a batch holds at least one offset"
                );
                let (segment_base, position) = self.place(&header, batch.bytes.len() as u64);
                let bytes = Some(batch.bytes);
                let id = entry.id;
                FrameBody::Batch(BatchFrame {
                    id,
                    segment_base,
                    position,
                    header,
                    bytes,
                })
            }
        };
        Frame {
            group,
            op: self.op + 1,
            body,
        }
    }

    /// Where the next batch goes: the end of the active segment, or a new one.
    fn place(&self, header: &BatchHeader, len: u64) -> (i64, u64) {
        let active = self.active();
        let limit = self.settings.segment_bytes.min(MAX_SEGMENT_BYTES);
        let age = header.max_timestamp.saturating_sub(active.first_timestamp);
        let old = header.max_timestamp != NO_TIMESTAMP
            && active.first_timestamp != NO_TIMESTAMP
            && u64::try_from(age).is_ok_and(|age| age > self.settings.segment_ms);
        let far = header.last_offset() - active.base_offset > i64::from(i32::MAX);
        if active.size > 0 && (active.size + len > limit || old || far) {
            (self.end_offset, 0)
        } else {
            (active.base_offset, active.size)
        }
    }

    /// Makes the step a frame describes. An error means that the frame does not follow from this
    /// state; nothing is changed then.
    pub(crate) fn apply(&mut self, frame: &Frame, now_ms: i64) -> Result<Vec<FileAction>, String> {
        if frame.op != self.op + 1 {
            return Err(format!(
                "operation {} follows operation {}",
                frame.op, self.op
            ));
        }
        let actions = match &frame.body {
            FrameBody::Batch(batch) => self.append_batch(frame.op, batch, now_ms)?,
            FrameBody::Blank(id) => {
                self.append_plain(frame.op, *id, PlainKind::Blank, Bytes::new())?
            }
            FrameBody::Membership(id, data) => {
                self.append_plain(frame.op, *id, PlainKind::Membership, data.clone())?
            }
            FrameBody::Command(id, data) => {
                self.append_plain(frame.op, *id, PlainKind::Command, data.clone())?
            }
            FrameBody::Vote(vote) => {
                self.vote = Some(*vote);
                Vec::new()
            }
            FrameBody::Truncate { last, cut } => self.truncate(*last, *cut)?,
            FrameBody::Purge {
                upto,
                end_offset,
                first_kept,
            } => {
                self.first_kept = *first_kept;
                self.purge(*upto, *end_offset)
            }
            FrameBody::StartOffset(offset) => {
                self.advance_start(*offset);
                self.drop_passed()
            }
            FrameBody::Replace(replacement) => self.replace(replacement)?,
            FrameBody::Install(install) => self.install(frame.op, install)?,
            FrameBody::Roll(offset) => self.roll(*offset)?,
            FrameBody::CreateGroup { settings, .. } => {
                self.settings = settings.clone();
                Vec::new()
            }
            FrameBody::DeleteGroup => {
                self.deleted = true;
                vec![FileAction::RemoveGroup]
            }
        };
        self.op = frame.op;
        self.dirty = true;
        Ok(actions)
    }

    /// The index is the next one and the term does not fall. An empty log that nothing was purged
    /// from may begin anywhere.
    fn check_next(&self, id: EntryId) -> Result<(), String> {
        match self.last {
            Some(last) if id.index != last.index + 1 || id.term < last.term => Err(format!(
                "entry {} of term {} follows entry {} of term {}",
                id.index, id.term, last.index, last.term
            )),
            _ => Ok(()),
        }
    }

    fn append_id(&mut self, id: EntryId) {
        if self.terms.last().is_none_or(|(term, _)| *term != id.term) {
            self.terms.push((id.term, id.index));
        }
        self.last = Some(id);
    }

    fn append_plain(
        &mut self,
        op: u64,
        id: EntryId,
        kind: PlainKind,
        data: Bytes,
    ) -> Result<Vec<FileAction>, String> {
        self.check_next(id)?;
        self.append_id(id);
        self.plain.insert(
            id.index,
            PlainEntry {
                term: id.term,
                kind,
                data,
                saved: false,
            },
        );
        self.tail.push(id, op, None);
        Ok(Vec::new())
    }

    fn append_batch(
        &mut self,
        op: u64,
        batch: &BatchFrame,
        now_ms: i64,
    ) -> Result<Vec<FileAction>, String> {
        self.check_next(batch.id)?;
        let header = &batch.header;
        let active = self.active();
        let continues = batch.segment_base == active.base_offset && batch.position == active.size;
        let begins =
            batch.segment_base == self.end_offset && batch.position == 0 && active.size > 0;
        if header.base_offset != self.end_offset || !(continues || begins) {
            return Err(format!(
                "batch at offset {}, segment {} position {} follows offset {}, segment {} position {}",
                header.base_offset,
                batch.segment_base,
                batch.position,
                self.end_offset,
                active.base_offset,
                active.size
            ));
        }
        let Some(len) = header.total_len() else {
            return Err(format!(
                "batch at offset {} has no length",
                header.base_offset
            ));
        };
        if begins {
            self.segments.push(Segment::empty(batch.segment_base));
        }
        let interval = u64::from(self.settings.index_interval_bytes);
        self.active_mut()
            .append(header, len as u64, batch.id.index, interval);
        let epoch = header.partition_leader_epoch;
        if self.epochs.last().is_none_or(|(last, _)| *last != epoch) {
            // An epoch without records (what it had was purged) gives way.
            self.epochs.retain(|(_, first)| *first < header.base_offset);
            self.epochs.push((epoch, header.base_offset));
        }
        self.append_id(batch.id);
        self.end_offset = header.next_offset();
        self.producers.appended(header, now_ms);
        let (segment_base, position) = (batch.segment_base, batch.position);
        let bytes = batch.bytes.clone();
        let place = BatchPlace {
            segment_base,
            generation: 0,
            position,
            header: *header,
            bytes,
        };
        self.tail.push(batch.id, op, Some(place));
        Ok(Vec::new())
    }

    fn roll(&mut self, offset: i64) -> Result<Vec<FileAction>, String> {
        if offset != self.end_offset {
            return Err(format!(
                "roll at offset {offset} follows offset {}",
                self.end_offset
            ));
        }
        if self.active().size > 0 {
            self.segments.push(Segment::empty(offset));
        }
        Ok(Vec::new())
    }

    /// The last membership at or below `index`.
    pub(crate) fn membership_at(&self, index: u64) -> Option<Entry> {
        let logged = self.plain.range(..=index).rev();
        let entry = logged
            .into_iter()
            .find(|(_, e)| e.kind == PlainKind::Membership);
        if let Some((index, entry)) = entry {
            let id = EntryId {
                term: entry.term,
                index: *index,
            };
            return Some(Entry {
                id,
                payload: entry.payload(),
            });
        }
        let (id, data) = self.base_membership.clone()?;
        (id.index <= index).then_some(Entry {
            id,
            payload: Payload::Membership(data),
        })
    }

    /// The segment that begins at `base_offset`.
    pub(crate) fn segment(&self, base_offset: i64) -> Option<&Segment> {
        let at = self
            .segments
            .binary_search_by_key(&base_offset, |s| s.base_offset);
        at.ok().and_then(|at| self.segments.get(at))
    }

    /// Index entries since the last checkpoint of a segment.
    pub(crate) fn fresh_of(&self, segment_base: i64) -> &[SparseEntry] {
        self.segment(segment_base)
            .map_or(&[], |s| s.fresh.as_slice())
    }

    /// Whether the index may be asked about a segment.
    pub(crate) fn has_rows(&self, segment_base: i64) -> bool {
        self.segment(segment_base).is_none_or(|s| !s.rows_stale)
    }
}
