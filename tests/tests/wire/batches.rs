//! Record batches, whole and damaged, and what comes back of them.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use klamm_records::{
    BatchBuilder, BatchHeader, Codec, NewRecord, RecordSet, SplitError, batch_crc_ok, split_batches,
};

/// Decompressed bytes that a batch of a test may have.
const BUDGET: usize = 64 << 20;

/// The clock, in ms.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is set");
    i64::try_from(since.as_millis()).expect("before the year 292 million")
}

/// A batch of values with the present time.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    fill(BatchBuilder::new(), values)
}

/// Values with the present time, pushed into a builder that a test has set up.
pub(crate) fn fill(builder: BatchBuilder, values: &[&str]) -> Bytes {
    let now = now_ms();
    let records: Vec<_> = values.iter().map(|value| (now, *value)).collect();
    dated(builder, &records)
}

/// Values with their timestamps.
pub(crate) fn dated(mut builder: BatchBuilder, records: &[(i64, &str)]) -> Bytes {
    for (timestamp, value) in records {
        let record = NewRecord {
            timestamp: *timestamp,
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.push(&record).expect("small");
    }
    builder.build().expect("not empty")
}

/// A batch of an idempotent producer, one record.
pub(crate) fn numbered(producer: (i64, i16), sequence: i32) -> Bytes {
    let (producer_id, producer_epoch) = producer;
    let builder = BatchBuilder::new().producer(producer_id, producer_epoch, sequence);
    fill(builder, &[&format!("sequence {sequence}")])
}

/// One record of that many bytes.
pub(crate) fn sized(bytes: usize) -> Bytes {
    batch(&[&"x".repeat(bytes)])
}

/// A batch of exactly `total` bytes, header included: two records, so that no length field is
/// about to grow.
pub(crate) fn of_total(total: usize) -> Bytes {
    let half = "x".repeat(total / 2);
    let with = |filling: usize| batch(&[&half, &"y".repeat(filling)]);
    let filling = total / 2 - 100;
    let batch = with(filling + total - with(filling).len());
    assert_eq!(
        batch.len(),
        total,
        "a byte more of value is a byte more of batch"
    );
    batch
}

/// Changes bytes of a batch and makes its CRC right again.
pub(crate) fn patched(batch: &[u8], at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    reseal(batch)
}

/// A batch with the header of `like` over other bytes, which are said to be in that codec.
pub(crate) fn with_records(like: &[u8], codec: Codec, records: &[u8]) -> Bytes {
    let number = Codec::ALL
        .iter()
        .position(|other| *other == codec)
        .expect("all are in it");
    let attributes = i16::try_from(number).expect("five codecs");
    let mut batch = like[..klamm_records::BATCH_HEADER_LEN].to_vec();
    batch.extend_from_slice(records);
    let length = i32::try_from(batch.len() - klamm_records::BATCH_LENGTH_OVERHEAD).expect("small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    reseal(batch)
}

fn reseal(mut batch: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Seen {
    /// The value as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }
}

/// Whole batches of a Fetch answer; a partial one at the end is let be.
pub(crate) fn headers(records: &Bytes) -> Result<Vec<(BatchHeader, Bytes)>> {
    let mut whole = Vec::new();
    for batch in split_batches(records) {
        match batch {
            Ok((header, bytes)) => {
                ensure!(
                    batch_crc_ok(&bytes),
                    "batch at {} has a wrong CRC",
                    header.base_offset
                );
                whole.push((header, bytes));
            }
            Err(SplitError::Incomplete) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(whole)
}

/// Records of a Fetch answer.
pub(crate) fn records(bytes: &Bytes) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for (header, batch) in headers(bytes)? {
        let set = RecordSet::open(&batch, &header, BUDGET)?;
        for record in &set {
            let record = record.with_context(|| format!("batch at {}", header.base_offset))?;
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            let headers = record
                .headers
                .map(|(key, value)| (key.to_vec(), owned(value)));
            seen.push(Seen {
                offset: record.offset(&header),
                timestamp: record.timestamp(&header),
                key: owned(record.key),
                value: owned(record.value),
                headers: headers.collect(),
            });
        }
    }
    Ok(seen)
}
