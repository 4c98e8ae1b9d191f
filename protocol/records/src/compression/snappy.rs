//! Snappy: the framing of xerial's snappy-java, which Java and most clients write, and one raw
//! block, which some C clients write.
//!
//! ```text
//! 0x82 "SNAPPY" 0x00 | version i32 = 1 | compatible i32 = 1 | ( length i32 | raw block )*
//! ```

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Codec, CompressError, DecompressError, first_capacity, lengthen};

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
/// Uncompressed bytes per block, as Java writes.
const CHUNK: usize = 32 * 1024;
/// No snappy element makes more than 64 bytes out of three, so a claim beyond is a lie.
const MAX_EXPANSION: usize = 22;

fn corrupt(what: &'static str) -> DecompressError {
    DecompressError::Corrupt {
        codec: Codec::Snappy,
        what,
    }
}

pub(super) fn decompress(input: &[u8], budget: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    if !input.starts_with(&MAGIC) {
        append_block(input, budget, &mut out)?;
        return Ok(out);
    }
    out.reserve_exact(first_capacity(input.len(), budget));
    let mut rest = input;
    while !rest.is_empty() {
        // Java's reader lets a whole new stream begin between two blocks.
        if let Some(after) = rest.strip_prefix(&MAGIC) {
            rest = after
                .get(VERSIONS.len()..)
                .ok_or(corrupt("it ends within its header"))?;
            continue;
        }
        let (length, after) = rest
            .split_first_chunk()
            .ok_or(corrupt("it ends within a length"))?;
        let length = usize::try_from(i32::from_be_bytes(*length))
            .map_err(|_| corrupt("a block length is negative"))?;
        let (block, after) = after
            .split_at_checked(length)
            .ok_or(corrupt("a block length points past its end"))?;
        append_block(block, budget, &mut out)?;
        rest = after;
    }
    Ok(out)
}

/// Unpacks one raw block behind what `out` holds. The block's own length field is believed only
/// as far as the budget and the codec's greatest expansion go.
fn append_block(block: &[u8], budget: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let claimed = decompress_len(block).map_err(|_| corrupt("a block has no valid length"))?;
    if claimed > block.len().saturating_mul(MAX_EXPANSION) {
        return Err(corrupt("a block claims more than it can hold"));
    }
    let from = out.len();
    if claimed > budget - from {
        return Err(DecompressError::TooLarge { budget });
    }
    lengthen(out, from + claimed, budget);
    let space = out.get_mut(from..).ok_or(corrupt("a block is empty"))?;
    let written = Decoder::new()
        .decompress(block, space)
        .map_err(|_| corrupt("a block does not unpack"))?;
    out.truncate(from + written);
    Ok(())
}

pub(super) fn compress(input: &[u8]) -> Result<Vec<u8>, CompressError> {
    let mut out = Vec::with_capacity(MAGIC.len() + VERSIONS.len() + input.len() / 2);
    out.extend(MAGIC);
    out.extend(VERSIONS);
    let mut encoder = Encoder::new();
    let mut block = vec![0; max_compress_len(CHUNK.min(input.len()))];
    for chunk in input.chunks(CHUNK) {
        let written =
            encoder
                .compress(chunk, &mut block)
                .map_err(|error| CompressError::Failed {
                    codec: Codec::Snappy,
                    cause: error.to_string(),
                })?;
        let length = i32::try_from(written).expect("a block of 32 KiB stays below 2 GiB");
        out.extend(length.to_be_bytes());
        out.extend(&block[..written]);
    }
    Ok(out)
}
