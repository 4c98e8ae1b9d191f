//! Round trips, the budget, and hostile streams for every codec.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use proptest::collection::vec;
use proptest::prelude::*;
use twox_hash::XxHash32;

use super::*;

const COMPRESSED: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const BUDGET: usize = 1 << 20;

/// Text with repetitions, longer than one block of every codec.
fn text(len: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|n| format!("{},{};", n % 977, n % 13).into_bytes())
        .take(len)
        .collect()
}

fn is_corrupt(codec: Codec, input: &[u8]) -> bool {
    matches!(decompress(codec, input, BUDGET), Err(DecompressError::Corrupt { codec: by, .. }) if by == codec)
}

/// An LZ4 frame from its flags and the bytes after the descriptor, with a right header checksum.
fn lz4_frame(flags: u8, block_size: u8, optional: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut descriptor = vec![flags, block_size];
    descriptor.extend(optional);
    let mut frame = vec![0x04, 0x22, 0x4d, 0x18];
    frame.extend(&descriptor);
    frame.push(XxHash32::oneshot(0, &descriptor).to_le_bytes()[1]);
    frame.extend(rest);
    frame
}

/// A stored LZ4 block and the end mark.
fn lz4_stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = (0x8000_0000 | u32::try_from(bytes.len()).unwrap())
        .to_le_bytes()
        .to_vec();
    out.extend(bytes);
    out.extend([0; 4]);
    out
}

/// A xerial stream of the given blocks, each behind its length.
fn xerial(blocks: &[(i32, &[u8])]) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for (length, block) in blocks {
        out.extend(length.to_be_bytes());
        out.extend(*block);
    }
    out
}

#[test]
fn codes_are_kafkas_and_5_to_7_have_no_codec() {
    for (code, codec) in (0i16..).zip(Codec::ALL) {
        assert_eq!(Codec::from_attributes(code | 0x38), Ok(codec));
        assert_eq!(codec.into_attributes(0x3f), code | 0x38);
    }
    for code in 5..=7 {
        assert_eq!(
            Codec::from_attributes(code),
            Err(UnsupportedCodec(code as u8))
        );
    }
}

#[test]
fn the_budget_is_exact() {
    for codec in Codec::ALL {
        for len in [0, 1, 1000, 32 * 1024, 64 * 1024 + 1, 700_000] {
            let plain = text(len);
            let packed = compress(codec, None, &plain).unwrap();
            assert_eq!(
                decompress(codec, &packed, len).unwrap(),
                plain,
                "{codec} {len}"
            );
            if len > 0 {
                let refused = decompress(codec, &packed, len - 1);
                assert_eq!(
                    refused,
                    Err(DecompressError::TooLarge { budget: len - 1 }),
                    "{codec}"
                );
            }
        }
    }
}

#[test]
fn every_level_of_kafka_is_accepted_and_none_beyond() {
    let plain = text(100_000);
    let levels = [
        (Codec::Gzip, vec![-1, 1, 9], vec![-2, 0, 10]),
        (Codec::Lz4, vec![1, 9, 17], vec![0, 18]),
        (
            Codec::Zstd,
            vec![-131_072, -5, 1, 3, 19, 22],
            vec![23, -131_073],
        ),
    ];
    for (codec, good, bad) in levels {
        for level in good {
            let packed = compress(codec, Some(level), &plain).unwrap();
            assert_eq!(
                decompress(codec, &packed, BUDGET).unwrap(),
                plain,
                "{codec} {level}"
            );
        }
        for level in bad {
            let refused = compress(codec, Some(level), &plain);
            assert_eq!(refused, Err(CompressError::Level { codec, level }));
        }
    }
}

#[test]
fn what_zstd_writes_at_its_highest_level_fits_the_window_it_reads() {
    let plain = text(9 << 20);
    let packed = compress(Codec::Zstd, Some(20), &plain).unwrap();
    assert_eq!(
        decompress(Codec::Zstd, &packed, plain.len()).unwrap(),
        plain
    );
}

#[test]
fn incompressible_bytes_survive() {
    let mut state = 1u64;
    let plain: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(200_000)
    .collect();
    for codec in COMPRESSED {
        let packed = compress(codec, None, &plain).unwrap();
        assert!(
            packed.len() < plain.len() + plain.len() / 100,
            "{codec}: {}",
            packed.len()
        );
        assert_eq!(
            decompress(codec, &packed, plain.len()).unwrap(),
            plain,
            "{codec}"
        );
    }
}

/// C50: 64 MiB of zeros in little input.
#[test]
fn c50_a_bomb_stops_at_the_budget() {
    let plain = vec![0; 64 << 20];
    for codec in COMPRESSED {
        let packed = compress(codec, None, &plain).unwrap();
        let refused = decompress(codec, &packed, BUDGET);
        assert_eq!(
            refused,
            Err(DecompressError::TooLarge { budget: BUDGET }),
            "{codec}"
        );
    }
}

/// C51: the window descriptor's exponent 21 asks for 2 GiB.
#[test]
fn c51_a_zstd_window_above_8_mib_is_refused() {
    let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0x00, window, 0x01, 0x00, 0x00];
    let refused = Err(DecompressError::WindowTooLarge);
    assert_eq!(decompress(Codec::Zstd, &frame(21 << 3), BUDGET), refused);
    assert_eq!(
        decompress(Codec::Zstd, &frame(13 << 3 | 1), BUDGET),
        refused
    );
    assert_eq!(
        decompress(Codec::Zstd, &frame(13 << 3), BUDGET).unwrap(),
        Bytes::new()
    );
    // Behind a harmless frame it is the library that refuses.
    let mut second = compress(Codec::Zstd, None, b"harmless").unwrap();
    second.extend(frame(21 << 3));
    assert_eq!(decompress(Codec::Zstd, &second, BUDGET), refused);
}

/// C52: a raw block whose length field says 4 GiB - 1.
#[test]
fn c52_a_snappy_length_is_not_believed() {
    let block = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x61];
    assert!(is_corrupt(Codec::Snappy, &block));
    let framed = xerial(&[(7, &block)]);
    assert!(is_corrupt(Codec::Snappy, &framed));
    // A claim that the block could keep, but the budget does not allow.
    let large = compress(Codec::Snappy, None, &vec![0; BUDGET + 1]).unwrap();
    let refused = Err(DecompressError::TooLarge { budget: BUDGET });
    assert_eq!(decompress(Codec::Snappy, &large, BUDGET), refused);
}

/// C53, CVE-2023-34455: block lengths that are negative or beyond the input.
#[test]
fn c53_a_xerial_block_length_that_lies_is_corrupt() {
    for length in [-1, i32::MIN, i32::MAX, 8, 0] {
        assert!(
            is_corrupt(Codec::Snappy, &xerial(&[(length, b"\x01\x00a")])),
            "{length}"
        );
    }
    let whole = xerial(&[(3, b"\x01\x00a")]);
    assert_eq!(
        decompress(Codec::Snappy, &whole, BUDGET).unwrap(),
        &b"a"[..]
    );
    for cut in 9..whole.len() {
        let valid = cut == 16;
        assert_eq!(
            decompress(Codec::Snappy, &whole[..cut], BUDGET).is_ok(),
            valid,
            "{cut}"
        );
    }
}

/// C54: an LZ4 frame with a wrong header checksum, and one that claims 2^63 bytes of content.
#[test]
fn c54_lz4_headers_that_lie_are_corrupt() {
    let good = lz4_frame(0x60, 0x40, &[], &lz4_stored(b"abc"));
    assert_eq!(decompress(Codec::Lz4, &good, BUDGET).unwrap(), &b"abc"[..]);
    let mut bad = good;
    bad[6] ^= 1;
    assert!(is_corrupt(Codec::Lz4, &bad));
    let sized = |size: u64| lz4_frame(0x68, 0x40, &size.to_le_bytes(), &lz4_stored(b"abc"));
    assert_eq!(
        decompress(Codec::Lz4, &sized(3), BUDGET).unwrap(),
        &b"abc"[..]
    );
    assert!(is_corrupt(Codec::Lz4, &sized(1 << 63)));
    assert!(is_corrupt(Codec::Lz4, &sized(2)));
}

#[test]
fn lz4_frames_that_java_cannot_read_are_refused() {
    let rest = lz4_stored(b"abc");
    for (flags, block_size) in [
        (0x40, 0x40), // linked blocks
        (0x20, 0x40), // version 0
        (0x62, 0x40), // reserved bit
        (0x60, 0x30), // block size without meaning
        (0x60, 0x41), // reserved bit of the block size
    ] {
        assert!(
            is_corrupt(Codec::Lz4, &lz4_frame(flags, block_size, &[], &rest)),
            "{flags:x}"
        );
    }
    assert!(
        is_corrupt(Codec::Lz4, &lz4_frame(0x61, 0x40, &[0; 4], &rest)),
        "dictionary"
    );
    assert!(
        is_corrupt(Codec::Lz4, b"\x02\x21\x4c\x18\x00\x00\x00\x00"),
        "legacy frame"
    );
    let mut trailing = lz4_frame(0x60, 0x40, &[], &rest);
    trailing.push(0);
    assert!(is_corrupt(Codec::Lz4, &trailing), "bytes behind the frame");
}

#[test]
fn lz4_checksums_are_verified_where_the_frame_has_them() {
    let hash = |bytes: &[u8]| XxHash32::oneshot(0, bytes).to_le_bytes();
    let mut content = lz4_stored(b"abc");
    content.extend(hash(b"abc"));
    let mut block = lz4_stored(b"abc");
    block.splice(7..7, hash(b"abc"));
    for (flags, mut rest) in [(0x64, content), (0x70, block)] {
        let good = lz4_frame(flags, 0x40, &[], &rest);
        assert_eq!(decompress(Codec::Lz4, &good, BUDGET).unwrap(), &b"abc"[..]);
        rest[4] = b'z';
        assert!(
            is_corrupt(Codec::Lz4, &lz4_frame(flags, 0x40, &[], &rest)),
            "{flags:x}"
        );
    }
}

#[test]
fn an_lz4_block_larger_than_its_frame_allows_is_corrupt() {
    let stored = lz4_frame(0x60, 0x40, &[], &lz4_stored(&vec![b'a'; 64 * 1024 + 1]));
    assert!(is_corrupt(Codec::Lz4, &stored));
    let block = lz4_flex::block::compress(&vec![b'a'; 64 * 1024 + 1]);
    let mut rest = u32::try_from(block.len()).unwrap().to_le_bytes().to_vec();
    rest.extend(&block);
    rest.extend([0; 4]);
    assert!(is_corrupt(Codec::Lz4, &lz4_frame(0x60, 0x40, &[], &rest)));
    let larger = lz4_frame(0x60, 0x50, &[], &rest);
    assert_eq!(
        decompress(Codec::Lz4, &larger, BUDGET).unwrap(),
        vec![b'a'; 64 * 1024 + 1]
    );
}

/// C55, behaviour 32: members share one budget.
#[test]
fn c55_gzip_members_are_read_behind_one_another() {
    let mut members = compress(Codec::Gzip, None, &vec![b'a'; 600_000]).unwrap();
    members.extend(compress(Codec::Gzip, Some(9), b"tail").unwrap());
    let plain = decompress(Codec::Gzip, &members, BUDGET).unwrap();
    assert_eq!(plain.len(), 600_004);
    assert!(plain.ends_with(b"aatail"));
    members.extend(compress(Codec::Gzip, None, &vec![b'a'; 600_000]).unwrap());
    let refused = Err(DecompressError::TooLarge { budget: BUDGET });
    assert_eq!(decompress(Codec::Gzip, &members, BUDGET), refused);
}

/// Behaviour 32: raw snappy, xerial streams that are concatenated, zstd without content size.
#[test]
fn behaviour_32_variants_of_clients_are_read() {
    let raw = snap::raw::Encoder::new()
        .compress_vec(&text(100_000))
        .unwrap();
    assert_eq!(
        decompress(Codec::Snappy, &raw, BUDGET).unwrap(),
        text(100_000)
    );

    let mut twice = compress(Codec::Snappy, None, b"one ").unwrap();
    twice.extend(compress(Codec::Snappy, None, b"two").unwrap());
    assert_eq!(
        decompress(Codec::Snappy, &twice, BUDGET).unwrap(),
        &b"one two"[..]
    );

    let plain = text(300_000);
    let unsized_frame = ::zstd::stream::encode_all(plain.as_slice(), 3).unwrap();
    let size = ::zstd::zstd_safe::get_frame_content_size(&unsized_frame);
    assert_eq!(
        size.ok().flatten(),
        None,
        "the stream encoder writes no content size"
    );
    assert_eq!(
        decompress(Codec::Zstd, &unsized_frame, plain.len()).unwrap(),
        plain
    );
    let refused = Err(DecompressError::TooLarge { budget: 299_999 });
    assert_eq!(decompress(Codec::Zstd, &unsized_frame, 299_999), refused);

    let mut frames = unsized_frame;
    frames.extend(compress(Codec::Zstd, None, b"tail").unwrap());
    assert!(
        decompress(Codec::Zstd, &frames, BUDGET)
            .unwrap()
            .ends_with(b"tail")
    );
}

#[test]
fn every_stream_cut_short_is_corrupt() {
    let plain = text(3000);
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let packed = compress(codec, None, &plain).unwrap();
        for cut in 0..packed.len() {
            let result = decompress(codec, &packed[..cut], BUDGET);
            // No bytes are zero gzip members and zero zstd frames.
            let empty = cut == 0 && result == Ok(Bytes::new());
            assert!(
                empty || is_corrupt(codec, &packed[..cut]),
                "{codec} {cut}: {result:?}"
            );
        }
    }
}

#[test]
fn bytes_behind_a_stream_are_corrupt() {
    for codec in COMPRESSED {
        let mut packed = compress(codec, None, b"abc").unwrap();
        packed.extend(b"garbage");
        assert!(is_corrupt(codec, &packed), "{codec}");
    }
}

#[test]
fn a_claimed_zstd_content_size_is_not_allocated() {
    // Single segment, 8 bytes of content size: 2^40.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    frame.extend((1u64 << 40).to_le_bytes());
    frame.extend([0x01, 0x00, 0x00]);
    assert!(decompress(Codec::Zstd, &frame, usize::MAX / 2).is_err());
    assert!(decompress(Codec::Zstd, &frame, BUDGET).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(plain in vec(any::<u8>(), 0..5000), repeat in 1usize..40) {
        let plain = plain.repeat(repeat);
        for codec in Codec::ALL {
            let packed = compress(codec, None, &plain).unwrap();
            prop_assert_eq!(&decompress(codec, &packed, plain.len()).unwrap(), &plain);
        }
    }

    /// C57 for the codecs alone: anything is an error or within the budget, never a panic.
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..600), budget in 0usize..5000) {
        for codec in Codec::ALL {
            if let Ok(plain) = decompress(codec, &bytes, budget) {
                prop_assert!(plain.len() <= budget);
            }
        }
    }

    #[test]
    fn damaged_streams_do_no_harm(
        len in 0usize..200_000,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        budget in 0usize..400_000,
    ) {
        for codec in Codec::ALL {
            let mut packed = compress(codec, None, &text(len)).unwrap();
            for (at, byte) in &damage {
                if !packed.is_empty() {
                    let at = at.index(packed.len().min(64));
                    packed[at] ^= byte;
                }
            }
            if let Ok(plain) = decompress(codec, &packed, budget) {
                prop_assert!(plain.len() <= budget);
            }
        }
    }
}
