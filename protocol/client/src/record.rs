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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn message() -> impl Strategy<Value = NewMessage> {
        let header = (bytes(), option::of(bytes())).prop_map(|(key, value)| Header { key, value });
        (
            option::of(bytes()),
            option::of(bytes()),
            vec(header, 0..4),
            0..1_i64 << 50,
        )
            .prop_map(|(key, value, headers, timestamp)| NewMessage {
                key,
                value,
                headers,
                timestamp: Some(timestamp),
            })
    }

    fn codec() -> impl Strategy<Value = Codec> {
        proptest::sample::select(Codec::ALL.to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn batches_round_trip(messages in vec(message(), 1..20), codec in codec(), from in 0_i64..20) {
            let batch = encode_batch(messages.iter(), codec, None).unwrap();
            let decoded = decode_batches(batch, from).unwrap();
            let count = messages.len() as i64;
            prop_assert_eq!(decoded.next_offset, count.max(from));
            prop_assert!(!decoded.cut);
            let expected = (0..).zip(messages).skip(from as usize).map(|(offset, new)| Message {
                offset,
                timestamp: new.timestamp.unwrap(),
                key: new.key,
                value: new.value,
                headers: new.headers,
            });
            prop_assert_eq!(decoded.messages, expected.collect::<Vec<_>>());
        }

        #[test]
        fn a_cut_batch_is_left_for_the_next_fetch(messages in vec(message(), 1..5), cut in any::<prop::sample::Index>()) {
            let whole = encode_batch(messages.iter(), Codec::None, None).unwrap();
            let mut two = whole.to_vec();
            let rest = whole.slice(..cut.index(whole.len() - 1) + 1);
            two.extend_from_slice(&rest);
            let decoded = decode_batches(two.into(), 0).unwrap();
            prop_assert_eq!(decoded.messages.len(), messages.len());
            prop_assert_eq!(decoded.next_offset, messages.len() as i64);
            prop_assert!(decoded.cut);
        }

        #[test]
        fn noise_is_an_error_and_nothing_worse(noise in vec(any::<u8>(), 0..200)) {
            if let Ok(decoded) = decode_batches(noise.into(), 0) {
                prop_assert!(decoded.messages.is_empty());
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let message = NewMessage {
            value: Some("value".into()),
            timestamp: Some(1),
            ..NewMessage::default()
        };
        let mut batch = encode_batch([message].iter(), Codec::None, None)
            .unwrap()
            .to_vec();
        *batch.last_mut().unwrap() ^= 1;
        assert!(
            decode_batches(batch.into(), 0)
                .unwrap_err()
                .contains("checksum")
        );
    }

    #[test]
    fn sequences_start_again_at_zero() {
        let at = |base| Sequence {
            producer_id: 1,
            producer_epoch: 0,
            base,
        };
        assert_eq!(at(0).after(5), at(5));
        assert_eq!(at(i32::MAX - 1).after(1), at(i32::MAX));
        assert_eq!(at(i32::MAX).after(1), at(0));
        assert_eq!(at(i32::MAX - 1).after(4), at(2));
    }
}
