//! Records of outcomes as record batches, and back.

use bytes::Bytes;
use klamm_coordinator::records::GroupRecord;
use klamm_records::{BatchBuilder, BuildError, Codec, NewRecord};

/// A record in a batch costs at most so many bytes besides key and value: lengths, deltas, attributes.
const RECORD_OVERHEAD: usize = 32;

/// Gathers the records of several outcomes into as few batches as the topic's limit allows.
///
/// Records of one outcome share a batch, so that all of them are in the log or none; unless they are
/// too large together, which the rules avoid.
pub struct Batches {
    limit: usize,
    now_ms: i64,
    codec: Codec,
    open: BatchBuilder,
    sealed: Vec<Bytes>,
}

impl Batches {
    /// Batches of at most `limit` bytes (`max.message.bytes`). A single record that is larger has a
    /// batch of its own: nobody could shorten it.
    pub fn new(limit: usize, codec: Codec, now_ms: i64) -> Batches {
        Batches {
            limit,
            now_ms,
            codec,
            open: BatchBuilder::new().compression(codec, None),
            sealed: Vec::new(),
        }
    }

    /// Adds the records of one outcome.
    ///
    /// # Errors
    /// [`BuildError`] for a record that no batch can hold.
    pub fn add(&mut self, records: &[GroupRecord]) -> Result<(), BuildError> {
        let encoded: Vec<(Bytes, Option<Bytes>)> =
            records.iter().map(GroupRecord::encode).collect();
        let size = |(key, value): &(Bytes, Option<Bytes>)| {
            RECORD_OVERHEAD + key.len() + value.as_ref().map_or(0, Bytes::len)
        };
        let total: usize = encoded.iter().map(size).sum();
        if self.open.size() + total > self.limit {
            self.seal()?;
        }
        for record in &encoded {
            if self.open.size() + size(record) > self.limit {
                self.seal()?;
            }
            self.open.push(&NewRecord {
                timestamp: self.now_ms,
                key: Some(&record.0),
                value: record.1.as_deref(),
                headers: &[],
            })?;
        }
        Ok(())
    }

    /// Batches that hold something so far.
    pub fn count(&self) -> usize {
        self.sealed.len() + usize::from(self.open.record_count() > 0)
    }

    /// Bytes gathered in the open batch, to bound a drain.
    pub fn open_bytes(&self) -> usize {
        self.open.size()
    }

    /// The batches, in order.
    ///
    /// # Errors
    /// [`BuildError`] if a batch cannot be sealed.
    pub fn finish(mut self) -> Result<Vec<Bytes>, BuildError> {
        self.seal()?;
        Ok(self.sealed)
    }

    fn seal(&mut self) -> Result<(), BuildError> {
        if self.open.record_count() > 0 {
            let fresh = BatchBuilder::new().compression(self.codec, None);
            self.sealed
                .push(std::mem::replace(&mut self.open, fresh).build()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use klamm_records::{BatchHeader, RecordSet};

    use super::*;

    fn tombstones(group: &str, count: i32) -> Vec<GroupRecord> {
        let tombstone = |partition| GroupRecord::OffsetCommit {
            group: Arc::from(group),
            topic: Arc::from("topic"),
            partition,
            value: None,
        };
        (0..count).map(tombstone).collect()
    }

    fn counts(batches: &[Bytes]) -> Vec<i32> {
        let header = |batch: &Bytes| BatchHeader::parse(batch).expect("a batch").record_count;
        batches.iter().map(header).collect()
    }

    #[test]
    fn outcomes_share_a_batch_and_are_not_split() {
        let mut batches = Batches::new(450, Codec::None, 7);
        assert_eq!(batches.count(), 0);
        for _ in 0..4 {
            batches.add(&tombstones("group", 4)).expect("fits");
        }
        assert_eq!(batches.count(), 2);
        let batches = batches.finish().expect("fits");
        assert_eq!(counts(&batches), [8, 8]);
        assert!(batches.iter().all(|batch| batch.len() <= 450));
    }

    #[test]
    fn an_outcome_that_is_too_large_alone_is_split() {
        let mut batches = Batches::new(600, Codec::None, 7);
        batches.add(&tombstones("group", 2)).expect("fits");
        batches.add(&tombstones("group", 30)).expect("fits");
        let batches = batches.finish().expect("fits");
        assert!(batches.iter().all(|batch| batch.len() <= 600));
        assert_eq!(counts(&batches).iter().sum::<i32>(), 32);
        assert_eq!(counts(&batches).first(), Some(&2));
    }

    #[test]
    fn a_record_above_the_limit_has_a_batch_of_its_own() {
        let mut batches = Batches::new(300, Codec::None, 7);
        batches.add(&tombstones("a", 1)).expect("fits");
        batches
            .add(&tombstones(&"g".repeat(1000), 1))
            .expect("fits");
        batches.add(&tombstones("b", 1)).expect("fits");
        assert_eq!(counts(&batches.finish().expect("fits")), [1, 1, 1]);
    }

    #[test]
    fn records_come_back_in_order_and_compressed_if_asked() {
        let mut batches = Batches::new(1 << 20, Codec::Lz4, 7);
        let records = tombstones("group", 100);
        batches.add(&records).expect("fits");
        let batch = batches.finish().expect("fits").remove(0);
        let header = BatchHeader::parse(&batch).expect("a batch");
        assert_eq!(header.codec(), Ok(Codec::Lz4));
        let set = RecordSet::open(&batch, &header, 1 << 20).expect("readable");
        let back: Vec<GroupRecord> = set
            .iter()
            .map(|record| {
                let record = record.expect("a record");
                let key = record.key.expect("a key");
                GroupRecord::decode(key, record.value)
                    .expect("readable")
                    .expect("known")
            })
            .collect();
        assert_eq!(back, records);
    }
}
