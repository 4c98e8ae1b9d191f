//! One segment of a log: what is known of it without reading it.

use bytes::{Buf, BufMut, TryGetError};
use klamm_records::BatchHeader;

use crate::index::SparseEntry;

/// Timestamp of a batch or segment that has none.
pub const NO_TIMESTAMP: i64 = -1;

const ROW_VERSION: u8 = 1;

/// What retention and DescribeLogDirs want to know of a segment.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// Offset of its first record; also its file's name.
    pub base_offset: i64,
    /// Offset after its last record.
    pub next_offset: i64,
    /// Bytes of batches in it.
    pub size_bytes: u64,
    /// Largest timestamp in ms; -1 if it holds none.
    pub max_timestamp: i64,
    /// Whether appends go to it.
    pub active: bool,
    /// Its file. It need not exist while the segment is empty.
    pub path: std::path::PathBuf,
}

/// File name of a segment: its base offset in 20 digits, as Kafka names it.
pub(crate) fn file_name(base_offset: i64) -> String {
    format!("{base_offset:020}.log")
}

/// Base offset of a segment file's name.
pub(crate) fn base_of(file_name: &str) -> Option<i64> {
    let digits = file_name.strip_suffix(".log")?;
    let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// State of a segment. The last one of a log takes appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    /// Raft index of its first batch; meaningless while it is empty.
    pub(crate) first_index: u64,
    /// Raft index of its last batch; meaningless while it is empty.
    pub(crate) last_index: u64,
    pub(crate) size: u64,
    pub(crate) next_offset: i64,
    pub(crate) max_timestamp: i64,
    /// Largest timestamp of its first batch: from it `segment.ms` counts.
    pub(crate) first_timestamp: i64,
    /// Bytes since the last batch that got an index entry.
    unindexed_bytes: u64,
    /// Index entries since the last checkpoint.
    pub(crate) fresh: Vec<SparseEntry>,
    /// Changed since the last checkpoint.
    pub(crate) dirty: bool,
}

impl Segment {
    pub(crate) fn empty(base_offset: i64) -> Segment {
        Segment {
            base_offset,
            first_index: 0,
            last_index: 0,
            size: 0,
            next_offset: base_offset,
            max_timestamp: NO_TIMESTAMP,
            first_timestamp: NO_TIMESTAMP,
            unindexed_bytes: 0,
            fresh: Vec::new(),
            dirty: true,
        }
    }

    /// A batch of `len` bytes was placed at the end.
    pub(crate) fn append(
        &mut self,
        header: &BatchHeader,
        len: u64,
        raft_index: u64,
        interval: u64,
    ) {
        if self.size == 0 {
            self.first_index = raft_index;
            self.first_timestamp = header.max_timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        if self.unindexed_bytes >= interval {
            self.fresh.push(SparseEntry {
                segment_base: self.base_offset,
                base_offset: header.base_offset,
                position: self.size,
                raft_index,
                max_timestamp: self.max_timestamp,
            });
            self.unindexed_bytes = 0;
        }
        self.unindexed_bytes += len;
        self.size += len;
        self.last_index = raft_index;
        self.next_offset = header.next_offset();
        self.dirty = true;
    }

    /// Cuts the segment at `position`.
    pub(crate) fn cut(&mut self, cut: &crate::journal::Cut) {
        self.fresh.retain(|entry| entry.position < cut.position);
        let indexed = self.fresh.last().map_or(0, |entry| entry.position);
        self.size = cut.position;
        self.next_offset = cut.offset;
        self.max_timestamp = cut.max_timestamp;
        self.last_index = cut.last_batch_index;
        self.unindexed_bytes = cut.position - indexed;
        self.dirty = true;
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.put_u8(ROW_VERSION);
        out.put_u64_le(self.first_index);
        out.put_u64_le(self.last_index);
        out.put_u64_le(self.size);
        out.put_i64_le(self.next_offset);
        out.put_i64_le(self.max_timestamp);
        out.put_i64_le(self.first_timestamp);
        out.put_u64_le(self.unindexed_bytes);
        out
    }

    /// `None`: a version this program does not know.
    pub(crate) fn decode(base_offset: i64, mut row: &[u8]) -> Result<Option<Segment>, TryGetError> {
        if row.try_get_u8()? != ROW_VERSION {
            return Ok(None);
        }
        Ok(Some(Segment {
            base_offset,
            first_index: row.try_get_u64_le()?,
            last_index: row.try_get_u64_le()?,
            size: row.try_get_u64_le()?,
            next_offset: row.try_get_i64_le()?,
            max_timestamp: row.try_get_i64_le()?,
            first_timestamp: row.try_get_i64_le()?,
            unindexed_bytes: row.try_get_u64_le()?,
            fresh: Vec::new(),
            dirty: false,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_sort_like_their_offsets_and_read_back() {
        assert_eq!(file_name(368_769), "00000000000000368769.log");
        for offset in [0, 1, 9_999_999_999, i64::MAX] {
            assert_eq!(base_of(&file_name(offset)), Some(offset));
        }
        for other in [
            "1.log",
            "00000000000000000001.index",
            "0000000000000000000x.log",
            ".log",
        ] {
            assert_eq!(base_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_row_reads_back_and_another_version_is_refused() {
        let mut segment = Segment::empty(77);
        segment.size = 4_000;
        segment.max_timestamp = 12;
        segment.dirty = false;
        let mut row = segment.encode();
        assert_eq!(Segment::decode(77, &row).expect("whole"), Some(segment));
        assert!(Segment::decode(77, &row[..20]).is_err());
        row[0] = 9;
        assert_eq!(Segment::decode(77, &row).expect("whole"), None);
    }
}
