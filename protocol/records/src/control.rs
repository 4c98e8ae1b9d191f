//! Control records: the markers that end a transaction (KIP-98), and a tolerant reading of the
//! other kinds, so that a log written by Kafka can be read.
//!
//! ```text
//! key:   version i16 = 0 | type i16        value of a marker: version i16 = 0 | coordinator_epoch i32
//! ```

use bytes::Bytes;

use crate::builder::{BatchBuilder, BuildError, NewRecord};
use crate::record::Record;

const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRecord {
    /// The producer's transaction ends here.
    EndTransaction {
        /// Whether it is committed or else aborted.
        committed: bool,
        /// Epoch of the transaction coordinator that decided.
        coordinator_epoch: i32,
    },
    /// Another type, such as those of Kafka's own metadata quorum; readers skip it.
    Other(i16),
}

/// Bytes that are no control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed control record: {0}")]
pub struct ControlRecordError(&'static str);

impl ControlRecord {
    /// Reads a record of a control batch. Later versions are read as the first: Kafka only ever
    /// appends fields.
    ///
    /// # Errors
    /// [`ControlRecordError`] for a missing or short key, a negative version, or a marker
    /// without its value.
    pub fn parse(record: &Record<'_>) -> Result<ControlRecord, ControlRecordError> {
        let key = record.key.ok_or(ControlRecordError("it has no key"))?;
        let (version, rest) = split_i16(key).ok_or(ControlRecordError("its key is too short"))?;
        let (kind, _) = split_i16(rest).ok_or(ControlRecordError("its key is too short"))?;
        if version < 0 {
            return Err(ControlRecordError("its key has a negative version"));
        }
        if kind != ABORT && kind != COMMIT {
            return Ok(ControlRecord::Other(kind));
        }
        let value = record.value.ok_or(ControlRecordError("it has no value"))?;
        let short = ControlRecordError("its value is too short");
        let (version, rest) = split_i16(value).ok_or(short)?;
        let (epoch, _) = rest.split_first_chunk().ok_or(short)?;
        if version < 0 {
            return Err(ControlRecordError("its value has a negative version"));
        }
        Ok(ControlRecord::EndTransaction {
            committed: kind == COMMIT,
            coordinator_epoch: i32::from_be_bytes(*epoch),
        })
    }
}

fn split_i16(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((i16::from_be_bytes(*number), rest))
}

/// The control batch that ends a producer's transaction on a partition.
///
/// # Errors
/// None that a valid time could cause; [`BuildError`] is passed on from the builder.
pub fn end_transaction_marker(
    producer_id: i64,
    producer_epoch: i16,
    committed: bool,
    coordinator_epoch: i32,
    now_ms: i64,
) -> Result<Bytes, BuildError> {
    let kind = if committed { COMMIT } else { ABORT };
    let mut key = [0; 4];
    key[2..].copy_from_slice(&kind.to_be_bytes());
    let mut value = [0; 6];
    value[2..].copy_from_slice(&coordinator_epoch.to_be_bytes());
    let mut builder = BatchBuilder::new()
        .producer(producer_id, producer_epoch, -1)
        .transactional()
        .control();
    builder.push(&NewRecord {
        timestamp: now_ms,
        key: Some(&key),
        value: Some(&value),
        headers: &[],
    })?;
    builder.build()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

    use super::*;
    use crate::header::{BatchHeader, batch_crc_ok};
    use crate::record::{RecordSet, Records};

    fn parse(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<ControlRecord, ControlRecordError> {
        let bare = Records::new(&[12, 0, 0, 0, 1, 1, 0], 1)
            .next()
            .unwrap()
            .unwrap();
        ControlRecord::parse(&Record { key, value, ..bare })
    }

    #[test]
    fn markers_read_back() {
        for committed in [true, false] {
            let batch = end_transaction_marker(7, 3, committed, 31, 1000).unwrap();
            assert!(batch_crc_ok(&batch));
            let header = BatchHeader::parse(&batch).unwrap();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch), (7, 3));
            assert_eq!(header.base_sequence, -1);
            let set = RecordSet::open(&batch, &header, 0).unwrap();
            let read = ControlRecord::parse(&set.iter().next().unwrap().unwrap());
            let coordinator_epoch = 31;
            assert_eq!(
                read,
                Ok(ControlRecord::EndTransaction {
                    committed,
                    coordinator_epoch
                })
            );
        }
    }

    #[test]
    fn other_types_are_told_apart_from_malformed_ones() {
        assert_eq!(
            parse(Some(&[0, 0, 0, 2]), None),
            Ok(ControlRecord::Other(2))
        );
        let later = parse(Some(&[0, 1, 0, 1, 9]), Some(&[0, 1, 0, 0, 0, 5, 9]));
        let committed = ControlRecord::EndTransaction {
            committed: true,
            coordinator_epoch: 5,
        };
        assert_eq!(later, Ok(committed));
        for (key, value) in [
            (None, None),
            (Some(&[0, 0, 0][..]), None),
            (Some(&[0xff, 0xff, 0, 1]), Some(&[0, 0, 0, 0, 0, 5][..])),
            (Some(&[0, 0, 0, 1]), None),
            (Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0])),
            (Some(&[0, 0, 0, 1]), Some(&[0xff, 0, 0, 0, 0, 5])),
        ] {
            assert!(parse(key, value).is_err(), "{key:?} {value:?}");
        }
    }
}
