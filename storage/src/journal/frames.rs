//! Frames out of the payload of a block: what [`super::format`] wrote, checked.

use bytes::{Buf, Bytes, TryGetError};
use klamm_records::{BATCH_HEADER_LEN, BatchHeader, EntryId, GroupId};

use super::block::{BlockHeader, read_table};
use super::format::{
    Anchor, BatchFrame, Cut, FRAME_HEADER_LEN, FRAME_VERSION, Frame, FrameBody, Replacement, kind,
};
use crate::entry::Vote;
use crate::log::fill::Install;
use crate::options::LogSettings;

/// Why a frame could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Its header is damaged and nothing else names it, so what follows in the block is lost with
    /// it.
    #[error("frame header is damaged")]
    Header,
    /// Its header is damaged; the block's table names the group.
    #[error("header of operation {op} of group {group} is damaged")]
    Named { group: GroupId, op: u64 },
    /// The payload is damaged; the header names the group.
    #[error("payload of operation {op} of group {group} is damaged")]
    Payload { group: GroupId, op: u64 },
    /// CRC is right but the kind or version is not known: a later program wrote it.
    #[error("frame kind {kind} version {version} is not known to this program")]
    Unknown { kind: u8, version: u8 },
}

/// What was found in the place of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Whole(Frame),
    /// It is damaged, and was repeated in the block.
    Repeated(Frame, FrameError),
    Lost(FrameError),
}

/// Reads the frames of a block. `rest` is all of it behind its header.
pub(crate) fn read_frames(header: &BlockHeader, rest: Bytes) -> Vec<Found> {
    let binding = header.binding();
    let table = header.table(&rest).map(<[u8]>::to_vec);
    let mut payload = rest;
    payload.truncate(header.payload_len as usize);
    let mut found = Vec::new();
    let mut known = None;
    for number in 0..header.frame_count as usize {
        let (mut parsed, frame_header) = (None, FrameHeader::parse(binding, &payload));
        let len = match &frame_header {
            Some(frame_header) => u64::from(frame_header.payload_len),
            None => {
                let known = known.get_or_insert_with(|| read_table(binding, table.as_deref()?));
                let entry = known.as_ref().and_then(|table| table.get(number)).copied();
                parsed = entry.map(|entry| FrameError::Named {
                    group: entry.group,
                    op: entry.op,
                });
                entry.map_or(u64::MAX, |entry| entry.payload_len)
            }
        };
        let end = (FRAME_HEADER_LEN as u64).saturating_add(len);
        if end > payload.len() as u64 {
            found.push(Found::Lost(FrameError::Header));
            return found;
        }
        let mut body = payload.split_to(end as usize);
        body.advance(FRAME_HEADER_LEN);
        found.push(match (frame_header, parsed) {
            (Some(frame_header), _) => match frame_header.decode(body) {
                Ok(frame) => Found::Whole(frame),
                Err(error) => Found::Lost(error),
            },
            (None, named) => Found::Lost(named.unwrap_or(FrameError::Header)),
        });
    }
    if header.version == 1 && !payload.is_empty() {
        found.push(Found::Lost(FrameError::Header));
    }
    put_repeats(&mut found, binding, payload);
    found
}

/// Puts frames that were repeated in the place of damaged ones.
fn put_repeats(found: &mut [Found], binding: u32, mut repeats: Bytes) {
    let lost = |found: &Found| match found {
        Found::Lost(FrameError::Named { group, op } | FrameError::Payload { group, op }) => {
            Some((*group, *op))
        }
        _ => None,
    };
    if !found.iter().any(|found| lost(found).is_some()) {
        return;
    }
    while let Some(header) = FrameHeader::parse(binding, &repeats) {
        let end = FRAME_HEADER_LEN.saturating_add(header.payload_len as usize);
        if end > repeats.len() {
            return;
        }
        let mut body = repeats.split_to(end);
        body.advance(FRAME_HEADER_LEN);
        let place = found
            .iter_mut()
            .find(|found| lost(found) == Some((header.group, header.op)));
        if let (Some(place), Ok(frame)) = (place, header.decode(body))
            && let Found::Lost(error) = place
        {
            *place = Found::Repeated(frame, error.clone());
        }
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
    /// The header in `bytes` if it is one of the block with this binding.
    fn parse(binding: u32, bytes: &[u8]) -> Option<FrameHeader> {
        let (covered, mut crc) = bytes
            .get(..FRAME_HEADER_LEN)?
            .split_at(FRAME_HEADER_LEN - 4);
        if crc.try_get_u32_le().ok()? != crc32c::crc32c_append(binding, covered) {
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
        if self.version > FRAME_VERSION {
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
            kind::INSTALL => match Install::decode(&mut p)? {
                Some(install) => FrameBody::Install(Box::new(install)),
                None => return Ok(None),
            },
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
