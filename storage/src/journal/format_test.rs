//! Round trips of blocks and frames, and what damage to them looks like.

#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use klamm_records::{BatchBuilder, BatchHeader, EntryId, GroupId, NewRecord};
use proptest::prelude::*;

use super::block::*;
use super::format::*;
use super::frames::*;
use crate::entry::Vote;
use crate::log::fill::{Install, InstalledFile, any_manifest};
use crate::options::LogSettings;

fn any_id() -> impl Strategy<Value = EntryId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| EntryId { term, index })
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    fn any_cut()(
        segment_base in any::<i64>(), position in any::<u64>(), offset in any::<i64>(),
        max_timestamp in any::<i64>(), last_batch_index in any::<u64>(),
    ) -> Cut {
        Cut { segment_base, position, offset, max_timestamp, last_batch_index }
    }
}

prop_compose! {
    fn any_anchor()(
        segment_base in any::<i64>(), position in any::<u64>(), base_offset in any::<i64>(),
        raft_index in any::<u64>(),
    ) -> Anchor {
        Anchor { segment_base, position, base_offset, raft_index }
    }
}

prop_compose! {
    /// A batch stamped as its header says: what is read back is what was put in.
    fn any_batch()(
        id in any_id(), segment_base in 0..i64::MAX, position in any::<u64>(), offset in 0..1_i64 << 60,
        epoch in 0..i32::MAX, value in prop::collection::vec(any::<u8>(), 0..20_000),
    ) -> BatchFrame {
        let mut builder = BatchBuilder::new().base_offset(offset).leader_epoch(epoch);
        builder.push(&NewRecord { value: Some(&value), ..NewRecord::default() }).unwrap();
        let bytes = builder.build().unwrap();
        let header = BatchHeader::parse(&bytes).unwrap();
        BatchFrame { id, segment_base, position, header, bytes: Some(bytes) }
    }
}

prop_compose! {
    fn any_replacement()(
        (first_base, last_base, generation) in (any::<i64>(), any::<i64>(), any::<u32>()),
        (size, max_timestamp, contiguous) in (any::<u64>(), any::<i64>(), any::<bool>()),
        entries in prop::collection::vec((any::<i64>(), any::<u64>(), any::<i64>()), 0..9),
    ) -> Replacement {
        let entry = |(base_offset, position, max_timestamp)| {
            CompactedEntry { base_offset, position, max_timestamp }
        };
        let entries = entries.into_iter().map(entry).collect();
        Replacement { first_base, last_base, generation, size, max_timestamp, contiguous, entries }
    }
}

/// A sound frame: as many files as its manifest has segments.
fn any_install() -> impl Strategy<Value = Install> {
    let entry = (any::<i64>(), any::<u64>(), any::<i64>());
    let file = (
        any::<u32>(),
        any::<i64>(),
        any::<i64>(),
        prop::collection::vec(entry, 0..4),
    );
    (any_manifest(), prop::collection::vec(file, 4)).prop_map(|(manifest, files)| {
        let entry = |(base_offset, position, max_timestamp)| CompactedEntry {
            base_offset,
            position,
            max_timestamp,
        };
        let file = |(generation, max_timestamp, first_timestamp, entries): (_, _, _, Vec<_>)| {
            let entries = entries.into_iter().map(entry).collect();
            InstalledFile {
                generation,
                max_timestamp,
                first_timestamp,
                entries,
            }
        };
        let files = files
            .into_iter()
            .take(manifest.segments.len())
            .map(file)
            .collect();
        Install { manifest, files }
    })
}

fn any_body() -> impl Strategy<Value = FrameBody> {
    let settings = (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>());
    let settings =
        settings.prop_map(
            |(segment_bytes, segment_ms, interval, expiration)| LogSettings {
                segment_bytes,
                segment_ms,
                index_interval_bytes: interval,
                producer_id_expiration_ms: expiration,
            },
        );
    prop_oneof![
        3 => any_batch().prop_map(FrameBody::Batch),
        1 => any_id().prop_map(FrameBody::Blank),
        1 => (any_id(), any_bytes()).prop_map(|(id, data)| FrameBody::Membership(id, data)),
        1 => (any_id(), any_bytes()).prop_map(|(id, data)| FrameBody::Command(id, data)),
        1 => (any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(term, node, committed)| FrameBody::Vote(Vote { term, node, committed })),
        1 => (prop::option::of(any_id()), prop::option::of(any_cut()))
            .prop_map(|(last, cut)| FrameBody::Truncate { last, cut }),
        1 => (any_id(), any::<i64>(), prop::option::of(any_anchor())).prop_map(
            |(upto, end_offset, first_kept)| FrameBody::Purge { upto, end_offset, first_kept }
        ),
        1 => any::<i64>().prop_map(FrameBody::StartOffset),
        1 => any_replacement().prop_map(FrameBody::Replace),
        1 => any_install().prop_map(|install| FrameBody::Install(Box::new(install))),
        1 => any::<i64>().prop_map(FrameBody::Roll),
        1 => ("[a-z0-9-]{0,40}", settings)
            .prop_map(|(dir, settings)| FrameBody::CreateGroup { dir, settings }),
        1 => Just(FrameBody::DeleteGroup),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    (any::<u64>(), any::<u64>(), any_body()).prop_map(|(group, op, body)| Frame {
        group: GroupId(group),
        op,
        body,
    })
}

/// The block's bytes as they are written.
fn written(frames: &[Frame], by_reference: bool) -> Vec<u8> {
    block(33, frames, by_reference)
}

fn block(block_seq: u64, frames: &[Frame], by_reference: bool) -> Vec<u8> {
    let mut block = BlockBuilder::new(11, block_seq);
    frames
        .iter()
        .for_each(|frame| block.push(frame, by_reference));
    let announced = block.disk_len();
    assert_eq!(block.finish(22), announced);
    let bytes: Vec<u8> = block
        .slices()
        .iter()
        .flat_map(|slice| slice.to_vec())
        .collect();
    assert_eq!(bytes.len() as u64, announced);
    assert_eq!(announced % BLOCK_ALIGN, 0);
    bytes
}

fn read(bytes: &[u8]) -> Vec<Found> {
    let header = BlockHeader::parse(bytes).unwrap();
    assert_eq!(
        (header.salt, header.file_seq, header.block_seq),
        (11, 22, 33)
    );
    assert_eq!(header.disk_len(), bytes.len() as u64);
    let rest = Bytes::copy_from_slice(&bytes[BLOCK_HEADER_LEN..]);
    let frames = read_frames(&header, rest);
    assert_eq!(frames.len(), header.frame_count as usize);
    frames
}

fn whole(found: Found) -> Frame {
    match found {
        Found::Whole(frame) => frame,
        damaged => panic!("{damaged:?}"),
    }
}

/// Gives `frames`, one behind the other, the CRCs they have in a block of this binding. The length of all.
fn bind(frames: &mut [u8], count: u32, binding: u32) -> usize {
    let mut at = 0;
    for _ in 0..count {
        let (header, rest) = frames[at..].split_at_mut(FRAME_HEADER_LEN - 4);
        let crc = crc32c::crc32c_append(binding, header);
        rest[..4].copy_from_slice(&crc.to_le_bytes());
        let len = u32::from_le_bytes(header[4..8].try_into().unwrap());
        at += FRAME_HEADER_LEN + len as usize;
    }
    at
}

/// The same frames in a block of version 1: no repeats, no table, no trailer.
fn as_version_1(bytes: &[u8]) -> Vec<u8> {
    let header = BlockHeader::parse(bytes).unwrap();
    let mut bytes = bytes.to_vec();
    let frames = &mut bytes[BLOCK_HEADER_LEN..];
    let end = BLOCK_HEADER_LEN + bind(frames, header.frame_count, 0);
    let header = BlockHeader {
        version: 1,
        payload_len: (end - BLOCK_HEADER_LEN) as u32,
        table_len: 0,
        ..header
    };
    let mut old = header.encode(MAGIC).to_vec();
    old.extend_from_slice(&bytes[BLOCK_HEADER_LEN..end]);
    old.resize(header.disk_len() as usize, 0);
    old
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn blocks_round_trip(frames in prop::collection::vec(any_frame(), 0..12)) {
        let bytes = written(&frames, false);
        for bytes in [&as_version_1(&bytes), &bytes] {
            let back: Vec<Frame> = read(bytes).into_iter().map(whole).collect();
            prop_assert_eq!(&back, &frames);
        }
        let page = &bytes[bytes.len() - BLOCK_ALIGN as usize..];
        prop_assert_eq!(BlockHeader::parse_trailer(page), BlockHeader::parse(&bytes));
    }

    #[test]
    fn references_keep_all_but_the_records(batch in any_batch()) {
        let frame = Frame { group: GroupId(1), op: 2, body: FrameBody::Batch(batch.clone()) };
        let back = read(&written(&[frame], true));
        let expected = FrameBody::Batch(BatchFrame { bytes: None, ..batch });
        prop_assert_eq!(whole(back[0].clone()).body, expected);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed(
        frames in prop::collection::vec(any_frame(), 1..6),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
        old in any::<bool>(),
    ) {
        let mut frames = frames;
        frames.iter_mut().zip(1..).for_each(|(frame, op)| frame.op = op);
        let mut bytes = written(&frames, false);
        if old {
            bytes = as_version_1(&bytes);
        }
        let all: usize = as_version_1(&bytes).len();
        let frames_len = BlockHeader::parse(&as_version_1(&bytes)).unwrap().payload_len as usize;
        prop_assert!(all >= BLOCK_HEADER_LEN + frames_len);
        let at = at.index(BLOCK_HEADER_LEN + frames_len);
        bytes[at] ^= 1_u8 << bit;
        let Some(header) = BlockHeader::parse(&bytes) else {
            let trailer = BlockHeader::parse_trailer(&bytes[bytes.len() - BLOCK_ALIGN as usize..]);
            prop_assert!(trailer.is_some() != old);
            return Ok(());
        };
        let back = read_frames(&header, Bytes::copy_from_slice(&bytes[BLOCK_HEADER_LEN..]));
        prop_assert_eq!(back.iter().filter(|found| !matches!(found, Found::Whole(_))).count(), 1);
        for (number, found) in back.iter().enumerate() {
            match found {
                Found::Whole(frame) | Found::Repeated(frame, _) => {
                    prop_assert_eq!(frame, &frames[number]);
                }
                // Damage names its group.
                Found::Lost(FrameError::Payload { group, op } | FrameError::Named { group, op }) => {
                    prop_assert_eq!((*group, *op), (frames[number].group, frames[number].op));
                }
                Found::Lost(error) => prop_assert!(old && error == &FrameError::Header),
            }
        }
    }

    #[test]
    fn reading_anything_does_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        (version, payload_len, frame_count, table_len) in (0..4_u16, 0..250_u32, 0..9_u32, 0..250_u32),
    ) {
        let _ = BlockHeader::parse(&bytes);
        let _ = BlockHeader::parse_trailer(&bytes);
        let _ = read_table(0, &bytes);
        let header = BlockHeader {
            version, payload_len, frame_count, table_len, salt: 1, file_seq: 2, block_seq: 3,
        };
        let _ = read_frames(&header, Bytes::from(bytes));
    }
}

/// What the last page has room for is there twice, and what a log cannot do without always is.
#[test]
fn frames_are_repeated() {
    let frame = |group, op, size: usize| Frame {
        group: GroupId(group),
        op,
        body: FrameBody::Command(EntryId { term: 1, index: op }, vec![7; size].into()),
    };
    let creation = Frame {
        group: GroupId(5),
        op: 1,
        body: FrameBody::CreateGroup {
            dir: "topic-0".to_owned(),
            settings: LogSettings::default(),
        },
    };
    let cases = [
        // Small ones cost nothing, and one that is too large does not keep others from it.
        (
            vec![frame(1, 1, 900), frame(2, 1, 100), frame(3, 1, 300)],
            1,
            3,
        ),
        (vec![frame(1, 1, 2_500), frame(2, 1, 100)], 1, 1),
        // The metadata's, and creations, may take a page more.
        (vec![frame(0, 1, 2_500), frame(1, 1, 100)], 2, 2),
        (vec![frame(1, 1, 3_800), creation], 2, 1),
    ];
    for (number, (frames, pages, repeated)) in cases.into_iter().enumerate() {
        let bytes = written(&frames, false);
        assert_eq!(bytes.len(), pages * BLOCK_ALIGN as usize, "{number}");
        let mut at = BLOCK_HEADER_LEN;
        let mut found = 0;
        for frame in &frames {
            for damaged in [at + 9, at + FRAME_HEADER_LEN] {
                let mut rotten = bytes.clone();
                rotten[damaged] ^= 1;
                let back = read(&rotten);
                found += back
                    .iter()
                    .filter(
                        |found| matches!(found, Found::Repeated(repeated, _) if repeated == frame),
                    )
                    .count();
            }
            at += FRAME_HEADER_LEN
                + u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        }
        // In the last case the page that the creation needs has room for the other one as well.
        let all = if number == 3 { 2 } else { repeated };
        assert_eq!(found, 2 * all, "{number}");
    }
}

/// The bytes of version 1: a change that no longer reads them needs a new version.
#[test]
fn version_1_is_fixed() {
    let vote = Vote {
        term: 5,
        node: 6,
        committed: true,
    };
    let frame = Frame {
        group: GroupId(3),
        op: 4,
        body: FrameBody::Vote(vote),
    };
    let bytes = as_version_1(&written(std::slice::from_ref(&frame), false));
    assert_eq!(whole(read(&bytes)[0].clone()), frame);
    let head = [
        b"KLMJ".as_slice(),
        &[1, 0, 0, 0],
        &11_u64.to_le_bytes(),
        &22_u64.to_le_bytes(),
        &33_u64.to_le_bytes(),
        &57_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &[0; 4],
    ]
    .concat();
    assert_eq!(&bytes[..44], &head[..]);
    assert_eq!(&bytes[48..56], &[6, 1, 0, 0, 9, 0, 0, 0]);
    assert_eq!(&bytes[96..105], &[6, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(crc32c::crc32c(&bytes), 4_191_255_484);
}

/// A block as versions 2 and 3 wrote it: its bytes but the CRCs of its frames and its table, which are told.
fn fixed(version: u8, binding: u32, frame: &Frame, bytes: &[u8]) {
    assert_eq!(whole(read(bytes)[0].clone()), *frame);
    let ends = |magic: &[u8]| {
        [
            magic,
            &[version, 0, 0, 0],
            &11_u64.to_le_bytes(),
            &22_u64.to_le_bytes(),
            &33_u64.to_le_bytes(),
            &96_u32.to_le_bytes(),
            &1_u32.to_le_bytes(),
            &8_u32.to_le_bytes(),
        ]
        .concat()
    };
    assert_eq!(&bytes[..44], &ends(b"KLMJ")[..]);
    assert_eq!(&bytes[4048..4092], &ends(b"KLMT")[..]);
    let crc = crc32c::crc32c_append(binding, &bytes[48..92]);
    assert_eq!(&bytes[92..96], &crc.to_le_bytes());
    assert_eq!(&bytes[48..96], &bytes[96..144]);
    assert_eq!(&bytes[4040..4044], &[0xac, 2, 4, 0]);
    let crc = crc32c::crc32c_append(binding, &[0xac, 2, 4, 0]);
    assert_eq!(&bytes[4044..4048], &crc.to_le_bytes());
    assert!(bytes[144..4040].iter().all(|byte| *byte == 0));
}

/// What version 2 puts around the same frame, and version 3 binds to the block.
#[test]
fn versions_2_and_3_are_fixed() {
    let frame = Frame {
        group: GroupId(300),
        op: 4,
        body: FrameBody::DeleteGroup,
    };
    let mut bytes = written(std::slice::from_ref(&frame), false);
    let numbers = [11_u64.to_le_bytes(), 33_u64.to_le_bytes()].concat();
    fixed(3, crc32c::crc32c(&numbers), &frame, &bytes);

    let header = BlockHeader {
        version: 2,
        ..BlockHeader::parse(&bytes).unwrap()
    };
    bind(&mut bytes[48..144], 2, 0);
    bytes[..48].copy_from_slice(&header.encode(MAGIC));
    bytes[4048..].copy_from_slice(&header.encode(TRAILER_MAGIC));
    let crc = crc32c::crc32c(&bytes[4040..4044]);
    bytes[4044..4048].copy_from_slice(&crc.to_le_bytes());
    fixed(2, 0, &frame, &bytes);
}

/// What a recycled file holds behind the torn end of a block fits it to the byte, as often as not.
#[test]
fn frames_of_another_block_are_not_taken_for_its_own() {
    const SECTOR: usize = 512;
    let frames = |first: u64| -> Vec<Frame> {
        let frame = |op| Frame {
            group: GroupId(1),
            op,
            body: FrameBody::Command(EntryId { term: 1, index: op }, vec![7; 300].into()),
        };
        (first..first + 20).map(frame).collect()
    };
    let (old, new) = (block(32, &frames(1), false), written(&frames(21), false));
    assert_eq!(old.len(), new.len());
    for kept in 1..new.len() / SECTOR {
        let torn = [&new[..kept * SECTOR], &old[kept * SECTOR..]].concat();
        let header = BlockHeader::parse(&torn).unwrap();
        let found = read_frames(&header, Bytes::copy_from_slice(&torn[BLOCK_HEADER_LEN..]));
        for (frame, found) in frames(21).into_iter().zip(&found) {
            match found {
                Found::Whole(whole) | Found::Repeated(whole, _) => assert_eq!(*whole, frame),
                Found::Lost(_) => {}
            }
        }
        let ends_at = BLOCK_HEADER_LEN + 20 * (FRAME_HEADER_LEN + 300);
        let is_whole = found.iter().all(|found| matches!(found, Found::Whole(_)));
        assert_eq!(is_whole, kept * SECTOR >= ends_at, "{kept} sectors");
    }
}

#[test]
fn a_later_kind_or_version_is_not_taken_for_damage() {
    for (at, value) in [(48, 77), (49, 2)] {
        let frame = Frame {
            group: GroupId(3),
            op: 4,
            body: FrameBody::DeleteGroup,
        };
        let mut bytes = written(&[frame], false);
        bytes[at] = value;
        let binding = BlockHeader::parse(&bytes).unwrap().binding();
        bind(&mut bytes[48..96], 1, binding);
        let back = read(&bytes);
        assert!(
            matches!(back[0], Found::Lost(FrameError::Unknown { .. })),
            "{back:?}"
        );
    }
}
