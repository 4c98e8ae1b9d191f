//! Bytes of the journal: blocks of frames. All numbers are little-endian.
//!
//! ```text
//! file   = block*                       every block begins at a multiple of BLOCK_ALIGN
//! block  = header(48) frame* repeat* padding table trailer(48)
//! header = trailer                      magic, version, salt, file and block sequence, lengths, count, CRC
//! frame  = header(48) payload           kind, version, group, operation, index, term, two CRCs
//! repeat = frame                        some of the block's frames once more
//! table  = (group, operation, length)*  of all its frames, as varints, and a CRC
//! ```
//!
//! The frame header has a CRC of its own, so that a flipped bit in a payload still tells whose
//! frame it was. Group, index and term are under it: data in the wrong place are noticed (R7). The
//! salt is drawn once per store: no client can send a batch that, cut off by a crash at the right
//! place, looks like a block.
//!
//! No single damaged place leaves open whose frames were lost: for the block's header there is the
//! trailer, at the end of its last page; for a frame's header the table. Most frames are not even
//! lost: what room the last page has left is filled with repeats. Two kinds are always repeated,
//! those that create a log, for without its folder's name a log cannot be found, and those of the
//! cluster's metadata, for without that nothing is served.
//!
//! The CRCs of frame headers and table begin with the block's binding, made of its salt and sequence
//! number. A recycled file holds the frames of earlier blocks, of the same lengths more often than
//! not: where a block was torn, those lie exactly where its own would, and each is whole. Taken for the
//! block's own they would be skipped as old, and the operations in their place be lost without a word.
//!
//! Version 2 of a block lacked the binding, version 1 was header and frames only.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, TryGetError};
use klamm_records::{BATCH_HEADER_LEN, BatchHeader, EntryId, GroupId, STAMP_LEN};

use super::block::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BLOCK_VERSION, BlockHeader, MAGIC, TRAILER_MAGIC, TableEntry,
    binding,
};
use crate::entry::Vote;
use crate::log::fill::Install;
use crate::options::LogSettings;

pub(crate) const FRAME_HEADER_LEN: usize = 48;
/// Version of frames written by this program.
pub(crate) const FRAME_VERSION: u8 = 1;
/// The group of the cluster's metadata.
const METADATA: GroupId = GroupId(0);
/// Batches up to this size are copied next to their frame headers; larger ones are written from
/// where they are. A copy of this size costs less than one more slice in the system call.
const COPY_BELOW: usize = 8 * 1024;

/// One durable step of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) group: GroupId,
    /// Counts the group's operations: a gap means that some were lost.
    pub(crate) op: u64,
    pub(crate) body: FrameBody,
}

/// Where the log was cut by a truncation. Everything replay needs, so that it reads no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Segment that is the last one afterwards.
    pub(crate) segment_base: i64,
    /// Its size afterwards.
    pub(crate) position: u64,
    /// Log end offset afterwards.
    pub(crate) offset: i64,
    /// Largest timestamp left in the segment.
    pub(crate) max_timestamp: i64,
    /// Raft index of the last batch left in the segment (meaningless if it is empty).
    pub(crate) last_batch_index: u64,
}

/// A batch whose place and Raft index are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) segment_base: i64,
    pub(crate) position: u64,
    pub(crate) base_offset: i64,
    pub(crate) raft_index: u64,
}

/// Compaction of one run of segments, which is complete and durable in its new file. Everything
/// replay needs, so that it reads no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replacement {
    /// First segment replaced, also the new one's base offset.
    pub(crate) first_base: i64,
    /// Last segment replaced.
    pub(crate) last_base: i64,
    /// Generation of the new file.
    pub(crate) generation: u32,
    /// Its bytes.
    pub(crate) size: u64,
    /// Largest timestamp of a record in it.
    pub(crate) max_timestamp: i64,
    /// No offset is missing between its batches.
    pub(crate) contiguous: bool,
    /// Some of its batches, ascending.
    pub(crate) entries: Vec<CompactedEntry>,
}

/// Place of a batch in a compacted segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompactedEntry {
    pub(crate) base_offset: i64,
    pub(crate) position: u64,
    /// Largest timestamp of a record in the segment up to and including this batch.
    pub(crate) max_timestamp: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FrameBody {
    Batch(BatchFrame),
    Blank(EntryId),
    Membership(EntryId, Bytes),
    Command(EntryId, Bytes),
    Vote(Vote),
    /// Entries behind `last` are gone (all, if None). `cut` if batches were among them.
    Truncate {
        last: Option<EntryId>,
        cut: Option<Cut>,
    },
    /// Raft forgets the entries up to `upto`, whose records end at `end_offset`; the first batch
    /// behind them is `first_kept`.
    Purge {
        upto: EntryId,
        end_offset: i64,
        first_kept: Option<Anchor>,
    },
    StartOffset(i64),
    /// Compaction put one new file in the place of some segments.
    Replace(Replacement),
    /// What was brought from another replica is in the place of all the log held.
    Install(Box<Install>),
    /// A new, empty segment begins at this offset.
    Roll(i64),
    CreateGroup {
        dir: String,
        settings: LogSettings,
    },
    DeleteGroup,
}

/// A batch and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchFrame {
    pub(crate) id: EntryId,
    pub(crate) segment_base: i64,
    pub(crate) position: u64,
    /// As stamped.
    pub(crate) header: BatchHeader,
    /// The batch; `None` when read from a frame that only refers to the segment, which was made
    /// durable before the frame was.
    pub(crate) bytes: Option<Bytes>,
}

pub(super) mod kind {
    pub(in crate::journal) const BATCH: u8 = 1;
    pub(in crate::journal) const BATCH_REFERENCE: u8 = 2;
    pub(in crate::journal) const BLANK: u8 = 3;
    pub(in crate::journal) const MEMBERSHIP: u8 = 4;
    pub(in crate::journal) const COMMAND: u8 = 5;
    pub(in crate::journal) const VOTE: u8 = 6;
    pub(in crate::journal) const TRUNCATE: u8 = 7;
    pub(in crate::journal) const PURGE: u8 = 8;
    pub(in crate::journal) const START_OFFSET: u8 = 9;
    pub(in crate::journal) const ROLL: u8 = 10;
    pub(in crate::journal) const CREATE_GROUP: u8 = 11;
    pub(in crate::journal) const DELETE_GROUP: u8 = 12;
    /// As earlier versions wrote it: offsets are missing.
    pub(in crate::journal) const REPLACE_WITH_GAPS: u8 = 13;
    pub(in crate::journal) const REPLACE: u8 = 14;
    pub(in crate::journal) const INSTALL: u8 = 15;
}

/// The part of a payload that is copied, and the part that is written from where it is.
struct Encoded<'a> {
    kind: u8,
    id: EntryId,
    copied: Vec<u8>,
    shared: Option<&'a Bytes>,
}

const NO_ENTRY: EntryId = EntryId { term: 0, index: 0 };

fn encode_body(body: &FrameBody, by_reference: bool) -> Encoded<'_> {
    let mut copied = Vec::new();
    let mut shared = None;
    let (kind, id) = match body {
        FrameBody::Batch(batch) => {
            copied.reserve(16 + BATCH_HEADER_LEN);
            copied.put_i64_le(batch.segment_base);
            copied.put_u64_le(batch.position);
            let header = &batch.header;
            copied.put_slice(&header.stamp(header.base_offset, header.partition_leader_epoch));
            // The rest of the batch, or of its header, follows its stamp.
            shared = batch.bytes.as_ref();
            (
                if by_reference {
                    kind::BATCH_REFERENCE
                } else {
                    kind::BATCH
                },
                batch.id,
            )
        }
        FrameBody::Blank(id) => (kind::BLANK, *id),
        FrameBody::Membership(id, data) | FrameBody::Command(id, data) => {
            copied.put_slice(data);
            let membership = matches!(body, FrameBody::Membership(..));
            (
                if membership {
                    kind::MEMBERSHIP
                } else {
                    kind::COMMAND
                },
                *id,
            )
        }
        FrameBody::Vote(vote) => {
            copied.put_u64_le(vote.node);
            copied.put_u8(u8::from(vote.committed));
            (
                kind::VOTE,
                EntryId {
                    term: vote.term,
                    index: 0,
                },
            )
        }
        FrameBody::Truncate { last, cut } => {
            copied.put_u8(u8::from(last.is_some()) | u8::from(cut.is_some()) << 1);
            if let Some(cut) = cut {
                copied.put_i64_le(cut.segment_base);
                copied.put_u64_le(cut.position);
                copied.put_i64_le(cut.offset);
                copied.put_i64_le(cut.max_timestamp);
                copied.put_u64_le(cut.last_batch_index);
            }
            (kind::TRUNCATE, last.unwrap_or(NO_ENTRY))
        }
        FrameBody::Purge {
            upto,
            end_offset,
            first_kept,
        } => {
            copied.put_i64_le(*end_offset);
            copied.put_u8(u8::from(first_kept.is_some()));
            if let Some(anchor) = first_kept {
                anchor.encode(&mut copied);
            }
            (kind::PURGE, *upto)
        }
        FrameBody::StartOffset(offset) => {
            copied.put_i64_le(*offset);
            (kind::START_OFFSET, NO_ENTRY)
        }
        FrameBody::Replace(replacement) => {
            replacement.encode(&mut copied);
            let kind = match replacement.contiguous {
                true => kind::REPLACE,
                false => kind::REPLACE_WITH_GAPS,
            };
            (kind, NO_ENTRY)
        }
        FrameBody::Install(install) => {
            install.encode(&mut copied);
            (kind::INSTALL, NO_ENTRY)
        }
        FrameBody::Roll(offset) => {
            copied.put_i64_le(*offset);
            (kind::ROLL, NO_ENTRY)
        }
        FrameBody::CreateGroup { dir, settings } => {
            settings.encode(&mut copied);
            copied.put_slice(dir.as_bytes());
            (kind::CREATE_GROUP, NO_ENTRY)
        }
        FrameBody::DeleteGroup => (kind::DELETE_GROUP, NO_ENTRY),
    };
    Encoded {
        kind,
        id,
        copied,
        shared,
    }
}

/// Builds one block: small things are copied together, large batches are kept where they are.
#[derive(Default)]
pub(crate) struct BlockBuilder {
    salt: u64,
    block_seq: u64,
    scratch: Vec<u8>,
    /// Bytes that go between `scratch[..at]` and the rest.
    shared: Vec<(usize, Bytes)>,
    frames: u32,
    payload: u64,
    table: Vec<u8>,
    /// Where in `scratch` the frames lie that can be repeated.
    whole: Vec<Range<usize>>,
    /// ... and those that have to be.
    vital: Vec<Range<usize>>,
    vital_len: u64,
}

impl BlockBuilder {
    /// Begins block `block_seq` of the store whose number is `salt`.
    pub(crate) fn new(salt: u64, block_seq: u64) -> BlockBuilder {
        BlockBuilder {
            salt,
            block_seq,
            scratch: vec![0; BLOCK_HEADER_LEN],
            ..BlockBuilder::default()
        }
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// Adds a frame. With `by_reference` a batch is represented by its header alone.
    pub(crate) fn push(&mut self, frame: &Frame, by_reference: bool) {
        let encoded = encode_body(&frame.body, by_reference);
        let end = if by_reference {
            BATCH_HEADER_LEN
        } else {
            usize::MAX
        };
        let shared = encoded
            .shared
            .map(|b| b.slice(STAMP_LEN.min(b.len())..end.min(b.len())));
        let shared_len = shared.as_ref().map_or(0, Bytes::len);
        let payload_len = encoded.copied.len() + shared_len;
        let mut crc = crc32c::crc32c(&encoded.copied);
        if let Some(bytes) = &shared {
            crc = crc32c::crc32c_append(crc, bytes);
        }
        let start = self.scratch.len();
        self.scratch.put_u8(encoded.kind);
        self.scratch.put_u8(FRAME_VERSION);
        self.scratch.put_u16_le(0);
        self.scratch
            .put_u32_le(u32::try_from(payload_len).expect("a batch is below 2 GiB"));
        self.scratch.put_u64_le(frame.group.0);
        self.scratch.put_u64_le(frame.op);
        self.scratch.put_u64_le(encoded.id.index);
        self.scratch.put_u64_le(encoded.id.term);
        self.scratch.put_u32_le(crc);
        let header_crc = crc32c::crc32c_append(self.binding(), &self.scratch[start..]);
        self.scratch.put_u32_le(header_crc);
        self.scratch.put_slice(&encoded.copied);
        let mut in_scratch = true;
        match shared {
            Some(bytes) if bytes.len() > COPY_BELOW => {
                self.shared.push((self.scratch.len(), bytes));
                in_scratch = false;
            }
            Some(bytes) => self.scratch.put_slice(&bytes),
            None => {}
        }
        let place = start..self.scratch.len();
        if in_scratch && (encoded.kind == kind::CREATE_GROUP || frame.group == METADATA) {
            self.vital_len += place.len() as u64;
            self.vital.push(place);
        } else if in_scratch {
            self.whole.push(place);
        }
        let entry = TableEntry {
            group: frame.group,
            op: frame.op,
            payload_len: payload_len as u64,
        };
        entry.encode(&mut self.table);
        self.frames += 1;
        self.payload += (FRAME_HEADER_LEN + payload_len) as u64;
    }

    fn binding(&self) -> u32 {
        binding(self.salt, self.block_seq)
    }

    /// Bytes of all that has to be in the block.
    fn needed_len(&self) -> u64 {
        let ends = 2 * BLOCK_HEADER_LEN + self.table.len() + 4;
        ends as u64 + self.payload + self.vital_len
    }

    /// Bytes the block will take in the file.
    pub(crate) fn disk_len(&self) -> u64 {
        self.needed_len().next_multiple_of(BLOCK_ALIGN)
    }

    /// Puts the frames that have to be repeated behind all frames, and others as long as there is
    /// room in the last page.
    fn repeat_frames(&mut self) {
        let mut room = self.disk_len() - self.needed_len();
        for place in std::mem::take(&mut self.vital) {
            self.scratch.extend_from_within(place);
        }
        self.payload += std::mem::take(&mut self.vital_len);
        for place in std::mem::take(&mut self.whole) {
            if room < FRAME_HEADER_LEN as u64 {
                break;
            }
            let len = place.len() as u64;
            if len <= room {
                self.scratch.extend_from_within(place);
                self.payload += len;
                room -= len;
            }
        }
    }

    /// Writes header, repeats, padding, table and trailer; returns the block's length in the file.
    pub(crate) fn finish(&mut self, file_seq: u64) -> u64 {
        self.repeat_frames();
        let crc = crc32c::crc32c_append(self.binding(), &self.table);
        self.table.put_u32_le(crc);
        let header = BlockHeader {
            version: BLOCK_VERSION,
            salt: self.salt,
            file_seq,
            block_seq: self.block_seq,
            payload_len: u32::try_from(self.payload).expect("a round is bounded below 4 GiB"),
            frame_count: self.frames,
            table_len: u32::try_from(self.table.len()).expect("shorter than its frames"),
        };
        self.scratch[..BLOCK_HEADER_LEN].copy_from_slice(&header.encode(MAGIC));
        let end = self.table.len() + BLOCK_HEADER_LEN;
        let used = BLOCK_HEADER_LEN as u64 + self.payload + end as u64;
        let padding = header.disk_len() - used;
        self.scratch
            .resize(self.scratch.len() + padding as usize, 0);
        self.scratch.extend_from_slice(&self.table);
        self.scratch
            .extend_from_slice(&header.encode(TRAILER_MAGIC));
        header.disk_len()
    }

    /// The block as slices, in order.
    pub(crate) fn slices(&self) -> Vec<std::io::IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.shared.len() + 1);
        let mut from = 0;
        for (at, bytes) in &self.shared {
            slices.push(std::io::IoSlice::new(&self.scratch[from..*at]));
            slices.push(std::io::IoSlice::new(bytes));
            from = *at;
        }
        slices.push(std::io::IoSlice::new(&self.scratch[from..]));
        slices
    }
}

impl Anchor {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64_le(self.segment_base);
        out.put_u64_le(self.position);
        out.put_i64_le(self.base_offset);
        out.put_u64_le(self.raft_index);
    }

    pub(crate) fn decode(p: &mut &[u8]) -> Result<Anchor, TryGetError> {
        Ok(Anchor {
            segment_base: p.try_get_i64_le()?,
            position: p.try_get_u64_le()?,
            base_offset: p.try_get_i64_le()?,
            raft_index: p.try_get_u64_le()?,
        })
    }
}

impl CompactedEntry {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64_le(self.base_offset);
        out.put_u64_le(self.position);
        out.put_i64_le(self.max_timestamp);
    }

    pub(crate) fn decode(p: &mut &[u8]) -> Result<CompactedEntry, TryGetError> {
        Ok(CompactedEntry {
            base_offset: p.try_get_i64_le()?,
            position: p.try_get_u64_le()?,
            max_timestamp: p.try_get_i64_le()?,
        })
    }
}

impl Replacement {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64_le(self.first_base);
        out.put_i64_le(self.last_base);
        out.put_u32_le(self.generation);
        out.put_u64_le(self.size);
        out.put_i64_le(self.max_timestamp);
        for entry in &self.entries {
            entry.encode(out);
        }
    }

    pub(super) fn decode(p: &mut &[u8], contiguous: bool) -> Result<Replacement, TryGetError> {
        let mut replacement = Replacement {
            first_base: p.try_get_i64_le()?,
            last_base: p.try_get_i64_le()?,
            generation: p.try_get_u32_le()?,
            size: p.try_get_u64_le()?,
            max_timestamp: p.try_get_i64_le()?,
            contiguous,
            entries: Vec::new(),
        };
        while p.has_remaining() {
            replacement.entries.push(CompactedEntry::decode(p)?);
        }
        Ok(replacement)
    }
}
