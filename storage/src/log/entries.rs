//! Raft's reads: entries by index.

use std::ops::Range;

use bytes::Bytes;
use klamm_records::EntryId;

use super::tail::BatchPlace;
use super::walk::{Begin, DATA_WINDOW, ReadFault, SegmentReader, Walk};
use super::{GroupLog, Log};
use crate::entry::{Batch, Entry, Payload, RaftState};
use crate::error::StorageError;
use crate::segment::SegmentFile;
use crate::store::Shared;

/// Entries looked up under one lock.
const STEP: u64 = 1024;

/// An entry as far as memory knows it.
enum Known {
    Plain(Payload),
    Warm(BatchPlace),
    /// In a file, at the next place of the walk.
    Cold,
}

impl GroupLog {
    /// What Raft needs to know at start.
    pub fn raft_state(&self) -> RaftState {
        let state = self.log.state.lock();
        RaftState {
            vote: state.vote,
            purged: state.purged,
            last: state.last,
            committed: state.committed,
        }
    }

    /// (term, index of its first entry) of every term in the log, ascending.
    pub fn terms(&self) -> Vec<(u64, u64)> {
        self.log.state.lock().terms.clone()
    }

    /// Entries of an index range, at most `max_bytes` of payload but at least one; those that
    /// were purged or are not there yet are left out. With `with_data` false, batches come with
    /// empty `bytes` and count nothing. CRC checked when read from disk.
    pub fn entries(
        &self,
        range: Range<u64>,
        max_bytes: usize,
        with_data: bool,
    ) -> Result<Vec<Entry>, StorageError> {
        let shared = self.shared();
        self.log.stable(shared, || {
            self.log
                .entries_once(shared, range.clone(), max_bytes, with_data)
        })
    }

    /// Id of an entry in the log, or of the last purged one; `None` if it is neither.
    pub fn entry_id(&self, index: u64) -> Result<Option<EntryId>, StorageError> {
        let state = self.log.state.lock();
        self.log.check(&state)?;
        if let Some(purged) = state.purged
            && index <= purged.index
        {
            return Ok(Some(purged).filter(|purged| purged.index == index));
        }
        Ok(state.term_of(index).map(|term| EntryId { term, index }))
    }

    /// The last membership entry at or below `index`, even if it was purged.
    pub fn membership_at(&self, index: u64) -> Result<Option<Entry>, StorageError> {
        let state = self.log.state.lock();
        self.log.check(&state)?;
        Ok(state.membership_at(index))
    }

    /// The last entry wholly below Kafka offset `offset`: what may be purged when the log start
    /// moves there. `None` if that is nothing in the log.
    pub fn last_entry_below(&self, offset: i64) -> Result<Option<EntryId>, StorageError> {
        let shared = self.shared();
        self.log.stable(shared, || {
            let first = self.log.walk(shared, Begin::Offset(offset))?.next()?;
            let state = self.log.state.lock();
            let below = match first {
                Some((index, _)) => index.checked_sub(1),
                None => state.last.map(|last| last.index),
            };
            let kept = below.filter(|index| *index >= state.first_index());
            let id = kept.and_then(|index| {
                Some(EntryId {
                    term: state.term_of(index)?,
                    index,
                })
            });
            Ok(id)
        })
    }
}

impl Log {
    fn entries_once(
        &self,
        shared: &Shared,
        range: Range<u64>,
        max_bytes: usize,
        with_data: bool,
    ) -> Result<Vec<Entry>, ReadFault> {
        let mut out = Vec::new();
        let mut budget = Budget {
            left: max_bytes,
            any: false,
        };
        let mut source = Source {
            log: self,
            shared,
            walk: None,
            reader: None,
        };
        let mut next = range.start;
        let mut began = None;
        loop {
            let (rearranged, known) = self.known_entries(next, range.end)?;
            let Some((last, _)) = known.last() else {
                return Ok(out);
            };
            if *began.get_or_insert(rearranged) != rearranged {
                // What comes now need not follow from what came before.
                return Ok(out);
            }
            next = last.index + 1;
            for (id, known) in known {
                let place = match known {
                    Known::Plain(payload) if budget.take(plain_len(&payload)) => {
                        out.push(Entry { id, payload });
                        continue;
                    }
                    Known::Plain(_) => return Ok(out),
                    Known::Warm(place) => place,
                    Known::Cold => source.cold_place(id.index)?,
                };
                if u64::try_from(place.header.partition_leader_epoch) != Ok(id.term) {
                    return Err(ReadFault::Damage {
                        file: place.file(),
                        position: place.position,
                        what: "a batch of another term than its entry",
                    });
                }
                let payload = source.batch(place, with_data, &mut budget)?;
                let Some(payload) = payload else {
                    return Ok(out);
                };
                out.push(Entry { id, payload });
            }
        }
    }

    /// What memory knows of the entries from `from` on, at most [`STEP`] of them, and how often the
    /// log had been rearranged by then.
    fn known_entries(
        &self,
        from: u64,
        end: u64,
    ) -> Result<(u64, Vec<(EntryId, Known)>), StorageError> {
        let state = self.state.lock();
        self.check(&state)?;
        let from = from
            .max(state.first_index())
            .max(state.terms.first().map_or(0, |t| t.1));
        let end = end
            .min(state.last.map_or(0, |last| last.index + 1))
            .min(from.saturating_add(STEP));
        let known = (from..end).map_while(|index| {
            let id = EntryId {
                term: state.term_of(index)?,
                index,
            };
            let known = match state.plain.get(&index) {
                Some(entry) => Known::Plain(entry.payload()),
                None => match state.tail.get(index).and_then(|d| d.batch.as_ref()) {
                    Some(place) => Known::Warm(place.clone()),
                    None => Known::Cold,
                },
            };
            Some((id, known))
        });
        Ok((state.rearranged, known.collect()))
    }
}

/// Bytes an answer may still take.
struct Budget {
    left: usize,
    any: bool,
}

impl Budget {
    /// Takes `len` bytes if they fit; the first always do.
    fn take(&mut self, len: usize) -> bool {
        let fits = !self.any || len <= self.left;
        self.any = true;
        self.left = self.left.saturating_sub(len);
        fits
    }
}

fn plain_len(payload: &Payload) -> usize {
    match payload {
        Payload::Membership(data) | Payload::Command(data) => data.len(),
        Payload::Blank | Payload::Batch(_) => 0,
    }
}

/// Where batches come from, with what is worth keeping between two of them.
struct Source<'a> {
    log: &'a Log,
    shared: &'a Shared,
    walk: Option<Walk<'a>>,
    reader: Option<(SegmentFile, SegmentReader)>,
}

impl Source<'_> {
    /// Place of the batch with that index, which only a file has.
    fn cold_place(&mut self, index: u64) -> Result<BatchPlace, ReadFault> {
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => self.log.walk(self.shared, Begin::Index(index))?,
        };
        match walk.next()? {
            Some((found, place)) if found == index => {
                self.walk = Some(walk);
                Ok(place)
            }
            found => {
                let nowhere = (SegmentFile::appended(0), 0);
                let at = found.map_or(nowhere, |(_, p)| (p.file(), p.position));
                let what = "the segment does not hold the entries the log has";
                Err(ReadFault::Damage {
                    file: at.0,
                    position: at.1,
                    what,
                })
            }
        }
    }

    /// The batch, unless it does not fit any more.
    fn batch(
        &mut self,
        place: BatchPlace,
        with_data: bool,
        budget: &mut Budget,
    ) -> Result<Option<Payload>, ReadFault> {
        let header = place.header;
        let len = header.total_len().unwrap_or(0);
        if !budget.take(if with_data { len } else { 0 }) {
            return Ok(None);
        }
        let bytes = match place.bytes {
            _ if !with_data => Bytes::new(),
            Some(bytes) => bytes,
            None => self.read(&place)?,
        };
        Ok(Some(Payload::Batch(Batch { header, bytes })))
    }

    fn read(&mut self, place: &BatchPlace) -> Result<Bytes, ReadFault> {
        let end = place.position + place.len();
        let usable = self
            .reader
            .take()
            .filter(|(file, reader)| *file == place.file() && reader.end() >= end);
        let (file, mut reader) = match usable {
            Some(usable) => usable,
            None => {
                let segment_end = self.log.written_end(place.segment_base).max(end);
                let reader = SegmentReader::open(
                    self.log,
                    self.shared,
                    place.file(),
                    segment_end,
                    DATA_WINDOW,
                )?;
                (place.file(), reader)
            }
        };
        let bytes = reader.batch_at(place.position, &place.header)?;
        self.reader = Some((file, reader));
        Ok(bytes)
    }
}

impl Log {
    /// Bytes of a segment that are in its file; 0 if it is not there.
    fn written_end(&self, segment_base: i64) -> u64 {
        let state = self.state.lock();
        let size = state
            .segments
            .iter()
            .find(|s| s.base_offset == segment_base)
            .map_or(0, |s| s.size);
        match state.tail.unwritten().next() {
            Some(first) if first.segment_base == segment_base => first.position.min(size),
            Some(first) if first.segment_base < segment_base => 0,
            _ => size,
        }
    }
}
