//! What holds a block together: its header, which is its trailer too, and its table of frames. How
//! they lie in it: `format.rs`.

use bytes::{Buf, BufMut};
use klamm_records::GroupId;

use crate::disk::DIRECT_ALIGN;

/// Blocks begin at multiples of this, so that no write touches a page that is already durable.
pub(crate) const BLOCK_ALIGN: u64 = DIRECT_ALIGN;
pub(crate) const BLOCK_HEADER_LEN: usize = 48;
/// Version of blocks written by this program.
pub(crate) const BLOCK_VERSION: u16 = 3;
/// From this version on, frames and table are bound to their block.
const FIRST_BOUND: u16 = 3;
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"KLMJ");
pub(super) const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"KLMT");

/// Header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// Version of the block.
    pub(crate) version: u16,
    /// The store's own number.
    pub(crate) salt: u64,
    /// Sequence number of the file it was written to; a recycled file holds blocks of others.
    pub(crate) file_seq: u64,
    /// Counts all blocks of the journal.
    pub(crate) block_seq: u64,
    /// Bytes of frames and repeats behind the header.
    pub(crate) payload_len: u32,
    /// Number of frames in them, repeats not counted.
    pub(crate) frame_count: u32,
    /// Bytes of the table.
    pub(crate) table_len: u32,
}

impl BlockHeader {
    /// Reads a header whose magic and CRC are right.
    pub(crate) fn parse(bytes: &[u8]) -> Option<BlockHeader> {
        BlockHeader::parse_as(MAGIC, bytes)
    }

    /// Reads the header from the trailer at the end of `page`, if that is the last page of a block.
    pub(crate) fn parse_trailer(page: &[u8]) -> Option<BlockHeader> {
        let at = page.len().checked_sub(BLOCK_HEADER_LEN)?;
        BlockHeader::parse_as(TRAILER_MAGIC, page.get(at..)?)
    }

    fn parse_as(magic: u32, bytes: &[u8]) -> Option<BlockHeader> {
        let bytes = bytes.get(..BLOCK_HEADER_LEN)?;
        let (covered, mut crc) = bytes.split_at_checked(BLOCK_HEADER_LEN - 4)?;
        let mut b = covered;
        // First, for most pages that are looked at are none.
        if b.try_get_u32_le().ok()? != magic {
            return None;
        }
        if crc.try_get_u32_le().ok()? != crc32c::crc32c(covered) {
            return None;
        }
        let version = b.try_get_u16_le().ok()?;
        b.try_get_u16_le().ok()?;
        Some(BlockHeader {
            version,
            salt: b.try_get_u64_le().ok()?,
            file_seq: b.try_get_u64_le().ok()?,
            block_seq: b.try_get_u64_le().ok()?,
            payload_len: b.try_get_u32_le().ok()?,
            frame_count: b.try_get_u32_le().ok()?,
            table_len: b.try_get_u32_le().ok()?,
        })
    }

    pub(super) fn encode(&self, magic: u32) -> [u8; BLOCK_HEADER_LEN] {
        let mut out = Vec::with_capacity(BLOCK_HEADER_LEN);
        out.put_u32_le(magic);
        out.put_u16_le(self.version);
        out.put_u16_le(0);
        out.put_u64_le(self.salt);
        out.put_u64_le(self.file_seq);
        out.put_u64_le(self.block_seq);
        out.put_u32_le(self.payload_len);
        out.put_u32_le(self.frame_count);
        out.put_u32_le(self.table_len);
        out.put_u32_le(crc32c::crc32c(&out));
        let mut header = [0; BLOCK_HEADER_LEN];
        header.copy_from_slice(&out);
        header
    }

    /// What the CRCs of its frame headers and of its table begin with.
    pub(super) fn binding(&self) -> u32 {
        match self.version < FIRST_BOUND {
            true => 0,
            false => binding(self.salt, self.block_seq),
        }
    }

    /// Bytes the block takes in the file, padding included.
    pub(crate) fn disk_len(&self) -> u64 {
        let behind = match self.version {
            1 => 0,
            _ => u64::from(self.table_len) + BLOCK_HEADER_LEN as u64,
        };
        (BLOCK_HEADER_LEN as u64 + u64::from(self.payload_len) + behind)
            .next_multiple_of(BLOCK_ALIGN)
    }

    /// The table in `rest`, which is the block from behind its header to its end.
    pub(super) fn table<'a>(&self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let end = rest.len().checked_sub(BLOCK_HEADER_LEN)?;
        rest.get(end.checked_sub(self.table_len as usize)?..end)
    }
}

/// Binds the parts of a block to it. No two blocks that could lie in one place of a file have the same.
pub(super) fn binding(salt: u64, block_seq: u64) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c(&salt.to_le_bytes()),
        &block_seq.to_le_bytes(),
    )
}

/// A frame as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    pub(super) group: GroupId,
    pub(super) op: u64,
    pub(super) payload_len: u64,
}

impl TableEntry {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for mut number in [self.group.0, self.op, self.payload_len] {
            while number >= 0x80 {
                out.put_u8(number as u8 | 0x80);
                number >>= 7;
            }
            out.put_u8(number as u8);
        }
    }
}

/// Reads a block's table; `None` if it is damaged, or that of another block.
pub(super) fn read_table(binding: u32, table: &[u8]) -> Option<Vec<TableEntry>> {
    let (mut entries, mut crc) = table.split_at_checked(table.len().checked_sub(4)?)?;
    if crc.try_get_u32_le().ok()? != crc32c::crc32c_append(binding, entries) {
        return None;
    }
    let mut number = || -> Option<u64> {
        let (mut number, mut shift) = (0_u64, 0);
        loop {
            let byte = entries.try_get_u8().ok()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
            shift += 7;
        }
    };
    let mut read = Vec::new();
    while let Some(group) = number() {
        read.push(TableEntry {
            group: GroupId(group),
            op: number()?,
            payload_len: number()?,
        });
    }
    Some(read)
}
