//! Finding batches in a sequence of them: a Produce field must hold exactly one, a Fetch answer
//! or a stretch of a segment file holds many.

use bytes::Bytes;

use crate::error::BatchError;
use crate::header::{BatchHeader, MAGIC_V2};

/// Bytes that are no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Fewer bytes than a header, or than the header's length: at the end of a Fetch answer cut
    /// by its size limit this is no fault.
    #[error("the last batch is incomplete")]
    Incomplete,
    /// The length field is negative or too small for a header.
    #[error("batch length {0} is too small for a batch")]
    Length(i32),
    /// A format other than 2, whose header says nothing to this reader.
    #[error("batch has magic {0}, not 2")]
    Magic(i8),
}

/// Iterator over the batches in some bytes, none copied, none checked beyond length and magic.
/// Ends after the first error.
#[derive(Clone, Debug)]
pub struct SplitBatches {
    rest: Bytes,
}

/// Splits bytes that hold batches one behind the other.
pub fn split_batches(records: &Bytes) -> SplitBatches {
    SplitBatches {
        rest: records.clone(),
    }
}

impl SplitBatches {
    fn split(&mut self) -> Result<(BatchHeader, Bytes), SplitError> {
        // The magic stands at the same place in every format, the length means the same.
        if let Some(&magic) = self.rest.get(16)
            && magic.cast_signed() != MAGIC_V2
        {
            return Err(SplitError::Magic(magic.cast_signed()));
        }
        let header = BatchHeader::parse(&self.rest).ok_or(SplitError::Incomplete)?;
        let len = header
            .total_len()
            .ok_or(SplitError::Length(header.batch_length))?;
        if len > self.rest.len() {
            return Err(SplitError::Incomplete);
        }
        Ok((header, self.rest.split_to(len)))
    }
}

impl Iterator for SplitBatches {
    type Item = Result<(BatchHeader, Bytes), SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = self.split();
        if split.is_err() {
            self.rest.clear();
        }
        Some(split)
    }
}

impl std::iter::FusedIterator for SplitBatches {}

/// The header of the one batch that the records of a produce request must be. A null field is
/// given as no bytes.
///
/// # Errors
/// [`BatchError::InvalidBatch`] for no batch, several, or another format;
/// [`BatchError::Corrupt`] for a length that does not fit the bytes.
pub fn single_batch(records: &Bytes) -> Result<BatchHeader, BatchError> {
    let mut batches = split_batches(records);
    let (header, _) = match batches.next() {
        Some(Ok(batch)) => batch,
        None => return Err(BatchError::InvalidBatch("there is no record batch".into())),
        Some(Err(error @ SplitError::Magic(_))) => {
            return Err(BatchError::InvalidBatch(error.to_string()));
        }
        Some(Err(error)) => return Err(BatchError::Corrupt(error.to_string())),
    };
    if batches.rest.is_empty() {
        Ok(header)
    } else {
        Err(BatchError::InvalidBatch(
            "there is more than one record batch".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

    use super::*;
    use crate::builder::{BatchBuilder, NewRecord};

    fn batch(base_offset: i64) -> Bytes {
        let mut builder = BatchBuilder::new().base_offset(base_offset);
        builder
            .push(&NewRecord {
                value: Some(b"v"),
                ..NewRecord::default()
            })
            .unwrap();
        builder.build().unwrap()
    }

    #[test]
    fn a_fetch_answer_may_end_within_a_batch() {
        let whole = Bytes::from([batch(3), batch(4), batch(5)].concat());
        let offsets = |bytes: &Bytes| -> (Vec<i64>, Option<SplitError>) {
            let (good, bad): (Vec<_>, Vec<_>) = split_batches(bytes).partition(Result::is_ok);
            let good = good
                .into_iter()
                .map(|batch| batch.unwrap().0.base_offset)
                .collect();
            (good, bad.into_iter().next().map(Result::unwrap_err))
        };
        assert_eq!(offsets(&whole), (vec![3, 4, 5], None));
        assert_eq!(offsets(&Bytes::new()), (vec![], None));
        let one = batch(3).len();
        for cut in 1..one {
            let (good, error) = offsets(&whole.slice(..2 * one + cut));
            assert_eq!(
                (good, error),
                (vec![3, 4], Some(SplitError::Incomplete)),
                "{cut}"
            );
        }
    }

    #[test]
    fn batches_are_views_and_iteration_ends_at_the_first_error() {
        let mut bytes = [batch(3), batch(4), batch(5)].concat();
        let one = batch(3).len();
        bytes[one + 8..one + 12].copy_from_slice(&7i32.to_be_bytes());
        let bytes = Bytes::from(bytes);
        let mut batches = split_batches(&bytes);
        let (header, first) = batches.next().unwrap().unwrap();
        assert_eq!((header.base_offset, first.as_ptr()), (3, bytes.as_ptr()));
        assert_eq!(batches.next().unwrap().unwrap_err(), SplitError::Length(7));
        assert!(batches.next().is_none());
    }
}
