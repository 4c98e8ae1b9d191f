//! What a replica has to hold to begin where another one's purged entries end.
//!
//! ```text
//! u8 version = 1 | purged: u64 term, u64 index | i64 purged end | i64 log start | i64 compacted up to
//! u8 membership? [u64 term, u64 index, u32 length, bytes] | u32 epochs, each: i32 epoch, i64 first offset
//! u32 length, producers | u32 segments, each: i64 base, i64 next, u32 generation, u64 size,
//!                                             u64 first index, u64 last index, u8 contiguous
//! ```
//! Little endian. Goes from node to node, and into the journal.

use bytes::{Buf, BufMut, Bytes, TryGetError};
use klamm_records::EntryId;

use crate::producers::ProducerStates;
use crate::segment::SegmentFile;

const VERSION: u8 = 1;

/// State of a log at the entry that was purged last, and the segments that hold the records
/// before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) purged: EntryId,
    /// Offset after the records of `purged` and before: where the new log ends.
    pub(crate) purged_end: i64,
    pub(crate) start_offset: i64,
    pub(crate) compacted_upto: i64,
    /// The last membership at or before `purged`.
    pub(crate) membership: Option<(EntryId, Bytes)>,
    /// (leader epoch, its first offset), ascending.
    pub(crate) epochs: Vec<(i32, i64)>,
    /// [`ProducerStates`] at `purged_end`, encoded.
    pub(crate) producers: Bytes,
    pub(crate) segments: Vec<ManifestSegment>,
}

/// One file, or the part of it that lies before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ManifestSegment {
    pub(crate) base_offset: i64,
    pub(crate) next_offset: i64,
    /// Of the file that it is read from, on the node that has it.
    pub(crate) generation: u32,
    pub(crate) size: u64,
    pub(crate) first_index: u64,
    pub(crate) last_index: u64,
    pub(crate) contiguous: bool,
}

impl ManifestSegment {
    pub(crate) fn file(&self) -> SegmentFile {
        SegmentFile {
            base_offset: self.base_offset,
            generation: self.generation,
        }
    }
}

/// A manifest that no log makes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A later program made it.
    #[error("manifest of version {0}, this program knows {VERSION}")]
    NewerVersion(u8),
    /// It ends early, or contradicts itself.
    #[error("manifest is damaged: {0}")]
    Damaged(&'static str),
}

impl From<TryGetError> for ManifestError {
    fn from(_: TryGetError) -> ManifestError {
        ManifestError::Damaged("it ends early")
    }
}

impl Manifest {
    /// The last entry that is not in the log any more.
    pub fn purged(&self) -> EntryId {
        self.purged
    }

    /// Kafka offset at which the entries begin that follow.
    pub fn end_offset(&self) -> i64 {
        self.purged_end
    }

    /// The last membership at or before the purged entry.
    pub fn membership(&self) -> Option<(EntryId, Bytes)> {
        self.membership.clone()
    }

    /// Log start offset.
    pub fn start_offset(&self) -> i64 {
        self.start_offset
    }

    /// Bytes of all segments.
    pub fn total_bytes(&self) -> u64 {
        let sizes = self.segments.iter().map(|segment| segment.size);
        sizes.fold(0, u64::saturating_add)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.producers.len() + 45 * self.segments.len());
        self.encode_into(&mut out);
        out
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        put_id(out, self.purged);
        out.put_i64_le(self.purged_end);
        out.put_i64_le(self.start_offset);
        out.put_i64_le(self.compacted_upto);
        out.put_u8(u8::from(self.membership.is_some()));
        if let Some((id, data)) = &self.membership {
            put_id(out, *id);
            put_bytes(out, data);
        }
        put_count(out, self.epochs.len());
        for (epoch, first) in &self.epochs {
            out.put_i32_le(*epoch);
            out.put_i64_le(*first);
        }
        put_bytes(out, &self.producers);
        put_count(out, self.segments.len());
        for segment in &self.segments {
            out.put_i64_le(segment.base_offset);
            out.put_i64_le(segment.next_offset);
            out.put_u32_le(segment.generation);
            out.put_u64_le(segment.size);
            out.put_u64_le(segment.first_index);
            out.put_u64_le(segment.last_index);
            out.put_u8(u8::from(segment.contiguous));
        }
    }

    /// Reads what [`Manifest::encode`] wrote, and believes it only if it is sound.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(mut bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let manifest = Manifest::decode_from(&mut bytes)?;
        if bytes.has_remaining() {
            return Err(ManifestError::Damaged("more bytes than it has"));
        }
        manifest.check().map_err(ManifestError::Damaged)?;
        Ok(manifest)
    }

    /// Takes a manifest off the front, unchecked.
    pub(crate) fn decode_from(input: &mut &[u8]) -> Result<Manifest, ManifestError> {
        let version = input.try_get_u8()?;
        if version != VERSION {
            return Err(ManifestError::NewerVersion(version));
        }
        let purged = get_id(input)?;
        let purged_end = input.try_get_i64_le()?;
        let start_offset = input.try_get_i64_le()?;
        let compacted_upto = input.try_get_i64_le()?;
        let membership = match input.try_get_u8()? {
            0 => None,
            1 => Some((get_id(input)?, get_bytes(input)?)),
            _ => return Err(ManifestError::Damaged("a flag that is none")),
        };
        // Lists grow with what is there, whatever their counts say.
        let mut epochs = Vec::new();
        for _ in 0..input.try_get_u32_le()? {
            epochs.push((input.try_get_i32_le()?, input.try_get_i64_le()?));
        }
        let producers = get_bytes(input)?;
        let mut segments = Vec::new();
        for _ in 0..input.try_get_u32_le()? {
            segments.push(ManifestSegment {
                base_offset: input.try_get_i64_le()?,
                next_offset: input.try_get_i64_le()?,
                generation: input.try_get_u32_le()?,
                size: input.try_get_u64_le()?,
                first_index: input.try_get_u64_le()?,
                last_index: input.try_get_u64_le()?,
                contiguous: input.try_get_u8()? != 0,
            });
        }
        Ok(Manifest {
            purged,
            purged_end,
            start_offset,
            compacted_upto,
            membership,
            epochs,
            producers,
            segments,
        })
    }

    /// What is wrong with it: the segments follow each other up to the end, hold the log start,
    /// and nothing lies behind the purged entry.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.purged.index == u64::MAX {
            return Err("an entry that nothing follows");
        }
        let mut reached = self.segments.first().map(|first| first.base_offset);
        for segment in &self.segments {
            if Some(segment.base_offset) != reached || segment.next_offset <= segment.base_offset {
                return Err("segments that do not follow each other");
            }
            if segment.size == 0 || segment.size > i32::MAX as u64 {
                return Err("a segment of a size that none has");
            }
            if segment.first_index > segment.last_index || segment.last_index > self.purged.index {
                return Err("a segment with entries that are not purged");
            }
            reached = Some(segment.next_offset);
        }
        if reached.is_some_and(|end| end != self.purged_end) {
            return Err("segments that do not reach its end");
        }
        let first = self.segments.first();
        let base = first.map_or(self.purged_end, |first| first.base_offset);
        if base < 0 || !(base..=self.purged_end).contains(&self.start_offset) {
            return Err("a log start that is not in the log");
        }
        if self.compacted_upto > self.purged_end {
            return Err("compaction beyond its end");
        }
        let ascending = |pair: &[(i32, i64)]| match pair {
            [(epoch, first), (next, then)] => epoch < next && first < then,
            _ => true,
        };
        if !self.epochs.windows(2).all(ascending)
            || (self.epochs.last()).is_some_and(|(_, first)| *first >= self.purged_end)
        {
            return Err("epochs that do not ascend");
        }
        if (self.membership.as_ref()).is_some_and(|(id, _)| id.index > self.purged.index) {
            return Err("a membership behind the purged entry");
        }
        if ProducerStates::decode(&self.producers).is_err() {
            return Err("its producers cannot be read");
        }
        Ok(())
    }
}

fn put_id(out: &mut Vec<u8>, id: EntryId) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.index);
}

fn get_id(input: &mut &[u8]) -> Result<EntryId, TryGetError> {
    Ok(EntryId {
        term: input.try_get_u64_le()?,
        index: input.try_get_u64_le()?,
    })
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("what is in memory fits 32 bits"));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.put_slice(bytes);
}

fn get_bytes(input: &mut &[u8]) -> Result<Bytes, ManifestError> {
    let len = usize::try_from(input.try_get_u32_le()?).unwrap_or(usize::MAX);
    let early = ManifestError::Damaged("it ends early");
    let (bytes, rest) = input.split_at_checked(len).ok_or(early)?;
    *input = rest;
    Ok(Bytes::copy_from_slice(bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_segment()(
            (base_offset, next_offset, generation) in (any::<i64>(), any::<i64>(), any::<u32>()),
            (size, first_index, last_index) in (any::<u64>(), any::<u64>(), any::<u64>()),
            contiguous in any::<bool>(),
        ) -> ManifestSegment {
            ManifestSegment {
                base_offset, next_offset, generation, size, first_index, last_index, contiguous,
            }
        }
    }

    prop_compose! {
        /// Any manifest, sound or not.
        pub(crate) fn any_manifest()(
            (term, index, purged_end) in (any::<u64>(), any::<u64>(), any::<i64>()),
            (start_offset, compacted_upto) in (any::<i64>(), any::<i64>()),
            member in prop::option::of((any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..9))),
            epochs in prop::collection::vec((any::<i32>(), any::<i64>()), 0..4),
            producers in prop::collection::vec(any::<u8>(), 0..9),
            segments in prop::collection::vec(any_segment(), 0..4),
        ) -> Manifest {
            let membership =
                member.map(|(term, index, data)| (EntryId { term, index }, Bytes::from(data)));
            Manifest {
                purged: EntryId { term, index },
                purged_end, start_offset, compacted_upto, membership,
                epochs,
                producers: Bytes::from(producers),
                segments,
            }
        }
    }

    /// A log of two segments.
    fn sound() -> Manifest {
        let segment = |base_offset, next_offset, first_index, last_index| ManifestSegment {
            base_offset,
            next_offset,
            generation: 0,
            size: 100,
            first_index,
            last_index,
            contiguous: true,
        };
        Manifest {
            purged: EntryId { term: 3, index: 40 },
            purged_end: 30,
            start_offset: 12,
            compacted_upto: 0,
            membership: None,
            epochs: vec![(1, 12), (3, 20)],
            producers: ProducerStates::default().encode().into(),
            segments: vec![segment(10, 20, 1, 11), segment(20, 30, 13, 40)],
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn manifests_round_trip(manifest in any_manifest(), cut in any::<prop::sample::Index>()) {
            let bytes = manifest.encode();
            let back = Manifest::decode_from(&mut &bytes[..]);
            prop_assert_eq!(back.as_ref(), Ok(&manifest));
            prop_assert!(Manifest::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn decoding_anything_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Manifest::decode(&bytes);
            let _ = Manifest::decode(&[&[VERSION], &bytes[..]].concat());
        }
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        let good = sound();
        assert_eq!(Manifest::decode(&good.encode()), Ok(good.clone()));
        let faults: [fn(&mut Manifest); 10] = [
            |m| m.purged.index = u64::MAX,
            |m| m.purged_end = 31,
            |m| m.start_offset = 9,
            |m| m.start_offset = 31,
            |m| m.segments[1].base_offset = 21,
            |m| m.segments[1].last_index = 41,
            |m| m.segments[0].size = 0,
            |m| m.epochs[1].1 = 30,
            |m| m.producers = Bytes::from_static(&[9]),
            |m| m.membership = Some((EntryId { term: 3, index: 41 }, Bytes::new())),
        ];
        for (n, spoil) in faults.iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(Manifest::decode(&bad.encode()).is_err(), "fault {n}");
        }
        let mut newer = good.encode();
        newer[0] = 2;
        assert_eq!(
            Manifest::decode(&newer),
            Err(ManifestError::NewerVersion(2))
        );
        let mut longer = good.encode();
        longer.push(0);
        assert!(Manifest::decode(&longer).is_err());
    }
}
