//! The 61-byte header of a record batch v2 (KIP-98), read without copying the batch.
//!
//! `base_offset`, `batch_length` and `partition_leader_epoch` lie outside the CRC, so a broker
//! assigns offsets and epoch by writing the first 16 bytes anew ([`BatchHeader::stamp`]).
//!
//! ```text
//!  0 base_offset i64          21 attributes i16             43 producer_id i64
//!  8 batch_length i32         23 last_offset_delta i32      51 producer_epoch i16
//! 12 leader_epoch i32         27 base_timestamp i64         53 base_sequence i32
//! 16 magic i8, 17 crc u32     35 max_timestamp i64          57 record_count i32, 61 records
//! ```

use crate::compression::{Codec, UnsupportedCodec};
use crate::sequence::sequence_after;

/// Bytes before the first record of a batch.
pub const BATCH_HEADER_LEN: usize = 61;
/// Bytes of a batch that `batch_length` does not count: base offset and the length itself.
pub const BATCH_LENGTH_OVERHEAD: usize = 12;
/// Bytes at the start of a batch that a broker overwrites: base offset, length, leader epoch.
pub const STAMP_LEN: usize = 16;
/// The only record batch format a produce request of version 3 and later may carry.
pub const MAGIC_V2: i8 = 2;
/// A record without a timestamp.
pub const NO_TIMESTAMP: i64 = -1;

/// Where the CRC begins: at the attributes.
const CRC_FROM: usize = 21;

pub(crate) const TIMESTAMP_TYPE_BIT: i16 = 0x08;
pub(crate) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(crate) const CONTROL_BIT: i16 = 0x20;
pub(crate) const DELETE_HORIZON_BIT: i16 = 0x40;

/// Whose clock a record's timestamp comes from: the topic setting `message.timestamp.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer's clock, per record.
    #[default]
    CreateTime,
    /// The broker's clock at append, one for the whole batch.
    LogAppendTime,
}

/// The decoded header. Plain numbers as on the wire; nothing is validated beyond their presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes that follow the length field.
    pub batch_length: i32,
    /// Leader epoch in which the batch was appended; -1 from a client.
    pub partition_leader_epoch: i32,
    /// Format version: 2.
    pub magic: i8,
    /// CRC-32C from `attributes` to the end.
    pub crc: u32,
    /// Compression, timestamp type and the transactional, control and delete-horizon bits.
    pub attributes: i16,
    /// Offset of the last record relative to `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp that record timestamps are relative to, in ms.
    pub base_timestamp: i64,
    /// Largest timestamp of the batch, in ms.
    pub max_timestamp: i64,
    /// Idempotent or transactional producer, else -1.
    pub producer_id: i64,
    /// Epoch of the producer, else -1.
    pub producer_epoch: i16,
    /// Sequence number of the first record, else -1.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

impl BatchHeader {
    /// Header of a batch without records, offsets, producer or epoch; length and CRC are to be computed.
    pub const BLANK: BatchHeader = BatchHeader {
        base_offset: 0,
        batch_length: 0,
        partition_leader_epoch: -1,
        magic: MAGIC_V2,
        crc: 0,
        attributes: 0,
        last_offset_delta: -1,
        base_timestamp: NO_TIMESTAMP,
        max_timestamp: NO_TIMESTAMP,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 0,
    };
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl BatchHeader {
    /// Reads a header; `None` when fewer than [`BATCH_HEADER_LEN`] bytes are there.
    pub fn parse(bytes: &[u8]) -> Option<BatchHeader> {
        let bytes = bytes.get(..BATCH_HEADER_LEN)?;
        Some(BatchHeader {
            base_offset: i64::from_be_bytes(array(bytes, 0)?),
            batch_length: i32::from_be_bytes(array(bytes, 8)?),
            partition_leader_epoch: i32::from_be_bytes(array(bytes, 12)?),
            magic: i8::from_be_bytes(array(bytes, 16)?),
            crc: u32::from_be_bytes(array(bytes, 17)?),
            attributes: i16::from_be_bytes(array(bytes, 21)?),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)?),
            base_timestamp: i64::from_be_bytes(array(bytes, 27)?),
            max_timestamp: i64::from_be_bytes(array(bytes, 35)?),
            producer_id: i64::from_be_bytes(array(bytes, 43)?),
            producer_epoch: i16::from_be_bytes(array(bytes, 51)?),
            base_sequence: i32::from_be_bytes(array(bytes, 53)?),
            record_count: i32::from_be_bytes(array(bytes, 57)?),
        })
    }

    /// Size of the whole batch in bytes, header included; `None` when the length field is
    /// negative or too small for a header.
    pub fn total_len(&self) -> Option<usize> {
        let len = usize::try_from(self.batch_length)
            .ok()?
            .checked_add(BATCH_LENGTH_OVERHEAD)?;
        (len >= BATCH_HEADER_LEN).then_some(len)
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset
            .saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Whether the batch holds control records (KIP-98: transaction markers).
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether record timestamps are the broker's (LogAppendTime).
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE_BIT != 0
    }

    /// Which clock the record timestamps are of.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.is_log_append_time() {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// Whether `base_timestamp` is a delete horizon (KIP-534), set by compaction only.
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    /// Time in ms from which compaction may drop the tombstones or the marker of this batch.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        self.has_delete_horizon().then_some(self.base_timestamp)
    }

    /// Compression of the records; the codes 5 to 7 mean nothing.
    pub fn codec(&self) -> Result<Codec, UnsupportedCodec> {
        Codec::from_attributes(self.attributes)
    }

    /// Whether an idempotent or transactional producer wrote the batch.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// Sequence number of the last record, which follows 2^31-1 with 0; -1 without sequence.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        sequence_after(self.base_sequence, self.last_offset_delta)
    }

    /// The first [`STAMP_LEN`] bytes of the batch with an assigned offset and leader epoch.
    pub fn stamp(&self, base_offset: i64, leader_epoch: i32) -> [u8; STAMP_LEN] {
        let mut out = [0; STAMP_LEN];
        out[..8].copy_from_slice(&base_offset.to_be_bytes());
        out[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        out[12..].copy_from_slice(&leader_epoch.to_be_bytes());
        out
    }

    /// The header's bytes, with `crc` as it stands in the field.
    pub fn encode(&self) -> [u8; BATCH_HEADER_LEN] {
        let mut out = [0; BATCH_HEADER_LEN];
        out[..STAMP_LEN]
            .copy_from_slice(&self.stamp(self.base_offset, self.partition_leader_epoch));
        out[16..17].copy_from_slice(&self.magic.to_be_bytes());
        out[17..21].copy_from_slice(&self.crc.to_be_bytes());
        out[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        out[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        out[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        out[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        out
    }

    /// The CRC that this header and these (compressed) records must carry.
    pub(crate) fn computed_crc(&self, records: &[u8]) -> u32 {
        let header = self.encode();
        crc32c::crc32c_append(crc32c::crc32c(&header[CRC_FROM..]), records)
    }
}

/// Whether `batch` begins with a whole batch whose CRC-32C is right. Bytes behind its length are
/// not looked at.
pub fn batch_crc_ok(batch: &[u8]) -> bool {
    let Some(header) = BatchHeader::parse(batch) else {
        return false;
    };
    let covered = header.total_len().and_then(|len| batch.get(CRC_FROM..len));
    covered.is_some_and(|covered| crc32c::crc32c(covered) == header.crc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_header() -> impl Strategy<Value = BatchHeader> {
        let numbers = (
            any::<i64>(),
            any::<i32>(),
            any::<i32>(),
            any::<i8>(),
            any::<u32>(),
        );
        let times = (any::<i16>(), any::<i32>(), any::<i64>(), any::<i64>());
        let producer = (any::<i64>(), any::<i16>(), any::<i32>(), any::<i32>());
        (numbers, times, producer).prop_map(|(n, t, p)| BatchHeader {
            base_offset: n.0,
            batch_length: n.1,
            partition_leader_epoch: n.2,
            magic: n.3,
            crc: n.4,
            attributes: t.0,
            last_offset_delta: t.1,
            base_timestamp: t.2,
            max_timestamp: t.3,
            producer_id: p.0,
            producer_epoch: p.1,
            base_sequence: p.2,
            record_count: p.3,
        })
    }

    /// A header with every field its own value, written by hand in the order of KIP-98.
    fn known() -> (BatchHeader, Vec<u8>) {
        let header = BatchHeader {
            base_offset: 1,
            batch_length: 2,
            partition_leader_epoch: 3,
            magic: 2,
            crc: 0xdead_beef,
            attributes: 0x31,
            last_offset_delta: 4,
            base_timestamp: 5,
            max_timestamp: 6,
            producer_id: 7,
            producer_epoch: 8,
            base_sequence: 9,
            record_count: 10,
        };
        let mut bytes = Vec::new();
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 2]);
        bytes.extend([0xde, 0xad, 0xbe, 0xef, 0, 0x31, 0, 0, 0, 4]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 8, 0, 0, 0, 9, 0, 0, 0, 10]);
        (header, bytes)
    }

    #[test]
    fn fields_lie_where_kip_98_puts_them() {
        let (header, bytes) = known();
        assert_eq!(header.encode().as_slice(), bytes);
        assert_eq!(BatchHeader::parse(&bytes), Some(header));
        assert_eq!(BatchHeader::parse(&bytes[..60]), None);
        assert!(header.is_control() && header.is_transactional() && !header.has_delete_horizon());
        assert_eq!(header.codec(), Ok(Codec::Gzip));
    }

    #[test]
    fn a_stamp_changes_only_offset_and_epoch() {
        let (header, bytes) = known();
        let mut stamped = header.stamp(77, 5).to_vec();
        stamped.extend(&bytes[STAMP_LEN..]);
        let expected = BatchHeader {
            base_offset: 77,
            partition_leader_epoch: 5,
            ..header
        };
        assert_eq!(BatchHeader::parse(&stamped), Some(expected));
    }

    #[test]
    fn lengths_too_small_for_a_header_are_no_lengths() {
        let (header, _) = known();
        let total = |batch_length| {
            BatchHeader {
                batch_length,
                ..header
            }
            .total_len()
        };
        assert_eq!(total(-1), None);
        assert_eq!(total(48), None);
        assert_eq!(total(49), Some(61));
        assert_eq!(total(i32::MAX), Some(i32::MAX as usize + 12));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let (header, _) = known();
        let last = |base_sequence, last_offset_delta| {
            BatchHeader {
                base_sequence,
                last_offset_delta,
                ..header
            }
            .last_sequence()
        };
        assert_eq!(last(i32::MAX, 0), i32::MAX);
        assert_eq!(last(i32::MAX, 1), 0);
        assert_eq!(last(i32::MAX - 1, 3), 1);
        assert_eq!(last(-1, 3), -1);
    }

    #[test]
    fn offsets_at_the_end_of_the_range_do_not_wrap() {
        let (header, _) = known();
        let high = BatchHeader {
            base_offset: i64::MAX,
            ..header
        };
        assert_eq!(
            (high.last_offset(), high.next_offset()),
            (i64::MAX, i64::MAX)
        );
    }

    proptest! {
        #[test]
        fn encode_and_parse_are_inverse(header in any_header()) {
            prop_assert_eq!(BatchHeader::parse(&header.encode()), Some(header));
        }
    }
}
