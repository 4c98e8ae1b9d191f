//! One segment of a log: what is known of it without reading it.

use bytes::{Buf, BufMut, TryGetError};
use klamm_records::BatchHeader;

use crate::index::SparseEntry;
use crate::journal::{CompactedEntry, Replacement};
use crate::log::fill::{InstalledFile, ManifestSegment};

/// Timestamp of a batch or segment that has none.
pub const NO_TIMESTAMP: i64 = -1;

/// Version 2 added the generation, version 3 whether offsets are missing.
const ROW_VERSION: u8 = 3;

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
    /// Largest timestamp of its first batch in ms; -1 if it has none.
    pub first_timestamp: i64,
    /// Whether appends go to it.
    pub active: bool,
    /// Its file. It need not exist while the segment is empty.
    pub path: std::path::PathBuf,
}

/// The file of a segment. Appends go to generation 0; compaction writes the next generation to a
/// new file, so that no file ever holds two different contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentFile {
    pub(crate) base_offset: i64,
    pub(crate) generation: u32,
}

impl SegmentFile {
    /// The file that appends go to.
    pub(crate) fn appended(base_offset: i64) -> SegmentFile {
        SegmentFile {
            base_offset,
            generation: 0,
        }
    }

    /// Whether compaction wrote it.
    pub(crate) fn is_compacted(self) -> bool {
        self.generation > 0
    }

    /// Its name: the base offset in 20 digits as Kafka names it, then the generation if there is
    /// one. Kafka's tools read the offset up to the first dot.
    pub(crate) fn name(self) -> String {
        match self.generation {
            0 => format!("{:020}.log", self.base_offset),
            generation => format!("{:020}.{generation}.log", self.base_offset),
        }
    }

    /// The segment file of that name, if it is one.
    pub(crate) fn of_name(name: &str) -> Option<SegmentFile> {
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
        let stem = name.strip_suffix(".log")?;
        let (digits, generation) = match stem.split_once('.') {
            Some((digits, generation)) => (digits, Some(generation)),
            None => (stem, None),
        };
        let file = SegmentFile {
            base_offset: digits.parse().ok().filter(|_| number(digits))?,
            generation: match generation {
                Some(text) => text.parse().ok().filter(|g| number(text) && *g > 0)?,
                None => 0,
            },
        };
        (file.name() == name).then_some(file)
    }
}

/// State of a segment. The last one of a log takes appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    /// How often it was compacted, or which fill brought it.
    pub(crate) generation: u32,
    /// Each batch begins where the one before it ends. Not so in what earlier versions compacted.
    pub(crate) contiguous: bool,
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
    /// The index still has rows of what was here before compaction or a fill: only `fresh` counts.
    pub(crate) rows_stale: bool,
    /// Changed since the last checkpoint.
    pub(crate) dirty: bool,
}

impl Segment {
    pub(crate) fn empty(base_offset: i64) -> Segment {
        Segment {
            base_offset,
            generation: 0,
            contiguous: true,
            first_index: 0,
            last_index: 0,
            size: 0,
            next_offset: base_offset,
            max_timestamp: NO_TIMESTAMP,
            first_timestamp: NO_TIMESTAMP,
            unindexed_bytes: 0,
            fresh: Vec::new(),
            rows_stale: false,
            dirty: true,
        }
    }

    /// Where its batches are.
    pub(crate) fn file(&self) -> SegmentFile {
        SegmentFile {
            base_offset: self.base_offset,
            generation: self.generation,
        }
    }

    /// What takes the place of `sources`, which follow each other: one file of the next
    /// generation.
    pub(crate) fn compacted(sources: &[Segment], with: &Replacement) -> Option<Segment> {
        let (first, last) = (sources.first()?, sources.last()?);
        let entry = |e: &CompactedEntry| SparseEntry {
            segment_base: first.base_offset,
            base_offset: e.base_offset,
            position: e.position,
            // Indexes in a compacted segment are purged, and not known any more.
            raft_index: first.first_index,
            max_timestamp: e.max_timestamp,
        };
        Some(Segment {
            base_offset: first.base_offset,
            generation: with.generation,
            contiguous: with.contiguous,
            first_index: first.first_index,
            last_index: last.last_index,
            size: with.size,
            next_offset: last.next_offset,
            max_timestamp: with.max_timestamp,
            first_timestamp: first.first_timestamp,
            unindexed_bytes: 0,
            fresh: with.entries.iter().map(entry).collect(),
            rows_stale: true,
            dirty: true,
        })
    }

    /// What another replica's segment is here.
    pub(crate) fn installed(from: &ManifestSegment, file: &InstalledFile) -> Segment {
        let entry = |e: &CompactedEntry| SparseEntry {
            segment_base: from.base_offset,
            base_offset: e.base_offset,
            position: e.position,
            // As after compaction: its indexes are purged, and not known.
            raft_index: from.first_index,
            max_timestamp: e.max_timestamp,
        };
        Segment {
            base_offset: from.base_offset,
            generation: file.generation,
            contiguous: from.contiguous,
            first_index: from.first_index,
            last_index: from.last_index,
            size: from.size,
            next_offset: from.next_offset,
            max_timestamp: file.max_timestamp,
            first_timestamp: file.first_timestamp,
            unindexed_bytes: 0,
            fresh: file.entries.iter().map(entry).collect(),
            rows_stale: true,
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
        out.put_u32_le(self.generation);
        out.put_u8(u8::from(self.contiguous));
        out
    }

    /// `None`: a version this program does not know.
    pub(crate) fn decode(base_offset: i64, mut row: &[u8]) -> Result<Option<Segment>, TryGetError> {
        let version = row.try_get_u8()?;
        if !(1..=ROW_VERSION).contains(&version) {
            return Ok(None);
        }
        let mut segment = Segment {
            base_offset,
            generation: 0,
            contiguous: true,
            first_index: row.try_get_u64_le()?,
            last_index: row.try_get_u64_le()?,
            size: row.try_get_u64_le()?,
            next_offset: row.try_get_i64_le()?,
            max_timestamp: row.try_get_i64_le()?,
            first_timestamp: row.try_get_i64_le()?,
            unindexed_bytes: row.try_get_u64_le()?,
            fresh: Vec::new(),
            rows_stale: false,
            dirty: false,
        };
        if version >= 2 {
            segment.generation = row.try_get_u32_le()?;
        }
        segment.contiguous = match version {
            3.. => row.try_get_u8()? != 0,
            _ => segment.generation == 0,
        };
        Ok(Some(segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_sort_like_their_offsets_and_read_back() {
        let appended = SegmentFile::appended(368_769);
        assert_eq!(appended.name(), "00000000000000368769.log");
        for base_offset in [0, 1, 9_999_999_999, i64::MAX] {
            for generation in [0, 1, 77, u32::MAX] {
                let file = SegmentFile {
                    base_offset,
                    generation,
                };
                assert_eq!(SegmentFile::of_name(&file.name()), Some(file));
            }
        }
        for other in [
            "1.log",
            "00000000000000000001.index",
            "0000000000000000000x.log",
            "00000000000000000001.0.log",
            "00000000000000000001.07.log",
            "00000000000000000001.x.log",
            "00000000000000000001.1.1.log",
            "+0000000000000000001.log",
            ".log",
        ] {
            assert_eq!(SegmentFile::of_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_row_reads_back_and_another_version_is_refused() {
        let mut segment = Segment::empty(77);
        segment.size = 4_000;
        segment.max_timestamp = 12;
        segment.dirty = false;
        let mut row = segment.encode();
        let mut first_version = row[..row.len() - 5].to_vec();
        first_version[0] = 1;
        let read = Segment::decode(77, &first_version).expect("whole");
        assert_eq!(read.as_ref(), Some(&segment));
        segment.generation = 3;
        let mut second_version = segment.encode();
        second_version.pop();
        second_version[0] = 2;
        let read = Segment::decode(77, &second_version).expect("whole");
        assert!(read.is_some_and(|read| !read.contiguous && read.generation == 3));
        row = segment.encode();
        assert_eq!(Segment::decode(77, &row).expect("whole"), Some(segment));
        assert!(Segment::decode(77, &row[..20]).is_err());
        row[0] = 9;
        assert_eq!(Segment::decode(77, &row).expect("whole"), None);
    }
}
