//! Records as the caller sees them, and their way into and out of record batches.
//!
//! Keys, values and headers are slices of the frame they came in; nothing is copied unless the
//! batch was compressed.

use bytes::Bytes;
use klamm_records::{
    BatchBuilder, BatchHeader, Codec, MAGIC_V2, NewRecord, RecordSet, batch_crc_ok,
};

use crate::error::Error;

/// Most bytes the records of one batch may decompress to.
const DECOMPRESS_BUDGET: usize = 256 * 1024 * 1024;

/// One header of a record. Keys may repeat; their order is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Meant to be UTF-8, which nothing enforces.
    pub key: Bytes,
    /// `None` is a null value.
    pub value: Option<Bytes>,
}

/// A record on its way to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// Key; decides the partition when none is given.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    /// Headers in their order.
    pub headers: Vec<Header>,
    /// Time in ms since 1970; `None` is the time at which it is handed over.
    pub timestamp: Option<i64>,
}

/// A record read from a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its place in the partition.
    pub offset: i64,
    /// In ms since 1970; -1 for none.
    pub timestamp: i64,
    /// Key.
    pub key: Option<Bytes>,
    /// Value.
    pub value: Option<Bytes>,
    /// Headers in their order.
    pub headers: Vec<Header>,
}

/// The identity and place in the sequence that make a batch idempotent (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base: i32,
}

impl Sequence {
    /// The place in the sequence after `count` records. Past the largest it starts again at 0.
    pub(crate) fn after(self, count: usize) -> Sequence {
        let next = (self.base as i64 + count as i64) % (i64::from(i32::MAX) + 1);
        Sequence {
            base: i32::try_from(next).expect("below 2^31"),
            ..self
        }
    }
}

/// One batch of messages, whose timestamps must be set by now.
pub(crate) fn encode_batch<'a>(
    messages: impl Iterator<Item = &'a NewMessage>,
    codec: Codec,
    sequence: Option<Sequence>,
) -> Result<Bytes, Error> {
    let refused = |reason: String| Error::Batch { reason };
    let mut builder = BatchBuilder::new().compression(codec, None);
    if let Some(Sequence {
        producer_id,
        producer_epoch,
        base,
    }) = sequence
    {
        builder = builder.producer(producer_id, producer_epoch, base);
    }
    let mut headers: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
    for message in messages {
        headers.clear();
        headers.extend(
            message
                .headers
                .iter()
                .map(|header| (&header.key[..], header.value.as_deref())),
        );
        let record = NewRecord {
            timestamp: message.timestamp.unwrap_or(klamm_records::NO_TIMESTAMP),
            key: message.key.as_deref(),
            value: message.value.as_deref(),
            headers: &headers,
        };
        builder
            .push(&record)
            .map_err(|error| refused(error.to_string()))?;
    }
    builder.build().map_err(|error| refused(error.to_string()))
}

/// What a fetched run of batches holds.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) messages: Vec<Message>,
    /// Offset after the last whole batch; the offset asked for when there is none.
    pub(crate) next_offset: i64,
    /// Whether a batch at the end was cut off by the broker's byte limit.
    pub(crate) cut: bool,
}

/// Reads the messages at or after `from`. The first batch may begin before `from`, because a
/// broker sends whole batches, and the last may be cut. Control batches hold no messages.
pub(crate) fn decode_batches(mut records: Bytes, from: i64) -> Result<Decoded, String> {
    let mut decoded = Decoded {
        messages: Vec::new(),
        next_offset: from,
        cut: false,
    };
    while !records.is_empty() {
        let Some(header) = BatchHeader::parse(&records) else {
            decoded.cut = true;
            break;
        };
        if header.magic != MAGIC_V2 {
            return Err(format!(
                "batch at offset {} has format {}",
                header.base_offset, header.magic
            ));
        }
        let len = header.total_len();
        let len = len
            .ok_or_else(|| format!("batch at offset {} has no sound length", header.base_offset))?;
        if len > records.len() {
            decoded.cut = true;
            break;
        }
        let batch = records.split_to(len);
        if !batch_crc_ok(&batch) {
            return Err(format!(
                "batch at offset {} fails its checksum",
                header.base_offset
            ));
        }
        if !header.is_control() {
            decode_batch(&batch, &header, from, &mut decoded.messages)
                .map_err(|error| format!("batch at offset {}: {error}", header.base_offset))?;
        }
        decoded.next_offset = decoded.next_offset.max(header.next_offset());
    }
    Ok(decoded)
}

fn decode_batch(
    batch: &Bytes,
    header: &BatchHeader,
    from: i64,
    messages: &mut Vec<Message>,
) -> Result<(), klamm_records::ReadError> {
    let set = RecordSet::open(batch, header, DECOMPRESS_BUDGET)?;
    for record in &set {
        let record = record?;
        let offset = record.offset(header);
        if offset < from {
            continue;
        }
        let slice = |bytes: &[u8]| set.bytes().slice_ref(bytes);
        let headers = record.headers.map(|(key, value)| Header {
            key: slice(key),
            value: value.map(slice),
        });
        messages.push(Message {
            offset,
            timestamp: record.timestamp(header),
            key: record.key.map(slice),
            value: record.value.map(slice),
            headers: headers.collect(),
        });
    }
    Ok(())
}
