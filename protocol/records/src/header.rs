//! The 61-byte header of a record batch v2 (KIP-98), read without copying the batch.
//!
//! `base_offset`, `batch_length` and `partition_leader_epoch` lie outside the CRC, so a broker
//! assigns offsets and epoch by writing the first 16 bytes anew ([`BatchHeader::stamp`]).

/// Bytes before the first record of a batch.
pub const BATCH_HEADER_LEN: usize = 61;
/// Bytes of a batch that `batch_length` does not count: base offset and the length itself.
pub const BATCH_LENGTH_OVERHEAD: usize = 12;
/// Bytes at the start of a batch that a broker overwrites: base offset, length, leader epoch.
pub const STAMP_LEN: usize = 16;

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
        let len = usize::try_from(self.batch_length).ok()?.checked_add(BATCH_LENGTH_OVERHEAD)?;
        (len >= BATCH_HEADER_LEN).then_some(len)
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Whether the batch holds control records (KIP-98: transaction markers).
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Whether record timestamps are the broker's (LogAppendTime).
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    /// The first [`STAMP_LEN`] bytes of the batch with an assigned offset and leader epoch.
    pub fn stamp(&self, base_offset: i64, leader_epoch: i32) -> [u8; STAMP_LEN] {
        let mut out = [0; STAMP_LEN];
        out[..8].copy_from_slice(&base_offset.to_be_bytes());
        out[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        out[12..].copy_from_slice(&leader_epoch.to_be_bytes());
        out
    }
}
