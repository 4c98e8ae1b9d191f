//! What a checkpoint keeps of a log: its row, and the rows of its entries without records.
//! Segments and producers have rows of their own.

use bytes::{Buf, BufMut, Bytes, TryGetError};
use klamm_records::EntryId;

use super::state::{LogState, PlainEntry, PlainKind};
use crate::entry::Vote;
use crate::journal::Anchor;
use crate::options::LogSettings;

/// Version 2 added where purged entries end and where compaction was.
const VERSION: u8 = 2;

/// Why a row could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    #[error("row has version {0}, this program knows up to {VERSION}")]
    NewerVersion(u8),
    #[error("row is damaged: {0}")]
    Damaged(&'static str),
}

impl From<TryGetError> for RowError {
    fn from(_: TryGetError) -> RowError {
        RowError::Damaged("it ends early")
    }
}

fn put_id(out: &mut Vec<u8>, id: Option<EntryId>) {
    out.put_u8(u8::from(id.is_some()));
    let id = id.unwrap_or(EntryId { term: 0, index: 0 });
    out.put_u64_le(id.term);
    out.put_u64_le(id.index);
}

fn get_id(row: &mut &[u8]) -> Result<Option<EntryId>, TryGetError> {
    let there = row.try_get_u8()? != 0;
    let id = EntryId {
        term: row.try_get_u64_le()?,
        index: row.try_get_u64_le()?,
    };
    Ok(there.then_some(id))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("a row holds small things"));
    out.put_slice(bytes);
}

fn get_bytes(row: &mut &[u8]) -> Result<Bytes, RowError> {
    let len = row.try_get_u32_le()? as usize;
    let (bytes, rest) = row
        .split_at_checked(len)
        .ok_or(RowError::Damaged("it ends early"))?;
    *row = rest;
    Ok(Bytes::copy_from_slice(bytes))
}

fn get_text(row: &mut &[u8]) -> Result<String, RowError> {
    String::from_utf8(get_bytes(row)?.to_vec()).map_err(|_| RowError::Damaged("text is not UTF-8"))
}

/// Encodes the row of a log in directory `dir`.
pub(crate) fn encode(dir: &str, state: &LogState) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.put_u8(VERSION);
    put_bytes(&mut out, dir.as_bytes());
    state.settings.encode(&mut out);
    out.put_u64_le(state.op);
    let vote = state.vote.unwrap_or(Vote {
        term: 0,
        node: 0,
        committed: false,
    });
    out.put_u8(u8::from(state.vote.is_some()) | u8::from(vote.committed) << 1);
    out.put_u64_le(vote.term);
    out.put_u64_le(vote.node);
    put_id(&mut out, state.purged);
    put_id(&mut out, state.last);
    put_id(&mut out, state.committed);
    out.put_i64_le(state.start_offset);
    out.put_i64_le(state.end_offset);
    out.put_u32_le(u32::try_from(state.terms.len()).expect("terms are few"));
    for (term, first) in &state.terms {
        out.put_u64_le(*term);
        out.put_u64_le(*first);
    }
    out.put_u32_le(u32::try_from(state.epochs.len()).expect("epochs are few"));
    for (epoch, first) in &state.epochs {
        out.put_i32_le(*epoch);
        out.put_i64_le(*first);
    }
    put_id(&mut out, state.base_membership.as_ref().map(|(id, _)| *id));
    put_bytes(
        &mut out,
        state.base_membership.as_ref().map_or(&[], |(_, data)| data),
    );
    out.put_u8(u8::from(state.first_kept.is_some()));
    if let Some(anchor) = &state.first_kept {
        anchor.encode(&mut out);
    }
    put_bytes(
        &mut out,
        state.quarantine.as_deref().unwrap_or_default().as_bytes(),
    );
    out.put_i64_le(state.purged_end);
    out.put_i64_le(state.compacted_upto);
    out
}

/// Reads a row: the directory and the state without segments, plain entries and producers.
pub(crate) fn decode(row: &[u8]) -> Result<(String, LogState), RowError> {
    let row = &mut { row };
    let version = row.try_get_u8()?;
    if version > VERSION {
        return Err(RowError::NewerVersion(version));
    }
    let dir = get_text(row)?;
    let mut state = LogState::new(LogSettings::decode(row)?);
    state.op = row.try_get_u64_le()?;
    let flags = row.try_get_u8()?;
    let (term, node) = (row.try_get_u64_le()?, row.try_get_u64_le()?);
    state.vote = (flags & 1 != 0).then_some(Vote {
        term,
        node,
        committed: flags & 2 != 0,
    });
    state.purged = get_id(row)?;
    state.last = get_id(row)?;
    state.committed = get_id(row)?;
    state.start_offset = row.try_get_i64_le()?;
    state.end_offset = row.try_get_i64_le()?;
    for _ in 0..row.try_get_u32_le()? {
        state
            .terms
            .push((row.try_get_u64_le()?, row.try_get_u64_le()?));
    }
    for _ in 0..row.try_get_u32_le()? {
        state
            .epochs
            .push((row.try_get_i32_le()?, row.try_get_i64_le()?));
    }
    let membership_id = get_id(row)?;
    let membership = get_bytes(row)?;
    state.base_membership = membership_id.map(|id| (id, membership));
    state.first_kept = match row.try_get_u8()? {
        0 => None,
        _ => Some(Anchor::decode(row)?),
    };
    state.quarantine = Some(get_text(row)?).filter(|reason| !reason.is_empty());
    if version >= 2 {
        state.purged_end = row.try_get_i64_le()?;
        state.compacted_upto = row.try_get_i64_le()?;
    }
    state.dirty = false;
    state.segments.clear();
    Ok((dir, state))
}

/// Encodes the row of an entry without records.
pub(crate) fn encode_plain(entry: &PlainEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + entry.data.len());
    out.put_u8(VERSION);
    out.put_u8(match entry.kind {
        PlainKind::Blank => 0,
        PlainKind::Membership => 1,
        PlainKind::Command => 2,
    });
    out.put_u64_le(entry.term);
    out.put_slice(&entry.data);
    out
}

/// Reads the row of an entry without records.
pub(crate) fn decode_plain(mut row: &[u8]) -> Result<PlainEntry, RowError> {
    let version = row.try_get_u8()?;
    if version > VERSION {
        return Err(RowError::NewerVersion(version));
    }
    let kind = match row.try_get_u8()? {
        0 => PlainKind::Blank,
        1 => PlainKind::Membership,
        2 => PlainKind::Command,
        _ => return Err(RowError::Damaged("kind of entry is not known")),
    };
    let term = row.try_get_u64_le()?;
    Ok(PlainEntry {
        term,
        kind,
        data: Bytes::copy_from_slice(row),
        saved: true,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::Anchor;

    fn any_id() -> impl Strategy<Value = Option<EntryId>> {
        let id = (any::<u64>(), any::<u64>()).prop_map(|(term, index)| EntryId { term, index });
        prop::option::of(id)
    }

    prop_compose! {
        fn any_state()(
            op in any::<u64>(),
            vote in prop::option::of((any::<u64>(), any::<u64>(), any::<bool>())),
            (purged, last, committed) in (any_id(), any_id(), any_id()),
            (start_offset, end_offset) in (any::<i64>(), any::<i64>()),
            terms in prop::collection::vec((any::<u64>(), any::<u64>()), 0..4),
            epochs in prop::collection::vec((any::<i32>(), any::<i64>()), 0..4),
            membership in (any_id(), prop::collection::vec(any::<u8>(), 0..9)),
            anchor in prop::option::of((any::<i64>(), any::<u64>(), any::<i64>(), any::<u64>())),
            quarantine in prop::option::of("[a-z]{1,9}"),
            (purged_end, compacted_upto) in (any::<i64>(), any::<i64>()),
        ) -> LogState {
            let mut state = LogState::new(LogSettings::default());
            state.op = op;
            state.vote = vote.map(|(term, node, committed)| Vote { term, node, committed });
            (state.purged, state.last, state.committed) = (purged, last, committed);
            (state.start_offset, state.end_offset) = (start_offset, end_offset);
            (state.terms, state.epochs) = (terms, epochs);
            state.base_membership = membership.0.map(|id| (id, Bytes::from(membership.1)));
            state.first_kept = anchor.map(|(segment_base, position, base_offset, raft_index)| {
                Anchor { segment_base, position, base_offset, raft_index }
            });
            state.quarantine = quarantine;
            (state.purged_end, state.compacted_upto) = (purged_end, compacted_upto);
            (state.dirty, state.segments) = (false, Vec::new());
            state
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn rows_round_trip(state in any_state(), cut in any::<prop::sample::Index>()) {
            let row = encode("some-dir-7", &state);
            let (dir, back) = decode(&row).expect("it was just encoded");
            prop_assert_eq!(dir, "some-dir-7");
            prop_assert_eq!(format!("{back:?}"), format!("{state:?}"));
            prop_assert!(decode(&row[..cut.index(row.len())]).is_err());
        }

        #[test]
        fn plain_rows_round_trip(term in any::<u64>(), kind in 0_usize..3, data in prop::collection::vec(any::<u8>(), 0..9)) {
            let kind = [PlainKind::Blank, PlainKind::Membership, PlainKind::Command][kind];
            let entry = PlainEntry { term, kind, data: Bytes::from(data), saved: true };
            prop_assert_eq!(decode_plain(&encode_plain(&entry)), Ok(entry));
        }

        #[test]
        fn decoding_anything_does_not_panic(row in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&row);
            let _ = decode_plain(&row);
        }
    }

    #[test]
    fn a_newer_version_is_refused() {
        let mut row = encode("d", &LogState::new(LogSettings::default()));
        row[0] = 9;
        assert_eq!(decode(&row).err(), Some(RowError::NewerVersion(9)));
        assert_eq!(decode_plain(&row), Err(RowError::NewerVersion(9)));
    }

    #[test]
    fn a_row_of_the_first_version_was_never_compacted() {
        let mut row = encode("d", &LogState::new(LogSettings::default()));
        row.truncate(row.len() - 16);
        row[0] = 1;
        let (_, state) = decode(&row).expect("whole");
        assert_eq!((state.purged_end, state.compacted_upto), (0, 0));
    }
}
