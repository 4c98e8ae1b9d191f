//! Frames out of the payload of a block: what [`super::format`] wrote, checked.

use bytes::{Buf, Bytes, TryGetError};
use klamm_records::{BATCH_HEADER_LEN, BatchHeader, EntryId, GroupId};

use super::format::{
    Anchor, BatchFrame, Cut, FRAME_HEADER_LEN, Frame, FrameBody, Replacement, VERSION, kind,
};
use crate::entry::Vote;
use crate::options::LogSettings;

/// Why a frame could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Its header is damaged, so what follows in the block is lost with it.
    #[error("frame header is damaged")]
    Header,
    /// The payload is damaged; the header names the group.
    #[error("payload of operation {op} of group {group} is damaged")]
    Payload { group: GroupId, op: u64 },
    /// CRC is right but the kind or version is not known: a later program wrote it.
    #[error("frame kind {kind} version {version} is not known to this program")]
    Unknown { kind: u8, version: u8 },
}

/// Reads the frames of a block's payload one after the other.
pub(crate) struct FrameReader {
    rest: Bytes,
}

impl FrameReader {
    pub(crate) fn new(payload: Bytes) -> FrameReader {
        FrameReader { rest: payload }
    }

    /// The next frame; `None` at the end. After [`FrameError::Header`] there are no more.
    pub(crate) fn next_frame(&mut self) -> Option<Result<Frame, FrameError>> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(header) = FrameHeader::parse(&self.rest) else {
            self.rest.clear();
            return Some(Err(FrameError::Header));
        };
        let end = FRAME_HEADER_LEN.saturating_add(header.payload_len as usize);
        if end > self.rest.len() {
            self.rest.clear();
            return Some(Err(FrameError::Header));
        }
        let mut payload = self.rest.split_to(end);
        payload.advance(FRAME_HEADER_LEN);
        Some(header.decode(payload))
    }
}

struct FrameHeader {
    kind: u8,
    version: u8,
    payload_len: u32,
    group: GroupId,
    op: u64,
    id: EntryId,
    payload_crc: u32,
}

impl FrameHeader {
    fn parse(bytes: &[u8]) -> Option<FrameHeader> {
        let (covered, mut crc) = bytes
            .get(..FRAME_HEADER_LEN)?
            .split_at(FRAME_HEADER_LEN - 4);
        if crc.try_get_u32_le().ok()? != crc32c::crc32c(covered) {
            return None;
        }
        let mut b = covered;
        let (kind, version) = (b.try_get_u8().ok()?, b.try_get_u8().ok()?);
        b.try_get_u16_le().ok()?;
        let payload_len = b.try_get_u32_le().ok()?;
        let group = GroupId(b.try_get_u64_le().ok()?);
        let op = b.try_get_u64_le().ok()?;
        let (index, term) = (b.try_get_u64_le().ok()?, b.try_get_u64_le().ok()?);
        let payload_crc = b.try_get_u32_le().ok()?;
        let id = EntryId { term, index };
        Some(FrameHeader {
            kind,
            version,
            payload_len,
            group,
            op,
            id,
            payload_crc,
        })
    }

    fn decode(&self, payload: Bytes) -> Result<Frame, FrameError> {
        let damaged = FrameError::Payload {
            group: self.group,
            op: self.op,
        };
        if crc32c::crc32c(&payload) != self.payload_crc {
            return Err(damaged);
        }
        if u16::from(self.version) > VERSION {
            return Err(FrameError::Unknown {
                kind: self.kind,
                version: self.version,
            });
        }
        match self.decode_body(payload) {
            Ok(Some(body)) => Ok(Frame {
                group: self.group,
                op: self.op,
                body,
            }),
            Ok(None) => Err(FrameError::Unknown {
                kind: self.kind,
                version: self.version,
            }),
            Err(TryGetError { .. }) => Err(damaged),
        }
    }

    /// `None`: unknown kind.
    fn decode_body(&self, payload: Bytes) -> Result<Option<FrameBody>, TryGetError> {
        let mut p: &[u8] = &payload;
        Ok(Some(match self.kind {
            kind::BATCH | kind::BATCH_REFERENCE => {
                let (segment_base, position) = (p.try_get_i64_le()?, p.try_get_u64_le()?);
                let header = BatchHeader::parse(p).ok_or(TryGetError {
                    requested: BATCH_HEADER_LEN,
                    available: p.len(),
                })?;
                let bytes = (self.kind == kind::BATCH).then(|| payload.slice(16..));
                let id = self.id;
                FrameBody::Batch(BatchFrame {
                    id,
                    segment_base,
                    position,
                    header,
                    bytes,
                })
            }
            kind::BLANK => FrameBody::Blank(self.id),
            kind::MEMBERSHIP => FrameBody::Membership(self.id, payload),
            kind::COMMAND => FrameBody::Command(self.id, payload),
            kind::VOTE => FrameBody::Vote(Vote {
                term: self.id.term,
                node: p.try_get_u64_le()?,
                committed: p.try_get_u8()? != 0,
            }),
            kind::TRUNCATE => {
                let flags = p.try_get_u8()?;
                let cut = if flags & 2 != 0 {
                    Some(decode_cut(&mut p)?)
                } else {
                    None
                };
                FrameBody::Truncate {
                    last: (flags & 1 != 0).then_some(self.id),
                    cut,
                }
            }
            kind::PURGE => FrameBody::Purge {
                upto: self.id,
                end_offset: p.try_get_i64_le()?,
                first_kept: match p.try_get_u8()? {
                    0 => None,
                    _ => Some(Anchor::decode(&mut p)?),
                },
            },
            kind::START_OFFSET => FrameBody::StartOffset(p.try_get_i64_le()?),
            kind::REPLACE | kind::REPLACE_WITH_GAPS => {
                let contiguous = self.kind == kind::REPLACE;
                FrameBody::Replace(Replacement::decode(&mut p, contiguous)?)
            }
            kind::ROLL => FrameBody::Roll(p.try_get_i64_le()?),
            kind::CREATE_GROUP => {
                let settings = LogSettings::decode(&mut p)?;
                FrameBody::CreateGroup {
                    dir: String::from_utf8_lossy(p).into_owned(),
                    settings,
                }
            }
            kind::DELETE_GROUP => FrameBody::DeleteGroup,
            _ => return Ok(None),
        }))
    }
}

fn decode_cut(p: &mut &[u8]) -> Result<Cut, TryGetError> {
    Ok(Cut {
        segment_base: p.try_get_i64_le()?,
        position: p.try_get_u64_le()?,
        offset: p.try_get_i64_le()?,
        max_timestamp: p.try_get_i64_le()?,
        last_batch_index: p.try_get_u64_le()?,
    })
}
