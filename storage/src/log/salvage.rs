//! Reading past a damaged batch: it takes its neighbours' places along, for where a batch begins is
//! only known from the one before it. The way on is sought byte by byte from the last place that the
//! index knows, and taken only where whole batches follow each other up to the next such place: a
//! client may have put what looks like a batch into a record.

use klamm_records::{BATCH_HEADER_LEN, BatchHeader};

use super::walk::{ReadFault, SegmentReader, Spot};

/// Bytes that are searched at most.
const MOST: u64 = 8 * 1024 * 1024;

/// Where to search.
pub(super) struct Search {
    /// The last place before the wanted offset that is known.
    pub(super) near: Spot,
    /// The first known place behind it: the search ends there.
    pub(super) next: Option<Spot>,
    /// The wanted offset.
    pub(super) from: i64,
}

/// A way past damage.
pub(super) struct Found {
    /// Position of the whole batch that holds the wanted offset.
    pub(super) position: u64,
    /// Where the damage that was passed begins.
    pub(super) passed: Vec<u64>,
}

impl Search {
    /// Finds the batch that holds the wanted offset, although one before it, or what was taken for
    /// it, is damaged (`fault`).
    pub(super) fn run(
        &self,
        reader: &mut SegmentReader,
        fault: ReadFault,
    ) -> Result<Found, ReadFault> {
        let search = self;
        let ReadFault::Damage { file, what, .. } = fault else {
            return Err(fault);
        };
        if reader.has_gaps() {
            return Err(fault);
        }
        let mut passed = Vec::new();
        let end = search.next.map_or(reader.end(), |next| next.position);
        let end = end.min(reader.end());
        let (mut at, mut floor) = (search.near.position, search.near.base_offset);
        let mut damaged = None;
        let until = end.min(at.saturating_add(MOST));
        while at + BATCH_HEADER_LEN as u64 <= until {
            let whole = reader.whole_at(at)?.filter(|h| match damaged {
                None => h.base_offset == floor,
                Some(_) => h.base_offset > floor,
            });
            let Some(header) = whole else {
                damaged.get_or_insert(at);
                at += 1;
                continue;
            };
            let leads_on = damaged.is_none() || leads_on(reader, search, at, header, end)?;
            if !leads_on {
                at += 1;
                continue;
            }
            if header.base_offset > search.from {
                break;
            }
            passed.extend(damaged.take());
            if header.last_offset() >= search.from {
                let position = at;
                return Ok(Found { position, passed });
            }
            floor = header.next_offset();
            at += header.total_len().unwrap_or(BATCH_HEADER_LEN) as u64;
        }
        let position = damaged.unwrap_or(at);
        Err(ReadFault::Damage {
            file,
            position,
            what,
        })
    }
}

/// Whether whole batches follow from here to the end of the search.
fn leads_on(
    reader: &mut SegmentReader,
    search: &Search,
    mut at: u64,
    mut header: BatchHeader,
    end: u64,
) -> Result<bool, ReadFault> {
    loop {
        at += header.total_len().unwrap_or(BATCH_HEADER_LEN) as u64;
        if at >= end {
            let offset = search.next.map(|next| next.base_offset);
            let there = offset.is_none_or(|offset| offset == header.next_offset());
            return Ok(at == end && there);
        }
        match reader.whole_at(at)? {
            Some(next) if next.base_offset == header.next_offset() => header = next,
            _ => return Ok(false),
        }
    }
}
