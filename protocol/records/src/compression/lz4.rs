//! The LZ4 frame format, in the part that Java's Kafka clients read: one frame, version 1,
//! independent blocks. Linked blocks, dictionaries, skippable and legacy frames are refused,
//! because a consumer could not read them either. Header and block checksums are verified, and
//! so are, unlike in Kafka, the content checksum and the content size.
//!
//! The frame is parsed here and not by the library's reader, which allocates blocks of up to
//! 8 MiB on the input's word and copies each twice.

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};
use twox_hash::XxHash32;

use super::{Codec, CompressError, DecompressError, first_capacity, lengthen, next_capacity};

/// Magic, flags (version 1, independent blocks), block size 64 KiB, header checksum.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const END_MARK: [u8; 4] = [0; 4];
/// Uncompressed bytes per block, as Java writes.
const BLOCK: usize = 64 * 1024;
/// Set in a block's length when the block is stored as it is.
const STORED_BIT: u32 = 0x8000_0000;
/// An LZ4 sequence makes at most 255 bytes per byte of input.
const MAX_EXPANSION: usize = 255;

const DICTIONARY: u8 = 0x01;
const RESERVED: u8 = 0x02;
const CONTENT_CHECKSUM: u8 = 0x04;
const CONTENT_SIZE: u8 = 0x08;
const BLOCK_CHECKSUM: u8 = 0x10;
const INDEPENDENT: u8 = 0x20;

fn corrupt(what: &'static str) -> DecompressError {
    DecompressError::Corrupt {
        codec: Codec::Lz4,
        what,
    }
}

/// The descriptor at the start of a frame.
struct Frame {
    flags: u8,
    max_block: usize,
    content_size: Option<u64>,
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], DecompressError> {
    let (head, tail) = rest.split_at_checked(len).ok_or(corrupt("it ends early"))?;
    *rest = tail;
    Ok(head)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, DecompressError> {
    let (head, tail) = rest.split_first_chunk().ok_or(corrupt("it ends early"))?;
    *rest = tail;
    Ok(u32::from_le_bytes(*head))
}

fn read_descriptor(rest: &mut &[u8]) -> Result<Frame, DecompressError> {
    if take(rest, 4)? != &HEADER[..4] {
        return Err(corrupt("it is not an LZ4 frame"));
    }
    let descriptor = *rest;
    let &[flags, block_size] = take(rest, 2)? else {
        return Err(corrupt("it ends early"));
    };
    if flags & 0xc0 != 0x40 || flags & RESERVED != 0 || block_size & 0x8f != 0 {
        return Err(corrupt("its frame has an unknown version or flag"));
    }
    if flags & INDEPENDENT == 0 || flags & DICTIONARY != 0 {
        return Err(corrupt(
            "its blocks depend on each other or on a dictionary",
        ));
    }
    let max_block = match block_size >> 4 {
        code @ 4..=7 => 1 << (8 + 2 * code),
        _ => return Err(corrupt("its block size is unknown")),
    };
    let content_size = if flags & CONTENT_SIZE != 0 {
        let size = take(rest, 8)?
            .try_into()
            .map_err(|_| corrupt("it ends early"))?;
        Some(u64::from_le_bytes(size))
    } else {
        None
    };
    let covered = descriptor
        .get(..descriptor.len() - rest.len())
        .unwrap_or_default();
    let checksum = XxHash32::oneshot(0, covered).to_le_bytes()[1];
    if take(rest, 1)? != [checksum] {
        return Err(corrupt("its header checksum is wrong"));
    }
    Ok(Frame {
        flags,
        max_block,
        content_size,
    })
}

pub(super) fn decompress(input: &[u8], budget: usize) -> Result<Vec<u8>, DecompressError> {
    let mut rest = input;
    let frame = read_descriptor(&mut rest)?;
    let mut out = Output {
        bytes: vec![0; first_capacity(input.len(), budget)],
        len: 0,
        budget,
    };
    loop {
        let length = take_u32(&mut rest)?;
        if length == 0 {
            break;
        }
        let size = (length & !STORED_BIT) as usize;
        if size > frame.max_block {
            return Err(corrupt("a block exceeds the frame's block size"));
        }
        let block = take(&mut rest, size)?;
        if frame.flags & BLOCK_CHECKSUM != 0 && take_u32(&mut rest)? != XxHash32::oneshot(0, block)
        {
            return Err(corrupt("a block checksum is wrong"));
        }
        if length & STORED_BIT != 0 {
            out.append_stored(block)?;
        } else {
            out.append_compressed(block, frame.max_block)?;
        }
    }
    out.bytes.truncate(out.len);
    if frame.flags & CONTENT_CHECKSUM != 0
        && take_u32(&mut rest)? != XxHash32::oneshot(0, &out.bytes)
    {
        return Err(corrupt("its content checksum is wrong"));
    }
    if frame
        .content_size
        .is_some_and(|size| size != out.len as u64)
    {
        return Err(corrupt("its content size is wrong"));
    }
    if !rest.is_empty() {
        return Err(corrupt("bytes follow its frame"));
    }
    Ok(out.bytes)
}

/// What was unpacked so far, in front of zeroed space for more.
struct Output {
    bytes: Vec<u8>,
    len: usize,
    budget: usize,
}

impl Output {
    fn append_stored(&mut self, block: &[u8]) -> Result<(), DecompressError> {
        let end = self.len + block.len();
        if end > self.budget {
            return Err(DecompressError::TooLarge {
                budget: self.budget,
            });
        }
        if self.bytes.len() < end {
            lengthen(&mut self.bytes, end, self.budget);
        }
        let space = self
            .bytes
            .get_mut(self.len..end)
            .ok_or(corrupt("a block is empty"))?;
        space.copy_from_slice(block);
        self.len = end;
        Ok(())
    }

    /// A block says nothing of its unpacked size, so it is tried with the space at hand first,
    /// then with more, up to what the block size, the expansion and the budget allow.
    fn append_compressed(&mut self, block: &[u8], max_block: usize) -> Result<(), DecompressError> {
        let most = max_block.min(block.len().saturating_mul(MAX_EXPANSION));
        loop {
            let end = self.bytes.len().min(self.len + most);
            let space = self.bytes.get_mut(self.len..end).unwrap_or_default();
            let tried = space.len();
            match decompress_into(block, space) {
                Ok(written) => {
                    self.len += written;
                    return Ok(());
                }
                Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if tried < most => {}
                Err(_) => return Err(corrupt("a block does not unpack")),
            }
            let capacity =
                next_capacity(self.bytes.len(), self.budget).ok_or(DecompressError::TooLarge {
                    budget: self.budget,
                })?;
            lengthen(&mut self.bytes, capacity, self.budget);
        }
    }
}

/// Levels 1 to 17 as `compression.lz4.level` (KIP-390) has them; this compressor has one speed.
pub(super) fn compress(input: &[u8], level: Option<i32>) -> Result<Vec<u8>, CompressError> {
    let codec = Codec::Lz4;
    if let Some(level) = level.filter(|level| !(1..=17).contains(level)) {
        return Err(CompressError::Level { codec, level });
    }
    let mut out = Vec::with_capacity(HEADER.len() + END_MARK.len() + input.len() / 2);
    out.extend(HEADER);
    let mut table = CompressTable::default();
    let mut packed = vec![0; get_maximum_output_size(BLOCK.min(input.len()))];
    for block in input.chunks(BLOCK) {
        let written =
            compress_into_with_table(block, &mut packed, &mut table).map_err(|error| {
                CompressError::Failed {
                    codec,
                    cause: error.to_string(),
                }
            })?;
        let (bytes, stored) = if written < block.len() {
            (&packed[..written], 0)
        } else {
            (block, STORED_BIT)
        };
        let length = u32::try_from(bytes.len()).expect("a block has at most 64 KiB");
        out.extend((length | stored).to_le_bytes());
        out.extend(bytes);
    }
    out.extend(END_MARK);
    Ok(out)
}
